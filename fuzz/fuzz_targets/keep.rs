//! A folder of kept segments whose files are anything, as after a crash or by somebody else's hand; and what neighbours send
//! for it. Nothing is given out that the channel's key has not signed, and memory is bounded by what a segment can have.

#![no_main]

use std::{fs, time::Duration};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use minuet_proto::{
    ChannelKey, Metainfo, PieceHash, PieceId, PieceIndex, PieceLength, Record, SegmentSeq, SignedRecord,
    metainfo::Info, record::segment_file_name,
};
use minuet_store::{Bound, Keep, Learned, Put};

const PIECES: u32 = 5;
const PIECE: usize = 16 << 10;

/// Bytes that decide what happens. After their end all are zero.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn some(&mut self, most: usize) -> Vec<u8> {
        let count = usize::from(self.byte()).min(most).min(self.0.len());
        let (some, rest) = self.0.split_at(count);
        self.0 = rest;
        some.to_vec()
    }

    /// As it is, cut off, changed at a place, or something else.
    fn spoilt(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.byte() % 8 {
            0 => {
                let at = usize::from(self.byte()) % bytes.len().max(1);
                bytes.truncate(at);
            }
            1 | 2 => {
                let at = (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= self.byte();
                }
            }
            3 => bytes = self.some(255),
            _ => {}
        }
        bytes
    }

    fn piece(&mut self) -> u32 {
        match self.byte() {
            255 => u32::MAX,
            254 => u32::MAX - 1,
            253 => 65_536,
            252 => 65_535,
            byte => u32::from(byte) % (PIECES + 1),
        }
    }

    fn segment(&mut self) -> SegmentSeq {
        if self.byte() == 255 { SegmentSeq::MAX } else { SegmentSeq(u64::from(self.byte() % 3)) }
    }
}

struct Segment {
    record: SignedRecord,
    torrent: Metainfo,
    pieces: Vec<Bytes>,
}

fn segment(key: &ChannelKey, seq: SegmentSeq) -> Segment {
    let piece = |index: u32| {
        let len = if index == PIECES - 1 { 1000 } else { PIECE };
        Bytes::from(vec![(seq.0 as u8).wrapping_mul(7).wrapping_add(index as u8); len])
    };
    let pieces: Vec<Bytes> = (0..PIECES).map(piece).collect();
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let info = Info {
        name: segment_file_name(&key.channel(), seq),
        length,
        piece_length: PieceLength::MIN,
        pieces: pieces.iter().map(|piece| PieceHash::of(piece)).collect(),
    };
    let torrent = Metainfo::new(info, Vec::new(), Vec::new()).expect("it is one");
    let record = Record {
        channel: key.channel(),
        seq,
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
    Segment { record: SignedRecord::sign(key, record), torrent, pieces }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    let key = ChannelKey::from_seed(&[7; 32]);
    let folder = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let dir = tempfile::Builder::new().prefix("minuet-fuzz-").tempdir_in(folder).expect("a folder");
    for seq in 0..2 {
        let segment = segment(&key, SegmentSeq(seq));
        let path = dir.path().join(segment.record.file_name());
        for (ending, bytes) in [
            ("ts", segment.pieces.concat()),
            ("torrent", segment.torrent.encode().to_vec()),
            ("record", segment.record.encode().to_vec()),
            ("map", choices.some(64)),
        ] {
            if choices.byte() % 16 != 15 {
                fs::write(path.with_extension(ending), choices.spoilt(bytes)).expect("it is written");
            }
        }
    }
    let bound = Bound { time: Duration::from_secs(120), bytes: 200_000, modest: false };
    let mut keep = match choices.byte() % 4 {
        0 => Keep::over(dir.path(), key.channel()),
        _ => Keep::open(dir.path(), key.channel(), bound),
    }
    .expect("a folder can always be opened");
    while !choices.0.is_empty() {
        let (seq, index) = (choices.segment(), choices.piece());
        let id = PieceId { segment: seq, piece: PieceIndex(index) };
        let segment = segment(&key, seq);
        let data = segment.pieces.get(index as usize).cloned().unwrap_or_else(|| Bytes::from_static(b"none"));
        let hash = PieceHash::of(&data);
        match choices.byte() % 10 {
            0 => {
                let record = choices.spoilt(segment.record.encode().to_vec());
                let hashes = segment.torrent.info().pieces.iter().flat_map(|hash| *hash.as_bytes()).collect();
                let hashes = choices.spoilt(hashes);
                if let Learned::More(next) = keep.learn(seq, PieceIndex((choices.byte() % 4).into()), &record, &hashes) {
                    assert!(next.0 < PIECES);
                }
            }
            1 => keep.note_head(id, hash, choices.byte().into()),
            2 => keep.put_live(id, hash, &data),
            3 => drop(keep.seal(&segment.record)),
            4 => {
                let spoilt = choices.byte() % 4 == 3;
                let data = if spoilt { Bytes::from_static(b"something else") } else { data };
                let put = keep.put(id, &data);
                assert!(!spoilt || put != Put::Kept || keep.has(id));
            }
            5 => drop(keep.read(id, choices.byte().into(), u32::from(choices.byte()) << 8)),
            6 => drop(keep.minute(seq, PieceIndex(index), 2048)),
            7 => keep.need([seq]),
            8 => drop(keep.open_piece(id)),
            _ => while keep.take_change().is_some() {},
        }
        if let Some(found) = keep.piece(id) {
            assert_eq!(segment.pieces.get(index as usize), Some(&found), "what is given out is right");
        }
    }
});
