//! A minute that is being fetched.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use minuet_proto::{InfoHash, Metainfo};

use crate::{
    Error,
    engine::{State, Stream, Torrent},
    ledger::Transfer,
    swarm::Shared,
};

/// How often a waiting reader looks whether its minute has failed: the engine wakes it only for pieces.
const FAILURE_POLL: Duration = Duration::from_millis(500);

/// A minute that is being fetched, or that is complete. Cheap to clone. It goes on when this is dropped, until
/// [`Swarm::forget`](crate::Swarm::forget).
#[derive(Clone)]
pub struct Download {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    torrent: Torrent,
    metainfo: Metainfo,
    folder: PathBuf,
}

/// How much of a minute is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Verified bytes.
    pub have: u64,
    /// Bytes in all.
    pub length: u64,
}

impl Progress {
    /// Whether every byte is here.
    pub fn is_complete(self) -> bool {
        self.have >= self.length
    }
}

impl Download {
    pub(crate) fn new(shared: Arc<Shared>, torrent: Torrent, metainfo: Metainfo, folder: PathBuf) -> Self {
        Self { inner: Arc::new(Inner { shared, torrent, metainfo, folder }) }
    }

    /// Which minute this is.
    pub fn info_hash(&self) -> InfoHash {
        self.inner.metainfo.info_hash()
    }

    /// The minute's metadata. Its trackers are those of the .torrent it came from, if it came from one.
    pub fn metainfo(&self) -> &Metainfo {
        &self.inner.metainfo
    }

    /// Where the file is being written. It has holes until the minute is complete.
    pub fn path(&self) -> PathBuf {
        self.inner.folder.join(&self.inner.metainfo.info().name)
    }

    /// The folder that holds the file and nothing else.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// How much is here. Errors when the engine gave up on the minute.
    pub fn progress(&self) -> Result<Progress, Error> {
        let length = self.inner.metainfo.info().length;
        match self.inner.torrent.state() {
            State::Checking => Ok(Progress { have: 0, length }),
            State::Active { have } => Ok(Progress { have, length }),
            State::Failed(reason) => Err(Error::Stopped { info_hash: self.info_hash(), reason }),
        }
    }

    /// Payload bytes exchanged about this minute, by kind of peer. Zero once the minute is forgotten.
    pub fn transfer(&self) -> Transfer {
        self.inner.shared.transfer(self.info_hash())
    }

    /// Addresses at which peers of this minute accept connections, to be handed to the next minute's swarm. Peers
    /// that dialled us are not among them, since their listening port is not known.
    pub fn peers(&self) -> Vec<SocketAddr> {
        let lines = self.inner.torrent.peers();
        lines.into_iter().filter(|peer| peer.dialled).map(|peer| peer.addr).collect()
    }

    /// How many peers are connected.
    pub fn connected(&self) -> usize {
        self.inner.torrent.peers().iter().filter(|peer| peer.connected).count()
    }

    /// Waits until every piece is here and verified.
    pub async fn complete(&self) -> Result<(), Error> {
        while !self.progress()?.is_complete() {
            self.inner.torrent.completed_or_timeout(FAILURE_POLL).await;
        }
        Ok(())
    }

    /// Opens the minute from byte `offset` on; pieces from there on are asked for first, for as long as the reader is
    /// open.
    pub async fn reader(&self, offset: u64) -> Result<Reader, Error> {
        let stream = self.inner.torrent.stream(offset.min(self.inner.metainfo.info().length)).await?;
        Ok(Reader { download: self.clone(), stream })
    }
}

/// Reads a minute in order, waiting for pieces that are not here yet. Every byte was verified.
pub struct Reader {
    download: Download,
    stream: Stream,
}

impl Reader {
    /// Reads some bytes, at most up to the end of a piece; 0 at the end of the minute. Cancel safe. Must be called on
    /// a multi-threaded runtime.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match tokio::time::timeout(FAILURE_POLL, self.stream.read(buffer)).await {
                Ok(Ok(count)) => return Ok(count),
                Ok(Err(error)) => {
                    // A failure of the minute explains more than a failure of the read.
                    self.download.progress()?;
                    return Err(Error::Engine(error.to_string()));
                }
                Err(_) => drop(self.download.progress()?),
            }
        }
    }

    /// The minute being read.
    pub fn download(&self) -> &Download {
        &self.download
    }
}
