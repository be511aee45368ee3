//! A line at home: a router with a queue before a line whose rate is not the node's alone.
//!
//! Rule: whatever a node sends enters the router's queue at once, control and media alike, first in, first out, and
//! leaves it at what the line has for this node. Where the queue is full a packet is lost, and the sender's transport
//! holds back until it has drained to [`AFTER_LOSS`] of its depth, as CUBIC does (RFC 9438). The line's rate may fall for a while (Wi-Fi), and other programs
//! use the line: a video call takes what it takes, and an upload what is left, behind a queue of its own making.
//!
//! All of it follows from the time alone, so that runs are repeatable.

use super::{MILLISECOND, Micros, SECOND, access::Rate};

/// To which part of its depth a queue that was full drains before the transport sends on.
const AFTER_LOSS: f64 = 0.7;
/// What an upload leaves to this node at the least: CUBIC's fair share where the node has several links.
const UPLOAD_LEAVES: f64 = 0.5;
/// Sawtooth of the queue behind which an upload stands: from this part of the depth to all of it, …
const SAW: f64 = 0.6;
/// … in this time.
const SAW_TIME: Micros = 4 * SECOND;

/// What else goes over a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cross {
    /// Nothing.
    None,
    /// A video call: this part of the line, while it lasts.
    Call(f64),
    /// An upload that takes what it gets.
    Upload,
}

/// Something that comes and goes: from `first` on for `lasts`, again after each `every`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spells {
    /// When it first comes.
    pub first: Micros,
    /// How long it lasts; 0 if it never comes.
    pub lasts: Micros,
    /// From one time to the next.
    pub every: Micros,
}

impl Spells {
    /// Whether it is there.
    pub fn on(&self, now: Micros) -> bool {
        self.lasts > 0 && now >= self.first && (now - self.first) % self.every.max(self.lasts) < self.lasts
    }

    /// When it next comes or goes.
    fn next(&self, now: Micros) -> Micros {
        if self.lasts == 0 {
            return Micros::MAX;
        }
        if now < self.first {
            return self.first;
        }
        let every = self.every.max(self.lasts + 1);
        let into = (now - self.first) % every;
        now - into + if into < self.lasts { self.lasts } else { every }
    }
}

/// What a line is like, besides its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// What the router's queue holds, in time at the line's full rate.
    pub queue: Micros,
    /// What else goes over it, …
    pub cross: Cross,
    /// … and when.
    pub cross_at: Spells,
    /// The part of its rate that is left in a dip, …
    pub dip: f64,
    /// … and when there is one.
    pub dips: Spells,
}

impl Line {
    /// A line with a queue of this depth and nothing else.
    pub fn quiet(queue: Micros) -> Self {
        Self { queue, cross: Cross::None, cross_at: Spells::default(), dip: 1.0, dips: Spells::default() }
    }
}

/// The router and the line behind it.
#[derive(Debug)]
pub struct Router {
    rate: Rate,
    line: Line,
    /// Bytes in the queue at `at`.
    backlog: f64,
    at: Micros,
    /// The queue was full, and has not drained since.
    full: bool,
    /// Bytes that entered while other traffic was there, and what the line could have carried then.
    pub beside: (u64, f64),
}

impl Router {
    /// An idle line.
    pub fn new(rate: Rate, line: Line) -> Self {
        Self { rate, line, backlog: 0.0, at: 0, full: false, beside: (0, 0.0) }
    }

    /// Bytes a microsecond that the line has for this node.
    fn free(&self, now: Micros) -> f64 {
        let dip = if self.line.dips.on(now) { self.line.dip } else { 1.0 };
        let taken = match self.line.cross {
            _ if !self.line.cross_at.on(now) => 0.0,
            Cross::None => 0.0,
            Cross::Call(share) => share.min(0.9 * dip),
            Cross::Upload => dip * (1.0 - UPLOAD_LEAVES),
        };
        (self.rate.0 as f64 * (dip - taken) / SECOND as f64).max(1e-6)
    }

    /// What the queue of others adds.
    fn others(&self, now: Micros) -> f64 {
        if self.line.cross != Cross::Upload || !self.line.cross_at.on(now) {
            return 0.0;
        }
        let into = (now - self.line.cross_at.first) % SAW_TIME;
        self.line.queue as f64 * (SAW + (1.0 - SAW) * into as f64 / SAW_TIME as f64)
    }

