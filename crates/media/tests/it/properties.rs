//! What holds for every feed, whole or damaged, however it is divided into chunks.

use crate::common::{
    Outcome, cut,
    feed::{AUDIO_PID, FRAME, Feed, Flags, Frame, PMT_PID, VIDEO_PID},
    seconds,
};
use minuet_media::CutterConfig;
use proptest::prelude::*;

/// A frame of a made-up feed: what it is, its length, and what comes between it and the next.
#[derive(Clone, Debug)]
struct Step {
    frame: Frame,
    len: usize,
    audio: bool,
    nulls: usize,
    tables: bool,
    /// The flag says what it likes.
    flag: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let frame = prop_oneof![
        2 => Just(Frame::Key),
        1 => Just(Frame::OpenKey),
        2 => Just(Frame::Bare),
        20 => Just(Frame::Inter),
    ];
    (frame, 0..900usize, any::<bool>(), 0..3usize, prop::bool::weighted(0.1), any::<bool>())
        .prop_map(|(frame, len, audio, nulls, tables, flag)| Step { frame, len, audio, nulls, tables, flag })
}

/// A feed, and for each frame its offset and whether it is clean.
#[derive(Clone, Debug)]
struct Made {
    feed: Vec<u8>,
    frames: Vec<(usize, bool)>,
}

fn made() -> impl Strategy<Value = Made> {
    (prop::collection::vec(step(), 20..200), 0..1u64 << 33, prop_oneof![Just(0usize), 2..300usize])
        .prop_map(|(steps, start, padding)| make(&steps, start, padding))
}

/// A feed of these frames that begins at `start` ticks; its PMT has `padding` bytes of descriptors.
fn make(steps: &[Step], start: u64, padding: usize) -> Made {
    let mut feed = Feed::default();
    let mut frames = Vec::new();
    let tables = |feed: &mut Feed| {
        feed.pat(&[(1, PMT_PID)]);
        feed.pmt(1, PMT_PID, &[(0x1b, VIDEO_PID), (0x0f, AUDIO_PID)], padding);
    };
    // Tables directly before a frame belong to it.
    let mut begins = 0;
    tables(&mut feed);
    for (index, step) in steps.iter().enumerate() {
        let time = start + index as u64 * FRAME;
        let flags = Flags { random_access: step.flag, pcr: Some(time), ..Flags::default() };
        frames.push((begins, step.frame.is_clean()));
        let at = feed.pes(VIDEO_PID, time, flags, &step.frame.bytes(step.len));
        if step.audio {
            let end = feed.pes(AUDIO_PID, time, Flags::default(), &[0xff; 300]);
            // Somewhere within the frame: after one of its packets.
            let within = at + 188 * (1 + step.len % ((end - at) / 188));
            feed.bytes[within..].rotate_left(end - within);
        }
        (0..step.nulls).for_each(|_| feed.null());
        begins = feed.bytes.len();
        if step.tables {
            tables(&mut feed);
        }
    }
    Made { feed: feed.bytes, frames }
}

/// Divides `bytes` at `cuts` (taken modulo what is left).
fn divide<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    let mut rest = bytes;
    for cut in cuts.iter().cycle().take(100_000) {
        if rest.is_empty() {
            break;
        }
        let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
        chunks.push(chunk);
        rest = tail;
    }
    chunks.push(rest);
    chunks
}

