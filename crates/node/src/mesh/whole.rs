//! Tests of a whole node over links in memory: bytes as from any stranger, in any order, and what the node tells strangers
//! of each other.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use minuet_mesh::Role;
use minuet_proto::mesh::{Frame, Hello, HelloFlags, Message, NodeId, PeerInfo};
use minuet_session::{Reach, ReaderId};
use proptest::prelude::*;

use super::{
    Mesh,
    driver::Command,
    faults,
    transport::memory::{Far, Network},
};

/// How long anything that must happen may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// A node that is linked in memory.
struct Alone {
    mesh: Mesh,
    network: Network,
}

impl std::ops::Deref for Alone {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.mesh
    }
}

impl Alone {
    /// Gives the node a link to `peer`, which seems to be at `remote`.
    async fn join(&self, peer: NodeId, remote: Option<SocketAddr>) -> Far {
        self.network.link_to(self.mesh.id(), peer, remote).await
    }

    async fn stop(self) {
        self.mesh.stop().await;
    }
}

impl Mesh {
    /// Waits until the driver has looked at everything that came before.
    async fn settle(&self) {
        let mut stats = self.watch_stats();
        stats.borrow_and_update();
        tokio::select! {
            fault = self.fault() => panic!("{fault}"),
            // Renewed by the driver twice a second; the second time it has begun after this call.
            () = async {
                for _ in 0..2 {
                    tokio::time::timeout(DEADLINE, stats.changed()).await.expect("it goes on").expect("it lives");
                    stats.borrow_and_update();
                }
            } => {}
        }
    }
}

/// A node of the network that nobody has told of others.
fn node(network: &Network, number: u8, role: Role, folder: &Path) -> Mesh {
    let mut options = faults::options(role, folder);
    options.trackers.clear();
    options.known = None;
    // Links in memory count nothing that a limit could be found out by.
    options.upload_limit = Some(20_000_000);
    Mesh::start_over(network.node(NodeId([number; 32]), addr(number)), options).unwrap()
}

fn addr(number: u8) -> SocketAddr {
    ([198, 51, 100, number], 4000).into()
}

fn alone(role: Role, folder: &Path) -> Alone {
    let network = Network::default();
    let mesh = node(&network, 250, role, folder);
    Alone { mesh, network }
}

fn frame(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out.freeze()
}

fn hello() -> Bytes {
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    let hello = Message::Hello(Hello { version: 1, flags, upload_kbps: 1000, extensions: Vec::new() });
    let mut out = BytesMut::from(&frame(&hello)[..]);
    out.put_slice(&[2, 1, 0]);
    out.freeze()
}

fn info(node: u8, addrs: &[&str]) -> PeerInfo {
    let addrs = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    PeerInfo {
        node: NodeId([node; 32]),
        flags,
        upload_kbps: 1000,
        address: Reach { addrs, relay: None }.encode(),
    }
}

