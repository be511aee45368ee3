//! The relay server and address discovery, with iroh endpoints as nodes use them: without anybody else's servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use iroh::endpoint::{Connection, presets};
use iroh::tls::CaTlsConfig;
use iroh::{Endpoint, EndpointAddr, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey};
use iroh_relay::RelayQuicConfig;
use minuet_proto::Phase;
use minuet_proto::channel_api::mesh::{JoinRequest, MeshJoin, mesh_join_path, parse_fingerprint};
use minuet_proto::mesh::NodeId;
use minuet_tracker::relay::DiscoveryListen;
use minuet_tracker::{Config, Tracker};
use reqwest::Client;
use sha2::{Digest as _, Sha256};
use support::{Publisher, base, config, get};
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

/// Joins a channel's mesh and returns the answer.
async fn join(at: &str, n: u8, relay: Option<&str>) -> MeshJoin {
    let publisher = Publisher::new(1);
    publisher.publish_state(at, &publisher.state(5, Phase::Live, "", false)).await;
    let mut request = JoinRequest::new(NodeId([n; 32]));
    request.relay = relay.map(str::to_owned);
    request.want = 8;
    let url = format!("{at}{}", mesh_join_path(&publisher.channel()));
    let body = serde_json::to_vec(&request).unwrap();
    let answer = Client::new().post(url).body(body).send().await.unwrap().bytes().await.unwrap();
    serde_json::from_slice(&answer).unwrap()
}

/// A node that uses the tracker's relay server, as the tracker described it, and no other server at all.
async fn node(joined: &MeshJoin, direct: bool) -> Endpoint {
    let fingerprint = parse_fingerprint(joined.relay_quic_cert.as_ref().unwrap()).unwrap();
    let url: RelayUrl = joined.relay.as_ref().unwrap().parse().unwrap();
    let relay = RelayConfig::new(url.clone(), joined.relay_quic_port.map(RelayQuicConfig::new));
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
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

async fn sample(at: &str, name: &str) -> u64 {
    let metrics = get(&format!("{at}metrics")).await.1;
    let name = format!("minuet_tracker_{name} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn two_nodes_without_a_way_to_each_other_meet_through_the_trackers_port() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let joined = join(&at, 1, None).await;
    assert_eq!(joined.relay.as_deref(), Some(at.as_str()));
    let (a, b) = (node(&joined, false).await, node(&joined, false).await);
    a.online().await;
    b.online().await;
    assert_eq!(sample(&at, "relay_clients").await, 2);
    let serving = tokio::spawn(echo(b.clone()));
    let url: RelayUrl = joined.relay.unwrap().parse().unwrap();
    let connection = a.connect(EndpointAddr::new(b.id()).with_relay_url(url), ALPN).await.unwrap();
    let bytes = vec![7; 300_000];
    assert_eq!(ask(&connection, &bytes).await, bytes);
    assert!(sample(&at, "relay_received_bytes_total").await > 600_000);
    assert!(sample(&at, "relay_sent_bytes_total").await > 600_000);
    connection.close(0u32.into(), b"");
    serving.await.unwrap();
    a.close().await;
    b.close().await;
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_node_learns_the_address_that_it_is_seen_at() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let joined = join(&base(&tracker), 1, None).await;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = |fingerprint| {
        let mut tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                fingerprint,
                provider: Arc::clone(&provider),
            }))
            .with_no_client_auth();
        tls.alpn_protocols = vec![iroh_relay::quic::ALPN_QUIC_ADDR_DISC.to_vec()];
        let crypto = noq::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let mut config = noq::ClientConfig::new(Arc::new(crypto));
        let mut transport = noq::TransportConfig::default();
        transport.receive_observed_address_reports(true);
        config.transport_config(Arc::new(transport));
        config
    };
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, joined.relay_quic_port.unwrap()));
    let endpoint = noq::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let fingerprint = parse_fingerprint(&joined.relay_quic_cert.unwrap()).unwrap();
    let connection = endpoint.connect_with(client(fingerprint), to, "127.0.0.1").unwrap().await.unwrap();
    let mut observed = connection.observed_external_addr();
    assert_eq!(observed.next().await.unwrap(), endpoint.local_addr().unwrap());
    let other = endpoint.connect_with(client([0; 32]), to, "127.0.0.1").unwrap().await;
    assert!(other.is_err(), "a certificate that nobody named was taken");
    connection.close(0u32.into(), b"");
    endpoint.close(0u32.into(), b"");
    tracker.shutdown().await;
}

