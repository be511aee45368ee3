//! Push: fresh pieces go out unasked while hardly anybody can have them.
//!
//! A request takes a round trip, and as long as a piece is rare everybody lacks it, so requests tell nothing. Rules:
//! 1. The *source* pushes each piece once, as soon as it closes, to one neighbour (super-seeding, BEP 16).
//!    - Turns are taken in proportion to how fast a neighbour can pass a piece on (to the third power: measured) and to how many
//!      of the pieces pushed to it reappear at others. Newcomers get few. Who has never spread one is found out by the first few.
//!    - A piece that hardly anybody else promises in the time that pieces take here (`reappearance.rs`) was lost with its
//!      receiver, or its receiver keeps it back. A receiver is not blamed if hardly anybody beside it would promise one (a lone
//!      viewer). The piece may also only be slow, so the source pushes it again after what waits already. A piece that its
//!      receiver refuses is pushed again at once. What is pushed again goes to a neighbour that has spread one before, if there is
//!      one: a piece that several receivers in a row keep back would come too late for all.
//!    - The source does not say that it holds a piece until [`HELP_AFTER`] of the time after which it would push it again. From
//!      then on nodes that still lack the piece may request it from the source.
//! 2. A *viewer* pushes a fresh piece on while fewer than one in [`PUSH_BELOW`] of its neighbours have it, those it pushed to
//!    included (to push more often was tried and collides). After that pushes would collide, and neighbours request the piece
//!    anyway. Near neighbours come first, and those that no hidden node can serve (`neighbourhood.rs`, rule 6).
//! 3. Nothing is pushed to a neighbour that has gone quiet, nor to one that tells of no new pieces while others do: a node that
//!    gets the stream tells of it, and silent links must not swallow what nobody else has. What a source has pushed there at the
//!    beginning, when nobody told yet, it pushes again as soon as somebody does.

use std::collections::VecDeque;
use std::time::Duration;

use minuet_proto::mesh::Serial;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::SmallVec;

use crate::members::neighbour::{Neighbour, Outgoing, Slab};
use crate::node::Node;
use crate::stream::tempo::Tempo;
use crate::supply::contribution::{self, Standing};
use crate::supply::reappearance::Reappearance;
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
/// The same step for one that has never spread a piece: one in twenty may fail by bad luck, and four in a row do not.
const UNPROVEN_STEP: f32 = 0.5;
/// Nobody is blamed before its link is so old: a newcomer may have nobody yet to pass a piece on to.
const BLAMED_AFTER: Duration = Duration::from_secs(5);
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
    /// Viewer: what the next push leaves to chance.
    dice: u64,
}

/// A push that could begin now.
#[derive(Debug, Clone, Copy)]
pub(super) struct NextPush {
    pub serial: u64,
    pub to: Slab,
}

impl Push {
    /// Nothing to push yet. The first push goes by `dice`.
    pub fn new(dice: u64) -> Self {
        Self { dice, ..Self::default() }
    }

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
    /// The next push, if there is a piece to push and somebody to push it to. Nothing changes by the question:
    /// [`Node::begin_push`] takes the receiver's turn.
    pub(super) fn choose_push(&self, now: Timestamp) -> Option<NextPush> {
        let mut fresh = self.push.fresh.iter().map(|(serial, _)| *serial);
        if self.role == Role::Source {
            let serial = fresh.find(|serial| self.is_lacked(*serial))?;
            // Smooth weighted round robin: the first of those whose turn it is most.
            let turns = self.turns(serial, now).into_iter();
            let credits =
                turns.filter_map(|(to, weight)| Some((to, self.neighbours.get(to)?.credit + weight)));
            let most = credits.reduce(|most, other| if other.1 > most.1 { other } else { most });
            return most.map(|(to, _)| NextPush { serial, to });
        }
        // The same dice until a push is begun, so that the answer is the same.
        let mut dice = SmallRng::seed_from_u64(self.push.dice);
        let edge = self.window.edge();
        // The newest is the rarest.
        fresh.rev().filter(|serial| self.is_fresh(*serial, now)).find_map(|serial| {
            // Near ones first, but not always the same ones, which others push to as well.
            let mut target: Option<(Slab, f32)> = None;
            for (to, n) in self.neighbours.iter() {
                if !may_push(n, serial)
                    || n.flags.source
                    || !n.outgoing.is_empty()
                    || n.quiet(self.quiet_after, now)
                    || !n.tells(edge)
                {
                    continue;
                }
                let elsewhere = if self.hidden_ones_serve(n) { ELSEWHERE } else { 1.0 };
                let chance = 1.0 + dice.random::<f32>();
                let far = hop_us(n, &self.tempo) * elsewhere * chance / trust(n, &self.tempo, now);
                if target.is_none_or(|(_, least)| far < least) {
                    target = Some((to, far));
                }
            }
            target.map(|(to, _)| NextPush { serial, to })
        })
    }

