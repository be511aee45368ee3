//! A small mesh in virtual time: cores joined by links with a delay, every message through the real codec.
//!
//! Faults are drawn from a seed: messages can be delayed out of order, dropped or doubled, which real links never
//! do; a core must survive it all the same.

mod alone;
mod bare;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minuet_mesh::{
    Config, Direction, Discovery, HangUpReason, HeadKey, Input, Learned, LinkId, Node, Output, PieceRef,
    Role, Shape, Timestamp, Verdict,
};
use minuet_proto::mesh::{
    Frame, HelloFlags, Kept, Message, Minute, NodeId, PeerInfo, SIGNATURE_LEN, Serial, SerialList,
};
use minuet_proto::{PieceHash, PieceId, PieceIndex, SegmentSeq};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

pub use alone::{Alone, STRANGER};
pub use bare::Bare;

pub const PIECE: u32 = 64 * 1024;
/// Pieces a second of 8 Mbit/s.
pub const GAP: Duration = Duration::from_millis(65);

/// A node's bookkeeping is looked at after one in so many events: a look goes over the whole window.
const CHECKED_AT: usize = 8;

/// A signature that is a copy of the statement's hash: enough where nobody is asked to break it.
pub struct TestKey;

impl HeadKey for TestKey {
    fn verify(&self, signed: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.sign(signed) == *signature
    }

    fn sign(&self, signed: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut out = [1; SIGNATURE_LEN];
        out[..20].copy_from_slice(PieceHash::of(signed).as_bytes());
        out
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Chance that a message is lost, doubled, or delayed by up to half a second more.
    pub lose: f64,
    pub double: f64,
    pub delay: f64,
    /// Chance that a piece fails its check although its blocks are those of the sender's store.
    pub corrupt: f64,
}

#[derive(Debug)]
enum Event {
    Message { to: usize, link: LinkId, frame: Bytes, payload: Bytes },
    Drained { to: usize, link: LinkId, bytes: u64 },
    Up { at: usize, link: LinkId, peer: usize, direction: Direction },
    Down { at: usize, link: LinkId },
    Close { count: u32 },
}

pub struct Member {
    pub node: Node,
    pub alive: bool,
    /// Pieces that verified here, and how often each.
    pub stored: BTreeMap<Serial, u32>,
    pub started: Option<Serial>,
    /// A piece and when it is due.
    pub plays: Option<(Serial, Timestamp)>,
    /// Times and sizes of all frames sent.
    pub sent: Vec<(Timestamp, usize)>,
    pub links: BTreeMap<LinkId, usize>,
    pub bans: Vec<(usize, HangUpReason)>,
    /// Requests open by piece, to see whether two are asked for one.
    pub asked: BTreeMap<Serial, BTreeSet<LinkId>>,
    pub double_asked: Vec<Serial>,
    /// Of all pieces asked of a second one, the longest time that was left until one was due.
    pub earliest_double: Duration,
    /// What the store holds: verified, and not released.
    pub kept: BTreeSet<Serial>,
    pub most_kept: usize,
    pub requests: u32,
    pub equivocations: u32,
    /// Whom it dialled, in turn.
    pub dialled: Vec<NodeId>,
    /// Pieces of finished segments that verified here, and when.
    pub past: BTreeMap<PieceId, Timestamp>,
    /// What a member that lies answers when it is asked for hashes.
    pub forges: bool,
}

pub struct Mesh {
    pub now: Timestamp,
    pub members: Vec<Member>,
    pub closed: BTreeMap<Serial, PieceHash>,
    pub faults: Faults,
    pub inbox: VecDeque<(LinkId, Message)>,
    /// Finished segments.
    pub finished: BTreeMap<SegmentSeq, Shape>,
    rng: SmallRng,
    arrivals: BTreeMap<(LinkId, usize), Timestamp>,
    queue: BinaryHeap<Reverse<(Timestamp, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    next_link: u64,
    fed: usize,
    next_piece: u32,
}

pub fn id(member: usize) -> NodeId {
    let mut key = [7; 32];
    key[0] = member as u8;
    NodeId(key)
}

/// The record of every finished segment.
pub const GENUINE: &[u8] = b"signed";

/// What a piece of a finished segment is full of.
pub fn kept_byte(piece: PieceId) -> u8 {
    (piece.segment.0 * 31 + u64::from(piece.piece.0)) as u8
}

pub fn config(member: usize) -> Config {
    let mut config = Config::new(id(member), Arc::new(TestKey));
    config.upload_limit = Some(1_500_000);
    config.window = 512;
    config.address = Bytes::from_static(b"here");
    config
}

impl Mesh {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Timestamp(1_000_000),
            members: Vec::new(),
            closed: BTreeMap::new(),
            faults: Faults::default(),
            inbox: VecDeque::new(),
            finished: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            arrivals: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_link: 1,
            fed: 0,
            next_piece: 0,
        }
    }

