//! Viewers whose players pause: their nodes stay at the live edge and keep what comes, and the players go on where they stood.

use bytes::Bytes;
use minuet_mesh::{Shape, Timestamp};
use minuet_proto::{SegmentSeq, mesh::Serial};
use minuet_session::{Event, ReaderId};

use super::{
    member::Member,
    past::PastReader,
    shard::{PLAYER, Shard},
};
use crate::engine::{MILLISECOND, NodeId, SECOND};

/// Holds a node at the live edge.
const EDGE: ReaderId = ReaderId(1);
/// What is told of the piece that a paused player takes next, and of the newest, which nobody plays yet.
const REPRIEVE: u64 = 400 * MILLISECOND;
const CALM: u64 = 4 * SECOND;

impl Member {
    /// What came of a segment at the live edge; none: all of it.
    pub fn map_of(&self, segment: SegmentSeq, shape: Shape) -> Option<Bytes> {
        let mut bits = vec![0; (shape.pieces() as usize).div_ceil(8)];
        let mut count = 0;
        for piece in self.has.values().filter(|piece| piece.segment == segment) {
            bits[piece.piece.0 as usize / 8] |= 0x80 >> (piece.piece.0 % 8);
            count += 1;
        }
        (count < shape.pieces()).then(|| bits.into())
    }
}

impl Shard<'_> {
    /// A player pauses, or goes on.
    pub(super) fn pause_or_go_on(&mut self, id: NodeId) {
        let now = self.net.now();
        let Some((_, length)) = self.member(id).life.pause else { return };
        match self.member(id).paused {
            None => {
                let next = self.audience.playhead(id, now).map(|(position, _)| self.serial(position));
                self.audience.leave(id, now);
                let member = self.member(id);
                member.paused = next;
                // One that does not play has nothing to pause.
                member.pause_at = next.map(|_| now + length);
            }
            Some(next) => {
                let segment = self.scenario.stream.segment;
                let end = SegmentSeq(self.finished.map_or(0, |newest| newest.0 + 1));
                let Some(shape) = self.media.shape else { return };
                let member = self.member(id);
                member.pause_at = None;
                let here = member.has.range(next..).map(|(_, piece)| *piece);
                let Some(first) = here.clone().next() else { return };
                member.past = Some(PastReader::going_on(first, here, end, shape, segment, now));
                member.past_at = Some(now);
                self.feed(id, Event::LeftEdge(PLAYER));
            }
        }
    }

    /// Where a paused player stands, or, once it goes on, that nobody is in a hurry at the live edge.
    pub(super) fn tell_paused(&mut self, id: NodeId, next: Serial) {
        let now = self.net.now();
        let newest = self.member(id).has.keys().next_back().copied().unwrap_or(next);
        let event = match self.member(id).past {
            None => Event::Playhead { reader: PLAYER, next, due: Timestamp(now + REPRIEVE) },
            Some(_) => Event::Playhead { reader: EDGE, next: newest, due: Timestamp(now + CALM) },
        };
        self.feed(id, event);
    }
}
