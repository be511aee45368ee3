//! What the scan of packets remembers, and what it passes on.

use crate::{
    event::RandomAccess,
    time::{Ticks, Timestamp},
};

/// What happens at an offset.
#[derive(Debug)]
pub enum Mark {
    Start {
        discontinuity: bool,
        position: Ticks,
        timestamp: Option<Timestamp>,
        access: bool,
        tables: Vec<u8>,
    },
    RandomAccess(RandomAccess),
    /// Tables and parameter sets, repeated here.
    Repeat(Vec<u8>),
    End {
        duration: Ticks,
    },
}

#[derive(Clone, Copy, Debug, Default)]
pub struct PidState {
    /// The last continuity counter, plus 1; 0 before the first packet.
    pub counter: u8,
    pub repeated: bool,
    pub roles: u8,
}

pub const TABLE: u8 = 1;
pub const LEADING: u8 = 2;
pub const CLOCK: u8 = 4;
pub const COMPANION: u8 = 8;

/// An access unit of the leading stream that is not judged yet.
#[derive(Debug)]
pub struct AccessUnit {
    /// Offset of the packet in which it starts, or of the tables directly before that.
    pub at: usize,
    /// `random_access_indicator` of that packet.
    pub flag: bool,
    pub timestamp: Option<Timestamp>,
    /// The continuity counter before that packet.
    pub counter: u8,
    /// The PES header so far; `None` when it is complete.
    pub header: Option<Vec<u8>>,
}
