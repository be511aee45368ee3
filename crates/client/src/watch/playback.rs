//! Playing minutes in order.
//!
//! Rules:
//! 1. A minute is given to the player as its verified bytes come. The first minute is given once what is missing of it will come
//!    in less time than what is here from its start takes to play ([`plays_through`]), or once [`patience`] is over.
//! 2. When the picture has stood still for [`patience`] and a later minute is known, playback skips what is missing and goes on
//!    with the newest minute but one. It says so, and counts it.
//! 3. When nothing can be played for the time of `--give-up`, watching fails.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::bail;
use minuet_node::follow;
use minuet_proto::{InfoHash, Phase, Record, SegmentSeq, SignedRecord, SignedState};
use minuet_swarm::{Files, Reader, Swarm};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    cause::{ended_for, gave_up_minutes, show_ago},
    figures::Figures,
    minutes::Minute,
    now_ms,
    sink::{Sink, Written},
};

/// How often a waiting playback looks at the clock.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes given to the player at once.
const CHUNK: usize = 64 << 10;
/// A minute that was played is passed on for twice its own time, and at least so long.
const PASS_ON: Duration = Duration::from_secs(90);
/// How long the last minutes of a broadcast that has ended may take to come.
const END_GRACE: Duration = Duration::from_secs(30);

/// How long the picture may stand still before what is missing is skipped.
pub fn patience(segment_ms: u64) -> Duration {
    Duration::from_millis(segment_ms / 2).clamp(Duration::from_secs(5), Duration::from_secs(15))
}

/// Why playback ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The broadcast is over and all of it was given to the player.
    Ended,
    /// The player or the reader of standard output has gone.
    Closed,
}

/// Playback of one channel.
pub struct Playback {
    /// Minutes in order.
    pub minutes: mpsc::Receiver<Minute>,
    /// The source's newest statement.
    pub state: watch::Receiver<Option<SignedState>>,
    /// Where the media goes.
    pub sink: Sink,
    /// The swarm that holds the minutes.
    pub swarm: Arc<Swarm>,
    /// The counts.
    pub figures: Arc<Figures>,
    /// Whether what was played is kept for others.
    pub passes_on: bool,
    /// Whether playback may leap to the live edge when it fell behind.
    pub live: bool,
    /// `--give-up`.
    pub give_up: Duration,
    /// Minutes that were played, and when they go.
    pub played: VecDeque<(InfoHash, Instant)>,
    /// Media given before the minute that is being given.
    pub given: Duration,
    /// The minute given last.
    pub last: Option<SignedRecord>,
}

/// What became of a minute.
enum Outcome {
    Played,
    Late,
    Failed(String),
    Closed,
}

impl Playback {
    /// Plays until the broadcast ends or the player is closed. Dropping it is safe at any time.
    pub async fn run(&mut self) -> anyhow::Result<End> {
        let mut wanted: Option<SegmentSeq> = None;
        let mut before: Option<SignedRecord> = None;
        let mut catch_up_to = SegmentSeq(0);
        let mut last_good = Instant::now();
        loop {
            let Some(mut minute) = self.next_minute(wanted, last_good).await? else {
                if self.last.is_none() {
                    bail!("{}", self.all_gone());
                }
                return Ok(End::Ended);
            };
            let record = minute.record.clone();
            if wanted.is_none() && self.live {
                let began = Instant::now();
                self.settle(&record).await;
                // When that takes too long it is played all the same, and stands still where something is missing.
                let _ = tokio::time::timeout(patience(record.duration_ms), prime(&mut minute, began)).await;
            }
            // Numbers that are left out between a record and the one it names were never sealed.
            let follows = before.is_some_and(|before| record.check_follows(&before).is_ok());
            if let Some(wanted) = wanted.filter(|wanted| *wanted < record.seq && !follows) {
                self.figures.lock().0.skipped(record.seq.0 - wanted.0);
                tracing::warn!("segments {wanted} to before {} are not to be had: skipped", record.seq);
            }
            wanted = Some(record.seq.next());
            before = Some(record.clone());
            let outcome = if record.seq < catch_up_to {
                Outcome::Late
            } else {
                self.play(minute, &mut last_good).await?
            };
            match outcome {
                Outcome::Played => {
                    self.figures.lock().0.played();
                    last_good = Instant::now();
                }
                Outcome::Closed => return Ok(End::Closed),
                Outcome::Late | Outcome::Failed(_) => {
                    self.sink.leap();
                    let newest = self.figures.lock().0.newest.unwrap_or(record.seq);
                    if self.live {
                        catch_up_to = SegmentSeq(newest.0.saturating_sub(1)).max(catch_up_to);
                    }
                    self.figures.lock().0.skipped(1);
                    match outcome {
                        Outcome::Failed(why) => tracing::warn!("segment {} is skipped: {why}", record.seq),
                        _ => tracing::warn!("segment {} did not come in time: skipped", record.seq),
                    }
                }
            }
            self.retire(record.info_hash, Duration::from_millis(record.duration_ms)).await;
        }
    }