#[tokio::test]
async fn an_iroh_endpoint_uses_the_trackers_address_discovery() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let endpoint = node(&join(&at, 1, None).await, true).await;
    tokio::time::timeout(Duration::from_secs(60), async {
        while sample(&at, "discovery_connections").await != 1 {}
    })
    .await
    .unwrap();
    endpoint.close().await;
    tracker.shutdown().await;
}

#[tokio::test]
async fn who_asks_hears_the_relay_servers_name_as_it_knows_it() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let (by_number, port) = (base(&tracker), tracker.http_addrs()[0].port());
    let by_name = format!("http://localhost:{port}/");
    join(&by_number, 1, Some(&by_number)).await;
    join(&by_number, 2, Some("http://other.example/")).await;
    let joined = join(&by_name, 3, None).await;
    assert_eq!(joined.relay.as_deref(), Some(by_name.as_str()));
    let mut relays: Vec<_> = joined.nodes.iter().map(|node| node.relay.clone().unwrap()).collect();
    relays.sort();
    assert_eq!(relays, [by_name, "http://other.example/".to_owned()]);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_full_relay_server_says_so_and_one_that_is_off_is_not_there() {
    let data = tempfile::tempdir().unwrap();
    let mut few = config(data.path());
    few.relay.clients_per_address = 1;
    let tracker = Tracker::start(few).await.unwrap();
    let at = base(&tracker);
    let joined = join(&at, 1, None).await;
    let first = node(&joined, false).await;
    first.online().await;
    let second = node(&joined, false).await;
    let mut status = second.home_relay_status();
    let reason = loop {
        use iroh::Watcher as _;
        let denied = status.get().iter().find_map(|status| status.auth_denied_reason().map(str::to_owned));
        match denied {
            Some(reason) => break reason,
            None => drop(status.updated().await.unwrap()),
        }
    };
    assert!(reason.contains("as many clients as it may"), "{reason}");
    assert!(sample(&at, "relay_refused_total").await >= 1);
    first.close().await;
    second.close().await;
    tracker.shutdown().await;

    let mut off = config(data.path());
    off.relay.enabled = false;
    let tracker = Tracker::start(off).await.unwrap();
    let at = base(&tracker);
    let joined = join(&at, 1, None).await;
    assert_eq!((joined.relay, joined.relay_quic_port), (None, None));
    assert_eq!(get(&format!("{at}relay")).await.0, 404);
    assert_eq!(get(&format!("{at}ping")).await.0, 404);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_client_that_sends_more_than_it_may_is_slowed_down() {
    let data = tempfile::tempdir().unwrap();
    let mut slow = config(data.path());
    slow.relay.client_rate = 200_000;
    let tracker = Tracker::start(slow).await.unwrap();
    let at = base(&tracker);
    let joined = join(&at, 1, None).await;
    let (a, b) = (node(&joined, false).await, node(&joined, false).await);
    b.online().await;
    let serving = tokio::spawn(echo(b.clone()));
    let url: RelayUrl = joined.relay.unwrap().parse().unwrap();
    let connection = a.connect(EndpointAddr::new(b.id()).with_relay_url(url), ALPN).await.unwrap();
    let bytes = vec![7; 200_000];
    assert_eq!(ask(&connection, &bytes).await, bytes);
    assert!(sample(&at, "relay_limited_bytes_total").await > 0);
    connection.close(0u32.into(), b"");
    serving.await.unwrap();
    a.close().await;
    b.close().await;
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_for_address_discovery_stops_only_who_asked_for_it() {
    let data = tempfile::tempdir().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config: Config = config(data.path());
    config.relay.discovery_listen = DiscoveryListen::At(taken.local_addr().unwrap());
    let error = Tracker::start(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains("--discovery-listen"), "{error}");
    config.relay.discovery_listen = DiscoveryListen::Nowhere;
    let tracker =
        tokio::time::timeout(Duration::from_secs(60), Tracker::start(config)).await.unwrap().unwrap();
    assert_eq!(join(&base(&tracker), 1, None).await.relay_quic_port, None);
    tracker.shutdown().await;
}
