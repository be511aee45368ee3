//! The steady flow: when a piece that is here goes to the player. Pure.
//!
//! Rule: each piece takes its own way through the mesh, and some ways are longer. What came early waits until it is as
//! old as the oldest that came of late, so that the player gets a stream as even as the source's, and no boundary shows
//! in it. The wait costs no safety: the caller ends it when the player's buffer runs low.

use std::time::Duration;

/// The age of the oldest counts for one to two of these.
const MEMORY: Duration = Duration::from_secs(10);

/// Ages are from ingest, by the source's clock, to `now`, by any other: their differences count.
#[derive(Debug, Default)]
pub struct Flow {
    /// The greatest age of this term and of the one before, in milliseconds.
    oldest: Option<i64>,
    before: Option<i64>,
    /// When this term began.
    since: Duration,
}

impl Flow {
    /// Takes note of a piece that could be given at `now`, and not before.
    pub fn came(&mut self, ingest_ms: u64, now: Duration) {
        if now.saturating_sub(self.since) >= MEMORY {
            (self.before, self.oldest, self.since) = (self.oldest.take(), None, now);
        }
        self.oldest = self.oldest.max(Some(age(ingest_ms, now)));
    }

    /// How long a piece is to wait at `now`; zero while nothing is known.
    pub fn early(&self, ingest_ms: u64, now: Duration) -> Duration {
        let oldest = self.oldest.max(self.before);
        let wait = oldest.map_or(0, |oldest| oldest.saturating_sub(age(ingest_ms, now)));
        Duration::from_millis(u64::try_from(wait).unwrap_or(0))
    }
}

fn age(ingest_ms: u64, now: Duration) -> i64 {
    let ms = |ms: u128| i64::try_from(ms).unwrap_or(i64::MAX);
    ms(now.as_millis()).saturating_sub(ms(ingest_ms.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// When pieces are given that were ingested every 100 ms and came after so long.
    fn given(ways: &[u64]) -> Vec<u64> {
        let mut flow = Flow::default();
        let ingest = |at: usize| 7_000_000 + 100 * at as u64;
        // None can be given before the one before.
        let came: Vec<u64> = ways
            .iter()
            .enumerate()
            .scan(0, |last: &mut u64, (at, way)| {
                *last = (100 * at as u64 + way).max(*last);
                Some(*last)
            })
            .collect();
        let (mut noted, mut now, mut given) = (0, 0, Vec::new());
        while given.len() < ways.len() {
            while noted < came.len() && came[noted] <= now {
                flow.came(ingest(noted), ms(now));
                noted += 1;
            }
            let next = given.len();
            if next < noted && flow.early(ingest(next), ms(now)).is_zero() {
                given.push(now);
            } else {
                now += 1;
            }
        }
        given
    }

    #[test]
    fn what_came_early_waits_for_the_age_of_what_came_late() {
        assert_eq!(given(&[300, 50, 300, 120, 400, 20, 60]), [300, 400, 500, 600, 800, 900, 1000]);
        assert_eq!(given(&[]), [0; 0]);
    }

    #[test]
    fn one_that_was_very_late_is_forgotten() {
        let mut ways = [80; 300];
        ways[10] = 2000;
        let given = given(&ways);
        assert_eq!(given[10..13], [3000, 3100, 3200]);
        assert_eq!(given[299], 29_980);
    }

    #[test]
    fn absurd_times_are_survived() {
        let mut flow = Flow::default();
        for (ingest, now) in [(u64::MAX, ms(1)), (0, Duration::MAX), (u64::MAX, Duration::MAX), (5, ms(9))] {
            flow.came(ingest, now);
            flow.early(ingest, now);
        }
    }
}
