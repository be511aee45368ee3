//! The picker's clock: requests that come to nothing, and pieces that are late.
//!
//! Rules: a request is given up after a time that its holder's measured pace decides, at once if the holder has gone
//! quiet; a piece that has begun is given up at its end ([`Pace`](crate::arrival::Pace)), also if more of it drips in. A
//! holder that leaves requests without an answer while it goes on talking is a liar, and so is one that begins pieces and
//! has never finished one. What is late is asked of a second holder, also if it has begun to come and will not be whole
//! in time, and what nobody will deliver in time of the HTTP origin.

use std::time::Duration;

use smallvec::SmallVec;

use crate::neighbour::Asked;
use crate::node::Node;
use crate::picker::{DEFER, SOON};
use crate::{HangUpReason, Output, Role, Timestamp};

/// A piece due within this time that has not begun to come is asked of a second neighbour.
const LATE: Duration = Duration::from_millis(800);
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
/// A neighbour counts as a liar after so many requests that it left without an answer while it went on talking,
/// and so long without a piece.
const MAX_FAILURES: u32 = 5;
/// The same for one that has never delivered.
const MAX_FAILURES_UNPROVEN: u32 = 3;
const LIAR: Duration = Duration::from_secs(6);

impl Node {
    /// The picker's share of the tick: requests that come to nothing, pieces that are late or were put off.
    pub(crate) fn picker_tick(&mut self, now: Timestamp) {
        if self.role == Role::Source {
            return;
        }
        self.extend_wanted(now);
        self.ask_missing_heads(now);
        self.give_up_on_slow(now);
        self.ask_second(now);
        let (from, to) = (self.window.base(), self.window.horizon());
        let waiting: Vec<u64> =
            self.window.wanted.iter(from, to).filter(|s| self.window.slot(*s).copies > 0).take(64).collect();
        for serial in waiting {
            if !self.window.wanted.get(serial) {
                continue;
            }
            let due = self.playback.due(serial, &self.window);
            let late = due.is_some_and(|due| due < now + SOON);
            if self.playback.missed(serial, &self.window, now) {
                continue;
            }
            let age = now.since(self.window.slot(serial).since);
            self.ask_somebody(serial, late || age > DEFER, now);
        }
        if self.config.http_origin {
            self.ask_http(now);
        }
    }

    fn give_up_on_slow(&mut self, now: Timestamp) {
        let quiet_after = self.quiet_after;
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let patience = (neighbour.latency_us * PATIENCE).clamp(MIN_PATIENCE_US, MAX_PATIENCE_US);
            let patience = Duration::from_micros(patience as u64);
            let patience = if neighbour.quiet(quiet_after, now) { QUIET_PATIENCE } else { patience };
            let given_up = |a: &Asked| match a.pace {
                Some(pace) => a.heard + STALL < now || pace.end_at < now,
                None => a.heard + patience < now,
            };
            let Some(index) = neighbour.asked.iter().position(given_up) else { continue };
            let asked = &neighbour.asked[index];
            let serial = asked.serial;
            let waited = now.since(asked.at).as_micros() as f32;
            // Who has never delivered is put to the test again soon, and then either delivers or is found out.
            let proven = neighbour.taken > 0;
            if proven {
                neighbour.latency_us = neighbour.latency_us.max(waited);
            }
            if asked.pace.is_some() {
                neighbour.broken_off = neighbour.broken_off.saturating_add(1);
            } else if neighbour.heard > asked.at + neighbour.rtt + ANSWER {
                neighbour.unanswered = neighbour.unanswered.saturating_add(1);
            }
            let most = if proven { MAX_FAILURES } else { MAX_FAILURES_UNPROVEN };
            let useless = neighbour.delivered + LIAR < now;
            if useless && neighbour.unanswered >= most {
                self.hang_up(slab, HangUpReason::Liar, true, now);
                continue;
            }
            if useless && neighbour.broken_off >= MAX_FAILURES {
                let reason = if proven { HangUpReason::Idle } else { HangUpReason::Liar };
                self.hang_up(slab, reason, !proven, now);
                continue;
            }
            self.drop_holder(slab, serial);
            self.cancel(slab, serial, now);
            self.unask(slab, serial, now);
        }
    }

    /// Asks a second neighbour for what is late and has not begun to come, or comes too slowly.
    fn ask_second(&mut self, now: Timestamp) {
        let asked: SmallVec<[u64; 16]> =
            self.neighbours.iter().flat_map(|(_, n)| n.asked.iter().map(|a| a.serial)).collect();
        for serial in asked {
            let due = self.playback.due(serial, &self.window);
            if due.is_some_and(|due| due < now + LATE)
                && !self.playback.missed(serial, &self.window, now)
                && !self.hopeful(serial, due, now)
            {
                self.ask_somebody(serial, true, now);
            }
        }
    }

    /// Whether somebody who is asked for a late piece may still deliver it: one whose piece comes in time, or, beside
    /// those that come too slowly and one that has not begun, a second one that has not.
    fn hopeful(&self, serial: u64, due: Option<Timestamp>, now: Timestamp) -> bool {
        let len = self.window.known(serial).map_or(0, |known| known.piece.len);
        let (mut waiting, mut behind) = (0usize, 0usize);
        for (_, neighbour) in self.neighbours.iter() {
            for asked in neighbour.asked.iter().filter(|a| a.serial == serial) {
                if asked.pace.is_none() {
                    waiting = waiting.saturating_add(1);
                } else if asked.is_behind(len, due, now) {
                    behind = behind.saturating_add(1);
                } else {
                    return true;
                }
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
            if self.window.held.get(serial) || slot.verifying || slot.http || self.coming(serial, now) {
                continue;
            }
            let Some(piece) = self.window.known(serial).map(|k| k.piece) else { continue };
            self.window.slot_mut(serial).http = true;
            self.out.push_back(Output::FetchHttp { piece, due });
        }
    }
}
