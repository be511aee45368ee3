//! A source that is killed and started again, as viewers see it who were there before.

use std::{
    fs,
    time::{Duration, Instant},
};

use minuet_tests::{Segmenter, Tracker, Viewer, clip_of, free_port};

#[test]
fn viewers_play_on_over_a_source_that_was_killed_in_the_middle_of_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(24, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let data = dir.join("segmenter");
    let mut first = Segmenter::start(&feed, &tracker.url, &data, &[]);
    let mut minutes = Viewer::start("minutes", &first.link, dir, &["--start", "oldest"]);
    let mut live = Viewer::start_in("live", "live", &first.link, dir, &[]);
    // It shows what is open now: segment 2 is never sealed.
    first.process.wait_for("segment 1 sealed");
    live.wait_for_segment(2);
    first.process.signal("KILL");
    first.process.wait(Duration::from_secs(10));
    let mut second = Segmenter::start(&feed, &tracker.url, &data, &[]);
    assert_eq!(first.link, second.link);
    second.process.wait_for("segment 3 sealed");

    for viewer in [&mut minutes, &mut live] {
        let status = viewer.process.wait(Duration::from_secs(120));
        assert!(status.success(), "{:?}", viewer.process.log());
    }
    assert!(!second.segment(2).exists(), "the number of a segment that viewers saw is given to no other");
    let join = |numbers: std::ops::RangeFrom<u64>| -> Vec<u8> {
        numbers.map(|seq| second.segment(seq)).map_while(|path| fs::read(path).ok()).flatten().collect()
    };
    let (before, after) = (join(0..), join(3..));
    let (summary, log) = (live.summary(), live.process.whole_log().to_vec());
    let media = fs::read(&live.media).unwrap();
    let old = media.strip_suffix(&after[..]);
    let old = old.unwrap_or_else(|| panic!("not all of the second beginning: {log:#?} {summary}"));
    // The sealed segments from some place on, then what came of segment 2: the same media as in segment 3.
    let begins =
        (0..before.len()).find(|from| old.starts_with(&before[*from..])).expect("the first beginning");
    let lost = &old[before.len() - begins..];
    assert!(!lost.is_empty(), "{log:#?} {summary}");
    assert_eq!(summary["corrupt_pieces"], 0, "{summary}");
    // The numbers that the second beginning left out are no pieces.
    let said: Vec<&String> = log.iter().filter(|line| line.contains("playing on after that")).collect();
    assert!(said.iter().any(|line| line.contains("the source was started again")), "{log:#?}");
    let missed = said.iter().flat_map(|line| line.split(' ')).filter_map(|word| word.parse::<u64>().ok());
    assert!(missed.max().is_none_or(|most| most < 1000), "{said:#?}");
    assert_eq!(summary["segment"], summary["segment"].as_u64().unwrap().max(3), "{summary}");

    let (summary, log) = (minutes.summary(), minutes.process.whole_log());
    assert_eq!(fs::read(&minutes.media).unwrap(), [before, after].concat(), "{log:#?} {summary}");
    assert_eq!(summary["segments_skipped"], 0, "a number without a segment is no loss: {log:#?} {summary}");
}

#[test]
fn a_viewer_has_its_delay_again_after_an_outage_of_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(24, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let data = dir.join("segmenter");
    let mut first = Segmenter::start(&feed, &tracker.url, &data, &[]);
    let mut live = Viewer::start_in("live", "live", &first.link, dir, &["--delay", "3s"]);
    live.wait_for_segment(1);
    first.process.signal("KILL");
    first.process.wait(Duration::from_secs(10));
    // With the three seconds before it, an outage of more than five.
    let dry = live.wait_until("ran dry", |line| line["stall_ms"].as_u64() >= Some(4000));
    let _second = Segmenter::start(&feed, &tracker.url, &data, &[]);
    live.wait_until("went on", |line| line["segment"].as_u64() > dry["segment"].as_u64());
    for _ in 0..4 {
        let line =
            live.next_line(Instant::now() + Duration::from_secs(10)).expect("a line each second").clone();
        let buffer = line["buffer_ms"].as_u64();
        assert!(buffer >= Some(1500), "what came first was not held back: {line} {:?}", live.process.log());
        assert_eq!(line["stalls"], dry["stalls"], "{line}");
    }
}
