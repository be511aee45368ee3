//! The uplink scheduler: what is sent next, and when.
//!
//! Rules:
//! 1. *Hard ceiling.* The bytes of all messages sent in any second never exceed the limit. A log of the last second proves it.
//!    Blocks are also spaced evenly, so that a burst never has to be paid for with silence. Up to [`CREDIT`] of what could not
//!    be sent in time is made good, but not the time in which there was nothing to send.
//! 2. *One piece at a time, at full rate.* Store and forward spreads fastest when the first receiver is served whole before
//!    the second (Liu, "snowball", ACM MM 2007). A receiver whose link is congested is skipped.
//! 3. *Most good first.* In this order:
//!    - what is about to be due at neighbours that have been here for a while, for up to half of the uplink;
//!    - a newcomer's first piece, so that it has a picture and something to give;
//!    - rare pieces, since one copy of such a piece lets many others be made: if what is due came before them, a crowd that
//!      lacks everything would stop the live edge for all;
//!    - what is due at newcomers, for a part of the uplink;
//!    - the rest, newcomers after the others, and riders last.
//!
//!    So a single newcomer lacks nothing, and a crowd at the door lives on what those inside leave. Within a class, neighbours
//!    that no hidden node can serve come first (`neighbourhood.rs`, rule 6). Then come pieces with the fewest copies among the
//!    neighbours, the newest first; of pieces that are not rare the oldest first, so that nobody waits long for what most have.
//!    A fresh piece to push interrupts one that most have.
//!
//!    A source sends first what is due soon and was never sent, then pushes (`push.rs`), then the rest. So each byte goes out
//!    once before any goes out twice, in the order in which it is needed, even if the source is behind.
//! 4. *Short queues, and an answer to each request*, except for one that crosses its own piece on the way. At most
//!    [`MAX_WAITING`] requests wait, none longer than [`HOLD`]. What would be served last is rejected at once, so that its
//!    sender requests it from an idle holder instead.
//! 5. *Queues live here.* No more than two blocks, or a [`Config::transport_queue`](crate::Config) of them, wait in the
//!    transport: they could not be overtaken there, and each hop would pay for them. Bytes that have not moved for [`HELD_UP`],
//!    or that were given to the transport longer ago than the line would take for two blocks, do not wait for the line. They
//!    wait for the congestion window of their own link, and must not hold up the others.

use std::collections::VecDeque;
use std::time::Duration;

use minuet_proto::mesh::{Block, Message, Request, Serial, SerialList};
use smallvec::SmallVec;

use crate::members::neighbour::{CROSSING, Neighbour, Slab, Want};
use crate::node::Node;
use crate::supply::contribution::{self, Standing};
use crate::supply::push::hop_us;
use crate::{LinkId, Output, Role, Timestamp};

/// Longest block: BEP 3's 16 KiB.
const MAX_BLOCK: u64 = 16 * 1024;
/// A block is at most this part of a second's upload, so that a slow uplink, too, stays responsive, …
const BLOCKS_PER_SECOND: u64 = 128;
/// … and as many full packets as fit into that, one at least: what a packet of the transport carries beside the block's
/// own header, and a twelfth of 16 KiB. A block of 512 bytes would have a packet's headers to itself.
const PACKET: u64 = 1366;
/// The least and the most that two blocks are taken to need on the line, one on the wire and one behind it.
const MIN_LINE_TIME: Duration = Duration::from_millis(10);
const MAX_LINE_TIME: Duration = Duration::from_secs(1);
/// A link whose bytes have not moved for so long, and for as long as the line takes for four blocks, is held up by its
/// congestion window.
const HELD_UP: Duration = Duration::from_millis(50);
/// Bytes of one link that may wait in the transport: a congested one must not take all.
const LINK_UNDRAINED: u64 = MAX_BLOCK + MAX_BLOCK / 2;
/// What could not be sent for so long, because the line was busy or the driver late, is made good. About one block's
/// time: without it every such wait is lost, and a tenth of the limit with them. With more, where the limit is all that
/// the line takes, a queue stands in the line at each hop (measured: 30 ms make a thousand nodes a tenth slower).
const CREDIT: Duration = Duration::from_millis(12);
/// Part of the limit that blocks leave to control messages.
const CONTROL_SHARE: u64 = 64;
/// Bytes of control messages that wait for room under the limit, in all and for one neighbour, so that what one neighbour
/// asks for does not cost others their words. Beyond it they are dropped, which every one of them survives: requests time
/// out, heads are asked for again, promises are repeated by others.
const MAX_BACKLOG: usize = 1 << 20;
const MAX_LINK_BACKLOG: usize = 128 << 10;
/// A request that is due within this time goes before all others. This and the times below are for the nominal pace
/// (`tempo.rs`); …
const URGENT: Duration = Duration::from_millis(900);
/// … and it is at most this part of the delay.
const URGENT_SHARE: f32 = 0.3;

