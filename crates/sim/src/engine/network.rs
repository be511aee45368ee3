//! Nodes and links in virtual time: what a transport offers, and what it costs.
//!
//! Contract: a protocol calls [`Network::send_control`], [`Network::send_media`],
//! [`Network::dial`], [`Network::hang_up`] and [`Network::set_timer`] for its nodes, and takes what
//! happens from [`Network::next`] until that is `None`. Time moves only there.
//!
//! A node that dies says nothing: its neighbours learn of it when their transport has heard nothing
//! for [`IDLE_TIMEOUT`].

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{
    Micros, NodeId, SECOND,
    access::{
        ACK_BYTES, Downlink, FRAME_OVERHEAD_BYTES, PACKET_BYTES, PACKETS_PER_ACK, Rate, Sent, Uplink,
        packets, wire_bytes,
    },
    path::{LossModel, Path},
    queue::EventQueue,
    topology::{Place, Reach, Way},
};

/// After this long without a packet a transport gives a link up (iroh's default for a path).
pub const IDLE_TIMEOUT: Micros = 15 * SECOND;
/// After this long an unanswered dial fails.
pub const DIAL_TIMEOUT: Micros = 3 * SECOND;
/// Control bytes of a link that leave before the sender is told of them, unless media tells it earlier: a
/// transport does not report every few bytes either.
pub const REPORT_BYTES: u64 = 256;
/// Bytes of a handshake's first flight on the dialler's uplink, and of the answer on the other's.
const HANDSHAKE_BYTES: u64 = 1_280;

/// A link; stale once the link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    index: u32,
    generation: u32,
}

/// What a protocol is told.
#[derive(Debug)]
pub enum Happening<M> {
    /// A link to `peer` is up.
    LinkUp {
        /// Who is told.
        node: NodeId,
        /// The link.
        link: LinkId,
        /// The other end.
        peer: NodeId,
        /// Whether `node` dialled.
        dialled: bool,
    },
    /// The dial of `node` to `peer` has failed.
    DialFailed {
        /// Who dialled.
        node: NodeId,
        /// Who did not answer.
        peer: NodeId,
    },
    /// The link is gone.
    LinkDown {
        /// Who is told.
        node: NodeId,
        /// The link that was.
        link: LinkId,
        /// The other end.
        peer: NodeId,
    },
    /// A message has arrived in full.
    Message {
        /// The receiver.
        node: NodeId,
        /// The link it came by.
        link: LinkId,
        /// The sender.
        from: NodeId,
        /// What was sent.
        message: M,
    },
    /// A media message of `node` has left its uplink, and control with it.
    Drained {
        /// The sender.
        node: NodeId,
        /// The link that it goes by.
        link: LinkId,
        /// Bytes as encoded.
        bytes: u64,
    },
    /// The timer of `node` is due.
    Timer {
        /// Whose.
        node: NodeId,
    },
    /// What [`Network::schedule`] was given.
    Scheduled(u64),
}

/// What a node's access line is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Access {
    /// Rate of the uplink.
    pub up: Rate,
    /// Rate of the downlink.
    pub down: Rate,
    /// Who can dial it.
    pub reach: Reach,
}

struct Node {
    alive: bool,
    place: Place,
    reach: Reach,
    uplink: Uplink<u32>,
    downlink: Downlink,
    links: Vec<LinkId>,
    timer_at: Micros,
}

struct Link {
    generation: u32,
    /// Dialler first.
    ends: [NodeId; 2],
    /// Whether each end holds the link to be up.
    up: [bool; 2],
    rtt: Micros,
    paths: [Path; 2],
}

/// A message that is on its way.
struct Flight<M> {
    message: Option<M>,
    link: LinkId,
    /// Index of the sender in the link's ends.
    side: u8,
    media: bool,
    bytes: u32,
    wire: u32,
    /// Time that it takes on the sender's line.
    sending: u32,
}

enum Event {
    Arrive(u32),
    Deliver(u32),
    UplinkDone(NodeId),
    Connected(LinkId),
    DialFailed { node: NodeId, peer: NodeId },
    Closed { link: LinkId, side: u8 },
    Timer(NodeId),
    Scheduled(u64),
}

