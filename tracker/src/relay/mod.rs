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

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::Service as _;
use hyper::{Request, Response};
use iroh_relay::KeyCache;
use iroh_relay::server::http_server::{Handlers, RelayService, RelayServiceWithNotify};
use iroh_relay::server::{ClientRateLimit, Metrics};
use tokio::sync::Notify;

use crate::http::connections::Place;
use access::{Access, Joined, OBSERVED};
use minuet_proto::mesh::NodeId;
use rate::Throttle;

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
/// How often it is looked how much is relayed.
pub const OBSERVE_EVERY: Duration = Duration::from_millis(500);

/// What the relay server has done, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayTotals {
    /// Clients now.
    pub clients: usize,
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
    service: RelayService,
    metrics: Arc<Metrics>,
    access: Arc<Access>,
    throttle: std::sync::Mutex<Throttle>,
}

impl RelayServer {
    /// A relay server without clients.
    /// `joined` says which nodes have joined a channel lately.
    pub fn new(limits: &RelayLimits, joined: Joined) -> Self {
        let metrics = Arc::new(Metrics::default());
        let joined: Joined = if limits.any_node { Arc::new(|_: &NodeId| true) } else { joined };
        let access = Arc::new(Access::new(limits.clients, limits.clients_per_address, joined));
        let throttle = Throttle::new(limits.client_rate, limits.total_rate, OBSERVE_EVERY);
        let service = RelayService::new(
            Handlers::default(),
            HeaderMap::new(),
            Some(limit(throttle.client_rate())),
            KeyCache::new(KEY_CACHE),
            Arc::clone(&access) as Arc<_>,
            Arc::clone(&metrics),
        );
        access.set_clients(service.clients().clone());
        Self { service, metrics, access, throttle: throttle.into() }
    }

    /// Answers a request for [`RELAY_PATH`] from `ip`. The connection keeps its `place` among the tracker's until the
    /// client has shown its key and has a place of its own here.
    pub async fn upgrade(
        &self,
        mut request: Request<Incoming>,
        ip: IpAddr,
        place: Arc<Place>,
    ) -> Response<Vec<u8>> {
        // Only the tracker says who it is.
        if let Ok(observed) = HeaderValue::from_str(&ip.to_string()) {
            request.headers_mut().insert(OBSERVED, observed);
        }
        request.extensions_mut().insert(place);
        let service = RelayServiceWithNotify::new(self.service.clone(), Arc::new(Notify::new()));
        match service.call(request).await {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                // A sentence at most.
                let body = http_body_util::BodyExt::collect(body).await.map(|body| body.to_bytes().to_vec());
                Response::from_parts(parts, body.unwrap_or_default())
            }
            Err(error) => {
                tracing::debug!(%error, "a relay client's request could not be answered");
                let mut response = Response::new(Vec::new());
                *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }

    /// Looks how much has been relayed since the last time, and sets what each client may send. To be called every
    /// [`OBSERVE_EVERY`].
    pub fn observe(&self) {
        let mut throttle = self.throttle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = throttle.client_rate();
        throttle.observe(self.metrics.bytes_recv.get());
        if throttle.client_rate() != before {
            self.service.set_client_rate_limit(Some(limit(throttle.client_rate())));
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
            limited_bytes: self.metrics.bytes_rx_ratelimited_total.get(),
            client_rate: throttle.client_rate().into(),
        }
    }

    /// Ends all connections.
    pub async fn shutdown(&self) {
        self.service.shutdown().await;
    }
}

fn limit(bytes_per_second: u32) -> ClientRateLimit {
    let rate = NonZeroU32::new(bytes_per_second).unwrap_or(NonZeroU32::MIN);
    let mut limit = ClientRateLimit::new(rate);
    // A quarter of a second at once: a piece of a stream goes through without waiting.
    limit.max_burst_bytes = NonZeroU32::new(bytes_per_second / 4);
    limit
}
