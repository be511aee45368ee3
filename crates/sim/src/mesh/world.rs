//! A run of the mesh: feeds what happens in the network to the cores, and does what they say.

use bytes::{Bytes, BytesMut};
use minuet_mesh::{Direction, Input, LinkId as CoreLink, Output, PieceRef, Timestamp};
use minuet_proto::mesh::{Message, PeerInfo, Serial, SignedHead};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    hostile,
    media::Media,
    member::{
        HARM_EVERY, Keys, Member, PLAYHEAD_EVERY, TRACKER_INTERVAL, TRACKER_RETRY, Tuning, core_id, engine_id,
    },
    packet::{Packet, Token, received},
    trace,
};
use crate::{
    audience::Audience,
    engine::{
        MILLISECOND, Micros, NodeId, SECOND,
        network::{Happening, LinkId, Network},
    },
    figures::Figures,
    plan::{self, Life, Part},
    scenario::Scenario,
    stream::StreamPiece,
    tracker::{EXPIRY, Tracker},
};

/// Ingest time of the stream's first byte, Unix milliseconds: any time that is not the epoch.
const INGEST_BASE_MS: u64 = 1_700_000_000_000;
/// When a file that is there at once appears: when the mesh has formed.
pub(super) const AT_ONCE: Micros = 3 * SECOND;
/// When a run ends that spreads a file, in lengths of the stream: three times the fluid limit.
const AT_ONCE_LIMIT: u64 = 2;
/// How long after the stream's end a run goes on: until players are through, but before links without a stream
/// are given up.
const TAIL: Micros = 4_500 * MILLISECOND;
/// Serials that a source skips when it returns and does not know where it was.
const SERIAL_GAP: u64 = 1_000;
/// Heads that the tracker keeps for joiners.
const TRACKER_HEADS: usize = 256;
/// Bytes of a signed record.
const RECORD_BYTES: usize = 420;

/// The whole run.
pub struct World<'a> {
    pub(super) scenario: &'a Scenario,
    tuning: Tuning,
    seed: u64,
    pub(super) net: Network<Packet>,
    lives: Vec<Life>,
    pub(super) members: Vec<Member>,
    keys: Keys,
    media: Media,
    tracker: Tracker,
    pub(super) audience: Audience,
    /// Pieces that are still to close.
    coming: std::iter::Peekable<Box<dyn Iterator<Item = StreamPiece>>>,
    /// The source that is there, and its next serial.
    source: Option<NodeId>,
    next_serial: Serial,
    /// First serial of each source, with the position of its first piece in the audience's row.
    epochs: Vec<(Serial, usize)>,
    heads: VecDeque<SignedHead>,
    record: Option<Bytes>,
    traced: Option<NodeId>,
    /// Bytes that the core at work has sent and that have left already.
    drained: Vec<(CoreLink, u64)>,
    scratch: BytesMut,
    pub(super) corrupt_delivered: u64,
    pub(super) banned: Vec<bool>,
    pub(super) false_bans: u64,
    pub(super) hang_ups: BTreeMap<String, u64>,
}

impl<'a> World<'a> {
    /// A run that has not begun.
    pub fn new(scenario: &'a Scenario, tuning: Tuning, seed: u64, traced: Option<NodeId>) -> Self {
        let mut net = Network::new(seed, scenario.loss);
        let lives = plan::lives(scenario, seed);
        for (index, life) in lives.iter().enumerate() {
            net.schedule(life.joins, Token::Join(index as u32).pack());
        }
        Self {
            scenario,
            tuning,
            seed,
            net,
            lives,
            members: Vec::new(),
            keys: Keys::new(seed),
            media: Media::new(scenario.hostile > 0.0),
            tracker: Tracker::new(seed),
            audience: Audience::default(),
            coming: (Box::new(std::iter::empty()) as Box<dyn Iterator<Item = _>>).peekable(),
            source: None,
            next_serial: Serial(0),
            epochs: Vec::new(),
            heads: VecDeque::new(),
            record: None,
            traced,
            drained: Vec::new(),
            scratch: BytesMut::new(),
            corrupt_delivered: 0,
            banned: Vec::new(),
            false_bans: 0,
            hang_ups: BTreeMap::new(),
        }
    }

    /// Runs to the end; `measure` is called while all state is still there.
    pub fn run<T>(mut self, measure: impl FnOnce() -> T) -> (Figures, T) {
        let stream = &self.scenario.stream;
        let end = if stream.at_once { AT_ONCE_LIMIT * stream.duration } else { stream.duration + TAIL };
        while let Some(happening) = self.net.next(end) {
            self.handle(happening);
        }
        let measured = measure();
        (self.finish(end), measured)
    }

