//! The QUIC endpoint that links run over: iroh, with none but our own relay servers and no discovery service.
//!
//! Rules:
//! - Nobody is contacted but who the tracker, a neighbour or the user named, and each address only as far as
//!   [`Contacts`] allows.
//! - Relay servers are those of the trackers in use, one each. One that a node names is used only if it is among them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey, TransportAddr,
    Watcher as _,
    endpoint::{
        AckFrequencyConfig, Connection, IncomingAddr, NetReportConfig, QuicTransportConfig, VarInt, presets,
    },
};
use minuet_guard::tasks::Spawner;
use minuet_line::LinkSample;
use minuet_proto::{
    ChannelId,
    mesh::{NodeId, SIGNATURE_LEN},
};
use minuet_session::reach::{MAX_DIALLED, Reach};
use tokio::sync::watch;

mod accept;
mod certificates;
mod congestion;
mod link;
mod punching;

use self::{certificates::Pins, congestion::WindowFactory, punching::Punching};
use super::super::endless;
use super::{Door, Error, Opening, PathFigures, RelayServer, Transport, Work};
use crate::contact::{Contact, Contacts, Forbidden, Teller};

/// Names the protocol in the handshake (RFC 7301). The number is that of the framing, not of the mesh messages, whose
/// version is negotiated in Hello.
const ALPN: &[u8] = b"minuet-mesh/2";
/// How long a port that is in use may take to become free, and how often that is looked at.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
const PORT_LOOK: Duration = Duration::from_millis(20);
/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
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

/// A bound endpoint.
#[derive(Debug)]
pub(in crate::mesh) struct Quic {
    endpoint: Endpoint,
    pins: Pins,
    contacts: Contacts,
    punching: Punching,
    /// See [`Transport::denied`].
    denied: Mutex<Option<Forbidden>>,
    /// The relay server of each tracker, by the tracker's URL.
    relays: Mutex<HashMap<String, RelayUrl>>,
    /// Their URLs, for whoever wants to know when they change.
    said_relays: watch::Sender<Vec<String>>,
}

impl Quic {
    /// Binds a UDP socket. `secret` is this node's own key.
    pub async fn bind(listen: SocketAddr, secret: [u8; 32], contacts: Contacts) -> Result<Self, Error> {
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
        // It would bind both families, whatever is asked for.
        builder = builder.clear_ip_transports();
        wait_for_port(listen).await;
        let bad = |error: &dyn std::fmt::Display| Error::Bind { listen, reason: error.to_string() };
        builder = builder.bind_addr(listen).map_err(|error| bad(&error))?;
        if listen.ip() == Ipv6Addr::UNSPECIFIED {
            // A socket of one family takes no packets of the other.
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
            builder = builder.bind_addr(v4).map_err(|error| bad(&error))?;
        }
        let endpoint =
            builder.bind().await.map_err(|error| Error::Bind { listen, reason: innermost(&error) })?;
        Ok(Self {
            endpoint,
            pins,
            contacts,
            punching: Punching::default(),
            denied: Mutex::default(),
            relays: Mutex::default(),
            said_relays: watch::Sender::default(),
        })
    }

    /// Uses a tracker's relay server from now on, in place of the one that it had before, and learns this node's public
    /// address there.
    async fn use_relay(&self, tracker: &str, relay: &RelayServer) -> Result<(), Error> {
        let bad = |reason: String| Error::Relay { url: relay.url.clone(), reason };
        let url: RelayUrl = relay.url.parse().map_err(|error| bad(format!("{error}")))?;
        let mut config = RelayConfig::from(url.clone());
        config.quic = relay.discovery_port.zip(relay.discovery_cert).map(|(port, cert)| {
            self.pins.add(cert);
            let mut quic = config.quic.take().unwrap_or_default();
            quic.port = port;
            quic
        });
        let before = self.lock_relays().insert(tracker.to_owned(), url.clone());
        if let Some(before) = before.filter(|before| *before != url)
            && !self.lock_relays().values().any(|used| *used == before)
        {
            self.endpoint.remove_relay(&before).await;
        }
        self.endpoint.insert_relay(url, Arc::new(config)).await;
        let urls = self.lock_relays().values().map(ToString::to_string).collect();
        self.said_relays.send_replace(urls);
        Ok(())
    }

    /// The relay server at this URL, if it is one of those in use.
    fn used_relay(&self, url: &str) -> Option<RelayUrl> {
        let url: RelayUrl = url.parse().ok()?;
        self.lock_relays().values().any(|used| *used == url).then_some(url)
    }

