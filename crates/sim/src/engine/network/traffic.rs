//! Messages: from one end of a link over the sender's line, the way between, and the receiver's line.

use super::{Event, Happening, LinkId, Network};
use crate::engine::{
    Micros, NodeId,
    access::{
        ACK_BYTES, ACK_FRAME_BYTES, FRAME_OVERHEAD_BYTES, Left, PACKET_BYTES, Uplink, packets, wire_bytes,
    },
    path::{Acks, Conditions, Counts},
};

/// Control bytes of a link that leave before the sender is told of them, unless media tells it earlier: a
/// transport does not report every few bytes either.
pub const REPORT_BYTES: u64 = 256;
/// A message that is on its way.
pub(super) struct Flight<M> {
    message: M,
    /// The sender's link until the message has left, then the receiver's.
    link: LinkId,
    /// Packets that it takes: none if it shares one with what was sent before it.
    packets: u16,
    bytes: u32,
    wire: u32,
    /// Time that it takes on the sender's line.
    sending: u32,
    /// Time that it has waited in the sender's router.
    waited: u32,
}

impl<M> Network<M> {
    /// Sends a control message of `bytes` as encoded, unless there is no such link. Control overtakes
    /// media and counts as drained at once: returns bytes of it that the sender is to be told of.
    pub fn send_control(&mut self, node: NodeId, link: LinkId, bytes: usize, message: M) -> Option<u64> {
        let (now, Conditions { loss, jitter, .. }, bytes) = (self.now, self.conditions, bytes as u64);
        let state = self.node_mut(node);
        let end = state.links.up(link)?;
        let path = &mut end.path;
        let own_packet = wire_bytes(bytes);
        let framed = bytes + FRAME_OVERHEAD_BYTES;
        let wire = if path.join_packet(now, framed, own_packet) { framed } else { own_packet };
        let resent = path.lose(&loss, now, packets(bytes), &mut state.rng);
        let uplink = &mut state.uplink;
        acknowledge_along(&mut path.owed, uplink, now);
        let waited = uplink.wait(now);
        let left = uplink.send_control(now, wire);
        uplink.sent.control += bytes;
        uplink.sent.control_overhead += wire - bytes;
        if resent.packets > 0 {
            uplink.charge(now, resent.packets * PACKET_BYTES.min(own_packet));
        }
        let arrives = path.control_arrival(left, (end.rtt, jitter), resent, &mut state.rng);
        path.count(wire, u64::from(wire == own_packet), resent.packets);
        if uplink.router().is_some() {
            path.watch(now, wire, arrives + end.rtt / 2 - now, resent.packets > 0);
        }
        let flight = Flight {
            message,
            link: end.far,
            packets: u16::from(wire == own_packet) * packets(bytes) as u16,
            bytes: bytes as u32,
            wire: wire as u32,
            sending: uplink.rate.time(wire) as u32,
            waited: waited as u32,
        };
        path.unreported += bytes;
        let reported = (path.unreported >= REPORT_BYTES).then(|| std::mem::take(&mut path.unreported));
        let peer = end.peer;
        self.push(node, peer, arrives, Event::Arrive(Box::new(flight)));
        reported
    }

    /// Queues a media message of `bytes` as encoded at the node's uplink, to be followed by
    /// [`Happening::Drained`]; `false` if there is no such link.
    pub fn send_media(&mut self, node: NodeId, link: LinkId, bytes: usize, message: M) -> bool {
        let now = self.now;
        let state = self.node_mut(node);
        if state.links.up(link).is_none() {
            return false;
        }
        let wire = wire_bytes(bytes as u64);
        let flight = Flight {
            message,
            link,
            packets: packets(bytes as u64) as u16,
            bytes: bytes as u32,
            wire: wire as u32,
            sending: state.uplink.rate.time(wire) as u32,
            waited: 0,
        };
        if let Some(at) = state.uplink.send_media(now, wire, Box::new(flight)) {
            self.push(node, node, at, Event::UplinkDone);
        }
        true
    }

    /// What the transport of a node behind a router knows of a link: what it has counted, and the shortest round trip
    /// since the last look.
    pub fn look(&mut self, node: NodeId, link: LinkId) -> Option<(Counts, Option<Micros>)> {
        let now = self.now;
        Some(self.node_mut(node).links.up(link)?.path.look(now))
    }

    pub(super) fn arrive(&mut self, node: NodeId, flight: Box<Flight<M>>) -> Option<Happening<M>> {
        let now = self.now;
        let state = self.node_mut(node);
        state.links.up(flight.link)?;
        let (wire, sending) = (u64::from(flight.wire), Micros::from(flight.sending));
        let through = state.downlink.receive(now, wire, sending);
        if through > now {
            self.push(node, node, through, Event::Deliver(flight));
            return None;
        }
        self.deliver(node, *flight)
    }

    pub(super) fn deliver(&mut self, node: NodeId, flight: Flight<M>) -> Option<Happening<M>> {
        let now = self.now;
        let state = self.node_mut(node);
        let end = state.links.up(flight.link)?;
        let from = end.peer;
        end.path.note_far_wait(flight.waited.into());
        let acks = end.path.owed.receive(now, flight.packets.into());
        if acks > 0 {
            state.uplink.charge(now, acks * ACK_BYTES);
        }
        Some(Happening::Message { node, link: flight.link, from, message: flight.message })
    }

    pub(super) fn uplink_done(&mut self, node: NodeId) -> Option<Happening<M>> {
        let (now, Conditions { loss, jitter, .. }) = (self.now, self.conditions);
        let state = self.node_mut(node);
        if !state.alive {
            return None;
        }
        let (done, next) = state.uplink.finish(now);
        if let Some(at) = next {
            self.push(node, node, at, Event::UplinkDone);
        }
        let Left { what: mut flight, at, waited, dropped } = done?;
        let (link, bytes, wire) = (flight.link, u64::from(flight.bytes), u64::from(flight.wire));
        let state = self.node_mut(node);
        state.uplink.sent.media += bytes;
        state.uplink.sent.transport += wire - bytes;
        let end = state.links.up(link)?;
        acknowledge_along(&mut end.path.owed, &mut state.uplink, now);
        let mut resent = end.path.lose(&loss, now, packets(bytes), &mut state.rng);
        resent.packets += dropped;
        resent.rounds = resent.rounds.max(u32::from(dropped > 0));
        // What is resent waits in the queue once more.
        let at = at + u64::from(resent.rounds) * waited;
        let arrives = end.path.media_arrival(at, wire, (end.rtt, jitter), resent, &mut state.rng);
        end.path.count(wire, packets(bytes), resent.packets);
        if state.uplink.router().is_some() {
            end.path.watch(now, wire, at + end.rtt - now, resent.packets > 0);
        }
        flight.waited = waited as u32;
        if resent.packets > 0 {
            state.uplink.charge(now, resent.packets * PACKET_BYTES);
        }
        let bytes = bytes + std::mem::take(&mut end.path.unreported);
        let peer = end.peer;
        flight.link = end.far;
        self.push(node, peer, arrives, Event::Arrive(flight));
        Some(Happening::Drained { node, link, bytes })
    }
}

/// What is owed to the other end goes along with what goes there now, if it did not have to go before.
fn acknowledge_along<T>(owed: &mut Acks, uplink: &mut Uplink<T>, now: Micros) {
    let (before, along) = owed.send(now);
    let wire = before * ACK_BYTES + u64::from(along) * ACK_FRAME_BYTES;
    if wire > 0 {
        uplink.charge(now, wire);
    }
}
