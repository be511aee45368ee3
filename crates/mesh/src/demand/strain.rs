//! Outgoing: what a viewer does when it does not get the stream in full.
//!
//! With less uplink than the stream needs, nobody gets all of it by everybody's trying harder: all would get most of it, and
//! every picture would stand still. So some viewers stand back, and the others keep their pictures. Rules:
//!
//! 1. A viewer is *in want* if, of the pieces that have used up [`EARLY`] of their time, more than [`LACKING`] are not here.
//!    That shows before the picture stands still.
//! 2. A viewer that has been in want for [`TELLS_AFTER`] is told how much there is ([`Shortage`]).
//! 3. Where [`Config::stands_back`](crate::Config) says so, a viewer in want decides every [`DECIDES`] by lot whether it *stands
//!    back*. The chance follows from what it gets: about as many stand back as the others need to get all, and what they are
//!    behind on top ([`NEED`]). It is less for who passes on much, or has been here for long. After that the others are given
//!    time to catch up, so nobody else leaves because of a want that is about to end. (When each had patience of its own and
//!    then left, nine in ten left within seconds, came back together, and no picture was whole.) What still grows is not decided
//!    about: that is a beginning, and no want.
//! 4. A viewer that stands back still asks for one piece in [`HELPS_WITH`], in no hurry, takes what is pushed to it, and passes
//!    all of it on. Its uplink serves the others, and without it they would be fewer. (With uplinks of 0.8 times the stream,
//!    viewers that stand aside altogether would leave no more than five viewers for each uplink that the source has.) It must
//!    be few: what they take nobody else has.
//! 5. It comes back by steps: once what it asks for is here early enough ([`EARLY_BACK`]), it asks for twice as much, and with
//!    less than that it asks for one in [`HELPS_WITH`] again. Its requests come last at their holders, so what it tries out
//!    costs the others little.
//! 6. Where many pieces arrive at once and slowly, the viewer's own downlink is short, not others' uplink. Its user is told
//!    that.

use std::time::Duration;

use rand::RngExt;

use crate::exchange::Incoming;
use crate::node::Node;
use crate::{Role, Timestamp};

/// Part of its time, from closing to playing, by which a piece should be here. In a mesh with uplink to spare 99 of 100 are
/// here after a quarter.
const EARLY: f32 = 0.75;
/// The part of the pieces that may be missing then.
const LACKING: f32 = 0.08;
/// Pieces are counted in halves of this time, …
const COUNTED: Duration = Duration::from_secs(2);
/// … and fewer than this say nothing.
const FEW: u32 = 6;
/// Nobody stands back so soon after it has begun: it fetches what lies behind the edge.
const SETTLES: Duration = Duration::from_secs(6);
/// How long a viewer is in want before its user is told, where it does not stand back: what lasts no longer is no matter.
const TELLS_AFTER: Duration = Duration::from_secs(2);
/// How long a viewer is in want before it decides, and from one decision to the next: the others catch up meanwhile.
const LEAST_WANT: Duration = Duration::from_millis(300);
const DECIDES: Duration = Duration::from_secs(3);
/// What a viewer in want must get, as a multiple of the stream, to catch up in time.
const NEED: f32 = 1.3;
/// How many of those stand back at once that should in the end: too many do more harm than too few.
const AT_ONCE: f32 = 0.7;
/// What comes in still grows if it is so many times what came in before.
const GROWS: f32 = 1.1;
/// After how long a viewer is no newcomer.
const STAYS: Duration = Duration::from_secs(60);
/// The chance to stand back, as a multiple, of a newcomer that passes nothing on; and what is taken off for passing on as much
/// as one gets, and for having been here for [`STAYS`].
const NEWCOMER: f32 = 1.5;
const FOR_GIVING: f32 = 0.5;
const FOR_STAYING: f32 = 0.5;
/// One piece in so many goes to those who stand back. A power of two.
const HELPS_WITH: u64 = 8;
/// Who stands back asks for more once what it asked for was here by this part of its time, …
const EARLY_BACK: f32 = 0.4;
/// … but for this part of the pieces, …
const LACKING_BACK: f32 = 0.1;
/// … and fewer than this say nothing.
const FEW_BACK: u32 = 3;
/// The part of the neighbours from which pieces arrive at once where the downlink is short.
const ARRIVING: f32 = 0.4;

/// Why a viewer does not get the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There is not enough upload among the viewers.
    Upload,
    /// This node's own downlink is narrower than the stream.
    Downlink,
}

/// What a viewer that is in want is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Why.
    pub cause: Cause,
    /// How much of the stream came in when it was in want, in per cent.
    pub percent: u8,
}

