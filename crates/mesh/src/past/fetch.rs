//! Which piece of a finished segment to ask of whom.
//!
//! Rules:
//! 1. Pieces due within [`SOON`] go first, the earliest first, whichever reader wants them; of those due within [`AHEAD`] the
//!    rarest among neighbours, ties at random, so that many who fetch one segment at a time have something to give each other.
//! 2. [`PIPELINE`] requests are open with a neighbour, and [`IN_FLIGHT`] in all. A piece is asked of one neighbour; of a second
//!    one if it is due within [`URGENT`] and the first has not sent it for [`TWICE_AFTER`].
//! 3. The source is asked for a piece only if no other neighbour has it and it is due within [`SOURCE_AHEAD`], and not within
//!    [`SOURCE_AFTER`] of the time when the segment came to be wanted: others may yet have it. A word is believed for
//!    [`BELIEVED`]. After that it does not keep a piece due within [`SOON`] from being asked of the source, unless who says
//!    it has sent pieces and sent what it was asked for last.
//! 4. What only keepers have, where more fetch it than keep it, all ask of the same keeper, each at another time.
//! 5. A request that comes to nothing is taken back. A neighbour that leaves [`FAILURES`] in a row without a piece is not asked
//!    for [`MUTE`]; one that has never sent any is banned.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minuet_proto::PieceId;
use minuet_proto::mesh::{Kept, KeptBlock, Message, NodeId};
use minuet_proto::{PieceIndex, SegmentSeq};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::SmallVec;

use crate::members::greeting::KNOWS_KEPT;
use crate::members::neighbour::{Neighbour, Neighbours, Slab};
use crate::node::Node;
use crate::past::minutes::{Map, Planned, Wanted};
use crate::past::serve::{FIRST, KeptWant};
use crate::past::telling::Told;
use crate::trust::flood::price;
use crate::{HangUpReason, Output, Timestamp};

/// How far ahead of a reader pieces are fetched.
const AHEAD: Duration = Duration::from_secs(20);
/// A piece due within this time is asked for by deadline.
const SOON: Duration = Duration::from_millis(2500);
/// A piece due within this time may be asked of a second neighbour, …
const URGENT: Duration = Duration::from_millis(1500);
/// … if the first was asked so long ago; and no more than so many pieces at a time.
const TWICE_AFTER: Duration = Duration::from_millis(500);
const MAX_TWICE: usize = 4;
/// What only keepers have, and more fetch than keep, is asked for at random within this time.
const SPREAD: Duration = Duration::from_secs(5);
/// Who has more to give than so many others is not asked for what is not due soon.
const SPARED_FOR: usize = 2;
/// Requests open with one neighbour, and in all.
const PIPELINE: usize = 2;
const IN_FLIGHT: usize = 32;
/// How long others may take to say that they have a piece before the source is asked.
const SOURCE_AFTER: Duration = Duration::from_millis(400);
/// How long who says that it has a piece, and has never sent any, keeps others from asking the source for it.
const BELIEVED: Duration = Duration::from_millis(1500);
/// How far ahead of a reader the source is asked: what was finished just now others will have soon.
const SOURCE_AHEAD: Duration = Duration::from_secs(6);
/// A request without a first block is given up after this time: a holder turns away what it does not begin to send.
const PATIENCE: Duration = Duration::from_millis(2500);
/// A piece whose blocks do not go on is given up after this time, and one that is not whole after that.
const STALL: Duration = Duration::from_millis(1500);
const END: Duration = Duration::from_secs(6);
/// A neighbour that turned a request away is not asked for so long.
const BUSY: Duration = Duration::from_millis(250);
/// Requests in a row that come to nothing until a neighbour is not asked for so long.
const FAILURES: u8 = 4;
const MUTE: Duration = Duration::from_secs(60);
/// Neighbours that have some of what is wanted, so that no others are looked for.
const ENOUGH: usize = 3;
/// How often it is chosen anew what to ask, because of what a neighbour says.
const PAUSE: Duration = Duration::from_millis(20);
/// How long nothing is fetched after the host could not keep a piece.
const STOP: Duration = Duration::from_secs(2);

