//! Piece hashes (BEP 3), made as the bytes pass, so that a segment's torrent exists the moment it is cut.
//!
//! The piece length is fixed for a segment. It follows the rate of the segment before; for the first one, the first
//! second of the feed's own clock is held in memory, measured, and then hashed.
//!
//! For the live mesh a hasher also gives out each piece as it closes, with its bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minuet_media::{
    Pcr, TICKS_PER_SECOND,
    packet::{PACKET_LEN, Packet},
};
use minuet_proto::{PieceHash, PieceLength};
use sha1::{Digest as _, Sha1};

/// How much of the feed is measured, by its own clock.
const PROBE_TICKS: i64 = TICKS_PER_SECOND as i64;
/// The most bytes held while measuring. A feed that shows no second of time in them has a high rate or no clock.
const PROBE_BYTES: usize = 4 << 20;

/// Hashes one segment.
#[derive(Debug)]
pub enum SegmentHasher {
    /// The rate is not known yet.
    Measuring(Box<Measuring>),
    /// Pieces are being hashed.
    Hashing(PieceHasher),
}

/// A piece that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Its place in the segment.
    pub index: u32,
    /// Its hash.
    pub hash: PieceHash,
    /// Whether a random access point starts in it.
    pub random_access: bool,
    /// Its bytes.
    pub data: Bytes,
}

/// Bytes that wait for their piece length.
#[derive(Debug, Default)]
pub struct Measuring {
    held: Vec<u8>,
    /// Where random access points start in them.
    marks: Vec<usize>,
    /// Whether pieces are given out.
    live: bool,
    /// Of the first PID that has a clock: PID, first clock value, bytes before it.
    first: Option<(u16, Pcr, usize)>,
    examined: usize,
}

impl SegmentHasher {
    /// A hasher for a segment of a feed of so many bytes a second, if that is known. With `live`, pieces are given out
    /// as they close.
    pub fn new(bytes_per_s: Option<u64>, live: bool) -> Self {
        match bytes_per_s {
            Some(rate) => Self::Hashing(PieceHasher::new(PieceLength::for_rate(rate), live)),
            None => Self::Measuring(Box::new(Measuring { live, ..Measuring::default() })),
        }
    }

    /// The next byte begins a random access point.
    pub fn mark_random_access(&mut self) {
        match self {
            Self::Hashing(hasher) => hasher.mark_random_access(),
            Self::Measuring(measuring) => measuring.marks.push(measuring.held.len()),
        }
    }

    /// Pieces that have closed since the last call.
    pub fn take_closed(&mut self) -> Vec<Closed> {
        match self {
            Self::Hashing(hasher) => hasher.take_closed(),
            Self::Measuring(_) => Vec::new(),
        }
    }

    /// Takes the next bytes: whole packets.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Hashing(hasher) => hasher.update(bytes),
            Self::Measuring(measuring) => {
                measuring.held.extend_from_slice(bytes);
                if let Some(rate) = measuring.rate() {
                    *self = Self::Hashing(measuring.release(rate));
                }
            }
        }
    }

    /// The piece length and all hashes of a segment that took `duration` of media time, and the pieces that were not
    /// taken yet.
    pub fn finish(self, duration: Duration) -> (PieceLength, Vec<PieceHash>, Vec<Closed>) {
        match self {
            Self::Hashing(hasher) => hasher.finish(),
            Self::Measuring(mut measuring) => {
                let rate = per_second(measuring.held.len() as u64, duration).unwrap_or(0);
                measuring.release(rate).finish()
            }
        }
    }
}

/// Bytes a second, unless the duration is zero.
pub fn per_second(bytes: u64, duration: Duration) -> Option<u64> {
    let nanos = duration.as_nanos();
    let rate = (u128::from(bytes) * 1_000_000_000).checked_div(nanos)?;
    u64::try_from(rate).ok()
}

