//! The queue before this node's own line, from the round trips of its links.
//!
//! A round trip beyond the shortest one of late is a wait in some queue: before this node's line, or at the far end, whose
//! acknowledgements may wait there. This node's own queue delays all links alike, so it is no longer than the shortest
//! wait among them. The second shortest counts where there are links enough, since one link's base may be too long.
//!
//! A far end whose own line has a queue (an upload there, or a downlink that is full) tells of a wait that is not this
//! node's. Where it is the only one to tell for a moment, that wait would count. So what a link waits beyond the others at
//! the same time is taken off for as long as it does ([`Waits::far`]).
//!
//! Bases are the least of two minutes, in the way of LEDBAT (RFC 6817, section 4.2, `base_delay`), so another program
//! that fills the queue for so long is still seen. A link that opens while a queue stands is given a base without it, as a
//! guess: otherwise newcomers would hide the queue. Links with a base that was measured set the guess right, and they alone
//! count as long as any of them tells something; once nothing waits the newcomer's own round trips are its base. A guess
//! that stays would be a wait that never ends, since the queue changes between the two looks that it comes from.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The newest samples count, and looks are gone back until there are so many: jitter only adds, so the least of several
/// is the queue's.
const SAMPLES: usize = 2;
/// No older samples than this count.
const WINDOW: Duration = Duration::from_millis(300);
/// Three samples count that came within this time.
const TOGETHER: Duration = Duration::from_secs(1);
/// The first of them counts up to this, in seconds, …
const MOST_JITTER: f64 = 0.03;
/// … others up to so many times the mean, and so many seconds.
const ODD: f64 = 3.0;
const LEAST_ODD: f64 = 0.001;
/// The shortest round trip is that of the last three to four spans of this: routes change.
const SPAN: Duration = Duration::from_secs(30);
/// Spans kept.
const SPANS: usize = 4;
/// With so many links the second shortest wait counts, with fewer the shortest.
const MANY: usize = 3;
/// No more than this waits: the queue is empty.
const EMPTY: Duration = Duration::from_millis(5);
/// Not all of what a link waits beyond others is taken off: that much they may differ while the queue grows.
const FAR_MARGIN: Duration = Duration::from_millis(10);
/// A longer one is no measure of anything.
const MOST_ROUND_TRIP: Duration = Duration::from_secs(30);
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
    /// What its base must be, while a queue has stood before the line ever since it opened.
    guess: Option<Duration>,
    /// How much longer this link waits than others at the same time.
    far: Duration,
    /// Least round trips of spans, the newest last.
    bases: VecDeque<Duration>,
    span_ends: Duration,
    /// Shortest round trip of each look in the last [`WINDOW`], with its time, the newest last.
    recent: VecDeque<(Duration, Duration)>,
    /// The newest samples, the newest first, and when they were taken.
    newest: [Option<(Duration, Duration)>; 2],
    /// Mean of how far a sample is off the line between the one before and the one after it, in seconds; and how many
    /// there were, up to the mean's memory.
    off: f64,
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
        let round_trip = round_trip.min(MOST_ROUND_TRIP);
        let standing = self.standing;
        let waits = self.links.entry(link).or_insert_with(|| Waits {
            guess: (standing > EMPTY).then(|| round_trip.saturating_sub(standing).max(LEAST_BASE)),
            far: Duration::ZERO,
            bases: VecDeque::from([round_trip]),
            span_ends: now + SPAN,
            recent: VecDeque::new(),
            newest: [None; 2],
            off: 0.0,
            samples: 0.0,
        });
        waits.note(round_trip, now);
    }

    /// What stands in the queue now. None while no link has a fresh sample.
    pub fn look(&mut self, now: Duration) -> Option<Seen> {
        let mut samples: Vec<(Duration, u64, Duration)> = Vec::with_capacity(self.links.len());
        for (link, waits) in &self.links {
            let base = waits.base() + waits.far.saturating_sub(FAR_MARGIN);
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
        let guessed = |link: &u64| self.links.get(link).is_some_and(|waits| waits.guess.is_some());
        if waits.iter().any(|(link, _)| !guessed(link)) {
            waits.retain(|(link, _)| !guessed(link));
        }
        waits.sort_unstable_by_key(|(_, wait)| *wait);
        let (_, wait) = *waits.get(usize::from(waits.len() >= MANY))?;
        self.standing = wait;
        let fresh = |waits: &Waits| waits.recent.back().is_some_and(|(at, _)| *at == now);
        let several = self.links.values().filter(|waits| fresh(waits)).count() > 1;
        for link in self.links.values_mut().filter(|waits| fresh(waits)) {
            link.correct(wait);
            if several {
                link.compare(wait);
            }
        }
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
        if let [Some((between, middle)), Some((at, first))] = self.newest
            && at < between
            && between < now
            && at + TOGETHER > now
        {
            let part = (between - at).as_secs_f64() / (now - at).as_secs_f64();
            let (first, last) = (first.as_secs_f64(), round_trip.as_secs_f64());
            let off = (middle.as_secs_f64() - first - (last - first) * part).abs();
            // A queue that begins to drain is off that line as well, and must not look like jitter.
            let off =
                if self.samples < 1.0 { off.min(MOST_JITTER) } else { off.min(ODD * self.off + LEAST_ODD) };
            self.samples = (self.samples + 1.0).min(JITTER_MEMORY);
            self.off += (off - self.off) / self.samples;
        }
        self.newest = [Some((now, round_trip)), self.newest[0]];
        self.recent.push_back((now, round_trip));
        while self.recent.front().is_some_and(|(at, _)| *at + WINDOW < now) {
            self.recent.pop_front();
        }
    }

    /// Mean difference of two samples, but for what a queue adds that grows or drains. Of even jitter it is a third, and
    /// what was counted 0.28 of the most.
    fn jitter(&self) -> f64 {
        self.off * 1.2
    }

    fn base(&self) -> Duration {
        let measured = self.bases.iter().min().copied().unwrap_or_default();
        self.guess.map_or(measured, |guess| guess.min(measured))
    }

    /// Others wait so long at the same time.
    fn compare(&mut self, wait: Duration) {
        let Some((_, newest)) = self.recent.back() else { return };
        let far = newest.saturating_sub(self.base() + wait);
        self.far = far.min((self.far + far) / 2);
    }

    /// So much waits now. A guess that says more was too short.
    fn correct(&mut self, wait: Duration) {
        let newest = self.recent.back().map(|(_, round_trip)| round_trip.saturating_sub(wait));
        let longer = |guess: Duration| newest.map_or(guess, |newest| guess.max(newest));
        self.guess = self.guess.filter(|_| wait > EMPTY).map(longer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_link_that_opens_behind_a_queue_neither_hides_it_nor_makes_one_up() {
        let mut queue = Queue::default();
        let mut now = ms(0);
        let mut look = |links: &[(u64, u64)]| {
            now += ms(100);
            links.iter().for_each(|(link, round_trip)| queue.note(*link, ms(*round_trip), now));
            queue.look(now).map(|seen| seen.wait)
        };
        assert_eq!(look(&[(1, 50)]), Some(ms(0)));
        // The shortest of the last looks counts.
        for waits in [0, 100, 100, 100] {
            assert_eq!(look(&[(1, 150)]), Some(ms(waits)));
        }
        // The other end is 80 ms away. The queue has drained to 60 ms by the time that the first packet goes there.
        look(&[(1, 110), (2, 140)]);
        look(&[(1, 110), (2, 140)]);
        look(&[(2, 140)]);
        assert_eq!(look(&[(2, 140)]), Some(ms(60)), "it does not hide the queue");
        assert_eq!(look(&[(1, 50), (2, 80)]), Some(ms(0)));
        for _ in 0..5 {
            assert_eq!(look(&[(2, 80)]), Some(ms(0)), "nor is there one when it alone tells");
        }
        look(&[(2, 120)]);
        look(&[(2, 120)]);
        assert_eq!(look(&[(2, 120)]), Some(ms(40)));
    }

    #[test]
    fn a_wait_at_a_far_end_is_not_this_lines() {
        let mut queue = Queue::default();
        let mut now = ms(0);
        let mut look = |links: &[(u64, u64)]| {
            now += ms(100);
            links.iter().for_each(|(link, round_trip)| queue.note(*link, ms(*round_trip), now));
            queue.look(now).map_or(ms(0), |seen| seen.wait)
        };
        look(&[(1, 50), (2, 80)]);
        // Somebody uploads at the second far end.
        for _ in 0..8 {
            look(&[(1, 50), (2, 330)]);
        }
        for _ in 0..5 {
            assert!(look(&[(2, 330)]) <= ms(15));
        }
        // This line's own queue is on top of that.
        for _ in 0..5 {
            look(&[(2, 430)]);
        }
        assert!((ms(100)..ms(120)).contains(&look(&[(2, 430)])));
        // And once nobody uploads any more all is as before.
        look(&[(1, 50), (2, 80)]);
        for _ in 0..5 {
            look(&[(2, 180)]);
        }
        assert_eq!(look(&[(2, 180)]), ms(100));
    }

    #[test]
    fn a_queue_that_grows_and_drains_is_no_jitter() {
        let mut queue = Queue::default();
        let mut jitter = ms(0);
        for look in 1..200_u64 {
            // 60 ms of queue every 1.2 s, seen at uneven times.
            let now = ms(100 * look + look % 3 * 20);
            let phase = now.as_millis() as u64 % 1200;
            queue.note(1, ms(50 + phase.min(1200 - phase) / 10), now);
            jitter = queue.look(now).map_or(jitter, |seen| seen.jitter);
        }
        assert!(jitter < ms(4), "{jitter:?}");
    }
}
