//! RTP (RFC 3550, 5.1) around MPEG-TS (RFC 2250): its header, and the order of its packets.
//!
//! A network may deliver a packet late, or twice (so do two paths that carry the same stream, SMPTE ST 2022-7). The
//! sequence number tells; packets after a missing one wait for it, in a small window.

use std::{collections::VecDeque, ops::Range};

use minuet_media::packet::{PACKET_LEN, SYNC_BYTE};

/// So many sequence numbers after a missing packet it is not waited for any longer: 0.4 s at 2 Mbit/s.
const WINDOW: usize = 64;
/// A packet so far behind is a late one, or a repeated one. Further away, or so far ahead, the sender began anew.
const LEAP: i16 = 1024;
const BEHIND: i16 = -LEAP;
/// MPEG-TS (RFC 3551, table 5).
const MP2T: u8 = 33;

/// What an RTP packet says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its sequence number.
    pub seq: u16,
    /// Whose numbers these are (SSRC).
    pub source: u32,
    /// Where the payload is.
    pub payload: Range<usize>,
}

/// Reads the header of a datagram that is RTP with MPEG-TS in it: payload type 33, or another that senders made up for
/// it, with nothing but whole packets.
pub fn header(datagram: &[u8]) -> Option<Header> {
    let (head, _) = datagram.split_first_chunk::<12>()?;
    if head[0] >> 6 != 2 {
        return None;
    }
    let mut at = 12 + 4 * usize::from(head[0] & 0x0f);
    if head[0] & 0x10 != 0 {
        let words = datagram.get(at + 2..at + 4)?;
        at += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    let padding = if head[0] & 0x20 != 0 { usize::from(*datagram.last()?) } else { 0 };
    let end = datagram.len().checked_sub(padding)?;
    let payload = datagram.get(at..end)?;
    let is_ts = payload.first() == Some(&SYNC_BYTE)
        && (head[1] & 0x7f == MP2T || payload.len().is_multiple_of(PACKET_LEN));
    is_ts.then(|| Header {
        seq: u16::from_be_bytes([head[2], head[3]]),
        source: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
        payload: at..end,
    })
}

/// The payload type of a datagram that is RTP with something else in it than MPEG-TS, of the types that senders agree on
/// beforehand (RFC 3551, 6: 96 to 127), as H.264 is.
pub fn other_payload(datagram: &[u8]) -> Option<u8> {
    let (head, payload) = datagram.split_first_chunk::<12>()?;
    // A lost sync byte looks like nothing of this.
    let is_rtp = head[0] >> 6 == 2 && head[0] & 0x0f == 0 && !payload.is_empty();
    let kind = head[1] & 0x7f;
    (is_rtp && kind >= 96 && header(datagram).is_none()).then_some(kind)
}

/// Puts packets in order.
#[derive(Debug, Default)]
pub struct Order {
    /// The source and the number that comes next.
    next: Option<(u32, u16)>,
    /// What came of the numbers after that; the first of them is missing, so only the ones after it are here.
    held: VecDeque<Option<Vec<u8>>>,
    /// Packets that were given up.
    lost: u64,
}

impl Order {
    /// Takes a packet. True: it is to be used at once. What waited for it, or is not to wait any longer, is added to
    /// `ready` and comes after it.
    pub fn take(&mut self, header: &Header, payload: &[u8], ready: &mut Vec<u8>) -> bool {
        let ahead = match self.next {
            Some((source, next)) if source == header.source => header.seq.wrapping_sub(next) as i16,
            _ => i16::MIN,
        };
        match ahead {
            0 => {
                self.advance();
                self.release(ready);
                true
            }
            // It came before, or it was given up.
            BEHIND..0 => false,
            1..LEAP => {
                // The slot before the first held one is that of the missing packet.
                let slot = ahead as usize - 1;
                if self.held.len() <= slot {
                    self.held.resize(slot + 1, None);
                }
                self.held[slot].get_or_insert_with(|| payload.to_vec());
                while self.held.len() > WINDOW {
                    self.give_up(ready);
                }
                false
            }
            // Another source, or one that began anew.
            _ => {
                while self.is_waiting() {
                    self.give_up(ready);
                }
                self.next = Some((header.source, header.seq.wrapping_add(1)));
                if ready.is_empty() {
                    return true;
                }
                ready.extend_from_slice(payload);
                false
            }
        }
    }

    /// How many packets never came.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether packets wait for a missing one.
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// The missing packet will not come: what waited for it goes on, up to the next that is missing.
    pub fn give_up(&mut self, ready: &mut Vec<u8>) {
        self.advance();
        self.lost += 1;
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            self.advance();
            self.lost += 1;
        }
        self.release(ready);
    }

    /// Hands out what follows without a gap. Then the first slot is that of a missing packet.
    fn release(&mut self, ready: &mut Vec<u8>) {
        while let Some(slot) = self.held.pop_front() {
            let Some(payload) = slot else { return };
            ready.extend_from_slice(&payload);
            self.advance();
        }
    }

    fn advance(&mut self) {
        if let Some((_, next)) = &mut self.next {
            *next = next.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out when packets with these numbers come in; each has its number as payload.
    fn through(numbers: &[(u32, u16)]) -> Vec<u16> {
        let (mut order, mut out) = (Order::default(), Vec::new());
        for &(source, seq) in numbers {
            let (payload, mut ready) = (seq.to_be_bytes(), Vec::new());
            let header = Header { seq, source, payload: 0..2 };
            if order.take(&header, &payload, &mut ready) {
                out.extend(payload);
            }
            out.extend(ready);
            assert!(order.held.len() <= WINDOW);
        }
        let mut ready = Vec::new();
        while order.is_waiting() {
            order.give_up(&mut ready);
        }
        out.extend(ready);
        out.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    fn of_one(numbers: &[u16]) -> Vec<u16> {
        through(&numbers.iter().map(|seq| (7, *seq)).collect::<Vec<_>>())
    }

    #[test]
    fn order_repeats_and_gaps() {
        assert_eq!(of_one(&[65_534, 0, 65_535, 1, 0, 2]), [65_534, 65_535, 0, 1, 2]);
        assert_eq!(of_one(&[1, 3, 4, 6, 5, 4]), [1, 3, 4, 5, 6]);
        let far: Vec<u16> = [1].into_iter().chain(3..3 + WINDOW as u16 + 9).collect();
        assert_eq!(of_one(&far), far, "the missing one is given up");
    }

    #[test]
    fn a_sender_that_begins_anew() {
        assert_eq!(through(&[(7, 100), (7, 102), (8, 5), (8, 6)]), [100, 102, 5, 6]);
        assert_eq!(of_one(&[10, 11, 30_000, 30_001]), [10, 11, 30_000, 30_001]);
        assert_eq!(of_one(&[30_000, 10, 11]), [30_000, 10, 11]);
    }

    #[test]
    fn headers() {
        let packet = [0x47; 188];
        let plain = |kind: u8| [&[0x80, kind, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9][..], &packet].concat();
        assert_eq!(header(&plain(33)), Some(Header { seq: 0x102, source: 9, payload: 12..200 }));
        assert!(header(&plain(96)).is_some(), "a type that the sender made up");
        assert_eq!(header(&packet), None, "plain MPEG-TS");
        let padded = [&[0xa0, 33, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9][..], &packet, &[0, 0, 3]].concat();
        assert_eq!(header(&padded).unwrap().payload, 12..200);
    }

    proptest! {
        /// Whatever a network does within the window, each packet comes once and in order.
        #[test]
        fn shuffled_within_the_window(first: u16, jitter in prop::collection::vec((0u32..40, any::<bool>()), 1..400)) {
            let sent: Vec<u16> = (0..jitter.len() as u16).map(|n| first.wrapping_add(n)).collect();
            let mut arrivals: Vec<(u32, u16)> = Vec::new();
            for (n, (seq, (late, twice))) in sent.iter().zip(&jitter).enumerate() {
                // The first packet sets the numbers.
                let late = if n == 0 { 0 } else { *late };
                arrivals.push((n as u32 + late, *seq));
                if *twice {
                    arrivals.push((n as u32 + late + 45, *seq));
                }
            }
            arrivals.sort_by_key(|(at, _)| *at);
            let numbers: Vec<u16> = arrivals.into_iter().map(|(_, seq)| seq).collect();
            prop_assert_eq!(of_one(&numbers), sent);
        }

        #[test]
        fn any_numbers(numbers in prop::collection::vec((0u32..3, any::<u16>()), 0..200)) {
            through(&numbers);
        }

        #[test]
        fn any_datagram(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(header) = header(&bytes) {
                prop_assert!(bytes.get(header.payload).is_some_and(|payload| !payload.is_empty()));
            }
        }
    }
}
