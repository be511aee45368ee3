//! What real and damaged feeds do, one at a time, in feeds made packet by packet.

use crate::common::{
    Outcome, cut,
    feed::{AUDIO_PID, FRAME, Feed, Flags, Frame, PMT_PID, VIDEO_PID},
    seconds,
};
use minuet_media::{Codec, CutterConfig, Error, Notice};

const SECOND: u64 = 90_000;

/// `seconds` of video from `time` on with a key frame each second, and audio.
fn video(feed: &mut Feed, time: u64, seconds: u64) {
    for index in 0..seconds * 25 {
        let frame = if index % 25 == 0 { Frame::Key } else { Frame::Inter };
        let now = time + index * FRAME;
        feed.pes(VIDEO_PID, now, Flags { pcr: Some(now), ..Flags::default() }, &frame.bytes(400));
        feed.pes(AUDIO_PID, now, Flags::default(), &[0xff; 200]);
    }
}

fn outcome(feed: &Feed, config: CutterConfig) -> Outcome {
    cut(config, feed.bytes.chunks(1000))
}

#[test]
fn the_wrap_is_no_discontinuity() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, (1 << 33) - 3 * SECOND, 8);
    let outcome = outcome(&feed, seconds(2));
    assert_eq!(outcome.durations_ms(), [2000; 4]);
    assert!(outcome.segments.iter().all(|segment| !segment.discontinuity));
}

#[test]
fn a_restarted_source_is_a_discontinuity_and_leaves_the_grid_alone() {
    for second_start in [0, 500 * SECOND, 1000 * SECOND + 3600 * SECOND] {
        let mut feed = Feed::default();
        feed.tables();
        video(&mut feed, 1000 * SECOND, 5);
        video(&mut feed, second_start, 5);
        let outcome = outcome(&feed, seconds(2));
        // Lines at 2, 4, 6, 8 s; the cut at 5 s is the jump's.
        assert_eq!(outcome.durations_ms(), [2000, 2000, 1000, 1000, 2000, 2000]);
        let marked: Vec<usize> = (0..6).filter(|index| outcome.segments[*index].discontinuity).collect();
        assert_eq!(marked, [3], "from {second_start}");
        assert_eq!(outcome.notices.iter().filter(|notice| **notice == Notice::Discontinuity).count(), 1);
    }
}

#[test]
fn a_restarted_source_may_happen_on_the_same_counters() {
    for between in 0..16 {
        let mut feed = Feed::default();
        feed.tables();
        video(&mut feed, 0, 2);
        // One more packet each time, until every offset of the counters was tried.
        for index in 0..between {
            feed.pes(VIDEO_PID, 2 * SECOND + index * FRAME, Flags::default(), &Frame::Inter.bytes(0));
            feed.pat(&[(1, PMT_PID)]);
        }
        let mut again = Feed::default();
        again.pat(&[(1, PMT_PID + 1)]);
        again.pmt(1, PMT_PID + 1, &[(0x1b, VIDEO_PID), (0x0f, AUDIO_PID)], 0);
        video(&mut again, 100 * SECOND, 2);
        feed.bytes.extend(again.bytes);
        let outcome = outcome(&feed, seconds(60));
        assert_eq!(outcome.segments.len(), 2, "after {between}");
        assert_eq!(outcome.segments[1].duration.as_millis(), 2000, "after {between}");
    }
}

#[test]
fn a_jump_between_key_frames_waits_for_one() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 1);
    for index in 0..10 {
        feed.pes(VIDEO_PID, 900 * SECOND + index * FRAME, Flags::default(), &Frame::Inter.bytes(100));
    }
    video(&mut feed, 900 * SECOND + 10 * FRAME, 3);
    let outcome = outcome(&feed, seconds(60));
    assert_eq!(outcome.durations_ms(), [1400, 3000]);
    assert!(outcome.segments[1].discontinuity);
    assert_eq!(outcome.segments[1].random_access.first(), Some(&0));
}

