//! The nodes that one thread runs: tells their sessions what happens in the network, and does what they say.
//!
//! Rule: between two barriers a shard knows its own nodes, and of others only what does not change, or changes at a barrier. So
//! the figures do not show how many shards there are.

use bytes::{Bytes, BytesMut};
use minuet_line::{LOOK, LinkSample};
use minuet_mesh::{Direction, LinkId as CoreLink, PieceRef, Timestamp};
use minuet_proto::{
    SegmentSeq,
    mesh::{Kept, Message, Serial, SignedHead},
};
use minuet_session::{Effect, Event, Path, ReaderId};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    contacts,
    hostile::{self, Drip},
    media::Media,
    member::{
        HARM_EVERY, Keys, Member, PLAYHEAD_EVERY, TRACKER_INTERVAL, TRACKER_RETRY, Tuning, core_id, engine_id,
    },
    packet::{Packet, Token, received},
    past::PastReader,
    trace,
};
use crate::{
    audience::{Audience, target_delay},
    engine::{
        Micros, NodeId, SECOND,
        access::PACKET_BYTES,
        network::{Happening, LinkId, Network},
    },
    plan::{Life, Part, Vice},
    scenario::Scenario,
    stream::StreamPiece,
};

/// The only reader at a node.
pub(super) const PLAYER: ReaderId = ReaderId(0);

/// A shard's nodes, and what is seen of them.
pub(super) struct Shard<'a> {
    pub(super) scenario: &'a Scenario,
    tuning: Tuning,
    seed: u64,
    pub net: Network<Packet>,
    /// All nodes' lives, whoever runs them.
    pub lives: Vec<Life>,
    members: Vec<Member>,
    keys: Keys,
    pub media: Media,
    pub audience: Audience,
    /// First serial of each source, with the position of its first piece in the audience's row.
    epochs: Vec<(Serial, usize)>,
    /// Serial of the next piece to close.
    next_serial: Serial,
    /// Heads that the source has sent since the last barrier.
    pub heads: Vec<SignedHead>,
    traced: Option<NodeId>,
    /// What the session at work is to be told next, the last first.
    answers: Vec<Event>,
    scratch: BytesMut,
    pub corrupt_delivered: u64,
    pub banned: BTreeSet<NodeId>,
    pub false_bans: u64,
    pub hang_ups: BTreeMap<String, u64>,
    /// The newest segment that is finished.
    pub(super) finished: Option<SegmentSeq>,
}

impl<'a> Shard<'a> {
    /// Shard `number` of `count`, without nodes.
    pub fn new(
        scenario: &'a Scenario,
        tuning: Tuning,
        seed: u64,
        traced: Option<NodeId>,
        (number, count): (u32, u32),
    ) -> Self {
        let mut audience = Audience::default();
        audience.aim_at(target_delay(&scenario.stream));
        if let Some(relief) = scenario.relief {
            audience.relieved(relief.at);
        }
        Self {
            scenario,
            tuning,
            seed,
            net: Network::shard(seed, scenario.conditions(), number, count),
            lives: Vec::new(),
            members: Vec::new(),
            keys: Keys::new(seed),
            media: Media::new(scenario.hostile > 0.0 || scenario.intruders.is_some(), &scenario.stream),
            audience,
            epochs: Vec::new(),
            next_serial: Serial::new(0),
            heads: Vec::new(),
            traced,
            answers: Vec::new(),
            scratch: BytesMut::new(),
            corrupt_delivered: 0,
            banned: BTreeSet::new(),
            false_bans: 0,
            hang_ups: BTreeMap::new(),
            finished: None,
        }
    }

    /// A node that this shard runs.
    pub fn node(&self, id: NodeId) -> &Member {
        &self.members[self.net.index(id)]
    }

    pub(super) fn member(&mut self, id: NodeId) -> &mut Member {
        &mut self.members[self.net.index(id)]
    }

