//! How often strangers may come, where each time costs something that lasts. Pure: time is an argument.
//!
//! Rules:
//! 1. While few come, everybody does, as many as may live behind one address.
//! 2. When more come than the common allowance holds, each household has an allowance of its own.
//! 3. Households that have theirs in full are not remembered. When too many are remembered, those that nobody knows yet
//!    share what the common allowance gains.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::net::{Net, household};

/// Households that are remembered.
const MOST: usize = 4096;

/// An allowance: so many at once, and so many a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// At once.
    pub burst: f64,
    /// A second; above 0.
    pub per_s: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Duration,
}

impl Bucket {
    fn fill(&mut self, allowance: Allowance, now: Duration) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * allowance.per_s;
        self.left = (self.left + gained).min(allowance.burst);
        self.at = self.at.max(now);
    }

    fn take(&mut self, allowance: Allowance, now: Duration) -> bool {
        self.fill(allowance, now);
        let has = self.left >= 1.0;
        if has {
            self.left -= 1.0;
        }
        has
    }
}

/// Lets strangers in, one by one.
#[derive(Debug)]
pub struct Pace {
    common: Allowance,
    own: Allowance,
    all: Bucket,
    households: HashMap<Net, Bucket>,
}

impl Pace {
    /// What all may take together, and what each household may take beyond that.
    pub fn new(common: Allowance, own: Allowance) -> Self {
        let all = Bucket { left: common.burst, at: Duration::ZERO };
        Self { common, own, all, households: HashMap::new() }
    }

    /// Whether the common allowance is used up.
    pub fn is_tight(&mut self, now: Duration) -> bool {
        self.all.fill(self.common, now);
        self.all.left < 1.0
    }

    /// Somebody at `ip` comes. False if that is too often.
    pub fn admit(&mut self, ip: IpAddr, now: Duration) -> bool {
        if self.all.take(self.common, now) {
            return true;
        }
        let net = household(ip);
        if self.households.len() >= MOST && !self.households.contains_key(&net) {
            let own = self.own;
            self.households.retain(|_, bucket| {
                bucket.fill(own, now);
                bucket.left < own.burst
            });
            if self.households.len() >= MOST {
                return false;
            }
        }
        let bucket = self.households.entry(net).or_insert(Bucket { left: self.own.burst, at: now });
        bucket.take(self.own, now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMMON: Allowance = Allowance { burst: 50.0, per_s: 10.0 };
    const OWN: Allowance = Allowance { burst: 4.0, per_s: 0.5 };

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4((0x1400_0000 + number).into())
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
                assert!(pace.admit(ip(2 + ms as u32), now), "{ms}");
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
            let each = OWN.burst + seconds * OWN.per_s;
            let most = COMMON.burst + seconds * COMMON.per_s + households.len().min(MOST) as f64 * each;
            prop_assert!(came as f64 <= most + 1.0);
            prop_assert!(pace.households.len() <= MOST);
        }
    }
}