#[derive(Debug, Default)]
pub(crate) struct Strain {
    /// The next piece to look at.
    next: Option<u64>,
    /// Pieces that were here early and that were not: in this half of the time and in the one before.
    here: [u32; 2],
    missing: [u32; 2],
    half_ends: Timestamp,
    /// When playing began.
    playing_since: Option<Timestamp>,
    /// Since when this viewer is in want.
    want: Option<Timestamp>,
    back: Option<Back>,
    /// When it decides again whether to stand back.
    decides_at: Timestamp,
    /// What its user is told.
    told: Option<Shortage>,
    /// Useful bytes that had come in when this half began, and what came in in the two before, a second: the newer first.
    bytes: u64,
    bytes_per_s: [f32; 2],
    /// Pieces that arrive at one time, smoothed.
    arriving: f32,
}

/// What a viewer that stands back asks for.
#[derive(Debug)]
struct Back {
    /// One piece in so many, a power of two, and which.
    one_in: u64,
    phase: u64,
    /// Pieces below were asked for under another share, and say nothing of this one.
    from: u64,
}

impl Strain {
    /// Whether this viewer asks for a piece.
    pub fn asks_for(&self, serial: u64) -> bool {
        self.back
            .as_ref()
            .is_none_or(|back| serial.checked_rem(back.one_in) == back.phase.checked_rem(back.one_in))
    }

    /// Whether it stands back.
    pub fn stands_back(&self) -> bool {
        self.back.is_some()
    }

    /// The part of the pieces that were not here early, if there were enough of them.
    fn lacking(&self) -> Option<f32> {
        let of = |halves: [u32; 2]| halves[0].saturating_add(halves[1]);
        let (here, missing) = (of(self.here), of(self.missing));
        let all = here.saturating_add(missing);
        let few = if self.back.is_some() { FEW_BACK } else { FEW };
        (all >= few).then(|| missing as f32 / all as f32)
    }

    /// The chance that a viewer in want should stand back that gets `have` of the stream, passes on `giving` of what it gets,
    /// and has been here for so long.
    fn chance(have: f32, giving: f32, stayed: Duration) -> f32 {
        let staying = (stayed.as_secs_f32() / STAYS.as_secs_f32()).min(1.0);
        let weight = NEWCOMER - FOR_GIVING * giving.clamp(0.0, 1.0) - FOR_STAYING * staying;
        let spares = 1.0 - 1.0 / HELPS_WITH as f32;
        AT_ONCE * weight * (NEED - have).max(0.0) / spares
    }
}

impl Node {
    /// Why this viewer does not get the stream in full, if so.
    pub fn shortage(&self) -> Option<Shortage> {
        self.strain.told
    }

    /// Looks at what is here of what should be, and stands back or comes back.
    pub(crate) fn strain_tick(&mut self, now: Timestamp) {
        if self.role != Role::Viewer || !self.playback.playing {
            return;
        }
        let since = *self.strain.playing_since.get_or_insert(now);
        self.count_what_is_here(now);
        let arriving =
            self.neighbours.iter().flat_map(|(_, n)| n.side.incoming()).filter(|i| i.pace.is_some()).count();
        self.strain.arriving += (arriving as f32 - self.strain.arriving) / 16.0;
        if self.strain.stands_back() {
            self.perhaps_come_back(now);
            return;
        }
        let lacking = self.strain.lacking().unwrap_or(0.0);
        if lacking <= LACKING || now < since + SETTLES {
            self.strain.want = None;
            self.tell(None);
            return;
        }
        let began = *self.strain.want.get_or_insert(now);
        if began + TELLS_AFTER <= now && self.strain.told.is_none() {
            self.tell_shortage();
        }
        if self.config.stands_back && began + LEAST_WANT <= now && self.strain.decides_at <= now {
            self.decide(now.since(since), now);
        }
    }

    fn tell_shortage(&mut self) {
        let links = self.neighbours.len().max(1) as f32;
        let cause = if self.strain.arriving > ARRIVING * links { Cause::Downlink } else { Cause::Upload };
        let percent = (100.0 * self.strain.bytes_per_s[0] / self.tempo.rate).clamp(0.0, 99.0) as u8;
        self.tell(Some(Shortage { cause, percent }));
    }

    fn tell(&mut self, shortage: Option<Shortage>) {
        self.strain.told = shortage;
        self.stats.shortage = shortage;
    }

    fn count_what_is_here(&mut self, now: Timestamp) {
        let half = self.tempo.time(COUNTED).mul_f32(0.5);
        if self.strain.half_ends <= now {
            let strain = &mut self.strain;
            strain.here = [0, strain.here[0]];
            strain.missing = [0, strain.missing[0]];
            let useful = self.stats.payload_received.saturating_sub(self.stats.wasted);
            let rate = useful.saturating_sub(strain.bytes) as f32 / half.as_secs_f32();
            strain.bytes_per_s = [rate, strain.bytes_per_s[0]];
            strain.bytes = useful;
            strain.half_ends = now + half;
        }
        let early = if self.strain.stands_back() { EARLY_BACK } else { EARLY };
        let from = self.strain.back.as_ref().map_or(0, |back| back.from);
        let left = self.delay.mul_f32(1.0 - early);
        let first = self.playback.next.unwrap_or(0).max(self.window.base());
        let mut serial = self.strain.next.unwrap_or(first).max(first);
        while serial < self.window.edge()
            && self.playback.due(serial, &self.window).is_some_and(|due| due < now + left)
        {
            if serial >= from && self.strain.asks_for(serial) {
                let here = self.window.held.get(serial) || self.exchange.is_verifying(serial);
                let count = if here { &mut self.strain.here[0] } else { &mut self.strain.missing[0] };
                *count = count.saturating_add(1);
            }
            serial = serial.saturating_add(1);
        }
        self.strain.next = Some(serial);
    }

