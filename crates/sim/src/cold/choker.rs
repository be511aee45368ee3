//! Who is served: three slots for those who give most, one for somebody else (Cohen, 2003).

use rand::{RngExt, rngs::Xoshiro256PlusPlus};

/// Peers served at a time, the optimistic one included.
pub const SLOTS: usize = 4;

/// A peer as the choker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its number.
    pub peer: usize,
    /// Whether it wants anything.
    pub interested: bool,
    /// Bytes it gave since the last round.
    pub given: u64,
}

/// Who is to be unchoked until the next round. A seed is given nothing, and so serves anyone.
pub fn round(mut candidates: Vec<Candidate>, rng: &mut Xoshiro256PlusPlus) -> Vec<usize> {
    candidates.retain(|candidate| candidate.interested);
    // Shuffled first, so that equals (all of them, for a seed) take turns.
    for last in (1..candidates.len()).rev() {
        candidates.swap(last, rng.random_range(0..=last));
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.given));
    let mut chosen: Vec<usize> = candidates.iter().take(SLOTS - 1).map(|candidate| candidate.peer).collect();
    if candidates.len() >= SLOTS {
        let optimistic = rng.random_range(SLOTS - 1..candidates.len());
        chosen.push(candidates[optimistic].peer);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn those_who_give_most_are_served_and_one_more() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let candidates: Vec<Candidate> =
            (0..10).map(|peer| Candidate { peer, interested: peer != 9, given: peer as u64 * 100 }).collect();
        let mut optimistic = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let chosen = round(candidates.clone(), &mut rng);
            assert_eq!(chosen[..3], [8, 7, 6]);
            optimistic.insert(chosen[3]);
        }
        assert_eq!(optimistic.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }
}