#[test]
fn the_discontinuity_flag_counts_where_the_clock_breaks() {
    let flagged = |jump: u64| {
        let mut feed = Feed::default();
        feed.tables();
        video(&mut feed, 0, 2);
        let time = 2 * SECOND + jump;
        let flags = Flags { pcr: Some(time), discontinuity: true, ..Flags::default() };
        feed.pes(VIDEO_PID, time, flags, &Frame::Key.bytes(400));
        video(&mut feed, time + FRAME, 2);
        outcome(&feed, seconds(60)).segments.len()
    };
    assert_eq!(flagged(0), 1, "some encoders set it for nothing");
    assert_eq!(flagged(5 * SECOND), 2, "a step that would otherwise be a gap");
}

#[test]
fn no_key_frame_in_time() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 1);
    for index in 25..60 * 25 {
        // Bare key frames only from 40 s on.
        let bare = index % 25 == 0 && index > 40 * 25;
        let frame = if bare { Frame::Bare } else { Frame::Inter };
        feed.pes(VIDEO_PID, index * FRAME, Flags::default(), &frame.bytes(100));
    }
    let outcome = outcome(&feed, seconds(5));
    // Due at 5 s, cut at the limit 30 s later; due at 40 s, cut after the grace of 12 s.
    assert_eq!(outcome.durations_ms(), [35_000, 17_000, 8000]);
    let late: Vec<_> = outcome
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::NoRandomAccess { overdue, degraded } => Some((overdue.as_millis(), *degraded)),
            _ => None,
        })
        .collect();
    assert_eq!(late, [(30_000, false), (12_000, true)]);
    let sentence = outcome.notices.iter().find(|notice| matches!(notice, Notice::NoRandomAccess { .. }));
    assert!(sentence.expect("one").to_string().contains("GOP"));
}

#[test]
fn a_segment_has_a_greatest_length() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 1);
    // Time stands still.
    for _ in 0..2000 {
        feed.pes(VIDEO_PID, SECOND, Flags::default(), &Frame::Inter.bytes(1000));
    }
    let outcome = outcome(&feed, CutterConfig { max_bytes: 400_000, ..seconds(5) });
    assert!(outcome.segments.len() > 5);
    for segment in &outcome.segments {
        assert!(segment.file().len() <= 400_000);
    }
    assert!(outcome.notices.contains(&Notice::TooLarge { limit: 400_000 }));
    assert!(outcome.joined() == feed.bytes[outcome.counters.skipped_bytes as usize..]);
}

#[test]
fn parameter_sets_in_a_packet_of_their_own() {
    let mut feed = Feed::default();
    feed.tables();
    let mut starts = Vec::new();
    for index in 0..100u64 {
        let time = index * FRAME;
        if index % 25 == 0 {
            let sets = [0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x67, 0x64, 0, 0x1f, 0, 0, 0, 1, 0x68, 0xee];
            starts.push(feed.pes(VIDEO_PID, time, Flags::default(), &sets));
            feed.pes(VIDEO_PID, time, Flags::default(), &Frame::Bare.bytes(300)[6..]);
        } else {
            feed.pes(VIDEO_PID, time, Flags::default(), &Frame::Inter.bytes(300));
        }
    }
    let outcome = outcome(&feed, seconds(1));
    assert_eq!(outcome.durations_ms(), [1000; 4]);
    // The tables directly before the first belong to it.
    starts[0] = 0;
    let mut at = outcome.counters.skipped_bytes as usize;
    for (segment, start) in outcome.segments.iter().zip(starts) {
        assert_eq!(at, start);
        at += segment.data.len();
    }
}

#[test]
fn flags_are_not_believed() {
    for everywhere in [false, true] {
        let mut feed = Feed::default();
        feed.tables();
        for index in 0..100u64 {
            let frame = if index % 25 == 5 { Frame::Key } else { Frame::Inter };
            let flags = Flags { random_access: everywhere, ..Flags::default() };
            feed.pes(VIDEO_PID, index * FRAME, flags, &frame.bytes(300));
        }
        let outcome = outcome(&feed, seconds(1));
        assert_eq!(outcome.durations_ms(), [1000, 1000, 1000, 800]);
    }
}

