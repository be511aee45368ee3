//! How often strangers may come, where each time costs something that lasts. Pure: time is an argument.
//!
//! Rules:
//! 1. While few come, everybody does, as many as may live behind one address.
//! 2. When more come than the common allowance holds, each household has an allowance of its own.
//!    Wider networks have some, too, so that many addresses of one customer are not many customers ([`Rates`]).

use std::net::IpAddr;
use std::time::Duration;

use crate::rate::{Bucket, Rates};

/// Networks that are remembered.
const MOST: usize = 8192;

/// An allowance: so many at once, and one more each time that `cost` has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// At once.
    pub burst: u32,
    /// Time for one more; above zero.
    pub cost: Duration,
}

/// Lets strangers in, one by one.
#[derive(Debug)]
pub struct Pace {
    common: Allowance,
    all: Bucket,
    households: Rates,
}

impl Pace {
    /// What all may take together, and what each household may take beyond that.
    pub fn new(common: Allowance, own: Allowance) -> Self {
        Self { common, all: Bucket::default(), households: Rates::new(own.burst, own.cost, MOST) }
    }

    /// Whether the common allowance is used up.
    pub fn is_tight(&self, now: Duration) -> bool {
        let mut all = self.all;
        !self.takes(&mut all, now)
    }

    /// Somebody at `ip` comes. False if that is too often.
    pub fn admit(&mut self, ip: IpAddr, now: Duration) -> bool {
        let mut all = self.all;
        if self.takes(&mut all, now) {
            self.all = all;
            return true;
        }
        self.households.take(ip, now)
    }

    fn takes(&self, all: &mut Bucket, now: Duration) -> bool {
        all.take(now, self.common.cost, self.common.cost.saturating_mul(self.common.burst))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMMON: Allowance = Allowance { burst: 50, cost: Duration::from_millis(100) };
    const OWN: Allowance = Allowance { burst: 4, cost: Duration::from_secs(2) };

    fn ip(number: u32) -> IpAddr {
        // Each in a /24 of its own.
        IpAddr::V4((0x1400_0000 + (number << 8)).into())
    }

    #[test]
    fn a_school_gets_in_while_there_is_room() {
        let mut pace = Pace::new(COMMON, OWN);
        let mut at = Duration::ZERO;
        for _ in 0..1000 {
            at += Duration::from_millis(101);
            assert!(pace.admit(ip(1), at));
        }
    }

    #[test]
    fn one_household_that_comes_all_the_time_keeps_nobody_out() {
        let mut pace = Pace::new(COMMON, OWN);
        let mut came = 0;
        for ms in 0..60_000 {
            let now = Duration::from_millis(ms);
            came += u32::from(pace.admit(ip(1), now));
            if ms % 1000 == 999 {
                // Each second somebody else.
                assert!(pace.admit(ip(2 + (ms / 1000) as u32), now), "{ms}");
            }
        }
        // What all may take in a minute, and what one may take beyond that.
        assert!((600..=50 + 600 + 4 + 30).contains(&came), "{came}");
    }

    proptest! {
        #[test]
        fn whoever_comes_however_often_all_that_get_in_are_bounded(
            comers in prop::collection::vec((0..100_000u32, 0..3u64), 1..5000),
        ) {
            let mut pace = Pace::new(COMMON, OWN);
            let (mut now, mut came) = (Duration::ZERO, 0);
            let mut households = std::collections::HashSet::new();
            for (number, ms) in comers {
                now += Duration::from_millis(ms);
                households.insert(number);
                came += u64::from(pace.admit(ip(number), now));
            }
            let seconds = now.as_secs_f64();
            let each = 4.0 + seconds * 0.5;
            let most = 50.0 + seconds * 10.0 + (households.len() + 1) as f64 * each;
            prop_assert!(came as f64 <= most + 1.0);
            prop_assert!(pace.households.len() <= MOST);
        }
    }
}
