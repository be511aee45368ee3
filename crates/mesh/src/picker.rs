//! The piece picker: which piece to ask of whom, and when to ask again.
//!
//! Rules:
//! 1. *Requests queue here, not at the holder*: at most [`PIPELINE`] requests are open with a neighbour. Asking
//!    for more makes uplinks over-promised, and the mesh collapses.
//! 2. *One holder a piece.* A second one is asked only if the piece is late; the first block of either cancels
//!    the other if that has not begun.
//! 3. *Deadlines near the playhead*: pieces due within [`SOON`] go first, earliest first. *Elsewhere rarest
//!    first, newest among equals* (BEP 3; Bonald et al., SIGMETRICS 2008), ties at random.
//! 4. *Holders by measured time*: a neighbour that takes much longer than the best is asked only if nobody
//!    faster promised the piece within [`DEFER`], or if time runs out.
//! 5. *The source last*: it is asked for what nobody else has.
//! 6. A neighbour that has gone quiet is not counted on: what was asked of it is asked elsewhere.
//! 7. What no neighbour will deliver in time comes from the HTTP origin, if there is one.

use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Block, Message, Request, Serial, SerialList};
use rand::RngExt;

use crate::flood::price;
use crate::neighbour::{Asked, Slab};
use crate::node::Node;
use crate::push::hop_us;
use crate::{HangUpReason, Output, PickOrder, Role, Timestamp};

/// Requests open with one neighbour.
const PIPELINE: usize = 1;
/// Pushes that one neighbour may have under way here.
const MAX_PUSHES: usize = 4;
/// A piece due within this time is asked for by deadline, not by rarity.
const SOON: Duration = Duration::from_millis(1500);
/// A piece due within this time that has not begun to come is asked of a second neighbour.
const LATE: Duration = Duration::from_millis(800);
/// Left to the HTTP origin.
const HTTP_LEAD: Duration = Duration::from_millis(600);
/// A neighbour this many times slower than the best is not asked at first.
const SLOW: f32 = 2.5;
/// How long a piece waits for a faster neighbour to promise it.
const DEFER: Duration = Duration::from_millis(600);
/// How far ahead of the playhead pieces are fetched.
const PREFETCH: Duration = Duration::from_secs(30);
/// A request is given up after this many times the neighbour's usual time, within the bounds below.
const PATIENCE: f32 = 4.0;
const MIN_PATIENCE_US: f32 = 600_000.0;
const MAX_PATIENCE_US: f32 = 4_000_000.0;
/// A piece that has begun to come and then does not go on is given up after this time.
const STALL: Duration = Duration::from_millis(400);
/// Who promised one of so many newest pieces has it in its window as well.
const RECENT: u64 = 128;
/// A neighbour that turned a request away is not asked for so long.
const BUSY: Duration = Duration::from_millis(100);
/// An offer is taken if the piece can be here within this time.
const MAX_HOP_US: f32 = 150_000.0;
/// The same for a neighbour that has gone quiet.
const QUIET_PATIENCE: Duration = Duration::from_millis(300);
/// Who is there has answered a request by this time beyond a round trip: it turns away what it cannot serve.
const ANSWER: Duration = Duration::from_millis(500);
/// A neighbour counts as a liar after so many requests that it left without an answer while it went on talking,
/// and so long without a piece.
const MAX_FAILURES: u32 = 5;
/// The same for one that has never delivered.
const MAX_FAILURES_UNPROVEN: u32 = 3;
const LIAR: Duration = Duration::from_secs(6);

impl Node {
    /// Marks the pieces that have come into reach as wanted.
    pub(crate) fn extend_wanted(&mut self, now: Timestamp) {
        let first = match self.role {
            Role::Source => return,
            Role::Relay => self.window.base(),
            Role::Viewer => match self.playback.next {
                Some(next) => next,
                None => return,
            },
        };
        let edge = self.window.edge();
        let mut serial = self.wanted_to.max(first).max(self.window.base());
        while serial < self.window.horizon() {
            if serial < edge
                && self.playback.due(serial, &self.window).is_some_and(|due| due > now + PREFETCH)
            {
                break;
            }
            let slot = self.window.slot(serial);
            let promised = slot.copies > 0;
            if !self.window.held.get(serial) && slot.asked == 0 && !slot.verifying {
                self.window.wanted.set(serial);
                if promised {
                    self.ask_somebody(serial, false, now);
                }
            }
            serial += 1;
        }
        self.wanted_to = serial;
    }

