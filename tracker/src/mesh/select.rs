//! Which nodes a node is told of.
//!
//! The rules:
//! 1. *Of use.* Never the asker itself, nobody who is silent, nobody without an address or a relay server that the
//!    asker could use.
//! 2. *Spread.* From a fresh random sample, so that the neighbours of two askers differ and nobody is told to all.
//! 3. *Reach.* One who cannot be dialled is told of those who can first; holes are punched only for what is missing.
//! 4. *Givers first.* Who never uploads is told of last, and relays come after viewers in half of the places, so that
//!    the mesh does not lean on them.
//! 5. *The source is spared.* In a mesh of [`SOURCE_ALWAYS_BELOW`] and more nodes it is told to a few only: to about
//!    [`SOURCE_TOLD`] an interval, however many ask, or to who would be told of nobody else.

use std::net::IpAddr;

use minuet_proto::channel_api::mesh::{MAX_NODE_ADDRS, MeshNode};
use minuet_proto::mesh::NodeId;

use super::nodes::{Entry, NodeTable, Relay};
use super::reach::is_of_use;
use crate::time::Uptime;

/// In a smaller mesh everybody is told of the source.
pub const SOURCE_ALWAYS_BELOW: usize = 8;
/// How many of those who ask within an interval are told of the source.
pub const SOURCE_TOLD: u64 = 8;
/// The most nodes in one answer that say they are the source.
const MOST_SOURCES: usize = 2;
/// Nodes looked at for each one wanted.
const SAMPLE_PER_WANTED: usize = 4;
/// Nodes looked at however few are wanted.
const SAMPLE_LEAST: usize = 64;
/// Stands for the tracker's own relay server in a [`MeshNode::relay`] until the answer is written, as its name depends
/// on who asks.
pub const OWN_RELAY: &str = "";

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Its key.
    pub node: NodeId,
    /// Whether others can dial it.
    pub dialable: bool,
    /// Where its question came from.
    pub observed: IpAddr,
    /// The present.
    pub now: Uptime,
}

/// Appends up to `want` nodes for `asker` to `told`.
pub fn select(table: &NodeTable, asker: &Asker, want: usize, random: u64, told: &mut Vec<MeshNode>) {
    if want == 0 {
        return;
    }
    let mut random = Random(random);
    let mut source = Vec::new();
    let mut ranked: Vec<(u8, &Entry)> = Vec::new();
    for entry in sample(table.entries(), SAMPLE_LEAST.max(want * SAMPLE_PER_WANTED), &mut random) {
        if entry.node == asker.node || entry.expires < asker.now {
            continue;
        }
        if entry.is_source {
            source.push(entry);
            continue;
        }
        let relay_last = entry.is_relay && random.below(2) == 0;
        let hidden = !asker.dialable && !entry.dialable;
        let rank = u8::from(entry.no_upload) << 2 | u8::from(hidden) << 1 | u8::from(relay_last);
        ranked.push((rank, entry));
    }
    // Stable, so within a rank the order stays random.
    ranked.sort_by_key(|(rank, _)| *rank);
    let others = table.len() as u64;
    let spared = table.len() >= SOURCE_ALWAYS_BELOW && !ranked.is_empty();
    let tell_source = !spared || random.below(others) < SOURCE_TOLD;
    // Anybody can say that it is the source; that must not bring him before all others many times.
    source.truncate(if tell_source { MOST_SOURCES } else { 0 });
    let begin = told.len();
    for entry in source.into_iter().chain(ranked.into_iter().map(|(_, entry)| entry)) {
        if let Some(known) = told[begin..].iter_mut().find(|node| node.node == entry.node) {
            merge(known, entry, asker);
        } else if told.len() - begin < want
            && let Some(node) = describe(entry, asker)
        {
            told.push(node);
        }
    }
}

/// What `asker` is told of a node; `None` when it could not reach it.
fn describe(entry: &Entry, asker: &Asker) -> Option<MeshNode> {
    let relay = match &entry.relay {
        Relay::None => None,
        Relay::Own(_) => Some(OWN_RELAY.to_owned()),
        Relay::Other(url) => Some(url.to_string()),
    };
    let addrs: Vec<_> =
        entry.addrs.iter().copied().filter(|a| is_of_use(*a, entry.observed, asker.observed)).collect();
    if addrs.is_empty() && relay.is_none() {
        return None;
    }
    Some(entry.to_node(addrs, relay))
}

/// Adds what another entry of the same key says.
fn merge(known: &mut MeshNode, entry: &Entry, asker: &Asker) {
    let Some(other) = describe(entry, asker) else { return };
    for addr in other.addrs {
        if known.addrs.len() < MAX_NODE_ADDRS && !known.addrs.contains(&addr) {
            known.addrs.push(addr);
        }
    }
    known.relay = known.relay.take().or(other.relay);
    known.dialable |= other.dialable;
}

/// Up to `most` entries drawn at random, each once, in random order (Floyd's algorithm, then shuffled).
fn sample<'a>(entries: &'a [Entry], most: usize, random: &mut Random) -> Vec<&'a Entry> {
    let count = entries.len().min(most);
    let mut chosen: Vec<usize> = Vec::with_capacity(count);
    let mut taken = std::collections::HashSet::with_capacity_and_hasher(
        count,
        foldhash::fast::FixedState::with_seed(random.next()),
    );
    for last in entries.len() - count..entries.len() {
        let drawn = random.below(last as u64 + 1) as usize;
        let drawn = if taken.insert(drawn) { drawn } else { last };
        taken.insert(drawn);
        chosen.push(drawn);
    }
    for at in (1..chosen.len()).rev() {
        chosen.swap(at, random.below(at as u64 + 1) as usize);
    }
    chosen.into_iter().map(|at| &entries[at]).collect()
}

/// Random numbers out of one seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is at least 1.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}
