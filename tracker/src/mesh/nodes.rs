//! The nodes of one mesh.
//!
//! A node is its key, which it has proved. It has one entry, with the address that it was last seen at. What another
//! tracker tells of a node never replaces what the node said here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use minuet_guard::net::{Net, household, nets};
use minuet_proto::SegmentSeq;
use minuet_proto::channel_api::mesh::{MAX_NODE_ADDRS, MeshNode, SourceProof};
use minuet_proto::mesh::NodeId;
use smallvec::SmallVec;

use super::reach::{Reach, reach};
use minuet_announce::time::Uptime;

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
    /// The channel's word that it is the source.
    pub source: Option<Box<SourceProof>>,
    /// What it promises to upload.
    pub upload_kbps: u32,
    /// The oldest finished segment that it keeps.
    pub keeps_from: Option<SegmentSeq>,
    /// The finished segment that it sought last, and until when that is of interest to others who seek it.
    pub sought: Option<(SegmentSeq, Uptime)>,
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
            is_source: self.source.is_some(),
            source_proof: self.source.as_deref().copied(),
            upload_kbps: self.upload_kbps,
            keeps_from: self.keeps_from,
        }
    }
}

/// What came of [`NodeTable::insert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// A new entry.
    New,
    /// The node was known, and is where it was.
    Renewed,
    /// The node was known at this address.
    Moved(IpAddr),
}

/// The nodes of one mesh, in no order.
#[derive(Debug, Default)]
pub struct NodeTable {
    entries: Vec<Entry>,
    by_key: HashMap<NodeId, u32, foldhash::fast::RandomState>,
    /// How many are in each household and each wider network.
    by_net: HashMap<Net, u32, foldhash::fast::RandomState>,
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

    /// Whether a node is known.
    pub fn has(&self, node: &NodeId) -> bool {
        self.by_key.contains_key(node)
    }

    /// How many are in a network of those that [`nets`] names.
    pub fn of_net(&self, net: Net) -> u32 {
        self.by_net.get(&net).copied().unwrap_or(0)
    }

    /// Adds a node or renews what is known of it. A source is one by [`MeshNode::is_source`], which the caller has
    /// checked.
    pub fn insert(&mut self, about: &MeshNode, seen: &Seen, expires: Uptime) -> Inserted {
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
            source: about.source_proof.filter(|_| about.is_source).map(Box::new),
            upload_kbps: about.upload_kbps,
            keeps_from: about.keeps_from,
            sought: None,
            foreign: seen.foreign,
            expires,
        };
        if let Some(&at) = self.by_key.get(&about.node) {
            let known = &mut self.entries[at as usize];
            if entry.foreign && !known.foreign {
                return Inserted::Renewed;
            }
            let sought = known.sought;
            let before = std::mem::replace(known, entry).observed;
            known.sought = sought;
            if household(before) == household(seen.ip) {
                return Inserted::Renewed;
            }
            self.count(before, false);
            self.count(seen.ip, true);
            return Inserted::Moved(before);
        }
        // The table is bounded far below 2^32.
        self.by_key.insert(about.node, self.entries.len() as u32);
        self.count(seen.ip, true);
        self.entries.push(entry);
        Inserted::New
    }

    /// A node that is known seeks a finished segment, and will have it soon.
    pub fn note_sought(&mut self, node: &NodeId, segment: SegmentSeq, until: Uptime) {
        if let Some(&at) = self.by_key.get(node) {
            self.entries[at as usize].sought = Some((segment, until));
        }
    }

    /// Up to `most` of the nodes that spoke to this tracker, as they described themselves, from `random` on.
    pub fn own_sample(&self, most: usize, random: u64) -> Vec<(MeshNode, IpAddr)> {
        // Below the length, so it fits.
        let start = random.checked_rem(self.len() as u64).unwrap_or(0) as usize;
        let (after, before) = self.entries.split_at(start);
        before.iter().chain(after).filter(|entry| !entry.foreign).take(most).map(Entry::described).collect()
    }

    /// Removes a node, and returns where it was seen.
    pub fn remove(&mut self, node: &NodeId) -> Option<IpAddr> {
        let at = *self.by_key.get(node)?;
        Some(self.remove_at(at as usize).observed)
    }

    /// Removes the newest node of a household, and returns which it was. Looks at all nodes.
    pub fn remove_one_of(&mut self, net: Net) -> Option<(NodeId, IpAddr)> {
        let at = self.entries.iter().rposition(|entry| household(entry.observed) == net)?;
        let gone = self.remove_at(at);
        Some((gone.node, gone.observed))
    }

    /// Forgets the silent ones, and calls `gone` for each.
    pub fn expire(&mut self, now: Uptime, mut gone: impl FnMut(&NodeId, IpAddr)) {
        let mut at = 0;
        while at < self.entries.len() {
            if self.entries[at].expires < now {
                let entry = self.remove_at(at);
                gone(&entry.node, entry.observed);
            } else {
                at += 1;
            }
        }
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(2 * self.entries.len());
            self.by_key.shrink_to(2 * self.entries.len());
            self.by_net.shrink_to(2 * self.entries.len());
        }
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
            + self.by_key.capacity() * (size_of::<(NodeId, u32)>() + 1)
            + self.by_net.capacity() * (size_of::<(Net, u32)>() + 1)
            + spilled
    }

    fn remove_at(&mut self, at: usize) -> Entry {
        let gone = self.entries.swap_remove(at);
        self.by_key.remove(&gone.node);
        self.count(gone.observed, false);
        if let Some(moved) = self.entries.get(at) {
            self.by_key.insert(moved.node, at as u32);
        }
        gone
    }

    fn count(&mut self, ip: IpAddr, enters: bool) {
        for net in nets(ip) {
            let count = self.by_net.entry(net).or_default();
            *count = if enters { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.by_net.remove(&net);
            }
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
