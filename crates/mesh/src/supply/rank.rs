//! What is sent first: how much good each request, and each push, does.

use std::time::Duration;

use crate::Role;
use crate::Timestamp;
use crate::members::neighbour::{Neighbour, Slab, Want};
use crate::node::Node;
use crate::supply::contribution::{self, Standing};
use crate::supply::push::hop_us;
use crate::supply::uplink::{URGENT, URGENT_SHARE};

/// A newcomer's piece that is due within this time is the one that its picture waits for.
const FIRST: Duration = Duration::from_millis(150);
/// A piece is rare while fewer than one in this many neighbours have it, or fewer than so many, …
const RARE: usize = 5;
const LEAST_RARE: usize = 3;
/// … if they are so many.
const LEAST_RARE_OF: usize = 10;
/// … and among so many newest: of older ones few copies are left because nobody needs them any more.
pub(crate) const LIVE: u64 = 96;

/// What goes first: in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// At a source: due soon, and nobody else has it. It was never sent, or who it was sent to has lost it; without it all
    /// stand still.
    Unique,
    /// Due soon at a neighbour that passes media on, as long as such pieces have had no more than their part: a picture
    /// that stands still is the worst there is.
    UrgentOfGiver,
    /// The first piece of a newcomer whose picture waits for it.
    FirstOfNewcomer,
    /// One that hardly anybody has, pushed or asked for: one copy of it lets many others be made.
    Fresh,
    /// Due soon, beyond that part; or at a newcomer, as far as newcomers have credit.
    Urgent,
    /// At a neighbour that passes media on: it makes copies of it.
    OfGiver,
    /// Due soon at a newcomer beyond that credit: what it will give is not known.
    UrgentOfNewcomer,
    /// At a newcomer.
    OfNewcomer,
    /// Due soon at a neighbour that passes nothing on: it gets what all others leave.
    UrgentOfRider,
    /// At such a neighbour.
    OfRider,
}

/// How much good it does to send a piece to a neighbour: the least goes first. Compared field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub class: Class,
    /// The hidden ones serve it: this node is dialable, and those who are not have nobody else to serve.
    pub left_to_hidden: bool,
    /// How many have it; all the same where it is not rare.
    pub copies: u16,
    pub order: u64,
    /// How long a piece takes to the neighbour, in microseconds.
    pub hop: u32,
}

impl Node {
    /// How much good it does to serve a request.
    pub(crate) fn rank(&self, neighbour: &Neighbour, want: &Want, now: Timestamp) -> Rank {
        let urgent =
            want.due.is_some_and(|due| due < now + self.tempo.before_due(URGENT, URGENT_SHARE, self.delay));
        let first = neighbour.given == 0 && want.due.is_some_and(|due| due < now + self.tempo.time(FIRST));
        let copies = self.window.slot(want.serial).copies;
        let rare = self.is_rare(copies) && want.serial.saturating_add(LIVE) > self.window.edge();
        let hop = hop_us(neighbour, &self.tempo) as u32;
        let nobodys = copies == 0 || self.window.slot(want.serial).given == 0;
        if self.role == Role::Source && urgent && nobodys {
            return Rank { class: Class::Unique, left_to_hidden: false, copies: 0, order: want.serial, hop };
        }
        let class = match (contribution::standing(neighbour, &self.tempo, now), urgent) {
            (Standing::Giver, true) if self.uplink.urgent_credit >= 0 => Class::UrgentOfGiver,
            (Standing::Newcomer, true) if first => Class::FirstOfNewcomer,
            (Standing::Giver | Standing::Newcomer, _) if rare => Class::Fresh,
            (Standing::Giver, true) => Class::Urgent,
            (Standing::Newcomer, true) if self.uplink.guest_credit > 0 => Class::Urgent,
            (Standing::Giver, false) => Class::OfGiver,
            (Standing::Newcomer, true) => Class::UrgentOfNewcomer,
            (Standing::Newcomer, false) => Class::OfNewcomer,
            (Standing::Rider, true) => Class::UrgentOfRider,
            (Standing::Rider, false) => Class::OfRider,
        };
        let left_to_hidden = self.hidden_ones_serve(neighbour);
        // Of rare pieces the newest is the rarest; of others the oldest is due first.
        let (copies, order) = if rare { (copies, !want.serial) } else { (u16::MAX, want.serial) };
        Rank { class, left_to_hidden, copies, order, hop }
    }

    /// Whether a push goes before the best request.
    pub(crate) fn goes_before(&self, serial: u64, to: Slab, request: &Rank) -> bool {
        if self.role == Role::Source {
            return request.class > Class::Unique;
        }
        let left_to_hidden = self.neighbours.get(to).is_some_and(|n| self.hidden_ones_serve(n));
        let copies = self.window.slot(serial).copies;
        (Class::Fresh, left_to_hidden, copies) < (request.class, request.left_to_hidden, request.copies)
    }

    /// Whether a piece that so many neighbours have is rare.
    pub(crate) fn is_rare(&self, copies: u16) -> bool {
        let least = if self.listeners < LEAST_RARE_OF { 0 } else { LEAST_RARE };
        usize::from(copies) < self.listeners.div_ceil(RARE).max(least)
    }
}