    /// A source and `viewers` that all know each other.
    pub fn live(viewers: usize, seed: u64, change: impl Fn(usize, &mut Config)) -> Self {
        let mut mesh = Self::new(seed);
        for member in 0..=viewers {
            let role = if member == 0 { Role::Source } else { Role::Viewer };
            let mut config = config(member);
            change(member, &mut config);
            mesh.add(config, role);
        }
        for member in 0..=viewers {
            mesh.introduce(member);
        }
        mesh
    }

    pub fn add(&mut self, config: Config, role: Role) -> usize {
        let member = self.members.len();
        let node = Node::new(config, role, member as u64 + 1, self.now);
        self.members.push(Member {
            node,
            alive: true,
            stored: BTreeMap::new(),
            started: None,
            plays: None,
            sent: Vec::new(),
            links: BTreeMap::new(),
            bans: Vec::new(),
            asked: BTreeMap::new(),
            double_asked: Vec::new(),
            earliest_double: Duration::ZERO,
            kept: BTreeSet::new(),
            most_kept: 0,
            requests: 0,
            equivocations: 0,
            dialled: Vec::new(),
            past: BTreeMap::new(),
            forges: false,
        });
        member
    }

    pub fn introduce(&mut self, member: usize) {
        let peers = (0..self.members.len())
            .filter(|peer| *peer != member)
            .map(|peer| PeerInfo {
                node: id(peer),
                flags: HelloFlags { dialable: true, ..HelloFlags::default() },
                upload_kbps: 12_000,
                address: Bytes::new(),
            })
            .collect();
        self.feed(member, Input::PeersLearned { peers, by: Discovery::Tracker });
    }

    /// Closes a piece at the source now, and then `count` − 1 more.
    pub fn stream(&mut self, count: u32) {
        self.push(self.now, Event::Close { count });
    }

