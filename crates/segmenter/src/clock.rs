//! The source's clock: what it signs as ingest times.
//!
//! Rule: it goes on evenly while a segment is recorded, whatever becomes of the clock on the wall. When that one was set
//! meanwhile, by hand or by NTP, the next segment begins at its new time: viewers see a gap between two segments, or
//! none where the clock was set back, but no time that runs fast, slow or backwards within one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clock on the wall has been set when it is off by more than this. Less is left as it is: a picture that would have
/// to make up for it is worse than a figure that is a little off.
const STEP: Duration = Duration::from_secs(5);

/// An even clock in Unix milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct SourceClock {
    anchor: Instant,
    anchor_ms: u64,
}

impl SourceClock {
    /// A clock that agrees with the one on the wall.
    pub fn new(now: Instant, wall_ms: u64) -> Self {
        Self { anchor: now, anchor_ms: wall_ms }
    }

    /// The time.
    pub fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.anchor).as_millis();
        self.anchor_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// Takes over the time of the clock on the wall if that was set. How far it was set, in milliseconds, if so.
    pub fn check(&mut self, now: Instant, wall_ms: u64) -> Option<i64> {
        let off = wall_ms.abs_diff(self.at(now));
        if u128::from(off) <= STEP.as_millis() {
            return None;
        }
        let off = i64::try_from(off).unwrap_or(i64::MAX);
        let forward = wall_ms > self.at(now);
        *self = Self::new(now, wall_ms);
        Some(if forward { off } else { -off })
    }
}

/// The clock on the wall, in Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_evenly_and_follows_a_step_only_when_asked() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut clock = SourceClock::new(start, 1_000_000);
        assert_eq!(clock.check(at(1), 1_001_300), None, "a little off");
        assert_eq!(clock.at(at(2)), 1_002_000);
        assert_eq!(clock.check(at(3), 1_003_000 + 3_600_000), Some(3_600_000));
        assert_eq!(clock.at(at(4)), 1_004_000 + 3_600_000);
        assert_eq!(clock.check(at(5), 1_005_000), Some(-3_600_000));
        assert_eq!(clock.at(at(6)), 1_006_000);
    }
}
