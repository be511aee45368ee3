//! The driver: owns the core and its links, and does what the core says.
//!
//! One task, fed by queues; nothing in it waits for a peer, a disk beyond the page cache, or whoever reads the window.

mod accept;
mod named;
mod review;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use minuet_guard::tasks::Spawner;
use minuet_mesh::{Direction, Input, LinkId, Node, Output, PieceRef, Role, Timestamp};
use minuet_proto::{
    ChannelId, PieceHash, PieceId, SignedRecord,
    mesh::{Head, Message, NodeId, PeerInfo, Serial, SignedHead},
};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    MeshStats,
    dialable::Dialable,
    early::EarlyBlocks,
    endpoint::Transport,
    estimate::{Uplink, UplinkEstimate},
    link::{self, Link, LinkEvent, Opening},
    live::LiveWindow,
    origin::Origin,
    reach::Reach,
};

/// Events of links that may wait for the driver; links that bring more are held up by their own flow control.
pub(super) const EVENT_QUEUE: usize = 512;
/// Events taken in before outputs are looked at.
const BATCH: usize = 64;
/// How often links that have not drained are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// How late a timer may be and count as in time.
const TIMER_LATENESS: Duration = Duration::from_millis(5);
/// How often round trips are told to the core and figures are published.
const REVIEW: Duration = Duration::from_millis(500);
/// Part of an upload limit that packet headers, acknowledgements and packets sent again take, in per cent: measured at
/// 8 Mbit/s each way. The core's limit is what is left.
const OVERHEAD_PERCENT: u64 = 8;

/// What a rate on the wire leaves for mesh messages.
pub(super) fn message_rate(wire_bytes_per_s: u64) -> u64 {
    wire_bytes_per_s.saturating_mul(100 - OVERHEAD_PERCENT) / 100
}

/// What the driver is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Source: a piece is complete. The permit says that there is room for it to wait.
    Closed(ClosedPiece, OwnedSemaphorePermit),
    /// A signed record, verified.
    Record(SignedRecord),
    /// The tracker, or a list from an earlier run, named nodes.
    Peers(Vec<PeerInfo>),
    /// The tracker brought heads.
    Heads(Vec<SignedHead>),
    /// Where the player is.
    Playhead { next: Serial, due: Instant },
    /// Where late pieces may be had.
    Origin(Option<Origin>),
}

/// A piece as the source closes it.
#[derive(Debug, Clone)]
pub struct ClosedPiece {
    /// Segment and index.
    pub id: PieceId,
    /// SHA-1 of `data`.
    pub hash: PieceHash,
    /// When its last byte came in, Unix milliseconds.
    pub ingest_ms: u64,
    /// Whether a random access point starts in it.
    pub random_access: bool,
    /// Its bytes.
    pub data: Bytes,
}

/// What becomes of work that the driver has given out.
pub(super) enum Done {
    /// A dial or an incoming connection.
    Opened { peer: Option<NodeId>, direction: Direction, opened: Option<Box<dyn Opening>> },
    /// A fetch from the HTTP origin.
    Fetched { piece: PieceRef, bytes: Option<Bytes> },
}

/// Finished work that may wait for the driver.
const DONE_QUEUE: usize = 64;

/// The driver's state.
pub(super) struct Driver {
    node: Node,
    channel: ChannelId,
    epoch: Instant,
    transport: Transport,
    /// How this node can be reached.
    reach: watch::Receiver<Reach>,
    dialable: Dialable,
    /// Whether others can dial it, as it was last told.
    said_dialable: watch::Sender<bool>,
    /// What the line can send, where nobody said so, and whether it carries the stream.
    estimate: UplinkEstimate,
    uplink: Uplink,
    window: Arc<LiveWindow>,
    /// The time of the last input.
    handled: Timestamp,
    links: HashMap<LinkId, Link>,
    /// Blocks of links that came before their heads.
    early: HashMap<LinkId, EarlyBlocks>,
    next_link: u64,
    next_serial: Serial,
    origin: Option<Origin>,
    http_bytes: u64,
    /// Of links that are gone: bytes on the wire, sent and received.
    past_wire: (u64, u64),
    relayed: usize,
    records: mpsc::Sender<SignedRecord>,
    /// New heads, for who passes them on by other ways.
    heads: broadcast::Sender<Head>,
    stats: watch::Sender<MeshStats>,
    /// Neighbours that others can find, and where they were seen, now and then.
    neighbours: watch::Sender<Vec<(PeerInfo, Option<IpAddr>)>>,
    /// Looks taken.
    reviews: u32,
    events: (mpsc::Sender<LinkEvent>, mpsc::Receiver<LinkEvent>),
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    tasks: Spawner,
    /// Ends links, once they have had time for their last words.
    links_cancel: CancellationToken,
}

