//! An encoder that is cut off in the middle of a broadcast and comes back, as a viewer sees it.

use std::{fs, path::Path, process::Command, time::Duration};

use minuet_tests::{Segmenter, Tracker, Viewer, clip_of, free_port, path_str};

/// Publishes a file over RTMP at its own pace. Whoever comes before the listener does comes again.
fn publish(file: &Path, url: &str) {
    for _ in 0..200 {
        let publisher = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-re", "-i", path_str(file), "-c", "copy", "-f", "flv", url])
            .output()
            .expect("ffmpeg runs");
        if publisher.status.success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nobody takes {url}");
}

#[test]
fn viewers_play_on_when_the_encoder_is_cut_off_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(14, dir);
    let slate = dir.join("slate.ts");
    fs::copy(&feed, &slate).unwrap();
    let url = format!("rtmp://127.0.0.1:{}/live/key", free_port());
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let input = url.replace("127.0.0.1", "");
    let more = ["--silence", "2s", "--slate", path_str(&slate)];
    let mut segmenter = Segmenter::start_with(&input, "5s", &tracker.url, &dir.join("segmenter"), &more);
    let mut viewer = Viewer::start("viewer", &segmenter.link, dir, &[]);
    publish(&feed, &url);
    segmenter.process.wait_for("was closed by the other side");
    segmenter.process.wait_for("stands in for the main input");
    // While the slate plays, the encoder comes back.
    segmenter.process.wait_for("sealed");
    publish(&feed, &url);
    segmenter.process.wait_for("back to rtmp");
    let sealed = segmenter.process.wait_for("sealed");
    let number: u64 =
        sealed.split("segment ").nth(1).and_then(|text| text.split(' ').next()?.parse().ok()).unwrap();
    viewer.wait_for_segment(number);
    segmenter.process.signal("TERM");
    assert!(segmenter.process.wait(Duration::from_secs(60)).success(), "{:?}", segmenter.process.log());
    assert!(viewer.process.wait(Duration::from_secs(60)).success(), "{:?}", viewer.process.log());

    // What was played is whole segments in order, those after the cut among them.
    let media = fs::read(&viewer.media).unwrap();
    let (mut at, mut seq, mut last) = (0, 0, 0);
    while segmenter.segment(seq).exists() {
        let segment = fs::read(segmenter.segment(seq)).unwrap();
        if media[at..].starts_with(&segment) {
            (at, last) = (at + segment.len(), seq);
        }
        seq += 1;
    }
    assert_eq!(at, media.len(), "something else than segments was played");
    assert!(last >= number, "{last} is before the comeback at {number}");
}
