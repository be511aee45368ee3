use minuet_proto::{
    ChannelKey, InfoHash, PieceIndex, PieceLength, Record,
    access::{AccessPoint, AccessPoints},
};
use proptest::prelude::*;

use super::*;

const MINUTE_MS: u64 = 60_000;
const START_MS: u64 = 1_700_000_000_000;
const PIECE: u32 = 65_536;

/// Records of minutes that follow each other.
fn records(numbers: std::ops::Range<u64>) -> Vec<SignedRecord> {
    let key = ChannelKey::from_seed(&[1; 32]);
    let mut prev = None;
    numbers
        .map(|seq| {
            let ingest_ms = START_MS + seq * MINUTE_MS;
            let record = Record {
                channel: key.channel(),
                seq: SegmentSeq(seq),
                prev,
                info_hash: InfoHash::new([2; 20]),
                length: 60 * 188 * 1000,
                piece_length: PieceLength::try_from(PIECE).unwrap(),
                duration_ms: MINUTE_MS,
                ingest_ms,
                sealed_ms: ingest_ms + MINUTE_MS,
                discontinuity: false,
                access: Default::default(),
            };
            let record = SignedRecord::sign(&key, record);
            prev = Some(record.hash());
            record
        })
        .collect()
}

/// A minute on air, from a piece on: two a second, a key frame each second.
fn air(reel: &mut Reel, minute: u64, pieces: std::ops::Range<u32>) {
    for piece in pieces {
        let id = PieceId { segment: SegmentSeq(minute), piece: PieceIndex(piece) };
        let ms = START_MS + minute * MINUTE_MS + u64::from(piece) * 500;
        reel.live(id, ms, PIECE, piece.is_multiple_of(2));
    }
}

fn list(reel: &Reel, from_ms: u64) -> Vec<(u64, String)> {
    let text = reel.playlist(Span { from_ms, at_ms: None, to_ms: None }, "").unwrap();
    let first = text.split("MEDIA-SEQUENCE:").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    (first..).zip(text.lines().filter(|line| line.starts_with("past/")).map(str::to_owned)).collect()
}

#[test]
fn what_was_on_air_before_is_listed_once_its_records_come_and_nothing_moves() {
    let mut reel = Reel::default();
    assert_eq!(reel.playlist(Span { from_ms: 0, at_ms: None, to_ms: None }, ""), Err(Missing::Unknown));
    air(&mut reel, 10, 40..80);
    assert_eq!(reel.oldest_ms(), None, "nobody was asked yet");
    reel.hold_from(None);
    let before = list(&reel, reel.oldest_ms().unwrap());
    reel.hold_from(Some(SegmentSeq(3)));
    // The newest first, as they are asked for; or as they come.
    let all = records(0..10);
    all.iter().rev().for_each(|record| reel.record(record));
    assert_eq!(reel.oldest_ms(), Some(START_MS + 3 * MINUTE_MS));
    let after = list(&reel, reel.oldest_ms().unwrap());
    assert!(before.iter().all(|entry| after.contains(entry)), "{before:?} {after:?}");
    // Seven minutes, and twenty seconds before what was seen on air.
    assert_eq!(after.len(), before.len() + 7 * 15 + 5);
    assert_eq!(after[0].1, "past/3-0.ts");
    // As of any beginning.
    let late = list(&reel, START_MS + 8 * MINUTE_MS + 30_000);
    assert!(late.iter().all(|entry| after.contains(entry)));
    assert!(late[0].1.starts_with("past/8-"), "{late:?}");
    let gone = reel.playlist(Span { from_ms: START_MS, at_ms: None, to_ms: None }, "");
    assert_eq!(gone, Err(Missing::Gone(START_MS + 3 * MINUTE_MS)));
    let to_come = reel.playlist(Span { from_ms: START_MS + 11 * MINUTE_MS, at_ms: None, to_ms: None }, "");
    assert_eq!(to_come, Err(Missing::ToCome));
}

#[test]
fn playlists_only_grow() {
    let mut reel = Reel::default();
    air(&mut reel, 4, 0..120);
    reel.hold_from(Some(SegmentSeq(0)));
    let mut before = list(&reel, START_MS + 4 * MINUTE_MS);
    let all = records(0..8);
    for minute in 5..8 {
        for piece in 0..120 {
            air(&mut reel, minute, piece..piece + 1);
            if piece == 20 {
                reel.record(&all[minute as usize - 1]);
            }
            let now = list(&reel, START_MS + 4 * MINUTE_MS);
            assert_eq!(now[..before.len()], before);
            before = now;
        }
    }
    assert!(before.len() >= 3 * 14, "{}", before.len());
    let text =
        reel.playlist(Span { from_ms: START_MS + 4 * MINUTE_MS, at_ms: None, to_ms: None }, "").unwrap();
    assert_eq!(minuet_remux::playlist::check(&text), Vec::<String>::new());
    assert!(!text.contains("DISCONTINUITY\n") && !text.contains("ENDLIST"), "{text}");
}

