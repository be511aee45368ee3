//! The cutter: a feed goes in, segments come out.
//!
//! Its rules:
//! - A segment starts with the packet in which an access unit of the leading stream starts, or with the tables
//!   directly before it, and that access unit is a clean random access point. It is judged before anything of it is handed out, so bytes are
//!   held back from an access unit's start until its first slice is seen: mostly a packet or two, at most
//!   [`HOLD_LIMIT`](scan::HOLD_LIMIT).
//! - All packets from there on belong to the new segment, of whatever PID. What is under way on other PIDs
//!   there ends in the new segment, where decoders pass over it, having missed its start.
//! - The segments joined are the input, byte for byte, but for the tables at their starts and what was
//!   dropped: garbage, what came before the first segment, and null packets if they are not wanted.
//! - Where the encoder sends no clean random access point, a segment starts at a lesser one after a grace period,
//!   with the parameter sets that it lacks repeated before it, and at any access unit after a limit. After the grace
//!   period lesser ones are told as random access points, too, with the tables and parameter sets repeated.
//! - The outcome depends on the bytes alone, not on how they were divided into calls.

mod scan;
mod schedule;
mod state;
mod timeline;

use std::{ops::Range, time::Duration};

use crate::{
    Error,
    event::{Counters, Event, Notice, SegmentEnd, SegmentStart},
    sync::PacketSync,
};
use scan::Scan;
use state::Mark;

/// How to cut.
#[derive(Clone, Debug)]
pub struct CutterConfig {
    /// Length of a segment: the distance of the grid's lines.
    pub segment: Duration,
    /// How long after a cut was due only a clean random access point will do. After that one will do from
    /// which decoders recover late.
    pub grace: Duration,
    /// How long after a cut was due any access unit will do.
    pub limit: Duration,
    /// A segment that reaches this length in bytes is cut where it stands.
    pub max_bytes: u64,
    /// Whether to drop null packets, which only fill a constant rate.
    pub strip_nulls: bool,
    /// The program to follow; by default the first with video, or else the first with audio.
    pub program: Option<u16>,
}

impl CutterConfig {
    /// Segments of this length, and the defaults for the rest: x264's default of 250 frames between key
    /// frames is 10.4 s at 24 frames a second, and is waited for.
    pub fn new(segment: Duration) -> Self {
        Self {
            segment,
            grace: Duration::from_secs(12),
            limit: Duration::from_secs(30),
            max_bytes: 2 << 30,
            strip_nulls: false,
            program: None,
        }
    }
}

/// Cuts a feed; see the module.
///
/// Call [`poll`](Self::poll) with each chunk of input until it returns `None`; at the end of the feed call
/// [`end`](Self::end) and then `poll` without input until it returns `None`.
///
/// ```
/// # use std::time::Duration;
/// # use minuet_media::{Cutter, CutterConfig, Event};
/// # fn feed() -> Vec<Vec<u8>> { Vec::new() }
/// let mut cutter = Cutter::new(CutterConfig::new(Duration::from_secs(60)));
/// for chunk in feed() {
///     let mut rest = chunk.as_slice();
///     while let Some(event) = cutter.poll(&mut rest)? {
///         match event {
///             Event::Start(start) => { /* open a file, write start.tables */ }
///             Event::Data(bytes) | Event::Repeat(bytes) => { /* write them */ }
///             Event::End(end) => { /* close it */ }
///             Event::RandomAccess(_) | Event::Notice(_) => {}
///         }
///     }
/// }
/// # Ok::<(), minuet_media::Error>(())
/// ```
#[derive(Debug)]
pub struct Cutter {
    sync: PacketSync,
    scan: Scan,
    /// A run is being handed out, and so much of what is held back and of the run has been.
    handed_out: Option<usize>,
    /// Between a `Start` and its `End`.
    in_segment: bool,
    index: u64,
    segment_bytes: u64,
    tables: Vec<u8>,
    ending: bool,
    ended: bool,
}

