//! What live viewers hold is of use to others: sealed minutes for any BitTorrent client, and nodes to come back to.

use std::{fs, process::Stdio, time::Duration};

use minuet_proto::{ChannelLink, SegmentSeq, channel_api::torrent_path, record::segment_file_name};
use minuet_tests::{Process, Segmenter, Tracker, Viewer, clip_of, free_port, path_str, run};

#[test]
fn aria2_fetches_a_minute_from_a_relay_when_the_source_is_gone_and_it_is_what_a_viewer_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(40, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let mut segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &["--no-origin"]);
    let data = dir.join("relay");
    let args = ["relay", &segmenter.link, "--listen", "127.0.0.1:0", "--data", path_str(&data), "-v"];
    let mut relay = Process::start("minuet", &args, Stdio::null());
    relay.wait_for("relaying");
    let mut viewer = Viewer::start_in("live", "viewer", &segmenter.link, dir, &[]);
    viewer.wait_for_segment(3);
    relay.wait_for("minute 3 is seeded");
    segmenter.process.signal("KILL");
    segmenter.process.wait(Duration::from_secs(10));

    let link: ChannelLink = segmenter.link.parse().unwrap();
    let torrent = dir.join("minute.torrent");
    let url = format!("{}/{}", tracker.url, torrent_path(&link.channel, SegmentSeq(3)));
    run("curl", &["-sf", "-o", path_str(&torrent), &url]);
    let folder = format!("--dir={}", dir.join("aria2").display());
    run(
        "timeout",
        &[
            "60",
            "aria2c",
            &folder,
            "--no-conf",
            "--enable-dht=false",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--seed-time=0",
            "--quiet=true",
            path_str(&torrent),
        ],
    );
    let fetched = fs::read(dir.join("aria2").join(segment_file_name(&link.channel, SegmentSeq(3)))).unwrap();
    assert!(fetched == fs::read(segmenter.segment(3)).unwrap(), "the relay's minute is another one");
    let written = fs::read(&viewer.media).unwrap();
    assert!(
        written.windows(fetched.len()).step_by(188).any(|part| part == fetched),
        "what the viewer wrote does not hold the minute"
    );

    relay.signal("INT");
    assert!(relay.wait(Duration::from_secs(20)).success(), "{:?}", relay.log());
    // What it keeps, the nodes that it met, and what its line sent, if that is known by then.
    let mut left: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != "lines.json" && name != "kept");
    assert_eq!(left, [format!("nodes-{}.json", link.channel).as_str()], "what a relay leaves behind");
}

#[test]
fn a_viewer_that_was_here_before_finds_its_way_back_without_a_tracker() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(60, dir);
    let mut tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &["--no-origin"]);
    let mut stays = Viewer::start_in("live", "stays", &segmenter.link, dir, &[]);
    let data = dir.join("data");
    let data = ["--data", path_str(&data)];
    let mut before = Viewer::start_in("live", "before", &segmenter.link, dir, &data);
    before.wait_for_segment(2);
    before.process.signal("INT");
    assert!(before.process.wait(Duration::from_secs(20)).success(), "{:?}", before.process.log());

    tracker.process.signal("KILL");
    tracker.process.wait(Duration::from_secs(10));
    let mut again = Viewer::start_in("live", "again", &segmenter.link, dir, &data);
    again.wait_for_segment(4);
    for viewer in [&mut again, &mut stays] {
        viewer.process.signal("INT");
        assert!(viewer.process.wait(Duration::from_secs(20)).success(), "{:?}", viewer.process.log());
        assert_eq!(viewer.summary()["leaps"], 0, "{:?}", viewer.process.log());
    }
}
