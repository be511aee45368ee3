//! Flood limits: what one neighbour may make this node do.
//!
//! Rule: every message costs its sender part of an allowance that refills with time (a token bucket); who
//! overdraws it is hung up on and banned. The prices are chosen so that no honest node comes near: at 16 KiB
//! pieces and 30 pieces a second a neighbour sends some 100 messages a second, all told.

use crate::Timestamp;

/// What a neighbour may do at once.
pub(crate) const FULL_ALLOWANCE: f32 = 6000.0;
/// What it regains a second.
pub(crate) const REFILL_PER_SECOND: f32 = 600.0;

/// Price of a message, by what handling it costs here.
pub(crate) mod price {
    /// Any message.
    pub const MESSAGE: f32 = 1.0;
    /// A block that was asked for, or that a push brings for the first time.
    pub const GOOD_BLOCK: f32 = 0.0;
    /// A head that was known already: a comparison. (A bad signature is not priced: it bans.)
    pub const KNOWN_HEAD: f32 = 1.0;
    /// Each head that is asked for: it costs uplink.
    pub const HEAD_ASKED: f32 = 2.0;
    /// A list of peers, or a bitmap.
    pub const LIST: f32 = 50.0;
    /// A new piece that was promised, and then denied when it was asked for: it costs a round trip. Promises are
    /// taken back no more often than [`super::Retractions`] allows.
    pub const BROKEN_PROMISE: f32 = 100.0;
    /// A block that nobody asked for.
    pub const USELESS_BLOCK: f32 = 20.0;
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
