//! One node and nothing else: the test is its driver.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use minuet_mesh::{Config, Direction, HangUpReason, Input, LinkId, Node, Output, PieceRef, Role, Timestamp};
use minuet_proto::mesh::{Hello, HelloFlags, Message, NodeId, PeerInfo, Serial};
use minuet_proto::{PieceHash, PieceId};

use super::{PIECE, config};

pub struct Bare {
    pub node: Node,
    pub now: Timestamp,
    pub dialled: Vec<PeerInfo>,
    pub hung_up: Vec<(LinkId, HangUpReason, bool)>,
    pub said: Vec<(LinkId, Message)>,
    /// Answers with hashes that the driver was given.
    pub minutes: usize,
    next_link: u64,
    /// Source: the next piece's.
    next_serial: u64,
}

impl Bare {
    pub fn new(role: Role, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(0);
        change(&mut config);
        let now = Timestamp(1_000_000);
        let node = Node::new(config, role, 1, now);
        Self {
            node,
            now,
            dialled: Vec::new(),
            hung_up: Vec::new(),
            said: Vec::new(),
            minutes: 0,
            next_link: 1,
            next_serial: 0,
        }
    }

    /// A piece closes, after `hole` serials for which none comes.
    pub fn close(&mut self, id: PieceId, hole: u64, ingest_ms: u64) {
        let serial = Serial::new(self.next_serial + hole);
        self.next_serial = serial.get() + 1;
        let piece = PieceRef { serial, id, len: PIECE, hash: PieceHash::of(b"x"), ingest_ms };
        self.feed(Input::PieceClosed { piece, random_access: true });
    }

    pub fn feed(&mut self, input: Input) {
        self.node.handle(input, self.now);
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { link, message } => {
                    let bytes = message.encoded_len() as u64;
                    self.said.push((link, message));
                    self.node.handle(Input::Drained { link, bytes }, self.now);
                }
                Output::Dial { peer } => self.dialled.push(peer),
                Output::HangUp { link, reason, ban } => {
                    self.hung_up.push((link, reason, ban));
                    self.node.handle(Input::LinkDown { link }, self.now);
                }
                Output::Verify { piece, .. } => {
                    self.node.handle(Input::Verified { serial: piece.serial, ok: true }, self.now);
                }
                Output::Minute { .. } => self.minutes += 1,
                _ => {}
            }
        }
    }

    /// A link with somebody who has said Hello.
    pub fn meet(&mut self, peer: NodeId, direction: Direction, ip: Option<IpAddr>) -> LinkId {
        let link = self.link(peer, direction, ip);
        let hello =
            Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 10_000, extensions: Vec::new() };
        self.say(link, Message::Hello(hello));
        link
    }

    pub fn link(&mut self, peer: NodeId, direction: Direction, ip: Option<IpAddr>) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let rtt = Duration::from_millis(40);
        self.feed(Input::LinkUp { link, peer, direction, rtt, ip });
        link
    }

    pub fn say(&mut self, link: LinkId, message: Message) {
        self.feed(Input::Message { link, message, payload: Bytes::new() });
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.node.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = end;
    }

    /// Whether the link was not hung up.
    pub fn is_up(&self, link: LinkId) -> bool {
        !self.hung_up.iter().any(|(down, ..)| *down == link)
    }
}
