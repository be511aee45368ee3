//! What is here of finished segments, and what is wanted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minuet_proto::mesh::{KeptMap, MAX_PIECE_LEN, MAX_RANGES, MAX_SEGMENT_PIECES, NodeId, Ranges};
use minuet_proto::{PieceId, PieceIndex, SegmentSeq};
use smallvec::SmallVec;

use crate::Timestamp;
use crate::past::serve::Given;

/// Segments that are kept account of: a day of the shortest ones. The oldest give way.
const MAX_SEGMENTS: usize = 16_384;
/// Segments that readers may want at a time.
pub(crate) const MAX_PLANNED: usize = 12;

/// How a segment is cut into pieces, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    length: u64,
    piece_len: u32,
}

impl Shape {
    /// The shape of a file of `length` bytes in pieces of `piece_len` bytes; none if no segment has such a one.
    pub fn new(length: u64, piece_len: u32) -> Option<Self> {
        let fits = piece_len > 0
            && piece_len <= MAX_PIECE_LEN
            && length > 0
            && length.div_ceil(piece_len.into()) <= MAX_SEGMENT_PIECES.into();
        fits.then_some(Self { length, piece_len })
    }

    /// Number of pieces.
    pub fn pieces(self) -> u32 {
        // At most `MAX_SEGMENT_PIECES`.
        u32::try_from(self.length.div_ceil(u64::from(self.piece_len).max(1))).unwrap_or(u32::MAX)
    }

    /// Length of a piece in bytes; 0 beyond the last.
    pub fn len_of(self, piece: PieceIndex) -> u32 {
        let left = self.length.saturating_sub(self.offset_of(piece));
        u32::try_from(left.min(self.piece_len.into())).unwrap_or(u32::MAX)
    }

    /// Where a piece begins in its segment's file, in bytes.
    pub fn offset_of(self, piece: PieceIndex) -> u64 {
        u64::from(piece.0).saturating_mul(self.piece_len.into())
    }
}

/// Pieces of one segment as a bitmap, as on the wire.
#[derive(Debug, Clone, Default)]
pub(crate) struct Map(BytesMut);

impl Map {
    pub fn of(bits: &[u8]) -> Self {
        Self(BytesMut::from(bits))
    }

    pub fn get(&self, piece: u32) -> bool {
        self.0.get(piece as usize / 8).is_some_and(|byte| byte & bit(piece) != 0)
    }

    /// Grows as needed, up to the most pieces that a segment has.
    pub fn set(&mut self, piece: u32) {
        if piece >= MAX_SEGMENT_PIECES {
            return;
        }
        let byte = piece as usize / 8;
        if self.0.len() <= byte {
            self.0.resize(byte.saturating_add(1), 0);
        }
        self.0[byte] |= bit(piece);
    }

    pub fn clear(&mut self, piece: u32) {
        if let Some(byte) = self.0.get_mut(piece as usize / 8) {
            *byte &= !bit(piece);
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    fn has_all(&self, pieces: u32) -> bool {
        (0..pieces).all(|piece| self.get(piece))
    }

    pub fn to_bytes(&self) -> Bytes {
        self.0.clone().freeze()
    }
}

fn bit(piece: u32) -> u8 {
    0x80 >> (piece % 8)
}

/// What is here of a segment.
#[derive(Debug)]
pub(crate) struct Minute {
    pub shape: Shape,
    /// None: all of it.
    pub map: Option<Map>,
}

impl Minute {
    pub fn has(&self, piece: u32) -> bool {
        match &self.map {
            Some(map) => map.get(piece),
            None => piece < self.shape.pieces(),
        }
    }
}

/// In place of the time that a segment plays: only its first piece is wanted, at once, for a reader that has nothing yet.
pub const FIRST_ALONE: Duration = Duration::MAX;

/// A segment that readers want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The segment.
    pub segment: SegmentSeq,
    /// Part of its media that is not wanted any more, from its beginning on, in millionths.
    pub from: u32,
    /// When what follows that part is due.
    pub due: Timestamp,
    /// How long all of the segment plays, or [`FIRST_ALONE`].
    pub span: Duration,
}

impl Planned {
    /// The first piece that is wanted.
    pub fn first(&self, shape: Shape) -> u32 {
        let first = u64::from(shape.pieces()).saturating_mul(self.from.into()) / 1_000_000;
        u32::try_from(first).unwrap_or(u32::MAX)
    }

    /// The pieces that are wanted.
    pub fn pieces(&self, shape: Shape) -> Range<u32> {
        let first = self.first(shape);
        let end = if self.span == FIRST_ALONE { first.saturating_add(1) } else { u32::MAX };
        first..shape.pieces().min(end)
    }

