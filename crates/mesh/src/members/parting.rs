//! How a link ends: hung up here or gone, and what counted on it goes elsewhere.

use minuet_proto::mesh::{ByeReason, Message};

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::{HangUpReason, LinkId, Output, Timestamp};

impl Node {
    /// Closes a link: its requests go elsewhere at once, its state goes with [`Input::LinkDown`].
    pub(crate) fn hang_up(&mut self, slab: Slab, reason: HangUpReason, ban: bool, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        if neighbour.closing {
            return;
        }
        neighbour.closing = true;
        let (link, node) = (neighbour.link, neighbour.node);
        if ban {
            self.bans.ban(node, now);
            self.stats.bans = self.stats.bans.saturating_add(1);
            self.candidates.forget(&node);
        }
        self.out.push_back(Output::HangUp { link, reason, ban });
        self.forget_neighbour_state(slab, now);
    }

    pub(crate) fn on_link_down(&mut self, link: LinkId, now: Timestamp) {
        let Some(slab) = self.neighbours.find(link) else { return };
        if let Some(neighbour) = self.neighbours.get_mut(slab) {
            neighbour.closing = true;
            neighbour.undrained = 0;
        }
        self.forget_neighbour_state(slab, now);
        self.offers.retain(|offer| offer.to != slab);
        self.neighbours.remove(slab);
        self.pump(now);
    }

    /// Takes back everything that counted on a neighbour.
    fn forget_neighbour_state(&mut self, slab: Slab, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        neighbour.outgoing.clear();
        for serial in self.exchange.leave(&mut neighbour.side, &self.window) {
            self.ended(serial, now);
        }
        self.forget_kept(slab);
    }

    pub(crate) fn leave(&mut self, now: Timestamp) {
        self.leaving = true;
        for slab in self.neighbours.slabs() {
            self.send(slab, Message::Bye(ByeReason::Leaving), now);
            self.hang_up(slab, HangUpReason::Leaving, false, now);
        }
    }
}
