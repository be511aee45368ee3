//! Those who lie, over real links: the others play on, byte by byte, and turn them away.

use std::{fs, path::Path, process::Stdio, time::Duration};

use minuet_tests::{
    Process, Segmenter, Tracker, Viewer, assert_ends_with, clip_of, free_port,
    hostile::{Harm, Hostile},
};

/// Feed to be played among liars.
const FEED_SECONDS: u32 = 60;
/// What a viewer may take at most, in MB.
const MEMORY_MB: u64 = 120;

#[test]
fn honest_viewers_play_on_among_liars_and_ban_each_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir: &Path = dir.path();
    let feed = clip_of(FEED_SECONDS, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let mut segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &["--no-origin"]);
    // Somebody must hold what is behind the live edge, or the first viewers have no delay to live on.
    let mut relay =
        Process::start("minuet", &["relay", &segmenter.link, "--listen", "127.0.0.1:0"], Stdio::null());
    relay.wait_for("relaying");
    segmenter.process.wait_for("segment 1 sealed");
    let mut viewers: Vec<Viewer> =
        ["one", "two", "three"].map(|name| Viewer::start_in("live", name, &segmenter.link, dir, &[])).into();
    for viewer in &mut viewers {
        viewer.wait_for_segment(1);
    }
    let liars = [Harm::Corrupt, Harm::Forge, Harm::Flood, Harm::Silence]
        .map(|harm| (harm, Hostile::start(harm, &segmenter.link)));
    viewers[0].wait_for_segment(9);
    for (harm, liar) in &liars {
        assert!(liar.links() > 0, "{harm:?}: nobody listened to it");
        assert!(liar.refused() > 0, "{harm:?}: is still welcome everywhere");
    }
    let memory: Vec<u64> = viewers.iter().map(|viewer| viewer.process.peak_memory_mb()).collect();
    assert!(memory.iter().all(|mb| *mb < MEMORY_MB), "{memory:?} MB");
    for viewer in &mut viewers {
        assert!(viewer.process.wait(Duration::from_secs(120)).success(), "{:?}", viewer.process.log());
    }
    let joined: Vec<u8> =
        (0..).map(|seq| segmenter.segment(seq)).map_while(|path| fs::read(path).ok()).flatten().collect();
    for viewer in &mut viewers {
        let summary = viewer.summary();
        let log = viewer.process.whole_log();
        let media = fs::read(&viewer.media).unwrap();
        assert_ends_with(&joined, &media, || format!("{log:#?} {summary}"));
        for nothing in ["stalls", "leaps", "http_bytes"] {
            assert_eq!(summary[nothing], 0, "{nothing}: {log:#?} {summary}");
        }
        assert!(summary["bans"].as_u64() >= Some(3), "{summary}");
    }
    let corrupt = viewers.iter_mut().map(|viewer| viewer.summary()["corrupt_pieces"].as_u64());
    assert!(corrupt.flatten().sum::<u64>() > 0, "nobody was sent anything corrupt");
}
