//! The session: the mesh core and what surrounds it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use bytes::Bytes;
use minuet_line::Learned;
use minuet_mesh::{
    Config, Direction, Input, Learned as Hashes, LinkId, Node, Output, PieceRef, Planned, Role, Stats,
    Timestamp, Verdict,
};
use minuet_proto::mesh::{Kept, Message, Minute, NodeId, PeerInfo, Serial};

use crate::{
    ClosedPiece, Effect, Event, Path, Pieces, Reach, ReaderId,
    dialable::Dialable,
    early::EarlyBlocks,
    limit::{Limit, message_rate},
    named::{Far, Named},
    playheads::Playheads,
};

/// Whether others can dial this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialability {
    /// As it is given.
    Known(bool),
    /// As it turns out; until then they are told that they can.
    FoundOut,
}

/// What a session is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The core's. Its `address` and `dialable` come from the session; its `upload_limit` counts messages
    /// ([`message_rate`]).
    pub core: Config,
    /// What the node is.
    pub role: Role,
    /// How it can be reached.
    pub reach: Reach,
    /// Whether others can dial it.
    pub dialability: Dialability,
    /// What an earlier run has learned of this line.
    pub remembered: Option<Learned>,
    /// Drives all random choices.
    pub seed: u64,
}

/// Figures of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// What the core counts.
    pub core: Stats,
    /// Links.
    pub peers: usize,
    /// What the line seems to send, in bytes a second on the wire, where no limit was given.
    pub upload_limit: Option<u64>,
    /// What the line brings, in bytes a second, where that has been too little for the stream for some seconds.
    pub narrow: Option<u64>,
    /// The stream's rate in bytes a second; 0 while it is not known.
    pub stream: u64,
    /// Payload from the HTTP origin, in bytes.
    pub http_bytes: u64,
}

/// A node of the mesh. See the crate's documentation for its loop.
#[derive(Debug)]
pub struct Session {
    core: Node,
    id: NodeId,
    effects: VecDeque<Effect>,
    named: Named,
    reach: Reach,
    dialability: Dialability,
    dialable: Dialable,
    /// Whether others can dial it, as they were last told.
    said_dialable: bool,
    limit: Limit,
    /// Blocks of links that came before their heads; none that are empty.
    early: BTreeMap<LinkId, EarlyBlocks>,
    playheads: Playheads,
    /// What readers need of finished segments.
    plans: BTreeMap<ReaderId, Vec<Planned>>,
    http_bytes: u64,
}

impl Session {
    /// A node without links.
    pub fn new(settings: Settings, now: Timestamp) -> Self {
        let Settings { core, role, reach, dialability, remembered, seed } = settings;
        let said_dialable = dialability != Dialability::Known(false);
        let config = Config { address: reach.encode(), dialable: said_dialable, ..core };
        let counts = config.upload && config.upload_limit.is_none();
        let limit = Limit::new(counts, role == Role::Source, remembered, now);
        let id = config.node;
        let mut session = Self {
            core: Node::new(config, role, seed, now),
            id,
            effects: VecDeque::new(),
            named: Named::default(),
            reach,
            dialability,
            dialable: Dialable::default(),
            said_dialable,
            limit,
            early: BTreeMap::new(),
            playheads: Playheads::default(),
            plans: BTreeMap::new(),
            http_bytes: 0,
        };
        session.tell_limit(None, now);
        session
    }

