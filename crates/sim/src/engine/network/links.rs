//! Links: how they come about, and how they end.
//!
//! Rule: each end keeps an end of its own, and learns of the other's by what comes over the line: a dial, its answer,
//! a close. An end that gets word of a link that it has let go of drops it.

use super::{DIAL_TIMEOUT, Event, HANDSHAKE_BYTES, Happening, IDLE_TIMEOUT, Network};
use crate::engine::{Micros, NodeId, path::Path, topology::Way};

/// A node's own end of a link; never used again for another link of that node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    index: u32,
    generation: u32,
}

impl LinkId {
    /// The end as one number.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The end that [`LinkId::to_bits`] gave the number of.
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// How far a link has come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// This end has dialled and has no answer.
    Dialling,
    /// Both ends know each other, but are not through with their handshake.
    Connecting {
        dialled: bool,
    },
    Up,
}

/// What a dial that comes in meets.
enum Crossing {
    /// Nothing of its kind.
    None,
    /// A dial to the same node that waits for its answer.
    Dialling(LinkId),
    /// The link that both dials have become.
    Settled,
}

/// One end of a link.
pub(super) struct End {
    pub peer: NodeId,
    /// The other end, once it is known.
    pub far: LinkId,
    pub rtt: Micros,
    /// The way to the other end.
    pub path: Path,
    stage: Stage,
}

/// A node's ends of its links.
#[derive(Default)]
pub(super) struct Links {
    slots: Vec<(u32, Option<End>)>,
}

impl Links {
    fn get(&mut self, id: LinkId) -> Option<&mut End> {
        let (generation, end) = self.slots.get_mut(id.index as usize)?;
        end.as_mut().filter(|_| *generation == id.generation)
    }

    /// The link, if this end holds it to be up.
    pub fn up(&mut self, id: LinkId) -> Option<&mut End> {
        self.get(id).filter(|end| end.stage == Stage::Up)
    }

    fn to(&self, peer: NodeId) -> Option<LinkId> {
        let mut slots = self.slots.iter();
        let index = slots.position(|(_, end)| end.as_ref().is_some_and(|end| end.peer == peer))?;
        Some(LinkId { index: index as u32, generation: self.slots[index].0 })
    }

    /// What a dial of `peer` by its link `far` meets here.
    fn crossing(&self, peer: NodeId, far: LinkId) -> Crossing {
        for (index, (generation, end)) in self.slots.iter().enumerate() {
            let Some(end) = end.as_ref().filter(|end| end.peer == peer) else { continue };
            if end.stage == Stage::Dialling {
                return Crossing::Dialling(LinkId { index: index as u32, generation: *generation });
            }
            if end.far == far {
                return Crossing::Settled;
            }
        }
        Crossing::None
    }

    fn insert(&mut self, end: End) -> LinkId {
        let free = self.slots.iter().position(|(_, end)| end.is_none());
        let index = free.unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() - 1
        });
        self.slots[index].1 = Some(end);
        LinkId { index: index as u32, generation: self.slots[index].0 }
    }

    fn remove(&mut self, id: LinkId) -> Option<End> {
        self.get(id)?;
        let (generation, end) = &mut self.slots[id.index as usize];
        *generation += 1;
        end.take()
    }

    /// Lets go of all links; returns the far ends that are known.
    pub fn clear(&mut self) -> Vec<(NodeId, LinkId)> {
        let slots = self.slots.iter_mut();
        let ends = slots.filter_map(|(generation, end)| {
            *generation += 1;
            end.take().filter(|end| end.stage != Stage::Dialling)
        });
        ends.map(|end| (end.peer, end.far)).collect()
    }
}

impl<M> Network<M> {
    /// The link of `node` to `peer`, if it is up or being set up.
    pub fn link_between(&self, node: NodeId, peer: NodeId) -> Option<LinkId> {
        self.node(node).links.to(peer)
    }

    /// The other end of a link, unless this one has let go of it.
    pub fn peer(&mut self, node: NodeId, link: LinkId) -> Option<NodeId> {
        self.node_mut(node).links.get(link).map(|end| end.peer)
    }

