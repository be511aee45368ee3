//! What encoders and multiplexers do that is legal and unkind: headers once, key frames late, tables long or new.

use std::time::Duration;

use crate::common::{
    Outcome, cut,
    ffmpeg::{AAC, FRAMES, clip, clip_of, decode, ffmpeg, pictures, x264},
    seconds,
};
use minuet_media::{Codec, CutterConfig, Notice};

const GOP: &str = "keyint=25:scenecut=0";

fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff
}

fn played(outcome: &Outcome) -> Vec<u8> {
    outcome.segments.iter().flat_map(|segment| segment.file()).collect()
}

fn is_the_input(outcome: &Outcome, feed: &[u8]) {
    assert!(outcome.joined() == feed[outcome.counters.skipped_bytes as usize..]);
}

/// Frames shown by each segment alone; none may complain.
fn shown_alone(outcome: &Outcome) -> Vec<u64> {
    let alone = |(index, segment): (usize, &crate::common::Segment)| {
        let (complaints, frames) = decode(&segment.file(), "v:0");
        assert_eq!(complaints, "", "segment {index}");
        frames
    };
    outcome.segments.iter().enumerate().map(alone).collect()
}

/// Makes SPS and PPS of H.264 unreadable (type 30, which decoders pass over) from the second access unit that has
/// them on, as an encoder does that sends them once.
fn headers_only_once(feed: &mut [u8]) {
    let mut sets = 0;
    for packet in feed.chunks_mut(188).filter(|packet| pid(packet) == 0x100) {
        for at in 4..packet.len() - 4 {
            if packet[at..at + 3] == [0, 0, 1] && matches!(packet[at + 3] & 0x1f, 7 | 8) {
                sets += 1;
                if sets > 2 {
                    packet[at + 3] = 30;
                }
            }
        }
    }
    assert!(sets > 4, "the feed repeats its headers");
}

#[test]
fn headers_that_come_once_are_repeated_where_a_segment_needs_them() {
    let mut feed = x264(GOP);
    headers_only_once(&mut feed);
    let grace = Duration::from_secs(1);
    let outcome = cut(CutterConfig { grace, ..seconds(2) }, feed.chunks(7000));
    is_the_input(&outcome, &feed);
    assert_eq!(
        outcome.durations_ms(),
        [3000, 2000, 2000, 2000, 2000, 1000],
        "each cut waits for the grace period"
    );
    assert_eq!(shown_alone(&outcome).iter().sum::<u64>(), FRAMES);
    // Joined, nobody takes the repeated packets for losses, and the pictures are the same.
    let joined = played(&outcome);
    let again = cut(seconds(60), joined.chunks(7000));
    assert_eq!(again.counters.continuity_errors, 0);
    let (complaints, frames) = decode(&joined, "v:0");
    assert_eq!((complaints.as_str(), frames), ("", FRAMES));
    assert_eq!(pictures(&joined), pictures(&feed));
    assert!(
        outcome.notices.iter().any(|notice| matches!(notice, Notice::NoRandomAccess { degraded: true, .. }))
    );
}

#[test]
fn recovery_points_without_headers_do_after_the_grace_period() {
    // As a real film in twelve did: flagged frames that are neither IDR nor bring parameter sets.
    let mut feed = x264("keyint=25:scenecut=0:open-gop=1:bframes=2:b-adapt=0");
    headers_only_once(&mut feed);
    let grace = Duration::from_secs(1);
    let outcome = cut(CutterConfig { grace, ..seconds(4) }, feed.chunks(7000));
    is_the_input(&outcome, &feed);
    assert!(outcome.segments.len() >= 3, "{:?}", outcome.durations_ms());
    for segment in &outcome.segments {
        let (_, frames) = decode(&segment.file(), "v:0");
        // What leads the recovery point in output order may be missing.
        let expected = segment.duration.as_millis() * 25 / 1000;
        assert!(frames + 3 >= expected, "{frames} of {expected}");
    }
    assert_eq!(pictures(&played(&outcome)), pictures(&feed));
}

