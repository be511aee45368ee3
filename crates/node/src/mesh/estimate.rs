//! What this node's line can send, where nobody has said so (`--upload-limit`). Pure.
//!
//! The core spaces blocks by a limit; without one each link's congestion control fills the line by itself, and all of them
//! together fill the queue before it, which every piece then waits in. So a limit is found, mostly by delay, as LEDBAT
//! (RFC 6817) does for a single connection. What a node sees of delay is not all its own doing: acknowledgements wait in
//! the queues of its neighbours, who look for their limits at the same time. So:
//! 1. *The line is full* where round trips have grown on most links that send, so that no single far end is to blame, and
//!    what is given to most of them does not go out at once, so that it is no queue on the way back; or where more is lost
//!    than a bad line loses. Then the limit becomes a part of what went out.
//! 2. *Something is full* where round trips have grown on most links, and that is all. Then the limit gives way, but not
//!    below what the stream needs.
//! 3. After either the limit stays until a queue has had time to drain.
//! 4. Else, where most of the limit was used, it grows: fast up to what the stream needs as long as the line was never
//!    full, slowly otherwise. A limit that nobody uses does not grow, since nothing was learned of it.
//! 5. It begins with what the stream needs, or [`FIRST`] if that is more, and a source never gives up the stream.

use std::{collections::HashMap, time::Duration};

use minuet_mesh::{LinkId, Timestamp};

/// The limit to begin with, in bytes a second, until the stream's rate is known: 8 Mbit/s.
const FIRST: u64 = 1_000_000;
/// What a node should send for the stream to go round, in per cent of the stream's rate: itself once, what QUIC adds, and
/// some to help out with.
const NEED: u64 = 130;
/// Never less: 1 Mbit/s. What is below is for `--upload-limit` to say.
const LEAST: u64 = 125_000;
/// Never less of what the stream needs, in per cent: a source that sends less than the stream is of no use, and a viewer
/// whose line seems to be so narrow is more likely misled.
const LEAST_OF_NEED: (u64, u64) = (85, 30);
/// Round trips of fewer links say nothing: it may be the far ends.
const FEW_LINKS: usize = 3;
/// Never more: 10 Gbit/s.
const MOST: u64 = 1_250_000_000;
/// A longer wait than this is a queue, not the jitter of a busy machine or a wireless link.
const QUEUE: Duration = Duration::from_millis(50);
/// More packets lost than this are a queue that overflows, not a bad line, in per cent.
const LOSS: u64 = 10;
/// Looks with fewer packets say nothing about loss.
const FEW_PACKETS: u64 = 20;
/// A link that sent fewer packets since the last look has no fresh round trip.
const FRESH_PACKETS: u64 = 4;
/// What becomes of a limit that fills the line, in per cent of what went out.
const BACK_OFF: u64 = 85;
/// What becomes of a limit that may be too high, in per cent.
const GIVE_WAY: u64 = 92;
/// After that the limit stays for so long: the queue drains meanwhile.
const DRAIN: Duration = Duration::from_millis(1500);
/// A limit of which so much is used grows, in per cent.
const USED: u64 = 80;
/// Growth a second: up to what the stream needs, as long as the line was never full, and otherwise.
const GROWTH: (f64, f64) = (2.0, 1.06);
/// The least round trip is that of the last one to two spans of this: routes change.
const MEMORY: Duration = Duration::from_secs(30);

/// What a link's transport has counted since it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkCounts {
    /// Bytes given to the socket.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets found lost.
    pub lost_packets: u64,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Whether something that was given to it since the last look did not go out soon.
    pub late: bool,
}

/// Finds the limit.
#[derive(Debug)]
pub(super) struct UplinkEstimate {
    limit: u64,
    /// What of the need is never given up, in per cent.
    least_of_need: u64,
    /// The need was known.
    informed: bool,
    /// What went out in the look before, in bytes a second.
    rate: u64,
    /// The line has been full.
    met: bool,
    /// No further back-off, and no growth, before this time.
    held_until: Timestamp,
    looked: Timestamp,
    /// As many as there are links.
    links: HashMap<LinkId, Known>,
}

#[derive(Debug)]
struct Known {
    before: LinkCounts,
    /// The least round trip of this span and of the one before it.
    least: (Duration, Duration),
    span_ends: Timestamp,
}

impl UplinkEstimate {
    pub fn new(is_source: bool, now: Timestamp) -> Self {
        Self {
            limit: FIRST,
            least_of_need: if is_source { LEAST_OF_NEED.0 } else { LEAST_OF_NEED.1 },
            informed: false,
            rate: 0,
            met: false,
            held_until: now,
            looked: now,
            links: HashMap::new(),
        }
    }

