//! Offers: a node with uplink to spare says so.
//!
//! A node whose requests busy holders reject does not know which holders are idle. So a node that is running out of requests
//! offers the rarest piece that a neighbour lacks, and the neighbour requests the piece if it has not requested it elsewhere.
//! This binds a piece to its sender late (after Sparrow, SOSP 2013), and never makes two nodes send it. Moving a request that
//! waits elsewhere was tried: the cancel crosses the first block in one case of ten, and costs more than it gains.
//!
//! Rules:
//! 1. Neighbours that no hidden node can serve come first (`neighbourhood.rs`, rule 6), and of what they lack the rarest and
//!    newest.
//! 2. At most [`MAX_OFFERS`] offers and waiting requests are open at once, and one offer to a neighbour.
//! 3. A node forgets an offer that is not taken up within a round trip and [`GRACE`].

use std::cmp::Reverse;
use std::time::Duration;

use minuet_proto::mesh::{Message, Serial};
use rand::RngExt;

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::{Role, Timestamp};

/// Offers open at once.
const MAX_OFFERS: usize = 2;
/// At the nominal pace: how much longer than a round trip an offer stands.
const GRACE: Duration = Duration::from_millis(20);
/// While idle, how soon to look again for something to offer.
const LOOK_AGAIN: Duration = Duration::from_millis(30);
/// Pieces further behind the edge than this are not offered: who wants history asks.
const OLD: u64 = 96;

/// What is offered first: the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Hidden nodes can serve the neighbour too, and they cannot serve others: it comes after these.
    served_by_others: bool,
    /// The rarest: one copy of it lets others be made.
    copies: u16,
    /// The newest: it is needed for longest.
    newest: Reverse<u64>,
    /// Else not all would offer the same.
    chance: u32,
}

#[derive(Debug)]
pub(crate) struct Offer {
    pub to: Slab,
    pub until: Timestamp,
}

impl Node {
    /// Offers something, if there is uplink to spare. Returns when to look again.
    pub(crate) fn make_offers(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.role == Role::Source || !self.config.upload {
            return None;
        }
        self.offers.retain(|offer| offer.until > now);
        let waiting: usize = self
            .neighbours
            .iter()
            .map(|(_, n)| n.outgoing.iter().filter(|w| w.sent == 0 && self.window.holds(w.serial)).count())
            .sum();
        while self.offers.len().saturating_add(waiting) < MAX_OFFERS {
            let Some((to, serial)) = self.choose_offer() else { break };
            let Some(neighbour) = self.neighbours.get(to) else { break };
            self.offers.push(Offer { to, until: now + neighbour.rtt + self.tempo.time(GRACE) });
            self.send(to, Message::Offer(Serial::new(serial)), now);
        }
        Some(now + self.tempo.time(LOOK_AGAIN))
    }

    /// The rarest piece that is held here and lacked by a neighbour, and one such neighbour.
    fn choose_offer(&mut self) -> Option<(Slab, u64)> {
        let end = self.window.edge();
        let start = end.saturating_sub(OLD).max(self.window.base());
        let mut best: Option<(Rank, u64, Slab)> = None;
        for (slab, neighbour) in self.neighbours.iter() {
            if !neighbour.greeted
                || neighbour.closing
                || neighbour.flags.source
                || neighbour.newest.saturating_add(OLD) < end
                || self.offers.iter().any(|o| o.to == slab)
            {
                continue;
            }
            let served_by_others = self.hidden_ones_serve(neighbour);
            let from = start.max(neighbour.live_from);
            for serial in self.window.held.iter_without(neighbour.side.pieces(), from, end.max(from)) {
                if neighbour.outgoing.iter().any(|w| w.serial == serial) {
                    continue;
                }
                let copies = self.exchange.copies(serial);
                let chance = self.rng.random::<u32>();
                let rank = Rank { served_by_others, copies, newest: Reverse(serial), chance };
                if best.is_none_or(|(b, ..)| rank < b) {
                    best = Some((rank, serial, slab));
                }
            }
        }
        best.map(|(_, serial, slab)| (slab, serial))
    }

    /// A neighbour has uplink to spare.
    pub(crate) fn on_offer(&mut self, from: Slab, serial: Serial, now: Timestamp) {
        let serial = serial.get();
        self.add_holder(from, serial);
        if !self.window.contains(serial) || self.window.holds(serial) {
            return;
        }
        let nobody_sends = self.exchange.requests(serial) == 0;
        if self.exchange.is_verifying(serial) || self.coming(serial, now) || !self.may_take_offer(from, now) {
            return;
        }
        if nobody_sends && self.exchange.wanted().get(serial) && self.strain.asks_for(serial) {
            self.request(from, serial, now);
        }
    }
}
