//! When the picture may run where a reader begins with what is past, or has stood still there. Pure.
//!
//! Rule: the picture runs once, by the rate at which media has come of late, everything that is missing will be here when it is
//! due, and [`LEAST`] is here without a gap; twice as much after each time that the picture stood still. So a reader that
//! cannot be served in time waits once, at the beginning, and does not stand still again and again. It waits [`LONGEST`] at
//! most: then it takes what there is.

use std::{collections::VecDeque, time::Duration};

/// Media that is here without a gap before the picture runs.
const LEAST: Duration = Duration::from_millis(1500);
/// It is doubled so often at most, and is no more than [`NEAR`].
const MOST_DOUBLED: u32 = 2;
/// How far ahead of the picture it is looked.
pub const HORIZON: Duration = Duration::from_secs(20);
/// What lies so far ahead counts as missing if it is not here. Beyond that only gaps count, before the farthest piece that is here:
/// what the source alone has is not asked for any sooner.
const NEAR: Duration = Duration::from_secs(5);
/// How long is waited at most, from the first piece on.
const LONGEST: Duration = Duration::from_secs(25);
/// Of the rate so far this part is counted on.
const TRUSTED: f64 = 0.6;
/// The rate is that of so much time, and looks are noted so far apart.
const LATELY: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_millis(100);
/// What came in less time says nothing of a rate.
const SHORTEST: Duration = Duration::from_millis(200);

/// Decides when the picture may run.
#[derive(Debug, Default)]
pub struct Outset {
    /// When the first piece was here.
    began: Option<Duration>,
    /// When how much of what is ahead was here, the newest last.
    looks: VecDeque<(Duration, Duration)>,
    runs: bool,
    /// How often the picture stood still.
    stood: u32,
}

impl Outset {
    /// Whether the picture may run. `held` says of each piece ahead whether it is here, as far as [`HORIZON`] or to the end of
    /// all that there is; a piece plays for `piece`. `now` is since any fixed moment.
    pub fn look(&mut self, held: impl Iterator<Item = bool>, piece: Duration, now: Duration) -> bool {
        if self.runs {
            return true;
        }
        let (mut gap, mut contiguous, mut here) = (false, Duration::ZERO, Duration::ZERO);
        let (mut ahead, mut worst, mut farthest) = (Duration::ZERO, Vec::new(), NEAR);
        for is_here in held {
            gap |= !is_here;
            if is_here {
                here = here.saturating_add(piece);
                farthest = farthest.max(ahead);
            } else {
                // What is missing up to here, and when it is due.
                worst.push((ahead.saturating_sub(here).saturating_add(piece), ahead));
            }
            if !gap {
                contiguous = contiguous.saturating_add(piece);
            }
            ahead = ahead.saturating_add(piece);
        }
        if here.is_zero() {
            return false;
        }
        let began = *self.began.get_or_insert(now);
        self.note(here, now);
        let rate = self.rate(here, now) * TRUSTED;
        let in_time =
            |(missing, due): &(Duration, Duration)| missing.as_secs_f64() <= rate * due.as_secs_f64();
        let least = LEAST.saturating_mul(1 << self.stood.min(MOST_DOUBLED)).min(NEAR);
        let mut asked = worst.iter().filter(|(_, due)| *due < farthest);
        let enough = contiguous >= least.min(ahead) && asked.all(in_time);
        self.runs = enough || now.saturating_sub(began) > LONGEST && !contiguous.is_zero();
        self.runs
    }

    /// The picture stands still: it waits anew.
    pub fn stand(&mut self) {
        *self = Self { stood: self.stood.saturating_add(1), ..Self::default() };
    }

    /// Whether the picture was let run.
    pub fn runs(&self) -> bool {
        self.runs
    }

