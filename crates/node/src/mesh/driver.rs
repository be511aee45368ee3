//! The driver: owns the session and its links, and does what the session says.
//!
//! One task, fed by queues; nothing in it waits for a peer, a disk beyond the page cache, or whoever reads the window.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use minuet_guard::tasks::Spawner;
use minuet_mesh::{Direction, Discovery, LinkId, PieceRef, Planned, Role, Statement, Timestamp};
use minuet_proto::{
    ChannelId, PieceId, SegmentSeq, SignedRecord,
    mesh::{Kept, Message, NodeId, PeerInfo, Serial, SignedHead},
};
use minuet_session::{ClosedPiece, Effect, Event, Figures, Path, Reach, ReaderId, Session};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    MeshStats,
    archive::{Archive, Elsewhere, Stored},
    heard::Heard,
    live::LiveWindow,
    origin::Origin,
    shared_line::Uplink,
    transport::{Door, Link, LinkEvent, Opening, Transport},
};

/// Events of links that may wait for the driver; links that bring more are held up by their own flow control.
pub(super) const EVENT_QUEUE: usize = 512;
/// Events taken in before anything else is looked at.
const BATCH: usize = 64;
/// How often links that have not drained are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// How late a timer may be and count as in time.
const TIMER_LATENESS: Duration = Duration::from_millis(5);
/// How often paths are looked at and figures are published.
const REVIEW: Duration = Duration::from_millis(500);
/// Reviews between two lists of neighbours.
const REVIEWS_PER_LIST: u32 = 4;
/// Finished work that may wait for the driver.
const DONE_QUEUE: usize = 64;

/// What the driver is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Source: a piece is complete. The permit says that there is room for it to wait.
    Closed {
        /// Its number.
        serial: Serial,
        piece: ClosedPiece,
        /// For its bytes, while it waits.
        room: OwnedSemaphorePermit,
    },
    /// What the source says, as the node's owner has it.
    Statement(Statement),
    /// Nodes have become known, and how.
    Peers(Vec<PeerInfo>, Discovery),
    /// The tracker brought heads.
    Heads(Vec<SignedHead>),
    /// Where a reader is. It has gone when nobody holds `alive` any more.
    Playhead { reader: ReaderId, alive: Weak<()>, next: Serial, due: Instant },
    /// What a reader needs of finished segments, first due first; nothing, once it is at the live edge.
    Plan { reader: ReaderId, alive: Weak<()>, plans: Vec<Need> },
    /// A reader has left the live edge.
    LeftEdge(ReaderId),
    /// Record and hashes of a finished segment, from elsewhere than a neighbour.
    Torrent { record: SignedRecord, hashes: Bytes },
    /// A piece of a finished segment, from elsewhere than a neighbour; not verified.
    KeptPiece { piece: PieceId, bytes: Bytes },
    /// The node's owner keeps a finished segment, in the folder that is read.
    Finished(SignedRecord),
    /// The node's owner keeps a segment no longer.
    Removed(SegmentSeq),
    /// Where late pieces may be had.
    Origin(Option<Origin>),
}

/// What a reader needs of a finished segment.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// The segment.
    pub segment: SegmentSeq,
    /// Part of its media that is not needed, from its beginning on, in millionths.
    pub from: u32,
    /// When what follows that part is due.
    pub due: Instant,
    /// How long all of the segment plays. [`FIRST_ALONE`](minuet_mesh::FIRST_ALONE): only the first piece is needed, at once.
    pub span: Duration,
}

/// What becomes of work that the driver has given out.
enum Done {
    /// A dial.
    Dialled { peer: NodeId, opened: Option<Box<dyn Opening>> },
    /// A fetch from the HTTP origin.
    Fetched { piece: PieceRef, bytes: Option<Bytes> },
}

/// Where the driver's news go.
pub(super) struct News {
    /// What the source has said.
    pub heard: watch::Sender<Heard>,
    /// New heads, for who passes them on by other ways.
    pub heads: broadcast::Sender<Arc<SignedHead>>,
    pub stats: watch::Sender<MeshStats>,
    /// Neighbours that others can find, and where they were seen, now and then.
    pub neighbours: watch::Sender<Vec<(PeerInfo, Option<IpAddr>)>>,
    /// Whether others can dial this node.
    pub dialable: watch::Sender<bool>,
    /// What the line can send.
    pub learned: watch::Sender<Option<minuet_line::Learned>>,
}

