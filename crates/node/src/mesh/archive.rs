//! Finished minutes at this node: what is kept of them ([`minuet_store::Keep`]), as the driver fills it and readers read it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use minuet_mesh::{Learned, PieceRef, Shape, Verdict};
use minuet_proto::{
    PieceId, PieceIndex, SegmentSeq, SignedRecord,
    mesh::{Block, Head, KeptBlock, MAX_HASHES, Minute},
};
use minuet_session::{Event, Pieces};
use minuet_store::{Change, Keep, Put};
use tokio::sync::watch;

use super::live::LiveWindow;

/// What neighbours have of a segment, by their word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    /// How many have any of it.
    pub holders: usize,
    /// The first segment from it on that any of them has as a whole.
    pub next: Option<SegmentSeq>,
}

/// Finished minutes. Shared between the driver, which fills it, and all who read.
#[derive(Debug)]
pub struct Archive {
    keep: Option<Mutex<Keep>>,
    changed: watch::Sender<()>,
    /// What neighbours have of the segments that readers want.
    holders: Mutex<HashMap<SegmentSeq, Elsewhere>>,
    /// The oldest segment that is kept as a whole, for who tells others.
    oldest: watch::Sender<Option<SegmentSeq>>,
}

impl Archive {
    pub(super) fn new(keep: Option<Keep>) -> Self {
        Self {
            keep: keep.map(Mutex::new),
            changed: watch::Sender::new(()),
            holders: Mutex::default(),
            oldest: watch::Sender::new(None),
        }
    }

    /// Is told of every change.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The record of a segment of which something is kept.
    pub fn record(&self, segment: SegmentSeq) -> Option<SignedRecord> {
        self.keep()?.record(segment).cloned()
    }

    /// Records of all segments of which something is kept, the oldest first.
    pub fn records(&self) -> Vec<SignedRecord> {
        self.keep().map(|keep| keep.records().cloned().collect()).unwrap_or_default()
    }

    /// Whether all of a segment is here.
    pub fn is_whole(&self, segment: SegmentSeq) -> bool {
        self.keep().is_some_and(|keep| keep.is_whole(segment))
    }

    /// Whether a piece is here.
    pub fn has(&self, piece: PieceId) -> bool {
        self.keep().is_some_and(|keep| keep.has(piece))
    }

