//! The QUIC endpoint that links run over: iroh, with none but our own relay servers and no discovery service.
//!
//! Rule: nobody is contacted but who the tracker, a neighbour or the user named.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey, TransportAddr,
    Watcher as _,
    endpoint::{AckFrequencyConfig, Connection, NetReportConfig, QuicTransportConfig, VarInt, presets},
};
use minuet_proto::mesh::NodeId;
use tokio::sync::watch;

use super::{Error, certificates::Pins, congestion::WindowFactory, reach::Reach};

/// Names the protocol in the handshake (RFC 7301). The number is that of the framing, not of the mesh messages, whose
/// version is negotiated in Hello.
pub(super) const ALPN: &[u8] = b"minuet-mesh/1";
/// How long a dial may take.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long without a packet a link is down.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a peer may send on one stream before it is read: what one round trip of a fast link holds.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for both streams of a link: the most memory that a peer can make this node hold unread.
const LINK_WINDOW: u32 = 3 << 19;
/// Bytes of a link that may wait in the transport, sent but not acknowledged or not sent yet.
const SEND_WINDOW: u64 = 512 << 10;
/// Packets that may come in before they are acknowledged (draft-ietf-quic-ack-frequency). Every second one, as RFC 9000
/// has it, makes a viewer send a fifth more packets, and costs it a tenth more processor time.
const ACK_PACKETS: VarInt = VarInt::from_u32(10);
/// The longest that fewer packets wait for theirs. Losses show at once all the same, by what comes out of order.
const ACK_DELAY: Duration = Duration::from_millis(100);
/// Streams that a peer may open: control and media.
const STREAMS: u32 = 2;

/// A bound endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    endpoint: Endpoint,
    pins: Pins,
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