/// What the driver is given when it begins.
pub(super) struct Parts {
    pub session: Session,
    pub role: Role,
    pub channel: ChannelId,
    /// Time zero of the session.
    pub epoch: Instant,
    pub transport: Arc<dyn Transport>,
    /// How this node can be reached.
    pub reach: watch::Receiver<Reach>,
    /// The line that the mesh shares with other parts of the program.
    pub uplink: Uplink,
    pub window: Arc<LiveWindow>,
    pub archive: Arc<Archive>,
    pub news: News,
    pub tasks: Spawner,
    /// Ends links, once they have had time for their last words.
    pub links_cancel: CancellationToken,
}

/// The driver's state.
pub(super) struct Driver {
    parts: Parts,
    /// The time of the last event.
    handled: Timestamp,
    /// Events that came up while the session was told of others.
    untold: VecDeque<Event>,
    is_telling: bool,
    links: HashMap<LinkId, Link>,
    next_link: u64,
    readers: HashMap<ReaderId, Weak<()>>,
    /// The finished segments that readers need.
    needs: HashMap<ReaderId, Vec<SegmentSeq>>,
    origin: Option<Origin>,
    /// Of links that are gone: bytes on the wire, sent and received.
    past_wire: (u64, u64),
    relayed: usize,
    reviews: u32,
    events: (mpsc::Sender<LinkEvent>, mpsc::Receiver<LinkEvent>),
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    /// Links that others open.
    door: (Door, mpsc::Receiver<Box<dyn Opening>>),
}