#[test]
fn no_key_frame_for_longer_than_the_limit() {
    let codec = ["-c:v", "libx264", "-preset", "ultrafast", "-x264-params", "keyint=infinite:scenecut=0"];
    let feed = clip_of(95, &codec);
    let outcome = cut(seconds(10), feed.chunks(7000));
    is_the_input(&outcome, &feed);
    // 30 s after each cut was due, at 10 s and at 50 s.
    assert_eq!(outcome.durations_ms()[..2], [40_000, 40_000]);
    let warning = outcome.notices.iter().map(ToString::to_string).find(|text| text.contains("key frame"));
    let warning = warning.expect("a warning that names the setting");
    assert!(warning.contains("GOP (keyframe interval)") && warning.contains("30.0 s"), "{warning}");
    let (complaints, frames) = decode(&played(&outcome), "v:0");
    assert_eq!((complaints.as_str(), frames), ("", 95 * 25), "whoever plays on sees everything");
}

#[test]
fn x265_as_it_comes() {
    let feed = clip(&[&["-c:v", "libx265", "-x265-params", "log-level=error:keyint=50"], AAC].concat());
    let outcome = cut(seconds(2), feed.chunks(7000));
    is_the_input(&outcome, &feed);
    assert!(outcome.segments.len() >= 4, "{:?}", outcome.durations_ms());
    let shown = shown_alone(&outcome);
    // Pictures that lead a CRA in output order belong to the segment before, which a viewer who joins has not.
    let lost = FRAMES - shown.iter().sum::<u64>();
    assert!(lost <= 4 * (outcome.segments.len() as u64 - 1), "{shown:?}");
    assert_eq!(pictures(&played(&outcome)), pictures(&feed));
}

#[test]
fn jumps_ahead_and_back() {
    let coded = |offset: &str| {
        let codec =
            ["-c:v", "libx264", "-preset", "veryfast", "-x264-params", GOP, "-output_ts_offset", offset];
        clip(&[&codec[..], AAC].concat())
    };
    let [early, late] = [coded("0"), coded("3600")];
    let feed = [early.as_slice(), &late, &early].concat();
    let outcome = cut(seconds(5), feed.chunks(7000));
    is_the_input(&outcome, &feed);
    let marked: Vec<usize> =
        (0..outcome.segments.len()).filter(|&at| outcome.segments[at].discontinuity).collect();
    assert_eq!(marked.len(), 2, "{:?}", outcome.durations_ms());
    assert_eq!(outcome.durations_ms().iter().sum::<u64>() / 1000, 36, "an hour is not counted");
    assert_eq!(shown_alone(&outcome).iter().sum::<u64>(), 3 * FRAMES);
}

#[test]
fn bytes_lost_between_packets() {
    let whole = x264(GOP);
    // 1000 bytes lost in the middle of a packet, and again: sync is found at another offset each time.
    let (a, b) = (whole.len() / 3 / 188 * 188 + 77, whole.len() * 2 / 3 / 188 * 188 + 33);
    let feed = [&whole[..a], &whole[a + 1000..b], &whole[b + 1000..]].concat();
    let outcome = cut(seconds(2), feed.chunks(4999));
    assert_eq!(outcome.durations_ms().len(), 6);
    assert!(outcome.counters.garbage_bytes < 2 * 5 * 188, "{:?}", outcome.counters);
    assert!(outcome.notices.iter().any(|notice| matches!(notice, Notice::Resynchronised { .. })));
    let (shown, expected) = (pictures(&played(&outcome)).len() as u64, pictures(&whole).len() as u64);
    assert!(shown + 4 >= expected, "{shown} of {expected}");
    for segment in &outcome.segments {
        assert!(decode(&segment.file(), "v:0").1 >= 20);
    }
}

