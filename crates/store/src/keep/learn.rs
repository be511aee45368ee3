//! Record and hashes of finished segments: what others send is believed once it is under the channel's signature.

use std::sync::Arc;

use bytes::BytesMut;
use minuet_proto::{
    Metainfo, PieceHash, PieceIndex, SegmentSeq, SignedRecord, mesh::MAX_SEGMENT_PIECES, metainfo::Info,
};

use super::{
    AtHand, Keep, Learned, Segment,
    files::{remove_all, write_whole},
    open::OpenPieces,
    pieces::PieceMap,
};

/// Segments whose hashes are being learned at a time.
const MAX_LEARNING: usize = 16;
/// Segments that are in memory alone at a time.
const MAX_MEMORY_ONLY: usize = 8;

impl Keep {
    /// Takes in a segment's record and hashes as somebody sent them, from piece `first` on.
    pub fn learn(&mut self, segment: SegmentSeq, first: PieceIndex, record: &[u8], hashes: &[u8]) -> Learned {
        if self.segments.contains_key(&segment) {
            return Learned::Whole;
        }
        let Ok(record) = SignedRecord::decode(record, self.channel) else { return Learned::Wrong };
        let pieces = record.piece_length.pieces_in(record.length);
        if record.seq != segment {
            return Learned::Wrong;
        }
        // One of more pieces than can be asked for would be learned for ever.
        if self.bound.is_none() || pieces > MAX_SEGMENT_PIECES.into() {
            return Learned::NotKept;
        }
        let all = pieces.saturating_mul(PieceHash::LENGTH as u64);
        let (_, sofar) = self.learning.entry(segment).or_insert_with(|| (record.clone(), BytesMut::new()));
        if first.0 == 0 {
            sofar.clear();
        }
        let at = u64::from(first.0).saturating_mul(PieceHash::LENGTH as u64);
        let len = sofar.len().saturating_add(hashes.len()) as u64;
        if at != sofar.len() as u64 || hashes.is_empty() || len > all {
            self.learning.remove(&segment);
            return Learned::Wrong;
        }
        sofar.extend_from_slice(hashes);
        if len < all {
            let next = u32::try_from(sofar.len() / PieceHash::LENGTH).unwrap_or(u32::MAX);
            while self.learning.len() > MAX_LEARNING {
                self.learning.pop_first();
            }
            return Learned::More(PieceIndex(next));
        }
        let pieces = sofar.chunks_exact(PieceHash::LENGTH).map(PieceHash::try_from).collect::<Result<_, _>>();
        self.learning.remove(&segment);
        let Ok(pieces) = pieces else { return Learned::Wrong };
        let info = Info {
            name: record.file_name(),
            length: record.length,
            piece_length: record.piece_length,
            pieces,
        };
        match Metainfo::new(info, Vec::new(), Vec::new()) {
            Ok(torrent) if torrent.info_hash() == record.info_hash => {
                self.adopt(record, &torrent);
                Learned::Whole
            }
            _ => Learned::Wrong,
        }
    }

    /// A segment's record and hashes verify: it is kept from now on, with what came of it at the live edge.
    pub(super) fn adopt(&mut self, record: SignedRecord, torrent: &Metainfo) {
        let segment = record.seq;
        let path = self.media_path(segment);
        let mut open = self.open.remove(&segment).unwrap_or_else(|| OpenPieces::new(path.clone()));
        // The live edge may have had another segment under this number, begun and never finished.
        open.keep_only(&torrent.info().pieces);
        let stored = open.seal(record.length).and_then(|(file, map)| {
            write_whole(&path.with_extension("torrent"), &torrent.encode())?;
            write_whole(&path.with_extension("map"), map.bits())?;
            write_whole(&path.with_extension("record"), &record.encode())?;
            Ok((file, map))
        });
        match stored {
            Ok((file, map)) => {
                let hashes = torrent.info().pieces.clone().into();
                self.put_at_hand(AtHand { segment, file: Some(Arc::new(file)), hashes });
                let kept = Segment { record, memory_only: None, map: Some(map), checked: None, unmapped: 0 };
                self.segments.insert(segment, kept);
                self.settle(segment);
                self.changes.extend(self.segments.get(&segment).map(Segment::change));
                self.make_room();
            }
            Err(error) => {
                self.fail(&error);
                remove_all(&path);
                self.adopt_in_memory(record, torrent);
            }
        }
    }

    /// The disk has no room for a segment's files: a reader that is at it gets it from memory.
    fn adopt_in_memory(&mut self, record: SignedRecord, torrent: &Metainfo) {
        let segment = record.seq;
        let in_memory = self.segments.values().filter(|kept| kept.memory_only.is_some()).count();
        if !self.needed.contains(&segment) || in_memory >= MAX_MEMORY_ONLY {
            return;
        }
        let hashes = torrent.info().pieces.clone().into();
        let map = Some(PieceMap::default());
        let kept = Segment { record, memory_only: Some(hashes), map, checked: None, unmapped: 0 };
        self.changes.push_back(kept.change());
        self.segments.insert(segment, kept);
    }
}
