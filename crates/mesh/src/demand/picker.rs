//! The piece picker: which piece to request from whom, and when to request it again.
//!
//! Rules:
//! 1. *Requests queue here, not at the holder*: at most [`PIPELINE`] requests are open with a neighbour, or [`PIPELINE_OF_FEW`]
//!    where there are few. With more, uplinks are over-promised and the mesh collapses.
//! 2. *One holder a piece.* A second one gets a request only if the piece is late (`lateness.rs`). The first block of either
//!    cancels the other, if that has not begun (`arrival.rs`).
//! 3. *Deadlines near the playhead*: pieces due within [`SOON`] go first, earliest first. *Elsewhere rarest first, newest among
//!    equals* (BEP 3; Bonald et al., SIGMETRICS 2008), ties at random.
//! 4. *Holders by measured time*: a neighbour that takes much longer than the best gets a request only if nobody faster has
//!    promised the piece within [`DEFER`], or if time runs out. A dialable node most of whose neighbours are hidden treats its
//!    dialable neighbours in the same way (`neighbourhood.rs`, rule 6): the hidden ones need its uplink.
//! 5. *The source last*: it gets requests only for what nobody else has.
//! 6. A neighbour that has gone quiet is not counted on.
//! 7. What one neighbour began and did not finish, and what is late, goes to those that have delivered before others: a
//!    second one that only begins would let it miss its time.
//! 8. No more is asked for at one time than the line brings in a while (`intake.rs`).

use std::cmp::Reverse;
use std::time::Duration;

use minuet_proto::mesh::{Message, Request, Serial};
use rand::RngExt;
use smallvec::SmallVec;

use crate::members::neighbour::{Neighbour, Slab};
use crate::node::Node;
use crate::supply::push::{believed_transfer_us, hop_us};
use crate::trust::flood::price;
use crate::{PickOrder, Role, Timestamp};

/// Requests open with one neighbour, …
const PIPELINE: usize = 1;
/// … and where there are few. (Whoever finds few, as behind a symmetric NAT, and has slow ones among them, gets less than the
/// stream by one request each: simulated, one with eight links got half of it.)
const PIPELINE_OF_FEW: usize = PIPELINE.saturating_add(1);
/// Neighbours are few with so many quarters of those aimed at. With less than one quarter the node has just begun, and others
/// come.
const FEW_QUARTERS: std::ops::Range<usize> = 1..3;
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
/// How many times as dear one is that has never delivered, for what was broken off or is late.
const UNTRIED: f32 = 8.0;
/// The source is taken to be slower by so many microseconds, and one that is quiet by so many: the first is asked when others
/// are slower than anybody should be, the second when there is nobody else.
const SOURCE_COST_US: f32 = 1e6;
const QUIET_COST_US: f32 = 1e7;
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

/// How soon a piece is needed: the first of these is requested first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pressing {
    /// Due soon, at the source: all lack it, so the deadline does not say who requests which piece.
    AtSource,
    /// Due soon: the earliest first.
    Due(Timestamp),
    /// Not due soon: how rare it is decides.
    Not,
}

/// Which of pieces that are as rare is requested first. All pieces of one choice have the same variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// The newest: it is of use to others for longest.
    Newest(Reverse<u64>),
    /// The oldest, as [`PickOrder::InOrder`] says.
    Oldest(u64),
    /// At the source, any: all lack what only it has, so each requests something else, and they pass it on to each other.
    Chance(u64),
}