/// What `far` is told of other nodes, until it is told of `last`.
async fn told_of(far: &mut Far, last: NodeId) -> Vec<(NodeId, Vec<SocketAddr>)> {
    let mut told = Vec::new();
    let mut buffer = BytesMut::new();
    let listening = async {
        while let Some(bytes) = far.said.recv().await {
            buffer.extend_from_slice(&bytes);
            while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
                let Some(Message::Peers(peers)) = frame.message else { continue };
                told.extend(peers.iter().map(|info| (info.node, Reach::decode(&info.address).addrs)));
            }
            if told.iter().any(|(node, _)| *node == last) {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, listening).await.expect("it is told in time");
    told
}

/// A liar names a victim as its own address and as that of nodes that it has made up. Nobody is told of the victim.
#[tokio::test]
async fn others_are_told_of_neighbours_alone_and_where_they_were_seen() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = alone(Role::Relay, folder.path());
    let addr = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
    let liar = NodeId([1; 32]);
    let from_liar = mesh.join(liar, addr("198.51.100.1:4000")).await;
    let mut lies = BytesMut::from(&hello()[..]);
    let victim = ["203.0.113.9:53", "203.0.113.9:54", "192.168.1.1:80", "127.0.0.1:22"];
    lies.put_slice(&frame(&Message::Peers(vec![info(1, &victim), info(2, &victim), info(3, &victim)])));
    from_liar.control.send(lies.freeze()).await.unwrap();
    // One in the local network tells of itself, too.
    let near = mesh.join(NodeId([4; 32]), addr("192.168.1.7:4000")).await;
    let mut words = BytesMut::from(&hello()[..]);
    words.put_slice(&frame(&Message::Peers(vec![info(4, &["192.168.1.7:4001", "203.0.113.9:53"])])));
    near.control.send(words.freeze()).await.unwrap();
    mesh.settle().await;

    let mut listener = mesh.join(NodeId([5; 32]), addr("198.51.100.77:4000")).await;
    listener.control.send(hello()).await.unwrap();
    let told = told_of(&mut listener, liar).await;
    let of = |told: &[(NodeId, Vec<SocketAddr>)], node: u8| {
        let named: BTreeSet<SocketAddr> = told
            .iter()
            .filter(|(told, _)| *told == NodeId([node; 32]))
            .flat_map(|(_, a)| a.clone())
            .collect();
        named.into_iter().map(|addr| addr.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of(&told, 1), ["198.51.100.1:4000"]);
    for hearsay in [2, 3, 4] {
        assert!(of(&told, hearsay).is_empty(), "{told:?}");
    }
    let mut neighbour = mesh.join(NodeId([6; 32]), addr("192.168.1.8:4000")).await;
    neighbour.control.send(hello()).await.unwrap();
    let told = told_of(&mut neighbour, NodeId([4; 32])).await;
    assert_eq!(of(&told, 4), ["192.168.1.7:4000", "192.168.1.7:4001"]);
    mesh.stop().await;
}

/// The most pieces of media that may wait for a driver that does not come round, by bytes.
#[tokio::test]
async fn what_waits_for_the_driver_is_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = alone(Role::Source, folder.path());
    let publisher = mesh.publisher();
    let piece = super::ClosedPiece {
        id: minuet_proto::PieceId {
            segment: minuet_proto::SegmentSeq(0),
            piece: minuet_proto::PieceIndex(0),
        },
        hash: minuet_proto::PieceHash::new([0; 20]),
        ingest_ms: 1,
        random_access: true,
        data: Bytes::from(vec![0; 4 << 20]),
    };
    // The test's only thread does not let the driver run meanwhile.
    let taken = (0..100).take_while(|_| publisher.publish(piece.clone())).count();
    assert_eq!(taken, super::MAX_UNSHARED / (4 << 20));
    mesh.stop().await;
}

/// A viewer that played on over it as if nothing lacked would splice media that do not belong together.
#[tokio::test]
async fn a_piece_that_does_not_get_through_leaves_a_hole_in_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = alone(Role::Source, folder.path());
    let publisher = mesh.publisher();
    let piece = |index: u32, len: usize| super::ClosedPiece {
        id: minuet_proto::PieceId {
            segment: minuet_proto::SegmentSeq(0),
            piece: minuet_proto::PieceIndex(index),
        },
        hash: minuet_proto::PieceHash::new([0; 20]),
        ingest_ms: 1,
        random_access: true,
        data: Bytes::from(vec![0; len]),
    };
    let mut changed = mesh.window().subscribe();
    let newest = || mesh.window().newest().map(|newest| newest.piece.serial.get());
    // The test's only thread does not let the driver run meanwhile.
    assert!(publisher.publish(piece(0, 1000)));
    assert!(!publisher.publish(piece(1, super::MAX_UNSHARED)), "there is no room for it");
    assert!(publisher.publish(piece(2, 1000)));
    while newest() != Some(2) {
        tokio::time::timeout(DEADLINE, changed.changed()).await.expect("it comes in time").unwrap();
    }
    let index = |serial| {
        mesh.window().get(minuet_proto::mesh::Serial::new(serial)).map(|known| known.piece.id.piece.0)
    };
    assert_eq!([0, 1, 2].map(index), [Some(0), None, Some(2)]);
    // Another handle counts on.
    assert!(mesh.publisher().publish(piece(3, 1000)));
    while newest() != Some(3) {
        tokio::time::timeout(DEADLINE, changed.changed()).await.expect("it comes in time").unwrap();
    }
    mesh.stop().await;
}

