//! Playing what was on air before: finished minutes, as the mesh brings them or this node has kept them.
//!
//! Rules:
//! 1. A minute is played from its beginning, piece by piece, each once it is here and all before it were given, no more than
//!    [`LEAD`] before its time: what is farther ahead lies on disk, where others can have it.
//! 2. The mesh is told what is needed when: at first the one piece that the player begins with, then the minute at hand and those
//!    after it.
//! 3. The picture runs once it can be expected to go on ([`Outset`]); until then the player gets no more than its head start, and
//!    shows a picture. It waits for a missing piece, and goes on by the same rule. Of a minute that no neighbour has, nothing is waited for longer than [`PATIENCE`]: it
//!    is skipped, and said to be.
//! 4. At the minute that is still on air, or when the user asks for it, playing goes on at the live edge.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use minuet_node::{
    mesh::{Archive, Elsewhere, FIRST_ALONE, HORIZON, LiveWindow, Mesh, Need, Outset, Reader},
    units,
};
use minuet_proto::{Phase, PieceId, PieceIndex, SegmentSeq, SignedRecord};
use tokio::sync::watch;

use super::{
    figures::Figures,
    filler::Filler,
    packets::Packets,
    said::Said,
    sink::{Sink, Written},
};

/// How far ahead of its time media is given to the player.
const LEAD: Duration = Duration::from_secs(3);
/// How often a waiting playback looks.
const LOOK: Duration = Duration::from_millis(100);
/// How often the mesh is told where the player is.
const TELL: Duration = Duration::from_secs(1);
/// How long is waited for somebody who has a minute.
const PATIENCE: Duration = Duration::from_secs(6);
/// When others than the mesh are asked for it.
const ALONE: Duration = Duration::from_millis(1500);
/// How long is waited for a minute that somebody seems to have, while the picture stands still.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How much media the mesh is told of ahead of the player, and in how many minutes at most.
const PLAN: Duration = Duration::from_secs(60);
const MAX_PLANNED: usize = 8;
/// When a piece is due for which the picture waits.
const REPRIEVE: Duration = Duration::from_millis(300);
/// Pieces are taken to play for no less.
const SHORTEST_PIECE: Duration = Duration::from_millis(1);
/// Where the source got nothing for so long, the media has a gap in time that no player plays.
const SOURCE_GAP: Duration = Duration::from_secs(5);

/// Records at hand: two weeks of minutes.
const MAX_RECORDS: usize = 20_160;

/// Why playing what is past ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The broadcast is over, and all of it was given.
    Ended,
    /// The player has gone.
    Closed,
    /// What comes next is still on air.
    Edge(PieceId),
    /// The user wishes to be at the live edge.
    Leap,
}

/// Records of finished minutes, as they come.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// By number.
    pub known: BTreeMap<SegmentSeq, SignedRecord>,
}

impl Records {
    /// Takes a record in. The oldest give way.
    pub fn add(&mut self, record: SignedRecord) {
        self.known.insert(record.seq, record);
        while self.known.len() > MAX_RECORDS {
            self.known.pop_first();
        }
    }
}

/// Playback of what is past.
pub struct PastPlayback<'a> {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// The player, as the mesh sees it.
    pub reader: &'a Reader,
    /// Holds this node at the live edge, although nobody plays that; none: it is not there.
    pub edge: Option<&'a Reader>,
    /// Records of minutes.
    pub records: watch::Receiver<Records>,
    /// What the source has said.
    pub said: watch::Receiver<Said>,
    /// Counts the user's wishes to be at the live edge.
    pub wishes: watch::Receiver<u64>,
    /// Who fetches what nobody in the mesh has.
    pub filler: &'a Filler,
    /// Where the media goes.
    pub sink: &'a mut Sink,
    /// Cuts what is given into whole packets, whoever gives it.
    pub packets: &'a mut Packets,
    /// The counts.
    pub figures: Arc<Figures>,
    /// `--give-up`.
    pub give_up: Duration,
}

/// Where playback stands.
struct At {
    /// The piece to give next.
    next: PieceId,
    /// Media given, by its time.
    given: Duration,
    /// When the minute at hand came to be waited for.
    since: Instant,
    /// The minute given last.
    last: Option<SignedRecord>,
    /// Nothing has come since the beginning.
    is_first: bool,
    /// When the picture may run.
    outset: Outset,
}

