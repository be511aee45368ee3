//! Finished segments that a node keeps for others, and for its own user to go back to.
//!
//! Rules:
//! 1. What is kept lies in files that any BitTorrent client can seed: `<name>.ts`, its `.torrent` and its signed `.record`, and,
//!    as long as pieces are missing, `.map`, a bitmap of what is there. The media file of a part has its full length, with holes.
//! 2. What comes at the live edge is written as it comes, and gets its names when its record is known. What else is wanted is
//!    written piece by piece, once the record and the hashes are here and verify.
//! 3. A piece that was written in this run was verified. What an earlier run has left is hashed before it is first read, and what
//!    does not verify is taken for missing. So nothing has to be read at the start, and nothing unverified goes out.
//! 4. What is kept is bounded in time of media and in bytes; the oldest goes first, but not what a reader is at. What is kept by
//!    somebody else (a source's store, a recording) is only read.
//! 5. On a full disk keeping stops with a sentence, and begins again when there is room. What a reader needs meanwhile is in
//!    memory, up to [`MAX_MEMORY`](crate::MAX_MEMORY): pieces of segments that have files, and whole segments that have none, as long as the
//!    reader is at them.

mod files;
mod find;
mod learn;
mod open;
mod pieces;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use minuet_proto::{
    ChannelId, Metainfo, PieceHash, PieceId, PieceIndex, SegmentSeq, SignedRecord,
    metainfo::MAX_METAINFO_LENGTH, record::segment_file_name,
};

use self::{
    files::{is_full, write_whole},
    open::OpenPieces,
    pieces::PieceMap,
};

/// Segments on air at a time: the open one, and those whose record or last pieces are still to come.
const MAX_OPEN: usize = 4;
/// Segments whose hashes and files are at hand.
const MAX_AT_HAND: usize = 8;
/// Bytes of pieces after which the map of a part is written again.
const MAP_EVERY: u64 = 4 << 20;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Of media.
    pub time: Duration,
    /// On disk.
    pub bytes: u64,
    /// Whether no more than a tenth of the disk's room is used, whatever `bytes` says.
    pub modest: bool,
}

/// Something that has changed, for whoever tells others what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The segment is kept, as a whole (none) or in part: one bit a piece, most significant bit first.
    Keeps(Box<SignedRecord>, Option<Bytes>),
    /// The segment is not kept any more.
    Forgets(SegmentSeq),
}

/// What comes of hashes that somebody sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// They are right as far as can be told; those from this piece on are still to come.
    More(PieceIndex),
    /// All are here and verify: the segment's pieces can be [kept](Keep::put).
    Whole,
    /// They are not the segment's, or not under the channel's signature.
    Wrong,
    /// The segment cannot be kept here, whoever sends what of it.
    NotKept,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there, on disk or in memory.
    Kept,
    /// Its hash is another.
    Wrong,
    /// Nothing is known of its segment, or there is no room at all.
    NotKept,
}

/// Finished segments of a channel in a folder.
#[derive(Debug)]
pub struct Keep {
    dir: PathBuf,
    channel: ChannelId,
    /// None: the files are somebody else's, and only read.
    bound: Option<Bound>,
    segments: BTreeMap<SegmentSeq, Segment>,
    open: BTreeMap<SegmentSeq, OpenPieces>,
    /// Records of those whose heads are not all here.
    sealing: BTreeMap<SegmentSeq, SignedRecord>,
    learning: BTreeMap<SegmentSeq, (SignedRecord, BytesMut)>,
    /// Of the segments that were used last, the newest last.
    at_hand: VecDeque<AtHand>,
    /// Pieces that the disk had no room for, the oldest first.
    memory: VecDeque<(PieceId, Bytes)>,
    in_memory: usize,
    /// What readers are at.
    needed: BTreeSet<SegmentSeq>,
    changes: VecDeque<Change>,
    disk: Disk,
    /// It was said that there is room for less than was asked for.
    said_small: bool,
}

