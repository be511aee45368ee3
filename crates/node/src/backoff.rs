//! Waiting between tries: doubling, capped, and jittered so that those who failed together do not return together
//! ("full jitter" in the upper half, Brooker, "Exponential Backoff And Jitter", 2015).

use std::time::Duration;

/// The wait before the next try. Randomness is an argument.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is about `first`; none is longer than `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// Counts a failure and gives the wait before the next try: between half and all of the capped doubling.
    pub fn failed(&mut self, random: u32) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts over.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let waits: Vec<_> = (0..8).map(|_| backoff.failed(u32::MAX).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(backoff.failed(0), Duration::from_secs(15));
        backoff.succeeded();
        assert_eq!(backoff.failed(0), Duration::from_millis(500));
    }
}
