//! One node's part in one minute's swarm: what it holds, whom it knows, what it asks.

use rand::{RngExt, rngs::Xoshiro256PlusPlus};

use super::choker::{self, Candidate, SLOTS};
use crate::engine::NodeId;

/// Bytes of a request (BEP 3).
pub const BLOCK: u32 = 16 * 1024;
/// Requests that wait at one peer at a time.
const PIPELINE: usize = 16;

/// A part of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The piece's index in the minute.
    pub piece: u32,
    /// The block's number in the piece.
    pub number: u32,
}

/// What is known of a peer of this swarm.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub node: NodeId,
    has: Vec<bool>,
    /// Whether it serves this node, and this node serves it.
    choked: bool,
    /// See `choked`.
    pub choking: bool,
    interested: bool,
    interesting: bool,
    given: u64,
    asked: Vec<Block>,
    /// What it has asked for.
    pub wants: std::collections::VecDeque<Block>,
}

/// A piece's state.
#[derive(Clone, Debug)]
enum Piece {
    Missing,
    /// Which blocks are asked for and which are there.
    Coming {
        asked: Vec<bool>,
        there: Vec<bool>,
    },
    Held,
}

/// What a swarm wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send to this peer.
    Send(NodeId, Say),
    /// A piece is complete.
    Complete(u32),
}

/// Messages without payload (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Say {
    Interested,
    Choke,
    Unchoke,
    Have(u32),
    Request(Block),
}

/// One node's part in one minute's swarm.
#[derive(Debug)]
pub struct Swarm {
    pieces: Vec<Piece>,
    lengths: Vec<u32>,
    missing: usize,
    copies: Vec<u32>,
    /// All peers, in the order in which they came.
    pub peers: Vec<Peer>,
    /// What is to be done.
    pub actions: Vec<Action>,
    turn: usize,
}

impl Swarm {
    /// A part in the swarm of pieces with these lengths.
    pub fn new(lengths: Vec<u32>, seed: bool) -> Self {
        let state = if seed { Piece::Held } else { Piece::Missing };
        Self {
            pieces: vec![state; lengths.len()],
            missing: if seed { 0 } else { lengths.len() },
            copies: vec![0; lengths.len()],
            lengths,
            peers: Vec::new(),
            actions: Vec::new(),
            turn: 0,
        }
    }

    /// Whether all pieces are held.
    pub fn complete(&self) -> bool {
        self.missing == 0
    }

    /// The bitfield.
    pub fn bitfield(&self) -> Vec<bool> {
        self.pieces.iter().map(|piece| matches!(piece, Piece::Held)).collect()
    }

    /// Bytes of a block.
    pub fn block_len(&self, block: Block) -> u32 {
        (self.lengths[block.piece as usize] - block.number * BLOCK).min(BLOCK)
    }

    /// Whether the node is a peer already.
    pub fn knows(&self, node: NodeId) -> bool {
        self.peers.iter().any(|peer| peer.node == node)
    }

    /// A peer has shaken hands and said what it holds.
    pub fn on_bitfield(&mut self, node: NodeId, has: Vec<bool>) {
        for (copies, has) in self.copies.iter_mut().zip(&has) {
            *copies += u32::from(*has);
        }
        self.peers.push(Peer {
            node,
            has,
            choked: true,
            choking: true,
            interested: false,
            interesting: false,
            given: 0,
            asked: Vec::new(),
            wants: Default::default(),
        });
        self.show_interest(self.peers.len() - 1);
    }

    /// A peer is gone.
    pub fn remove(&mut self, node: NodeId, rng: &mut Xoshiro256PlusPlus) {
        let Some(index) = self.peers.iter().position(|peer| peer.node == node) else { return };
        let peer = self.peers.remove(index);
        for (copies, has) in self.copies.iter_mut().zip(&peer.has) {
            *copies -= u32::from(*has);
        }
        self.unask(&peer.asked);
        self.ask_all(rng);
    }

    /// A peer says something.
    pub fn on_say(&mut self, node: NodeId, say: Say, rng: &mut Xoshiro256PlusPlus) {
        let Some(index) = self.peers.iter().position(|peer| peer.node == node) else { return };
        match say {
            Say::Interested => {
                self.peers[index].interested = true;
                self.fill_slots(index);
            }
            Say::Choke => {
                self.peers[index].choked = true;
                let asked = std::mem::take(&mut self.peers[index].asked);
                self.unask(&asked);
                self.ask_all(rng);
            }
            Say::Unchoke => {
                self.peers[index].choked = false;
                self.ask(index, rng);
            }
            Say::Have(piece) => {
                let had = std::mem::replace(&mut self.peers[index].has[piece as usize], true);
                self.copies[piece as usize] += u32::from(!had);
                self.show_interest(index);
                self.ask(index, rng);
            }
            Say::Request(block) => {
                let held = matches!(self.pieces[block.piece as usize], Piece::Held);
                if held && !self.peers[index].choking {
                    self.peers[index].wants.push_back(block);
                }
            }
        }
    }

