//! Nodes and links in virtual time: what a transport offers, and what it costs.
//!
//! Contract: a protocol calls [`Network::send_control`], [`Network::send_media`],
//! [`Network::dial`], [`Network::hang_up`] and [`Network::set_timer`] for the node that something happened to, and
//! takes what happens from [`Network::next`] until that is `None`. Time moves only there.
//!
//! Rule: in a [`window`](super::window) what happens to one node is told before what happens to the next, so time goes
//! back to the window's start with each node. Order in time holds for each node, and for what was scheduled.
//!
//! A network can be one of several that share the nodes among them, for as many threads ([`Network::shard`]): each
//! keeps the nodes of its own, knows where the others are, and collects what is for them ([`Network::take_outbox`]).
//! All that is random is drawn for the node that causes it, so the figures do not depend on how many there are.
//!
//! A node that dies says nothing: its neighbours learn of it when their transport has heard nothing
//! for [`IDLE_TIMEOUT`].

use std::{cmp::Reverse, collections::BinaryHeap};

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{
    Micros, NodeId, SECOND,
    access::{Downlink, Rate, Sent, Uplink},
    line::Line,
    path::Conditions,
    queue::{Cause, Entry, EventQueue},
    topology::{Place, Reach},
    window::{Step, lookahead},
};

mod links;
mod traffic;

pub use links::LinkId;
use links::Links;
use traffic::Flight;

/// After this long without a packet a transport gives a link up (iroh's default for a path).
pub const IDLE_TIMEOUT: Micros = 15 * SECOND;
/// After this long an unanswered dial fails.
pub const DIAL_TIMEOUT: Micros = 3 * SECOND;
/// Bytes of a handshake's first flight on the dialler's uplink, and of the answer on the other's.
const HANDSHAKE_BYTES: u64 = 1_280;

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
    /// The router before the uplink, if the node does not pace itself to the line.
    pub line: Option<Line>,
    /// Who can dial it.
    pub reach: Reach,
}

/// Where a node is and how it is reached: known for all nodes, whoever keeps them.
#[derive(Clone, Copy)]
struct Site {
    place: Place,
    reach: Reach,
}

/// A node that this network keeps.
struct Node<M> {
    alive: bool,
    timer_at: Micros,
    /// Events that it has caused.
    caused: u32,
    rng: Xoshiro256PlusPlus,
    uplink: Uplink<Box<Flight<M>>>,
    downlink: Downlink,
    links: Links,
}

/// What happens to a node.
enum Event<M> {
    /// The last byte of a message reaches its line.
    Arrive(Box<Flight<M>>),
    /// The message is through.
    Deliver(Box<Flight<M>>),
    UplinkDone,
    /// `peer` dials, by its link `far`.
    Dialled {
        peer: NodeId,
        far: LinkId,
    },
    /// The dial of `link` is answered by the link `far` of the other end.
    Answered {
        link: LinkId,
        peer: NodeId,
        far: LinkId,
    },
    /// Nobody has answered the dial, or the time to do so is over.
    Unanswered(LinkId),
    DialFailed(NodeId),
    Connected(LinkId),
    Closed(LinkId),
    Timer,
}

/// The whole network, or one thread's share of it. `M` is the protocol's message.
pub struct Network<M> {
    /// Which of how many shares this is.
    shard: u32,
    shards: u32,
    now: Micros,
    /// End of the window.
    until: Micros,
    queue: EventQueue<Event<M>>,
    /// Events of the window, the first one last.
    window: Vec<Entry<Event<M>>>,
    /// Events of the node at work that came about in this window and are due in it.
    near: BinaryHeap<Reverse<Entry<Event<M>>>>,
    /// What is for nodes of other shards, by shard.
    outboxes: Vec<Vec<Entry<Event<M>>>>,
    scheduled: BinaryHeap<Reverse<(Micros, u64)>>,
    sites: Vec<Site>,
    nodes: Vec<Node<M>>,
    conditions: Conditions,
    seed: u64,
    /// For places.
    rng: Xoshiro256PlusPlus,
    events: u64,
}

/// What goes from one network to another; see [`Network::take_outbox`].
pub struct Parcels<M>(Vec<Entry<Event<M>>>);

impl<M> Network<M> {
    /// An empty network; `seed` decides places, jitter and losses.
    pub fn new(seed: u64, conditions: impl Into<Conditions>) -> Self {
        Self::shard(seed, conditions, 0, 1)
    }