    /// Draws whether to stand back.
    fn decide(&mut self, stayed: Duration, now: Timestamp) {
        let [lately, before] = self.strain.bytes_per_s;
        if lately > GROWS * before {
            return;
        }
        self.strain.decides_at = now + DECIDES.mul_f32(self.rng.random_range(0.8..1.2));
        let giving = self.stats.payload_sent as f32 / self.stats.payload_received.max(1) as f32;
        let have = (lately + before) / 2.0 / self.tempo.rate;
        if self.rng.random::<f32>() >= Strain::chance(have, giving, stayed) {
            return;
        }
        self.strain.want = None;
        self.tell_shortage();
        let phase = self.rng.random_range(0..HELPS_WITH);
        self.strain.back = Some(Back { one_in: HELPS_WITH, phase, from: self.window.edge() });
        (self.strain.here, self.strain.missing) = ([0; 2], [0; 2]);
        self.ask_for_less(now);
    }

    /// Takes back what is asked for and not begun, but for its share.
    fn ask_for_less(&mut self, now: Timestamp) {
        let (from, to) = (self.window.base(), self.window.horizon());
        let others: Vec<u64> =
            self.exchange.wanted().iter(from, to).filter(|serial| !self.strain.asks_for(*serial)).collect();
        others.into_iter().for_each(|serial| self.exchange.drop_wish(serial));
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get(slab) else { continue };
            let open = |i: &&Incoming| i.pace.is_none() && !self.strain.asks_for(i.serial());
            let open: Vec<u64> =
                neighbour.side.incoming().iter().filter(open).map(Incoming::serial).collect();
            for serial in open {
                self.cancel(slab, serial, now);
                self.close_request(slab, serial, now);
            }
        }
    }

    /// Asks for more if what it asked for was here early, and for less if it was not.
    fn perhaps_come_back(&mut self, now: Timestamp) {
        let Some(lacking) = self.strain.lacking() else { return };
        let edge = self.window.edge();
        let Some(back) = &mut self.strain.back else { return };
        let one_in = if lacking > LACKING_BACK { HELPS_WITH } else { back.one_in / 2 };
        if one_in == back.one_in {
            return;
        }
        let less = one_in > back.one_in;
        (back.one_in, back.from) = (one_in, edge);
        (self.strain.here, self.strain.missing) = ([0; 2], [0; 2]);
        if less {
            return self.ask_for_less(now);
        }
        if one_in <= 1 {
            self.strain.back = None;
            self.strain.next = None;
            self.tell(None);
        }
        self.wanted_to = self.wanted_to.min(self.playback.next.unwrap_or(self.wanted_to));
        self.extend_wanted(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_and_has_stayed_stands_back_last() {
        let chance = |giving, stayed| Strain::chance(0.8, giving, Duration::from_secs(stayed));
        assert!(chance(0.0, 5) > 1.3 * chance(1.0, 5));
        assert!(chance(1.0, 5) > 1.5 * chance(1.0, 300));
        assert!(chance(1.0, 300) > 0.1, "but nobody is never asked");
    }

    #[test]
    fn about_as_many_stand_back_as_the_others_need() {
        let chance = |have| Strain::chance(have, 0.8, Duration::from_secs(10));
        // At 0.8 of the stream 23 % must stand back, if each still takes an eighth, and nobody catches up.
        assert!((0.3..0.5).contains(&chance(0.8)), "{}", chance(0.8));
        assert!(chance(1.1) < chance(0.8) / 2.0, "{}", chance(1.1));
        assert_eq!(chance(NEED), 0.0, "who gets so much catches up");
    }

    #[test]
    fn who_stands_back_asks_for_a_part_of_the_pieces() {
        let mut strain = Strain::default();
        assert!((0..16).all(|serial| strain.asks_for(serial)));
        for (one_in, asked) in
            [(8, vec![5, 13]), (4, vec![1, 5, 9, 13]), (2, (0..8).map(|n| 2 * n + 1).collect())]
        {
            strain.back = Some(Back { one_in, phase: 5, from: 0 });
            assert_eq!((0..16).filter(|serial| strain.asks_for(*serial)).collect::<Vec<_>>(), asked);
        }
    }
}
