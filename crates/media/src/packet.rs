//! One transport packet: 188 bytes, its header and its adaptation field. ISO/IEC 13818-1, 2.4.3.

use crate::time::Pcr;

/// Length of a transport packet in bytes.
pub const PACKET_LEN: usize = 188;
/// First byte of every transport packet.
pub const SYNC_BYTE: u8 = 0x47;
/// The PID of the program association table.
pub const PAT_PID: u16 = 0;
/// The PID of null packets, which only fill a constant rate.
pub const NULL_PID: u16 = 0x1fff;
/// How many PIDs there are.
pub const PID_COUNT: usize = 0x2000;

/// A view of one transport packet.
#[derive(Clone, Copy)]
pub struct Packet<'a>(&'a [u8; PACKET_LEN]);

/// What this crate reads of an adaptation field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adaptation {
    /// `discontinuity_indicator`: the time base or the continuity counter breaks here.
    pub discontinuity: bool,
    /// `random_access_indicator`: a hint, wrong in both directions in real feeds.
    pub random_access: bool,
    /// The program clock reference, when the field carries one.
    pub pcr: Option<Pcr>,
}

impl<'a> Packet<'a> {
    /// A view of `bytes`; the caller has checked that it begins with [`SYNC_BYTE`].
    pub fn new(bytes: &'a [u8; PACKET_LEN]) -> Self {
        Self(bytes)
    }

    /// The packet identifier, 13 bits.
    pub fn pid(self) -> u16 {
        u16::from_be_bytes([self.0[1], self.0[2]]) & 0x1fff
    }

    /// `payload_unit_start_indicator`: a PES packet starts, or a section does.
    pub fn unit_start(self) -> bool {
        self.0[1] & 0x40 != 0
    }

    /// `transport_error_indicator`: the demodulator gave up on this packet.
    pub fn transport_error(self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// Whether the payload is scrambled.
    pub fn scrambled(self) -> bool {
        self.0[3] & 0xc0 != 0
    }

    /// The continuity counter, 4 bits.
    pub fn counter(self) -> u8 {
        self.0[3] & 0x0f
    }

    /// Whether there is a payload; only then does the continuity counter advance.
    pub fn has_payload(self) -> bool {
        self.0[3] & 0x10 != 0
    }

    /// The adaptation field, unless there is none, it is empty or its length is impossible.
    pub fn adaptation(self) -> Option<Adaptation> {
        if self.0[3] & 0x20 == 0 {
            return None;
        }
        let len = usize::from(self.0[4]);
        if len == 0 || len > PACKET_LEN - 5 {
            return None;
        }
        let flags = self.0[5];
        let pcr = (flags & 0x10 != 0 && len >= 7).then(|| {
            let [.., a, b, c, d, e, f] = *self.0.first_chunk::<12>().unwrap_or(&[0; 12]);
            Pcr::parse([a, b, c, d, e, f])
        });
        Some(Adaptation { discontinuity: flags & 0x80 != 0, random_access: flags & 0x40 != 0, pcr })
    }

    /// Where the payload begins in the packet; [`PACKET_LEN`] when there is none.
    pub fn payload_offset(self) -> usize {
        if !self.has_payload() {
            return PACKET_LEN;
        }
        if self.0[3] & 0x20 == 0 {
            return 4;
        }
        (5 + usize::from(self.0[4])).min(PACKET_LEN)
    }

    /// The payload; empty when there is none.
    pub fn payload(self) -> &'a [u8] {
        &self.0[self.payload_offset()..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(head: &[u8]) -> [u8; PACKET_LEN] {
        let mut bytes = [0xff; PACKET_LEN];
        bytes[..head.len()].copy_from_slice(head);
        bytes
    }

    #[test]
    fn header_fields() {
        let bytes = packet(&[0x47, 0x41, 0x00, 0x1a, 9, 9]);
        let view = Packet::new(&bytes);
        assert_eq!((view.pid(), view.counter()), (0x100, 10));
        assert!(view.unit_start() && view.has_payload() && !view.scrambled() && !view.transport_error());
        assert_eq!(view.adaptation(), None);
        assert_eq!(&view.payload()[..2], &[9, 9]);
    }

    #[test]
    fn adaptation_field() {
        let pcr = Pcr { base: crate::Timestamp::new(77), extension: 5 };
        let mut head = vec![0x47, 0x01, 0x00, 0x30, 7, 0xd0];
        head.extend(pcr.to_bytes());
        let bytes = packet(&head);
        let view = Packet::new(&bytes);
        let field = view.adaptation().unwrap();
        assert_eq!(field, Adaptation { discontinuity: true, random_access: true, pcr: Some(pcr) });
        assert_eq!(view.payload().len(), PACKET_LEN - 12);
    }

    #[test]
    fn impossible_adaptation_length_has_no_payload() {
        let bytes = packet(&[0x47, 0x01, 0x00, 0x30, 255, 0xff]);
        let view = Packet::new(&bytes);
        assert_eq!(view.adaptation(), None);
        assert!(view.payload().is_empty());
    }
}
