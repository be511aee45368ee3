//! A run of the rival: when minutes appear, who learns of them, and what goes over the links.

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use std::collections::BTreeMap;

use super::swarm::{Action, Block, Say, Swarm};
use crate::{
    audience::Audience,
    engine::{
        Micros, NodeId, SECOND,
        network::{Happening, Network},
    },
    figures::{Figures, jain},
    plan::{self, Life, Part},
    scenario::Scenario,
    stream::StreamPiece,
    tracker::{NUMWANT, Tracker},
};

/// From one round of the choker to the next.
const CHOKE_ROUND: Micros = 10 * SECOND;
/// When a file that is there at once appears, as for the mesh.
const AT_ONCE: Micros = 3 * SECOND;
/// The last minute appears when the stream ends: time to spread and play it.
const TAIL: Micros = 240 * SECOND;
/// Media that waits in the transport, in bytes on the wire.
const BACKLOG: u64 = 64 * 1024;
/// Bytes of handshake and extension handshake.
const HANDSHAKE_BYTES: usize = 68 + 120;
/// Minutes that a node takes part in at a time: it seeds the last while it fetches the next.
const SWARMS: usize = 2;

/// Messages, each about the minute that it names.
enum Message {
    /// Handshake with bitfield; `true` asks for one in return.
    Hello(u64, Vec<bool>, bool),
    Say(u64, Say),
    Block(u64, Block),
}

/// What was scheduled, packed into the network's token.
enum Token {
    Join(u32),
    Leave(u32),
    Appear,
    /// A viewer has the tracker's answer about a minute.
    Announced {
        node: u32,
        minute: u64,
    },
    Rechoke(u32),
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Join(life) => u64::from(life),
            Self::Leave(node) => 1 << 60 | u64::from(node),
            Self::Appear => 2 << 60,
            Self::Announced { node, minute } => 3 << 60 | minute << 32 | u64::from(node),
            Self::Rechoke(node) => 4 << 60 | u64::from(node),
        }
    }

    fn unpack(token: u64) -> Self {
        let node = token as u32;
        match token >> 60 {
            0 => Self::Join(node),
            1 => Self::Leave(node),
            2 => Self::Appear,
            3 => Self::Announced { node, minute: token << 4 >> 36 },
            _ => Self::Rechoke(node),
        }
    }
}

/// A minute that has appeared.
struct Minute {
    lengths: Vec<u32>,
    /// Position of its first piece in the audience's row.
    first: usize,
    tracker: Tracker,
}

struct Node {
    life: Life,
    swarms: BTreeMap<u64, Swarm>,
    plays: bool,
}

/// The whole run.
pub struct World<'a> {
    scenario: &'a Scenario,
    seed: u64,
    net: Network<Message>,
    lives: Vec<Life>,
    nodes: Vec<Node>,
    audience: Audience,
    minutes: BTreeMap<u64, Minute>,
    coming: Vec<Vec<StreamPiece>>,
    rng: Xoshiro256PlusPlus,
}

