//! Sealed minutes for plain BitTorrent peers (`--seed-minutes`).
//!
//! A minute that came piece by piece over the live mesh is put together from the pieces that are still in the window, once
//! its record is there: nothing is fetched or hashed twice. It is seeded, and announced to the trackers, until newer ones
//! take its place.

use std::{
    collections::VecDeque,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use minuet_node::{
    TrackerClient,
    mesh::{LivePiece, LiveWindow},
    tracker::nearest,
};
use minuet_proto::{InfoHash, Metainfo, SignedRecord, metainfo::Info};
use minuet_swarm::{Files, Finished, Role, Swarm, SwarmOptions, Upload};
use tokio::sync::mpsc;

/// Records that may wait; those that do not fit are of minutes that are not seeded.
const QUEUE: usize = 16;
/// How long a minute's last pieces may take to come after its record.
const PATIENCE: Duration = Duration::from_secs(10);
/// The folder of the minutes, within the node's own.
pub const FOLDER: &str = "sealed";

/// Seeds minutes.
pub struct Seeder {
    swarm: Arc<Swarm>,
    folder: PathBuf,
    trackers: Vec<String>,
    keep: usize,
    /// The oldest first; at most `keep`.
    seeded: VecDeque<(InfoHash, PathBuf)>,
}

impl Seeder {
    /// Starts a BitTorrent node in `folder` that seeds up to `keep` minutes. It listens on the TCP port `listen`, or on
    /// any where that one is taken.
    pub async fn start(
        folder: &Path,
        listen: SocketAddr,
        upload: Upload,
        trackers: &[TrackerClient],
        keep: usize,
    ) -> anyhow::Result<Self> {
        let minutes = folder.join(FOLDER);
        std::fs::create_dir_all(&minutes)
            .with_context(|| format!("cannot make {}: choose another --data", minutes.display()))?;
        let teller = nearest(trackers).await;
        let options =
            |listen| SwarmOptions { data_dir: folder.to_owned(), listen, upload, role: Role::Viewer, teller };
        let swarm = match Swarm::start(options(listen)).await {
            Ok(swarm) => swarm,
            Err(_) => Swarm::start(options(SocketAddr::new(listen.ip(), 0))).await?,
        };
        let trackers = trackers.iter().map(TrackerClient::announce_url).collect();
        Ok(Self { swarm: Arc::new(swarm), folder: minutes, trackers, keep, seeded: VecDeque::new() })
    }

    /// The BitTorrent node.
    pub fn swarm(&self) -> &Arc<Swarm> {
        &self.swarm
    }

    /// A way to tell of records, and what `run` takes.
    pub fn queue() -> (mpsc::Sender<SignedRecord>, mpsc::Receiver<SignedRecord>) {
        mpsc::channel(QUEUE)
    }

    /// Seeds the minutes of these records, as far as all their pieces are in the window, until there are no more.
    pub async fn run(mut self, mut records: mpsc::Receiver<SignedRecord>, window: Arc<LiveWindow>) {
        while let Some(record) = records.recv().await {
            let seq = record.seq;
            match self.seed(&record, &window).await {
                Ok(true) => tracing::debug!("minute {seq} is seeded"),
                Ok(false) => tracing::debug!("minute {seq} is not here as a whole: it is not seeded"),
                Err(error) => tracing::warn!("minute {seq} is not seeded: {error:#}"),
            }
        }
    }

    async fn seed(&mut self, record: &SignedRecord, window: &Arc<LiveWindow>) -> anyhow::Result<bool> {
        let Some((torrent, pieces)) = gather(record, window).await else { return Ok(false) };
        let path = self.folder.join(record.file_name());
        let (to, from) = (path.clone(), Arc::clone(window));
        let whole = tokio::task::spawn_blocking(move || write(&to, &from, &pieces)).await?;
        if !whole.with_context(|| format!("cannot write {}", path.display()))? {
            return Ok(false);
        }
        while self.seeded.len() >= self.keep
            && let Some((oldest, file)) = self.seeded.pop_front()
        {
            self.swarm.forget(oldest, Files::Keep).await?;
            let _ = tokio::fs::remove_file(file).await;
        }
        let finished = Finished { torrent, folder: self.folder.clone() };
        let info_hash = match self.swarm.seed_announced(finished, self.trackers.clone()).await {
            Ok(info_hash) => info_hash,
            Err(error) => {
                let _ = tokio::fs::remove_file(&path).await;
                return Err(error.into());
            }
        };
        self.seeded.push_back((info_hash, path));
        Ok(true)
    }
}

/// The torrent of a minute and its pieces, once all are held. None when they do not come.
async fn gather(record: &SignedRecord, window: &LiveWindow) -> Option<(Bytes, Vec<LivePiece>)> {
    let mut news = window.subscribe();
    let gathering = async {
        loop {
            news.borrow_and_update();
            if let Some(whole) = whole(record, window.of_segment(record.seq)) {
                return Some(whole);
            }
            news.changed().await.ok()?;
        }
    };
    tokio::time::timeout(PATIENCE, gathering).await.ok().flatten()
}

/// The torrent, if these are all the pieces of the minute.
fn whole(record: &SignedRecord, pieces: Vec<LivePiece>) -> Option<(Bytes, Vec<LivePiece>)> {
    let length: u64 = pieces.iter().map(|known| u64::from(known.piece.len)).sum();
    if length != record.length || !pieces.iter().all(|known| known.held) {
        return None;
    }
    let info = Info {
        name: record.file_name(),
        length,
        piece_length: record.piece_length,
        pieces: pieces.iter().map(|known| known.piece.hash).collect(),
    };
    let torrent = Metainfo::new(info, Vec::new(), Vec::new()).ok()?;
    // Under the channel's signature, so nothing but this minute is called by its name.
    (torrent.info_hash() == record.info_hash).then(|| (torrent.encode(), pieces))
}

/// Writes the pieces one after the other. False when one has left the window meanwhile.
fn write(path: &Path, window: &LiveWindow, pieces: &[LivePiece]) -> std::io::Result<bool> {
    whole_or_nothing(path, pieces.iter().map(|known| window.read(known.piece.serial)))
}

/// Writes a file of these parts. On a full disk, or when a part is missing (false), nothing is left of it: it would take
/// the room that the disk has too little of.
fn whole_or_nothing(path: &Path, parts: impl Iterator<Item = Option<Bytes>>) -> std::io::Result<bool> {
    // Removed when it is dropped under this name.
    let mut part = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    for bytes in parts {
        let Some(bytes) = bytes else { return Ok(false) };
        part.write_all(&bytes)?;
    }
    part.persist(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_minute_that_was_not_written_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("minute.ts");
        let names =
            || std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let part = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        assert!(!whole_or_nothing(&path, [part("one"), None].into_iter()).unwrap());
        assert!(names().is_empty());
        assert!(whole_or_nothing(&path, [part("one"), part("two")].into_iter()).unwrap());
        assert_eq!(names(), ["minute.ts"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
    }
}