/// A piece of a finished segment that a neighbour is asked for.
#[derive(Debug)]
pub(crate) struct KeptAsked {
    pub piece: PieceId,
    at: Timestamp,
    heard: Timestamp,
    data: BytesMut,
}

impl KeptAsked {
    /// Bytes of memory that it takes.
    pub fn arriving(&self) -> usize {
        self.data.capacity()
    }
}

/// What concerns finished segments at one neighbour.
#[derive(Debug, Default)]
pub(crate) struct KeptSide {
    pub told: Told,
    pub asked: SmallVec<[KeptAsked; 2]>,
    pub wants: SmallVec<[KeptWant; 2]>,
    /// Before this time no other piece that it asks for goes before all others.
    pub first_after: Timestamp,
    busy_until: Timestamp,
    mute_until: Timestamp,
    failures: u8,
    delivered: bool,
    /// When it was asked because of what it said.
    heeded: Timestamp,
}

impl KeptSide {
    /// Whether it has failed so often that it is not asked.
    pub fn is_mute(&self, now: Timestamp) -> bool {
        self.mute_until > now
    }
}

/// What the host makes of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is right, and can be read from now on.
    Good,
    /// Its hash is another.
    Bad,
    /// It is right but cannot be kept.
    NotKept,
}

impl Node {
    /// What readers want from now on, in place of what they wanted before.
    pub(crate) fn on_plan(&mut self, plans: Vec<Planned>, now: Timestamp) {
        let new = self.past.plan(plans, now);
        self.take_back_unplanned(now);
        self.forget_maps();
        if !new.is_empty() {
            self.tell_wishes(&new, now);
            self.learn_wanted(now);
        }
        self.ask_all_kept(now);
    }

    /// The tick's share.
    pub(crate) fn kept_tick(&mut self, now: Timestamp) {
        if !self.past.wanted.is_empty() {
            self.give_up_kept(now);
            self.learn_wanted(now);
            self.ask_everybody(now);
        }
        self.turn_away_kept(now);
        self.tell_kept_news(now);
    }

    /// How many neighbours have a piece that is wanted, by their word. The host skips what nobody has.
    pub fn who_keeps(&self, piece: PieceId) -> usize {
        let has = |n: &Neighbour| !n.closing && n.kept.told.has(piece.segment.0, piece.piece.0);
        self.neighbours.iter().filter(|(_, n)| has(n)).count()
    }

    /// Neighbours that have any of a segment, by their word.
    pub fn who_keeps_some(&self, segment: SegmentSeq) -> usize {
        let has = |n: &Neighbour| !n.closing && n.kept.told.has_some(segment.0);
        self.neighbours.iter().filter(|(_, n)| has(n)).count()
    }

    /// Whether something is wanted of which fewer than [`ENOUGH`] neighbours, the source not counted, have anything.
    pub(crate) fn lacks_keepers(&self) -> bool {
        self.past.wanted.iter().any(|wanted| {
            let segment = wanted.segment.0;
            let has = |n: &Neighbour| !n.closing && !n.flags.source && n.kept.told.has_some(segment);
            self.neighbours.iter().filter(|(_, n)| has(n)).count() < ENOUGH
        })
    }

    /// The first segment from `from` on that a neighbour has as a whole, by its word.
    pub fn next_kept(&self, from: SegmentSeq) -> Option<SegmentSeq> {
        let ranges = self.neighbours.iter().filter(|(_, n)| !n.closing).flat_map(|(_, n)| &n.kept.told.whole);
        let next = ranges.filter_map(|(first, count)| {
            let end = first.0.saturating_add(*count);
            (end > from.0).then(|| first.0.max(from.0))
        });
        next.min().map(SegmentSeq)
    }

