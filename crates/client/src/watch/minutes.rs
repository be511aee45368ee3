//! Joining each minute's swarm the moment its record is known, long before the player needs it.
//!
//! Rule: minutes are joined as their records come, at most [`AHEAD`] before playback, with the peers of the minutes
//! before handed over, and given to playback in order. A join that fails is tried again until playback has no more
//! use for the minute.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use minuet_guard::tasks::Spawner;
use minuet_node::{Backoff, TrackerClient};
use minuet_proto::{SignedRecord, channel_api::Peer};
use minuet_swarm::{Download, Place, Swarm, Wanted};
use tokio::sync::{mpsc, oneshot};

/// How many minutes are joined before playback comes to them.
pub const AHEAD: usize = 3;
/// How many peers are handed over at most.
const MAX_HANDED_OVER: usize = 64;
/// The first wait after a failed join, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A minute whose swarm is being joined.
pub struct Minute {
    /// What the source says about it.
    pub record: SignedRecord,
    /// The download comes here once the swarm is joined.
    joining: oneshot::Receiver<Download>,
    /// The download, when it has come.
    joined: Option<Download>,
    /// Ends the tries to join when playback drops the minute.
    _giving_up: tokio_util::sync::DropGuard,
}

impl Minute {
    /// Waits for the download; `None` when the swarm cannot be joined. Cancel safe.
    pub async fn download(&mut self) -> Option<&Download> {
        if self.joined.is_none() {
            self.joined = (&mut self.joining).await.ok();
        }
        self.joined.as_ref()
    }
}

/// Joins minutes.
pub struct Joiner {
    swarm: Arc<Swarm>,
    trackers: Arc<[TrackerClient]>,
    tasks: Spawner,
    out: mpsc::Sender<Minute>,
    /// Peers that a tracker told of, newest answer.
    told: Vec<SocketAddr>,
    /// Where in each minute to begin: as the first tracker to answer says, else anywhere.
    place: Option<Place>,
    /// The minute joined last, if that is done.
    before: Arc<std::sync::Mutex<Option<Download>>>,
}

impl Joiner {
    /// A joiner and the minutes that it gives.
    pub fn new(
        swarm: Arc<Swarm>,
        trackers: Arc<[TrackerClient]>,
        tasks: Spawner,
    ) -> (Self, mpsc::Receiver<Minute>) {
        let (out, minutes) = mpsc::channel(AHEAD);
        (Self { swarm, trackers, tasks, out, told: Vec::new(), place: None, before: Arc::default() }, minutes)
    }

    /// Takes note of what a tracker said: peers of the running swarms, and where to begin.
    pub fn learn(&mut self, peers: &[Peer], place: Option<u32>) {
        self.place = self.place.or(place.map(Place));
        self.told = peers.iter().map(|peer| peer.addr).collect();
    }

    /// Starts to join a minute; waits while playback is [`AHEAD`] behind. False when playback has gone.
    pub async fn join(&self, record: SignedRecord) -> bool {
        let Ok(slot) = self.out.reserve().await else { return false };
        let (joined, joining) = oneshot::channel();
        let giving_up = self.tasks.token().child_token();
        let work = join(
            record.clone(),
            Arc::clone(&self.swarm),
            Arc::clone(&self.trackers),
            self.handed_over(),
            self.place.unwrap_or_else(|| Place(rand::random())),
            Arc::clone(&self.before),
            joined,
        );
        let given_up = giving_up.clone();
        self.tasks.errand("joining a minute's swarm", async move {
            given_up.run_until_cancelled_owned(work).await;
        });
        slot.send(Minute { record, joining, joined: None, _giving_up: giving_up.drop_guard() });
        true
    }

    fn handed_over(&self) -> Vec<SocketAddr> {
        let mut peers = self.told.clone();
        let before = self.before.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        peers.extend(before.iter().flat_map(Download::peers));
        peers.sort();
        peers.dedup();
        peers.truncate(MAX_HANDED_OVER);
        peers
    }
}

async fn join(
    record: SignedRecord,
    swarm: Arc<Swarm>,
    trackers: Arc<[TrackerClient]>,
    peers: Vec<SocketAddr>,
    begin: Place,
    before: Arc<std::sync::Mutex<Option<Download>>>,
    joined: oneshot::Sender<Download>,
) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let wanted = Wanted {
            info_hash: record.info_hash,
            torrent: torrent(&record, &trackers).await,
            peers: peers.clone(),
            trackers: trackers.iter().map(TrackerClient::announce_url).collect(),
            spread: Some(begin),
        };
        match swarm.fetch(wanted).await {
            Ok(download) => {
                tracing::debug!("joined the swarm of segment {}", record.seq);
                *before.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(download.clone());
                // When playback has dropped the minute meanwhile, it forgets it too.
                let _ = joined.send(download);
                return;
            }
            Err(error) => {
                tracing::warn!("segment {} cannot be joined yet: {error}", record.seq);
                tokio::time::sleep(backoff.failed(rand::random())).await;
            }
        }
    }
}

/// The minute's `.torrent` from the first tracker that has the right one. Without it, peers give the metadata.
pub async fn torrent(record: &SignedRecord, trackers: &[TrackerClient]) -> Option<bytes::Bytes> {
    for tracker in trackers {
        match tracker.torrent(record.channel, record.seq).await {
            Ok(torrent) if torrent.info_hash() == record.info_hash => return Some(torrent.encode()),
            Ok(torrent) => tracing::warn!(
                "{} gives a torrent for segment {} with info hash {}, but the source signed {}: thrown away",
                tracker.name(),
                record.seq,
                torrent.info_hash(),
                record.info_hash
            ),
            Err(error) => tracing::debug!("{} {error}", tracker.name()),
        }
    }
    None
}
