//! Plays a file over and over as one endless feed.
//!
//! Each time round, PTS, DTS and PCR are moved on by the file's length (modulo 2^33) and the continuity
//! counters carry on, so that the joins are no discontinuity: a decoder, and the cutter, sees one feed. The
//! first time round nothing is changed.
//!
//! The file's length is the longest of its streams', by decoding times, the last frame included; so no
//! stream steps back at a join.

use std::collections::HashMap;

use crate::{
    packet::{NULL_PID, PACKET_LEN, PID_COUNT, Packet},
    pes::{self, PesHeader},
    time::{Pcr, TICKS_PER_SECOND, Timestamp},
};

/// A frame lasts no longer than this when the file's length is reckoned.
const LONGEST_FRAME: i64 = TICKS_PER_SECOND as i64;

/// Rewrites the packets of a looped file; see the module.
#[derive(Debug)]
pub struct Restamper {
    /// Ticks by which timestamps are moved, modulo 2^33.
    shift: Timestamp,
    counters: Box<[Counter; PID_COUNT]>,
    /// PES streams by PID; at most one for each PID.
    streams: HashMap<u16, Span>,
    /// PCRs by PID.
    clocks: HashMap<u16, Span>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// Added to the file's counters, modulo 16.
    offset: u8,
    /// The last one sent, plus 1; 0 before the first.
    last: u8,
    /// No packet of this PID has come since the file began again.
    joins: bool,
}

/// The timestamps of one stream, as they stand in the file.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: Timestamp,
    last: Timestamp,
    /// The latest plausible step, and the size in bytes of the PES packet that took so long.
    step: i64,
    step_bytes: u32,
    /// The size of the last one; 0 where it says nothing about the time it takes.
    last_bytes: u32,
}

impl Span {
    /// From the first timestamp to the end of what the last belongs to, modulo 2^33.
    ///
    /// A PES packet of sound holds several frames, the last one of a file often fewer: it takes as long
    /// as its size says.
    fn length(&self) -> Timestamp {
        let fewer = self.last_bytes.min(self.step_bytes);
        let last =
            if fewer == 0 { self.step } else { self.step * i64::from(fewer) / i64::from(self.step_bytes) };
        Timestamp::new(self.last.shifted(last).forward_from(self.first))
    }
}

impl Default for Restamper {
    fn default() -> Self {
        Self {
            shift: Timestamp::new(0),
            counters: Box::new([Counter::default(); PID_COUNT]),
            streams: HashMap::new(),
            clocks: HashMap::new(),
        }
    }
}

impl Restamper {
    /// The file begins again.
    pub fn rewind(&mut self) {
        let spans = self.streams.values().chain(self.clocks.values());
        if let Some(length) = spans.map(Span::length).reduce(|a, b| if a.since(b) > 0 { a } else { b }) {
            self.shift = Timestamp::new(self.shift.ticks() + length.ticks());
        }
        self.streams.clear();
        self.clocks.clear();
        for counter in self.counters.iter_mut() {
            counter.joins = counter.last != 0;
        }
    }

    /// Rewrites `packets`, whole ones, in place.
    pub fn packets(&mut self, packets: &mut [u8]) {
        for packet in packets.as_chunks_mut().0 {
            self.packet(packet);
        }
    }

    fn packet(&mut self, bytes: &mut [u8; PACKET_LEN]) {
        let packet = Packet::new(bytes);
        let pid = packet.pid();
        if pid == NULL_PID {
            return;
        }
        let pcr = packet.adaptation().and_then(|field| field.pcr);
        let payload_at = packet.payload_offset();
        let header = (packet.unit_start() && !packet.scrambled())
            .then(|| PesHeader::parse(packet.payload()).ok())
            .flatten();

        let counter = &mut self.counters[usize::from(pid)];
        if std::mem::take(&mut counter.joins) {
            let next = if packet.has_payload() { counter.last } else { counter.last + 15 };
            counter.offset = (next + 16 - packet.counter()) & 0x0f;
        }
        let carried_on = (packet.counter() + counter.offset) & 0x0f;
        counter.last = carried_on + 1;
        bytes[3] = bytes[3] & 0xf0 | carried_on;

        if let Some(pcr) = pcr {
            note(&mut self.clocks, pid, pcr.base, 0);
            let moved = Pcr { base: self.moved(pcr.base), extension: pcr.extension };
            bytes[6..12].copy_from_slice(&moved.to_bytes());
        }
        if let Some(header) = header {
            if let Some(time) = header.decode_time() {
                note(&mut self.streams, pid, time, if header.video { 0 } else { header.packet_bytes });
            }
            for (offset, time) in [(9, header.pts), (14, header.dts)] {
                let field = bytes[payload_at..].get_mut(offset..).and_then(<[u8]>::first_chunk_mut);
                if let (Some(time), Some(field)) = (time, field) {
                    pes::write(field, self.moved(time));
                }
            }
        }
    }

    fn moved(&self, timestamp: Timestamp) -> Timestamp {
        Timestamp::new(timestamp.ticks() + self.shift.ticks())
    }
}

fn note(spans: &mut HashMap<u16, Span>, pid: u16, time: Timestamp, bytes: u32) {
    let span =
        spans.entry(pid).or_insert(Span { first: time, last: time, step: 0, step_bytes: 0, last_bytes: 0 });
    let step = time.since(span.last);
    if (1..=LONGEST_FRAME).contains(&step) {
        span.step = step;
        span.step_bytes = span.last_bytes;
    }
    span.last = time;
    span.last_bytes = bytes;
}
