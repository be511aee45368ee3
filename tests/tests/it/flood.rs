//! A flood of forged handshakes at a node: newcomers have their links all the same.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, TransportAddr, endpoint::presets};
use minuet_node::mesh::{Mesh, MeshOptions, MeshRole, MeshStart};
use minuet_proto::{ChannelId, ChannelKey, mesh::Serial};

const ALPN: &[u8] = b"minuet-mesh/2";
/// Forged packets a second.
const RATE: u64 = 1000;
/// Different packets, and addresses that they seem to come from. Each port of each address is another sender to the node.
const FORGED: usize = 400;
const SENDERS: u8 = 60;
/// Newcomers, one after the other.
const NEWCOMERS: usize = 12;
/// A newcomer has its link within this time, or has none: that is how long a dial takes at most.
const DIAL: Duration = Duration::from_secs(5);

fn options(key: &ChannelKey, folder: &std::path::Path) -> MeshOptions {
    MeshOptions {
        channel: key.channel(),
        key: Some(key.clone()),
        role: MeshRole::Source,
        start: MeshStart::Live,
        target_delay: Duration::from_secs(5),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        upload_limit: None,
        upload: true,
        folder: folder.to_owned(),
        window: 256,
        first_serial: Serial::new(1),
        known: None,
        lines: None,
        uplink: minuet_node::mesh::Uplink::default(),
        trackers: Vec::new(),
        dht: None,
        local: false,
        keep: minuet_node::mesh::Keeping::Nothing,
    }
}

async fn endpoint() -> Endpoint {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_address_lookup();
    let builder = builder.clear_ip_transports().bind_addr((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    builder.bind().await.expect("an endpoint")
}

/// First packets of handshakes, as a true client makes them: caught before they arrive anywhere.
async fn forge(id: EndpointId) -> Vec<Vec<u8>> {
    let trap = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    let addr = EndpointAddr::from_parts(id, [TransportAddr::Ip(trap.local_addr().expect("bound"))]);
    let (mut forged, mut seen) = (Vec::new(), HashSet::new());
    while forged.len() < FORGED {
        let client = endpoint().await;
        let dialling: Vec<_> = (0..40)
            .map(|_| {
                let (client, addr) = (client.clone(), addr.clone());
                tokio::spawn(async move { client.connect(addr, ALPN).await.is_ok() })
            })
            .collect();
        let mut buffer = [0; 2048];
        let catching = async {
            while let Ok((len, _)) = trap.recv_from(&mut buffer).await {
                // A long header (RFC 9000, 17.2): the destination's connection id tells attempts apart.
                let id = buffer.get(6..6 + usize::from(buffer[5])).unwrap_or_default().to_vec();
                if buffer[0] & 0xf0 == 0xc0 && seen.insert(id) {
                    forged.push(buffer[..len].to_vec());
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(300), catching).await;
        dialling.iter().for_each(tokio::task::JoinHandle::abort);
        client.close().await;
    }
    forged
}

/// Sends them at [`RATE`] from many addresses until told to stop; nobody there answers.
fn flood(forged: Vec<Vec<u8>>, target: SocketAddr, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) {
    let bind = |n: u8| UdpSocket::bind(SocketAddr::from(([127, 0, 1, n], 0))).expect("loopback");
    let sockets: Vec<UdpSocket> = (1..=SENDERS).map(bind).collect();
    let began = Instant::now();
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        while count < began.elapsed().as_millis() as u64 * RATE / 1000 {
            let socket = &sockets[count as usize % sockets.len()];
            let _ = socket.send_to(&forged[count as usize % forged.len()], target);
            count += 1;
        }
        sent.store(count, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a newcomer has a link: the node has said something on it.
async fn link(id: EndpointId, target: SocketAddr, channel: ChannelId) -> bool {
    let client = endpoint().await;
    let addr = EndpointAddr::from_parts(id, [TransportAddr::Ip(target)]);
    let linking = async {
        let connection = client.connect(addr, ALPN).await.ok()?;
        let mut control = connection.open_uni().await.ok()?;
        control.write_all(&[0]).await.ok()?;
        control.write_all(channel.as_bytes()).await.ok()?;
        let mut said = connection.accept_uni().await.ok()?;
        said.read_exact(&mut [0; 1 + ChannelId::LENGTH + 1]).await.ok()
    };
    let linked = tokio::time::timeout(DIAL, linking).await.ok().flatten().is_some();
    client.close().await;
    linked
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomers_have_their_links_in_a_flood_of_forged_handshakes() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = ChannelKey::from_seed(&[9; 32]);
    let mesh = Mesh::start(options(&key, dir.path())).await.expect("a source");
    let target = mesh.listen_addrs()[0];
    let id = EndpointId::from_bytes(&mesh.id().0).expect("a key");
    let forged = forge(id).await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let flooding = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || flood(forged, target, stop, sent))
    };
    // The flood has taken what it can take.
    while sent.load(Ordering::Relaxed) < 2 * RATE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut took = Vec::new();
    for n in 0..NEWCOMERS {
        let began = Instant::now();
        assert!(link(id, target, key.channel()).await, "newcomer {n} has no link; before it: {took:?}");
        took.push(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    flooding.join().expect("it stops");
    eprintln!("{} forged packets; newcomers had their links after {took:?}", sent.load(Ordering::Relaxed));
    mesh.stop().await;
}
