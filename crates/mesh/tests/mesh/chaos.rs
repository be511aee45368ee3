//! One node, and strangers who say anything that decodes, in any order, while links, timers and the driver do anything.
//!
//! What happens is read from bytes, so that a property test and a fuzzer (`fuzz/fuzz_targets/mesh_node.rs`) can both drive
//! it. The node must not panic, must not want to be woken without end, and what it holds for others must stay below the
//! bounds that its documentation names.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use minuet_mesh::{
    Config, Direction, Discovery, HeadKey, Input, Learned, LinkId, Node, Output, PieceRef, Planned, Role,
    Shape, Statement, Timestamp, Verdict,
};
use minuet_proto::mesh::{
    Block, Frame, Head, HeadPiece, Hello, HelloFlags, Kept, KeptBlock, KeptMap, MAX_BLOCK_LEN, MAX_FRAME_LEN,
    MAX_HASHES, MAX_PIECE_LEN, MAX_SEGMENT_PIECES, Message, Minute, NodeId, PeerInfo, Request, SIGNATURE_LEN,
    Serial, SignedHead, Window,
};
use minuet_proto::{MAX_UNIX_MS, PieceHash, PieceId, PieceIndex, SegmentSeq};

/// Neighbours that the node aims at: few, so that all places are soon taken.
const AIM: usize = 4;
const WINDOW: usize = 256;
/// Keys that strangers have.
const KEYS: u8 = 24;
static ZEROS: [u8; MAX_BLOCK_LEN as usize] = [0; MAX_BLOCK_LEN as usize];

/// A keyed hash: what the test signs is the channel's, and nothing else is.
struct Key;

impl HeadKey for Key {
    fn verify(&self, signed: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.sign(signed) == *signature
    }

    fn sign(&self, signed: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut out = [7; SIGNATURE_LEN];
        out[..20].copy_from_slice(PieceHash::of(signed).as_bytes());
        out
    }
}