#[test]
fn sound_that_is_added_does_not_cut() {
    let codec = ["-c:v", "libx264", "-preset", "veryfast", "-x264-params", GOP];
    let before = clip(&[&["-map", "0"], &codec[..]].concat());
    let after = clip(&[&codec[..], &["-output_ts_offset", "12"], AAC].concat());
    let feed = [before.as_slice(), &after].concat();
    let outcome = cut(seconds(60), feed.chunks(7000));
    is_the_input(&outcome, &feed);
    assert_eq!(outcome.segments.len(), 1, "{:?}", outcome.notices);
    assert!(outcome.notices.contains(&Notice::NoSound { program: 1 }), "it began without");
    assert_eq!(pictures(&played(&outcome)), pictures(&feed));

    let outcome = cut(seconds(5), feed.chunks(7000));
    let back = [after.as_slice(), &before].concat();
    let notices = cut(seconds(60), back.chunks(7000)).notices;
    assert_eq!(
        notices.iter().filter(|notice| matches!(notice, Notice::NoSound { .. })).count(),
        1,
        "{notices:?}"
    );
    let tables = |index: usize| outcome.segments[index].tables.clone();
    assert_ne!(tables(1), tables(4), "the tables in force are those repeated");
    assert_eq!(decode(&outcome.segments[4].file(), "a:0").0, "");
    assert!(decode(&outcome.segments[4].file(), "a:0").1 > 0);
}

#[test]
fn tables_of_several_packets() {
    let titles: Vec<String> =
        (0..20).map(|n| format!("-metadata:s:a:{n}=language={}", ["eng", "deu"][n % 2])).collect();
    let mut arguments = vec!["-map", "0"];
    arguments.extend(["-map", "1"].repeat(20));
    arguments.extend(["-c:v", "libx264", "-preset", "veryfast", "-x264-params", GOP]);
    arguments.extend(["-c:a", "aac", "-b:a", "32k"]);
    let split: Vec<&str> = titles.iter().flat_map(|title| title.splitn(2, '=')).collect();
    arguments.extend(&split);
    let feed = clip(&arguments);
    let outcome = cut(seconds(2), feed.chunks(7000));
    is_the_input(&outcome, &feed);
    assert_eq!(outcome.durations_ms(), [2000; 6]);
    for segment in &outcome.segments {
        assert!(segment.tables.len() > 2 * 188, "one PAT packet and several of the PMT");
    }
    assert_eq!(shown_alone(&outcome).iter().sum::<u64>(), FRAMES);
    let (complaints, frames) = decode(&outcome.segments[3].file(), "a:19");
    assert!(complaints.is_empty() && frames > 0, "{complaints}");
}

#[test]
fn codecs_that_cannot_be_looked_into_are_named_and_cut_by_the_clock() {
    for codec in
        [&["-c:v", "libsvtav1", "-preset", "12", "-g", "25"][..], &["-c:v", "libvpx-vp9", "-g", "25"]]
    {
        let picture = "testsrc2=size=160x96:rate=25:duration=6";
        let arguments = [&["-f", "lavfi", "-i", picture][..], codec, &["-f", "mpegts", "-"]].concat();
        let feed = ffmpeg(&arguments, None);
        let outcome = cut(seconds(2), feed.chunks(7000));
        assert_eq!(outcome.error, None, "{codec:?}");
        is_the_input(&outcome, &feed);
        assert_eq!(outcome.segments.len(), 3, "{codec:?}: {:?}", outcome.durations_ms());
        let leading = outcome.notices.iter().find(|notice| matches!(notice, Notice::Leading { .. })).unwrap();
        assert!(
            matches!(leading, Notice::Leading { codec: Codec::Private | Codec::OtherVideo, .. }),
            "{leading:?}"
        );
        assert!(leading.to_string().contains("cannot be looked into"), "{leading}");
    }
}

#[test]
fn intra_refresh_has_places_to_join() {
    let parameters = "intra-refresh=1:keyint=25:scenecut=0:bframes=0";
    let feed = clip_of(30, &["-c:v", "libx264", "-preset", "ultrafast", "-x264-params", parameters]);
    let outcome = cut(seconds(60), feed.chunks(7000));
    let [segment] = &outcome.segments[..] else { panic!("{:?}", outcome.notices) };
    is_the_input(&outcome, &feed);
    let places = &segment.random_access;
    assert!(places.len() >= 15, "each second from 12 s on: {places:?}");
    // Whoever joins at the last but five has whole pictures before long, the same as everybody.
    let joined = &segment.data[places[places.len() - 6]..];
    let (all, late) = (pictures(&feed), pictures(joined));
    assert!(late.len() >= 100, "{} of six seconds' 150", late.len());
    assert_eq!(late.last(), all.last());
}
