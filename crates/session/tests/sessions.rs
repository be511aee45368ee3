//! Sessions linked with each other in memory: what a host gives and gets.
// Helpers of tests are tests: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use minuet_mesh::{Config, Direction, HeadKey, LinkId, PieceRef, Role, Statement, Timestamp};
use minuet_proto::{
    PieceHash, PieceId, PieceIndex, SegmentSeq,
    mesh::{Block, Frame, Hello, HelloFlags, Message, NodeId, PeerInfo, SIGNATURE_LEN, Serial},
};
use minuet_session::{
    ClosedPiece, Dialability, Effect, Event, Path, Pieces, Reach, ReaderId, Session, Settings,
};
use proptest::prelude::*;

/// Everything is signed by everybody.
struct NoKey;

impl HeadKey for NoKey {
    fn verify(&self, _signed: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        *signature == [7; SIGNATURE_LEN]
    }

    fn sign(&self, _signed: &[u8]) -> [u8; SIGNATURE_LEN] {
        [7; SIGNATURE_LEN]
    }
}

#[derive(Default)]
struct Memory {
    pieces: BTreeMap<Serial, Bytes>,
    /// It refuses to keep any more.
    full: bool,
}

impl Pieces for Memory {
    fn keep(&mut self, piece: &PieceRef, data: &Bytes) -> io::Result<()> {
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.pieces.insert(piece.serial, data.clone());
        Ok(())
    }

    fn part(&mut self, block: &Block) -> Option<Bytes> {
        let piece = self.pieces.get(&block.serial)?;
        Some(piece.slice(block.offset as usize..(block.offset + block.len) as usize))
    }
}

struct Host {
    session: Session,
    pieces: Memory,
    effects: Vec<Effect>,
}

fn addr(node: u8) -> std::net::SocketAddr {
    ([198, 51, 100, node], 4000).into()
}

impl Host {
    fn new(node: u8, role: Role) -> Self {
        let settings = Settings {
            core: Config {
                target_delay: Duration::from_secs(1),
                // Nothing here looks at the line.
                upload_limit: Some(10_000_000),
                ..Config::new(NodeId([node; 32]), Arc::new(NoKey))
            },
            role,
            reach: Reach { addrs: vec![addr(node)], relay: None },
            dialability: Dialability::FoundOut,
            remembered: None,
            seed: u64::from(node),
        };
        let session = Session::new(settings, Timestamp::ZERO);
        Self { session, pieces: Memory::default(), effects: Vec::new() }
    }

    fn tell(&mut self, event: Event, now: Timestamp) {
        self.session.handle(event, now, &mut self.pieces);
        self.effects.extend(std::iter::from_fn(|| self.session.poll_effect()));
    }

    fn held(&self) -> usize {
        self.pieces.pieces.len()
    }

    fn heard(&self) -> impl Iterator<Item = Statement> + '_ {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Statement(statement) => Some(statement.clone()),
            _ => None,
        })
    }

    fn link_up(&mut self, link: u64, peer: u8, direction: Direction, now: Timestamp) {
        let path = Path { rtt: Duration::from_millis(10), remote: Some(addr(peer)) };
        self.tell(Event::LinkUp { link: LinkId(link), peer: NodeId([peer; 32]), direction, path }, now);
    }
}

/// Hosts that are all linked with each other, with a delay of 5 ms; host n is node n, and its link to m is m.
struct Net {
    hosts: Vec<Host>,
    now: Timestamp,
    /// From, to, message; when it arrives.
    under_way: VecDeque<(Timestamp, usize, usize, Message, Bytes)>,
    closed: u32,
}

const STEP: Duration = Duration::from_millis(5);

