//! Playing live: pieces of the minute that is still open, as the mesh brings them.
//!
//! Rules:
//! 1. Playing begins at the random access point that the mesh chose, `--delay` or a little more behind the live edge.
//!    If it chose one nearer to the edge, because hardly anybody has older ones (a channel's first viewers), the player
//!    gets its head start and the rest when the delay is reached: it shows a picture and waits there. Each piece is
//!    given to the player once all before it are there, in a steady flow ([`Flow`]) while the player
//!    has half the delay or more to play: what it has not played yet is its buffer, and that is what the delay is for.
//! 2. The picture's clock ([`Playout`](super::playout::Playout)) says when each piece is due, and the mesh is told.
//! 3. The picture waits for a missing piece. When it has stood still for [`MAX_DRIFT`] in all, it is that much further
//!    behind than was asked for, and it leaps: within the delay, to the oldest random access point from which on
//!    nothing is missing, else to the newest one behind the delay. So the delay holds over hours, and a short hitch
//!    costs nothing that the viewer would miss. One that has not begun within [`MAX_DRIFT`] leaps, too: the first
//!    viewers of a channel find nobody who has what is behind the live edge.
//! 4. When the source got nothing for [`SOURCE_GAP`], or the picture leaps over as much, and the picture stands still, then
//!    what comes is held back until the delay is reached again. Given at once, it would leave the player without a buffer
//!    from then on.
//! 5. Serials that the source never used (it was restarted) are passed over once a later piece is there and the picture
//!    stands still.
//! 6. The broadcast is over when its source says so and the last byte of its last segment was given. Trackers bring that
//!    news sooner than the mesh brings the last pieces; where these do not come, playing ends [`END_GRACE`] after the
//!    last that did.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use minuet_node::mesh::{LivePiece, LiveWindow, Mesh, Reader};
use minuet_proto::{PieceId, PieceIndex, mesh::Serial};
use tokio::sync::watch;

use super::{
    cause::{Cause, ended_for, gave_up},
    figures::Figures,
    flow::Flow,
    leap::passed_over,
    now_ms,
    packets::Packets,
    said::Said,
    sink::{Sink, Written},
};

/// How often a waiting playback looks at the clock.
const LOOK: Duration = Duration::from_millis(100);
/// How long the picture may have stood still in all before it leaps to where it should be.
const MAX_DRIFT: Duration = Duration::from_secs(2);
/// How much media must be here without a gap where the picture leaps to, in milliseconds.
const PLAYABLE_MS: u64 = 800;
/// How often the mesh is told where the player is.
const TELL: Duration = Duration::from_secs(1);
/// When a piece is due for which the picture waits.
const REPRIEVE: Duration = Duration::from_millis(400);
/// No piece is due later than this, whatever ingest times the source has signed.
const FARTHEST: Duration = Duration::from_secs(3600);
/// The picture runs once so much media was given, or half the delay if that is less: players, too, look at some media
/// before they show any.
const HEAD_START: Duration = Duration::from_millis(500);
/// Where the source got nothing for so long, the media has a gap in time that no player plays.
const SOURCE_GAP: Duration = Duration::from_secs(5);
/// How long the last pieces of a broadcast that has ended may take to come.
const END_GRACE: Duration = Duration::from_secs(5);

/// Why live playback ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The broadcast is over and all of it was given to the player.
    Ended,
    /// The player or the reader of standard output has gone.
    Closed,
    /// The picture is so far behind that the live window has passed on, as after a pause: this piece comes next, and is among
    /// those that are kept. With the time of the media that was given.
    Behind(PieceId, Duration),
    /// The user wishes to be at the live edge, and the picture is farther behind than it was meant to be. With the time of the
    /// media that was given.
    Leap(Duration),
}

/// Live playback of one channel.
pub struct LivePlayback<'a> {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// The player, as the mesh sees it.
    pub reader: &'a Reader,
    /// What the source has said.
    pub said: watch::Receiver<Said>,
    /// Counts the user's wishes to be at the live edge.
    pub wishes: watch::Receiver<u64>,
    /// Where the media goes.
    pub sink: &'a mut Sink,
    /// Cuts what is given into whole packets, whoever gives it.
    pub packets: &'a mut Packets,
    /// The counts.
    pub figures: Arc<Figures>,
    /// `--delay`.
    pub delay: Duration,
    /// `--give-up`.
    pub give_up: Duration,
}

