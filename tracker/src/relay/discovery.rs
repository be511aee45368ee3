//! QUIC address discovery: a node opens a QUIC connection and is told the address that it is seen at
//! (draft-ietf-quic-address-discovery, under iroh's protocol name `/iroh-qad/0`). Without it a node behind a NAT does
//! not know what to tell others, and no hole can be punched.
//!
//! The tracker makes the certificate anew at each start and signs it by itself. Nodes learn its SHA-256 when they join, and
//! accept that one. An address that a stranger made up would cost a node a few dials that lead nowhere.
//!
//! Bounds: connections in all, shared between households; handshakes in a moment and in the long run, by household; no state for
//! a sender that has not shown that it gets what is sent to its address (Retry, RFC 9000 8.1.2); no streams, no datagrams,
//! no tickets and tokens for another time, and buffers of one packet. A connection takes some 60 KB all the same, most of it
//! in the transport's own tables. So there are few of them, and when there are many, who has been told makes room.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use iroh_relay::quic::ALPN_QUIC_ADDR_DISC;
use minuet_guard::pool::{Pool, Taken};
use minuet_guard::rate::Rates;
use noq::crypto::rustls::QuicServerConfig;
use noq::{
    Endpoint, EndpointConfig, Incoming, NoneTokenLog, ServerConfig, TokioRuntime, TransportConfig,
    ValidationTokenConfig, VarInt,
};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, interval_at, timeout};
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::metrics::Counter;

/// How long a connection may be silent; nodes say something every 25 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a connection may have in flight: there is nothing to send but the handshake.
const WINDOW: u32 = 4 << 10;
/// Bytes of a handshake that are kept until what is before them has come.
const HANDSHAKE_BYTES: usize = 8 << 10;
/// Handshakes that may wait to be looked at.
const MAX_INCOMING: usize = 256;
/// Bytes of theirs that are kept meanwhile, of one and of all.
const INCOMING_BYTES: (u64, u64) = (4 << 10, 256 << 10);
/// Handshakes of one household at once: a school's viewers come when the lesson begins.
const HANDSHAKES: u32 = 200;
/// The time in which a household may have one more.
const HANDSHAKE_EVERY: Duration = Duration::from_millis(200);
/// How long who has been told may stay when half of the places are taken; it comes back when it wants to know again.
const STAY: Duration = Duration::from_secs(10);
/// Which part of the places those may have beside them who have gone, until the transport has forgotten them.
const LEAVING: usize = 16;
/// Networks whose handshakes are counted.
const MOST_NETWORKS: usize = 8192;

/// Where nodes learn their public address.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub addr: SocketAddr,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    pub metrics: Arc<DiscoveryMetrics>,
}

/// What has been done, for metrics.
#[derive(Debug, Default)]
pub struct DiscoveryMetrics {
    /// Connections now.
    pub connections: Counter,
    /// Connections refused because there were too many, or came too fast.
    pub refused: Counter,
}

/// A certificate for names that nobody checks, and its key.
pub struct Certificate {
    tls: rustls::ServerConfig,
    fingerprint: [u8; 32],
}

impl Certificate {
    /// A new one.
    pub fn generate() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["minuet-tracker.invalid".to_owned()])
            .map_err(io::Error::other)?;
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(io::Error::other)?;
        let cert = made.cert.der().clone();
        let fingerprint = Sha256::digest(&cert).into();
        // Named, since more than one provider is linked in and rustls will not choose.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .map_err(io::Error::other)?;
        tls.alpn_protocols = vec![ALPN_QUIC_ADDR_DISC.to_vec()];
        // Nobody comes back for what was said before.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self { tls, fingerprint })
    }

    /// SHA-256 of the certificate (DER).
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

/// Opens the endpoint. Must be called in a runtime.
pub fn open(socket: UdpSocket, certificate: Certificate) -> io::Result<Endpoint> {
    let crypto = QuicServerConfig::try_from(certificate.tls).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into())
        .crypto_buffer_size(HANDSHAKE_BYTES)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        // Packets are few and small.
        .mtu_discovery_config(None)
        .enable_segmentation_offload(false)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().map_err(io::Error::other)?))
        .send_observed_address_reports(true);
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0).log(Arc::new(NoneTokenLog));
    config
        .transport_config(Arc::new(transport))
        .validation_token_config(tokens)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES.0)
        .incoming_buffer_size_total(INCOMING_BYTES.1);
    Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))
}

/// Tells nodes their addresses until `shutdown`. At most so many at once, shared between households.
///
/// # Errors
/// When the socket fails.
pub(crate) async fn serve(
    endpoint: Endpoint,
    most: usize,
    metrics: Arc<DiscoveryMetrics>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let connections = TaskTracker::new();
    let places = Pool::new(most as u64);
    let (started, mut rates) = (Instant::now(), Rates::new(HANDSHAKES, HANDSHAKE_EVERY, MOST_NETWORKS));
    let mut broken = false;
    loop {
        let incoming = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => {
                    broken = true;
                    break;
                }
            },
        };
        if !incoming.remote_address_validated() && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                debug!(%error, "an address could not be put to the test");
            }
            continue;
        }
        // Its address is proved by now.
        let ip = incoming.remote_address().ip();
        let room = endpoint.open_connections() < most.saturating_add(most / LEAVING).saturating_add(1);
        let place = (room && rates.take(ip, started.elapsed())).then(|| places.take(ip, 1));
        let Some(Ok(place)) = place else {
            metrics.refused.increment();
            incoming.refuse();
            continue;
        };
        let (metrics, places) = (Arc::clone(&metrics), places.clone());
        connections.spawn(async move {
            metrics.connections.increment();
            hold(incoming, &place, || places.used() > most as u64 / 2).await;
            metrics.connections.decrement();
        });
    }
    endpoint.close(VarInt::from_u32(0), b"the tracker is shutting down");
    connections.close();
    connections.wait().await;
    if broken { Err(io::Error::other("its socket has failed")) } else { Ok(()) }
}

/// The transport reports the address by itself; the connection only has to last as long as the node wants it, or until
/// another needs the place: this one, or any when they are `scarce`.
async fn hold(incoming: Incoming, place: &Taken, scarce: impl Fn() -> bool) {
    let connection = tokio::select! {
        connection = timeout(HANDSHAKE_TIMEOUT, incoming) => connection,
        () = place.evicted() => return,
    };
    match connection {
        Ok(Ok(connection)) => {
            place.set_useful(true);
            let others = async {
                let mut stayed = interval_at(Instant::now() + STAY, STAY);
                loop {
                    stayed.tick().await;
                    if scarce() {
                        return;
                    }
                }
            };
            tokio::select! {
                _ = connection.closed() => return,
                () = place.evicted() => {}
                () = others => {}
            }
            connection.close(VarInt::from_u32(0), b"others need the place");
        }
        Ok(Err(error)) => debug!(%error, "no connection for address discovery"),
        Err(_) => debug!("no connection for address discovery: the handshake takes too long"),
    }
}
