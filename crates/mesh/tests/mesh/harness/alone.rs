//! One node, all of whose neighbours are played by the test.

use std::time::Duration;

use bytes::Bytes;
use minuet_mesh::{HangUpReason, HeadKey, LinkId, Role};
use minuet_proto::mesh::{
    Block, Head, HeadPiece, Hello, HelloFlags, Message, NodeId, Request, Serial, SignedHead,
};
use minuet_proto::{PieceHash, PieceIndex, SegmentSeq};

use super::{Mesh, PIECE, TestKey, config};
use crate::SECOND;

/// A viewer whose first neighbour, and those whom it meets later, are played by the test.
pub struct Alone {
    pub mesh: Mesh,
    pub link: LinkId,
}

pub const STRANGER: NodeId = NodeId([9; 32]);

impl Alone {
    pub fn new() -> Self {
        let mut mesh = Mesh::new(4);
        // The member at 0 is a viewer here: there is no source but the test.
        mesh.add(config(0), Role::Viewer);
        let link = mesh.link_to_test(0, STRANGER);
        let mut alone = Self { mesh, link };
        alone.say(Message::Hello(Hello {
            version: 1,
            flags: HelloFlags::default(),
            upload_kbps: 10_000,
            extensions: Vec::new(),
        }));
        alone
    }

    pub fn say(&mut self, message: Message) {
        self.mesh.say(0, self.link, message, Bytes::new());
    }

    pub fn head(&mut self, serial: u64, hash: PieceHash, genuine: bool) {
        self.head_of(serial, hash, genuine, true);
    }

    pub fn head_of(&mut self, serial: u64, hash: PieceHash, genuine: bool, random_access: bool) {
        let piece = HeadPiece { hash, len: PIECE, ingest_ms: 1000 + 65 * serial, random_access };
        let head = Head {
            first: Serial::new(serial),
            segment: SegmentSeq(0),
            first_index: PieceIndex(serial as u32),
            pieces: vec![piece],
        };
        let body = head.encode();
        let mut signature = TestKey.sign(&SignedHead::signed_bytes(&body));
        if !genuine {
            signature[3] ^= 1;
        }
        self.say(Message::Head(SignedHead { body, signature }));
    }

    pub fn requests(&mut self) -> Vec<Request> {
        let sent = self.mesh.inbox.drain(..);
        sent.filter_map(|(_, m)| if let Message::Request(r) = m { Some(r) } else { None }).collect()
    }

    pub fn bans(&self) -> Vec<HangUpReason> {
        self.mesh.members[0].bans.iter().map(|(_, reason)| *reason).collect()
    }

    pub fn send_piece(&mut self, serial: u64, byte: u8) {
        for offset in (0..PIECE).step_by(16384) {
            let block = Block { serial: Serial::new(serial), offset, len: 16384, piece_len: PIECE };
            self.mesh.say(0, self.link, Message::Block(block), Bytes::from(vec![byte; 16384]));
        }
    }

    /// One more neighbour, which can be dialled or not.
    pub fn meet(&mut self, node: u8, dialable: bool) -> LinkId {
        let link = self.mesh.link_to_test(0, NodeId([node; 32]));
        let flags = HelloFlags { dialable, ..HelloFlags::default() };
        let hello = Hello { version: 1, flags, upload_kbps: 10_000, extensions: Vec::new() };
        self.mesh.say(0, link, Message::Hello(hello), Bytes::new());
        link
    }

    /// Who is asked for a new piece within this time, if these have it.
    pub fn asked(&mut self, serial: u64, holders: &[LinkId], time: Duration) -> Vec<LinkId> {
        self.head(serial, PieceHash::of(&(serial as u32).to_le_bytes()), true);
        self.mesh.inbox.clear();
        for link in holders {
            self.mesh.say(0, *link, Mesh::have(serial..serial + 1), Bytes::new());
        }
        self.mesh.run(time);
        let request = |(link, message): &(LinkId, Message)| match message {
            Message::Request(request) if request.serial.get() == serial => Some(*link),
            _ => None,
        };
        self.mesh.inbox.iter().filter_map(request).collect()
    }

    /// Twenty pieces are known and promised, and playback has begun.
    pub fn settled() -> Self {
        let mut alone = Self::new();
        for serial in 0..20 {
            let hash = PieceHash::of(&(serial as u32).to_le_bytes());
            alone.mesh.closed.insert(Serial::new(serial), hash);
            alone.head(serial, hash, true);
        }
        alone.say(Mesh::have(0..20));
        alone.mesh.run(SECOND * 7 / 10);
        alone
    }
}
