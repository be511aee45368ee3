//! Packet loss: independent, or in bursts after Gilbert (1960) and Elliott (1963).
//!
//! The burst model is a chain of two states, good and bad. A packet that meets the bad state is lost. With a
//! share of losses `p` and a mean burst of `b` packets the chain leaves the bad state with probability `1/b` and
//! the good one with `p / (b (1 - p))`, so that in the long run `p` of all packets are lost.

use rand::{Rng, RngExt};

/// How packets are lost on a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Share of the packets that are lost, 0 to 1.
    pub share: f64,
    /// Mean length of a burst of losses in packets; below 1 means that each packet is lost or not by itself.
    pub mean_burst: f64,
}

impl Loss {
    /// Nothing is lost.
    pub const NONE: Self = Self { share: 0.0, mean_burst: 0.0 };
}

/// Where the chain of a path stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct LossState {
    bad: bool,
}

impl LossState {
    /// Whether the next packet is lost.
    pub fn next(&mut self, loss: Loss, rng: &mut impl Rng) -> bool {
        if loss.share <= 0.0 {
            self.bad = false;
            return false;
        }
        if loss.share >= 1.0 {
            return true;
        }
        if loss.mean_burst < 1.0 {
            return rng.random_bool(loss.share);
        }
        let change = if self.bad {
            1.0 / loss.mean_burst
        } else {
            (loss.share / (loss.mean_burst * (1.0 - loss.share))).min(1.0)
        };
        if rng.random_bool(change) {
            self.bad = !self.bad;
        }
        self.bad
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    /// Losses and bursts of them among `packets`.
    fn count(loss: Loss, packets: u32) -> (f64, f64) {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut state = LossState::default();
        let (mut lost, mut bursts, mut before) = (0u32, 0u32, false);
        for _ in 0..packets {
            let is_lost = state.next(loss, &mut rng);
            lost += u32::from(is_lost);
            bursts += u32::from(is_lost && !before);
            before = is_lost;
        }
        (f64::from(lost) / f64::from(packets), f64::from(lost) / f64::from(bursts.max(1)))
    }

    #[test]
    fn loses_the_share_it_is_told() {
        for share in [0.001, 0.02, 0.3] {
            let (lost, burst) = count(Loss { share, mean_burst: 0.0 }, 1_000_000);
            assert!((lost / share - 1.0).abs() < 0.1, "{lost} of {share}");
            assert!((burst * (1.0 - share) - 1.0).abs() < 0.05, "independent losses: bursts of {burst}");
        }
        assert_eq!(count(Loss::NONE, 1000).0, 0.0);
        assert_eq!(count(Loss { share: 1.0, mean_burst: 3.0 }, 1000).0, 1.0);
    }

    #[test]
    fn bursts_have_the_length_they_are_told() {
        for (share, mean_burst) in [(0.02, 5.0), (0.1, 20.0)] {
            let (lost, burst) = count(Loss { share, mean_burst }, 2_000_000);
            assert!((lost / share - 1.0).abs() < 0.1, "{lost} of {share}");
            assert!((burst / mean_burst - 1.0).abs() < 0.1, "{burst} of {mean_burst}");
        }
    }
}
