//! The clock inside a feed: when each of its bytes is due.
//!
//! A PCR says when its packet arrives at the decoder (ISO/IEC 13818-1, 2.4.2.2), so a file played out by
//! its PCRs has the timing of the broadcast it was. Feeds without PCRs go by the decoding times of their
//! first stream.

use crate::{
    packet::{NULL_PID, PACKET_LEN, Packet},
    pes::PesHeader,
    time::{TICKS_PER_SECOND, Ticks, Timestamp},
};

/// A feed without a PCR in its first so many packets (some 2 MB) goes by its decoding times.
const PCR_WAIT: u32 = 12_000;
/// So does one without a PCR in so much of its first stream: one is due each tenth of a second.
const PCR_WAIT_TIME: i64 = TICKS_PER_SECOND as i64;
/// When so many timestamps have come on other PIDs and none on the clock's own, another takes its place.
const SUCCESSION: u32 = 200;
/// A step forward of more than this is a jump, and so is each step back.
const FORWARD: i64 = 10 * TICKS_PER_SECOND as i64;

/// Reads the time from packets; positions begin at 0 and never go back.
#[derive(Debug, Default)]
pub struct StreamClock {
    /// The PID that gives the time, and its latest.
    source: Option<(u16, Timestamp)>,
    position: u64,
    /// Packets without a PCR since the start.
    waited: u32,
    /// Where the first decoding time was, and which.
    first: Option<(u16, Timestamp)>,
    /// No PCR came in time.
    by_pes: bool,
    /// Timestamps of other PIDs since the source's last.
    others: u32,
}

impl StreamClock {
    /// Finds the first packet in `packets` (whole ones) that carries the time: its offset in bytes, and
    /// when it is due since the first one that did. It is to be passed over in the next call.
    pub fn next(&mut self, packets: &[u8]) -> Option<(usize, Ticks)> {
        let mut at = 0;
        for packet in packets.as_chunks().0 {
            if let Some(position) = self.packet(Packet::new(packet)) {
                return Some((at, position));
            }
            at += PACKET_LEN;
        }
        None
    }

    fn packet(&mut self, packet: Packet<'_>) -> Option<Ticks> {
        if packet.pid() == NULL_PID || packet.transport_error() {
            return None;
        }
        let pcr = || packet.adaptation().and_then(|adaptation| adaptation.pcr).map(|pcr| pcr.base);
        let time = if self.by_pes { pes_time(packet) } else { pcr() };
        let Some(time) = time else {
            if self.source.is_none() && !self.by_pes {
                self.waited += 1;
                let passed = pes_time(packet).map(|time| (packet.pid(), time)).and_then(|(pid, time)| {
                    let first = *self.first.get_or_insert((pid, time));
                    (first.0 == pid).then(|| time.since(first.1))
                });
                self.by_pes = self.waited >= PCR_WAIT || passed.is_some_and(|passed| passed >= PCR_WAIT_TIME);
            }
            return None;
        };
        let (pid, last) = self.source.unwrap_or((packet.pid(), time));
        if pid != packet.pid() {
            self.others += 1;
            if self.others >= SUCCESSION {
                self.source = None;
            }
            return None;
        }
        self.others = 0;
        self.source = Some((pid, time));
        let step = time.since(last);
        if (0..=FORWARD).contains(&step) {
            self.position += step as u64;
        }
        Some(Ticks(self.position))
    }
}

fn pes_time(packet: Packet<'_>) -> Option<Timestamp> {
    if !packet.unit_start() || packet.scrambled() {
        return None;
    }
    PesHeader::parse(packet.payload()).ok()?.decode_time()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet in which a picture begins that is decoded at `time`.
    fn picture(time: u64) -> [u8; PACKET_LEN] {
        let mut packet = [0xff; PACKET_LEN];
        let pts = [
            0x21 | (time >> 29) as u8 & 0x0e,
            (time >> 22) as u8,
            (time >> 14) as u8 | 1,
            (time >> 7) as u8,
            (time << 1) as u8 | 1,
        ];
        let head = [0x47, 0x41, 0x00, 0x10, 0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5];
        packet[..13].copy_from_slice(&head);
        packet[13..18].copy_from_slice(&pts);
        packet
    }

    #[test]
    fn a_feed_without_pcr_goes_by_its_pictures_after_a_second() {
        let packets: Vec<u8> = (0..75).flat_map(|n| picture(n * TICKS_PER_SECOND / 25)).collect();
        let mut clock = StreamClock::default();
        let (mut rest, mut due) = (&packets[..], Vec::new());
        while let Some((at, position)) = clock.next(rest) {
            due.push(position);
            rest = &rest[at + PACKET_LEN..];
        }
        // The first second came at once.
        assert_eq!(due.len(), 49);
        assert_eq!(due.last(), Some(&Ticks(48 * TICKS_PER_SECOND / 25)));
    }
}
