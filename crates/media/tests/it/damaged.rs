//! Real streams, damaged: what a viewer sees of the segments is what the damaged feed itself shows.

use crate::common::{
    Outcome, cut,
    ffmpeg::{AAC, FRAMES, clip, decode, pictures, x264},
    seconds,
};
use minuet_media::{CutterConfig, Notice};

const GOP: &str = "keyint=25:scenecut=0";

/// Sets or clears bits of each packet's header and adaptation flags.
fn each_packet(feed: &mut [u8], mut change: impl FnMut(&mut [u8])) {
    feed.chunks_mut(188).for_each(&mut change);
}

fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff
}

/// The segments as files, one after the other.
fn played(outcome: &Outcome) -> Vec<u8> {
    outcome.segments.iter().flat_map(|segment| segment.file()).collect()
}

/// Each segment starts at a random access point and shows pictures without a complaint; together they show
/// `frames`.
fn each_plays_alone(outcome: &Outcome, frames: u64) {
    let mut shown = 0;
    for (index, segment) in outcome.segments.iter().enumerate() {
        assert_eq!(segment.random_access.first(), Some(&0), "segment {index}");
        let (complaints, frames) = decode(&segment.file(), "v:0");
        assert_eq!(complaints, "", "segment {index}");
        shown += frames;
    }
    assert_eq!(shown, frames);
}

#[test]
fn lost_packets_cost_no_more_than_in_the_feed() {
    for one_in in [1000, 100] {
        let whole = x264(GOP);
        // The first packets bring the tables; a linear congruential generator picks the lost ones.
        let mut random = 1u32;
        let lossy: Vec<u8> = whole
            .chunks(188)
            .enumerate()
            .filter(|(index, _)| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *index < 20 || !(random >> 8).is_multiple_of(one_in)
            })
            .flat_map(|(_, packet)| packet.to_vec())
            .collect();
        assert!(lossy.len() < whole.len());
        let outcome = cut(seconds(2), lossy.chunks(7000));
        let skipped = outcome.counters.skipped_bytes as usize;
        assert!(outcome.joined() == lossy[skipped..]);
        assert!(outcome.counters.continuity_errors > 0);
        let feed = [&outcome.segments[0].tables, &lossy[skipped..]].concat();
        assert_eq!(pictures(&played(&outcome)), pictures(&feed), "the repeated tables change nothing");
        for segment in &outcome.segments {
            assert!(decode(&segment.file(), "v:0").1 > 0);
        }
    }
}

#[test]
fn garbage_costs_no_picture() {
    let whole = x264(GOP);
    let mut dirty = Vec::new();
    for (index, part) in whole.chunks(188 * 200).enumerate() {
        dirty.extend(std::iter::repeat_n(index as u8, index * 37));
        dirty.extend_from_slice(part);
    }
    let outcome = cut(seconds(2), dirty.chunks(7000));
    assert!(outcome.joined() == whole[outcome.counters.skipped_bytes as usize..]);
    assert_eq!(outcome.durations_ms(), [2000; 6]);
    each_plays_alone(&outcome, FRAMES);
}

#[test]
fn flags_missing_or_everywhere() {
    let whole = x264(GOP);
    let expected = cut(seconds(2), [whole.as_slice()]);
    for set in [false, true] {
        let mut feed = whole.clone();
        each_packet(&mut feed, |packet| {
            if packet[3] & 0x20 != 0 && packet[4] > 0 {
                packet[5] = packet[5] & !0x40 | u8::from(set) << 6;
            }
        });
        let outcome = cut(seconds(2), [feed.as_slice()]);
        assert_eq!(outcome.durations_ms(), expected.durations_ms());
        each_plays_alone(&outcome, FRAMES);
    }
}

#[test]
fn a_source_that_starts_again() {
    let whole = x264(GOP);
    let twice = [whole.as_slice(), &whole].concat();
    let outcome = cut(seconds(5), twice.chunks(7000));
    let marked: Vec<bool> = outcome.segments.iter().map(|segment| segment.discontinuity).collect();
    // 0, 5, 10 s, the restart at 12 s, and then the grid's next lines.
    assert_eq!(marked, [false, false, false, true, false, false]);
    assert_eq!(outcome.durations_ms(), [5000, 5000, 2000, 3000, 5000, 4000]);
    each_plays_alone(&outcome, 2 * FRAMES);
}

