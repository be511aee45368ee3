//! Push: fresh pieces go out unasked while hardly anybody can have them.
//!
//! Asking takes a round trip, and as long as a piece is rare everybody lacks it, so asking tells nothing.
//! Rules:
//! 1. The *source* pushes each piece once, as soon as it closes, to one neighbour (super-seeding, BEP 16). Turns
//!    are taken in proportion to how fast a neighbour can pass a piece on (to the third power: measured). It does not say that it holds a
//!    piece until [`HELP_AFTER`], when what is still missing somewhere may be asked of it.
//! 2. A *viewer* pushes a fresh piece on while fewer than one in [`PUSH_BELOW`] of its neighbours it,
//!    those it pushed to included (to push more often was tried and collides); after that pushes would collide, and neighbours ask for it anyway.

use std::collections::VecDeque;
use std::time::Duration;

use minuet_proto::mesh::Serial;
use rand::RngExt;

use crate::neighbour::{Neighbour, Slab};
use crate::node::Node;
use crate::uplink::PUSH_CLASS;
use crate::{Role, Timestamp, contribution};

/// Age at which the source offers a piece to all who lack it.
pub(crate) const HELP_AFTER: Duration = Duration::from_millis(1000);
/// A viewer pushes while fewer than one in this many neighbours have the piece.
const PUSH_BELOW: usize = 10;
/// Age at which a viewer no longer pushes a piece.
const FRESH: Duration = Duration::from_millis(500);
/// Most pieces that wait to be pushed. A viewer forgets the oldest; a source never drops: its queue is bounded by
/// the window.
const MAX_FRESH: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Push {
    /// Pieces to push, oldest first, and when they came.
    fresh: VecDeque<(u64, Timestamp)>,
    /// Source: pieces that were not yet offered to all, and when they closed.
    pub hidden: VecDeque<(u64, Timestamp)>,
}

impl Push {
    pub fn note_fresh(&mut self, serial: u64, now: Timestamp, role: Role) {
        if role == Role::Source {
            self.hidden.push_back((serial, now));
        } else if self.fresh.len() >= MAX_FRESH {
            self.fresh.pop_front();
        }
        self.fresh.push_back((serial, now));
    }

    pub fn forget_before(&mut self, base: u64) {
        self.fresh.retain(|(serial, _)| *serial >= base);
        self.hidden.retain(|(serial, _)| *serial >= base);
    }
}

impl Node {
    /// The next push, if there is a piece to push and somebody to push it to: rank class, piece, receiver.
    pub(crate) fn choose_push(&mut self, now: Timestamp) -> Option<(u8, u64, Slab)> {
        if !self.config.push {
            return None;
        }
        if self.role == Role::Source {
            let (serial, _) = *self.push.fresh.front()?;
            let to = self.source_target(serial)?;
            return Some((0, serial, to));
        }
        let neighbours = self.neighbours.len();
        let window = &self.window;
        self.push.fresh.retain(|(serial, at)| {
            *at + FRESH > now && usize::from(window.slot(*serial).copies) * PUSH_BELOW < neighbours
        });
        // The newest is the rarest.
        for i in (0..self.push.fresh.len()).rev() {
            let serial = self.push.fresh[i].0;
            let rng = &mut self.rng;
            // Near ones first, but not always the same ones, which others push to as well.
            let target = self
                .neighbours
                .iter()
                .filter(|(_, n)| may_push(n, serial) && !n.flags.source && n.wants.is_empty())
                .map(|(slab, n)| (slab, hop_us(n) * (1.0 + rng.random::<f32>())))
                .min_by(|(_, a), (_, b)| a.total_cmp(b));
            if let Some((to, _)) = target {
                return Some((PUSH_CLASS, serial, to));
            }
        }
        None
    }

    /// Whether a fresh piece waits to be pushed.
    pub(crate) fn has_push(&mut self, now: Timestamp) -> bool {
        self.role != Role::Source && self.choose_push(now).is_some()
    }

    /// Smooth weighted round robin over those that spread well.
    fn source_target(&mut self, serial: u64) -> Option<Slab> {
        let any_giver =
            self.neighbours.iter().any(|(_, n)| may_push(n, serial) && !contribution::is_rider(n));
        let mut total = 0.0;
        let mut best: Option<(Slab, f32)> = None;
        for (slab, neighbour) in self.neighbours.iter_mut() {
            if !may_push(neighbour, serial) || (any_giver && contribution::is_rider(neighbour)) {
                continue;
            }
            let weight = (1e5 / hop_us(neighbour)).powi(3);
            total += weight;
            neighbour.credit += weight;
            if best.is_none_or(|(_, credit)| neighbour.credit > credit) {
                best = Some((slab, neighbour.credit));
            }
        }
        let (slab, _) = best?;
        self.neighbours.get_mut(slab)?.credit -= total;
        Some(slab)
    }

    /// A push was begun.
    pub(crate) fn on_pushed(&mut self, _to: Slab, serial: u64, _now: Timestamp) {
        if self.role == Role::Source {
            self.push.fresh.retain(|(s, _)| *s != serial);
        }
    }

    /// Source: offers to all what is no longer fresh.
    pub(crate) fn offer_hidden(&mut self, now: Timestamp) {
        while let Some((serial, at)) = self.push.hidden.front().copied() {
            if at + HELP_AFTER > now {
                break;
            }
            self.push.hidden.pop_front();
            self.promise(Serial(serial), None, now);
        }
    }
}

/// Time for a piece to reach `neighbour` and leave it again, in microseconds.
pub(crate) fn hop_us(neighbour: &Neighbour) -> f32 {
    neighbour.rtt.as_micros() as f32 / 2.0 + neighbour.transfer_us(65536)
}

fn may_push(neighbour: &Neighbour, serial: u64) -> bool {
    neighbour.greeted && !neighbour.closing && !neighbour.has.get(serial) && neighbour.undrained < 32 * 1024
}