    /// A node comes, here or elsewhere.
    pub fn join(&mut self, life: Life) {
        let now = self.net.now();
        let id = self.net.add_node(life.access);
        self.lives.push(life);
        if !self.net.keeps(id) {
            return;
        }
        let seed = self.seed ^ u64::from(id.0 + 1) << 32;
        let config = self.keys.config(id, &life, &self.scenario.stream, self.tuning, self.next_serial);
        let member = Member::new(id, &self.lives, config, self.scenario.stream.at_once, seed, now);
        if member.is_audience() {
            // Those whom a scenario does not guard: who came with the crowd, leave, or do not contribute.
            let crowd = self.scenario.crowd.is_some_and(|crowd| life.joins >= crowd.at);
            let guarded = life.leaves.is_none() && life.upload && !crowd && life.part == Part::Viewer;
            self.audience.join(id, guarded, now);
        }
        self.members.push(member);
        self.begin_past(id, life);
        self.wake(id);
    }

    /// What a node keeps of what was on air before, or wants of it.
    fn begin_past(&mut self, id: NodeId, life: Life) {
        let Some(past) = self.scenario.past else { return };
        let now = self.net.now();
        let Some(shape) = self.media.shape else { return };
        let segment = self.scenario.stream.segment;
        let history = past.history / segment;
        let is_live = matches!(life.part, Part::Source | Part::Viewer | Part::Relay);
        if is_live {
            // A node that keeps less keeps the newer half.
            let from = if life.keeps { 0 } else { history / 2 };
            for number in from..history {
                self.feed(id, Event::Keeps { segment: SegmentSeq(number), shape, map: None });
            }
        }
        if let Part::Past(behind) = life.part {
            let first = SegmentSeq((past.history + now).saturating_sub(behind) / segment);
            let kept = if past.veterans { first.0 } else { 0 };
            for number in 0..kept {
                self.feed(id, Event::Keeps { segment: SegmentSeq(number), shape, map: None });
            }
            let end = SegmentSeq(self.finished.map_or(history, |newest| newest.0 + 1));
            let member = self.member(id);
            member.past = Some(PastReader::new(first, end, shape, segment, now));
            member.past_at = Some(now);
        }
    }

    /// A segment is finished: who was there keeps it, and readers may have it.
    pub fn sealed(&mut self, segment: SegmentSeq) {
        self.finished = Some(segment);
        let (Some(shape), true) = (self.media.shape, self.scenario.past.is_some()) else { return };
        let since = self.net.now().saturating_sub(self.scenario.stream.segment);
        for index in 0..self.members.len() {
            let (id, life) = (self.members[index].id, self.members[index].life);
            let is_live = matches!(life.part, Part::Source | Part::Viewer | Part::Relay);
            if is_live && life.joins <= since.max(SECOND) {
                let map = life.pause.and_then(|_| self.members[index].map_of(segment, shape));
                self.feed(id, Event::Keeps { segment, shape, map });
            }
            if let Some(past) = &mut self.members[index].past {
                past.sealed(segment);
            }
        }
    }

    /// The segment that a reader of what was on air before is at.
    pub fn seeks(&self, id: NodeId) -> SegmentSeq {
        self.node(id).past.as_ref().map_or(SegmentSeq(0), PastReader::segment)
    }

    fn tell_plan(&mut self, id: NodeId) {
        let now = self.net.now();
        let Some(past) = &mut self.member(id).past else { return };
        past.play(now);
        let plans = past.plans(now);
        self.member(id).past_at = Some(now + PLAYHEAD_EVERY);
        self.feed(id, Event::Plan { reader: PLAYER, plans });
    }

    /// A node that this shard runs goes.
    pub fn leave(&mut self, id: NodeId) {
        if !self.node(id).life.silent {
            self.feed(id, Event::Leave);
        }
        self.audience.leave(id, self.net.now());
        self.net.kill(id);
    }

    /// A source comes, here or elsewhere, whose first piece is `first`.
    pub fn source_begins(&mut self, first: Serial) {
        if !self.epochs.is_empty() {
            self.audience.source_returned(self.net.now());
        }
        self.epochs.push((first, self.audience.closed_count()));
        self.next_serial = first;
    }

    /// The source closes its next piece, here or elsewhere.
    pub fn piece_closes(&mut self, piece: StreamPiece) {
        self.next_serial = self.next_serial.next();
        self.audience.closed(piece);
    }

    /// Goes on to `until`.
    pub fn run(&mut self, until: Micros) {
        self.net.begin_window(until);
        while let Some(happening) = self.net.next_in_window() {
            self.handle(happening);
        }
    }

