//! One node's minutes: those it seeds, those it fetches.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use minuet_guard::tasks::Tasks;
use minuet_proto::{InfoHash, Metainfo};

use crate::{
    Download, Error, Finished, SwarmOptions, Wanted,
    engine::{Engine, State, Stream, Torrent},
    ledger::{Ledger, Transfer},
};

/// How often the kinds of connected peers are noted while minutes are being fetched.
const LEDGER_INTERVAL: Duration = Duration::from_millis(100);
/// The task that does it, as a user would call it.
const BOOKS: &str = "the look at BitTorrent peers";
/// A minute that is not here after this time meets its peers anew. One that comes sooner has no need to, and would lose
/// the peers that only they can dial.
const INTRODUCE_AFTER: Duration = Duration::from_secs(1);

/// A BitTorrent node for finished minutes. Needs a multi-threaded tokio runtime: the engine blocks in place.
///
/// Dropping it ends its tasks some time later; [`Swarm::stop`] waits for them.
pub struct Swarm {
    engine: Engine,
    shared: Arc<Shared>,
    minutes_dir: PathBuf,
    tasks: Tasks,
}

/// What downloads share with their swarm.
pub(crate) struct Shared {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    minutes: HashMap<InfoHash, Minute>,
    ledger: Ledger,
}

struct Minute {
    torrent: Torrent,
    /// Set while pieces are missing.
    fetching: Option<Fetching>,
}

struct Fetching {
    length: u64,
    since: Instant,
    /// Held open so that pieces from its place on are asked for too.
    _spread: Option<Stream>,
    /// It has connected anew since its first piece came, or had no need to.
    introduced: bool,
}

/// Figures of a swarm, all minutes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwarmStats {
    /// Payload bytes since the start, also of minutes that were dropped.
    pub transfer: Transfer,
    /// Minutes in the engine.
    pub minutes: usize,
    /// Peers connected to the busiest minute: about as many as take part in the live edge.
    pub peers: usize,
}

/// What becomes of a minute's file when the minute is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// The file stays where it is.
    Keep,
    /// The file goes too.
    Delete,
}

impl Swarm {
    /// Starts the node: empties its folder and listens for peers.
    pub async fn start(options: SwarmOptions) -> Result<Self, Error> {
        let state_dir = options.data_dir.join("state");
        let minutes_dir = options.data_dir.join("minutes");
        for dir in [&state_dir, &minutes_dir] {
            make_empty(dir).await?;
        }
        let engine = Engine::start(&state_dir, &options).await?;
        let shared = Arc::new(Shared { table: Mutex::default() });
        let tasks = Tasks::new();
        tasks.spawner().spawn_again(BOOKS, |fault| tracing::warn!("{fault}; starting it again"), {
            let (shared, cancel) = (Arc::clone(&shared), tasks.spawner().token().clone());
            move || {
                let (shared, cancel) = (Arc::clone(&shared), cancel.clone());
                async move {
                    cancel.run_until_cancelled(keep_books(shared)).await;
                    Ok::<_, Infallible>(())
                }
            }
        });
        Ok(Self { engine, shared, minutes_dir, tasks })
    }

    /// Where peers connect to: the address of [`SwarmOptions::listen`] with the port that was taken.
    pub fn listen_addr(&self) -> SocketAddr {
        self.engine.listen_addr()
    }

    /// Seeds a minute that is complete on disk. Its pieces are taken for good: whoever wrote the file hashed them as
    /// the bytes passed, and peers check what they get. Only some six pieces are read here to see that the file is
    /// there.
    ///
    /// Nothing is announced to any tracker: that is the caller's part, when the trackers know of the minute.
    pub async fn seed(&self, finished: Finished) -> Result<InfoHash, Error> {
        self.seed_announced(finished, Vec::new()).await
    }