    fn note(&mut self, here: Duration, now: Duration) {
        if self.looks.back().is_some_and(|(at, _)| now.saturating_sub(*at) < BETWEEN) {
            return;
        }
        self.looks.push_back((now, here));
        while self.looks.len() > 2
            && self.looks.front().is_some_and(|(at, _)| now.saturating_sub(*at) > LATELY)
        {
            self.looks.pop_front();
        }
    }

    /// Media that came, by the time that it took.
    fn rate(&self, here: Duration, now: Duration) -> f64 {
        let Some((at, before)) = self.looks.front() else { return 0.0 };
        let took = now.saturating_sub(*at).max(SHORTEST);
        here.saturating_sub(*before).as_secs_f64() / took.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_millis(100);

    /// The second at which the picture runs, where the pieces ahead come at this rate, one after the other or every other one
    /// first.
    fn runs_at(rate: f64, scattered: bool) -> f64 {
        let mut outset = Outset::default();
        for tick in 0..600_u64 {
            let count = (tick as f64 * 0.05 * rate / PIECE.as_secs_f64()) as usize;
            let is_here = |index: usize| match scattered {
                // The even ones of the next 20 s first.
                true if index.is_multiple_of(2) => index / 2 < count,
                true => index / 2 + 100 < count,
                false => index < count,
            };
            if outset.look((0..200).map(is_here), PIECE, Duration::from_millis(tick * 50)) {
                return tick as f64 * 0.05;
            }
        }
        f64::INFINITY
    }

    #[test]
    fn who_is_served_fast_begins_at_once_and_who_is_not_waits_until_it_lasts() {
        assert!(runs_at(4.0, false) < 0.6);
        assert!(runs_at(1.5, false) < 1.5);
        // 0.9 of the stream, of which 0.54 are counted on: 46 % of 5 s must be here, 2.3 s.
        let slow = runs_at(0.9, false);
        assert!((2.3..4.0).contains(&slow), "{slow}");
        // 82 % of 5 s.
        assert!((13.0..16.0).contains(&runs_at(0.3, false)));
        // It does not wait for ever.
        assert!((26.0..26.2).contains(&runs_at(0.1, false)));
        // What is missing next counts, whatever came of the rest.
        assert!(runs_at(2.0, true) > 5.0);
    }

    /// Only the source has it, which is not asked for what is due later.
    #[test]
    fn what_nobody_asks_for_yet_is_not_waited_for() {
        let mut outset = Outset::default();
        let held = |count: usize| (0..200).map(move |index| index < count);
        assert!(!outset.look(held(10), PIECE, Duration::ZERO));
        let looks = (1..80).map(|tick| outset.look(held(52), PIECE, Duration::from_millis(tick * 50)));
        assert!(looks.take(1).all(|runs| runs));
    }

    #[test]
    fn the_end_needs_no_more_than_there_is() {
        let mut outset = Outset::default();
        assert!(!outset.look([].into_iter(), PIECE, Duration::from_micros(0)));
        assert!(!outset.look([false, true].into_iter(), PIECE, Duration::from_micros(0)));
        assert!(outset.look([true, true].into_iter(), PIECE, Duration::from_micros(0)));
        outset.stand();
        assert!(!outset.runs() && !outset.look([false].into_iter(), PIECE, Duration::from_micros(0)));
    }

    #[test]
    fn each_time_that_the_picture_stood_still_it_waits_for_more() {
        let mut outset = Outset::default();
        for least in [15, 30, 50, 50] {
            let held = |count: usize| (0..200).map(move |index| index < count);
            // All the rest has come at once before, as far as the rate shows.
            assert!(!outset.look(held(1), PIECE, Duration::from_micros(0)));
            assert!(!outset.look(held(least - 1), PIECE, Duration::from_micros(1_000_000)));
            let all_but_the_next = (0..200).map(|index| index != least - 1);
            assert!(!outset.look(all_but_the_next, PIECE, Duration::from_micros(1_100_000)));
            assert!(outset.look(
                (0..200).map(|index| index != least),
                PIECE,
                Duration::from_micros(1_200_000)
            ));
            outset.stand();
        }
    }
}