    /// Takes in what has happened. Time never goes back.
    pub fn handle(&mut self, event: Event, now: Timestamp, pieces: &mut impl Pieces) {
        match event {
            Event::LinkUp { link, peer, direction, path } => self.link_up(link, peer, direction, path, now),
            Event::Path { link, path } => self.note_path(link, path, now),
            Event::LinkDown { link } => self.link_down(link, now),
            Event::DialFailed { peer } => self.core.handle(Input::DialFailed { peer }, now),
            Event::Frame { link, message, payload } => self.frame(link, message, payload, now, pieces),
            Event::Unknown { link, bytes } if self.is_up(link) => {
                self.core.handle(Input::Unknown { link, bytes }, now);
            }
            Event::Malformed { link } if self.is_up(link) => self.core.handle(Input::Malformed { link }, now),
            Event::Drained { link, bytes } if self.is_up(link) => {
                self.core.handle(Input::Drained { link, bytes }, now);
            }
            // Of a link that was hung up.
            Event::Unknown { .. } | Event::Malformed { .. } | Event::Drained { .. } => {}
            Event::Line { links, received, others } => {
                let before = self.limit.for_mesh();
                self.limit.look(&links, received, others, self.core.rate(), now);
                self.tell_limit(before, now);
            }
            Event::Reached(reach) => {
                self.reach = reach;
                self.look_at_dialability(now);
                self.tell_address(now);
            }
            Event::Relays(relays) => self.named.relays = relays,
            Event::Closed { serial, piece } => self.publish(serial, piece, now, pieces),
            Event::Statement(statement) => self.core.handle(Input::Statement(statement), now),
            Event::Peers { peers, by } => self.core.handle(Input::PeersLearned { peers, by }, now),
            Event::Head(head) => self.core.handle(Input::Head { head }, now),
            Event::Playhead { reader, next, due } => {
                let (next, due) = self.playheads.set(reader, next, due);
                self.core.handle(Input::Playhead { next, due }, now);
            }
            Event::ReaderGone(reader) => {
                self.remove_playhead(reader, now);
                if self.plans.remove(&reader).is_some() {
                    self.plan(now);
                }
            }
            Event::LeftEdge(reader) => {
                self.remove_playhead(reader, now);
                if self.playheads.is_empty() {
                    self.core.handle(Input::NoPlayhead, now);
                }
            }
            Event::Plan { reader, plans } => {
                if plans.is_empty() {
                    self.plans.remove(&reader);
                } else {
                    self.plans.insert(reader, plans);
                }
                self.plan(now);
            }
            Event::Keeps { segment, shape, map } => {
                self.core.handle(Input::Keeps { segment, shape, map }, now);
            }
            Event::KeptStored(piece) => self.core.handle(Input::KeptStored(piece), now),
            Event::Forgets(segment) => self.core.handle(Input::Forgets(segment), now),
            Event::Fetched { piece, bytes } => self.fetched(piece, bytes.as_ref(), now, pieces),
            Event::Timeout => self.core.handle(Input::Timeout, now),
            Event::Leave => self.core.handle(Input::Leave, now),
        }
        self.do_outputs(now, pieces);
        self.release_early(now, pieces);
    }

