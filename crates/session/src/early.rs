//! Blocks that came before their head. Pure.
//!
//! A head travels on a link's control stream and goes ahead of its piece, but the two streams of a link overtake each
//! other, all the more when a packet is lost. A block of a piece that is not known yet would be thrown away, and its
//! piece with it, so it is held for a moment, and so is what follows it on its link.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use minuet_mesh::Timestamp;
use minuet_proto::mesh::Block;

/// How long a block waits for its head: a lost packet is repeated well within this time.
const PATIENCE: Duration = Duration::from_millis(400);
/// Most blocks of one link that wait; a peer that sends more without heads sends them for nothing.
const MAX_WAITING: usize = 64;

/// The blocks of one link that wait, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct EarlyBlocks {
    waiting: VecDeque<(Block, Bytes, Timestamp)>,
}

impl EarlyBlocks {
    /// Takes a block in, behind those that wait.
    pub fn take(&mut self, block: Block, payload: Bytes, now: Timestamp) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((block, payload, now));
        }
    }

    /// When the first of them has waited long enough.
    pub fn expires(&self) -> Option<Timestamp> {
        self.waiting.front().map(|(_, _, since)| *since + PATIENCE)
    }

    /// The next block that need not wait any longer, given whether a piece is known.
    pub fn release(&mut self, known: impl Fn(&Block) -> bool, now: Timestamp) -> Option<(Block, Bytes)> {
        let (block, _, since) = self.waiting.front()?;
        if !known(block) && *since + PATIENCE > now {
            return None;
        }
        self.waiting.pop_front().map(|(block, payload, _)| (block, payload))
    }

    /// Whether any block waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use minuet_proto::mesh::Serial;

    use super::*;

    fn block(serial: u64) -> Block {
        Block { serial: Serial::new(serial), offset: 0, len: 1, piece_len: 1 }
    }

    #[test]
    fn blocks_keep_their_order_and_wait_for_heads_but_not_for_ever() {
        let mut early = EarlyBlocks::default();
        let at = |ms: u64| Timestamp(ms * 1000);
        let payload = Bytes::from_static(b"x");
        early.take(block(2), payload.clone(), at(0));
        early.take(block(1), payload.clone(), at(1));
        assert!(early.release(|block| block.serial.get() == 1, at(2)).is_none());
        let order: Vec<u64> = std::iter::from_fn(|| early.release(|_| true, at(3)))
            .map(|(block, _)| block.serial.get())
            .collect();
        assert_eq!(order, [2, 1]);
        early.take(block(3), payload.clone(), at(10));
        assert_eq!(early.expires(), Some(at(410)));
        assert!(early.release(|_| false, at(300)).is_none());
        assert!(early.release(|_| false, at(410)).is_some());
        for _ in 0..1000 {
            early.take(block(4), payload.clone(), at(500));
        }
        assert_eq!(early.waiting.len(), MAX_WAITING);
    }
}