impl Driver {
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            handled: Timestamp::ZERO,
            untold: VecDeque::new(),
            is_telling: false,
            links: HashMap::new(),
            next_link: 0,
            readers: HashMap::new(),
            needs: HashMap::new(),
            origin: None,
            past_wire: (0, 0),
            relayed: 0,
            reviews: 0,
            events: mpsc::channel(EVENT_QUEUE),
            done: mpsc::channel(DONE_QUEUE),
            door: mpsc::channel(DONE_QUEUE),
        }
    }

    /// Runs until cancelled, then takes leave of all neighbours.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let Parts { transport, channel, tasks, .. } = &self.parts;
        let accepting = Arc::clone(transport).accept(*channel, self.door.0.clone(), tasks.clone());
        tasks.spawn("taking links", accepting);
        let mut relays = transport.watch_relays();
        let cancel = self.parts.tasks.token().clone();
        self.tell_kept();
        let mut reach = self.parts.reach.clone();
        let mut review = interval(REVIEW);
        let mut look = interval(minuet_line::LOOK);
        loop {
            let now = self.now();
            let due = self.parts.session.poll_timeout().unwrap_or(now + REVIEW);
            let draining = self.links.values().any(Link::is_draining);
            let due = if draining { due.min(now + DRAIN_LOOK) } else { due };
            let wake = tokio::time::Instant::from_std(self.parts.epoch + Duration::from_micros(due.0));
            tokio::select! {
                () = cancel.cancelled() => break,
                event = self.events.1.recv() => {
                    // Never none: the driver holds a sender.
                    let mut next = event;
                    for _ in 0..BATCH {
                        let Some(event) = next else { break };
                        self.on_link_event(event);
                        next = self.events.1.try_recv().ok();
                    }
                    if let Some(event) = next {
                        self.on_link_event(event);
                    }
                }
                done = self.done.1.recv() => {
                    if let Some(done) = done {
                        self.on_done(done);
                    }
                }
                Some(opened) = self.door.1.recv() => self.open(opened, Direction::Accepted),
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                Ok(()) = reach.changed() => {
                    let reach = reach.borrow_and_update().clone();
                    tracing::debug!("reached at {reach:?}");
                    self.tell(Event::Reached(reach));
                }
                Ok(()) = relays.changed() => {
                    let relays = relays.borrow_and_update().clone();
                    self.tell(Event::Relays(relays));
                }
                _ = review.tick() => self.review(),
                _ = look.tick() => self.look_at_line(),
                () = tokio::time::sleep_until(wake) => self.on_timeout(due),
            }
        }
        self.tell(Event::Leave);
        self.review();
    }

    fn now(&self) -> Timestamp {
        let micros = self.parts.epoch.elapsed().as_micros();
        Timestamp(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Tells the session what has happened, and does what it says.
    fn tell(&mut self, event: Event) {
        self.tell_as_of(event, self.now());
    }

    fn tell_as_of(&mut self, event: Event, now: Timestamp) {
        // The session's time never goes back.
        self.handled = self.handled.max(now);
        self.untold.push_back(event);
        if std::mem::replace(&mut self.is_telling, true) {
            // An effect has an answer at once: it is told once all that came before is done. Hundreds may come in a row.
            return;
        }
        while let Some(event) = self.untold.pop_front() {
            let mut stored = Stored { window: &self.parts.window, archive: &self.parts.archive };
            self.parts.session.handle(event, self.handled, &mut stored);
            while let Some(effect) = self.parts.session.poll_effect() {
                self.do_effect(effect);
            }
        }
        self.is_telling = false;
    }

    /// Tells the session what has drained, and that its time has come, as of that time: timers are late by a millisecond
    /// or two, and the core spaces blocks from one to the next, so that a tenth of an upload limit would never be used.
    fn on_timeout(&mut self, due: Timestamp) {
        let now = self.now();
        let as_of = if now.since(due) <= TIMER_LATENESS { due } else { now };
        let drained = self.links.iter_mut().map(|(id, link)| (*id, link.take_drained()));
        let drained: Vec<(LinkId, u64)> = drained.filter(|(_, bytes)| *bytes > 0).collect();
        for (link, bytes) in drained {
            self.tell_as_of(Event::Drained { link, bytes }, as_of);
        }
        self.tell_as_of(Event::Timeout, as_of);
    }

    fn on_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Frame(link, message, payload) => {
                tracing::trace!("from {link:?}: {message:?}");
                self.tell(Event::Frame { link, message, payload });
            }
            LinkEvent::Malformed(link) => self.tell(Event::Malformed { link }),
            LinkEvent::Unknown(link, bytes) => self.tell(Event::Unknown { link, bytes }),
            LinkEvent::Down(link) => self.lose(link),
        }
    }

    /// A link has gone.
    fn lose(&mut self, link: LinkId) {
        if self.drop_link(link) {
            self.tell(Event::LinkDown { link });
        }
    }

    /// Lets go of a link. False if there is none.
    fn drop_link(&mut self, link: LinkId) -> bool {
        let Some(link) = self.links.remove(&link) else { return false };
        let (sent, received) = link.wire_bytes();
        self.past_wire.0 += sent;
        self.past_wire.1 += received;
        true
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Dialled { opened: Some(opened), .. } => self.open(opened, Direction::Dialled),
            Done::Dialled { peer, opened: None } => self.tell(Event::DialFailed { peer }),
            Done::Fetched { piece, bytes } => self.tell(Event::Fetched { piece, bytes }),
        }
    }

    /// A link is open at the far end.
    fn open(&mut self, opened: Box<dyn Opening>, direction: Direction) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let (peer, path) = (opened.peer(), opened.path());
        let Parts { channel, tasks, links_cancel, .. } = &self.parts;
        let open = opened.start(link, *channel, self.events.0.clone(), tasks, links_cancel);
        self.links.insert(link, open);
        tracing::debug!("{link:?}: {direction:?} {peer:?}, round trip {} ms", path.rtt.as_millis());
        let path = Path { rtt: path.rtt, remote: path.remote };
        self.tell(Event::LinkUp { link, peer, direction, path });
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Closed { serial, piece, room: _room } => self.tell(Event::Closed { serial, piece }),
            Command::Statement(statement) => self.take_statement(statement),
            Command::Peers(peers, by) => self.tell(Event::Peers { peers, by }),
            Command::Heads(heads) => heads.into_iter().for_each(|head| self.tell(Event::Head(head))),
            Command::Playhead { reader, alive, next, due } => {
                self.readers.insert(reader, alive);
                // A time before the epoch is past all the same.
                let due = due.checked_duration_since(self.parts.epoch).unwrap_or_default();
                self.tell(Event::Playhead { reader, next, due: Timestamp::ZERO + due });
            }
            Command::Plan { reader, alive, plans } => {
                self.readers.insert(reader, alive);
                self.needs.insert(reader, plans.iter().map(|need| need.segment).collect());
                self.parts.archive.need(self.needs.values().flatten().copied());
                let planned = plans.into_iter().map(|need| Planned {
                    segment: need.segment,
                    from: need.from,
                    due: Timestamp::ZERO
                        + need.due.checked_duration_since(self.parts.epoch).unwrap_or_default(),
                    span: need.span,
                });
                let plans = planned.collect();
                self.tell(Event::Plan { reader, plans });
            }
            Command::LeftEdge(reader) => self.tell(Event::LeftEdge(reader)),
            Command::Torrent { record, hashes } => {
                self.parts.archive.learn(&record, &hashes);
                self.tell_kept();
            }
            Command::KeptPiece { piece, bytes } => {
                if self.parts.archive.put(piece, &bytes) {
                    self.tell(Event::KeptStored(piece));
                    self.parts.archive.note_held();
                    self.tell_kept();
                }
            }
            Command::Finished(record) => {
                self.parts.archive.note_finished(&record);
                self.tell_kept();
            }
            Command::Removed(segment) => {
                self.parts.archive.note_removed(segment);
                self.tell_kept();
            }
            Command::Origin(origin) => self.origin = origin,
        }
    }

    fn do_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send { link, message, payload } => self.send(link, &message, payload),
            Effect::Dial { peer } => self.dial(peer),
            Effect::HangUp { link, reason, ban } => {
                if ban {
                    tracing::info!("a peer is banned: {reason:?}");
                } else {
                    tracing::debug!("{link:?} is hung up: {reason:?}");
                }
                self.drop_link(link);
            }
            Effect::Fetch { piece, offset } => self.fetch(piece, offset),
            Effect::Head { head, signed } => {
                self.parts.window.note_head(&head);
                self.parts.archive.note_head(&head);
                let _ = self.parts.news.heads.send(signed);
            }
            Effect::Held(piece) => self.parts.window.note_held(piece.serial),
            Effect::HeldKept(_) => {
                self.parts.archive.note_held();
                self.tell_kept();
            }
            Effect::Start(serial) => self.parts.window.set_start(serial),
            Effect::Release(before) => self.parts.window.forget_before(before),
            Effect::Statement(statement) => self.take_statement(statement),
            Effect::Equivocation(serial) => {
                let serial = serial.get();
                tracing::warn!("the source has said two things about piece {serial}; the first stands");
            }
            Effect::PiecesFailed { serial, reason } if reason.is_empty() => {
                tracing::error!("piece {} cannot be read back", serial.get());
            }
            Effect::PiecesFailed { reason, .. } if self.parts.role == Role::Source => {
                tracing::error!("a piece is not shared live: {reason}");
            }
            Effect::PiecesFailed { reason, .. } => tracing::error!("a piece cannot be kept: {reason}"),
        }
    }

    fn send(&mut self, id: LinkId, message: &Message, payload: Bytes) {
        tracing::trace!("to {id:?}: {message:?}");
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut frame = BytesMut::with_capacity(message.encoded_len() - message.payload_len());
        message.encode(&mut frame);
        let taken = match message {
            Message::Block(_) | Message::Kept(Kept::Block(_)) => link.send_block(frame.freeze(), payload),
            _ => link.send_control(frame.freeze()),
        };
        if !taken {
            tracing::debug!("{id:?} takes no more");
            self.lose(id);
        }
    }

    fn take_statement(&mut self, statement: Statement) {
        let (channel, mut news) = (self.parts.channel, None);
        self.parts.news.heard.send_if_modified(|heard| {
            news = heard.take(statement, channel);
            news.is_some()
        });
        let Some(news) = news else { return };
        if let Statement::Record(record) = &news
            && let Ok(record) = SignedRecord::decode(record, channel)
        {
            self.parts.archive.seal(&record);
            self.tell_kept();
        }
        self.tell(Event::Statement(news));
    }

    /// Tells the session what has changed of what is kept.
    fn tell_kept(&mut self) {
        for event in self.parts.archive.take_events() {
            self.tell(event);
        }
    }

    fn dial(&mut self, peer: PeerInfo) {
        let (transport, channel) = (Arc::clone(&self.parts.transport), self.parts.channel);
        let done = self.done.0.clone();
        let dialling = async move {
            let (peer, reach) = (peer.node, Reach::decode(&peer.address));
            let opened = transport.dial(peer, reach, channel).await;
            let _ = done.send(Done::Dialled { peer, opened }).await;
        };
        self.parts.tasks.errand("a dial", dialling);
    }

    fn fetch(&mut self, piece: PieceRef, offset: u64) {
        let Some(origin) = self.origin.clone() else {
            return self.tell(Event::Fetched { piece, bytes: None });
        };
        let (channel, done) = (self.parts.channel, self.done.0.clone());
        let fetching = async move {
            let bytes = origin.fetch(channel, piece, offset).await;
            let _ = done.send(Done::Fetched { piece, bytes }).await;
        };
        self.parts.tasks.errand("a fetch", fetching);
    }

    /// Bytes on the wire since the start, of all links: sent and received.
    fn wire(&self) -> (u64, u64) {
        self.links.values().map(Link::wire_bytes).fold(self.past_wire, |(sent, received), link| {
            (sent.saturating_add(link.0), received.saturating_add(link.1))
        })
    }

    /// Ten times a second: what the line has sent, for the limit that fits it, and for the other parts of the program.
    fn look_at_line(&mut self) {
        let links: Vec<_> = self.links.values().filter_map(Link::sample).collect();
        let (sent, received) = self.wire();
        let others = self.parts.uplink.others_bytes();
        self.tell(Event::Line { links, received, others });
        let limit = self.parts.session.figures().upload_limit;
        self.parts.uplink.say(sent, limit.filter(|_| !self.links.is_empty()));
        let news = self.parts.session.learned();
        self.parts.news.learned.send_if_modified(|learned| std::mem::replace(learned, news) != news);
    }

    /// Twice a second: the links' paths and which readers have gone, for the session, and figures, for who reads them.
    fn review(&mut self) {
        let gone: Vec<ReaderId> =
            self.readers.extract_if(|_, alive| alive.strong_count() == 0).map(|(reader, _)| reader).collect();
        for reader in gone {
            if self.needs.remove(&reader).is_some() {
                self.parts.archive.need(self.needs.values().flatten().copied());
            }
            self.tell(Event::ReaderGone(reader));
        }
        if !self.needs.is_empty() {
            // What a disk has lost shows when it is read.
            self.tell_kept();
            let core = self.parts.session.core();
            let holders = |segment: &SegmentSeq| {
                let (holders, next) = (core.who_keeps_some(*segment), core.next_kept(*segment));
                (*segment, Elsewhere { holders, next })
            };
            let holders = self.needs.values().flatten().map(holders).collect();
            self.parts.archive.note_holders(holders);
        }
        let paths = self.links.iter().map(|(id, link)| {
            let path = link.path();
            tracing::trace!("{id:?}: {path:?}, on its way: {:?}", link.undrained());
            (*id, path.relayed, Path { rtt: path.rtt, remote: path.remote })
        });
        let paths: Vec<(LinkId, bool, Path)> = paths.collect();
        self.relayed = paths.iter().filter(|(_, relayed, _)| *relayed).count();
        for (link, _, path) in paths {
            self.tell(Event::Path { link, path });
        }
        let Parts { session, news, .. } = &self.parts;
        let dialable = session.is_dialable();
        if news.dialable.send_if_modified(|said| std::mem::replace(said, dialable) != dialable) {
            tracing::debug!("others {} dial this node", if dialable { "can" } else { "cannot" });
        }
        let (wire_sent, wire_received) = self.wire();
        let Figures { core, peers, upload_limit, narrow, stream, http_bytes } = session.figures();
        news.stats.send_replace(MeshStats {
            core,
            peers,
            relayed: self.relayed,
            upload_limit,
            narrow,
            stream,
            http_bytes,
            wire_sent,
            wire_received,
        });
        self.reviews = self.reviews.wrapping_add(1);
        if self.reviews.is_multiple_of(REVIEWS_PER_LIST) {
            news.neighbours.send_replace(session.seen());
        }
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