    /// Asks all neighbours, at most once in [`PAUSE`]; what is left over the tick does.
    pub(crate) fn ask_all_kept(&mut self, now: Timestamp) {
        if self.past.all_asked + PAUSE <= now {
            self.ask_everybody(now);
        }
    }

    fn ask_everybody(&mut self, now: Timestamp) {
        if self.past.wanted.is_empty() {
            return;
        }
        self.past.all_asked = now;
        // Not always the same first.
        let slabs = self.neighbours.slabs();
        let count = slabs.len().max(1);
        let turn = self.rng.random_range(0..count);
        for index in slabs {
            self.ask_kept(index.saturating_add(turn).checked_rem(count).unwrap_or(0), now);
        }
    }

    /// A neighbour has said what it has: it is asked for some, at most once in [`PAUSE`]. Words are cheap, and choosing is not;
    /// what is left over the tick does.
    pub(crate) fn heed_kept(&mut self, of: Slab, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(of) else { return };
        if neighbour.kept.heeded + PAUSE <= now {
            neighbour.kept.heeded = now;
            self.ask_kept(of, now);
        }
    }

    /// Asks a neighbour for what it has and is wanted most, as far as there is room.
    pub(crate) fn ask_kept(&mut self, of: Slab, now: Timestamp) {
        if self.past.wanted.is_empty() || self.past.stopped_until > now {
            return;
        }
        loop {
            let in_flight: usize = self.past.wanted.iter().map(|wanted| wanted.asked.len()).sum();
            let Some((piece, due)) = (in_flight < IN_FLIGHT).then(|| self.choose_kept(of, now)).flatten()
            else {
                return;
            };
            let Some(neighbour) = self.neighbours.get_mut(of) else { return };
            neighbour.kept.asked.push(KeptAsked { piece, at: now, heard: now, data: BytesMut::new() });
            if let Some(wanted) = self.past.wanted_mut(piece.segment.0) {
                let asked = wanted.asked.entry(piece.piece.0).or_default();
                *asked = asked.saturating_add(1);
            }
            let is_first = self.past.minutes.get(&piece.segment.0).is_some_and(|minute| {
                let wanted = self.past.wanted(piece.segment.0);
                wanted.is_some_and(|wanted| wanted.is_first(piece.piece.0, minute.shape))
            });
            let due_in_ms = u32::try_from(due.since(now).as_millis()).unwrap_or(u32::MAX);
            let due_in_ms = if is_first { FIRST } else { due_in_ms.max(FIRST.saturating_add(1)) };
            self.send(of, Message::Kept(Kept::Request { piece, due_in_ms }), now);
        }
    }