/// Where playback stands.
struct Position {
    /// The piece to give next.
    next: Serial,
    /// The piece given last.
    last: Option<LivePiece>,
    /// Ingest time of the first piece, later by all gaps and leaps since: a piece's ingest time less this is its place
    /// in the media that was given.
    zero_ms: u64,
    /// Time stood still that was made good by leaps, or was the source's.
    forgiven: Duration,
    /// When playback began, or leapt last.
    since: Instant,
    /// The player gets no more than its head start before, and nothing after a gap.
    hold: Instant,
    /// The piece after the last such gap.
    after_gap: Option<Serial>,
    flow: Flow,
    /// What was there at the beginning says nothing about the flow.
    flow_from: Serial,
    /// The piece that the flow is to know next, and the ingest time of the one before.
    noting: Serial,
    noted_ms: Option<u64>,
}

impl Position {
    /// Tells the flow of all that could be given now, had it not to wait.
    fn note(&mut self, window: &LiveWindow, now: Duration) {
        self.noting = self.noting.max(self.next);
        while let Some(known) = window.get(self.noting).filter(|known| known.held) {
            let ingest_ms = known.piece.ingest_ms;
            // After a gap, or a step of the source's clock, ages are not what they were.
            let step = self.noted_ms.and_then(|before| ingest_ms.checked_sub(before));
            if step.is_none_or(|step| Duration::from_millis(step) > SOURCE_GAP) {
                self.flow = Flow::default();
            }
            self.flow.came(ingest_ms, now);
            self.noted_ms = Some(ingest_ms);
            self.noting = self.noting.next();
        }
    }

    /// How much lies between the piece given last and one that is to be given next.
    fn gap_before(&self, piece: &LivePiece) -> Duration {
        let gap_ms = self.last.map_or(0, |last| piece.piece.ingest_ms.saturating_sub(last.piece.ingest_ms));
        Duration::from_millis(gap_ms)
    }

    /// A piece's place in the media given.
    fn of(&self, piece: &LivePiece) -> Duration {
        Duration::from_millis(piece.piece.ingest_ms.saturating_sub(self.zero_ms))
    }
}

/// Waits until the mesh knows where to begin, and has media: a tracker tells heads of pieces that nobody may have any more.
pub async fn find_start(window: &LiveWindow) -> Serial {
    let mut news = window.subscribe();
    loop {
        news.borrow_and_update();
        match window.start().filter(|_| window.has_media()) {
            Some(start) => return start,
            // The window outlives all who wait for it.
            None => drop(news.changed().await),
        }
    }
}

