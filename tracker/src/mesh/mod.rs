//! The meeting place of a channel's live mesh: which nodes there are, whom each is told of, and the newest heads.
//!
//! Pure: time and randomness are arguments. Nothing here is kept over a restart: nodes say where they are once an
//! interval, and the source leaves its next heads within seconds.

pub mod heads;
pub mod nodes;
pub mod reach;
pub mod select;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use minuet_proto::channel_api::mesh::{JoinRequest, MeshNode};

use crate::time::Uptime;
use heads::HeadWindow;
use nodes::{NodeTable, Seen};
use select::Asker;

/// What bounds the meshes.
#[derive(Debug, Clone)]
pub struct MeshLimits {
    /// The most nodes of one channel.
    pub nodes_per_channel: usize,
    /// The most nodes of one channel behind one address (/56 for IPv6).
    pub nodes_per_address: usize,
    /// The most nodes of all channels.
    pub nodes: usize,
    /// The mean time between two joins of a node.
    pub interval: Duration,
}

/// How many intervals, in halves, a node may be silent before it is forgotten: two and a half, so that one lost
/// question costs nobody its place.
const TTL_HALF_INTERVALS: u32 = 5;

/// Nodes of all channels, counted to be bounded.
#[derive(Debug, Default)]
pub struct NodeCount(AtomicUsize);

impl NodeCount {
    /// How many there are.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One channel's mesh.
#[derive(Debug, Default)]
pub struct Mesh {
    /// The newest heads.
    pub heads: HeadWindow,
    nodes: NodeTable,
}

impl Mesh {
    /// Takes in what a node says of itself, and appends whom it is told of to `told`. `interval` is what the node
    /// is told to wait, in seconds.
    #[expect(clippy::too_many_arguments, reason = "all of it is what a pure function has to be told")]
    pub fn join(
        &mut self,
        request: &JoinRequest,
        seen: &Seen,
        limits: &MeshLimits,
        count: &NodeCount,
        interval: u32,
        now: Uptime,
        random: u64,
        told: &mut Vec<MeshNode>,
    ) {
        if request.leaving {
            if self.nodes.remove(&request.about.node, seen.network()) {
                count.0.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        }
        let expires = now.after(Duration::from_secs(u64::from(interval) * u64::from(TTL_HALF_INTERVALS) / 2));
        let room = count.get() < limits.nodes && self.nodes.len() < limits.nodes_per_channel;
        if self.nodes.insert(&request.about, seen, expires, room, limits.nodes_per_address) {
            count.0.fetch_add(1, Ordering::Relaxed);
        }
        let asker =
            Asker { node: request.about.node, dialable: request.about.dialable, observed: seen.ip, now };
        let want = usize::from(request.want).min(minuet_proto::channel_api::mesh::MAX_JOIN_NODES);
        select::select(&self.nodes, &asker, want, random, told);
    }

    /// Takes in a node that another tracker has told of, until `expires`.
    pub fn hear_of(
        &mut self,
        node: &MeshNode,
        ip: IpAddr,
        limits: &MeshLimits,
        count: &NodeCount,
        expires: Uptime,
    ) {
        let seen = Seen { ip, own_relay: false, foreign: true };
        let room = count.get() < limits.nodes && self.nodes.len() < limits.nodes_per_channel;
        if self.nodes.insert(node, &seen, expires, room, limits.nodes_per_address) {
            count.0.fetch_add(1, Ordering::Relaxed);
        }
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
    pub fn expire(&mut self, now: Uptime, count: &NodeCount) {
        count.0.fetch_sub(self.nodes.expire(now), Ordering::Relaxed);
    }

    /// Forgets everything, so that the nodes are counted no more.
    pub fn clear(&mut self, count: &NodeCount) {
        count.0.fetch_sub(self.nodes.len(), Ordering::Relaxed);
        *self = Self::default();
    }

    /// Bytes that nodes and heads take.
    pub fn heap_bytes(&self) -> usize {
        self.nodes.heap_bytes() + self.heads.heap_bytes()
    }
}

/// Whether two addresses are of one household.
fn same_network(a: IpAddr, b: IpAddr) -> bool {
    crate::http::connections::network(a) == crate::http::connections::network(b)
}

#[cfg(test)]
mod tests;