/// What is about to be due goes before what is rare as long as it has had no more than half, give or take so many pieces.
/// It is little as long as uplinks suffice. Where they do not, all would become due, nothing new would spread, and all
/// would be late: with 0.8 of the needed uplink 30 % of the pieces came in time.
const URGENT_PIECES: i64 = 2;

/// A newcomer's piece that is due within this time is the one that its picture waits for.
const FIRST: Duration = Duration::from_millis(150);
/// What is due soon at newcomers goes before what others are in no hurry for, as long as the others have had so
/// many times as much, …
const GUEST_SHARE: i64 = 3;
/// … give or take so many pieces.
const GUEST_PIECES: i64 = 2;
/// A request that was not served for so long is turned away. So each request is answered soon, by blocks or by a
/// word, and who leaves requests without an answer is not merely busy.
const HOLD: Duration = Duration::from_millis(400);

/// Requests that may wait for their turn; the least good one beyond it is turned away. Two keep the uplink busy over
/// a round trip; more would only bind pieces to a busy holder while others idle.
const MAX_WAITING: usize = 2;
/// A piece is rare while fewer than one in this many neighbours have it, or fewer than so many, …
const RARE: usize = 5;
const LEAST_RARE: usize = 3;
/// … if they are so many.
const LEAST_RARE_OF: usize = 10;
/// … and among so many newest: of older ones few copies are left because nobody needs them any more.
pub(crate) const LIVE: u64 = 96;

#[derive(Debug)]
pub(crate) struct Uplink {
    limit: Option<u64>,
    /// When the next block may start.
    free_at: Timestamp,
    /// There was nothing to send at the last look: time that passes so is not made good.
    idle: bool,
    /// Messages of the last second, merged by millisecond: time and bytes.
    log: VecDeque<(Timestamp, u64)>,
    logged: u64,
    /// Media bytes that newcomers may still have before others.
    guest_credit: i64,
    /// Media bytes that may go to what is about to be due before they go to what is rare.
    urgent_credit: i64,
    /// Control messages that wait for room under the limit, and their bytes.
    backlog: VecDeque<(LinkId, Message)>,
    backlog_bytes: usize,
    /// The same of Hello and Bitfield, which go first and are never dropped: without Hello all that follows breaks the
    /// protocol. A link has one of each, so these are bounded with the links.
    greetings: VecDeque<(LinkId, Message)>,
    /// When the limit allows to go on.
    pub timer: Option<Timestamp>,
    /// When to look again for something to do.
    pub idle_timer: Option<Timestamp>,
}

