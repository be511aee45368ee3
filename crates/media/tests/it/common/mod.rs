//! What the tests of the cutter share.
#![allow(dead_code, reason = "each test uses its part")]

pub mod feed;
pub mod ffmpeg;

use std::time::Duration;

use minuet_media::{Counters, Cutter, CutterConfig, Error, Event, Notice, Ticks};

/// A segment as it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub tables: Vec<u8>,
    /// The input's bytes in it.
    pub data: Vec<u8>,
    /// All of it: tables, the input's bytes, and what is repeated among them.
    pub whole: Vec<u8>,
    pub access: bool,
    pub discontinuity: bool,
    pub position: Ticks,
    pub duration: Ticks,
    /// Offsets in `data` where random access points lie.
    pub random_access: Vec<usize>,
}

impl Segment {
    /// The segment as a file.
    pub fn file(&self) -> Vec<u8> {
        self.whole.clone()
    }
}

/// All that came out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub segments: Vec<Segment>,
    pub notices: Vec<Notice>,
    pub counters: Counters,
    pub error: Option<Error>,
}

impl Outcome {
    /// The segments joined without their tables.
    pub fn joined(&self) -> Vec<u8> {
        self.segments.iter().flat_map(|segment| segment.data.iter().copied()).collect()
    }

    pub fn durations_ms(&self) -> Vec<u64> {
        self.segments.iter().map(|segment| segment.duration.as_millis()).collect()
    }
}

/// Cuts `chunks` and checks the order of events on the way.
pub fn cut<'a>(config: CutterConfig, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut cutter = Cutter::new(config);
    let mut outcome = Outcome::default();
    let mut open = false;
    let mut drain = |cutter: &mut Cutter, mut rest: &[u8]| loop {
        match cutter.poll(&mut rest) {
            Ok(None) => {
                assert!(rest.is_empty(), "all of the input is taken");
                break true;
            }
            Ok(Some(event)) => take(event, &mut outcome, &mut open),
            Err(error) => {
                outcome.error = Some(error);
                break false;
            }
        }
    };
    if chunks.into_iter().all(|chunk| drain(&mut cutter, chunk)) {
        cutter.end();
        let complete = drain(&mut cutter, &[]);
        assert!(!(complete && open), "the last segment ends");
    }
    outcome.counters = cutter.counters();
    outcome
}

fn take(event: Event<'_>, outcome: &mut Outcome, open: &mut bool) {
    match event {
        Event::Start(start) => {
            assert!(!*open, "segments do not overlap");
            *open = true;
            assert_eq!(start.index, outcome.segments.len() as u64);
            assert_eq!(start.tables.len() % 188, 0);
            outcome.segments.push(Segment {
                tables: start.tables.to_vec(),
                data: Vec::new(),
                whole: start.tables.to_vec(),
                access: start.access,
                discontinuity: start.discontinuity,
                position: start.position,
                duration: Ticks(0),
                random_access: Vec::new(),
            });
        }
        Event::Notice(notice) => outcome.notices.push(notice),
        event => {
            assert!(*open, "between a start and its end: {event:?}");
            let segment = outcome.segments.last_mut().expect("a start opens it");
            match event {
                Event::Data(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() % 188 == 0);
                    segment.data.extend_from_slice(bytes);
                    segment.whole.extend_from_slice(bytes);
                }
                Event::Repeat(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() % 188 == 0);
                    assert_eq!(segment.random_access.last(), Some(&segment.data.len()), "after a mark");
                    segment.whole.extend_from_slice(bytes);
                }
                Event::RandomAccess(_) => segment.random_access.push(segment.data.len()),
                Event::End(end) => {
                    *open = false;
                    segment.duration = end.duration;
                    assert_eq!(end.bytes, segment.whole.len() as u64);
                }
                _ => unreachable!(),
            }
        }
    }
}

pub fn seconds(segment: u64) -> CutterConfig {
    CutterConfig::new(Duration::from_secs(segment))
}
