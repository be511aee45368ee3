//! What is kept, what comes back after a crash, and what is never served.

use minuet_proto::{ChannelKey, PieceLength, Record, mesh::MAX_SEGMENT_PIECES, metainfo::Info};
use tempfile::TempDir;

use super::*;
use crate::{MAX_MEMORY, PART};

const PIECE: usize = 16 << 10;

fn key() -> ChannelKey {
    ChannelKey::from_seed(&[7; 32])
}

fn bound(minutes: u64, bytes: u64) -> Bound {
    Bound { time: Duration::from_secs(60 * minutes), bytes, modest: false }
}

/// A finished minute of five pieces, the last of them short.
struct Minute {
    record: SignedRecord,
    torrent: Metainfo,
    pieces: Vec<Bytes>,
}

fn minute(number: u64) -> Minute {
    let piece = |index: usize, len| Bytes::from(vec![(number as usize * 7 + index) as u8; len]);
    let pieces: Vec<Bytes> =
        (0..5).map(|index| piece(index, if index == 4 { 1000 } else { PIECE })).collect();
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let channel = key().channel();
    let info = Info {
        name: segment_file_name(&channel, SegmentSeq(number)),
        length,
        piece_length: PieceLength::MIN,
        pieces: pieces.iter().map(|piece| PieceHash::of(piece)).collect(),
    };
    let torrent = Metainfo::new(info, vec![], vec![]).unwrap();
    let record = Record {
        channel,
        seq: SegmentSeq(number),
        prev: None,
        info_hash: torrent.info_hash(),
        length,
        piece_length: PieceLength::MIN,
        duration_ms: 60_000,
        ingest_ms: 1,
        sealed_ms: 60_001,
        discontinuity: false,
        access: Default::default(),
    };
    Minute { record: SignedRecord::sign(&key(), record), torrent, pieces }
}

impl Minute {
    fn id(&self, piece: usize) -> PieceId {
        PieceId { segment: self.record.seq, piece: PieceIndex(piece as u32) }
    }

    fn hashes(&self) -> Vec<u8> {
        self.torrent.info().pieces.iter().flat_map(|hash| *hash.as_bytes()).collect()
    }

    fn learn(&self, keep: &mut Keep) -> Learned {
        keep.learn(self.record.seq, PieceIndex(0), &self.record.encode(), &self.hashes())
    }

    /// It comes at the live edge, but for these pieces.
    fn air(&self, keep: &mut Keep, without: &[usize]) {
        for (index, piece) in self.pieces.iter().enumerate() {
            keep.note_head(self.id(index), PieceHash::of(piece), piece.len() as u32);
            if !without.contains(&index) {
                keep.put_live(self.id(index), PieceHash::of(piece), piece);
            }
        }
        assert!(keep.seal(&self.record));
    }

    fn held(&self, keep: &mut Keep) -> Vec<usize> {
        (0..5)
            .filter(|index| {
                let found = keep.piece(self.id(*index));
                assert!(
                    found.is_none() || found.as_ref() == Some(&self.pieces[*index]),
                    "what is there is right"
                );
                found.is_some()
            })
            .collect()
    }
}

fn open(dir: &TempDir) -> Keep {
    Keep::open(dir.path(), key().channel(), bound(10, 1 << 30)).unwrap()
}

fn changes(keep: &mut Keep) -> Vec<(u64, Option<Vec<u8>>)> {
    std::iter::from_fn(|| keep.take_change())
        .map(|change| match change {
            Change::Keeps(record, map) => (record.seq.0, map.map(|map| map.to_vec())),
            Change::Forgets(segment) => (segment.0, Some(vec![])),
        })
        .collect()
}

#[test]
fn what_came_at_the_live_edge_is_kept_once_its_record_is_known() {
    let (dir, minute) = (TempDir::new().unwrap(), minute(3));
    let mut keep = open(&dir);
    minute.air(&mut keep, &[]);
    assert_eq!(minute.held(&mut keep), [0, 1, 2, 3, 4]);
    assert!(keep.is_whole(SegmentSeq(3)));
    assert_eq!(changes(&mut keep).last(), Some(&(3, None)));
    assert_eq!(keep.read(minute.id(4), 990, 10).as_deref(), Some(&minute.pieces[4][990..]));
    assert_eq!(keep.read(minute.id(4), 990, 11), None);
    let (record, hashes) = keep.minute(SegmentSeq(3), PieceIndex(1), 2).unwrap();
    assert_eq!((&record, &hashes[..]), (&minute.record.encode(), &minute.hashes()[20..60]));
    // As any BitTorrent client has it.
    assert_eq!(fs::read(dir.path().join(minute.record.file_name())).unwrap(), minute.pieces.concat());
}

