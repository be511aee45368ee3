//! Heads: which pieces exist, under the source's signature.
//!
//! Rules:
//! 1. A node checks a head's signature once. A head that it knows byte for byte already costs it a comparison.
//! 2. A head goes ahead of its piece on the same link. A node also tells a new head to [`GOSSIP`] more neighbours at once, so
//!    the edge is known faster than pieces travel. Flooding all links would cost more than all other control traffic
//!    together.
//! 3. A forged head bans its sender. A head that contradicts an earlier one is the source's equivocation: the first one
//!    stands, the driver is told, nothing is passed on, and the neighbour that brought it is not blamed.
//! 4. Heads older than the window are neither checked nor kept.

use std::sync::Arc;
use std::time::Duration;

use minuet_proto::mesh::{Head, HeadPiece, Message, Serial, SignedHead};
use rand::seq::IteratorRandom;

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::stream::window::Named;
use crate::trust::flood::price;
use crate::{HangUpReason, Input, Output, PieceRef, Role, Timestamp};

/// Neighbours that a new head is told to unasked.
const GOSSIP: usize = 2;
/// A head this far behind the edge is history: it is not told to anybody who does not ask.
const HISTORY: u64 = 32;
/// Most heads in answer to one [`Message::GetHeads`].
pub(crate) const MAX_HEADS_ASKED: u32 = 1024;

/// What became of a head.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Verdict {
    New,
    Known,
    Ignored,
    Forged,
}

impl Node {
    pub(crate) fn on_head(&mut self, from: Option<Slab>, signed: SignedHead, now: Timestamp) {
        let head = Head::decode(&signed.body);
        let verdict = match &head {
            Ok(head) => self.judge(head, &signed),
            Err(_) => Verdict::Forged,
        };
        match (verdict, head) {
            (Verdict::Forged, _) => {
                if let Some(from) = from {
                    self.hang_up(from, HangUpReason::BadHead, true, now);
                }
                return;
            }
            (Verdict::New, Ok(head)) => self.take_head(head, signed.clone(), from, now),
            (Verdict::Known | Verdict::Ignored, _) => {
                if let Some(from) = from {
                    self.charge_flood(from, price::KNOWN_HEAD, now);
                }
            }
            (Verdict::New, Err(_)) => {}
        }
        if let (Some(from), Ok(head)) = (from, Head::decode(&signed.body))
            && let Some(neighbour) = self.neighbours.get_mut(from)
        {
            for (serial, ..) in head.iter().filter(|(s, ..)| self.window.contains(s.get())) {
                neighbour.knows.set(serial.get());
            }
        }
    }

    fn judge(&mut self, head: &Head, signed: &SignedHead) -> Verdict {
        let end = head.end().get();
        if self.window.anchored() && end <= self.window.base() {
            return Verdict::Ignored;
        }
        let same = |named: &Named| named.head.body == signed.body;
        let named: Vec<_> =
            head.iter().filter_map(|(serial, ..)| Some((serial, self.window.named(serial.get())?))).collect();
        let inside = head.iter().filter(|(s, ..)| s.get() >= self.window.base()).count();
        if named.len() == inside && named.iter().all(|(_, k)| same(k)) {
            return Verdict::Known;
        }
        if !self.config.key.verify(&SignedHead::signed_bytes(&signed.body), &signed.signature) {
            return Verdict::Forged;
        }
        let contradicts = head.iter().find(|(serial, id, piece)| {
            self.window
                .named(serial.get())
                .is_some_and(|k| (k.piece.id, k.piece.hash, k.piece.len) != (*id, piece.hash, piece.len))
        });
        if let Some((serial, ..)) = contradicts {
            self.out.push_back(Output::Equivocation { serial });
            return Verdict::Ignored;
        }
        Verdict::New
    }

    /// Takes in a verified head.
    fn take_head(&mut self, head: Head, signed: SignedHead, from: Option<Slab>, now: Timestamp) {
        let end = head.end().get();
        self.slide_window(self.window.base_for(end));
        if self.first_head_at.is_none() {
            self.first_head_at = Some(now);
        }
        let signed = Arc::new(signed);
        for (serial, id, piece) in head.iter() {
            if !self.window.contains(serial.get()) || self.window.named(serial.get()).is_some() {
                continue;
            }
            let HeadPiece { hash, len, ingest_ms, random_access } = *piece;
            let slot = self.window.slot_mut(serial.get());
            if slot.since == Timestamp::ZERO {
                slot.since = now;
            }
            slot.named = Some(Box::new(Named {
                piece: PieceRef { serial, id, len, hash, ingest_ms },
                random_access,
                head: signed.clone(),
            }));
        }
        if end > self.window.edge() {
            self.edge_at = now;
        }
        self.window.raise_edge(end);
        if end.saturating_add(HISTORY) > self.window.edge() {
            self.gossip(&head, &signed, from, now);
        }
        self.out.push_back(Output::Head { head, signed });
        if from.is_some() {
            // Answers come newest first; what the driver brings may not, so that waits for a neighbour's bitmap.
            self.try_start(now);
        }
        self.extend_wanted(now);
    }

