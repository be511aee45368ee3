//! The tracker as a joiner meets it: one question, one answer.
//!
//! Rule: the answer is a random sample of those present (so that a crowd does not land on the same
//! few), only dialable ones for who cannot be dialled, and what the source has published by then. A
//! node that died silently stays listed until its announce is overdue.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::engine::{
    Micros, NodeId, SECOND,
    topology::{Reach, Way},
};

/// Nodes in one answer.
pub const NUMWANT: usize = 32;
/// After this long without an announce a node is forgotten.
pub const EXPIRY: Micros = 60 * SECOND;
/// Samples tried for each place in an answer before it stays empty.
const TRIES: usize = 8;

/// The tracker's table of nodes.
pub struct Tracker {
    present: Vec<(NodeId, Reach)>,
    rng: Xoshiro256PlusPlus,
}

impl Tracker {
    /// An empty tracker.
    pub fn new(seed: u64) -> Self {
        Self { present: Vec::new(), rng: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x7472_6163_6b65_7200) }
    }

    /// A node announces itself; repeated announces change nothing.
    pub fn announce(&mut self, node: NodeId, reach: Reach) {
        // Nodes announce in any order, but their numbers only grow: search from the youngest.
        if !self.present.iter().rev().any(|(known, _)| *known == node) {
            self.present.push((node, reach));
        }
    }

    /// A node has taken leave, or its time is over.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(index) = self.present.iter().position(|(known, _)| *known == node) {
            self.present.swap_remove(index);
        }
    }

    /// Up to [`NUMWANT`] others for `node`, none twice.
    pub fn sample(&mut self, node: NodeId, reach: Reach) -> Vec<NodeId> {
        let mut sample = Vec::with_capacity(NUMWANT);
        if self.present.is_empty() {
            return sample;
        }
        for _ in 0..NUMWANT * TRIES {
            let (peer, its_reach) = self.present[self.rng.random_range(0..self.present.len())];
            let reachable =
                its_reach.dialled_by(reach) != Way::None || reach.dialled_by(its_reach) != Way::None;
            if peer != node && reachable && !sample.contains(&peer) {
                sample.push(peer);
                if sample.len() == NUMWANT {
                    break;
                }
            }
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
            tracker.announce(NodeId(node), reach);
        }
        let mut seen = std::collections::BTreeSet::new();
        for node in 0..200 {
            let sample = tracker.sample(NodeId(node), Reach::DialOnly);
            assert_eq!(sample.len(), NUMWANT);
            assert!(sample.iter().all(|peer| peer.0 % 2 == 0 && peer.0 != node));
            seen.extend(sample);
        }
        assert!(seen.len() > 490, "{}", seen.len());
        tracker.forget(NodeId(0));
        assert!((0..50).all(|node| !tracker.sample(NodeId(node), Reach::Open).contains(&NodeId(0))));
    }
}
