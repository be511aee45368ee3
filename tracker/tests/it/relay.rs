//! The relay server and address discovery, with iroh endpoints as nodes use them: without anybody else's servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Publisher, base, config, get, node_id, node_seed};
use futures_util::StreamExt as _;
use iroh::endpoint::{Connection, presets};
use iroh::tls::CaTlsConfig;
use iroh::{Endpoint, EndpointAddr, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey, Watcher as _};
use iroh_relay::RelayQuicConfig;
use minuet_proto::Phase;
use minuet_proto::channel_api::mesh::{JoinRequest, MeshJoin, MeshNode, parse_fingerprint};
use minuet_tracker::relay::DiscoveryListen;
use minuet_tracker::{Config, Tracker};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

const ALPN: &[u8] = b"minuet-test";

/// Accepts the one certificate whose fingerprint the tracker told.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if Sha256::digest(end_entity)[..] == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A tracker with a channel.
struct World {
    tracker: Tracker,
    publisher: Publisher,
    at: String,
    _data: TempDir,
}

impl World {
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = config(data.path());
        change(&mut config);
        let tracker = Tracker::start(config).await.unwrap();
        let (at, publisher) = (base(&tracker), Publisher::new(1));
        publisher.publish_state(&at, &publisher.state(5, Phase::Live, "", false)).await;
        Self { tracker, publisher, at, _data: data }
    }

    /// Joins the mesh and returns the answer.
    async fn join(&self, n: u8, relay: Option<&str>) -> MeshJoin {
        self.join_at(&self.at, n, relay).await
    }

    async fn join_at(&self, at: &str, n: u8, relay: Option<&str>) -> MeshJoin {
        let mut request = JoinRequest::new(MeshNode::new(node_id(n)));
        request.about.relay = relay.map(str::to_owned);
        request.want = 8;
        self.publisher.join_mesh(at, &request).await.1.unwrap()
    }

    async fn sample(&self, name: &str) -> u64 {
        crate::support::sample(&self.at, name).await
    }

    /// A node that has joined.
    async fn node(&self, n: u8, direct: bool) -> Endpoint {
        node(&self.join(n, None).await, n, direct).await
    }

    /// Sends bytes from one node without a way to the other and back, through the relay server.
    async fn echo_through_relay(&self, bytes: Vec<u8>) {
        let joined = self.join(1, None).await;
        let (a, b) = (self.node(1, false).await, self.node(2, false).await);
        a.online().await;
        b.online().await;
        assert_eq!(self.sample("relay_clients").await, 2);
        let serving = tokio::spawn(echo(b.clone()));
        let url: RelayUrl = joined.relay.unwrap().parse().unwrap();
        let connection = a.connect(EndpointAddr::new(b.id()).with_relay_url(url), ALPN).await.unwrap();
        assert_eq!(ask(&connection, &bytes).await, bytes);
        connection.close(0u32.into(), b"");
        serving.await.unwrap();
        a.close().await;
        b.close().await;
    }
}

/// A node that uses the tracker's relay server, as the tracker described it, and no other server at all.
async fn node(joined: &MeshJoin, n: u8, direct: bool) -> Endpoint {
    let fingerprint = parse_fingerprint(joined.relay_quic_cert.as_ref().unwrap()).unwrap();
    let url: RelayUrl = joined.relay.as_ref().unwrap().parse().unwrap();
    let relay = RelayConfig::new(url.clone(), joined.relay_quic_port.map(RelayQuicConfig::new));
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&node_seed(n)))
        .alpns(vec![ALPN.to_vec()])
        .relay_mode(RelayMode::Custom(RelayMap::empty()))
        .ca_tls_config(CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider| {
            Ok(Arc::new(Pinned { fingerprint, provider }))
        })))
        .clear_address_lookup();
    let builder = if direct { builder } else { builder.clear_ip_transports() };
    let endpoint = builder.bind().await.unwrap();
    // As a node does that has to bind before it can join.
    endpoint.insert_relay(url, Arc::new(relay)).await;
    endpoint
}

async fn echo(endpoint: Endpoint) {
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    let bytes = recv.read_to_end(1 << 20).await.unwrap();
    send.write_all(&bytes).await.unwrap();
    send.finish().unwrap();
    connection.closed().await;
}

async fn ask(connection: &Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    recv.read_to_end(1 << 20).await.unwrap()
}

