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

/// Samples younger than this count, and the shortest of them: jitter only adds.
const WINDOW: Duration = Duration::from_millis(200);
/// A sample of a link with a long round trip is older when it comes; none is older than this.
const OLDEST: Duration = Duration::from_secs(1);
/// The shortest round trip is that of the last three to four spans of this: routes change.
const SPAN: Duration = Duration::from_secs(30);
/// Spans kept.
const SPANS: usize = 4;
/// With so many links the second shortest wait counts, with fewer the shortest.
const MANY: usize = 4;
/// No round trip on the Internet is shorter.
const LEAST_BASE: Duration = Duration::from_micros(100);
/// Weight of a new sample in the jitter (as RFC 3550, section 6.4.1).
const JITTER_GAIN: f64 = 1.0 / 16.0;

/// All links' waits. As many entries as there are links.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    links: HashMap<u64, Waits>,
    standing: Duration,
}

#[derive(Debug)]
struct Waits {
    /// Least round trips of spans, the newest last.
    bases: VecDeque<Duration>,
    span_ends: Duration,
    /// Shortest round trip of each look, with its time, the newest last. At most ten a second for a second.
    recent: VecDeque<(Duration, Duration)>,
    /// Mean difference of two consecutive samples, in seconds.
    jitter: f64,
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
            jitter: 0.0,
        });
        waits.note(round_trip, now);
    }

    /// What stands in the queue now. None while no link has a fresh sample.
    pub fn look(&mut self, now: Duration) -> Option<Seen> {
        let mut waits = Vec::with_capacity(self.links.len());
        let mut bases = Vec::with_capacity(self.links.len());
        let mut jitters = Vec::with_capacity(self.links.len());
        for link in self.links.values() {
            if let Some(wait) = link.wait(now) {
                waits.push(wait);
                bases.push(link.base());
                jitters.push(link.jitter);
            }
        }
        waits.sort_unstable();
        bases.sort_unstable();
        jitters.sort_unstable_by(f64::total_cmp);
        let wait = *waits.get(usize::from(waits.len() >= MANY))?;
        self.standing = wait;
        let middle = waits.len() / 2;
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
            let difference = round_trip.abs_diff(*before).min(OLDEST).as_secs_f64();
            self.jitter += JITTER_GAIN * (difference - self.jitter);
        }
        self.recent.push_back((now, round_trip));
        while self.recent.front().is_some_and(|(at, _)| *at + OLDEST < now) {
            self.recent.pop_front();
        }
    }

    fn base(&self) -> Duration {
        self.bases.iter().min().copied().unwrap_or_default()
    }

    fn wait(&self, now: Duration) -> Option<Duration> {
        let base = self.base();
        let window = WINDOW.max(base).min(OLDEST);
        let fresh = self.recent.iter().rev().take_while(|(at, _)| *at + window > now);
        fresh.map(|(_, round_trip)| round_trip.saturating_sub(base)).min()
    }
}
