//! The neighbour policy: with whom to keep links.
//!
//! Rules:
//! 1. A node aims at [`Config::neighbours`](crate::Config) links, at fewer where pieces come slowly. It dials half of these
//!    itself, whoever dials it: nobody can take from a node what it chose itself. It dials that half at once, and the rest only
//!    if others do not dial it meanwhile. It accepts up to twice as many links as it aims at, since nodes that cannot be dialled
//!    live on the places of those that can. `places.rs` decides who stays when these places are taken.
//! 2. A node dials nodes at random among those that it knows, so that the mesh has no clumps and no hub, by who told of them
//!    (`candidates.rs`). It dials nodes that say nobody can dial them only if nobody else is left, since they may be mistaken.
//! 3. Every [`REVIEW`] the least useful link that this node dialled makes place for a new one, once the new one stands.
//!    Usefulness is what went over the link of late, both ways, and a short round trip.
//! 4. A node gives up a link over which it hears nothing for [`IDLE`], before the link is missed, and a link whose far end does
//!    not say Hello within [`HELLO_WITHIN`].
//! 5. Neighbours tell each other of nodes (BEP 11), a few at a time, and where they themselves are. A node does not pass on a
//!    node that has not said where it is, nor one that it knows by neighbours' word alone. A neighbour pays for dials that its
//!    words have led nowhere.
//! 6. A node that nobody can dial is *hidden*. It has links with dialable nodes alone and gets all that it plays from them,
//!    while dialable nodes get media from both kinds. So dialable nodes serve the hidden ones first, and each other with what
//!    the hidden ones leave; where most neighbours are hidden, they also request from these first. A node says itself whether it
//!    can be dialled. A lie gains no more than the first place among nodes of the same standing.

use std::net::IpAddr;
use std::time::Duration;

use minuet_proto::mesh::{ByeReason, Message, NodeId, PeerInfo, Serial};
use rand::RngExt;
use rand::seq::IteratorRandom;

use crate::members::candidates::Word;
use crate::members::neighbour::{Neighbour, Slab};
use crate::node::Node;
use crate::trust::flood::price;
use crate::{Direction, Discovery, HangUpReason, LinkId, Output, Role, Timestamp};

/// The least number of neighbours to aim at: with fewer one that leaves is missed.
const LEAST_NEIGHBOURS: usize = 6;
/// Most nodes looked at in one list.
const MAX_LEARNED: usize = 256;
/// Nodes told to a neighbour at a time.
const TOLD: usize = 12;
/// How often neighbours are told of nodes at the most; …
const TELL: Duration = Duration::from_secs(20);
/// … and it takes no more than one in so many bytes of the stream, where a node that is told of takes so many bytes.
const TELL_PART: f32 = 64.0;
const TOLD_BYTES: f32 = 48.0;
/// A link without a word for so many halves of [`KEEP_ALIVE`] is given up, if the stream went on in that time.
const IDLE: u32 = 5;
/// A link's far end must have said Hello by then.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// A node that has nothing to say says so after this time, at the nominal pace (`tempo.rs`) and within the bounds.
const KEEP_ALIVE: Duration = Duration::from_millis(250);
const LEAST_KEEP_ALIVE: Duration = Duration::from_secs(2);
const MOST_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Nodes dialled at a time, beyond those aimed at, by who wants a finished segment of which hardly any neighbour has anything.
const SEEKS: usize = 2;
/// How often the least useful neighbour is looked for, and how old it must be.
const REVIEW: Duration = Duration::from_secs(20);
/// Links that are kept account of, as a multiple of half of those aimed at: twice as many accepted, as many dialled, and
/// some that were hung up and are not down yet. Beyond it the driver is in arrears, and newcomers are refused without a word.
const MOST_LINKS_HALF: usize = 7;

impl Node {
    pub(crate) fn on_link_up(
        &mut self,
        link: LinkId,
        peer: NodeId,
        direction: Direction,
        (rtt, ip): (Duration, Option<IpAddr>),
        now: Timestamp,
    ) {
        let (was_dialling, replaces) = self.candidates.linked(&peer, direction == Direction::Dialled);
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
        let mut chosen = was_dialling || direction == Direction::Dialled;
        if let Some((slab, twin)) = twin.map(|(slab, n)| (slab, n.direction)) {
            // Both dialled: both ends keep the link that the lower key opened.
            let keep_new =
                twin != direction && (direction == Direction::Dialled) == (self.config.node < peer);
            if let Some(twin) = self.neighbours.get_mut(slab) {
                chosen |= twin.chosen;
                twin.chosen = chosen;
            }
            if !keep_new {
                return refuse(self, HangUpReason::Duplicate);
            }
            self.hang_up(slab, HangUpReason::Duplicate, false, now);
        }
        let most = self.config.neighbours.max(1).saturating_mul(MOST_LINKS_HALF) / 2;
        if self.neighbours.len() >= most {
            return refuse(self, HangUpReason::Full);
        }
        let room = chosen || self.make_room(ip, now);
        let mut neighbour = Neighbour::new(link, peer, direction, ip, rtt, self.window.len() as usize, now);
        (neighbour.chosen, neighbour.replaces) = (chosen, replaces);
        let slab = self.neighbours.insert(neighbour);
        self.guess_latency(slab);
        if !room {
            self.say_hello(slab, now);
            self.tell_peers(slab, now);
            self.send(slab, Message::Bye(ByeReason::Full), now);
            self.hang_up(slab, HangUpReason::Full, false, now);
            return;
        }
        self.greet(slab, now);
        self.tell_peers(slab, now);
    }

