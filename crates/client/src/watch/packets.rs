//! Whole packets for the player. Pieces end anywhere in a packet (ISO 13818-1), so where playback begins, and where it
//! leaps, what is left of a packet would be taken for damage. Pure.

/// Length of a transport stream packet in bytes.
const PACKET: usize = 188;
/// First byte of each packet.
const SYNC: u8 = 0x47;

/// Cuts media at packet boundaries.
#[derive(Debug, Default)]
pub struct Packets {
    /// Whether the stream's packets have been found.
    aligned: bool,
    /// The beginning of a packet whose rest is still to come.
    rest: Vec<u8>,
}

impl Packets {
    /// The whole packets that are complete with these bytes, which follow those given before.
    pub fn next(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut media = std::mem::take(&mut self.rest);
        if self.aligned {
            media.extend_from_slice(bytes);
        } else {
            media.extend_from_slice(&bytes[first_packet(bytes)..]);
            self.aligned = true;
        }
        let whole = media.len() - media.len() % PACKET;
        self.rest = media.split_off(whole);
        media
    }

    /// What comes next does not follow what came before.
    pub fn leap(&mut self) {
        *self = Self::default();
    }
}

/// Where the first packet begins: where all sync bytes are in their places. What is no transport stream is passed on
/// from its first byte.
fn first_packet(bytes: &[u8]) -> usize {
    let fits = |from: &usize| bytes[*from..].iter().step_by(PACKET).all(|byte| *byte == SYNC);
    (0..PACKET.min(bytes.len())).find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(packets: usize) -> Vec<u8> {
        let packet = |n: usize| [&[SYNC, n as u8][..], &[0xff; PACKET - 2]].concat();
        (0..packets).flat_map(packet).collect()
    }

    proptest! {
        #[test]
        fn begins_and_leaps_at_packets_and_loses_nothing_else(
            begin in 0usize..2000, length in 1000usize..4000, from in 6000usize..8000, cut in 1usize..900
        ) {
            let stream = stream(100);
            let mut packets = Packets::default();
            let mut given = Vec::new();
            for piece in stream[begin..begin + length].chunks(cut.max(400)) {
                given.extend(packets.next(piece));
            }
            let first = begin.next_multiple_of(PACKET);
            let end = (begin + length) / PACKET * PACKET;
            prop_assert_eq!(&given, &stream[first..end]);
            packets.leap();
            let after = packets.next(&stream[from..from + 2000]);
            let first = from.next_multiple_of(PACKET);
            prop_assert_eq!(&after[..], &stream[first..(from + 2000) / PACKET * PACKET]);
        }
    }

    #[test]
    fn what_has_no_packets_is_passed_on() {
        assert_eq!(Packets::default().next(&[1; PACKET]), [1; PACKET]);
        assert!(Packets::default().next(&[]).is_empty());
    }
}
