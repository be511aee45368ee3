//! Minutes of full length from a source whose uplink carries two copies of the stream, to three viewers.

use std::{
    fs,
    time::{Duration, Instant},
};

use minuet_tests::{Segmenter, Tracker, Viewer, clip_of, free_port};

/// Three minutes, the first of which spreads while nobody plays yet.
const FEED_SECONDS: u32 = 180;
const VIEWERS: usize = 3;

#[test]
fn three_viewers_keep_up_with_a_source_of_twice_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(FEED_SECONDS, dir);
    let length = fs::metadata(&feed).unwrap().len();
    let limit = format!("{}kbit", 2 * length * 8 / u64::from(FEED_SECONDS) / 1000);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--upload-limit", &limit];
    let segmenter =
        Segmenter::start_with(feed.to_str().unwrap(), "60s", &tracker.url, &dir.join("segmenter"), &more);
    let mut viewers: Vec<Viewer> =
        (0..VIEWERS).map(|n| Viewer::start(&format!("viewer{n}"), &segmenter.link, dir, &[])).collect();

    for viewer in &mut viewers {
        let status = viewer.process.wait(Duration::from_secs(300));
        assert!(status.success(), "{:?}", viewer.process.log());
    }
    let (mut from_source, mut from_peers) = (0, 0);
    for viewer in &mut viewers {
        let summary = viewer.summary();
        let log = viewer.process.whole_log();
        for nothing in ["segments_skipped", "stalls"] {
            assert_eq!(summary[nothing], 0, "{nothing}: {log:#?} {summary}");
        }
        assert!(summary["segments_played"].as_u64() >= Some(3), "{summary}");
        assert_eq!(fs::metadata(&viewer.media).unwrap().len() / length, 1, "{summary}");
        from_source += summary["source_bytes"].as_u64().unwrap();
        from_peers += summary["peer_bytes"].as_u64().unwrap();
    }
    // Every viewer has every byte. The source's uplink could have carried two of the three copies in the time; what is
    // missing to three, and a little that comes twice, came from viewers.
    println!(
        "copies from the source: {:.2}, from viewers: {:.2}",
        copies(from_source, length),
        copies(from_peers, length)
    );
    assert!(
        copies(from_source, length) < 2.3 && copies(from_peers, length) > 0.9,
        "{from_source} {from_peers}"
    );
}

/// Nobody passes anything on here, so the source has to send all: two copies live, and three of the finished segments, as
/// fast as it may. Live and finished segments together ask for more than the limit.
#[test]
fn live_viewers_and_finished_segments_share_the_upload_limit() {
    const SECONDS: u32 = 40;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(SECONDS, dir);
    let length = fs::metadata(&feed).unwrap().len();
    // The feed's rate goes up and down, so what is live needs more than two copies at times.
    let limit = 4 * length / u64::from(SECONDS);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--upload-limit", &format!("{}kbit", limit * 8 / 1000), "--no-origin"];
    let mut segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &more);
    let began = Instant::now();
    let viewer = |mode, name: &str, more: &[&str]| {
        let more = [more, &["--no-upload"]].concat();
        Viewer::start_in(mode, name, &segmenter.link, dir, &more)
    };
    let mut live: Vec<Viewer> = ["one", "two"].map(|name| viewer("live", name, &[])).into();
    segmenter.process.wait_for("segment 1 sealed");
    let mut minutes: Vec<Viewer> =
        ["three", "four", "five"].map(|name| viewer("minute", name, &["--start", "oldest"])).into();

    for viewer in &mut live {
        let status = viewer.process.wait(Duration::from_secs(120));
        assert!(status.success(), "{:?}", viewer.process.log());
    }
    for viewer in &minutes {
        viewer.process.signal("TERM");
    }
    let elapsed_s = began.elapsed().as_secs();
    let mut sent = 0;
    for viewer in live.iter_mut().chain(&mut minutes) {
        viewer.process.wait(Duration::from_secs(30));
        let summary = viewer.summary();
        let field = |name: &str| summary[name].as_u64().unwrap_or_default();
        sent += field("source_bytes") + field("peer_bytes") + field("control_bytes");
    }
    for viewer in &mut live {
        let summary = viewer.summary();
        assert_eq!(summary["leaps"], 0, "live goes first: {:#?} {summary}", viewer.process.log());
    }
    // The engine may send a second's worth at once, at the start and at each change.
    let most = limit * (elapsed_s + 4);
    println!("{sent} bytes of {most}, {:.2} copies in {elapsed_s} s", copies(sent, length));
    assert!(sent <= most, "{sent} bytes in {elapsed_s} s, where the limit allows {most}");
}

fn copies(bytes: u64, length: u64) -> f64 {
    bytes as f64 / length as f64
}
