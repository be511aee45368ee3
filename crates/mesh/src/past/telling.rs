//! Which neighbour has what of finished segments.
//!
//! Rules:
//! 1. A node tells its neighbours which segments it has as a whole: all of them in a few bytes, when the link begins and when
//!    they have changed, once a second at most.
//! 2. A node that begins to fetch a segment tells its neighbours so, with what it has of it. Those that have a part of it
//!    answer with a map, and tell of each further piece, several in one message.
//! 3. A node remembers maps of the segments that it fetches itself, and of no others; so no neighbour can make it remember more.

use std::time::Duration;

use minuet_proto::SegmentSeq;
use minuet_proto::mesh::{Indices, Kept, KeptMap, Message, Ranges};

use crate::Timestamp;
use crate::members::greeting::KNOWS_KEPT;
use crate::members::neighbour::{Neighbour, Slab};
use crate::node::Node;
use crate::past::minutes::Map;

/// How often neighbours are told of whole segments at the most.
const TELL: Duration = Duration::from_secs(1);
/// Segments of which a neighbour may wish to hear.
const MAX_WISHES: usize = 12;

/// What a neighbour has told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Segments that it has as a whole.
    pub whole: Ranges,
    /// What it has of segments that this node fetches.
    pub maps: Vec<(u64, Map)>,
    /// Segments that it fetches, the newest last; at most [`MAX_WISHES`].
    pub wishes: Vec<u64>,
}

impl Told {
    /// Whether it has a piece.
    pub fn has(&self, segment: u64, piece: u32) -> bool {
        self.has_whole(segment) || self.map(segment).is_some_and(|map| map.get(piece))
    }

    /// Whether it has all of a segment.
    pub fn has_whole(&self, segment: u64) -> bool {
        self.whole.iter().any(|(first, count)| (first.0..first.0.saturating_add(*count)).contains(&segment))
    }

    /// How near to the live edge it can give something: the end of the newest segment that it has as a whole.
    pub fn reach(&self) -> u64 {
        self.whole.iter().map(|(first, count)| first.0.saturating_add(*count)).max().unwrap_or(0)
    }

    /// Whether it has any of a segment, and with that its hashes.
    pub fn has_some(&self, segment: u64) -> bool {
        self.has_whole(segment) || self.map(segment).is_some_and(|map| !map.is_empty())
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let numbers = self.whole.len().saturating_mul(2).saturating_add(self.wishes.len());
        let numbers = numbers.saturating_mul(size_of::<u64>());
        self.maps.iter().map(|(_, map)| map.len()).fold(numbers, usize::saturating_add)
    }

    pub fn map(&self, segment: u64) -> Option<&Map> {
        self.maps.iter().find(|(of, _)| *of == segment).map(|(_, map)| map)
    }

    /// It does not have a piece, whatever it said.
    pub fn lacks(&mut self, segment: u64, piece: u32) {
        if let Some((_, map)) = self.maps.iter_mut().find(|(of, _)| *of == segment) {
            map.clear(piece);
        }
        // One that lacks a piece does not have the whole.
        self.whole.retain(|(first, count)| !(first.0..first.0.saturating_add(*count)).contains(&segment));
    }
}

impl Node {
    fn tells_kept(neighbour: &Neighbour) -> bool {
        neighbour.greeted && !neighbour.closing && neighbour.version >= KNOWS_KEPT
    }

    /// What a new neighbour is told, once it has greeted.
    pub(crate) fn tell_kept(&mut self, to: Slab, now: Timestamp) {
        if !self.neighbours.get(to).is_some_and(Self::tells_kept) {
            return;
        }
        let ranges = if self.config.upload { self.past.ranges() } else { Ranges::new() };
        if !ranges.is_empty() {
            self.send(to, Message::Kept(Kept::Whole(ranges)), now);
        }
        let wanted: Vec<SegmentSeq> = self.past.wanted.iter().map(|wanted| wanted.segment).collect();
        for segment in wanted {
            self.tell_map(to, segment, true, now);
        }
    }

    /// Tells what is here of a segment.
    fn tell_map(&mut self, to: Slab, segment: SegmentSeq, wants: bool, now: Timestamp) {
        let mut map = self.past.map_of(segment, wants);
        if !self.config.upload {
            map.bits.clear();
        }
        self.send(to, Message::Kept(Kept::Map(map)), now);
    }

