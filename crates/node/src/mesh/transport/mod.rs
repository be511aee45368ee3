//! Ways to get links. The driver sees [`Transport`] and [`Link`], whatever they run over.
//!
//! - `quic`: over the network, by iroh. The only module that names iroh.
//! - `memory`: within one process, for tests.
//!
//! A transport proves the far end's key before a link is open, and gives the bytes of each of a link's two streams in order.

mod link;
#[cfg(test)]
pub(super) mod memory;
pub(super) mod quic;

use std::{fmt::Debug, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use minuet_guard::tasks::Spawner;
use minuet_line::LinkSample;
use minuet_mesh::LinkId;
use minuet_proto::{
    ChannelId,
    mesh::{NodeId, SIGNATURE_LEN},
};
use minuet_session::Reach;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::contact::Forbidden;
pub(super) use link::{Link, LinkEvent};

/// Work that a transport does.
pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where links go that others open.
pub(super) type Door = mpsc::Sender<Box<dyn Opening>>;

/// A way to get links, under one key.
pub(super) trait Transport: Debug + Send + Sync {
    /// This node's key.
    fn id(&self) -> NodeId;

    /// Signs with it.
    fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_LEN];

    /// What waits in the transport and not in the line: how much of what the upload limit sends.
    fn queue(&self) -> Duration;

    /// Where links are accepted.
    fn bound(&self) -> Vec<SocketAddr>;

    /// How this node can be reached, as far as is known now.
    fn reach(&self) -> Reach;

    /// Tells `reach` whenever that changes, for ever.
    fn watch_reach(self: Arc<Self>, reach: watch::Sender<Reach>) -> Work<'static, ()>;

    /// The URLs of the relay servers in use, as they change; those of now are news.
    fn watch_relays(&self) -> watch::Receiver<Vec<String>>;

    /// Uses a tracker's relay server from now on, in place of the one that it had before.
    fn use_relay<'a>(&'a self, tracker: &'a str, relay: &'a RelayServer) -> Work<'a, Result<(), Error>>;

    /// Opens a link for `channel` to `peer`, whose addresses were judged by who told of them when they came in.
    fn dial(&self, peer: NodeId, reach: Reach, channel: ChannelId) -> Work<'_, Option<Box<dyn Opening>>>;

    /// Why the node that was to be dialled last was not: this program's own rule for contacts. None once one is dialled.
    fn denied(&self) -> Option<Forbidden> {
        None
    }

    /// Takes links for `channel` that others open, for ever; the error says why not.
    fn accept(
        self: Arc<Self>,
        channel: ChannelId,
        door: Door,
        tasks: Spawner,
    ) -> Work<'static, Result<(), &'static str>>;

    /// Closes all links.
    fn close(&self) -> Work<'_, ()>;
}

/// A link that is open at the far end, and has no tasks here yet.
pub(super) trait Opening: Send {
    /// The far end's key.
    fn peer(&self) -> NodeId;
    /// The path as it was found while connecting.
    fn path(&self) -> PathFigures;
    /// Starts the link's tasks, which give `events`, and end when `cancel` is.
    fn start(
        self: Box<Self>,
        id: LinkId,
        channel: ChannelId,
        events: mpsc::Sender<LinkEvent>,
        tasks: &Spawner,
        cancel: &CancellationToken,
    ) -> Link;
}

/// What a link runs over, as far as the driver looks at it.
pub(super) trait Line: Debug + Send + Sync {
    /// What the transport knows of the path.
    fn path(&self) -> PathFigures;
    /// What the transport has counted, for the estimate of this node's line; none if it counts nothing.
    fn sample(&self) -> Option<LinkSample>;
    /// Bytes that have gone out, everything included.
    fn sent_bytes(&self) -> u64;
    /// Bytes that have come in, counted in the same way.
    fn received_bytes(&self) -> u64;
}

/// What a transport knows of a link's path.
#[derive(Debug, Clone, Copy, Default)]
#[allow(dead_code, reason = "the window is for whoever reads the trace")]
pub(super) struct PathFigures {
    /// Smoothed round trip of the path in use.
    pub rtt: Duration,
    /// Where the far end's packets come from; none if that is not known, as behind a relay server.
    pub remote: Option<SocketAddr>,
    /// Whether it goes through a relay server.
    pub relayed: bool,
    /// Congestion window in bytes.
    pub window: u64,
}

/// A relay server, as a tracker describes its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelayServer {
    /// Its URL.
    pub url: String,
    /// The UDP port on its host at which a node is told the address that it is seen at.
    pub discovery_port: Option<u16>,
    /// SHA-256 of the certificate that is shown there; another one after each restart.
    pub discovery_cert: Option<[u8; 32]>,
}