    /// Sets up a link: up at both ends after one and a half round trips, and the way of a word through a server
    /// before if a hole must be punched; or a failed dial after [`DIAL_TIMEOUT`]. A pair that fails once always fails.
    /// A second dial between the same nodes joins the first.
    pub fn dial(&mut self, node: NodeId, peer: NodeId) {
        if self.link_between(node, peer).is_some() {
            return;
        }
        let now = self.now;
        self.node_mut(node).uplink.charge(now, HANDSHAKE_BYTES);
        // To the server and on to the other end, who dials at once.
        let signalling = (self.rtt_to_centre(node) + self.rtt_to_centre(peer)) / 2;
        let (reachable, signalling) = match self.reach(peer).dialled_by(self.reach(node)) {
            Way::Direct => (true, 0),
            Way::Punched(chance) => (pair_draw(self.seed, node, peer) < chance, signalling),
            Way::None => (false, 0),
        };
        if !reachable || node == peer {
            self.push(node, node, now + DIAL_TIMEOUT, Event::DialFailed(peer));
            return;
        }
        let rtt = self.rtt(node, peer);
        let link = self.new_end(node, peer, LinkId::default(), Stage::Dialling);
        self.push(node, peer, now + signalling + rtt / 2, Event::Dialled { peer: node, far: link });
        self.push(node, node, now + DIAL_TIMEOUT, Event::Unanswered(link));
    }

    /// Closes a link. The other end is told after half a round trip, and after the control messages
    /// that were sent to it before.
    pub fn hang_up(&mut self, node: NodeId, link: LinkId) {
        let links = &mut self.node_mut(node).links;
        if links.up(link).is_none() {
            return;
        }
        let Some(end) = links.remove(link) else { return };
        let told = (self.now + end.rtt / 2).max(end.path.last_control_arrival());
        self.push(node, end.peer, told, Event::Closed(end.far));
    }

    /// A dial comes in. The dead do not answer.
    pub(super) fn dialled(&mut self, node: NodeId, peer: NodeId, far: LinkId) -> Option<Happening<M>> {
        let now = self.now;
        let state = self.node_mut(node);
        if !state.alive {
            return None;
        }
        let link = match state.links.crossing(peer, far) {
            // Both have dialled: the dial of the node that was here first counts.
            Crossing::Dialling(_) if node < peer => return None,
            Crossing::Settled => return None,
            Crossing::Dialling(own) => {
                if let Some(end) = state.links.get(own) {
                    (end.far, end.stage) = (far, Stage::Connecting { dialled: false });
                }
                own
            }
            Crossing::None => self.new_end(node, peer, far, Stage::Connecting { dialled: false }),
        };
        self.node_mut(node).uplink.charge(now, HANDSHAKE_BYTES);
        let rtt = self.rtt(node, peer);
        self.push(node, node, now + rtt, Event::Connected(link));
        self.push(node, peer, now + rtt / 2, Event::Answered { link: far, peer: node, far: link });
        None
    }

    /// A dial is answered; if this node has died since, the other end will notice.
    pub(super) fn answered(
        &mut self,
        node: NodeId,
        link: LinkId,
        peer: NodeId,
        far: LinkId,
    ) -> Option<Happening<M>> {
        let now = self.now;
        let waits = |end: &&mut End| end.stage == Stage::Dialling;
        let Some(end) = self.node_mut(node).links.get(link).filter(waits) else {
            self.push(node, peer, now + IDLE_TIMEOUT, Event::Closed(far));
            return None;
        };
        end.far = far;
        end.stage = Stage::Connecting { dialled: true };
        let rest = end.rtt - end.rtt / 2;
        self.push(node, node, now + rest, Event::Connected(link));
        None
    }

    pub(super) fn unanswered(&mut self, node: NodeId, link: LinkId) -> Option<Happening<M>> {
        let links = &mut self.node_mut(node).links;
        let peer = links.get(link).filter(|end| end.stage == Stage::Dialling)?.peer;
        links.remove(link);
        Some(Happening::DialFailed { node, peer })
    }

    pub(super) fn connected(&mut self, node: NodeId, link: LinkId) -> Option<Happening<M>> {
        let end = self.node_mut(node).links.get(link)?;
        let Stage::Connecting { dialled } = end.stage else { return None };
        end.stage = Stage::Up;
        Some(Happening::LinkUp { node, link, peer: end.peer, dialled })
    }

    pub(super) fn closed(&mut self, node: NodeId, link: LinkId) -> Option<Happening<M>> {
        let end = self.node_mut(node).links.remove(link)?;
        (end.stage == Stage::Up).then_some(Happening::LinkDown { node, link, peer: end.peer })
    }

    fn new_end(&mut self, node: NodeId, peer: NodeId, far: LinkId, stage: Stage) -> LinkId {
        let rtt = self.rtt(node, peer);
        self.node_mut(node).links.insert(End { peer, far, rtt, path: Path::default(), stage })
    }
}

/// A number in 0..1 that two nodes have for a run's time, whoever of them dials (SplitMix64).
fn pair_draw(seed: u64, a: NodeId, b: NodeId) -> f64 {
    let pair = u64::from(a.0.min(b.0)) << 32 | u64::from(a.0.max(b.0));
    let mut z = (seed ^ pair).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