impl Net {
    fn new(viewers: usize) -> Self {
        let mut hosts = vec![Host::new(0, Role::Source)];
        hosts.extend((1..=viewers).map(|node| Host::new(node as u8, Role::Viewer)));
        for a in 0..hosts.len() {
            for b in 0..hosts.len() {
                if a != b {
                    let direction = if a < b { Direction::Dialled } else { Direction::Accepted };
                    hosts[a].link_up(b as u64, b as u8, direction, Timestamp::ZERO);
                }
            }
        }
        Self { hosts, now: Timestamp::ZERO, under_way: VecDeque::new(), closed: 0 }
    }

    fn close_piece(&mut self) {
        let data = Bytes::from(vec![self.closed as u8; 20_000]);
        let piece = ClosedPiece {
            id: PieceId { segment: SegmentSeq(0), piece: PieceIndex(self.closed) },
            hash: PieceHash::of(&data),
            ingest_ms: 1_700_000_000_000 + self.now.0 / 1000,
            random_access: self.closed.is_multiple_of(5),
            data,
        };
        let serial = Serial::new(u64::from(self.closed));
        self.closed += 1;
        self.hosts[0].tell(Event::Closed { serial, piece }, self.now);
    }

    /// Goes on for so long; the source closes a piece every 100 ms.
    fn run(&mut self, for_time: Duration) {
        let until = self.now + for_time;
        while self.now < until {
            self.now = self.now + STEP;
            if self.now.0.is_multiple_of(100_000) {
                self.close_piece();
            }
            while self.under_way.front().is_some_and(|(at, ..)| *at <= self.now) {
                let Some((_, from, to, message, payload)) = self.under_way.pop_front() else { break };
                let link = LinkId(from as u64);
                self.hosts[to].tell(Event::Frame { link, message, payload }, self.now);
            }
            for from in 0..self.hosts.len() {
                if self.hosts[from].session.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.hosts[from].tell(Event::Timeout, self.now);
                }
                // Whatever comes is news and verifies, the first time.
                let heard: Vec<Statement> = self.hosts[from].heard().collect();
                for statement in heard {
                    self.hosts[from].tell(Event::Statement(statement), self.now);
                }
                let mut sent = Vec::new();
                self.hosts[from].effects.retain(|effect| match effect {
                    Effect::Send { link, message, payload } => {
                        sent.push((*link, message.clone(), payload.clone()));
                        false
                    }
                    _ => true,
                });
                for (link, message, payload) in sent {
                    let bytes = message.encoded_len() as u64;
                    self.hosts[from].tell(Event::Drained { link, bytes }, self.now);
                    self.under_way.push_back((self.now + STEP, from, link.0 as usize, message, payload));
                }
            }
        }
    }
}

fn hello(version: u32) -> Message {
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    Message::Hello(Hello { version, flags, upload_kbps: 0, extensions: Vec::new() })
}

#[test]
fn media_spreads_and_hosts_hear_of_heads_before_pieces() {
    let mut net = Net::new(4);
    net.run(Duration::from_secs(8));
    for (node, host) in net.hosts.iter().enumerate() {
        assert!(
            host.held() + 20 >= net.closed as usize,
            "node {node} holds {} of {}",
            host.held(),
            net.closed
        );
        let mut known = std::collections::BTreeSet::new();
        let mut started = false;
        for effect in &host.effects {
            match effect {
                Effect::Head { head, .. } => known.extend(head.iter().map(|(serial, ..)| serial)),
                Effect::Held(piece) => assert!(known.contains(&piece.serial), "node {node}: {piece:?}"),
                Effect::Start(_) => started = true,
                Effect::HangUp { reason, .. } => panic!("node {node} hangs up: {reason:?}"),
                _ => {}
            }
        }
        assert_eq!(started, node != 0);
        assert_eq!(host.session.figures().stream / 10_000, 20, "20,000 bytes ten times a second");
    }
}

