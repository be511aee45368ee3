//! Tells one tracker what there is: records with their torrents, and the channel's state.
//!
//! The store is the queue. Each round asks the tracker for its newest record and sends what comes after it, so a
//! tracker that was away, or that lost its memory, gets what it missed. One publisher serves one tracker, so that
//! none waits for another, and the feed waits for none.
//!
//! A segment is announced (BEP 3) right after its record is published: before, the tracker would refuse it.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use minuet_node::{
    Backoff, Error, TrackerClient,
    announce::Seed,
    tracker::{Begin, Snapshot},
};
use minuet_proto::{ChannelId, InfoHash, PeerId, SegmentSeq, SignedState, channel_api::Publication};
use minuet_store::Store;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{shelf::Shelf, state::Announcer};

/// The first wait after a failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between tries.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How often a tracker is looked after when there is nothing new: it may have lost its memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(120);
/// How often a failing tracker is complained about.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(300);
/// How long the last round may take when the segmenter ends.
pub const LAST_ROUND: Duration = Duration::from_secs(3);

/// What a publisher works with.
#[derive(Clone)]
pub struct Publisher {
    /// The tracker it serves.
    pub tracker: TrackerClient,
    /// The channel.
    pub channel: ChannelId,
    /// The segments' torrents.
    pub store: Arc<Store>,
    /// The segments that are held.
    pub shelf: Arc<Shelf>,
    /// The channel's state.
    pub state: watch::Receiver<SignedState>,
    /// States it.
    pub announcer: Arc<Announcer>,
    /// This node's BitTorrent id in this run.
    pub peer_id: PeerId,
    /// Where BitTorrent peers connect to.
    pub port: u16,
}

/// When each segment is to be announced again.
type Announced = HashMap<InfoHash, Instant>;

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Tracker(#[from] Error),
    #[error(
        "has segment {theirs}, but here the newest is {ours}: another segmenter speaks for this channel, or the data \
         folder is not the one that the channel was recorded in; stop the other, or name that folder with --data"
    )]
    Ahead { theirs: SegmentSeq, ours: SegmentSeq },
    #[error(
        "has another segment {0} than this folder: another segmenter has spoken for this channel; make a new channel \
         with another --key, or go on in that segmenter's folder"
    )]
    OtherHistory(SegmentSeq),
    #[error(
        "has a state of this channel from a time that cannot be ({0} ms after 1970): whoever has the key has stated it, and \
         nothing can be stated after it; make a new channel with another --key"
    )]
    NoSuchTime(u64),
}

impl Publisher {
    /// Publishes until stopped, and then once more what is left.
    ///
    /// # Errors
    /// None; it ends when it is stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut news = self.shelf.watch_offered();
        let mut announced = Announced::new();
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut complained: Option<Instant> = None;
        loop {
            news.mark_unchanged();
            self.state.mark_unchanged();
            // One that waits for a tracker which does not answer must not hold up the end.
            let round = tokio::select! {
                () = stop.cancelled() => break,
                round = self.round(&mut announced) => round,
            };
            let wait = match round {
                Ok(()) => {
                    if complained.take().is_some() {
                        tracing::info!("tracker {} is back and has everything", self.tracker.base());
                    }
                    backoff.succeeded();
                    None
                }
                Err(failure) => {
                    if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                        tracing::warn!("tracker {} {failure}; the stream goes on", self.tracker.base());
                        complained = Some(Instant::now());
                    }
                    Some(backoff.failed(rand::random()))
                }
            };
            let look = Instant::now() + LOOK_INTERVAL;
            let due = announced.values().min().copied().unwrap_or(look).min(look);
            let idle = async {
                match wait {
                    // News do not shorten the wait: the tracker is not to be hammered.
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => tokio::select! {
                        _ = news.changed() => {}
                        _ = self.state.changed() => {}
                        () = tokio::time::sleep_until(due) => {}
                    },
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = idle => {}
            }
        }
        match tokio::time::timeout(LAST_ROUND, self.round(&mut announced)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!("tracker {} {failure}", self.tracker.base()),
            Err(_) => tracing::warn!("tracker {} was not told of the end in time", self.tracker.base()),
        }
        Ok(())
    }

    /// Brings the tracker up to date.
    async fn round(&mut self, announced: &mut Announced) -> Result<(), Failure> {
        let known = match self.tracker.join(self.channel, Begin::Newest).await {
            Ok(known) => Some(known),
            // It does not know the channel yet.
            Err(Error::Refused { status: 404, .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let newest = self.check(known.as_ref())?;
        let held = self.shelf.offered();
        for record in held.iter().filter(|record| newest.is_none_or(|newest| record.seq > newest)) {
            // Dropped meanwhile, if it cannot be read: a later one has its turn.
            let Ok(torrent) = self.store.torrent(record.seq) else { continue };
            self.tracker.publish(self.channel, &Publication { record: record.encode(), torrent }).await?;
        }
        let mut state = self.state.borrow().clone();
        let stated = known.and_then(|known| known.state);
        // The clock was set back since an earlier run.
        if let Some(stated) =
            stated.as_ref().filter(|stated| stated.at_ms >= state.at_ms && **stated != state)
        {
            if !self.announcer.go_on_after(stated.at_ms) {
                return Err(Failure::NoSuchTime(stated.at_ms));
            }
            state = self.state.borrow().clone();
        }
        if stated.is_none_or(|stated| stated.at_ms < state.at_ms) {
            self.tracker.publish_state(&state).await?;
        }
        announced.retain(|minute, _| held.iter().any(|record| record.info_hash == *minute));
        // The newest first: that is what is watched.
        for record in held.iter().rev() {
            self.announce(record.info_hash, announced).await?;
        }
        Ok(())
    }

    /// Announces a segment, if it is due.
    async fn announce(&self, info_hash: InfoHash, announced: &mut Announced) -> Result<(), Failure> {
        let due = announced.get(&info_hash);
        if due.is_some_and(|due| *due > Instant::now()) {
            return Ok(());
        }
        let (peer_id, port, started) = (self.peer_id, self.port, due.is_none());
        let again =
            match self.tracker.announce(&Seed { info_hash, peer_id, port, uploaded: 0, started }).await {
                Ok(interval) => interval,
                // It may keep less than we do.
                Err(Error::Refused { said, .. }) => {
                    tracing::debug!("tracker {} refuses {info_hash}: {said}", self.tracker.base());
                    LOOK_INTERVAL
                }
                Err(error) => return Err(error.into()),
            };
        announced.insert(info_hash, Instant::now() + again);
        Ok(())
    }

    /// The newest number that the tracker has, if its history is ours.
    fn check(&self, known: Option<&Snapshot>) -> Result<Option<SegmentSeq>, Failure> {
        let Some(theirs) = known.and_then(|known| known.records.last()) else { return Ok(None) };
        let ours = self
            .state
            .borrow()
            .next
            .previous()
            .unwrap_or_default()
            .max(self.shelf.newest().unwrap_or_default());
        if theirs.seq > ours {
            return Err(Failure::Ahead { theirs: theirs.seq, ours });
        }
        if self.shelf.get(theirs.seq).is_some_and(|ours| ours.hash() != theirs.hash()) {
            return Err(Failure::OtherHistory(theirs.seq));
        }
        Ok(Some(theirs.seq))
    }
}
