//! Links: how they come about, and how they end.

use super::{DIAL_TIMEOUT, Event, HANDSHAKE_BYTES, Happening, Link, LinkId, Network};
use crate::engine::{Micros, NodeId, topology::Way};

impl<M> Network<M> {
    /// The link between two nodes, if it is up or being set up.
    pub fn link_between(&self, a: NodeId, b: NodeId) -> Option<LinkId> {
        let nodes = &self.nodes[a.index()];
        nodes.links.iter().copied().find(|link| self.links[link.index as usize].ends.contains(&b))
    }

    /// The other end of a link.
    pub fn peer(&self, node: NodeId, link: LinkId) -> NodeId {
        let ends = self.links[link.index as usize].ends;
        if ends[0] == node { ends[1] } else { ends[0] }
    }

    /// Sets up a link: up at both ends after one and a half round trips, and the way of a word through a server
    /// before if a hole must be punched; or a failed dial after [`DIAL_TIMEOUT`]. A pair that fails once always fails. A second dial between the same nodes joins the first.
    pub fn dial(&mut self, node: NodeId, peer: NodeId) {
        if self.link_between(node, peer).is_some() {
            return;
        }
        self.nodes[node.index()].uplink.charge(self.now, HANDSHAKE_BYTES);
        let way = self.reach(peer).dialled_by(self.reach(node));
        // To the server and on to the other end, who dials at once.
        let signalling = (self.rtt_to_centre(node) + self.rtt_to_centre(peer)) / 2;
        let target = &mut self.nodes[peer.index()];
        let (reachable, signalling) = match way {
            Way::Direct => (true, 0),
            Way::Punched(chance) => (pair_draw(self.seed, node, peer) < chance, signalling),
            Way::None => (false, 0),
        };
        if !target.alive || !reachable || node == peer {
            self.queue.push(self.now + DIAL_TIMEOUT, Event::DialFailed { node, peer });
            return;
        }
        target.uplink.charge(self.now, HANDSHAKE_BYTES);
        let rtt = self.rtt(node, peer);
        let link = self.new_link([node, peer], rtt);
        self.nodes[node.index()].links.push(link);
        self.nodes[peer.index()].links.push(link);
        self.queue.push(self.now + signalling + rtt + rtt / 2, Event::Connected(link));
    }

    /// Closes a link. The other end is told after half a round trip, and after the control messages
    /// that were sent to it before.
    pub fn hang_up(&mut self, node: NodeId, id: LinkId) {
        let Some(side) = self.side_up(node, id) else { return };
        let link = &mut self.links[id.index as usize];
        link.up[side] = false;
        let told = (self.now + link.rtt / 2).max(link.paths[side].last_control_arrival());
        self.nodes[node.index()].links.retain(|held| *held != id);
        self.queue.push(told, Event::Closed { link: id, side: 1 - side as u8 });
    }

    pub(super) fn connected(&mut self, id: LinkId) -> Option<Happening<M>> {
        let link = &mut self.links[id.index as usize];
        if link.generation != id.generation {
            return None;
        }
        let [dialler, other] = link.ends;
        if !link.up[0] && !link.up[1] {
            if !self.nodes[dialler.index()].alive || !self.nodes[other.index()].alive {
                self.free_link(id);
                self.queue.push(self.now + DIAL_TIMEOUT, Event::DialFailed { node: dialler, peer: other });
                return None;
            }
            // Twice: the first call tells the dialler, the second, at once, the other end.
            link.up = [true; 2];
            self.queue.push(self.now, Event::Connected(id));
            return Some(Happening::LinkUp { node: dialler, link: id, peer: other, dialled: true });
        }
        link.up[1].then_some(Happening::LinkUp { node: other, link: id, peer: dialler, dialled: false })
    }

    pub(super) fn closed(&mut self, id: LinkId, side: usize) -> Option<Happening<M>> {
        let link = &mut self.links[id.index as usize];
        if link.generation != id.generation {
            return None;
        }
        let (node, peer) = (link.ends[side], link.ends[1 - side]);
        let was_up = std::mem::take(&mut link.up[side]);
        self.free_link(id);
        (was_up && self.nodes[node.index()].alive).then_some(Happening::LinkDown { node, link: id, peer })
    }

    pub(super) fn side_up(&self, node: NodeId, id: LinkId) -> Option<usize> {
        let link = &self.links[id.index as usize];
        let side = usize::from(link.ends[1] == node);
        (link.generation == id.generation && link.up[side]).then_some(side)
    }

    /// The node that hears what `side` sends, if it still holds the link to be up.
    pub(super) fn receiver(&self, id: LinkId, side: u8) -> Option<NodeId> {
        let link = &self.links[id.index as usize];
        let other = 1 - usize::from(side);
        (link.generation == id.generation && link.up[other]).then_some(link.ends[other])
    }

    fn new_link(&mut self, ends: [NodeId; 2], rtt: Micros) -> LinkId {
        let fresh = |generation| Link { generation, ends, up: [false; 2], rtt, paths: Default::default() };
        if let Some(index) = self.free_links.pop() {
            let slot = &mut self.links[index as usize];
            *slot = fresh(slot.generation);
            return LinkId { index, generation: slot.generation };
        }
        self.links.push(fresh(0));
        LinkId { index: self.links.len() as u32 - 1, generation: 0 }
    }

    /// Both ends have let go, or one has and the other's time is over.
    fn free_link(&mut self, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        link.generation += 1;
        self.free_links.push(id.index);
        for end in link.ends {
            self.nodes[end.index()].links.retain(|held| *held != id);
        }
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