    /// The limit in bytes a second on the wire.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes a look at all links that are up, given the stream's rate in bytes a second; 0 where that is not known.
    pub fn look(&mut self, counts: &[(LinkId, LinkCounts)], stream: u64, now: Timestamp) {
        let elapsed = now.since(self.looked).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        self.looked = now;
        self.links.retain(|id, _| counts.iter().any(|(up, _)| up == id));
        let (mut sent_bytes, mut sent, mut lost, mut late, mut waits) = (0, 0, 0, 0, Vec::new());
        for (id, counts) in counts {
            let known = self.links.entry(*id).or_insert_with(|| Known {
                before: *counts,
                least: (counts.rtt, counts.rtt),
                span_ends: now + MEMORY,
            });
            let packets = counts.sent_packets.saturating_sub(known.before.sent_packets);
            sent_bytes += counts.sent_bytes.saturating_sub(known.before.sent_bytes);
            sent += packets;
            lost += counts.lost_packets.saturating_sub(known.before.lost_packets);
            known.before = *counts;
            if packets >= FRESH_PACKETS && !counts.rtt.is_zero() {
                waits.push(counts.rtt.saturating_sub(known.note_rtt(counts.rtt, now)));
                late += usize::from(counts.late);
            }
        }
        // A look is far shorter than what would overflow.
        let rate = (sent_bytes as f64 / elapsed) as u64;
        let before = std::mem::replace(&mut self.rate, rate);
        let need = stream.saturating_mul(NEED) / 100;
        if need > 0 && !std::mem::replace(&mut self.informed, true) {
            // A slow stream, too, is caught up with by those who join, at once.
            self.limit = need.max(FIRST);
        }
        if now < self.held_until {
            return;
        }
        let least = LEAST.max(need * self.least_of_need / 100);
        waits.sort_unstable();
        let median = waits.get(waits.len() / 2).filter(|_| waits.len() >= FEW_LINKS);
        let waiting = median.is_some_and(|median| *median > QUEUE);
        let losing = sent >= FEW_PACKETS && lost * 100 > sent * LOSS;
        if losing || waiting && late * 2 >= waits.len() {
            let out = rate.max(before);
            let out = if losing { out - out / 100 * (lost * 100 / sent).min(100) } else { out };
            self.limit = (out.min(self.limit) * BACK_OFF / 100).max(least);
            self.met = true;
            self.held_until = now + DRAIN;
        } else if waiting {
            if self.limit > need {
                self.limit = (self.limit * GIVE_WAY / 100).max(need);
                self.held_until = now + DRAIN;
            }
        } else if rate * 100 >= self.limit * USED {
            let fast = !self.met && self.limit < need;
            let factor = if fast { GROWTH.0 } else { GROWTH.1 }.powf(elapsed.min(1.0));
            self.limit = ((self.limit as f64 * factor) as u64).min(MOST);
        }
    }
}

