//! Real streams, made by ffmpeg: each segment plays alone from its first frame, and joined they are the
//! input.

use std::process::Command;

use crate::common::{
    Outcome, cut,
    ffmpeg::{AAC, CLIP_SECONDS, FRAMES, clip, decode, x264},
    seconds,
};
use minuet_media::{Notice, Restamper, StreamClock};

/// Cuts in 2 s segments and checks what must hold for every feed.
fn check(input: &[u8]) -> Outcome {
    let outcome = cut(seconds(2), input.chunks(10_007));
    assert_eq!(outcome.error, None);
    let skipped = outcome.counters.skipped_bytes as usize;
    assert!(outcome.joined() == input[skipped..], "the segments joined are the input");
    for segment in &outcome.segments {
        // Only tables that the input holds are repeated.
        for table in segment.tables.chunks(188) {
            assert!(input.chunks(188).any(|packet| packet == table));
        }
    }
    assert_eq!(outcome.counters.continuity_errors, 0);
    outcome
}

/// Each segment decodes alone without complaint, and together they show `frames` frames. Frames that
/// lead an open GOP may be missing: `lost` a segment.
fn check_decoding(outcome: &Outcome, frames: u64, lost: u64) {
    let mut shown = 0;
    for (index, segment) in outcome.segments.iter().enumerate() {
        let (complaints, frames) = decode(&segment.file(), "v:0");
        // An open GOP may tell the decoder to drop pictures of the GOP before, which it never had.
        let complaint = complaints.lines().find(|line| !line.ends_with("mmco: unref short failure"));
        assert_eq!(complaint, None, "segment {index}");
        assert_eq!(segment.random_access.first(), Some(&0), "segment {index} starts at random access point");
        shown += frames;
    }
    let missing = frames - shown;
    let most = lost * (outcome.segments.len() as u64 - 1);
    assert!(missing <= most, "{missing} frames missing of {frames}");
}

/// `times` rounds of `file`, as a looping input makes them.
fn looped(file: &[u8], times: usize) -> Vec<u8> {
    let mut restamper = Restamper::default();
    let mut feed = Vec::new();
    for round in 0..times {
        if round > 0 {
            restamper.rewind();
        }
        let mut packets = file.to_vec();
        restamper.packets(&mut packets);
        feed.extend(packets);
    }
    feed
}

#[test]
fn a_looped_file_is_one_feed() {
    let file = x264("keyint=25:scenecut=0");
    let feed = looped(&file, 3);
    assert!(feed[..file.len()] == file);
    let outcome = check(&feed);
    assert!(!outcome.notices.contains(&Notice::Discontinuity));
    // The sound is a little longer than the picture, so a round is a little longer than 12 s.
    let total: u64 = outcome.durations_ms().iter().sum();
    assert!((36_000..36_200).contains(&total), "{total}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("feed.ts");
    std::fs::write(&path, &feed).expect("room for a clip");
    for (stream, frames) in [("v:0", 3 * FRAMES), ("a:0", 3 * (CLIP_SECONDS * 48_000).div_ceil(1024))] {
        let (complaints, shown) = decode(&feed, stream);
        assert_eq!(complaints, "");
        assert!(shown.abs_diff(frames) <= 3, "{shown} of {frames}");
        let output = Command::new("ffprobe")
            .args(["-loglevel", "warning", "-select_streams", stream, "-show_entries", "packet=dts,flags"])
            .args(["-of", "csv=p=0"])
            .arg(&path)
            .output()
            .expect("ffprobe is installed");
        let packets = String::from_utf8_lossy(&output.stdout);
        assert!(!packets.contains('C'), "no packet is marked corrupt: {packets}");
        let dts: Vec<i64> = packets.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect();
        assert_eq!(dts.len() as u64, shown);
        let steps: Vec<i64> = dts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| (1..=9000).contains(step)), "{stream}: {steps:?}");
    }
}

#[test]
fn the_clock_goes_as_the_feed_does() {
    let feed = looped(&x264("keyint=25:scenecut=0"), 2);
    let mut clock = StreamClock::default();
    let mut last = (0, 0);
    let mut rest = feed.as_slice();
    while let Some((at, due)) = clock.next(rest) {
        rest = &rest[at + 188..];
        let step = due.as_millis() - last.1;
        assert!(step <= 150, "{step} ms from time to time");
        last = (feed.len() - rest.len(), due.as_millis());
    }
    assert!((23_700..24_200).contains(&last.1), "{last:?}");
}

#[test]
fn closed_gop() {
    let outcome = check(&x264("keyint=25:scenecut=0:open-gop=0"));
    assert_eq!(outcome.durations_ms(), [2000; 6]);
    assert_eq!(outcome.segments.iter().map(|s| s.random_access.len()).sum::<usize>(), 12);
    check_decoding(&outcome, FRAMES, 0);
}

#[test]
fn key_frames_off_the_grid() {
    // Key frames each 1.4 s: at 0, 2.8, 4.2, 7, 8.4, 11.2.
    let outcome = check(&x264("keyint=35:scenecut=0:open-gop=0"));
    assert_eq!(outcome.durations_ms(), [2800, 1400, 2800, 1400, 2800, 800]);
    check_decoding(&outcome, FRAMES, 0);
}

#[test]
fn open_gop() {
    let outcome = check(&x264("keyint=25:scenecut=0:open-gop=1:bframes=2:b-adapt=0"));
    assert!((5..=6).contains(&outcome.segments.len()), "{:?}", outcome.durations_ms());
    check_decoding(&outcome, FRAMES, 2);
}

#[test]
fn hevc_with_cra() {
    let codec = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params"];
    let parameters = ["log-level=error:keyint=25:bframes=2:repeat-headers=1:open-gop=1"];
    let outcome = check(&clip(&[&codec[..], &parameters, AAC].concat()));
    assert!((5..=6).contains(&outcome.segments.len()), "{:?}", outcome.durations_ms());
    check_decoding(&outcome, FRAMES, 3);
}

#[test]
fn mpeg2() {
    let codec = ["-c:v", "mpeg2video", "-g", "25", "-bf", "2", "-b:v", "500k", "-c:a", "mp2"];
    let outcome = check(&clip(&codec));
    assert!((5..=6).contains(&outcome.segments.len()), "{:?}", outcome.durations_ms());
    check_decoding(&outcome, FRAMES, 2);
}

#[test]
fn audio_only() {
    for codec in ["aac", "mp2", "ac3"] {
        let outcome = check(&clip(&["-map", "1", "-c:a", codec]));
        assert_eq!(outcome.segments.len(), 6, "{codec}: {:?}", outcome.durations_ms());
        for (index, segment) in outcome.segments.iter().enumerate() {
            let (complaints, frames) = decode(&segment.file(), "a:0");
            assert_eq!(complaints, "", "{codec}, segment {index}");
            assert!(frames > 0);
        }
    }
}

#[test]
fn packets_of_192_and_204_bytes() {
    let plain = x264("keyint=25:scenecut=0");
    let expected = cut(seconds(2), [plain.as_slice()]);
    for (before, after) in [(4, 0), (0, 16)] {
        let wrap = |packet: &[u8]| [&[0x12; 16][..before], packet, &[0x34; 16][..after]].concat();
        let wrapped: Vec<u8> = plain.chunks(188).flat_map(wrap).collect();
        let outcome = cut(seconds(2), wrapped.chunks(4999));
        assert_eq!(outcome.segments, expected.segments);
        assert_eq!(outcome.counters, expected.counters);
        assert!(outcome.notices.contains(&Notice::Synchronised { stride: 188 + before + after }));
    }
}
