//! One neighbour's part of the exchange.

use std::ops::Range;

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::Timestamp;
use crate::demand::arrival::Pace;
use crate::stream::bits::Bits;

/// A piece that is asked of a neighbour, or that it pushes unasked.
#[derive(Debug)]
pub(crate) struct Incoming {
    serial: u64,
    /// When it was asked for, or began to come unasked.
    pub at: Timestamp,
    /// When the last block came in; `at` before the first.
    pub heard: Timestamp,
    /// False for a push.
    pub solicited: bool,
    /// What is here, from the piece's first byte on, in one buffer.
    pub data: BytesMut,
    /// When it should end; `None` before the first block.
    pub pace: Option<Pace>,
}

impl Incoming {
    pub(super) fn new(serial: u64, solicited: bool, now: Timestamp) -> Self {
        Self { serial, at: now, heard: now, solicited, data: BytesMut::new(), pace: None }
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Bytes that are here.
    pub fn received(&self) -> u32 {
        // No piece is longer than 1 MiB.
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }

    /// Whether the piece has begun to come and cannot be counted on.
    pub fn is_behind(&self, len: u32, due: Option<Timestamp>, now: Timestamp) -> bool {
        self.pace.is_some_and(|pace| pace.is_behind(self.received(), len, due, now))
    }
}

/// What a neighbour has of the window, and what is coming in from it. Only the exchange changes it.
#[derive(Debug)]
pub(crate) struct Side {
    /// Pieces it holds or promises.
    pub(super) has: Bits,
    /// At most one for each piece.
    pub(super) incoming: SmallVec<[Incoming; 2]>,
}

impl Side {
    pub fn new(window: usize) -> Self {
        Self { has: Bits::new(window), incoming: SmallVec::new() }
    }

    /// Whether it holds or promises a piece of the window.
    pub fn has(&self, serial: u64) -> bool {
        self.has.get(serial)
    }

    /// All that it holds or promises.
    pub fn pieces(&self) -> &Bits {
        &self.has
    }

    /// What is asked of it, and what it pushes.
    pub fn incoming(&self) -> &[Incoming] {
        &self.incoming
    }

    /// How a piece fares that is asked of it or that it pushes.
    pub fn of(&self, serial: u64) -> Option<&Incoming> {
        self.incoming.iter().find(|incoming| incoming.serial == serial)
    }

    pub fn of_mut(&mut self, serial: u64) -> Option<&mut Incoming> {
        self.incoming.iter_mut().find(|incoming| incoming.serial == serial)
    }

    /// Forgets what leaves the window.
    pub(super) fn slide(&mut self, leaving: Range<u64>) {
        leaving.clone().for_each(|serial| self.has.clear(serial));
        self.incoming.retain(|incoming| !leaving.contains(&incoming.serial));
    }

    /// How often a piece is coming in from it.
    pub(super) fn count(&self, serial: u64) -> usize {
        self.incoming.iter().filter(|incoming| incoming.serial == serial).count()
    }
}
