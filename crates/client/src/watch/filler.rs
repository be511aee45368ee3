//! Minutes that nobody in the mesh has: from plain BitTorrent peers, if these have them.
//!
//! Rule: one minute at a time, and only while a reader waits for it. Its pieces are checked as all others are, and kept, so that
//! the mesh has them from then on. Nothing is uploaded on this way: what is kept is passed on in the mesh.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use anyhow::Context as _;
use bytes::BytesMut;
use minuet_guard::tasks::Spawner;
use minuet_node::{TrackerClient, mesh::Mesh, tracker::nearest};
use minuet_proto::{PieceId, PieceIndex, SegmentSeq, SignedRecord};
use minuet_swarm::{Files, Role, Swarm, SwarmOptions, Upload, Wanted};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::minutes::torrent;

/// The folder of what comes, within the run's own.
const FOLDER: &str = "fetched";

/// Fetches minutes from BitTorrent peers. Cheap to clone.
#[derive(Clone)]
pub struct Filler {
    /// What is under way must not keep the node from leaving.
    mesh: Weak<Mesh>,
    trackers: Arc<[TrackerClient]>,
    folder: PathBuf,
    listen: SocketAddr,
    tasks: Spawner,
    /// The minute that is being fetched; letting it go ends that.
    current: Arc<Mutex<Option<(SegmentSeq, DropGuard)>>>,
}

impl Filler {
    /// Fetches into the run's folder.
    pub fn new(mesh: &Arc<Mesh>, trackers: &Arc<[TrackerClient]>, folder: &Path, tasks: &Spawner) -> Self {
        Self {
            mesh: Arc::downgrade(mesh),
            trackers: Arc::clone(trackers),
            folder: folder.join(FOLDER),
            listen: (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
            tasks: tasks.clone(),
            current: Arc::default(),
        }
    }

    /// A reader waits for this minute, from a piece on. Nothing happens if it is being fetched already.
    pub fn fill(&self, record: &SignedRecord, from: PieceIndex) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|(segment, _)| *segment == record.seq) {
            return;
        }
        let cancel = CancellationToken::new();
        *current = Some((record.seq, cancel.clone().drop_guard()));
        let (filler, record) = (self.clone(), record.clone());
        self.tasks.errand("fetching a minute from BitTorrent peers", async move {
            let fetching = filler.fetch(&record, from);
            if let Some(Err(error)) = cancel.run_until_cancelled(fetching).await {
                tracing::debug!("segment {} does not come from BitTorrent peers: {error:#}", record.seq);
            }
        });
    }

    /// Nobody waits any more.
    pub fn rest(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn mesh(&self) -> anyhow::Result<Arc<Mesh>> {
        self.mesh.upgrade().context("the node has left")
    }

    async fn fetch(&self, record: &SignedRecord, from: PieceIndex) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let options = SwarmOptions {
            data_dir: self.folder.clone(),
            listen: self.listen,
            upload: Upload::Never,
            role: Role::Viewer,
            teller: nearest(&self.trackers).await,
        };
        let swarm = Swarm::start(options).await?;
        let read = self.read(&swarm, record, from).await;
        let _ = swarm.forget(record.info_hash, Files::Delete).await;
        swarm.stop().await;
        read
    }

    async fn read(&self, swarm: &Swarm, record: &SignedRecord, from: PieceIndex) -> anyhow::Result<()> {
        let wanted = Wanted {
            info_hash: record.info_hash,
            torrent: torrent(record, &self.trackers).await,
            peers: Vec::new(),
            trackers: self.trackers.iter().map(TrackerClient::announce_url).collect(),
            spread: None,
        };
        let download = swarm.fetch(wanted).await?;
        self.mesh()?.learn(record.clone(), download.metainfo()).await;
        let piece_len = u64::from(record.piece_length.get());
        let mut offset = u64::from(from.0) * piece_len;
        let mut reader = download.reader(offset).await?;
        while offset < record.length {
            let len = piece_len.min(record.length - offset);
            let mut piece = BytesMut::zeroed(usize::try_from(len)?);
            let mut filled = 0;
            while filled < piece.len() {
                match reader.read(&mut piece[filled..]).await? {
                    0 => anyhow::bail!("it ends before its time"),
                    count => filled += count,
                }
            }
            let index = PieceIndex(u32::try_from(offset / piece_len)?);
            self.mesh()?.give_kept(PieceId { segment: record.seq, piece: index }, piece.freeze()).await;
            offset += len;
        }
        tracing::debug!("segment {} came from BitTorrent peers", record.seq);
        Ok(())
    }
}
