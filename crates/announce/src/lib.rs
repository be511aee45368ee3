//! Swarms, and what a BitTorrent tracker answers of them: no sockets, no tasks, no clock and no randomness.
//!
//! - [`swarm`]: peers and swarms, which limit what strangers can fill.
//! - [`query`], [`answer`]: announces and scrapes over HTTP, from text to text.
//! - [`udp`]: the same over UDP, from packet to packet.
//!
//! Here: announces and scrapes as both transports understand them, and why one may be refused.
//!
//! BEP 3 (tracker protocol), 7 (IPv6), 15 (UDP), 21 (paused), 23 (compact), 24 (external IP), 31 (retry in),
//! 48 (scrape).

pub mod answer;
pub mod query;
pub mod swarm;
pub mod time;
pub mod udp;

use minuet_proto::InfoHash;

use crate::swarm::slot::Progress;

/// Peers in an answer when the client does not say how many it wants.
pub const DEFAULT_WANT: u32 = 50;

/// What happened at the client (BEP 3, BEP 21).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Event {
    /// Nothing; a regular announce.
    #[default]
    None,
    /// The client has just begun with this torrent.
    Started,
    /// The client is leaving.
    Stopped,
    /// The download has just become complete.
    Completed,
    /// The client has what it wants, but not all there is (BEP 21).
    Paused,
}

/// A client's announce, without its address, which the transport knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Where the client takes connections; 0 when it takes none.
    pub port: u16,
    /// Whether the client has all bytes.
    pub complete: bool,
    /// What happened.
    pub event: Event,
    /// How many peers it wants; `None`: as many as the tracker sees fit.
    pub want: Option<u32>,
}

impl Announce {
    /// How far the client has got.
    pub fn progress(&self) -> Progress {
        match (self.complete, self.event) {
            (true, _) => Progress::Seeder,
            (false, Event::Paused) => Progress::PartialSeed,
            (false, _) => Progress::Leecher,
        }
    }
}

/// When a refused client may ask again (BEP 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryIn {
    /// After so many minutes.
    Minutes(u32),
    /// Not with this request.
    Never,
}

/// Why an announce or a scrape is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request is not one that the BEPs describe.
    #[error("bad request: {0}")]
    Malformed(&'static str),
    /// No running channel has published this torrent.
    #[error("this torrent is not of a channel that runs on this tracker")]
    UnknownTorrent,
    /// The table of swarms is full.
    #[error("this tracker has as many torrents as it may hold")]
    Full,
}

impl Refusal {
    /// When the client may ask again.
    pub fn retry_in(self) -> RetryIn {
        match self {
            Refusal::Malformed(_) => RetryIn::Never,
            // A torrent whose window is over does not come back; one that is announced a moment before its
            // record is published does.
            Refusal::UnknownTorrent => RetryIn::Minutes(5),
            Refusal::Full => RetryIn::Minutes(10),
        }
    }
}