impl Uplink {
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            free_at: Timestamp::ZERO,
            idle: true,
            log: VecDeque::new(),
            logged: 0,
            guest_credit: i64::from(u32::MAX),
            urgent_credit: 0,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            greetings: VecDeque::new(),
            timer: None,
            idle_timer: None,
        }
    }

    /// What is sent from now on is spaced by another limit.
    pub fn set_limit(&mut self, bytes_per_s: u64) {
        self.limit = Some(bytes_per_s.max(1));
        self.timer = None;
    }

    fn block_len(&self) -> u32 {
        // At most MAX_BLOCK, so it fits.
        let fair = self.limit.map_or(MAX_BLOCK, |limit| (limit / BLOCKS_PER_SECOND).min(MAX_BLOCK));
        if fair == MAX_BLOCK {
            MAX_BLOCK as u32
        } else {
            (fair / PACKET).max(1).saturating_mul(PACKET) as u32
        }
    }

    fn forget_old(&mut self, now: Timestamp) {
        while let Some((at, bytes)) = self.log.front() {
            if *at + Duration::from_secs(1) > now {
                break;
            }
            self.logged = self.logged.saturating_sub(*bytes);
            self.log.pop_front();
        }
    }

    fn charge(&mut self, bytes: u64, now: Timestamp) {
        let Some(limit) = self.limit else { return };
        self.logged = self.logged.saturating_add(bytes);
        match self.log.back_mut() {
            // Merged entries count as sent at the later time, so that they are never forgotten early.
            Some((at, sum)) if at.0 / 1000 == now.0 / 1000 => {
                *at = now;
                *sum = sum.saturating_add(bytes);
            }
            _ => self.log.push_back((now, bytes)),
        }
        let gap =
            Duration::from_micros(bytes.saturating_mul(1_000_000).checked_div(limit).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now - CREDIT) + gap;
    }

    /// There is something to send.
    fn end_idleness(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.idle) {
            self.free_at = self.free_at.max(now);
        }
    }

    /// When `bytes` fit under `share` of the limit; now or earlier if they do already.
    fn room_at(&self, bytes: u64, limit: u64) -> Timestamp {
        let mut over = self.logged.saturating_add(bytes).saturating_sub(limit);
        let mut at = Timestamp::ZERO;
        for (sent, bytes) in &self.log {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(*bytes);
            at = *sent + Duration::from_secs(1);
        }
        at
    }

    /// Bytes that may wait in the transport.
    fn max_undrained(&self, queue: Duration) -> u64 {
        let in_time = |limit: u64| {
            u64::try_from(u128::from(limit).saturating_mul(queue.as_micros()) / 1_000_000).unwrap_or(u64::MAX)
        };
        let two_blocks = u64::from(self.block_len()).saturating_mul(2);
        self.limit.map_or(0, in_time).max(two_blocks.saturating_sub(1))
    }

    /// Twice what two blocks take on a line that has the rate of the limit.
    fn line_time(&self) -> Duration {
        let four_blocks = u64::from(self.block_len()).saturating_mul(4_000_000);
        let time = |limit: u64| Duration::from_micros(four_blocks.checked_div(limit).unwrap_or(u64::MAX));
        self.limit.map_or(HELD_UP, time).clamp(MIN_LINE_TIME, MAX_LINE_TIME)
    }

    /// When the next block may be sent.
    fn block_at(&self) -> Timestamp {
        let Some(limit) = self.limit else { return Timestamp::ZERO };
        let bytes = u64::from(self.block_len()).saturating_add(16);
        self.free_at.max(self.room_at(bytes, limit.saturating_sub(limit / CONTROL_SHARE)))
    }
}

/// Where a piece stands that hardly anybody has, pushed or asked for: one copy of it lets many others be made.
pub(crate) const FRESH_CLASS: u8 = 3;

/// Where a piece stands that is due soon and that nobody has but this source: it was never sent, or who it was sent to
/// has lost it.
const UNIQUE_CLASS: u8 = 0;

/// How much good it does to send a piece: the least first.
type Rank = (u8, bool, u16, u64, u32);

impl Node {
    /// Sends a control message, at once if the limit allows.
    pub(crate) fn send(&mut self, to: Slab, message: Message, now: Timestamp) {
        if !matches!(message, Message::Have(_)) {
            self.tell_untold(to, now);
        }
        let Some(neighbour) = self.neighbours.get(to) else { return };
        if neighbour.closing {
            return;
        }
        self.uplink.forget_old(now);
        let bytes = message.encoded_len();
        let logged = self.uplink.logged.saturating_add(bytes as u64);
        let room = self.uplink.limit.is_none_or(|limit| logged <= limit);
        let greeting = matches!(message, Message::Hello(_) | Message::Bitfield(_));
        let first = self.uplink.greetings.is_empty() && (greeting || self.uplink.backlog.is_empty());
        if room && first {
            return self.put_on_link(to, message, now);
        }
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        if greeting {
            return self.uplink.greetings.push_back((neighbour.link, message));
        }
        let queued = neighbour.queued.saturating_add(bytes);
        let in_all = self.uplink.backlog_bytes.saturating_add(bytes);
        if queued <= MAX_LINK_BACKLOG && in_all <= MAX_BACKLOG {
            neighbour.queued = queued;
            self.uplink.backlog_bytes = in_all;
            self.uplink.backlog.push_back((neighbour.link, message));
        }
    }

