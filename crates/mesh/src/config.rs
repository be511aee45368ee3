//! What a node is told once, when it is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use minuet_proto::mesh::{NodeId, SIGNATURE_LEN, Serial};

/// The channel's key as the core uses it: real ed25519 in production, a cheap keyed hash in large simulations.
pub trait HeadKey: Send + Sync {
    /// Whether `signature` is the channel's over `signed` (see
    /// [`SignedHead::signed_bytes`](minuet_proto::mesh::SignedHead::signed_bytes)).
    fn verify(&self, signed: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool;

    /// Signs; only called in a source. Nodes without the private key return zeros.
    fn sign(&self, signed: &[u8]) -> [u8; SIGNATURE_LEN];
}

/// What a node is in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Holds the channel's key and publishes pieces ([`Input::PieceClosed`](crate::Input::PieceClosed)).
    Source,
    /// Plays the channel: pieces have deadlines.
    Viewer,
    /// Has no player: keeps all it can get and passes it on, at the live edge without deadlines.
    Relay,
}

/// Where a viewer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the newest random access point behind the target delay.
    Live,
    /// At the newest random access point that is at least this old.
    Ago(Duration),
    /// At the oldest random access point that the mesh still holds.
    Oldest,
    /// Where a reader says ([`Input::Playhead`](crate::Input)); until then nothing of the live edge is asked for.
    Told,
}

/// In which order pieces are asked for that are not due soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickOrder {
    /// Rarest among neighbours, then newest, ties at random.
    RarestNewest,
    /// As they are played (for comparison).
    InOrder,
}

/// Settings of one node. `Config::new` gives the defaults; change fields at will.
#[derive(Clone)]
pub struct Config {
    /// This node's own key; it never links with itself.
    pub node: NodeId,
    /// The channel's key.
    pub key: Arc<dyn HeadKey>,
    /// Hard ceiling of everything sent, in bytes a second, payload and control together, over any second.
    /// `None`: as much as the transport takes.
    pub upload_limit: Option<u64>,
    /// What the upload limit sends in this time, and two blocks at least, may wait in the transport before no more blocks
    /// are given to it. Zero, where it waits for the line itself: it cannot be overtaken there. More, where a transport
    /// holds back what the window of its link does not allow and nothing waits for the line: each of several links may
    /// need some round trips for a piece.
    pub transport_queue: Duration,
    /// Whether pieces are passed on at all (`--no-upload` sets false).
    pub upload: bool,
    /// Whether others can dial this node; told to neighbours and by peer exchange.
    pub dialable: bool,
    /// How to reach this node, told in peer exchange by others; opaque, at most 256 bytes.
    pub address: bytes::Bytes,
    /// Distance to the live edge that playback aims at.
    pub target_delay: Duration,
    /// Where a viewer starts.
    pub start: Start,
    /// Number of neighbours aimed at. A source, and a node that others need, may hold twice as many.
    pub neighbours: usize,
    /// Most pieces that the node keeps account of; the window slides with the live edge. A power of two.
    /// The driver stores at least that many.
    pub window: usize,
    /// Source only: the serial of the first piece to be closed. Must be above every serial ever published.
    pub first_serial: Serial,
    /// Order of pieces that are not due soon.
    pub pick_order: PickOrder,
    /// Whether the channel's source pushes each piece to one neighbour as it closes. If not (for comparison), it promises
    /// it to all, and they ask for it at once.
    pub source_pushes: bool,
    /// Whether a viewer that lacks the stream stands back for others (`strain.rs`). If not, it is only told so.
    pub stands_back: bool,
    /// Whether a late piece may be had from the source's HTTP origin ([`Output::FetchHttp`](crate::Output)).
    pub http_origin: bool,
}

impl Config {
    /// Defaults for the node `node` of the channel that `key` stands for.
    pub fn new(node: NodeId, key: Arc<dyn HeadKey>) -> Self {
        Self {
            node,
            key,
            upload_limit: None,
            transport_queue: Duration::ZERO,
            upload: true,
            dialable: true,
            address: bytes::Bytes::new(),
            target_delay: Duration::from_secs(4),
            start: Start::Live,
            neighbours: 16,
            window: 1024,
            first_serial: Serial::new(0),
            pick_order: PickOrder::RarestNewest,
            source_pushes: true,
            stands_back: false,
            http_origin: false,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("node", &self.node).finish_non_exhaustive()
    }
}
