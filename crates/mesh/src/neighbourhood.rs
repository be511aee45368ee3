//! The neighbour policy: with whom to keep links.
//!
//! Rules:
//! 1. Aim at [`Config::neighbours`](crate::Config) links, at fewer where pieces come slowly. Dial half of them at once and the rest only if others do
//!    not dial here meanwhile; accept up to twice as many, since nodes that cannot be dialled live on the places
//!    of those that can.
//! 2. Whom to dial is random among those known, so that the mesh has no clumps and no hub; those who say that nobody can
//!    dial them only if nobody else is left, since they may be mistaken.
//! 3. Every [`REVIEW`] the least useful link that this node dialled makes place for a new one: usefulness is what
//!    went over it of late, both ways, and a short round trip.
//! 4. A link over which nothing is heard for [`IDLE`] is given up, before it is missed.
//! 5. Neighbours tell each other of nodes (BEP 11), a few at a time, and where they themselves are; of who has not said
//!    where it is nobody is told.
//! 6. A node that nobody can dial is *hidden*: it has links with dialable nodes alone, and gets from nobody else what it
//!    plays, while dialable nodes get from both. So dialable nodes serve the hidden ones first, and each other with what
//!    the hidden ones leave; and where most are hidden they ask these first. A node says itself whether it can be
//!    dialled; to lie gains no more than to come first among those of the same standing.

use std::time::Duration;

use minuet_proto::mesh::{ByeReason, Message, NodeId, PeerInfo, Serial};
use rand::RngExt;
use rand::seq::IteratorRandom;

use crate::flood::price;
use crate::neighbour::{Neighbour, Slab};
use crate::node::Node;
use crate::{Direction, HangUpReason, LinkId, Output, Role, Timestamp};

/// The least number of neighbours to aim at: with fewer one that leaves is missed.
const LEAST_NEIGHBOURS: usize = 6;
/// Most nodes known for later. Beyond that a random one is forgotten.
const MAX_CANDIDATES: usize = 128;
/// Most nodes looked at in one list.
const MAX_LEARNED: usize = 256;
/// Nodes told to a neighbour at a time.
const TOLD: usize = 12;
/// How often neighbours are told of nodes.
const TELL: Duration = Duration::from_secs(20);
/// A dial without an answer is forgotten after this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that could not be reached is not dialled again before this time.
const DIAL_AGAIN: Duration = Duration::from_secs(20);
/// A link without a word for so long is given up, if the stream went on in that time.
const IDLE: Duration = Duration::from_secs(5);
/// Who has nothing to say says so after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How often the least useful neighbour is looked for, and how old it must be.
const REVIEW: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Candidate {
    info: PeerInfo,
    /// Not dialled before.
    after: Timestamp,
}

/// Nodes known but not linked with.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    list: Vec<Candidate>,
    dialing: Vec<(NodeId, Timestamp)>,
    review_at: Timestamp,
    tell_at: Timestamp,
}

impl Node {
    pub(crate) fn on_link_up(
        &mut self,
        link: LinkId,
        peer: NodeId,
        direction: Direction,
        rtt: Duration,
        now: Timestamp,
    ) {
        self.candidates.dialing.retain(|(node, _)| *node != peer);
        let refuse = |node: &mut Self, reason| {
            node.out.push_back(Output::HangUp { link, reason, ban: false });
        };
        if self.bans.contains(&peer) {
            return refuse(self, HangUpReason::Banned);
        }
        if peer == self.config.node || self.leaving {
            return refuse(self, HangUpReason::Leaving);
        }
        let twin = self.neighbours.iter().find(|(_, n)| n.node == peer && !n.closing);
        if let Some((slab, twin)) = twin.map(|(slab, n)| (slab, n.direction)) {
            // Both dialled: both ends keep the link that the lower key opened.
            let keep_new =
                twin != direction && (direction == Direction::Dialled) == (self.config.node < peer);
            if !keep_new {
                return refuse(self, HangUpReason::Duplicate);
            }
            self.hang_up(slab, HangUpReason::Duplicate, false, now);
        }
        let neighbour = Neighbour::new(link, peer, direction, rtt, self.window.len() as usize, now);
        let full = self.neighbours.len() >= 2 * self.aim();
        let slab = self.neighbours.insert(neighbour);
        self.guess_latency(slab);
        if full {
            self.say_hello(slab, now);
            self.tell_peers(slab, now);
            self.send(slab, Message::Bye(ByeReason::Full), now);
            self.hang_up(slab, HangUpReason::Full, false, now);
            return;
        }
        self.greet(slab, now);
        self.tell_peers(slab, now);
    }

