//! What the tracker knows, whichever way it is asked: over HTTP or UDP, or by another tracker of its fleet.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::Channels;
use crate::clock::Clock;
use crate::config::Config;
use crate::fleet::Fleet;
use crate::mesh::nonce::Nonces;
use crate::metrics::Metrics;
use minuet_announce::swarm::table::Swarms;

/// See the module. How it is asked, and what bounds that, is the transports' own.
#[derive(Debug)]
pub(crate) struct State {
    pub config: Config,
    pub clock: Clock,
    pub metrics: Metrics,
    pub swarms: Arc<Swarms>,
    pub channels: Arc<Channels>,
    pub fleet: Option<Fleet>,
    /// What nodes sign when they join.
    pub nonces: Nonces,
}

/// How tasks hear that the tracker ends, and where it waits for them.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// Is cancelled when the tracker shuts down.
    pub shutdown: CancellationToken,
    /// Tasks that end by themselves, such as a connection's. Long-lived ones are under watch
    /// ([`minuet_guard::tasks::Tasks`]).
    pub tasks: TaskTracker,
}
