//! Blocks that come in, until their piece is held and promised to others.
//!
//! Rules:
//! 1. A piece comes from the neighbour that sends its first block first. The node then cancels the requests that other
//!    holders have not begun to serve, if the sender is known to finish what it begins.
//! 2. From the first block on a piece has an end: [`Pace`] says by when it should be whole and by when it is given up,
//!    however many blocks drip in meanwhile. A neighbour that has broken pieces off may push fewer.
//! 3. The blocks of a piece are copied into one buffer that grows with them, so no block keeps more memory in use than it
//!    has brought.
//! 4. The node answers a useless block with one Cancel, and charges its sender.
//! 5. The node promises a piece as soon as it begins to come: at once if the piece is rare, within [`TELL_WITHIN`] if it is
//!    common. If the sender is not known to finish what it begins, half of the piece must be here first: otherwise a piece
//!    that nobody has would look as if all had it, and the source would not push it again.
//! 6. The node holds a piece once the driver has verified it. It bans the sender of bytes that do not verify.

use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Block, Message, Serial, SerialList};

use crate::exchange::Incoming;
use crate::members::neighbour::{CROSSING, Neighbour, Slab};
use crate::node::Node;
use crate::stream::tempo::Tempo;
use crate::supply::rank::LIVE;
use crate::trust::flood::price;
use crate::{HangUpReason, Output, Role, Timestamp};

/// Pushes that one neighbour may have under way here, less one for each piece that it has broken off of late.
const MAX_PUSHES: u32 = 4;
/// A piece that so many neighbours promise, and one in [`COMMON_AT`], is common.
const COMMON: u16 = 6;
const COMMON_AT: usize = 3;
/// At the nominal pace: how soon, and up to one tick later, neighbours are told of what is common, if they lack it; …
const TELL_WITHIN: Duration = Duration::from_millis(100);
/// … and if they have it.
const TELL_HOLDERS_WITHIN: Duration = Duration::from_millis(400);
/// At no pace are these told later: a source takes a piece for lost that nobody tells it of.
const TELL_LATEST: Duration = Duration::from_secs(1);

/// When a piece that has begun should be whole, and when it is given up: by what its first block left to come, and the
/// rate that was measured on the link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The first block came in.
    pub begun: Timestamp,
    /// A piece that is not whole by then is not counted on: whoever else has it may be asked, or push it.
    pub slow_at: Timestamp,
    /// A piece that is not whole by then is given up.
    pub end_at: Timestamp,
}

impl Pace {
    /// How many times the expected time a piece may take until it counts as slow, and until it is given up, …
    const SLOW: f32 = 2.0;
    const END: f32 = 4.0;
    /// … within these bounds.
    const MIN_SLOW: Duration = Duration::from_millis(200);
    const MAX_SLOW: Duration = Duration::from_millis(800);
    const MIN_END: Duration = Duration::from_millis(800);
    const MAX_END: Duration = Duration::from_secs(4);
    /// How far a piece must be before its rate tells anything.
    const TELLING: Duration = Duration::from_millis(100);

    /// The pace of a piece of which `left` bytes are to come at `rate` bytes a second; the bounds are for the nominal tempo
    /// (`tempo.rs`).
    pub fn new(left: u32, rate: f32, tempo: &Tempo, now: Timestamp) -> Self {
        let within = |factor: f32, least: Duration, most: Duration| {
            let us = (factor * left as f32 / rate.max(1.0) * 1e6).min(1e9);
            now + Duration::from_micros(us as u64).clamp(tempo.time(least), tempo.time(most))
        };
        Self {
            begun: now,
            slow_at: within(Self::SLOW, Self::MIN_SLOW, Self::MAX_SLOW),
            end_at: within(Self::END, Self::MIN_END, Self::MAX_END),
        }
    }

