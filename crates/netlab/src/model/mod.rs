//! The emulated network as a function of time, arguments and seeded random numbers: no clock, no sockets.
//!
//! A packet goes through the sender's line up, the path between the two hosts, and the receiver's line down:
//! `line up (rate, queue) → path (loss, delay, jitter) → line down (rate, queue)`.
//! [`network::Network`] puts the three together; a real-time shell feeds it packets and takes them out when due.

pub mod line;
pub mod loss;
pub mod network;
pub mod path;
pub mod time;