    fn choose_kept(&mut self, of: Slab, now: Timestamp) -> Option<(PieceId, Timestamp)> {
        // Its own, so that the node can be asked meanwhile.
        let mut rng = SmallRng::seed_from_u64(self.rng.random());
        let neighbour = self.neighbours.get(of)?;
        let kept = &neighbour.kept;
        let is_open = neighbour.greeted && !neighbour.closing && neighbour.version >= KNOWS_KEPT;
        if !is_open || kept.asked.len() >= PIPELINE || kept.busy_until > now || kept.is_mute(now) {
            return None;
        }
        let twice = self.past.wanted.iter().flat_map(|w| w.asked.values()).filter(|n| **n > 1).count();
        let reach = kept.told.reach();
        let mut best: Option<((u64, usize, u32), PieceId, Timestamp)> = None;
        for wanted in &self.past.wanted {
            let segment = wanted.segment;
            let Some(minute) = self.past.minutes.get(&segment.0) else { continue };
            if !kept.told.has_some(segment.0) {
                continue;
            }
            let own = Holding::of(neighbour, segment.0);
            let holders = Holders::of(&self.neighbours, segment, reach, now);
            for (piece, due) in wanted.due_before(now + AHEAD, minute.shape) {
                // From here on nothing goes by deadline: what is chosen goes before all of it.
                if due >= now + SPREAD && best.as_ref().is_some_and(|((by, ..), ..)| *by < u64::MAX) {
                    break;
                }
                if minute.has(piece) || wanted.verifying.contains(&piece) || !own.has(piece) {
                    continue;
                }
                let id = PieceId { segment, piece: PieceIndex(piece) };
                let asked = wanted.asked.get(&piece).copied().unwrap_or(0);
                if asked > 0 && !(twice < MAX_TWICE && self.may_ask_again(id, asked, of, due, now)) {
                    continue;
                }
                if neighbour.flags.source && !self.may_ask_source(wanted, id, due, of, now) {
                    continue;
                }
                let crowd = holders.crowd(id);
                let is_others = crowd.as_ref().is_some_and(|crowd| own.whole && crowd.is_for_others(of));
                if is_others && due > now + URGENT {
                    continue;
                }
                if due > now + SOON && holders.is_better_spared(piece) {
                    continue;
                }
                let rank = if crowd.is_some_and(|crowd| !crowd.spreads) && due < now + SPREAD {
                    (now.0.saturating_add(rng.random_range(0..SPREAD.as_micros() as u64)), 0, 0)
                } else if due < now + SOON {
                    (due.0, 0, 0)
                } else {
                    (u64::MAX, holders.count(piece), rng.random())
                };
                if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                    best = Some((rank, id, due));
                }
            }
        }
        best.map(|(_, piece, due)| (piece, due))
    }

    /// Whether more neighbours fetch a segment than keep it.
    pub(crate) fn is_crowded(&self, segment: SegmentSeq) -> bool {
        let (mut fetch, mut keep) = (0usize, 0usize);
        for (_, neighbour) in self.neighbours.iter().filter(|(_, n)| !n.closing && !n.flags.source) {
            let told = &neighbour.kept.told;
            let is_whole = told.has_whole(segment.0);
            keep = keep.saturating_add(usize::from(is_whole));
            fetch = fetch.saturating_add(usize::from(!is_whole && told.wishes.contains(&segment.0)));
        }
        fetch > 0 && fetch >= keep
    }

    /// Others who fetch a segment have pieces of it now: what was asked of a keeper, and has not begun to come, is asked of them.
    pub(crate) fn take_back_from_keepers(
        &mut self,
        segment: SegmentSeq,
        pieces: &[PieceIndex],
        now: Timestamp,
    ) {
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab).filter(|n| n.kept.told.has_whole(segment.0))
            else {
                continue;
            };
            let mut back: SmallVec<[PieceId; 2]> = SmallVec::new();
            neighbour.kept.asked.retain(|asked| {
                let is_one = asked.piece.segment == segment && pieces.contains(&asked.piece.piece);
                let goes = is_one && asked.data.is_empty();
                if goes {
                    back.push(asked.piece);
                }
                !goes
            });
            for piece in back {
                self.asked_less_kept(piece);
                self.send(slab, Message::Kept(Kept::Cancel(piece)), now);
            }
        }
    }

    fn may_ask_again(&self, piece: PieceId, asked: u8, of: Slab, due: Timestamp, now: Timestamp) -> bool {
        let waits = |a: &KeptAsked| a.piece == piece && a.at + TWICE_AFTER > now;
        // The source is asked when two who say that they have it have let it wait.
        let most = if self.neighbours.get(of).is_some_and(|n| n.flags.source) { 2 } else { 1 };
        asked <= most
            && due < now + URGENT
            && !self
                .neighbours
                .iter()
                .any(|(slab, n)| n.kept.asked.iter().any(|a| a.piece == piece && slab == of || waits(a)))
    }

    fn may_ask_source(
        &self,
        wanted: &Wanted,
        piece: PieceId,
        due: Timestamp,
        source: Slab,
        now: Timestamp,
    ) -> bool {
        let believes_all = wanted.since + BELIEVED > now || due > now + SOON;
        let another = |(slab, n): (Slab, &Neighbour)| {
            slab != source
                && !n.closing
                && !n.kept.is_mute(now)
                && (believes_all || n.kept.delivered && n.kept.failures == 0)
                && n.kept.told.has(piece.segment.0, piece.piece.0)
        };
        wanted.since + SOURCE_AFTER <= now
            && due <= now + SOURCE_AHEAD
            && !self.neighbours.iter().any(another)
    }

    /// A block came in.
    pub(crate) fn on_kept_block(&mut self, from: Slab, block: KeptBlock, payload: Bytes, now: Timestamp) {
        let piece = block.piece;
        self.stats.payload_received = self.stats.payload_received.saturating_add(block.len.into());
        let len = self.past.len_of(piece);
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if neighbour.flags.source {
            self.stats.source_received = self.stats.source_received.saturating_add(block.len.into());
        }
        let index = neighbour.kept.asked.iter().position(|asked| asked.piece == piece);
        let Some((index, len)) = index.zip(len) else { return self.waste_kept(from, &block, now) };
        if payload.len() != block.len as usize || block.piece_len != len {
            return self.hang_up(from, HangUpReason::Protocol, true, now);
        }
        let asked = &mut neighbour.kept.asked[index];
        if asked.data.len() != block.offset as usize {
            return self.waste_kept(from, &block, now);
        }
        asked.heard = now;
        asked.data.extend_from_slice(&payload);
        if asked.data.len() < len as usize {
            return;
        }
        let asked = neighbour.kept.asked.swap_remove(index);
        neighbour.delivered = now;
        let node = neighbour.node;
        self.asked_less_kept(piece);
        if let Some(wanted) = self.past.wanted_mut(piece.segment.0) {
            wanted.verifying.push(piece.piece.0);
        }
        self.past.verifying.push((piece, node));
        self.out.push_back(Output::VerifyKept { piece, data: asked.data.freeze() });
        self.cancel_kept(piece, now);
        self.ask_kept(from, now);
    }

    fn waste_kept(&mut self, from: Slab, block: &KeptBlock, now: Timestamp) {
        self.stats.wasted = self.stats.wasted.saturating_add(block.len.into());
        self.charge_flood(from, price::USELESS_BLOCK, now);
    }

    /// The host has hashed a piece.
    pub(crate) fn on_kept_verified(&mut self, piece: PieceId, verdict: Verdict, now: Timestamp) {
        let Some(index) = self.past.verifying.iter().position(|(id, _)| *id == piece) else { return };
        let (_, node) = self.past.verifying.swap_remove(index);
        if let Some(wanted) = self.past.wanted_mut(piece.segment.0) {
            wanted.verifying.retain(|verifying| *verifying != piece.piece.0);
        }
        let from = self.neighbours.iter().find(|(_, n)| n.node == node).map(|(slab, _)| slab);
        match verdict {
            Verdict::Good => {
                self.stats.pieces_verified = self.stats.pieces_verified.saturating_add(1);
                let len = self.past.len_of(piece).unwrap_or(0);
                self.stats.kept_taken = self.stats.kept_taken.saturating_add(len.into());
                if let Some(neighbour) = from.and_then(|from| self.neighbours.get_mut(from)) {
                    neighbour.kept.failures = 0;
                    neighbour.kept.delivered = true;
                    neighbour.taken = neighbour.taken.saturating_add(len.into());
                    neighbour.taken_lately += len as f32;
                }
                self.past.set(piece);
                self.past.untold.push(piece);
            }
            Verdict::Bad => {
                self.stats.pieces_corrupt = self.stats.pieces_corrupt.saturating_add(1);
                match from {
                    Some(from) => self.hang_up(from, HangUpReason::Corrupt, true, now),
                    None => self.bans.ban(node, now),
                }
                self.ask_all_kept(now);
            }
            Verdict::NotKept => self.past.stopped_until = now + STOP,
        }
    }

    /// The host has a piece from elsewhere.
    pub(crate) fn on_kept_stored(&mut self, piece: PieceId, now: Timestamp) {
        if !self.past.has(piece) {
            self.past.set(piece);
            self.past.untold.push(piece);
            self.cancel_kept(piece, now);
        }
    }

    /// A neighbour does not serve a request.
    pub(crate) fn on_kept_reject(&mut self, from: Slab, piece: PieceId, has: bool, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let Some(index) = neighbour.kept.asked.iter().position(|asked| asked.piece == piece) else { return };
        neighbour.kept.asked.swap_remove(index);
        if has {
            neighbour.kept.busy_until = now + BUSY;
        } else {
            neighbour.kept.told.lacks(piece.segment.0, piece.piece.0);
        }
        self.asked_less_kept(piece);
        if has || !self.charge_flood(from, price::KEPT_LIE, now) {
            self.ask_all_kept(now);
        }
    }

    fn asked_less_kept(&mut self, piece: PieceId) {
        let Some(wanted) = self.past.wanted_mut(piece.segment.0) else { return };
        let Some(asked) = wanted.asked.get_mut(&piece.piece.0) else { return };
        *asked = asked.saturating_sub(1);
        if *asked == 0 {
            wanted.asked.remove(&piece.piece.0);
        }
    }

    /// Takes all requests for a piece back.
    fn cancel_kept(&mut self, piece: PieceId, now: Timestamp) {
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let Some(index) = neighbour.kept.asked.iter().position(|asked| asked.piece == piece) else {
                continue;
            };
            neighbour.kept.asked.swap_remove(index);
            self.asked_less_kept(piece);
            self.send(slab, Message::Kept(Kept::Cancel(piece)), now);
        }
    }

    /// Takes back what is not planned any more.
    fn take_back_unplanned(&mut self, now: Timestamp) {
        let asked = self.neighbours.iter().flat_map(|(_, n)| n.kept.asked.iter().map(|asked| asked.piece));
        let unplanned: Vec<PieceId> =
            asked.filter(|piece| self.past.wanted(piece.segment.0).is_none()).collect();
        unplanned.into_iter().for_each(|piece| self.cancel_kept(piece, now));
    }

    /// Requests that come to nothing.
    fn give_up_kept(&mut self, now: Timestamp) {
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let patience = neighbour.rtt.saturating_add(PATIENCE);
            let given_up = |a: &KeptAsked| match a.data.is_empty() {
                true => a.at + patience < now,
                false => a.heard + STALL < now || a.at + END.saturating_add(patience) < now,
            };
            let Some(index) = neighbour.kept.asked.iter().position(given_up) else { continue };
            let asked = neighbour.kept.asked.swap_remove(index);
            let talks = neighbour.heard > asked.at + neighbour.rtt;
            let kept = &mut neighbour.kept;
            kept.failures = kept.failures.saturating_add(1);
            let gives_up = kept.failures >= FAILURES;
            if gives_up {
                (kept.failures, kept.mute_until) = (0, now + MUTE);
            }
            let liar = gives_up && !kept.delivered && talks;
            self.asked_less_kept(asked.piece);
            self.send(slab, Message::Kept(Kept::Cancel(asked.piece)), now);
            if liar {
                self.hang_up(slab, HangUpReason::Liar, true, now);
            }
        }
    }

    /// Takes back what counted on a neighbour.
    pub(crate) fn forget_kept(&mut self, slab: Slab) {
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        let kept = std::mem::take(&mut neighbour.kept);
        kept.asked.into_iter().for_each(|asked| self.asked_less_kept(asked.piece));
    }
}