    /// A network that keeps the nodes whose number leaves `shard` when divided by `shards`. All nodes must be added to
    /// each of them, in the same order.
    pub fn shard(seed: u64, conditions: impl Into<Conditions>, shard: u32, shards: u32) -> Self {
        Self {
            shard,
            shards,
            now: 0,
            until: 0,
            queue: EventQueue::default(),
            window: Vec::new(),
            near: BinaryHeap::new(),
            outboxes: (0..shards).map(|_| Vec::new()).collect(),
            scheduled: BinaryHeap::new(),
            sites: Vec::new(),
            nodes: Vec::new(),
            conditions: conditions.into(),
            seed,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            events: 0,
        }
    }

    /// The present of the node at work.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Events handled so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether the node is kept here.
    pub fn keeps(&self, node: NodeId) -> bool {
        node.0 % self.shards == self.shard
    }

    /// Place of a node that is kept here in the row of these nodes.
    pub fn index(&self, node: NodeId) -> usize {
        debug_assert!(self.keeps(node));
        (node.0 / self.shards) as usize
    }

    /// Adds a node at a random place.
    pub fn add_node(&mut self, access: Access) -> NodeId {
        let place = self.conditions.geography.place(&mut self.rng);
        self.add_node_at(place, access)
    }

    /// Adds a node at `place`.
    pub fn add_node_at(&mut self, place: Place, access: Access) -> NodeId {
        let id = NodeId(self.sites.len() as u32);
        self.sites.push(Site { place, reach: access.reach });
        if self.keeps(id) {
            self.nodes.push(Node {
                alive: true,
                timer_at: Micros::MAX,
                caused: 0,
                rng: Xoshiro256PlusPlus::seed_from_u64(self.seed ^ u64::from(id.0 + 1) << 32),
                uplink: Uplink::new(access.up, access.line),
                downlink: Downlink::new(access.down),
                links: Links::default(),
            });
        }
        id
    }

