//! Live viewers: pieces of the minute that is still open, and nobody can tell where a minute ends.

use std::{fs, process::Stdio, time::Duration};

use minuet_tests::{Process, Segmenter, Tracker, Viewer, assert_ends_with, clip_of, free_port};

/// Eleven segments of some 5 s.
const FEED_SECONDS: u32 = 60;

#[test]
fn live_viewers_get_the_segments_bytes_while_a_neighbour_and_the_tracker_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(FEED_SECONDS, dir);
    let port = free_port();
    let mut tracker = Tracker::start(port, &dir.join("tracker"));
    let mut segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &["--no-origin"]);
    // One that only passes on: what viewers have then came from it, from each other, or from the source.
    let mut relay =
        Process::start("minuet", &["relay", &segmenter.link, "--listen", "127.0.0.1:0"], Stdio::null());
    relay.wait_for("relaying");
    segmenter.process.wait_for("segment 1 sealed");
    let mut viewers: Vec<Viewer> =
        ["one", "two"].map(|name| Viewer::start_in("live", name, &segmenter.link, dir, &[])).into();
    let mut killed = Viewer::start_in("live", "killed", &segmenter.link, dir, &[]);
    killed.wait_for_segment(3);
    killed.process.signal("KILL");

    // The mesh stands without a tracker; the end of the broadcast is heard from it when it is back.
    tracker.process.signal("KILL");
    tracker.process.wait(Duration::from_secs(10));
    drop(tracker);
    viewers[0].wait_for_segment(6);
    let _tracker = Tracker::start(port, &dir.join("tracker"));

    for viewer in &mut viewers {
        let status = viewer.process.wait(Duration::from_secs(120));
        assert!(status.success(), "{:?}", viewer.process.log());
    }
    let joined: Vec<u8> =
        (0..).map(|seq| segmenter.segment(seq)).map_while(|path| fs::read(path).ok()).flatten().collect();
    for viewer in &mut viewers {
        let summary = viewer.summary();
        let log = viewer.process.whole_log();
        let media = fs::read(&viewer.media).unwrap();
        assert_ends_with(&joined, &media, || format!("{log:#?} {summary}"));
        for nothing in ["leaps", "corrupt_pieces", "http_bytes"] {
            assert_eq!(summary[nothing], 0, "{nothing}: {log:#?} {summary}");
        }
        let boundaries = summary["handover_gap_ms"].as_array().unwrap().len();
        assert!(boundaries >= 6, "{summary}");
        assert!(summary["control_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{summary}");
    }
    relay.wait_for("the broadcast ended");
    assert!(relay.wait(Duration::from_secs(20)).success(), "{:?}", relay.log());
}

#[test]
fn a_viewer_that_uploads_nothing_is_served_and_gives_no_media() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(20, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &[]);
    let mut rider = Viewer::start_in("live", "rider", &segmenter.link, dir, &["--no-upload"]);
    let mut giver = Viewer::start_in("live", "giver", &segmenter.link, dir, &[]);
    for viewer in [&mut rider, &mut giver] {
        assert!(viewer.process.wait(Duration::from_secs(90)).success(), "{:?}", viewer.process.log());
    }
    let summary = rider.summary();
    assert_eq!(summary["upload_bytes"], 0, "{summary}");
    assert!(summary["segments_played"].as_u64() >= Some(1), "{summary}");
    assert!(giver.summary()["peers"].as_u64() >= Some(1));
}