    /// The same, for a minute that these trackers (announce URLs) know of already: it is announced to them.
    pub async fn seed_announced(&self, finished: Finished, trackers: Vec<String>) -> Result<InfoHash, Error> {
        let unknown = InfoHash::new([0; 20]);
        let metainfo = Metainfo::parse(&finished.torrent)
            .map_err(|error| Error::NotAMinute { info_hash: unknown, reason: error.to_string() })?;
        let (info_hash, info) = (metainfo.info_hash(), metainfo.info());
        let file = finished.folder.join(&info.name);
        let found = tokio::fs::metadata(&file).await.map_err(Error::folder(&file))?;
        if !found.is_file() || found.len() != info.length {
            let reason = format!("{} has not the length of {} bytes", file.display(), info.length);
            return Err(Error::NotAMinute { info_hash, reason });
        }
        // The count fits: a length of at most 60 GB in pieces of at least 16 KiB.
        let pieces = u32::try_from(info.pieces.len()).unwrap_or(u32::MAX);
        let torrent = self
            .engine
            .add_finished(info_hash, bare_torrent(&metainfo), &finished.folder, pieces, trackers)
            .await?;
        self.shared.lock().minutes.insert(info_hash, Minute { torrent, fetching: None });
        Ok(info_hash)
    }

    /// Joins the swarm of a minute. Returns once the engine has the minute, with or without peers; without a
    /// .torrent, once a peer sent the metadata.
    pub async fn fetch(&self, wanted: Wanted) -> Result<Download, Error> {
        let Wanted { info_hash, torrent, mut peers, trackers, spread } = wanted;
        let metadata = match torrent {
            Some(torrent) => torrent,
            None => {
                let (metadata, met) = self.engine.metadata(info_hash, peers.clone(), &trackers).await?;
                peers.extend(met);
                metadata
            }
        };
        let metainfo = Metainfo::parse(&metadata)
            .map_err(|error| Error::NotAMinute { info_hash, reason: error.to_string() })?;
        if metainfo.info_hash() != info_hash {
            return Err(Error::InfoHashMismatch { expected: info_hash, actual: metainfo.info_hash() });
        }
        let folder = self.minutes_dir.join(info_hash.to_string());
        let torrent = self.engine.add(info_hash, bare_torrent(&metainfo), &folder, peers, trackers).await?;
        let length = metainfo.info().length;
        let _spread = match spread {
            Some(place) => Some(torrent.stream(place.of(length)).await?),
            None => None,
        };
        let minute = Minute {
            torrent: torrent.clone(),
            fetching: Some(Fetching { length, since: Instant::now(), _spread, introduced: false }),
        };
        self.shared.lock().minutes.insert(info_hash, minute);
        Ok(Download::new(Arc::clone(&self.shared), torrent, metainfo, folder))
    }

    /// Sets what may be sent from now on, in payload bytes a second and at least [`crate::MIN_UPLOAD_BYTES_PER_S`]. The
    /// engine's account begins anew, with a burst of one second's worth: not for every second.
    pub fn set_upload(&self, bytes_per_s: u32) {
        self.engine.set_upload(bytes_per_s);
    }

    /// Drops a minute: it is neither fetched nor seeded any more. False when it was not here.
    pub async fn forget(&self, minute: InfoHash, files: Files) -> Result<bool, Error> {
        self.shared.enter(minute);
        let removed = self.engine.remove(minute, files == Files::Delete).await?;
        let mut table = self.shared.lock();
        table.minutes.remove(&minute);
        table.ledger.settle(minute);
        Ok(removed)
    }

    /// Payload bytes sent of a minute that is seeded here; 0 when it is not here.
    pub fn sent_of(&self, minute: InfoHash) -> u64 {
        let torrent = self.shared.lock().minutes.get(&minute).map(|state| state.torrent.clone());
        torrent.map_or(0, |torrent| torrent.uploaded())
    }

