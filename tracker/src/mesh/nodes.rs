//! The nodes of one mesh.
//!
//! An entry belongs to a node's key *and* the household that it was seen in. The tracker does not ask for a proof of
//! the key (the link does), so a stranger may name the key of another; in this way he can add addresses that lead
//! nowhere, but neither change nor remove those of the true node. A node that moves to another network has two
//! entries until the old one expires, and is told of with the addresses of both.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use minuet_proto::channel_api::mesh::{MAX_NODE_ADDRS, MeshNode};
use minuet_proto::mesh::NodeId;
use smallvec::SmallVec;

use super::reach::{Reach, reach};
use crate::http::connections::network;
use crate::time::Uptime;

/// Where a request came from, as the tracker saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The address.
    pub ip: IpAddr,
    /// Whether the relay server that the node named is this tracker's own.
    pub own_relay: bool,
    /// Whether it was seen by another tracker, which told of it.
    pub foreign: bool,
}

impl Seen {
    /// The household.
    pub fn network(&self) -> IpAddr {
        network(self.ip)
    }
}

/// How a node can be reached through a relay server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relay {
    /// Not at all.
    None,
    /// Through this tracker's own, whose name depends on who asks; this is how the node named it.
    Own(Box<str>),
    /// Through another.
    Other(Box<str>),
}

/// What a node said of itself.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its key.
    pub node: NodeId,
    /// The address that it was seen at.
    pub observed: IpAddr,
    /// Where it may take links.
    pub addrs: SmallVec<[SocketAddr; 2]>,
    /// Its relay server.
    pub relay: Relay,
    /// Whether it can be dialled.
    pub dialable: bool,
    /// Whether it sends no pieces.
    pub no_upload: bool,
    /// Whether it has no player.
    pub is_relay: bool,
    /// Whether it says that it is the source.
    pub is_source: bool,
    /// What it promises to upload.
    pub upload_kbps: u32,
    /// Whether another tracker has told of it.
    pub foreign: bool,
    /// When it is forgotten.
    pub expires: Uptime,
}

impl Entry {
    /// As the node described itself, with the address that it was seen at among its own.
    fn described(&self) -> (MeshNode, IpAddr) {
        let relay = match &self.relay {
            Relay::None => None,
            Relay::Own(url) | Relay::Other(url) => Some(url.to_string()),
        };
        (self.to_node(self.addrs.to_vec(), relay), self.observed)
    }

    /// What is told of the node, with these ways to it.
    pub fn to_node(&self, addrs: Vec<SocketAddr>, relay: Option<String>) -> MeshNode {
        MeshNode {
            node: self.node,
            addrs,
            relay,
            dialable: self.dialable,
            no_upload: self.no_upload,
            is_relay: self.is_relay,
            is_source: self.is_source,
            upload_kbps: self.upload_kbps,
        }
    }
}

/// The nodes of one mesh, in no order.
#[derive(Debug, Default)]
pub struct NodeTable {
    entries: Vec<Entry>,
    by_key: HashMap<(NodeId, IpAddr), u32, foldhash::fast::RandomState>,
    by_network: HashMap<IpAddr, u32, foldhash::fast::RandomState>,
}

impl NodeTable {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a node or renews what is known of it, and returns whether it is new. Without `room`, or with as many
    /// nodes in its household as there may be, a new one is not taken in.
    pub fn insert(
        &mut self,
        about: &MeshNode,
        seen: &Seen,
        expires: Uptime,
        room: bool,
        most_of_network: usize,
    ) -> bool {
        let network = seen.network();
        let entry = Entry {
            node: about.node,
            observed: seen.ip,
            addrs: candidates(&about.addrs, seen.ip),
            relay: match &about.relay {
                None => Relay::None,
                Some(url) if seen.own_relay => Relay::Own(url.as_str().into()),
                Some(url) => Relay::Other(url.as_str().into()),
            },
            dialable: about.dialable,
            no_upload: about.no_upload,
            is_relay: about.is_relay,
            is_source: about.is_source,
            upload_kbps: about.upload_kbps,
            foreign: seen.foreign,
            expires,
        };
        if let Some(&at) = self.by_key.get(&(about.node, network)) {
            // What a node says here goes before what another tracker says of it.
            if self.entries[at as usize].foreign || !entry.foreign {
                self.entries[at as usize] = entry;
            }
            return false;
        }
        let of_network = self.by_network.get(&network).copied().unwrap_or(0);
        if !room || of_network as usize >= most_of_network {
            return false;
        }
        // The table is bounded far below 2^32.
        self.by_key.insert((about.node, network), self.entries.len() as u32);
        *self.by_network.entry(network).or_default() += 1;
        self.entries.push(entry);
        true
    }

    /// Up to `most` of the nodes that spoke to this tracker, as they described themselves, from `random` on.
    pub fn own_sample(&self, most: usize, random: u64) -> Vec<(MeshNode, IpAddr)> {
        // Below the length, so it fits.
        let start = random.checked_rem(self.len() as u64).unwrap_or(0) as usize;
        let (after, before) = self.entries.split_at(start);
        before.iter().chain(after).filter(|entry| !entry.foreign).take(most).map(Entry::described).collect()
    }