#[test]
fn what_is_missing_can_be_had_from_others_later() {
    let (dir, minute) = (TempDir::new().unwrap(), minute(3));
    let mut keep = open(&dir);
    minute.air(&mut keep, &[1, 4]);
    assert_eq!(minute.held(&mut keep), [0, 2, 3]);
    assert_eq!(keep.put(minute.id(1), &minute.pieces[2]), Put::Wrong);
    assert_eq!(keep.put(minute.id(1), &minute.pieces[1]), Put::Kept);
    assert!(!keep.is_whole(SegmentSeq(3)));
    assert_eq!(keep.put(minute.id(4), &minute.pieces[4]), Put::Kept);
    assert!(keep.is_whole(SegmentSeq(3)));
    assert_eq!(minute.held(&mut keep), [0, 1, 2, 3, 4]);
}

#[test]
fn a_record_may_come_before_the_last_heads_and_pieces() {
    let (dir, minute) = (TempDir::new().unwrap(), minute(3));
    let mut keep = open(&dir);
    let hash = |index: usize| PieceHash::of(&minute.pieces[index]);
    for index in 0..4 {
        keep.note_head(minute.id(index), hash(index), PIECE as u32);
    }
    (0..3).for_each(|index| keep.put_live(minute.id(index), hash(index), &minute.pieces[index]));
    assert!(!keep.seal(&minute.record));
    assert_eq!(changes(&mut keep), []);
    keep.note_head(minute.id(4), hash(4), 1000);
    assert_eq!(minute.held(&mut keep), [0, 1, 2]);
    (3..5).for_each(|index| keep.put_live(minute.id(index), hash(index), &minute.pieces[index]));
    assert!(keep.is_whole(SegmentSeq(3)));
}

#[test]
fn only_what_the_channel_has_signed_is_learned() {
    let (dir, minute) = (TempDir::new().unwrap(), minute(3));
    let mut keep = open(&dir);
    let (record, hashes, seq) = (minute.record.encode(), minute.hashes(), minute.record.seq);
    let first = PieceIndex(0);
    let stranger = SignedRecord::sign(
        &ChannelKey::from_seed(&[8; 32]),
        Record { channel: ChannelKey::from_seed(&[8; 32]).channel(), ..minute.record.get().clone() },
    );
    assert_eq!(keep.learn(seq, first, &stranger.encode(), &hashes), Learned::Wrong);
    assert_eq!(keep.learn(SegmentSeq(4), first, &record, &hashes), Learned::Wrong);
    let mut others = hashes.clone();
    others[50] ^= 1;
    assert_eq!(keep.learn(seq, first, &record, &others), Learned::Wrong);
    assert_eq!(keep.learn(seq, first, &record, &[&hashes[..], &[0; 20]].concat()), Learned::Wrong);
    assert_eq!(keep.learn(seq, first, &record, &[]), Learned::Wrong);
    assert_eq!(keep.put(minute.id(0), &minute.pieces[0]), Put::NotKept);
    // In parts, and from the beginning again.
    assert_eq!(keep.learn(seq, first, &record, &hashes[..40]), Learned::More(PieceIndex(2)));
    assert_eq!(keep.learn(seq, PieceIndex(3), &record, &hashes[60..]), Learned::Wrong);
    assert_eq!(keep.learn(seq, first, &record, &hashes[..40]), Learned::More(PieceIndex(2)));
    assert_eq!(keep.learn(seq, PieceIndex(2), &record, &hashes[40..]), Learned::Whole);
    assert_eq!(keep.put(minute.id(0), &minute.pieces[0]), Put::Kept);
    assert_eq!(changes(&mut keep), [(3, Some(vec![]))]);
}

