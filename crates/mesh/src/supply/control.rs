//! Control messages on their way out: at once if the limit has room, else after those that wait.

use std::collections::VecDeque;

use minuet_proto::mesh::Message;

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::{LinkId, Output, Timestamp};

/// Bytes of control messages that wait for room under the limit, in all and for one neighbour, so that what one neighbour
/// asks for does not cost others their words. Beyond it they are dropped, which every one of them survives: requests time
/// out, heads are asked for again, promises are repeated by others.
const MAX_BACKLOG: usize = 1 << 20;
const MAX_LINK_BACKLOG: usize = 128 << 10;

/// Control messages that wait for room under the limit.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: VecDeque<(LinkId, Message)>,
    /// Bytes of these.
    bytes: usize,
    /// Hello and Bitfield, which go first and are never dropped: without Hello all that follows breaks the protocol. A link
    /// has one of each, so these are bounded with the links.
    greetings: VecDeque<(LinkId, Message)>,
}

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
        let room = self.uplink.has_room(bytes);
        let greeting = matches!(message, Message::Hello(_) | Message::Bitfield(_));
        let backlog = &mut self.uplink.backlog;
        let first = backlog.greetings.is_empty() && (greeting || backlog.waiting.is_empty());
        if room && first {
            return self.put_on_link(to, message, now);
        }
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        if greeting {
            return backlog.greetings.push_back((neighbour.link, message));
        }
        let queued = neighbour.queued.saturating_add(bytes);
        let in_all = backlog.bytes.saturating_add(bytes);
        if queued <= MAX_LINK_BACKLOG && in_all <= MAX_BACKLOG {
            neighbour.queued = queued;
            backlog.bytes = in_all;
            backlog.waiting.push_back((neighbour.link, message));
        }
    }

    /// Bytes of control messages that wait for room under the limit.
    pub(crate) fn backlog(&self) -> usize {
        self.uplink.backlog.bytes
    }

    /// Sends what waits, as far as the limit allows. False if some of it still waits: the uplink's timer says for how long.
    pub(super) fn send_backlog(&mut self, now: Timestamp) -> bool {
        loop {
            let backlog = &mut self.uplink.backlog;
            let greeting = !backlog.greetings.is_empty();
            let queue = if greeting { &mut backlog.greetings } else { &mut backlog.waiting };
            let Some((link, message)) = queue.pop_front() else { return true };
            let to = self.neighbours.find(link);
            let bytes = message.encoded_len();
            let limit = self.uplink.limit.unwrap_or(u64::MAX);
            let at = self.uplink.room_at(bytes as u64, limit);
            // A message longer than the limit waits for an empty log.
            let waits = to.is_some() && at > now && !self.uplink.is_unused();
            let backlog = &mut self.uplink.backlog;
            if waits {
                let queue = if greeting { &mut backlog.greetings } else { &mut backlog.waiting };
                queue.push_front((link, message));
                self.uplink.timer = Some(at);
                return false;
            }
            if !greeting {
                backlog.bytes = backlog.bytes.saturating_sub(bytes);
            }
            let Some(to) = to else { continue };
            if let Some(neighbour) = self.neighbours.get_mut(to).filter(|_| !greeting) {
                neighbour.queued = neighbour.queued.saturating_sub(bytes);
            }
            self.put_on_link(to, message, now);
        }
    }

    pub(crate) fn put_on_link(&mut self, to: Slab, message: Message, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        let bytes = message.encoded_len() as u64;
        let payload = message.payload_len() as u64;
        if neighbour.undrained == 0 {
            neighbour.drained = now;
        }
        neighbour.undrained = neighbour.undrained.saturating_add(bytes);
        neighbour.sent_at = now;
        self.stats.payload_sent = self.stats.payload_sent.saturating_add(payload);
        self.stats.control_sent = self.stats.control_sent.saturating_add(bytes.saturating_sub(payload));
        let link = neighbour.link;
        self.uplink.charge(bytes, now);
        self.out.push_back(Output::Send { link, message });
    }
}