    /// What neighbours have of a segment that a reader wants, as of half a second ago; none if that was not asked yet.
    pub fn elsewhere(&self, segment: SegmentSeq) -> Option<Elsewhere> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner).get(&segment).copied()
    }

    /// A verified piece's bytes, of a finished segment or of one on air that has left the live window. Reads from the disk.
    pub async fn read_in_background(self: &Arc<Self>, piece: PieceId) -> Option<Bytes> {
        let archive = Arc::clone(self);
        let read = move || {
            let mut keep = archive.keep()?;
            keep.piece(piece).or_else(|| keep.open_piece(piece))
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// At most `most` bytes of a verified piece from `offset` on; nothing at its end. Reads from the disk.
    pub async fn read_some_in_background(
        self: &Arc<Self>,
        piece: PieceId,
        offset: u32,
        most: u32,
    ) -> Option<Bytes> {
        let archive = Arc::clone(self);
        let read = move || archive.keep()?.some(piece, offset, most);
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// The oldest segment that is kept as a whole.
    pub(super) fn watch_oldest(&self) -> watch::Receiver<Option<SegmentSeq>> {
        self.oldest.subscribe()
    }

    pub(super) fn note_head(&self, head: &Head) {
        let Some(mut keep) = self.keep() else { return };
        for (_, id, piece) in head.iter() {
            keep.note_head(id, piece.hash, piece.len);
        }
    }

    /// A segment's record is known.
    pub(super) fn seal(&self, record: &SignedRecord) {
        if let Some(mut keep) = self.keep()
            && !keep.seal(record)
        {
            tracing::debug!("segment {} is not kept: hashes of some of its pieces are not known", record.seq);
        }
    }

    /// Somebody else has finished a segment in the folder that is read.
    pub(super) fn note_finished(&self, record: &SignedRecord) {
        if let Some(mut keep) = self.keep() {
            keep.note_finished(record);
        }
    }

    /// Somebody else has removed a segment there.
    pub(super) fn note_removed(&self, segment: SegmentSeq) {
        if let Some(mut keep) = self.keep() {
            keep.note_removed(segment);
        }
    }

    /// Record and hashes of a segment, from elsewhere than a neighbour.
    pub(super) fn learn(&self, record: &SignedRecord, hashes: &[u8]) {
        if let Some(mut keep) = self.keep() {
            keep.learn(record.seq, PieceIndex(0), &record.encode(), hashes);
        }
    }

    /// A piece from elsewhere than a neighbour. False if it is not right, or cannot be kept.
    pub(super) fn put(&self, piece: PieceId, bytes: &Bytes) -> bool {
        self.keep().is_some_and(|mut keep| keep.put(piece, bytes) == Put::Kept)
    }

    /// What readers are at.
    pub(super) fn need(&self, segments: impl IntoIterator<Item = SegmentSeq>) {
        if let Some(mut keep) = self.keep() {
            keep.need(segments);
        }
    }

    pub(super) fn note_holders(&self, holders: HashMap<SegmentSeq, Elsewhere>) {
        *self.holders.lock().unwrap_or_else(PoisonError::into_inner) = holders;
        self.changed.send_replace(());
    }

    /// A piece of a finished segment has come.
    pub(super) fn note_held(&self) {
        self.changed.send_replace(());
    }

    /// What the session is to be told of what has changed.
    pub(super) fn take_events(&self) -> Vec<Event> {
        let Some(mut keep) = self.keep() else { return Vec::new() };
        let mut events = Vec::new();
        while let Some(change) = keep.take_change() {
            match change {
                Change::Keeps(record, map) => {
                    if let Some(shape) = shape(&record) {
                        events.push(Event::Keeps { segment: record.seq, shape, map });
                    }
                }
                Change::Forgets(segment) => events.push(Event::Forgets(segment)),
            }
        }
        if !events.is_empty() {
            let whole = keep.records().map(|record| record.seq).find(|segment| keep.is_whole(*segment));
            drop(keep);
            self.oldest.send_if_modified(|oldest| std::mem::replace(oldest, whole) != whole);
            self.changed.send_replace(());
        }
        events
    }

    fn keep(&self) -> Option<MutexGuard<'_, Keep>> {
        // Each change in it is whole by itself.
        self.keep.as_ref().map(|keep| keep.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How a segment is cut.
fn shape(record: &SignedRecord) -> Option<Shape> {
    Shape::new(record.length, record.piece_length.get())
}

/// Everything that a session stores: the live window, and finished minutes.
pub(super) struct Stored<'a> {
    pub window: &'a LiveWindow,
    pub archive: &'a Archive,
}

impl Pieces for Stored<'_> {
    fn keep(&mut self, piece: &PieceRef, data: &Bytes) -> std::io::Result<()> {
        self.window.keep(piece.serial, data)?;
        if let Some(mut keep) = self.archive.keep() {
            keep.put_live(piece.id, piece.hash, data);
        }
        Ok(())
    }

    fn part(&mut self, block: &Block) -> Option<Bytes> {
        self.window.read_part(block.serial, block.offset, block.len)
    }

    fn minute(&mut self, segment: SegmentSeq, first: PieceIndex) -> Option<Minute> {
        let (record, hashes) = self.archive.keep()?.minute(segment, first, MAX_HASHES)?;
        Some(Minute { segment, first, record, hashes })
    }

    fn learn(&mut self, minute: &Minute) -> Learned {
        let Some(mut keep) = self.archive.keep() else { return Learned::Nothing };
        match keep.learn(minute.segment, minute.first, &minute.record, &minute.hashes) {
            minuet_store::Learned::More(next) => Learned::More(next),
            minuet_store::Learned::Wrong => Learned::Wrong,
            minuet_store::Learned::NotKept => Learned::Nothing,
            minuet_store::Learned::Whole => {
                keep.record(minute.segment).and_then(shape).map_or(Learned::Nothing, Learned::Whole)
            }
        }
    }

    fn keep_past(&mut self, piece: PieceId, data: &Bytes) -> Verdict {
        match self.archive.keep().map(|mut keep| keep.put(piece, data)) {
            Some(Put::Kept) => Verdict::Good,
            Some(Put::Wrong) => Verdict::Bad,
            Some(Put::NotKept) | None => Verdict::NotKept,
        }
    }

    fn kept_part(&mut self, block: &KeptBlock) -> Option<Bytes> {
        self.archive.keep()?.read(block.piece, block.offset, block.len)
    }
}
