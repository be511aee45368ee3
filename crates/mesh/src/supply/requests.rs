//! What neighbours request: it waits here for its turn, and each request has an answer.
//!
//! Rule: *short queues, and an answer to each request*, except for one that crosses its own piece on the way. At most
//! [`MAX_WAITING`] requests wait, none longer than [`HOLD`]. What would be served last is rejected at once, so that its sender
//! requests it from an idle holder instead.

use std::time::Duration;

use minuet_proto::mesh::{Message, Request, Serial, SerialList};
use smallvec::SmallVec;

use crate::Timestamp;
use crate::members::neighbour::{Outgoing, Slab};
use crate::node::Node;
use crate::supply::rank::Rank;

/// A request that was not served for so long is turned away. So each request is answered soon, by blocks or by a
/// word, and who leaves requests without an answer is not merely busy.
const HOLD: Duration = Duration::from_millis(400);

/// Requests that may wait for their turn; the least good one beyond it is turned away. Two keep the uplink busy over
/// a round trip; more would only bind pieces to a busy holder while others idle.
const MAX_WAITING: usize = 2;

impl Node {
    /// A neighbour asks for a piece.
    pub(crate) fn on_request(&mut self, from: Slab, request: Request, now: Timestamp) {
        let serial = request.serial.get();
        let coming = self.window.contains(serial)
            && (self.exchange.is_verifying(serial) || self.window.slot(serial).promised);
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
        if let Some(want) = neighbour.outgoing.iter_mut().find(|w| w.serial == serial) {
            want.due = due;
            return;
        }
        neighbour.outgoing.push(Outgoing { serial, since: now, due, sent: 0 });
        self.trim_queue(now);
        self.pump(now);
    }

    /// Turns away the request that would be served last, if too many wait: its sender finds a less busy holder
    /// sooner than it would be served here.
    fn trim_queue(&mut self, now: Timestamp) {
        let mut waiting = 0usize;
        let mut worst: Option<(Rank, Slab, u64)> = None;
        for (slab, neighbour) in self.neighbours.iter() {
            for want in neighbour.outgoing.iter().filter(|w| w.sent == 0) {
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
            neighbour.outgoing.retain(|w| w.serial != serial);
        }
        self.send(slab, Message::Reject(Serial::new(serial)), now);
    }

    /// Turns away what has waited too long.
    pub(crate) fn turn_away_waiting(&mut self, now: Timestamp) {
        let hold = self.tempo.time(HOLD);
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            let waited = |want: &Outgoing| want.sent == 0 && want.since + hold < now;
            let old: SmallVec<[u64; 4]> =
                neighbour.outgoing.iter().filter(|w| waited(w)).map(|w| w.serial).collect();
            neighbour.outgoing.retain(|want| !waited(want));
            for serial in old {
                self.send(slab, Message::Reject(Serial::new(serial)), now);
            }
        }
    }

    pub(crate) fn on_cancel(&mut self, from: Slab, serial: Serial, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.served.retain(|(s, _)| *s != serial.get());
        let waited = neighbour.outgoing.iter().any(|w| w.serial == serial.get() && w.sent == 0);
        neighbour.outgoing.retain(|w| w.serial != serial.get());
        let refuses = neighbour.refuses(serial.get());
        if waited {
            // Each request has an answer, if only this one: so its sender can tell one that is slow from one that lies.
            self.send(from, Message::Reject(serial), now);
        }
        if refuses {
            self.on_push_refused(serial.get(), now);
        }
    }
}
