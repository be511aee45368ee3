//! Push: fresh pieces go out unasked while hardly anybody can have them.
//!
//! A request takes a round trip, and as long as a piece is rare everybody lacks it, so requests tell nothing. Rules:
//! 1. The *source* pushes each piece once, as soon as it closes, to one neighbour (super-seeding, BEP 16).
//!    - Turns are taken in proportion to how fast a neighbour can pass a piece on (to the third power: measured) and to how many
//!      of the pieces pushed to it reappear at others. Newcomers get few.
//!    - A piece that hardly anybody else promises in the time that pieces take here (`reappearance.rs`) was lost with its
//!      receiver, or its receiver keeps it back. A receiver is not blamed if hardly anybody beside it would promise one (a lone
//!      viewer). The piece may also only be slow, so the source pushes it again after what waits already. A piece that its
//!      receiver refuses is pushed again at once.
//!    - The source does not say that it holds a piece until [`HELP_AFTER`] of the time after which it would push it again. From
//!      then on nodes that still lack the piece may request it from the source.
//! 2. A *viewer* pushes a fresh piece on while fewer than one in [`PUSH_BELOW`] of its neighbours have it, those it pushed to
//!    included (to push more often was tried and collides). After that pushes would collide, and neighbours request the piece
//!    anyway. Near neighbours come first, and those that no hidden node can serve (`neighbourhood.rs`, rule 6).
//! 3. Nothing is pushed to a neighbour that has gone quiet, nor to one that tells of no new pieces while others do: a node that
//!    gets the stream tells of it, and silent links must not swallow what nobody else has.

use std::collections::VecDeque;
use std::time::Duration;

use minuet_proto::mesh::Serial;
use rand::RngExt;
use smallvec::SmallVec;

use crate::members::neighbour::{Neighbour, Slab};
use crate::node::Node;
use crate::stream::tempo::Tempo;
use crate::supply::contribution::{self, Standing};
use crate::supply::reappearance::Reappearance;
use crate::supply::uplink::FRESH_CLASS;
use crate::{LinkId, Role, Timestamp};

/// At which age the source offers a piece to all who lack it, as a part of that at which it would push it again.
const HELP_AFTER: f64 = 1.43;
/// One in so many neighbours must have promised it, beyond those it was pushed to, and two where there are so many: a few
/// may lie.
const REAPPEARS_AT: usize = 8;
const TWO_OF: usize = 4;
/// At the nominal tempo (`tempo.rs`): age up to which the source sees to it that a piece spreads.
const WATCHED: Duration = Duration::from_secs(3);
/// How much its last push counts for what is thought of a receiver, and the least that is thought of one: so it is pushed
/// to now and then, and can show that it has become better.
const SPREADS_STEP: f32 = 0.25;
const SPREADS_LEAST: f32 = 0.02;
/// No neighbour is taken to be faster than so many times the stream: that is what it says of itself, and who says more
/// than anybody has would be pushed everything.
const FASTEST: f32 = 2.0;
/// A viewer pushes while fewer than one in this many neighbours have the piece.
const PUSH_BELOW: usize = 10;
/// How many times as near another must be that hidden nodes can serve, too, to be pushed to first.
const ELSEWHERE: f32 = 4.0;
/// Age at which a viewer no longer pushes a piece, at the nominal tempo.
const FRESH: Duration = Duration::from_millis(500);
/// Where a source has nobody to push to, it keeps so much of what is newest, at the nominal tempo.
const NEW: Duration = Duration::from_secs(1);
/// Most pieces that wait to be pushed. A viewer forgets the oldest; a source never drops: its queue is bounded by
/// the window.
const MAX_FRESH: usize = 8;

/// A piece whose spreading the source watches.
#[derive(Debug)]
struct Watched {
    serial: u64,
    closed: Timestamp,
    /// To whom it was pushed first.
    first_to: Option<LinkId>,
    /// How often it was pushed, when first and when last.
    pushes: u16,
    first_pushed: Timestamp,
    pushed: Timestamp,
    /// Enough others have promised it.
    reappeared: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Push {
    /// Pieces to push, oldest first, and when they came.
    fresh: VecDeque<(u64, Timestamp)>,
    /// Source: the newest pieces, oldest first.
    watched: VecDeque<Watched>,
    /// Source: how long they take to spread.
    reappearance: Reappearance,
}

impl Push {
    pub fn note_fresh(&mut self, serial: u64, now: Timestamp, role: Role) {
        if role == Role::Source {
            self.watched.push_back(Watched {
                serial,
                closed: now,
                first_to: None,
                pushes: 0,
                first_pushed: now,
                pushed: now,
                reappeared: false,
            });
        } else if self.fresh.len() >= MAX_FRESH {
            self.fresh.pop_front();
        }
        self.fresh.push_back((serial, now));
    }

