//! The tracker: tells viewers of each other, and what is new in a channel.
//!
//! Swarms here live for minutes. A channel's publisher signs a record of each segment; the record admits the
//! segment's torrent as a swarm, is pushed to subscribers, and leaves with its swarm when the channel's window has
//! moved on. The tracker knows swarms and channels, never media, and nobody has to trust it: whatever it says
//! of a channel carries the channel's signature.
//!
//! The parts, from the inside out:
//! - [`minuet_announce`]: swarms, and requests and answers of BEP 3 and its companions. A crate of its own, pure: time
//!   and randomness are arguments.
//! - [`mesh`]: the nodes and newest heads of live meshes. Pure.
//! - [`channel`]: windows of records, and the store that keeps them.
//! - [`fleet`]: several trackers behind one Redis or Valkey.
//! - [`relay`]: the relay server and address discovery, for nodes that cannot reach each other.
//! - `state`: what the tracker knows, which all of them are asked for.
//! - [`http`], [`udp`]: the transports. What is above knows neither.
//! - [`tracker`]: starts it all and ends it all.

pub mod channel;
mod clock;
pub mod config;
pub mod connections;
pub mod fleet;
pub mod http;
pub mod mesh;
pub mod metrics;
pub mod relay;
mod state;
pub mod tracker;
pub mod udp;

pub use config::Config;
pub use tracker::{StartError, Tracker};