#[test]
fn a_broadcast_that_is_over_is_listed_from_its_records() {
    let mut reel = Reel::default();
    reel.set_ended(true);
    reel.hold_from(Some(SegmentSeq(0)));
    records(0..5).iter().for_each(|record| reel.record(record));
    let text = reel
        .playlist(Span { from_ms: START_MS, at_ms: Some(START_MS + 61_500), to_ms: None }, "?key=a")
        .unwrap();
    assert_eq!(text.matches(".ts?key=a\n").count(), 5 * 15);
    assert!(text.contains("TIME-OFFSET=61.500,PRECISE=YES") && text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    assert!(reel.has_some() && reel.rate() == Some(1_504_000), "{:?}", reel.rate());
}

/// The record of a minute with a place where decoding can start each so many milliseconds.
fn with_places(every_ms: u32) -> SignedRecord {
    let record = records(0..1).remove(0).get().clone();
    let pieces = record.piece_length.pieces_in(record.length) as u32;
    let places = (1..MINUTE_MS as u32 / every_ms).map(|n| AccessPoint {
        piece: PieceIndex(pieces * n / (MINUTE_MS as u32 / every_ms)),
        at_ms: n * every_ms,
    });
    let record = Record { access: AccessPoints::of(places), ..record };
    SignedRecord::sign(&ChannelKey::from_seed(&[1; 32]), record)
}

#[test]
fn a_finished_minute_is_cut_where_its_record_says_that_decoding_can_start() {
    for (every_ms, expected_ms) in [(1000, 4000), (1500, 4500), (5000, 5000)] {
        let (mut reel, record) = (Reel::default(), with_places(every_ms));
        reel.set_ended(true);
        reel.hold_from(Some(SegmentSeq(0)));
        reel.record(&record);
        let mut entry = reel.entry(SegmentSeq(0), 0).unwrap();
        let mut rest_ms = MINUTE_MS;
        while let Some(next) = reel.after(&entry) {
            assert_eq!(entry.duration_ms, expected_ms);
            let piece = PieceIndex((next.from / u64::from(PIECE)) as u32);
            let at_ms = (next.start_ms - START_MS) as u32;
            assert!(record.access.iter().any(|place| place == AccessPoint { piece, at_ms }), "{next:?}");
            (entry, rest_ms) = (next, rest_ms - entry.duration_ms);
        }
        assert_eq!(entry.duration_ms, rest_ms);
    }
    // Key frames 20 s apart: players want shorter entries.
    let mut reel = Reel::default();
    reel.set_ended(true);
    reel.hold_from(Some(SegmentSeq(0)));
    reel.record(&with_places(20_000));
    assert_eq!(reel.entry(SegmentSeq(0), 0).unwrap().duration_ms, 4000);
}

#[test]
fn what_nobody_can_be_asked_for_yet_is_not_listed() {
    let mut reel = Reel::default();
    air(&mut reel, 10, 40..80);
    let all = records(0..11);
    reel.record(&all[9]);
    reel.hold_from(None);
    let seen = START_MS + 10 * MINUTE_MS + 20_000;
    assert_eq!(reel.oldest_ms(), Some(seen));
    let before = list(&reel, seen);
    // Once it is finished the rest of it can be had from others.
    reel.record(&all[10]);
    reel.hold_from(Some(SegmentSeq(10)));
    assert_eq!(reel.oldest_ms(), Some(START_MS + 10 * MINUTE_MS));
    assert!(before.iter().all(|entry| list(&reel, START_MS + 10 * MINUTE_MS).contains(entry)));
}

/// Who comes at the end of a minute hears of it as finished before its last pieces, or after.
#[test]
fn a_minute_of_which_only_the_end_was_seen_is_there_as_a_whole() {
    for record_first in [true, false] {
        let (mut reel, all) = (Reel::default(), records(0..2));
        reel.hold_from(Some(SegmentSeq(0)));
        reel.record(&all[0]);
        if record_first {
            reel.record(&all[1]);
        }
        air(&mut reel, 1, 118..120);
        reel.record(&all[1]);
        air(&mut reel, 2, 0..40);
        assert_eq!(reel.shape(SegmentSeq(1)).unwrap().length, Some(all[1].length), "{record_first}");
        let (mut entry, mut minute) = (reel.entry(SegmentSeq(0), 0).unwrap(), 0);
        while let Some(next) = reel.after(&entry) {
            minute += u64::from(next.segment != entry.segment);
            assert_eq!(next.segment.0, minute, "{record_first}: {next:?}");
            entry = next;
        }
        assert_eq!(minute, 2, "{record_first}");
        assert_eq!(reel.oldest_ms(), Some(START_MS), "{record_first}");
    }
}

#[test]
fn a_playlist_that_ends_has_what_there_was() {
    let mut reel = Reel::default();
    air(&mut reel, 3, 0..119);
    reel.hold_from(Some(SegmentSeq(0)));
    records(0..3).iter().for_each(|record| reel.record(record));
    let to_ms = Some(START_MS + 2 * MINUTE_MS);
    let span = Span { from_ms: START_MS + MINUTE_MS, at_ms: None, to_ms };
    let text = reel.playlist(span, "").unwrap();
    assert!(text.contains("PLAYLIST-TYPE:VOD") && text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    assert_eq!(text.matches("past/1-").count(), 15);
    assert_eq!(text.matches("past/").count(), 15);
    let (from_ms, lasts) = reel.whole().unwrap();
    assert_eq!((from_ms, lasts.as_secs()), (START_MS, 180 + 56));
}

#[test]
fn entries_lie_one_behind_the_other() {
    let mut reel = Reel::default();
    air(&mut reel, 2, 30..100);
    reel.hold_from(Some(SegmentSeq(0)));
    records(0..2).iter().for_each(|record| reel.record(record));
    let mut entry = reel.entry(SegmentSeq(0), 0).unwrap();
    let mut count = 1;
    while let Some(next) = reel.after(&entry) {
        assert_eq!(next.number, entry.number + 1);
        match entry.to {
            Some(to) => assert!(next.segment == entry.segment && next.from == to && to % PACKET == 0),
            None => assert!(next.segment == entry.segment.next() && next.from == 0),
        }
        assert!(next.start_ms >= entry.start_ms && next.duration_ms <= LONGEST_MS);
        (entry, count) = (next, count + 1);
    }
    assert_eq!(entry.segment, SegmentSeq(2));
    assert!(count > 30 + 8, "{count}");
    assert_eq!(reel.entry(SegmentSeq(0), 188), None, "there is none of that name");
}

proptest! {
    /// Whatever order records and pieces come in, numbers go up by one and nothing is listed twice.
    #[test]
    fn numbers_have_no_holes(
        steps in prop::collection::vec((0u64..12, any::<bool>(), 0u32..100), 1..60), places in any::<bool>(),
    ) {
        let (mut reel, mut all) = (Reel::default(), records(0..12));
        if places {
            let key = ChannelKey::from_seed(&[1; 32]);
            let access = with_places(2000).access.clone();
            let with = |record: &SignedRecord| Record { access: access.clone(), ..record.get().clone() };
            // They do not follow each other by hash then, but by number.
            all = all.iter().map(|record| SignedRecord::sign(&key, with(record))).collect();
        }
        reel.hold_from(Some(SegmentSeq(0)));
        let mut known: Vec<(u64, String)> = Vec::new();
        for (minute, is_record, piece) in steps {
            if is_record {
                reel.record(&all[minute as usize]);
            } else {
                air(&mut reel, minute, piece..piece + 12);
            }
            let Some(oldest) = reel.oldest_ms() else { continue };
            let Ok(text) = reel.playlist(Span { from_ms: oldest, at_ms: None, to_ms: None }, "") else { continue };
            let first: u64 = text.split("MEDIA-SEQUENCE:").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
            let listed: Vec<(u64, String)> =
                (first..).zip(text.lines().filter(|line| line.starts_with("past/")).map(str::to_owned)).collect();
            for (number, name) in &listed {
                prop_assert!(known.iter().all(|(n, known)| (n == number) == (known == name)), "{name} moved");
            }
            known.extend(listed.into_iter().filter(|entry| !known.contains(entry)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn times_and_lengths_at_either_end_list_something_or_nothing() {
    let mut reel = Reel::default();
    air(&mut reel, 10, 0..120);
    reel.hold_from(Some(SegmentSeq(0)));
    for from_ms in [0, u64::MAX - 1000, u64::MAX] {
        for to_ms in [None, Some(0), Some(u64::MAX)] {
            let listed = reel.playlist(Span { from_ms, at_ms: Some(u64::MAX), to_ms }, "");
            let (gone, to_come) = (Err(Missing::Gone(reel.oldest_ms().unwrap())), Err(Missing::ToCome));
            assert_eq!(listed, if from_ms == 0 { gone } else { to_come });
        }
    }
    // As a source may sign it.
    let key = ChannelKey::from_seed(&[1; 32]);
    for (length, ms) in [(u64::MAX, u64::MAX), (1, 0), (u64::MAX, 1)] {
        let record = Record {
            length,
            ingest_ms: ms,
            sealed_ms: ms,
            duration_ms: ms,
            ..records(9..10)[0].get().clone()
        };
        reel.record(&SignedRecord::sign(&key, record));
    }
    assert!(reel.whole().is_some());
}