/// Which piece is requested of a neighbour first: the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    pressing: Pressing,
    /// Neighbours that have it: the fewest first.
    copies: u16,
    order: Order,
    /// Else all that choose among the same pieces would choose the same.
    chance: u32,
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
            let promised = self.exchange.copies(serial) > 0;
            if !self.window.held.get(serial)
                && self.exchange.requests(serial) == 0
                && !self.exchange.is_verifying(serial)
                && self.strain.asks_for(serial)
            {
                self.exchange.want(serial);
                if promised {
                    self.request_somewhere(serial, false, now);
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
            if self.window.contains(serial) && self.exchange.wanted().get(serial) {
                self.consider(from, serial, now);
            }
        } else {
            self.request_more(from, now);
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
        self.exchange.add_copy(&mut neighbour.side, serial);
    }

    pub(crate) fn on_dont_have(&mut self, from: Slab, serials: &[Serial], now: Timestamp) {
        for serial in serials {
            let recent = serial.plus(RECENT).get() > self.window.edge();
            let was_asked = |n: &Neighbour| n.side.of(serial.get()).is_some();
            if recent
                && self.neighbours.get(from).is_some_and(was_asked)
                && self.charge_flood(from, price::BROKEN_PROMISE, now)
            {
                return;
            }
            if let Some(neighbour) = self.neighbours.get_mut(from) {
                neighbour.note_answer(serial.get());
            }
            self.drop_holder(from, serial.get());
            self.close_request(from, serial.get(), now);
        }
    }

    /// A holder is busy: it is left alone for a while. What it has begun to send it goes on with: the request that it
    /// turns away has crossed its push.
    pub(crate) fn on_reject(&mut self, from: Slab, serial: Serial, now: Timestamp) {
        let busy = self.tempo.time(BUSY);
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.note_answer(serial.get());
        // An answer to what was taken back says nothing more.
        let Some(incoming) = neighbour.side.of(serial.get()) else { return };
        let has_begun = incoming.pace.is_some();
        neighbour.busy_until = now + busy;
        if !has_begun {
            self.close_request(from, serial.get(), now);
        }
    }

    pub(crate) fn drop_holder(&mut self, from: Slab, serial: u64) {
        if !self.window.contains(serial) {
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        self.exchange.drop_copy(&mut neighbour.side, serial);
    }

    /// Takes back a request; the piece is wanted again unless somebody else is sending it.
    pub(crate) fn close_request(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if self.exchange.close(&mut neighbour.side, serial).is_some() {
            self.ended(serial, now);
        }
    }

    /// A request or a push of `serial` has ended without the piece.
    pub(crate) fn ended(&mut self, serial: u64, now: Timestamp) {
        if !self.window.contains(serial) {
            return;
        }
        let held = self.window.held.get(serial);
        let first = self.playback.next.unwrap_or(0);
        if self.exchange.requests(serial) > 0 || self.exchange.is_verifying(serial) || held {
            return;
        }
        let slot = self.window.slot_mut(serial);
        if slot.promised {
            slot.promised = false;
            self.retractions.note(now);
            self.retract(serial, now);
        }
        if serial >= first && serial < self.wanted_to && self.strain.asks_for(serial) {
            self.exchange.want(serial);
            self.request_somewhere(serial, false, now);
        }
    }

    /// `from` promised the wanted piece `serial`: ask it now, or wait for somebody better?
    fn consider(&mut self, from: Slab, serial: u64, now: Timestamp) {
        let reserve = self.reserve();
        let Some(neighbour) = self.neighbours.get(from) else { return };
        if neighbour.side.incoming().len() >= self.pipeline()
            || neighbour.closing
            || neighbour.flags.source && self.config.source_pushes
            || neighbour.busy_until > now
        {
            return;
        }
        let is_unsure =
            neighbour.taken == 0 && self.window.slot(serial).broken_off && self.exchange.copies(serial) > 1;
        if reserve.holds(neighbour) || is_unsure || !self.has_intake(now) {
            return;
        }
        self.request(from, serial, now);
    }

    /// Requests that may be open with one neighbour, none of them late.
    fn pipeline(&self) -> usize {
        let quarters =
            self.neighbours.len().saturating_mul(4).checked_div(self.config.neighbours).unwrap_or(usize::MAX);
        let few = FEW_QUARTERS.contains(&quarters);
        if few { PIPELINE_OF_FEW } else { PIPELINE }
    }

    /// Whether an offer of `of` is worth taking: it is served at once, so only the way and the line count.
    pub(crate) fn may_take_offer(&self, of: Slab, now: Timestamp) -> bool {
        let near = |n: &Neighbour| !n.closing && hop_us(n, &self.tempo) <= MAX_HOP_US * self.tempo.scale();
        self.has_intake(now) && self.neighbours.get(of).is_some_and(near)
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
    pub(crate) fn request_somewhere(&mut self, serial: u64, late: bool, now: Timestamp) -> bool {
        if !self.has_intake(now) {
            return false;
        }
        let (reserve, pipeline) = (self.reserve(), self.pipeline());
        let copies = self.exchange.copies(serial);
        let wary = late || self.window.slot(serial).broken_off;
        let mut found: Option<(f32, Slab)> = None;
        for (slab, neighbour) in self.neighbours.iter() {
            if neighbour.closing || !neighbour.side.has(serial) || neighbour.busy_until > now {
                continue;
            }
            let quiet = neighbour.quiet(self.quiet_after, now);
            if quiet && !late {
                continue;
            }
            // One more for what is late.
            let room = pipeline.saturating_add(late.into());
            if neighbour.side.incoming().len() >= room || neighbour.side.of(serial).is_some() {
                continue;
            }
            // A little chance, so that not all run to the same one.
            let chance = self.rng.random_range(0.5..1.5);
            let mut cost = chance * neighbour.latency_us * (1.0 + neighbour.side.incoming().len() as f32);
            if wary && neighbour.taken == 0 {
                cost *= UNTRIED;
            }
            if quiet {
                cost += QUIET_COST_US;
            }
            if neighbour.flags.source {
                if !late && copies > 1 {
                    continue;
                }
                cost += SOURCE_COST_US;
            } else if !late && reserve.holds(neighbour) {
                continue;
            }
            if found.is_none_or(|(c, _)| cost < c) {
                found = Some((cost, slab));
            }
        }
        let Some((_, slab)) = found else { return false };
        self.request(slab, serial, now);
        true
    }

    /// Asks `of` for the most wanted piece that it holds, if there is room.
    pub(crate) fn request_more(&mut self, of: Slab, now: Timestamp) {
        let (reserve, soon) = (self.reserve(), self.soon());
        let Some(neighbour) = self.neighbours.get(of) else { return };
        if neighbour.side.incoming().len() >= self.pipeline()
            || neighbour.closing
            || neighbour.busy_until > now
            || !self.has_intake(now)
        {
            return;
        }
        let reserved = reserve.holds(neighbour);
        let (from, to) = (self.window.base(), self.window.horizon());
        let mut best: Option<(Rank, u64)> = None;
        for serial in neighbour.side.pieces().iter_both(self.exchange.wanted(), from, to) {
            let copies = self.exchange.copies(serial);
            if self.playback.missed(serial, &self.window, now) {
                continue;
            }
            let due = self.playback.due(serial, &self.window).filter(|due| *due < now + soon);
            if (reserved || neighbour.flags.source && copies > 1) && due.is_none() {
                continue;
            }
            if neighbour.taken == 0 && self.window.slot(serial).broken_off && copies > 1 {
                continue;
            }
            let (copies, order) = match self.config.pick_order {
                PickOrder::RarestNewest => (copies, Order::Newest(Reverse(serial))),
                PickOrder::InOrder => (0, Order::Oldest(serial)),
            };
            let from_source = neighbour.flags.source;
            let order = if from_source { Order::Chance(self.rng.random()) } else { order };
            let pressing = match due {
                Some(_) if from_source => Pressing::AtSource,
                Some(due) => Pressing::Due(due),
                None => Pressing::Not,
            };
            let rank = Rank { pressing, copies, order, chance: self.rng.random() };
            if best.is_none_or(|(b, _)| rank < b) {
                best = Some((rank, serial));
            }
        }
        if let Some((_, serial)) = best {
            self.request(of, serial, now);
        }
    }

    pub(crate) fn request(&mut self, of: Slab, serial: u64, now: Timestamp) {
        let due_in_ms = self
            .playback
            .due(serial, &self.window)
            .filter(|due| !self.strain.stands_back() && (!self.playback.playing || *due > now))
            .map_or(0, |due| (due.since(now).as_millis() as u32).max(1));
        let Some(neighbour) = self.neighbours.get_mut(of) else { return };
        self.exchange.open(&mut neighbour.side, serial, true, now);
        self.send(of, Message::Request(Request { serial: Serial::new(serial), due_in_ms }), now);
    }

    /// A first guess of how long a neighbour takes: one round trip, and twice the time on its uplink, as far as that is
    /// believed: who claims more than anybody has would be asked before all others.
    pub(crate) fn guess_latency(&mut self, of: Slab) {
        let tempo = self.tempo;
        if let Some(neighbour) = self.neighbours.get_mut(of) {
            neighbour.latency_us = hop_us(neighbour, &tempo)
                + neighbour.rtt.as_micros() as f32 / 2.0
                + believed_transfer_us(neighbour, &tempo);
        }
    }
}
