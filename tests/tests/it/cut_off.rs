//! An encoder that is cut off in the middle of a broadcast and comes back, as a viewer sees it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use minuet_tests::{DEADLINE, Process, Segmenter, Tracker, Viewer, clip_of, free_port, path_str};

/// An encoder that publishes a file at its own pace; killed when dropped.
struct Encoder(Child);

impl Encoder {
    /// Publishes to `url` until the segmenter says `text`, from its next line on. Whoever comes before the listener does
    /// comes again.
    fn publish_until(file: &Path, (url, format): (&str, &str), segmenter: &mut Process, text: &str) -> Self {
        let start = || {
            let mut encoder = Command::new("ffmpeg");
            encoder.args([
                "-nostdin",
                "-v",
                "error",
                "-re",
                "-i",
                path_str(file),
                "-c",
                "copy",
                "-f",
                format,
                url,
            ]);
            Self(encoder.stderr(Stdio::null()).spawn().expect("ffmpeg runs"))
        };
        let (said, until) = (segmenter.log().len(), Instant::now() + DEADLINE);
        let mut encoder = start();
        while !segmenter.log()[said..].iter().any(|line| line.contains(text)) {
            assert!(Instant::now() < until, "nothing came of {url}: {:?}", segmenter.log());
            if encoder.0.try_wait().expect("a child of ours").is_some() {
                encoder = start();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        encoder
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn viewers_play_on_when_an_encoder_over_rtmp_is_cut_off_and_comes_back() {
    let port = free_port();
    cut_off(&format!("rtmp://:{port}/live/key"), (&format!("rtmp://127.0.0.1:{port}/live/key"), "flv"));
}

#[test]
fn viewers_play_on_when_an_encoder_over_srt_is_cut_off_and_comes_back() {
    let port = free_port();
    cut_off(&format!("srt://:{port}"), (&format!("srt://127.0.0.1:{port}?pkt_size=1316"), "mpegts"));
}

/// An encoder is killed in the middle of a segment; a slate plays until it is back.
fn cut_off(input: &str, output: (&str, &str)) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(60, dir);
    let slate = dir.join("slate.ts");
    fs::copy(&feed, &slate).unwrap();
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--silence", "2s", "--slate", path_str(&slate)];
    let mut segmenter = Segmenter::start_with(input, "5s", &tracker.url, &dir.join("segmenter"), &more);
    let mut viewer = Viewer::start("viewer", &segmenter.link, dir, &[]);
    drop(Encoder::publish_until(&feed, output, &mut segmenter.process, "sealed"));
    segmenter.process.wait_for("stands in for the main input");
    // While the slate plays, the encoder comes back.
    segmenter.process.wait_for("sealed");
    let _encoder = Encoder::publish_until(&feed, output, &mut segmenter.process, "back to ");
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
