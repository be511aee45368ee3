//! The relay server, for nodes of live meshes that cannot reach each other directly (iroh's, embedded).
//!
//! Clients connect by WebSocket at `/relay` on the tracker's own HTTP port, so there is no further port to open. What
//! is relayed stays encrypted between the two nodes. Nodes learn their public UDP address from [`discovery`].
//!
//! Only nodes that have joined a channel here lately are served ([`access`]); so it is nobody's relay for anything else.
//!
//! Bounds: connections in all, shared between households ([`RelayLimits`]), bytes a second of one client, and of all
//! together: when all send more than they may, the limit of each is lowered until they do not, and rises again when
//! there is room ([`rate`]).

pub mod access;
pub mod discovery;
pub mod rate;
mod socket;
mod upgrade;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use iroh_relay::KeyCache;
use iroh_relay::http::{CLIENT_AUTH_HEADER, ProtocolVersion};
use iroh_relay::protos::handshake;
use iroh_relay::server::client::Config;
use iroh_relay::server::clients::Clients;
use iroh_relay::server::streams::{MaybeTlsStream, RelayedStream};
use iroh_relay::server::{Access as Decision, Metrics, OnDisconnectGuard};
use tokio::time::timeout;
use tracing::debug;

use crate::connections::Place;
use crate::metrics::Counter;
use crate::state::Running;
use access::{Access, Joined};
use minuet_proto::mesh::NodeId;
use rate::Throttle;
use socket::{Allowance, ClientSocket};
use upgrade::Asked;

pub use iroh_relay::http::{RELAY_PATH, RELAY_PROBE_PATH};

/// What bounds the relay server.
#[derive(Debug, Clone)]
pub struct RelayLimits {
    /// Whether there is a relay server at all.
    pub enabled: bool,
    /// The most clients at once.
    pub clients: usize,
    /// The most clients of one address (/56 for IPv6) at once, also where there is room for more.
    pub clients_per_address: Option<u32>,
    /// Whether any node is served, also one that has joined no channel here.
    pub any_node: bool,
    /// Bytes a second that one client may send through it.
    pub client_rate: u32,
    /// Bytes a second that all clients together may send through it.
    pub total_rate: u64,
    /// Where nodes learn their public address.
    pub discovery_listen: DiscoveryListen,
    /// The most connections for address discovery at once.
    pub discovery_connections: usize,
}

/// Where address discovery is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveryListen {
    /// On the UDP port after that of the first HTTP address, if it can be had.
    Beside,
    /// Here.
    At(SocketAddr),
    /// Nowhere.
    Nowhere,
}

/// Public keys whose parsed form is remembered, 32 bytes and more each.
const KEY_CACHE: usize = 4096;
/// How long a client may take to show its key, from its request on.
pub const KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked how much is relayed.
pub const OBSERVE_EVERY: Duration = Duration::from_millis(500);

/// What the relay server has done, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayTotals {
    /// Clients now.
    pub clients: u64,
    /// Clients refused since the start.
    pub refused: u64,
    /// Bytes taken from clients.
    pub received_bytes: u64,
    /// Bytes given to clients.
    pub sent_bytes: u64,
    /// Bytes that had to wait for a client's limit.
    pub limited_bytes: u64,
    /// What one client may send at present, in bytes a second.
    pub client_rate: u64,
}

/// The relay server.
#[derive(Debug)]
pub struct RelayServer {
    clients: Clients,
    keys: KeyCache,
    metrics: Arc<Metrics>,
    access: Access,
    throttle: std::sync::Mutex<Throttle>,
    /// What each client may send, in bytes a second.
    client_rate: Arc<AtomicU32>,
    limited_bytes: Arc<Counter>,
}

impl RelayServer {
    /// A relay server without clients.
    /// `joined` says which nodes have joined a channel lately.
    pub fn new(limits: &RelayLimits, joined: Joined) -> Self {
        let joined: Joined = if limits.any_node { Arc::new(|_: &NodeId| true) } else { joined };
        let throttle = Throttle::new(limits.client_rate, limits.total_rate, OBSERVE_EVERY);
        Self {
            clients: Clients::default(),
            keys: KeyCache::new(KEY_CACHE),
            metrics: Arc::default(),
            access: Access::new(limits.clients, limits.clients_per_address, joined),
            client_rate: Arc::new(AtomicU32::new(throttle.client_rate())),
            throttle: throttle.into(),
            limited_bytes: Arc::default(),
        }
    }

