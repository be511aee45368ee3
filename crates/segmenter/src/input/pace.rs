//! Bytes at the pace of their own timestamps, as if they were broadcast now.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use minuet_media::{PacketSync, StreamClock, Ticks, packet::PACKET_LEN};

use super::{InputError, READ_LEN, Read};

/// A reader that is later than this (the machine slept) goes on from now instead of catching up in a rush.
const LATEST: Duration = Duration::from_secs(5);

/// At what pace bytes go out.
#[derive(Debug)]
pub enum Pace {
    /// Decided with the first bytes.
    Undecided,
    /// As it comes.
    None,
    /// By its own clock.
    Own(Box<Paced>),
}

/// Holds back bytes until they are due.
#[derive(Debug)]
pub struct Paced {
    sync: PacketSync,
    clock: StreamClock,
    raw: Vec<u8>,
    /// The bytes of `raw` that are still to be taken.
    from: usize,
    to: usize,
    /// Whole packets, of which `sent` bytes have been handed out and `ready` more are due.
    packets: Vec<u8>,
    sent: usize,
    ready: usize,
    /// When the packet after those is due.
    due: Option<Ticks>,
    /// When the stream's position 0 was due.
    epoch: Option<Instant>,
}

impl Paced {
    /// Begins with bytes that have come already, of at most [`READ_LEN`].
    pub(super) fn new(begun: &[u8]) -> Self {
        let mut raw = begun.to_vec();
        raw.resize(READ_LEN.max(begun.len()), 0);
        Self {
            sync: PacketSync::default(),
            clock: StreamClock::default(),
            raw,
            from: 0,
            to: begun.len(),
            packets: Vec::new(),
            sent: 0,
            ready: 0,
            due: None,
            epoch: None,
        }
    }

    /// Reads what `more` reads, when it is due.
    pub(super) fn read(
        &mut self,
        mut more: impl FnMut(&mut [u8], Duration) -> Result<Read, InputError>,
        buf: &mut [u8],
        patience: Duration,
    ) -> Result<Read, InputError> {
        loop {
            if self.ready > 0 {
                let len = self.ready.min(buf.len());
                buf[..len].copy_from_slice(&self.packets[self.sent..self.sent + len]);
                self.sent += len;
                self.ready -= len;
                return Ok(Read::Data(len));
            }
            if let Some(position) = self.due {
                let left = self.left(position, Instant::now());
                if left > patience {
                    sleep(patience);
                    return Ok(Read::Idle);
                }
                sleep(left);
                self.look_ahead(PACKET_LEN);
                continue;
            }
            let mut rest = &self.raw[self.from..self.to];
            if self.sync.fill(&mut rest)? {
                self.packets.clear();
                self.packets.extend_from_slice(self.sync.run(rest));
                self.sync.release(&mut rest);
                self.from = self.to - rest.len();
                self.sent = 0;
                self.look_ahead(0);
                continue;
            }
            (self.from, self.to) = (0, 0);
            match more(&mut self.raw, patience)? {
                Read::Data(len) => self.to = len,
                other => return Ok(other),
            }
        }
    }

    /// After `known` bytes that are due now, finds the next packet that says when it is due.
    fn look_ahead(&mut self, known: usize) {
        let ahead = &self.packets[self.sent + known..];
        let next = self.clock.next(ahead);
        self.ready = known + next.map_or(ahead.len(), |(at, _)| at);
        self.due = next.map(|(_, due)| due);
    }

    /// How long it is until `position` is due.
    fn left(&mut self, position: Ticks, now: Instant) -> Duration {
        let epoch = self.epoch.get_or_insert(now);
        let due = *epoch + position.as_duration();
        let late = now.saturating_duration_since(due);
        if late > LATEST {
            *epoch += late;
        }
        due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_waits_for_its_time() {
        let mut paced = Paced::new(&[]);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ticks = |ms: u64| Ticks(ms * 90);
        assert_eq!(paced.left(ticks(0), start), Duration::ZERO);
        assert_eq!(paced.left(ticks(1000), at(400)), Duration::from_millis(600));
        // A little late: what follows makes up for it.
        assert_eq!(paced.left(ticks(1000), at(1500)), Duration::ZERO);
        assert_eq!(paced.left(ticks(2000), at(1500)), Duration::from_millis(500));
        // The machine slept: it goes on from now.
        assert_eq!(paced.left(ticks(3000), at(60_000)), Duration::ZERO);
        assert_eq!(paced.left(ticks(4000), at(60_000)), Duration::from_secs(1));
    }
}
