//! What can go wrong in a minute swarm.

use std::{io, net::SocketAddr, path::PathBuf};

use minuet_proto::InfoHash;

/// A failure of the swarm engine, worded for whoever reads the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The listening port is taken or may not be used.
    #[error(
        "cannot listen for BitTorrent peers on {addr}: {reason}; choose another port, or port 0 for any free one"
    )]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The engine's folder cannot be used.
    #[error("cannot use {}: {reason}; check that the folder exists and may be written", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// An upload limit below one block a second would stop the engine's uploads for good.
    #[error("an upload limit of {bytes_per_s} bytes/s is too low: use at least {min} bytes/s (131072 bit/s), or no upload at all", min = crate::MIN_UPLOAD_BYTES_PER_S)]
    UploadLimit {
        /// The limit that was asked for.
        bytes_per_s: u64,
    },
    /// The .torrent, or the metadata that peers sent, is not that of the minute that was asked for.
    #[error("the torrent has info hash {actual}, but the minute is {expected}; it is not used")]
    InfoHashMismatch {
        /// The minute that was asked for.
        expected: InfoHash,
        /// What the metadata hashes to.
        actual: InfoHash,
    },
    /// The .torrent cannot be a minute.
    #[error("the torrent {info_hash} is not a minute: {reason}")]
    NotAMinute {
        /// Whose metadata it is.
        info_hash: InfoHash,
        /// What is wrong with it.
        reason: String,
    },
    /// No peer sent the metadata in time (BEP 9).
    #[error("no peer sent the metadata of {0} in time; try again when its swarm has peers")]
    NoMetadata(InfoHash),
    /// The minute is not in this swarm (any more).
    #[error("the minute {0} is not here; it was dropped or never added")]
    Unknown(InfoHash),
    /// The engine gave up on a minute, mostly because the disk is full or its file was taken away.
    #[error("the minute {info_hash} stopped: {reason}")]
    Stopped {
        /// Which minute.
        info_hash: InfoHash,
        /// What the engine said.
        reason: String,
    },
    /// The engine refused a request.
    #[error("the BitTorrent engine failed: {0}")]
    Engine(String),
}

impl Error {
    /// Wraps a failed file operation on `path`.
    pub(crate) fn folder(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |reason| Self::Folder { path, reason }
    }
}