#[tokio::test]
async fn two_nodes_without_a_way_to_each_other_meet_through_the_trackers_port() {
    let world = World::with(|_| {}).await;
    assert_eq!(world.join(1, None).await.relay.as_deref(), Some(world.at.as_str()));
    world.echo_through_relay(vec![7; 300_000]).await;
    assert!(world.sample("relay_received_bytes_total").await > 600_000);
    assert!(world.sample("relay_sent_bytes_total").await > 600_000);
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn a_client_that_sends_more_than_it_may_is_slowed_down() {
    let world = World::with(|config| config.relay.client_rate = 200_000).await;
    world.echo_through_relay(vec![7; 200_000]).await;
    assert!(world.sample("relay_limited_bytes_total").await > 0);
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn a_node_learns_the_address_that_it_is_seen_at() {
    let world = World::with(|_| {}).await;
    let joined = world.join(1, None).await;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, joined.relay_quic_port.unwrap()));
    let endpoint = noq::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let fingerprint = parse_fingerprint(&joined.relay_quic_cert.unwrap()).unwrap();
    let client = discovery_client(fingerprint);
    let connection = endpoint.connect_with(client, to, "127.0.0.1").unwrap().await.unwrap();
    let mut observed = connection.observed_external_addr();
    assert_eq!(observed.next().await.unwrap(), endpoint.local_addr().unwrap());
    let other = endpoint.connect_with(discovery_client([0; 32]), to, "127.0.0.1").unwrap().await;
    assert!(other.is_err(), "a certificate that nobody named was taken");
    connection.close(0u32.into(), b"");
    endpoint.close(0u32.into(), b"");
    world.tracker.shutdown().await;
}

/// What asks for its address, and believes one certificate.
fn discovery_client(fingerprint: [u8; 32]) -> noq::ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint, provider }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![iroh_relay::quic::ALPN_QUIC_ADDR_DISC.to_vec()];
    let crypto = noq::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut config = noq::ClientConfig::new(Arc::new(crypto));
    let mut transport = noq::TransportConfig::default();
    transport.receive_observed_address_reports(true);
    config.transport_config(Arc::new(transport));
    config
}