#[test]
fn unknown_codecs_are_cut_by_flag_and_time() {
    for flagged in [true, false] {
        let mut feed = Feed::default();
        feed.pat(&[(1, PMT_PID)]);
        // Stream type 0x33: VVC.
        feed.pmt(1, PMT_PID, &[(0x33, VIDEO_PID), (0x0f, AUDIO_PID)], 0);
        for index in 0..60 * 25u64 {
            let flags = Flags { random_access: flagged && index % 25 == 0, ..Flags::default() };
            feed.pes(VIDEO_PID, index * FRAME, flags, &[0x5a; 300]);
        }
        let outcome = outcome(&feed, seconds(20));
        let leading =
            Notice::Leading { program: 1, pid: VIDEO_PID, stream_type: 0x33, codec: Codec::OtherVideo };
        assert!(outcome.notices.contains(&leading));
        assert!(leading.to_string().contains("cannot be looked into"));
        if flagged {
            assert_eq!(outcome.durations_ms(), [20_000; 3]);
        } else {
            // The start and each cut wait in vain for a flag as long as the grace lasts.
            assert_eq!(outcome.durations_ms(), [32_000, 16_000]);
        }
    }
}

#[test]
fn scrambled_streams_are_cut_by_flag_and_clock() {
    let mut feed = Feed::default();
    feed.tables();
    for index in 0..10 * 25u64 {
        let time = index * FRAME;
        let flags =
            Flags { random_access: index % 25 == 0, pcr: Some(time), scrambled: true, ..Flags::default() };
        feed.pes(VIDEO_PID, 0, flags, &[0xa5; 300]);
    }
    let outcome = outcome(&feed, seconds(2));
    assert_eq!(outcome.durations_ms(), [2000; 5]);
    assert_eq!(outcome.notices.iter().filter(|notice| **notice == Notice::Scrambled).count(), 1);
    assert!(outcome.counters.scrambled_packets >= 500);
}

#[test]
fn the_program_is_chosen() {
    let mut feed = Feed::default();
    for index in 0..100u64 {
        if index % 5 == 0 {
            feed.pat(&[(1, 0x20), (2, 0x21), (3, 0x22)]);
            feed.pmt(1, 0x20, &[(0x0f, 0x201)], 0);
            feed.pmt(3, 0x22, &[(0x1b, 0x220)], 0);
            feed.pmt(2, 0x21, &[(0x1b, 0x210)], 0);
        }
        let time = index * FRAME;
        feed.pes(0x201, 7 * SECOND + time, Flags::default(), &[0xff; 100]);
        for (pid, key) in [(0x210, 10), (0x220, 20)] {
            let frame = if index % 25 == key { Frame::Key } else { Frame::Inter };
            feed.pes(pid, time, Flags::default(), &frame.bytes(100));
        }
    }
    for (wanted, program, pid) in [(None, 2, 0x210), (Some(3), 3, 0x220), (Some(1), 1, 0x201)] {
        let outcome = outcome(&feed, CutterConfig { program: wanted, ..seconds(1) });
        let followed: Vec<_> = outcome
            .notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::Leading { program, pid, .. } => Some((*program, *pid)),
                _ => None,
            })
            .collect();
        assert_eq!(followed, [(program, pid)]);
        assert!(outcome.segments.len() >= 3);
        assert!(outcome.joined() == feed.bytes[outcome.counters.skipped_bytes as usize..]);
    }
    let outcome = outcome(&feed, CutterConfig { program: Some(9), ..seconds(1) });
    assert_eq!(outcome.error, Some(Error::NoSuchProgram { wanted: 9, available: vec![1, 2, 3] }));
}

#[test]
fn a_program_whose_table_never_comes_is_not_waited_for() {
    let mut feed = Feed::default();
    for index in 0..100u64 {
        if index % 5 == 0 {
            feed.pat(&[(1, 0x20), (2, PMT_PID)]);
            feed.pmt(2, PMT_PID, &[(0x1b, VIDEO_PID)], 0);
        }
        let frame = if index % 25 == 0 { Frame::Key } else { Frame::Inter };
        feed.pes(VIDEO_PID, index * FRAME, Flags::default(), &frame.bytes(100));
    }
    assert_eq!(outcome(&feed, seconds(1)).segments.len(), 3);
}

#[test]
fn long_tables_are_repeated_whole() {
    let mut feed = Feed::default();
    feed.pat(&[(1, PMT_PID)]);
    feed.pmt(1, PMT_PID, &[(0x1b, VIDEO_PID), (0x0f, AUDIO_PID)], 700);
    let tables = feed.bytes.clone();
    assert!(tables.len() > 4 * 188);
    video(&mut feed, 0, 4);
    let outcome = outcome(&feed, seconds(1));
    assert_eq!(outcome.segments.len(), 4);
    assert!(outcome.segments.iter().all(|segment| segment.tables == tables));
}