#[test]
fn a_block_that_overtakes_its_head_is_not_thrown_away() {
    let mut net = Net::new(1);
    net.run(Duration::from_millis(3050));
    net.close_piece();
    let (mut heads, mut blocks) = (Vec::new(), Vec::new());
    // Blocks are spaced by the limit, and go out one after the other.
    for _ in 0..8 {
        net.now = net.now + STEP;
        net.hosts[0].tell(Event::Timeout, net.now);
        for effect in std::mem::take(&mut net.hosts[0].effects) {
            let Effect::Send { link, message, payload } = effect else { continue };
            net.hosts[0].tell(Event::Drained { link, bytes: message.encoded_len() as u64 }, net.now);
            match message {
                Message::Block(_) => blocks.push((message, payload)),
                other => heads.push((other, Bytes::new())),
            }
        }
    }
    let now = net.now;
    assert!(!blocks.is_empty(), "the source pushes new pieces");
    let before = net.hosts[1].held();
    let frame = |(message, payload)| Event::Frame { link: LinkId(0), message, payload };
    for block in blocks {
        net.hosts[1].tell(frame(block), now);
    }
    assert_eq!(net.hosts[1].held(), before);
    for head in heads {
        net.hosts[1].tell(frame(head), now + STEP);
    }
    net.hosts[1].tell(Event::Timeout, now + STEP);
    assert!(net.hosts[1].held() > before, "it waited for its head");
}

#[test]
fn nobody_is_told_of_addresses_that_were_not_seen() {
    let mut host = Host::new(1, Role::Relay);
    let now = Timestamp::ZERO;
    let peers = |message: &Message| match message {
        Message::Peers(peers) => peers.clone(),
        _ => Vec::new(),
    };
    let info = |node: u8, at: &str| PeerInfo {
        node: NodeId([node; 32]),
        flags: HelloFlags { dialable: true, ..HelloFlags::default() },
        upload_kbps: 1,
        address: Reach { addrs: vec![at.parse().unwrap()], relay: None }.encode(),
    };
    for node in [2, 3] {
        host.link_up(u64::from(node), node, Direction::Accepted, now);
        let link = LinkId(u64::from(node));
        host.tell(Event::Frame { link, message: hello(2), payload: Bytes::new() }, now);
        // It names a victim as itself, and as somebody else.
        let lies = Message::Peers(vec![info(node, "203.0.113.9:53"), info(9, "203.0.113.9:53")]);
        host.tell(Event::Frame { link, message: lies, payload: Bytes::new() }, now);
    }
    host.link_up(4, 4, Direction::Accepted, now);
    host.tell(Event::Frame { link: LinkId(4), message: hello(2), payload: Bytes::new() }, now);
    let mut at = now;
    for _ in 0..600 {
        at = at + Duration::from_millis(100);
        host.tell(Event::Timeout, at);
    }
    let told = host.effects.iter().filter_map(|effect| match effect {
        Effect::Send { link: LinkId(4), message, .. } => Some(peers(message)),
        _ => None,
    });
    let told: Vec<PeerInfo> = told.flatten().collect();
    assert!(told.iter().any(|info| info.node == NodeId([2; 32])), "{told:?}");
    for info in told {
        let addrs = Reach::decode(&info.address).addrs;
        assert_eq!(addrs, [addr(info.node.0[0])], "{info:?}");
    }
}

#[test]
fn what_the_source_says_reaches_everybody_once_and_newcomers_from_anybody() {
    let mut net = Net::new(3);
    net.run(Duration::from_millis(200));
    let said =
        [Statement::State(Bytes::from_static(b"on air")), Statement::Record(Bytes::from_static(b"one"))];
    let older = Statement::State(Bytes::from_static(b"before"));
    for statement in [older].iter().chain(&said) {
        net.hosts[0].tell(Event::Statement(statement.clone()), net.now);
    }
    net.run(Duration::from_secs(1));
    for host in &net.hosts[1..] {
        let heard = host.effects.iter().filter(|effect| matches!(effect, Effect::Statement(_)));
        assert_eq!(heard.count(), 3);
    }
    let now = net.now;
    let host = &mut net.hosts[2];
    host.effects.clear();
    for (newcomer, version) in [(9, 2), (10, 1), (11, 7)] {
        host.link_up(newcomer.into(), newcomer, Direction::Accepted, now);
        let link = LinkId(newcomer.into());
        host.tell(Event::Frame { link, message: hello(version), payload: Bytes::new() }, now);
        let told = host.effects.iter().filter_map(|effect| match effect {
            Effect::Send { link: to, message: Message::State(state), .. } if *to == link => {
                Some(Statement::State(state.clone()))
            }
            Effect::Send { link: to, message: Message::Record(record), .. } if *to == link => {
                Some(Statement::Record(record.clone()))
            }
            _ => None,
        });
        // Version 1 knows no states.
        let known = if version == 1 { &said[1..] } else { &said[..] };
        assert_eq!(told.collect::<Vec<_>>(), known);
    }
}

