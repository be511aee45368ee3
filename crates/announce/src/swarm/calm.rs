//! How long clients are told to wait, so that the tracker is never asked more than it can answer.
//!
//! When announces come faster than the tracker is meant to take, the interval is stretched in proportion. A stretch is
//! held until the peers that were told it have had time to come back twice, since a peer is forgotten after two of
//! the intervals that it was told.

use std::sync::atomic::{AtomicU32, Ordering};

use super::slot::MAX_PEER_TTL;
use crate::time::Uptime;

/// The longest stretch: eight times the interval.
const MOST_PERCENT: u32 = 800;

/// The present stretch of the interval. Read by every announce, renewed by one task.
#[derive(Debug)]
pub struct Calm {
    percent: AtomicU32,
    held_until: AtomicU32,
    interval_seconds: u32,
    announces_per_second: u32,
}

impl Calm {
    /// For a mean interval, and the announces a second from which on it is stretched.
    pub fn new(interval_seconds: u32, announces_per_second: u32) -> Self {
        Self {
            percent: AtomicU32::new(100),
            held_until: AtomicU32::new(0),
            interval_seconds,
            announces_per_second: announces_per_second.max(1),
        }
    }

    /// The mean interval that clients are told, in seconds.
    pub fn interval_seconds(&self) -> u32 {
        let stretched = u64::from(self.interval_seconds) * u64::from(self.percent()) / 100;
        u32::try_from(stretched).unwrap_or(u32::MAX)
    }

    /// Any other interval, stretched in the same way.
    pub fn stretched_seconds(&self, seconds: u64) -> u32 {
        u32::try_from(seconds * u64::from(self.percent()) / 100).unwrap_or(u32::MAX)
    }

    /// Seconds of silence after which a peer is forgotten: two intervals.
    pub fn ttl_seconds(&self) -> u32 {
        2 * self.interval_seconds()
    }

    /// The stretch in percent: 100 at rest.
    pub fn percent(&self) -> u32 {
        self.percent.load(Ordering::Relaxed)
    }

    /// Takes note of how many announces came in the last second.
    pub fn observe(&self, announces: u64, now: Uptime) {
        let most =
            (MAX_PEER_TTL.as_secs() as u32 * 50 / self.interval_seconds.max(1)).clamp(100, MOST_PERCENT);
        let need = announces.saturating_mul(100) / u64::from(self.announces_per_second);
        let need = u32::try_from(need).unwrap_or(u32::MAX).clamp(100, most);
        if need >= self.percent() || now.0 >= self.held_until.load(Ordering::Relaxed) {
            self.percent.store(need, Ordering::Relaxed);
            self.held_until.store(now.0.saturating_add(self.ttl_seconds()), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_stretches_with_load_and_comes_back_when_all_have_been_heard_of() {
        let calm = Calm::new(120, 1_000);
        calm.observe(900, Uptime(1));
        assert_eq!((calm.interval_seconds(), calm.ttl_seconds()), (120, 240));
        calm.observe(3_000, Uptime(2));
        assert_eq!((calm.interval_seconds(), calm.ttl_seconds()), (360, 720));
        calm.observe(10, Uptime(700));
        assert_eq!(calm.interval_seconds(), 360);
        calm.observe(10, Uptime(722));
        assert_eq!(calm.interval_seconds(), 120);
    }

    #[test]
    fn a_stretch_is_bounded_by_its_limit_and_by_the_clock_of_the_slots() {
        let calm = Calm::new(120, 1);
        calm.observe(u64::MAX, Uptime(1));
        assert_eq!(calm.percent(), MOST_PERCENT);
        for interval in [10, 120, 1_800, 4_096] {
            let calm = Calm::new(interval, 1);
            calm.observe(u64::MAX, Uptime(1));
            assert!(u64::from(calm.ttl_seconds()) <= MAX_PEER_TTL.as_secs(), "{interval}");
        }
    }
}
