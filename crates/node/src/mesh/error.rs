use std::net::SocketAddr;

/// Why a mesh node cannot be started or told something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be bound.
    #[error("cannot listen for mesh links on UDP {listen}: {reason}; choose another address or port")]
    Bind {
        /// What was asked for.
        listen: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// A relay server's URL is unusable.
    #[error("the relay server {url} cannot be used: {reason}")]
    Relay {
        /// The URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// There is no room for the pieces.
    #[error("cannot keep pieces in {}: {reason}; choose another folder", .folder.display())]
    Store {
        /// Where they were to be.
        folder: std::path::PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
}