/// Numbers as they should not be.
fn number() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![
        Just(0u64),
        Just(1 << 16),
        Just(u64::from(u32::MAX)),
        Just(1 << 32),
        Just(1 << 62),
        Just(1 << 63),
        Just(u64::MAX)
    ];
    prop_oneof![
        any::<u64>(),
        0..300u64,
        (edge, 0..300u64, any::<bool>()).prop_map(|(edge, by, up)| {
            if up { edge.saturating_add(by) } else { edge.saturating_sub(by) }
        })
    ]
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// A frame of any type, made of numbers, and some bytes.
fn any_frame() -> impl Strategy<Value = Bytes> {
    let bytes = prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..120)];
    let body = (0..16u8, prop::collection::vec(number(), 0..4), bytes);
    body.prop_map(|(kind, numbers, bytes)| {
        let mut body = BytesMut::new();
        body.put_u8(kind);
        numbers.into_iter().for_each(|number| varint(&mut body, number));
        body.put_slice(&bytes);
        let mut out = BytesMut::new();
        varint(&mut out, body.len() as u64);
        out.put_slice(&body);
        out.freeze()
    })
}

#[derive(Debug, Clone)]
enum Act {
    /// A link opens; a greeting comes on it or does not.
    Open { greets: bool, relayed: bool },
    /// A frame comes on the control or media stream of a link.
    Frame { link: usize, media: bool, frame: Bytes },
    /// Bytes come that are no frame.
    Garbage { link: usize, media: bool, bytes: Vec<u8> },
    /// The far end goes.
    Close { link: usize },
    /// The player is somewhere.
    Playhead { next: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    let frames = (any::<usize>(), any::<bool>(), any_frame());
    prop_oneof![
        2 => (any::<bool>(), any::<bool>()).prop_map(|(greets, relayed)| Act::Open { greets, relayed }),
        20 => frames.prop_map(|(link, media, frame)| Act::Frame { link, media, frame }),
        1 => (any::<usize>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(link, media, bytes)| Act::Garbage { link, media, bytes }),
        1 => any::<usize>().prop_map(|link| Act::Close { link }),
        1 => (0..1u64 << 40).prop_map(|next| Act::Playhead { next }),
    ]
}

/// Does all of it to a node, which must go on.
async fn live_through(role: Role, acts: Vec<Act>) {
    let folder = tempfile::tempdir().unwrap();
    let mesh = alone(role, folder.path());
    let mut links: Vec<Far> = Vec::new();
    let mut opened = 0u8;
    for act in acts {
        let count = links.len();
        let at = |link: usize| link.checked_rem(count);
        match act {
            Act::Open { greets, relayed } if opened < 40 => {
                opened += 1;
                // Nobody whom such a node names is dialled: there is nothing that it may name.
                let remote = (!relayed).then(|| SocketAddr::from(([203, 0, 113, opened], 4000)));
                let far = mesh.join(NodeId([opened; 32]), remote).await;
                if greets {
                    let _ = far.control.send(hello()).await;
                }
                links.push(far);
            }
            Act::Open { .. } => {}
            Act::Frame { link, media, frame } => {
                let Some(at) = at(link) else { continue };
                let stream = if media { &links[at].media } else { &links[at].control };
                let _ = stream.try_send(frame);
            }
            Act::Garbage { link, media, bytes } => {
                let Some(at) = at(link) else { continue };
                let stream = if media { &links[at].media } else { &links[at].control };
                let _ = stream.try_send(bytes.into());
            }
            Act::Close { link } => {
                if let Some(at) = at(link) {
                    links.swap_remove(at);
                }
            }
            Act::Playhead { next } => {
                let _ = mesh
                    .commands
                    .send(Command::Playhead {
                        reader: ReaderId(0),
                        alive: std::sync::Weak::new(),
                        next: minuet_proto::mesh::Serial::new(next),
                        due: std::time::Instant::now(),
                    })
                    .await;
            }
        }
        tokio::task::yield_now().await;
    }
    mesh.settle().await;
    mesh.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn a_node_lives_through_whatever_strangers_send(
        acts in prop::collection::vec(act(), 1..200),
        role in prop_oneof![Just(Role::Viewer), Just(Role::Relay), Just(Role::Source)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live_through(role, acts));
    }
}

/// Nodes that greet properly, and then say what cannot be.
#[tokio::test]
async fn numbers_that_cannot_be_are_no_end_of_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = alone(Role::Viewer, folder.path());
    let mut key = [0; 32];
    for number in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, (1 << 62) - 1] {
        for kind in [1u8, 2, 3, 4, 5, 6, 7, 9, 13] {
            for tail in [&[][..], &[0], &[1], &[0xff, 1], &[0x66; 9]] {
                key[0] += 1;
                key[1] += u8::from(key[0] == 0xff);
                key[0] %= 0xff;
                let far = mesh.join(NodeId(key), None).await;
                let mut body = BytesMut::new();
                body.put_u8(kind);
                varint(&mut body, number);
                body.put_slice(tail);
                let mut out = BytesMut::from(&hello()[..]);
                varint(&mut out, body.len() as u64);
                out.put_slice(&body);
                far.control.send(out.freeze()).await.unwrap();
                // The driver takes it in before the link is gone.
                tokio::task::yield_now().await;
            }
        }
        mesh.settle().await;
    }
    mesh.stop().await;
}