#[test]
fn new_tables_move_the_cutter_to_the_new_stream() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 3);
    let moved = feed.bytes.len();
    feed.pmt(1, PMT_PID, &[(0x1b, 0x300), (0x0f, AUDIO_PID)], 2);
    for index in 0..75u64 {
        let frame = if index % 25 == 0 { Frame::Key } else { Frame::Inter };
        feed.pes(0x300, 3 * SECOND + index * FRAME, Flags::default(), &frame.bytes(100));
    }
    let outcome = outcome(&feed, seconds(60));
    assert_eq!(outcome.segments.len(), 2, "{:?}", outcome.notices);
    let [old, new] = &outcome.segments[..] else { unreachable!() };
    assert_eq!(outcome.counters.skipped_bytes as usize + old.data.len(), moved);
    assert_ne!(old.tables, new.tables);
    assert!(!new.discontinuity);
    assert_eq!(outcome.durations_ms(), [3000, 3000]);
}

#[test]
fn sound_keeps_the_time_when_the_picture_stops() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 4);
    for index in 4 * 25..60 * 25u64 {
        feed.pes(AUDIO_PID, index * FRAME, Flags::default(), &[0xff; 200]);
    }
    video(&mut feed, 60 * SECOND, 10);
    let outcome = outcome(&feed, seconds(10));
    // Time goes in steps of 5 s while the picture is away; a cut is made when one is 12 s overdue.
    let durations = outcome.durations_ms();
    assert!(durations.len() >= 4 && durations.iter().all(|ms| *ms <= 28_000), "{durations:?}");
    assert_eq!(durations.iter().sum::<u64>(), 70_000);
    let silent = Notice::LeadingSilent { pid: VIDEO_PID };
    assert_eq!(outcome.notices.iter().filter(|notice| **notice == silent).count(), 1);
    assert!(!outcome.notices.iter().any(|notice| matches!(notice, Notice::NoRandomAccess { .. })));
    assert!(outcome.segments.iter().all(|segment| !segment.discontinuity));
    assert!(outcome.joined() == feed.bytes[outcome.counters.skipped_bytes as usize..]);
}

#[test]
fn a_picture_that_never_comes_is_not_waited_for() {
    let mut feed = Feed::default();
    feed.tables();
    for index in 0..60 * 25u64 {
        feed.pes(AUDIO_PID, index * FRAME, Flags::default(), &[0xff; 200]);
    }
    let outcome = outcome(&feed, seconds(10));
    assert!(outcome.segments.len() >= 2, "{:?}", outcome.durations_ms());
    assert!(outcome.notices.contains(&Notice::LeadingSilent { pid: VIDEO_PID }));
}

#[test]
fn feeds_that_end_too_soon_are_told_why() {
    let error = |bytes: &[u8]| cut(seconds(1), bytes.chunks(100)).error;
    assert_eq!(error(&[]), None);
    assert_eq!(error(&[7; 100]), Some(Error::NotMpegTs { searched: 100 }));
    let mut feed = Feed::default();
    feed.null();
    feed.null();
    assert_eq!(error(&feed.bytes), Some(Error::NoProgram { searched: 376 }));
    feed.tables();
    for index in 0..20 {
        feed.pes(VIDEO_PID, index * FRAME, Flags::default(), &Frame::Inter.bytes(100));
    }
    assert_eq!(error(&feed.bytes), Some(Error::NothingToCut));
}

#[test]
fn losses_are_counted_and_their_neighbours_kept() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 4);
    feed.null();
    let mut lossy: Vec<u8> = Vec::new();
    for (index, packet) in feed.bytes.chunks(188).enumerate() {
        if index < 10 || index % 100 != 50 {
            lossy.extend(packet);
        }
    }
    let lost = (feed.bytes.len() - lossy.len()) / 188;
    let outcome = cut(seconds(1), lossy.chunks(1000));
    assert_eq!(outcome.counters.continuity_errors, lost as u64);
    assert_eq!(outcome.counters.null_packets, 1);
    assert!(outcome.joined() == lossy[outcome.counters.skipped_bytes as usize..]);
}