    /// The tracker or a neighbour named nodes.
    pub(crate) fn on_peers(&mut self, peers: Vec<PeerInfo>, from: Option<Slab>, now: Timestamp) {
        if let Some(from) = from {
            self.charge_flood(from, price::LIST, now);
        }
        for info in peers.into_iter().take(MAX_LEARNED) {
            if let Some(sender) = from.and_then(|from| self.neighbours.get_mut(from))
                && sender.node == info.node
            {
                sender.address = info.address;
                sender.flags.dialable = info.flags.dialable;
                sender.upload_kbps = info.upload_kbps;
                continue;
            }
            let linked = self.neighbours.iter().any(|(_, n)| n.node == info.node);
            if info.node == self.config.node || linked || self.bans.contains(&info.node) {
                continue;
            }
            if let Some(known) = self.candidates.list.iter_mut().find(|c| c.info.node == info.node) {
                known.info = info;
                continue;
            }
            if self.candidates.list.len() == MAX_CANDIDATES {
                let any = self.rng.random_range(0..MAX_CANDIDATES);
                self.candidates.list.swap_remove(any);
            }
            self.candidates.list.push(Candidate { info, after: now });
        }
        if self.neighbours.len() + self.candidates.dialing.len() == 0 {
            self.dial(now);
        }
    }

    pub(crate) fn on_dial_failed(&mut self, peer: NodeId, now: Timestamp) {
        self.candidates.dialing.retain(|(node, _)| *node != peer);
        self.dial(now);
    }

    /// Whether hidden nodes can serve `neighbour`, while they cannot serve others whom this node serves.
    pub(crate) fn hidden_ones_serve(&self, neighbour: &Neighbour) -> bool {
        self.config.dialable && neighbour.flags.dialable
    }

    /// Neighbours that others can find, as they have described themselves.
    pub fn neighbours(&self) -> Vec<PeerInfo> {
        self.findable(None).collect()
    }

    /// The same, but for one of them.
    fn findable(&self, but: Option<Slab>) -> impl Iterator<Item = PeerInfo> {
        self.neighbours
            .iter()
            .filter(move |(slab, n)| {
                Some(*slab) != but && n.greeted && n.flags.dialable && !n.closing && !n.address.is_empty()
            })
            .map(|(_, n)| PeerInfo {
                node: n.node,
                flags: n.flags,
                upload_kbps: n.upload_kbps,
                address: n.address.clone(),
            })
    }

    /// How many neighbours to aim at. A promise costs as many bytes whether pieces are long or short, many or few, so a
    /// stream of slow pieces has fewer neighbours to promise them to.
    fn aim(&self) -> usize {
        let fewer = self.config.neighbours as f32 / self.pace.scale().sqrt();
        (fewer.round() as usize).clamp(LEAST_NEIGHBOURS.min(self.config.neighbours), self.config.neighbours)
    }

    /// Dials as many as are missing.
    fn dial(&mut self, now: Timestamp) {
        if self.leaving || self.role == Role::Source && self.neighbours.len() >= self.aim() {
            return;
        }
        let have = self.neighbours.iter().filter(|(_, n)| !n.closing).count();
        let under_way = self.candidates.dialing.len();
        let missing = self.aim().saturating_sub(have + under_way);
        let at_once = (self.aim() / 2).max(1).saturating_sub(under_way);
        for _ in 0..missing.min(at_once) {
            if !self.dial_one(true, now) {
                break;
            }
        }
    }

