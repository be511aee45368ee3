//! How much went out and arrived lately: the transport's counts of all links, looked at now and then.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::estimate::LinkSample;

/// How long looks are kept.
const KEPT: Duration = Duration::from_millis(2500);

/// Bytes of a packet, about.
const PACKET: f64 = 1200.0;

/// Counts that only grow, of all links together.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    sent: u64,
    delivered: u64,
    lost: u64,
    /// Of what was sent, by other parts of the program.
    others: u64,
}

/// Sums up links that come and go. As many entries as there are links, and a second's worth of looks.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    links: HashMap<u64, Totals>,
    totals: Totals,
    others: Others,
    looks: VecDeque<(Duration, Totals)>,
}

/// What other parts of the program send. They tell it now and then, up to a second's worth at once, which would look like a
/// burst: it is spread over as long as it was sent in.
#[derive(Debug, Default)]
struct Others {
    told: Option<(Duration, u64)>,
    looked: Duration,
    /// Not taken in yet, in bytes.
    pending: f64,
    /// At which it is taken in, in bytes a second.
    rate: f64,
}

impl Others {
    /// Bytes to count as sent between the last look and this one, given the total.
    fn smooth(&mut self, total: u64, now: Duration) -> u64 {
        let (since, before) = self.told.unwrap_or((now, total));
        let elapsed = now.saturating_sub(self.looked).as_secs_f64();
        self.looked = now;
        if total != before || self.told.is_none() {
            self.told = Some((now, total));
            self.pending += total.saturating_sub(before) as f64;
            self.rate = self.pending / now.saturating_sub(since).as_secs_f64().max(elapsed).max(1e-3);
        }
        let taken = (self.rate * elapsed).min(self.pending).floor();
        self.pending -= taken;
        taken as u64
    }
}

impl Deliveries {
    /// Takes in the counts of all links that are up, and what other parts of the program have sent since their start.
    pub fn look(&mut self, links: &[LinkSample], others: u64, now: Duration) {
        self.links.retain(|link, _| links.iter().any(|sample| sample.link == *link));
        for sample in links {
            let counts = Totals {
                sent: sample.sent_bytes,
                delivered: sample.delivered_bytes,
                lost: sample.lost_bytes,
                ..Totals::default()
            };
            self.add(sample.link, counts);
        }
        // What others send is acknowledged elsewhere; it counts as arrived.
        let others = self.others.smooth(others, now);
        for total in [&mut self.totals.others, &mut self.totals.sent, &mut self.totals.delivered] {
            *total = total.saturating_add(others);
        }
        self.looks.push_back((now, self.totals));
        while self.looks.front().is_some_and(|(at, _)| *at + KEPT < now) {
            self.looks.pop_front();
        }
    }

    /// A link that is new begins with the counts at which it is first seen.
    fn add(&mut self, link: u64, counts: Totals) {
        let before = self.links.insert(link, counts).unwrap_or(counts);
        let gained = |total: &mut u64, now: u64, then: u64| {
            *total = total.saturating_add(now.saturating_sub(then));
        };
        gained(&mut self.totals.sent, counts.sent, before.sent);
        gained(&mut self.totals.delivered, counts.delivered, before.delivered);
        gained(&mut self.totals.lost, counts.lost, before.lost);
    }

    /// Bytes a second that were delivered over about the last `window`.
    pub fn delivered(&self, window: Duration) -> f64 {
        self.over(window)
            .map_or(0.0, |(before, now, seconds)| (now.delivered - before.delivered) as f64 / seconds)
    }

    /// Bytes a second that were sent over about the last `window`.
    pub fn sent(&self, window: Duration) -> f64 {
        self.over(window).map_or(0.0, |(before, now, seconds)| (now.sent - before.sent) as f64 / seconds)
    }

    /// Bytes a second that other parts of the program sent over about the last `window`.
    pub fn others(&self, window: Duration) -> f64 {
        self.over(window).map_or(0.0, |(before, now, seconds)| (now.others - before.others) as f64 / seconds)
    }

    /// Whether surely more than `bound` of what met its fate in about the last `window` was lost: by two standard
    /// deviations more, so that a few lost packets of few are none.
    pub fn overflows(&self, window: Duration, bound: f64) -> bool {
        self.over(window).is_some_and(|(before, now, _)| {
            let (lost, delivered) = (now.lost - before.lost, now.delivered - before.delivered);
            let packets = (lost + delivered) as f64 / PACKET;
            packets >= 1.0
                && lost as f64 / PACKET > bound * packets + 2.0 * (bound * (1.0 - bound) * packets).sqrt()
        })
    }

    fn over(&self, window: Duration) -> Option<(Totals, Totals, f64)> {
        let (at, now) = self.looks.back()?;
        let (since, before) =
            self.looks.iter().rev().find(|(then, _)| *then + window <= *at).or(self.looks.front())?;
        let seconds = at.saturating_sub(*since).as_secs_f64();
        (seconds > 0.0).then_some((*before, *now, seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_tell_once_a_second_is_an_even_flow() {
        let mut deliveries = Deliveries::default();
        let mut rates = Vec::new();
        for look in 0..100_u64 {
            // 100 kB a second, told once a second.
            deliveries.look(&[], look / 10 * 100_000, Duration::from_millis(100 * look));
            if look > 20 {
                rates.push(deliveries.delivered(Duration::from_millis(300)));
            }
        }
        assert!(rates.iter().all(|rate| (80_000.0..=120_000.0).contains(rate)), "{rates:?}");
    }

    #[test]
    fn a_link_counts_from_when_it_is_seen_first() {
        let mut deliveries = Deliveries::default();
        let sample = |link, bytes| LinkSample {
            link,
            sent_bytes: bytes,
            delivered_bytes: bytes,
            lost_bytes: 0,
            round_trip: None,
        };
        deliveries.look(&[sample(1, 1_000_000)], 0, Duration::ZERO);
        deliveries.look(&[sample(1, 1_001_000), sample(2, 9_000_000)], 0, Duration::from_secs(1));
        assert_eq!(deliveries.delivered(Duration::from_secs(1)), 1000.0);
        deliveries.look(&[], 0, Duration::from_secs(2));
        assert!(deliveries.links.is_empty());
    }
}
