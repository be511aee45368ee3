//! The piece picker: which piece to request from whom, and when to request it again.
//!
//! Rules:
//! 1. *Requests queue here, not at the holder*: at most [`PIPELINE`] requests are open with a neighbour. With more, uplinks
//!    are over-promised and the mesh collapses.
//! 2. *One holder a piece.* A second one gets a request only if the piece is late (`lateness.rs`). The first block of either
//!    cancels the other, if that has not begun (`arrival.rs`).
//! 3. *Deadlines near the playhead*: pieces due within [`SOON`] go first, earliest first. *Elsewhere rarest first, newest among
//!    equals* (BEP 3; Bonald et al., SIGMETRICS 2008), ties at random.
//! 4. *Holders by measured time*: a neighbour that takes much longer than the best gets a request only if nobody faster has
//!    promised the piece within [`DEFER`], or if time runs out. A dialable node most of whose neighbours are hidden treats its
//!    dialable neighbours in the same way (`neighbourhood.rs`, rule 6): the hidden ones need its uplink.
//! 5. *The source last*: it gets requests only for what nobody else has.
//! 6. A neighbour that has gone quiet is not counted on.

use std::time::Duration;

use minuet_proto::mesh::{Message, Request, Serial};
use rand::RngExt;
use smallvec::SmallVec;

use crate::members::neighbour::{Asked, Neighbour, Slab};
use crate::node::Node;
use crate::supply::push::hop_us;
use crate::trust::flood::price;
use crate::{PickOrder, Role, Timestamp};

/// Requests open with one neighbour.
const PIPELINE: usize = 1;
/// Requests open with one neighbour where one is for what is late.
const PIPELINE_LATE: usize = PIPELINE.saturating_add(1);
/// A piece due within this time is asked for by deadline, not by rarity. This and the times below are for the nominal
/// pace (`tempo.rs`); …
const SOON: Duration = Duration::from_millis(1500);
/// … and it is at most this part of the delay.
const SOON_SHARE: f32 = 0.5;
/// A neighbour this many times slower than the best is not asked at first.
const SLOW: f32 = 2.5;
/// How long a piece waits for a faster neighbour to promise it.
pub(crate) const DEFER: Duration = Duration::from_millis(600);
/// How far ahead of the playhead pieces are fetched.
const PREFETCH: Duration = Duration::from_secs(30);
/// Who promised one of so many newest pieces has it in its window as well.
const RECENT: u64 = 128;
/// A neighbour that turned a request away is not asked for so long.
const BUSY: Duration = Duration::from_millis(100);
/// An offer is taken if the piece can be here within this time.
const MAX_HOP_US: f32 = 150_000.0;

/// Whom not to ask at first (rule 4).
struct Reserve {
    /// Who takes longer.
    slowest_us: f32,
    /// Those who can be dialled.
    dialable: bool,
}

