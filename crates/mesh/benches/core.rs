//! What the core costs: `cargo bench -p minuet-mesh`.
//!
//! One viewer at the live edge of 8 Mbit/s in 64 KiB pieces. Each piece is known by a head, promised by every
//! neighbour, asked of one, received in four blocks, verified, promised to all, and asked for by one neighbour, to
//! whom it is sent. Printed: time a piece, time a HAVE, the part of a core that 15.26 pieces a second take, and
//! bytes a neighbour; hashing is the driver's and not counted.
// A benchmark needs a clock, and says what it found.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use minuet_mesh::{Config, Direction, HeadKey, Input, LinkId, Node, Output, Role, Timestamp};
use minuet_proto::mesh::{
    Block, Head, HeadPiece, Hello, HelloFlags, Message, NodeId, Request, SIGNATURE_LEN, Serial, SerialList,
    SignedHead,
};
use minuet_proto::{PieceHash, PieceIndex, SegmentSeq};

const PIECE: u32 = 64 << 10;
const PIECES: u64 = 4_000;
const PIECES_PER_SECOND: f64 = 8e6 / 8.0 / PIECE as f64;
const ROUNDS: usize = 5;

struct AnyKey;

impl HeadKey for AnyKey {
    fn verify(&self, _: &[u8], _: &[u8; SIGNATURE_LEN]) -> bool {
        true
    }

    fn sign(&self, _: &[u8]) -> [u8; SIGNATURE_LEN] {
        [0; SIGNATURE_LEN]
    }
}

/// A viewer, its clock and its neighbours' links.
struct Bench {
    node: Node,
    now: Timestamp,
    links: Vec<LinkId>,
    blocks: Bytes,
    sent: u64,
}

impl Bench {
    fn new(neighbours: usize) -> Self {
        let mut config = Config::new(NodeId([0; 32]), Arc::new(AnyKey));
        config.neighbours = neighbours;
        let node = Node::new(config, Role::Viewer, 1, Timestamp(1_000_000));
        let blocks = Bytes::from(vec![0; 16 << 10]);
        let mut bench = Self { node, now: Timestamp(1_000_000), links: Vec::new(), blocks, sent: 0 };
        for neighbour in 0..neighbours {
            let link = LinkId(neighbour as u64);
            let mut peer = [1; 32];
            peer[..8].copy_from_slice(&(neighbour as u64).to_le_bytes());
            let rtt = Duration::from_millis(20);
            bench.feed(Input::LinkUp {
                link,
                peer: NodeId(peer),
                direction: Direction::Accepted,
                rtt,
                ip: None,
            });
            let flags = HelloFlags::default();
            let hello = Hello { version: 1, flags, upload_kbps: 12_000, extensions: Vec::new() };
            bench.say(link, Message::Hello(hello), Bytes::new());
            bench.links.push(link);
        }
        bench
    }

    fn say(&mut self, link: LinkId, message: Message, payload: Bytes) {
        self.feed(Input::Message { link, message, payload });
    }

    /// Feeds one input and does what comes out, down to the last answer.
    fn feed(&mut self, input: Input) {
        self.node.handle(input, self.now);
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Verify { piece, data } => {
                    black_box(data);
                    self.node.handle(Input::Verified { serial: piece.serial, ok: true }, self.now);
                }
                Output::Send { link, message } => {
                    let bytes = message.encoded_len() as u64;
                    self.sent += message.payload_len() as u64;
                    self.node.handle(Input::Drained { link, bytes }, self.now);
                }
                other => {
                    black_box(other);
                }
            }
        }
    }

    fn head(&mut self, serial: u64) {
        let piece = HeadPiece {
            hash: PieceHash::of(&serial.to_le_bytes()),
            len: PIECE,
            ingest_ms: serial * 65,
            random_access: serial.is_multiple_of(30),
        };
        let head = Head {
            first: Serial::new(serial),
            segment: SegmentSeq(0),
            first_index: PieceIndex(serial as u32),
            pieces: vec![piece],
        };
        let signed = SignedHead { body: head.encode(), signature: [0; SIGNATURE_LEN] };
        let link = self.links[0];
        self.say(link, Message::Head(signed), Bytes::new());
    }

    /// One piece's life; returns the time that its HAVEs took.
    fn piece(&mut self, serial: u64) -> Duration {
        self.now = self.now + Duration::from_micros(65_536);
        self.head(serial);
        let haves = Instant::now();
        for link in 0..self.links.len() {
            let have = Message::Have(SerialList::from_slice(&[Serial::new(serial)]));
            self.say(self.links[link], have, Bytes::new());
        }
        let haves = haves.elapsed();
        // Whoever was asked: a push from any other is as good.
        let from = self.links[serial as usize % self.links.len()];
        for offset in (0..PIECE).step_by(16 << 10) {
            let block = Block { serial: Serial::new(serial), offset, len: 16 << 10, piece_len: PIECE };
            self.say(from, Message::Block(block), self.blocks.clone());
        }
        let to = self.links[(serial as usize + 1) % self.links.len()];
        self.say(
            to,
            Message::Request(Request { serial: Serial::new(serial), due_in_ms: 2_000 }),
            Bytes::new(),
        );
        self.feed(Input::Timeout);
        haves
    }
}

fn main() {
    println!("neighbours  us/piece  ns/HAVE  % of a core at 8 Mbit/s  bytes/neighbour");
    for neighbours in [16, 200] {
        let mut rounds: Vec<(f64, f64)> = Vec::new();
        let memory = bytes_per_neighbour(neighbours);
        for _ in 0..ROUNDS {
            let mut bench = Bench::new(neighbours);
            let start = Instant::now();
            let haves: Duration = (0..PIECES).map(|serial| bench.piece(serial)).sum();
            let all = start.elapsed();
            assert!(bench.node.stats().pieces_verified > PIECES / 2, "the benchmark does what it says");
            assert!(bench.sent > PIECES / 2 * u64::from(PIECE), "the benchmark does what it says");
            let have_ns = haves.as_secs_f64() * 1e9 / (PIECES * neighbours as u64) as f64;
            rounds.push((all.as_secs_f64() * 1e6 / PIECES as f64, have_ns));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (piece_us, have_ns) = rounds[ROUNDS / 2];
        let share = piece_us * PIECES_PER_SECOND / 1e4;
        println!("{neighbours:>10}  {piece_us:>8.1}  {have_ns:>7.0}  {share:>23.3}  {memory:>15}");
    }
}

/// Growth of the process with many nodes, which have heard of some pieces, over all their neighbours; what a node
/// takes without any is in it.
fn bytes_per_neighbour(neighbours: usize) -> usize {
    const NODES: usize = 100;
    let before = resident();
    let nodes: Vec<Bench> = (0..NODES)
        .map(|_| {
            let mut bench = Bench::new(neighbours);
            for serial in 0..20 {
                bench.piece(serial);
            }
            bench
        })
        .collect();
    let grown = resident() - before;
    black_box(&nodes);
    grown / NODES / neighbours
}

/// Resident bytes of this process (Linux; zero elsewhere).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
