//! How a swarm is started, and what is asked of it.

use std::{net::SocketAddr, path::PathBuf};

use bytes::Bytes;
use minuet_guard::contact::Teller;
use minuet_proto::InfoHash;

/// The lowest upload limit that works: one 16 KiB block a second. The engine waits for a whole block's worth of
/// budget at once, and stops uploading for good when the budget of a second cannot hold one.
pub const MIN_UPLOAD_BYTES_PER_S: u32 = 16 * 1024;

/// What this node may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// As much as peers ask for.
    Unlimited,
    /// At most this many payload bytes a second over all minutes together, with a burst of one second's worth.
    /// At least [`MIN_UPLOAD_BYTES_PER_S`].
    AtMost(u32),
    /// Nothing: no piece is announced and every request closes its connection.
    Never,
}

/// Which part this node plays; peers are told by the client name (BEP 10, `v`), so that a viewer can tell what it had
/// from the source and what from other viewers. A peer may lie: use it for statistics only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The node that records the channel.
    Source,
    /// Everyone else.
    Viewer,
}

/// Options of [`Swarm::start`](crate::Swarm::start).
#[derive(Debug, Clone)]
pub struct SwarmOptions {
    /// Folder of the engine's own: `state` and `minutes` in it are emptied at the start.
    pub data_dir: PathBuf,
    /// Where peers connect to over TCP. Port 0 takes any free port, see
    /// [`Swarm::listen_addr`](crate::Swarm::listen_addr).
    pub listen: SocketAddr,
    /// What may be sent.
    pub upload: Upload,
    /// Which part this node plays.
    pub role: Role,
    /// Who tells of peers: the nearest of the trackers. Peers that are nearer than that are not contacted.
    pub teller: Teller,
}

/// A finished minute that lies complete on disk.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The minute's .torrent (BEP 3). Only its info dictionary is used.
    pub torrent: Bytes,
    /// Folder that holds the file named by the torrent.
    pub folder: PathBuf,
}

/// A minute to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whose bytes are wanted; anything else is refused.
    pub info_hash: InfoHash,
    /// The .torrent, when it is at hand; else the metadata comes from peers (BEP 9). Only its info dictionary is
    /// used: trackers are those in `trackers`.
    pub torrent: Option<Bytes>,
    /// Peers to try at once, mostly those of the minute before ([`Download::peers`](crate::Download::peers)).
    pub peers: Vec<SocketAddr>,
    /// Announce URLs.
    pub trackers: Vec<String>,
    /// Takes pieces from this place in the file on, besides those at its reader, so that viewers who start together
    /// hold different pieces and can trade.
    pub spread: Option<Place>,
}

/// A place in a minute, as a share of its length in units of 2⁻³².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u32);

impl Place {
    /// The byte at this place of a file of `length` bytes.
    pub const fn of(self, length: u64) -> u64 {
        // Below `length`, so it fits again.
        ((length as u128 * self.0 as u128) >> 32) as u64
    }
}