    /// A neighbour holds or promises pieces.
    pub(crate) fn on_have(&mut self, from: Slab, serials: &[Serial], now: Timestamp) {
        for serial in serials {
            self.add_holder(from, serial.0);
            if self.window.contains(serial.0) {
                let slot = self.window.slot_mut(serial.0);
                if slot.since == Timestamp::ZERO {
                    slot.since = now;
                }
            }
        }
        if let [Serial(serial)] = *serials {
            if self.window.contains(serial) && self.window.wanted.get(serial) {
                self.consider(from, serial, now);
            }
        } else {
            self.ask_more(from, now);
        }
    }

    /// Notes that `from` holds `serial`; what lies outside of the window is not believed.
    pub(crate) fn add_holder(&mut self, from: Slab, serial: u64) {
        if serial < self.window.base() || serial >= self.window.horizon() {
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.newest = neighbour.newest.max(serial);
        neighbour.live_from = neighbour.live_from.min(serial);
        if !neighbour.has.get(serial) {
            neighbour.has.set(serial);
            let slot = self.window.slot_mut(serial);
            slot.copies += 1;
        }
    }

    pub(crate) fn on_dont_have(&mut self, from: Slab, serials: &[Serial], now: Timestamp) {
        for serial in serials {
            let recent = serial.0 + RECENT > self.window.edge();
            let asked = |n: &crate::neighbour::Neighbour| n.asked.iter().any(|a| a.serial == serial.0);
            if recent
                && self.neighbours.get(from).is_some_and(asked)
                && self.charge_flood(from, price::BROKEN_PROMISE, now)
            {
                return;
            }
            self.drop_holder(from, serial.0);
            self.unask(from, serial.0, now);
        }
    }

    /// A holder is busy: it is left alone for a while.
    pub(crate) fn on_reject(&mut self, from: Slab, serial: Serial, now: Timestamp) {
        if let Some(neighbour) = self.neighbours.get_mut(from) {
            neighbour.busy_until = now + BUSY;
        }
        self.unask(from, serial.0, now);
    }

    fn drop_holder(&mut self, from: Slab, serial: u64) {
        if !self.window.contains(serial) {
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if neighbour.has.get(serial) {
            neighbour.has.clear(serial);
            self.window.slot_mut(serial).copies -= 1;
        }
    }

    /// Takes back a request; the piece is wanted again unless somebody else is sending it.
    fn unask(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let Some(index) = neighbour.asked.iter().position(|a| a.serial == serial) else { return };
        neighbour.asked.swap_remove(index);
        self.asked_less(serial, now);
    }

    /// One request or push less is under way for `serial`.
    pub(crate) fn asked_less(&mut self, serial: u64, now: Timestamp) {
        if !self.window.contains(serial) {
            return;
        }
        let held = self.window.held.get(serial);
        let first = self.playback.next.unwrap_or(0);
        let slot = self.window.slot_mut(serial);
        slot.asked -= 1;
        if slot.asked > 0 || slot.verifying || held {
            return;
        }
        if slot.promised {
            slot.promised = false;
            self.retractions.note(now);
            self.retract(serial, now);
        }
        if serial >= first && serial < self.wanted_to {
            self.window.wanted.set(serial);
            self.ask_somebody(serial, false, now);
        }
    }

    /// Takes back a promise.
    fn retract(&mut self, serial: u64, now: Timestamp) {
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            neighbour.wants.retain(|w| w.serial != serial);
            if !neighbour.has.get(serial) {
                let list = SerialList::from_slice(&[Serial(serial)]);
                self.send(slab, Message::DontHave(list), now);
            }
        }
    }

    /// `from` promised the wanted piece `serial`: ask it now, or wait for somebody better?
    fn consider(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let best = self.best_latency();
        let Some(neighbour) = self.neighbours.get(from) else { return };
        if neighbour.asked.len() >= PIPELINE
            || neighbour.closing
            || neighbour.flags.source
            || neighbour.busy_until > now
        {
            return;
        }
        if neighbour.latency_us > SLOW * best {
            return;
        }
        self.ask(from, serial, now);
    }

    /// Whether an offer of `of` is worth taking: it is served at once, so only the way and the line count.
    pub(crate) fn may_take_offer(&self, of: Slab) -> bool {
        self.neighbours.get(of).is_some_and(|n| !n.closing && hop_us(n) <= MAX_HOP_US)
    }

    fn best_latency(&self) -> f32 {
        // The third best: one lucky neighbour must not make all others look slow.
        let mut best = [f32::MAX; 3];
        for (_, neighbour) in self.neighbours.iter() {
            let mut latency = neighbour.latency_us;
            if neighbour.flags.source || neighbour.flags.no_upload {
                continue;
            }
            for place in &mut best {
                if latency < *place {
                    std::mem::swap(place, &mut latency);
                }
            }
        }
        best.into_iter().rfind(|b| *b < f32::MAX).unwrap_or(f32::MAX)
    }

    /// Asks the best holder of a wanted piece, if one has room. `late` also allows a second one, and the source.
    pub(crate) fn ask_somebody(&mut self, serial: u64, late: bool, now: Timestamp) -> bool {
        let best = self.best_latency();
        let copies = self.window.slot(serial).copies;
        let mut found: Option<(f32, Slab)> = None;
        for (slab, neighbour) in self.neighbours.iter() {
            if neighbour.closing || !neighbour.has.get(serial) || neighbour.busy_until > now {
                continue;
            }
            let quiet = neighbour.quiet(self.quiet_after, now);
            if quiet && !late {
                continue;
            }
            let room = if late { PIPELINE + 1 } else { PIPELINE };
            if neighbour.asked.len() >= room || neighbour.asked.iter().any(|a| a.serial == serial) {
                continue;
            }
            // A little chance, so that not all run to the same one.
            let chance = self.rng.random_range(0.5..1.5);
            let mut cost = chance * neighbour.latency_us * (1 + neighbour.asked.len()) as f32;
            if quiet {
                cost += 1e7;
            }
            if neighbour.flags.source {
                if !late && copies > 1 {
                    continue;
                }
                cost += 1e6;
            } else if !late && neighbour.latency_us > SLOW * best {
                continue;
            }
            if found.is_none_or(|(c, _)| cost < c) {
                found = Some((cost, slab));
            }
        }
        let Some((_, slab)) = found else { return false };
        self.ask(slab, serial, now);
        true
    }

    /// Asks `of` for the most wanted piece that it holds, if there is room.
    pub(crate) fn ask_more(&mut self, of: Slab, now: Timestamp) {
        let best_latency = self.best_latency();
        let Some(neighbour) = self.neighbours.get(of) else { return };
        if neighbour.asked.len() >= PIPELINE || neighbour.closing || neighbour.busy_until > now {
            return;
        }
        let slow = neighbour.latency_us > SLOW * best_latency;
        let (from, to) = (self.window.base(), self.window.horizon());
        // Lowest first: due soon by deadline, then by copies, then newest, then at random.
        let mut best: Option<((u64, u16, u64, u32), u64)> = None;
        for serial in neighbour.has.iter_both(&self.window.wanted, from, to) {
            let slot = self.window.slot(serial);
            let missed = self.playback.missed(serial, &self.window, now);
            let due = self.playback.due(serial, &self.window).filter(|due| !missed && *due < now + SOON);
            if (slow || neighbour.flags.source && slot.copies > 1) && due.is_none() {
                continue;
            }
            let (copies, order) = match self.config.pick_order {
                PickOrder::RarestNewest => (slot.copies, u64::MAX - serial),
                PickOrder::InOrder => (0, serial),
            };
            let copies = if missed { u16::MAX } else { copies };
            let rank = (due.map_or(u64::MAX, |d| d.0), copies, order, self.rng.random::<u32>());
            if best.is_none_or(|(b, _)| rank < b) {
                best = Some((rank, serial));
            }
        }
        if let Some((_, serial)) = best {
            self.ask(of, serial, now);
        }
    }

    pub(crate) fn ask(&mut self, of: Slab, serial: u64, now: Timestamp) {
        let due_in_ms = self
            .playback
            .due(serial, &self.window)
            .filter(|due| !self.playback.playing || *due > now)
            .map_or(0, |due| (due.since(now).as_millis() as u32).max(1));
        let Some(neighbour) = self.neighbours.get_mut(of) else { return };
        neighbour.asked.push(Asked {
            serial,
            at: now,
            heard: now,
            solicited: true,
            received: 0,
            blocks: Default::default(),
        });
        self.window.slot_mut(serial).asked += 1;
        self.window.wanted.clear(serial);
        self.send(of, Message::Request(Request { serial: Serial(serial), due_in_ms }), now);
    }

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
            let useful = self.role == Role::Relay || self.playback.next.is_none_or(|next| serial >= next);
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

    fn cancel(&mut self, to: Slab, serial: u64, now: Timestamp) {
        if let Some(neighbour) = self.neighbours.get_mut(to) {
            neighbour.note_cancel(serial, now);
        }
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

    /// Tells all neighbours that a piece is here or coming: those who lack it may ask for it, and those who have it
    /// learn how far it has spread and that it need not be offered.
    pub(crate) fn promise(&mut self, serial: Serial, from: Option<Slab>, now: Timestamp) {
        let held = self.window.held.get(serial.0);
        let slot = self.window.slot_mut(serial.0);
        if slot.promised || !self.config.upload || !held && !self.retractions.may_promise(now) {
            return;
        }
        slot.promised = true;
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get(slab) else { continue };
            if neighbour.greeted && Some(slab) != from {
                self.send(slab, Message::Have(SerialList::from_slice(&[serial])), now);
            }
        }
    }

    /// The picker's share of the tick: requests that come to nothing, pieces that are late or were put off.
    pub(crate) fn picker_tick(&mut self, now: Timestamp) {
        if self.role == Role::Source {
            return;
        }
        self.extend_wanted(now);
        self.ask_missing_heads(now);
        self.give_up_on_slow(now);
        self.ask_second(now);
        let (from, to) = (self.window.base(), self.window.horizon());
        let waiting: Vec<u64> =
            self.window.wanted.iter(from, to).filter(|s| self.window.slot(*s).copies > 0).take(64).collect();
        for serial in waiting {
            if !self.window.wanted.get(serial) {
                continue;
            }
            let due = self.playback.due(serial, &self.window);
            let late = due.is_some_and(|due| due < now + SOON);
            if self.playback.missed(serial, &self.window, now) {
                continue;
            }
            let age = now.since(self.window.slot(serial).since);
            self.ask_somebody(serial, late || age > DEFER, now);
        }
        if self.config.http_origin {
            self.ask_http(now);
        }
    }

    fn give_up_on_slow(&mut self, now: Timestamp) {
        let quiet_after = self.quiet_after;
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let patience = (neighbour.latency_us * PATIENCE).clamp(MIN_PATIENCE_US, MAX_PATIENCE_US);
            let patience = Duration::from_micros(patience as u64);
            let patience = if neighbour.quiet(quiet_after, now) { QUIET_PATIENCE } else { patience };
            let given_up = |a: &Asked| a.heard + (if a.received > 0 { STALL } else { patience }) < now;
            let Some(index) = neighbour.asked.iter().position(given_up) else { continue };
            let asked = &neighbour.asked[index];
            let serial = asked.serial;
            let waited = now.since(asked.at).as_micros() as f32;
            // Who has never delivered is put to the test again soon, and then either delivers or is found out.
            let proven = neighbour.taken > 0;
            if proven {
                neighbour.latency_us = neighbour.latency_us.max(waited);
            }
            if asked.received > 0 {
                neighbour.broken_off += 1;
            } else if neighbour.heard > asked.at + neighbour.rtt + ANSWER {
                neighbour.unanswered += 1;
            }
            let most = if proven { MAX_FAILURES } else { MAX_FAILURES_UNPROVEN };
            let useless = neighbour.delivered + LIAR < now;
            if useless && neighbour.unanswered >= most {
                self.hang_up(slab, HangUpReason::Liar, true, now);
                continue;
            }
            if useless && neighbour.broken_off >= most {
                self.hang_up(slab, HangUpReason::Idle, false, now);
                continue;
            }
            self.drop_holder(slab, serial);
            self.cancel(slab, serial, now);
            self.unask(slab, serial, now);
        }
    }

