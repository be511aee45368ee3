//! Hostile nodes: an honest core whose driver lies.
//!
//! Rule: they keep every rule whose breach would end the link before the harm is done, so that what
//! is tested is the defence against the vice itself.

use bytes::{Bytes, BytesMut};
use minuet_proto::{
    PieceHash, PieceIndex, SegmentSeq,
    mesh::{Head, HeadPiece, Message, Request, SIGNATURE_LEN, Serial, SignedHead},
};

use super::media::Media;
use crate::plan::Vice;

/// Requests and HAVEs that a flooding node sends on each link at a time, five times a second.
const FLOOD: u64 = 200;
/// Pieces that a lying node claims at a time.
const CLAIMS: u64 = 32;

/// What becomes of a block that the honest core would send: other bytes, or nothing.
pub fn block(vice: Vice, media: &Media, honest: Bytes) -> Option<Bytes> {
    match vice {
        Vice::Corrupts => Some(media.corrupted(&honest)),
        Vice::Lies | Vice::Stalls => None,
        Vice::Forges | Vice::Floods => Some(honest),
    }
}

/// What the node sends on one link out of malice, encoded; `newest` is the live edge.
pub fn harm(vice: Vice, newest: Serial) -> Vec<Bytes> {
    match vice {
        Vice::Corrupts | Vice::Stalls => Vec::new(),
        Vice::Forges => vec![encoded(&Message::Head(forged(newest)))],
        Vice::Lies => {
            let real = (newest.0.saturating_sub(CLAIMS)..=newest.0).map(Serial);
            // And some that do not exist, just behind the live edge and far from it.
            let unreal = (newest.0 + 1..newest.0 + CLAIMS).chain([newest.0 + 1_000_000]).map(Serial);
            vec![encoded(&Message::Have(real.collect())), encoded(&Message::Have(unreal.collect()))]
        }
        Vice::Floods => (0..FLOOD)
            .map(|number| match number % 3 {
                0 => encoded(&Message::Request(Request {
                    serial: Serial(newest.0.saturating_sub(number)),
                    due_in_ms: 1,
                })),
                1 => encoded(&Message::Have([Serial(newest.0.saturating_sub(number))].into_iter().collect())),
                _ => {
                    encoded(&Message::GetHeads { first: Serial(newest.0.saturating_sub(number)), count: 64 })
                }
            })
            .collect(),
    }
}

/// A head of the next pieces that the channel's key has not signed.
fn forged(newest: Serial) -> SignedHead {
    let piece = HeadPiece { hash: PieceHash::new([7; 20]), len: 65_536, ingest_ms: 0, random_access: true };
    let head = Head {
        first: Serial(newest.0 + 1),
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