    /// Waits until the first minute has settled, while its swarm is being joined.
    async fn settle(&self, record: &Record) {
        let settled = follow::settled(Duration::from_millis(record.duration_ms));
        let age = Duration::from_millis(now_ms().saturating_sub(record.sealed_ms));
        let wait = settled.saturating_sub(age);
        let ended = self.state.borrow().as_ref().is_some_and(|state| state.phase == Phase::Ended);
        if !wait.is_zero() && !ended {
            tracing::info!(
                "the first minute was only just finished: playing in {:.0} s",
                wait.as_secs_f64().ceil()
            );
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits for the next minute; `None` when the broadcast ended before `wanted`.
    async fn next_minute(
        &mut self,
        wanted: Option<SegmentSeq>,
        last_good: Instant,
    ) -> anyhow::Result<Option<Minute>> {
        let mut ended_since: Option<Instant> = None;
        let mut last_said = Instant::now();
        loop {
            let ended = self
                .state
                .borrow()
                .as_ref()
                .filter(|state| state.phase == Phase::Ended)
                .map(|state| (state.next, state.segment_ms));
            let all_played = |next| wanted.is_some_and(|wanted| wanted >= next);
            match ended {
                Some((next, _)) if all_played(next) => return Ok(None),
                Some((next, _)) if ended_since.get_or_insert_with(Instant::now).elapsed() > END_GRACE => {
                    if wanted.is_none() {
                        bail!("{}", self.all_gone());
                    }
                    tracing::warn!("the broadcast has ended; its minutes up to {next} are not to be had");
                    return Ok(None);
                }
                Some(_) => {}
                None => ended_since = None,
            }
            tokio::select! {
                biased;
                minute = self.minutes.recv() => match minute {
                    Some(minute) => return Ok(Some(minute)),
                    None => bail!("following the channel has ended"),
                },
                _ = self.state.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            self.check_give_up(last_good, false)?;
            if last_said.elapsed() > Duration::from_secs(30) {
                last_said = Instant::now();
                match wanted {
                    Some(seq) => {
                        tracing::info!("waiting for segment {seq}: the source has not published it yet")
                    }
                    None => tracing::info!("waiting for the first minute to be finished"),
                }
            }
        }
    }

    /// What is said where the broadcast has ended and nothing of it could be played.
    fn all_gone(&self) -> String {
        let ago = self.state.borrow().as_ref().map(|state| ended_for(state.get(), now_ms()));
        let ago = show_ago(ago.unwrap_or_default());
        match self.live {
            true => format!(
                "the broadcast ended {ago}, and nobody seeds its last segment any more: --start oldest looks for earlier ones"
            ),
            false => format!(
                "the broadcast ended {ago}, and nobody seeds its segments any more: only who has kept a recording of it has \
                 them"
            ),
        }
    }

    /// `published`: the minute that is waited for is known.
    fn check_give_up(&self, last_good: Instant, published: bool) -> anyhow::Result<()> {
        if last_good.elapsed() > self.give_up {
            let phase = self.state.borrow().as_ref().map(|state| state.phase);
            bail!(gave_up_minutes(self.give_up, phase, published));
        }
        Ok(())
    }

    async fn play(&mut self, mut minute: Minute, last_good: &mut Instant) -> anyhow::Result<Outcome> {
        let record = minute.record.clone();
        let began = Instant::now();
        let patience = patience(record.duration_ms);
        let mut reader: Option<Reader> = None;
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0u64;
        loop {
            let done = {
                let step = step(&mut minute, &mut reader, &mut buffer);
                tokio::pin!(step);
                loop {
                    tokio::select! {
                        biased;
                        done = &mut step => break done,
                        () = tokio::time::sleep(LOOK) => {}
                    }
                    self.check_give_up(*last_good, true)?;
                    let look = self.figures.look(0);
                    let standing = if look.has_started { look.lack } else { began.elapsed() };
                    let newest = self.figures.lock().0.newest;
                    if standing > patience && newest.is_some_and(|newest| newest > record.seq) {
                        return Ok(Outcome::Late);
                    }
                    // Nothing comes after it, and perhaps nobody has it any more.
                    let ended = self.state.borrow().as_ref().is_some_and(|state| state.phase == Phase::Ended);
                    if standing > END_GRACE && ended {
                        return Ok(Outcome::Late);
                    }
                }
            };
            let length = match done {
                Ok(Step::Opened(opened)) => {
                    reader = Some(opened);
                    continue;
                }
                Ok(Step::Lost) => return Ok(Outcome::Failed("its swarm could not be joined".into())),
                Ok(Step::Read(0)) if offset == record.length => return Ok(Outcome::Played),
                Ok(Step::Read(0)) => {
                    let why = format!("it has {offset} bytes where the source signed {}", record.length);
                    return Ok(Outcome::Failed(why));
                }
                Ok(Step::Read(length)) => length,
                Err(error) => return Ok(Outcome::Failed(error.to_string())),
            };
            {
                let (mut figures, now) = self.figures.lock();
                if offset == 0 {
                    let before = self.last.replace(record.clone());
                    let gap = before.map(|before| record.ingest_ms.saturating_sub(before.sealed_ms));
                    figures.begin(record.seq, gap, now);
                }
                figures.write_begins(now);
            }
            let writing = Instant::now();
            if self.sink.write(&buffer[..length]).await? == Written::Closed {
                return Ok(Outcome::Closed);
            }
            // A player that is paused takes nothing for as long as its user likes: nobody is to blame for that.
            *last_good += writing.elapsed();
            offset += length as u64;
            let share = (offset as f64 / record.length as f64).min(1.0);
            let position = self.given + Duration::from_millis(record.duration_ms).mul_f64(share);
            let took_ms = record.sealed_ms.saturating_sub(record.ingest_ms) as f64;
            let (mut figures, now) = self.figures.lock();
            figures.write_ends(position, record.ingest_ms + (took_ms * share) as u64, now);
            drop(figures);
            if offset == record.length {
                self.given = position;
            }
        }
    }

    /// Lets a minute go that has been played: at once, or when it was passed on for a while.
    async fn retire(&mut self, minute: InfoHash, duration: Duration) {
        let keep = if self.passes_on { PASS_ON.max(duration * 2) } else { Duration::ZERO };
        self.played.push_back((minute, Instant::now() + keep));
        while self.played.front().is_some_and(|(_, until)| *until <= Instant::now())
            && let Some((minute, _)) = self.played.pop_front()
        {
            if let Err(error) = self.swarm.forget(minute, Files::Delete).await {
                tracing::warn!("a played minute cannot be removed: {error}");
            }
        }
    }
}

/// Whether a minute would play without a stall from now on, where `here` of its `whole` time is here in one piece from
/// its start, `share` of all of it somewhere, and the rest goes on coming as it came in `elapsed`.
fn plays_through(whole: Duration, here: Duration, share: f64, elapsed: Duration) -> bool {
    here >= whole || share > 0.0 && elapsed.mul_f64((1.0 - share).max(0.0) / share) <= here
}

/// Waits until a minute that is fetched since `began` [`plays_through`], asking for its start first. Returns early when
/// it cannot be had: playing it tells why.
async fn prime(minute: &mut Minute, began: Instant) {
    let (length, whole) = (minute.record.length, Duration::from_millis(minute.record.duration_ms));
    let Some(download) = minute.download().await else { return };
    let Ok(mut reader) = download.reader(0).await else { return };
    let mut buffer = vec![0; CHUNK];
    let mut here = 0u64;
    loop {
        let Ok(progress) = download.progress() else { return };
        let time_here = whole.mul_f64(here as f64 / length.max(1) as f64);
        let share = progress.have as f64 / length.max(1) as f64;
        if plays_through(whole, time_here, share, began.elapsed()) {
            return;
        }
        match tokio::time::timeout(LOOK, reader.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(count)) => here += count as u64,
            Err(_) => {}
        }
    }
}

enum Step {
    Opened(Reader),
    Read(usize),
    Lost,
}

/// One step: the download, then a reader, then bytes.
async fn step(
    minute: &mut Minute,
    reader: &mut Option<Reader>,
    buffer: &mut [u8],
) -> Result<Step, minuet_swarm::Error> {
    match reader {
        Some(reader) => reader.read(buffer).await.map(Step::Read),
        None => match minute.download().await {
            Some(download) => download.reader(0).await.map(Step::Opened),
            None => Ok(Step::Lost),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_plays_through_when_the_rest_comes_before_its_start_is_over() {
        let s = Duration::from_secs;
        // 30 s for half of it: the other half takes 30 s more.
        assert!(!plays_through(s(60), s(29), 0.5, s(30)));
        assert!(plays_through(s(60), s(30), 0.5, s(30)));
        // Nearly all of it is here, but not its start.
        assert!(!plays_through(s(60), s(0), 0.9, s(30)));
        assert!(plays_through(s(60), s(4), 0.9, s(30)));
        assert!(!plays_through(s(60), s(0), 0.0, s(30)));
        assert!(plays_through(s(60), s(60), 1.0, s(0)));
    }
}
