//! What comes of a publication.

use super::store::StoreError;
use super::window::PlaceError;

/// Why a publication is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not what the wire format says, a bad signature, or another channel's.
    #[error(transparent)]
    Invalid(#[from] minuet_proto::Error),
    /// The torrent is not the one that the record names.
    #[error("the torrent is not the one that the record names: {0} differs")]
    WrongTorrent(&'static str),
    /// It does not fit what is known.
    #[error(transparent)]
    Misplaced(#[from] PlaceError),
    /// No room for another channel.
    #[error("this tracker has as many channels as it may hold; use another tracker or try again in an hour")]
    Full,
    /// Too many channels of one address.
    #[error("your address has brought as many channels as one may; use another tracker")]
    TooManyOfAddress,
    /// It was forgotten for another one meanwhile.
    #[error("the tracker has just forgotten this channel for another; try again")]
    Evicted,
    /// The disk failed.
    #[error("the tracker could not store it: {0}; try again")]
    Store(#[from] StoreError),
    /// The tracker is going down.
    #[error("the tracker is shutting down; try again")]
    ShuttingDown,
}

/// Whether a publication was news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Accepted now.
    New,
    /// Accepted before.
    Known,
}
