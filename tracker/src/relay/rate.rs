//! What one client may send, so that all together stay below the limit.
//!
//! When more was relayed than may be, each client's limit is scaled down by as much at once; when there is room, it
//! grows by a tenth each time, up to what one client may send at most (additive-increase and multiplicative-decrease
//! in spirit: quick to yield, slow to take). Pure: the caller brings the byte counts.

use std::time::Duration;

/// The least that one client may send, in bytes a second, so that those who share too small a limit still get through.
pub const LEAST_CLIENT_RATE: u32 = 16_000;

/// Watches the total and keeps each client's limit.
#[derive(Debug, Clone)]
pub struct Throttle {
    most: u32,
    /// What all may send between two looks.
    budget: u64,
    client_rate: u32,
    seen: u64,
}

impl Throttle {
    /// For clients that may send `most` each and `total` together, in bytes a second, looked at every `period`.
    pub fn new(most: u32, total: u64, period: Duration) -> Self {
        let most = most.max(LEAST_CLIENT_RATE);
        let budget = u64::try_from(u128::from(total) * period.as_millis() / 1000).unwrap_or(u64::MAX);
        Self { most, budget: budget.max(1), client_rate: most, seen: 0 }
    }

    /// What one client may send at present, in bytes a second.
    pub fn client_rate(&self) -> u32 {
        self.client_rate
    }

    /// Takes note of how many bytes have been relayed since the start.
    pub fn observe(&mut self, total: u64) {
        let relayed = total.saturating_sub(self.seen);
        self.seen = total;
        let scaled = if relayed > self.budget {
            u128::from(self.client_rate) * u128::from(self.budget) / u128::from(relayed)
        } else {
            u128::from(self.client_rate) + u128::from(self.client_rate / 10)
        };
        let scaled = u32::try_from(scaled).unwrap_or(u32::MAX);
        self.client_rate = scaled.clamp(LEAST_CLIENT_RATE, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients that each send all they may for `seconds`; returns what was relayed in the last of them.
    fn crowd(throttle: &mut Throttle, clients: u64, seconds: u64) -> u64 {
        let mut last = 0;
        for _ in 0..2 * seconds {
            let sent = clients * u64::from(throttle.client_rate()) / 2;
            last = 2 * sent;
            throttle.observe(throttle.seen + sent);
        }
        last
    }

    #[test]
    fn a_crowd_shares_the_total_and_one_alone_has_its_own_again() {
        let mut throttle = Throttle::new(2_000_000, 10_000_000, Duration::from_millis(500));
        assert_eq!(crowd(&mut throttle, 3, 2), 6_000_000);
        assert_eq!(throttle.client_rate(), 2_000_000);
        let relayed = crowd(&mut throttle, 40, 5);
        assert!((9_000_000..=11_100_000).contains(&relayed), "{relayed}");
        crowd(&mut throttle, 1, 20);
        assert_eq!(throttle.client_rate(), 2_000_000);
    }

    #[test]
    fn nobody_is_cut_off_and_nothing_overflows() {
        let mut throttle = Throttle::new(u32::MAX, 1, Duration::from_millis(500));
        throttle.observe(u64::MAX);
        assert_eq!(throttle.client_rate(), LEAST_CLIENT_RATE);
        let mut throttle = Throttle::new(u32::MAX, u64::MAX, Duration::from_secs(1));
        throttle.observe(0);
        assert_eq!(throttle.client_rate(), u32::MAX);
    }
}