    fn handle(&mut self, happening: Happening<Packet>) {
        match happening {
            Happening::LinkUp { node, link, peer, dialled } => {
                self.member(node).links.push(link);
                let direction = if dialled { Direction::Dialled } else { Direction::Accepted };
                let rtt = Duration::from_micros(self.net.rtt(node, peer));
                let (now, index) = (self.net.now(), self.net.index(node));
                if dialled {
                    self.members[index].contacts.succeeded(peer, &self.lives, now);
                }
                let remote = Some(contacts::remote(peer, &self.lives));
                let (link, peer) = (core_link(link), core_id(peer));
                self.feed(node, Event::LinkUp { link, peer, direction, path: Path { rtt, remote } });
            }
            Happening::LinkDown { node, link, .. } => {
                self.member(node).links.retain(|up| *up != link);
                self.feed(node, Event::LinkDown { link: core_link(link) });
            }
            Happening::DialFailed { node, peer } => {
                self.feed(node, Event::DialFailed { peer: core_id(peer) });
            }
            Happening::Message { node, link, message, .. } => {
                self.feed(node, received(core_link(link), message));
            }
            Happening::Drained { node, link, bytes } => {
                self.feed(node, Event::Drained { link: core_link(link), bytes });
            }
            Happening::Timer { node } => self.wake(node),
            // Concerns all shards: the world takes it from the network itself.
            Happening::Scheduled(_) => {}
        }
    }

    /// Does what is due at a node, whatever it is.
    pub(super) fn wake(&mut self, id: NodeId) {
        let now = self.net.now();
        if self.member(id).tracker_at <= now {
            self.ask_tracker(id);
        }
        if self.member(id).playhead_at.is_some_and(|at| at <= now) {
            self.tell_playhead(id);
        }
        if self.member(id).pause_at.is_some_and(|at| at <= now) {
            self.pause_or_go_on(id);
        }
        if self.member(id).past_at.is_some_and(|at| at <= now) {
            self.tell_plan(id);
        }
        if self.member(id).look_at.is_some_and(|at| at <= now) {
            self.look_at_line(id);
        }
        if self.member(id).harm_at.is_some_and(|at| at <= now) {
            self.do_harm(id);
        }
        while let Some(peer) = self.member(id).contacts.take_failed(now) {
            self.feed(id, Event::DialFailed { peer });
        }
        if self.member(id).session.poll_timeout().is_some_and(|at| at.0 <= now) {
            self.feed(id, Event::Timeout);
        }
        self.set_timer(id);
    }

    fn set_timer(&mut self, id: NodeId) {
        let at = self.member(id).wakes_at();
        self.net.set_timer(id, at);
    }