    /// This node begins to fetch segments.
    pub(crate) fn tell_wishes(&mut self, segments: &[SegmentSeq], now: Timestamp) {
        for slab in self.neighbours.slabs() {
            if self.neighbours.get(slab).is_some_and(Self::tells_kept) {
                for segment in segments {
                    self.tell_map(slab, *segment, true, now);
                }
            }
        }
    }

    /// The tick's share: whole segments that are new or gone, and pieces that have come.
    pub(crate) fn tell_kept_news(&mut self, now: Timestamp) {
        let untold = std::mem::take(&mut self.past.untold);
        if !self.config.upload {
            return;
        }
        let mut segments: Vec<u64> = untold.iter().map(|piece| piece.segment.0).collect();
        segments.sort_unstable();
        segments.dedup();
        for segment in segments {
            let mut pieces: Indices =
                untold.iter().filter(|piece| piece.segment.0 == segment).map(|piece| piece.piece).collect();
            pieces.sort_unstable();
            for slab in self.neighbours.slabs() {
                let wishes = |n: &Neighbour| Self::tells_kept(n) && n.kept.told.wishes.contains(&segment);
                if self.neighbours.get(slab).is_some_and(wishes) {
                    let message = Kept::Have { segment: SegmentSeq(segment), pieces: pieces.clone() };
                    self.send(slab, Message::Kept(message), now);
                }
            }
        }
        if self.past.changed && self.past.tell_at <= now {
            self.past.changed = false;
            self.past.tell_at = now + TELL;
            let ranges = self.past.ranges();
            for slab in self.neighbours.slabs() {
                if self.neighbours.get(slab).is_some_and(Self::tells_kept) {
                    self.send(slab, Message::Kept(Kept::Whole(ranges.clone())), now);
                }
            }
        }
    }

    pub(crate) fn on_kept_whole(&mut self, from: Slab, ranges: Ranges, now: Timestamp) {
        if let Some(neighbour) = self.neighbours.get_mut(from) {
            neighbour.kept.told.whole = ranges;
            self.heed_kept(from, now);
        }
    }

    pub(crate) fn on_kept_map(&mut self, from: Slab, map: &KeptMap, now: Timestamp) {
        let segment = map.segment.0;
        let is_wanted = self.past.wanted(segment).is_some();
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let told = &mut neighbour.kept.told;
        if is_wanted {
            told.maps.retain(|(of, _)| *of != segment);
            told.maps.push((segment, Map::of(&map.bits)));
        }
        let is_new_wish = map.wants && !told.wishes.contains(&segment);
        if is_new_wish {
            if told.wishes.len() == MAX_WISHES {
                told.wishes.remove(0);
            }
            told.wishes.push(segment);
            // A neighbour that has the whole has said so.
            let has_part = self.past.minutes.get(&segment).is_some_and(|minute| minute.map.is_some());
            if has_part && self.config.upload {
                self.tell_map(from, map.segment, is_wanted, now);
            }
        }
        self.heed_kept(from, now);
    }

    pub(crate) fn on_kept_have(&mut self, from: Slab, segment: SegmentSeq, pieces: &Indices, now: Timestamp) {
        if self.past.wanted(segment.0).is_none() {
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        let maps = &mut neighbour.kept.told.maps;
        let index = maps.iter().position(|(of, _)| *of == segment.0).unwrap_or_else(|| {
            maps.push((segment.0, Map::default()));
            maps.len().saturating_sub(1)
        });
        pieces.iter().for_each(|piece| maps[index].1.set(piece.0));
        if self.is_crowded(segment) {
            self.take_back_from_keepers(segment, pieces, now);
        }
        self.heed_kept(from, now);
    }

    /// Forgets what neighbours told of segments that are not fetched any more.
    pub(crate) fn forget_maps(&mut self) {
        let wanted: Vec<u64> = self.past.wanted.iter().map(|wanted| wanted.segment.0).collect();
        for (_, neighbour) in self.neighbours.iter_mut() {
            neighbour.kept.told.maps.retain(|(segment, _)| wanted.contains(segment));
        }
    }
}