    fn lock_relays(&self) -> std::sync::MutexGuard<'_, HashMap<String, RelayUrl>> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection to `peer`, whose addresses were judged by who told of them when they came in.
    async fn dial(&self, peer: NodeId, reach: &Reach) -> Option<Connection> {
        let id = EndpointId::from_bytes(&peer.0).ok()?;
        let relay = reach.relay.as_ref().and_then(|url| self.used_relay(url)).map(TransportAddr::Relay);
        let dialling = async {
            let mut contacts: Vec<Contact> = Vec::new();
            let mut addrs: Vec<TransportAddr> = relay.into_iter().collect();
            let mut denied = None;
            for addr in reach.addrs.iter().take(MAX_DIALLED) {
                let judged = if addrs.is_empty() {
                    self.contacts.open(*addr, Teller::User).await
                } else {
                    // There is a way already; this one is not waited for.
                    self.contacts.try_open(*addr, Teller::User)
                };
                match judged {
                    Ok(contact) => {
                        contacts.push(contact);
                        addrs.push(TransportAddr::Ip(*addr));
                    }
                    Err(forbidden) => {
                        tracing::debug!("{peer:?} is not dialled at {addr}: {forbidden}");
                        denied = Some(forbidden);
                    }
                }
            }
            *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = denied.filter(|_| addrs.is_empty());
            if addrs.is_empty() {
                return None;
            }
            let connection = self.endpoint.connect(EndpointAddr::from_parts(id, addrs), ALPN).await;
            if let Ok(connection) = &connection {
                let answered = remote(connection).map(|addr| addr.ip());
                let good = contacts.into_iter().find(|contact| Some(contact.target()) == answered);
                good.map(Contact::succeeded).unwrap_or_default();
                self.punching.watch(connection);
            }
            Some(connection)
        };
        match tokio::time::timeout(DIAL_TIMEOUT, dialling).await {
            Ok(None) => None,
            Ok(Some(Ok(connection))) => Some(connection),
            Ok(Some(Err(error))) => {
                tracing::debug!("cannot link with {peer:?}: {}", innermost(&error));
                None
            }
            Err(_) => {
                tracing::debug!("cannot link with {peer:?}: no answer");
                None
            }
        }
    }

    /// The next connection that somebody opens here; none when the endpoint is closed.
    async fn incoming(&self) -> Option<Incoming> {
        self.endpoint.accept().await.map(Incoming)
    }
}

impl Transport for Quic {
    fn id(&self) -> NodeId {
        NodeId(*self.endpoint.id().as_bytes())
    }

    fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.endpoint.secret_key().sign(bytes).to_bytes()
    }

    fn denied(&self) -> Option<Forbidden> {
        *self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// QUIC's queue is not the line's: packets go out as the windows of their links allow, whatever the line does. With
    /// two blocks in it (25 ms at 10 Mbit/s), links whose windows losses keep small left a fifth of a limit unused.
    fn queue(&self) -> Duration {
        Duration::from_millis(110)
    }

    fn bound(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    fn reach(&self) -> Reach {
        reach_of(&self.endpoint.addr())
    }

    fn watch_reach(self: Arc<Self>, reach: watch::Sender<Reach>) -> Work<'static, ()> {
        Box::pin(async move {
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
        })
    }

    fn watch_relays(&self) -> watch::Receiver<Vec<String>> {
        let mut relays = self.said_relays.subscribe();
        relays.mark_changed();
        relays
    }

    /// This node learns its public address there.
    fn use_relay<'a>(&'a self, tracker: &'a str, relay: &'a RelayServer) -> Work<'a, Result<(), Error>> {
        Box::pin(self.use_relay(tracker, relay))
    }

    fn dial(&self, peer: NodeId, reach: Reach, channel: ChannelId) -> Work<'_, Option<Box<dyn Opening>>> {
        Box::pin(async move { link::open(self.dial(peer, &reach).await?, channel, false).await })
    }

    fn accept(
        self: Arc<Self>,
        channel: ChannelId,
        door: Door,
        tasks: Spawner,
    ) -> Work<'static, Result<(), &'static str>> {
        tasks.spawn("the watch over hole punching", endless(self.punching.clone().run()));
        Box::pin(accept::accept(self, channel, door, tasks))
    }

    fn close(&self) -> Work<'_, ()> {
        Box::pin(self.endpoint.close())
    }
}

/// A connection that somebody opens, before its handshake.
struct Incoming(iroh::endpoint::Incoming);

impl Incoming {
    /// Where it comes from; none if it comes through a relay server.
    pub fn remote(&self) -> Option<IpAddr> {
        match self.0.remote_addr() {
            IncomingAddr::Ip(addr) => Some(addr.ip().to_canonical()),
            _ => None,
        }
    }

    /// Whether it is known that this address is its own: it has received what was sent there, or a relay server knows it.
    pub fn is_proven(&self) -> bool {
        self.remote().is_none() || self.0.remote_addr_validated()
    }

    /// Has it show that it receives what is sent to its address.
    pub fn show_address(self) {
        // An error says that it has shown it already; it comes again.
        let _ = self.0.retry();
    }

    /// Turns it away, with a word.
    pub fn refuse(self) {
        self.0.refuse();
    }

    /// The connection, once the handshake is over.
    pub async fn accept(self) -> Option<Connection> {
        self.0.accept().ok()?.await.ok()
    }
}