/// Over links that are no network's, with nothing but the name of one node to begin with, a source and viewers do what they
/// do over QUIC: the seam between driver and transport is where it should be.
#[tokio::test]
async fn the_stream_and_what_is_said_of_it_spread_over_another_transport() {
    let folders: Vec<_> = (0..5).map(|_| tempfile::tempdir().unwrap()).collect();
    let network = Network::default();
    let nodes: Vec<Mesh> = (1..=5u8)
        .zip(&folders)
        .map(|(number, folder)| {
            let role = if number == 1 { Role::Source } else { Role::Viewer };
            node(&network, number, role, folder.path())
        })
        .collect();
    // Each is told of the one before it alone; peer exchange does the rest.
    for (known, mesh) in (1..5u8).zip(&nodes[1..]) {
        let told = vec![info(known, &[&addr(known).to_string()])];
        mesh.commands.send(Command::Peers(told, minuet_mesh::Discovery::Tracker)).await.unwrap();
    }
    let key = minuet_proto::ChannelKey::from_seed(&[3; 32]);
    let state = minuet_proto::ChannelState {
        channel: key.channel(),
        at_ms: 1,
        phase: minuet_proto::Phase::Live,
        next: minuet_proto::SegmentSeq(0),
        segment_ms: 60_000,
        title: "Radio Tower".into(),
        listed: false,
        origin: None,
    };
    nodes[0].state(&minuet_proto::SignedState::sign(&key, state)).await;
    let publisher = nodes[0].publisher();
    let closing = async {
        for index in 0u32.. {
            let data = Bytes::from(vec![index as u8; 30_000]);
            let piece = super::ClosedPiece {
                id: minuet_proto::PieceId {
                    segment: minuet_proto::SegmentSeq(0),
                    piece: minuet_proto::PieceIndex(index),
                },
                hash: minuet_proto::PieceHash::of(&data),
                ingest_ms: 1_700_000_000_000 + u64::from(index) * 50,
                random_access: true,
                data,
            };
            assert!(publisher.publish(piece));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let hearing = async {
        for mesh in &nodes[1..] {
            let mut heard = mesh.heard();
            let state = heard.wait_for(|heard| heard.state.is_some()).await.unwrap().state.clone();
            assert_eq!(state.unwrap().title, "Radio Tower");
            let mut changed = mesh.window().subscribe();
            loop {
                let newest = mesh.window().newest().map_or(0, |newest| newest.piece.serial.get());
                let held = |serial| mesh.window().read(minuet_proto::mesh::Serial::new(serial));
                if let Some(bytes) = newest.checked_sub(10).and_then(held).filter(|_| newest > 40) {
                    assert_eq!(bytes, vec![(newest - 10) as u8; 30_000]);
                    break;
                }
                changed.changed().await.unwrap();
            }
        }
    };
    tokio::select! {
        () = closing => {}
        done = tokio::time::timeout(DEADLINE, hearing) => done.expect("it spreads in time"),
    }
    for mesh in nodes {
        mesh.stop().await;
    }
}
