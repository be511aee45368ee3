//! The meeting place of a channel's live mesh: which nodes there are, whom each is told of, and the newest heads.
//!
//! Pure: time and randomness are arguments. Nothing here is kept over a restart: nodes say where they are once an
//! interval, and the source leaves its next heads within seconds.

pub mod heads;
pub mod nodes;
pub mod nonce;
pub mod places;
pub mod reach;
pub mod select;

use std::net::IpAddr;
use std::time::Duration;

use minuet_guard::net::{Net, household};
use minuet_proto::ChannelId;
use minuet_proto::channel_api::mesh::{JoinRequest, MAX_JOIN_NODES, MeshNode};
use minuet_proto::mesh::NodeId;

use heads::HeadWindow;
use minuet_announce::time::Uptime;
use nodes::{Inserted, NodeTable, Seen};
use places::NodePlaces;
use select::Asker;

/// What bounds the meshes.
#[derive(Debug, Clone)]
pub struct MeshLimits {
    /// The most nodes of all channels, shared between households.
    pub nodes: usize,
    /// The most nodes of one channel; `None`: as many as there is room for.
    pub nodes_per_channel: Option<usize>,
    /// The most nodes of one channel behind one address (/56 for IPv6), also where there is room for more.
    pub nodes_per_address: Option<usize>,
    /// The mean time between two joins of a node.
    pub interval: Duration,
}

/// How many intervals, in halves, a node may be silent before it is forgotten: two and a half, so that one lost
/// question costs nobody its place.
const TTL_HALF_INTERVALS: u32 = 5;

/// A node's join, as the tracker sees it.
#[derive(Debug)]
pub struct Visit<'a> {
    /// What the node says. Its `is_source` has been checked.
    pub request: &'a JoinRequest,
    /// Where it came from.
    pub seen: &'a Seen,
    /// Whether it has proved its key.
    pub proved: bool,
    /// Whether there is a place for it, if it is new.
    pub room: bool,
    /// What it is told to wait, in seconds.
    pub interval: u32,
    /// The present.
    pub now: Uptime,
    /// Drawn for this visit.
    pub random: u64,
}

/// One channel's mesh.
#[derive(Debug)]
pub struct Mesh {
    channel: ChannelId,
    /// The newest heads.
    pub heads: HeadWindow,
    nodes: NodeTable,
}

impl Mesh {
    /// A mesh without nodes.
    pub fn new(channel: ChannelId) -> Self {
        Self { channel, heads: HeadWindow::default(), nodes: NodeTable::default() }
    }

    /// Whether a node is known, and so needs no place.
    pub fn has(&self, node: &NodeId) -> bool {
        self.nodes.has(node)
    }

    /// Takes in what a node says of itself, if it has proved who it is, and appends whom it is told of to `told`.
    pub fn join(
        &mut self,
        visit: &Visit<'_>,
        limits: &MeshLimits,
        places: &NodePlaces,
        told: &mut Vec<MeshNode>,
    ) {
        let Visit { request, seen, .. } = visit;
        let node = request.about.node;
        if request.leaving {
            if visit.proved
                && let Some(ip) = self.nodes.remove(&node)
            {
                places.give_back(&self.channel, &node, ip);
            }
            return;
        }
        if visit.proved {
            let ttl = u64::from(visit.interval) * u64::from(TTL_HALF_INTERVALS) / 2;
            let room = visit.room && !self.is_over(seen.ip, limits);
            self.insert(&request.about, seen, visit.now.after(Duration::from_secs(ttl)), room, places);
            if let Some(segment) = request.seeks {
                self.nodes.note_sought(&node, segment, visit.now.after(select::SOUGHT));
            }
        }
        let asker = Asker {
            node,
            dialable: request.about.dialable,
            observed: seen.ip,
            now: visit.now,
            seeks: request.seeks,
        };
        let want = usize::from(request.want).min(MAX_JOIN_NODES);
        select::select(&self.nodes, &asker, want, visit.random, told);
    }

    /// Takes in a node that another tracker has told of, until `expires`, if a place is free.
    pub fn hear_of(
        &mut self,
        node: &MeshNode,
        ip: IpAddr,
        limits: &MeshLimits,
        places: &NodePlaces,
        expires: Uptime,
    ) {
        let seen = Seen { ip, own_relay: false, foreign: true };
        let room = places.has_free() && !self.is_over(ip, limits);
        self.insert(node, &seen, expires, room, places);
    }

    /// Removes a node of a household, which has to go for another, and returns whether there was one.
    pub fn evict(&mut self, net: Net, places: &NodePlaces) -> bool {
        let gone = self.nodes.remove_one_of(net);
        gone.inspect(|(node, ip)| places.give_back(&self.channel, node, *ip)).is_some()
    }

    /// Up to `most` of the nodes that spoke to this tracker, with the addresses that they were seen at.
    pub fn own_sample(&self, most: usize, random: u64) -> Vec<(MeshNode, IpAddr)> {
        self.nodes.own_sample(most, random)
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Forgets nodes that have been silent for too long.
    pub fn expire(&mut self, now: Uptime, places: &NodePlaces) {
        let channel = &self.channel;
        self.nodes.expire(now, |node, ip| places.give_back(channel, node, ip));
    }

    /// Forgets everything, so that the nodes are counted no more.
    pub fn clear(&mut self, places: &NodePlaces) {
        self.nodes
            .entries()
            .iter()
            .for_each(|entry| places.give_back(&self.channel, &entry.node, entry.observed));
        *self = Self::new(self.channel);
    }

    /// Bytes that nodes and heads take.
    pub fn heap_bytes(&self) -> usize {
        self.nodes.heap_bytes() + self.heads.heap_bytes()
    }

    /// Whether one more from `ip` is more than the operator wants in any case.
    fn is_over(&self, ip: IpAddr, limits: &MeshLimits) -> bool {
        limits.nodes_per_channel.is_some_and(|most| self.nodes.len() >= most)
            || limits.nodes_per_address.is_some_and(|most| self.nodes.of_net(household(ip)) as usize >= most)
    }

    fn insert(&mut self, about: &MeshNode, seen: &Seen, expires: Uptime, room: bool, places: &NodePlaces) {
        if !room && !self.nodes.has(&about.node) {
            return;
        }
        match self.nodes.insert(about, seen, expires) {
            Inserted::New => places.take(&self.channel, &about.node, seen.ip),
            Inserted::Renewed => {}
            Inserted::Moved(from) => {
                places.give_back(&self.channel, &about.node, from);
                places.take(&self.channel, &about.node, seen.ip);
            }
        }
    }
}

/// Whether two addresses are of one household.
fn same_network(a: IpAddr, b: IpAddr) -> bool {
    household(a) == household(b)
}

#[cfg(test)]
mod tests;
