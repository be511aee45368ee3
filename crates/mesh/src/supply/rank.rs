//! Which piece does most good: the order in which requests and pushes are served.
//!
//! In this order:
//! - what is about to be due at neighbours that have been here for a while, for up to half of the uplink;
//! - a newcomer's first piece, so that it has a picture and something to give;
//! - rare pieces, since one copy of such a piece lets many others be made: if what is due came before them, a crowd that
//!   lacks everything would stop the live edge for all;
//! - what is due at newcomers, for a part of the uplink;
//! - the rest, newcomers after the others, and riders last.
//!
//! So a single newcomer lacks nothing, and a crowd at the door lives on what those inside leave. Within a class, neighbours
//! that no hidden node can serve come first (`neighbourhood.rs`, rule 6). Then come pieces with the fewest copies among the
//! neighbours, the newest first; of pieces that are not rare the oldest first, so that nobody waits long for what most have.
//!
//! A source sends first what is due soon and was never sent, then pushes (`push.rs`), then the rest. So each byte goes out
//! once before any goes out twice, in the order in which it is needed, even if the source is behind.

use std::cmp::Reverse;
use std::time::Duration;

use crate::members::neighbour::{Neighbour, Outgoing};
use crate::node::Node;
use crate::supply::contribution::{self, Standing};
use crate::supply::push::{NextPush, hop_us};
use crate::{Role, Timestamp};

/// A request that is due within this time goes before all others. This and the times below are for the nominal pace
/// (`tempo.rs`); …
pub(super) const URGENT: Duration = Duration::from_millis(900);
/// … and it is at most this part of the delay.
pub(super) const URGENT_SHARE: f32 = 0.3;

/// A newcomer's piece that is due within this time is the one that its picture waits for.
const FIRST: Duration = Duration::from_millis(150);
/// A piece is rare while fewer than one in this many neighbours have it, or fewer than so many, …
const RARE: usize = 5;
const LEAST_RARE: usize = 3;
/// … if they are so many.
const LEAST_RARE_OF: usize = 10;
/// … and among so many newest: of older ones few copies are left because nobody needs them any more.
pub(crate) const LIVE: u64 = 96;

/// What is served first, and why: the first of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Source: due soon, and nobody has it but this node. It was never sent, or who it was sent to has lost it: nobody else
    /// can mend that.
    Unique,
    /// Source: a fresh piece to push. Each byte goes out once before any goes out twice.
    SourcePush,
    /// About to be due at a neighbour that has been here for a while, as long as such pieces have had no more than half.
    Urgent,
    /// A newcomer's first piece: its picture waits for it, and with it the newcomer has something to give.
    First,
    /// Hardly anybody has it, pushed or requested: one copy of it lets many others be made.
    Rare,
    /// About to be due beyond the half, or at a newcomer within the newcomers' part.
    UrgentBeyondShare,
    /// Not due yet, at a neighbour that has been here for a while: it may still come from another.
    Giver,
    /// About to be due at newcomers beyond their part: a crowd at the door lives on what those inside leave.
    UrgentNewcomer,
    /// Not due yet at a newcomer.
    Newcomer,
    /// About to be due at a neighbour that takes and does not give: being last in line is penalty enough.
    UrgentRider,
    /// All else that it requests.
    Rider,
}

/// How far a piece has spread among the neighbours: what has spread least goes first within a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Spread {
    /// The fewest copies first, and of these the newest, which had the least time to be copied.
    Rare { copies: u16, newest: Reverse<u64> },
    /// Most have it: the oldest first, so that nobody waits long for what most have.
    Common { oldest: u64 },
}

/// How much good it does to send a piece to a neighbour: the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    class: Class,
    /// Hidden nodes can serve the neighbour too, and they cannot serve others: it comes after these.
    served_by_others: bool,
    spread: Spread,
    /// The nearest first: it passes the piece on soonest.
    hop_us: u32,
}

