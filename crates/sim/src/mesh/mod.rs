//! Mesh nodes on the network: each runs the real session; only sockets, store and hashing are modelled.
//!
//! [`world`] is a run, [`shard`] drives the nodes that one thread runs, [`media`] stands for their stores, [`hostile`] makes some of them harm.

mod contacts;
pub mod hostile;
pub mod media;
pub mod member;
mod outcome;
mod packet;
mod past;
mod pause;
mod shard;
pub mod trace;
pub mod world;
