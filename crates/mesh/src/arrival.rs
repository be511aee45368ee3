//! Blocks that come in, until their piece is held and promised to others.
//!
//! Rules: a piece comes from whoever sends its first block first; a request that another holder has not begun to
//! serve is taken back then. What is of no use is answered by one cancel, and counts against its sender. A piece is
//! promised as soon as it begins to come, at once if it is rare and within [`TELL_WITHIN`] if it is common, and held
//! once the driver has verified it. A sender of bytes that do not verify is banned.

use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Block, Message, Serial, SerialList};

use crate::flood::price;
use crate::neighbour::{Asked, CROSSING, Slab};
use crate::node::Node;
use crate::uplink::LIVE;
use crate::{HangUpReason, Output, Role, Timestamp};

/// Pushes that one neighbour may have under way here.
const MAX_PUSHES: usize = 4;
/// A piece that so many neighbours promise, and one in [`COMMON_AT`], is common.
const COMMON: u16 = 6;
const COMMON_AT: usize = 3;
/// At the nominal pace: how soon, and up to one tick later, neighbours are told of what is common, if they lack it; …
const TELL_WITHIN: Duration = Duration::from_millis(100);
/// … and if they have it.
const TELL_HOLDERS_WITHIN: Duration = Duration::from_millis(400);

impl Node {
    /// A block came in.
    pub(crate) fn on_block(&mut self, from: Slab, block: Block, payload: Bytes, now: Timestamp) {
        let serial = block.serial.0;
        self.stats.payload_received += u64::from(block.len);
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if neighbour.flags.source {
            self.stats.source_received += u64::from(block.len);
        }
        let Some(known) = self.window.known(serial) else {
            return self.waste(from, &block, now);
        };
        if payload.len() != block.len as usize || block.piece_len != known.piece.len {
            return self.hang_up(from, HangUpReason::Protocol, true, now);
        }
        let (piece, slot) = (known.piece, self.window.slot(serial));
        if self.window.held.get(serial) || slot.verifying {
            return self.waste(from, &block, now);
        }
        if !neighbour.asked.iter().any(|a| a.serial == serial) {
            // A push, or what was under way when its request was taken back.
            let pushes = neighbour.asked.iter().filter(|a| !a.solicited).count();
            // What is fresh is of use to others, also to one who came too late for it.
            let useful = self.role == Role::Relay
                || serial + LIVE > self.window.edge()
                || self.playback.next.is_none_or(|next| serial >= next);
            let cancelled = neighbour.cancelled(serial, now);
            if cancelled || block.offset > 0 || pushes >= MAX_PUSHES || !useful || self.coming(serial) {
                return self.waste(from, &block, now);
            }
            let Some(neighbour) = self.neighbours.get_mut(from) else { return };
            neighbour.asked.push(Asked {
                serial,
                at: now,
                heard: now,
                solicited: false,
                received: 0,
                blocks: Default::default(),
            });
            self.window.slot_mut(serial).asked += 1;
            self.window.wanted.clear(serial);
        }
        if block.offset == 0 {
            self.cancel_others(from, serial, now);
        }
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let Some(index) = neighbour.asked.iter().position(|a| a.serial == serial) else { return };
        let asked = &mut neighbour.asked[index];
        if asked.received != block.offset {
            // Left over from a request that was taken back and made again: the new one starts at zero.
            return self.waste(from, &block, now);
        }
        asked.heard = now;
        asked.received += block.len;
        asked.blocks.push(payload);
        let whole = asked.received == piece.len;
        if block.offset == 0 {
            self.add_holder(from, serial);
            self.promise(Serial(serial), Some(from), now);
        }
        if whole {
            self.on_whole(from, serial, now);
        }
    }

    /// Whether blocks of a piece have begun to come in.
    pub(crate) fn coming(&self, serial: u64) -> bool {
        self.window.slot(serial).asked > 0
            && self
                .neighbours
                .iter()
                .any(|(_, n)| n.asked.iter().any(|a| a.serial == serial && a.received > 0))
    }