    /// Nodes have become known.
    pub(crate) fn on_found(&mut self, peers: Vec<PeerInfo>, by: Discovery, now: Timestamp) {
        self.learn_peers(peers, None, Word::Found(by), now);
    }

    /// A neighbour named nodes.
    pub(crate) fn on_peers(&mut self, peers: Vec<PeerInfo>, from: Slab, now: Timestamp) {
        let Some(teller) = self.neighbours.get(from).map(|n| n.node) else { return };
        self.learn_peers(peers, Some(from), Word::Gossip(teller), now);
    }

    fn learn_peers(&mut self, peers: Vec<PeerInfo>, from: Option<Slab>, word: Word, now: Timestamp) {
        let teller = from.and_then(|from| self.neighbours.get(from)).map(|n| n.node);
        for info in peers.into_iter().take(MAX_LEARNED) {
            if info.node == self.config.node || self.bans.contains(&info.node) {
                continue;
            }
            if teller == Some(info.node) {
                if let Some(sender) = from.and_then(|from| self.neighbours.get_mut(from)) {
                    sender.address = info.address.clone();
                    sender.flags.dialable = info.flags.dialable;
                    sender.flags.elsewhere = info.flags.elsewhere;
                    sender.upload_kbps = info.upload_kbps;
                }
                self.candidates.learn(info, Word::Itself, now, &mut self.rng);
            } else if !self.neighbours.iter().any(|(_, n)| n.node == info.node) {
                self.candidates.learn(info, word, now, &mut self.rng);
            }
        }
        if self.neighbours.len() == 0 && self.candidates.dialling() == 0 {
            self.dial(now);
        }
    }

