//! The picker's clock: requests that come to nothing, and pieces that are late.
//!
//! Rules:
//! 1. A request is given up after a time that the holder's measured pace decides, sooner if the holder has gone quiet. A piece
//!    that has begun is given up at its end ([`Pace`](crate::demand::arrival::Pace)), even if more of it drips in.
//! 2. Nobody is banned for being slow: an honest node answers each request, however late. A holder that has never delivered
//!    and leaves requests without any answer, while it goes on talking, is a liar. A holder that begins pieces and has never
//!    finished one may just be slow, and is set aside (`bans.rs`); sooner if it hardly sends anything of them, as its line
//!    would have to be many times slower than the stream. A holder that has delivered is at most hung up on.
//! 3. A late piece is requested from a second holder, even if it has begun to come but will not be whole in time. A piece that
//!    nobody will deliver in time is requested from the HTTP origin.

use std::time::Duration;

use smallvec::SmallVec;

use crate::demand::picker::DEFER;
use crate::exchange::Incoming;
use crate::members::neighbour::STINGY;
use crate::node::Node;
use crate::{HangUpReason, Output, Role, Timestamp};

/// A piece due within this time that has not begun to come is asked of a second neighbour. This and the times below are
/// for the nominal pace (`tempo.rs`), but for what is said of seconds; …
const LATE: Duration = Duration::from_millis(800);
/// … and it is at most this part of the delay.
const LATE_SHARE: f32 = 0.3;
/// Pieces that are asked for twice at a time. A late piece is bad luck, and many are a lack of uplink, which asking twice
/// makes worse.
const MAX_TWICE: usize = 3;
/// Of a piece that comes too slowly from so many, no more are asked.
const MAX_BEHIND: usize = 4;
/// Left to the HTTP origin.
const HTTP_LEAD: Duration = Duration::from_millis(600);
/// A request is given up after this many times the neighbour's usual time, within the bounds below.
const PATIENCE: f32 = 4.0;
const MIN_PATIENCE_US: f32 = 600_000.0;
const MAX_PATIENCE_US: f32 = 4_000_000.0;
/// A piece that has begun to come and then does not go on is given up after this time.
const STALL: Duration = Duration::from_millis(400);
/// The same for a neighbour that has gone quiet.
const QUIET_PATIENCE: Duration = Duration::from_millis(300);
/// Who is there has answered a request by this time beyond a round trip: it turns away what it cannot serve.
const ANSWER: Duration = Duration::from_millis(500);
/// A neighbour that has delivered before is hung up on after so many requests that it left without an answer while it went
/// on talking, or pieces that it broke off, and so long without a piece. It may be slow: it is not banned.
const MAX_FAILURES: u32 = 5;
const LIAR: Duration = Duration::from_secs(6);
/// One that has never delivered goes sooner, after so many pieces of which it sent hardly anything.
const MAX_STINGY: u32 = 2;
const STINGY_FOR: Duration = Duration::from_secs(3);
/// One that has never delivered is a liar after so many requests that it has not even answered so long after.
const LIES: usize = 3;

impl Node {
    /// The picker's share of the tick: requests that come to nothing, pieces that are late or were put off.
    pub(crate) fn picker_tick(&mut self, now: Timestamp) {
        if self.role == Role::Source {
            return;
        }
        self.extend_wanted(now);
        self.ask_missing_heads(now);
        self.give_up_on_slow(now);
        self.request_late_ones_twice(now);
        let (soon, defer) = (self.soon(), self.tempo.time(DEFER));
        let (from, to) = (self.window.base(), self.window.horizon());
        let waiting: Vec<u64> =
            self.exchange.wanted().iter(from, to).filter(|s| self.exchange.copies(*s) > 0).take(64).collect();
        for serial in waiting {
            if !self.exchange.wanted().get(serial) {
                continue;
            }
            let due = self.playback.due(serial, &self.window);
            let late = due.is_some_and(|due| due < now + soon);
            if self.playback.missed(serial, &self.window, now) {
                continue;
            }
            let age = now.since(self.window.slot(serial).since);
            self.request_somewhere(serial, late || age > defer, now);
        }
        if self.config.http_origin {
            self.ask_http(now);
        }
    }

