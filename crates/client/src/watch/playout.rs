//! The playout clock: where the picture is, judged from what was given to the player and when. Pure.
//!
//! Model: playing starts once a head start of media was given and runs in real time while media is there. When the clock reaches the
//! end of what was given, it stands still until more comes: a stall. (A real player holds some media back before it
//! starts, so it stalls later than this, never earlier.)

use std::time::Duration;

/// Times are durations since any fixed moment; media positions are durations since the first media given.
#[derive(Debug, Default)]
pub struct Playout {
    /// How much media must be given before playing starts.
    head_start: Duration,
    /// When playing started.
    started: Option<Duration>,
    /// Media given so far.
    given: Duration,
    /// Time stood still, without the stall that is under way.
    stalled: Duration,
    stalls: u32,
    standing: bool,
}

impl Playout {
    /// Playing is to start once so much media was given.
    pub fn set_head_start(&mut self, head_start: Duration) {
        self.head_start = head_start;
    }

    /// How much media must be given before playing starts.
    pub fn head_start(&self) -> Duration {
        self.head_start
    }

    /// How long it is until the media at `position` is played; zero for what should have been.
    pub fn until(&self, position: Duration, now: Duration) -> Duration {
        match self.started {
            Some(started) => (started + self.stalled(now) + position).saturating_sub(now),
            None => position,
        }
    }

    /// Media up to `position` has been given to the player at `now`.
    pub fn give(&mut self, position: Duration, now: Duration) {
        if self.started.is_none() && position < self.head_start {
            return;
        }
        let started = *self.started.get_or_insert(now);
        let lack = self.lack(now);
        self.note(now);
        if position > self.given {
            if self.standing {
                // It goes on from where it stood.
                self.stalled += lack;
                self.standing = false;
            }
            self.given = position;
        }
        debug_assert!(started <= now, "time runs forwards");
    }

    /// Looks at the clock: a stall begins when all that was given has been played.
    pub fn note(&mut self, now: Duration) {
        if !self.standing && self.lack(now) > Duration::ZERO {
            self.standing = true;
            self.stalls += 1;
        }
    }

    /// Forgives the lack of media up to `now`, unless a stall had been noted: the player was not hungry, it took its
    /// time (its buffer is full, or its user has paused it).
    pub fn excuse(&mut self, now: Duration) {
        let lack = self.lack(now);
        if !self.standing
            && let Some(started) = &mut self.started
        {
            *started += lack;
        }
    }

    /// How long the picture has stood still now.
    pub fn lack(&self, now: Duration) -> Duration {
        match self.started {
            Some(started) => now.saturating_sub(started + self.stalled).saturating_sub(self.given),
            None => Duration::ZERO,
        }
    }

    /// Media given and not yet played.
    pub fn buffer(&self, now: Duration) -> Duration {
        match self.started {
            Some(started) => self.given.saturating_sub(now.saturating_sub(started + self.stalled)),
            None => Duration::ZERO,
        }
    }

    /// Stalls so far.
    pub fn stalls(&self) -> u32 {
        self.stalls
    }

    /// Time stood still so far.
    pub fn stalled(&self, now: Duration) -> Duration {
        self.stalled + self.lack(now)
    }

    /// Whether anything was given.
    pub fn has_started(&self) -> bool {
        self.started.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn stands_still_from_the_end_of_the_media_to_the_next_byte() {
        let mut clock = Playout::default();
        clock.give(ms(1000), ms(50));
        assert_eq!(clock.buffer(ms(550)), ms(500));
        clock.note(ms(1040));
        assert_eq!(clock.stalls(), 0);
        clock.note(ms(1250));
        clock.note(ms(1350));
        assert_eq!((clock.stalls(), clock.lack(ms(1350)), clock.stalled(ms(1350))), (1, ms(300), ms(300)));
        clock.give(ms(2000), ms(1450));
        assert_eq!((clock.lack(ms(1450)), clock.stalled(ms(1450))), (ms(0), ms(400)));
        assert_eq!(clock.buffer(ms(1450)), ms(1000));
        assert_eq!(clock.stalls(), 1);
    }

    #[test]
    fn playing_starts_with_its_head_start_and_every_place_is_due_from_then_on() {
        let mut clock = Playout::default();
        clock.set_head_start(ms(500));
        clock.give(ms(100), ms(10));
        assert!(!clock.has_started());
        assert_eq!((clock.lack(ms(400)), clock.until(ms(300), ms(400))), (ms(0), ms(300)));
        clock.give(ms(600), ms(1000));
        assert_eq!((clock.until(ms(700), ms(1100)), clock.until(ms(50), ms(1100))), (ms(600), ms(0)));
        // It stands still for 200 ms, so all later places are due as much later.
        assert_eq!(clock.until(ms(700), ms(1800)), ms(100));
        clock.give(ms(800), ms(1800));
        assert_eq!(clock.until(ms(800), ms(1800)), ms(200));
    }

    #[test]
    fn a_player_that_was_paused_has_not_stalled() {
        let mut clock = Playout::default();
        clock.give(ms(100), ms(0));
        clock.excuse(ms(500));
        clock.give(ms(200), ms(500));
        assert_eq!((clock.stalls(), clock.stalled(ms(500)), clock.buffer(ms(500))), (0, ms(0), ms(100)));
        clock.note(ms(700));
        clock.excuse(ms(800));
        assert_eq!((clock.stalls(), clock.stalled(ms(800))), (1, ms(200)));
    }

    #[test]
    fn a_stall_that_nobody_looked_at_still_counts() {
        let mut clock = Playout::default();
        clock.give(ms(100), ms(0));
        clock.give(ms(200), ms(500));
        assert_eq!((clock.stalls(), clock.stalled(ms(500))), (1, ms(400)));
    }

    proptest! {
        #[test]
        fn played_and_stalled_time_add_up(steps in prop::collection::vec((0u64..500, 0u64..500), 1..50)) {
            let (mut clock, mut now, mut given) = (Playout::default(), ms(0), ms(0));
            for (wait, more) in steps {
                now += ms(wait);
                given += ms(more);
                clock.give(given, now);
                let start = clock.started.unwrap();
                let played = given - clock.buffer(now);
                prop_assert_eq!(played + clock.stalled(now), now - start);
            }
        }
    }
}