    pub(crate) fn on_dial_failed(&mut self, peer: NodeId, now: Timestamp) {
        // A node that hears from nobody else is cut off itself, and cannot blame who told it of others.
        let heard =
            self.neighbours.iter().filter(|(_, n)| n.greeted && !n.quiet(self.quiet_after, now)).count();
        let blame = self.candidates.failed(&peer, heard > 1, now);
        let teller = blame.and_then(|blame| {
            let slab = self.neighbours.iter().find(|(_, n)| n.node == blame.teller && !n.closing)?.0;
            Some((slab, blame.lies))
        });
        if let Some((slab, lies)) = teller {
            if lies {
                self.hang_up(slab, HangUpReason::Liar, true, now);
            } else {
                self.charge_flood(slab, price::FAILED_DIAL, now);
            }
        }
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
    pub(crate) fn aim(&self) -> usize {
        let fewer = self.config.neighbours as f32 / self.tempo.scale().sqrt();
        (fewer.round() as usize).clamp(LEAST_NEIGHBOURS.min(self.config.neighbours), self.config.neighbours)
    }

    /// Dials as many as are missing.
    fn dial(&mut self, now: Timestamp) {
        if self.leaving {
            return;
        }
        self.tempo.look(&self.window);
        let links = || self.neighbours.iter().filter(|(_, n)| !n.closing);
        let (have, chosen) = (links().count(), links().filter(|(_, n)| n.chosen).count());
        let under_way = self.candidates.dialling();
        let (aim, half) = (self.aim(), (self.aim() / 2).max(1));
        let missing = aim.saturating_sub(have).max(half.saturating_sub(chosen));
        // A node that lacks what a reader wants looks for others beyond that.
        let seeks = self.lacks_keepers() && have < aim.saturating_mul(2);
        let missing = missing.max(if seeks { SEEKS } else { 0 }).saturating_sub(under_way);
        let at_once = half.saturating_sub(under_way);
        for _ in 0..missing.min(at_once) {
            if !self.dial_one(true, false, now) {
                break;
            }
        }
    }

    /// Dials one more node: one that can be dialled, or, if there is none, `hidden_too` one that says it cannot be. A
    /// neighbour goes once the link stands if it `replaces` one.
    fn dial_one(&mut self, hidden_too: bool, replaces: bool, now: Timestamp) -> bool {
        let neighbours = &self.neighbours;
        let fit = |node: &NodeId| !neighbours.iter().any(|(_, n)| n.node == *node);
        let Some(peer) = self.candidates.choose(hidden_too, replaces, fit, now, &mut self.rng) else {
            return false;
        };
        self.out.push_back(Output::Dial { peer });
        true
    }

    /// Tells a neighbour of a few others. What this node has only heard of it does not pass on.
    fn tell_peers(&mut self, to: Slab, now: Timestamp) {
        let known = self.findable(Some(to)).collect::<Vec<_>>();
        let list = known.into_iter().sample(&mut self.rng, TOLD);
        if !list.is_empty() {
            self.send(to, Message::Peers(list), now);
        }
    }

    /// The policy's share of the tick.
    pub(crate) fn neighbourhood_tick(&mut self, now: Timestamp) {
        self.bans.expire(now);
        self.candidates.expire(now);
        self.shed(now);
        let keep_alive = self.tempo.time(KEEP_ALIVE).clamp(LEAST_KEEP_ALIVE, MOST_KEEP_ALIVE);
        let idle = keep_alive.saturating_mul(IDLE).div_f32(2.0);
        for slab in self.neighbours.slabs() {
            let Some(neighbour) = self.neighbours.get_mut(slab) else { continue };
            neighbour.taken_lately *= 0.9;
            neighbour.given_lately *= 0.9;
            let silent = !neighbour.greeted && neighbour.since + HELLO_WITHIN < now;
            if silent || neighbour.heard + idle < self.edge_at {
                self.hang_up(slab, HangUpReason::Idle, false, now);
            } else if neighbour.greeted && neighbour.sent_at + keep_alive < now && !neighbour.closing {
                // A node that uploads nothing promises nothing: an empty list says as well that it is there.
                let held = |serial: &u64| self.config.upload && self.window.held.get(*serial);
                let newest = (self.window.base()..self.window.edge()).rfind(held);
                let newest = newest.map(Serial::new).into_iter().collect();
                self.send(slab, Message::Have(newest), now);
            }
        }
        self.dial(now);
        if self.candidates.tell_at <= now {
            let bytes = self.neighbours.len() as f32 * TOLD as f32 * TOLD_BYTES;
            let cheap = Duration::from_secs_f32((bytes * TELL_PART / self.tempo.rate.max(1.0)).min(3600.0));
            self.candidates.tell_at = now + TELL.max(cheap);
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

    /// Lets go a neighbour where there are many more than are aimed at: links that came before the pace was known.
    fn shed(&mut self, now: Timestamp) {
        let links = || self.neighbours.iter().filter(|(_, n)| n.greeted && !n.closing);
        if self.aim() == self.config.neighbours || links().count() <= self.aim().saturating_mul(2) {
            return;
        }
        // A hidden one finds no others as easily, and the source is the last to be left.
        let spare = links().filter(|(_, n)| n.flags.dialable && !n.flags.source);
        let len = self.tempo.piece_len as f32;
        let least = spare.min_by(|(_, a), (_, b)| usefulness(a, len).total_cmp(&usefulness(b, len)));
        if let Some((slab, _)) = least {
            self.send(slab, Message::Bye(ByeReason::Full), now);
            self.hang_up(slab, HangUpReason::Full, false, now);
        }
    }

    /// Looks for a better neighbour than the worst one.
    fn replace_worst(&mut self, now: Timestamp) {
        let full = self.neighbours.len() >= self.aim();
        if full && self.role != Role::Source && self.worst(now).is_some() {
            self.dial_one(false, true, now);
        }
    }

    /// The least useful neighbour that this node chose itself and has had for a while.
    fn worst(&self, now: Timestamp) -> Option<Slab> {
        let old = |n: &Neighbour| n.chosen && !n.closing && !n.flags.source && n.since + REVIEW < now;
        let old = self.neighbours.iter().filter(|(_, n)| old(n));
        let len = self.tempo.piece_len as f32;
        old.min_by(|(_, a), (_, b)| usefulness(a, len).total_cmp(&usefulness(b, len))).map(|(slab, _)| slab)
    }

    /// The link that was to replace the worst neighbour stands: that one may go.
    pub(crate) fn let_go_worst(&mut self, new: Slab, now: Timestamp) {
        if let Some(worst) = self.worst(now).filter(|worst| *worst != new) {
            self.send(worst, Message::Bye(ByeReason::Replaced), now);
            self.hang_up(worst, HangUpReason::Replaced, false, now);
        }
    }
}

/// What a neighbour is worth: bytes of late, both ways, against the time they take.
fn usefulness(neighbour: &Neighbour, piece_len: f32) -> f32 {
    let rtt = neighbour.rtt.as_secs_f32().max(0.001);
    (piece_len + neighbour.taken_lately + neighbour.given_lately / 2.0) / (0.1 + rtt)
}