    /// Whether the node has not died.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.node(node).alive
    }

    /// What the node has sent so far.
    pub fn sent(&self, node: NodeId) -> Sent {
        self.node(node).uplink.sent
    }

    /// Wire bytes of media that the node has handed over and that have not left yet.
    pub fn backlog(&self, node: NodeId) -> u64 {
        self.node(node).uplink.backlog()
    }

    /// How much of the line was used while other traffic was there: bytes, and what it could have carried.
    pub fn beside(&self, node: NodeId) -> (u64, f64) {
        self.node(node).uplink.router().map_or((0, 0.0), |router| router.beside)
    }

    /// Round trip between two nodes without any queue.
    pub fn rtt(&self, a: NodeId, b: NodeId) -> Micros {
        self.conditions.geography.rtt(self.sites[a.index()].place, self.sites[b.index()].place)
    }

    /// Round trip between a node and a server in the middle of the plane.
    pub fn rtt_to_centre(&self, node: NodeId) -> Micros {
        self.conditions.geography.rtt(self.sites[node.index()].place, Place::CENTRE)
    }

    /// Who can dial the node.
    pub fn reach(&self, node: NodeId) -> Reach {
        self.sites[node.index()].reach
    }

    /// The node vanishes without a word.
    pub fn kill(&mut self, node: NodeId) {
        let now = self.now;
        let state = self.node_mut(node);
        state.alive = false;
        state.uplink.clear();
        for (peer, far) in state.links.clear() {
            self.push(node, peer, now + IDLE_TIMEOUT, Event::Closed(far));
        }
    }

    /// Sets the node's one timer to `at`, or to nothing. A timer may fire early or twice, so that
    /// setting it costs nothing: the node then looks what is due.
    pub fn set_timer(&mut self, node: NodeId, at: Option<Micros>) {
        let now = self.now;
        let state = self.node_mut(node);
        if let Some(at) = at
            && at < state.timer_at
        {
            let at = at.max(now);
            state.timer_at = at;
            self.push(node, node, at, Event::Timer);
        }
    }

    /// Has `token` come back as [`Happening::Scheduled`] at `at`; of those due at one time the least comes first.
    pub fn schedule(&mut self, at: Micros, token: u64) {
        self.scheduled.push(Reverse((at, token)));
    }

    /// The next thing that happens, or `None` if nothing will before `end`. For a network that keeps all nodes.
    pub fn next(&mut self, end: Micros) -> Option<Happening<M>> {
        loop {
            if let Some(happening) = self.next_in_window() {
                return Some(happening);
            }
            let scheduled = self.first_scheduled().map(|(at, _)| at);
            match Step::next(self.now, self.earliest(), scheduled, self.lookahead(), end)? {
                Step::Scheduled(_) => return self.take_scheduled().map(Happening::Scheduled),
                Step::Window(until) => self.begin_window(until),
            }
        }
    }

    /// How far nodes may go on without looking at each other.
    pub fn lookahead(&self) -> Micros {
        lookahead(&self.conditions.geography)
    }

    /// What all paths are like.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// A time before which no event is pending.
    pub fn earliest(&self) -> Option<Micros> {
        self.queue.earliest()
    }

    /// When the first of what was scheduled here is due, and its token.
    pub fn first_scheduled(&self) -> Option<(Micros, u64)> {
        self.scheduled.peek().map(|Reverse(first)| *first)
    }

    /// Takes out what is scheduled first.
    pub fn take_scheduled(&mut self) -> Option<u64> {
        self.events += 1;
        self.scheduled.pop().map(|Reverse((_, token))| token)
    }

    /// Begins a window that ends at `until`; the one before is through.
    pub fn begin_window(&mut self, until: Micros) {
        debug_assert!(self.window.is_empty() && self.near.is_empty());
        self.until = until;
        self.queue.take_before(until, &mut self.window);
        self.window.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// The next thing that happens in the window, or `None` once it is through: then it is `until` for all nodes.
    pub fn next_in_window(&mut self) -> Option<Happening<M>> {
        while let Some(entry) = self.pop() {
            self.now = entry.at;
            self.events += 1;
            if let Some(happening) = self.step(entry.node, entry.event) {
                return Some(happening);
            }
        }
        self.now = self.until;
        None
    }

    /// What has come about for the nodes of another shard. It is to be given to [`Network::accept`] there before the
    /// next window.
    pub fn take_outbox(&mut self, shard: usize) -> Parcels<M> {
        Parcels(std::mem::take(&mut self.outboxes[shard]))
    }

    /// Takes in what has come about elsewhere for nodes that are kept here.
    pub fn accept(&mut self, parcels: Parcels<M>) {
        for entry in parcels.0 {
            self.queue.push(entry);
        }
    }

    /// The next event of the window: the rest of the node at work comes before the next node.
    fn pop(&mut self) -> Option<Entry<Event<M>>> {
        let near_first = match (self.near.peek(), self.window.last()) {
            (Some(Reverse(near)), Some(next)) => near < next,
            (near, _) => near.is_some(),
        };
        if near_first { self.near.pop().map(|Reverse(entry)| entry) } else { self.window.pop() }
    }

    /// `by` causes an event at `node`.
    fn push(&mut self, by: NodeId, node: NodeId, at: Micros, event: Event<M>) {
        let (at, until) = (at.max(self.now), self.until);
        let state = self.node_mut(by);
        state.caused += 1;
        let entry = Entry { node, at, cause: Cause::new(by, state.caused), event };
        if !self.keeps(node) {
            debug_assert!(at >= until);
            self.outboxes[(node.0 % self.shards) as usize].push(entry);
        } else if at < until {
            debug_assert!(by == node);
            self.near.push(Reverse(entry));
        } else {
            self.queue.push(entry);
        }
    }

    fn step(&mut self, node: NodeId, event: Event<M>) -> Option<Happening<M>> {
        match event {
            Event::Arrive(flight) => self.arrive(node, flight),
            Event::Deliver(flight) => self.deliver(node, *flight),
            Event::UplinkDone => self.uplink_done(node),
            Event::Dialled { peer, far } => self.dialled(node, peer, far),
            Event::Answered { link, peer, far } => self.answered(node, link, peer, far),
            Event::Unanswered(link) => self.unanswered(node, link),
            Event::Connected(link) => self.connected(node, link),
            Event::Closed(link) => self.closed(node, link),
            Event::DialFailed(peer) => self.is_alive(node).then_some(Happening::DialFailed { node, peer }),
            Event::Timer => {
                let now = self.now;
                let state = self.node_mut(node);
                if !state.alive || now < state.timer_at {
                    return None;
                }
                state.timer_at = Micros::MAX;
                Some(Happening::Timer { node })
            }
        }
    }

    fn node(&self, node: NodeId) -> &Node<M> {
        &self.nodes[self.index(node)]
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node<M> {
        let index = self.index(node);
        &mut self.nodes[index]
    }
}

#[cfg(test)]
mod tests;
