//! Domain types and wire formats of Minuet.
//!
//! Everything here is pure: bytes in, values out, and the other way round. No clock, no randomness, no sockets.
//! Each parser takes bytes from strangers: it has a size limit, never panics, and its result is valid by type
//! (parse, don't validate). What carries a signature can only be made by signing or by a check that passed:
//! see [`signed::Signed`].
//!
//! The wire formats are specified in `docs/protocol.md` and the two pages that it names.

pub mod access;
pub mod bencode;
pub mod channel_api;
pub mod ids;
pub mod key;
pub mod link;
pub mod mask;
pub mod mesh;
pub mod metainfo;
pub mod record;
pub mod signed;
pub mod state;
pub mod title;
pub mod units;

pub use ids::{
    ChannelId, InfoHash, MAX_UNIX_MS, PeerId, PieceHash, PieceId, PieceIndex, PieceLength, RecordHash,
    SegmentSeq, parse_hex,
};
pub use key::ChannelKey;
pub use link::ChannelLink;
pub use mask::{Secrets, mask};
pub use metainfo::Metainfo;
pub use record::{Record, SignedRecord};
pub use state::{ChannelState, Phase, SignedState};

/// What can be wrong with bytes or text from outside.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Longer than the limit of its kind.
    #[error("{what} is {length} bytes long, more than the {limit} allowed")]
    TooLong {
        /// What was parsed.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not of the form that its specification asks for.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// What was parsed.
        what: &'static str,
        /// The first thing found wrong.
        why: String,
    },
    /// The ed25519 signature does not match.
    #[error("{what} has a bad signature")]
    BadSignature {
        /// What was checked.
        what: &'static str,
    },
    /// Signed, but by or for another channel.
    #[error("{what} belongs to channel {found}, not {expected}")]
    WrongChannel {
        /// What was checked.
        what: &'static str,
        /// The channel asked for.
        expected: ChannelId,
        /// The channel named in the statement.
        found: ChannelId,
    },
}

impl Error {
    /// Not of its kind's form.
    pub fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    /// Refuses what is longer than its kind may be, in bytes.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn check_length(what: &'static str, length: usize, limit: usize) -> Result<(), Self> {
        if length > limit { Err(Self::TooLong { what, length, limit }) } else { Ok(()) }
    }
}
