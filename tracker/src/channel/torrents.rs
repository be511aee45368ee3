//! The newest torrents in memory: every viewer of a channel asks for them within a second. Bounded in bytes, of all
//! channels; what was published first goes first, and is read from disk from then on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use minuet_proto::{ChannelId, SegmentSeq};

type Key = (ChannelId, SegmentSeq);

/// Torrents that are kept in memory.
#[derive(Debug)]
pub struct Torrents {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    torrents: HashMap<Key, Bytes>,
    /// The oldest first; may name some that have gone.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Torrents {
    /// Keeps so many bytes at most.
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// Keeps a torrent, in place of the oldest if need be; one that is larger than a quarter of the room is not kept.
    pub fn keep(&self, channel: ChannelId, seq: SegmentSeq, torrent: Bytes) {
        if torrent.len() > self.most / 4 {
            return;
        }
        let (key, size) = ((channel, seq), torrent.len());
        let mut kept = self.lock();
        if let Some(before) = kept.torrents.insert(key, torrent) {
            kept.bytes -= before.len();
        } else {
            kept.order.push_back(key);
        }
        kept.bytes += size;
        // Those that have gone are counted too, so that their names do not pile up.
        while kept.bytes > self.most || kept.order.len() > 2 * kept.torrents.len() + 16 {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(gone) = kept.torrents.remove(&oldest) {
                kept.bytes -= gone.len();
            }
        }
    }

    /// Forgets a torrent, if it is there.
    pub fn forget(&self, channel: ChannelId, seq: SegmentSeq) {
        let mut kept = self.lock();
        if let Some(gone) = kept.torrents.remove(&(channel, seq)) {
            kept.bytes -= gone.len();
        }
    }

    /// A torrent, if it is in memory. To be held briefly.
    pub fn get(&self, channel: &ChannelId, seq: SegmentSeq) -> Option<Bytes> {
        self.lock().torrents.get(&(*channel, seq)).cloned()
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_in_bytes_whoever_publishes() {
        let torrents = Torrents::new(1_000);
        for channel in 0..12 {
            for seq in 0..40 {
                torrents.keep(ChannelId::new([channel; 32]), SegmentSeq(seq), vec![0; 200].into());
                assert!(torrents.bytes() <= 1_000);
                if seq % 3 == 0 {
                    torrents.forget(ChannelId::new([channel; 32]), SegmentSeq(seq));
                }
            }
        }
        assert!(torrents.lock().order.len() < 40);
        let last = ChannelId::new([11; 32]);
        assert!(
            torrents.get(&last, SegmentSeq(38)).is_some() && torrents.get(&last, SegmentSeq(3)).is_none()
        );
        torrents.keep(last, SegmentSeq(50), vec![0; 251].into());
        assert!(torrents.get(&last, SegmentSeq(50)).is_none());
    }
}
