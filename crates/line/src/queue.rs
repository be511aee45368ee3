//! The queue before this node's own line, from the round trips of its links.
//!
//! A round trip beyond the shortest one of late is a wait in some queue: before this node's line, or at the far end, whose
//! acknowledgements may wait there. This node's own queue delays all links alike, so it is no longer than the shortest
//! wait among them. The second shortest counts where there are links enough, since one link's base may be too long.
//!
//! Bases are the least of two minutes, in the way of LEDBAT (RFC 6817, section 4.2, `base_delay`), so another program
//! that fills the queue for so long is still seen. A link that opens while a queue stands is given a base without it:
//! otherwise newcomers would hide the queue.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The newest samples count, and looks are gone back until there are so many: jitter only adds, so the least of several
/// is the queue's.
const SAMPLES: usize = 2;
/// No older samples than this count.
const WINDOW: Duration = Duration::from_millis(300);
/// Differences of two samples count as jitter up to this: what is longer is a route that changed.
const MOST_JITTER: Duration = Duration::from_millis(200);
/// The shortest round trip is that of the last three to four spans of this: routes change.
const SPAN: Duration = Duration::from_secs(30);
/// Spans kept.
const SPANS: usize = 4;
/// With so many links the second shortest wait counts, with fewer the shortest.
const MANY: usize = 3;
/// No round trip on the Internet is shorter.
const LEAST_BASE: Duration = Duration::from_micros(100);
/// The jitter's memory in samples: RFC 3550's 16 (section 6.4.1) are so few that the mean itself jitters.
const JITTER_MEMORY: f64 = 48.0;

/// All links' waits. As many entries as there are links.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    links: HashMap<u64, Waits>,
    /// What the last look saw.
    standing: Duration,
}

#[derive(Debug)]
struct Waits {
    /// Least round trips of spans, the newest last.
    bases: VecDeque<Duration>,
    span_ends: Duration,
    /// Shortest round trip of each look in the last [`WINDOW`], with its time, the newest last.
    recent: VecDeque<(Duration, Duration)>,
    /// Mean of how much a sample is longer than the one before, and of how much it is shorter, in seconds; and how many
    /// there were, up to the means' memory.
    longer: f64,
    shorter: f64,
    samples: f64,
}

/// What is seen of the own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How long a packet waits in it.
    pub wait: Duration,
    /// How much of that may be jitter.
    pub jitter: Duration,
    /// The median round trip without it.
    pub round_trip: Duration,
}

impl Queue {
    /// Forgets links that are gone.
    pub fn retain(&mut self, mut is_up: impl FnMut(u64) -> bool) {
        self.links.retain(|link, _| is_up(*link));
    }

    /// A link's shortest round trip since the last look.
    pub fn note(&mut self, link: u64, round_trip: Duration, now: Duration) {
        let standing = self.standing;
        let waits = self.links.entry(link).or_insert_with(|| Waits {
            bases: VecDeque::from([round_trip.saturating_sub(standing).max(LEAST_BASE)]),
            span_ends: now + SPAN,
            recent: VecDeque::new(),
            longer: 0.0,
            shorter: 0.0,
            samples: 0.0,
        });
        waits.note(round_trip, now);
    }

    /// What stands in the queue now. None while no link has a fresh sample.
    pub fn look(&mut self, now: Duration) -> Option<Seen> {
        let mut samples: Vec<(Duration, u64, Duration)> = Vec::with_capacity(self.links.len());
        for (link, waits) in &self.links {
            let base = waits.base();
            let fresh = waits.recent.iter().filter(|(at, _)| *at + WINDOW > now);
            samples.extend(fresh.map(|(at, round_trip)| (*at, *link, round_trip.saturating_sub(base))));
        }
        samples.sort_unstable_by(|a, b| b.cmp(a));
        // The shortest wait of each link.
        let mut waits: Vec<(u64, Duration)> = Vec::with_capacity(self.links.len());
        let mut newest = samples.first()?.0;
        for (taken, (at, link, wait)) in samples.into_iter().enumerate() {
            if at != newest && taken >= SAMPLES {
                break;
            }
            newest = at;
            match waits.iter_mut().find(|(known, _)| *known == link) {
                Some((_, least)) => *least = wait.min(*least),
                None => waits.push((link, wait)),
            }
        }
        waits.sort_unstable_by_key(|(_, wait)| *wait);
        let (_, wait) = *waits.get(usize::from(waits.len() >= MANY))?;
        self.standing = wait;
        let known = || waits.iter().filter_map(|(link, _)| self.links.get(link));
        let mut bases: Vec<Duration> = known().map(Waits::base).collect();
        let mut jitters: Vec<f64> = known().map(|waits| waits.jitter()).collect();
        bases.sort_unstable();
        jitters.sort_unstable_by(f64::total_cmp);
        let middle = bases.len() / 2;
        Some(Seen { wait, jitter: Duration::from_secs_f64(jitters[middle]), round_trip: bases[middle] })
    }
}

impl Waits {
    fn note(&mut self, round_trip: Duration, now: Duration) {
        if self.span_ends <= now {
            self.span_ends = now + SPAN;
            self.bases.push_back(round_trip);
            if self.bases.len() > SPANS {
                self.bases.pop_front();
            }
        }
        if let Some(newest) = self.bases.back_mut() {
            *newest = (*newest).min(round_trip);
        }
        if let Some((_, before)) = self.recent.back() {
            let part =
                |longer: Duration, than: Duration| longer.saturating_sub(than).min(MOST_JITTER).as_secs_f64();
            self.samples = (self.samples + 1.0).min(JITTER_MEMORY);
            self.longer += (part(round_trip, *before) - self.longer) / self.samples;
            self.shorter += (part(*before, round_trip) - self.shorter) / self.samples;
        }
        self.recent.push_back((now, round_trip));
        while self.recent.front().is_some_and(|(at, _)| *at + WINDOW < now) {
            self.recent.pop_front();
        }
    }

    /// Mean difference of two consecutive samples, but for what a queue adds that grows or drains.
    fn jitter(&self) -> f64 {
        2.0 * self.longer.min(self.shorter)
    }

    fn base(&self) -> Duration {
        self.bases.iter().min().copied().unwrap_or_default()
    }
}