impl<'a> World<'a> {
    /// A run that has not begun.
    pub fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let mut net = Network::new(seed, scenario.conditions());
        // Of what sources do, only one that stays is of use for a comparison.
        let lives: Vec<Life> = plan::lives(scenario, seed);
        for (index, life) in lives.iter().enumerate() {
            net.schedule(life.joins, Token::Join(index as u32).pack());
        }
        let spec = scenario.stream;
        let mut coming: Vec<Vec<StreamPiece>> = Vec::new();
        for piece in spec.pieces(0, 0, spec.duration) {
            if piece.id.piece.0 == 0 {
                coming.push(Vec::new());
            }
            if let Some(minute) = coming.last_mut() {
                minute.push(piece);
            }
        }
        // A minute that was not finished never becomes a torrent.
        coming.retain(|minute| minute.last().is_some_and(|piece| piece.seals));
        for minute in &coming {
            let sealed = minute.last().map_or(0, |piece| piece.closes_at);
            net.schedule(if spec.at_once { AT_ONCE } else { sealed }, Token::Appear.pack());
        }
        coming.reverse();
        Self {
            scenario,
            seed,
            net,
            lives,
            nodes: Vec::new(),
            audience: Audience::default(),
            minutes: BTreeMap::new(),
            coming,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x636f_6c64_0000),
        }
    }

    /// Runs to the end; `measure` is called while all state is still there.
    pub fn run<T>(mut self, measure: impl FnOnce() -> T) -> (Figures, T) {
        let end = self.scenario.stream.duration + TAIL;
        while let Some(happening) = self.net.next(end) {
            self.handle(happening);
        }
        let measured = measure();
        (self.finish(end), measured)
    }

    fn handle(&mut self, happening: Happening<Message>) {
        match happening {
            Happening::LinkUp { node, peer, dialled: true, .. } => {
                let shared: Vec<u64> = self.nodes[node.index()].swarms.keys().copied().collect();
                for minute in shared {
                    self.greet(node, peer, minute, true);
                }
            }
            Happening::LinkDown { node, peer, .. } => {
                let minutes: Vec<u64> = self.nodes[node.index()].swarms.keys().copied().collect();
                for minute in minutes {
                    self.with(node, minute, |swarm, rng| swarm.remove(peer, rng));
                }
            }
            Happening::Message { node, from, message, .. } => self.on_message(node, from, message),
            Happening::Drained { node, .. } => self.serve(node),
            Happening::LinkUp { .. } | Happening::DialFailed { .. } | Happening::Timer { .. } => {}
            Happening::Scheduled(token) => match Token::unpack(token) {
                Token::Join(life) => self.join(self.lives[life as usize]),
                Token::Leave(node) => self.leave(NodeId(node)),
                Token::Appear => self.appear(),
                Token::Announced { node, minute } => self.announced(NodeId(node), minute),
                Token::Rechoke(node) => self.rechoke(NodeId(node)),
            },
        }
    }

    fn join(&mut self, life: Life) {
        let now = self.net.now();
        let id = self.net.add_node(life.access);
        self.nodes.push(Node { life, swarms: BTreeMap::new(), plays: false });
        if matches!(life.part, Part::Viewer | Part::LateViewer(_)) {
            let crowd = self.scenario.crowd.is_some_and(|crowd| life.joins >= crowd.at);
            let guarded = life.leaves.is_none() && life.upload && !crowd && life.part == Part::Viewer;
            self.audience.join(id, guarded, now);
        }
        if let Some(leaves) = life.leaves {
            self.net.schedule(leaves, Token::Leave(id.0).pack());
        }
        // Rounds are not in step.
        let first = now + u64::from(id.0) * 7_919_000 % CHOKE_ROUND;
        self.net.schedule(first, Token::Rechoke(id.0).pack());
        let newest = self.minutes.keys().next_back().copied();
        if let Some(newest) = newest {
            self.learn(id, newest);
        }
    }

    fn leave(&mut self, id: NodeId) {
        self.audience.leave(id, self.net.now());
        self.nodes[id.index()].swarms.clear();
        self.net.kill(id);
        for minute in self.minutes.values_mut() {
            minute.tracker.forget(id);
        }
    }

    /// A minute is sealed: its torrent is there, and everyone is told.
    fn appear(&mut self) {
        let Some(pieces) = self.coming.pop() else { return };
        let number = pieces[0].id.segment.0;
        let lengths: Vec<u32> = pieces.iter().map(|piece| piece.len).collect();
        let first = self.audience.closed_count();
        for mut piece in pieces {
            if self.scenario.stream.at_once {
                piece.closes_at = AT_ONCE;
            }
            self.audience.closed(piece);
        }
        let tracker = Tracker::new(self.seed ^ number << 8);
        self.minutes.insert(number, Minute { lengths, first, tracker });
        for index in 0..self.nodes.len() {
            let id = NodeId(index as u32);
            if self.net.is_alive(id) {
                self.learn(id, number);
            }
        }
    }

    /// The source seeds at once; a viewer is told by the tracker and announces, a round trip in all.
    fn learn(&mut self, id: NodeId, number: u64) {
        let Some(minute) = self.minutes.get_mut(&number) else { return };
        let source = self.nodes[id.index()].life.part == Part::Source;
        let swarm = Swarm::new(minute.lengths.clone(), source);
        let node = &mut self.nodes[id.index()];
        node.swarms.insert(number, swarm);
        while node.swarms.len() > SWARMS {
            node.swarms.pop_first();
        }
        if source {
            minute.tracker.announce(id, node.life.access.reach, false);
        } else {
            let answer = self.net.now() + 3 * self.net.rtt_to_centre(id) / 2;
            self.net.schedule(answer, Token::Announced { node: id.0, minute: number }.pack());
        }
    }

    fn announced(&mut self, id: NodeId, number: u64) {
        let Some(minute) = self.minutes.get_mut(&number) else { return };
        if !self.net.is_alive(id) {
            return;
        }
        let reach = self.net.reach(id);
        let sample = minute.tracker.sample(id, reach);
        minute.tracker.announce(id, reach, false);
        let few = sample.len() < NUMWANT / 2;
        for peer in sample {
            match self.net.link_between(id, peer) {
                // Nothing is kept from the last minute: a link that is there is as cold as a new one.
                Some(_) => self.greet(id, peer, number, true),
                None => self.net.dial(id, peer),
            }
        }
        let complete = self.nodes[id.index()].swarms.get(&number).is_none_or(Swarm::complete);
        if few && !complete {
            self.net
                .schedule(self.net.now() + SECOND, Token::Announced { node: id.0, minute: number }.pack());
        }
    }

    fn greet(&mut self, id: NodeId, peer: NodeId, number: u64, answer: bool) {
        let Some(swarm) = self.nodes[id.index()].swarms.get(&number) else { return };
        let Some(link) = self.net.link_between(id, peer) else { return };
        if answer && swarm.knows(peer) {
            return;
        }
        let bitfield = swarm.bitfield();
        let bytes = HANDSHAKE_BYTES + 5 + bitfield.len() / 8;
        self.net.send_control(id, link, bytes, Message::Hello(number, bitfield, answer));
    }

    fn on_message(&mut self, id: NodeId, from: NodeId, message: Message) {
        match message {
            Message::Hello(minute, bitfield, answer) => {
                if answer {
                    self.greet(id, from, minute, false);
                }
                self.with(id, minute, |swarm, _| {
                    if !swarm.knows(from) {
                        swarm.on_bitfield(from, bitfield);
                    }
                });
            }
            Message::Say(minute, say) => self.with(id, minute, |swarm, rng| swarm.on_say(from, say, rng)),
            Message::Block(minute, block) => {
                self.with(id, minute, |swarm, rng| swarm.on_block(from, block, rng));
            }
        }
        self.serve(id);
    }

    fn rechoke(&mut self, id: NodeId) {
        if !self.net.is_alive(id) {
            return;
        }
        let minutes: Vec<u64> = self.nodes[id.index()].swarms.keys().copied().collect();
        for minute in minutes {
            self.with(id, minute, Swarm::rechoke);
        }
        self.net.schedule(self.net.now() + CHOKE_ROUND, Token::Rechoke(id.0).pack());
    }

    /// Changes a swarm and does what it then wants done.
    fn with(&mut self, id: NodeId, number: u64, change: impl FnOnce(&mut Swarm, &mut Xoshiro256PlusPlus)) {
        let Some(swarm) = self.nodes[id.index()].swarms.get_mut(&number) else { return };
        change(swarm, &mut self.rng);
        let actions = std::mem::take(&mut swarm.actions);
        for action in actions {
            match action {
                Action::Send(peer, say) => {
                    let Some(link) = self.net.link_between(id, peer) else { continue };
                    let bytes = match say {
                        Say::Interested | Say::Choke | Say::Unchoke => 5,
                        Say::Have(_) => 9,
                        Say::Request(_) => 17,
                    };
                    self.net.send_control(id, link, bytes, Message::Say(number, say));
                }
                Action::Complete(piece) => self.complete(id, number, piece),
            }
        }
    }

    /// Playing begins once the first minute is whole.
    fn complete(&mut self, id: NodeId, number: u64, piece: u32) {
        let Some(minute) = self.minutes.get(&number) else { return };
        let (first, now) = (minute.first, self.net.now());
        self.audience.verified(id, first + piece as usize, now);
        let node = &mut self.nodes[id.index()];
        let whole = node.swarms.get(&number).is_some_and(Swarm::complete);
        if whole && !node.plays {
            node.plays = true;
            self.audience.start(id, first, now);
        }
    }

    fn serve(&mut self, id: NodeId) {
        if !self.nodes[id.index()].life.upload {
            return;
        }
        while self.net.is_alive(id) && self.net.backlog(id) < BACKLOG {
            // The oldest minute first: whoever still lacks it is behind.
            let next = self.nodes[id.index()].swarms.iter_mut().find_map(|(minute, swarm)| {
                swarm.next_send().map(|(peer, block)| (*minute, peer, block, swarm.block_len(block)))
            });
            let Some((minute, peer, block, len)) = next else { return };
            if let Some(link) = self.net.link_between(id, peer) {
                self.net.send_media(id, link, 13 + len as usize, Message::Block(minute, block));
            }
        }
    }

    fn finish(mut self, end: Micros) -> Figures {
        let mut figures = Figures { events: self.net.events(), ..Figures::default() };
        self.audience.finish(end, &mut figures);
        let (mut media, mut control, mut overhead, mut from_source) = (0, 0, 0, 0);
        let (mut shares, mut viewers, mut up, mut source_up, mut complete) =
            (Vec::new(), 0.0, 0.0, 0.0, true);
        for (index, node) in self.nodes.iter().enumerate() {
            let id = NodeId(index as u32);
            let sent = self.net.sent(id);
            media += sent.media;
            control += sent.control;
            overhead += sent.control + sent.control_overhead + sent.transport;
            up += node.life.access.up.0 as f64;
            if node.life.part == Part::Source {
                from_source += sent.media;
                source_up += node.life.access.up.0 as f64;
                continue;
            }
            viewers += 1.0;
            complete &= self.audience.complete(id);
            if node.life.upload && self.net.is_alive(id) {
                figures.viewers += 1;
                let could = node.life.access.up.bytes(end - node.life.joins);
                shares.push(sent.media as f64 / could as f64);
            }
        }
        figures.nodes = self.nodes.len() as u64;
        let bytes = self.audience.closed_bytes() as f64;
        figures.source_copies = from_source as f64 / bytes.max(1.0);
        figures.control_share = control as f64 / (media as f64).max(1.0);
        figures.wire_overhead = overhead as f64 / (media as f64).max(1.0);
        figures.upload_fairness = jain(shares.into_iter());
        if self.scenario.stream.at_once {
            let least = (bytes / source_up).max(viewers * bytes / up);
            let took = (self.audience.last_verified() - AT_ONCE) as f64 / SECOND as f64;
            figures.fluid_ratio = Some(if complete { took / least } else { f64::INFINITY });
        }
        figures
    }
}
