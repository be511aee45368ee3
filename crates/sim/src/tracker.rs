//! The tracker as a joiner meets it: one question, one answer.
//!
//! Rule: the answer is a random sample of the nodes present (so that a crowd does not land on the same few), at most
//! [`OF_ONE_NET`] of one network, and what the source has published by then. An asker that cannot be dialled is told of dialable
//! nodes only. A node that died silently stays listed until its announce is overdue.

use minuet_proto::SegmentSeq;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};

use crate::engine::{
    Micros, NodeId, SECOND,
    topology::{Reach, Way},
};

/// Nodes in one answer.
pub const NUMWANT: usize = 32;
/// Nodes of one network in one answer.
pub const OF_ONE_NET: usize = 2;
/// After this long without an announce a node is forgotten.
pub const EXPIRY: Micros = 60 * SECOND;
/// For so long one that sought something is named to those who seek the same.
pub const SOUGHT: Micros = 60 * SECOND;
/// Samples tried for each place in an answer before it stays empty.
const TRIES: usize = 8;

/// The tracker's table of nodes.
pub struct Tracker {
    /// With their reach, and whether they are of the one network that many are in.
    present: Vec<(NodeId, Reach, bool)>,
    /// Of these, those that keep what was on air before.
    keepers: Vec<(NodeId, Reach)>,
    /// Those that came for what was on air before, which segment they came for, and when.
    seekers: Vec<(NodeId, SegmentSeq, Micros)>,
    rng: Xoshiro256PlusPlus,
}

impl Tracker {
    /// An empty tracker.
    pub fn new(seed: u64) -> Self {
        Self {
            present: Vec::new(),
            keepers: Vec::new(),
            seekers: Vec::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x7472_6163_6b65_7200),
        }
    }

    /// A node announces itself; repeated announces change nothing.
    pub fn announce(&mut self, node: NodeId, reach: Reach, in_one_net: bool) {
        // Nodes announce in any order, but their numbers only grow: search from the youngest.
        if !self.present.iter().rev().any(|(known, ..)| *known == node) {
            self.present.push((node, reach, in_one_net));
        }
    }

    /// A node has taken leave, or its time is over.
    pub fn forget(&mut self, node: NodeId) {
        self.keepers.retain(|(known, _)| *known != node);
        self.seekers.retain(|(known, ..)| *known != node);
        if let Some(index) = self.present.iter().position(|(known, ..)| *known == node) {
            self.present.swap_remove(index);
        }
    }

    /// A node keeps what was on air before.
    pub fn keeps(&mut self, node: NodeId, reach: Reach) {
        if !self.keepers.iter().any(|(known, _)| *known == node) {
            self.keepers.push((node, reach));
        }
    }

    /// The same as [`sample`](Self::sample) for one that seeks what was on air before: those that keep it come first, in half of
    /// the places, then those that sought the same of late, who will have it.
    pub fn sample_keepers(
        &mut self,
        node: NodeId,
        reach: Reach,
        seeks: SegmentSeq,
        now: Micros,
    ) -> Vec<NodeId> {
        self.seekers.retain(|(_, _, at)| at + SOUGHT >= now);
        let keepers = self.keepers.iter().filter(|(peer, its_reach)| {
            *peer != node
                && (its_reach.dialled_by(reach) != Way::None || reach.dialled_by(*its_reach) != Way::None)
        });
        let mut sample: Vec<NodeId> = keepers.map(|(peer, _)| *peer).collect();
        sample.shuffle(&mut self.rng);
        let fellows =
            self.seekers.iter().filter(|(peer, of, _)| *peer != node && of.0.abs_diff(seeks.0) <= 1);
        let mut fellows: Vec<NodeId> = fellows.map(|(peer, ..)| *peer).collect();
        fellows.shuffle(&mut self.rng);
        if !self.seekers.iter().any(|(known, of, _)| *known == node && *of == seeks) {
            self.seekers.push((node, seeks, now));
        }
        sample.truncate(NUMWANT - fellows.len().min(NUMWANT / 2));
        let others = self.sample(node, reach);
        let others = fellows.into_iter().chain(others);
        for peer in others {
            if sample.len() < NUMWANT && !sample.contains(&peer) {
                sample.push(peer);
            }
        }
        sample
    }

    /// Up to [`NUMWANT`] others for `node`, none twice.
    pub fn sample(&mut self, node: NodeId, reach: Reach) -> Vec<NodeId> {
        let mut sample = Vec::with_capacity(NUMWANT);
        if self.present.is_empty() {
            return sample;
        }
        let (mut of_one_net, mut passed_over) = (0, false);
        for _ in 0..NUMWANT * TRIES {
            let (peer, its_reach, in_one_net) = self.present[self.rng.random_range(0..self.present.len())];
            let reachable =
                its_reach.dialled_by(reach) != Way::None || reach.dialled_by(its_reach) != Way::None;
            let spread = !in_one_net || of_one_net < OF_ONE_NET;
            passed_over |= !spread;
            if peer != node && reachable && spread && !sample.contains(&peer) {
                of_one_net += usize::from(in_one_net);
                sample.push(peer);
                if sample.len() == NUMWANT {
                    break;
                }
            }
        }
        // Where most are of one network, the tracker looks at more.
        if passed_over && sample.len() < NUMWANT {
            let others = self.present.iter().filter(|(peer, its_reach, in_one_net)| {
                let reachable =
                    its_reach.dialled_by(reach) != Way::None || reach.dialled_by(*its_reach) != Way::None;
                !in_one_net && *peer != node && reachable && !sample.contains(peer)
            });
            let mut others: Vec<NodeId> = others.map(|(peer, ..)| *peer).collect();
            others.shuffle(&mut self.rng);
            sample.extend(others.into_iter().take(NUMWANT - sample.len()));
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_out_and_reachable() {
        let mut tracker = Tracker::new(1);
        for node in 0..1_000 {
            let reach = if node % 2 == 0 { Reach::Open } else { Reach::DialOnly };
            tracker.announce(NodeId(node), reach, false);
        }
        let mut seen = std::collections::BTreeSet::new();
        for node in 0..200 {
            let sample = tracker.sample(NodeId(node), Reach::DialOnly);
            assert_eq!(sample.len(), NUMWANT);
            assert!(sample.iter().all(|peer| peer.0 % 2 == 0 && peer.0 != node));
            seen.extend(sample);
        }
        assert!(seen.len() > 490, "{}", seen.len());
        for node in 1_000..5_000 {
            tracker.announce(NodeId(node), Reach::Open, true);
        }
        let sample = tracker.sample(NodeId(0), Reach::Open);
        assert_eq!(sample.len(), NUMWANT);
        assert_eq!(sample.iter().filter(|peer| peer.0 >= 1_000).count(), OF_ONE_NET);
        // The few who are elsewhere are told of, however many are in the one network.
        let mut few = Tracker::new(2);
        (0..500).for_each(|node| few.announce(NodeId(node), Reach::Open, node >= 5));
        let told = few.sample(NodeId(4), Reach::Open);
        assert!((0..4).all(|node| told.contains(&NodeId(node))) && told.len() == 4 + OF_ONE_NET, "{told:?}");
        tracker.forget(NodeId(0));
        assert!((0..50).all(|node| !tracker.sample(NodeId(node), Reach::Open).contains(&NodeId(0))));
    }
}
