//! The node: one mesh member, made of the parts in the other modules.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Message, NodeId, Serial};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::demand::playback::Playback;
use crate::demand::strain::{Shortage, Strain};
use crate::members::candidates::Candidates;
use crate::members::greeting::kbps;
use crate::members::neighbour::{Neighbours, Slab};
use crate::stream::statements::Statements;
use crate::stream::tempo::Tempo;
use crate::stream::window::PieceWindow;
use crate::supply::push::Push;
use crate::supply::uplink::Uplink;
use crate::trust::bans::Bans;
use crate::trust::flood::{self, price};
use crate::{Config, HangUpReason, Input, LinkId, Output, Role, Statement, Timestamp};

/// How often requests, deadlines and offers are looked at without an event.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between looks at the neighbours.
const UPKEEP_TICKS: u32 = 10;
/// Who lets so many pieces pass without a word is quiet.
const QUIET_PIECES: u64 = 8;

/// Counters since the node was made. Bytes are frame bytes; payload is media bytes in blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Media bytes sent.
    pub payload_sent: u64,
    /// Media bytes received, duplicates and corrupt ones included.
    pub payload_received: u64,
    /// Of these, received from the source itself.
    pub source_received: u64,
    /// Media bytes received for nothing: had already, or never asked for.
    pub wasted: u64,
    /// All other bytes sent.
    pub control_sent: u64,
    /// All other bytes received.
    pub control_received: u64,
    /// Pieces that verified.
    pub pieces_verified: u64,
    /// Pieces that did not.
    pub pieces_corrupt: u64,
    /// Links that were closed with a ban.
    pub bans: u64,
    /// Why this viewer does not get the stream in full at present, and how much of it there is.
    pub shortage: Option<Shortage>,
}

/// What a node holds for others at the moment. Each figure has a bound that no neighbour can move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Links that are up: at most three and a half times [`Config::neighbours`](crate::Config).
    pub links: usize,
    /// Nodes known for later: at most 256.
    pub candidates: usize,
    /// Bytes of control messages that wait for room under the upload limit: at most 1 MiB, besides a greeting for each link.
    pub backlog_bytes: usize,
    /// Bytes of pieces that have begun to come in: for each link at most five pieces.
    pub arriving_bytes: usize,
    /// Pieces that the driver is hashing: at most [`Config::window`](crate::Config).
    pub verifying: usize,
}

/// A node of the mesh. See the crate's documentation for its loop.
#[derive(Debug)]
pub struct Node {
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) rng: SmallRng,
    pub(crate) out: VecDeque<Output>,
    pub(crate) window: PieceWindow,
    pub(crate) neighbours: Neighbours,
    pub(crate) uplink: Uplink,
    pub(crate) playback: Playback,
    pub(crate) bans: Bans,
    pub(crate) candidates: Candidates,
    pub(crate) push: Push,
    pub(crate) offers: Vec<crate::supply::offer::Offer>,
    pub(crate) stats: Stats,
    /// How often pieces come.
    pub(crate) tempo: Tempo,
    /// Time from a piece's closing to its playing, as far as is known: what is left for it to get here.
    pub(crate) delay: Duration,
    /// Pieces that the driver is hashing, and who sent them.
    pub(crate) verifying: Vec<(u64, NodeId)>,
    /// Pieces below are marked as wanted where they are.
    pub(crate) wanted_to: u64,
    /// Source: serial of the next piece.
    pub(crate) next_serial: Serial,
    pub(crate) first_head_at: Option<Timestamp>,
    /// When a head last moved the edge.
    pub(crate) edge_at: Timestamp,
    pub(crate) heads_asked_at: Option<Timestamp>,
    /// How long a neighbour may say nothing before it is not counted on.
    pub(crate) quiet_after: Duration,
    pub(crate) retractions: flood::Retractions,
    pub(crate) strain: Strain,
    /// What neighbours were last told that this node sends, in kbit/s, and when.
    pub(crate) promised_kbps: u32,
    pub(crate) promised_at: Timestamp,
    /// Neighbours that tell of new pieces, or all if none does: how rare a piece is goes by these, so that silent links do
    /// not make everything look rare.
    pub(crate) listeners: usize,
    pub(crate) leaving: bool,
    pub(crate) statements: Statements,
    next_tick: Timestamp,
    ticks: u32,
}