#[test]
fn timestamps_that_wrap() {
    // 2^33 ticks are 95,443.7 s.
    let codec = ["-c:v", "libx264", "-preset", "veryfast", "-x264-params", GOP, "-output_ts_offset", "95438"];
    let feed = clip(&[&codec[..], AAC].concat());
    let outcome = cut(seconds(2), feed.chunks(7000));
    assert_eq!(outcome.durations_ms(), [2000; 6]);
    assert!(outcome.segments.iter().all(|segment| !segment.discontinuity));
    each_plays_alone(&outcome, FRAMES);
}

#[test]
fn null_packets_stay() {
    let codec = ["-c:v", "libx264", "-preset", "veryfast", "-x264-params", GOP, "-muxrate", "2M"];
    let feed = clip(&[&codec[..], AAC].concat());
    let outcome = cut(seconds(2), feed.chunks(7000));
    assert!(outcome.counters.null_packets > 1000);
    assert!(outcome.joined() == feed[outcome.counters.skipped_bytes as usize..]);
    each_plays_alone(&outcome, FRAMES);

    let stripped = cut(CutterConfig { strip_nulls: true, ..seconds(2) }, feed.chunks(7000));
    let lean: Vec<u8> = feed.chunks(188).filter(|packet| pid(packet) != 0x1fff).flatten().copied().collect();
    assert!(stripped.joined() == lean[stripped.counters.skipped_bytes as usize..]);
    assert_eq!(stripped.counters.null_packets, outcome.counters.null_packets);
    assert_eq!(stripped.durations_ms(), outcome.durations_ms());
}

#[test]
fn streams_that_move_to_other_pids() {
    let before = x264(GOP);
    let codec = ["-c:v", "libx264", "-preset", "veryfast", "-x264-params", GOP, "-output_ts_offset", "12"];
    let moved = ["-mpegts_start_pid", "0x200", "-mpegts_pmt_start_pid", "0x1100"];
    let after = clip(&[&codec[..], AAC, &moved].concat());
    let feed = [before.as_slice(), &after].concat();
    let outcome = cut(seconds(60), feed.chunks(7000));
    assert_eq!(outcome.segments.len(), 2, "{:?}", outcome.notices);
    each_plays_alone(&outcome, 2 * FRAMES);
}

#[test]
fn of_several_programs_one_decides() {
    // The first program is sound only; two and three have key frames at different times.
    let arguments = ["-map", "1", "-map", "0", "-map", "0", "-c:v", "libx264", "-preset", "veryfast"];
    let codecs = ["-x264-params:v:0", "keyint=25:scenecut=0", "-x264-params:v:1", "keyint=35:scenecut=0"];
    let programs = [
        "-program",
        "program_num=1:st=0",
        "-program",
        "program_num=2:st=1",
        "-program",
        "program_num=3:st=2",
    ];
    let feed = clip(&[&arguments[..], &codecs, AAC, &programs].concat());
    for (wanted, durations) in
        [(None, &[2000; 6][..]), (Some(2), &[2000; 6]), (Some(3), &[2800, 1400, 2800, 1400, 2800, 800])]
    {
        let outcome = cut(CutterConfig { program: wanted, ..seconds(2) }, feed.chunks(7000));
        assert_eq!(outcome.durations_ms(), durations, "{wanted:?}: {:?}", outcome.notices);
        assert!(outcome.joined() == feed[outcome.counters.skipped_bytes as usize..]);
    }
}

#[test]
fn scrambled_pictures_are_cut_by_their_flag() {
    let mut feed = x264(GOP);
    let (mut first, plain) = (true, feed.clone());
    each_packet(&mut feed, |packet| {
        if pid(packet) == 0x100 {
            packet[3] |= 0x80;
            first = false;
        }
    });
    assert!(!first);
    let outcome = cut(seconds(2), feed.chunks(7000));
    let starts = |outcome: &Outcome| outcome.segments.iter().map(|s| s.data.len()).collect::<Vec<_>>();
    assert_eq!(starts(&outcome), starts(&cut(seconds(2), [plain.as_slice()])));
    assert!(outcome.notices.contains(&Notice::Scrambled));
}

#[test]
fn no_key_frame_for_the_whole_clip() {
    let config = CutterConfig {
        grace: std::time::Duration::from_secs(1),
        limit: std::time::Duration::from_secs(2),
        ..seconds(2)
    };
    let feed = x264("keyint=infinite:scenecut=0");
    let outcome = cut(config, feed.chunks(7000));
    assert_eq!(outcome.durations_ms(), [4000, 4000, 4000]);
    let overdue = outcome
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::NoRandomAccess { degraded: false, .. }));
    assert_eq!(overdue.count(), 2);
    // Each alone shows nothing, but whoever plays on sees everything.
    assert_eq!(decode(&played(&outcome), "v:0").1, FRAMES);
}
