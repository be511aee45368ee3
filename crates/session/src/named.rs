//! What nodes are told of each other: addresses, judged when they come in by who names them, and when they go out by who
//! is told. Pure.
//!
//! Rules:
//! 1. What a neighbour says of itself counts as far as its packets bear it out: [`Reach::as_observed`].
//! 2. What it says of others counts as far as it may name it, [`Reach::told_by`]: nothing nearer than itself.
//! 3. Others are told of this node's neighbours alone, with the addresses that were observed here, and of addresses in a
//!    private network only if they are there: [`Reach::told_to`]. What somebody only heard of is not passed on.
//! 4. A relay server is named, and heard of, only if it is one of those in use.

use std::{collections::BTreeMap, net::IpAddr};

use minuet_guard::contact::Teller;
use minuet_mesh::LinkId;
use minuet_proto::mesh::{Message, NodeId, PeerInfo};

use crate::{Path, Reach};

/// A link, as far as it says who is where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Far {
    pub peer: NodeId,
    pub path: Path,
}

/// Who is linked, and the relay servers in use.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub links: BTreeMap<LinkId, Far>,
    pub relays: Vec<String>,
}

impl Named {
    /// A message that came in, as it is to be believed.
    pub fn heard(&self, from: LinkId, message: Message) -> Message {
        let (Message::Peers(peers), Some(link)) = (&message, self.links.get(&from)) else { return message };
        let observed = link.path.remote;
        let teller = observed.map_or(Teller::Unknown, |addr| Teller::At(addr.ip()));
        let believed = peers.iter().map(|info| {
            let claimed = self.with_used_relay(Reach::decode(&info.address));
            let is_itself = info.node == link.peer;
            let reach = if is_itself { claimed.as_observed(observed) } else { claimed.told_by(teller) };
            PeerInfo { address: reach.encode(), ..info.clone() }
        });
        Message::Peers(believed.filter(|info| !info.address.is_empty()).collect())
    }

    /// A message that this node, `own`, sends, as its receiver is to be told; none if nothing is left of it.
    pub fn told(&self, own: NodeId, to: LinkId, message: Message) -> Option<Message> {
        let Message::Peers(peers) = message else { return Some(message) };
        let listener = self.links.get(&to)?.path.remote.map(|addr| addr.ip());
        let told = peers.into_iter().filter_map(|info| self.told_of(own, info, listener));
        let told: Vec<PeerInfo> = told.collect();
        (!told.is_empty()).then_some(Message::Peers(told))
    }

    fn told_of(&self, own: NodeId, info: PeerInfo, listener: Option<IpAddr>) -> Option<PeerInfo> {
        let claimed = Reach::decode(&info.address);
        let reach = if info.node == own {
            claimed
        } else {
            let link = self.link_of(info.node)?;
            self.with_used_relay(claimed).as_observed(link.path.remote)
        };
        let reach = reach.told_to(listener);
        (!reach.is_empty()).then(|| PeerInfo { address: reach.encode(), ..info })
    }

    /// Neighbours that others can find, with where they were seen, for another run.
    pub fn seen(&self, neighbours: Vec<PeerInfo>) -> Vec<(PeerInfo, Option<IpAddr>)> {
        let seen = neighbours.into_iter().filter_map(|info| {
            let remote = self.link_of(info.node)?.path.remote;
            Some((info, remote.map(|addr| addr.ip())))
        });
        seen.collect()
    }

    fn link_of(&self, node: NodeId) -> Option<&Far> {
        self.links.values().find(|link| link.peer == node)
    }

    fn with_used_relay(&self, mut reach: Reach) -> Reach {
        reach.relay = reach.relay.filter(|url| self.relays.contains(url));
        reach
    }
}
