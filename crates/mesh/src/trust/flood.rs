//! Flood limits: what one neighbour may make this node do.
//!
//! Rule: every message costs its sender part of an allowance that refills with time (a token bucket). A neighbour that
//! overdraws it is hung up on and banned. The prices are chosen so that no honest node comes near: at 16 KiB pieces and 30
//! pieces a second a neighbour sends some 100 messages a second in all.

use minuet_proto::mesh::{Kept, Message};

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::{HangUpReason, Timestamp};

/// What a neighbour may do at once.
pub(crate) const FULL_ALLOWANCE: f32 = 6000.0;
/// What it regains a second.
pub(crate) const REFILL_PER_SECOND: f32 = 600.0;

/// Price of a message, by what handling it costs here. Nothing is free.
pub(crate) mod price {
    /// Any message but a block, and …
    pub const MESSAGE: f32 = 1.0;
    /// … for each serial in a list of them: honest lists have sixteen at most.
    pub const SERIAL: f32 = 0.1;
    /// A block that was asked for, or that a push brings for the first time: 2,400 blocks a second are 39 MB/s of the usual
    /// ones.
    pub const BLOCK: f32 = 0.25;
    /// A head that was known already or is too old: a comparison. (A bad signature is not priced: it bans.)
    pub const KNOWN_HEAD: f32 = 1.0;
    /// Each head that is asked for: it costs uplink.
    pub const HEAD_ASKED: f32 = 2.0;
    /// A list of peers, or a bitmap.
    pub const LIST: f32 = 50.0;
    /// A record or a state: a signature to check. An honest neighbour passes on one or two a segment.
    pub const STATEMENT: f32 = 50.0;
    /// Each byte of a frame of a type that this version does not know: it was read for nothing.
    pub const UNKNOWN_BYTE: f32 = 1.0 / 256.0;
    /// A new piece that was promised, and then denied when it was asked for: it costs a round trip. Promises are
    /// taken back no more often than [`super::Retractions`] allows.
    pub const BROKEN_PROMISE: f32 = 100.0;
    /// A block that nobody asked for.
    pub const USELESS_BLOCK: f32 = 20.0;
    /// A record and hashes of a finished segment that are asked for: they are read from a disk, …
    pub const MINUTE_ASKED: f32 = 30.0;
    /// … and each hash costs uplink: 40 kB with all that fit. Segments of a second have a few, and are asked for often.
    pub const HASH_ASKED: f32 = 0.28;
    /// A piece of a finished segment that was asked for and is not there, whatever was said.
    pub const KEPT_LIE: f32 = 20.0;
    /// A node that was told of and could not be reached: it costs a dial.
    pub const FAILED_DIAL: f32 = 100.0;
}

/// What a message costs before it is looked at.
pub(crate) fn price_of(message: &Message) -> f32 {
    match message {
        Message::Block(_) => price::BLOCK,
        Message::Have(serials) | Message::DontHave(serials) => {
            price::MESSAGE + price::SERIAL * serials.len() as f32
        }
        Message::Kept(kept) => match kept {
            Kept::Block(_) => price::BLOCK,
            Kept::Whole(_) | Kept::Map(_) | Kept::Minute(_) => price::LIST,
            Kept::GetMinute { .. } => price::MINUTE_ASKED,
            Kept::Have { pieces, .. } => price::MESSAGE + price::SERIAL * pieces.len() as f32,
            Kept::Request { .. } | Kept::Cancel(_) | Kept::Reject { .. } => price::MESSAGE,
        },
        Message::Record(_) | Message::State(_) => price::STATEMENT,
        Message::Bitfield(_) | Message::Peers(_) => price::LIST,
        _ => price::MESSAGE,
    }
}

impl Node {
    /// Takes from a neighbour's flood allowance; true if that was too much and the link is being closed.
    pub(crate) fn charge_flood(&mut self, from: Slab, price: f32, now: Timestamp) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return true };
        let elapsed = now.since(neighbour.charged).as_secs_f32();
        neighbour.charged = now;
        neighbour.allowance = (neighbour.allowance + elapsed * REFILL_PER_SECOND).min(FULL_ALLOWANCE) - price;
        if neighbour.allowance >= 0.0 || neighbour.closing {
            return neighbour.closing;
        }
        self.hang_up(from, HangUpReason::Flood, true, now);
        true
    }
}

/// Promises that this node has taken back, as a token bucket: a node whose pieces often fail to arrive stops
/// promising what it does not hold, so that it does not look like one that lies.
#[derive(Debug)]
pub(crate) struct Retractions {
    allowed: f32,
    at: Timestamp,
}

impl Retractions {
    /// Promises that may be taken back at once, and each second.
    const BURST: f32 = 16.0;
    const PER_SECOND: f32 = 2.0;

    pub fn new(now: Timestamp) -> Self {
        Self { allowed: Self::BURST, at: now }
    }

    fn refill(&mut self, now: Timestamp) {
        let elapsed = now.since(self.at).as_secs_f32();
        self.at = now;
        self.allowed = (self.allowed + elapsed * Self::PER_SECOND).min(Self::BURST);
    }

    /// Whether a piece that is only coming may be promised.
    pub fn may_promise(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        self.allowed >= 1.0
    }

    /// A promise was taken back.
    pub fn note(&mut self, now: Timestamp) {
        self.refill(now);
        self.allowed -= 1.0;
    }
}
