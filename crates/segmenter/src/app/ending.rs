//! The end of a run, in order and in bounded time.
//!
//! Rule: whoever tells the segmenter to end waits [`END_TIMEOUT`] at the most, whatever hangs: an input, an ffmpeg, the disk, a
//! tracker. What has been recorded by then is on disk, and is published at the next start if it could not be now.

use std::time::Duration;

use anyhow::{Result, anyhow};
use minuet_console::Signals;
use minuet_guard::tasks::Fault;
use minuet_proto::Phase;
use tokio::time::{Instant, timeout, timeout_at};

use super::Running;
use crate::{meters::Meters, publisher::LAST_ROUND, shelf::Shelf};

/// How long the seeding of what is on the shelf is waited for.
const OFFER_TIMEOUT: Duration = Duration::from_secs(6);
/// How long the whole end may take from the signal on: containers are killed after 10 s (`docker stop`).
const END_TIMEOUT: Duration = Duration::from_secs(8);
/// How much of that is kept for the parts to end in, trackers to be told of the end among it.
const STOP_TIMEOUT: Duration = Duration::from_millis(3500);
/// How long an input may hold up the end.
const INPUT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the disk may take for what was recorded, where nobody waits for the end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an ending segmenter goes on to seed, so that viewers get the last segment from it.
const PASS_ON_TIMEOUT: Duration = Duration::from_secs(10);
/// Signals within so long are one request: a terminal's Ctrl-C comes to a script and what it runs, and both pass it on.
const ONE_REQUEST: Duration = Duration::from_secs(1);

const _: () = assert!(LAST_ROUND.as_millis() < STOP_TIMEOUT.as_millis());
const _: () = assert!(INPUT_TIMEOUT.as_millis() + STOP_TIMEOUT.as_millis() < END_TIMEOUT.as_millis());

/// The signals that end the segmenter, and when the first of them came.
pub struct Told {
    signals: Signals,
    first: Option<Instant>,
}

impl Told {
    /// None has come yet.
    pub fn new(signals: Signals) -> Self {
        Self { signals, first: None }
    }

    /// Waits for a signal that is a request of its own. Cancel-safe.
    async fn next(&mut self) {
        loop {
            self.signals.next().await;
            if self.first.is_none_or(|first| first.elapsed() >= ONE_REQUEST) {
                self.first.get_or_insert_with(Instant::now);
                return;
            }
        }
    }

    /// Waits for something; none if the segmenter is told to end before, or once more.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.next() => None,
        }
    }
}

impl Running {
    /// Runs until the feed ends, the segmenter is told to end, or a part dies that cannot begin anew; then ends all in
    /// order. A user who tells it to end twice has it end at once.
    pub async fn run(mut self, exit_at_end: bool, mut told: Told) -> Result<()> {
        let mut result = Ok(());
        if told.first.is_none() {
            tokio::select! {
                over = self.recording.over() => result = over,
                () = told.next() => {}
                fault = self.tasks.fault() => result = Err(fatal(&fault)),
            }
        }
        if told.first.is_some() {
            tracing::info!("sealing the open segment, then ending");
            minuet_console::service::stopping();
        }
        let early = told.first.is_some() || result.is_err();
        let now = Instant::now();
        // The user who told it waits; a feed that has ended may be passed on in peace.
        let (sealed_by, passed_by) = match early {
            true => (now + (END_TIMEOUT - STOP_TIMEOUT), now + (END_TIMEOUT - STOP_TIMEOUT)),
            false => (now + SETTLE_TIMEOUT, now + SETTLE_TIMEOUT + PASS_ON_TIMEOUT),
        };
        match told.unless(self.seal(early, sealed_by)).await {
            Some(sealed) => result = result.and(sealed),
            None => {
                tracing::warn!("told to end once more: what is not sealed yet is lost");
                self.announcer.set_phase(Phase::Ended);
            }
        }
        if result.is_ok() && told.first.is_none() && !exit_at_end {
            tracing::info!("the feed has ended; its segments stay seeded until Ctrl-C");
            tokio::select! {
                () = told.next() => {}
                fault = self.tasks.fault() => result = Err(fatal(&fault)),
            }
        } else if result.is_ok() && has_peers(&self.meters) && passed_by > Instant::now() {
            tracing::info!("passing the last segment on to viewers; Ctrl-C ends at once");
            told.unless(timeout_at(passed_by, passed_on(&self.meters, &self.shelf))).await;
        }
        match told.unless(timeout(STOP_TIMEOUT, self.tasks.stop())).await {
            Some(Ok(())) => {}
            Some(Err(_)) => tracing::warn!("not everything ended in time"),
            None => tracing::warn!("told to stop again: ending at once"),
        }
        result
    }

    /// Ends the recording, and waits until others have what was recorded, at the most until `by`.
    async fn seal(&mut self, early: bool, by: Instant) -> Result<()> {
        self.recording.end();
        let mut result = Ok(());
        if early {
            match timeout(INPUT_TIMEOUT, self.recording.over()).await {
                Ok(over) => result = over,
                Err(_) => tracing::warn!("the input does not end; the open segment is lost"),
            }
        }
        // Everything sealed is durable once the second thread has ended too.
        match timeout_at(by, self.recording.settled()).await {
            Ok(settled) => result = result.and(settled),
            Err(_) => {
                tracing::warn!("the disk takes long: what it has not taken is published at the next start")
            }
        }
        self.announcer.set_phase(Phase::Ended);
        // Published once it is seeded; ends with the keeper if that fails.
        let _ = timeout_at(by, offered(&self.shelf)).await;
        result
    }
}

/// Whether BitTorrent peers have come for something, who may want the last segment too.
fn has_peers(meters: &Meters) -> bool {
    meters.read().sent_to_peers > 0
}

/// What is said of a part without which there is no broadcast.
fn fatal(fault: &Fault) -> anyhow::Error {
    anyhow!("{fault}; start the segmenter again, and please report this")
}

/// Waits until all that is on the shelf is offered to others, but not for ever.
pub async fn offered(shelf: &Shelf) {
    let newest = shelf.newest();
    let _ = timeout(OFFER_TIMEOUT, shelf.watch_offered().wait_for(|offered| *offered >= newest)).await;
}

/// Waits until the last segment's bytes have gone out once, so that viewers have it among them, but not for ever.
async fn passed_on(meters: &Meters, shelf: &Shelf) {
    let Some(newest) = shelf.newest_record() else { return };
    let mut sent = meters.watch_newest_sent();
    let passed = sent.wait_for(|(seq, sent)| *seq == newest.seq && *sent >= newest.length);
    let _ = timeout(PASS_ON_TIMEOUT, passed).await;
}