    fn handle(&mut self, happening: Happening<Packet>) {
        match happening {
            Happening::LinkUp { node, link, peer, dialled } => {
                self.members[node.index()].links.push(link);
                let direction = if dialled { Direction::Dialled } else { Direction::Accepted };
                let rtt = Duration::from_micros(self.net.rtt(node, peer));
                self.feed(node, Input::LinkUp { link: core_link(link), peer: core_id(peer), direction, rtt });
            }
            Happening::LinkDown { node, link, .. } => {
                self.members[node.index()].links.retain(|up| *up != link);
                self.feed(node, Input::LinkDown { link: core_link(link) });
            }
            Happening::DialFailed { node, peer } => {
                self.feed(node, Input::DialFailed { peer: core_id(peer) });
            }
            Happening::Message { node, link, message, .. } => {
                let link = core_link(link);
                if let Some(input) = received(link, message) {
                    self.feed(node, input);
                }
            }
            Happening::Drained { node, link, bytes } => {
                self.feed(node, Input::Drained { link: core_link(link), bytes });
            }
            Happening::Timer { node } => self.wake(node),
            Happening::Scheduled(token) => match Token::unpack(token) {
                Token::Join(life) => self.join(self.lives[life as usize]),
                Token::Leave(node) => self.leave(NodeId(node)),
                Token::Close => self.close_due(),
                Token::Forget(node) => self.tracker.forget(NodeId(node)),
                Token::TrackerAnswer(node) => self.tracker_answers(NodeId(node)),
            },
        }
    }

    fn join(&mut self, life: Life) {
        let now = self.net.now();
        let id = self.net.add_node(life.access);
        let seed = self.seed ^ u64::from(id.0 + 1) << 32;
        if life.part == Part::Source {
            self.source_begins(id);
        }
        let config = self.keys.config(id, &life, self.tuning, self.next_serial);
        let member = Member::new(life, config, self.scenario.stream.at_once, seed, now);
        if member.is_audience() {
            // Those whom a scenario does not guard: who came with the crowd, leave, or do not contribute.
            let crowd = self.scenario.crowd.is_some_and(|crowd| life.joins >= crowd.at);
            let guarded = life.leaves.is_none() && life.upload && !crowd && life.part == Part::Viewer;
            self.audience.join(id, guarded, now);
        }
        self.members.push(member);
        self.banned.push(false);
        if let Some(leaves) = life.leaves {
            self.net.schedule(leaves, Token::Leave(id.0).pack());
        }
        self.wake(id);
    }

    fn leave(&mut self, id: NodeId) {
        let now = self.net.now();
        let life = self.members[id.index()].life;
        if life.silent {
            self.net.schedule(now + EXPIRY, Token::Forget(id.0).pack());
        } else {
            self.feed(id, Input::Leave);
            self.tracker.forget(id);
        }
        if self.source == Some(id) {
            self.source = None;
        }
        self.audience.leave(id, now);
        self.net.kill(id);
    }

    fn source_begins(&mut self, id: NodeId) {
        let (now, spec) = (self.net.now(), self.scenario.stream);
        self.source = Some(id);
        let returns = !self.epochs.is_empty();
        if returns {
            self.audience.source_returned(now);
            self.next_serial.0 += SERIAL_GAP;
        }
        self.epochs.push((self.next_serial, self.audience.closed_count()));
        let segment = if returns { now / spec.segment + 1 } else { 0 };
        let start = if spec.at_once { 0 } else { now };
        let pieces = spec.pieces(segment, start, spec.duration);
        self.coming = (Box::new(pieces) as Box<dyn Iterator<Item = _>>).peekable();
        self.schedule_close();
    }

    fn schedule_close(&mut self) {
        if let Some(piece) = self.coming.peek() {
            let at = if self.scenario.stream.at_once { AT_ONCE } else { piece.closes_at };
            self.net.schedule(at, Token::Close.pack());
        }
    }

    fn close_due(&mut self) {
        let Some(source) = self.source else { return };
        while let Some(mut piece) = self.coming.next() {
            let serial = self.next_serial;
            self.next_serial.0 += 1;
            let ingest_ms = INGEST_BASE_MS + piece.closes_at / MILLISECOND;
            if self.scenario.stream.at_once {
                piece.closes_at = AT_ONCE;
            }
            self.audience.closed(piece);
            let hash = self.media.hash(serial, piece.len);
            let StreamPiece { id, len, random_access, .. } = piece;
            self.feed(source, Input::PieceClosed { id, len, hash, ingest_ms, random_access });
            if piece.seals {
                let mut record = vec![0; RECORD_BYTES];
                record[..8].copy_from_slice(&id.segment.0.to_le_bytes());
                let record = Bytes::from(record);
                self.record = Some(record.clone());
                self.feed(source, Input::Record { record });
            }
            if !self.scenario.stream.at_once {
                break;
            }
        }
        self.schedule_close();
    }

