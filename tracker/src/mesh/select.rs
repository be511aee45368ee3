//! Which nodes a node is told of.
//!
//! Rules:
//! 1. *Of use.* Never the asker itself, no node that is silent, and none without an address or a relay server that the asker
//!    could use.
//! 2. *Spread.* From a fresh random sample, so that the neighbours of two askers differ and no node is named to all. Nodes of a
//!    household that has more than [`FAIR`] are drawn more seldom, so that all of them together are drawn as often as [`FAIR`]
//!    nodes; the same holds for wider networks. An answer has no more than a share of one household or network ([`SHARES`]),
//!    except for the asker's own. So an address that joins hundreds of times is named little more often than one that joins once.
//! 3. *Reach.* An asker that cannot be dialled is told of dialable nodes first; holes are punched only for what is missing.
//! 4. *Givers first.* Nodes that never upload are named last. Relays come after viewers in half of the places, so that the mesh
//!    does not lean on them.
//! 5. *Keepers.* Who seeks a finished segment is told first of nodes that keep it, however few they are, in half of the places,
//!    and of nodes that sought it of late, which will have it: all who come for one segment pass it on to each other.
//! 6. *The source is spared.* In a mesh of [`SOURCE_ALWAYS_BELOW`] and more nodes only a few askers are told of it: about
//!    [`SOURCE_TOLD`] an interval, however many ask, and askers that would be told of nobody else, or of nobody who keeps what they
//!    seek. Here too a household counts for no more than [`FAIR`] nodes, as one of the mesh and as one that asks: hundreds of
//!    nodes behind one address neither hide the source from others nor are told of it in their place.

use std::{net::IpAddr, time::Duration};

use minuet_guard::net::{Net, nets};
use minuet_guard::shares::{PROVIDER_WEIGHT, SITE_WEIGHT};
use minuet_proto::SegmentSeq;
use minuet_proto::channel_api::mesh::MeshNode;
use minuet_proto::mesh::NodeId;
use smallvec::SmallVec;

use super::nodes::{Entry, NodeTable, Relay};
use super::reach::is_of_use;
use minuet_announce::time::Uptime;

/// In a smaller mesh everybody is told of the source.
pub const SOURCE_ALWAYS_BELOW: usize = 8;
/// How many of those who ask within an interval are told of the source.
pub const SOURCE_TOLD: u64 = 8;
/// For so long a node that sought a segment is named to others that seek it.
pub const SOUGHT: Duration = Duration::from_secs(60);
/// The most nodes in one answer that say they are the source.
const MOST_SOURCES: usize = 2;
/// Nodes looked at for each one wanted.
const SAMPLE_PER_WANTED: usize = 4;
/// Nodes looked at however few are wanted.
const SAMPLE_LEAST: usize = 64;
/// How many nodes of one household are drawn as often as if each had a household of its own.
const FAIR: u64 = 4;
/// The same of each of [`nets`]: household, site, provider.
const FAIR_OF: [u64; 3] = [FAIR, FAIR * SITE_WEIGHT, FAIR * PROVIDER_WEIGHT];
/// Which part of an answer may be of one household, one site, one provider: one of so many.
pub const SHARES: [usize; 3] = [8, 4, 2];
/// Nodes of one network that an answer may have however few are wanted.
const SHARE_LEAST: usize = 2;
/// How many times as many nodes are looked at where most are of crowded networks.
const CROWDED: usize = 4;
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
    /// A finished segment that it wants.
    pub seeks: Option<SegmentSeq>,
}