/// Waits until a port is free, but not for long: a node that was stopped, so as to be started again, gives its port back
/// once the transport's own tasks have ended, which nobody can wait for.
async fn wait_for_port(listen: SocketAddr) {
    let in_use = || match std::net::UdpSocket::bind(listen) {
        Err(error) => error.kind() == std::io::ErrorKind::AddrInUse,
        Ok(_) => false,
    };
    let waiting = async {
        while listen.port() != 0 && in_use() {
            tokio::time::sleep(PORT_LOOK).await;
        }
    };
    // What is in use for longer is somebody else's: binding says so.
    let _ = tokio::time::timeout(PORT_PATIENCE, waiting).await;
}

fn reach_of(addr: &EndpointAddr) -> Reach {
    Reach::new(addr.ip_addrs().copied(), addr.relay_urls().next().map(ToString::to_string))
}

/// The far end's key.
fn peer_of(connection: &Connection) -> NodeId {
    NodeId(*connection.remote_id().as_bytes())
}

/// The address of the path in use; none if that goes through a relay server.
fn remote(connection: &Connection) -> Option<SocketAddr> {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next())?;
    match path.remote_addr() {
        TransportAddr::Ip(addr) => Some(SocketAddr::new(addr.ip().to_canonical(), addr.port())),
        _ => None,
    }
}

/// Figures of the path in use.
fn path_figures(connection: &Connection) -> PathFigures {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
    path.map(|path| PathFigures {
        rtt: path.rtt(),
        remote: remote(connection),
        relayed: path.is_relay(),
        window: path.stats().cwnd,
    })
    .unwrap_or_default()
}

/// What was counted of the path in use since it was opened, with the shortest round trip since the last call.
fn sample(connection: &Connection) -> Option<LinkSample> {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next())?;
    let stats = path.stats();
    let metered = congestion::meter_of(connection.congestion_state(path.id())?)?.take(stats.rtt);
    Some(LinkSample {
        link: metered.path,
        sent_bytes: stats.udp_tx.bytes,
        delivered_bytes: metered.delivered_bytes,
        lost_bytes: metered.lost_bytes,
        round_trip: metered.round_trip,
    })
}

/// Bytes that a connection has given to the socket: UDP payload, all paths, everything included.
fn sent_bytes(connection: &Connection) -> u64 {
    connection.stats().udp_tx.bytes
}

/// Bytes that came in from the socket, counted in the same way.
fn received_bytes(connection: &Connection) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "http://tracker.example/";

    async fn transport() -> Quic {
        Quic::bind("127.0.0.1:0".parse().unwrap(), rand::random(), Contacts::new()).await.unwrap()
    }

    /// A node names sixteen addresses that are not its own, under key after key.
    #[tokio::test]
    async fn a_victim_hears_of_three_dials_at_most() {
        let transport = transport().await;
        let mut victims = Vec::new();
        for _ in 0..16 {
            victims.push(tokio::net::UdpSocket::bind("127.0.0.9:0").await.unwrap());
        }
        let addrs: Vec<SocketAddr> = victims.iter().map(|victim| victim.local_addr().unwrap()).collect();
        for n in 0..40u8 {
            let key = SecretKey::from_bytes(&[n + 1; 32]).public();
            let begin = usize::from(n) % addrs.len();
            let reach = Reach { addrs: addrs[begin..].to_vec(), relay: None };
            let dial = transport.dial(NodeId(*key.as_bytes()), &reach);
            let _ = tokio::time::timeout(Duration::from_millis(100), dial).await;
        }
        let mut buffer = [0; 2048];
        let heard = victims.iter().filter(|victim| victim.try_recv(&mut buffer).is_ok()).count();
        assert!((1..=3).contains(&heard), "{heard} of 16 ports were dialled");
    }

    #[tokio::test]
    async fn nodes_name_no_relay_servers() {
        let transport = transport().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let victim = format!("http://{}/", listener.local_addr().unwrap());
        let key = SecretKey::from_bytes(&[1; 32]).public();
        for _ in 0..20 {
            let reach = Reach { addrs: Vec::new(), relay: Some(victim.clone()) };
            assert!(transport.dial(NodeId(*key.as_bytes()), &reach).await.is_none());
        }
        let came = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        assert!(came.is_err(), "somebody came");
    }

    #[tokio::test]
    async fn a_tracker_has_one_relay_server() {
        let transport = transport().await;
        let relay = |url: &str| RelayServer { url: url.into(), discovery_port: None, discovery_cert: None };
        transport.use_relay("one", &relay(KNOWN)).await.unwrap();
        transport.use_relay("two", &relay(KNOWN)).await.unwrap();
        transport.use_relay("one", &relay("http://other.example/")).await.unwrap();
        assert!(transport.used_relay(KNOWN).is_some(), "the second tracker's");
        transport.use_relay("two", &relay("http://other.example/")).await.unwrap();
        assert!(transport.used_relay(KNOWN).is_none());
        assert!(transport.used_relay("http://other.example/").is_some());
    }
}
