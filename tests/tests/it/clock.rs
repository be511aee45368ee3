//! A source whose clock is set an hour ahead and back again in the middle of a broadcast.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use minuet_proto::{ChannelLink, SignedRecord};
use minuet_tests::{Segmenter, Tracker, Viewer, assert_ends_with, bin, clip_of, free_port, path_str};

/// The library that shows a process another time than there is (Debian's `libfaketime`).
fn libfaketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists()).expect("this test needs libfaketime: apt install faketime")
}

#[test]
fn viewers_play_on_when_the_sources_clock_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(40, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let clock = dir.join("clock");
    let set = |offset: &str| {
        fs::write(dir.join("clock.new"), offset).unwrap();
        fs::rename(dir.join("clock.new"), &clock).unwrap();
    };
    set("+0");
    let mut command = Command::new(bin("minuet-segmenter"));
    command.env("LD_PRELOAD", libfaketime()).env("FAKETIME_TIMESTAMP_FILE", &clock);
    // Only the clock on the wall can be set.
    command.envs([
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_NO_CACHE", "1"),
    ]);
    let data = dir.join("segmenter");
    let mut segmenter = Segmenter::start_by(&mut command, path_str(&feed), "5s", &tracker.url, &data, &[]);
    let mut minutes = Viewer::start("minutes", &segmenter.link, dir, &["--start", "oldest"]);
    let mut live = Viewer::start_in("live", "live", &segmenter.link, dir, &["--delay", "2s"]);
    live.wait_for_segment(1);
    set("+3600");
    segmenter.process.wait_for("was set 3600 s ahead");
    live.wait_for_segment(4);
    set("+0");
    segmenter.process.wait_for("was set 3600 s back");

    for viewer in [&mut minutes, &mut live] {
        let status = viewer.process.wait(Duration::from_secs(120));
        assert!(status.success(), "{:?}", viewer.process.log());
    }
    let joined: Vec<u8> =
        (0..).map(|seq| segmenter.segment(seq)).map_while(|path| fs::read(path).ok()).flatten().collect();
    assert!(fs::read(&minutes.media).unwrap() == joined, "{:#?}", minutes.process.log());
    let (summary, log) = (live.summary(), live.process.whole_log());
    let media = fs::read(&live.media).unwrap();
    assert_ends_with(&joined, &media, || format!("{log:#?} {summary}"));
    assert!(media.len() * 2 > joined.len(), "{} of {}: {log:#?}", media.len(), joined.len());
    assert_eq!(summary["leaps"], 0, "{log:#?} {summary}");
    // There is no hour in any figure of the picture.
    for figure in ["stall_ms", "live_delay_ms", "buffer_ms"] {
        assert!(summary[figure].as_u64().is_some_and(|ms| ms < 60_000), "{figure}: {log:#?} {summary}");
    }

    let records = records(&segmenter, &data);
    assert!(records.iter().any(|record| !record.discontinuity));
    for record in &records[..records.len() - 1] {
        // Cut by the feed's own clock; key frames are up to 5 s apart.
        assert!((2_000..11_000).contains(&record.duration_ms), "{}", record.duration_ms);
        let took_ms = record.sealed_ms - record.ingest_ms;
        assert!(took_ms < 60_000, "no segment takes the hour: {took_ms}");
    }
    let back = records.windows(2).filter(|pair| pair[1].ingest_ms < pair[0].ingest_ms).count();
    assert_eq!(back, 1, "what is recorded after the step has the new time");
}

/// The records in a data folder.
fn records(segmenter: &Segmenter, data: &Path) -> Vec<SignedRecord> {
    let link: ChannelLink = segmenter.link.parse().unwrap();
    assert!(segmenter.segment(0).starts_with(data));
    let read = |seq| fs::read(segmenter.segment(seq).with_extension("record")).ok();
    (0..).map_while(read).map(|bytes| SignedRecord::decode(&bytes, link.channel).unwrap()).collect()
}
