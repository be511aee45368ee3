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
    topology::{Place, Reach},
};

mod links;

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

#[cfg(test)]
mod tests;
