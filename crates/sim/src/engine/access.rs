//! A node's access line: an uplink and a downlink with real queues.
//!
//! Uplink rule: a node that knows its line paces itself to it, and no queue stands behind it. Media leaves first in, first out, at the line's rate; a control message overtakes
//! media, but not the packets that the pacer has already given to the line ([`PACER_BURST_BYTES`]),
//! and what it takes is paid by the media behind it. So nothing is ever sent above the rate.
//! A node that does not know its line gives all to the router before it at once ([`super::line`]), where nothing is
//! overtaken, and holds back only when the router's queue is full.
//!
//! Downlink rule: a message takes `size ÷ rate` of the line's time in the order in which messages
//! end at it, from its first byte on: one that trickles in from a slow sender does not occupy it.

use std::collections::VecDeque;

use super::{
    MILLISECOND, Micros,
    line::{Line, Router},
};

/// Bytes of an IP packet on a path whose MTU quinn's discovery has found (1,452 bytes of UDP payload).
pub const PACKET_BYTES: u64 = 1_480;
/// Of these, what is not stream data: IPv4 20, UDP 8, QUIC short header 11, STREAM frame 8, AEAD tag 16.
pub const PACKET_OVERHEAD_BYTES: u64 = 63;
/// What one more message costs in a packet that is already paid for: its STREAM frame header.
pub const FRAME_OVERHEAD_BYTES: u64 = 8;
/// Packets after which a receiver acknowledges (QUIC's ACK frequency extension, as the nodes' transport asks for it).
pub const PACKETS_PER_ACK: u64 = 10;
/// Packets below that are acknowledged after this time, or with whatever goes the other way meanwhile.
pub const ACK_WITHIN: Micros = 100 * MILLISECOND;
/// What an acknowledgement takes in a packet that goes anyway.
pub const ACK_FRAME_BYTES: u64 = 8;
/// Bytes of an acknowledgement packet.
pub const ACK_BYTES: u64 = 70;
/// What the pacer gives to the line at once: ten packets, quinn's minimum burst.
pub const PACER_BURST_BYTES: u64 = 10 * PACKET_BYTES;

/// How many packets carry a message of `bytes` as encoded.
pub fn packets(bytes: u64) -> u64 {
    bytes.div_ceil(PACKET_BYTES - PACKET_OVERHEAD_BYTES).max(1)
}

/// Bytes on the wire of a message of `bytes` as encoded that has its packets to itself.
pub fn wire_bytes(bytes: u64) -> u64 {
    bytes + packets(bytes) * PACKET_OVERHEAD_BYTES
}

/// Bandwidth in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl Rate {
    /// Time to send `bytes` at this rate, rounded up.
    pub fn time(self, bytes: u64) -> Micros {
        (bytes * 1_000_000).div_ceil(self.0.max(1))
    }

    /// Bytes that fit into `span` at this rate, rounded down.
    pub fn bytes(self, span: Micros) -> u64 {
        span * self.0 / 1_000_000
    }
}

/// What a node has sent, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Media as encoded.
    pub media: u64,
    /// Control messages as encoded.
    pub control: u64,
    /// Packet headers of control messages.
    pub control_overhead: u64,
    /// Packet headers of media, acknowledgements and retransmissions.
    pub transport: u64,
}

/// A media transfer that waits for the uplink or is leaving it; `T` says what it is.
struct Transfer<T> {
    wire: u64,
    what: T,
}

/// The sending side of an access line.
pub struct Uplink<T> {
    /// Its rate.
    pub rate: Rate,
    /// Totals since the node's start.
    pub sent: Sent,
    waiting: VecDeque<Transfer<T>>,
    /// When the transfer at the head of `waiting` will have left, unless `debt` grows.
    busy_until: Option<Micros>,
    /// Line time that control took from the transfer that is leaving.
    debt: Micros,
    /// When the last control message will have left.
    control_until: Micros,
    /// What is sent goes through it, if there is one.
    router: Option<Router>,
    /// The router had no room for what comes next.
    held_back: bool,
}

/// Media that has left the node.
pub struct Left<T> {
    /// What was sent.
    pub what: T,
    /// When its last byte is through the line.
    pub at: Micros,
    /// How long it waited in the router's queue.
    pub waited: Micros,
    /// Packets of it that the router's queue had no room for.
    pub dropped: u64,
}