#[tokio::test]
async fn an_iroh_endpoint_uses_the_trackers_address_discovery() {
    let world = World::with(|_| {}).await;
    let endpoint = world.node(1, true).await;
    tokio::time::timeout(Duration::from_secs(60), async {
        while world.sample("discovery_connections").await != 1 {}
    })
    .await
    .unwrap();
    endpoint.close().await;
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn who_asks_hears_the_relay_servers_name_as_it_knows_it() {
    let world = World::with(|_| {}).await;
    let by_name = format!("http://localhost:{}/", world.tracker.http_addrs()[0].port());
    world.join(1, Some(&world.at)).await;
    world.join(2, Some("http://other.example/")).await;
    let joined = world.join_at(&by_name, 3, None).await;
    assert_eq!(joined.relay.as_deref(), Some(by_name.as_str()));
    let mut relays: Vec<_> = joined.nodes.iter().map(|node| node.relay.clone().unwrap()).collect();
    relays.sort();
    assert_eq!(relays, [by_name, "http://other.example/".to_owned()]);
    world.tracker.shutdown().await;
}

/// Why the relay server will not have a node.
async fn denied(endpoint: &Endpoint) -> String {
    let mut status = endpoint.home_relay_status();
    loop {
        let denied = status.get().iter().find_map(|status| status.auth_denied_reason().map(str::to_owned));
        match denied {
            Some(reason) => return reason,
            None => drop(status.updated().await.unwrap()),
        }
    }
}

#[tokio::test]
async fn a_full_relay_server_says_so() {
    let world = World::with(|config| config.relay.clients_per_address = Some(1)).await;
    let first = world.node(1, false).await;
    first.online().await;
    let second = world.node(2, false).await;
    let reason = denied(&second).await;
    assert!(reason.contains("as many clients as it may"), "{reason}");
    assert!(world.sample("relay_refused_total").await >= 1);
    first.close().await;
    second.close().await;
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn the_relay_server_is_nobodys_who_has_joined_no_channel() {
    let world = World::with(|_| {}).await;
    let joined = world.join(1, None).await;
    let stranger = node(&joined, 7, false).await;
    let reason = denied(&stranger).await;
    assert!(reason.contains("have joined a channel"), "{reason}");
    stranger.close().await;
    world.tracker.shutdown().await;
    let open = World::with(|config| config.relay.any_node = true).await;
    let stranger = node(&open.join(1, None).await, 7, false).await;
    stranger.online().await;
    stranger.close().await;
    open.tracker.shutdown().await;
}

#[tokio::test]
async fn one_address_that_holds_all_places_of_address_discovery_makes_room() {
    const PLACES: usize = 32;
    let world = World::with(|config| config.relay.discovery_connections = PLACES).await;
    let joined = world.join(1, None).await;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, joined.relay_quic_port.unwrap()));
    let fingerprint = parse_fingerprint(&joined.relay_quic_cert.unwrap()).unwrap();
    let connect = async |endpoint: &noq::Endpoint| {
        endpoint.connect_with(discovery_client(fingerprint), to, "127.0.0.1").unwrap().await
    };
    let greedy = noq::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(connect(&greedy).await.unwrap());
    }
    assert!(connect(&greedy).await.is_err(), "it pushes nobody out but itself");
    let other = noq::Endpoint::client((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let connection = connect(&other).await.unwrap();
    let mut observed = connection.observed_external_addr();
    assert_eq!(observed.next().await.unwrap(), other.local_addr().unwrap());
    // One of the greedy one's has gone for it.
    let (_, _, _) = futures_util::future::select_all(held.iter().map(|c| Box::pin(c.closed()))).await;
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn a_relay_server_that_is_off_is_not_there() {
    let world = World::with(|config| config.relay.enabled = false).await;
    let joined = world.join(1, None).await;
    assert_eq!((joined.relay, joined.relay_quic_port), (None, None));
    assert_eq!(get(&format!("{}relay", world.at)).await.0, 404);
    assert_eq!(get(&format!("{}ping", world.at)).await.0, 404);
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_for_address_discovery_stops_only_who_asked_for_it() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut asked = config(data.path());
    asked.relay.discovery_listen = DiscoveryListen::At(taken.local_addr().unwrap());
    let error = Tracker::start(asked).await.unwrap_err().to_string();
    assert!(error.contains("--discovery-listen"), "{error}");
    let without = World::with(|config| config.relay.discovery_listen = DiscoveryListen::Nowhere);
    let world = tokio::time::timeout(Duration::from_secs(60), without).await.unwrap();
    assert_eq!(world.join(1, None).await.relay_quic_port, None);
    world.tracker.shutdown().await;
}

/// A client of the relay server that has asked for its WebSocket and says nothing more.
async fn silent(world: &World, from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(world.tracker.http_addrs()[0]).await?;
    let request = "GET /relay HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        sec-websocket-protocol: iroh-relay-v2\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    assert_eq!(&head, b"HTTP/1.1 101");
    Ok(stream)
}

/// Reads until the tracker hangs up.
async fn hung_up(mut stream: TcpStream) {
    // An end as well as a reset.
    while stream.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {}
}

#[tokio::test]
async fn who_asks_for_the_relay_server_and_shows_no_key_holds_a_place_and_loses_it() {
    const PLACES: usize = 32;
    let world = World::with(|config| config.http.connections = PLACES).await;
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    let mut held = Vec::new();
    // All that is free, beside what the tests' own HTTP client holds.
    while let Ok(stream) = silent(&world, greedy).await {
        held.push(stream);
        assert!(held.len() <= PLACES, "they hold no places");
    }
    // Who asks from elsewhere takes one of them.
    for n in 3..9 {
        let other = silent(&world, Ipv4Addr::new(127, 0, 0, n)).await.unwrap();
        assert!(world.sample("connections").await >= PLACES as u64);
        drop(other);
    }
    let mut ends: Vec<_> = held.into_iter().map(|stream| Box::pin(hung_up(stream))).collect();
    let (_, _, rest) = futures_util::future::select_all(ends.drain(..)).await;
    // The others are hung up on because they show no key.
    futures_util::future::join_all(rest).await;
    let held = async || world.sample("connections").await;
    tokio::time::timeout(Duration::from_secs(60), async { while held().await > 4 {} }).await.unwrap();
    assert_eq!(world.sample("relay_clients").await, 0);
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn a_relay_client_keeps_its_place_among_the_connections() {
    let world = World::with(|_| {}).await;
    let joined = world.join(1, None).await;
    let before = world.sample("connections").await;
    let node = node(&joined, 1, false).await;
    node.online().await;
    assert_eq!(world.sample("relay_clients").await, 1);
    // The tests' own HTTP client may have opened or closed one of its own meanwhile.
    assert!(world.sample("connections").await > before.saturating_sub(1));
    node.close().await;
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn address_discovery_shakes_hands_with_one_household_no_faster_than_it_may() {
    let world = World::with(|_| {}).await;
    let joined = world.join(1, None).await;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, joined.relay_quic_port.unwrap()));
    let fingerprint = parse_fingerprint(&joined.relay_quic_cert.unwrap()).unwrap();
    let connect = async |endpoint: &noq::Endpoint| {
        endpoint.connect_with(discovery_client(fingerprint), to, "127.0.0.1").unwrap().await
    };
    let hasty = noq::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    // Far fewer than there may be at once, so it is for their number in a moment that one is refused.
    let mut shaken = 0;
    while let Ok(connection) = connect(&hasty).await {
        connection.close(0u32.into(), b"");
        shaken += 1;
        assert!(shaken < 100_000, "nobody is ever refused");
    }
    assert!(shaken >= 200, "{shaken}");
    assert_eq!(world.sample("discovery_refused_total").await, 1);
    // Another household has its own.
    let other = noq::Endpoint::client((Ipv4Addr::new(127, 0, 1, 2), 0).into()).unwrap();
    connect(&other).await.unwrap();
    world.tracker.shutdown().await;
}