/// Each viewer verifies what the channel's key has signed, and nothing else of it.
#[test]
fn a_publisher_fills_neither_memory_nor_disk_with_what_no_segment_has() {
    let dir = TempDir::new().unwrap();
    let mut keep = Keep::open(dir.path(), key().channel(), bound(10, 20 * PIECE as u64)).unwrap();
    let data = Bytes::from(vec![1; PIECE]);
    let hash = PieceHash::of(&data);
    let mut air = |segment: u64, piece: u32| {
        let id = PieceId { segment: SegmentSeq(segment), piece: PieceIndex(piece) };
        keep.note_head(id, hash, PIECE as u32);
        keep.put_live(id, hash, &data);
    };
    // Numbers far beyond what a segment has.
    for piece in [0, 1, MAX_SEGMENT_PIECES, u32::MAX - 1, u32::MAX] {
        air(1, piece);
    }
    // Segments that do not end.
    (0..200).for_each(|piece| air(2 + u64::from(piece % 2), piece));
    let open = &keep.open[&SegmentSeq(1)];
    assert_eq!((open.held.bits().len(), open.bytes), (1, 2 * PIECE as u64));
    assert!(keep.bytes() <= 20 * PIECE as u64, "{}", keep.bytes());
    // A record of more pieces than can be asked for: nobody who passes it on is to blame.
    let good = minute(9).record;
    let record = Record { length: 16_384 * u64::from(MAX_SEGMENT_PIECES) + 1, ..good.get().clone() };
    let huge = SignedRecord::sign(&key(), record);
    let learned = keep.learn(SegmentSeq(9), PieceIndex(0), &huge.encode(), &[0; 20 * 2048]);
    assert_eq!(learned, Learned::NotKept);
    assert!(keep.learning.is_empty());
}

#[test]
fn a_map_that_is_none_costs_no_memory() {
    let (dir, minute) = (TempDir::new().unwrap(), minute(3));
    minute.air(&mut open(&dir), &[2]);
    let map = dir.path().join(minute.record.file_name()).with_extension("map");
    File::options().write(true).open(&map).unwrap().set_len(u64::from(MAX_SEGMENT_PIECES / 8) + 1).unwrap();
    let mut keep = open(&dir);
    assert!(keep.is_whole(SegmentSeq(3)), "it is not read");
    assert_eq!(minute.held(&mut keep), [0, 1, 3, 4], "the hashes tell what is there");
}

/// The process ends without a word at any time: nothing is written at its end.
#[test]
fn after_a_crash_what_was_kept_is_there_and_what_is_damaged_is_not_served() {
    let dir = TempDir::new().unwrap();
    let (whole, part, on_air) = (minute(1), minute(2), minute(3));
    {
        let mut keep = open(&dir);
        whole.air(&mut keep, &[]);
        part.air(&mut keep, &[2]);
        on_air.pieces.iter().enumerate().for_each(|(index, piece)| {
            keep.note_head(on_air.id(index), PieceHash::of(piece), piece.len() as u32);
            keep.put_live(on_air.id(index), PieceHash::of(piece), piece);
        });
        std::mem::forget(keep);
    }
    let media = dir.path().join(whole.record.file_name());
    let file = File::options().write(true).open(&media).unwrap();
    file.write_all_at(b"damaged", PIECE as u64 * 3).unwrap();
    let mut keep = open(&dir);
    assert_eq!(changes(&mut keep).len(), 2);
    assert!(keep.is_whole(SegmentSeq(1)), "nothing is read at the start");
    assert_eq!(whole.held(&mut keep), [0, 1, 2, 4]);
    assert!(!keep.is_whole(SegmentSeq(1)));
    assert_eq!(changes(&mut keep), [(1, Some(vec![0b1110_1000]))]);
    assert_eq!(part.held(&mut keep), [0, 1, 3, 4]);
    assert!(on_air.held(&mut keep).is_empty());
    // What was damaged can be had anew.
    assert_eq!(keep.put(whole.id(3), &whole.pieces[3]), Put::Kept);
    assert_eq!(whole.held(&mut keep), [0, 1, 2, 3, 4]);
    let names: Vec<String> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("00000003") || name.ends_with(PART)), "{names:?}");
}

#[test]
fn the_oldest_goes_first_by_time_and_by_bytes_but_not_what_a_reader_is_at() {
    let dir = TempDir::new().unwrap();
    let length = minute(1).record.length;
    let mut keep = Keep::open(dir.path(), key().channel(), bound(3, 1 << 30)).unwrap();
    (1..=5).for_each(|number| minute(number).air(&mut keep, &[]));
    let numbers = |keep: &Keep| keep.records().map(|record| record.seq.0).collect::<Vec<_>>();
    assert_eq!(numbers(&keep), [3, 4, 5]);
    keep.need([SegmentSeq(3)]);
    minute(6).air(&mut keep, &[]);
    assert_eq!(numbers(&keep), [3, 5, 6]);
    assert!(!dir.path().join(minute(4).record.file_name()).exists());
    drop(keep);
    let keep = Keep::open(dir.path(), key().channel(), bound(30, 2 * length)).unwrap();
    assert_eq!(numbers(&keep), [5, 6]);
    assert!(keep.bytes() <= 2 * length);
}

