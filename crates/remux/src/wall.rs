//! When what came in, by the source's clock.
//!
//! The stream's clock has a place on the wall clock, its anchor; dates follow from it, so that within a continuous stretch
//! they advance as the media does: players align tracks and updates by them. The frame that came in soonest after its time
//! says where the anchor is. Where the two clocks drift apart the anchor follows, a little with each segment.

use std::collections::VecDeque;

/// Deliveries that are remembered.
const MAX_ARRIVALS: usize = 4096;
/// So many milliseconds of a drift are made good with a segment: encoders drift by less, and players do not mind.
const MOST: i64 = 5;
/// And no more than this part of it.
const FOLLOW: i64 = 8;
/// Beyond this many milliseconds one of the clocks was set, or the source was away.
const ASTRAY: i64 = 10_000;

/// Remembers when the feed's bytes came in, and gives the stream's clock a place on the wall clock.
#[derive(Debug, Default)]
pub struct Wall {
    arrivals: VecDeque<(u64, u64)>,
    /// Unix time at the stream's zero, in milliseconds.
    anchor: Option<i64>,
    /// The least that a frame came in after the stream's zero, beyond its time, since the last cut.
    least: Option<i64>,
}

impl Wall {
    /// The bytes from `position` on came in at `ingest_ms`.
    pub fn note(&mut self, position: u64, ingest_ms: u64) {
        if self.arrivals.back().is_some_and(|(_, last)| *last == ingest_ms) {
            return;
        }
        if self.arrivals.len() >= MAX_ARRIVALS {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back((position, ingest_ms));
    }

    /// When the bytes at `position` came in.
    fn came(&self, position: u64) -> i64 {
        let after = self.arrivals.partition_point(|(from, _)| *from <= position);
        let ms = self.arrivals.get(after.saturating_sub(1)).map_or(0, |(_, ms)| *ms);
        i64::try_from(ms).unwrap_or(i64::MAX)
    }

    /// A leading frame of this time at 90 kHz came with the bytes at `position`.
    pub fn frame(&mut self, time: i64, position: u64) {
        let zero = self.came(position).saturating_sub(time / 90);
        self.least = Some(self.least.map_or(zero, |least| least.min(zero)));
    }

    /// The stream's clock leaps: what was seen of it says nothing of what follows.
    pub fn leap(&mut self) {
        self.least = None;
    }

    /// Whether dates are far from when the frames since the last cut came in: they need a new anchor.
    pub fn is_astray(&self) -> bool {
        self.anchor
            .zip(self.least)
            .is_some_and(|(anchor, least)| anchor.abs_diff(least) > ASTRAY.unsigned_abs())
    }

    /// The Unix time of `time` in the stream, where a segment begins; `anew` if it does not go on from the one before.
    pub fn cut(&mut self, time: i64, anew: bool) -> u64 {
        let least = self.least.take();
        let anchor = match (self.anchor, least) {
            (Some(anchor), Some(least)) if !anew => {
                anchor.saturating_add((least.saturating_sub(anchor) / FOLLOW).clamp(-MOST, MOST))
            }
            (anchor, least) => least.or(anchor).unwrap_or(0),
        };
        self.anchor = Some(anchor);
        u64::try_from(anchor.saturating_add(time / 90)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of two seconds in frames of 100 ms; `came_ms` says when each frame comes in.
    fn dates(segments: i64, came_ms: impl Fn(i64) -> u64) -> Vec<u64> {
        let mut wall = Wall::default();
        let frame = |wall: &mut Wall, n: i64| {
            wall.note(n as u64, came_ms(n));
            wall.frame(n * 9000, n as u64);
        };
        // The first segment is looked at before it is cut.
        (0..20).for_each(|n| frame(&mut wall, n));
        let mut dates = vec![wall.cut(0, true)];
        for segment in 1..segments {
            (segment * 20..segment * 20 + 20).for_each(|n| frame(&mut wall, n));
            dates.push(wall.cut(segment * 180_000, false));
        }
        dates
    }

    #[test]
    fn dates_advance_as_the_media_does() {
        // Deliveries of a second, the first of them with two seconds of media.
        let steady = dates(20, |n| 50_000 + (n as u64).saturating_sub(19).div_ceil(10) * 1000);
        assert!(steady.windows(2).all(|pair| pair[1] - pair[0] == 2000), "{steady:?}");
        assert_eq!(steady[0], 48_100);
    }

    #[test]
    fn dates_follow_a_clock_that_drifts_and_one_that_is_set_is_told() {
        // One in a thousand too slow.
        let slow = dates(200, |n| 50_000 + n as u64 * 100 + n as u64 / 10);
        assert!(slow[199].abs_diff(50_000 + 199 * 2000 + 398) < 60, "{}", slow[199]);
        let mut wall = Wall::default();
        wall.note(0, 10_000);
        wall.frame(0, 0);
        wall.cut(0, true);
        wall.note(1, 3_600_000);
        wall.frame(9000, 1);
        assert!(wall.is_astray());
        assert_eq!(wall.cut(9000, true), 3_600_000);
    }
}
