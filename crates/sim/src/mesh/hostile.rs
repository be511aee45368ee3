//! Hostile nodes: an honest core whose driver lies.
//!
//! Rule: a hostile node keeps every rule whose breach would end its link before the harm is done. So a run tests the defence
//! against the vice itself.

use bytes::{Bytes, BytesMut};
use minuet_proto::{
    PieceHash, PieceIndex, SegmentSeq,
    mesh::{
        Block, Head, HeadPiece, HelloFlags, MIN_BLOCK_LEN, Message, PeerInfo, Request, SIGNATURE_LEN, Serial,
        SignedHead,
    },
};
use minuet_session::Event;

use super::{
    contacts::{VICTIM, reach},
    media::Media,
    member::core_id,
};
use crate::{
    engine::{NodeId, network::LinkId},
    plan::Vice,
};

/// Requests and HAVEs that a flooding node sends on each link at a time, five times a second.
const FLOOD: u64 = 200;
/// Nodes that a poisoning node names at a time, and every how many times it does: the most that is not a flood.
const POISON: u32 = 64;
const POISON_TURNS: u64 = 10;
/// What a hostile node says that its uplink has, in kbit/s: 1 Gbit/s, so that it is given much.
pub const BOAST: u32 = 1_000_000;
/// Pieces that a lying node claims at a time.
const CLAIMS: u64 = 32;

/// What becomes of a block that the honest core would send: other bytes, or nothing.
pub fn block(vice: Vice, media: &Media, honest: Bytes) -> Option<Bytes> {
    match vice {
        Vice::Corrupts => Some(media.corrupted(&honest)),
        Vice::Lies | Vice::Stalls | Vice::Drips | Vice::Idles | Vice::Crowds => None,
        Vice::Forges | Vice::Floods | Vice::Poisons => Some(honest),
    }
}

/// What a hostile node called `own` says of itself in place of what its core says.
pub fn boast(message: &mut Message, own: minuet_proto::mesh::NodeId) {
    match message {
        Message::Hello(hello) => hello.upload_kbps = BOAST,
        Message::Peers(peers) => {
            peers.iter_mut().filter(|peer| peer.node == own).for_each(|peer| peer.upload_kbps = BOAST);
        }
        _ => {}
    }
}

/// Whether the node's driver passes on what its core says, blocks apart.
pub fn says(vice: Vice, message: &Message) -> bool {
    match vice {
        Vice::Idles | Vice::Crowds => matches!(message, Message::Hello(_)),
        _ => true,
    }
}

/// Whether the node's core hears what others say. One that idles hears only that somebody is there.
pub fn hears(vice: Vice, event: &Event) -> bool {
    match (vice, event) {
        (Vice::Idles | Vice::Crowds, Event::Frame { message, .. }) => {
            matches!(message, Message::Hello(_) | Message::Bye(_))
        }
        (Vice::Idles | Vice::Crowds, Event::Head(_) | Event::Statement(_)) => false,
        (Vice::Crowds, Event::Peers { .. }) => false,
        _ => true,
    }
}

/// A piece that is sent in the least blocks there may be, now and then.
#[derive(Clone, Copy, Debug)]
pub struct Drip {
    /// To whom.
    pub link: LinkId,
    /// The next block.
    pub next: Block,
}

impl Drip {
    /// The piece that a core has begun to send.
    pub fn of(link: LinkId, block: Block) -> Self {
        Self { link, next: Block { len: block.piece_len.min(MIN_BLOCK_LEN), ..block } }
    }

    /// The next block; nothing once the piece is whole.
    pub fn take(&mut self) -> Option<Block> {
        let block = self.next;
        if block.len == 0 {
            return None;
        }
        self.next.offset += block.len;
        self.next.len = (block.piece_len - self.next.offset).min(MIN_BLOCK_LEN);
        Some(block)
    }
}

/// What the node sends on one link out of malice, encoded; `newest` is the live edge, `turn` counts the times, and there are
/// `nodes`.
pub fn harm(vice: Vice, newest: Serial, turn: u64, nodes: u32) -> Vec<Bytes> {
    match vice {
        Vice::Corrupts | Vice::Stalls | Vice::Drips => Vec::new(),
        Vice::Idles | Vice::Crowds => vec![encoded(&Message::Have(Default::default()))],
        Vice::Poisons if turn.is_multiple_of(POISON_TURNS) => {
            vec![encoded(&Message::Peers(poison(turn, nodes)))]
        }
        Vice::Poisons => Vec::new(),
        Vice::Forges => vec![encoded(&Message::Head(forged(newest)))],
        Vice::Lies => {
            let real = (newest.get().saturating_sub(CLAIMS)..=newest.get()).map(Serial::new);
            // And some that do not exist, just behind the live edge and far from it.
            let unreal =
                (newest.get() + 1..newest.get() + CLAIMS).chain([newest.get() + 1_000_000]).map(Serial::new);
            vec![encoded(&Message::Have(real.collect())), encoded(&Message::Have(unreal.collect()))]
        }
        Vice::Floods => (0..FLOOD)
            .map(|number| match number % 3 {
                0 => encoded(&Message::Request(Request {
                    serial: Serial::new(newest.get().saturating_sub(number)),
                    due_in_ms: 1,
                })),
                1 => encoded(&Message::Have(
                    [Serial::new(newest.get().saturating_sub(number))].into_iter().collect(),
                )),
                _ => encoded(&Message::GetHeads {
                    first: Serial::new(newest.get().saturating_sub(number)),
                    count: 64,
                }),
            })
            .collect(),
    }
}

/// Made-up keys, and those of others, at the victim's address.
fn poison(turn: u64, nodes: u32) -> Vec<PeerInfo> {
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    let poisoned = |number: u32| {
        // Honest nodes' numbers are below that of all nodes.
        let made_up =
            nodes.saturating_add((turn as u32).wrapping_mul(POISON).wrapping_add(number) % 1_000_000);
        let id = NodeId(if number.is_multiple_of(2) {
            made_up
        } else {
            (turn as u32).wrapping_add(number) % nodes
        });
        PeerInfo { node: core_id(id), flags, upload_kbps: 10_000, address: reach(VICTIM, &[]).encode() }
    };
    (0..POISON).map(poisoned).collect()
}

/// A head of the next pieces that the channel's key has not signed.
fn forged(newest: Serial) -> SignedHead {
    let piece = HeadPiece { hash: PieceHash::new([7; 20]), len: 65_536, ingest_ms: 0, random_access: true };
    let head = Head {
        first: Serial::new(newest.get() + 1),
        segment: SegmentSeq(0),
        first_index: PieceIndex(0),
        pieces: vec![piece; 8],
    };
    SignedHead { body: head.encode(), signature: [7; SIGNATURE_LEN] }
}

fn encoded(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out.freeze()
}