impl LivePlayback<'_> {
    /// Plays until the broadcast ends or the player is closed. `given` is the time of the media that was given before.
    pub async fn run(&mut self, start: Serial, given: Duration) -> anyhow::Result<End> {
        let window = Arc::clone(self.mesh.window());
        let mut news = window.subscribe();
        let first = window.get(start);
        let given_ms = u64::try_from(given.as_millis()).unwrap_or(u64::MAX);
        let zero_ms = first.map_or(0, |known| known.piece.ingest_ms.saturating_sub(given_ms));
        let forgiven = {
            let (mut figures, now) = self.figures.lock();
            figures.playout().stalled(now)
        };
        let hold = Instant::now() + first.map_or(self.delay, |known| held_back(&window, &known, self.delay));
        let flow_from =
            Serial::new(window.newest().map_or(start.get(), |newest| newest.piece.serial.get() + 1));
        let mut at = Position {
            next: start,
            last: None,
            zero_ms,
            forgiven,
            since: hold,
            hold,
            after_gap: None,
            flow: Flow::default(),
            flow_from,
            noting: flow_from,
            noted_ms: None,
        };
        let mut told: Option<Instant> = None;
        let mut good = Instant::now();
        loop {
            news.borrow_and_update();
            let mut look = LOOK;
            if self.wishes.has_changed().unwrap_or(false) {
                self.wishes.mark_unchanged();
                if self.is_behind(&window, &at) {
                    return Ok(End::Leap(at.last.map_or(given, |last| at.of(&last))));
                }
            }
            at.note(&window, self.figures.lock().1);
            while let Some(known) = window.get(at.next).filter(|known| known.held) {
                if at.after_gap != Some(at.next) && at.gap_before(&known) > SOURCE_GAP {
                    at.after_gap = Some(at.next);
                    if self.stands_still() {
                        at.hold = Instant::now() + held_back(&window, &known, self.delay);
                    }
                }
                if at.hold > Instant::now() && at.of(&known) >= head_start(self.delay) {
                    good = Instant::now();
                    break;
                }
                let early = self.early(&at, &known);
                if !early.is_zero() {
                    good = Instant::now();
                    look = look.min(early);
                    break;
                }
                // Held, but its slot may have gone to a newer piece meanwhile.
                let Some(bytes) = window.read_in_background(at.next).await else { break };
                if self.give(&mut at, known, &bytes, &window).await? == Written::Closed {
                    return Ok(End::Closed);
                }
                good = Instant::now();
            }
            if let Some(next) = self.kept_next(&window, &at) {
                let given = at.last.map_or(given, |last| at.of(&last));
                return Ok(End::Behind(next, given));
            }
            if let Some(target) = self.leap(&window, &at) {
                let passed = passed_over(&window, at.last.map(|last| last.piece), at.next, target);
                if passed.missed > 0 {
                    self.figures.lock().0.leapt();
                }
                tracing::info!("{passed}: playing on after that");
                at.next = target;
                at.since = Instant::now();
                self.packets.leap();
                // What lies between is not wanted any more, whether the picture runs or not.
                self.reader.playhead(target, Instant::now() + REPRIEVE).await;
                told = None;
                continue;
            }
            let wait = if self.stands_still() { LOOK } else { TELL };
            if told.is_none_or(|told| told.elapsed() >= wait)
                && tell(self.reader, &self.figures, &window, &at).await
            {
                told = Some(Instant::now());
            }
            if self.ended(&at, good.elapsed()) {
                // Heads outlive the source's media: the tracker tells them.
                if at.last.is_none() {
                    let said = self.said.borrow();
                    let ended_for = said.state.as_ref().map(|state| ended_for(state.get(), now_ms()));
                    bail!(Cause::Ended(ended_for.unwrap_or_default()));
                }
                return Ok(End::Ended);
            }
            if good.elapsed() > self.give_up {
                let phase = self.said.borrow().state.as_ref().map(|state| state.phase);
                bail!(gave_up(self.give_up, phase, self.mesh.stats().peers));
            }
            let _ = tokio::time::timeout(look, news.changed()).await;
        }
    }

    /// Whether the broadcast is over, where nothing came for `waited`.
    fn ended(&self, at: &Position, waited: Duration) -> bool {
        let said = self.said.borrow();
        let all_given = at.last.is_some_and(|last| said.ended_with(last.piece.id));
        all_given || said.ended() && waited > END_GRACE
    }

    /// How long the next piece, which is here, is to wait so that the flow is steady.
    fn early(&self, at: &Position, known: &LivePiece) -> Duration {
        if known.piece.serial < at.flow_from {
            return Duration::ZERO;
        }
        let (mut figures, now) = self.figures.lock();
        let room = figures.playout().buffer(now).saturating_sub(self.delay / 2);
        at.flow.early(known.piece.ingest_ms, now).min(room)
    }

    /// Gives a piece to the player. One that takes nothing (it is paused, or has enough) is waited for, and the mesh is told
    /// meanwhile that nothing is late.
    async fn give(
        &mut self,
        at: &mut Position,
        known: LivePiece,
        bytes: &[u8],
        window: &LiveWindow,
    ) -> anyhow::Result<Written> {
        let ingest_ms = known.piece.ingest_ms;
        let source_gap_ms = at.last.map(|last| ingest_ms.saturating_sub(last.piece.ingest_ms));
        {
            let (mut figures, now) = self.figures.lock();
            let gap = Duration::from_millis(source_gap_ms.unwrap_or(0));
            let leapt = at.last.is_some_and(|last| last.piece.serial.get() + 1 != known.piece.serial.get());
            // The source's clock was set back: the media goes on where it was.
            let back_ms = at.last.map_or(0, |last| last.piece.ingest_ms.saturating_sub(ingest_ms));
            at.zero_ms = at.zero_ms.saturating_sub(back_ms);
            if gap > SOURCE_GAP || leapt {
                at.zero_ms = at.zero_ms.saturating_add(source_gap_ms.unwrap_or(0));
                at.forgiven = figures.playout().stalled(now);
            }
            let segment = known.piece.id.segment;
            if at.last.is_none_or(|last| last.piece.id.segment != segment) {
                if at.last.is_some() {
                    figures.played();
                }
                figures.begin(segment, source_gap_ms.filter(|_| !leapt), now);
            }
            figures.write_begins(now);
        }
        let media = self.packets.next(bytes);
        let written = {
            let writing = self.sink.write(&media);
            tokio::pin!(writing);
            loop {
                match tokio::time::timeout(TELL, &mut writing).await {
                    Ok(written) => break written?,
                    Err(_) => tell(self.reader, &self.figures, window, at).await,
                };
            }
        };
        let (mut figures, now) = self.figures.lock();
        figures.write_ends(at.of(&known), ingest_ms, now);
        drop(figures);
        at.last = Some(known);
        at.next = Serial::new(known.piece.serial.get() + 1);
        Ok(written)
    }

    /// Whether the picture is farther behind the newest piece than the delay and what it may drift.
    fn is_behind(&self, window: &LiveWindow, at: &Position) -> bool {
        let Some((last, newest)) = at.last.zip(window.newest()) else { return false };
        let behind_ms = newest.piece.ingest_ms.saturating_sub(last.piece.ingest_ms);
        Duration::from_millis(behind_ms) > self.delay + MAX_DRIFT
    }

    /// The piece to go on with, where it has left the window and is kept.
    fn kept_next(&self, window: &LiveWindow, at: &Position) -> Option<PieceId> {
        let last = at.last?;
        if window.get(at.next).is_some() || window.after(at.next).is_none() {
            return None;
        }
        let archive = self.mesh.archive();
        let last = last.piece.id;
        let record = archive.record(last.segment)?;
        let pieces = record.piece_length.pieces_in(record.length);
        let next = match u64::from(last.piece.0) + 1 < pieces {
            true => PieceId { piece: PieceIndex(last.piece.0 + 1), ..last },
            false => PieceId { segment: last.segment.next(), piece: PieceIndex(0) },
        };
        archive.has(next).then_some(next)
    }

    /// Where to go on, if not with the next piece.
    fn leap(&self, window: &LiveWindow, at: &Position) -> Option<Serial> {
        if at.hold > Instant::now() {
            return None;
        }
        let newest = window.newest()?.piece;
        let (lack, drift) = {
            let (mut figures, now) = self.figures.lock();
            let playout = figures.playout();
            match playout.has_started() {
                true => (playout.lack(now), playout.stalled(now).saturating_sub(at.forgiven)),
                false => (at.since.elapsed(), at.since.elapsed()),
            }
        };
        if lack.is_zero() {
            return None;
        }
        if drift >= MAX_DRIFT {
            let delay_ms = u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX);
            let from_ms = newest.ingest_ms.saturating_sub(delay_ms);
            let playable = window.playable_after(at.next, from_ms, PLAYABLE_MS);
            let target = playable.or_else(|| window.random_access_before(from_ms));
            if let Some(target) = target.map(|known| known.piece.serial).filter(|target| *target > at.next) {
                return Some(target);
            }
        }
        // The piece has left the window, or there never was one of this number.
        let later = window.after(at.next).filter(|_| window.get(at.next).is_none())?;
        later.held.then_some(later.piece.serial)
    }

    /// Whether the picture has begun and waits for media.
    fn stands_still(&self) -> bool {
        let (mut figures, now) = self.figures.lock();
        !figures.playout().lack(now).is_zero()
    }
}

