//! The deadline clock: when each piece is due at the player.
//!
//! Rule: one piece and its time are the anchor; all others are due as much later or earlier as the source got
//! them later or earlier. Only differences of ingest times count, so no clock needs to be right, only steady.

use std::time::Duration;

use crate::window::PieceWindow;
use crate::{Start, Timestamp};

/// A missing head's ingest time is taken from one of so many pieces before it.
const NEAR: u64 = 8;
/// So many neighbours tell what can be had.
const ENOUGH: usize = 3;
/// Heads that are asked for arrive newest first and within this time, and so do neighbours' bitmaps; what is known
/// then is all there is.
const PATIENCE: Duration = Duration::from_millis(500);

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

/// Ingest time of `serial`, or of the nearest piece before it whose head is known.
fn ingest_ms(serial: u64, window: &PieceWindow) -> Option<u64> {
    let nearest = (serial.saturating_sub(NEAR)..=serial).rev().find_map(|serial| window.known(serial));
    // Beyond the edge there is nothing to tell by.
    nearest.filter(|_| serial < window.edge()).map(|known| known.piece.ingest_ms)
}

impl Playback {
    pub fn set(&mut self, next: u64, due: Timestamp, window: &PieceWindow) {
        self.next = Some(next);
        self.anchor =
            Some(Anchor { serial: next, due, ingest_ms: window.known(next).map(|k| k.piece.ingest_ms) });
    }

    /// When piece `serial` is due, as far as heads tell: a piece whose own head is missing is due with the one before
    /// it.
    pub fn due(&mut self, serial: u64, window: &PieceWindow) -> Option<Timestamp> {
        let anchor = self.anchor.as_mut()?;
        if anchor.ingest_ms.is_none() {
            anchor.ingest_ms = window.known(anchor.serial).map(|k| k.piece.ingest_ms);
        }
        let from = anchor.ingest_ms?;
        let ingest = ingest_ms(serial, window)?;
        Some(if ingest >= from {
            anchor.due + Duration::from_millis(ingest - from)
        } else {
            anchor.due - Duration::from_millis(from - ingest)
        })
    }

    /// Whether the player has passed `serial` by now: it is of use to others only.
    pub fn missed(&mut self, serial: u64, window: &PieceWindow, now: Timestamp) -> bool {
        self.playing && self.due(serial, window).is_some_and(|due| due < now)
    }

    /// Where to start, once that can be told. `waited` is the time since the first head came, `heard_of` the number
    /// of neighbours that have said what they hold.
    pub fn choose_start(
        start: Start,
        target_delay: Duration,
        waited: Duration,
        heard_of: usize,
        window: &PieceWindow,
    ) -> Option<u64> {
        let newest_ms = window.known(window.edge().checked_sub(1)?)?.piece.ingest_ms;
        let behind = match start {
            Start::Live => target_delay,
            Start::Ago(ago) => ago,
            Start::Oldest => Duration::MAX,
        };
        let behind_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
        let before_ms = newest_ms.checked_sub(behind_ms);
        let held = |serial: u64| window.slot(serial).copies > 0 || window.held.get(serial);
        let wished = before_ms.and_then(|before| window.random_access_before(before, |_| true));
        if wished.is_some_and(|wished| held(wished.0)) {
            return wished.map(|serial| serial.0);
        }
        if heard_of >= ENOUGH || waited >= PATIENCE {
            // In a crowd neighbours may all be a little behind: a picture now, rather than one a little newer.
            let before = before_ms.unwrap_or(0);
            if let Some(nearest) = window.random_access_before(before, held) {
                return Some(nearest.0);
            }
        }
        if waited < PATIENCE {
            return None;
        }
        wished.or_else(|| window.oldest_random_access()).map(|serial| serial.0)
    }
}