/// Bytes that decide what happens. After their end all are zero.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    fn yes(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A serial: near the live edge, at either end of all that can be, or anywhere.
    fn serial(&mut self, edge: u64) -> Serial {
        let kind = self.byte();
        let step = u64::from(self.byte());
        Serial::new(match kind % 8 {
            0..4 => (edge + step).saturating_sub(128),
            4 => Serial::MAX.get() - step,
            5 => step,
            6 => edge + 256 * step,
            _ => self.number() & Serial::MAX.get(),
        })
    }

    fn time_ms(&mut self) -> u64 {
        match self.byte() % 4 {
            0 => MAX_UNIX_MS - u64::from(self.byte()),
            1 => u64::from(self.byte()),
            _ => 1_700_000_000_000 + 65 * u64::from(self.byte()),
        }
    }

    fn piece_len(&mut self) -> u32 {
        [1, 1024, 16_384, 65_536, 65_536, 65_536, MAX_PIECE_LEN - 1, MAX_PIECE_LEN][self.below(8)]
    }

    fn node(&mut self) -> NodeId {
        NodeId([self.byte() % KEYS; 32])
    }

    fn peer(&mut self) -> PeerInfo {
        let mut node = [self.byte() % KEYS; 32];
        node[1] = self.byte();
        let flags = HelloFlags { dialable: self.yes(), ..HelloFlags::default() };
        PeerInfo {
            node: NodeId(node),
            flags,
            upload_kbps: self.byte().into(),
            address: Bytes::from_static(b"there"),
        }
    }

    fn head(&mut self, edge: u64) -> Head {
        let first = self.serial(edge).get().min(Serial::MAX.get() - 64);
        let piece = HeadPiece {
            hash: PieceHash::new([self.byte() % 2; 20]),
            len: self.piece_len(),
            ingest_ms: self.time_ms(),
            random_access: self.yes(),
        };
        let pieces = (0..=self.byte() % 64).map(|number| HeadPiece {
            ingest_ms: (piece.ingest_ms + 65 * u64::from(number)).min(MAX_UNIX_MS),
            ..piece
        });
        let segment = if self.yes() { SegmentSeq::MAX } else { SegmentSeq(self.byte().into()) };
        let first_index = PieceIndex(if self.yes() { u32::MAX - 64 } else { 0 });
        Head { first: Serial::new(first), segment, first_index, pieces: pieces.collect() }
    }

    fn signed_head(&mut self, edge: u64) -> SignedHead {
        let body = self.head(edge).encode();
        let mut signature = Key.sign(&SignedHead::signed_bytes(&body));
        // One in eight is forged.
        signature[0] ^= u8::from(self.byte() % 8 == 7);
        SignedHead { body, signature }
    }

    fn message(&mut self, edge: u64) -> Message {
        let serials = |choices: &mut Self| {
            let mut serials: Vec<Serial> = (0..choices.byte() % 32).map(|_| choices.serial(edge)).collect();
            serials.sort_unstable();
            serials.dedup();
            serials.into_iter().collect()
        };
        match self.byte() % 16 {
            0 => Message::Hello(Hello {
                version: 1 + u32::from(self.byte() % 3),
                flags: HelloFlags {
                    dialable: self.yes(),
                    no_upload: self.yes(),
                    relay: self.yes(),
                    source: self.yes(),
                    elsewhere: self.byte().is_multiple_of(4),
                },
                upload_kbps: if self.yes() { u32::MAX } else { self.byte().into() },
                extensions: Vec::new(),
            }),
            1 => {
                let bits = Bytes::from(vec![self.byte(); self.below(64)]);
                Message::Bitfield(Window { first: self.serial(edge), bits })
            }
            2 | 3 => Message::Have(serials(self)),
            4 => Message::DontHave(serials(self)),
            5 => Message::Offer(self.serial(edge)),
            6 => {
                let due_in_ms = if self.yes() { u32::MAX } else { self.byte().into() };
                Message::Request(Request { serial: self.serial(edge), due_in_ms })
            }
            7 => Message::Cancel(self.serial(edge)),
            8 => Message::Reject(self.serial(edge)),
            9..12 => {
                let piece_len = self.piece_len();
                let len = [1024, 16_384, MAX_BLOCK_LEN][self.below(3)].min(piece_len);
                let offset = (len * u32::from(self.byte() % 5)).min(piece_len - len);
                Message::Block(Block { serial: self.serial(edge), offset, len, piece_len })
            }
            12 => Message::Head(self.signed_head(edge)),
            13 => {
                let count = if self.yes() { u32::MAX } else { self.byte().into() };
                Message::GetHeads { first: self.serial(edge), count }
            }
            14 if self.byte().is_multiple_of(3) => Message::State(Bytes::from(vec![self.byte() % 16; 300])),
            14 if self.yes() => Message::Record(Bytes::from(vec![self.byte() % 16; 400])),
            14 => Message::Peers((0..self.byte() % 64).map(|_| self.peer()).collect()),
            15 if !self.byte().is_multiple_of(8) => Message::Kept(self.kept()),
            _ => Message::Bye(minuet_proto::mesh::ByeReason::Leaving),
        }
    }

    fn segment(&mut self) -> SegmentSeq {
        if self.byte().is_multiple_of(8) { SegmentSeq::MAX } else { SegmentSeq((self.byte() % 4).into()) }
    }

    fn kept_piece(&mut self) -> PieceId {
        let piece =
            if self.byte().is_multiple_of(8) { MAX_SEGMENT_PIECES - 1 } else { (self.byte() % 16).into() };
        PieceId { segment: self.segment(), piece: PieceIndex(piece) }
    }

    fn shape(&mut self) -> Shape {
        let length = [1, 16_384, 200_000, u64::from(MAX_SEGMENT_PIECES) << 14][self.below(4)];
        #[allow(clippy::unwrap_used, reason = "each of these is the shape of a segment")]
        Shape::new(length, 16_384).unwrap()
    }

    fn kept(&mut self) -> Kept {
        let piece = self.kept_piece();
        let segment = piece.segment;
        match self.byte() % 10 {
            0 => {
                let most = SegmentSeq::MAX.0 - segment.0 + 1;
                let count = if self.yes() { most } else { 1 };
                Kept::Whole([(segment, count)].into_iter().collect())
            }
            1 => {
                let bits = Bytes::from(vec![self.byte(); self.below(64) * usize::from(self.byte() % 128)]);
                Kept::Map(KeptMap { segment, wants: self.yes(), bits })
            }
            2 => {
                let mut pieces: Vec<PieceIndex> = (0..self.byte()).map(|_| self.kept_piece().piece).collect();
                pieces.sort_unstable();
                pieces.dedup();
                Kept::Have { segment, pieces: pieces.into_iter().collect() }
            }
            3 => Kept::GetMinute { segment, first: piece.piece },
            4 => {
                let (record, hashes) = (Bytes::from(vec![1; self.below(400)]), Bytes::from(vec![2; 400]));
                Kept::Minute(Minute { segment, first: piece.piece, record, hashes })
            }
            5 => Kept::Request { piece, due_in_ms: if self.yes() { u32::MAX } else { self.byte().into() } },
            6 => Kept::Cancel(piece),
            7 => Kept::Reject { piece, has: self.yes() },
            _ => {
                let piece_len = [1, 16_384, 200_000 % 16_384][self.below(3)];
                Kept::Block(KeptBlock { piece, offset: 0, len: piece_len, piece_len })
            }
        }
    }
}