    /// Removes a node that was seen in `network`, and returns whether it was there.
    pub fn remove(&mut self, node: &NodeId, network: IpAddr) -> bool {
        let Some(&at) = self.by_key.get(&(*node, network)) else { return false };
        self.remove_at(at as usize);
        true
    }

    /// Forgets the silent ones and returns how many.
    pub fn expire(&mut self, now: Uptime) -> usize {
        let before = self.len();
        let mut at = 0;
        while at < self.entries.len() {
            if self.entries[at].expires < now { self.remove_at(at) } else { at += 1 }
        }
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(2 * self.entries.len());
            self.by_key.shrink_to(2 * self.entries.len());
            self.by_network.shrink_to(2 * self.entries.len());
        }
        before - self.len()
    }

    /// Bytes that the table has allocated.
    pub fn heap_bytes(&self) -> usize {
        let spilled: usize = self
            .entries
            .iter()
            .map(|entry| {
                let addrs = if entry.addrs.spilled() { entry.addrs.capacity() } else { 0 };
                let relay =
                    if let Relay::Own(url) | Relay::Other(url) = &entry.relay { url.len() } else { 0 };
                addrs * size_of::<SocketAddr>() + relay
            })
            .sum();
        self.entries.capacity() * size_of::<Entry>()
            + self.by_key.capacity() * (size_of::<((NodeId, IpAddr), u32)>() + 1)
            + self.by_network.capacity() * (size_of::<(IpAddr, u32)>() + 1)
            + spilled
    }

    fn remove_at(&mut self, at: usize) {
        let gone = self.entries.swap_remove(at);
        let network_of = |entry: &Entry| network(entry.observed);
        self.by_key.remove(&(gone.node, network_of(&gone)));
        if let Some(count) = self.by_network.get_mut(&network_of(&gone)) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&network_of(&gone));
            }
        }
        if let Some(moved) = self.entries.get(at) {
            self.by_key.insert((moved.node, network_of(moved)), at as u32);
        }
    }
}

/// The addresses to try: those that the node named and that mean a machine, and the one that it was seen at with each
/// port that it named, since it may not know what its network looks like from outside.
fn candidates(named: &[SocketAddr], seen: IpAddr) -> SmallVec<[SocketAddr; 2]> {
    let mut addrs: SmallVec<[SocketAddr; 2]> = SmallVec::new();
    let mut add = |addr: SocketAddr| {
        if addrs.len() < MAX_NODE_ADDRS && !addrs.contains(&addr) {
            addrs.push(addr);
        }
    };
    let named: SmallVec<[SocketAddr; 8]> =
        named.iter().map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port())).collect();
    // A node on the tracker's own machine is seen at a loopback address, which says nothing unless it has no other.
    if reach(seen) != Reach::Host || named.iter().all(|addr| reach(addr.ip()) <= Reach::Host) {
        named.iter().filter(|addr| addr.port() != 0).for_each(|addr| add(SocketAddr::new(seen, addr.port())));
    }
    named
        .iter()
        .filter(|addr| addr.port() != 0 && reach(addr.ip()) != Reach::None)
        .for_each(|addr| add(*addr));
    addrs.shrink_to_fit();
    addrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(named: &[&str], seen: &str) -> Vec<String> {
        let named: Vec<SocketAddr> = named.iter().map(|addr| addr.parse().unwrap()).collect();
        candidates(&named, seen.parse().unwrap()).iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn the_seen_address_is_tried_with_each_port_named() {
        assert_eq!(
            addrs(&["192.168.0.5:7", "192.168.0.5:8", "10.0.0.1:7", "0.0.0.0:9"], "203.0.113.4"),
            [
                "203.0.113.4:7",
                "203.0.113.4:8",
                "203.0.113.4:9",
                "192.168.0.5:7",
                "192.168.0.5:8",
                "10.0.0.1:7"
            ]
        );
        assert_eq!(addrs(&["203.0.113.4:7"], "203.0.113.4"), ["203.0.113.4:7"]);
        assert_eq!(addrs(&["198.51.100.2:7", "192.0.2.1:0"], "127.0.0.1"), ["198.51.100.2:7"]);
        assert_eq!(addrs(&["127.0.0.1:7", "0.0.0.0:8"], "127.0.0.1"), ["127.0.0.1:7", "127.0.0.1:8"]);
        assert!(addrs(&[], "203.0.113.4").is_empty());
    }

    #[test]
    fn nobody_names_more_addresses_than_a_node_may_have() {
        let named: Vec<SocketAddr> =
            (1..=MAX_NODE_ADDRS as u16).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        assert_eq!(candidates(&named, "203.0.113.4".parse().unwrap()).len(), MAX_NODE_ADDRS);
    }
}