    /// The first block has come from one neighbour: takes the request back from those that have not begun.
    fn cancel_others(&mut self, from: Slab, serial: u64, now: Timestamp) {
        if self.window.slot(serial).asked < 2 {
            return;
        }
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            if slab == from {
                continue;
            }
            let Some(index) = neighbour.asked.iter().position(|a| a.serial == serial && a.received == 0)
            else {
                continue;
            };
            neighbour.asked.swap_remove(index);
            self.window.slot_mut(serial).asked -= 1;
            self.cancel(slab, serial, now);
            self.ask_more(slab, now);
        }
    }

    /// Cancels a request or a push.
    pub(crate) fn cancel(&mut self, to: Slab, serial: u64, now: Timestamp) {
        let crossing = self.pace.time(CROSSING);
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        neighbour.note_cancel(serial, crossing, now);
        self.send(to, Message::Cancel(Serial(serial)), now);
    }

    /// A block that is of no use; tells the sender once to stop.
    fn waste(&mut self, from: Slab, block: &Block, now: Timestamp) {
        self.stats.wasted += u64::from(block.len);
        let told = self.neighbours.get(from).is_none_or(|n| n.cancelled(block.serial.0, now));
        if block.offset + block.len < block.piece_len && !told {
            self.cancel(from, block.serial.0, now);
        }
        self.charge_flood(from, price::USELESS_BLOCK, now);
    }

    /// All blocks of a piece are in.
    fn on_whole(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let Some(index) = neighbour.asked.iter().position(|a| a.serial == serial) else { return };
        let asked = neighbour.asked.swap_remove(index);
        neighbour.unanswered = 0;
        neighbour.broken_off = 0;
        neighbour.delivered = now;
        if asked.solicited {
            let took = now.since(asked.at).as_micros() as f32;
            neighbour.latency_us += (took - neighbour.latency_us) / 8.0;
        }
        let node = neighbour.node;
        let Some(known) = self.window.known(serial) else { return };
        let piece = known.piece;
        let slot = self.window.slot_mut(serial);
        slot.asked -= 1;
        slot.verifying = true;
        self.verifying.push((serial, node));
        self.out.push_back(Output::Verify { piece, blocks: asked.blocks.into_vec() });
        self.ask_more(from, now);
    }

    /// The driver has hashed a piece.
    pub(crate) fn on_verified(&mut self, serial: Serial, ok: bool, now: Timestamp) {
        let Some(index) = self.verifying.iter().position(|(s, _)| *s == serial.0) else { return };
        let (_, node) = self.verifying.swap_remove(index);
        let from = self.neighbours.iter().find(|(_, n)| n.node == node).map(|(slab, _)| slab);
        if self.window.contains(serial.0) {
            self.window.slot_mut(serial.0).verifying = false;
        }
        if !ok {
            self.stats.pieces_corrupt += 1;
            if self.window.contains(serial.0) {
                // Puts the piece back among the wanted.
                self.window.slot_mut(serial.0).asked += 1;
                self.asked_less(serial.0, now);
            }
            match from {
                Some(from) => self.hang_up(from, HangUpReason::Corrupt, true, now),
                None => self.bans.ban(node, now),
            }
            return;
        }
        self.stats.pieces_verified += 1;
        if let Some((from, known)) = from.zip(self.window.known(serial.0)) {
            let len = known.piece.len;
            if let Some(neighbour) = self.neighbours.get_mut(from) {
                neighbour.taken += u64::from(len);
                neighbour.taken_lately += len as f32;
            }
        }
        self.on_held(serial, now);
    }

    /// A verified piece is in the driver's store.
    pub(crate) fn on_held(&mut self, serial: Serial, now: Timestamp) {
        if !self.window.contains(serial.0) || self.window.known(serial.0).is_none() {
            return;
        }
        self.window.held.set(serial.0);
        self.window.wanted.clear(serial.0);
        if self.window.slot(serial.0).asked > 0 {
            for slab in self.neighbours.slabs() {
                let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
                if let Some(index) = neighbour.asked.iter().position(|a| a.serial == serial.0) {
                    neighbour.asked.swap_remove(index);
                    self.window.slot_mut(serial.0).asked -= 1;
                    self.cancel(slab, serial.0, now);
                }
            }
        }
        self.promise(serial, None, now);
        self.push.note_fresh(serial.0, now, self.role);
        self.pump(now);
    }

    /// Tells all neighbours that a piece is here or coming: those who lack it may ask for it, and those who have it learn
    /// how far it has spread and that it need not be offered. Of what is common by now they hear a little later, and of
    /// several pieces at once, because HAVEs and their acknowledgements are half of a link's packets. What is rare cannot
    /// wait, not even at those who have it: they push it on, and would push it here.
    pub(crate) fn promise(&mut self, serial: Serial, from: Option<Slab>, now: Timestamp) {
        let (held, pace) = (self.window.held.get(serial.0), self.pace);
        let slot = self.window.slot_mut(serial.0);
        if slot.promised || !self.config.upload || !held && !self.retractions.may_promise(now) {
            return;
        }
        slot.promised = true;
        let common = slot.copies >= COMMON && usize::from(slot.copies) * COMMON_AT >= self.neighbours.len();
        for slab in self.neighbours.slabs() {
            if Some(slab) == from {
                continue;
            }
            // Also who has not said Hello yet: it was sent a bitmap when its link came up, and this is not in it.
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let within =
                pace.time(if neighbour.has.get(serial.0) { TELL_HOLDERS_WITHIN } else { TELL_WITHIN });
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
            neighbour.wants.retain(|w| w.serial != serial);
            neighbour.untold.retain(|s| s.0 != serial);
            if !neighbour.has.get(serial) {
                let list = SerialList::from_slice(&[Serial(serial)]);
                self.send(slab, Message::DontHave(list), now);
            }
        }
    }
}