    /// Takes a connection over: the client shows its key, and is served from then on. The connection's `place` is held all
    /// the while.
    async fn take_over(
        &self,
        upgrade: OnUpgrade,
        version: ProtocolVersion,
        proof: Option<HeaderValue>,
        ip: IpAddr,
        place: Arc<Place>,
    ) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let parts = upgrade
            .await
            .map_err(|error| told(&error))?
            .downcast::<TokioIo<MaybeTlsStream>>()
            .map_err(|_| "it is no connection of the tracker's".to_owned())?;
        if !parts.read_buf.is_empty() {
            return Err("the client spoke before its request was answered".to_owned());
        }
        let allowance = Allowance::new(Arc::clone(&self.client_rate), Arc::clone(&self.limited_bytes));
        let mut socket = ClientSocket::new(parts.io.into_inner(), place, allowance);
        let shown = handshake::serverside(&mut socket, proof).await.map_err(|error| told(&error))?;
        let client = shown.client_key;
        let decision = match self.access.enter(client, ip) {
            Ok(place) => {
                socket.admit(place);
                Decision::Allow
            }
            Err(reason) => Decision::Deny { reason: Some(reason.to_owned()) },
        };
        shown.authorize_if(decision, &mut socket).await.map_err(|error| told(&error))?;
        let stream = RelayedStream::new(socket, self.keys.clone());
        let config = Config::new(OnDisconnectGuard::empty(client), stream, version);
        self.clients.register(config, Arc::clone(&self.metrics));
        Ok(())
    }

    /// Looks how much has been relayed since the last time, and sets what each client may send. To be called every
    /// [`OBSERVE_EVERY`].
    pub fn observe(&self) {
        let mut throttle = self.throttle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = throttle.client_rate();
        throttle.observe(self.metrics.bytes_recv.get());
        if throttle.client_rate() != before {
            self.client_rate.store(throttle.client_rate(), Ordering::Relaxed);
        }
    }

    /// What it has done.
    pub fn totals(&self) -> RelayTotals {
        let throttle = self.throttle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        RelayTotals {
            clients: self.access.clients(),
            refused: self.access.refused(),
            received_bytes: self.metrics.bytes_recv.get(),
            sent_bytes: self.metrics.bytes_sent.get(),
            limited_bytes: self.limited_bytes.get(),
            client_rate: throttle.client_rate().into(),
        }
    }

    /// Ends all connections.
    pub async fn shutdown(&self) {
        self.clients.shutdown().await;
    }
}

/// Answers a request for [`RELAY_PATH`] from `ip`. The connection, with its `place`, is the relay server's from then on;
/// who has not shown its key within [`KEY_TIMEOUT`] loses it.
pub(crate) fn upgrade(
    server: &Arc<RelayServer>,
    running: &Running,
    mut request: Request<Incoming>,
    ip: IpAddr,
    place: Arc<Place>,
) -> Response<Vec<u8>> {
    let asked = match Asked::read(request.headers()) {
        Ok(asked) => asked,
        Err(sentence) => {
            let mut response = Response::new(sentence.into_bytes());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        }
    };
    let (upgrade, version) = (hyper::upgrade::on(&mut request), asked.version);
    let proof = request.headers().get(CLIENT_AUTH_HEADER).cloned();
    let (server, shutdown) = (Arc::clone(server), running.shutdown.clone());
    running.tasks.spawn(async move {
        let work = server.take_over(upgrade, version, proof, ip, place);
        let done = tokio::select! {
            // Dropped with its socket, and the place with it.
            done = timeout(KEY_TIMEOUT, work) => done.unwrap_or_else(|_| Err("it has shown no key".to_owned())),
            () = shutdown.cancelled() => return,
        };
        if let Err(why) = done {
            debug!(%ip, "a client of the relay server has failed: {why}");
        }
    });
    asked.answer()
}