    /// A first question takes a connection as well; later ones find it open.
    fn ask_tracker(&mut self, id: NodeId) {
        let now = self.net.now();
        let rtt = self.net.rtt_to_centre(id);
        let aim = self.tuning.neighbours.unwrap_or(16);
        let member = self.member(id);
        let first = member.life.joins == now;
        let lacking = member.session.core().link_count() < aim / 2;
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

    fn tell_playhead(&mut self, id: NodeId) {
        let now = self.net.now();
        self.member(id).playhead_at = Some(now + PLAYHEAD_EVERY);
        if let Some(next) = self.member(id).paused {
            return self.tell_paused(id, next);
        }
        if let Some((position, due)) = self.audience.playhead(id, now) {
            let next = self.serial(position);
            self.feed(id, Event::Playhead { reader: PLAYER, next, due: Timestamp(due) });
        }
    }

    /// The node looks at what its links have sent and learns what its line can do.
    fn look_at_line(&mut self, id: NodeId) {
        let now = self.net.now();
        let links = self.member(id).links.clone();
        let sample = |link: LinkId| {
            let (counts, round_trip) = self.net.look(id, link)?;
            Some(LinkSample {
                link: link.to_bits(),
                sent_bytes: counts.bytes,
                delivered_bytes: counts.acked,
                lost_bytes: counts.lost * PACKET_BYTES,
                round_trip: round_trip.map(Duration::from_micros),
            })
        };
        let links: Vec<LinkSample> = links.into_iter().filter_map(sample).collect();
        self.member(id).look_at = Some(now + LOOK.as_micros() as Micros);
        // What comes in is not counted: nobody is told of a line that brings too little.
        self.feed(id, Event::Line { links, received: 0, others: 0 });
    }

    fn do_harm(&mut self, id: NodeId) {
        let now = self.net.now();
        self.member(id).harm_at = Some(now + HARM_EVERY);
        let Part::Hostile(vice) = self.member(id).life.part else { return };
        let newest = Serial::new(self.next_serial.get().saturating_sub(1));
        self.drip(id);
        for message in hostile::harm(vice, newest, now / HARM_EVERY, self.lives.len() as u32) {
            for link in self.member(id).links.clone() {
                let packet = Packet::Encoded(message.clone(), Bytes::new());
                self.net.send_control(id, link, message.len(), packet);
            }
        }
    }

    /// Sends the next block of each piece that a node drips.
    fn drip(&mut self, id: NodeId) {
        let mut drips = std::mem::take(&mut self.member(id).drips);
        drips.retain_mut(|drip| {
            let up = self.member(id).links.contains(&drip.link);
            let Some(block) = drip.take().filter(|_| up) else { return false };
            let payload = self.media.block(block.serial, block.offset, block.len, block.piece_len);
            let message = Message::Block(block);
            let bytes = message.encoded_len();
            let packet = self.packet(message, payload);
            self.net.send_media(id, drip.link, bytes, packet);
            true
        });
        self.member(id).drips = drips;
    }

    /// Players of what was on air before.
    pub fn past_readers(&mut self) -> impl Iterator<Item = &mut PastReader> {
        self.members.iter_mut().filter_map(|member| member.past.as_mut())
    }

    /// Dials to the victim: the most that one honest node made.
    pub fn victim_dials(&self) -> u64 {
        let honest = self.members.iter().filter(|member| !matches!(member.life.part, Part::Hostile(_)));
        honest.map(|member| member.contacts.to_victim).max().unwrap_or(0)
    }

    /// Tells a session what has happened and does all that it says.
    pub(super) fn feed(&mut self, id: NodeId, event: Event) {
        if !self.net.is_alive(id) {
            return;
        }
        if let Part::Hostile(vice) = self.member(id).life.part
            && !hostile::hears(vice, &event)
        {
            return;
        }
        let (now, index) = (self.net.now(), self.net.index(id));
        if self.traced == Some(id) {
            trace::event(id, now, &event);
        }
        let mut next = Some(event);
        while let Some(event) = next {
            self.members[index].session.handle(event, Timestamp(now), &mut self.media);
            while let Some(effect) = self.members[index].session.poll_effect() {
                if self.traced == Some(id) {
                    trace::effect(id, now, &effect);
                }
                self.act(id, effect);
            }
            next = self.answers.pop();
        }
        let member = self.member(id);
        member.told |= member.session.core().shortage().is_some();
        self.set_timer(id);
    }

    fn act(&mut self, id: NodeId, effect: Effect) {
        let now = self.net.now();
        match effect {
            Effect::Send { link, message, payload } => self.send(id, link, message, payload),
            Effect::Dial { peer } => {
                let (target, index) = (engine_id(peer.node), self.net.index(id));
                if self.members[index].contacts.dial(&peer, target, &self.lives, now) {
                    self.net.dial(id, target);
                }
            }
            Effect::HangUp { link, reason, ban } => {
                if ban && let Some(peer) = self.net.peer(id, engine_link(link)) {
                    self.note_ban(id, peer);
                }
                *self.hang_ups.entry(format!("{reason:?}")).or_default() += 1;
                self.net.hang_up(id, engine_link(link));
                self.member(id).links.retain(|up| *up != engine_link(link));
            }
            Effect::Held(piece) if self.member(id).life.part != Part::Source => self.stored(id, &piece),
            Effect::Start(serial) => {
                if let Some(position) = self.position(serial) {
                    self.audience.start(id, position, now);
                    self.begin_if_playing(id);
                }
            }
            Effect::Statement(statement) => self.answers.push(Event::Statement(statement)),
            // There is no origin.
            Effect::Fetch { piece, .. } => self.answers.push(Event::Fetched { piece, bytes: None }),
            Effect::HeldKept(piece) => {
                if let Some(past) = &mut self.member(id).past {
                    past.note(piece, now);
                }
            }
            Effect::Held(_)
            | Effect::Head { .. }
            | Effect::Release(_)
            | Effect::Equivocation(_)
            | Effect::PiecesFailed { .. } => {}
        }
    }

    fn stored(&mut self, id: NodeId, piece: &PieceRef) {
        let honest = self.member(id).is_audience();
        let genuine = self.media.hash(piece.serial, piece.len) == piece.hash;
        self.corrupt_delivered += u64::from(honest && !genuine);
        let now = self.net.now();
        let member = self.member(id);
        if member.life.pause.is_some() {
            member.has.insert(piece.serial, piece.id);
        }
        if let Some(past) = &mut member.past {
            past.note(piece.id, now);
        }
        if let Some(position) = self.position(piece.serial)
            && self.audience.verified(id, position, self.net.now())
        {
            self.begin_if_playing(id);
        }
    }

    fn begin_if_playing(&mut self, id: NodeId) {
        if self.audience.plays(id) {
            let now = self.net.now();
            self.member(id).playhead_at = Some(now);
        }
    }

    fn send(&mut self, id: NodeId, core: CoreLink, mut message: Message, payload: Bytes) {
        let part = self.member(id).life.part;
        if matches!(part, Part::Hostile(_)) {
            hostile::boast(&mut message, core_id(id));
        }
        let (link, bytes) = (engine_link(core), message.encoded_len());
        if let Message::Kept(Kept::Block(_)) = &message {
            let packet = self.packet(message, payload);
            self.net.send_media(id, link, bytes, packet);
            return;
        }
        if let Message::Block(block) = &message {
            let payload = match part {
                Part::Hostile(vice) => hostile::block(vice, &self.media, payload),
                _ => Some(payload),
            };
            match payload {
                Some(payload) => {
                    let packet = self.packet(message, payload);
                    self.net.send_media(id, link, bytes, packet);
                }
                None => {
                    if part == Part::Hostile(Vice::Drips) && block.offset == 0 {
                        let drip = Drip::of(link, *block);
                        self.member(id).drips.push(drip);
                    }
                    self.drained(core, bytes as u64);
                }
            }
            return;
        }
        if let Part::Hostile(vice) = part
            && !hostile::says(vice, &message)
        {
            return self.drained(core, bytes as u64);
        }
        if let (Part::Source, Message::Head(head)) = (part, &message)
            && self.heads.last() != Some(head)
        {
            self.heads.push(head.clone());
        }
        let packet = self.packet(message, Bytes::new());
        if let Some(bytes) = self.net.send_control(id, link, bytes, packet) {
            self.drained(core, bytes);
        }
    }

    fn drained(&mut self, link: CoreLink, bytes: u64) {
        self.answers.push(Event::Drained { link, bytes });
    }

    fn packet(&mut self, message: Message, payload: Bytes) -> Packet {
        if !self.media.is_real() {
            return Packet::Plain(message, payload);
        }
        message.encode(&mut self.scratch);
        Packet::Encoded(self.scratch.split().freeze(), payload)
    }

    fn note_ban(&mut self, by: NodeId, banned: NodeId) {
        let hostile = |id: NodeId| matches!(self.lives[id.index()].part, Part::Hostile(_));
        if hostile(by) {
            return;
        }
        if hostile(banned) {
            self.banned.insert(banned);
        } else {
            self.false_bans += 1;
        }
    }

    /// Position of a serial in the row of all pieces.
    fn position(&self, serial: Serial) -> Option<usize> {
        let (first, position) = self.epochs.iter().rev().find(|(first, _)| *first <= serial)?;
        let position = position + (serial.get() - first.get()) as usize;
        (position < self.audience.closed_count()).then_some(position)
    }

    pub(super) fn serial(&self, position: usize) -> Serial {
        let epoch = self.epochs.iter().rev().find(|(_, first)| *first <= position);
        epoch.map_or(Serial::new(position as u64), |(serial, first)| {
            Serial::new(serial.get() + (position - first) as u64)
        })
    }
}

fn core_link(link: LinkId) -> CoreLink {
    CoreLink(link.to_bits())
}

fn engine_link(link: CoreLink) -> LinkId {
    LinkId::from_bits(link.0)
}
