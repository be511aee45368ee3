//! Sending pieces of finished segments.
//!
//! Rules:
//! 1. A block of a finished segment goes out when nothing of the live edge waits (`pump.rs`).
//! 2. One piece at a time, at full rate. The piece that a reader begins with goes first, one for each neighbour in [`AGAIN`]: it
//!    waits for that alone. Then what this node has not sent for [`AGAIN`]: whoever got it passes it on. Then what readers need
//!    within [`SOON`], in the order in which it was asked for; then the rest, the earliest due first.
//! 3. At most [`MAX_WAITING_OF`] requests of a neighbour wait, and [`MAX_WAITING`] in all, none longer than [`HOLD`]. Beyond
//!    that they are turned away, so that their senders ask somebody else.

use std::collections::VecDeque;
use std::time::Duration;

use minuet_proto::PieceId;
use minuet_proto::mesh::{Kept, KeptBlock, Message};
use smallvec::SmallVec;

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::{LinkId, Timestamp};

/// Requests of one neighbour that wait, and of all.
const MAX_WAITING_OF: usize = 2;
const MAX_WAITING: usize = 8;
/// How long a request may wait.
const HOLD: Duration = Duration::from_millis(1500);
/// What was sent so long ago may be sent again as if it had not been.
const AGAIN: Duration = Duration::from_secs(3);
/// Pieces that are remembered as sent.
const MAX_GIVEN: usize = 128;
/// What is needed within this time goes before the rest.
const SOON: Duration = Duration::from_secs(3);

/// When a piece is due, in milliseconds, that a reader begins with: it has nothing yet. All others are due later.
pub(crate) const FIRST: u32 = 1;

/// A piece that a neighbour asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeptWant {
    piece: PieceId,
    is_first: bool,
    since: Timestamp,
    due: Option<Timestamp>,
    sent: u32,
}

impl KeptWant {
    /// What is served first: the least.
    fn rank(&self, given: &Given, now: Timestamp) -> (bool, bool, bool, Timestamp) {
        let again = !self.is_first && given.has(self.piece, now);
        match self.due {
            Some(due) if due > now + SOON => (!self.is_first, again, true, due),
            Some(_) => (!self.is_first, again, false, self.since),
            None => (!self.is_first, again, true, Timestamp(u64::MAX)),
        }
    }
}

/// Pieces that were sent of late, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Given(VecDeque<(PieceId, Timestamp)>);

impl Given {
    fn note(&mut self, piece: PieceId, now: Timestamp) {
        while self.0.len() >= MAX_GIVEN || self.0.front().is_some_and(|(_, at)| *at + AGAIN < now) {
            self.0.pop_front();
        }
        self.0.push_back((piece, now));
    }

    fn has(&self, piece: PieceId, now: Timestamp) -> bool {
        self.0.iter().any(|(given, at)| *given == piece && *at + AGAIN >= now)
    }
}

impl Node {
    pub(crate) fn on_kept_request(&mut self, from: Slab, piece: PieceId, due_in_ms: u32, now: Timestamp) {
        let has = self.config.upload && self.past.has(piece);
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.requests = neighbour.requests.saturating_add(1);
        let wants = &mut neighbour.kept.wants;
        let due = (due_in_ms > 0).then(|| now + Duration::from_millis(due_in_ms.into()));
        if let Some(want) = wants.iter_mut().find(|want| want.piece == piece) {
            want.due = due;
            return;
        }
        if !has || wants.len() >= MAX_WAITING_OF {
            return self.send(from, Message::Kept(Kept::Reject { piece, has }), now);
        }
        let is_first = due_in_ms == FIRST && neighbour.kept.first_after <= now;
        if is_first {
            neighbour.kept.first_after = now + AGAIN;
        }
        neighbour.kept.wants.push(KeptWant { piece, is_first, since: now, due, sent: 0 });
        let given = &self.past.given;
        let waiting = self.neighbours.iter().flat_map(|(slab, n)| {
            let wants = n.kept.wants.iter().filter(|want| want.sent == 0);
            wants.map(move |want| (want.rank(given, now), slab, want.piece))
        });
        let waiting: SmallVec<[_; 16]> = waiting.collect();
        if waiting.len() > MAX_WAITING
            && let Some((_, slab, piece)) = waiting.into_iter().max_by_key(|(rank, ..)| *rank)
        {
            self.turn_away(slab, piece, now);
        }
        self.pump(now);
    }

