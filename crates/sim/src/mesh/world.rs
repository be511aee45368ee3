//! A run of the mesh: its shards, and what concerns all of them.
//!
//! Rule: shards run a window each, side by side, and meet at a barrier, where they hand each other what they have sent;
//! nodes come and go, pieces close and the tracker answers at barriers only (see [`crate::engine::window`]).

use bytes::Bytes;
use minuet_mesh::Statement;
use minuet_proto::{
    SegmentSeq,
    mesh::{PeerInfo, Serial, SignedHead},
};
use minuet_session::{ClosedPiece, Event};
use std::collections::VecDeque;

use super::{
    member::{Tuning, peer_info},
    packet::Token,
    shard::Shard,
};
use crate::{
    engine::{MILLISECOND, Micros, NodeId, SECOND, window::Step},
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
/// How long after its last piece a segment is known to be finished.
const SEALING: Micros = 2 * SECOND;
/// Bytes of a signed record.
const RECORD_BYTES: usize = 420;

/// A shorter window is not worth a thread, …
const WORTH_A_THREAD: Micros = MILLISECOND;
/// … nor are fewer nodes in a shard.
const NODES_WORTH_A_THREAD: usize = 100;

/// The whole run.
pub struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) shards: Vec<Shard<'a>>,
    lives: Vec<Life>,
    tracker: Tracker,
    /// Pieces that are still to close.
    coming: std::iter::Peekable<Box<dyn Iterator<Item = StreamPiece>>>,
    /// The source that is there, and its next serial.
    source: Option<NodeId>,
    next_serial: Serial,
    /// Whether there was a source before.
    had_source: bool,
    heads: VecDeque<SignedHead>,
    record: Option<Bytes>,
    /// Segments that are finished, and when nodes know and keep them.
    sealed: VecDeque<(Micros, SegmentSeq)>,
}

impl<'a> World<'a> {
    /// A run that has not begun, on up to `threads` threads.
    pub fn new(
        scenario: &'a Scenario,
        tuning: Tuning,
        seed: u64,
        traced: Option<NodeId>,
        threads: usize,
    ) -> Self {
        let lives = plan::lives(scenario, seed);
        let count = threads.clamp(1, (lives.len() / NODES_WORTH_A_THREAD).max(1)) as u32;
        let mut shards: Vec<Shard> =
            (0..count).map(|number| Shard::new(scenario, tuning, seed, traced, (number, count))).collect();
        for (index, life) in lives.iter().enumerate() {
            shards[0].net.schedule(life.joins, Token::Join(index as u32).pack());
        }
        Self {
            scenario,
            shards,
            lives,
            tracker: Tracker::new(seed),
            coming: (Box::new(std::iter::empty()) as Box<dyn Iterator<Item = _>>).peekable(),
            source: None,
            next_serial: Serial::new(0),
            had_source: false,
            heads: VecDeque::new(),
            record: None,
            sealed: VecDeque::new(),
        }
    }

    /// Runs to the end; `measure` is called while all state is still there.
    pub fn run<T>(mut self, measure: impl FnOnce() -> T) -> (Figures, T) {
        let stream = &self.scenario.stream;
        let end = if stream.at_once { AT_ONCE_LIMIT * stream.duration } else { stream.duration + TAIL };
        while let Some(step) = self.next_step(end) {
            match step {
                Step::Scheduled(_) => self.do_scheduled(),
                Step::Window(until) => self.advance(until),
            }
            self.exchange();
        }
        let measured = measure();
        (self.finish(end), measured)
    }

    fn next_step(&self, end: Micros) -> Option<Step> {
        let earliest = self.shards.iter().filter_map(|shard| shard.net.earliest()).min();
        let scheduled = self.shards.iter().filter_map(|shard| shard.net.first_scheduled()).min();
        Step::next(self.now(), earliest, scheduled.map(|(at, _)| at), self.shards[0].net.lookahead(), end)
    }

    /// All shards go on to `until`, each on a thread of its own if there is enough to do.
    fn advance(&mut self, until: Micros) {
        let short = until - self.now() < WORTH_A_THREAD;
        let Some((first, others)) = self.shards.split_first_mut() else { return };
        if short {
            first.run(until);
            others.iter_mut().for_each(|shard| shard.run(until));
            return;
        }
        std::thread::scope(|scope| {
            for shard in others {
                scope.spawn(move || shard.run(until));
            }
            first.run(until);
        });
    }

    /// What shards have for each other changes hands, and the tracker learns of new heads.
    fn exchange(&mut self) {
        for from in 0..self.shards.len() {
            for to in (0..self.shards.len()).filter(|to| *to != from) {
                let parcels = self.shards[from].net.take_outbox(to);
                self.shards[to].net.accept(parcels);
            }
            for head in self.shards[from].heads.drain(..) {
                if self.heads.back() != Some(&head) {
                    self.heads.push_back(head);
                }
            }
        }
        while self.heads.len() > TRACKER_HEADS {
            self.heads.pop_front();
        }
    }

    fn do_scheduled(&mut self) {
        let first = |shard: &&mut Shard| shard.net.first_scheduled().unwrap_or((Micros::MAX, 0));
        let Some(shard) = self.shards.iter_mut().min_by_key(first) else { return };
        let Some(token) = shard.net.take_scheduled() else { return };
        match Token::unpack(token) {
            Token::Join(life) => self.join(self.lives[life as usize]),
            Token::Leave(node) => self.leave(NodeId(node)),
            Token::Close => self.close_due(),
            Token::Forget(node) => self.tracker.forget(NodeId(node)),
            Token::TrackerAnswer(node) => self.tracker_answers(NodeId(node)),
        }
    }