impl Measuring {
    /// The rate in bytes a second, once enough of the feed is here to tell.
    fn rate(&mut self) -> Option<u64> {
        while let Some(packet) = self.held[self.examined..].first_chunk::<PACKET_LEN>() {
            let packet = Packet::new(packet);
            let at = self.examined;
            self.examined += PACKET_LEN;
            let Some(pcr) = packet.adaptation().and_then(|field| field.pcr) else { continue };
            let Some((pid, first, first_at)) = self.first else {
                self.first = Some((packet.pid(), pcr, at));
                continue;
            };
            let ticks = pcr.base.since(first.base);
            if packet.pid() == pid && ticks < 0 {
                // The clock jumped: measure anew.
                self.first = Some((pid, pcr, at));
            } else if packet.pid() == pid && ticks >= PROBE_TICKS {
                let duration = Duration::from_nanos(ticks.unsigned_abs() * 100_000 / 9);
                return per_second((at - first_at) as u64, duration);
            }
        }
        // A second of a feed that fills the buffer sooner has at least as many bytes.
        (self.held.len() >= PROBE_BYTES).then_some(PROBE_BYTES as u64)
    }

    fn release(&mut self, rate: u64) -> PieceHasher {
        let mut hasher = PieceHasher::new(PieceLength::for_rate(rate), self.live);
        let held = std::mem::take(&mut self.held);
        let mut from = 0;
        for mark in self.marks.drain(..) {
            hasher.update(&held[from..mark]);
            hasher.mark_random_access();
            from = mark;
        }
        hasher.update(&held[from..]);
        hasher
    }
}

/// Hashes pieces of one length.
#[derive(Debug)]
pub struct PieceHasher {
    length: PieceLength,
    sha1: Sha1,
    /// Bytes of the piece under way.
    filled: usize,
    hashes: Vec<PieceHash>,
    live: Option<Live>,
}

/// What is kept to give pieces out.
#[derive(Debug, Default)]
struct Live {
    /// The piece under way.
    data: BytesMut,
    random_access: bool,
    closed: Vec<Closed>,
}

impl PieceHasher {
    /// A hasher before its first byte.
    pub fn new(length: PieceLength, live: bool) -> Self {
        let live = live.then(Live::default);
        Self { length, sha1: Sha1::new(), filled: 0, hashes: Vec::new(), live }
    }

    /// The next byte begins a random access point.
    pub fn mark_random_access(&mut self) {
        if let Some(live) = &mut self.live {
            live.random_access = true;
        }
    }

