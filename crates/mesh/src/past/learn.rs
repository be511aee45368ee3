//! Hashes of a segment that is wanted and not known here.
//!
//! Rules:
//! 1. A node asks one neighbour that has any of the segment for its record and hashes, and the next one as well after
//!    [`PATIENCE`], up to [`MAX_ASKED`]: the first answer counts. Who has begun to answer in several parts is the only one then.
//! 2. The host checks what comes against the channel's key and the signed info hash. A neighbour whose answer does not verify
//!    is banned.
//! 3. What nobody has asked for is thrown away and charged.

use std::time::Duration;

use minuet_proto::mesh::{Kept, MAX_HASHES, Message, Minute};
use minuet_proto::{PieceIndex, SegmentSeq};
use rand::seq::IteratorRandom as _;

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::past::minutes::Shape;
use crate::trust::flood::price;
use crate::{HangUpReason, LinkId, Output, Timestamp};

/// How long an answer may take before another neighbour is asked as well: a round trip, and some 20 kB. One that has what it says
/// and sends nothing costs a reader no more.
const PATIENCE: Duration = Duration::from_millis(500);
/// Neighbours whose answer is waited for.
const MAX_ASKED: usize = 3;

/// What the host makes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It is right as far as it goes; hashes from this piece on are still to come.
    More(PieceIndex),
    /// The segment is known from now on.
    Whole(Shape),
    /// It is not what the channel's key has signed.
    Wrong,
    /// The neighbour has none.
    Nothing,
}

impl Node {
    /// Asks for the hashes of what is wanted and not known.
    pub(crate) fn learn_wanted(&mut self, now: Timestamp) {
        for index in 0..self.past.wanted.len() {
            let wanted = &self.past.wanted[index];
            let segment = wanted.segment;
            let waits = !wanted.learning.is_empty() && wanted.learning_since + PATIENCE > now;
            if waits || self.past.shape(segment.0).is_some() {
                continue;
            }
            let before = &wanted.learning;
            let fit = self.neighbours.iter().filter(|(_, n)| {
                n.greeted && !n.closing && n.kept.told.has_some(segment.0) && !n.kept.is_mute(now)
            });
            // Another one than before, and not the source, if there is a choice.
            let best = fit.map(|(slab, n)| ((before.contains(&n.node), n.flags.source), slab));
            let best: Vec<_> = best.collect();
            let Some(least) = best.iter().map(|(rank, _)| *rank).min() else { continue };
            let choice = best.iter().filter(|(rank, _)| *rank == least).choose(&mut self.rng);
            if let Some((_, slab)) = choice.copied() {
                self.ask_minute(slab, segment, PieceIndex(0), now);
            }
        }
    }

    fn ask_minute(&mut self, of: Slab, segment: SegmentSeq, first: PieceIndex, now: Timestamp) {
        let Some(node) = self.neighbours.get(of).map(|n| n.node) else { return };
        if let Some(wanted) = self.past.wanted_mut(segment.0) {
            wanted.learning.retain(|asked| *asked != node);
            if first.0 > 0 {
                wanted.learning.clear();
            }
            while wanted.learning.len() >= MAX_ASKED {
                wanted.learning.remove(0);
            }
            wanted.learning.push(node);
            wanted.learning_since = now;
        }
        self.send(of, Message::Kept(Kept::GetMinute { segment, first }), now);
    }

    /// A neighbour asks for hashes.
    pub(crate) fn on_get_minute(
        &mut self,
        from: Slab,
        segment: SegmentSeq,
        first: PieceIndex,
        now: Timestamp,
    ) {
        let Some(link) = self.neighbours.get(from).map(|n| n.link) else { return };
        if self.config.upload
            && let Some(shape) = self.past.shape(segment.0)
        {
            let hashes = shape.pieces().saturating_sub(first.0).min(MAX_HASHES as u32);
            if self.charge_flood(from, price::HASH_ASKED * hashes as f32, now) {
                return;
            }
            self.out.push_back(Output::TellMinute { link, segment, first });
        } else {
            let (record, hashes) = (bytes::Bytes::new(), bytes::Bytes::new());
            self.send(from, Message::Kept(Kept::Minute(Minute { segment, first, record, hashes })), now);
        }
    }

    /// The host has read the hashes.
    pub(crate) fn tell_minute(&mut self, link: LinkId, minute: Minute, now: Timestamp) {
        if let Some(to) = self.neighbours.find(link) {
            self.send(to, Message::Kept(Kept::Minute(minute)), now);
        }
    }

    /// Hashes came in.
    pub(crate) fn on_minute(&mut self, from: Slab, minute: Minute, now: Timestamp) {
        let Some((link, node)) = self.neighbours.get(from).map(|n| (n.link, n.node)) else { return };
        let segment = minute.segment.0;
        let asked = |node| self.past.wanted(segment).is_some_and(|wanted| wanted.learning.contains(&node));
        if self.past.shape(segment).is_some() || !asked(node) {
            // It may be the late answer of one that was asked before.
            self.charge_flood(from, price::LIST, now);
            return;
        }
        self.out.push_back(Output::Minute { link, minute });
    }

    /// The host has checked them.
    pub(crate) fn on_learned(&mut self, link: LinkId, segment: SegmentSeq, learned: Learned, now: Timestamp) {
        let from = self.neighbours.find(link);
        match (learned, from) {
            (Learned::More(first), Some(from)) => self.ask_minute(from, segment, first, now),
            (Learned::Whole(shape), _) => {
                if self.past.shape(segment.0).is_none() {
                    self.past.keep(segment, shape, Some(&[]));
                }
                self.ask_all_kept(now);
            }
            (Learned::Wrong, Some(from)) => self.hang_up(from, HangUpReason::Corrupt, true, now),
            (Learned::Nothing, Some(from)) => {
                if let Some(neighbour) = self.neighbours.get_mut(from) {
                    neighbour.kept.told.lacks(segment.0, 0);
                    neighbour.kept.told.maps.retain(|(of, _)| *of != segment.0);
                }
                self.retry_learning(segment, now);
            }
            (Learned::Wrong | Learned::Nothing | Learned::More(_), None) => self.retry_learning(segment, now),
        }
    }

    /// The neighbour that was asked last does not bring the hashes.
    pub(crate) fn retry_learning(&mut self, segment: SegmentSeq, now: Timestamp) {
        if let Some(wanted) = self.past.wanted_mut(segment.0) {
            wanted.learning_since = Timestamp::ZERO;
        }
        self.learn_wanted(now);
    }
}
