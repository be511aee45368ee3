//! Whether media comes as fast as it plays. A feed that comes much faster fills the disk and leaves viewers behind; one that
//! comes slower makes all of them stall.

use std::time::{Duration, Instant};

use minuet_media::Ticks;

/// So much is looked at before anything is said: servers and playlists begin with a burst of half a minute.
const LOOKED_AT: Duration = Duration::from_secs(60);
/// Media that comes so many times as fast as it plays is too fast, and so little of its speed too slow.
const FAST: f64 = 2.0;
const SLOW: f64 = 0.8;
/// How often the same is said.
const INTERVAL: Duration = Duration::from_secs(600);

/// Compares the feed's clock with ours; see the module.
#[derive(Debug, Default)]
pub struct Tempo {
    /// Where the stretch that is looked at began: position and time.
    from: Option<(Ticks, Instant)>,
    told: Option<Instant>,
    /// The position that was told last: it stands still between two key frames.
    last: Option<Ticks>,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wrong {
    /// It comes so many times as fast as it plays.
    Fast(f64),
    /// It comes with so much of the speed at which it plays.
    Slow(f64),
}

impl Tempo {
    /// What comes next does not go on from what came before.
    pub fn restart(&mut self) {
        self.from = None;
    }

    /// The feed is at `position` now.
    pub fn observe(&mut self, position: Ticks, now: Instant) -> Option<Wrong> {
        if self.last.replace(position) == Some(position) {
            return None;
        }
        let (from, since) = *self.from.get_or_insert((position, now));
        let media = Ticks(position.0.saturating_sub(from.0)).as_duration();
        let took = now.saturating_duration_since(since);
        let speed = media.as_secs_f64() / took.as_secs_f64().max(0.001);
        let wrong = if media >= LOOKED_AT && speed >= FAST {
            Some(Wrong::Fast(speed))
        } else if took >= LOOKED_AT && speed <= SLOW {
            Some(Wrong::Slow(speed))
        } else {
            None
        };
        if wrong.is_some() || took >= LOOKED_AT {
            self.from = Some((position, now));
        }
        let told = self.told.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL);
        let wrong = wrong.filter(|_| !told)?;
        self.told = Some(now);
        Some(wrong)
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fast(speed) => write!(
                f,
                "the feed comes {speed:.1} times as fast as it plays, so viewers cannot follow it; add --realtime, or let \
                 the encoder send at its own pace (ffmpeg: -re)"
            ),
            Self::Slow(speed) => write!(
                f,
                "the feed comes with {:.0} % of the speed at which it plays, so viewers will stall; check the encoder's load \
                 and the line to it",
                speed * 100.0
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said when media comes at this speed for so long, told each second.
    fn said(speed: f64, seconds: u64) -> Vec<Wrong> {
        let (mut tempo, start) = (Tempo::default(), Instant::now());
        let at = |second: u64| {
            let position = Ticks::from(Duration::from_secs_f64(second as f64 * speed));
            (position, start + Duration::from_secs(second))
        };
        (0..seconds).filter_map(|second| tempo.observe(at(second).0, at(second).1)).collect()
    }

    #[test]
    fn fast_slow_and_neither() {
        assert!(matches!(said(20.0, 120)[..], [Wrong::Fast(speed)] if (speed - 20.0).abs() < 0.1));
        assert!(matches!(said(0.5, 200)[..], [Wrong::Slow(speed)] if (speed - 0.5).abs() < 0.1));
        assert_eq!(said(1.0, 600), []);
        assert_eq!(said(1.3, 600), [], "it catches up");
        assert_eq!(said(0.9, 600), []);
        assert_eq!(said(3.0, 1300).len(), 3, "each ten minutes");
    }

    #[test]
    fn a_burst_at_the_start_is_nothing() {
        let (mut tempo, now) = (Tempo::default(), Instant::now());
        assert_eq!(tempo.observe(Ticks(0), now), None);
        assert_eq!(tempo.observe(Ticks::from(Duration::from_secs(40)), now), None);
        for second in 1..600 {
            let position = Ticks::from(Duration::from_secs(40 + second));
            assert_eq!(tempo.observe(position, now + Duration::from_secs(second)), None, "{second}");
        }
    }
}