    /// Asks a second neighbour for what is late and has not begun to come.
    fn ask_second(&mut self, now: Timestamp) {
        let mut late: Vec<u64> = Vec::new();
        for (_, neighbour) in self.neighbours.iter() {
            for asked in &neighbour.asked {
                if asked.received == 0
                    && self.window.slot(asked.serial).asked == 1
                    && !self.playback.missed(asked.serial, &self.window, now)
                    && self.playback.due(asked.serial, &self.window).is_some_and(|due| due < now + LATE)
                {
                    late.push(asked.serial);
                }
            }
        }
        for serial in late {
            self.ask_somebody(serial, true, now);
        }
    }

    fn ask_http(&mut self, now: Timestamp) {
        let Some(next) = self.playback.next else { return };
        for serial in next.max(self.window.base())..self.window.edge() {
            let Some(due) = self.playback.due(serial, &self.window) else { continue };
            if due > now + HTTP_LEAD {
                break;
            }
            let slot = self.window.slot(serial);
            if self.window.held.get(serial) || slot.verifying || slot.http || self.coming(serial) {
                continue;
            }
            let Some(piece) = self.window.known(serial).map(|k| k.piece) else { continue };
            self.window.slot_mut(serial).http = true;
            self.out.push_back(Output::FetchHttp { piece, due });
        }
    }

    /// A first guess of how long a neighbour takes: one round trip, and twice the time on its uplink.
    pub(crate) fn guess_latency(&mut self, of: Slab) {
        if let Some(neighbour) = self.neighbours.get_mut(of) {
            neighbour.latency_us =
                hop_us(neighbour) + neighbour.rtt.as_micros() as f32 / 2.0 + neighbour.transfer_us(65536);
        }
    }
}
