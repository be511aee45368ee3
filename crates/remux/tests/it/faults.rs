//! Feeds with faults: what comes out can be decoded, and the playlists keep their rules.

use proptest::prelude::*;

use minuet_remux::Remuxer;

use crate::{
    ffmpeg::{decode, make, packets, picture, tone},
    playlists::checked,
    tracks::{Output, remux},
};

const CODING: &str = "-c:v libx264 -preset veryfast -bf 2 -g 25 -c:a aac";

pub fn feed(seconds: u32) -> Vec<u8> {
    make(&format!("{} {} {CODING}", picture(seconds), tone(seconds)))
}

/// The feed without the packets of which this says so, by number and PID.
pub fn without(feed: &[u8], lost: impl Fn(usize, u16) -> bool) -> Vec<u8> {
    let pid = |packet: &[u8]| u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
    let packets = feed.chunks(188).enumerate();
    packets
        .filter(|(number, packet)| !lost(*number, pid(packet)))
        .flat_map(|(_, packet)| packet.to_vec())
        .collect()
}

/// All tracks of the output are decoded without a complaint; returns how many frames each has.
fn decoded(output: &Output) -> Vec<usize> {
    let folder = tempfile::tempdir().unwrap();
    let mut counts = Vec::new();
    for (track, inits) in &output.inits {
        let mut count = 0;
        for init in 0..inits.len() {
            let path = output.write(folder.path(), *track, init);
            let stream = if inits[0].config.codecs.starts_with("avc1") { "v" } else { "a" };
            let (frames, complaints) = decode(&path, stream);
            assert_eq!(complaints, "", "track {track}");
            let times = packets(&path, stream);
            assert!(times.windows(2).all(|pair| pair[0].dts < pair[1].dts), "track {track}: times go back");
            count += frames.len();
        }
        counts.push(count);
    }
    counts
}

const VIDEO: u16 = 0x100;
const SOUND: u16 = 0x101;

#[test]
fn pictures_that_refer_to_lost_ones_are_left_out() {
    let whole = feed(10);
    // One packet in 400, which hits pictures of all kinds.
    let lossy = without(&whole, |number, _| number % 400 == 399);
    let counts = decoded(&remux(&lossy));
    assert!(counts[0] > 40 && counts[0] < 250 && counts[1] > 350, "{counts:?}");
    checked(&[lossy], 1000, 1);
}

#[test]
fn a_hole_in_the_feed_is_a_hole_in_time() {
    let whole = feed(12);
    let packets = whole.len() / 188;
    let holed = without(&whole, |number, _| number > packets / 2 && number < packets / 2 + packets / 5);
    let output = remux(&holed);
    let counts = decoded(&output);
    assert!(counts[0] > 180 && counts[0] < 260, "{counts:?}");
    checked(&[holed], 1000, 1);
}

#[test]
fn sound_goes_on_while_there_are_no_pictures() {
    let whole = feed(20);
    let packets = whole.len() / 188;
    let gone = packets * 6 / 20..packets * 14 / 20;
    let blind = without(&whole, |number, pid| pid == VIDEO && gone.contains(&number));
    let output = remux(&blind);
    let counts = decoded(&output);
    assert!(counts[0] > 250 && counts[1] > 20 * 46, "{counts:?}");
    let gaps = output.segments[&0].iter().filter(|segment| segment.parts.is_empty()).count();
    assert!(gaps > 0, "segments without pictures are gaps");
    assert_eq!(output.segments[&0].len(), output.segments[&1].len());
    checked(&[blind], 1000, 1);
}

#[test]
fn pictures_go_on_while_there_is_no_sound() {
    let whole = feed(20);
    let packets = whole.len() / 188;
    let gone = packets * 6 / 20..packets * 14 / 20;
    let silent = without(&whole, |number, pid| pid == SOUND && gone.contains(&number));
    let output = remux(&silent);
    assert_eq!(decoded(&output)[0], 500);
    assert_eq!(output.segments[&0].len(), output.segments[&1].len());
    checked(&[silent], 1000, 1);
}

#[test]
fn another_encoder_with_other_coding_begins_anew() {
    let second = make(&format!(
        "{} {} -s 160x120 -c:v libx264 -preset veryfast -g 25 -c:a aac -ar 44100",
        picture(8),
        tone(8)
    ));
    let feeds = [feed(8), second];
    let output = remux(&feeds.concat());
    let counts = decoded(&output);
    assert!(counts[0] >= 395 && counts[1] > 14 * 43, "{counts:?}");
    for (track, inits) in &output.inits {
        assert_eq!(inits.len(), 2, "track {track}");
        let anew: Vec<_> =
            output.segments[track].iter().filter(|segment| segment.opened.discontinuity).collect();
        assert!(!anew.is_empty() && anew.iter().any(|segment| segment.opened.init == 1), "track {track}");
    }
    let lasts = checked(&feeds, 1000, 1);
    let count = |playlist: &String| playlist.matches("#EXT-X-DISCONTINUITY\n").count();
    assert_eq!(count(&lasts[0]), count(&lasts[1]));
}

#[test]
fn pictures_that_are_not_carried_are_in_the_feed_as_it_was() {
    let feed = make(&format!("{} {} -c:v mpeg2video -g 25 -c:a mp2", picture(8), tone(8)));
    let output = remux(&feed);
    assert!(output.pace.unwrap().has_pictures);
    assert_eq!(output.inits.len(), 1, "the sound alone");
    assert!(output.transport.len() >= 7, "{}", output.transport.len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segment.ts");
    std::fs::write(&path, &output.transport[3].bytes).unwrap();
    assert_eq!(decode(&path, "v").1, "");
    checked(&[feed], 1000, 1);
}

#[test]
fn each_segment_of_the_feed_plays_alone() {
    let output = remux(&feed(8));
    let folder = tempfile::tempdir().unwrap();
    for segment in &output.transport {
        let path = folder.path().join("segment.ts");
        std::fs::write(&path, &segment.bytes).unwrap();
        let (frames, complaints) = decode(&path, "v");
        assert_eq!(complaints, "");
        assert_eq!(frames.len() as f64 / 25.0, segment.duration.as_secs_f64(), "segment {}", segment.number);
    }
    assert_eq!(output.transport.len(), 8);
}

#[test]
fn old_segments_go_and_the_rules_hold() {
    let first = feed(15);
    let second = make(&format!("{} {} -s 160x120 {CODING}", picture(15), tone(15)));
    let last = checked(&[first, second], 6, 1);
    assert!(
        last.iter().all(|playlist| playlist.contains("#EXT-X-DISCONTINUITY-SEQUENCE:1\n")),
        "{}",
        last[0]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_damage_is_survived(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        cut in any::<prop::sample::Index>(), step in 1usize..5000,
    ) {
        static FEED: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| feed(3));
        let mut feed = FEED.clone();
        for (at, byte) in hits {
            let at = at.index(feed.len());
            feed[at] = byte;
        }
        let cut = cut.index(feed.len());
        feed.drain(cut..(cut + 1000).min(FEED.len()));
        let mut remuxer = Remuxer::new(0);
        let (mut events, mut output) = (Vec::new(), Output::default());
        for bytes in feed.chunks(step) {
            // What is damaged that much is no MPEG-TS.
            if remuxer.push(bytes, 0, &mut events).is_err() {
                break;
            }
        }
        remuxer.gap(&mut events);
        remuxer.end(&mut events);
        output.take(events);
    }
}