    /// Does what is due at a node, whatever it is.
    fn wake(&mut self, id: NodeId) {
        let now = self.net.now();
        if self.members[id.index()].tracker_at <= now {
            self.ask_tracker(id);
        }
        if self.members[id.index()].playhead_at.is_some_and(|at| at <= now) {
            self.tell_playhead(id);
        }
        if self.members[id.index()].harm_at.is_some_and(|at| at <= now) {
            self.do_harm(id);
        }
        if self.members[id.index()].core.poll_timeout().is_some_and(|at| at.0 <= now) {
            self.feed(id, Input::Timeout);
        }
        self.set_timer(id);
    }

    fn set_timer(&mut self, id: NodeId) {
        let at = self.members[id.index()].wakes_at();
        self.net.set_timer(id, at);
    }

    /// A first question takes a connection as well; later ones find it open.
    fn ask_tracker(&mut self, id: NodeId) {
        let now = self.net.now();
        let rtt = self.net.rtt_to_centre(id);
        let member = &mut self.members[id.index()];
        let first = member.life.joins == now;
        let lacking = member.core.link_count() < self.tuning.neighbours.unwrap_or(16) / 2;
        member.tracker_wait =
            if lacking { (member.tracker_wait * 2).min(TRACKER_INTERVAL) } else { TRACKER_INTERVAL };
        if first {
            member.tracker_wait = TRACKER_RETRY;
        }
        member.tracker_at = now + member.tracker_wait;
        if first || lacking {
            let answer = now + if first { 2 * rtt } else { rtt };
            self.net.schedule(answer, Token::TrackerAnswer(id.0).pack());
        }
    }

    fn tracker_answers(&mut self, id: NodeId) {
        if !self.net.is_alive(id) {
            return;
        }
        let reach = self.net.reach(id);
        let sample = self.tracker.sample(id, reach);
        self.tracker.announce(id, reach);
        let peers: Vec<PeerInfo> =
            sample.into_iter().map(|peer| self.members[peer.index()].peer_info(peer)).collect();
        let viewer = self.members[id.index()].life.part != Part::Source;
        if viewer {
            for head in self.heads.clone() {
                self.feed(id, Input::Head { head });
            }
            if let Some(record) = self.record.clone() {
                self.feed(id, Input::Record { record });
            }
        }
        if !peers.is_empty() {
            self.feed(id, Input::PeersLearned { peers });
        }
    }

    fn tell_playhead(&mut self, id: NodeId) {
        let now = self.net.now();
        self.members[id.index()].playhead_at = Some(now + PLAYHEAD_EVERY);
        if let Some((position, due)) = self.audience.playhead(id, now) {
            let next = self.serial(position);
            self.feed(id, Input::Playhead { next, due: Timestamp(due) });
        }
    }

    fn do_harm(&mut self, id: NodeId) {
        self.members[id.index()].harm_at = Some(self.net.now() + HARM_EVERY);
        let Part::Hostile(vice) = self.members[id.index()].life.part else { return };
        let newest = Serial(self.next_serial.0.saturating_sub(1));
        for message in hostile::harm(vice, newest) {
            for link in self.members[id.index()].links.clone() {
                let packet = Packet::Encoded(message.clone(), Bytes::new());
                self.net.send_control(id, link, message.len(), packet);
            }
        }
    }

    /// Gives one input to a core and does all that it says.
    fn feed(&mut self, id: NodeId, input: Input) {
        if !self.net.is_alive(id) {
            return;
        }
        let now = self.net.now();
        if self.traced == Some(id) {
            trace::input(id, now, &input);
        }
        self.members[id.index()].core.handle(input, Timestamp(now));
        loop {
            while let Some(output) = self.members[id.index()].core.poll_output() {
                if self.traced == Some(id) {
                    trace::output(id, now, &output);
                }
                self.act(id, output);
            }
            let Some((link, bytes)) = self.drained.pop() else { break };
            self.members[id.index()].core.handle(Input::Drained { link, bytes }, Timestamp(now));
        }
        self.set_timer(id);
    }

