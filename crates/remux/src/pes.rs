//! Puts the PES packets of one PID together.

use minuet_media::{
    NoHeader, PesHeader, Timestamp,
    packet::{PACKET_LEN, Packet},
};

/// A PES packet of more bytes than this is no picture: its stream is damaged. 8K key frames have some 4 MB.
pub const MAX_PES: usize = 16 << 20;
/// The longest header: nine bytes and `PES_header_data_length`.
const MAX_HEADER: usize = 9 + 255;

/// The body of a PES packet, and what its header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pes {
    /// Presentation time.
    pub pts: Option<Timestamp>,
    /// Decoding time, when it is not the presentation time.
    pub dts: Option<Timestamp>,
    /// The elementary stream's bytes.
    pub body: Vec<u8>,
    /// Bytes of it are missing.
    pub damaged: bool,
    /// Other PES packets may be missing with them, or before this one.
    pub others_lost: bool,
    /// Where its first packet stands in the feed, in bytes.
    pub position: u64,
}

/// Collects one PID's packets. Holds one PES packet of at most [`MAX_PES`] bytes.
#[derive(Debug, Default)]
pub struct Assembler {
    /// The header and what follows it; the header is cut off when the packet is complete.
    bytes: Vec<u8>,
    open: bool,
    damaged: bool,
    others_lost: bool,
    position: u64,
    /// Length of the whole in bytes, where the header says it.
    wanted: Option<usize>,
    last_counter: Option<u8>,
    /// Packets were lost since the last PES packet that was handed out.
    lost: bool,
}

impl Assembler {
    /// Takes the next packet of the PID, which stands at `position`; hands every PES packet that is complete with it to
    /// `found`.
    pub fn push(&mut self, packet: Packet<'_>, position: u64, mut found: impl FnMut(Pes)) {
        if packet.scrambled() || !packet.has_payload() {
            return;
        }
        let mut lost_before = false;
        let breaks = packet.adaptation().is_some_and(|field| field.discontinuity);
        match self.last_counter.replace(packet.counter()) {
            Some(last) if last == packet.counter() && !breaks && !packet.unit_start() => return,
            Some(last) if last.wrapping_add(1) & 0x0f != packet.counter() && !breaks => {
                self.damaged = true;
                self.lost = true;
                // One packet in the middle belonged to this one. A beginning and an end need two.
                self.others_lost |= last.wrapping_add(2) & 0x0f != packet.counter();
                lost_before = packet.unit_start();
            }
            _ => {}
        }
        if packet.transport_error() {
            self.damaged = true;
            self.lost = true;
        }
        if packet.unit_start() {
            self.finish(&mut found);
            self.open = true;
            self.damaged = packet.transport_error();
            self.others_lost = lost_before;
            self.position = position;
        }
        if !self.open {
            return;
        }
        if self.bytes.len().saturating_add(PACKET_LEN) > MAX_PES {
            self.damaged = true;
            return self.finish(&mut found);
        }
        self.bytes.extend_from_slice(packet.payload());
        if self.wanted.is_none() && self.bytes.len() >= 9 {
            self.read_length();
        }
        if self.wanted.is_some_and(|wanted| wanted > 0 && self.bytes.len() >= wanted) {
            self.finish(&mut found);
        }
    }

    /// Nothing follows, or what follows does not belong to what came before.
    pub fn flush(&mut self, cut_off: bool, mut found: impl FnMut(Pes)) {
        self.damaged |= cut_off && self.open;
        self.lost |= cut_off;
        self.finish(&mut found);
        if cut_off {
            self.last_counter = None;
        }
    }

    /// Whether packets were lost since the last call.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    fn read_length(&mut self) {
        let length =
            self.bytes.get(4..6).map_or(0, |field| usize::from(u16::from_be_bytes([field[0], field[1]])));
        self.wanted = Some(if length == 0 { 0 } else { length.saturating_add(6) });
    }

    fn finish(&mut self, found: &mut impl FnMut(Pes)) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let mut body = std::mem::take(&mut self.bytes);
        let wanted = self.wanted.take().filter(|wanted| *wanted > 0);
        let header = match PesHeader::parse(&body) {
            Ok(header) => header,
            // The header itself may be cut off.
            Err(NoHeader::Short | NoHeader::Other) => return,
        };
        let short = wanted.is_some_and(|wanted| body.len() < wanted);
        body.truncate(wanted.unwrap_or(body.len()));
        body.drain(..header.len.min(body.len()).min(MAX_HEADER));
        let damaged = std::mem::take(&mut self.damaged) || short;
        let others_lost = std::mem::take(&mut self.others_lost);
        let Self { position, .. } = *self;
        found(Pes { pts: header.pts, dts: header.dts, body, damaged, others_lost, position });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets of one PES packet with `body`, from continuity counter `counter` on.
    pub fn packets(body: &[u8], counter: u8, with_length: bool) -> Vec<[u8; PACKET_LEN]> {
        let length = if with_length { (3 + body.len()) as u16 } else { 0 };
        let mut bytes = vec![0, 0, 1, 0xe0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0x80, 0, 0]);
        bytes.extend_from_slice(body);
        let mut packets = Vec::new();
        for (index, chunk) in bytes.chunks(PACKET_LEN - 4).enumerate() {
            let mut packet =
                vec![0x47, if index == 0 { 0x41 } else { 1 }, 0, 0x10 | (counter + index as u8) & 15];
            let field = PACKET_LEN - 4 - chunk.len();
            if field > 0 {
                packet[3] |= 0x20;
                packet.push((field - 1) as u8);
                if field > 1 {
                    packet.push(0);
                    packet.resize(4 + field, 0xff);
                }
            }
            packet.extend_from_slice(chunk);
            packets.push(packet.try_into().unwrap());
        }
        packets
    }

    fn assemble(packets: &[[u8; PACKET_LEN]]) -> Vec<Pes> {
        let (mut assembler, mut found) = (Assembler::default(), Vec::new());
        for (index, packet) in packets.iter().enumerate() {
            assembler.push(Packet::new(packet), index as u64, |pes| found.push(pes));
        }
        assembler.flush(false, |pes| found.push(pes));
        found
    }

    #[test]
    fn bodies_come_out_whole() {
        for length in [1, 100, 175, 176, 1000] {
            let body: Vec<u8> = (0..length).map(|n| n as u8).collect();
            for with_length in [false, true] {
                let first = packets(&body, 3, with_length);
                let second = packets(&[9], 3 + first.len() as u8, with_length);
                let found = assemble(&[first.clone(), second].concat());
                assert_eq!(found.len(), 2, "{length}");
                assert_eq!((&found[0].body, found[0].damaged), (&body, false));
                assert_eq!((&found[1].body[..], found[1].position), (&[9][..], first.len() as u64));
            }
        }
    }

    #[test]
    fn a_lost_packet_damages_what_it_belonged_to() {
        let body = [7; 1000];
        let mut first = packets(&body, 0, false);
        let second = packets(&body, first.len() as u8, false);
        // In the middle, and at the end, where only the next beginning tells.
        for lost in [2, first.len() - 1] {
            let mut stream = [first.clone(), second.clone()].concat();
            stream.remove(lost);
            let damaged: Vec<bool> = assemble(&stream).iter().map(|pes| pes.damaged).collect();
            assert_eq!(damaged, [true, false], "{lost}");
        }
        // A repeated packet does no harm.
        first.insert(2, first[1]);
        let found = assemble(&[first, second].concat());
        assert!(found.iter().all(|pes| !pes.damaged && pes.body == body));
    }
}
