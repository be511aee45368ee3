//! How long a piece that the source has pushed takes to reappear at others, and after which time it counts as lost.
//!
//! Rule: one and a half times what four pieces in five take. A piece that was pushed again tells nothing, as one cannot say
//! which push it was (Karn's rule for TCP's retransmission timer), unless it reappears so soon after the last push that it
//! must have been an earlier one (as RFC 3522, Eifel). In a mesh of fifty a piece reappears after 0.4 s, in one of thousands
//! after 0.7 s and more: with one time for both, a source pushed every other piece twice. A quantile, and not RFC 6298's
//! mean and deviation, because a few hostile receivers must not slow down the answer to what they keep back (measured).
//! Times are those of the nominal pace; `scale` says how many times as long things take at the stream's own (`tempo.rs`).

use std::time::Duration;

/// The least and the most that a piece is waited for.
const MIN_WAIT: Duration = Duration::from_millis(700);
const MAX_WAIT: Duration = Duration::from_millis(1500);
/// The part of all pieces that take at most [`Reappearance::usual_us`], and by how much one sample moves it at most.
const QUANTILE: f32 = 0.8;
const STEP_US: f32 = 20_000.0;
/// How much longer than usual a piece is waited for.
const FACTOR: f32 = 1.5;
/// A piece that was pushed again must reappear in this part of the usual time to count as slow and not lost.
const TOO_SOON: f32 = 2.0 / 3.0;

#[derive(Debug)]
pub(crate) struct Reappearance {
    usual_us: f32,
}

impl Default for Reappearance {
    fn default() -> Self {
        Self { usual_us: MIN_WAIT.as_micros() as f32 / FACTOR }
    }
}

impl Reappearance {
    /// A piece has reappeared so long after its first push, and after its last. Returns whether it is due to the first.
    pub fn note(&mut self, since_first: Duration, since_last: Duration, scale: f32) -> bool {
        let (since_first, since_last) = (since_first.div_f64(scale.into()), since_last.div_f64(scale.into()));
        if since_last < since_first && since_last.as_micros() as f32 > TOO_SOON * self.usual_us {
            return false;
        }
        let longer = since_first.as_micros() as f32 > self.usual_us;
        self.usual_us += STEP_US * if longer { QUANTILE } else { QUANTILE - 1.0 };
        let most = MAX_WAIT.as_micros() as f32 / FACTOR;
        self.usual_us = self.usual_us.clamp(0.0, most);
        true
    }

    /// After which time a piece that has not reappeared counts as lost.
    pub fn wait(&self, scale: f32) -> Duration {
        Duration::from_micros((FACTOR * self.usual_us) as u64).clamp(MIN_WAIT, MAX_WAIT).mul_f64(scale.into())
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
        assert_eq!(reappearance.wait(1.0), MAX_WAIT);
    }

    #[test]
    fn where_pieces_come_slowly_all_takes_as_many_times_as_long() {
        let mut reappearance = Reappearance::default();
        for _ in 0..500 {
            reappearance.note(ms(1200), ms(1200), 2.0);
        }
        assert!((ms(1700)..ms(2000)).contains(&reappearance.wait(2.0)), "{:?}", reappearance.wait(2.0));
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
}