    fn gossip(&mut self, head: &Head, signed: &SignedHead, from: Option<Slab>, now: Timestamp) {
        let last = head.end().minus(1).get();
        let mut targets = [0; GOSSIP];
        let found = self
            .neighbours
            .iter()
            .filter(|(slab, n)| n.greeted && Some(*slab) != from && !n.flags.source && !n.knows_head(last))
            .map(|(slab, _)| slab)
            .sample_fill(&mut self.rng, &mut targets);
        for to in targets.into_iter().take(found) {
            if let Some(neighbour) = self.neighbours.get_mut(to) {
                for (serial, ..) in head.iter().filter(|(s, ..)| self.window.contains(s.get())) {
                    neighbour.knows.set(serial.get());
                }
            }
            self.send(to, Message::Head(signed.clone()), now);
        }
    }

    /// Source: signs a head for a piece that has just closed.
    pub(crate) fn on_piece_closed(&mut self, closed: Input, now: Timestamp) {
        let Input::PieceClosed { piece, random_access } = closed else { return };
        let PieceRef { serial, id, len, hash, ingest_ms } = piece;
        if self.role != Role::Source || serial < self.next_serial {
            return;
        }
        self.next_serial = serial.next();
        let piece = HeadPiece { hash, len, ingest_ms, random_access };
        let head = Head { first: serial, segment: id.segment, first_index: id.piece, pieces: vec![piece] };
        let body = head.encode();
        let signature = self.config.key.sign(&SignedHead::signed_bytes(&body));
        self.take_head(head, SignedHead { body, signature }, None, now);
        if self.window.named(serial.get()).is_none() {
            // Another source of this channel is far ahead: nobody has a place for this piece.
            return;
        }
        self.window.held.set(serial.get());
        if self.config.source_pushes {
            self.push.note_fresh(serial.get(), now, self.role);
        }
        let nobody = !self.neighbours.iter().any(|(_, n)| n.greeted && !n.closing && !n.flags.elsewhere);
        if nobody || !self.config.source_pushes {
            // What closes before anybody is there may be asked for at once. It is pushed, too, if somebody comes soon:
            // else the first viewers would all ask the source for the first pieces. Pushed later, it would be old.
            self.push.forget_old(&self.tempo, now);
            self.promise(serial, None, now);
        }
        self.pump(now);
    }

    /// A neighbour wants heads: newest first, so that it finds the edge and its start at once.
    pub(crate) fn on_get_heads(&mut self, from: Slab, first: Serial, count: u32, now: Timestamp) {
        let count = count.min(MAX_HEADS_ASKED);
        let start = first.get().max(self.window.base());
        let end = first.get().saturating_add(count.into()).min(self.window.edge());
        let mut last: Option<Arc<SignedHead>> = None;
        for serial in (start..end).rev() {
            let Some(named) = self.window.named(serial) else { continue };
            let head = named.head.clone();
            if last.as_ref().is_some_and(|l| Arc::ptr_eq(l, &head)) {
                continue;
            }
            // Before it is sent: what is asked for and not paid for costs this node nothing.
            if self.charge_flood(from, price::HEAD_ASKED, now) {
                return;
            }
            if let Some(neighbour) = self.neighbours.get_mut(from) {
                neighbour.knows.set(serial);
            }
            self.send(from, Message::Head((*head).clone()), now);
            last = Some(head);
        }
    }

    /// Asks for heads that have not come although neighbours have had their pieces for a while: without them the
    /// pieces can be neither verified nor known to be due.
    pub(crate) fn ask_missing_heads(&mut self, now: Timestamp) {
        /// Heads go ahead of their pieces, and a piece takes a second to everyone. A node that plays nothing can wait longer.
        const MISSING_AFTER: Duration = Duration::from_millis(400);
        /// Where a whole minute appears at once, most heads come with their pieces: no need to ask for all.
        const MAX_MISSING: u64 = 16;
        let after = self.tempo.time(if self.role == Role::Viewer {
            MISSING_AFTER
        } else {
            MISSING_AFTER.saturating_mul(25)
        });
        let missing = |serial: &u64| {
            let slot = self.window.slot(*serial);
            slot.named.is_none() && self.exchange.copies(*serial) > 0 && slot.since + after < now
        };
        let (from, to) = (self.window.base(), self.window.edge());
        let Some(first) = self.exchange.wanted().iter(from, to).find(missing) else { return };
        let last = self.exchange.wanted().iter(first, to).filter(missing).last().unwrap_or(first);
        let holders =
            self.neighbours.iter().filter(|(_, n)| n.side.has(first) && !n.quiet(self.quiet_after, now));
        let holder = holders.map(|(slab, _)| slab).choose(&mut self.rng);
        if let Some(holder) = holder {
            self.ask_heads(holder, first, last.saturating_add(1).min(first.saturating_add(MAX_MISSING)), now);
        }
    }

    /// Asks `of` for the heads that a newcomer needs, or those that are missing before the edge.
    pub(crate) fn ask_heads(&mut self, of: Slab, first: u64, end: u64, now: Timestamp) {
        /// Not again before this time.
        const PAUSE: Duration = Duration::from_millis(500);
        if first >= end || self.heads_asked_at.is_some_and(|at| at + PAUSE > now) {
            return;
        }
        self.heads_asked_at = Some(now);
        let count = end.saturating_sub(first).min(MAX_HEADS_ASKED.into()) as u32;
        let first = Serial::new(end).minus(count.into());
        self.send(of, Message::GetHeads { first, count }, now);
    }
}