    /// Source: whether somebody has yet to get a piece. Who plays what is past takes none.
    fn is_lacked(&self, serial: u64) -> bool {
        let mut live = self.neighbours.iter().filter(|(_, n)| !n.flags.elsewhere).peekable();
        live.peek().is_none() || live.any(|(_, n)| !n.closing && !n.side.has(serial))
    }

    /// Viewer: whether a piece is still to be pushed, if it is one of [`Push::fresh`].
    fn is_fresh(&self, serial: u64, now: Timestamp) -> bool {
        let copies = usize::from(self.exchange.copies(serial));
        let came = self.push.fresh.iter().find(|(fresh, _)| *fresh == serial).map(|(_, came)| *came);
        came.is_some_and(|came| came + self.tempo.time(FRESH) > now)
            && copies.saturating_mul(PUSH_BELOW) < self.listeners
    }

    /// Forgets what is not pushed any more: what all have by now must not hold up what they lack.
    pub(crate) fn forget_pushed(&mut self, now: Timestamp) {
        let is_source = self.role == Role::Source;
        let waits = |serial: u64| if is_source { self.is_lacked(serial) } else { self.is_fresh(serial, now) };
        let gone: SmallVec<[u64; MAX_FRESH]> =
            self.push.fresh.iter().map(|(serial, _)| *serial).filter(|serial| !waits(*serial)).collect();
        gone.into_iter().for_each(|serial| self.push.forget(serial));
    }

    /// Begins a push: it is sent next, and its receiver has had its turn.
    pub(super) fn begin_push(&mut self, push: NextPush, now: Timestamp) {
        let NextPush { serial, to } = push;
        if self.role == Role::Source {
            let turns = self.turns(serial, now);
            let total: f32 = turns.iter().map(|(_, weight)| *weight).sum();
            for (slab, weight) in turns {
                let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
                neighbour.credit += weight;
                if slab == to {
                    neighbour.credit -= total;
                    neighbour.note_pushed(serial);
                }
            }
        } else {
            self.push.dice = self.rng.random();
        }
        if let Some(neighbour) = self.neighbours.get_mut(to) {
            neighbour.outgoing.push(Outgoing { serial, since: now, due: None, sent: 0 });
        }
    }