impl Driver {
    #[allow(clippy::too_many_arguments, reason = "all parts of a node meet here, once")]
    pub fn new(
        node: Node,
        channel: ChannelId,
        first_serial: Serial,
        epoch: Instant,
        transport: Transport,
        reach: watch::Receiver<Reach>,
        estimate: UplinkEstimate,
        uplink: Uplink,
        window: Arc<LiveWindow>,
        records: mpsc::Sender<SignedRecord>,
        heads: broadcast::Sender<Head>,
        stats: watch::Sender<MeshStats>,
        neighbours: watch::Sender<Vec<(PeerInfo, Option<IpAddr>)>>,
        said_dialable: watch::Sender<bool>,
        tasks: Spawner,
        links_cancel: CancellationToken,
    ) -> Self {
        Self {
            node,
            channel,
            epoch,
            transport,
            reach,
            dialable: Dialable::default(),
            said_dialable,
            estimate,
            uplink,
            window,
            handled: Timestamp::ZERO,
            links: HashMap::new(),
            early: HashMap::new(),
            next_link: 0,
            next_serial: first_serial,
            origin: None,
            http_bytes: 0,
            past_wire: (0, 0),
            relayed: 0,
            records,
            heads,
            stats,
            neighbours,
            reviews: 0,
            events: mpsc::channel(EVENT_QUEUE),
            done: mpsc::channel(DONE_QUEUE),
            tasks,
            links_cancel,
        }
    }

    /// How links are given to it.
    #[cfg(test)]
    pub fn door(&self) -> mpsc::Sender<Done> {
        self.done.0.clone()
    }