impl Transport {
    /// Binds a UDP socket. `secret` is this node's own key.
    pub async fn bind(listen: SocketAddr, secret: [u8; 32]) -> Result<Self, Error> {
        let mut acknowledgements = AckFrequencyConfig::default();
        acknowledgements.ack_eliciting_threshold(ACK_PACKETS).max_ack_delay(Some(ACK_DELAY));
        let quic = QuicTransportConfig::builder()
            .congestion_controller_factory(Arc::new(WindowFactory::default()))
            .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(LINK_WINDOW))
            .send_window(SEND_WINDOW)
            .ack_frequency_config(Some(acknowledgements))
            // Cannot fail: the time is far below the limit.
            .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
            .datagram_receive_buffer_size(None)
            .build();
        let pins = Pins::default();
        let mut net_report = NetReportConfig::default();
        // It would ask port 80 of the relay server's host, where something else may listen.
        net_report.captive_portal_check = false;
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&secret))
            .alpns(vec![ALPN.to_vec()])
            .transport_config(quic)
            .clear_address_lookup()
            .ca_tls_config(pins.tls_config())
            .net_report_config(net_report)
            .relay_mode(RelayMode::Custom(RelayMap::empty()));
        if !listen.ip().is_unspecified() {
            builder = builder.clear_ip_transports();
        }
        let endpoint = builder
            .bind_addr(listen)
            .map_err(|error| Error::Bind { listen, reason: error.to_string() })?
            .bind()
            .await
            .map_err(|error| Error::Bind { listen, reason: innermost(&error) })?;
        Ok(Self { endpoint, pins })
    }

    /// This node's public key.
    pub fn id(&self) -> NodeId {
        NodeId(*self.endpoint.id().as_bytes())
    }

    /// Signs with this node's key.
    pub fn sign(&self, bytes: &[u8]) -> [u8; minuet_proto::mesh::SIGNATURE_LEN] {
        self.endpoint.secret_key().sign(bytes).to_bytes()
    }

    /// Where the endpoint listens.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    /// How this node can be reached, as far as is known now.
    pub fn reach(&self) -> Reach {
        reach_of(&self.endpoint.addr())
    }

    /// Tells `reach` how this node can be reached whenever that changes, for ever.
    pub async fn watch_reach(self, reach: watch::Sender<Reach>) {
        let mut watcher = self.endpoint.watch_addr();
        let mut addr = watcher.get();
        loop {
            let now = reach_of(&addr);
            reach.send_if_modified(|told| {
                *told != now && {
                    *told = now;
                    true
                }
            });
            match watcher.updated().await {
                Ok(changed) => addr = changed,
                // The endpoint is closed.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Uses a relay server from now on, and learns this node's public address there.
    pub async fn use_relay(&self, relay: &RelayServer) -> Result<(), Error> {
        let bad = |reason: String| Error::Relay { url: relay.url.clone(), reason };
        let url: RelayUrl = relay.url.parse().map_err(|error| bad(format!("{error}")))?;
        let mut config = RelayConfig::from(url.clone());
        config.quic = relay.discovery_port.zip(relay.discovery_cert).map(|(port, cert)| {
            self.pins.add(cert);
            let mut quic = config.quic.take().unwrap_or_default();
            quic.port = port;
            quic
        });
        self.endpoint.insert_relay(url, Arc::new(config)).await;
        Ok(())
    }

    /// Opens a connection to `peer`.
    pub async fn dial(&self, peer: NodeId, reach: &Reach) -> Option<Connection> {
        let id = EndpointId::from_bytes(&peer.0).ok()?;
        let relay = reach.relay.as_ref().and_then(|url| url.parse().ok()).map(TransportAddr::Relay);
        let addrs = reach.addrs.iter().copied().map(TransportAddr::Ip).chain(relay);
        let addr = EndpointAddr::from_parts(id, addrs);
        if addr.is_empty() {
            return None;
        }
        match tokio::time::timeout(DIAL_TIMEOUT, self.endpoint.connect(addr, ALPN)).await {
            Ok(Ok(connection)) => Some(connection),
            Ok(Err(error)) => {
                tracing::debug!("cannot link with {peer:?}: {}", innermost(&error));
                None
            }
            Err(_) => {
                tracing::debug!("cannot link with {peer:?}: no answer");
                None
            }
        }
    }

    /// The next connection that somebody opens here, once its handshake is over; none when the endpoint is closed.
    pub async fn incoming(&self) -> Option<impl Future<Output = Option<Connection>> + use<>> {
        let incoming = self.endpoint.accept().await?;
        Some(async move {
            let accepting = incoming.accept().ok()?;
            tokio::time::timeout(DIAL_TIMEOUT, accepting).await.ok()?.ok()
        })
    }

    /// Closes all connections and the socket.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

fn reach_of(addr: &EndpointAddr) -> Reach {
    Reach::new(addr.ip_addrs().copied(), addr.relay_urls().next().map(ToString::to_string))
}

/// The far end's key.
pub(super) fn peer_of(connection: &Connection) -> NodeId {
    NodeId(*connection.remote_id().as_bytes())
}

/// What the transport knows of a connection.
#[derive(Debug, Clone, Copy, Default)]
#[allow(dead_code, reason = "the window is for whoever reads the trace")]
pub(super) struct PathFigures {
    /// Smoothed round trip of the path in use.
    pub rtt: Duration,
    /// Whether it goes through a relay server.
    pub relayed: bool,
    /// Congestion window in bytes.
    pub window: u64,
    /// Packets sent, and those of them that were lost.
    pub packets: (u64, u64),
}

/// Figures of the path in use.
pub(super) fn path_figures(connection: &Connection) -> PathFigures {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
    path.map(|path| {
        let stats = path.stats();
        PathFigures {
            rtt: path.rtt(),
            relayed: path.is_relay(),
            window: stats.cwnd,
            packets: (stats.sent_packets, stats.lost_packets),
        }
    })
    .unwrap_or_default()
}

/// Bytes that a connection has given to the socket: UDP payload, all paths, everything included.
pub(super) fn sent_bytes(connection: &Connection) -> u64 {
    connection.stats().udp_tx.bytes
}

/// Bytes that came in from the socket, counted in the same way.
pub(super) fn received_bytes(connection: &Connection) -> u64 {
    connection.stats().udp_rx.bytes
}

/// The text of the innermost cause: the outer ones say only which layer it came through.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