    /// Bytes of control messages that wait for room under the limit.
    pub(crate) fn backlog(&self) -> usize {
        self.uplink.backlog_bytes
    }

    fn put_on_link(&mut self, to: Slab, message: Message, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        let bytes = message.encoded_len() as u64;
        let payload = message.payload_len() as u64;
        if neighbour.undrained == 0 {
            neighbour.drained = now;
        }
        neighbour.undrained = neighbour.undrained.saturating_add(bytes);
        neighbour.told = now;
        self.stats.payload_sent = self.stats.payload_sent.saturating_add(payload);
        self.stats.control_sent = self.stats.control_sent.saturating_add(bytes.saturating_sub(payload));
        let link = neighbour.link;
        self.uplink.charge(bytes, now);
        self.out.push_back(Output::Send { link, message });
    }

    /// A neighbour asks for a piece.
    pub(crate) fn on_request(&mut self, from: Slab, request: Request, now: Timestamp) {
        let serial = request.serial.get();
        let coming = self.window.contains(serial) && {
            let slot = self.window.slot(serial);
            slot.verifying || slot.promised
        };
        let serve = self.config.upload && (coming || self.window.holds(serial));
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.requests = neighbour.requests.saturating_add(1);
        if neighbour.crossed(serial, now) {
            return;
        }
        if !serve {
            self.send(from, Message::DontHave(SerialList::from_slice(&[request.serial])), now);
            return;
        }
        let due = (request.due_in_ms > 0).then(|| now + Duration::from_millis(request.due_in_ms.into()));
        if let Some(want) = neighbour.wants.iter_mut().find(|w| w.serial == serial) {
            want.due = due;
            return;
        }
        neighbour.wants.push(Want { serial, since: now, due, sent: 0 });
        self.trim_queue(now);
        self.pump(now);
    }

    /// Turns away the request that would be served last, if too many wait: its sender finds a less busy holder
    /// sooner than it would be served here.
    fn trim_queue(&mut self, now: Timestamp) {
        let mut waiting = 0usize;
        let mut worst: Option<(Rank, Slab, u64)> = None;
        for (slab, neighbour) in self.neighbours.iter() {
            for want in neighbour.wants.iter().filter(|w| w.sent == 0) {
                waiting = waiting.saturating_add(1);
                let rank = self.rank(neighbour, want, now);
                if worst.as_ref().is_none_or(|(w, ..)| rank > *w) {
                    worst = Some((rank, slab, want.serial));
                }
            }
        }
        if waiting <= MAX_WAITING {
            return;
        }
        let Some((_, slab, serial)) = worst else { return };
        if let Some(neighbour) = self.neighbours.get_mut(slab) {
            neighbour.wants.retain(|w| w.serial != serial);
        }
        self.send(slab, Message::Reject(Serial::new(serial)), now);
    }