/// What a neighbour has of one segment, looked up once for all pieces.
struct Holding<'a> {
    whole: bool,
    map: Option<&'a Map>,
}

impl<'a> Holding<'a> {
    fn of(neighbour: &'a Neighbour, segment: u64) -> Self {
        let told = &neighbour.kept.told;
        Self { whole: told.has_whole(segment), map: told.map(segment) }
    }

    fn has(&self, piece: u32) -> bool {
        self.whole || self.map.is_some_and(|map| map.get(piece))
    }
}

/// Who has what of a segment. A neighbour may say much of itself, and what it says is gone through here, once for a segment
/// and not once for a piece.
struct Holders<'a> {
    all: SmallVec<[Holder<'a>; 32]>,
    /// More fetch the segment than keep it.
    is_crowded: bool,
}

struct Holder<'a> {
    slab: Slab,
    node: &'a NodeId,
    has: Holding<'a>,
    /// It keeps the segment, and can be asked.
    keeps: bool,
    /// It is to be asked before the neighbour in question, which has more to give.
    first: bool,
}

impl<'a> Holders<'a> {
    /// All of them; `reach` is that of the neighbour that may be asked.
    fn of(neighbours: &'a Neighbours, segment: SegmentSeq, reach: u64, now: Timestamp) -> Self {
        let (mut fetch, mut keep, mut all) = (0usize, 0usize, SmallVec::new());
        for (slab, neighbour) in neighbours.iter().filter(|(_, n)| !n.closing) {
            let kept = &neighbour.kept;
            let has = Holding::of(neighbour, segment.0);
            let open = !neighbour.flags.source && !kept.is_mute(now);
            let keeps = has.whole && open;
            keep = keep.saturating_add(keeps.into());
            let fetches = !has.whole && kept.told.wishes.contains(&segment.0);
            fetch = fetch.saturating_add(fetches.into());
            let first = open && kept.busy_until <= now && kept.told.reach() < reach;
            if has.whole || has.map.is_some() {
                all.push(Holder { slab, node: &neighbour.node, has, keeps, first });
            }
        }
        Self { all, is_crowded: fetch > 0 && fetch >= keep }
    }

