//! The node: one mesh member, made of the parts in the other modules.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Kept, Message, Serial};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::demand::intake::Intake;
use crate::demand::playback::Playback;
use crate::demand::strain::Strain;
use crate::exchange::Exchange;
use crate::members::candidates::Candidates;
use crate::members::greeting::kbps;
use crate::members::neighbour::{Neighbours, Slab};
use crate::past::minutes::Past;
use crate::stream::statements::Statements;
use crate::stream::tempo::Tempo;
use crate::stream::window::PieceWindow;
use crate::supply::push::Push;
use crate::supply::uplink::Uplink;
use crate::trust::bans::Bans;
use crate::trust::flood::{self, price};
use crate::view::Stats;
use crate::{Config, HangUpReason, Input, LinkId, Output, Role, Statement, Timestamp};

/// How often requests, deadlines and offers are looked at without an event.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between looks at the neighbours.
const UPKEEP_TICKS: u32 = 10;
/// A neighbour that lets so many pieces pass without a message is quiet.
const QUIET_PIECES: u64 = 8;

/// A node of the mesh. See the crate's documentation for its loop.
#[derive(Debug)]
pub struct Node {
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) rng: SmallRng,
    pub(crate) out: VecDeque<Output>,
    pub(crate) window: PieceWindow,
    pub(crate) neighbours: Neighbours,
    pub(crate) exchange: Exchange,
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
    /// Pieces below are marked as wanted where they are.
    pub(crate) wanted_to: u64,
    /// Source: no piece below it closes any more.
    pub(crate) next_serial: Serial,
    pub(crate) first_head_at: Option<Timestamp>,
    /// When a head last moved the edge.
    pub(crate) edge_at: Timestamp,
    pub(crate) heads_asked_at: Option<Timestamp>,
    /// How long a neighbour may say nothing before it is not counted on.
    pub(crate) quiet_after: Duration,
    pub(crate) retractions: flood::Retractions,
    pub(crate) strain: Strain,
    pub(crate) intake: Intake,
    /// What neighbours were last told that this node sends, in kbit/s, and when.
    pub(crate) promised_kbps: u32,
    pub(crate) promised_at: Timestamp,
    /// Neighbours that tell of new pieces, or all if none does: how rare a piece is goes by these, so that silent links do
    /// not make everything look rare.
    pub(crate) listeners: usize,
    pub(crate) leaving: bool,
    pub(crate) statements: Statements,
    pub(crate) past: Past,
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
            exchange: Exchange::new(&window),
            config,
            role,
            rng: SmallRng::seed_from_u64(seed),
            out: VecDeque::new(),
            window,
            neighbours: Neighbours::default(),
            playback: Playback::default(),
            bans: Bans::default(),
            candidates: Candidates::default(),
            push: Push::new(seed),
            offers: Vec::new(),
            stats: Stats::default(),
            tempo: Tempo::default(),
            delay,
            first_head_at: None,
            edge_at: now,
            heads_asked_at: None,
            quiet_after: crate::members::neighbour::QUIET,
            retractions: flood::Retractions::new(now),
            strain: Strain::default(),
            intake: Intake::default(),
            promised_kbps: kbps(promised),
            promised_at: now,
            listeners: 0,
            leaving: false,
            statements: Statements::default(),
            past: Past::default(),
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
            Input::PeersLearned { peers, by } => self.on_found(peers, by, now),
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
            Input::NoPlayhead => self.on_no_playhead(now),
            Input::Keeps { segment, shape, map } => self.past.keep(segment, shape, map.as_deref()),
            Input::Forgets(segment) => self.past.forget(segment),
            Input::Plan(plans) => self.on_plan(plans, now),
            Input::Learned { link, segment, learned } => self.on_learned(link, segment, learned, now),
            Input::TellMinute { link, minute } => self.tell_minute(link, minute, now),
            Input::KeptStored(piece) => self.on_kept_stored(piece, now),
            Input::KeptLost { link, piece, bytes } => self.on_kept_lost(link, piece, bytes, now),
            Input::KeptVerified { piece, verdict } => self.on_kept_verified(piece, verdict, now),
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
        self.intake_tick(now);
        self.picker_tick(now);
        self.offer_watched(now);
        self.forget_pushed(now);
        self.tell_what_waited(now);
        self.kept_tick(now);
        if self.ticks.is_multiple_of(UPKEEP_TICKS) {
            self.neighbourhood_tick(now);
        }
        self.pump(now);
    }

    fn on_message(&mut self, link: LinkId, message: Message, payload: Bytes, now: Timestamp) {
        let Some(from) = self.neighbours.find(link) else { return };
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        if neighbour.closing {
            return;
        }
        neighbour.heard = now;
        let is_hello = matches!(message, Message::Hello(_));
        if matches!(message, Message::Block(_) | Message::Kept(Kept::Block(_))) && !neighbour.greeted {
            // Blocks have a stream of their own, and overtake a Hello whose packet was lost.
            self.stats.wasted = self.stats.wasted.saturating_add(message.payload_len() as u64);
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
            Message::Peers(peers) => self.on_peers(peers, from, now),
            Message::Bye(_) => self.hang_up(from, HangUpReason::Leaving, false, now),
            Message::Kept(kept) => self.on_kept(from, kept, payload, now),
        }
    }

    fn on_kept(&mut self, from: Slab, kept: Kept, payload: Bytes, now: Timestamp) {
        match kept {
            Kept::Block(block) => self.on_kept_block(from, block, payload, now),
            Kept::Request { piece, due_in_ms } => self.on_kept_request(from, piece, due_in_ms, now),
            Kept::Cancel(piece) => self.on_kept_cancel(from, piece),
            Kept::Reject { piece, has } => self.on_kept_reject(from, piece, has, now),
            Kept::Have { segment, pieces } => self.on_kept_have(from, segment, &pieces, now),
            Kept::Map(map) => self.on_kept_map(from, &map, now),
            Kept::Whole(ranges) => self.on_kept_whole(from, ranges, now),
            Kept::GetMinute { segment, first } => self.on_get_minute(from, segment, first, now),
            Kept::Minute(minute) => self.on_minute(from, minute, now),
        }
    }

    /// A frame was skipped. A neighbour that has not sent Hello may not send one, either.
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
}
