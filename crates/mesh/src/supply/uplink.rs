//! The uplink's limit: when the next block may go out, and how much may wait in the transport.
//!
//! Rules:
//! 1. *Hard ceiling.* The bytes of all messages sent in any second never exceed the limit. A log of the last second proves it.
//!    Blocks are also spaced evenly, so that a burst never has to be paid for with silence. Up to [`CREDIT`] of what could not
//!    be sent in time is made good, but not the time in which there was nothing to send.
//! 2. *Queues live in this crate.* No more than two blocks, or a [`Config::transport_queue`](crate::Config) of them, wait in the
//!    transport: they could not be overtaken there, and each hop would pay for them. Bytes that have not moved for [`HELD_UP`],
//!    or that were given to the transport longer ago than the line would take for two blocks, do not wait for the line. They
//!    wait for the congestion window of their own link, and must not hold up the others (`pump.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::Timestamp;
use crate::supply::control::Backlog;

/// Longest block: BEP 3's 16 KiB.
const MAX_BLOCK: u64 = 16 * 1024;
/// A block is at most this part of a second's upload, so that a slow uplink, too, stays responsive, …
const BLOCKS_PER_SECOND: u64 = 128;
/// … and as many full packets as fit into that, one at least: what a packet of the transport carries beside the block's
/// own header, and a twelfth of 16 KiB. A block of 512 bytes would have a packet's headers to itself.
const PACKET: u64 = 1366;
/// The least and the most that two blocks are taken to need on the line, one on the wire and one behind it.
const MIN_LINE_TIME: Duration = Duration::from_millis(10);
const MAX_LINE_TIME: Duration = Duration::from_secs(1);
/// A link whose bytes have not moved for so long, and for as long as the line takes for four blocks, is held up by its
/// congestion window.
pub(super) const HELD_UP: Duration = Duration::from_millis(50);
/// Bytes of one link that may wait in the transport: a congested one must not take all.
pub(crate) const LINK_UNDRAINED: u64 = MAX_BLOCK + MAX_BLOCK / 2;
/// What could not be sent for so long, because the line was busy or the driver late, is made good. About one block's
/// time: without it every such wait is lost, and a tenth of the limit with them. With more, where the limit is all that
/// the line takes, a queue stands in the line at each hop (measured: 30 ms make a thousand nodes a tenth slower).
const CREDIT: Duration = Duration::from_millis(12);
/// Part of the limit that blocks leave to control messages.
const CONTROL_SHARE: u64 = 64;

#[derive(Debug)]
pub(crate) struct Uplink {
    pub limit: Option<u64>,
    /// When the next block may start.
    free_at: Timestamp,
    /// There was nothing to send at the last look: time that passes so is not made good.
    pub idle: bool,
    /// Messages of the last second, merged by millisecond: time and bytes.
    log: VecDeque<(Timestamp, u64)>,
    logged: u64,
    /// Media bytes that newcomers may still have before others.
    pub guest_credit: i64,
    /// Media bytes that may go to what is about to be due before they go to what is rare.
    pub urgent_credit: i64,
    /// Control messages that wait for room under the limit.
    pub backlog: Backlog,
    /// When the limit allows to go on.
    pub timer: Option<Timestamp>,
    /// When to look again for something to do.
    pub idle_timer: Option<Timestamp>,
}

