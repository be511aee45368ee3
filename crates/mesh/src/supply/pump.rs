//! The uplink scheduler: sends what may be sent, one block at a time.
//!
//! Rule: *one piece at a time, at full rate.* Store and forward spreads fastest when the first receiver is served whole before
//! the second (Liu, "snowball", ACM MM 2007). A receiver whose link is congested is skipped, and a fresh piece to push
//! interrupts one that most have. What is sent when: `uplink.rs`; what goes first: `rank.rs`.

use minuet_proto::mesh::{Block, Message, Serial};

use crate::members::neighbour::{CROSSING, Slab};
use crate::node::Node;
use crate::supply::contribution::{self, Standing};
use crate::supply::push::NextPush;
use crate::supply::rank::{Rank, URGENT, URGENT_SHARE};
use crate::supply::uplink::HELD_UP;
use crate::{Role, Timestamp};

/// What is about to be due goes before what is rare as long as it has had no more than half, give or take so many pieces.
/// It is little as long as uplinks suffice. Where they do not, all would become due, nothing new would spread, and all
/// would be late: with 0.8 of the needed uplink 30 % of the pieces came in time.
const URGENT_PIECES: i64 = 2;
/// What is due soon at newcomers goes before what others are in no hurry for, as long as the others have had so
/// many times as much, …
const GUEST_SHARE: i64 = 3;
/// … give or take so many pieces.
const GUEST_PIECES: i64 = 2;

/// What is sent next.
enum Next {
    /// A block of a piece that was requested, or has begun.
    Block { to: Slab, serial: u64 },
    /// The first block of a push.
    Push(NextPush),
}

impl Node {
    /// Sends all that may be sent now.
    pub(crate) fn pump(&mut self, now: Timestamp) {
        if self.uplink.timer.is_some_and(|at| at > now) {
            return;
        }
        self.uplink.timer = None;
        self.uplink.idle_timer = None;
        self.uplink.forget_old(now);
        if !self.send_backlog(now) || !self.config.upload {
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
            let Some(next) = self.choose_send(now) else {
                let look_again = self.make_offers(now);
                // Nothing of the live edge waits: what it leaves is for finished segments.
                if let Some((to, piece)) = self.choose_kept_send(now) {
                    self.uplink.end_idleness(now);
                    self.send_kept_block(to, piece, self.uplink.block_len(), now);
                    continue;
                }
                self.uplink.idle = true;
                self.uplink.idle_timer = look_again;
                return;
            };
            self.uplink.end_idleness(now);
            let (to, serial) = match next {
                Next::Block { to, serial } => (to, serial),
                Next::Push(push) => {
                    self.begin_push(push, now);
                    (push.to, push.serial)
                }
            };
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
        let Some(named) = self.window.named(serial).filter(|_| self.window.held.get(serial)) else {
            // The window has moved on. What cannot be sent must not be chosen again.
            if let Some(neighbour) = self.neighbours.get_mut(to) {
                neighbour.outgoing.retain(|want| want.serial != serial);
            }
            self.send(to, Message::Reject(Serial::new(serial)), now);
            return self.push.forget(serial);
        };
        let piece_len = named.piece.len;
        let head = named.head.clone();
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        let Some(index) = neighbour.outgoing.iter().position(|w| w.serial == serial) else { return };
        let (link, offset) = (neighbour.link, neighbour.outgoing[index].sent);
        if offset == 0 {
            self.tell_untold(to, now);
            let Some(neighbour) = self.neighbours.get_mut(to) else { return };
            // The head goes ahead of its piece, so the receiver can always verify what it gets.
            let tell_head = !neighbour.knows_head(serial);
            neighbour.knows.set(serial);
            self.exchange.add_copy(&mut neighbour.side, serial);
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
        let urgent = neighbour.outgoing[index].due.is_some_and(|due| due < now + urgent);
        let most = URGENT_PIECES.saturating_mul(tempo.piece_len.into());
        let credit = if urgent { i64::from(len).saturating_neg() } else { i64::from(len) };
        self.uplink.urgent_credit =
            self.uplink.urgent_credit.saturating_add(credit).clamp(most.saturating_neg(), most);
        let credit = if newcomer { i64::from(len).saturating_neg() } else { i64::from(len) / GUEST_SHARE };
        let credit = self.uplink.guest_credit.saturating_add(credit);
        let credit = credit.clamp(guest_credit.saturating_neg(), guest_credit);
        self.uplink.guest_credit = credit;
        let outgoing = &mut neighbour.outgoing[index];
        outgoing.sent = outgoing.sent.saturating_add(len);
        if outgoing.sent >= piece_len {
            neighbour.outgoing.swap_remove(index);
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

    /// What to send next.
    fn choose_send(&self, now: Timestamp) -> Option<Next> {
        let mut best: Option<(Rank, Slab, u64)> = None;
        let mut begun = None;
        for (slab, neighbour) in self.neighbours.iter() {
            if neighbour.outgoing.is_empty() || neighbour.closing || neighbour.is_congested() {
                continue;
            }
            for outgoing in &neighbour.outgoing {
                if outgoing.sent > 0 {
                    begun = Some((slab, outgoing.serial));
                    continue;
                }
                if !self.window.holds(outgoing.serial) {
                    continue;
                }
                let rank = self.rank(neighbour, outgoing, now);
                if best.as_ref().is_none_or(|(b, ..)| rank < *b) {
                    best = Some((rank, slab, outgoing.serial));
                }
            }
        }
        let go_on = begun.map(|(to, serial)| Next::Block { to, serial });
        // A piece that most have can wait; a fresh one cannot.
        let waits = |(_, serial)| self.role != Role::Source && !self.is_rare(self.exchange.copies(serial));
        if begun.is_some_and(|begun| !waits(begun)) {
            return go_on;
        }
        match self.choose_push(now) {
            None if go_on.is_some() => go_on,
            Some(push) if best.as_ref().is_none_or(|(best, ..)| self.rank_of_push(push) < *best) => {
                Some(Next::Push(push))
            }
            _ => best.map(|(_, to, serial)| Next::Block { to, serial }),
        }
    }
}
