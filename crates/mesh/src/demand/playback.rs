//! The deadline clock: when each piece is due at the player.
//!
//! Rule: one piece and its time are the anchor; all others are due as much later or earlier as the source got them later or
//! earlier. Only differences of ingest times count, so no clock needs to be right, only steady.
//!
//! A live viewer begins at the target delay if two in three neighbours, the source not counted, have what follows there. Else
//! what lies behind the edge would have to come from few nodes, or from the source alone, which has to send the live edge at the
//! same time. A channel's first viewers, each with seconds to catch up on, would keep the source behind for as long again. So
//! they begin as near to the edge as there is a random access point, and the player waits there until the target delay is
//! reached.

use std::time::Duration;

use minuet_proto::mesh::Serial;

use crate::exchange::{Exchange, Incoming};
use crate::node::Node;
use crate::stream::window::PieceWindow;
use crate::{Output, Role, Start, Timestamp};

/// A missing head's ingest time is taken from one of so many pieces before it.
const NEAR: u64 = 8;
/// So many neighbours tell what can be had.
const ENOUGH: usize = 3;
/// Heads that are asked for arrive newest first and within this time, and so do neighbours' bitmaps; what is known
/// then is all there is.
const PATIENCE: Duration = Duration::from_millis(500);

/// So many pieces from the start on must be common: about the target delay at the usual 16 pieces a second.
const RUN: u64 = 64;
/// Where little is common a viewer does not begin at a key frame that is older than the delay and this, …
const OLD_START: Duration = Duration::from_secs(5);
/// … but waits for the next one, up to this time: x264 leaves up to 250 pictures between two, 10 s at 25 a second.
const NEXT_KEY_FRAME: Duration = Duration::from_secs(11);
/// Where little is common a viewer begins at least so far behind the edge.
const NEAR_EDGE: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
pub(crate) struct Playback {
    /// First piece that is still to be played; `None` until a start is chosen.
    pub next: Option<u64>,
    anchor: Option<Anchor>,
    /// The player has said where it is; until then nothing is too late.
    pub playing: bool,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    serial: u64,
    due: Timestamp,
    /// Ingest time of `serial`, once its head is known.
    ingest_ms: Option<u64>,
}

/// What a viewer that is to start knows of others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outlook {
    /// Time since the first head came.
    waited: Duration,
    /// Neighbours that have said what they hold, the source not among them.
    heard_of: usize,
    /// The oldest piece that anybody promised.
    oldest_promised: u64,
}

/// Ingest time of `serial`, or of the nearest piece before it whose head is known.
fn ingest_ms(serial: u64, window: &PieceWindow) -> Option<u64> {
    let nearest = (serial.saturating_sub(NEAR)..=serial).rev().find_map(|serial| window.named(serial));
    // Beyond the edge there is nothing to tell by.
    nearest.filter(|_| serial < window.edge()).map(|named| named.piece.ingest_ms)
}

impl Playback {
    pub fn set(&mut self, next: u64, due: Timestamp, window: &PieceWindow) {
        self.next = Some(next);
        self.anchor =
            Some(Anchor { serial: next, due, ingest_ms: window.named(next).map(|k| k.piece.ingest_ms) });
    }

    /// When piece `serial` is due, as far as heads tell: a piece whose own head is missing is due with the one before
    /// it.
    pub fn due(&mut self, serial: u64, window: &PieceWindow) -> Option<Timestamp> {
        let anchor = self.anchor.as_mut()?;
        if anchor.ingest_ms.is_none() {
            anchor.ingest_ms = window.named(anchor.serial).map(|k| k.piece.ingest_ms);
        }
        let from = anchor.ingest_ms?;
        let ingest = ingest_ms(serial, window)?;
        Some(if ingest >= from {
            anchor.due + Duration::from_millis(ingest.saturating_sub(from))
        } else {
            anchor.due - Duration::from_millis(from.saturating_sub(ingest))
        })
    }

    /// Whether the player has passed `serial` by now: it is of use to others only.
    pub fn missed(&mut self, serial: u64, window: &PieceWindow, now: Timestamp) -> bool {
        self.playing && self.due(serial, window).is_some_and(|due| due < now)
    }