    fn act(&mut self, id: NodeId, output: Output) {
        let now = Timestamp(self.net.now());
        match output {
            Output::Send { link, message } => self.send(id, link, message),
            Output::Dial { peer } => self.net.dial(id, engine_id(peer.node)),
            Output::HangUp { link, reason, ban } => {
                if ban && let Some(peer) = self.net.peer(id, engine_link(link)) {
                    self.note_ban(id, peer);
                }
                *self.hang_ups.entry(format!("{reason:?}")).or_default() += 1;
                self.net.hang_up(id, engine_link(link));
                self.members[id.index()].links.retain(|up| *up != engine_link(link));
                self.members[id.index()].core.handle(Input::LinkDown { link }, now);
            }
            Output::Verify { piece, blocks } => {
                let ok = self.media.verify(&piece, &blocks);
                if ok {
                    self.stored(id, &piece);
                }
                let input = Input::Verified { serial: piece.serial, ok };
                self.members[id.index()].core.handle(input, now);
            }
            Output::Start { serial } => {
                if let Some(position) = self.position(serial) {
                    self.audience.start(id, position, now.0);
                    self.begin_if_playing(id);
                }
            }
            Output::Record { record } => {
                self.members[id.index()].core.handle(Input::Record { record }, now);
            }
            Output::FetchHttp { piece, .. } => {
                let input = Input::HttpFailed { serial: piece.serial };
                self.members[id.index()].core.handle(input, now);
            }
            Output::Head(_) | Output::Release { .. } | Output::Equivocation { .. } => {}
        }
    }

    fn stored(&mut self, id: NodeId, piece: &PieceRef) {
        let honest = self.members[id.index()].is_audience();
        let genuine = self.media.hash(piece.serial, piece.len) == piece.hash;
        self.corrupt_delivered += u64::from(honest && !genuine);
        if let Some(position) = self.position(piece.serial)
            && self.audience.verified(id, position, self.net.now())
        {
            self.begin_if_playing(id);
        }
    }

    fn begin_if_playing(&mut self, id: NodeId) {
        if self.audience.plays(id) {
            self.members[id.index()].playhead_at = Some(self.net.now());
        }
    }

    fn send(&mut self, id: NodeId, core: CoreLink, message: Message) {
        let (link, bytes) = (engine_link(core), message.encoded_len());
        let part = self.members[id.index()].life.part;
        if let Message::Block(block) = &message {
            let honest = self.media.block(block.serial, block.offset, block.len, block.piece_len);
            let payload = match part {
                Part::Hostile(vice) => hostile::block(vice, &self.media, honest),
                _ => Some(honest),
            };
            match payload {
                Some(payload) => {
                    let packet = self.packet(message, payload);
                    self.net.send_media(id, link, bytes, packet);
                }
                None => self.drained.push((core, bytes as u64)),
            }
            return;
        }
        if let (Part::Source, Message::Head(head)) = (part, &message)
            && self.heads.back() != Some(head)
        {
            self.heads.push_back(head.clone());
            if self.heads.len() > TRACKER_HEADS {
                self.heads.pop_front();
            }
        }
        let packet = self.packet(message, Bytes::new());
        if let Some(bytes) = self.net.send_control(id, link, bytes, packet) {
            self.drained.push((core, bytes));
        }
    }

    fn packet(&mut self, message: Message, payload: Bytes) -> Packet {
        if !self.media.is_real() {
            return Packet::Plain(message, payload);
        }
        message.encode(&mut self.scratch);
        Packet::Encoded(self.scratch.split().freeze(), payload)
    }

    fn note_ban(&mut self, by: NodeId, banned: NodeId) {
        let hostile = |id: NodeId| matches!(self.members[id.index()].life.part, Part::Hostile(_));
        if hostile(by) {
            return;
        }
        if hostile(banned) {
            self.banned[banned.index()] = true;
        } else {
            self.false_bans += 1;
        }
    }

    /// Position of a serial in the row of all pieces.
    fn position(&self, serial: Serial) -> Option<usize> {
        let (first, position) = self.epochs.iter().rev().find(|(first, _)| *first <= serial)?;
        let position = position + (serial.0 - first.0) as usize;
        (position < self.audience.closed_count()).then_some(position)
    }

    fn serial(&self, position: usize) -> Serial {
        let epoch = self.epochs.iter().rev().find(|(_, first)| *first <= position);
        epoch.map_or(Serial(position as u64), |(serial, first)| Serial(serial.0 + (position - first) as u64))
    }
}

fn core_link(link: LinkId) -> CoreLink {
    CoreLink(link.to_bits())
}

fn engine_link(link: CoreLink) -> LinkId {
    LinkId::from_bits(link.0)
}