impl Node {
    /// How much good it does to serve a request: the least first.
    pub(super) fn rank(&self, neighbour: &Neighbour, outgoing: &Outgoing, now: Timestamp) -> Rank {
        let urgent = outgoing
            .due
            .is_some_and(|due| due < now + self.tempo.before_due(URGENT, URGENT_SHARE, self.delay));
        let first =
            neighbour.given == 0 && outgoing.due.is_some_and(|due| due < now + self.tempo.time(FIRST));
        let copies = self.exchange.copies(outgoing.serial);
        let rare = self.is_rare(copies) && outgoing.serial.saturating_add(LIVE) > self.window.edge();
        let hop_us = hop_us(neighbour, &self.tempo) as u32;
        // What many lack must have the time to spread.
        let soon = outgoing.due.is_some_and(|due| due < now + self.soon());
        if self.role == Role::Source && soon && self.is_nobodys(outgoing.serial) {
            let spread = Spread::Common { oldest: outgoing.serial };
            return Rank { class: Class::Unique, served_by_others: false, spread, hop_us };
        }
        let class = match (contribution::standing(neighbour, &self.tempo, now), urgent) {
            (Standing::Giver, true) if self.uplink.urgent_credit >= 0 => Class::Urgent,
            (Standing::Newcomer, true) if first => Class::First,
            (Standing::Giver | Standing::Newcomer, _) if rare => Class::Rare,
            (Standing::Giver, true) => Class::UrgentBeyondShare,
            (Standing::Newcomer, true) if self.uplink.guest_credit > 0 => Class::UrgentBeyondShare,
            (Standing::Giver, false) => Class::Giver,
            (Standing::Newcomer, true) => Class::UrgentNewcomer,
            (Standing::Newcomer, false) => Class::Newcomer,
            (Standing::Rider, true) => Class::UrgentRider,
            (Standing::Rider, false) => Class::Rider,
        };
        let spread = if rare {
            Spread::Rare { copies, newest: Reverse(outgoing.serial) }
        } else {
            Spread::Common { oldest: outgoing.serial }
        };
        Rank { class, served_by_others: self.hidden_ones_serve(neighbour), spread, hop_us }
    }

    /// How much good it does to push a piece. Of what is as rare a request goes first: a push may collide with another.
    pub(super) fn rank_of_push(&self, push: NextPush) -> Rank {
        let class = if self.role == Role::Source { Class::SourcePush } else { Class::Rare };
        let served_by_others = self.neighbours.get(push.to).is_some_and(|n| self.hidden_ones_serve(n));
        let spread = Spread::Rare { copies: self.exchange.copies(push.serial), newest: Reverse(0) };
        Rank { class, served_by_others, spread, hop_us: u32::MAX }
    }

    /// Source: whether nobody has a piece whom others could get it from. It was never sent, or who it was sent to has lost
    /// it, or has never told anybody of any piece: silent links must not swallow what they are pushed.
    fn is_nobodys(&self, serial: u64) -> bool {
        let tells = |n: &Neighbour| n.newest > 0 && !n.closing && n.side.has(serial);
        self.exchange.copies(serial) == 0
            || self.window.slot(serial).given == 0
            || !self.neighbours.iter().any(|(_, n)| tells(n))
    }

    /// Whether a piece that so many neighbours have is rare.
    pub(super) fn is_rare(&self, copies: u16) -> bool {
        let least = if self.listeners < LEAST_RARE_OF { 0 } else { LEAST_RARE };
        usize::from(copies) < self.listeners.div_ceil(RARE).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_as_urgent_the_rarest_goes_first_and_of_what_most_have_the_oldest() {
        let rare = |copies, serial| Spread::Rare { copies, newest: Reverse(serial) };
        let common = |serial| Spread::Common { oldest: serial };
        let order = [rare(1, 9), rare(1, 8), rare(2, 9), common(3), common(7)];
        assert!(order.is_sorted(), "{order:?}");
        // The class counts before that, and then whether others can serve the neighbour.
        let rank = |class, served_by_others, spread| Rank { class, served_by_others, spread, hop_us: 1 };
        let order = [
            rank(Class::Urgent, true, common(7)),
            rank(Class::Rare, false, rare(2, 9)),
            rank(Class::Rare, true, rare(1, 9)),
            rank(Class::Rider, false, rare(1, 9)),
        ];
        assert!(order.is_sorted(), "{order:?}");
    }
}
