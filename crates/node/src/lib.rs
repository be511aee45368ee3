//! What the segmenter and the client share at the rim: talking to trackers, following a channel, and the live mesh.
//!
//! Everything that comes in is bounded in size and time, and nothing is believed that the channel's key has not
//! signed.

pub mod announce;
pub mod backoff;
pub mod chain;
pub mod contact;
pub mod error;
pub mod follow;
pub mod mesh;
mod sse;
pub mod tracker;
pub use minuet_proto::units;

pub use backoff::Backoff;
pub use error::Error;
pub use tracker::TrackerClient;