impl Uplink {
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            free_at: Timestamp::ZERO,
            idle: true,
            log: VecDeque::new(),
            logged: 0,
            guest_credit: i64::from(u32::MAX),
            urgent_credit: 0,
            backlog: Backlog::default(),
            timer: None,
            idle_timer: None,
        }
    }

    /// What is sent from now on is spaced by another limit.
    pub fn set_limit(&mut self, bytes_per_s: u64) {
        self.limit = Some(bytes_per_s.max(1));
        self.timer = None;
    }

    pub fn block_len(&self) -> u32 {
        // At most MAX_BLOCK, so it fits.
        let fair = self.limit.map_or(MAX_BLOCK, |limit| (limit / BLOCKS_PER_SECOND).min(MAX_BLOCK));
        if fair == MAX_BLOCK {
            MAX_BLOCK as u32
        } else {
            (fair / PACKET).max(1).saturating_mul(PACKET) as u32
        }
    }

    pub fn forget_old(&mut self, now: Timestamp) {
        while let Some((at, bytes)) = self.log.front() {
            if *at + Duration::from_secs(1) > now {
                break;
            }
            self.logged = self.logged.saturating_sub(*bytes);
            self.log.pop_front();
        }
    }

    pub fn charge(&mut self, bytes: u64, now: Timestamp) {
        let Some(limit) = self.limit else { return };
        self.logged = self.logged.saturating_add(bytes);
        match self.log.back_mut() {
            // Merged entries count as sent at the later time, so that they are never forgotten early.
            Some((at, sum)) if at.0 / 1000 == now.0 / 1000 => {
                *at = now;
                *sum = sum.saturating_add(bytes);
            }
            _ => self.log.push_back((now, bytes)),
        }
        let gap =
            Duration::from_micros(bytes.saturating_mul(1_000_000).checked_div(limit).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now - CREDIT) + gap;
    }

    /// There is something to send.
    pub fn end_idleness(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.idle) {
            self.free_at = self.free_at.max(now);
        }
    }

    /// Whether so many bytes fit under the limit now.
    pub fn has_room(&self, bytes: usize) -> bool {
        let logged = self.logged.saturating_add(bytes as u64);
        self.limit.is_none_or(|limit| logged <= limit)
    }

    /// Nothing was sent in the last second.
    pub fn is_unused(&self) -> bool {
        self.log.is_empty()
    }

    /// When `bytes` fit under `share` of the limit; now or earlier if they do already.
    pub fn room_at(&self, bytes: u64, limit: u64) -> Timestamp {
        let mut over = self.logged.saturating_add(bytes).saturating_sub(limit);
        let mut at = Timestamp::ZERO;
        for (sent, bytes) in &self.log {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(*bytes);
            at = *sent + Duration::from_secs(1);
        }
        at
    }

    /// Bytes that may wait in the transport.
    pub fn max_undrained(&self, queue: Duration) -> u64 {
        let in_time = |limit: u64| {
            u64::try_from(u128::from(limit).saturating_mul(queue.as_micros()) / 1_000_000).unwrap_or(u64::MAX)
        };
        let two_blocks = u64::from(self.block_len()).saturating_mul(2);
        self.limit.map_or(0, in_time).max(two_blocks.saturating_sub(1))
    }

    /// Twice what two blocks take on a line that has the rate of the limit.
    pub fn line_time(&self) -> Duration {
        let four_blocks = u64::from(self.block_len()).saturating_mul(4_000_000);
        let time = |limit: u64| Duration::from_micros(four_blocks.checked_div(limit).unwrap_or(u64::MAX));
        self.limit.map_or(HELD_UP, time).clamp(MIN_LINE_TIME, MAX_LINE_TIME)
    }

    /// When the next block may be sent.
    pub fn block_at(&self) -> Timestamp {
        let Some(limit) = self.limit else { return Timestamp::ZERO };
        let bytes = u64::from(self.block_len()).saturating_add(16);
        self.free_at.max(self.room_at(bytes, limit.saturating_sub(limit / CONTROL_SHARE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_late_is_made_good_and_a_long_pause_is_not() {
        const LIMIT: u64 = 1_000_000;
        let mut uplink = Uplink::new(Some(LIMIT));
        let (mut now, mut sent) = (Timestamp::ZERO, 0);
        let second = Duration::from_secs(1);
        let mut run = |now: &mut Timestamp, late: Duration, uplink: &mut Uplink| {
            let (begin, before) = (*now, sent);
            while *now < begin + 4 * second {
                uplink.forget_old(*now);
                let at = uplink.block_at();
                if at > *now {
                    *now = at + late;
                    continue;
                }
                sent += u64::from(uplink.block_len());
                uplink.charge(uplink.block_len().into(), *now);
            }
            (sent - before) as f64 / now.since(begin).as_secs_f64() / LIMIT as f64
        };
        // Each block is 5 ms late, a third of its time on the line.
        let share = run(&mut now, Duration::from_millis(5), &mut uplink);
        assert!((0.96..=1.0).contains(&share), "{share}");
        // After a pause there is no burst beyond the credit.
        now = now + 10 * second;
        let mut at_once = 0;
        uplink.forget_old(now);
        while uplink.block_at() <= now {
            at_once += u64::from(uplink.block_len());
            uplink.charge(uplink.block_len().into(), now);
        }
        assert!(at_once <= 4 * MAX_BLOCK, "{at_once}");
        // Nor is there a credit if nothing was to be sent in it: one block, and the next after its time.
        uplink.idle = true;
        now = now + 10 * second;
        uplink.forget_old(now);
        uplink.end_idleness(now);
        uplink.charge(uplink.block_len().into(), now);
        assert!(uplink.block_at() > now);
    }

    #[test]
    fn what_may_wait_in_the_transport_goes_by_the_limit() {
        let queue = Duration::from_millis(110);
        assert_eq!(Uplink::new(Some(1_000_000)).max_undrained(queue), 110_000);
        for (limit, queue) in [(None, queue), (Some(3_000_000), Duration::ZERO)] {
            assert_eq!(Uplink::new(limit).max_undrained(queue), 2 * MAX_BLOCK - 1);
        }
        // On a slow line two long blocks would stand for seconds before all that comes after them.
        assert_eq!(Uplink::new(Some(10_000)).max_undrained(Duration::ZERO), 2 * PACKET - 1);
    }
}
