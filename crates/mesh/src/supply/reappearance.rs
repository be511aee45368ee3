//! How long a piece that the source has pushed takes to reappear at others, and after which time it counts as lost.
//!
//! Rules:
//! 1. A piece counts as lost after one and a half times what four pieces in five take. In a mesh of fifty a piece reappears
//!    after 0.4 s, in one of thousands after 0.7 s and more: with one time for both, a source pushed every other piece twice.
//! 2. A piece that was pushed again tells nothing, as one cannot say which push it was (Karn's rule for TCP's retransmission
//!    timer). The exception is a piece that reappears sooner after the last push than any piece does: that must have been an
//!    earlier push (as RFC 3522, Eifel).
//! 3. The measure is a quantile, not RFC 6298's mean and deviation: a few hostile receivers must not slow down the answer to
//!    what they keep back (measured).
//! 4. It is taken from the newest [`SAMPLES`] pieces, so it follows within seconds, even where pieces are few. It is long while
//!    a crowd comes in, and a long wait leaves no time to push again.
//! 5. Until [`FEW`] pieces have told, the wait is that of the nominal pace times `scale`, which says how many times as long
//!    things take at the stream's own pace (`tempo.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

/// The least that a piece is waited for, and the most at the nominal pace.
const MIN_WAIT: Duration = Duration::from_millis(700);
const MAX_WAIT: Duration = Duration::from_millis(1500);
/// The part of all pieces that take at most the usual time.
const QUANTILE: f32 = 0.8;
/// Of so many pieces, and no fewer than that.
const SAMPLES: usize = 32;
const FEW: usize = 5;
/// How much longer than usual a piece is waited for.
const FACTOR: f32 = 1.5;
/// A piece that was pushed again must reappear in this part of the least time to count as slow and not lost: what hostile
/// receivers keep back would else look as if it took as long as the wait, which would make that longer and longer.
const TOO_SOON: f32 = 2.0 / 3.0;

#[derive(Debug)]
pub(crate) struct Reappearance {
    /// In microseconds, the newest last.
    samples: VecDeque<f32>,
    /// In microseconds. None before [`FEW`] samples.
    usual: Option<f32>,
    /// The least of the samples.
    quickest: Option<f32>,
}

impl Default for Reappearance {
    fn default() -> Self {
        Self { samples: VecDeque::with_capacity(SAMPLES), usual: None, quickest: None }
    }
}

impl Reappearance {
    /// A piece has reappeared so long after its first push, and after its last.
    pub fn note(&mut self, since_first: Duration, since_last: Duration, scale: f32) {
        let quickest = self.quickest.unwrap_or_else(|| self.usual(scale));
        if since_last < since_first && since_last.as_micros() as f32 > TOO_SOON * quickest {
            return;
        }
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(since_first.as_micros() as f32);
        let mut sorted: SmallVec<[f32; SAMPLES]> = self.samples.iter().copied().collect();
        sorted.sort_unstable_by(f32::total_cmp);
        if sorted.len() >= FEW {
            self.quickest = sorted.first().copied();
            self.usual = sorted.get((sorted.len() as f32 * QUANTILE) as usize).copied();
        }
    }

    /// In microseconds.
    fn usual(&self, scale: f32) -> f32 {
        self.usual.unwrap_or(MIN_WAIT.as_micros() as f32 / FACTOR * scale)
    }

    /// After which time a piece that has not reappeared counts as lost.
    pub fn wait(&self, scale: f32) -> Duration {
        let wait = Duration::from_micros((FACTOR * self.usual(scale)) as u64);
        wait.clamp(MIN_WAIT, MAX_WAIT.mul_f64(scale.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_wait_follows_what_most_pieces_take() {
        let mut reappearance = Reappearance::default();
        assert_eq!(reappearance.wait(1.0), MIN_WAIT);
        for i in 0..500 {
            // One in ten is slow, which does not count.
            let took = if i % 10 == 0 { ms(3000) } else { ms(600) };
            reappearance.note(took, took, 1.0);
        }
        assert!((ms(850)..ms(1000)).contains(&reappearance.wait(1.0)), "{:?}", reappearance.wait(1.0));
        for _ in 0..200 {
            reappearance.note(ms(300), ms(300), 1.0);
        }
        assert_eq!(reappearance.wait(1.0), MIN_WAIT);
        for _ in 0..200 {
            reappearance.note(ms(5000), ms(5000), 1.0);
        }
        assert_eq!(reappearance.wait(1.0), MAX_WAIT, "no longer");
    }

    #[test]
    fn where_pieces_come_slowly_the_wait_is_long_until_they_have_told() {
        let mut reappearance = Reappearance::default();
        assert_eq!(reappearance.wait(4.0), 4 * MIN_WAIT);
        for _ in 0..FEW {
            reappearance.note(ms(1200), ms(1200), 4.0);
        }
        assert_eq!(reappearance.wait(4.0), ms(1800));
        // The crowd has come in, over lines that are faster than the stream.
        for _ in 0..SAMPLES {
            reappearance.note(ms(100), ms(100), 4.0);
        }
        assert_eq!(reappearance.wait(4.0), MIN_WAIT);
    }

    #[test]
    fn what_was_pushed_twice_counts_only_if_the_first_push_was_just_slow() {
        let mut reappearance = Reappearance::default();
        for _ in 0..200 {
            reappearance.note(ms(1200), ms(400), 1.0);
        }
        assert_eq!(reappearance.wait(1.0), MIN_WAIT);
        for _ in 0..200 {
            reappearance.note(ms(800), ms(100), 1.0);
        }
        assert!((ms(1150)..ms(1300)).contains(&reappearance.wait(1.0)), "{:?}", reappearance.wait(1.0));
    }

    #[test]
    fn what_half_of_the_receivers_keep_back_makes_no_wait_longer() {
        let mut reappearance = Reappearance::default();
        for _ in 0..200 {
            reappearance.note(ms(500), ms(500), 1.0);
            let again = reappearance.wait(1.0);
            reappearance.note(again + ms(400), ms(400), 1.0);
        }
        assert!(reappearance.wait(1.0) <= ms(800), "{:?}", reappearance.wait(1.0));
    }
}