impl Known {
    /// Takes a round trip in, and returns the least one of late.
    fn note_rtt(&mut self, rtt: Duration, now: Timestamp) -> Duration {
        if self.span_ends <= now {
            self.least = (rtt, self.least.0);
            self.span_ends = now + MEMORY;
        }
        self.least.0 = self.least.0.min(rtt);
        self.least.0.min(self.least.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_MS: u64 = 500;
    const PACKET: f64 = 1300.0;
    const MBIT: f64 = 125_000.0;

    /// A line with a queue of 200 ms before it, over which links send as much as the limit allows and is wanted.
    struct Line {
        estimate: UplinkEstimate,
        now: Timestamp,
        capacity: f64,
        wanted: f64,
        /// The stream's rate.
        stream: f64,
        /// Lost at random, wherever.
        loss: f64,
        queue: f64,
        links: Vec<(LinkId, LinkCounts)>,
        base: Vec<Duration>,
    }

    impl Line {
        fn new(mbit: f64, wanted_mbit: f64) -> Self {
            let base: Vec<Duration> = (0..10).map(|n| Duration::from_millis(20 + 14 * n)).collect();
            let counts =
                |rtt| LinkCounts { sent_bytes: 0, sent_packets: 0, lost_packets: 0, rtt, late: false };
            Self {
                estimate: UplinkEstimate::new(false, Timestamp::ZERO),
                now: Timestamp::ZERO,
                capacity: mbit * MBIT,
                wanted: wanted_mbit * MBIT,
                stream: 8.0 * MBIT,
                loss: 0.0,
                queue: 0.0,
                links: base.iter().zip(0..).map(|(rtt, id)| (LinkId(id), counts(*rtt))).collect(),
                base,
            }
        }

        /// Returns the mean of the limit in Mbit/s and of the queue's delay over these seconds.
        fn run(&mut self, seconds: u64) -> (f64, Duration) {
            let (mut limits, mut delays, looks) = (0.0, 0.0, seconds * 1000 / LOOK_MS);
            for _ in 0..looks {
                let time = LOOK_MS as f64 / 1000.0;
                let sent = self.wanted.min(self.estimate.limit() as f64) * time;
                self.queue = (self.queue + sent - self.capacity * time).max(0.0);
                let overflow = (self.queue - self.capacity * 0.2).max(0.0);
                self.queue -= overflow;
                let lost = overflow + sent * self.loss;
                let wait = Duration::from_secs_f64(self.queue / self.capacity);
                let share = self.links.len() as f64;
                for ((_, counts), base) in self.links.iter_mut().zip(&self.base) {
                    counts.sent_bytes += (sent / share) as u64;
                    counts.sent_packets += (sent / share / PACKET) as u64;
                    counts.lost_packets += (lost / share / PACKET) as u64;
                    counts.rtt = *base + wait;
                    // A link with much under way waits for acknowledgements before it sends more.
                    counts.late = wait > QUEUE;
                }
                self.now = self.now + Duration::from_millis(LOOK_MS);
                self.estimate.look(&self.links, self.stream as u64, self.now);
                limits += self.estimate.limit() as f64 / MBIT;
                delays += wait.as_secs_f64();
            }
            (limits / looks as f64, Duration::from_secs_f64(delays / looks as f64))
        }
    }

    #[test]
    fn a_line_is_filled_and_its_queue_is_not() {
        for mbit in [5.0, 12.0, 30.0] {
            let mut line = Line::new(mbit, f64::MAX);
            line.run(40);
            let (limit, delay) = line.run(60);
            assert!((0.75 * mbit..=1.1 * mbit).contains(&limit), "{limit} of {mbit} Mbit/s");
            assert!(delay < Duration::from_millis(60), "{mbit} Mbit/s: {delay:?}");
        }
    }

    #[test]
    fn what_the_stream_needs_is_there_at_once() {
        let mut line = Line::new(1000.0, f64::MAX);
        line.stream = 25.0 * MBIT;
        line.run(3);
        assert!(line.run(1).0 > 30.0);
    }

    #[test]
    fn what_is_not_used_is_not_learned() {
        let mut line = Line::new(1000.0, 20.0);
        line.run(30);
        let (limit, _) = line.run(60);
        assert!((21.0..=50.0).contains(&limit), "{limit}");
    }

    #[test]
    fn a_line_that_narrows_or_widens_is_followed() {
        let mut line = Line::new(20.0, f64::MAX);
        line.run(30);
        line.capacity /= 4.0;
        line.run(8);
        let (limit, delay) = line.run(20);
        assert!((3.7..=5.5).contains(&limit), "{limit}");
        assert!(delay < Duration::from_millis(70), "{delay:?}");
        line.capacity *= 4.0;
        line.run(60);
        assert!(line.run(20).0 > 14.0);
    }

    #[test]
    fn a_bad_line_is_no_narrow_one() {
        let mut line = Line::new(50.0, 9.0);
        line.loss = 0.05;
        assert!(line.run(60).0 > 9.0);
    }

    #[test]
    fn the_queue_of_one_neighbour_is_its_own() {
        let mut line = Line::new(50.0, 9.0);
        line.run(5);
        for base in &mut line.base[..4] {
            *base += Duration::from_millis(400);
        }
        assert!(line.run(60).0 > 9.0);
    }

    #[test]
    fn queues_of_all_neighbours_do_not_take_what_the_stream_needs() {
        let mut line = Line::new(50.0, 9.0);
        line.run(10);
        for round in 0..60 {
            let longer = Duration::from_millis(120 * (round % 2));
            let base = line.base.clone();
            line.base.iter_mut().for_each(|base| *base += longer);
            let (limit, _) = line.run(2);
            assert!(limit > 9.0, "{limit} in round {round}");
            line.base = base;
        }
    }

    #[test]
    fn a_source_always_sends_the_stream() {
        let mut line = Line::new(5.0, f64::MAX);
        line.estimate = UplinkEstimate::new(true, Timestamp::ZERO);
        line.run(60);
        assert!(line.run(10).0 > 8.5);
    }

    #[test]
    fn links_that_are_gone_are_forgotten() {
        let mut line = Line::new(50.0, 12.0);
        line.run(5);
        line.estimate.look(&[], 0, line.now + Duration::from_secs(1));
        assert!(line.estimate.links.is_empty());
    }
}