impl<T> Uplink<T> {
    /// An idle uplink, behind a router if `line` says so.
    pub fn new(rate: Rate, line: Option<Line>) -> Self {
        Self {
            router: line.map(|line| Router::new(rate, line)),
            rate,
            sent: Sent::default(),
            waiting: VecDeque::new(),
            busy_until: None,
            debt: 0,
            control_until: 0,
            held_back: false,
        }
    }

    /// Sends a control message of `wire` bytes; returns when its last byte has left.
    pub fn send_control(&mut self, now: Micros, wire: u64) -> Micros {
        if let Some(router) = &mut self.router {
            return router.enter(now, wire);
        }
        let mut start = now.max(self.control_until);
        if let Some(end) = self.busy_until {
            if self.control_until <= now {
                let left = (end + self.debt).saturating_sub(now);
                start = now + left.min(self.rate.time(PACER_BURST_BYTES));
            }
            self.debt += self.rate.time(wire);
        }
        self.control_until = start + self.rate.time(wire);
        self.control_until
    }

    /// Charges bytes whose delivery nobody waits for (acknowledgements, retransmissions).
    pub fn charge(&mut self, now: Micros, wire: u64) {
        self.sent.transport += wire;
        if let Some(router) = &mut self.router {
            router.enter(now, wire);
            return;
        }
        let span = self.rate.time(wire);
        if self.busy_until.is_some() {
            self.debt += span;
        } else {
            self.control_until = now.max(self.control_until) + span;
        }
    }

    /// Queues a media transfer. When the line was idle, returns when to call [`Uplink::finish`].
    pub fn send_media(&mut self, now: Micros, wire: u64, what: T) -> Option<Micros> {
        self.waiting.push_back(Transfer { wire, what });
        if self.busy_until.is_some() {
            return None;
        }
        Some(self.start(now, wire))
    }

    /// How long what is sent now waits for what was sent before, where the node cannot overtake it.
    pub fn wait(&mut self, now: Micros) -> Micros {
        self.router.as_mut().map_or(0, |router| router.wait(now))
    }

    /// The router, if there is one.
    pub fn router(&self) -> Option<&Router> {
        self.router.as_ref()
    }

    /// To be called at the time that `send_media` or `finish` gave: what has left, if it has, and
    /// when to call again, if there is more.
    pub fn finish(&mut self, now: Micros) -> (Option<Left<T>>, Option<Micros>) {
        if self.busy_until.is_none() {
            return (None, None);
        }
        if let Some(router) = &mut self.router {
            let room_at = router.room_at(now);
            if room_at > now {
                self.busy_until = Some(room_at);
                self.held_back = true;
                return (None, Some(room_at));
            }
            self.busy_until = None;
            let Some(transfer) = self.waiting.pop_front() else { return (None, None) };
            let waited = router.wait(now);
            let at = router.enter(now, transfer.wire);
            // What found the queue full was sent at once, and lost: one packet tells.
            let dropped = u64::from(std::mem::take(&mut self.held_back));
            let next = self.waiting.front().map(|transfer| transfer.wire).map(|wire| self.start(now, wire));
            return (Some(Left { what: transfer.what, at, waited, dropped }), next);
        }
        if self.debt > 0 {
            let end = now + std::mem::take(&mut self.debt);
            self.busy_until = Some(end);
            return (None, Some(end));
        }
        self.busy_until = None;
        let done = self.waiting.pop_front();
        let done = done.map(|Transfer { what, .. }| Left { what, at: now, waited: 0, dropped: 0 });
        let next = self.waiting.front().map(|transfer| transfer.wire);
        (done, next.map(|wire| self.start(now, wire)))
    }

    /// Bytes on the wire that wait or are leaving.
    pub fn backlog(&self) -> u64 {
        self.waiting.iter().map(|transfer| transfer.wire).sum()
    }

    /// Throws away what waits, as when the node dies.
    pub fn clear(&mut self) {
        self.busy_until = None;
        self.debt = 0;
        self.waiting.clear();
    }

    fn start(&mut self, now: Micros, wire: u64) -> Micros {
        if self.router.is_some() {
            self.busy_until = Some(now);
            return now;
        }
        let end = now.max(self.control_until) + self.rate.time(wire);
        self.busy_until = Some(end);
        end
    }
}