    fn give_up_on_slow(&mut self, now: Timestamp) {
        let (quiet_after, tempo) = (self.quiet_after, self.tempo);
        let (stall, quiet_patience) = (tempo.time(STALL), tempo.time(QUIET_PATIENCE));
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let patience = (neighbour.latency_us * PATIENCE)
                .clamp(MIN_PATIENCE_US * tempo.scale(), MAX_PATIENCE_US * tempo.scale());
            let patience = Duration::from_micros(patience as u64);
            let patience = if neighbour.quiet(quiet_after, now) { quiet_patience } else { patience };
            let given_up = |i: &&Incoming| match i.pace {
                Some(pace) => i.heard + stall < now || pace.end_at < now,
                None => i.heard + patience < now,
            };
            let Some(incoming) = neighbour.side.incoming().iter().find(given_up) else { continue };
            let (serial, requested) = (incoming.serial(), incoming.at);
            let (has_begun, received) = (incoming.pace.is_some(), incoming.received());
            let waited = now.since(requested).as_micros() as f32;
            // Who has never delivered is put to the test again soon, and then either delivers or is found out.
            let proven = neighbour.taken > 0;
            if proven {
                neighbour.latency_us = neighbour.latency_us.max(waited);
            }
            if has_begun {
                let len = self.window.named(serial).map_or(0, |named| named.piece.len);
                let hardly_any = received.saturating_mul(STINGY) < len;
                self.window.slot_mut(serial).broken_off = true;
                neighbour.broken_off = neighbour.broken_off.saturating_add(1);
                neighbour.stingy = neighbour.stingy.saturating_add(u32::from(hardly_any && !proven));
            } else if neighbour.heard > requested + neighbour.rtt + tempo.time(ANSWER) {
                neighbour.unanswered = neighbour.unanswered.saturating_add(1);
            }
            let useless = neighbour.delivered + LIAR < now;
            if !proven {
                // Its answer is waited for: it is a liar only if none comes at all. One that is slow does answer.
                if !has_begun {
                    neighbour.note_overdue(serial, requested);
                }
                if neighbour.never_answered(LIAR.saturating_add(tempo.time(ANSWER))) >= LIES {
                    self.hang_up(slab, HangUpReason::Liar, true, now);
                    continue;
                }
                let stingy = neighbour.delivered + STINGY_FOR < now && neighbour.stingy >= MAX_STINGY;
                if stingy || useless && neighbour.broken_off >= MAX_FAILURES {
                    // It drips, or its line is too slow for this stream: one cannot tell.
                    let node = neighbour.node;
                    self.bans.set_aside(node, now);
                    self.candidates.forget(&node);
                    self.hang_up(slab, HangUpReason::Idle, false, now);
                    continue;
                }
            } else if useless && neighbour.unanswered.max(neighbour.broken_off) >= MAX_FAILURES {
                self.hang_up(slab, HangUpReason::Idle, false, now);
                continue;
            }
            self.drop_holder(slab, serial);
            self.cancel(slab, serial, now);
            self.close_request(slab, serial, now);
        }
    }

    /// Asks a second neighbour for what is late and has not begun to come, or comes too slowly.
    fn request_late_ones_twice(&mut self, now: Timestamp) {
        let before = self.tempo.before_due(LATE, LATE_SHARE, self.delay);
        let coming = self.neighbours.iter().flat_map(|(_, n)| n.side.incoming());
        let coming: SmallVec<[u64; 16]> = coming.map(Incoming::serial).collect();
        let (from, to) = (self.window.base(), self.window.edge());
        let mut twice = (from..to).filter(|serial| self.exchange.requests(*serial) > 1).count();
        for serial in coming {
            let due = self.playback.due(serial, &self.window);
            if twice < MAX_TWICE
                && due.is_some_and(|due| due < now + before)
                && !self.playback.missed(serial, &self.window, now)
                && !self.hopeful(serial, due, now)
            {
                twice = twice.saturating_add(1);
                self.request_somewhere(serial, true, now);
            }
        }
    }

    /// Whether somebody who is asked for a late piece may still deliver it: one whose piece comes in time, or, beside
    /// those that come too slowly and one that has not begun, a second one that has not.
    fn hopeful(&self, serial: u64, due: Option<Timestamp>, now: Timestamp) -> bool {
        let len = self.window.named(serial).map_or(0, |named| named.piece.len);
        let (mut waiting, mut behind) = (0usize, 0usize);
        for (_, neighbour) in self.neighbours.iter() {
            match neighbour.side.of(serial) {
                None => {}
                Some(incoming) if incoming.pace.is_none() => waiting = waiting.saturating_add(1),
                Some(incoming) if incoming.is_behind(len, due, now) => behind = behind.saturating_add(1),
                Some(_) => return true,
            }
        }
        waiting > 1 || waiting == 1 && behind > 0 || behind > MAX_BEHIND
    }

    fn ask_http(&mut self, now: Timestamp) {
        let Some(next) = self.playback.next else { return };
        for serial in next.max(self.window.base())..self.window.edge() {
            let Some(due) = self.playback.due(serial, &self.window) else { continue };
            if due > now + HTTP_LEAD {
                break;
            }
            let slot = self.window.slot(serial);
            if self.window.held.get(serial)
                || self.exchange.is_verifying(serial)
                || slot.http
                || self.coming(serial, now)
            {
                continue;
            }
            let Some(piece) = self.window.named(serial).map(|k| k.piece) else { continue };
            self.window.slot_mut(serial).http = true;
            self.out.push_back(Output::FetchHttp { piece, due });
        }
    }
}