impl PastPlayback<'_> {
    /// Plays from `start` on; `given` is the time of the media that was given before. Why it ended, and the time of what was
    /// given then.
    pub async fn run(&mut self, start: PieceId, given: Duration) -> anyhow::Result<(End, Duration)> {
        let (archive, window) = (Arc::clone(self.mesh.archive()), Arc::clone(self.mesh.window()));
        let mut news = archive.subscribe();
        let outset = Outset::default();
        let mut at =
            At { next: start, given, since: Instant::now(), last: None, is_first: given.is_zero(), outset };
        let mut told: Option<Instant> = None;
        let mut good = Instant::now();
        self.wishes.mark_unchanged();
        loop {
            news.borrow_and_update();
            if self.wishes.has_changed().unwrap_or(false) {
                return Ok((End::Leap, at.given));
            }
            let Some(record) = self.record(&archive, at.next.segment) else {
                if told.is_none_or(|told| told.elapsed() >= TELL) && self.is_past(at.next.segment) {
                    // Trackers forget records before nodes do.
                    self.ask_record(at.next.segment).await;
                    told = Some(Instant::now());
                }
                match self.without_record(&archive, &mut at) {
                    Some(end) => return Ok((end, at.given)),
                    None => {
                        let _ = tokio::time::timeout(LOOK, self.records.changed()).await;
                        self.check_give_up(good)?;
                        continue;
                    }
                }
            };
            if u64::from(at.next.piece.0) >= record.piece_length.pieces_in(record.length) {
                self.figures.lock().0.played();
                at.next = PieceId { segment: record.seq.next(), piece: PieceIndex(0) };
                at.since = Instant::now();
                at.last = Some(record);
                told = None;
                continue;
            }
            if at.is_first && archive.has(at.next) {
                // Now the rest: the picture may wait for it.
                (at.is_first, told) = (false, None);
            }
            if told.is_none_or(|told| told.elapsed() >= TELL) {
                self.tell(&archive, &window, &at, &record).await;
                told = Some(Instant::now());
            }
            let mut look = LOOK;
            if archive.has(at.next) {
                let early = self.early();
                if !self.may_run(&archive, &mut at, &record) {
                    // What comes next is here, so nothing is lost.
                    at.since = Instant::now();
                    good = at.since;
                } else if early.is_zero() {
                    if let Some(bytes) = archive.read_in_background(at.next).await {
                        if self.give(&mut at, &record, &bytes).await? == Written::Closed {
                            return Ok((End::Closed, at.given));
                        }
                        good = Instant::now();
                        at.since = good;
                        continue;
                    }
                } else {
                    good = Instant::now();
                    at.since = good;
                    look = look.min(early);
                }
            } else if self.is_nobodys(&archive, &at) {
                // Plain BitTorrent peers may have it.
                self.filler.fill(&record, at.next.piece);
            }
            if !archive.has(at.next)
                && let Some(why) = self.is_lost(&archive, &at)
            {
                tracing::warn!("segment {} is skipped: {why}", record.seq);
                self.figures.lock().0.skipped(1);
                at.next = PieceId { segment: record.seq.next(), piece: PieceIndex(0) };
                at.since = Instant::now();
                self.packets.leap();
                self.sink.leap();
                at.last = None;
                told = None;
                continue;
            }
            self.check_give_up(good)?;
            let _ = tokio::time::timeout(look, news.changed()).await;
        }
    }

    fn record(&self, archive: &Archive, segment: SegmentSeq) -> Option<SignedRecord> {
        let known = self.records.borrow().known.get(&segment).cloned();
        known.or_else(|| archive.record(segment))
    }

    /// What to do where the next minute has no record: it is on air, or its number was left out, or the broadcast is over.
    fn without_record(&self, archive: &Archive, at: &mut At) -> Option<End> {
        let later = self.records.borrow().known.range(at.next.segment..).next().map(|(seq, _)| *seq);
        if let Some(later) = later {
            let elsewhere = archive.elsewhere(at.next.segment);
            let is_near = later == at.next.segment.next();
            let is_kept = elsewhere.is_some_and(|elsewhere| elsewhere.holders > 0);
            // Numbers of minutes that were never sealed are left out; others have a record that somebody keeps. Who says so
            // and does not give it is not waited for.
            let is_left_out = is_near && elsewhere.is_some() && !is_kept;
            if is_left_out || at.since.elapsed() > PATIENCE {
                let kept =
                    elsewhere.and_then(|elsewhere| elsewhere.next).filter(|next| *next > at.next.segment);
                let segment = kept.map_or(later, |kept| kept.min(later));
                at.next = PieceId { segment, piece: PieceIndex(0) };
                at.since = Instant::now();
            }
            return None;
        }
        let said = self.said.borrow();
        let state = said.state.as_ref();
        if state.is_some_and(|state| state.phase == Phase::Ended && at.next.segment >= state.next) {
            return Some(End::Ended);
        }
        // Its record may be under way: what is on air now begins where the last record ends.
        let newest = said.newest.as_ref().map(|record| record.seq);
        newest.is_some_and(|newest| newest.next() == at.next.segment).then_some(End::Edge(at.next))
    }

    /// Whether a later minute is finished.
    fn is_past(&self, segment: SegmentSeq) -> bool {
        self.records.borrow().known.range(segment..).next().is_some()
    }

    /// Has neighbours asked for a minute of which no tracker has the record any more.
    async fn ask_record(&self, segment: SegmentSeq) {
        let span_ms = self.said.borrow().state.as_ref().map_or(60_000, |state| state.segment_ms);
        let (due, span) = (Instant::now() + REPRIEVE, Duration::from_millis(span_ms));
        self.mesh.seek(Some(segment));
        self.reader.plan(vec![Need { segment, from: 0, due, span }]).await;
    }

    /// Whether nobody in the mesh has the minute at hand, as far as is known for a while.
    fn is_nobodys(&self, archive: &Archive, at: &At) -> bool {
        let elsewhere = archive.elsewhere(at.next.segment);
        at.since.elapsed() > ALONE && elsewhere.is_none_or(|elsewhere| elsewhere.holders == 0)
    }

    /// Why the minute at hand will not come, if so.
    fn is_lost(&self, archive: &Archive, at: &At) -> Option<String> {
        let stands = !self.figures.lock().0.playout().has_started() || {
            let (mut figures, now) = self.figures.lock();
            figures.playout().buffer(now) < Duration::from_millis(500)
        };
        let waited = at.since.elapsed();
        let links = self.mesh.stats().peers;
        match archive.elsewhere(at.next.segment) {
            Some(Elsewhere { holders: 0, .. }) if stands && links > 0 && waited > PATIENCE => {
                Some("nobody who can be reached has it any more".into())
            }
            _ if stands && waited > LONGEST_WAIT && links > 0 => {
                Some(format!("it did not come within {}", units::show(LONGEST_WAIT)))
            }
            _ => None,
        }
    }

    /// Whether the next piece may be given: it belongs to the head start, or the picture may run.
    fn may_run(&self, archive: &Archive, at: &mut At, record: &SignedRecord) -> bool {
        let pieces = record.piece_length.pieces_in(record.length).max(1);
        let time = Duration::from_millis(record.duration_ms).div_f64(pieces as f64).max(SHORTEST_PIECE);
        let (stands, has_started, head_start, now) = {
            let (mut figures, now) = self.figures.lock();
            let playout = figures.playout();
            (!playout.lack(now).is_zero(), playout.has_started(), playout.head_start(), now)
        };
        if stands && at.outset.runs() {
            at.outset.stand();
        }
        let count = HORIZON.div_duration_f64(time).ceil() as usize;
        let is_head_start = !has_started && at.given + time < head_start;
        at.outset.look(self.ahead(archive, at.next, record).take(count), time, now) || is_head_start
    }

    /// The pieces from `next` on, as far as records are known, and whether each is here.
    fn ahead(&self, archive: &Archive, next: PieceId, record: &SignedRecord) -> impl Iterator<Item = bool> {
        let count = |record: &SignedRecord| record.piece_length.pieces_in(record.length);
        let rest = (u64::from(next.piece.0)..count(record)).map(move |index| (next.segment, index));
        let records = std::iter::successors(Some(next.segment.next()), |segment| Some(segment.next()));
        let later = records.map_while(|segment| self.record(archive, segment));
        let later = later.flat_map(move |record| (0..count(&record)).map(move |index| (record.seq, index)));
        rest.chain(later).map(|(segment, index)| {
            let piece = PieceIndex(u32::try_from(index).unwrap_or(u32::MAX));
            archive.has(PieceId { segment, piece })
        })
    }

    /// How long the next piece is to wait, so that no more than [`LEAD`] lies with the player.
    fn early(&self) -> Duration {
        let (mut figures, now) = self.figures.lock();
        figures.playout().buffer(now).saturating_sub(LEAD)
    }

    /// Tells the mesh what is needed when.
    async fn tell(&self, archive: &Archive, window: &LiveWindow, at: &At, record: &SignedRecord) {
        let mut due = {
            let (mut figures, now) = self.figures.lock();
            let playout = figures.playout();
            let until = if playout.has_started() { playout.until(at.given, now) } else { Duration::ZERO };
            Instant::now() + if at.is_first { Duration::ZERO } else { until.max(REPRIEVE) }
        };
        let pieces = record.piece_length.pieces_in(record.length).max(1);
        let from = (u64::from(at.next.piece.0) * 1_000_000).div_ceil(pieces);
        let mut from = u32::try_from(from).unwrap_or(1_000_000);
        let (mut plans, mut planned, mut next) = (Vec::new(), Duration::ZERO, Some(record.clone()));
        while let Some(record) = next.take() {
            let span = Duration::from_millis(record.duration_ms);
            if at.is_first {
                plans.push(Need { segment: record.seq, from, due, span: FIRST_ALONE });
                break;
            }
            plans.push(Need { segment: record.seq, from, due, span });
            let left = span.mul_f64(1.0 - f64::from(from) / 1e6);
            (due, planned, from) = (due + left, planned + left, 0);
            if planned < PLAN && plans.len() < MAX_PLANNED {
                next = self.record(archive, record.seq.next());
            }
        }
        let lacked = plans.iter().find(|need| {
            let elsewhere = archive.elsewhere(need.segment);
            !archive.is_whole(need.segment) && elsewhere.is_none_or(|elsewhere| elsewhere.holders == 0)
        });
        self.mesh.seek(lacked.map(|need| need.segment));
        self.reader.plan(plans).await;
        if let Some(edge) = self.edge
            && let Some(newest) = window.newest()
        {
            // In no hurry: what comes is kept.
            edge.playhead(newest.piece.serial, Instant::now() + TELL * 4).await;
        }
    }

    /// Gives a piece to the player.
    async fn give(&mut self, at: &mut At, record: &SignedRecord, bytes: &[u8]) -> anyhow::Result<Written> {
        let index = u64::from(at.next.piece.0);
        let pieces = record.piece_length.pieces_in(record.length).max(1);
        let share = |pieces_given: u64| pieces_given as f64 / pieces as f64;
        {
            let (mut figures, now) = self.figures.lock();
            if index == 0 || at.last.is_none() && figures.segment() != Some(record.seq) {
                let before = at.last.as_ref().filter(|last| last.seq.next() == record.seq);
                let gap_ms = before.map(|last| record.ingest_ms.saturating_sub(last.sealed_ms));
                figures.begin(record.seq, gap_ms, now);
                let gap = at.last.as_ref().map_or(0, |last| record.ingest_ms.saturating_sub(last.sealed_ms));
                if Duration::from_millis(gap) > SOURCE_GAP || record.discontinuity {
                    self.packets.leap();
                    self.sink.leap();
                }
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
                    // It is paused, or has enough: nothing is late.
                    Err(_) => self.reader.plan(Vec::new()).await,
                }
            }
        };
        let span = Duration::from_millis(record.duration_ms);
        at.given += span.mul_f64(1.0 / pieces as f64);
        let took_ms = record.sealed_ms.saturating_sub(record.ingest_ms) as f64;
        let ingest_ms = record.ingest_ms + (took_ms * share(index + 1)) as u64;
        let (mut figures, now) = self.figures.lock();
        figures.write_ends(at.given, ingest_ms, now);
        drop(figures);
        at.next.piece = PieceIndex(at.next.piece.0 + 1);
        Ok(written)
    }

    fn check_give_up(&self, good: Instant) -> anyhow::Result<()> {
        if good.elapsed() > self.give_up {
            bail!(
                "nothing could be played for {}: nobody who can be reached has these minutes; watch live, or try again later",
                units::show(self.give_up)
            );
        }
        Ok(())
    }
}