/// What to return, without the borrow.
enum Step {
    Held(Range<usize>),
    Input(Range<usize>),
    Mark(Mark),
    Notice(Notice),
}

impl Cutter {
    /// A cutter before its first byte.
    pub fn new(config: CutterConfig) -> Self {
        let sync = PacketSync::default();
        Self {
            sync: if config.strip_nulls { sync.without_nulls() } else { sync },
            scan: Scan::new(config),
            handed_out: None,
            in_segment: false,
            index: 0,
            segment_bytes: 0,
            tables: Vec::new(),
            ending: false,
            ended: false,
        }
    }

    /// The next event, or `None` when all of `input` has been taken. Between calls `input` must be left as
    /// it was, until `None` is returned.
    ///
    /// # Errors
    /// What makes the feed unusable as a whole; damage is passed over and counted.
    pub fn poll<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Event<'s>>, Error> {
        Ok(match self.step(input)? {
            None => None,
            Some(Step::Notice(notice)) => Some(Event::Notice(notice)),
            Some(Step::Held(range)) => Some(Event::Data(&self.scan.held()[range])),
            Some(Step::Input(range)) => {
                let run: &'s [u8] = self.sync.run(input);
                Some(Event::Data(run.get(range).unwrap_or_default()))
            }
            Some(Step::Mark(mark)) => Some(self.enter(mark)),
        })
    }

    /// The feed has ended: the polls that follow hand out what is held back, and the last `End`.
    pub fn end(&mut self) {
        self.ending = true;
        self.sync.end();
    }

    /// Totals so far.
    pub fn counters(&self) -> Counters {
        self.scan.counters
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Step>, Error> {
        loop {
            if let Some(notice) = self.scan.notices.pop_front() {
                return Ok(Some(Step::Notice(notice)));
            }
            let Some(at) = self.handed_out else {
                let more = self.sync.fill(input)?;
                self.scan.counters.null_packets += self.sync.take_nulls();
                if let Some(found) = self.sync.take_found() {
                    self.scan.found(found);
                }
                if more {
                    self.scan.packets(self.sync.run(input))?;
                } else if self.ending && !self.ended {
                    self.ended = true;
                    self.scan.finish()?;
                } else if self.scan.notices.is_empty() {
                    return Ok(None);
                } else {
                    continue;
                }
                self.handed_out = Some(0);
                continue;
            };
            let (target, mark) = self.scan.next_mark(at);
            if at < target {
                let held = self.scan.held().len();
                let end = if at < held { target.min(held) } else { target };
                self.handed_out = Some(end);
                if !self.in_segment {
                    self.scan.counters.skipped_bytes += (end - at) as u64;
                    continue;
                }
                self.segment_bytes += (end - at) as u64;
                let step = if at < held { Step::Held(at..end) } else { Step::Input(at - held..end - held) };
                return Ok(Some(step));
            }
            if let Some(mark) = mark {
                return Ok(Some(Step::Mark(mark)));
            }
            self.scan.hold_back(self.sync.run(input));
            self.sync.release(input);
            self.handed_out = None;
        }
    }

    fn enter(&mut self, mark: Mark) -> Event<'_> {
        match mark {
            Mark::Start { discontinuity, position, timestamp, access, tables } => {
                self.in_segment = true;
                self.tables = tables;
                self.segment_bytes = self.tables.len() as u64;
                let tables = &self.tables;
                let index = self.index;
                Event::Start(SegmentStart { index, discontinuity, position, timestamp, access, tables })
            }
            Mark::RandomAccess(access) => Event::RandomAccess(access),
            Mark::Repeat(packets) => {
                self.tables = packets;
                self.segment_bytes += self.tables.len() as u64;
                Event::Repeat(&self.tables)
            }
            Mark::End { duration } => {
                let end = SegmentEnd { index: self.index, duration, bytes: self.segment_bytes };
                self.in_segment = false;
                self.index += 1;
                Event::End(end)
            }
        }
    }
}