    /// Where to start, once that can be told. `by_source` is how many copies of a piece are the source's own.
    pub fn choose_start(
        start: Start,
        target_delay: Duration,
        outlook: Outlook,
        by_source: impl Fn(u64) -> u16,
        window: &PieceWindow,
        exchange: &Exchange,
    ) -> Option<u64> {
        let Outlook { waited, heard_of, oldest_promised } = outlook;
        let newest_ms = window.named(window.edge().checked_sub(1)?)?.piece.ingest_ms;
        let behind = match start {
            Start::Live => target_delay,
            Start::Ago(ago) => ago,
            Start::Oldest => Duration::MAX,
            Start::Told => return None,
        };
        let behind_ms = millis(behind);
        let before_ms = newest_ms.checked_sub(behind_ms);
        let wished = before_ms.and_then(|before| window.random_access_before(before, |_| true));
        let enough = heard_of.saturating_mul(2).div_ceil(3).max(1);
        let common = |serial: u64| {
            let others = exchange.copies(serial).saturating_sub(by_source(serial));
            usize::from(others) >= enough || window.held.get(serial)
        };
        // Who begins there must be able to go on from there.
        let plenty = |serial: u64| {
            let to = serial.saturating_add(RUN).min(window.edge());
            // Seven in eight of them.
            let lacking = (serial..to).filter(|s| !common(*s)).count() as u64;
            common(serial) && lacking.saturating_mul(8) <= to.saturating_sub(serial)
        };
        let random_access = |s: &u64| window.named(*s).is_some_and(|named| named.random_access);
        let behind_of = |serial: u64| {
            let ingest_ms = window.named(serial).map_or(0, |named| named.piece.ingest_ms);
            newest_ms.saturating_sub(ingest_ms)
        };
        if let Some(wished) = wished.map(|wished| wished.get()).filter(|wished| plenty(*wished)) {
            // Where key frames are far apart the one before the delay may be old, and all that lies between would have to
            // come before there is a picture that does not stand.
            let old = start == Start::Live && behind_of(wished) > behind_ms.saturating_mul(2);
            let after = wished.saturating_add(1)..window.edge();
            let newer = old.then(|| after.filter(random_access).find(|s| plenty(*s)));
            return Some(newer.flatten().unwrap_or(wished));
        }
        // Heads come newest first: what lies at the delay may not be known yet.
        let oldest_known = (window.base()..window.edge()).find(|serial| window.named(*serial).is_some());
        let to_come = oldest_known.is_none_or(|named| oldest_promised < named);
        if (heard_of < ENOUGH || wished.is_none() && to_come) && waited < PATIENCE {
            return None;
        }
        let near_ms = newest_ms.saturating_sub(behind_ms.min(millis(NEAR_EDGE)));
        let held = |serial: u64| exchange.copies(serial) > 0 || window.held.get(serial);
        let begins = if start == Start::Live {
            let from = wished.map_or(window.base(), |wished| wished.get());
            let newer = (from..window.edge()).filter(random_access).find(|s| plenty(*s));
            let near = newer.or_else(|| Some(window.random_access_before(near_ms, held)?.get()));
            // Few have what lies behind the edge, so from a key frame that is old it would have to come from the source,
            // and make those wait who watch already. The next one comes.
            let old = |serial: &u64| behind_of(*serial) > behind_ms.max(millis(OLD_START));
            if near.is_some_and(|near| old(&near)) && waited < NEXT_KEY_FRAME {
                return None;
            }
            near
        } else {
            // A picture now, rather than one a little newer.
            window.random_access_before(before_ms.unwrap_or(0), held).map(|serial| serial.get())
        };
        if begins.is_some() || waited < PATIENCE {
            return begins;
        }
        if start == Start::Live && heard_of > 0 {
            // The source, which has not said so yet, has the newest at least.
            if let Some(near) = window.random_access_before(near_ms, |_| true) {
                return Some(near.get());
            }
        }
        wished.or_else(|| window.oldest_random_access()).map(|serial| serial.get())
    }
}

impl Node {
    pub(crate) fn on_playhead(&mut self, next: Serial, due: Timestamp, now: Timestamp) {
        if self.role != Role::Viewer {
            return;
        }
        let was_elsewhere = self.is_elsewhere();
        let before = self.playback.next.unwrap_or(0).max(self.window.base());
        self.playback.set(next.get(), due, &self.window);
        self.playback.playing = true;
        for serial in before..next.get().min(self.window.end()) {
            self.exchange.drop_wish(serial);
        }
        if next.get() < before {
            // Playback went back: look again at what lies between.
            self.wanted_to = self.wanted_to.min(next.get());
        }
        self.extend_wanted(now);
        if was_elsewhere {
            self.tell_anew(now);
        }
    }

    /// Nobody reads at the live edge any more.
    pub(crate) fn on_no_playhead(&mut self, now: Timestamp) {
        if self.role != Role::Viewer || self.playback.next.is_none() {
            return;
        }
        self.playback = Playback::default();
        self.config.start = Start::Told;
        self.exchange.drop_wishes();
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get(slab) else { continue };
            let coming: Vec<u64> = neighbour.side.incoming().iter().map(Incoming::serial).collect();
            for serial in coming {
                self.cancel(slab, serial, now);
                self.close_request(slab, serial, now);
            }
        }
        self.exchange.drop_wishes();
        self.tell_anew(now);
    }

    /// Whether this viewer takes no part in the live edge: nobody here plays it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.role == Role::Viewer && self.config.start == Start::Told && self.playback.next.is_none()
    }

    /// Chooses where to start, once that can be told.
    pub(crate) fn try_start(&mut self, now: Timestamp) {
        let Some(since) = self.first_head_at else { return };
        if self.role != Role::Viewer || self.playback.next.is_some() || self.config.start == Start::Told {
            return;
        }
        let outlook = Outlook {
            waited: now.since(since),
            heard_of: self.neighbours.iter().filter(|(_, n)| n.newest > 0 && !n.flags.source).count(),
            oldest_promised: self.neighbours.iter().map(|(_, n)| n.live_from).min().unwrap_or(u64::MAX),
        };
        let start = Playback::choose_start(
            self.config.start,
            self.config.target_delay,
            outlook,
            |serial| self.neighbours.iter().any(|(_, n)| n.flags.source && n.side.has(serial)).into(),
            &self.window,
            &self.exchange,
        );
        if let Some(serial) = start {
            self.playback.set(serial, now, &self.window);
            self.wanted_to = serial;
            self.out.push_back(Output::Start { serial: Serial::new(serial) });
            self.extend_wanted(now);
        }
    }

    /// What a piece that closes now has until it is played: the delay aimed at, or more where the player is further behind.
    pub(crate) fn delay_now(&mut self, now: Timestamp) -> Duration {
        let newest = self.window.edge().saturating_sub(1);
        let due = self.playback.due(newest, &self.window).filter(|_| self.playback.playing);
        due.map_or(Duration::ZERO, |due| due.since(now)).max(self.config.target_delay)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