struct Chaos<'a> {
    choices: Choices<'a>,
    node: Node,
    now: Timestamp,
    links: Vec<LinkId>,
    next_link: u64,
    dialled: VecDeque<PeerInfo>,
    hung_up: VecDeque<LinkId>,
    verify: VecDeque<Serial>,
    verify_kept: VecDeque<PieceId>,
    sent: VecDeque<(LinkId, u64)>,
}

/// Lets the node live through what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let role = [Role::Viewer, Role::Viewer, Role::Relay, Role::Source][choices.below(4)];
    let mut config = Config::new(NodeId([255; 32]), Arc::new(Key));
    config.neighbours = AIM;
    config.window = WINDOW;
    config.upload_limit = [None, Some(0), Some(10_000), Some(1_000_000), Some(u64::MAX)][choices.below(5)];
    config.transport_queue = Duration::from_millis(choices.byte().into());
    config.http_origin = choices.yes();
    config.upload = choices.byte() % 8 != 7;
    config.dialable = choices.yes();
    config.address = Bytes::from_static(b"here");
    config.first_serial = choices.serial(1000);
    let now = Timestamp(1_000_000);
    let node = Node::new(config, role, u64::from(choices.byte()), now);
    let mut chaos = Chaos {
        choices,
        node,
        now,
        links: Vec::new(),
        next_link: 1,
        dialled: VecDeque::new(),
        hung_up: VecDeque::new(),
        verify: VecDeque::new(),
        verify_kept: VecDeque::new(),
        sent: VecDeque::new(),
    };
    while !chaos.choices.0.is_empty() {
        chaos.step();
    }
    // All neighbours gone, nothing is open with anybody.
    while let Some(link) = chaos.links.pop() {
        chaos.feed(Input::LinkDown { link });
    }
    let load = chaos.node.load();
    assert_eq!((load.links, load.arriving_bytes), (0, 0));
    assert_eq!(chaos.node.open_work(), load.verifying);
}