#[test]
fn garbage_is_dropped_and_counted() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 2);
    let middle = feed.bytes.len();
    video(&mut feed, 2 * SECOND, 2);
    let mut damaged = feed.bytes.clone();
    damaged.splice(middle..middle, [0x12; 5000]);
    let outcome = cut(seconds(1), damaged.chunks(1000));
    assert_eq!(outcome.counters.garbage_bytes, 5000);
    assert!(outcome.notices.contains(&Notice::Resynchronised { garbage: 5000 }));
    assert!(outcome.joined() == feed.bytes[outcome.counters.skipped_bytes as usize..]);
}

#[test]
fn what_is_not_mpeg_ts_is_said_so() {
    let noise: Vec<u8> = (0..2u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let outcome = cut(seconds(1), noise.chunks(60_000));
    assert!(matches!(outcome.error, Some(Error::NotMpegTs { searched }) if searched < (1 << 20) + 4096));
}

#[test]
fn packets_without_a_program_are_said_so() {
    let mut feed = Feed::default();
    feed.null();
    let nulls = feed.bytes.repeat((40 << 20) / 188);
    let outcome = cut(seconds(1), nulls.chunks(1 << 20));
    assert!(matches!(outcome.error, Some(Error::NoProgram { .. })));
}

#[test]
fn a_clock_without_a_program_is_said_so_soon() {
    let mut feed = Feed::default();
    video(&mut feed, 0, 8);
    let outcome = outcome(&feed, seconds(1));
    let Some(Error::NoProgram { searched }) = outcome.error else { panic!("{:?}", outcome.error) };
    assert!(searched < feed.bytes.len() as u64 * 3 / 4, "after 5 s of 8: {searched}");
    // Tables that come late, but not that late.
    let mut feed = Feed::default();
    video(&mut feed, 0, 4);
    feed.tables();
    video(&mut feed, 4 * SECOND, 4);
    assert_eq!(cut(seconds(60), feed.bytes.chunks(1000)).error, None);
}

#[test]
fn a_table_on_another_pid_is_the_same_program() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 3);
    feed.pat(&[(1, PMT_PID + 0x100)]);
    video(&mut feed, 3 * SECOND, 1);
    feed.pmt(1, PMT_PID + 0x100, &[(0x1b, VIDEO_PID), (0x0f, AUDIO_PID)], 0);
    video(&mut feed, 4 * SECOND, 2);
    let outcome = outcome(&feed, seconds(60));
    assert_eq!(outcome.segments.len(), 1, "{:?}", outcome.notices);
    let alarm = |notice: &Notice| matches!(notice, Notice::NoSound { .. });
    assert!(!outcome.notices.iter().any(alarm), "{:?}", outcome.notices);
}

#[test]
fn lesser_places_to_join_are_told_when_there_is_nothing_better() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 1);
    for index in 25..60 * 25 {
        // Bare key frames each two seconds up to 30 s, then whole ones.
        let frame = match index % 50 {
            0 if index < 30 * 25 => Frame::Bare,
            0 => Frame::Key,
            _ => Frame::Inter,
        };
        feed.pes(VIDEO_PID, index * FRAME, Flags::default(), &frame.bytes(100));
    }
    let outcome = outcome(&feed, seconds(60));
    let [segment] = &outcome.segments[..] else { panic!("{:?}", outcome.notices) };
    assert!(outcome.joined() == feed.bytes[outcome.counters.skipped_bytes as usize..]);
    // The start; 12 to 28 s after the grace of 12 s; 30 to 58 s.
    assert_eq!(segment.random_access.len(), 1 + 9 + 15);
    // A table each, and the parameter sets in a packet, at the nine.
    assert_eq!(segment.whole.len() - segment.data.len() - segment.tables.len(), 9 * 3 * 188);
    assert!(segment.access);
}

#[test]
fn a_segment_that_begins_nowhere_says_so() {
    let mut feed = Feed::default();
    feed.tables();
    video(&mut feed, 0, 1);
    for index in 25..50 * 25 {
        feed.pes(VIDEO_PID, index * FRAME, Flags::default(), &Frame::Inter.bytes(100));
    }
    let access: Vec<bool> =
        outcome(&feed, seconds(5)).segments.iter().map(|segment| segment.access).collect();
    assert_eq!(access, [true, false]);
}