    /// When a piece is due.
    pub fn due(&self, piece: u32, shape: Shape) -> Timestamp {
        let after = u64::from(piece.saturating_sub(self.first(shape)));
        let span_us = u64::try_from(self.span.as_micros()).unwrap_or(u64::MAX);
        let pieces = u64::from(shape.pieces());
        self.due + Duration::from_micros(span_us.saturating_mul(after).checked_div(pieces).unwrap_or(0))
    }
}

/// A wanted segment at work.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub segment: SegmentSeq,
    /// What each reader needs of it, the earliest due first.
    pub plans: SmallVec<[Planned; 1]>,
    /// Since when it is wanted.
    pub since: Timestamp,
    /// Of whom its hashes were asked, the last one last, and when that was. An answer of any of them counts.
    pub learning: SmallVec<[NodeId; 2]>,
    pub learning_since: Timestamp,
    /// How many neighbours are asked for each piece; no entry where none is.
    pub asked: BTreeMap<u32, u8>,
    /// Pieces that the host is hashing.
    pub verifying: SmallVec<[u32; 4]>,
}

impl Wanted {
    /// The pieces that are due before `until`, and when. One that several readers need comes several times.
    pub fn due_before(&self, until: Timestamp, shape: Shape) -> impl Iterator<Item = (u32, Timestamp)> + '_ {
        self.plans.iter().flat_map(move |plan| {
            let pieces = plan.pieces(shape).map(move |piece| (piece, plan.due(piece, shape)));
            pieces.take_while(move |(_, due)| *due <= until)
        })
    }

    /// Whether a reader that has nothing yet waits for a piece.
    pub fn is_first(&self, piece: u32, shape: Shape) -> bool {
        self.plans.iter().any(|plan| plan.span == FIRST_ALONE && plan.first(shape) == piece)
    }
}

/// All that concerns finished segments at this node.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub minutes: BTreeMap<u64, Minute>,
    /// What readers want, the earliest due first.
    pub wanted: Vec<Wanted>,
    /// Pieces that the host is hashing, and who sent them.
    pub verifying: Vec<(PieceId, NodeId)>,
    /// Pieces that were sent of late.
    pub given: Given,
    /// Pieces that came and that others are to be told of.
    pub untold: Vec<PieceId>,
    /// The whole segments have changed since neighbours were told.
    pub changed: bool,
    pub tell_at: Timestamp,
    /// When all neighbours were asked.
    pub all_asked: Timestamp,
    /// The host could not keep a piece: nothing is asked for before this time.
    pub stopped_until: Timestamp,
}

impl Past {
    /// Notes what the host keeps of a segment.
    pub fn keep(&mut self, segment: SegmentSeq, shape: Shape, map: Option<&[u8]>) {
        let map = map.map(Map::of).filter(|map| !map.has_all(shape.pieces()));
        let before = self.minutes.insert(segment.0, Minute { shape, map });
        let now_whole = self.minutes.get(&segment.0).is_some_and(|minute| minute.map.is_none());
        let was_whole = before.is_some_and(|minute| minute.map.is_none());
        self.changed |= now_whole != was_whole;
        while self.minutes.len() > MAX_SEGMENTS {
            self.minutes.pop_first();
        }
    }

    /// The host does not keep a segment any more.
    pub fn forget(&mut self, segment: SegmentSeq) {
        let gone = self.minutes.remove(&segment.0);
        self.changed |= gone.is_some_and(|minute| minute.map.is_none());
    }

    /// A piece is here.
    pub fn set(&mut self, piece: PieceId) {
        let Some(minute) = self.minutes.get_mut(&piece.segment.0) else { return };
        let Some(map) = &mut minute.map else { return };
        map.set(piece.piece.0);
        if map.has_all(minute.shape.pieces()) {
            minute.map = None;
            self.changed = true;
        }
    }

    /// A piece is not here after all.
    pub fn lose(&mut self, piece: PieceId) {
        let Some(minute) = self.minutes.get_mut(&piece.segment.0) else { return };
        let pieces = minute.shape.pieces();
        let map = minute.map.get_or_insert_with(|| {
            let mut map = Map::default();
            (0..pieces).for_each(|piece| map.set(piece));
            map
        });
        map.clear(piece.piece.0);
        self.changed = true;
    }

    pub fn has(&self, piece: PieceId) -> bool {
        self.minutes.get(&piece.segment.0).is_some_and(|minute| minute.has(piece.piece.0))
    }

    pub fn shape(&self, segment: u64) -> Option<Shape> {
        self.minutes.get(&segment).map(|minute| minute.shape)
    }

    /// Length of a piece that is here or wanted, if that is known.
    pub fn len_of(&self, piece: PieceId) -> Option<u32> {
        self.shape(piece.segment.0).map(|shape| shape.len_of(piece.piece)).filter(|len| *len > 0)
    }

    /// The segments that are here as a whole; the newest, where there are too many ranges.
    pub fn ranges(&self) -> Ranges {
        let mut ranges = Ranges::new();
        let whole = self.minutes.iter().rev().filter(|(_, minute)| minute.map.is_none());
        for (segment, _) in whole {
            let is_full = ranges.len() == MAX_RANGES;
            match ranges.last_mut() {
                Some((first, count)) if segment.checked_add(1) == Some(first.0) => {
                    (*first, *count) = (SegmentSeq(*segment), count.saturating_add(1));
                }
                _ if is_full => break,
                _ => ranges.push((SegmentSeq(*segment), 1)),
            }
        }
        ranges.reverse();
        ranges
    }