impl Node {
    /// A node without links. `seed` drives all its random choices.
    pub fn new(config: Config, role: Role, seed: u64, now: Timestamp) -> Self {
        let mut window = PieceWindow::new(config.window);
        if role == Role::Source {
            window.place(config.first_serial.get());
        }
        let delay = config.target_delay;
        let promised = config.upload_limit.unwrap_or(0);
        // Ticks are spread out by seed, so that nodes started together do not tick together.
        let next_tick = now + TICK.mul_f64((seed % 64) as f64 / 64.0);
        Self {
            uplink: Uplink::new(config.upload_limit),
            next_serial: config.first_serial,
            wanted_to: window.base(),
            config,
            role,
            rng: SmallRng::seed_from_u64(seed),
            out: VecDeque::new(),
            window,
            neighbours: Neighbours::default(),
            playback: Playback::default(),
            bans: Bans::default(),
            candidates: Candidates::default(),
            push: Push::default(),
            offers: Vec::new(),
            stats: Stats::default(),
            tempo: Tempo::default(),
            delay,
            verifying: Vec::new(),
            first_head_at: None,
            edge_at: now,
            heads_asked_at: None,
            quiet_after: crate::members::neighbour::QUIET,
            retractions: flood::Retractions::new(now),
            strain: Strain::default(),
            promised_kbps: kbps(promised),
            promised_at: now,
            listeners: 0,
            leaving: false,
            statements: Statements::default(),
            next_tick,
            ticks: 0,
        }
    }

