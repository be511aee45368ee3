//! Want: what a viewer does when it does not get the stream in full.
//!
//! With less uplink than the stream needs, nobody gets all of it by everybody's trying harder: all would get most of it, and
//! every picture would stand still. So some viewers stand back, and the others keep their pictures. Rules:
//!
//! 1. A viewer is *in want* if, of the pieces that have used up [`EARLY`] of their time, more than [`LACKING`] are not here.
//!    That shows before the picture stands still.
//! 2. A viewer that has been in want for a while is told how much there is ([`Shortage`]). Where
//!    [`Config::stands_back`](crate::Config) says so, it also *stands back*: sooner if it came late or has passed on little,
//!    and for the rest by lot.
//! 3. A viewer that stands back still asks for one piece in [`HELPS_WITH`], in no hurry, takes what is pushed to it, and passes
//!    all of it on. Its uplink serves the others, and without it they would be fewer. (With uplinks of 0.8 times the stream,
//!    viewers that stand aside altogether would leave no more than five viewers for each uplink that the source has.)
//! 4. It comes back once neighbours offer it pieces that it does not ask for: then there is uplink to spare. If that was too
//!    early, it stands back for longer.
//! 5. Where many pieces arrive at once and slowly, the viewer's own downlink is short, not others' uplink. Its user is told
//!    that.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::node::Node;
use crate::{Role, Timestamp};

/// Part of its time, from closing to playing, by which a piece should be here. In a mesh with uplink to spare 99 of 100 are
/// here after a quarter.
const EARLY: f32 = 0.55;
/// The part of the pieces that may be missing then.
const LACKING: f32 = 0.08;
/// Pieces are counted in halves of this time, …
const COUNTED: Duration = Duration::from_secs(2);
/// … and fewer than this say nothing.
const FEW: u32 = 6;
/// Nobody stands back so soon after it has begun: it fetches what lies behind the edge.
const SETTLES: Duration = Duration::from_secs(5);
/// How long a viewer is in want before its user is told, where it does not stand back: what lasts no longer is no matter.
const TELLS_AFTER: Duration = Duration::from_secs(2);
/// How long a viewer is in want before it stands back: the least, and what is added at most for passing on, for having
/// been here long, and by lot. Together long enough for the others to notice that some have stood back.
const PATIENCE: Duration = Duration::from_millis(300);
const FOR_GIVING: Duration = Duration::from_secs(3);
const FOR_STAYING: Duration = Duration::from_secs(3);
const BY_LOT: Duration = Duration::from_secs(5);
/// After how long a viewer is no newcomer.
const STAYS: Duration = Duration::from_secs(60);
/// One piece in so many goes to those who stand back.
const HELPS_WITH: u64 = 3;
/// They stand back so long at least, and at most.
const LEAST_BACK: Duration = Duration::from_secs(3);
const MOST_BACK: Duration = Duration::from_secs(60);
/// Part of the pieces not asked for that must be offered before one comes back.
const OFFERED: f32 = 0.5;
/// Who is in want again so soon has come back too early.
const TOO_EARLY: Duration = Duration::from_secs(10);
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
    /// Since when this viewer is in want, and how long it bears it.
    want: Option<(Timestamp, Duration)>,
    back: Option<Back>,
    /// What its user is told.
    told: Option<Shortage>,
    /// How long it stands back next time, and when it last came back.
    stands_back: Duration,
    came_back: Option<Timestamp>,
    /// Useful bytes that had come in when this half began, and what came in in the one before, a second.
    bytes: u64,
    bytes_per_s: f32,
    /// Pieces that arrive at one time, smoothed.
    arriving: f32,
}

#[derive(Debug)]
struct Back {
    until: Timestamp,
    phase: u64,
    /// Pieces offered that are not asked for, in this half and in the one before.
    offered: [u32; 2],
}

impl Strain {
    /// Whether this viewer asks for a piece.
    pub fn asks_for(&self, serial: u64) -> bool {
        self.back.as_ref().is_none_or(|back| serial % HELPS_WITH == back.phase)
    }

    /// Whether it stands back.
    pub fn stands_back(&self) -> bool {
        self.back.is_some()
    }

    /// A neighbour offers a piece that this viewer does not ask for.
    pub fn note_offer(&mut self) {
        if let Some(back) = &mut self.back {
            back.offered[0] = back.offered[0].saturating_add(1);
        }
    }

    /// The part of the pieces that were not here early, if there were enough of them.
    fn lacking(&self) -> Option<f32> {
        let of = |halves: [u32; 2]| halves[0].saturating_add(halves[1]);
        let (here, missing) = (of(self.here), of(self.missing));
        let all = here.saturating_add(missing);
        (all >= FEW).then(|| missing as f32 / all as f32)
    }