/// Whether the disk takes what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// As far as is known.
    Fine,
    /// It did not, and that was said.
    Full,
    /// The same, but something may fit again: the next piece shows it.
    Trying,
}

#[derive(Debug)]
struct Segment {
    record: SignedRecord,
    /// The disk has no room for its files: it is in memory alone, with these hashes.
    memory_only: Option<Arc<[PieceHash]>>,
    /// None: all of it.
    map: Option<PieceMap>,
    /// Pieces that were verified in this run; none: all.
    checked: Option<PieceMap>,
    /// Bytes since the map was written.
    unmapped: u64,
}

impl Segment {
    fn pieces(&self) -> u32 {
        let pieces = self.record.piece_length.pieces_in(self.record.length);
        u32::try_from(pieces).unwrap_or(u32::MAX)
    }

    fn offset(&self, piece: u32) -> u64 {
        u64::from(piece).saturating_mul(self.record.piece_length.get().into())
    }

    fn len_of(&self, piece: u32) -> u32 {
        let left = self.record.length.saturating_sub(self.offset(piece));
        u32::try_from(left.min(self.record.piece_length.get().into())).unwrap_or(u32::MAX)
    }

    fn has(&self, piece: u32) -> bool {
        piece < self.pieces() && self.map.as_ref().is_none_or(|map| map.get(piece))
    }

    /// Bytes on disk.
    fn bytes(&self) -> u64 {
        match &self.map {
            _ if self.memory_only.is_some() => 0,
            None => self.record.length,
            Some(map) => {
                u64::from(map.count(self.pieces())).saturating_mul(self.record.piece_length.get().into())
            }
        }
    }

    fn change(&self) -> Change {
        let map = self.map.as_ref().map(|map| Bytes::copy_from_slice(map.bits()));
        Change::Keeps(Box::new(self.record.clone()), map)
    }
}

/// What a segment takes to be read.
#[derive(Debug, Clone)]
struct AtHand {
    segment: SegmentSeq,
    /// None: it is in memory alone.
    file: Option<Arc<File>>,
    hashes: Arc<[PieceHash]>,
}

impl Keep {
    /// Opens the folder `dir`, which is made when missing, with what an earlier run has kept there.
    pub fn open(dir: &Path, channel: ChannelId, bound: Bound) -> io::Result<Self> {
        let mut keep = Self::new(dir, channel, Some(bound));
        match fs::create_dir_all(dir) {
            // It may have room later.
            Err(error) if is_full(&error) => keep.fail(&error),
            made => made?,
        }
        keep.find()?;
        keep.make_room();
        Ok(keep)
    }

    /// Reads what somebody else keeps in `dir`; see [`Keep::note_finished`] for what comes later.
    pub fn over(dir: &Path, channel: ChannelId) -> io::Result<Self> {
        let mut keep = Self::new(dir, channel, None);
        keep.find()?;
        Ok(keep)
    }

    fn new(dir: &Path, channel: ChannelId, bound: Option<Bound>) -> Self {
        Self {
            dir: dir.to_owned(),
            channel,
            bound,
            segments: BTreeMap::new(),
            open: BTreeMap::new(),
            sealing: BTreeMap::new(),
            learning: BTreeMap::new(),
            at_hand: VecDeque::new(),
            memory: VecDeque::new(),
            in_memory: 0,
            needed: BTreeSet::new(),
            changes: VecDeque::new(),
            disk: Disk::Fine,
            said_small: false,
        }
    }

    /// What has changed since the last call; at first all that is there.
    pub fn take_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The record of a segment of which something is kept.
    pub fn record(&self, segment: SegmentSeq) -> Option<&SignedRecord> {
        self.segments.get(&segment).map(|kept| &kept.record)
    }

