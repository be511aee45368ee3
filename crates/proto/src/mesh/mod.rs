//! Messages of the live mesh, as they cross a link between two nodes of one channel.
//!
//! A link is a reliable, ordered, encrypted byte stream whose far end is known by its key (a QUIC stream in
//! production). On it travel frames: a varint length, a varint type, a body. Types and Hello extensions that
//! a node does not know are skipped, so that newer nodes can talk to older ones; everything else that breaks a
//! rule is an error, and the link that brought it is closed. Every length has a limit that stands next to the
//! type it limits. `docs/mesh-protocol.md` lists every byte.
//!
//! Pieces are named by [`Serial`], their place in the channel's one endless row of pieces, not by segment and
//! index: a row needs no table of segment lengths, a set of pieces is a bitmap, and the first piece of a new
//! minute is nothing special. Heads bind each serial to its segment, index and hash under the channel's key.
//!
//! After BEP 3 (peer wire protocol), BEP 6 (Reject), BEP 10 (extensions), BEP 11 (peer exchange), BEP 54
//! (DontHave) and RFC 7574 (PPSPP), which this is not compatible with.

// What strangers write is summed up and counted here: only by what cannot overflow.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod codec;
mod frame;
mod head;
mod kept;
mod message;
mod serial;
#[cfg(test)]
mod tests;

pub use codec::DecodeError;
pub use frame::Frame;
pub use head::{Head, HeadPiece, MAX_HEAD_PIECES, SIGNATURE_LEN, SignedHead};
pub use kept::{
    Indices, Kept, KeptBlock, KeptMap, MAX_HASHES, MAX_RANGES, MAX_SEGMENT_PIECES, Minute, Ranges,
};
pub use message::{
    Block, ByeReason, Extension, Hello, HelloFlags, MAX_BLOCK_LEN, MAX_FRAME_LEN, MAX_PIECE_LEN,
    MAX_STATEMENT_LEN, MIN_BLOCK_LEN, Message, NodeId, PeerInfo, Request, SerialList, Window,
};
pub use serial::Serial;