    fn turn_away(&mut self, slab: Slab, piece: PieceId, now: Timestamp) {
        if let Some(neighbour) = self.neighbours.get_mut(slab) {
            neighbour.kept.wants.retain(|want| want.piece != piece);
        }
        self.send(slab, Message::Kept(Kept::Reject { piece, has: true }), now);
    }

    /// Turns away what has waited too long.
    pub(crate) fn turn_away_kept(&mut self, now: Timestamp) {
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get(slab) else { continue };
            let waited = neighbour.kept.wants.iter().filter(|want| want.sent == 0 && want.since + HOLD < now);
            let waited: SmallVec<[PieceId; 2]> = waited.map(|want| want.piece).collect();
            waited.into_iter().for_each(|piece| self.turn_away(slab, piece, now));
        }
    }

    /// The host cannot read a piece that it seemed to keep.
    pub(crate) fn on_kept_lost(&mut self, link: LinkId, piece: PieceId, bytes: u64, now: Timestamp) {
        self.past.lose(piece);
        let Some(slab) = self.neighbours.find(link) else { return };
        if let Some(neighbour) = self.neighbours.get_mut(slab) {
            neighbour.undrained = neighbour.undrained.saturating_sub(bytes);
            neighbour.kept.wants.retain(|want| want.piece != piece);
        }
        self.send(slab, Message::Kept(Kept::Reject { piece, has: false }), now);
    }

    pub(crate) fn on_kept_cancel(&mut self, from: Slab, piece: PieceId) {
        if let Some(neighbour) = self.neighbours.get_mut(from) {
            neighbour.kept.wants.retain(|want| want.piece != piece);
        }
    }

    /// To whom to send a block of which piece, if anybody waits for one.
    pub(crate) fn choose_kept_send(&self, now: Timestamp) -> Option<(Slab, PieceId)> {
        let open = self.neighbours.iter().filter(|(_, n)| !n.closing && !n.is_congested());
        let wants = open.flat_map(|(slab, n)| n.kept.wants.iter().map(move |want| (slab, want)));
        let first = wants.min_by_key(|(_, want)| (want.sent == 0, want.rank(&self.past.given, now)));
        first.map(|(slab, want)| (slab, want.piece))
    }

    pub(crate) fn send_kept_block(&mut self, to: Slab, piece: PieceId, block_len: u32, now: Timestamp) {
        let piece_len = self.past.len_of(piece).filter(|_| self.past.has(piece));
        let Some(piece_len) = piece_len else {
            // The host has let it go meanwhile. A receiver that has a part of it finds out when the piece's time ends.
            if let Some(neighbour) = self.neighbours.get_mut(to) {
                neighbour.kept.wants.retain(|want| want.piece != piece);
            }
            return self.send(to, Message::Kept(Kept::Reject { piece, has: false }), now);
        };
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        let Some(index) = neighbour.kept.wants.iter().position(|want| want.piece == piece) else { return };
        neighbour.block_at = now;
        let want = &mut neighbour.kept.wants[index];
        let offset = want.sent;
        if offset == 0 {
            self.past.given.note(piece, now);
        }
        let len = block_len.min(piece_len.saturating_sub(offset));
        want.sent = offset.saturating_add(len);
        if want.sent >= piece_len {
            neighbour.kept.wants.swap_remove(index);
            neighbour.given = neighbour.given.saturating_add(piece_len.into());
            neighbour.given_lately += piece_len as f32;
        }
        self.stats.kept_given = self.stats.kept_given.saturating_add(len.into());
        self.put_on_link(to, Message::Kept(Kept::Block(KeptBlock { piece, offset, len, piece_len })), now);
    }
}