    /// Turns away what has waited too long.
    pub(crate) fn turn_away_waiting(&mut self, now: Timestamp) {
        let hold = self.tempo.time(HOLD);
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let waited = |want: &Want| want.sent == 0 && want.since + hold < now;
            let old: SmallVec<[u64; 4]> =
                neighbour.wants.iter().filter(|w| waited(w)).map(|w| w.serial).collect();
            neighbour.wants.retain(|want| !waited(want));
            for serial in old {
                self.send(slab, Message::Reject(Serial::new(serial)), now);
            }
        }
    }

    /// How much good it does to serve a request: the least first.
    fn rank(&self, neighbour: &Neighbour, want: &Want, now: Timestamp) -> Rank {
        let urgent =
            want.due.is_some_and(|due| due < now + self.tempo.before_due(URGENT, URGENT_SHARE, self.delay));
        let first = neighbour.given == 0 && want.due.is_some_and(|due| due < now + self.tempo.time(FIRST));
        let copies = self.window.slot(want.serial).copies;
        let rare = self.is_rare(copies) && want.serial.saturating_add(LIVE) > self.window.edge();
        let hop = hop_us(neighbour, &self.tempo) as u32;
        let nobodys = copies == 0 || self.window.slot(want.serial).given == 0;
        if self.role == Role::Source && urgent && nobodys {
            return (UNIQUE_CLASS, false, 0, want.serial, hop);
        }
        let class = match (contribution::standing(neighbour, &self.tempo, now), urgent) {
            (Standing::Giver, true) if self.uplink.urgent_credit >= 0 => 1,
            (Standing::Newcomer, true) if first => 2,
            (Standing::Giver | Standing::Newcomer, _) if rare => FRESH_CLASS,
            (Standing::Giver, true) => 4,
            (Standing::Newcomer, true) if self.uplink.guest_credit > 0 => 4,
            (Standing::Giver, false) => 5,
            (Standing::Newcomer, true) => 6,
            (Standing::Newcomer, false) => 7,
            (Standing::Rider, true) => 8,
            (Standing::Rider, false) => 9,
        };
        let last = self.hidden_ones_serve(neighbour);
        if rare {
            (class, last, copies, !want.serial, hop)
        } else {
            (class, last, u16::MAX, want.serial, hop)
        }
    }

    /// Whether a piece that so many neighbours have is rare.
    fn is_rare(&self, copies: u16) -> bool {
        let least = if self.listeners < LEAST_RARE_OF { 0 } else { LEAST_RARE };
        usize::from(copies) < self.listeners.div_ceil(RARE).max(least)
    }

    pub(crate) fn on_cancel(&mut self, from: Slab, serial: Serial, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.served.retain(|(s, _)| *s != serial.get());
        let waited = neighbour.wants.iter().any(|w| w.serial == serial.get() && w.sent == 0);
        neighbour.wants.retain(|w| w.serial != serial.get());
        let refuses = neighbour.refuses(serial.get());
        if waited {
            // Each request has an answer, if only this one: so its sender can tell one that is slow from one that lies.
            self.send(from, Message::Reject(serial), now);
        }
        if refuses {
            self.on_push_refused(serial.get(), now);
        }
    }

    /// Sends all that may be sent now.
    pub(crate) fn pump(&mut self, now: Timestamp) {
        if self.uplink.timer.is_some_and(|at| at > now) {
            return;
        }
        self.uplink.timer = None;
        self.uplink.idle_timer = None;
        self.uplink.forget_old(now);
        loop {
            let greeting = !self.uplink.greetings.is_empty();
            let queue = if greeting { &mut self.uplink.greetings } else { &mut self.uplink.backlog };
            let Some((link, message)) = queue.pop_front() else { break };
            let to = self.neighbours.find(link);
            let bytes = message.encoded_len();
            let limit = self.uplink.limit.unwrap_or(u64::MAX);
            let at = self.uplink.room_at(bytes as u64, limit);
            // A message longer than the limit waits for an empty log.
            if to.is_some() && at > now && !self.uplink.log.is_empty() {
                let queue = if greeting { &mut self.uplink.greetings } else { &mut self.uplink.backlog };
                queue.push_front((link, message));
                self.uplink.timer = Some(at);
                return;
            }
            if !greeting {
                self.uplink.backlog_bytes = self.uplink.backlog_bytes.saturating_sub(bytes);
            }
            let Some(to) = to else { continue };
            if let Some(neighbour) = self.neighbours.get_mut(to).filter(|_| !greeting) {
                neighbour.queued = neighbour.queued.saturating_sub(bytes);
            }
            self.put_on_link(to, message, now);
        }
        if !self.config.upload {
            return;
        }
        loop {
            let (waiting, look_again) = self.waiting_for_line(now);
            if waiting >= self.uplink.max_undrained(self.config.transport_queue) {
                // `Drained` goes on from here, or the time after which what waits is not the line's.
                self.uplink.idle_timer = look_again;
                return;
            }
            let at = self.uplink.block_at();
            if at > now {
                self.uplink.timer = Some(at);
                self.make_offers(now);
                return;
            }
            let Some((to, serial)) = self.choose_send(now) else {
                self.uplink.idle = true;
                self.uplink.idle_timer = self.make_offers(now);
                return;
            };
            self.uplink.end_idleness(now);
            self.send_block(to, serial, now);
        }
    }

    /// Bytes given to the transport that wait for the line, and not for the congestion window of their own link; and when
    /// the first of them will have waited too long for that.
    fn waiting_for_line(&self, now: Timestamp) -> (u64, Option<Timestamp>) {
        let patience = self.uplink.line_time();
        let held_up = patience.max(HELD_UP);
        let mut waiting = (0u64, None);
        for (_, neighbour) in self.neighbours.iter().filter(|(_, n)| n.undrained > 0) {
            let until = (neighbour.drained + held_up).min(neighbour.block_at + patience);
            if until > now {
                waiting.0 = waiting.0.saturating_add(neighbour.undrained);
                waiting.1 = Some(waiting.1.map_or(until, |first: Timestamp| first.min(until)));
            }
        }
        waiting
    }

    fn send_block(&mut self, to: Slab, serial: u64, now: Timestamp) {
        let Some(known) = self.window.known(serial).filter(|_| self.window.held.get(serial)) else {
            // The window has moved on. What cannot be sent must not be chosen again.
            if let Some(neighbour) = self.neighbours.get_mut(to) {
                neighbour.wants.retain(|want| want.serial != serial);
            }
            self.send(to, Message::Reject(Serial::new(serial)), now);
            return self.push.forget(serial);
        };
        let piece_len = known.piece.len;
        let head = known.head.clone();
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        let Some(index) = neighbour.wants.iter().position(|w| w.serial == serial) else { return };
        let (link, offset) = (neighbour.link, neighbour.wants[index].sent);
        if offset == 0 {
            self.tell_untold(to, now);
            let Some(neighbour) = self.neighbours.get_mut(to) else { return };
            // The head goes ahead of its piece, so the receiver can always verify what it gets.
            let tell_head = !neighbour.knows_head(serial);
            neighbour.knows.set(serial);
            if !neighbour.has.get(serial) {
                neighbour.has.set(serial);
                let slot = self.window.slot_mut(serial);
                slot.copies = slot.copies.saturating_add(1);
            }
            if tell_head {
                self.put_on_link(to, Message::Head((*head).clone()), now);
            }
        }
        if offset == 0 {
            self.on_begun(serial, link, now);
            let slot = self.window.slot_mut(serial);
            slot.given = slot.given.saturating_add(1);
        }
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        let tempo = self.tempo;
        let urgent = tempo.before_due(URGENT, URGENT_SHARE, self.delay);
        let guest_credit = GUEST_PIECES.saturating_mul(tempo.piece_len.into());
        let len = self.uplink.block_len().min(piece_len.saturating_sub(offset));
        neighbour.block_at = now;
        let newcomer = contribution::standing(neighbour, &tempo, now) == Standing::Newcomer;
        let urgent = neighbour.wants[index].due.is_some_and(|due| due < now + urgent);
        let most = URGENT_PIECES.saturating_mul(tempo.piece_len.into());
        let credit = if urgent { i64::from(len).saturating_neg() } else { i64::from(len) };
        self.uplink.urgent_credit =
            self.uplink.urgent_credit.saturating_add(credit).clamp(most.saturating_neg(), most);
        let credit = if newcomer { i64::from(len).saturating_neg() } else { i64::from(len) / GUEST_SHARE };
        let credit = self.uplink.guest_credit.saturating_add(credit);
        let credit = credit.clamp(guest_credit.saturating_neg(), guest_credit);
        self.uplink.guest_credit = credit;
        let want = &mut neighbour.wants[index];
        want.sent = want.sent.saturating_add(len);
        if want.sent >= piece_len {
            neighbour.wants.swap_remove(index);
            neighbour.note_served(serial, tempo.time(CROSSING), now);
            neighbour.given = neighbour.given.saturating_add(piece_len.into());
            neighbour.given_lately += piece_len as f32;
        }
        self.put_on_link(
            to,
            Message::Block(Block { serial: Serial::new(serial), offset, len, piece_len }),
            now,
        );
    }

    /// To whom to send a block of which piece.
    fn choose_send(&mut self, now: Timestamp) -> Option<(Slab, u64)> {
        let mut best: Option<(Rank, Slab, u64)> = None;
        let mut begun = None;
        for (slab, neighbour) in self.neighbours.iter() {
            if neighbour.wants.is_empty() || neighbour.closing || neighbour.undrained >= LINK_UNDRAINED {
                continue;
            }
            for want in &neighbour.wants {
                if want.sent > 0 {
                    begun = Some((slab, want.serial));
                    continue;
                }
                if !self.window.holds(want.serial) {
                    continue;
                }
                let rank = self.rank(neighbour, want, now);
                if best.as_ref().is_none_or(|(b, ..)| rank < *b) {
                    best = Some((rank, slab, want.serial));
                }
            }
        }
        if let Some((to, serial)) = begun {
            // A piece that most have can wait; a fresh one cannot.
            let rare = self.is_rare(self.window.slot(serial).copies);
            if rare || !self.has_push(now) {
                return Some((to, serial));
            }
        }
        if let Some((class, serial, to)) = self.choose_push(now) {
            let copies = self.window.slot(serial).copies;
            let last = self.neighbours.get(to).is_some_and(|n| self.hidden_ones_serve(n));
            let first = self.role == Role::Source && best.as_ref().is_none_or(|(b, ..)| b.0 > UNIQUE_CLASS);
            if first || best.as_ref().is_none_or(|(b, ..)| (class, last, copies) < (b.0, b.1, b.2)) {
                let source = self.role == Role::Source;
                let neighbour = self.neighbours.get_mut(to)?;
                if source {
                    neighbour.note_pushed(serial);
                }
                neighbour.wants.push(Want { serial, since: now, due: None, sent: 0 });
                return Some((to, serial));
            }
        }
        best.map(|(_, slab, serial)| (slab, serial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_late_is_made_good_and_a_long_pause_is_not() {
        const LIMIT: u64 = 1_000_000;
        let mut uplink = Uplink::new(Some(LIMIT));
        let (mut now, mut sent) = (Timestamp::ZERO, 0);
        let second = Duration::from_secs(1);
        let mut run = |now: &mut Timestamp, late: Duration, uplink: &mut Uplink| {
            let (begin, before) = (*now, sent);
            while *now < begin + 4 * second {
                uplink.forget_old(*now);
                let at = uplink.block_at();
                if at > *now {
                    *now = at + late;
                    continue;
                }
                sent += u64::from(uplink.block_len());
                uplink.charge(uplink.block_len().into(), *now);
            }
            (sent - before) as f64 / now.since(begin).as_secs_f64() / LIMIT as f64
        };
        // Each block is 5 ms late, a third of its time on the line.
        let share = run(&mut now, Duration::from_millis(5), &mut uplink);
        assert!((0.96..=1.0).contains(&share), "{share}");
        // After a pause there is no burst beyond the credit.
        now = now + 10 * second;
        let mut at_once = 0;
        uplink.forget_old(now);
        while uplink.block_at() <= now {
            at_once += u64::from(uplink.block_len());
            uplink.charge(uplink.block_len().into(), now);
        }
        assert!(at_once <= 4 * MAX_BLOCK, "{at_once}");
        // Nor is there a credit if nothing was to be sent in it: one block, and the next after its time.
        uplink.idle = true;
        now = now + 10 * second;
        uplink.forget_old(now);
        uplink.end_idleness(now);
        uplink.charge(uplink.block_len().into(), now);
        assert!(uplink.block_at() > now);
    }

    #[test]
    fn what_may_wait_in_the_transport_goes_by_the_limit() {
        let queue = Duration::from_millis(110);
        assert_eq!(Uplink::new(Some(1_000_000)).max_undrained(queue), 110_000);
        for (limit, queue) in [(None, queue), (Some(3_000_000), Duration::ZERO)] {
            assert_eq!(Uplink::new(limit).max_undrained(queue), 2 * MAX_BLOCK - 1);
        }
        // On a slow line two long blocks would stand for seconds before all that comes after them.
        assert_eq!(Uplink::new(Some(10_000)).max_undrained(Duration::ZERO), 2 * PACKET - 1);
    }
}
