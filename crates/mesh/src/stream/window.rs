//! The piece window: what is known of each piece near the live edge.
//!
//! Rule: the window is as long as [`Config::window`](crate::Config) and ends [`AHEAD`] pieces after the newest
//! verified head; whatever it slides over is forgotten everywhere. Nothing outside of it is ever kept, asked for
//! or served, so a neighbour can make this node remember at most one window, whatever it says. Pieces that no
//! head has confirmed yet may be promised and asked for up to [`AHEAD`] beyond the newest head, since promises
//! outrun heads; they cannot be stored before their head is here.

use std::ops::Range;
use std::sync::Arc;

use minuet_proto::mesh::{Serial, SignedHead};

use crate::node::Node;
use crate::stream::bits::Bits;
use crate::{Output, PieceRef, Timestamp};

/// How far beyond the newest verified head a promise is believed.
pub(crate) const AHEAD: u64 = 64;

/// What a verified head says of one piece.
#[derive(Debug)]
pub(crate) struct Named {
    pub piece: PieceRef,
    pub random_access: bool,
    /// The head it came in, to pass on and to compare with.
    pub head: Arc<SignedHead>,
}

/// One piece of the window.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub named: Option<Box<Named>>,
    /// When it was first heard of.
    pub since: Timestamp,
    /// How often this node has begun to send it.
    pub given: u16,
    /// The HTTP origin was asked.
    pub http: bool,
    /// Neighbours were told that it is here or coming.
    pub promised: bool,
    /// A neighbour began to send it and did not go on.
    pub broken_off: bool,
}

#[derive(Debug)]
pub(crate) struct PieceWindow {
    slots: Box<[Slot]>,
    base: u64,
    /// One above the newest verified head; `None` while none is known.
    newest: Option<u64>,
    /// Verified pieces, in the driver's store.
    pub held: Bits,
}

impl PieceWindow {
    pub fn new(len: usize) -> Self {
        let len = len.next_power_of_two().max((AHEAD as usize).saturating_mul(4));
        Self {
            slots: std::iter::repeat_with(Slot::default).take(len).collect(),
            base: 0,
            newest: None,
            held: Bits::new(len),
        }
    }

    pub fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    /// First serial of the window.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// One above the last serial of the window.
    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.len())
    }

    /// One above the newest verified head, or the base while none is known.
    pub fn edge(&self) -> u64 {
        self.newest.unwrap_or(self.base)
    }

    /// Whether any head was verified.
    pub fn anchored(&self) -> bool {
        self.newest.is_some()
    }

    /// One above the last serial that may be promised.
    pub fn horizon(&self) -> u64 {
        if self.anchored() { self.edge().saturating_add(AHEAD).min(self.end()) } else { self.end() }
    }

    pub fn contains(&self, serial: u64) -> bool {
        (self.base..self.end()).contains(&serial)
    }

    /// The length is a power of two.
    fn index(&self, serial: u64) -> usize {
        serial as usize & self.slots.len().saturating_sub(1)
    }

    pub fn slot(&self, serial: u64) -> &Slot {
        &self.slots[self.index(serial)]
    }

    pub fn slot_mut(&mut self, serial: u64) -> &mut Slot {
        let index = self.index(serial);
        &mut self.slots[index]
    }

    pub fn named(&self, serial: u64) -> Option<&Named> {
        if self.contains(serial) { self.slot(serial).named.as_deref() } else { None }
    }

    pub fn holds(&self, serial: u64) -> bool {
        self.contains(serial) && self.held.get(serial)
    }

    /// Moves an empty, unanchored window to end at `edge`: a first guess from a neighbour's word.
    pub fn place(&mut self, edge: u64) {
        if !self.anchored() {
            self.base = edge.saturating_add(AHEAD).saturating_sub(self.len());
        }
    }

    /// The base that a head up to `edge` (exclusive) asks for.
    pub fn base_for(&self, edge: u64) -> u64 {
        let base = edge.saturating_add(AHEAD).saturating_sub(self.len());
        // Before the first verified head the place is a guess, which a head may also correct downwards.
        if self.anchored() || self.contains(edge) { base.max(self.base) } else { base }
    }

    /// What leaves the window if it slides to `base`: at most all of it.
    pub fn leaving(&self, base: u64) -> Range<u64> {
        let ahead = base >= self.base && base < self.end();
        self.base..if ahead { base } else { self.end() }
    }

    /// Slides to `base`. The caller has cleared everything that refers to the serials that leave.
    pub fn slide(&mut self, base: u64) {
        if base < self.base || base.saturating_sub(self.base) >= self.len() {
            for slot in &mut self.slots {
                *slot = Slot::default();
            }
            self.held.clear_all();
        } else {
            for serial in self.base..base {
                *self.slot_mut(serial) = Slot::default();
                self.held.clear(serial);
            }
        }
        self.base = base;
    }

    /// Notes that heads up to `edge` (exclusive) are verified. The window has been slid before.
    pub fn raise_edge(&mut self, edge: u64) {
        self.newest = Some(self.newest.map_or(edge, |newest| newest.max(edge)));
    }

    /// Time that the newest `count` pieces took at the source; zero if that is not known.
    pub fn span(&self, count: u64) -> std::time::Duration {
        let newest = self.edge().checked_sub(1).and_then(|serial| self.named(serial));
        let before = self.edge().checked_sub(count.saturating_add(1)).and_then(|serial| self.named(serial));
        let ms = newest.zip(before).map_or(0, |(n, b)| n.piece.ingest_ms.saturating_sub(b.piece.ingest_ms));
        std::time::Duration::from_millis(ms)
    }

    /// The newest random access point with `ingest_ms` at most `before_ms` of which `fits` is true.
    pub fn random_access_before(&self, before_ms: u64, fits: impl Fn(u64) -> bool) -> Option<Serial> {
        (self.base..self.edge()).rev().map(Serial::new).find(|s| {
            self.named(s.get()).is_some_and(|k| k.random_access && k.piece.ingest_ms <= before_ms)
                && fits(s.get())
        })
    }

    /// The oldest random access point.
    pub fn oldest_random_access(&self) -> Option<Serial> {
        (self.base..self.edge())
            .map(Serial::new)
            .find(|s| self.named(s.get()).is_some_and(|k| k.random_access))
    }
}

impl Node {
    /// Moves the window's base to `base` and forgets all that refers to what leaves.
    pub(crate) fn slide_window(&mut self, base: u64) {
        if base == self.window.base() {
            return;
        }
        let leaving = self.window.leaving(base);
        let all = leaving.end == self.window.end();
        for (_, neighbour) in self.neighbours.iter_mut() {
            leaving.clone().for_each(|serial| neighbour.knows.clear(serial));
            neighbour.outgoing.retain(|outgoing| !leaving.contains(&outgoing.serial));
        }
        let sides = self.neighbours.iter_mut().map(|(_, neighbour)| &mut neighbour.side);
        self.exchange.slide(sides, &self.window, base);
        let old = self.window.base();
        self.window.slide(base);
        self.push.forget_before(base);
        self.wanted_to = if all { base } else { self.wanted_to.max(base) };
        if base > old {
            self.out.push_back(Output::Release { before: Serial::new(base) });
        }
    }
}