impl Chaos<'_> {
    fn edge(&self) -> u64 {
        self.node.edge().map_or(1000, Serial::get)
    }

    fn any_link(&mut self) -> Option<LinkId> {
        let index = self.choices.below(self.links.len());
        self.links.get(index).copied()
    }

    fn step(&mut self) {
        let edge = self.edge();
        match self.choices.byte() % 32 {
            0 | 1 => self.link_up(),
            2 => self.dial_ends(),
            3 => {
                if let Some(link) = self.hung_up.pop_front().or_else(|| self.any_link()) {
                    self.links.retain(|up| *up != link);
                    self.feed(Input::LinkDown { link });
                }
            }
            4 | 5 => self.time_passes(),
            6 => {
                let verified = self.verify.pop_front().unwrap_or_else(|| self.choices.serial(edge));
                let ok = self.choices.byte() % 4 != 3;
                self.feed(Input::Verified { serial: verified, ok });
            }
            7 => {
                if let Some((link, bytes)) = self.sent.pop_front() {
                    self.feed(Input::Drained { link, bytes });
                }
            }
            8 => self.driver_speaks(edge),
            9 => self.raw_frame(),
            _ => {
                if let Some(link) = self.any_link() {
                    let message = self.choices.message(edge);
                    self.says(link, &message);
                }
            }
        }
    }

    fn link_up(&mut self) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let host = self.choices.byte();
        let ip = (host > 0).then_some(IpAddr::V4(Ipv4Addr::new(192, 0, host / 32, host)));
        let rtt = Duration::from_millis(self.choices.byte().into());
        let peer = self.choices.node();
        self.links.push(link);
        self.feed(Input::LinkUp { link, peer, direction: Direction::Accepted, rtt, ip });
        if self.choices.byte() % 4 != 3 {
            let hello =
                Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 8000, extensions: Vec::new() };
            self.says(link, &Message::Hello(hello));
        }
    }

    fn dial_ends(&mut self) {
        let Some(peer) = self.dialled.pop_front() else { return };
        if self.choices.yes() {
            return self.feed(Input::DialFailed { peer: peer.node });
        }
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.links.push(link);
        let rtt = Duration::from_millis(40);
        self.feed(Input::LinkUp { link, peer: peer.node, direction: Direction::Dialled, rtt, ip: None });
    }

    fn time_passes(&mut self) {
        let ms = [1, 10, 100, 700, 3000, 10_000, 60_000, 86_400_000][self.choices.below(8)];
        let until = self.now + Duration::from_millis(ms);
        // As an idle driver does, but for the longest times, which it sleeps through.
        let mut wakes = 0;
        while let Some(at) = self.node.poll_timeout().filter(|at| *at < until && ms < 20_000) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
            wakes += 1;
            assert!(wakes < 2000 + ms, "it wants to be woken {wakes} times in {ms} ms");
        }
        self.now = until;
        self.feed(Input::Timeout);
    }

    fn driver_speaks(&mut self, edge: u64) {
        let choices = &mut self.choices;
        let input = match choices.byte() % 21 {
            20 => Input::KeptStored(choices.kept_piece()),
            19 => Input::KeptLost {
                link: LinkId(choices.byte().into()),
                piece: choices.kept_piece(),
                bytes: 1000,
            },
            12 => Input::NoPlayhead,
            13 => Input::Keeps {
                segment: choices.segment(),
                shape: choices.shape(),
                map: if choices.yes() { None } else { Some(Bytes::from(vec![choices.byte(); 3])) },
            },
            14 => Input::Forgets(choices.segment()),
            15 | 16 => Input::Plan(
                (0..choices.byte() % 20)
                    .map(|_| Planned {
                        segment: choices.segment(),
                        from: if choices.yes() { 0 } else { u32::MAX },
                        due: if choices.yes() { Timestamp(choices.number()) } else { self.now },
                        span: if choices.yes() { Duration::MAX } else { Duration::from_secs(60) },
                    })
                    .collect(),
            ),
            17 => Input::KeptVerified {
                piece: self.verify_kept.pop_front().unwrap_or_else(|| choices.kept_piece()),
                verdict: [Verdict::Good, Verdict::Good, Verdict::Bad, Verdict::NotKept][choices.below(4)],
            },
            18 => Input::Learned {
                link: LinkId(choices.byte().into()),
                segment: choices.segment(),
                learned: match choices.byte() % 4 {
                    0 => Learned::More(choices.kept_piece().piece),
                    1 => Learned::Wrong,
                    2 => Learned::Nothing,
                    _ => Learned::Whole(choices.shape()),
                },
            },
            0 => Input::Playhead {
                next: choices.serial(edge),
                due: if choices.yes() { Timestamp(choices.number()) } else { self.now },
            },
            1 => Input::Stored { serial: choices.serial(edge) },
            2 => Input::HttpFailed { serial: choices.serial(edge) },
            3 => Input::PeersLearned {
                by: [Discovery::Public, Discovery::Remembered, Discovery::Tracker][choices.below(3)],
                peers: (0..choices.byte()).map(|_| choices.peer()).collect(),
            },
            4 => Input::UploadLimit { bytes_per_s: [0, 1, 100_000, u64::MAX][choices.below(4)] },
            5 => Input::Address { address: Bytes::from_static(b"elsewhere"), dialable: choices.yes() },
            6 => Input::Statement(match choices.yes() {
                true => Statement::Record(Bytes::from(vec![choices.byte(); 400])),
                false => Statement::State(Bytes::from(vec![choices.byte(); 300])),
            }),
            7 => Input::Head { head: choices.signed_head(edge) },
            8 if choices.yes() => Input::LinkRtt {
                link: LinkId(choices.byte().into()),
                rtt: if choices.yes() { Duration::MAX } else { Duration::from_millis(80) },
            },
            8 => Input::Leave,
            _ => Input::PieceClosed {
                piece: PieceRef {
                    // Nearly always the next ones, or soon none could follow.
                    serial: match choices.byte() % 32 {
                        0 => choices.serial(edge),
                        step => Serial::new(edge + u64::from(step) / 8),
                    },
                    id: PieceId { segment: SegmentSeq(0), piece: PieceIndex(0) },
                    len: choices.piece_len(),
                    hash: PieceHash::new([0; 20]),
                    ingest_ms: choices.time_ms(),
                },
                random_access: choices.yes(),
            },
        };
        self.feed(input);
    }

    /// Says something as it goes over the wire.
    fn says(&mut self, link: LinkId, message: &Message) {
        let mut header = BytesMut::new();
        message.encode(&mut header);
        let payload = Bytes::from_static(&ZEROS[..message.payload_len()]);
        let input = match Frame::decode_split(&header.freeze(), payload) {
            Ok(Frame { message: Some(message), payload, .. }) => Input::Message { link, message, payload },
            Ok(Frame { len, .. }) => Input::Unknown { link, bytes: len },
            Err(_) => Input::Malformed { link },
        };
        self.feed(input);
    }

    fn raw_frame(&mut self) {
        let Some(link) = self.any_link() else { return };
        let len = self.choices.below(64).min(self.choices.0.len());
        let (body, rest) = self.choices.0.split_at(len);
        let mut stream = BytesMut::new();
        stream.put_u8(len as u8);
        stream.extend_from_slice(body);
        self.choices.0 = rest;
        match Frame::decode(&mut stream) {
            Ok(Some(Frame { message: Some(message), payload, .. })) => {
                self.feed(Input::Message { link, message, payload });
            }
            Ok(Some(Frame { len, .. })) => self.feed(Input::Unknown { link, bytes: len }),
            Ok(None) => {}
            Err(_) => self.feed(Input::Malformed { link }),
        }
    }

    fn feed(&mut self, input: Input) {
        self.node.handle(input, self.now);
        let mut outputs = 0;
        while let Some(output) = self.node.poll_output() {
            outputs += 1;
            match output {
                Output::Send { link, message } => {
                    assert!(message.encoded_len() <= MAX_FRAME_LEN + 3);
                    self.sent.push_back((link, message.encoded_len() as u64));
                    if self.sent.len() > 64 {
                        self.sent.pop_front();
                    }
                }
                Output::Dial { peer } => self.dialled.push_back(peer),
                // The driver may take its time to take the link down.
                Output::HangUp { link, .. } => self.hung_up.push_back(link),
                Output::Verify { piece, data } => {
                    assert_eq!(data.len(), piece.len as usize);
                    self.verify.push_back(piece.serial);
                }
                Output::VerifyKept { piece, .. } => self.verify_kept.push_back(piece),
                Output::TellMinute { link, segment, first } => {
                    let (record, hashes) = (Bytes::from(vec![1; 400]), Bytes::from(vec![2; 20 * MAX_HASHES]));
                    let minute = Minute { segment, first, record, hashes };
                    self.node.handle(Input::TellMinute { link, minute }, self.now);
                }
                Output::Statement(statement) if self.choices.yes() => {
                    self.node.handle(Input::Statement(statement), self.now);
                }
                _ => {}
            }
        }
        assert!(outputs < 40_000, "{outputs} outputs at once");
        self.check();
    }

    fn check(&self) {
        let load = self.node.load();
        assert!(load.links <= AIM * 7 / 2, "{load:?}");
        assert!(load.candidates <= 384, "{load:?}");
        assert!(load.backlog_bytes <= 1 << 20, "{load:?}");
        // Two requests, four pushes and two pieces of finished segments a link, each in a buffer that grows by doubling.
        assert!(load.told_bytes <= load.links * (12 * 8192 + 2048), "{load:?}");
        assert!(load.arriving_bytes <= load.links * 8 * 2 * MAX_PIECE_LEN as usize, "{load:?}");
        assert!(load.verifying <= WINDOW, "{load:?}");
        // A request of a neighbour is one of the window's pieces.
        let most = load.links * (1 + 6 + WINDOW) + 2 * WINDOW * load.links + WINDOW + 2;
        assert!(self.node.open_work() <= most, "{}", self.node.open_work());
        assert_eq!(self.node.check(), Ok(()));
    }
}