/// The packets that came out came in, in the same order and not one of them twice.
fn is_taken_from(outcome: &Outcome, feed: &[u8]) -> bool {
    let mut rest = feed;
    outcome.joined().chunks(188).all(|packet| {
        // Damage may have moved packets off their places: look for each at every offset.
        match memchr::memmem::find(rest, packet) {
            Some(at) => {
                rest = &rest[at + 188..];
                true
            }
            None => false,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segments_start_where_they_must_and_lose_nothing(
        made in made(),
        cuts in prop::collection::vec(1..5000usize, 1..20),
    ) {
        let outcome = cut(seconds(1), divide(&made.feed, &cuts));
        let first = made.frames.iter().position(|frame| frame.1);
        let Some(first) = first else {
            prop_assert!(outcome.segments.is_empty());
            return Ok(());
        };
        // The reference: the first clean frame at or after each second since the first one.
        let mut starts = Vec::new();
        let mut line = 0;
        for (index, (at, clean)) in made.frames.iter().enumerate().skip(first) {
            let position = (index - first) as u64 * FRAME;
            if *clean && position >= line {
                starts.push((*at, position));
                line = (position / 90_000 + 1) * 90_000;
            }
        }
        let skipped = starts[0].0;
        prop_assert_eq!(outcome.counters.skipped_bytes, skipped as u64);
        prop_assert!(outcome.joined() == made.feed[skipped..]);
        let mut at = skipped;
        let mut seen = Vec::new();
        let mut clean = Vec::new();
        for segment in &outcome.segments {
            seen.push((at, segment.position.0));
            clean.extend(segment.random_access.iter().map(|offset| at + offset));
            at += segment.data.len();
        }
        prop_assert_eq!(&seen, &starts);
        let expected: Vec<usize> =
            made.frames.iter().skip(first).filter(|frame| frame.1).map(|frame| frame.0).collect();
        prop_assert_eq!(clean, expected);
        let total: u64 = outcome.segments.iter().map(|segment| segment.duration.0).sum();
        let frames = (made.frames.len() - first) as u64;
        prop_assert!(total == frames * FRAME || frames == 1);
        prop_assert_eq!(outcome.counters.continuity_errors, 0);
        prop_assert!(outcome.segments.iter().all(|segment| !segment.discontinuity));
        prop_assert!(outcome.segments.iter().all(|segment| !segment.tables.is_empty()));
    }

    #[test]
    fn damage_is_passed_over_the_same_way_in_any_chunks(
        made in made(),
        damage in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![
                Just(Damage::Flip(0x47)), any::<u8>().prop_map(Damage::Flip),
                (1..3000usize).prop_map(Damage::Cut),
                prop::collection::vec(any::<u8>(), 1..3000).prop_map(Damage::Insert),
            ]),
            1..12,
        ),
        cuts in prop::collection::vec(1..3000usize, 1..20),
    ) {
        let mut feed = made.feed;
        for (place, damage) in &damage {
            damage.apply(&mut feed, place);
        }
        let at_once = cut(seconds(1), [feed.as_slice()]);
        prop_assert_eq!(&cut(seconds(1), divide(&feed, &cuts)), &at_once);
        prop_assert!(is_taken_from(&at_once, &feed));
        let lean = || CutterConfig { strip_nulls: true, ..seconds(1) };
        prop_assert_eq!(&cut(lean(), divide(&feed, &cuts)), &cut(lean(), [feed.as_slice()]));
        let out: usize = at_once.segments.iter().map(|segment| segment.data.len()).sum();
        let dropped = at_once.counters.garbage_bytes + at_once.counters.skipped_bytes;
        prop_assert!(out as u64 + dropped <= feed.len() as u64);
    }

    #[test]
    fn any_bytes_are_survived(
        packets in prop::collection::vec((prop_oneof![Just(0u16), Just(0x100), Just(0x1000), 0..0x2000u16], any::<[u8; 32]>(), 4..188usize), 0..60),
        cuts in prop::collection::vec(1..600usize, 1..9),
    ) {
        // Packets in form, nonsense in content.
        let mut feed = Feed::default();
        feed.tables();
        for (pid, fill, at) in packets {
            let mut packet = [0xff; 188];
            packet[..4].copy_from_slice(&[0x47, (pid >> 8) as u8 | fill[0] & 0xe0, pid as u8, fill[1]]);
            let len = fill.len().min(188 - at);
            packet[at..at + len].copy_from_slice(&fill[..len]);
            feed.bytes.extend(packet);
        }
        let at_once = cut(seconds(1), [feed.bytes.as_slice()]);
        prop_assert_eq!(cut(seconds(1), divide(&feed.bytes, &cuts)), at_once);
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(u8),
    Cut(usize),
    Insert(Vec<u8>),
}

impl Damage {
    fn apply(&self, feed: &mut Vec<u8>, place: &prop::sample::Index) {
        if feed.is_empty() {
            return;
        }
        let at = place.index(feed.len());
        match self {
            Self::Flip(byte) => feed[at] ^= byte,
            Self::Cut(len) => drop(feed.drain(at..(at + len).min(feed.len()))),
            Self::Insert(bytes) => drop(feed.splice(at..at, bytes.iter().copied())),
        }
    }
}
