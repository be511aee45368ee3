//! Positions in the stream from timestamps that wrap and sometimes jump.

use crate::time::{Ticks, Timestamp};

/// A step back of more than this is a jump. Less happens where decoding times are left out and
/// presentation times stand in for them.
const BACKWARD: i64 = 2 * 90_000;
/// A step forward of more than this is a jump; ffmpeg and players draw the line here too.
const FORWARD: i64 = 10 * 90_000;
/// A frame lasts no longer than this when there is nothing better to go by.
const LONGEST_FRAME: i64 = 90_000;

/// Adds up timestamps into a position that neither wraps nor jumps.
#[derive(Debug, Default)]
pub struct Timeline {
    last: Option<Timestamp>,
    position: i64,
    /// The latest plausible distance of two access units.
    frame: i64,
    broken: bool,
}

impl Timeline {
    /// Takes the next access unit's timestamp; true when the clock has jumped.
    pub fn observe(&mut self, timestamp: Timestamp) -> bool {
        let Some(last) = self.last.replace(timestamp) else {
            self.broken = false;
            return false;
        };
        let step = timestamp.since(last);
        if std::mem::take(&mut self.broken) || !(-BACKWARD..=FORWARD).contains(&step) {
            self.position += self.frame;
            return true;
        }
        self.position += step;
        if (1..=LONGEST_FRAME).contains(&step) {
            self.frame = step;
        }
        false
    }

    /// How far `timestamp`, of another stream of the same clock, is ahead of the last one; `None` before the
    /// first, and where there is a jump between them.
    pub fn ahead(&self, timestamp: Timestamp) -> Option<Ticks> {
        let ahead = timestamp.since(self.last?);
        (0..=FORWARD).contains(&ahead).then_some(Ticks(ahead as u64))
    }

    /// Whether no timestamp has come yet.
    pub fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// The next timestamp starts a new time base, whatever its value.
    pub fn break_here(&mut self) {
        self.broken = true;
    }

    /// The position of the last timestamp; before the first it is 0.
    pub fn position(&self) -> Ticks {
        Ticks(self.position.max(0) as u64)
    }

    /// Where the access unit of the last timestamp ends, by the length of the ones before it.
    pub fn end(&self) -> Ticks {
        Ticks((self.position + self.frame).max(0) as u64)
    }

    /// The position of the last timestamp becomes 0.
    pub fn start_here(&mut self) {
        self.position = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(timestamps: &[u64]) -> (u64, usize) {
        let mut timeline = Timeline::default();
        let jumps = timestamps.iter().filter(|ticks| timeline.observe(Timestamp::new(**ticks))).count();
        (timeline.position().0, jumps)
    }

    #[test]
    fn the_wrap_is_no_jump() {
        let start = Timestamp::MODULUS - 3600;
        assert_eq!(run(&[start, start + 3600, start + 7200]), (7200, 0));
    }

    #[test]
    fn jumps_count_as_one_frame() {
        assert_eq!(run(&[0, 3600, 7200, 7200 + 3600 * 90_000, 10_800 + 3600 * 90_000]), (14_400, 1));
        assert_eq!(run(&[9_000_000, 9_003_600, 0, 3600]), (10_800, 1));
    }

    #[test]
    fn small_steps_back_are_not_jumps() {
        assert_eq!(run(&[90_000, 97_200, 93_600, 100_800]), (10_800, 0));
    }
}
