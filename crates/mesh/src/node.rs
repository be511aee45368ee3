//! The node: one mesh member, made of the parts in the other modules.

use crate::{Config, Input, Output, Role, Timestamp};

/// Counters since the node was made. Bytes are frame bytes; payload is media bytes in blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Media bytes sent.
    pub payload_sent: u64,
    /// Media bytes received, duplicates and corrupt ones included.
    pub payload_received: u64,
    /// Of these, received from the source itself.
    pub source_received: u64,
    /// Media bytes received for nothing: had already, or never asked for.
    pub wasted: u64,
    /// All other bytes sent.
    pub control_sent: u64,
    /// All other bytes received.
    pub control_received: u64,
    /// Pieces that verified.
    pub pieces_verified: u64,
    /// Pieces that did not.
    pub pieces_corrupt: u64,
    /// Nodes banned.
    pub bans: u64,
}

/// A node of the mesh. See the crate's documentation for its loop.
#[derive(Debug)]
pub struct Node {
    role: Role,
    stats: Stats,
}

impl Node {
    /// A node without links. `seed` drives all its random choices.
    pub fn new(_config: Config, role: Role, _seed: u64, _now: Timestamp) -> Self {
        Self { role, stats: Stats::default() }
    }

    /// Takes in what happened at `now`, which must not be earlier than at the last call.
    pub fn handle(&mut self, _input: Input, _now: Timestamp) {}

    /// Next thing that the driver is to do; `None` until the next [`handle`](Self::handle).
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`Input::Timeout`] is due at the latest; changes with every [`handle`](Self::handle).
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the node is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Number of links that are up.
    pub fn link_count(&self) -> usize {
        0
    }
}
