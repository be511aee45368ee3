//! What HTTP needs besides what the tracker knows: places and bytes for clients, the certificate, and the relay server that
//! clients reach over it.

use std::sync::Arc;

use minuet_guard::pool::Pool;
use minuet_tls::Tls;
use tokio::sync::Semaphore;

use crate::connections::Connections;
use crate::fleet::Fleet;
use crate::metrics::Levels;
use crate::relay::RelayServer;
use crate::relay::discovery::Discovery;
use crate::state::{Running, State};

/// Torrents that are read from disk at once.
const TORRENT_READS: usize = 4;

/// See the module. What answers a request takes the part of it that it needs.
#[derive(Debug)]
pub(crate) struct Front {
    pub state: Arc<State>,
    pub running: Running,
    pub tls: Option<Tls>,
    pub relay: Option<Arc<RelayServer>>,
    pub discovery: Option<Discovery>,
    /// Places of connections.
    pub connections: Connections,
    /// Places of subscribers.
    pub subscribers: Pool,
    /// Bytes of requests' bodies that are being taken in.
    pub bodies: Pool,
    /// Bytes of answers that wait to be sent.
    pub answers: Pool,
    /// Torrents that are read from disk at once: the store reads each whole, whatever part of it is asked for.
    pub torrent_reads: Semaphore,
}

impl Front {
    pub fn new(
        state: Arc<State>,
        running: Running,
        tls: Option<Tls>,
        relay: Option<Arc<RelayServer>>,
        discovery: Option<Discovery>,
    ) -> Self {
        let limits = &state.config.http;
        let pool = |total: usize| Pool::new(total as u64);
        Self {
            connections: Connections::new(limits.connections, limits.connections_per_address),
            subscribers: pool(limits.subscribers),
            bodies: pool(limits.bodies),
            answers: pool(limits.answers),
            torrent_reads: Semaphore::new(TORRENT_READS),
            state,
            running,
            tls,
            relay,
            discovery,
        }
    }

    /// How full the tracker is.
    pub fn levels(&self) -> Levels {
        let State { clock, swarms, channels, fleet, .. } = &*self.state;
        let fleet = fleet.as_ref();
        let discovery = self.discovery.as_ref().map(|discovery| &discovery.metrics);
        Levels {
            uptime_seconds: u64::from(clock.uptime().0),
            connections: self.connections.used(),
            channels: channels.len(),
            mesh_nodes: channels.nodes().taken(),
            torrent_bytes: channels.torrent_bytes(),
            body_bytes: self.bodies.used(),
            answer_bytes: self.answers.used(),
            mesh_bytes: channels.all().iter().map(|channel| channel.mesh().heap_bytes()).sum(),
            fleet_connected: fleet.is_some_and(Fleet::is_connected),
            fleet_received: fleet.map_or(0, |fleet| fleet.received.get()),
            fleet_told: fleet.map_or(0, |fleet| fleet.told.get()),
            relay: self.relay.as_ref().map(|relay| relay.totals()).unwrap_or_default(),
            discovery_connections: discovery.map_or(0, |metrics| metrics.connections.get()),
            discovery_refused: discovery.map_or(0, |metrics| metrics.refused.get()),
            interval_seconds: swarms.calm().interval_seconds(),
            swarms: swarms.totals(),
        }
    }
}