    /// What others are told of a segment.
    pub fn map_of(&self, segment: SegmentSeq, wants: bool) -> KeptMap {
        let minute = self.minutes.get(&segment.0);
        let bits = match minute {
            Some(Minute { map: Some(map), .. }) => map.to_bytes(),
            Some(Minute { map: None, shape }) => {
                let mut map = Map::default();
                (0..shape.pieces()).for_each(|piece| map.set(piece));
                map.to_bytes()
            }
            None => Bytes::new(),
        };
        KeptMap { segment, wants, bits }
    }

    pub fn wanted(&self, segment: u64) -> Option<&Wanted> {
        self.wanted.iter().find(|wanted| wanted.segment.0 == segment)
    }

    pub fn wanted_mut(&mut self, segment: u64) -> Option<&mut Wanted> {
        self.wanted.iter_mut().find(|wanted| wanted.segment.0 == segment)
    }

    /// Takes the place of all plans before; gives the segments that are new in it.
    pub fn plan(&mut self, mut plans: Vec<Planned>, now: Timestamp) -> Vec<SegmentSeq> {
        plans.sort_by_key(|plan| plan.due);
        plans.truncate(MAX_PLANNED);
        let mut new = Vec::new();
        let mut before = std::mem::take(&mut self.wanted);
        for plan in plans {
            let segment = plan.segment;
            // Another reader is at it, too.
            if let Some(wanted) = self.wanted_mut(segment.0) {
                wanted.plans.push(plan);
                continue;
            }
            let plans = SmallVec::from_elem(plan, 1);
            let index = before.iter().position(|wanted| wanted.segment == segment);
            match index.map(|index| before.swap_remove(index)) {
                Some(wanted) => self.wanted.push(Wanted { plans, ..wanted }),
                None => {
                    new.push(segment);
                    self.wanted.push(Wanted {
                        segment,
                        plans,
                        since: now,
                        learning: SmallVec::new(),
                        learning_since: Timestamp::ZERO,
                        asked: BTreeMap::new(),
                        verifying: SmallVec::new(),
                    });
                }
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_segments_are_ranges_and_parts_are_not() {
        let mut past = Past::default();
        let shape = Shape::new(100, 10).unwrap();
        for segment in [1, 2, 3, 7, 9, 10] {
            past.keep(SegmentSeq(segment), shape, None);
        }
        past.keep(SegmentSeq(4), shape, Some(&[0xff, 0x80]));
        let ranges = |past: &Past| past.ranges().iter().map(|(first, n)| (first.0, *n)).collect::<Vec<_>>();
        assert_eq!(ranges(&past), [(1, 3), (7, 1), (9, 2)]);
        past.changed = false;
        let last = PieceId { segment: SegmentSeq(4), piece: PieceIndex(9) };
        assert!(!past.has(last));
        past.set(last);
        assert!(past.has(last) && past.changed);
        past.forget(SegmentSeq(2));
        assert_eq!(ranges(&past), [(1, 1), (3, 2), (7, 1), (9, 2)]);
    }

    #[test]
    fn a_shape_that_no_segment_has_is_none() {
        assert!(Shape::new(0, 1).is_none() && Shape::new(1, 0).is_none());
        assert!(Shape::new(u64::MAX, MAX_PIECE_LEN).is_none() && Shape::new(1, u32::MAX).is_none());
        let shape = Shape::new(25, 10).unwrap();
        assert_eq!(shape.pieces(), 3);
        assert_eq!([0, 2, 3, u32::MAX].map(|piece| shape.len_of(PieceIndex(piece))), [10, 5, 0, 0]);
    }

    #[test]
    fn pieces_are_due_in_their_order() {
        let shape = Shape::new(1000, 10).unwrap();
        let second = Duration::from_secs(1);
        let plan =
            Planned { segment: SegmentSeq(1), from: 500_000, due: Timestamp(7_000_000), span: 100 * second };
        assert_eq!(plan.first(shape), 50);
        assert_eq!(plan.due(50, shape), Timestamp(7_000_000));
        assert_eq!(plan.due(52, shape), Timestamp(9_000_000));
    }

    #[test]
    fn two_readers_of_one_segment_both_get_what_they_need() {
        let shape = Shape::new(1000, 10).unwrap();
        let plan = |from, due| Planned {
            segment: SegmentSeq(1),
            from,
            due: Timestamp(due),
            span: Duration::from_secs(100),
        };
        let mut past = Past::default();
        let new = past.plan(vec![plan(200_000, 1_000_000), plan(900_000, 0)], Timestamp(0));
        assert_eq!(new, [SegmentSeq(1)]);
        let due: Vec<(u32, u64)> = past.wanted[0]
            .due_before(Timestamp(2_000_000), shape)
            .map(|(piece, due)| (piece, due.0))
            .collect();
        assert_eq!(due, [(90, 0), (91, 1_000_000), (92, 2_000_000), (20, 1_000_000), (21, 2_000_000)]);
        assert!(past.plan(vec![plan(210_000, 5)], Timestamp(0)).is_empty());
        assert_eq!(past.wanted[0].plans.len(), 1);
    }
}