/// The whole network. `M` is the protocol's message.
pub struct Network<M> {
    now: Micros,
    queue: EventQueue<Event>,
    nodes: Vec<Node>,
    links: Vec<Link>,
    free_links: Vec<u32>,
    flights: Vec<Flight<M>>,
    free_flights: Vec<u32>,
    loss: LossModel,
    seed: u64,
    rng: Xoshiro256PlusPlus,
    events: u64,
}

impl LinkId {
    /// The link as one number, never used again for another link.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The link that [`LinkId::to_bits`] gave the number of.
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

impl<M> Network<M> {
    /// An empty network; `seed` decides places, jitter and losses.
    pub fn new(seed: u64, loss: LossModel) -> Self {
        Self {
            now: 0,
            queue: EventQueue::default(),
            nodes: Vec::new(),
            links: Vec::new(),
            free_links: Vec::new(),
            flights: Vec::new(),
            free_flights: Vec::new(),
            loss,
            seed,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            events: 0,
        }
    }

    /// The present.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Events handled so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Adds a node at a random place.
    pub fn add_node(&mut self, access: Access) -> NodeId {
        let place = Place::random(&mut self.rng);
        self.add_node_at(place, access)
    }

    /// Adds a node at `place`.
    pub fn add_node_at(&mut self, place: Place, access: Access) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node {
            alive: true,
            place,
            reach: access.reach,
            uplink: Uplink::new(access.up),
            downlink: Downlink::new(access.down),
            links: Vec::new(),
            timer_at: Micros::MAX,
        });
        id
    }

    /// Whether the node has not died.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.nodes[node.index()].alive
    }

    /// What the node has sent so far.
    pub fn sent(&self, node: NodeId) -> Sent {
        self.nodes[node.index()].uplink.sent
    }

    /// Wire bytes of media that the node has handed over and that have not left yet.
    pub fn backlog(&self, node: NodeId) -> u64 {
        self.nodes[node.index()].uplink.backlog()
    }

    /// Rate of the node's uplink.
    pub fn uplink_rate(&self, node: NodeId) -> Rate {
        self.nodes[node.index()].uplink.rate
    }

    /// Round trip between two nodes without any queue.
    pub fn rtt(&self, a: NodeId, b: NodeId) -> Micros {
        self.nodes[a.index()].place.rtt(self.nodes[b.index()].place)
    }

    /// Round trip between a node and a server in the middle of the plane.
    pub fn rtt_to_centre(&self, node: NodeId) -> Micros {
        self.nodes[node.index()].place.rtt(Place::CENTRE)
    }

    /// Who can dial the node.
    pub fn reach(&self, node: NodeId) -> Reach {
        self.nodes[node.index()].reach
    }

    /// The link between two nodes, if it is up or being set up.
    pub fn link_between(&self, a: NodeId, b: NodeId) -> Option<LinkId> {
        let nodes = &self.nodes[a.index()];
        nodes.links.iter().copied().find(|link| self.links[link.index as usize].ends.contains(&b))
    }

    /// The other end of a link.
    pub fn peer(&self, node: NodeId, link: LinkId) -> NodeId {
        let ends = self.links[link.index as usize].ends;
        if ends[0] == node { ends[1] } else { ends[0] }
    }

    /// Sets up a link: up at both ends after one and a half round trips, and the way of a word through a server
    /// before if a hole must be punched; or a failed dial after [`DIAL_TIMEOUT`]. A pair that fails once always fails. A second dial between the same nodes joins the first.
    pub fn dial(&mut self, node: NodeId, peer: NodeId) {
        if self.link_between(node, peer).is_some() {
            return;
        }
        self.nodes[node.index()].uplink.charge(self.now, HANDSHAKE_BYTES);
        let way = self.reach(peer).dialled_by(self.reach(node));
        // To the server and on to the other end, who dials at once.
        let signalling = (self.rtt_to_centre(node) + self.rtt_to_centre(peer)) / 2;
        let target = &mut self.nodes[peer.index()];
        let (reachable, signalling) = match way {
            Way::Direct => (true, 0),
            Way::Punched(chance) => (pair_draw(self.seed, node, peer) < chance, signalling),
            Way::None => (false, 0),
        };
        if !target.alive || !reachable || node == peer {
            self.queue.push(self.now + DIAL_TIMEOUT, Event::DialFailed { node, peer });
            return;
        }
        target.uplink.charge(self.now, HANDSHAKE_BYTES);
        let rtt = self.rtt(node, peer);
        let link = self.new_link([node, peer], rtt);
        self.nodes[node.index()].links.push(link);
        self.nodes[peer.index()].links.push(link);
        self.queue.push(self.now + signalling + rtt + rtt / 2, Event::Connected(link));
    }

    /// Closes a link. The other end is told after half a round trip, and after the control messages
    /// that were sent to it before.
    pub fn hang_up(&mut self, node: NodeId, id: LinkId) {
        let Some(side) = self.side_up(node, id) else { return };
        let link = &mut self.links[id.index as usize];
        link.up[side] = false;
        let told = (self.now + link.rtt / 2).max(link.paths[side].last_control_arrival());
        self.nodes[node.index()].links.retain(|held| *held != id);
        self.queue.push(told, Event::Closed { link: id, side: 1 - side as u8 });
    }

    /// The node vanishes without a word.
    pub fn kill(&mut self, node: NodeId) {
        let state = &mut self.nodes[node.index()];
        state.alive = false;
        let dropped: Vec<u32> = state.uplink.clear().collect();
        for id in std::mem::take(&mut state.links) {
            let link = &mut self.links[id.index as usize];
            let side = usize::from(link.ends[1] == node);
            link.up[side] = false;
            self.queue.push(self.now + IDLE_TIMEOUT, Event::Closed { link: id, side: 1 - side as u8 });
        }
        for flight in dropped {
            self.land(flight);
        }
    }

    /// Sends a control message of `bytes` as encoded, unless there is no such link. Control overtakes
    /// media and counts as drained at once: returns bytes of it that the sender is to be told of.
    pub fn send_control(&mut self, node: NodeId, link: LinkId, bytes: usize, message: M) -> Option<u64> {
        let side = self.side_up(node, link)?;
        let bytes = bytes as u64;
        let state = &mut self.links[link.index as usize];
        let path = &mut state.paths[side];
        let own_packet = wire_bytes(bytes);
        let framed = bytes + FRAME_OVERHEAD_BYTES;
        let wire = if path.join_packet(self.now, framed, own_packet) { framed } else { own_packet };
        let resent = path.lose(&self.loss, self.now, packets(bytes), &mut self.rng);
        let uplink = &mut self.nodes[node.index()].uplink;
        let left = uplink.send_control(self.now, wire);
        uplink.sent.control += bytes;
        uplink.sent.control_overhead += wire - bytes;
        if resent.packets > 0 {
            uplink.charge(self.now, resent.packets * PACKET_BYTES.min(own_packet));
        }
        let arrives = path.control_arrival(left, state.rtt, resent, &mut self.rng);
        let flight = Flight {
            message: Some(message),
            link,
            side: side as u8,
            media: false,
            bytes: bytes as u32,
            wire: wire as u32,
            sending: self.nodes[node.index()].uplink.rate.time(wire) as u32,
        };
        path.unreported += bytes;
        let reported = (path.unreported >= REPORT_BYTES).then(|| std::mem::take(&mut path.unreported));
        let flight = self.launch(flight);
        self.queue.push(arrives, Event::Arrive(flight));
        reported
    }

    /// Queues a media message of `bytes` as encoded at the node's uplink, to be followed by
    /// [`Happening::Drained`]; `false` if there is no such link.
    pub fn send_media(&mut self, node: NodeId, link: LinkId, bytes: usize, message: M) -> bool {
        let Some(side) = self.side_up(node, link) else { return false };
        let wire = wire_bytes(bytes as u64);
        let flight = self.launch(Flight {
            message: Some(message),
            link,
            side: side as u8,
            media: true,
            bytes: bytes as u32,
            wire: wire as u32,
            sending: self.nodes[node.index()].uplink.rate.time(wire) as u32,
        });
        if let Some(at) = self.nodes[node.index()].uplink.send_media(self.now, wire, flight) {
            self.queue.push(at, Event::UplinkDone(node));
        }
        true
    }

    /// Sets the node's one timer to `at`, or to nothing. A timer may fire early or twice, so that
    /// setting it costs nothing: the node then looks what is due.
    pub fn set_timer(&mut self, node: NodeId, at: Option<Micros>) {
        let state = &mut self.nodes[node.index()];
        if let Some(at) = at
            && at < state.timer_at
        {
            let at = at.max(self.now);
            state.timer_at = at;
            self.queue.push(at, Event::Timer(node));
        }
    }

    /// Has `token` come back as [`Happening::Scheduled`] at `at`.
    pub fn schedule(&mut self, at: Micros, token: u64) {
        self.queue.push(at, Event::Scheduled(token));
    }

    /// The next thing that happens, or `None` if nothing will before `end`.
    pub fn next(&mut self, end: Micros) -> Option<Happening<M>> {
        loop {
            let (at, event) = self.queue.pop()?;
            self.now = self.now.max(at);
            if self.now >= end {
                return None;
            }
            self.events += 1;
            if let Some(happening) = self.step(event) {
                return Some(happening);
            }
        }
    }

    fn step(&mut self, event: Event) -> Option<Happening<M>> {
        match event {
            Event::Arrive(flight) => self.arrive(flight),
            Event::Deliver(flight) => self.deliver(flight),
            Event::UplinkDone(node) => self.uplink_done(node),
            Event::Connected(link) => self.connected(link),
            Event::Closed { link, side } => self.closed(link, usize::from(side)),
            Event::DialFailed { node, peer } => {
                self.is_alive(node).then_some(Happening::DialFailed { node, peer })
            }
            Event::Timer(node) => {
                let state = &mut self.nodes[node.index()];
                if !state.alive || self.now < state.timer_at {
                    return None;
                }
                state.timer_at = Micros::MAX;
                Some(Happening::Timer { node })
            }
            Event::Scheduled(token) => Some(Happening::Scheduled(token)),
        }
    }

    fn arrive(&mut self, id: u32) -> Option<Happening<M>> {
        let flight = &self.flights[id as usize];
        let Some(receiver) = self.receiver(flight.link, flight.side) else {
            self.land(id);
            return None;
        };
        let (wire, sending) = (u64::from(flight.wire), Micros::from(flight.sending));
        let through = self.nodes[receiver.index()].downlink.receive(self.now, wire, sending);
        if through > self.now {
            self.queue.push(through, Event::Deliver(id));
            return None;
        }
        self.deliver(id)
    }

    fn deliver(&mut self, id: u32) -> Option<Happening<M>> {
        let flight = self.land(id);
        let node = self.receiver(flight.link, flight.side)?;
        let link = flight.link;
        let ends = self.links[link.index as usize].ends;
        if flight.media {
            let acks = packets(u64::from(flight.bytes)).div_ceil(PACKETS_PER_ACK);
            self.nodes[node.index()].uplink.charge(self.now, acks * ACK_BYTES);
        }
        let from = ends[usize::from(flight.side)];
        flight.message.map(|message| Happening::Message { node, link, from, message })
    }

    fn uplink_done(&mut self, node: NodeId) -> Option<Happening<M>> {
        let state = &mut self.nodes[node.index()];
        if !state.alive {
            return None;
        }
        let (done, next) = state.uplink.finish(self.now);
        if let Some(at) = next {
            self.queue.push(at, Event::UplinkDone(node));
        }
        let id = done?;
        let flight = &self.flights[id as usize];
        let (link_id, bytes, wire) = (flight.link, u64::from(flight.bytes), u64::from(flight.wire));
        let side = usize::from(flight.side);
        let link = &mut self.links[link_id.index as usize];
        let stale = link.generation != link_id.generation;
        state.uplink.sent.media += bytes;
        state.uplink.sent.transport += wire - bytes;
        if stale {
            self.land(id);
            return None;
        }
        let path = &mut link.paths[side];
        let resent = path.lose(&self.loss, self.now, packets(bytes), &mut self.rng);
        let arrives = path.media_arrival(self.now, wire, link.rtt, resent, &mut self.rng);
        if resent.packets > 0 {
            state.uplink.charge(self.now, resent.packets * PACKET_BYTES);
        }
        let bytes = bytes + std::mem::take(&mut path.unreported);
        self.queue.push(arrives, Event::Arrive(id));
        Some(Happening::Drained { node, link: link_id, bytes })
    }

    fn connected(&mut self, id: LinkId) -> Option<Happening<M>> {
        let link = &mut self.links[id.index as usize];
        if link.generation != id.generation {
            return None;
        }
        let [dialler, other] = link.ends;
        if !link.up[0] && !link.up[1] {
            if !self.nodes[dialler.index()].alive || !self.nodes[other.index()].alive {
                self.free_link(id);
                self.queue.push(self.now + DIAL_TIMEOUT, Event::DialFailed { node: dialler, peer: other });
                return None;
            }
            // Twice: the first call tells the dialler, the second, at once, the other end.
            link.up = [true; 2];
            self.queue.push(self.now, Event::Connected(id));
            return Some(Happening::LinkUp { node: dialler, link: id, peer: other, dialled: true });
        }
        link.up[1].then_some(Happening::LinkUp { node: other, link: id, peer: dialler, dialled: false })
    }

    fn closed(&mut self, id: LinkId, side: usize) -> Option<Happening<M>> {
        let link = &mut self.links[id.index as usize];
        if link.generation != id.generation {
            return None;
        }
        let (node, peer) = (link.ends[side], link.ends[1 - side]);
        let was_up = std::mem::take(&mut link.up[side]);
        self.free_link(id);
        (was_up && self.nodes[node.index()].alive).then_some(Happening::LinkDown { node, link: id, peer })
    }

    fn side_up(&self, node: NodeId, id: LinkId) -> Option<usize> {
        let link = &self.links[id.index as usize];
        let side = usize::from(link.ends[1] == node);
        (link.generation == id.generation && link.up[side]).then_some(side)
    }

    /// The node that hears what `side` sends, if it still holds the link to be up.
    fn receiver(&self, id: LinkId, side: u8) -> Option<NodeId> {
        let link = &self.links[id.index as usize];
        let other = 1 - usize::from(side);
        (link.generation == id.generation && link.up[other]).then_some(link.ends[other])
    }

    fn new_link(&mut self, ends: [NodeId; 2], rtt: Micros) -> LinkId {
        let fresh = |generation| Link { generation, ends, up: [false; 2], rtt, paths: Default::default() };
        if let Some(index) = self.free_links.pop() {
            let slot = &mut self.links[index as usize];
            *slot = fresh(slot.generation);
            return LinkId { index, generation: slot.generation };
        }
        self.links.push(fresh(0));
        LinkId { index: self.links.len() as u32 - 1, generation: 0 }
    }

    /// Both ends have let go, or one has and the other's time is over.
    fn free_link(&mut self, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        link.generation += 1;
        self.free_links.push(id.index);
        for end in link.ends {
            self.nodes[end.index()].links.retain(|held| *held != id);
        }
    }

    fn launch(&mut self, flight: Flight<M>) -> u32 {
        if let Some(id) = self.free_flights.pop() {
            self.flights[id as usize] = flight;
            return id;
        }
        self.flights.push(flight);
        self.flights.len() as u32 - 1
    }

    fn land(&mut self, id: u32) -> Flight<M> {
        self.free_flights.push(id);
        let flight = &mut self.flights[id as usize];
        Flight { message: flight.message.take(), ..*flight }
    }
}

