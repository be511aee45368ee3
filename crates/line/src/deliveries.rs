//! How much went out and arrived lately: the transport's counts of all links, looked at now and then.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::estimate::LinkSample;

/// How long looks are kept.
const KEPT: Duration = Duration::from_millis(1200);

/// Bytes of a packet, about.
const PACKET: f64 = 1200.0;

/// Counts that only grow, of all links together.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    sent: u64,
    delivered: u64,
    lost: u64,
}

/// Sums up links that come and go. As many entries as there are links, and a second's worth of looks.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    links: HashMap<u64, Totals>,
    totals: Totals,
    looks: VecDeque<(Duration, Totals)>,
}

impl Deliveries {
    /// Takes in the counts of all links that are up, and what other parts of the program have sent since their start.
    pub fn look(&mut self, links: &[LinkSample], others: u64, now: Duration) {
        self.links.retain(|link, _| *link == OTHERS || links.iter().any(|sample| sample.link == *link));
        for sample in links {
            let counts = Totals {
                sent: sample.sent_bytes,
                delivered: sample.delivered_bytes,
                lost: sample.lost_bytes,
            };
            self.add(sample.link, counts);
        }
        // What others send is acknowledged elsewhere; it counts as arrived.
        self.add(OTHERS, Totals { sent: others, delivered: others, lost: 0 });
        self.looks.push_back((now, self.totals));
        while self.looks.front().is_some_and(|(at, _)| *at + KEPT < now) {
            self.looks.pop_front();
        }
    }

    /// A link that is new begins with the counts at which it is first seen.
    fn add(&mut self, link: u64, counts: Totals) {
        let before = self.links.insert(link, counts).unwrap_or(counts);
        self.totals.sent += counts.sent.saturating_sub(before.sent);
        self.totals.delivered += counts.delivered.saturating_sub(before.delivered);
        self.totals.lost += counts.lost.saturating_sub(before.lost);
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

/// Stands for the other parts of the program in the table of links.
const OTHERS: u64 = u64::MAX;