    /// Records of all segments of which something is kept, the oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &SignedRecord> {
        self.segments.values().map(|kept| &kept.record)
    }

    /// Whether all of a segment is kept.
    pub fn is_whole(&self, segment: SegmentSeq) -> bool {
        self.segments.get(&segment).is_some_and(|kept| kept.map.is_none())
    }

    /// Whether a piece is kept.
    pub fn has(&self, piece: PieceId) -> bool {
        self.segments.get(&piece.segment).is_some_and(|kept| kept.has(piece.piece.0))
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        let open: u64 = self.open.values().map(|open| open.bytes).sum();
        self.segments.values().map(Segment::bytes).fold(open, u64::saturating_add)
    }

    // ----- the live edge -----

    /// A verified head has named a piece of a segment that is on air.
    pub fn note_head(&mut self, piece: PieceId, hash: PieceHash, len: u32) {
        if let Some(open) = self.open_pieces(piece.segment) {
            open.note(piece.piece.0, hash, len);
        }
        // The record may have come before the last heads.
        if let Some(record) = self.sealing.remove(&piece.segment) {
            self.seal(&record);
        }
    }

    /// A verified piece of a segment that is on air.
    pub fn put_live(&mut self, piece: PieceId, hash: PieceHash, data: &Bytes) {
        if self.disk == Disk::Full {
            return;
        }
        if self.segments.contains_key(&piece.segment) {
            // The record came before the last pieces.
            self.put(piece, data);
            return;
        }
        let Some(open) = self.open_pieces(piece.segment) else { return };
        open.note(piece.piece.0, hash, u32::try_from(data.len()).unwrap_or(u32::MAX));
        // A segment that its publisher never ends has an end here.
        let on_air: u64 = self.open.values().map(|open| open.bytes).sum();
        if on_air.saturating_add(data.len() as u64) > self.most() {
            return;
        }
        let Some(open) = self.open.get_mut(&piece.segment) else { return };
        match open.write(piece.piece.0, data) {
            Ok(()) => self.took(),
            Err(error) => self.fail(&error),
        }
    }

    /// The record of a segment is known: what came of it at the live edge gets its names. False if the hashes of some of its
    /// pieces are not known yet.
    pub fn seal(&mut self, record: &SignedRecord) -> bool {
        if self.segments.contains_key(&record.seq) || self.bound.is_none() {
            return true;
        }
        let Some(torrent) = self.open.get(&record.seq).and_then(|open| open.torrent(record)) else {
            self.sealing.insert(record.seq, record.clone());
            while self.sealing.len() > MAX_OPEN {
                self.sealing.pop_first();
            }
            return false;
        };
        self.adopt(record.clone(), &torrent);
        true
    }

    /// Somebody else has finished a segment in the folder that is only read.
    pub fn note_finished(&mut self, record: &SignedRecord) {
        let checked = Some(PieceMap::default());
        let kept = Segment { record: record.clone(), memory_only: None, map: None, checked, unmapped: 0 };
        self.changes.push_back(kept.change());
        self.segments.insert(record.seq, kept);
    }

    /// Somebody else has removed a segment.
    pub fn note_removed(&mut self, segment: SegmentSeq) {
        self.let_go(segment);
    }

    fn open_pieces(&mut self, segment: SegmentSeq) -> Option<&mut OpenPieces> {
        if self.bound.is_none() || self.segments.contains_key(&segment) {
            return None;
        }
        let path = self.media_path(segment);
        self.open.entry(segment).or_insert_with(|| OpenPieces::new(path));
        while self.open.len() > MAX_OPEN {
            self.open.pop_first();
        }
        self.open.get_mut(&segment)
    }

    // ----- finished segments of others -----

    /// Keeps a piece of a segment whose hashes are known.
    pub fn put(&mut self, piece: PieceId, data: &Bytes) -> Put {
        let index = piece.piece.0;
        let Some(hash) = self.hash(piece) else { return Put::NotKept };
        if PieceHash::of(data) != hash {
            return Put::Wrong;
        }
        let Some(kept) = self.segments.get(&piece.segment) else { return Put::NotKept };
        if kept.has(index) || self.bound.is_none() {
            return Put::Kept;
        }
        let offset = kept.offset(index);
        let file = self.at_hand(piece.segment).and_then(|at_hand| at_hand.file);
        match file.map(|file| file.write_all_at(data, offset)) {
            Some(Ok(())) => self.took(),
            Some(Err(error)) => {
                self.fail(&error);
                self.remember(piece, data.clone());
            }
            None => self.remember(piece, data.clone()),
        }
        if let Some(kept) = self.segments.get_mut(&piece.segment) {
            if let Some(map) = &mut kept.map {
                map.set(index);
            }
            if let Some(checked) = &mut kept.checked {
                checked.set(index);
            }
            kept.unmapped = kept.unmapped.saturating_add(data.len() as u64);
        }
        self.settle(piece.segment);
        Put::Kept
    }

    /// What readers are at: it is not removed, however old it is. What is in memory alone is not kept for others.
    pub fn need(&mut self, segments: impl IntoIterator<Item = SegmentSeq>) {
        self.needed = segments.into_iter().collect();
        let in_memory = self.segments.iter().filter(|(_, kept)| kept.memory_only.is_some());
        let over: Vec<SegmentSeq> =
            in_memory.map(|(segment, _)| *segment).filter(|segment| !self.needed.contains(segment)).collect();
        over.into_iter().for_each(|segment| self.let_go(segment));
    }

    // ----- reading -----

    /// A piece, or part of it. What an earlier run has left is hashed first; if it is not the piece, it is taken for missing.
    pub fn read(&mut self, piece: PieceId, offset: u32, len: u32) -> Option<Bytes> {
        let index = piece.piece.0;
        let kept = self.segments.get(&piece.segment).filter(|kept| kept.has(index))?;
        let (at, piece_len) = (kept.offset(index), kept.len_of(index));
        let end = offset.checked_add(len).filter(|end| *end <= piece_len)?;
        if let Some((_, data)) = self.memory.iter().find(|(id, _)| *id == piece) {
            return Some(data.slice(offset as usize..end as usize));
        }
        let checked = kept.checked.as_ref().is_none_or(|checked| checked.get(index));
        let at_hand = self.at_hand(piece.segment)?;
        let (from, count) = if checked { (at.saturating_add(offset.into()), len) } else { (at, piece_len) };
        let mut data = BytesMut::zeroed(count as usize);
        let read = at_hand.file?.read_exact_at(&mut data, from);
        if checked {
            return read.ok().map(|()| data.freeze());
        }
        let right = read.is_ok() && at_hand.hashes.get(index as usize) == Some(&PieceHash::of(&data));
        if !right {
            tracing::debug!("piece {piece} of an earlier run is damaged: it is taken for missing");
            self.lose(piece);
            return None;
        }
        if let Some(checked) = self.segments.get_mut(&piece.segment).and_then(|kept| kept.checked.as_mut()) {
            checked.set(index);
        }
        // A copy: a part that is held does not hold the whole.
        Some(Bytes::copy_from_slice(&data[offset as usize..end as usize]))
    }

    /// At most `most` bytes of a piece from `offset` on, also of a segment that is on air; nothing at its end.
    pub fn some(&mut self, piece: PieceId, offset: u32, most: u32) -> Option<Bytes> {
        if let Some(kept) = self.segments.get(&piece.segment).filter(|kept| kept.has(piece.piece.0)) {
            return match kept.len_of(piece.piece.0).saturating_sub(offset) {
                0 => Some(Bytes::new()),
                left => self.read(piece, offset, most.min(left)),
            };
        }
        let whole = self.open_piece(piece)?;
        let from = whole.len().min(offset as usize);
        let rest = &whole[from..];
        Some(Bytes::copy_from_slice(&rest[..rest.len().min(most as usize)]))
    }

    /// A whole piece.
    pub fn piece(&mut self, piece: PieceId) -> Option<Bytes> {
        let len = self.segments.get(&piece.segment)?.len_of(piece.piece.0);
        self.read(piece, 0, len)
    }

    /// A piece of a segment that is on air and whose record is not known yet.
    pub fn open_piece(&self, piece: PieceId) -> Option<Bytes> {
        self.open.get(&piece.segment)?.read(piece.piece.0).map(Bytes::from)
    }

    /// The record and hashes of a segment, from piece `first` on, at most `most` of them.
    pub fn minute(&mut self, segment: SegmentSeq, first: PieceIndex, most: usize) -> Option<(Bytes, Bytes)> {
        let record = self.segments.get(&segment)?.record.encode();
        let hashes = self.at_hand(segment)?.hashes;
        let hashes = hashes.get(first.0 as usize..)?;
        let hashes = hashes.iter().take(most).flat_map(|hash| *hash.as_bytes());
        Some((record, hashes.collect::<Vec<u8>>().into()))
    }

    // ----- within -----

    fn hash(&mut self, piece: PieceId) -> Option<PieceHash> {
        self.at_hand(piece.segment)?.hashes.get(piece.piece.0 as usize).copied()
    }

    /// File and hashes of a segment.
    fn at_hand(&mut self, segment: SegmentSeq) -> Option<AtHand> {
        if let Some(index) = self.at_hand.iter().position(|at_hand| at_hand.segment == segment) {
            let at_hand = self.at_hand.remove(index)?;
            self.at_hand.push_back(at_hand.clone());
            return Some(at_hand);
        }
        let kept = self.segments.get(&segment)?;
        if let Some(hashes) = &kept.memory_only {
            return Some(AtHand { segment, file: None, hashes: Arc::clone(hashes) });
        }
        let path = self.media_path(segment);
        let torrent = minuet_files::read(&path.with_extension("torrent"), MAX_METAINFO_LENGTH as u64).ok()?;
        let torrent = Metainfo::parse(&torrent).ok()?;
        if torrent.info_hash() != kept.record.info_hash {
            return None;
        }
        let writes = self.bound.is_some() && kept.map.is_some();
        let file = minuet_files::open(File::options().read(true).write(writes), &path).ok()?;
        let hashes = torrent.info().pieces.clone().into();
        let at_hand = AtHand { segment, file: Some(Arc::new(file)), hashes };
        self.put_at_hand(at_hand.clone());
        Some(at_hand)
    }

    fn put_at_hand(&mut self, at_hand: AtHand) {
        self.at_hand.push_back(at_hand);
        if self.at_hand.len() > MAX_AT_HAND {
            self.at_hand.pop_front();
        }
    }

    /// Looks whether a segment has become whole, and writes its map now and then.
    fn settle(&mut self, segment: SegmentSeq) {
        let path = self.media_path(segment).with_extension("map");
        let in_memory = self.memory.iter().any(|(piece, _)| piece.segment == segment);
        let Some(kept) = self.segments.get_mut(&segment).filter(|kept| kept.memory_only.is_none()) else {
            return;
        };
        let Some(map) = &kept.map else { return };
        let whole = !in_memory && map.count(kept.pieces()) == kept.pieces();
        if whole {
            let _ = fs::remove_file(path);
            kept.map = None;
            self.changes.push_back(kept.change());
        } else if kept.unmapped >= MAP_EVERY {
            kept.unmapped = 0;
            let _ = write_whole(&path, map.bits());
        }
    }

    /// A piece is not there after all.
    fn lose(&mut self, piece: PieceId) {
        let path = self.media_path(piece.segment).with_extension("map");
        let Some(kept) = self.segments.get_mut(&piece.segment) else { return };
        let pieces = kept.pieces();
        let map = kept.map.get_or_insert_with(|| {
            let mut map = PieceMap::default();
            (0..pieces).for_each(|piece| map.set(piece));
            map
        });
        map.clear(piece.piece.0);
        if self.bound.is_some() && kept.memory_only.is_none() {
            let _ = write_whole(&path, map.bits());
        }
        self.changes.push_back(kept.change());
        // It was open for reading alone.
        self.at_hand.retain(|at_hand| at_hand.segment != piece.segment);
    }

    fn media_path(&self, segment: SegmentSeq) -> PathBuf {
        self.dir.join(segment_file_name(&self.channel, segment))
    }
}

#[cfg(test)]
mod tests;