    /// Source: who may be pushed a piece, those that spread well, and how often in proportion.
    fn turns(&self, serial: u64, now: Timestamp) -> SmallVec<[(Slab, f32); 64]> {
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
        let again = self.push.watched.iter().any(|watched| watched.serial == serial && watched.pushes > 0);
        let proven = |n: &Neighbour| n.has_spread && n.spreads > UNPROVEN_STEP;
        let any_proven = again && self.neighbours.iter().any(|(_, n)| fit(n) && proven(n));
        let fits = |n: &Neighbour| (!any_fit || fit(n)) && (!any_proven || proven(n));
        let able = self.neighbours.iter().filter(|(_, n)| may_push(n, serial) && fits(n));
        able.map(|(slab, n)| {
            let spreads = n.spreads.max(SPREADS_LEAST);
            (slab, (usual / hop_us(n, &tempo)).powi(3) * trust(n, &tempo, now) * spreads)
        })
        .collect()
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
        if self.exchange.copies(serial) <= watched.pushes && !waits {
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
        // Silent links have kept it all.
        let edge = self.window.edge();
        let tells = self.neighbours.iter().any(|(_, n)| n.tells(edge));
        let neighbours = &self.neighbours;
        let is_mute = |to: LinkId| {
            neighbours.find(to).and_then(|slab| neighbours.get(slab)).is_none_or(Neighbour::is_mute)
        };
        let (soon, mut swallowed) = (wait.mul_f64(0.5), Vec::new());
        let mut seen = SmallVec::<[(LinkId, bool); 4]>::new();
        let Push { fresh, watched, reappearance, .. } = &mut self.push;
        for watched in watched.iter_mut().filter(|watched| watched.pushes > 0) {
            let copies = usize::from(self.exchange.copies(watched.serial));
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
            } else if tells
                && watched.pushes == 1
                && watched.pushed + soon < now
                && watched.first_to.is_some_and(is_mute)
                && !fresh.iter().any(|(serial, _)| *serial == watched.serial)
            {
                swallowed.push(watched.serial);
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
        // The oldest first: they are needed first.
        swallowed.into_iter().rev().for_each(|serial| fresh.push_front((serial, now)));
        for (to, reappeared) in seen {
            self.note_spread(to, reappeared, now);
        }
    }

    /// Source: what was pushed to a neighbour has reappeared at others, or has not.
    fn note_spread(&mut self, to: LinkId, reappeared: bool, now: Timestamp) {
        let Some(slab) = self.neighbours.find(to) else { return };
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        neighbour.has_spread |= reappeared;
        let step = if neighbour.has_spread { SPREADS_STEP } else { UNPROVEN_STEP };
        if reappeared || neighbour.since + BLAMED_AFTER < now {
            neighbour.spreads += (f32::from(u8::from(reappeared)) - neighbour.spreads) * step;
        }
    }
}

/// Time for a piece to reach `neighbour` and leave it again, in microseconds.
pub(crate) fn hop_us(neighbour: &Neighbour, tempo: &Tempo) -> f32 {
    neighbour.rtt.as_micros() as f32 / 2.0 + believed_transfer_us(neighbour, tempo)
}

/// Time that a piece takes on the uplink that a neighbour promises, in microseconds, on no more than [`FASTEST`].
pub(crate) fn believed_transfer_us(neighbour: &Neighbour, tempo: &Tempo) -> f32 {
    let fastest = tempo.piece_len as f32 * 1e6 / (FASTEST * tempo.rate);
    neighbour.transfer_us(tempo).max(fastest)
}

/// How gladly `neighbour` is pushed to: who has just come may as well be gone again soon, and is one of a crowd.
fn trust(neighbour: &Neighbour, tempo: &Tempo, now: Timestamp) -> f32 {
    match contribution::standing(neighbour, tempo, now) {
        Standing::Giver => 1.0,
        Standing::Newcomer | Standing::Rider => 0.1,
    }
}

fn may_push(neighbour: &Neighbour, serial: u64) -> bool {
    neighbour.greeted
        && !neighbour.closing
        && !neighbour.flags.elsewhere
        && !neighbour.side.has(serial)
        && neighbour.undrained < 32 * 1024
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use minuet_proto::mesh::{Hello, HelloFlags, Message, NodeId, SIGNATURE_LEN};
    use minuet_proto::{PieceHash, PieceId, PieceIndex, SegmentSeq};

    use super::*;
    use crate::{Config, Direction, HeadKey, Input, PieceRef};

    struct Trusting;

    impl HeadKey for Trusting {
        fn verify(&self, _: &[u8], _: &[u8; SIGNATURE_LEN]) -> bool {
            true
        }

        fn sign(&self, _: &[u8]) -> [u8; SIGNATURE_LEN] {
            [0; SIGNATURE_LEN]
        }
    }

    /// A source whose uplink is busy with its first piece, while a second one waits to be pushed to one of three neighbours.
    fn busy_source(now: Timestamp) -> Node {
        let mut config = Config::new(NodeId([255; 32]), Arc::new(Trusting));
        config.upload_limit = Some(100_000);
        let mut node = Node::new(config, Role::Source, 1, now);
        for key in 1..4 {
            let (link, peer) = (LinkId(key.into()), NodeId([key; 32]));
            let (direction, rtt) = (Direction::Accepted, Duration::from_millis(40));
            node.handle(Input::LinkUp { link, peer, direction, rtt, ip: None }, now);
            let hello =
                Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 8000, extensions: vec![] };
            let message = Message::Hello(hello);
            node.handle(Input::Message { link, message, payload: Bytes::new() }, now);
        }
        for serial in 0..2u32 {
            let piece = PieceRef {
                serial: Serial::new(serial.into()),
                id: PieceId { segment: SegmentSeq(0), piece: PieceIndex(serial) },
                len: 65_536,
                hash: PieceHash::new([0; 20]),
                ingest_ms: 1000,
            };
            node.handle(Input::PieceClosed { piece, random_access: true }, now);
        }
        node
    }

    #[test]
    fn a_receiver_has_its_turn_when_the_push_begins() {
        let now = Timestamp(1_000_000);
        let mut node = busy_source(now);
        let credits = |node: &Node| node.neighbours.iter().map(|(_, n)| n.credit).collect::<Vec<_>>();
        let before = credits(&node);
        let push = node.choose_push(now).unwrap();
        assert_eq!(push.serial, 1);
        // Asked as often as anybody likes, the answer is the same.
        assert_eq!((node.choose_push(now).unwrap().to, credits(&node)), (push.to, before.clone()));
        node.begin_push(push, now);
        let after = credits(&node);
        assert!(after[push.to] < before[push.to], "{before:?} {after:?}");
        assert!((0..3).filter(|slab| *slab != push.to).all(|slab| after[slab] > before[slab]));
        // All have their turn.
        let mut had = vec![push.to];
        for _ in 0..2 {
            let push = node.choose_push(now).unwrap();
            node.begin_push(push, now);
            had.push(push.to);
        }
        had.sort_unstable();
        assert_eq!(had, [0, 1, 2]);
    }
}