    /// Runs until cancelled, then takes leave of all neighbours.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let accepting =
            accept::accept(self.transport.clone(), self.channel, self.done.0.clone(), self.tasks.clone());
        self.tasks.spawn("taking links", accepting);
        let cancel = self.tasks.token().clone();
        if let Some(limit) = self.estimate.for_mesh() {
            self.handle(Input::UploadLimit { bytes_per_s: message_rate(limit) });
        }
        let mut review = tokio::time::interval(REVIEW);
        review.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(minuet_line::LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.do_outputs();
            let now = self.now();
            let core = self.node.poll_timeout().unwrap_or(now + REVIEW);
            let draining = self.links.values().any(Link::is_draining);
            let due = if draining { core.min(now + DRAIN_LOOK) } else { core };
            let wake = tokio::time::Instant::from_std(self.epoch + Duration::from_micros(due.0));
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
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                Ok(()) = self.reach.changed() => {
                    tracing::debug!("reached at {:?}", *self.reach.borrow_and_update());
                    self.tell_address();
                }
                _ = review.tick() => self.review(),
                _ = look.tick() => self.look_at_line(),
                () = tokio::time::sleep_until(wake) => {
                    self.on_timeout(due);
                    self.release_early();
                }
            }
        }
        self.handle(Input::Leave);
        self.do_outputs();
        self.review();
    }

    fn now(&self) -> Timestamp {
        let micros = self.epoch.elapsed().as_micros();
        Timestamp(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        self.handled = now;
        self.node.handle(input, now);
    }

    /// Tells the core what has drained, and that its time has come, as of that time: timers are late by a millisecond or
    /// two, and the core spaces blocks from one to the next, so that a tenth of an upload limit would never be used.
    fn on_timeout(&mut self, due: Timestamp) {
        let now = self.now();
        let in_time = now.since(due) <= TIMER_LATENESS;
        // The core's time never goes back.
        let as_of = if in_time { due.max(self.handled) } else { now };
        self.handled = as_of;
        for (id, link) in &mut self.links {
            let bytes = link.take_drained();
            if bytes > 0 {
                self.node.handle(Input::Drained { link: *id, bytes }, as_of);
            }
        }
        self.node.handle(Input::Timeout, as_of);
    }

    fn on_link_event(&mut self, event: LinkEvent) {
        if let LinkEvent::Frame(id, message, _) = &event {
            tracing::trace!("from {id:?}: {message:?}");
        }
        match event {
            LinkEvent::Frame(link, Message::Block(block), payload) if self.links.contains_key(&link) => {
                let known = self.window.knows(block.serial);
                let now = self.now();
                let early = self.early.entry(link).or_default();
                if let Some((block, payload)) = early.take(block, payload, known, now) {
                    self.handle(Input::Message { link, message: Message::Block(block), payload });
                }
            }
            LinkEvent::Frame(link, message, payload) if self.links.contains_key(&link) => {
                let message = self.heard(link, message);
                self.handle(Input::Message { link, message, payload });
                self.do_outputs();
                self.release_early();
            }
            LinkEvent::Malformed(link) if self.links.contains_key(&link) => {
                self.handle(Input::Malformed { link });
            }
            LinkEvent::Unknown(link, bytes) if self.links.contains_key(&link) => {
                self.handle(Input::Unknown { link, bytes });
            }
            LinkEvent::Down(link) => self.drop_link(link),
            // Of a link that was hung up.
            LinkEvent::Frame(..) | LinkEvent::Unknown(..) | LinkEvent::Malformed(_) => {}
        }
        self.do_outputs();
    }

    /// Gives the core what need not wait for its head any longer.
    fn release_early(&mut self) {
        if self.early.values().all(EarlyBlocks::is_empty) {
            return;
        }
        let now = self.now();
        let links: Vec<LinkId> = self.early.keys().copied().collect();
        for link in links {
            while let Some(early) = self.early.get_mut(&link)
                && let Some((block, payload)) = early.release(|block| self.window.knows(block.serial), now)
            {
                self.handle(Input::Message { link, message: Message::Block(block), payload });
                self.do_outputs();
            }
        }
    }

    /// Tells all how others can reach this node, and whether they can dial it at all.
    fn tell_address(&mut self) {
        let reach = self.reach.borrow().clone();
        let dialable = self.dialable.look(self.links.len(), &reach, self.now());
        self.said_dialable.send_if_modified(|said| std::mem::replace(said, dialable) != dialable);
        self.handle(Input::Address { address: reach.encode(), dialable });
    }

    fn drop_link(&mut self, id: LinkId) {
        self.early.remove(&id);
        if let Some(link) = self.links.remove(&id) {
            let (sent, received) = link.wire_bytes();
            self.past_wire.0 += sent;
            self.past_wire.1 += received;
            self.handle(Input::LinkDown { link: id });
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Opened { direction, opened: Some(opened), .. } => {
                let id = LinkId(self.next_link);
                self.next_link += 1;
                if direction == Direction::Accepted {
                    self.dialable.note_dialled();
                }
                let (peer, path) = (opened.peer(), opened.path());
                let link =
                    opened.start(id, self.channel, self.events.0.clone(), &self.tasks, &self.links_cancel);
                self.links.insert(id, link);
                tracing::debug!("{id:?}: {direction:?} {peer:?}, round trip {} ms", path.rtt.as_millis());
                let (rtt, ip) = (path.rtt, path.ip);
                self.handle(Input::LinkUp { link: id, peer, direction, rtt, ip });
            }
            Done::Opened { peer: Some(peer), .. } => self.handle(Input::DialFailed { peer }),
            Done::Opened { .. } => {}
            Done::Fetched { piece, bytes } => {
                let good = bytes.filter(|bytes| PieceHash::of(bytes) == piece.hash);
                match good {
                    Some(bytes) if self.window.keep(piece.serial, &bytes).is_ok() => {
                        self.http_bytes += bytes.len() as u64;
                        self.handle(Input::Stored { serial: piece.serial });
                    }
                    _ => self.handle(Input::HttpFailed { serial: piece.serial }),
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Closed(closed, _room) => self.publish(closed),
            Command::Record(record) => self.handle(Input::Record { record: record.encode() }),
            Command::Peers(peers) => self.handle(Input::PeersLearned { peers }),
            Command::Heads(heads) => {
                for head in heads {
                    self.handle(Input::Head { head });
                }
            }
            Command::Playhead { next, due } => {
                // A time before the epoch is past all the same.
                let due = due.checked_duration_since(self.epoch).unwrap_or_default();
                self.handle(Input::Playhead { next, due: Timestamp::ZERO + due });
            }
            Command::Origin(origin) => self.origin = origin,
        }
    }

    fn publish(&mut self, closed: ClosedPiece) {
        let ClosedPiece { id, hash, ingest_ms, random_access, data } = closed;
        // At most the longest piece, which the ring checks.
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if let Err(error) = self.window.keep(self.next_serial, &data) {
            tracing::error!("a piece is not shared live: {error}");
            return;
        }
        self.next_serial = self.next_serial.next();
        self.handle(Input::PieceClosed { id, len, hash, ingest_ms, random_access });
    }

    fn do_outputs(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { link, message } => self.send(link, message),
                Output::Dial { peer } => self.dial(peer),
                Output::HangUp { link, reason, ban } => {
                    if ban {
                        tracing::info!("a peer is banned: {reason:?}");
                    } else {
                        tracing::debug!("{link:?} is hung up: {reason:?}");
                    }
                    self.drop_link(link);
                }
                Output::Verify { piece, data } => self.verify(piece, &data),
                Output::Head(head) => {
                    self.window.note_head(&head, self.node.role() == Role::Source);
                    let _ = self.heads.send(head);
                }
                Output::Start { serial } => self.window.set_start(serial),
                Output::FetchHttp { piece, .. } => self.fetch(piece),
                Output::Record { record } => self.take_record(&record),
                Output::Release { before } => self.window.forget_before(before),
                Output::Equivocation { serial } => {
                    tracing::warn!(
                        "the source has said two things about piece {}; the first stands",
                        serial.get()
                    );
                }
            }
        }
    }

    fn send(&mut self, id: LinkId, message: Message) {
        tracing::trace!("to {id:?}: {message:?}");
        let Some(link) = self.links.get(&id) else { return };
        let counted = message.encoded_len() as u64;
        let told = self.told(link, message);
        let left = told.as_ref().map_or(0, |message| message.encoded_len() as u64);
        if left < counted {
            // The core counts on it that all of its message goes out.
            self.handle(Input::Drained { link: id, bytes: counted - left });
        }
        let (Some(message), Some(link)) = (told, self.links.get_mut(&id)) else { return };
        let mut frame = BytesMut::with_capacity(message.encoded_len() - message.payload_len());
        message.encode(&mut frame);
        let taken = match message {
            Message::Block(block) => match self.window.read_part(block.serial, block.offset, block.len) {
                Some(payload) => link.send_block(frame.freeze(), payload),
                None => {
                    tracing::error!("piece {} cannot be read back", block.serial.get());
                    false
                }
            },
            _ => link.send_control(frame.freeze()),
        };
        if !taken {
            tracing::debug!("{id:?} takes no more");
            self.drop_link(id);
        }
    }

    fn verify(&mut self, piece: PieceRef, data: &Bytes) {
        let mut ok = PieceHash::of(data) == piece.hash;
        if ok && let Err(error) = self.window.keep(piece.serial, data) {
            tracing::error!("a piece cannot be kept: {error}");
            ok = false;
        }
        self.handle(Input::Verified { serial: piece.serial, ok });
    }

    fn take_record(&mut self, record: &Bytes) {
        match SignedRecord::decode(record, self.channel) {
            Ok(record) => {
                self.handle(Input::Record { record: record.encode() });
                // Who follows records and lags this far behind finds them at the tracker.
                let _ = self.records.try_send(record);
            }
            Err(error) => tracing::debug!("thrown away: {error}"),
        }
    }

    fn dial(&mut self, peer: PeerInfo) {
        let (transport, channel, done) = (self.transport.clone(), self.channel, self.done.0.clone());
        let dialling = async move {
            let opened = match transport.dial(peer.node, &Reach::decode(&peer.address)).await {
                Some(connection) => link::open(connection, channel, false).await,
                None => None,
            };
            let _ = done
                .send(Done::Opened { peer: Some(peer.node), direction: Direction::Dialled, opened })
                .await;
        };
        self.tasks.errand("a dial", dialling);
    }

    fn fetch(&mut self, piece: PieceRef) {
        let found = self.origin.clone().zip(self.window.offset(&piece));
        let Some((origin, offset)) = found else {
            return self.handle(Input::HttpFailed { serial: piece.serial });
        };
        let (channel, done) = (self.channel, self.done.0.clone());
        let fetching = async move {
            let bytes = origin.fetch(channel, piece, offset).await;
            let _ = done.send(Done::Fetched { piece, bytes }).await;
        };
        self.tasks.errand("a fetch", fetching);
    }
}