#[test]
fn what_somebody_else_keeps_is_read_and_never_changed() {
    let dir = TempDir::new().unwrap();
    let one = minute(1);
    one.air(&mut open(&dir), &[]);
    fs::write(dir.path().join("stray.ts.part"), b"x").unwrap();
    let mut keep = Keep::over(dir.path(), key().channel()).unwrap();
    assert_eq!(one.held(&mut keep), [0, 1, 2, 3, 4]);
    minute(2).pieces.iter().for_each(|piece| keep.put_live(minute(2).id(0), PieceHash::of(piece), piece));
    assert_eq!(minute(3).learn(&mut keep), Learned::NotKept);
    let file = File::options().write(true).open(dir.path().join(one.record.file_name())).unwrap();
    file.write_all_at(b"damaged", 0).unwrap();
    let mut again = Keep::over(dir.path(), key().channel()).unwrap();
    assert_eq!(one.held(&mut again), [1, 2, 3, 4]);
    assert!(!dir.path().join(one.record.file_name()).with_extension("map").exists());
    again.note_removed(SegmentSeq(1));
    assert!(one.held(&mut again).is_empty());
    assert!(dir.path().join(one.record.file_name()).exists());
}

/// `/dev/full` fails every write as a full disk does.
#[test]
fn on_a_full_disk_a_reader_gets_what_it_needs_from_memory_and_no_more_is_kept() {
    let (dir, minute) = (TempDir::new().unwrap(), minute(3));
    let mut keep = open(&dir);
    assert_eq!(minute.learn(&mut keep), Learned::Whole);
    let full = Arc::new(File::options().write(true).open("/dev/full").unwrap());
    let disk = keep.at_hand[0].file.replace(full);
    for index in 0..5 {
        assert_eq!(keep.put(minute.id(index), &minute.pieces[index]), Put::Kept);
    }
    assert_eq!(minute.held(&mut keep), [0, 1, 2, 3, 4]);
    assert!(!keep.is_whole(SegmentSeq(3)) && keep.disk == Disk::Full);
    keep.at_hand[0].file = disk;
    // Memory is bounded: what came first is missing again.
    keep.in_memory = MAX_MEMORY;
    keep.remember(minute.id(0), minute.pieces[0].clone());
    assert!(!keep.has(minute.id(0)));
}

/// A folder where a file is to be fails what writes the file, as a full disk does.
#[test]
fn where_not_even_the_torrent_can_be_written_a_reader_gets_the_segment_from_memory_while_it_is_at_it() {
    let (dir, one, other) = (TempDir::new().unwrap(), minute(3), minute(4));
    let mut keep = open(&dir);
    let block = |minute: &Minute| {
        let torrent = dir.path().join(minute.record.file_name()).with_extension("torrent");
        fs::create_dir(crate::part(&torrent)).unwrap();
    };
    block(&one);
    block(&other);
    keep.need([SegmentSeq(3)]);
    assert_eq!(one.learn(&mut keep), Learned::Whole);
    // Nobody is at this one.
    assert_eq!(other.learn(&mut keep), Learned::Whole);
    assert_eq!(other.record.seq, SegmentSeq(4));
    assert!(keep.record(SegmentSeq(4)).is_none() && keep.disk == Disk::Full);
    assert_eq!(keep.put(one.id(0), &one.pieces[1]), Put::Wrong);
    for index in 0..5 {
        assert_eq!(keep.put(one.id(index), &one.pieces[index]), Put::Kept);
    }
    assert_eq!(one.held(&mut keep), [0, 1, 2, 3, 4]);
    assert_eq!(keep.minute(SegmentSeq(3), PieceIndex(0), 9).unwrap().1, one.hashes());
    assert_eq!(keep.bytes(), 0);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing but what blocks: {left:?}");
    // The reader has gone on.
    keep.need([SegmentSeq(5)]);
    assert!(keep.record(SegmentSeq(3)).is_none() && keep.in_memory == 0);
    assert_eq!(changes(&mut keep).last(), Some(&(3, Some(vec![]))));
    assert_eq!(minute(5).learn(&mut keep), Learned::Whole);
    assert_eq!(keep.put(minute(5).id(0), &minute(5).pieces[0]), Put::Kept);
    assert!(keep.disk == Disk::Fine);
}