    /// Takes in what happened at `now`, which must not be earlier than at the last call.
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Message { link, message, payload } => self.on_message(link, message, payload, now),
            Input::Drained { link, bytes } => {
                if let Some(slab) = self.neighbours.find(link)
                    && let Some(neighbour) = self.neighbours.get_mut(slab)
                {
                    neighbour.undrained = neighbour.undrained.saturating_sub(bytes);
                    neighbour.drained = now;
                }
                self.pump(now);
            }
            Input::Timeout => {}
            Input::LinkUp { link, peer, direction, rtt, ip } => {
                self.on_link_up(link, peer, direction, (rtt, ip), now);
            }
            Input::LinkRtt { link, rtt } => {
                if let Some(slab) = self.neighbours.find(link)
                    && let Some(neighbour) = self.neighbours.get_mut(slab)
                {
                    neighbour.rtt = rtt;
                }
            }
            Input::LinkDown { link } => self.on_link_down(link, now),
            Input::DialFailed { peer } => self.on_dial_failed(peer, now),
            Input::Unknown { link, bytes } => self.on_unknown(link, bytes, now),
            Input::Malformed { link } => {
                if let Some(slab) = self.neighbours.find(link) {
                    self.hang_up(slab, HangUpReason::Protocol, true, now);
                }
            }
            Input::PeersLearned { peers } => self.on_peers(peers, None, now),
            Input::UploadPromise { bytes_per_s } => self.on_promise(bytes_per_s, now),
            Input::UploadLimit { bytes_per_s } => {
                self.uplink.set_limit(bytes_per_s);
                self.pump(now);
            }
            Input::Address { address, dialable } => self.on_address(address, dialable, now),
            closed @ Input::PieceClosed { .. } => self.on_piece_closed(closed, now),
            Input::Statement(statement) => self.pass_on(statement, now),
            Input::Head { head } => self.on_head(None, head, now),
            Input::Verified { serial, ok } => self.on_verified(serial, ok, now),
            Input::Stored { serial } => self.on_held(serial, now),
            Input::HttpFailed { serial } => {
                if self.window.contains(serial.get()) {
                    self.window.slot_mut(serial.get()).http = false;
                }
            }
            Input::Playhead { next, due } => self.on_playhead(next, due, now),
            Input::Leave => self.leave(now),
        }
        if now >= self.next_tick {
            self.tick(now);
        }
        if self.uplink.timer.is_some_and(|at| at <= now) || self.uplink.idle_timer.is_some_and(|at| at <= now)
        {
            self.pump(now);
        }
    }

    /// Next thing that the driver is to do; `None` until the next [`handle`](Self::handle).
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Timeout`] is due at the latest; changes with every [`handle`](Self::handle).
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let uplink = self.uplink.timer.into_iter().chain(self.uplink.idle_timer).min();
        Some(uplink.map_or(self.next_tick, |at| at.min(self.next_tick)))
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the node is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Number of links that are up.
    pub fn link_count(&self) -> usize {
        self.neighbours.len()
    }

    /// One above the newest piece that a verified head has named; `None` before the first head.
    pub fn edge(&self) -> Option<Serial> {
        self.window.anchored().then(|| Serial::new(self.window.edge()))
    }

    /// Whether the piece is in the window and verified.
    pub fn holds(&self, serial: Serial) -> bool {
        self.window.holds(serial.get())
    }

    /// Everything that is open with neighbours: links, requests both ways, offers, promises counted. Zero once all
    /// neighbours are gone.
    pub fn open_work(&self) -> usize {
        let window = self.window.base()..self.window.end();
        let counted =
            window.map(|s| self.window.slot(s)).map(|s| usize::from(s.copies.saturating_add(s.asked.into())));
        let links = self
            .neighbours
            .iter()
            .map(|(_, n)| n.asked.len().saturating_add(n.wants.len()).saturating_add(1));
        let work = links.chain(counted).chain([self.offers.len(), self.verifying.len()]);
        work.fold(0, usize::saturating_add)
    }

    /// What is held for others at the moment.
    pub fn load(&self) -> Load {
        let arriving = self.neighbours.iter().flat_map(|(_, n)| n.asked.iter().map(|a| a.data.capacity()));
        Load {
            links: self.neighbours.len(),
            candidates: self.candidates.len(),
            backlog_bytes: self.backlog(),
            arriving_bytes: arriving.fold(0, usize::saturating_add),
            verifying: self.verifying.len(),
        }
    }

    /// Number of pieces that are verified and in the window.
    pub fn held(&self) -> usize {
        self.window.held.iter(self.window.base(), self.window.end()).count()
    }

    fn tick(&mut self, now: Timestamp) {
        self.next_tick = self.next_tick + TICK;
        if self.next_tick <= now {
            // The driver was away: what it missed is not made up for.
            self.next_tick = now + TICK;
        }
        self.ticks = self.ticks.wrapping_add(1);
        self.tempo.look(&self.window);
        self.delay = self.delay_now(now);
        self.quiet_after = self.window.span(QUIET_PIECES).max(crate::members::neighbour::QUIET);
        let edge = self.window.edge();
        let telling = self.neighbours.iter().filter(|(_, n)| n.tells(edge)).count();
        self.listeners = if telling == 0 { self.neighbours.len() } else { telling };
        self.try_start(now);
        self.turn_away_waiting(now);
        self.strain_tick(now);
        self.picker_tick(now);
        self.offer_watched(now);
        self.tell_what_waited(now);
        if self.ticks.is_multiple_of(UPKEEP_TICKS) {
            self.neighbourhood_tick(now);
        }
        self.pump(now);
    }

    /// What a piece that closes now has until it is played: the delay aimed at, or more where the player is further behind.
    fn delay_now(&mut self, now: Timestamp) -> Duration {
        let newest = self.window.edge().saturating_sub(1);
        let due = self.playback.due(newest, &self.window).filter(|_| self.playback.playing);
        due.map_or(Duration::ZERO, |due| due.since(now)).max(self.config.target_delay)
    }

    fn on_message(&mut self, link: LinkId, message: Message, payload: Bytes, now: Timestamp) {
        let Some(from) = self.neighbours.find(link) else { return };
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if neighbour.closing {
            return;
        }
        neighbour.heard = now;
        let is_hello = matches!(message, Message::Hello(_));
        if let Message::Block(block) = &message
            && !neighbour.greeted
        {
            // Blocks have a stream of their own, and overtake a Hello whose packet was lost.
            self.stats.wasted = self.stats.wasted.saturating_add(block.len.into());
            self.charge_flood(from, price::USELESS_BLOCK, now);
            return;
        }
        if is_hello == neighbour.greeted {
            return self.hang_up(from, HangUpReason::Protocol, true, now);
        }
        let control = message.encoded_len().saturating_sub(message.payload_len());
        self.stats.control_received = self.stats.control_received.saturating_add(control as u64);
        if self.charge_flood(from, flood::price_of(&message), now) {
            return;
        }
        match message {
            Message::Have(serials) => self.on_have(from, &serials, now),
            Message::Block(block) => self.on_block(from, block, payload, now),
            Message::Request(request) => self.on_request(from, request, now),
            Message::Offer(serial) => self.on_offer(from, serial, now),
            Message::Cancel(serial) => self.on_cancel(from, serial, now),
            Message::Reject(serial) => self.on_reject(from, serial, now),
            Message::DontHave(serials) => self.on_dont_have(from, &serials, now),
            Message::Head(head) => self.on_head(Some(from), head, now),
            Message::GetHeads { first, count } => self.on_get_heads(from, first, count, now),
            Message::Hello(hello) => self.on_hello(from, hello, now),
            Message::Bitfield(window) => self.on_bitfield(from, window, now),
            Message::Record(record) => self.hear_statement(Statement::Record(record)),
            Message::State(state) => self.hear_statement(Statement::State(state)),
            Message::Peers(peers) => self.on_peers(peers, Some(from), now),
            Message::Bye(_) => self.hang_up(from, HangUpReason::Leaving, false, now),
        }
    }

    /// A frame was skipped. Whoever has not said Hello may not send one, either.
    fn on_unknown(&mut self, link: LinkId, bytes: usize, now: Timestamp) {
        let Some(from) = self.neighbours.find(link) else { return };
        let Some(neighbour) = self.neighbours.get_mut(from).filter(|n| !n.closing) else { return };
        if !neighbour.greeted {
            return self.hang_up(from, HangUpReason::Protocol, true, now);
        }
        self.stats.control_received = self.stats.control_received.saturating_add(bytes as u64);
        // It does not count as a word: a neighbour that this node does not understand is as good as silent.
        self.charge_flood(from, price::MESSAGE + price::UNKNOWN_BYTE * bytes as f32, now);
    }

    fn on_playhead(&mut self, next: Serial, due: Timestamp, now: Timestamp) {
        if self.role != Role::Viewer {
            return;
        }
        let before = self.playback.next.unwrap_or(0).max(self.window.base());
        self.playback.set(next.get(), due, &self.window);
        self.playback.playing = true;
        for serial in before..next.get().min(self.window.end()) {
            self.window.wanted.clear(serial);
        }
        if next.get() < before {
            // Playback went back: look again at what lies between.
            self.wanted_to = self.wanted_to.min(next.get());
        }
        self.extend_wanted(now);
    }

    /// Chooses where to start, once that can be told.
    pub(crate) fn try_start(&mut self, now: Timestamp) {
        let Some(since) = self.first_head_at else { return };
        if self.role != Role::Viewer || self.playback.next.is_some() {
            return;
        }
        let start = Playback::choose_start(
            self.config.start,
            self.config.target_delay,
            now.since(since),
            self.neighbours.iter().filter(|(_, n)| n.newest > 0 && !n.flags.source).count(),
            self.neighbours.iter().map(|(_, n)| n.live_from).min().unwrap_or(u64::MAX),
            |serial| self.neighbours.iter().any(|(_, n)| n.flags.source && n.has.get(serial)).into(),
            &self.window,
        );
        if let Some(serial) = start {
            self.playback.set(serial, now, &self.window);
            self.wanted_to = serial;
            self.out.push_back(Output::Start { serial: Serial::new(serial) });
            self.extend_wanted(now);
        }
    }

    /// Moves the window's base to `base` and forgets all that refers to what leaves.
    pub(crate) fn slide_window(&mut self, base: u64, now: Timestamp) {
        let old = self.window.base();
        if base == old {
            return;
        }
        let len = self.window.len();
        let all = base < old || base.saturating_sub(old) >= len;
        let end = if all { old.saturating_add(len) } else { base };
        for (_, neighbour) in self.neighbours.iter_mut() {
            if all {
                neighbour.has.clear_all();
                neighbour.knows.clear_all();
            } else {
                for serial in old..end {
                    neighbour.has.clear(serial);
                    neighbour.knows.clear(serial);
                }
            }
            neighbour.asked.retain(|a| !(old..end).contains(&a.serial));
            neighbour.wants.retain(|w| !(old..end).contains(&w.serial));
        }
        self.window.slide(base);
        self.push.forget_before(base);
        // What the driver says of these makes no difference any more.
        self.verifying.retain(|(serial, _)| self.window.contains(*serial));
        self.wanted_to = if all { base } else { self.wanted_to.max(base) };
        if base > old {
            self.out.push_back(Output::Release { before: Serial::new(base) });
        }
        let _ = now;
    }

    /// Takes from a neighbour's flood allowance; true if that was too much and the link is being closed.
    pub(crate) fn charge_flood(&mut self, from: Slab, price: f32, now: Timestamp) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return true };
        let elapsed = now.since(neighbour.charged).as_secs_f32();
        neighbour.charged = now;
        neighbour.allowance =
            (neighbour.allowance + elapsed * flood::REFILL_PER_SECOND).min(flood::FULL_ALLOWANCE) - price;
        if neighbour.allowance >= 0.0 || neighbour.closing {
            return neighbour.closing;
        }
        self.hang_up(from, HangUpReason::Flood, true, now);
        true
    }

    /// Closes a link: its requests go elsewhere at once, its state goes with [`Input::LinkDown`].
    pub(crate) fn hang_up(&mut self, slab: Slab, reason: HangUpReason, ban: bool, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        if neighbour.closing {
            return;
        }
        neighbour.closing = true;
        let (link, node) = (neighbour.link, neighbour.node);
        if ban {
            self.bans.ban(node, now);
            self.stats.bans = self.stats.bans.saturating_add(1);
            self.candidates.forget(&node);
        }
        self.out.push_back(Output::HangUp { link, reason, ban });
        self.forget_neighbour_state(slab, now);
    }

    fn on_link_down(&mut self, link: LinkId, now: Timestamp) {
        let Some(slab) = self.neighbours.find(link) else { return };
        if let Some(neighbour) = self.neighbours.get_mut(slab) {
            neighbour.closing = true;
            neighbour.undrained = 0;
        }
        self.forget_neighbour_state(slab, now);
        self.offers.retain(|offer| offer.to != slab);
        self.neighbours.remove(slab);
        self.pump(now);
    }

    /// Takes back everything that counted on a neighbour.
    fn forget_neighbour_state(&mut self, slab: Slab, now: Timestamp) {
        let (from, to) = (self.window.base(), self.window.end());
        let Some(neighbour) = self.neighbours.get_mut(slab) else { return };
        neighbour.wants.clear();
        for serial in neighbour.has.iter(from, to) {
            let slot = self.window.slot_mut(serial);
            slot.copies = slot.copies.saturating_sub(1);
        }
        neighbour.has.clear_all();
        let asked = std::mem::take(&mut neighbour.asked);
        for asked in asked {
            self.asked_less(asked.serial, now);
        }
    }

    fn leave(&mut self, now: Timestamp) {
        self.leaving = true;
        for slab in self.neighbours.slabs() {
            self.send(slab, Message::Bye(minuet_proto::mesh::ByeReason::Leaving), now);
            self.hang_up(slab, HangUpReason::Leaving, false, now);
        }
    }
}