    /// What the host is to do next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Event::Timeout`] is to be given.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let early = self.early.values().filter_map(EarlyBlocks::expires).min();
        self.core.poll_timeout().into_iter().chain(early).min()
    }

    /// Figures of this session.
    pub fn figures(&self) -> Figures {
        Figures {
            core: *self.core.stats(),
            peers: self.core.link_count(),
            upload_limit: self.limit.all(),
            narrow: self.limit.narrow(),
            stream: self.core.rate(),
            http_bytes: self.http_bytes,
        }
    }

    /// The core, to be asked; not to be told anything.
    pub fn core(&self) -> &Node {
        &self.core
    }

    /// Whether others can dial this node, as far as it knows.
    pub fn is_dialable(&self) -> bool {
        self.said_dialable
    }

    /// What another run on the same network should begin with.
    pub fn learned(&self) -> Option<Learned> {
        self.limit.learned()
    }

    /// Neighbours that others can find, with where they were seen, for another run.
    pub fn seen(&self) -> Vec<(PeerInfo, Option<IpAddr>)> {
        self.named.seen(self.core.neighbours())
    }

    fn is_up(&self, link: LinkId) -> bool {
        self.named.links.contains_key(&link)
    }

    fn link_up(&mut self, link: LinkId, peer: NodeId, direction: Direction, path: Path, now: Timestamp) {
        self.named.links.insert(link, Far { peer, path });
        if direction == Direction::Accepted {
            self.dialable.note_dialled();
        }
        let ip = path.remote.map(|addr| addr.ip());
        self.core.handle(Input::LinkUp { link, peer, direction, rtt: path.rtt, ip }, now);
    }

    fn note_path(&mut self, link: LinkId, path: Path, now: Timestamp) {
        let Some(far) = self.named.links.get_mut(&link) else { return };
        far.path = path;
        if !path.rtt.is_zero() {
            self.core.handle(Input::LinkRtt { link, rtt: path.rtt }, now);
        }
        self.look_at_dialability(now);
    }

    fn link_down(&mut self, link: LinkId, now: Timestamp) {
        self.early.remove(&link);
        if self.named.links.remove(&link).is_some() {
            self.core.handle(Input::LinkDown { link }, now);
        }
    }

    fn frame(
        &mut self,
        link: LinkId,
        message: Message,
        payload: Bytes,
        now: Timestamp,
        pieces: &mut impl Pieces,
    ) {
        if !self.is_up(link) {
            return;
        }
        let Message::Block(block) = message else {
            let message = self.named.heard(link, message);
            return self.core.handle(Input::Message { link, message, payload }, now);
        };
        let known = self.core.knows(block.serial);
        if known && !self.early.contains_key(&link) {
            return self.core.handle(Input::Message { link, message: Message::Block(block), payload }, now);
        }
        self.early.entry(link).or_default().take(block, payload, now);
        self.release_early(now, pieces);
    }

    /// Gives the core what need not wait for its head any longer.
    fn release_early(&mut self, now: Timestamp, pieces: &mut impl Pieces) {
        if self.early.is_empty() {
            return;
        }
        let links: Vec<LinkId> = self.early.keys().copied().collect();
        for link in links {
            while let Some(early) = self.early.get_mut(&link)
                && let Some((block, payload)) = early.release(|block| self.core.knows(block.serial), now)
            {
                self.core.handle(Input::Message { link, message: Message::Block(block), payload }, now);
                // May end the link.
                self.do_outputs(now, pieces);
            }
            if self.early.get(&link).is_some_and(EarlyBlocks::is_empty) {
                self.early.remove(&link);
            }
        }
    }

    /// Tells the core what the line can send, if that is for the estimate to say and not what it was `before`, and what
    /// others may be promised.
    fn tell_limit(&mut self, before: Option<u64>, now: Timestamp) {
        let limit = self.limit.for_mesh();
        if let Some(limit) = limit.filter(|_| limit != before) {
            self.core.handle(Input::UploadLimit { bytes_per_s: message_rate(limit) }, now);
        }
        if let Some(promise) = self.limit.promise() {
            self.core.handle(Input::UploadPromise { bytes_per_s: message_rate(promise) }, now);
        }
    }

    fn remove_playhead(&mut self, reader: ReaderId, now: Timestamp) {
        if let Some((next, due)) = self.playheads.remove(reader) {
            self.core.handle(Input::Playhead { next, due }, now);
        }
    }

    /// Tells the core what all readers need of finished segments.
    fn plan(&mut self, now: Timestamp) {
        let plans = self.plans.values().flatten().copied().collect();
        self.core.handle(Input::Plan(plans), now);
    }

    fn look_at_dialability(&mut self, now: Timestamp) {
        if self.dialability != Dialability::FoundOut {
            return;
        }
        let dialable = self.dialable.look(self.named.links.len(), &self.reach, now);
        if std::mem::replace(&mut self.said_dialable, dialable) != dialable {
            self.tell_address(now);
        }
    }

    /// Tells all how others can reach this node, and whether they can dial it at all.
    fn tell_address(&mut self, now: Timestamp) {
        let (address, dialable) = (self.reach.encode(), self.said_dialable);
        self.core.handle(Input::Address { address, dialable }, now);
    }

    fn publish(&mut self, serial: Serial, closed: ClosedPiece, now: Timestamp, pieces: &mut impl Pieces) {
        let ClosedPiece { id, hash, ingest_ms, random_access, data } = closed;
        // At most the longest piece, or it is not kept.
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let piece = PieceRef { serial, id, len, hash, ingest_ms };
        if let Err(error) = pieces.keep(&piece, &data) {
            return self.effects.push_back(Effect::PiecesFailed { serial, reason: error.to_string() });
        }
        self.core.handle(Input::PieceClosed { piece, random_access }, now);
        self.do_outputs(now, pieces);
        self.effects.push_back(Effect::Held(piece));
    }

    fn fetched(&mut self, piece: PieceRef, bytes: Option<&Bytes>, now: Timestamp, pieces: &mut impl Pieces) {
        let serial = piece.serial;
        match bytes.filter(|bytes| pieces.verify(&piece, bytes)) {
            Some(bytes) if self.keep(&piece, bytes, pieces) => {
                self.http_bytes = self.http_bytes.saturating_add(bytes.len() as u64);
                self.core.handle(Input::Stored { serial }, now);
            }
            _ => self.core.handle(Input::HttpFailed { serial }, now),
        }
    }

    fn keep(&mut self, piece: &PieceRef, data: &Bytes, pieces: &mut impl Pieces) -> bool {
        match pieces.keep(piece, data) {
            Ok(()) => {
                self.effects.push_back(Effect::Held(*piece));
                true
            }
            Err(error) => {
                let reason = error.to_string();
                self.effects.push_back(Effect::PiecesFailed { serial: piece.serial, reason });
                false
            }
        }
    }

    fn do_outputs(&mut self, now: Timestamp, pieces: &mut impl Pieces) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { link, message } => self.send(link, message, now, pieces),
                Output::Dial { peer } => self.effects.push_back(Effect::Dial { peer }),
                Output::HangUp { link, reason, ban } => {
                    self.effects.push_back(Effect::HangUp { link, reason, ban });
                    self.link_down(link, now);
                }
                Output::Verify { piece, data } => {
                    let ok = pieces.verify(&piece, &data) && self.keep(&piece, &data, pieces);
                    self.core.handle(Input::Verified { serial: piece.serial, ok }, now);
                }
                Output::Head { head, signed } => self.effects.push_back(Effect::Head { head, signed }),
                Output::Start { serial } => self.effects.push_back(Effect::Start(serial)),
                Output::FetchHttp { piece, .. } => match self.core.offset(&piece) {
                    Some(offset) => self.effects.push_back(Effect::Fetch { piece, offset }),
                    None => self.core.handle(Input::HttpFailed { serial: piece.serial }, now),
                },
                Output::TellMinute { link, segment, first } => {
                    // What the host has let go meanwhile is nobody's to have.
                    let nothing = || Minute { segment, first, record: Bytes::new(), hashes: Bytes::new() };
                    let minute = pieces.minute(segment, first).unwrap_or_else(nothing);
                    self.core.handle(Input::TellMinute { link, minute }, now);
                }
                Output::Minute { link, minute } => {
                    let segment = minute.segment;
                    let learned =
                        if minute.record.is_empty() { Hashes::Nothing } else { pieces.learn(&minute) };
                    self.core.handle(Input::Learned { link, segment, learned }, now);
                }
                Output::VerifyKept { piece, data } => {
                    let verdict = pieces.keep_past(piece, &data);
                    if verdict == Verdict::Good {
                        self.effects.push_back(Effect::HeldKept(piece));
                    }
                    self.core.handle(Input::KeptVerified { piece, verdict }, now);
                }
                Output::Statement(statement) => self.effects.push_back(Effect::Statement(statement)),
                Output::Release { before } => self.effects.push_back(Effect::Release(before)),
                Output::Equivocation { serial } => self.effects.push_back(Effect::Equivocation(serial)),
            }
        }
    }

    fn send(&mut self, link: LinkId, message: Message, now: Timestamp, pieces: &mut impl Pieces) {
        let counted = message.encoded_len() as u64;
        let told = self.named.told(self.id, link, message);
        let left = told.as_ref().map_or(0, |message| message.encoded_len() as u64);
        if left < counted {
            // The core counts on it that all of its message goes out.
            self.core.handle(Input::Drained { link, bytes: counted.saturating_sub(left) }, now);
        }
        let Some(message) = told else { return };
        let payload = match &message {
            Message::Block(block) => match pieces.part(block) {
                Some(payload) => payload,
                None => {
                    // The far end waits for a block that does not come: it is told by the end of the link.
                    let failed = Effect::PiecesFailed { serial: block.serial, reason: String::new() };
                    self.effects.push_back(failed);
                    let reason = minuet_mesh::HangUpReason::Protocol;
                    self.effects.push_back(Effect::HangUp { link, reason, ban: false });
                    return self.link_down(link, now);
                }
            },
            Message::Kept(Kept::Block(block)) => match pieces.kept_part(block) {
                Some(payload) => payload,
                None => {
                    // It was there when the core chose it, and the core counts on it that the block goes out.
                    self.core.handle(Input::KeptLost { link, piece: block.piece, bytes: left }, now);
                    return;
                }
            },
            _ => Bytes::new(),
        };
        self.effects.push_back(Effect::Send { link, message, payload });
    }
}
