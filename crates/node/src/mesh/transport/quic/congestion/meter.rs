//! What is counted of a path, for the estimate of the line: bytes delivered and lost, and the shortest round trip of late.
//!
//! The transport shows a smoothed round trip only, which is a second old where an acknowledgement comes ten times a second.
//! The samples behind it are what the far end's own wait is taken off from, and they follow from two smoothed values:
//! `smoothed = 7/8 before + 1/8 sample` (RFC 9002, section 5.3).

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A path's counts since it was opened.
#[derive(Debug)]
pub(in crate::mesh) struct Meter {
    /// No other path of this process has it.
    number: u64,
    delivered: AtomicU64,
    lost: AtomicU64,
    samples: Mutex<Samples>,
}

#[derive(Debug, Default)]
struct Samples {
    /// The last smoothed value. None before the first one that a packet was measured for.
    smoothed: Option<Duration>,
    /// Values seen: the first is what the transport begins with, a guess.
    seen: u8,
    /// The shortest since it was asked for.
    shortest: Option<Duration>,
}

/// What [`Meter::take`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) struct Metered {
    /// The path's number.
    pub path: u64,
    /// Bytes acknowledged since the path was opened.
    pub delivered_bytes: u64,
    /// Bytes found lost since then.
    pub lost_bytes: u64,
    /// The shortest round trip since the last call, without the time that the far end kept its acknowledgement back.
    pub round_trip: Option<Duration>,
}

/// The number of the next path. At a thousand a second it lasts for ages.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Default for Meter {
    fn default() -> Self {
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            delivered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            samples: Mutex::default(),
        }
    }
}

impl Meter {
    /// Bytes have arrived; `smoothed` and `least` are the round trips as they were known before this acknowledgement.
    pub(super) fn acknowledged(&self, bytes: u64, smoothed: Duration, least: Duration) {
        self.delivered.fetch_add(bytes, Ordering::Relaxed);
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).note(smoothed, least);
    }

    pub(super) fn lost(&self, bytes: u64) {
        self.lost.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was counted, given the round trip as it is smoothed now.
    pub fn take(&self, smoothed: Duration) -> Metered {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.note(smoothed, Duration::ZERO);
        Metered {
            path: self.number,
            delivered_bytes: self.delivered.load(Ordering::Relaxed),
            lost_bytes: self.lost.load(Ordering::Relaxed),
            round_trip: samples.shortest.take(),
        }
    }
}

impl Samples {
    fn note(&mut self, smoothed: Duration, least: Duration) {
        let before = self.smoothed.replace(smoothed);
        if before == Some(smoothed) {
            return;
        }
        self.seen = self.seen.saturating_add(1);
        // The second value is the first packet's round trip itself; what it differs from was a guess.
        let sample = match before {
            None => return,
            Some(_) if self.seen == 2 => smoothed,
            Some(before) => (smoothed * 8).saturating_sub(before * 7),
        };
        // No sample is shorter than the shortest, but two that came between two looks may seem so.
        let sample = sample.max(least);
        if !sample.is_zero() {
            self.shortest = Some(self.shortest.map_or(sample, |shortest| shortest.min(sample)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_shortest_sample_is_found_from_smoothed_values(
            samples in proptest::collection::vec(1_000_u64..400_000, 2..40),
        ) {
            let samples: Vec<Duration> = samples.into_iter().map(Duration::from_micros).collect();
            let meter = Meter::default();
            // What the transport begins with.
            meter.acknowledged(0, Duration::from_millis(333), Duration::from_millis(333));
            let (mut smoothed, mut least) = (samples[0], samples[0]);
            for sample in &samples[1..] {
                meter.acknowledged(1000, smoothed, least);
                smoothed = (smoothed * 7 + *sample) / 8;
                least = least.min(*sample);
            }
            let metered = meter.take(smoothed);
            let shortest = samples.iter().min().copied().unwrap_or_default();
            prop_assert_eq!(metered.delivered_bytes, 1000 * (samples.len() as u64 - 1));
            let found = metered.round_trip.unwrap_or_default();
            // Rounded to a nanosecond, eight times over.
            prop_assert!(found.abs_diff(shortest) <= Duration::from_nanos(16), "{found:?}, {shortest:?}");
            prop_assert_eq!(meter.take(smoothed).round_trip, None);
        }
    }
}