    /// Pieces that have closed since the last call.
    pub fn take_closed(&mut self) -> Vec<Closed> {
        self.live.as_mut().map(|live| std::mem::take(&mut live.closed)).unwrap_or_default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let length = self.length.get() as usize;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(length - self.filled));
            self.sha1.update(now);
            if let Some(live) = &mut self.live {
                if live.data.is_empty() {
                    live.data.reserve(length);
                }
                live.data.extend_from_slice(now);
            }
            self.filled += now.len();
            if self.filled == length {
                self.close();
            }
            bytes = rest;
        }
    }

    /// The piece length and all hashes, and the pieces that were not taken yet; the last piece may be short.
    pub fn finish(mut self) -> (PieceLength, Vec<PieceHash>, Vec<Closed>) {
        if self.filled > 0 {
            self.close();
        }
        let closed = self.take_closed();
        (self.length, self.hashes, closed)
    }

    fn close(&mut self) {
        let hash = PieceHash::new(self.sha1.finalize_reset().into());
        if let Some(live) = &mut self.live {
            let data = std::mem::take(&mut live.data).freeze();
            let random_access = std::mem::take(&mut live.random_access);
            // A segment is limited to far fewer pieces.
            let index = u32::try_from(self.hashes.len()).unwrap_or(u32::MAX);
            live.closed.push(Closed { index, hash, random_access, data });
        }
        self.hashes.push(hash);
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet of PID 256, with a clock value if given.
    fn packet(pcr: Option<u64>) -> [u8; PACKET_LEN] {
        let mut packet = [0xff; PACKET_LEN];
        packet[..4].copy_from_slice(&[0x47, 0x01, 0x00, 0x30]);
        packet[4..6].copy_from_slice(&[7, 0]);
        if let Some(ticks) = pcr {
            packet[5] = 0x10;
            let pcr = Pcr { base: minuet_media::Timestamp::new(ticks), extension: 0 };
            packet[6..12].copy_from_slice(&pcr.to_bytes());
        }
        packet
    }

    /// A feed of `rate` bytes a second with a clock value each 40 ms.
    fn feed(rate: usize, seconds: usize) -> Vec<u8> {
        let every = rate / 25 / PACKET_LEN;
        (0..rate * seconds / PACKET_LEN)
            .flat_map(|n| packet(n.is_multiple_of(every).then(|| (n * PACKET_LEN * 90_000 / rate) as u64)))
            .collect()
    }

    #[test]
    fn the_first_segment_is_measured_by_its_own_clock() {
        for (rate, expected) in [(250_000, 16 << 10), (1_000_000, 64 << 10), (2_500_000, 128 << 10)] {
            let media = feed(rate, 3);
            let mut hasher = SegmentHasher::new(None, false);
            media.chunks(PACKET_LEN * 50).for_each(|chunk| hasher.update(chunk));
            assert!(matches!(hasher, SegmentHasher::Hashing(_)), "decided within 3 s");
            let (length, hashes, _) = hasher.finish(Duration::from_secs(3));
            assert_eq!(length.get(), expected, "at {rate} bytes/s");
            let plain: Vec<_> = media.chunks(expected as usize).map(PieceHash::of).collect();
            assert_eq!(hashes, plain);
        }
    }

    #[test]
    fn a_feed_without_a_clock_is_measured_at_the_end_or_when_too_much_is_held() {
        let mut hasher = SegmentHasher::new(None, false);
        let packets: Vec<u8> = (0..10_000).flat_map(|_| packet(None)).collect();
        hasher.update(&packets);
        assert_eq!(hasher.finish(Duration::from_secs(2)).0.get(), 32 << 10);

        let mut hasher = SegmentHasher::new(None, false);
        (0..3).for_each(|_| hasher.update(&packets));
        assert!(matches!(hasher, SegmentHasher::Hashing(_)));
    }

    #[test]
    fn the_rate_before_decides_the_next_segment() {
        let (length, hashes, _) = SegmentHasher::new(Some(1_000_000), false).finish(Duration::ZERO);
        assert_eq!((length.get(), hashes.len()), (64 << 10, 0));
    }

    proptest! {
        #[test]
        fn hashes_do_not_depend_on_how_bytes_come(
            media in prop::collection::vec(any::<u8>(), 0..100_000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(media.len() + 1)).collect();
            cuts.extend([0, media.len()]);
            cuts.sort_unstable();
            let mut hasher = PieceHasher::new(PieceLength::MIN, true);
            let mut closed = Vec::new();
            for cut in cuts.windows(2) {
                hasher.update(&media[cut[0]..cut[1]]);
                closed.extend(hasher.take_closed());
            }
            let plain: Vec<_> = media.chunks(PieceLength::MIN.get() as usize).map(PieceHash::of).collect();
            let (_, hashes, rest) = hasher.finish();
            closed.extend(rest);
            prop_assert_eq!(&hashes, &plain);
            prop_assert_eq!(closed.iter().map(|piece| piece.hash).collect::<Vec<_>>(), plain);
            prop_assert_eq!(closed.iter().flat_map(|piece| piece.data.to_vec()).collect::<Vec<_>>(), media);
        }

        #[test]
        fn random_access_is_marked_in_the_piece_where_it_starts(
            marks in prop::collection::btree_set(0usize..100_000, 0..6), measured in any::<bool>(),
        ) {
            let mut hasher = SegmentHasher::new(measured.then_some(1), true);
            let mut from = 0;
            for mark in marks.iter().copied() {
                hasher.update(&vec![0; mark - from]);
                hasher.mark_random_access();
                from = mark;
            }
            hasher.update(&vec![0; 100_000 - from]);
            let (length, _, closed) = hasher.finish(Duration::from_secs(60));
            let expected: std::collections::BTreeSet<_> = marks.iter().map(|at| *at as u32 / length.get()).collect();
            let marked = closed.iter().filter(|piece| piece.random_access).map(|piece| piece.index).collect();
            prop_assert_eq!(expected, marked);
        }
    }
}
