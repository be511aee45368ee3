//! Seeds finished segments and drops those that have had their day.

use std::{
    convert::Infallible,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use minuet_proto::{SegmentSeq, SignedRecord};
use minuet_serve::files::{self, Spare};
use minuet_store::{Error, Retention, Store};
use minuet_swarm::{Files, Finished, Swarm};
use tokio::{sync::mpsc as channel, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{budget::Budget, live::Live, meters::Meters, share::Share, shelf::Shelf};

/// How often the swarm's figures are read.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a segment's publication waits for its seeding.
const SEED_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the recorder waits for room on a full disk.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);

/// What the keeper works with.
pub struct Keeper {
    /// The segments' files.
    pub store: Arc<Store>,
    /// The segments that are held.
    pub shelf: Arc<Shelf>,
    /// The BitTorrent node.
    pub swarm: Swarm,
    /// How much to keep.
    pub retention: Retention,
    /// What the status line shows.
    pub meters: Arc<Meters>,
    /// What may be sent over HTTP.
    pub budget: Arc<Budget>,
    /// The live mesh, for its figures.
    pub live: Option<Live>,
    /// What BitTorrent may send beside the live mesh, if a limit for both is given or found out.
    pub share: Option<Share>,
    /// Asks for room.
    pub requests: channel::Receiver<mpsc::Sender<bool>>,
    /// Held for the recorder.
    pub spare: Arc<Spare>,
}

/// Makes room for the recorder, on the disk and among the files that may be open.
#[derive(Debug, Clone)]
pub struct Room {
    keeper: channel::Sender<mpsc::Sender<bool>>,
    spare: Arc<Spare>,
}

impl Room {
    /// A way to ask the keeper, and where it hears it.
    pub fn new(spare: Arc<Spare>) -> (Self, channel::Receiver<mpsc::Sender<bool>>) {
        let (keeper, requests) = channel::channel(1);
        spare.fill();
        (Self { keeper, spare }, requests)
    }

    /// Makes room after this error: drops the oldest segment if the disk is full, lets spare files go if too many are
    /// open. False when no room can be made, or none is wanted. Blocks; not for async code.
    pub fn make(&self, error: &Error) -> bool {
        match error {
            Error::DiskFull { .. } => {
                let (answer, made) = mpsc::channel();
                self.keeper.try_send(answer).is_ok() && made.recv_timeout(ROOM_TIMEOUT).unwrap_or(false)
            }
            Error::Io { reason, .. } if files::is_exhausted(reason) => self.spare.release(),
            _ => false,
        }
    }
}

impl Keeper {
    /// Runs until stopped; then ends the BitTorrent node.
    ///
    /// # Errors
    /// None; it ends when it is stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut news = self.shelf.watch();
        let mut seeded = None;
        let mut interval = tokio::time::interval(STATS_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut listening = true;
        self.seed_after(&mut seeded).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = news.changed() => {
                    self.seed_after(&mut seeded).await;
                }
                request = self.requests.recv(), if listening => match request {
                    Some(answer) => {
                        let made = self.make_room().await;
                        let _ = answer.send(made);
                    }
                    None => listening = false,
                },
                _ = interval.tick() => {
                    self.read_figures();
                    self.spare.fill();
                }
            }
        }
        self.read_figures();
        self.swarm.stop().await;
        Ok(())
    }

    /// Seeds what is on the shelf beyond `seeded`, newest first, since that is what is watched.
    async fn seed_after(&mut self, seeded: &mut Option<SegmentSeq>) {
        self.prune().await;
        for record in self.shelf.after(*seeded).into_iter().rev() {
            match timeout(SEED_TIMEOUT, self.seed(&record)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("segment {} is not seeded: {error}", record.seq),
                Err(_) => tracing::warn!("segment {} is not seeded yet: the engine takes long", record.seq),
            }
            *seeded = Some(record.seq).max(*seeded);
        }
        // So that who waits for the newest to be passed on does not take what was sent before for it.
        self.read_figures();
        self.shelf.offer(*seeded);
    }

    async fn seed(&self, record: &SignedRecord) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let torrent = self.store.torrent(record.seq)?;
        let folder = self.store.segments_dir().to_owned();
        self.swarm.seed(Finished { torrent, folder }).await?;
        Ok(())
    }

    async fn prune(&self) {
        for record in self.shelf.prune(self.retention) {
            self.drop_segment(&record).await;
        }
    }

    async fn make_room(&self) -> bool {
        let Some(oldest) = self.shelf.take_oldest() else { return false };
        tracing::warn!(
            "the disk is full: dropped segment {}; make room, or keep less with --keep",
            oldest.seq
        );
        self.drop_segment(&oldest).await;
        true
    }

    async fn drop_segment(&self, record: &SignedRecord) {
        if let Err(error) = self.swarm.forget(record.info_hash, Files::Keep).await {
            tracing::warn!("segment {} is still seeded: {error}", record.seq);
        }
        let newest = self.shelf.newest().unwrap_or(record.seq);
        if let Err(error) = self.store.remove(record.seq, newest) {
            tracing::warn!("segment {} is not removed: {error}", record.seq);
        }
    }

    fn read_figures(&mut self) {
        let stats = self.swarm.stats();
        let live = self.live.as_ref().map(Live::stats).unwrap_or_default();
        if let Some(limit) = live.upload_limit {
            // Nobody is linked: nothing is known of the line, and it is BitTorrent's.
            let limit = if live.peers == 0 { u32::MAX.into() } else { limit };
            self.share.get_or_insert_with(|| Share::new(limit)).set_limit(limit);
        }
        let share = self.share.as_mut().and_then(|share| share.look(live.wire_sent, Instant::now()));
        if let Some(bytes_per_s) = share {
            self.swarm.set_upload(bytes_per_s);
        }
        self.budget.charge_swarm(stats.transfer.sent);
        if let Some(newest) = self.shelf.newest_record() {
            self.meters.set_newest_sent(newest.seq, self.swarm.sent_of(newest.info_hash));
        }
        self.meters.set_live(live.core.payload_sent, live.peers as u64);
        self.meters.set_swarm(stats.transfer.sent, stats.peers as u64, stats.minutes as u64);
    }
}