    /// Lets the queue drain up to `now`.
    fn drain(&mut self, now: Micros) {
        while self.at < now {
            let until = now.min(self.line.dips.next(self.at)).min(self.line.cross_at.next(self.at));
            let span = (until - self.at) as f64;
            if self.line.cross != Cross::None && self.line.cross_at.on(self.at) {
                self.beside.1 += self.rate.0 as f64 / SECOND as f64 * span;
            }
            self.backlog = (self.backlog - self.free(self.at) * span).max(0.0);
            self.at = until;
        }
    }

    /// How long a packet that enters now waits before it begins to leave.
    pub fn wait(&mut self, now: Micros) -> Micros {
        self.drain(now);
        (self.backlog / self.free(now) + self.others(now)) as Micros
    }

    /// When there is room for more; `now` or earlier if there is. A queue that has been full first drains.
    pub fn room_at(&mut self, now: Micros) -> Micros {
        self.drain(now);
        let free = self.free(now);
        let depth = self.line.queue as f64 * self.rate.0 as f64 / SECOND as f64;
        let most = if self.full { depth * AFTER_LOSS } else { depth };
        if self.backlog <= most {
            self.full = false;
            return now;
        }
        self.full = true;
        // Looked at again soon: the rate may change meanwhile.
        now + (((self.backlog - depth * AFTER_LOSS) / free) as Micros).clamp(MILLISECOND, 50 * MILLISECOND)
    }

    /// Bytes enter the queue; returns when the last of them has left.
    pub fn enter(&mut self, now: Micros, wire: u64) -> Micros {
        let wait = self.wait(now);
        self.backlog += wire as f64;
        if self.line.cross != Cross::None && self.line.cross_at.on(now) {
            self.beside.0 += wire;
        }
        now + wait + (wire as f64 / self.free(now)) as Micros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate(1_000_000);

    #[test]
    fn what_enters_leaves_at_the_lines_rate_and_waits_for_what_was_there() {
        let mut router = Router::new(RATE, Line::quiet(100 * MILLISECOND));
        assert_eq!(router.enter(0, 50_000), 50_000);
        assert_eq!(router.enter(10_000, 10_000), 60_000);
        assert_eq!(router.wait(30_000), 30_000);
        assert_eq!(router.wait(90_000), 0);
    }

    #[test]
    fn a_full_queue_drains_before_more_goes_in() {
        let mut router = Router::new(RATE, Line::quiet(100 * MILLISECOND));
        router.enter(0, 100_000);
        assert_eq!(router.room_at(0), 0);
        router.enter(0, 10_000);
        assert_eq!(router.room_at(0), 40_000);
        assert!(router.room_at(30_000) > 30_000, "below its depth again, but not drained");
        assert_eq!(router.room_at(41_000), 41_000);
    }

    #[test]
    fn a_dip_and_a_call_take_their_part_while_they_last() {
        let line = Line {
            dip: 0.5,
            dips: Spells { first: SECOND, lasts: SECOND, every: 10 * SECOND },
            cross: Cross::Call(0.25),
            cross_at: Spells { first: 3 * SECOND, lasts: SECOND, every: 10 * SECOND },
            ..Line::quiet(SECOND)
        };
        for (at, took) in [(0, 100_000), (1_100_000, 200_000), (2_100_000, 100_000), (3_100_000, 133_333)] {
            let mut router = Router::new(RATE, line);
            let left = router.enter(at, 100_000) - at;
            assert!(left.abs_diff(took) < 10, "{at}: {left}");
        }
        let mut router = Router::new(RATE, line);
        router.enter(0, 1_000_000);
        // A second at full rate, one at half, and the queue is through.
        router.enter(SECOND, 500_000);
        assert!(router.wait(2 * SECOND) < 10);
    }

    #[test]
    fn an_upload_leaves_its_share_and_a_queue() {
        let line = Line {
            cross: Cross::Upload,
            cross_at: Spells { first: 0, lasts: 30 * SECOND, every: 60 * SECOND },
            ..Line::quiet(200 * MILLISECOND)
        };
        let mut router = Router::new(RATE, line);
        let left = router.enter(0, 50_000);
        assert_eq!(left, 120_000 + 100_000);
        assert!(router.wait(31 * SECOND) == 0 && router.beside.0 == 50_000);
        assert!((router.beside.1 - 30e6).abs() < 1e3, "{:?}", router.beside);
    }
}
