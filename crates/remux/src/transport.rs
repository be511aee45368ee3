//! Segments as they came: the feed's packets, cut where the tracks' segments are cut.

use std::collections::BTreeMap;

use bytes::Bytes;
use minuet_media::packet::{PACKET_LEN, PAT_PID, Packet};

/// A segment of more bytes is cut where it stands: some minutes at 8 Mbit/s.
pub const MAX_SEGMENT: usize = 64 << 20;
/// PIDs of tables whose continuity is followed.
const MAX_TABLES: usize = 64;

/// Keeps the packets since the last cut.
#[derive(Debug, Default)]
pub struct Packets {
    bytes: Vec<u8>,
    /// Position of the first of them in the feed.
    from: u64,
    counters: BTreeMap<u16, u8>,
    /// What begins the segment: tables.
    head: Vec<u8>,
}

impl Packets {
    /// Takes the next packet. Returns its position.
    pub fn push(&mut self, packet: &[u8; PACKET_LEN]) -> u64 {
        let position = self.end();
        let view = Packet::new(packet);
        let pid = view.pid();
        // Tables have low numbers in the PAT and 0x1000 and more besides, but any is allowed: the payload tells.
        let is_table = pid == PAT_PID || view.unit_start() && !view.payload().starts_with(&[0, 0, 1]);
        if self.counters.contains_key(&pid) || is_table && self.counters.len() < MAX_TABLES {
            self.counters.insert(pid, view.counter());
        }
        self.bytes.extend_from_slice(packet);
        position
    }

    /// The position behind the last packet.
    pub fn end(&self) -> u64 {
        self.from.saturating_add(self.bytes.len() as u64)
    }

    /// Bytes since the last cut.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The last continuity counter of a PID of tables.
    pub fn counter(&self, pid: u16) -> u8 {
        self.counters.get(&pid).copied().unwrap_or(0)
    }

    /// Takes out what came before `position`; what follows begins with `head`.
    pub fn cut(&mut self, position: u64, head: Vec<u8>) -> Bytes {
        let at =
            usize::try_from(position.saturating_sub(self.from)).unwrap_or(usize::MAX).min(self.bytes.len());
        let rest = self.bytes.split_off(at);
        let segment = std::mem::replace(&mut self.bytes, rest);
        self.from = self.from.saturating_add(segment.len() as u64);
        let mut whole = std::mem::replace(&mut self.head, head);
        whole.extend_from_slice(&segment);
        whole.into()
    }
}