/// A number in 0..1 that two nodes have for a run's time, whoever of them dials (SplitMix64).
fn pair_draw(seed: u64, a: NodeId, b: NodeId) -> f64 {
    let pair = u64::from(a.0.min(b.0)) << 32 | u64::from(a.0.max(b.0));
    let mut z = (seed ^ pair).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{MILLISECOND, path::JITTER};

    const UP: u64 = 1_500_000;
    const DOWN: u64 = 4_000_000;

    fn access(reach: Reach) -> Access {
        Access { up: Rate(UP), down: Rate(DOWN), reach }
    }

    /// Two linked nodes; returns them and their link.
    fn pair(loss: LossModel) -> (Network<u32>, NodeId, NodeId, LinkId) {
        let mut net = Network::new(1, loss);
        let a = net.add_node(access(Reach::Open));
        let b = net.add_node(access(Reach::Open));
        net.dial(a, b);
        let rtt = net.rtt(a, b);
        let Some(Happening::LinkUp { node, link, dialled: true, .. }) = net.next(SECOND) else { panic!() };
        assert_eq!((node, net.now()), (a, rtt * 3 / 2));
        let Some(Happening::LinkUp { node, dialled: false, .. }) = net.next(SECOND) else { panic!() };
        assert_eq!((node, net.now()), (b, rtt * 3 / 2));
        (net, a, b, link)
    }

    /// Times at which messages arrive, until nothing happens any more.
    fn arrivals(net: &mut Network<u32>) -> Vec<(Micros, u32)> {
        let mut seen = Vec::new();
        while let Some(happening) = net.next(Micros::MAX) {
            if let Happening::Message { message, .. } = happening {
                seen.push((net.now(), message));
            }
        }
        seen
    }

    #[test]
    fn pieces_arrive_when_rate_and_delay_say() {
        let (mut net, a, b, link) = pair(LossModel::default());
        // Past slow start.
        for number in 0..4 {
            net.send_media(a, link, 65_536, number);
        }
        arrivals(&mut net);
        let start = net.now();
        net.send_media(a, link, 65_536, 10);
        net.send_media(a, link, 65_536, 11);
        net.send_control(a, link, 20, 12);
        let one = Rate(UP).time(wire_bytes(65_536));
        let way = net.rtt(a, b) / 2;
        let seen = arrivals(&mut net);
        let control = Rate(UP).time(wire_bytes(20));
        for (at, message, expected) in [
            (seen[0].0, 12, Rate(UP).time(super::super::access::PACER_BURST_BYTES) + control),
            (seen[1].0, 10, one + control),
            (seen[2].0, 11, 2 * one + control),
        ] {
            let expected = start + expected + way;
            assert!((expected..=expected + JITTER + 2).contains(&at), "{message}: {at}, not {expected}");
        }
        assert_eq!(seen.iter().map(|(_, message)| *message).collect::<Vec<_>>(), [12, 10, 11]);
    }

    #[test]
    fn two_senders_share_the_receivers_downlink() {
        let mut net: Network<u32> = Network::new(1, LossModel::default());
        let fast = Access { up: Rate(100_000_000), ..access(Reach::Open) };
        let receiver = net.add_node(access(Reach::Open));
        let senders = [net.add_node(fast), net.add_node(fast)];
        for sender in senders {
            net.dial(sender, receiver);
        }
        let mut links = Vec::new();
        while let Some(happening) = net.next(SECOND) {
            if let Happening::LinkUp { node, link, dialled: true, .. } = happening {
                links.push((node, link));
            }
        }
        for (sender, link) in &links {
            net.send_media(*sender, *link, 4_000_000, sender.0);
        }
        arrivals(&mut net);
        // Past slow start.
        let start = net.now();
        for (sender, link) in &links {
            net.send_media(*sender, *link, 4_000_000, sender.0);
        }
        let seen = arrivals(&mut net);
        let both = Rate(DOWN).time(2 * wire_bytes(4_000_000));
        let took = seen[1].0 - start;
        assert!((both..both + 100 * MILLISECOND).contains(&took), "{took}");
    }

    #[test]
    fn a_lossy_link_resends_and_delays() {
        let always = LossModel { good: 0.5, ..LossModel::default() };
        let (mut net, a, b, link) = pair(always);
        let before = net.sent(a);
        for number in 0..50 {
            net.send_media(a, link, 65_536, number);
        }
        let seen = arrivals(&mut net);
        assert_eq!(seen.len(), 50, "reliable");
        let sent = net.sent(a);
        assert_eq!(sent.media - before.media, 50 * 65_536);
        // Half of the packets twice, a quarter thrice, …: as many resent as sent.
        let plain = 50 * wire_bytes(65_536);
        let resent = sent.transport - before.transport + 50 * 65_536 - plain;
        assert!((plain * 9 / 10..plain * 12 / 10).contains(&resent), "{resent} of {plain}");
        let floor = Rate(UP).time(2 * plain) * 9 / 10;
        assert!(seen[49].0 > floor + net.rtt(a, b), "{} {floor}", seen[49].0);
    }

    #[test]
    fn death_is_noticed_by_idle_timeout_only_and_hanging_up_at_once() {
        let (mut net, a, b, link) = pair(LossModel::default());
        let start = net.now();
        net.kill(b);
        net.send_control(a, link, 10, 1);
        let Some(Happening::LinkDown { node, peer, .. }) = net.next(Micros::MAX) else { panic!() };
        assert_eq!((node, peer, net.now()), (a, b, start + IDLE_TIMEOUT));
        assert!(!net.send_media(a, link, 10, 1), "the link is gone");

        let (mut net, a, b, link) = pair(LossModel::default());
        let start = net.now();
        net.hang_up(a, link);
        let Some(Happening::LinkDown { node, peer, .. }) = net.next(Micros::MAX) else { panic!() };
        assert_eq!((node, peer, net.now()), (b, a, start + net.rtt(a, b) / 2));
    }

    #[test]
    fn nobody_dials_the_dead_or_the_hidden() {
        let mut net: Network<u32> = Network::new(1, LossModel::default());
        let a = net.add_node(access(Reach::Open));
        let hidden = net.add_node(access(Reach::DialOnly));
        let dead = net.add_node(access(Reach::Open));
        let dying = net.add_node(access(Reach::Open));
        net.kill(dead);
        for peer in [hidden, dead, dying] {
            net.dial(a, peer);
        }
        net.kill(dying);
        let mut failed = Vec::new();
        while let Some(happening) = net.next(Micros::MAX) {
            match happening {
                Happening::DialFailed { node, peer } if node == a => failed.push(peer),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(failed, [hidden, dead, dying]);
        net.dial(hidden, a);
        assert!(matches!(net.next(Micros::MAX), Some(Happening::LinkUp { node, .. }) if node == hidden));
    }

    #[test]
    fn holes_are_punched_by_class_and_for_good() {
        let mut net: Network<u32> = Network::new(1, LossModel::default());
        let open = net.add_node(access(Reach::Open));
        let cones: Vec<NodeId> = (0..60).map(|_| net.add_node(access(Reach::Cone))).collect();
        let symmetric: Vec<NodeId> = (0..60).map(|_| net.add_node(access(Reach::Symmetric))).collect();
        let mut dial = |from: &[NodeId], to: &[NodeId]| {
            for (from, to) in from.iter().zip(to) {
                net.dial(*from, *to);
            }
            let (mut up, mut failed) = (0, 0);
            while let Some(happening) = net.next(Micros::MAX) {
                match happening {
                    Happening::LinkUp { dialled: true, .. } => up += 1,
                    Happening::DialFailed { .. } => failed += 1,
                    _ => {}
                }
            }
            (up, failed)
        };
        assert_eq!(dial(&[open; 60], &symmetric), (60, 0));
        assert_eq!(dial(&symmetric[..30], &symmetric[30..]), (0, 30));
        let (up, failed) = dial(&cones[..30], &cones[30..]);
        assert!(up + failed == 30 && (22..30).contains(&up), "{up}");
        let (up, failed) = dial(&cones, &symmetric);
        assert!(up + failed == 60 && (20..40).contains(&up), "{up}");
        // Whoever of them dials: those that failed fail again, the others have their link.
        assert_eq!(dial(&symmetric, &cones), (0, failed));
    }

    #[test]
    fn a_timer_fires_once_at_its_earliest_setting() {
        let mut net: Network<u32> = Network::new(1, LossModel::default());
        let a = net.add_node(access(Reach::Open));
        net.set_timer(a, Some(500));
        net.set_timer(a, Some(300));
        net.set_timer(a, Some(400));
        assert!(matches!(net.next(Micros::MAX), Some(Happening::Timer { node }) if node == a));
        assert_eq!(net.now(), 300);
        assert!(net.next(Micros::MAX).is_none());
    }
}