    /// How many have a piece.
    fn count(&self, piece: u32) -> usize {
        self.all.iter().filter(|holder| holder.has.has(piece)).count()
    }

    /// Whether others have a piece who have less else to give: who is near the live edge is the only one that can serve who is
    /// right behind it.
    fn is_better_spared(&self, piece: u32) -> bool {
        let fits = |holder: &&Holder<'_>| holder.first && holder.has.has(piece);
        self.all.iter().filter(fits).nth(SPARED_FOR.saturating_sub(1)).is_some()
    }

    /// Whether more fetch a piece's segment than keep it, and of whom to ask it then. If each asked anybody for what is due next,
    /// keepers would send that to each, and nothing else.
    fn crowd(&self, piece: PieceId) -> Option<Crowd> {
        if !self.is_crowded {
            return None;
        }
        let index = piece.piece.0;
        let spreads = self.all.iter().any(|holder| !holder.has.whole && holder.has.has(index));
        let keepers = self.all.iter().filter(|holder| holder.keeps && !spreads);
        let first = keepers.max_by_key(|holder| (turn(holder.node, piece), holder.slab));
        Some(Crowd { spreads, turn: first.map(|holder| holder.slab) })
    }
}

/// More fetch a segment than keep it.
struct Crowd {
    /// Somebody who fetches it has the piece.
    spreads: bool,
    /// The keeper that sends the piece, if nobody has it who fetches; none where only the source keeps it.
    turn: Option<Slab>,
}

impl Crowd {
    /// Whether a keeper is not to be asked for the piece: keepers send what only they have, each another part of it.
    fn is_for_others(&self, of: Slab) -> bool {
        self.spreads || self.turn.is_some_and(|turn| turn != of)
    }
}

/// Whose turn a piece is: of all who have it, that of the node with the greatest number (rendezvous hashing, Thaler, Ravishankar
/// 1998). Whoever seeks numbers that win gains nothing: what is urgent is asked of anybody.
fn turn(node: &NodeId, piece: PieceId) -> u64 {
    let mut mixed = node.0.iter().fold(piece.segment.0, |sum, byte| {
        sum.rotate_left(8).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*byte)
    });
    mixed ^= u64::from(piece.piece.0).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