    fn now(&self) -> Micros {
        self.shards[0].net.now()
    }

    fn schedule(&mut self, at: Micros, token: Token) {
        self.shards[0].net.schedule(at, token.pack());
    }

    /// The shard that runs a node.
    pub(super) fn shard_of(&self, id: NodeId) -> &Shard<'a> {
        &self.shards[id.index() % self.shards.len()]
    }

    fn shard_of_mut(&mut self, id: NodeId) -> &mut Shard<'a> {
        let count = self.shards.len();
        &mut self.shards[id.index() % count]
    }

    /// Nodes that ever were.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.shards[0].lives.len() as u32).map(NodeId)
    }

    fn join(&mut self, life: Life) {
        let id = NodeId(self.shards[0].lives.len() as u32);
        if life.part == Part::Source {
            self.source_begins(id);
        }
        for shard in &mut self.shards {
            shard.join(life);
        }
        if let Some(leaves) = life.leaves {
            self.schedule(leaves, Token::Leave(id.0));
        }
    }

    fn leave(&mut self, id: NodeId) {
        let life = self.shards[0].lives[id.index()];
        if life.silent {
            self.schedule(self.now() + EXPIRY, Token::Forget(id.0));
        } else {
            self.tracker.forget(id);
        }
        if self.source == Some(id) {
            self.source = None;
        }
        self.shard_of_mut(id).leave(id);
    }

    fn source_begins(&mut self, id: NodeId) {
        let (now, spec) = (self.now(), self.scenario.stream);
        self.source = Some(id);
        let returns = std::mem::replace(&mut self.had_source, true);
        if returns {
            self.next_serial = self.next_serial.plus(SERIAL_GAP);
        }
        for shard in &mut self.shards {
            shard.source_begins(self.next_serial);
        }
        let history = self.scenario.past.map_or(0, |past| past.history / spec.segment);
        let segment = if returns { now / spec.segment + 1 } else { history };
        let start = if spec.at_once { 0 } else { now };
        let pieces = spec.pieces(segment, start, spec.duration);
        self.coming = (Box::new(pieces) as Box<dyn Iterator<Item = _>>).peekable();
        self.schedule_close();
    }

    fn schedule_close(&mut self) {
        if let Some(piece) = self.coming.peek() {
            let at = if self.scenario.stream.at_once { AT_ONCE } else { piece.closes_at };
            self.schedule(at, Token::Close);
        }
    }

    fn close_due(&mut self) {
        let Some(source) = self.source else { return };
        while let Some((at, segment)) = self.sealed.front().copied()
            && at <= self.now()
        {
            self.sealed.pop_front();
            self.shards.iter_mut().for_each(|shard| shard.sealed(segment));
        }
        while let Some(mut piece) = self.coming.next() {
            let serial = self.next_serial;
            self.next_serial = self.next_serial.next();
            let ingest_ms = INGEST_BASE_MS + piece.closes_at / MILLISECOND;
            if self.scenario.stream.at_once {
                piece.closes_at = AT_ONCE;
            }
            for shard in &mut self.shards {
                shard.piece_closes(piece);
            }
            let shard = self.shard_of_mut(source);
            let StreamPiece { id, len, random_access, .. } = piece;
            let hash = shard.media.hash(serial, len);
            let data = shard.media.closed(serial, len);
            let closed = ClosedPiece { id, hash, ingest_ms, random_access, data };
            shard.feed(source, Event::Closed { serial, piece: closed });
            if piece.seals {
                let mut record = vec![0; RECORD_BYTES];
                record[..8].copy_from_slice(&id.segment.0.to_le_bytes());
                let record = Bytes::from(record);
                shard.feed(source, Event::Statement(Statement::Record(record.clone())));
                self.record = Some(record);
                self.sealed.push_back((self.now() + SEALING, id.segment));
            }
            if !self.scenario.stream.at_once {
                break;
            }
        }
        self.schedule_close();
    }

    fn tracker_answers(&mut self, id: NodeId) {
        let count = self.shards.len();
        let shard = &mut self.shards[id.index() % count];
        if !shard.net.is_alive(id) {
            return;
        }
        let reach = shard.net.reach(id);
        let life = shard.lives[id.index()];
        let (now, seeks) = (shard.net.now(), shard.seeks(id));
        let sample = match life.part {
            Part::Past(_) => self.tracker.sample_keepers(id, reach, seeks, now),
            _ => self.tracker.sample(id, reach),
        };
        self.tracker.announce(id, reach, life.in_one_net);
        if life.keeps && life.part != Part::Source {
            self.tracker.keeps(id, reach);
        }
        let peers: Vec<PeerInfo> = sample.into_iter().map(|peer| peer_info(peer, &shard.lives)).collect();
        if shard.lives[id.index()].part != Part::Source {
            for head in &self.heads {
                shard.feed(id, Event::Head(head.clone()));
            }
            if let Some(record) = self.record.clone() {
                shard.feed(id, Event::Statement(Statement::Record(record)));
            }
        }
        if !peers.is_empty() {
            shard.feed(id, Event::Peers { peers, by: minuet_mesh::Discovery::Tracker });
        }
    }
}
