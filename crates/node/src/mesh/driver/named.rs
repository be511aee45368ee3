//! What nodes are told of each other: addresses, judged when they come in by who names them, and when they go out by who
//! is told.
//!
//! Rules:
//! 1. What a neighbour says of itself counts as far as its packets bear it out: [`Reach::as_observed`].
//! 2. What it says of others counts as far as it may name it, [`Reach::told_by`]: nothing nearer than itself.
//! 3. Others are told of this node's neighbours alone, with the addresses that were observed here, and of addresses in a
//!    private network only if they are there: [`Reach::told_to`]. What somebody only heard of is not passed on.
//! 4. A relay server is named, and heard of, only if it is one of those in use.

use std::net::IpAddr;

use minuet_guard::contact::Teller;
use minuet_mesh::LinkId;
use minuet_proto::mesh::{Message, PeerInfo};

use super::Driver;
use crate::mesh::{link::Link, reach::Reach};

impl Driver {
    /// A message that came in, as it is to be believed.
    pub(super) fn heard(&self, from: LinkId, message: Message) -> Message {
        let (Message::Peers(peers), Some(link)) = (&message, self.links.get(&from)) else { return message };
        let observed = link.remote();
        let teller = observed.map_or(Teller::Unknown, |addr| Teller::At(addr.ip()));
        let believed = peers.iter().map(|info| {
            let claimed = self.with_used_relay(Reach::decode(&info.address));
            let is_itself = info.node == link.peer();
            let reach = if is_itself { claimed.as_observed(observed) } else { claimed.told_by(teller) };
            PeerInfo { address: reach.encode(), ..info.clone() }
        });
        Message::Peers(believed.filter(|info| !info.address.is_empty()).collect())
    }

    /// A message that goes out, as its receiver is to be told; none if nothing is left of it.
    pub(super) fn told(&self, to: &Link, message: Message) -> Option<Message> {
        let Message::Peers(peers) = message else { return Some(message) };
        let listener = to.remote().map(|addr| addr.ip());
        let told: Vec<PeerInfo> = peers.into_iter().filter_map(|info| self.told_of(info, listener)).collect();
        (!told.is_empty()).then_some(Message::Peers(told))
    }

    fn told_of(&self, info: PeerInfo, listener: Option<IpAddr>) -> Option<PeerInfo> {
        let claimed = Reach::decode(&info.address);
        let reach = if info.node == self.transport.id() {
            claimed
        } else {
            let link = self.links.values().find(|link| link.peer() == info.node)?;
            self.with_used_relay(claimed).as_observed(link.remote())
        };
        let reach = reach.told_to(listener);
        (!reach.is_empty()).then(|| PeerInfo { address: reach.encode(), ..info })
    }

    /// Neighbours that others can find, with where they were seen, for another run.
    pub(super) fn seen(&self) -> Vec<(PeerInfo, Option<IpAddr>)> {
        let seen = self.node.neighbours().into_iter().filter_map(|info| {
            let link = self.links.values().find(|link| link.peer() == info.node)?;
            Some((info, link.remote().map(|addr| addr.ip())))
        });
        seen.collect()
    }

    fn with_used_relay(&self, mut reach: Reach) -> Reach {
        reach.relay = reach.relay.filter(|url| self.transport.used_relay(url).is_some());
        reach
    }
}
