//! One direction of a host's access line: a rate and a queue in front of it.
//!
//! Rule: a line sends one packet at a time, in the order in which they came, each for exactly `bytes / rate`
//! (rounded up to the nanosecond, so a line never sends faster than its rate). What does not fit the queue is
//! dropped when it comes (drop-tail), as home routers do. Bytes are those of the IP packet.

use std::time::Duration;

use minuet_proto::units::Rate;
use serde::Serialize;

use super::time::Time;

/// How much may wait in front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueLimit {
    /// A packet that would wait longer than this before it is sent is dropped.
    Wait(Duration),
    /// A packet is dropped when, with it, more bytes than this would be waiting or being sent.
    Bytes(u64),
}

/// What went through a line since the start. Bytes of IP packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LineCount {
    /// Packets admitted and sent, or being sent.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets dropped because the queue was full.
    pub dropped: u64,
}

/// One direction of an access line; see the module's rule.
#[derive(Debug, Clone)]
pub struct Line {
    rate: Option<Rate>,
    queue: QueueLimit,
    free_at: Time,
    count: LineCount,
}

impl Line {
    /// A line of this rate (`None`: no limit, and then no queue either).
    pub fn new(rate: Option<Rate>, queue: QueueLimit) -> Self {
        Self { rate, queue, free_at: Time::START, count: LineCount::default() }
    }

    /// Changes the rate. What already waits leaves at the rate at which it was admitted.
    pub fn set_rate(&mut self, rate: Option<Rate>) {
        self.rate = rate;
    }

    /// Changes the queue for what comes from now on.
    pub fn set_queue(&mut self, queue: QueueLimit) {
        self.queue = queue;
    }

    /// Takes a packet that comes at `now`; returns when its last byte has left, or `None` when it is dropped.
    /// Calls must come in the order of time.
    pub fn admit(&mut self, now: Time, bytes: usize) -> Option<Time> {
        let bytes = bytes as u64;
        let wait = self.free_at.since(now);
        if let Some(rate) = self.rate
            && !wait.is_zero()
            && !self.queue.has_room(wait, rate, bytes)
        {
            self.count.dropped += 1;
            return None;
        }
        self.count.packets += 1;
        self.count.bytes += bytes;
        self.free_at =
            self.free_at.max(now) + self.rate.map_or(Duration::ZERO, |rate| time_to_send(bytes, rate));
        Some(self.free_at)
    }

    /// What went through so far.
    pub fn count(&self) -> LineCount {
        self.count
    }
}

impl QueueLimit {
    fn has_room(self, wait: Duration, rate: Rate, bytes: u64) -> bool {
        match self {
            Self::Wait(limit) => wait <= limit,
            Self::Bytes(limit) => {
                let waiting = wait.as_nanos() * u128::from(rate.bytes_per_s()) / 1_000_000_000;
                waiting + u128::from(bytes) <= u128::from(limit)
            }
        }
    }
}

fn time_to_send(bytes: u64, rate: Rate) -> Duration {
    let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate.bytes_per_s()));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENDLESS: QueueLimit = QueueLimit::Wait(Duration::MAX);

    fn rate(bytes_per_s: u64) -> Option<Rate> {
        Some(Rate::from_bytes_per_s(bytes_per_s))
    }

    #[test]
    fn an_idle_line_takes_exactly_the_time_of_the_bytes() {
        let mut line = Line::new(rate(1_000_000), ENDLESS);
        let at = Time::from(Duration::from_secs(1));
        assert_eq!(line.admit(at, 1500), Some(at + Duration::from_micros(1500)));
        assert_eq!(line.admit(at, 500), Some(at + Duration::from_micros(2000)), "waits for the one before");
    }

    #[test]
    fn a_full_queue_drops_and_an_idle_line_never_does() {
        let mut line = Line::new(rate(1_000), QueueLimit::Bytes(2_000));
        assert!(line.admit(Time::START, 9_000).is_some(), "one packet always fits an idle line");
        assert!(line.admit(Time::START, 1).is_none());
        // After 7.5 s, 1500 bytes are left of it.
        assert!(line.admit(Time::from(Duration::from_millis(7_500)), 501).is_none());
        assert!(line.admit(Time::from(Duration::from_millis(7_500)), 500).is_some());
        assert_eq!(line.count(), LineCount { packets: 2, bytes: 9_500, dropped: 2 });
    }

    proptest! {
        /// The definition of a queue served at a rate, over any arrivals.
        #[test]
        fn sends_in_order_never_idle_never_faster(
            bytes_per_s in 1_000u64..1_000_000_000,
            arrivals in proptest::collection::vec((0u64..3_000_000, 20usize..1500), 1..200),
        ) {
            let mut line = Line::new(rate(bytes_per_s), ENDLESS);
            let (mut now, mut free_at) = (0u64, 0u64);
            for (gap, bytes) in arrivals {
                now += gap;
                let left = line.admit(Time::from_nanos(now), bytes).unwrap().as_nanos();
                let sending = left - free_at.max(now);
                prop_assert!(u128::from(sending) * u128::from(bytes_per_s) >= bytes as u128 * 1_000_000_000);
                prop_assert!(u128::from(sending - 1) * u128::from(bytes_per_s) < bytes as u128 * 1_000_000_000);
                free_at = left;
            }
        }

        #[test]
        fn nothing_admitted_waits_longer_than_the_limit(
            limit_ms in 0u64..200,
            arrivals in proptest::collection::vec((0u64..3_000_000, 20usize..1500), 1..200),
        ) {
            let limit = Duration::from_millis(limit_ms);
            let mut line = Line::new(rate(100_000), QueueLimit::Wait(limit));
            let (mut now, mut free_at) = (Time::START, Time::START);
            for (gap, bytes) in arrivals {
                now = now + Duration::from_nanos(gap);
                let waits = free_at.since(now);
                match line.admit(now, bytes) {
                    Some(left) => {
                        prop_assert!(waits <= limit);
                        free_at = left;
                    }
                    None => prop_assert!(waits > limit),
                }
            }
        }
    }
}