    /// Figures of all minutes together.
    pub fn stats(&self) -> SwarmStats {
        let minutes: Vec<(InfoHash, Torrent)> = {
            let table = self.shared.lock();
            table.minutes.iter().map(|(minute, state)| (*minute, state.torrent.clone())).collect()
        };
        let mut busiest = 0;
        for (minute, torrent) in &minutes {
            let peers = torrent.peers();
            busiest = busiest.max(peers.iter().filter(|peer| peer.connected).count());
            self.shared.lock().ledger.enter(*minute, &peers);
        }
        let mut transfer = self.shared.lock().ledger.total();
        // The engine's own count of what was sent misses nothing between two looks.
        transfer.sent = transfer.sent.max(self.engine.uploaded());
        SwarmStats { transfer, minutes: minutes.len(), peers: busiest }
    }

    /// Ends the node and waits until its tasks are done. Files stay.
    pub async fn stop(self) {
        self.tasks.stop().await;
        self.shared.lock().minutes.clear();
        self.engine.stop().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table holds only figures and handles, each valid by itself, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the minute's peers into the ledger.
    pub fn enter(&self, minute: InfoHash) {
        let torrent = self.lock().minutes.get(&minute).map(|state| state.torrent.clone());
        if let Some(torrent) = torrent {
            let peers = torrent.peers();
            self.lock().ledger.enter(minute, &peers);
        }
    }

    /// What was exchanged about a minute so far.
    pub fn transfer(&self, minute: InfoHash) -> Transfer {
        self.enter(minute);
        self.lock().ledger.of(minute)
    }

    /// One look at the minutes that are being fetched. Returns those whose peers should be met anew, because pieces have
    /// come of which they have not heard, and not all came at once. Who dialled repairs a link: the other side may not
    /// know where to dial.
    fn look(&self) -> Vec<(InfoHash, Torrent)> {
        let mut strangers = Vec::new();
        let fetching: Vec<(InfoHash, Torrent)> = {
            let table = self.lock();
            let fetching = table.minutes.iter().filter(|(_, state)| state.fetching.is_some());
            fetching.map(|(minute, state)| (*minute, state.torrent.clone())).collect()
        };
        for (minute, torrent) in fetching {
            self.enter(minute);
            let State::Active { have } = torrent.state() else { continue };
            let mut table = self.lock();
            let Some(state) = table.minutes.get_mut(&minute) else { continue };
            state.fetching.take_if(|fetching| have >= fetching.length);
            if let Some(fetching) = &mut state.fetching
                && have > 0
                && fetching.since.elapsed() >= INTRODUCE_AFTER
                && !std::mem::replace(&mut fetching.introduced, true)
                && torrent.peers().iter().any(|peer| peer.dialled && !peer.source)
            {
                strangers.push((minute, torrent));
            }
        }
        strangers
    }
}

async fn keep_books(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(LEDGER_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for (minute, torrent) in shared.look() {
            shared.lock().ledger.renew(minute);
            // A minute that cannot be joined again says so to whoever waits for it.
            if let Err(error) = torrent.reconnect().await {
                tracing::debug!("minute {minute}: {error}");
            }
        }
    }
}

/// The info dictionary alone: a stranger's .torrent must not choose whom we announce to.
fn bare_torrent(metainfo: &Metainfo) -> Bytes {
    [b"d4:info".as_slice(), metainfo.info_bytes(), b"e"].concat().into()
}

async fn make_empty(dir: &Path) -> Result<(), Error> {
    match tokio::fs::remove_dir_all(dir).await {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::folder(dir)(error)),
    }
    tokio::fs::create_dir_all(dir).await.map_err(Error::folder(dir))
}

#[cfg(test)]
mod tests {
    use minuet_guard::contact::Teller;

    use super::*;
    use crate::{Role, Upload};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_part_that_dies_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let (listen, data_dir) = (([127, 0, 0, 1], 0).into(), folder.path().to_owned());
        let teller = Teller::At([127, 0, 0, 1].into());
        let options =
            SwarmOptions { data_dir, listen, upload: Upload::Unlimited, role: Role::Viewer, teller };
        let swarm = Swarm::start(options).await.unwrap();
        for _ in 0..2 {
            // Returns once it has died, so the second time it was there again.
            tokio::time::timeout(Duration::from_secs(60), swarm.tasks.kill_once(BOOKS)).await.unwrap();
        }
        swarm.stop().await;
    }
}
