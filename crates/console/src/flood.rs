//! Lines of one kind that come too fast are left out and counted. What strangers can cause must not fill a disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use minuet_guard::rate::Bucket;
use tracing::{Level, Metadata};

/// Lines of one kind in a moment.
const AT_ONCE: u32 = 100;
/// The time in which there may be one more: some 20 MB a day of a kind whose lines have 200 bytes.
const ONE_EVERY: Duration = Duration::from_secs(1);

/// Kinds of lines: the places in the programs that they come from, so their number is bounded.
#[derive(Debug)]
pub(crate) struct Flood {
    started: Instant,
    kinds: Mutex<HashMap<&'static str, Kind>>,
}

#[derive(Debug, Default)]
struct Kind {
    bucket: Bucket,
    left_out: u64,
}

impl Flood {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), kinds: Mutex::default() }
    }

    /// Whether a line may be written, and how many like it were left out before. Who asks for debugging gets all of it.
    pub(crate) fn admit(&self, line: &Metadata<'_>) -> Option<u64> {
        if *line.level() > Level::INFO {
            return Some(0);
        }
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        // File and line of the source.
        kinds.entry(line.name()).or_default().admit(self.started.elapsed())
    }
}

impl Kind {
    fn admit(&mut self, now: Duration) -> Option<u64> {
        if self.bucket.take(now, ONE_EVERY, ONE_EVERY * AT_ONCE) {
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out = self.left_out.saturating_add(1);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_told_of_once_in_a_while_with_their_number() {
        let mut kind = Kind::default();
        let told: Vec<Option<u64>> = (0..1_000_000).map(|_| kind.admit(ONE_EVERY)).collect();
        assert_eq!(told.iter().flatten().count(), AT_ONCE as usize);
        assert_eq!(kind.admit(3 * ONE_EVERY), Some(1_000_000 - u64::from(AT_ONCE)));
        assert_eq!(kind.admit(3 * ONE_EVERY), Some(0));
        assert_eq!(kind.admit(3 * ONE_EVERY), None);
        assert_eq!(kind.admit(4 * ONE_EVERY), Some(1));
    }
}