    /// A link from `member` to a peer that the test plays itself; returns what `member` calls it.
    pub fn link_to_test(&mut self, member: usize, peer: NodeId) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.members[member].links.insert(link, usize::MAX);
        let rtt = Duration::from_millis(40);
        self.feed(member, Input::LinkUp { link, peer, direction: Direction::Accepted, rtt, ip: None });
        link
    }

    pub fn say(&mut self, member: usize, link: LinkId, message: Message, payload: Bytes) {
        self.feed(member, Input::Message { link, message, payload });
    }

    /// Takes a member away without a word.
    pub fn kill(&mut self, member: usize) {
        self.members[member].alive = false;
        let at = self.now + Duration::from_secs(3);
        for (link, peer) in std::mem::take(&mut self.members[member].links) {
            self.push(at, Event::Down { at: peer, link });
        }
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let timer = self
                .members
                .iter()
                .enumerate()
                .filter(|(_, m)| m.alive)
                .filter_map(|(i, m)| Some((m.node.poll_timeout()?.max(self.now), i)))
                .min();
            let event = self.queue.peek().map(|Reverse((at, _))| *at);
            match (timer, event) {
                (Some((at, member)), event) if event.is_none_or(|event| at < event) => {
                    if at > end {
                        break;
                    }
                    self.now = at;
                    self.feed(member, Input::Timeout);
                }
                (_, Some(at)) if at <= end => {
                    self.now = at;
                    let Some(Reverse((_, id))) = self.queue.pop() else { break };
                    if let Some(event) = self.events.remove(&id) {
                        self.happen(event);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn push(&mut self, at: Timestamp, event: Event) {
        self.queue.push(Reverse((at, self.next_event)));
        self.events.insert(self.next_event, event);
        self.next_event += 1;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Message { to, link, frame, payload } => {
                if !self.members[to].links.contains_key(&link) {
                    return;
                }
                let frame = Frame::decode_split(&frame, payload).expect("cores send what decodes");
                let message = frame.message.expect("cores send known messages");
                if let Message::Reject(serial) = message {
                    self.answered(to, link, serial);
                }
                if let Message::DontHave(serials) = &message {
                    for serial in serials {
                        self.answered(to, link, *serial);
                    }
                }
                if let Message::Block(block) = &message
                    && block.offset + block.len == block.piece_len
                {
                    self.answered(to, link, block.serial);
                }
                self.feed(to, Input::Message { link, message, payload: frame.payload });
            }
            Event::Drained { to, link, bytes } => self.feed(to, Input::Drained { link, bytes }),
            Event::Up { at, link, peer, direction } => {
                self.members[at].links.insert(link, peer);
                let rtt = Duration::from_millis(40);
                self.feed(at, Input::LinkUp { link, peer: id(peer), direction, rtt, ip: None });
            }
            Event::Down { at, link } => {
                if at != usize::MAX && self.members[at].links.remove(&link).is_some() {
                    for links in self.members[at].asked.values_mut() {
                        links.remove(&link);
                    }
                    self.feed(at, Input::LinkDown { link });
                }
            }
            Event::Close { count } => {
                let piece = self.next_piece;
                self.next_piece += 1;
                let hash = PieceHash::of(&piece.to_le_bytes());
                self.closed.insert(Serial::new(piece.into()), hash);
                let closed = PieceRef {
                    serial: Serial::new(piece.into()),
                    id: PieceId { segment: SegmentSeq(0), piece: PieceIndex(piece) },
                    len: PIECE,
                    hash,
                    ingest_ms: self.now.0 / 1000,
                };
                let input = Input::PieceClosed { piece: closed, random_access: piece.is_multiple_of(8) };
                self.feed(0, input);
                if count > 1 {
                    self.push(self.now + GAP, Event::Close { count: count - 1 });
                }
            }
        }
    }

    fn answered(&mut self, member: usize, link: LinkId, serial: Serial) {
        if let Some(links) = self.members[member].asked.get_mut(&serial) {
            links.remove(&link);
        }
    }

    pub fn feed(&mut self, member: usize, input: Input) {
        if !self.members[member].alive {
            return;
        }
        self.members[member].node.handle(input, self.now);
        self.fed += 1;
        if self.fed.is_multiple_of(CHECKED_AT) {
            assert_eq!(self.members[member].node.check(), Ok(()));
        }
        while let Some(output) = self.members[member].node.poll_output() {
            self.act(member, output);
        }
    }

    fn act(&mut self, member: usize, output: Output) {
        match output {
            Output::Send { link, message } => self.transmit(member, link, message),
            Output::Dial { peer } => {
                self.members[member].dialled.push(peer.node);
                let peer_index = usize::from(peer.node.0[0]);
                if peer_index >= self.members.len() || !self.members[peer_index].alive {
                    return self.feed(member, Input::DialFailed { peer: peer.node });
                }
                let link = LinkId(self.next_link);
                self.next_link += 1;
                let at = self.now + Duration::from_millis(60);
                let up = |at, peer, direction| Event::Up { at, link, peer, direction };
                self.push(at, up(member, peer_index, Direction::Dialled));
                self.push(at, up(peer_index, member, Direction::Accepted));
            }
            Output::HangUp { link, reason, ban } => {
                let Some(peer) = self.members[member].links.remove(&link) else { return };
                if ban {
                    self.members[member].bans.push((peer, reason));
                }
                for links in self.members[member].asked.values_mut() {
                    links.remove(&link);
                }
                self.feed(member, Input::LinkDown { link });
                self.push(self.now + Duration::from_millis(20), Event::Down { at: peer, link });
            }
            Output::Verify { piece, data } => {
                assert_eq!(data.len(), piece.len as usize);
                let genuine = data.iter().all(|byte| *byte == piece.hash.as_bytes()[0]);
                let ok = genuine && !self.rng.random_bool(self.faults.corrupt);
                if ok {
                    assert_eq!(self.closed.get(&piece.serial), Some(&piece.hash));
                    let member = &mut self.members[member];
                    *member.stored.entry(piece.serial).or_default() += 1;
                    member.kept.insert(piece.serial);
                    member.most_kept = member.most_kept.max(member.kept.len());
                }
                self.members[member].asked.remove(&piece.serial);
                self.feed(member, Input::Verified { serial: piece.serial, ok });
            }
            Output::Start { serial } => {
                self.members[member].started = Some(serial);
                let due = self.now + Duration::from_secs(4);
                self.members[member].plays = Some((serial, due));
                self.feed(member, Input::Playhead { next: serial, due });
            }
            Output::Equivocation { .. } => self.members[member].equivocations += 1,
            Output::Release { before } => self.members[member].kept.retain(|serial| *serial >= before),
            Output::TellMinute { link, segment, first } => {
                let hashes = Bytes::from(vec![0; self.finished[&segment].pieces() as usize * 20]);
                let record =
                    Bytes::from_static(if self.members[member].forges { b"forged" } else { GENUINE });
                let minute = Minute { segment, first, record, hashes };
                self.feed(member, Input::TellMinute { link, minute });
            }
            Output::Minute { link, minute } => {
                let segment = minute.segment;
                let learned = match &minute.record[..] {
                    b"" => Learned::Nothing,
                    GENUINE => Learned::Whole(self.finished[&segment]),
                    _ => Learned::Wrong,
                };
                self.feed(member, Input::Learned { link, segment, learned });
            }
            Output::VerifyKept { piece, data } => {
                assert_eq!(data.len(), self.finished[&piece.segment].len_of(piece.piece) as usize);
                let verdict = if data.iter().all(|byte| *byte == kept_byte(piece)) {
                    assert!(self.members[member].past.insert(piece, self.now).is_none(), "{piece} twice");
                    Verdict::Good
                } else {
                    Verdict::Bad
                };
                self.feed(member, Input::KeptVerified { piece, verdict });
            }
            Output::Head { .. } | Output::FetchHttp { .. } | Output::Statement(_) => {}
        }
    }

    fn transmit(&mut self, member: usize, link: LinkId, message: Message) {
        let Some(&peer) = self.members[member].links.get(&link) else { return };
        let bytes = message.encoded_len();
        self.members[member].sent.push((self.now, bytes));
        match &message {
            Message::Request(request) => {
                let asked = self.members[member].asked.entry(request.serial).or_default();
                asked.insert(link);
                if asked.len() > 1 {
                    let member = &mut self.members[member];
                    member.double_asked.push(request.serial);
                    // Until the player says where it is, everything is due.
                    let settled = |due: &Timestamp| *due < self.now + Duration::from_secs(3);
                    if let Some((first, due)) = member.plays.filter(|(_, due)| settled(due)) {
                        let after = u32::try_from(request.serial.get().saturating_sub(first.get()))
                            .unwrap_or(u32::MAX);
                        let left = (due + GAP * after).since(self.now);
                        member.earliest_double = member.earliest_double.max(left);
                    }
                }
                self.members[member].requests += 1;
            }
            Message::Cancel(serial) => {
                let serial = *serial;
                self.answered(member, link, serial);
            }
            _ => {}
        }
        let drained = self.now + Duration::from_micros(bytes as u64 * 2 / 3);
        self.push(drained, Event::Drained { to: member, link, bytes: bytes as u64 });
        if peer == usize::MAX {
            self.inbox.push_back((link, message));
            return;
        }
        let mut header = BytesMut::new();
        message.encode(&mut header);
        let payload = match &message {
            Message::Kept(Kept::Block(block)) => {
                let forged = u8::from(self.members[member].forges);
                Bytes::from(vec![kept_byte(block.piece) ^ forged; block.len as usize])
            }
            Message::Block(block) => {
                // Nobody sends what it has not verified.
                assert!(member == 0 || self.members[member].stored.contains_key(&block.serial));
                let byte = self.closed[&block.serial].as_bytes()[0];
                Bytes::from(vec![byte; block.len as usize])
            }
            _ => Bytes::new(),
        };
        let control = !matches!(message, Message::Hello(_));
        // A link keeps order, but for the faults.
        let last = self.arrivals.entry((link, peer)).or_default();
        let mut at = (drained + Duration::from_millis(20)).max(*last);
        *last = at;
        if control && self.rng.random_bool(self.faults.lose) {
            return;
        }
        if control && self.rng.random_bool(self.faults.delay) {
            at = at + Duration::from_millis(self.rng.random_range(0..500));
        }
        let frame = header.freeze();
        let deliver = |frame, payload| Event::Message { to: peer, link, frame, payload };
        if control && self.rng.random_bool(self.faults.double) {
            self.push(at, deliver(frame.clone(), payload.clone()));
        }
        self.push(at, deliver(frame, payload));
    }

    pub fn have(serials: impl IntoIterator<Item = u64>) -> Message {
        Message::Have(serials.into_iter().map(Serial::new).collect::<SerialList>())
    }
}