    /// Dials one more node: one that can be dialled, or, if there is none, `hidden_too` one that says it cannot be.
    fn dial_one(&mut self, hidden_too: bool, now: Timestamp) -> bool {
        let Candidates { list, dialing, .. } = &mut self.candidates;
        let neighbours = &self.neighbours;
        let fit = |c: &Candidate| {
            c.after <= now
                && !dialing.iter().any(|(node, _)| *node == c.info.node)
                && !neighbours.iter().any(|(_, n)| n.node == c.info.node)
        };
        let dialable = !hidden_too || list.iter().any(|c| c.info.flags.dialable && fit(c));
        let chosen =
            list.iter_mut().filter(|c| c.info.flags.dialable == dialable && fit(c)).choose(&mut self.rng);
        let Some(candidate) = chosen else { return false };
        candidate.after = now + DIAL_AGAIN;
        dialing.push((candidate.info.node, now));
        self.out.push_back(Output::Dial { peer: candidate.info.clone() });
        true
    }

    /// Tells a neighbour of a few others.
    fn tell_peers(&mut self, to: Slab, now: Timestamp) {
        let candidates = self.candidates.list.iter().map(|c| c.info.clone());
        let known = self.findable(Some(to)).chain(candidates).collect::<Vec<_>>();
        let list = known.into_iter().sample(&mut self.rng, TOLD);
        if !list.is_empty() {
            self.send(to, Message::Peers(list), now);
        }
    }

    /// The policy's share of the tick.
    pub(crate) fn neighbourhood_tick(&mut self, now: Timestamp) {
        self.bans.expire(now);
        self.candidates.dialing.retain(|(_, at)| *at + DIAL_TIMEOUT > now);
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            neighbour.taken_lately *= 0.9;
            neighbour.given_lately *= 0.9;
            if neighbour.heard + IDLE < self.edge_at {
                self.hang_up(slab, HangUpReason::Idle, false, now);
            } else if neighbour.greeted && neighbour.told + KEEP_ALIVE < now && !neighbour.closing {
                let newest = (self.window.base()..self.window.edge()).rfind(|s| self.window.held.get(*s));
                let newest = newest.map(Serial).into_iter().collect();
                self.send(slab, Message::Have(newest), now);
            }
        }
        self.dial(now);
        if self.candidates.tell_at <= now {
            self.candidates.tell_at = now + TELL;
            for slab in self.neighbours.slabs() {
                self.tell_peers(slab, now);
            }
        }
        if self.candidates.review_at <= now {
            let first = self.candidates.review_at == Timestamp::ZERO;
            // Not all at once.
            let jitter = self.rng.random_range(0.5..1.5);
            self.candidates.review_at = now + REVIEW.mul_f32(jitter);
            if !first {
                self.replace_worst(now);
            }
        }
    }

    fn replace_worst(&mut self, now: Timestamp) {
        let full = self.neighbours.len() >= self.aim();
        if !full || self.role == Role::Source {
            return;
        }
        let piece_len = self.pace.piece_len as f32;
        let worst = self
            .neighbours
            .iter()
            .filter(|(_, n)| n.direction == Direction::Dialled && !n.flags.source && n.since + REVIEW < now)
            .min_by(|(_, a), (_, b)| usefulness(a, piece_len).total_cmp(&usefulness(b, piece_len)))
            .map(|(slab, _)| slab);
        if let Some(worst) = worst {
            // The new one is dialled first: a neighbour is replaced before it is missed.
            if self.dial_one(false, now) {
                self.send(worst, Message::Bye(ByeReason::Replaced), now);
                self.hang_up(worst, HangUpReason::Replaced, false, now);
            }
        }
    }
}

/// What a neighbour is worth: bytes of late, both ways, against the time they take.
fn usefulness(neighbour: &Neighbour, piece_len: f32) -> f32 {
    let rtt = neighbour.rtt.as_secs_f32().max(0.001);
    (piece_len + neighbour.taken_lately + neighbour.given_lately / 2.0) / (0.1 + rtt)
}
