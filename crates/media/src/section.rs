//! PSI sections: put together from packets, checked by their CRC, and packed into packets again.
//! ISO/IEC 13818-1, 2.4.4.

use crate::packet::{PACKET_LEN, Packet, SYNC_BYTE};

/// The longest PAT or PMT section, header and CRC included (`section_length` is at most 1021).
pub const MAX_SECTION: usize = 1024;

/// `table_id` of stuffing: nothing follows in this packet.
const STUFFING: u8 = 0xff;

/// CRC-32/MPEG-2 (polynomial 0x04c11db7, not reflected): 0 over a section with its CRC.
pub fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, &byte| crc << 8 ^ CRC_TABLE[usize::from((crc >> 24) as u8 ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// Collects the sections of one PID. Holds at most one section that is not complete.
#[derive(Debug, Default)]
pub struct SectionAssembler {
    partial: Vec<u8>,
    /// A section has begun and is not complete.
    open: bool,
    next_counter: Option<u8>,
}

impl SectionAssembler {
    /// Takes one packet of the PID and hands every section that it completes to `found`: whole, CRC
    /// correct. Damaged and oversized ones are passed over.
    pub fn push(&mut self, packet: Packet<'_>, mut found: impl FnMut(&[u8])) {
        let mut payload = packet.payload();
        if payload.is_empty() || packet.scrambled() || packet.transport_error() {
            return;
        }
        // A repeated packet brings nothing new; a missing one breaks the section that it was part of.
        match self.next_counter.replace((packet.counter() + 1) & 0x0f) {
            Some(next) if next == (packet.counter() + 1) & 0x0f && !packet.unit_start() => return,
            Some(next) if next != packet.counter() => self.open = false,
            _ => {}
        }
        if packet.unit_start() {
            let pointer = usize::from(payload[0]);
            let Some((tail, start)) = payload[1..].split_at_checked(pointer) else {
                self.open = false;
                return;
            };
            if self.open {
                self.partial.extend_from_slice(tail);
                self.complete(&mut found);
            }
            self.open = true;
            self.partial.clear();
            payload = start;
        }
        if self.open {
            self.partial.extend_from_slice(payload);
            self.complete(&mut found);
        }
    }

    /// Hands out the complete sections at the beginning of `partial`.
    fn complete(&mut self, found: &mut impl FnMut(&[u8])) {
        let mut rest = self.partial.as_slice();
        loop {
            match section_len(rest) {
                SectionLen::Bytes(len) if rest.len() >= len => {
                    let (section, after) = rest.split_at(len);
                    if crc32(section) == 0 {
                        found(section);
                    }
                    rest = after;
                }
                SectionLen::Bytes(_) | SectionLen::Unknown => break,
                SectionLen::None => {
                    self.open = false;
                    return;
                }
            }
        }
        let done = self.partial.len() - rest.len();
        self.partial.drain(..done);
    }
}

enum SectionLen {
    Bytes(usize),
    /// The length is not there yet.
    Unknown,
    /// Stuffing, or a length that no table has.
    None,
}

fn section_len(bytes: &[u8]) -> SectionLen {
    match *bytes {
        [STUFFING, ..] => SectionLen::None,
        [_, high, low, ..] => match 3 + usize::from(u16::from_be_bytes([high, low]) & 0xfff) {
            len if len > MAX_SECTION => SectionLen::None,
            len => SectionLen::Bytes(len),
        },
        _ => SectionLen::Unknown,
    }
}

/// Packs `section` into packets of `pid`, the last of which has the continuity counter `last_counter`,
/// and appends them to `out`.
///
/// A section that the source sent in one packet of its own comes out as that very packet, so with the
/// counter of the packet before it is a legal duplicate (ISO/IEC 13818-1, 2.4.3.3).
pub fn write_packets(section: &[u8], pid: u16, last_counter: u8, out: &mut Vec<u8>) {
    // The first packet also carries the pointer field.
    let count = (section.len() + 1).div_ceil(PACKET_LEN - 4);
    let mut body = section;
    for index in 0..count {
        let end = out.len() + PACKET_LEN;
        let [high, low] = (pid & 0x1fff).to_be_bytes();
        let counter = last_counter.wrapping_sub((count - 1 - index) as u8) & 0x0f;
        let unit_start = if index == 0 { 0x40 } else { 0 };
        out.extend([SYNC_BYTE, high | unit_start, low, 0x10 | counter]);
        if index == 0 {
            out.push(0);
        }
        let (now, later) = body.split_at(body.len().min(end - out.len()));
        out.extend_from_slice(now);
        out.resize(end, 0xff);
        body = later;
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Completes `section`, which lacks only its CRC.
    pub fn with_crc(mut section: Vec<u8>) -> Vec<u8> {
        section.extend(crc32(&section).to_be_bytes());
        section
    }

    fn section(len: usize, fill: u8) -> Vec<u8> {
        let length = (len - 3) as u16 | 0xb000;
        let mut section = vec![2];
        section.extend(length.to_be_bytes());
        section.resize(len - 4, fill);
        with_crc(section)
    }

    fn assemble(packets: &[u8]) -> Vec<Vec<u8>> {
        let mut assembler = SectionAssembler::default();
        let mut found = Vec::new();
        for packet in packets.as_chunks().0 {
            assembler.push(Packet::new(packet), |section| found.push(section.to_vec()));
        }
        found
    }

    #[test]
    fn crc_of_the_standard_check_string() {
        assert_eq!(crc32(b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn sections_of_any_length_survive_packing() {
        for len in [16, 183, 184, 185, 366, 367, 368, 1024] {
            let mut packets = Vec::new();
            write_packets(&section(len, 7), 0x1000, 3, &mut packets);
            assert_eq!(packets.len() % PACKET_LEN, 0);
            assert_eq!(packets[packets.len() - PACKET_LEN + 3] & 0x0f, 3);
            assert_eq!(assemble(&packets), [section(len, 7)]);
        }
    }

    #[test]
    fn two_sections_share_packets() {
        // The first section ends in the packet in which the second begins.
        let (first, second) = (section(200, 1), section(100, 2));
        let mut packets = vec![0x47, 0x50, 0x00, 0x10, 0];
        packets.extend(&first[..183]);
        packets.extend([0x47, 0x50, 0x00, 0x11, 17]);
        packets.extend(&first[183..]);
        packets.extend(&second);
        packets.resize(2 * PACKET_LEN, 0xff);
        assert_eq!(assemble(&packets), [first, second]);
    }

    #[test]
    fn a_lost_packet_or_a_wrong_crc_costs_the_section() {
        let mut packets = Vec::new();
        write_packets(&section(500, 1), 0x1000, 3, &mut packets);
        let mut lost = packets.clone();
        lost.drain(PACKET_LEN..2 * PACKET_LEN);
        assert!(assemble(&lost).is_empty());
        packets[300] ^= 1;
        assert!(assemble(&packets).is_empty());
    }

    #[test]
    fn a_repeated_packet_is_taken_once() {
        let mut packets = Vec::new();
        write_packets(&section(500, 1), 0x1000, 3, &mut packets);
        let second = packets[PACKET_LEN..2 * PACKET_LEN].to_vec();
        packets.splice(PACKET_LEN..PACKET_LEN, second);
        assert_eq!(assemble(&packets), [section(500, 1)]);
    }
}