#[test]
fn a_full_disk_is_said_and_the_piece_is_not_promised() {
    let mut net = Net::new(1);
    net.hosts[1].pieces.full = true;
    net.run(Duration::from_secs(3));
    assert_eq!(net.hosts[1].held(), 0);
    let failed = |effect: &Effect| matches!(effect, Effect::PiecesFailed { .. });
    assert!(net.hosts[1].effects.iter().any(failed));
    assert!(!net.hosts[1].effects.iter().any(|effect| matches!(effect, Effect::Held(_))));
}

/// A frame as it may come from a stranger.
fn any_frame() -> impl Strategy<Value = Option<(Message, Bytes)>> {
    let number = prop_oneof![0..300u64, Just((1 << 62) - 1), Just(1 << 62), Just(u64::MAX), any::<u64>()];
    let body = (0..16u8, prop::collection::vec(number, 0..4), prop::collection::vec(any::<u8>(), 0..80));
    body.prop_map(|(kind, numbers, tail)| {
        let mut body = BytesMut::from(&[kind][..]);
        for mut number in numbers {
            while number >= 0x80 {
                body.extend_from_slice(&[number as u8 | 0x80]);
                number >>= 7;
            }
            body.extend_from_slice(&[number as u8]);
        }
        body.extend_from_slice(&tail);
        let mut frame = BytesMut::from(&[body.len() as u8][..]);
        if body.len() >= 0x80 {
            frame = BytesMut::from(&[body.len() as u8 | 0x80, (body.len() >> 7) as u8][..]);
        }
        frame.extend_from_slice(&body);
        let frame = Frame::decode(&mut frame).ok().flatten()?;
        Some((frame.message?, frame.payload))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn a_session_lives_through_whatever_comes(
        events in prop::collection::vec((any_frame(), 0..6u64, 0..12u8, any::<u64>()), 1..300),
        role in prop_oneof![Just(Role::Viewer), Just(Role::Relay), Just(Role::Source)],
    ) {
        let mut host = Host::new(1, role);
        let mut now = Timestamp::ZERO;
        for (frame, link, kind, number) in events {
            now = now + Duration::from_millis(number % 500);
            match (kind, frame) {
                (0, _) => host.link_up(link, link as u8 + 2, Direction::Accepted, now),
                (1, _) => host.tell(Event::LinkDown { link: LinkId(link) }, now),
                (2, _) => {
                    let (reader, next) = (ReaderId(link), Serial::new(number >> 2));
                    host.tell(Event::Playhead { reader, next, due: Timestamp(number) }, now);
                }
                (3, _) => host.tell(Event::ReaderGone(ReaderId(link)), now),
                (4, _) => host.tell(Event::Drained { link: LinkId(link), bytes: number }, now),
                (5, _) => host.tell(Event::Unknown { link: LinkId(link), bytes: number as usize }, now),
                (6, _) => host.tell(Event::Line { links: Vec::new(), received: number, others: number }, now),
                (_, Some((message, payload))) => {
                    host.tell(Event::Frame { link: LinkId(link), message, payload }, now);
                }
                _ => host.tell(Event::Timeout, now),
            }
            host.effects.clear();
        }
    }
}
