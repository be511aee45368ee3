//! Those who play what was on air before: a reader's clock, and what it has shown.

use std::collections::BTreeMap;

use minuet_mesh::{FIRST_ALONE, Planned, Shape, Timestamp};
use minuet_proto::{PieceId, PieceIndex, SegmentSeq};
use minuet_session::{HORIZON, Outset};
use std::time::Duration;

use crate::engine::{Micros, SECOND};

/// How much media the mesh is told of ahead of the player.
const PLAN: Micros = 60 * SECOND;

/// A player that began with a finished segment.
#[derive(Debug)]
pub struct PastReader {
    shape: Shape,
    /// How long a segment plays.
    segment: Micros,
    began: Micros,
    /// The piece to play next, and when it is due; none before the picture runs.
    next: PieceId,
    due: Option<Micros>,
    /// When the picture may run.
    outset: Outset,
    /// When the picture had to stand still, while it does.
    stands: Option<Micros>,
    /// Pieces that are here and not played, and when they came.
    held: BTreeMap<PieceId, Micros>,
    /// Segments from this one on are not finished yet: nothing more is asked of this reader there.
    end: SegmentSeq,
    /// When its first piece came, and when its picture began.
    pub first_at: Option<Micros>,
    pub began_at: Option<Micros>,
    /// Stalls, and their time.
    pub stalls: u64,
    pub stalled: Micros,
}

impl PastReader {
    /// A reader that wants `segment` from its beginning on, now.
    pub fn new(first: SegmentSeq, end: SegmentSeq, shape: Shape, segment: Micros, now: Micros) -> Self {
        let first = PieceId { segment: first, piece: PieceIndex(0) };
        Self {
            shape,
            segment,
            began: now,
            next: first,
            due: None,
            outset: Outset::default(),
            stands: None,
            held: BTreeMap::new(),
            end,
            first_at: None,
            began_at: None,
            stalls: 0,
            stalled: 0,
        }
    }

    /// The segment that is played.
    pub fn segment(&self) -> SegmentSeq {
        self.next.segment
    }

    /// A reader that goes on with `next`, now; these pieces are here.
    pub fn going_on(
        next: PieceId,
        here: impl Iterator<Item = PieceId>,
        end: SegmentSeq,
        shape: Shape,
        segment: Micros,
        now: Micros,
    ) -> Self {
        let held = here.map(|piece| (piece, now)).collect();
        Self { next, held, ..Self::new(next.segment, end, shape, segment, now) }
    }

    fn piece_time(&self) -> Micros {
        self.segment / u64::from(self.shape.pieces())
    }

    fn after(&self, piece: PieceId) -> PieceId {
        let next = piece.piece.0 + 1;
        if next < self.shape.pieces() {
            PieceId { piece: PieceIndex(next), ..piece }
        } else {
            PieceId { segment: piece.segment.next(), piece: PieceIndex(0) }
        }
    }

    /// Another segment is finished.
    pub fn sealed(&mut self, segment: SegmentSeq) {
        self.end = self.end.max(segment.next());
    }

    /// A piece has come.
    pub fn note(&mut self, piece: PieceId, now: Micros) {
        self.first_at.get_or_insert(now - self.began);
        self.held.insert(piece, now);
        self.play(now);
    }

    /// The pieces ahead, and whether each is here.
    fn ahead(&self) -> impl Iterator<Item = bool> {
        let count = u64::try_from(HORIZON.as_micros()).unwrap_or(0).div_ceil(self.piece_time());
        let pieces = std::iter::successors(Some(self.next), |piece| Some(self.after(*piece)));
        let pieces = pieces.take_while(|piece| piece.segment < self.end);
        pieces.take(usize::try_from(count).unwrap_or(0)).map(|piece| self.held.contains_key(&piece))
    }

    /// Plays on up to `now`.
    pub fn play(&mut self, now: Micros) {
        let time = self.piece_time();
        loop {
            let Some(due) = self.due else {
                let mut outset = std::mem::take(&mut self.outset);
                let runs = outset.look(self.ahead(), Duration::from_micros(time), Duration::from_micros(now));
                self.outset = outset;
                if !runs {
                    return;
                }
                if let Some(since) = self.stands.take() {
                    self.stalled += now - since;
                }
                self.began_at.get_or_insert(now - self.began);
                self.due = Some(now);
                continue;
            };
            if due > now || self.next.segment >= self.end {
                return;
            }
            match self.held.remove(&self.next) {
                Some(_) => {
                    self.due = Some(due + time);
                    self.next = self.after(self.next);
                }
                // A piece that comes at once after it was due has not stopped the picture.
                None if due + time >= now => return,
                None => {
                    self.stalls += 1;
                    self.outset.stand();
                    (self.stands, self.due) = (Some(due), None);
                }
            }
        }
    }

    /// What the picture has stood still for and does at the end of the run.
    pub fn finish(&mut self, now: Micros) {
        self.play(now);
        if let Some(since) = self.stands {
            self.stalled += now - since;
        } else if self.due.is_none() && self.next.segment < self.end {
            // It never began.
            self.stalls += 1;
            self.stalled += now - self.began;
        }
    }

    /// What it needs when.
    pub fn plans(&self, now: Micros) -> Vec<Planned> {
        let due = self.due.unwrap_or(now).max(now);
        let pieces = u64::from(self.shape.pieces());
        let from = (u64::from(self.next.piece.0) * 1_000_000).div_ceil(pieces);
        let left = self.segment * (1_000_000 - from.min(1_000_000)) / 1_000_000;
        let span = Duration::from_micros(self.segment);
        let plan = |segment, from: u64, due| Planned {
            segment,
            from: u32::try_from(from).unwrap_or(1_000_000),
            due: Timestamp(due),
            span,
        };
        if self.first_at.is_none() {
            // Before anything else the piece that the player begins with.
            let first = Planned { span: FIRST_ALONE, ..plan(self.next.segment, from, due) };
            return vec![first];
        }
        let mut plans = vec![plan(self.next.segment, from, due)];
        let (mut segment, mut planned) = (self.next.segment.next(), left);
        while planned < PLAN {
            plans.push(plan(segment, 0, due + planned));
            (segment, planned) = (segment.next(), planned + self.segment);
        }
        plans.retain(|plan| plan.segment < self.end);
        plans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_waits_for_what_is_late_and_counts_it() {
        let shape = Shape::new(1000, 10).unwrap();
        let mut reader = PastReader::new(SegmentSeq(3), SegmentSeq(4), shape, 10 * SECOND, 0);
        let piece = |piece| PieceId { segment: SegmentSeq(3), piece: PieceIndex(piece) };
        reader.note(piece(0), SECOND);
        assert_eq!((reader.first_at, reader.due), (Some(SECOND), None));
        // The rest but for one comes at once.
        (1..100).filter(|index| *index != 40).for_each(|index| reader.note(piece(index), 2 * SECOND));
        assert_eq!((reader.stalls, reader.began_at), (0, Some(2 * SECOND)));
        reader.play(7 * SECOND);
        assert_eq!((reader.stalls, reader.stands), (1, Some(6 * SECOND)));
        reader.note(piece(40), 8 * SECOND);
        assert_eq!(
            (reader.stalls, reader.stalled, reader.due),
            (1, 2 * SECOND, Some(8 * SECOND + SECOND / 10))
        );
        let plans = reader.plans(8 * SECOND);
        assert_eq!(plans.iter().map(|plan| (plan.segment.0, plan.from)).collect::<Vec<_>>(), [(3, 410_000)]);
        reader.finish(20 * SECOND);
        assert_eq!(reader.stalls, 1);
    }
}