impl Reserve {
    fn holds(&self, neighbour: &Neighbour) -> bool {
        neighbour.latency_us > self.slowest_us || self.dialable && neighbour.flags.dialable
    }
}

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
            if !self.window.held.get(serial)
                && slot.asked == 0
                && !slot.verifying
                && self.strain.asks_for(serial)
            {
                self.window.wanted.set(serial);
                if promised {
                    self.ask_somebody(serial, false, now);
                }
            }
            serial = serial.saturating_add(1);
        }
        self.wanted_to = serial;
    }

    /// A neighbour holds or promises pieces.
    pub(crate) fn on_have(&mut self, from: Slab, serials: &[Serial], now: Timestamp) {
        for serial in serials {
            self.add_holder(from, serial.get());
            if let Some(neighbour) = self.neighbours.get_mut(from) {
                neighbour.pushed.retain(|s| *s != serial.get());
            }
            if self.window.contains(serial.get()) {
                let slot = self.window.slot_mut(serial.get());
                if slot.since == Timestamp::ZERO {
                    slot.since = now;
                }
            }
        }
        if let [serial] = serials.iter().map(|s| s.get()).collect::<SmallVec<[u64; 4]>>()[..] {
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
            slot.copies = slot.copies.saturating_add(1);
        }
    }

    pub(crate) fn on_dont_have(&mut self, from: Slab, serials: &[Serial], now: Timestamp) {
        for serial in serials {
            let recent = serial.plus(RECENT).get() > self.window.edge();
            let asked = |n: &Neighbour| n.asked.iter().any(|a| a.serial == serial.get());
            if recent
                && self.neighbours.get(from).is_some_and(asked)
                && self.charge_flood(from, price::BROKEN_PROMISE, now)
            {
                return;
            }
            if let Some(neighbour) = self.neighbours.get_mut(from) {
                neighbour.note_answer(serial.get());
            }
            self.drop_holder(from, serial.get());
            self.unask(from, serial.get(), now);
        }
    }

    /// A holder is busy: it is left alone for a while. What it has begun to send it goes on with: the request that it
    /// turns away has crossed its push.
    pub(crate) fn on_reject(&mut self, from: Slab, serial: Serial, now: Timestamp) {
        let busy = self.tempo.time(BUSY);
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.note_answer(serial.get());
        // An answer to what was taken back says nothing more.
        if neighbour.asked.iter().any(|a| a.serial == serial.get()) {
            neighbour.busy_until = now + busy;
        }
        if !neighbour.asked.iter().any(|a| a.serial == serial.get() && a.pace.is_some()) {
            self.unask(from, serial.get(), now);
        }
    }

    pub(crate) fn drop_holder(&mut self, from: Slab, serial: u64) {
        if !self.window.contains(serial) {
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if neighbour.has.get(serial) {
            neighbour.has.clear(serial);
            let slot = self.window.slot_mut(serial);
            slot.copies = slot.copies.saturating_sub(1);
        }
    }

    /// Takes back a request; the piece is wanted again unless somebody else is sending it.
    pub(crate) fn unask(&mut self, from: Slab, serial: u64, now: Timestamp) {
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
        slot.asked = slot.asked.saturating_sub(1);
        if slot.asked > 0 || slot.verifying || held {
            return;
        }
        if slot.promised {
            slot.promised = false;
            self.retractions.note(now);
            self.retract(serial, now);
        }
        if serial >= first && serial < self.wanted_to && self.strain.asks_for(serial) {
            self.window.wanted.set(serial);
            self.ask_somebody(serial, false, now);
        }
    }

    /// `from` promised the wanted piece `serial`: ask it now, or wait for somebody better?
    fn consider(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let reserve = self.reserve();
        let Some(neighbour) = self.neighbours.get(from) else { return };
        if neighbour.asked.len() >= PIPELINE
            || neighbour.closing
            || neighbour.flags.source && self.config.source_pushes
            || neighbour.busy_until > now
        {
            return;
        }
        if reserve.holds(neighbour) {
            return;
        }
        self.ask(from, serial, now);
    }

    /// Whether an offer of `of` is worth taking: it is served at once, so only the way and the line count.
    pub(crate) fn may_take_offer(&self, of: Slab) -> bool {
        self.neighbours
            .get(of)
            .is_some_and(|n| !n.closing && hop_us(n, &self.tempo) <= MAX_HOP_US * self.tempo.scale())
    }

    /// A piece due within this time is asked for by deadline, not by rarity.
    pub(crate) fn soon(&self) -> Duration {
        self.tempo.before_due(SOON, SOON_SHARE, self.delay)
    }

    /// Whom this node does not ask at first.
    fn reserve(&self) -> Reserve {
        // The third best: one lucky neighbour must not make all others look slow.
        let mut best = [f32::MAX; 3];
        let (mut hidden, mut dialable) = (0usize, 0usize);
        for (_, neighbour) in self.neighbours.iter() {
            let mut latency = neighbour.latency_us;
            if neighbour.flags.source || neighbour.flags.no_upload {
                continue;
            }
            if neighbour.flags.dialable {
                dialable = dialable.saturating_add(1);
            } else if neighbour.greeted {
                hidden = hidden.saturating_add(1);
            }
            for place in &mut best {
                if latency < *place {
                    std::mem::swap(place, &mut latency);
                }
            }
        }
        let best_us = best.into_iter().rfind(|b| *b < f32::MAX).unwrap_or(f32::MAX);
        Reserve { slowest_us: SLOW * best_us, dialable: self.config.dialable && hidden > dialable }
    }

    /// Asks the best holder of a wanted piece, if one has room. `late` also allows a second one, and the source.
    pub(crate) fn ask_somebody(&mut self, serial: u64, late: bool, now: Timestamp) -> bool {
        let reserve = self.reserve();
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
            let room = if late { PIPELINE_LATE } else { PIPELINE };
            if neighbour.asked.len() >= room || neighbour.asked.iter().any(|a| a.serial == serial) {
                continue;
            }
            // A little chance, so that not all run to the same one.
            let chance = self.rng.random_range(0.5..1.5);
            let mut cost = chance * neighbour.latency_us * (1.0 + neighbour.asked.len() as f32);
            if quiet {
                cost += 1e7;
            }
            if neighbour.flags.source {
                if !late && copies > 1 {
                    continue;
                }
                cost += 1e6;
            } else if !late && reserve.holds(neighbour) {
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
        let (reserve, soon) = (self.reserve(), self.soon());
        let Some(neighbour) = self.neighbours.get(of) else { return };
        if neighbour.asked.len() >= PIPELINE || neighbour.closing || neighbour.busy_until > now {
            return;
        }
        let reserved = reserve.holds(neighbour);
        let (from, to) = (self.window.base(), self.window.horizon());
        // Lowest first: due soon by deadline, then by copies, then newest, then at random.
        let mut best: Option<((u64, u16, u64, u32), u64)> = None;
        for serial in neighbour.has.iter_both(&self.window.wanted, from, to) {
            let slot = self.window.slot(serial);
            if self.playback.missed(serial, &self.window, now) {
                continue;
            }
            let due = self.playback.due(serial, &self.window).filter(|due| *due < now + soon);
            if (reserved || neighbour.flags.source && slot.copies > 1) && due.is_none() {
                continue;
            }
            let (copies, order) = match self.config.pick_order {
                PickOrder::RarestNewest => (slot.copies, !serial),
                PickOrder::InOrder => (0, serial),
            };
            // What only the source has all lack: each asks it for something else, and they pass it on to each other.
            let order = if neighbour.flags.source { self.rng.random() } else { order };
            let due = due.map_or(u64::MAX, |d| if neighbour.flags.source { 0 } else { d.0 });
            let rank = (due, copies, order, self.rng.random::<u32>());
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
            .filter(|due| !self.strain.stands_back() && (!self.playback.playing || *due > now))
            .map_or(0, |due| (due.since(now).as_millis() as u32).max(1));
        let Some(neighbour) = self.neighbours.get_mut(of) else { return };
        neighbour.asked.push(Asked::new(serial, true, now));
        let slot = self.window.slot_mut(serial);
        slot.asked = slot.asked.saturating_add(1);
        self.window.wanted.clear(serial);
        self.send(of, Message::Request(Request { serial: Serial::new(serial), due_in_ms }), now);
    }

    /// A first guess of how long a neighbour takes: one round trip, and twice the time on its uplink.
    pub(crate) fn guess_latency(&mut self, of: Slab) {
        let tempo = self.tempo;
        if let Some(neighbour) = self.neighbours.get_mut(of) {
            neighbour.latency_us = hop_us(neighbour, &tempo)
                + neighbour.rtt.as_micros() as f32 / 2.0
                + neighbour.transfer_us(&tempo);
        }
    }
}