    /// A block has come.
    pub fn on_block(&mut self, node: NodeId, block: Block, rng: &mut Xoshiro256PlusPlus) {
        let len = u64::from(self.block_len(block));
        let Some(index) = self.peers.iter().position(|peer| peer.node == node) else { return };
        self.peers[index].given += len;
        self.peers[index].asked.retain(|asked| *asked != block);
        if let Piece::Coming { asked, there } = &mut self.pieces[block.piece as usize] {
            asked[block.number as usize] = true;
            there[block.number as usize] = true;
            if there.iter().all(|there| *there) {
                self.pieces[block.piece as usize] = Piece::Held;
                self.missing -= 1;
                self.actions.push(Action::Complete(block.piece));
                let others = self.peers.iter().map(|peer| Action::Send(peer.node, Say::Have(block.piece)));
                self.actions.extend(others);
            }
        }
        self.ask(index, rng);
    }

    /// The choker's round.
    pub fn rechoke(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let candidates = self.peers.iter().enumerate();
        let candidates = candidates
            .map(|(peer, p)| Candidate { peer, interested: p.interested, given: p.given })
            .collect();
        let chosen = choker::round(candidates, rng);
        for (index, peer) in self.peers.iter_mut().enumerate() {
            peer.given = 0;
            let choke = !chosen.contains(&index);
            if choke != peer.choking {
                peer.choking = choke;
                let say = if choke { Say::Choke } else { Say::Unchoke };
                self.actions.push(Action::Send(peer.node, say));
            }
            if choke {
                peer.wants.clear();
            }
        }
    }

    /// The next block to send and to whom: peers take turns.
    pub fn next_send(&mut self) -> Option<(NodeId, Block)> {
        let count = self.peers.len();
        for step in 1..=count {
            let index = (self.turn + step) % count;
            if let Some(block) = self.peers[index].wants.pop_front() {
                self.turn = index;
                return Some((self.peers[index].node, block));
            }
        }
        None
    }

    fn fill_slots(&mut self, index: usize) {
        let used = self.peers.iter().filter(|peer| !peer.choking).count();
        let peer = &mut self.peers[index];
        if used < SLOTS && peer.choking {
            peer.choking = false;
            self.actions.push(Action::Send(peer.node, Say::Unchoke));
        }
    }

    fn show_interest(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        let lacks = |(piece, has): (&Piece, &bool)| *has && !matches!(piece, Piece::Held);
        if !peer.interesting && self.pieces.iter().zip(&peer.has).any(lacks) {
            peer.interesting = true;
            self.actions.push(Action::Send(peer.node, Say::Interested));
        }
    }

    fn unask(&mut self, blocks: &[Block]) {
        for block in blocks {
            if let Piece::Coming { asked, there } = &mut self.pieces[block.piece as usize] {
                asked[block.number as usize] = there[block.number as usize];
            }
        }
    }

    fn ask_all(&mut self, rng: &mut Xoshiro256PlusPlus) {
        (0..self.peers.len()).for_each(|index| self.ask(index, rng));
    }

    /// Keeps a peer's pipeline full: begun pieces first, then the rarest.
    fn ask(&mut self, index: usize, rng: &mut Xoshiro256PlusPlus) {
        while !self.peers[index].choked && self.peers[index].asked.len() < PIPELINE {
            let Some(piece) = self.pick(index, rng) else { return };
            let count = self.lengths[piece].div_ceil(BLOCK) as usize;
            if matches!(self.pieces[piece], Piece::Missing) {
                self.pieces[piece] = Piece::Coming { asked: vec![false; count], there: vec![false; count] };
            }
            let Piece::Coming { asked, .. } = &mut self.pieces[piece] else { return };
            for (number, asked) in asked.iter_mut().enumerate().filter(|(_, asked)| !**asked) {
                *asked = true;
                let block = Block { piece: piece as u32, number: number as u32 };
                self.peers[index].asked.push(block);
                self.actions.push(Action::Send(self.peers[index].node, Say::Request(block)));
            }
        }
    }

    fn pick(&self, index: usize, rng: &mut Xoshiro256PlusPlus) -> Option<usize> {
        let mut best: Option<((bool, u32), usize)> = None;
        let mut ties = 0;
        for (piece, state) in self.pieces.iter().enumerate() {
            if !self.peers[index].has[piece] {
                continue;
            }
            let fresh = match state {
                Piece::Missing => true,
                Piece::Coming { asked, .. } if asked.iter().any(|asked| !asked) => false,
                _ => continue,
            };
            let key = (fresh, self.copies[piece]);
            ties = if best.is_some_and(|(of_best, _)| of_best == key) { ties + 1 } else { 0 };
            let better = best.is_none_or(|(of_best, _)| key < of_best);
            // Equals win in turn with equal chance (reservoir sampling).
            if better || (ties > 0 && rng.random_range(0..=ties) == 0) {
                best = Some((key, piece));
            }
        }
        best.map(|(_, piece)| piece)
    }
}