/// Tells the mesh when the next piece is due, once that can be told: until then every piece is as welcome as ever.
/// What the picture waits for is not late, but due [`REPRIEVE`] from now: the mesh asks for nothing that is past.
async fn tell(reader: &Reader, figures: &Figures, window: &LiveWindow, at: &Position) -> bool {
    let due = {
        let (mut figures, now) = figures.lock();
        let playout = figures.playout();
        let hold = at.hold.saturating_duration_since(Instant::now());
        if !playout.has_started() && hold.is_zero() {
            return false;
        }
        // What is not known yet is due when what was given last has been played.
        let known = window.get(at.next).or(at.last);
        let position = known.map_or(Duration::ZERO, |known| at.of(&known));
        Instant::now() + (hold + playout.until(position, now)).clamp(REPRIEVE, FARTHEST)
    };
    reader.playhead(at.next, due).await;
    true
}

/// How long playing waits that begins with a piece, so that it is `delay` behind the newest one.
fn held_back(window: &LiveWindow, piece: &LivePiece, delay: Duration) -> Duration {
    let newest_ms = window.newest().map_or(0, |newest| newest.piece.ingest_ms);
    delay.saturating_sub(Duration::from_millis(newest_ms.saturating_sub(piece.piece.ingest_ms)))
}

/// How much media must be given before the picture runs.
pub fn head_start(delay: Duration) -> Duration {
    HEAD_START.min(delay / 2)
}
