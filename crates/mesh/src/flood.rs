//! Flood limits: what one neighbour may make this node do.
//!
//! Rule: every message costs its sender part of an allowance that refills with time (a token bucket); who
//! overdraws it is hung up on and banned. The prices are chosen so that no honest node comes near: at 16 KiB
//! pieces and 30 pieces a second a neighbour sends some 100 messages a second, all told.

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
    /// A block that nobody asked for.
    pub const USELESS_BLOCK: f32 = 20.0;
}
