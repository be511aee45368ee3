//! How long a connection may take for what.

use std::time::Duration;

/// The limits of one server. The default fits a server that gives much and takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for a request's head, from the connection's start or from the end of the answer before: also how long a
    /// connection may be idle.
    pub head: Duration,
    /// Time for a request's body.
    pub body: Duration,
    /// The longest body of a request, in bytes.
    pub body_len: usize,
    /// How long a reader may keep the server waiting in all, beyond what its bytes at [`Self::send_rate`] take.
    pub send: Duration,
    /// Bytes of answers that are in memory as a whole (playlists, pages) and wait for their readers, for all connections
    /// together; what comes from a file or a stream costs a chunk.
    pub answers: u64,
    /// The least rate of a reader, in bytes a second: each byte that it takes earns it that much time.
    pub send_rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            body_len: 64 << 10,
            send: Duration::from_secs(20),
            answers: 32 << 20,
            send_rate: 8 << 10,
        }
    }
}