    /// Whether a piece of which `received` of `len` bytes are here will come too late to be counted on: it is slow by now,
    /// or at its rate so far it is not whole when it is due.
    pub fn is_behind(&self, received: u32, len: u32, due: Option<Timestamp>, now: Timestamp) -> bool {
        if now > self.slow_at {
            return true;
        }
        let so_far = now.since(self.begun);
        let Some(due) = due.filter(|_| so_far >= Self::TELLING) else { return false };
        let whole_after = so_far.as_secs_f32() * len as f32 / received.max(1) as f32;
        whole_after > due.since(self.begun).as_secs_f32()
    }
}

impl Node {
    /// A block came in.
    pub(crate) fn on_block(&mut self, from: Slab, block: Block, payload: Bytes, now: Timestamp) {
        let serial = block.serial.get();
        self.stats.payload_received = self.stats.payload_received.saturating_add(block.len.into());
        let is_elsewhere = self.is_elsewhere();
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        // A request may have crossed what it asks for, and is answered by that.
        neighbour.overdue.clear();
        if neighbour.flags.source {
            self.stats.source_received = self.stats.source_received.saturating_add(block.len.into());
        }
        let Some(named) = self.window.named(serial) else {
            return self.waste(from, &block, now);
        };
        if payload.len() != block.len as usize || block.piece_len != named.piece.len {
            return self.hang_up(from, HangUpReason::Protocol, true, now);
        }
        let piece = named.piece;
        if self.window.held.get(serial) || self.exchange.is_verifying(serial) {
            return self.waste(from, &block, now);
        }
        if neighbour.side.of(serial).is_none() {
            // A push, or what was under way when its request was taken back.
            let pushes = neighbour.side.incoming().iter().filter(|i| !i.solicited).count();
            let most = MAX_PUSHES.saturating_sub(neighbour.broken_off) as usize;
            // What is fresh is of use to others, also to one who came too late for it.
            let useful = self.role == Role::Relay
                || !is_elsewhere
                    && (serial.saturating_add(LIVE) > self.window.edge()
                        || self.playback.next.is_none_or(|next| serial >= next));
            let cancelled = neighbour.cancelled(serial, now);
            if cancelled || block.offset > 0 || pushes >= most || !useful || self.coming(serial, now) {
                return self.waste(from, &block, now);
            }
            let Some(neighbour) = self.neighbours.get_mut(from) else { return };
            self.exchange.open(&mut neighbour.side, serial, false, now);
        }
        if block.offset == 0 {
            self.cancel_others(from, serial, now);
        }
        let tempo = self.tempo;
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let rate = neighbour.rate_of_pieces(&tempo);
        let Some(incoming) = neighbour.side.of_mut(serial) else { return };
        if incoming.received() != block.offset {
            // Left over from a request that was taken back and made again: the new one starts at zero.
            return self.waste(from, &block, now);
        }
        incoming.heard = now;
        incoming.data.extend_from_slice(&payload);
        let whole = incoming.received() >= piece.len;
        if incoming.pace.is_none() {
            incoming.pace = Some(Pace::new(piece.len.saturating_sub(block.len), rate, &tempo, now));
        }
        let expected =
            neighbour.side.of(serial).is_some_and(|incoming| neighbour.will_finish(incoming, piece.len));
        if block.offset == 0 {
            self.add_holder(from, serial);
        }
        if expected {
            self.promise(Serial::new(serial), Some(from), now);
        }
        if whole {
            self.on_whole(from, serial, now);
        }
    }

    /// Whether a piece has begun to come in, and can be counted on.
    pub(crate) fn coming(&mut self, serial: u64, now: Timestamp) -> bool {
        if self.exchange.requests(serial) == 0 {
            return false;
        }
        let Some(len) = self.window.named(serial).map(|named| named.piece.len) else { return false };
        let due = self.playback.due(serial, &self.window);
        let counts = |i: &Incoming| i.received() > 0 && !i.is_behind(len, due, now);
        let mut coming = self.neighbours.iter().filter_map(|(_, n)| Some((n, n.side.of(serial)?)));
        coming.any(|(n, incoming)| counts(incoming) && n.will_finish(incoming, len))
    }