/// Appends up to `want` nodes for `asker` to `told`.
pub fn select(table: &NodeTable, asker: &Asker, want: usize, random: u64, told: &mut Vec<MeshNode>) {
    if want == 0 {
        return;
    }
    let mut random = Random(random);
    let mut source = Vec::new();
    let mut ranked: Vec<((u8, bool, u8), &Entry)> = Vec::new();
    let most = SAMPLE_LEAST.max(want * SAMPLE_PER_WANTED);
    let keeps = |entry: &Entry| {
        asker.seeks.is_some_and(|segment| entry.keeps_from.is_some_and(|from| from <= segment))
    };
    let fellow = |entry: &Entry| {
        let near = |(sought, until): (SegmentSeq, Uptime)| {
            until >= asker.now && asker.seeks.is_some_and(|segment| segment.0.abs_diff(sought.0) <= 1)
        };
        // It is in the table itself by now.
        entry.node != asker.node && !keeps(entry) && entry.sought.is_some_and(near)
    };
    let mut drawn = draw(table, most, &mut random);
    let size = fair_size(table, &drawn);
    if asker.seeks.is_some() {
        // They may be few among many.
        let keepers: Vec<&Entry> =
            table.entries().iter().filter(|entry| keeps(entry) || entry.source.is_some()).collect();
        let fellows: Vec<&Entry> =
            table.entries().iter().filter(|entry| fellow(entry) && entry.source.is_none()).collect();
        drawn.retain(|(entry, _)| !keeps(entry) && !fellow(entry) && entry.source.is_none());
        let keepers = sample(&keepers, most, &mut random);
        let fellows = sample(&fellows, want / 2, &mut random);
        let named = keepers.into_iter().chain(fellows);
        drawn.extend(named.map(|entry| (*entry, is_crowded(table, entry.observed, &mut random))));
    }
    let mut named_keepers = 0;
    for (entry, crowded) in drawn {
        if entry.node == asker.node || entry.expires < asker.now {
            continue;
        }
        if entry.source.is_some() {
            source.push(entry);
            continue;
        }
        let relay_last = entry.is_relay && random.below(2) == 0;
        let hidden = !asker.dialable && !entry.dialable;
        let rank = u8::from(entry.no_upload) << 2 | u8::from(hidden) << 1 | u8::from(relay_last);
        // The keepers beyond half of the places come after the fellows.
        let is_first = asker.seeks.is_none() || keeps(entry) && named_keepers < want.div_ceil(2);
        let seeks = match (is_first, fellow(entry), keeps(entry)) {
            (true, ..) => 0,
            (_, true, _) => 1,
            (.., true) => 2,
            _ => 3,
        };
        named_keepers += usize::from(keeps(entry));
        ranked.push(((seeks, crowded, rank), entry));
    }
    // Stable, so within a rank the order stays random.
    ranked.sort_by_key(|(rank, _)| *rank);
    let has_keeper = asker.seeks.is_none() || ranked.iter().any(|(_, entry)| keeps(entry));
    let spared = size >= SOURCE_ALWAYS_BELOW && !ranked.is_empty() && has_keeper;
    let tell_source =
        !spared || !is_crowded(table, asker.observed, &mut random) && random.below(size as u64) < SOURCE_TOLD;
    // A source that was started anew may be there twice for a while.
    source.truncate(if tell_source { MOST_SOURCES } else { 0 });
    let mut shares = AnswerShares::new(asker.observed, want);
    let begin = told.len();
    for entry in source.into_iter().chain(ranked.into_iter().map(|(_, entry)| entry)) {
        if told.len() - begin >= want {
            break;
        }
        if shares.has_room(entry.observed)
            && let Some(node) = describe(entry, asker)
        {
            shares.take(entry.observed);
            told.push(node);
        }
    }
}

/// Nodes drawn at random, and whether each is one too many of its networks. Where most are, more are looked at.
fn draw<'a>(table: &'a NodeTable, most: usize, random: &mut Random) -> Vec<(&'a Entry, bool)> {
    let mut look = |most: usize| -> Vec<(&'a Entry, bool)> {
        let drawn = sample(table.entries(), most, random);
        drawn.into_iter().map(|entry| (entry, is_crowded(table, entry.observed, random))).collect()
    };
    let drawn = look(most);
    let crowded = drawn.iter().filter(|(_, crowded)| *crowded).count();
    if crowded > drawn.len() / 2 && table.len() > most { look(CROWDED * most) } else { drawn }
}

/// How many nodes there would be if no network had more than its share, as far as those that were drawn tell.
fn fair_size(table: &NodeTable, drawn: &[(&Entry, bool)]) -> usize {
    let fair = drawn.iter().filter(|(_, crowded)| !crowded).count();
    (fair * table.len()).div_ceil(drawn.len().max(1)).max(1)
}

/// Draws whether a node is one too many of its networks: of a household with `n` nodes all but [`FAIR`] in `n` are.
fn is_crowded(table: &NodeTable, observed: IpAddr, random: &mut Random) -> bool {
    nets(observed).into_iter().zip(FAIR_OF).any(|(net, fair)| {
        let count = u64::from(table.of_net(net));
        count > fair && random.below(count) >= fair
    })
}

/// What each network has of an answer.
struct AnswerShares {
    own: SmallVec<[Net; 3]>,
    most: [usize; 3],
    taken: SmallVec<[(Net, usize); 32]>,
}

impl AnswerShares {
    fn new(asker: IpAddr, want: usize) -> Self {
        let most = SHARES.map(|part| (want / part).max(SHARE_LEAST));
        Self { own: nets(asker), most, taken: SmallVec::new() }
    }

    fn has_room(&self, ip: IpAddr) -> bool {
        nets(ip).into_iter().zip(self.most).all(|(net, most)| {
            self.own.contains(&net)
                || self.taken.iter().find(|(other, _)| *other == net).is_none_or(|(_, taken)| *taken < most)
        })
    }

    fn take(&mut self, ip: IpAddr) {
        for net in nets(ip) {
            match self.taken.iter_mut().find(|(other, _)| *other == net) {
                Some((_, taken)) => *taken += 1,
                None => self.taken.push((net, 1)),
            }
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

/// Up to `most` entries drawn at random, each once, in random order (Floyd's algorithm, then shuffled).
fn sample<'a, T>(entries: &'a [T], most: usize, random: &mut Random) -> Vec<&'a T> {
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
