//! The gateway's reader: pieces of the live window, in order, as soon as they are here.
//!
//! Rules:
//! 1. Each piece goes to the remuxer once all before it did. The mesh is told that a piece is due [`DUE`] after it came in
//!    at the source, as far as this node has seen; so a gateway is nearer to the source than a viewer with its delay.
//! 2. A piece that is late by [`PATIENCE`] is given up: reading goes on at the oldest random access point from which on
//!    nothing is missing.
//! 3. Numbers that no piece has, since the source was started again, are passed over once a later piece is here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use minuet_node::mesh::{LivePiece, LiveWindow, Mesh, Reader};
use minuet_proto::{Phase, mesh::Serial};
use minuet_remux::{Event, Remuxer};

use super::{
    Station,
    past::{Past, later},
    shelf::Shelf,
};

/// When a piece is due, after it came in at the source: what crosses a mesh of some thousands.
const DUE: Duration = Duration::from_millis(1500);
/// How late a piece may be.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether something is late.
const LOOK: Duration = Duration::from_millis(100);
/// How often the mesh is told where this reader is.
const TELL: Duration = Duration::from_secs(1);
/// How much media must be here without a gap where reading goes on, in milliseconds.
const PLAYABLE_MS: u64 = 500;
/// How long numbers may be unknown before a later piece is taken.
const UNKNOWN: Duration = Duration::from_millis(300);
/// How long a mesh that has media may take to say where to begin.
const UNTOLD: Duration = Duration::from_millis(1500);
/// How far behind the newest piece reading begins then, in milliseconds: some key frame lies there.
const NEAR_MS: u64 = 6000;
/// What comes after the broadcast's end must come within this time.
const END_GRACE: Duration = Duration::from_secs(5);

/// Reads the live window.
pub struct Feed {
    window: Arc<LiveWindow>,
    reader: Reader,
    shelf: Arc<Shelf>,
    past: Arc<Past>,
    station: Arc<Station>,
    remuxer: Remuxer,
    /// The least that this machine's clock was ahead of a piece's ingest time, in milliseconds: clocks may differ.
    ahead_ms: Option<i64>,
}

impl Feed {
    /// A reader that has not begun.
    pub fn new(mesh: &Mesh, shelf: Arc<Shelf>, past: Arc<Past>, station: Arc<Station>) -> Self {
        let (window, reader) = (Arc::clone(mesh.window()), mesh.reader());
        let remuxer = Remuxer::new(shelf.session());
        Self { window, reader, shelf, past, station, remuxer, ahead_ms: None }
    }

    /// Reads until the broadcast ends; then waits for ever.
    pub async fn run(mut self) {
        let window = Arc::clone(&self.window);
        let mut news = window.subscribe();
        let mut next = begin(&window).await;
        let mut good = Instant::now();
        let mut told: Option<Instant> = None;
        loop {
            news.borrow_and_update();
            while let Some(known) = window.get(next).filter(|known| known.held) {
                // Held, but its slot may have gone to a newer piece meanwhile.
                let Some(bytes) = window.read_in_background(next).await else { break };
                self.take(&known, &bytes).await;
                next = Serial::new(next.get().saturating_add(1));
                good = Instant::now();
            }
            if let Some(target) = self.leap(&window, next, good.elapsed()) {
                tracing::debug!("serving goes on at piece {} in place of {}", target.get(), next.get());
                let mut events = Vec::new();
                self.remuxer.gap(&mut events);
                self.shelf.take(events).await;
                next = target;
                good = Instant::now();
                told = None;
                continue;
            }
            if told.is_none_or(|told| told.elapsed() >= TELL) {
                self.reader.playhead(next, self.due(&window, next)).await;
                told = Some(Instant::now());
            }
            if self.station.phase() == Some(Phase::Ended) && good.elapsed() > END_GRACE {
                break;
            }
            let _ = tokio::time::timeout(LOOK, news.changed()).await;
        }
        let mut events = Vec::new();
        self.remuxer.end(&mut events);
        self.shelf.take(events).await;
        self.shelf.end();
        std::future::pending().await
    }

    async fn take(&mut self, known: &LivePiece, bytes: &[u8]) {
        let ingest_ms = known.piece.ingest_ms;
        let ahead_ms = signed(crate::watch::now_ms()).saturating_sub(signed(ingest_ms));
        self.ahead_ms = Some(self.ahead_ms.map_or(ahead_ms, |least| least.min(ahead_ms)));
        let mut events: Vec<Event> = Vec::new();
        if let Err(error) = self.remuxer.push(bytes, ingest_ms, &mut events) {
            // The source signs what it likes.
            tracing::debug!("a piece is no MPEG-TS: {error}");
            self.remuxer.gap(&mut events);
        }
        self.past.live(known);
        self.shelf.take(events).await;
    }

    /// When the next piece is due.
    fn due(&self, window: &LiveWindow, next: Serial) -> Instant {
        let now = Instant::now();
        let known = window.get(next).or_else(|| window.newest());
        let (Some(known), Some(ahead_ms)) = (known, self.ahead_ms) else { return later(now, DUE) };
        let here_ms = signed(known.piece.ingest_ms).saturating_add(ahead_ms);
        let age_ms = signed(crate::watch::now_ms()).saturating_sub(here_ms);
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        // What is past is asked for by nobody.
        later(now, DUE.saturating_sub(age).max(LOOK.saturating_mul(4)))
    }

    /// Where to go on, if not with the next piece, for which was waited so long.
    fn leap(&self, window: &LiveWindow, next: Serial, waited: Duration) -> Option<Serial> {
        if waited > UNKNOWN && window.get(next).is_none() {
            let later = window.after(next).filter(|later| later.held);
            if let Some(later) = later {
                return Some(later.piece.serial);
            }
        }
        if waited < PATIENCE {
            return None;
        }
        let target = window.playable_after(next, 0, PLAYABLE_MS)?;
        Some(target.piece.serial)
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Waits until it is known where to begin: a viewer's mesh says so. A relay's, which plays nothing, does not: there it is
/// the newest place where decoding can start and from which on nothing is missing.
async fn begin(window: &LiveWindow) -> Serial {
    let mut news = window.subscribe();
    let mut since: Option<Instant> = None;
    loop {
        news.borrow_and_update();
        if let Some(start) = window.start() {
            return start;
        }
        if window.has_media() && since.get_or_insert_with(Instant::now).elapsed() > UNTOLD {
            let newest_ms = window.newest().map_or(0, |newest| newest.piece.ingest_ms);
            let from_ms = newest_ms.saturating_sub(NEAR_MS);
            if let Some(start) = window.playable_after(Serial::ZERO, from_ms, PLAYABLE_MS) {
                return start.piece.serial;
            }
        }
        // The window outlives all who wait for it.
        let _ = tokio::time::timeout(LOOK, news.changed()).await;
    }
}
