//! Piece hashes (BEP 3), made as the bytes pass, so that a segment's torrent exists the moment it is cut.
//!
//! The piece length is fixed for a segment. It follows the rate of the segment before; for the first one, the first
//! second of the feed's own clock is held in memory, measured, and then hashed.

use std::time::Duration;

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

/// Bytes that wait for their piece length.
#[derive(Debug, Default)]
pub struct Measuring {
    held: Vec<u8>,
    /// Of the first PID that has a clock: PID, first clock value, bytes before it.
    first: Option<(u16, Pcr, usize)>,
    examined: usize,
}

impl SegmentHasher {
    /// A hasher for a segment of a feed of so many bytes a second, if that is known.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        match bytes_per_s {
            Some(rate) => Self::Hashing(PieceHasher::new(PieceLength::for_rate(rate))),
            None => Self::Measuring(Box::default()),
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

    /// The piece length and all hashes of a segment that took `duration` of media time.
    pub fn finish(self, duration: Duration) -> (PieceLength, Vec<PieceHash>) {
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
        let mut hasher = PieceHasher::new(PieceLength::for_rate(rate));
        hasher.update(&std::mem::take(&mut self.held));
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
}

impl PieceHasher {
    /// A hasher before its first byte.
    pub fn new(length: PieceLength) -> Self {
        Self { length, sha1: Sha1::new(), filled: 0, hashes: Vec::new() }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let length = self.length.get() as usize;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(length - self.filled));
            self.sha1.update(now);
            self.filled += now.len();
            if self.filled == length {
                self.close();
            }
            bytes = rest;
        }
    }

    /// The piece length and all hashes; the last piece may be short.
    pub fn finish(mut self) -> (PieceLength, Vec<PieceHash>) {
        if self.filled > 0 {
            self.close();
        }
        (self.length, self.hashes)
    }

    fn close(&mut self) {
        self.hashes.push(PieceHash::new(self.sha1.finalize_reset().into()));
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
            let mut hasher = SegmentHasher::new(None);
            media.chunks(PACKET_LEN * 50).for_each(|chunk| hasher.update(chunk));
            assert!(matches!(hasher, SegmentHasher::Hashing(_)), "decided within 3 s");
            let (length, hashes) = hasher.finish(Duration::from_secs(3));
            assert_eq!(length.get(), expected, "at {rate} bytes/s");
            let plain: Vec<_> = media.chunks(expected as usize).map(PieceHash::of).collect();
            assert_eq!(hashes, plain);
        }
    }

    #[test]
    fn a_feed_without_a_clock_is_measured_at_the_end_or_when_too_much_is_held() {
        let mut hasher = SegmentHasher::new(None);
        let packets: Vec<u8> = (0..10_000).flat_map(|_| packet(None)).collect();
        hasher.update(&packets);
        assert_eq!(hasher.finish(Duration::from_secs(2)).0.get(), 32 << 10);

        let mut hasher = SegmentHasher::new(None);
        (0..3).for_each(|_| hasher.update(&packets));
        assert!(matches!(hasher, SegmentHasher::Hashing(_)));
    }

    #[test]
    fn the_rate_before_decides_the_next_segment() {
        let (length, hashes) = SegmentHasher::new(Some(1_000_000)).finish(Duration::ZERO);
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
            let mut hasher = PieceHasher::new(PieceLength::MIN);
            cuts.windows(2).for_each(|cut| hasher.update(&media[cut[0]..cut[1]]));
            let plain: Vec<_> = media.chunks(PieceLength::MIN.get() as usize).map(PieceHash::of).collect();
            prop_assert_eq!(hasher.finish().1, plain);
        }
    }
}
