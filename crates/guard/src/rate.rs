//! How much at once, and how much in the long run: for one ([`Bucket`]), and for households and their wider networks
//! ([`Rates`]).
//!
//! An act has a cost in time: who may do ten in a second pays 100 ms for each. The only state of a bucket is the moment at
//! which all is paid (the virtual scheduling of ITU-T I.371's generic cell rate algorithm). Pure: time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::net::{Net, nets};
use crate::shares::{PROVIDER_WEIGHT, WEIGHTS};

/// What one may do. Times are since any moment, the same for all calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When all that was done is paid.
    paid: Duration,
}

impl Bucket {
    /// Pays `cost`, if no more than `burst` is owed then. Else nothing changes.
    pub fn take(&mut self, now: Duration, cost: Duration, burst: Duration) -> bool {
        let mut after = *self;
        let may = after.overdraw(now, cost, burst).is_zero();
        if may {
            *self = after;
        }
        may
    }

    /// Pays `cost` in any case, and says how long to wait until no more than `burst` is owed.
    pub fn overdraw(&mut self, now: Duration, cost: Duration, burst: Duration) -> Duration {
        self.paid = self.paid.max(now).saturating_add(cost);
        self.paid.saturating_sub(now).saturating_sub(burst)
    }

    /// Whether nothing is owed, so that it is as a new one.
    pub fn is_full(&self, now: Duration) -> bool {
        self.paid <= now
    }
}

/// Buckets of households and of their wider networks, which may do as much as [`SITE_WEIGHT`](crate::shares::SITE_WEIGHT)
/// and [`PROVIDER_WEIGHT`] households.
///
/// Bounded: networks that owe nothing are forgotten, and those for which there is no room share one bucket.
#[derive(Debug)]
pub struct Rates {
    cost: Duration,
    burst: Duration,
    most: usize,
    buckets: HashMap<Net, Bucket>,
    others: Bucket,
    /// When those that owe nothing were last looked for.
    swept: Duration,
}

/// How often those that owe nothing are looked for at most.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl Rates {
    /// Each household may do `burst` at once, and one more every `cost`. Remembers `most` networks.
    pub fn new(burst: u32, cost: Duration, most: usize) -> Self {
        let (buckets, others) = (HashMap::new(), Bucket::default());
        Self { cost, burst: cost.saturating_mul(burst), most, buckets, others, swept: Duration::ZERO }
    }

    /// Whether `ip` may do one more; then it counts as done.
    pub fn take(&mut self, ip: IpAddr, now: Duration) -> bool {
        if !self.has_room(nets(ip).len()) && now.saturating_sub(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let Some((after, others)) = self.after(ip, now) else { return false };
        self.others = others;
        self.buckets.extend(after);
        true
    }

    /// Whether `ip` may do one more. Nothing counts as done.
    pub fn may(&self, ip: IpAddr, now: Duration) -> bool {
        self.after(ip, now).is_some()
    }

    fn has_room(&self, nets: usize) -> bool {
        self.buckets.len().saturating_add(nets) <= self.most
    }

    /// The buckets once `ip` has done one more; none if it may not. Each looks at what it would be, so nothing is paid
    /// unless all agree.
    fn after(&self, ip: IpAddr, now: Duration) -> Option<(Vec<(Net, Bucket)>, Bucket)> {
        let nets = nets(ip);
        let room = self.has_room(nets.len());
        let mut others = self.others;
        let mut after = Vec::with_capacity(nets.len());
        for (net, weight) in nets.into_iter().zip(WEIGHTS) {
            let known = self.buckets.get(&net).copied().or(room.then(Bucket::default));
            let (mut bucket, weight) = known.map_or((others, PROVIDER_WEIGHT), |bucket| (bucket, weight));
            if !bucket.take(now, self.weighed(weight), self.burst) {
                return None;
            }
            match known {
                Some(_) => after.push((net, bucket)),
                None => others = bucket,
            }
        }
        Some((after, others))
    }

    /// Networks that are remembered.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn weighed(&self, weight: u64) -> Duration {
        self.cost / u32::try_from(weight).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    /// How many of `tries` in a moment are let through.
    fn burst(rates: &mut Rates, tries: u32, ip: impl Fn(u32) -> IpAddr, now: Duration) -> usize {
        (0..tries).filter(|n| rates.take(ip(*n), now)).count()
    }

    #[test]
    fn a_household_has_its_burst_and_then_its_rate() {
        let mut rates = Rates::new(10, SECOND / 2, 100);
        assert_eq!(burst(&mut rates, 1000, |_| ip(1 << 24), SECOND), 10);
        assert_eq!(burst(&mut rates, 1000, |_| ip(1 << 24), 4 * SECOND), 6);
        assert!(!rates.may(ip(1 << 24), 4 * SECOND) && rates.may(ip(2 << 24), 4 * SECOND));
        assert_eq!(burst(&mut rates, 1000, |_| ip(2 << 24), 4 * SECOND), 10, "another has its own");
    }

    #[test]
    fn a_whole_net_of_addresses_may_do_what_four_households_may() {
        let mut rates = Rates::new(10, SECOND, 10_000);
        assert_eq!(burst(&mut rates, 250 * 20, |n| ip((10 << 24) + n % 250), SECOND), 40);
    }

    #[test]
    fn what_one_sends_too_much_has_to_wait() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.overdraw(SECOND, SECOND, 2 * SECOND), Duration::ZERO);
        assert_eq!(bucket.overdraw(SECOND, 3 * SECOND, 2 * SECOND), 2 * SECOND);
        assert!(!bucket.take(2 * SECOND, SECOND, 2 * SECOND), "what was refused is not owed");
        assert!(bucket.take(4 * SECOND, SECOND, 2 * SECOND));
        assert!(!bucket.is_full(5 * SECOND) && bucket.is_full(6 * SECOND));
    }

    #[test]
    fn nobody_fills_the_table() {
        let mut rates = Rates::new(10, SECOND, 100);
        // Each of a /24 of its own, so two entries each; the others share a bucket of 64 households.
        assert_eq!(burst(&mut rates, 100_000, |n| ip(n << 8), SECOND), 50 + 64 * 10 / 2);
        assert_eq!(rates.len(), 100);
        assert!(rates.take(ip(200 << 24), 100 * SECOND));
        assert_eq!(rates.len(), 2, "who owes nothing is forgotten");
    }

    proptest! {
        #[test]
        fn no_household_does_more_than_it_may(times in prop::collection::vec(0u64..20_000, 1..400)) {
            let mut times = times;
            times.sort_unstable();
            let mut rates = Rates::new(5, SECOND, 100);
            let done = times.iter().filter(|ms| rates.take(ip(7 << 24), Duration::from_millis(**ms))).count() as u64;
            let span = (times[times.len() - 1] - times[0]) / 1000;
            prop_assert!(done <= 5 + span);
            prop_assert!(done >= (times.len() as u64).min(5));
        }
    }
}