    /// The first block has come from one neighbour: takes the request back from those that have not begun. One that has
    /// never finished a piece, or has broken one off, must not keep others from sending it.
    fn cancel_others(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let finishes = self.neighbours.get(from).is_some_and(Neighbour::finishes);
        if self.exchange.requests(serial) < 2 || !finishes {
            return;
        }
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            if slab == from {
                continue;
            }
            if neighbour.side.of(serial).is_none_or(|incoming| incoming.received() > 0) {
                continue;
            }
            self.exchange.close(&mut neighbour.side, serial);
            self.cancel(slab, serial, now);
            self.request_more(slab, now);
        }
    }

    /// Cancels a request or a push.
    pub(crate) fn cancel(&mut self, to: Slab, serial: u64, now: Timestamp) {
        let crossing = self.tempo.time(CROSSING);
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        neighbour.note_cancel(serial, crossing, now);
        self.send(to, Message::Cancel(Serial::new(serial)), now);
    }

    /// A block that is of no use; tells the sender once to stop.
    fn waste(&mut self, from: Slab, block: &Block, now: Timestamp) {
        self.stats.wasted = self.stats.wasted.saturating_add(block.len.into());
        let told = self.neighbours.get(from).is_none_or(|n| n.cancelled(block.serial.get(), now));
        if block.offset.saturating_add(block.len) < block.piece_len && !told {
            self.cancel(from, block.serial.get(), now);
        }
        self.charge_flood(from, price::USELESS_BLOCK, now);
    }

    /// All blocks of a piece are in.
    fn on_whole(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let Some(named) = self.window.named(serial) else { return };
        let piece = named.piece;
        let Some(came) = self.exchange.whole(&mut neighbour.side, serial, neighbour.node) else { return };
        neighbour.unanswered = 0;
        neighbour.broken_off = neighbour.broken_off.saturating_sub(1);
        neighbour.note_rate(&came, now);
        neighbour.delivered = now;
        if came.solicited {
            let took = now.since(came.at).as_micros() as f32;
            neighbour.latency_us += (took - neighbour.latency_us) / 8.0;
        }
        self.out.push_back(Output::Verify { piece, data: came.data.freeze() });
        self.request_more(from, now);
    }

    /// The driver has hashed a piece.
    pub(crate) fn on_verified(&mut self, serial: Serial, ok: bool, now: Timestamp) {
        let Some(node) = self.exchange.verified(serial.get()) else { return };
        let from = self.neighbours.iter().find(|(_, n)| n.node == node).map(|(slab, _)| slab);
        if !ok {
            self.stats.pieces_corrupt = self.stats.pieces_corrupt.saturating_add(1);
            self.ended(serial.get(), now);
            match from {
                Some(from) => self.hang_up(from, HangUpReason::Corrupt, true, now),
                None => self.bans.ban(node, now),
            }
            return;
        }
        self.stats.pieces_verified = self.stats.pieces_verified.saturating_add(1);
        if let Some((from, named)) = from.zip(self.window.named(serial.get())) {
            let len = named.piece.len;
            if let Some(neighbour) = self.neighbours.get_mut(from) {
                neighbour.taken = neighbour.taken.saturating_add(len.into());
                neighbour.taken_lately += len as f32;
            }
        }
        self.on_held(serial, now);
    }

    /// A verified piece is in the driver's store.
    pub(crate) fn on_held(&mut self, serial: Serial, now: Timestamp) {
        if !self.window.contains(serial.get()) || self.window.named(serial.get()).is_none() {
            return;
        }
        self.window.held.set(serial.get());
        self.exchange.drop_wish(serial.get());
        if self.exchange.requests(serial.get()) > 0 {
            for slab in self.neighbours.slabs() {
                let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
                if self.exchange.close(&mut neighbour.side, serial.get()).is_some() {
                    self.cancel(slab, serial.get(), now);
                }
            }
        }
        self.promise(serial, None, now);
        // What is not pushed any more takes no place.
        self.forget_pushed(now);
        self.push.note_fresh(serial.get(), now, self.role);
        self.pump(now);
    }

    /// Tells all neighbours that a piece is here or coming: those who lack it may ask for it, and those who have it learn
    /// how far it has spread and that it need not be offered. Of what is common by now they hear a little later, and of
    /// several pieces at once, because HAVEs and their acknowledgements are half of a link's packets. What is rare cannot
    /// wait, not even at those who have it: they push it on, and would push it here.
    pub(crate) fn promise(&mut self, serial: Serial, from: Option<Slab>, now: Timestamp) {
        let (held, tempo) = (self.window.held.get(serial.get()), self.tempo);
        let slot = self.window.slot_mut(serial.get());
        if slot.promised || !self.config.upload || !held && !self.retractions.may_promise(now) {
            return;
        }
        slot.promised = true;
        let copies = self.exchange.copies(serial.get());
        let common =
            copies >= COMMON && usize::from(copies).saturating_mul(COMMON_AT) >= self.neighbours.len();
        for slab in self.neighbours.slabs() {
            if Some(slab) == from {
                continue;
            }
            // Also who has not said Hello yet: it was sent a bitmap when its link came up, and this is not in it.
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let within =
                tempo.time(if neighbour.side.has(serial.get()) { TELL_HOLDERS_WITHIN } else { TELL_WITHIN });
            let within = within.min(TELL_LATEST);
            if !neighbour.put_off(serial, now + within) || !common {
                self.tell_untold(slab, now);
            }
        }
    }

    /// Tells a neighbour what could wait. It costs no packet if something else goes there anyway, and must go ahead of a
    /// cancel of the same piece, which would be a refusal without it.
    pub(crate) fn tell_untold(&mut self, slab: Slab, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        let serials = neighbour.take_untold();
        if !serials.is_empty() {
            self.send(slab, Message::Have(serials), now);
        }
    }

    /// Tells neighbours what could wait and cannot any longer.
    pub(crate) fn tell_what_waited(&mut self, now: Timestamp) {
        for slab in self.neighbours.slabs() {
            if self.neighbours.get(slab).is_some_and(|neighbour| neighbour.untold_by <= now) {
                self.tell_untold(slab, now);
            }
        }
    }

    /// Takes back a promise.
    pub(crate) fn retract(&mut self, serial: u64, now: Timestamp) {
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let asks = neighbour.outgoing.iter().any(|w| w.serial == serial);
            neighbour.outgoing.retain(|w| w.serial != serial);
            neighbour.untold.retain(|s| s.get() != serial);
            if !neighbour.side.has(serial) {
                let list = SerialList::from_slice(&[Serial::new(serial)]);
                self.send(slab, Message::DontHave(list), now);
            } else if asks {
                self.send(slab, Message::Reject(Serial::new(serial)), now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Timestamp {
        Timestamp(1_000_000 + ms * 1000)
    }

    #[test]
    fn a_piece_has_an_end_whatever_the_rate() {
        // 48 KiB at 1 MB/s are 49 ms: the least times. At 1 B/s the most.
        for (rate, slow, end) in [(1e6, 200, 800), (200_000.0, 491, 983), (1.0, 800, 4000), (0.0, 800, 4000)]
        {
            let pace = Pace::new(48 << 10, rate, &Tempo::default(), at(0));
            assert_eq!((pace.slow_at.0 / 1000, pace.end_at.0 / 1000), (1000 + slow, 1000 + end), "{rate}");
        }
    }

    #[test]
    fn a_drip_is_behind_as_soon_as_that_can_be_told() {
        let pace = Pace::new(63 << 10, 1.0, &Tempo::default(), at(0));
        let behind =
            |received: u32, due: u64, now: u64| pace.is_behind(received, 64 << 10, Some(at(due)), at(now));
        assert!(!behind(1 << 10, 700, 50), "too soon to tell");
        assert!(behind(1 << 10, 700, 100), "it would take 6.4 s");
        assert!(!behind(16 << 10, 700, 100), "it takes 0.4 s");
        assert!(pace.is_behind(63 << 10, 64 << 10, None, at(801)));
    }
}
