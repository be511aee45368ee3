//! The way from one host's access line to another's: delay, jitter and loss, in one direction.
//!
//! Rule: without jitter a packet takes exactly the delay. Jitter adds up to its bound, evenly drawn; packets keep
//! their order (a packet is held until the one before it has arrived) unless `reorder` is on. A path has its own
//! random numbers, so what it does does not depend on traffic elsewhere.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    loss::{Loss, LossState},
    time::Time,
};

/// What a path does to packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// One way, without jitter.
    pub delay: Duration,
    /// The most that is added to the delay of a packet.
    pub jitter: Duration,
    /// Whether jitter may let a packet overtake another.
    pub reorder: bool,
    /// What is lost.
    pub loss: Loss,
}

/// One direction between two hosts; see the module's rule.
#[derive(Debug, Clone)]
pub struct Path {
    /// What it does from now on.
    pub conditions: Conditions,
    /// Everything is dropped before this time.
    pub cut_until: Time,
    loss: LossState,
    last_arrival: Time,
    rng: SmallRng,
    lost: u64,
}

impl Path {
    /// A path with these conditions and this seed for its random numbers.
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            cut_until: Time::START,
            loss: LossState::default(),
            last_arrival: Time::START,
            rng: SmallRng::seed_from_u64(seed),
            lost: 0,
        }
    }

    /// When a packet that enters at `now` arrives; `None` when it is lost. Calls must come in the order of time.
    pub fn cross(&mut self, now: Time) -> Option<Time> {
        if now < self.cut_until || self.loss.next(self.conditions.loss, &mut self.rng) {
            self.lost += 1;
            return None;
        }
        let most = u64::try_from(self.conditions.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = if most == 0 { 0 } else { self.rng.random_range(0..=most) };
        let mut arrival = now + self.conditions.delay + Duration::from_nanos(jitter);
        if !self.conditions.reorder {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        Some(arrival)
    }

    /// Packets lost or cut off so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(delay_us: u64, jitter_us: u64, reorder: bool) -> Path {
        let conditions = Conditions {
            delay: Duration::from_micros(delay_us),
            jitter: Duration::from_micros(jitter_us),
            reorder,
            loss: Loss::NONE,
        };
        Path::new(conditions, 1)
    }

    fn arrivals(path: &mut Path, gaps_us: &[u64]) -> Vec<(Time, Time)> {
        let mut now = Time::START;
        let mut seen = Vec::new();
        for gap in gaps_us {
            now = now + Duration::from_micros(*gap);
            seen.push((now, path.cross(now).unwrap()));
        }
        seen
    }

    proptest! {
        #[test]
        fn without_jitter_the_delay_is_exact(
            delay_us in 0u64..1_000_000,
            gaps_us in proptest::collection::vec(0u64..10_000, 1..100),
        ) {
            for (sent, came) in arrivals(&mut path(delay_us, 0, false), &gaps_us) {
                prop_assert_eq!(came.since(sent), Duration::from_micros(delay_us));
            }
        }

        #[test]
        fn jitter_keeps_order_and_bound_unless_told(
            delay_us in 0u64..1_000_000,
            jitter_us in 1u64..50_000,
            gaps_us in proptest::collection::vec(0u64..10_000, 1..100),
        ) {
            for reorder in [false, true] {
                let seen = arrivals(&mut path(delay_us, jitter_us, reorder), &gaps_us);
                for (sent, came) in &seen {
                    let took = came.since(*sent);
                    prop_assert!(took >= Duration::from_micros(delay_us));
                    prop_assert!(took <= Duration::from_micros(delay_us + jitter_us));
                }
                prop_assert!(reorder || seen.is_sorted_by_key(|(_, came)| *came));
            }
        }
    }

    #[test]
    fn reordering_happens_when_asked_for() {
        let seen = arrivals(&mut path(1_000, 10_000, true), &[10; 100]);
        assert!(!seen.is_sorted_by_key(|(_, came)| *came));
    }

    #[test]
    fn a_shorter_delay_lets_nothing_overtake() {
        let mut path = path(50_000, 0, false);
        let first = path.cross(Time::START).unwrap();
        path.conditions.delay = Duration::from_micros(1);
        assert_eq!(path.cross(Time::from_nanos(1)), Some(first));
    }

    #[test]
    fn a_cut_ends_by_itself() {
        let mut path = path(0, 0, false);
        path.cut_until = Time::from_nanos(100);
        assert_eq!(path.cross(Time::from_nanos(99)), None);
        assert_eq!(path.cross(Time::from_nanos(100)), Some(Time::from_nanos(100)));
        assert_eq!(path.lost(), 1);
    }
}
