//! The newest heads of a channel.
//!
//! Invariant: every head here carries the channel's signature, and none is more than [`MAX_JOIN_HEAD_PIECES`] pieces
//! behind the newest piece. What is replayed is known or too old, and is told apart before its signature is looked at.

use std::collections::BTreeMap;

use minuet_proto::channel_api::mesh::{CheckedHead, MAX_JOIN_HEAD_PIECES, head_to_base64};
use minuet_proto::mesh::{Head, SignedHead};

/// A head as joins carry it.
#[derive(Debug)]
struct Kept {
    /// The serial after its last piece.
    end: u64,
    base64: Box<str>,
}

/// The newest heads by the serial of their first piece.
#[derive(Debug, Default)]
pub struct HeadWindow {
    kept: BTreeMap<u64, Kept>,
    /// The serial after the newest piece.
    end: u64,
}

impl HeadWindow {
    /// Puts a head at its place, drops what is too far behind, and returns whether the head was news. The first of two
    /// heads for one place stays.
    pub fn insert(&mut self, checked: &CheckedHead) -> bool {
        let head = checked.get();
        if self.is_taken(head) {
            return false;
        }
        // `Head::decode` refuses heads where the sum would not fit.
        let end = head.first.get() + head.pieces.len() as u64;
        let base64 = head_to_base64(checked.signed()).into_boxed_str();
        self.kept.insert(head.first.get(), Kept { end, base64 });
        self.end = self.end.max(end);
        let oldest = self.oldest();
        while self.kept.first_entry().is_some_and(|entry| *entry.key() < oldest) {
            self.kept.pop_first();
        }
        true
    }

    /// Whether a head need not be looked at: its place is taken or too far behind.
    pub fn knows(&self, signed: &SignedHead) -> bool {
        Head::decode(&signed.body).is_ok_and(|head| self.is_taken(&head))
    }

    /// The heads of the newest `pieces` pieces, in ascending order.
    pub fn newest(&self, pieces: u32) -> impl Iterator<Item = &str> {
        let from = self.end.saturating_sub(u64::from(pieces.min(MAX_JOIN_HEAD_PIECES)));
        self.kept.values().filter(move |kept| kept.end > from).map(|kept| &*kept.base64)
    }

    /// Number of heads.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes that the heads take.
    pub fn heap_bytes(&self) -> usize {
        self.kept.values().map(|kept| kept.base64.len() + size_of::<(u64, Kept)>()).sum()
    }

    fn is_taken(&self, head: &Head) -> bool {
        head.first.get() < self.oldest() || self.kept.contains_key(&head.first.get())
    }

    fn oldest(&self) -> u64 {
        self.end.saturating_sub(u64::from(MAX_JOIN_HEAD_PIECES))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use minuet_proto::mesh::{HeadPiece, Serial};
    use minuet_proto::{ChannelKey, PieceHash, PieceIndex, SegmentSeq};

    use super::*;

    pub(crate) fn head(key: &ChannelKey, first: u64, pieces: usize) -> SignedHead {
        let piece =
            HeadPiece { hash: PieceHash::new([1; 20]), len: 1, ingest_ms: first, random_access: false };
        let head = Head {
            first: Serial::new(first),
            segment: SegmentSeq(0),
            first_index: PieceIndex(0),
            pieces: vec![piece; pieces],
        };
        CheckedHead::sign(key, head).into_signed()
    }

    fn checked(key: &ChannelKey, head: SignedHead) -> CheckedHead {
        CheckedHead::check(head, &key.channel()).unwrap()
    }

    #[test]
    fn the_newest_are_kept_in_order_and_replays_change_nothing() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let mut window = HeadWindow::default();
        let all: Vec<SignedHead> = (0..400).map(|n| head(&key, 2 * n, 2)).collect();
        // As they come over several ways: not quite in order.
        for pair in all.chunks(2) {
            assert!(window.insert(&checked(&key, pair[1].clone())));
            assert!(window.insert(&checked(&key, pair[0].clone())));
        }
        assert_eq!(window.len(), 256);
        for old in &all {
            assert!(window.knows(old));
            assert!(!window.insert(&checked(&key, old.clone())));
        }
        let newest: Vec<&str> = window.newest(5).collect();
        let expected: Vec<String> = all[397..].iter().map(head_to_base64).collect();
        assert_eq!(newest, expected);
        assert_eq!(window.newest(u32::MAX).count(), 256);
        assert_eq!(window.newest(0).count(), 0);
    }

    #[test]
    fn a_source_that_lost_count_and_went_on_far_ahead_begins_a_new_window() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let mut window = HeadWindow::default();
        for first in [0, 1, u64::MAX - 2] {
            window.insert(&checked(&key, head(&key, first, 1)));
        }
        assert_eq!(window.len(), 1);
    }
}