    /// Nobody was there to push to: what is no longer new is not pushed any more.
    pub fn forget_old(&mut self, tempo: &Tempo, now: Timestamp) {
        self.fresh.retain(|(_, at)| *at + tempo.time(NEW) > now);
    }

    /// A piece cannot be sent any more.
    pub fn forget(&mut self, serial: u64) {
        self.fresh.retain(|(fresh, _)| *fresh != serial);
    }

    pub fn forget_before(&mut self, base: u64) {
        self.fresh.retain(|(serial, _)| *serial >= base);
        self.watched.retain(|watched| watched.serial >= base);
    }
}

impl Node {
    /// The next push, if there is a piece to push and somebody to push it to: rank class, piece, receiver.
    pub(crate) fn choose_push(&mut self, now: Timestamp) -> Option<(u8, u64, Slab)> {
        if self.role == Role::Source {
            // What all have by now must not hold up what they lack.
            let neighbours = &self.neighbours;
            let lacked = |serial: u64| {
                neighbours.len() == 0 || neighbours.iter().any(|(_, n)| !n.closing && !n.has.get(serial))
            };
            self.push.fresh.retain(|(serial, _)| lacked(*serial));
            let (serial, _) = *self.push.fresh.front()?;
            let to = self.source_target(serial, now)?;
            return Some((0, serial, to));
        }
        let neighbours = self.listeners;
        let window = &self.window;
        let fresh = self.tempo.time(FRESH);
        self.push.fresh.retain(|(serial, at)| {
            *at + fresh > now
                && usize::from(window.slot(*serial).copies).saturating_mul(PUSH_BELOW) < neighbours
        });
        // The newest is the rarest.
        for i in (0..self.push.fresh.len()).rev() {
            let serial = self.push.fresh[i].0;
            let edge = self.window.edge();
            let (rng, quiet_after, dialable) = (&mut self.rng, self.quiet_after, self.config.dialable);
            let tempo = self.tempo;
            // Near ones first, but not always the same ones, which others push to as well.
            let target = self
                .neighbours
                .iter()
                .filter(|(_, n)| may_push(n, serial) && !n.flags.source && n.wants.is_empty())
                .filter(|(_, n)| !n.quiet(quiet_after, now) && n.tells(edge))
                .map(|(slab, n)| {
                    let elsewhere = if dialable && n.flags.dialable { ELSEWHERE } else { 1.0 };
                    (
                        slab,
                        hop_us(n, &tempo) * elsewhere * (1.0 + rng.random::<f32>()) / trust(n, &tempo, now),
                    )
                })
                .min_by(|(_, a), (_, b)| a.total_cmp(b));
            if let Some((to, _)) = target {
                return Some((FRESH_CLASS, serial, to));
            }
        }
        None
    }

    /// Whether a fresh piece waits to be pushed.
    pub(crate) fn has_push(&mut self, now: Timestamp) -> bool {
        self.role != Role::Source && self.choose_push(now).is_some()
    }