/// The receiving side of an access line.
pub struct Downlink {
    /// Its rate.
    pub rate: Rate,
    free_at: Micros,
}

impl Downlink {
    /// An idle downlink.
    pub fn new(rate: Rate) -> Self {
        Self { rate, free_at: 0 }
    }

    /// A message of `wire` bytes that took the sender's line `sending` and whose last byte reaches this
    /// line now; returns when it is through.
    pub fn receive(&mut self, now: Micros, wire: u64, sending: Micros) -> Micros {
        let span = self.rate.time(wire);
        let start = self.free_at.max(now.saturating_sub(span.min(sending)));
        self.free_at = start + span;
        self.free_at.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(up: &mut Uplink<char>, now: Micros) -> (Option<char>, Option<Micros>) {
        let (left, next) = up.finish(now);
        (left.map(|left| left.what), next)
    }

    #[test]
    fn behind_a_router_all_leaves_the_node_at_once_until_its_queue_is_full() {
        let mut up = Uplink::new(Rate(1_000_000), Some(Line::quiet(100_000)));
        assert_eq!(up.send_media(0, 80_000, 'a'), Some(0));
        assert_eq!(up.send_media(0, 80_000, 'b'), None);
        assert_eq!(up.send_media(0, 80_000, 'c'), None);
        let (left, next) = up.finish(0);
        let left = left.unwrap();
        assert_eq!((left.what, left.at, left.waited, left.dropped, next), ('a', 80_000, 0, 0, Some(0)));
        let (left, next) = up.finish(0);
        let left = left.unwrap();
        assert_eq!((left.what, left.at, left.waited, left.dropped, next), ('b', 160_000, 80_000, 0, Some(0)));
        // Control waits behind what is in the queue.
        assert_eq!(up.send_control(0, 1_000), 161_000);
        let (left, Some(again)) = up.finish(0) else { panic!() };
        assert!(left.is_none() && again > 0);
        let (left, _) = up.finish(91_000);
        assert_eq!(left.map(|left| (left.what, left.at, left.dropped)), Some(('c', 241_000, 1)));
    }

    #[test]
    fn media_leaves_in_order_at_the_rate() {
        let mut up = Uplink::new(Rate(1_000_000), None);
        assert_eq!(up.send_media(0, 50_000, 'a'), Some(50_000));
        assert_eq!(up.send_media(10_000, 30_000, 'b'), None);
        assert_eq!(up.backlog(), 80_000);
        assert_eq!(finish(&mut up, 50_000), (Some('a'), Some(80_000)));
        assert_eq!(finish(&mut up, 80_000), (Some('b'), None));
        assert_eq!(up.backlog(), 0);
    }

    #[test]
    fn control_overtakes_media_but_not_the_pacers_burst_and_is_paid_for() {
        let mut up = Uplink::new(Rate(1_000_000), None);
        up.send_media(0, 50_000, 'a');
        // At most ten packets (14,800 µs) stand before it; then its own 1,000 µs, one after another.
        assert_eq!(up.send_control(20_000, 1_000), 20_000 + 14_800 + 1_000);
        assert_eq!(up.send_control(20_000, 1_000), 20_000 + 14_800 + 2_000);
        assert_eq!(finish(&mut up, 50_000), (None, Some(52_000)));
        assert_eq!(finish(&mut up, 52_000), (Some('a'), None));
        // On an idle line control leaves at once, and media begins behind it.
        assert_eq!(up.send_control(60_000, 5_000), 65_000);
        assert_eq!(up.send_media(60_000, 10_000, 'b'), Some(75_000));
    }

    #[test]
    fn a_slow_senders_message_does_not_occupy_the_downlink() {
        let mut down = Downlink::new(Rate(10_000_000));
        // 100,000 bytes take 10 ms of the line; both ended at the line at 50 ms.
        let slow = Rate(2_000_000).time(100_000);
        assert_eq!(down.receive(50_000, 100_000, slow), 50_000);
        assert_eq!(down.receive(50_000, 100_000, slow), 60_000);
        assert_eq!(down.receive(200_000, 100_000, slow), 200_000);
        // From a faster line the first byte came 1 ms ago: the other 9 ms are still to come.
        assert_eq!(down.receive(300_000, 100_000, Rate(100_000_000).time(100_000)), 309_000);
    }
}