    /// How long a viewer bears want that has passed on `giving` of what it has got, and been here for so long.
    fn patience(giving: f32, stayed: Duration, rng: &mut SmallRng) -> Duration {
        let giving = FOR_GIVING.mul_f32(giving.clamp(0.0, 1.0));
        let staying = FOR_STAYING.mul_f32((stayed.as_secs_f32() / STAYS.as_secs_f32()).min(1.0));
        let lot = BY_LOT.mul_f32(rng.random());
        PATIENCE.saturating_add(giving).saturating_add(staying).saturating_add(lot)
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
            self.neighbours.iter().flat_map(|(_, n)| &n.asked).filter(|a| a.pace.is_some()).count();
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
        if self.strain.told.is_some() {
            return;
        }
        let (began, patience) = match self.strain.want {
            Some(want) => want,
            None => {
                let giving = self.stats.payload_sent as f32 / self.stats.payload_received.max(1) as f32;
                let patience = if self.config.stands_back {
                    Strain::patience(giving, now.since(since), &mut self.rng)
                } else {
                    TELLS_AFTER
                };
                let want = (now, patience);
                *self.strain.want.insert(want)
            }
        };
        if began + patience <= now {
            self.stand_back(now);
        }
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
            strain.bytes_per_s = useful.saturating_sub(strain.bytes) as f32 / half.as_secs_f32();
            strain.bytes = useful;
            strain.half_ends = now + half;
            if let Some(back) = &mut strain.back {
                back.offered = [0, back.offered[0]];
            }
        }
        let left = self.delay.mul_f32(1.0 - EARLY);
        let first = self.playback.next.unwrap_or(0).max(self.window.base());
        let mut serial = self.strain.next.unwrap_or(first).max(first);
        while serial < self.window.edge()
            && self.playback.due(serial, &self.window).is_some_and(|due| due < now + left)
        {
            if self.strain.asks_for(serial) {
                let here = self.window.held.get(serial) || self.window.slot(serial).verifying;
                let count = if here { &mut self.strain.here[0] } else { &mut self.strain.missing[0] };
                *count = count.saturating_add(1);
            }
            serial = serial.saturating_add(1);
        }
        self.strain.next = Some(serial);
    }

    fn stand_back(&mut self, now: Timestamp) {
        let links = self.neighbours.len().max(1) as f32;
        let cause = if self.strain.arriving > ARRIVING * links { Cause::Downlink } else { Cause::Upload };
        let percent = (100.0 * self.strain.bytes_per_s / self.tempo.rate).clamp(0.0, 99.0) as u8;
        self.tell(Some(Shortage { cause, percent }));
        self.strain.want = None;
        if !self.config.stands_back {
            return;
        }
        let early = self.strain.came_back.is_some_and(|at| now < at + TOO_EARLY);
        let longer = if early { self.strain.stands_back.saturating_mul(2) } else { LEAST_BACK };
        self.strain.stands_back = longer.clamp(LEAST_BACK, MOST_BACK);
        let jitter = self.rng.random_range(0.8..1.4);
        self.strain.back = Some(Back {
            until: now + self.strain.stands_back.mul_f32(jitter),
            phase: self.rng.random_range(0..HELPS_WITH),
            offered: [0; 2],
        });
        (self.strain.here, self.strain.missing) = ([0; 2], [0; 2]);
        self.ask_for_less(now);
    }

    /// Takes back what is asked for and not begun, but for its share.
    fn ask_for_less(&mut self, now: Timestamp) {
        let (from, to) = (self.window.base(), self.window.horizon());
        let others: Vec<u64> =
            self.window.wanted.iter(from, to).filter(|serial| !self.strain.asks_for(*serial)).collect();
        others.into_iter().for_each(|serial| self.window.wanted.clear(serial));
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get(slab) else { continue };
            let open =
                |a: &&crate::members::neighbour::Asked| a.pace.is_none() && !self.strain.asks_for(a.serial);
            let open: Vec<u64> = neighbour.asked.iter().filter(open).map(|a| a.serial).collect();
            for serial in open {
                self.cancel(slab, serial, now);
                self.unask(slab, serial, now);
            }
        }
    }

    fn perhaps_come_back(&mut self, now: Timestamp) {
        let Some(back) = &self.strain.back else { return };
        let closed =
            self.tempo.rate / self.tempo.piece_len.max(1) as f32 * self.tempo.time(COUNTED).as_secs_f32();
        let not_asked = closed * HELPS_WITH.saturating_sub(1) as f32 / HELPS_WITH as f32;
        let offered = back.offered[0].saturating_add(back.offered[1]) as f32;
        if now < back.until || offered < OFFERED * not_asked {
            return;
        }
        self.strain.back = None;
        self.strain.came_back = Some(now);
        (self.strain.here, self.strain.missing) = ([0; 2], [0; 2]);
        self.strain.next = None;
        self.tell(None);
        self.wanted_to = self.wanted_to.min(self.playback.next.unwrap_or(self.wanted_to));
        self.extend_wanted(now);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn who_gives_and_has_stayed_bears_want_for_longer() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut mean = |giving, stayed| {
            let all: Duration =
                (0..200).map(|_| Strain::patience(giving, Duration::from_secs(stayed), &mut rng)).sum();
            all / 200
        };
        let (newcomer, giver, resident) = (mean(0.0, 5), mean(1.0, 5), mean(1.0, 300));
        assert!(newcomer + Duration::from_secs(2) < giver, "{newcomer:?} {giver:?}");
        assert!(giver + Duration::from_secs(2) < resident, "{giver:?} {resident:?}");
    }

    #[test]
    fn who_stands_back_asks_for_one_piece_in_three() {
        let mut strain = Strain::default();
        assert!((0..9).all(|serial| strain.asks_for(serial)));
        strain.back = Some(Back { until: Timestamp::ZERO, phase: 1, offered: [0; 2] });
        assert_eq!((0..9).filter(|serial| strain.asks_for(*serial)).collect::<Vec<_>>(), [1, 4, 7]);
    }
}