    /// Smooth weighted round robin over those that spread well.
    fn source_target(&mut self, serial: u64, now: Timestamp) -> Option<Slab> {
        let (quiet_after, tempo) = (self.quiet_after, self.tempo);
        let edge = self.window.edge();
        let usual = 1e5 * tempo.scale();
        let fit = |n: &Neighbour| {
            may_push(n, serial)
                && !contribution::is_rider(n, &tempo)
                && !n.quiet(quiet_after, now)
                && n.tells(edge)
        };
        let any_fit = self.neighbours.iter().any(|(_, n)| fit(n));
        let mut total = 0.0;
        let mut best: Option<(Slab, f32)> = None;
        for (slab, neighbour) in self.neighbours.iter_mut() {
            if !may_push(neighbour, serial) || any_fit && !fit(neighbour) {
                continue;
            }
            let spreads = neighbour.spreads.max(SPREADS_LEAST);
            let weight =
                (usual / hop_us(neighbour, &tempo)).powi(3) * trust(neighbour, &tempo, now) * spreads;
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

    /// A piece has begun to go out, pushed or on request: the source need not push it any more.
    pub(crate) fn on_begun(&mut self, serial: u64, to: LinkId, now: Timestamp) {
        if self.role == Role::Source {
            self.push.fresh.retain(|(s, _)| *s != serial);
            if let Some(watched) = self.push.watched.iter_mut().find(|h| h.serial == serial) {
                if watched.pushes == 0 {
                    (watched.first_to, watched.first_pushed) = (Some(to), now);
                }
                (watched.pushes, watched.pushed) = (watched.pushes.saturating_add(1), now);
            }
        }
    }

    /// Source: who was pushed a piece does not take it. If nobody else is known to have it, it goes to somebody else,
    /// before what is newer.
    pub(crate) fn on_push_refused(&mut self, serial: u64, now: Timestamp) {
        let Some(watched) = self.push.watched.iter_mut().find(|h| h.serial == serial) else { return };
        let waits = self.push.fresh.iter().any(|(s, _)| *s == serial);
        if self.window.slot(serial).copies <= watched.pushes && !waits {
            self.push.fresh.push_front((serial, now));
        }
    }

    /// Source: offers to all what is no longer fresh, and pushes again what did not reappear.
    pub(crate) fn offer_watched(&mut self, now: Timestamp) {
        let tempo = self.tempo;
        let wait = self.push.reappearance.wait(tempo.scale());
        let help_after = wait.mul_f64(HELP_AFTER);
        let watched = self.push.watched.iter();
        let old: Vec<u64> = watched.take_while(|h| h.closed + help_after <= now).map(|h| h.serial).collect();
        for serial in old {
            self.promise(Serial::new(serial), None, now);
        }
        self.push.watched.retain(|watched| watched.closed + tempo.time(WATCHED) > now);
        // Who has hardly anybody beside it that would tell of a piece cannot be blamed if none does.
        let tellers = self.neighbours.iter().filter(|(_, n)| !n.closing && !n.flags.no_upload).count();
        let believed = (self.neighbours.len() / REAPPEARS_AT).max(usize::from(tellers >= TWO_OF));
        let mut seen = SmallVec::<[(LinkId, bool); 4]>::new();
        let Push { fresh, watched, reappearance } = &mut self.push;
        for watched in watched.iter_mut().filter(|watched| watched.pushes > 0) {
            let copies = usize::from(self.window.slot(watched.serial).copies);
            if copies > usize::from(watched.pushes).saturating_add(believed) {
                if !watched.reappeared {
                    let (first, last) = (now.since(watched.first_pushed), now.since(watched.pushed));
                    reappearance.note(first, last, tempo.scale());
                    // What was pushed again reappears because of that, or too late to be a merit.
                    if watched.pushes == 1
                        && let Some(to) = watched.first_to
                    {
                        seen.push((to, true));
                    }
                }
                watched.reappeared = true;
            } else if watched.pushed + wait < now
                && !fresh.iter().any(|(serial, _)| *serial == watched.serial)
            {
                if watched.pushes == 1
                    && tellers.saturating_sub(1) > believed
                    && let Some(to) = watched.first_to
                {
                    seen.push((to, false));
                }
                fresh.push_back((watched.serial, now));
            }
        }
        for (to, reappeared) in seen {
            self.note_spread(to, reappeared, now);
        }
    }

    /// Source: what was pushed to a neighbour has reappeared at others, or has not. A newcomer may have nobody yet to
    /// pass it on to.
    fn note_spread(&mut self, to: LinkId, reappeared: bool, now: Timestamp) {
        let tempo = self.tempo;
        let Some(slab) = self.neighbours.find(to) else { return };
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        if contribution::standing(neighbour, &tempo, now) != Standing::Newcomer {
            neighbour.spreads += (f32::from(u8::from(reappeared)) - neighbour.spreads) * SPREADS_STEP;
        }
    }
}

/// Time for a piece to reach `neighbour` and leave it again, in microseconds, on no more than [`FASTEST`].
pub(crate) fn hop_us(neighbour: &Neighbour, tempo: &Tempo) -> f32 {
    let fastest = tempo.piece_len as f32 * 1e6 / (FASTEST * tempo.rate);
    neighbour.rtt.as_micros() as f32 / 2.0 + neighbour.transfer_us(tempo).max(fastest)
}

/// How gladly `neighbour` is pushed to: who has just come may as well be gone again soon, and is one of a crowd.
fn trust(neighbour: &Neighbour, tempo: &Tempo, now: Timestamp) -> f32 {
    match contribution::standing(neighbour, tempo, now) {
        Standing::Giver => 1.0,
        Standing::Newcomer | Standing::Rider => 0.1,
    }
}

fn may_push(neighbour: &Neighbour, serial: u64) -> bool {
    neighbour.greeted && !neighbour.closing && !neighbour.has.get(serial) && neighbour.undrained < 32 * 1024
}
