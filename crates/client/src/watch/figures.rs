//! What is counted while watching, and how it is written down (`--stats`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use minuet_proto::{Phase, SegmentSeq, SignedRecord};
use minuet_swarm::SwarmStats;
use serde_json::{Value, json};

use super::playout::Playout;

/// How many boundaries' gaps are kept for the summary; later ones are left out.
const MAX_GAPS: usize = 10_000;

/// Shared by playback, which counts, and the reporter, which reads.
#[derive(Debug)]
pub struct Figures {
    epoch: Instant,
    inner: Mutex<Inner>,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Inner {
    playout: Playout,
    /// Media given to the player since the start.
    given: Duration,
    /// The segment that is being given, and the media given before it.
    segment: Option<(SignedRecord, Duration)>,
    /// Bytes of it given so far.
    offset: u64,
    /// When the last byte was given.
    last_write: Duration,
    /// A write is under way: the player has enough.
    writing: bool,
    first_byte: Option<Duration>,
    segments_played: u64,
    segments_skipped: u64,
    gaps_ms: Vec<i64>,
    /// The newest segment known.
    pub newest: Option<SegmentSeq>,
    /// What the source says that the channel is doing.
    pub phase: Option<Phase>,
}

/// A look at the counts.
#[derive(Debug, Clone)]
pub struct Look {
    /// The segment being given to the player.
    pub segment: Option<SegmentSeq>,
    /// From ingest to writing to the player, of the last byte written, in milliseconds.
    pub live_delay_ms: Option<u64>,
    /// Given and not yet played.
    pub buffer: Duration,
    /// How long the picture stands still now.
    pub lack: Duration,
    /// Stalls so far, and their time.
    pub stalls: (u32, Duration),
    /// Segments left out so far.
    pub skipped: u64,
    /// Whether the picture runs.
    pub has_started: bool,
    newest: Option<SegmentSeq>,
    /// What the channel is doing.
    pub phase: Option<Phase>,
    first_byte: Option<Duration>,
    segments_played: u64,
}

impl Figures {
    /// Starts counting; `epoch` is the start of the process.
    pub fn new(epoch: Instant) -> Self {
        Self { epoch, inner: Mutex::default() }
    }

    /// The counts, and the time since the start of the process.
    pub fn lock(&self) -> (MutexGuard<'_, Inner>, Duration) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner, self.epoch.elapsed())
    }

    /// The counts as they are now; notes a stall that has begun.
    pub fn look(&self, now_ms: u64) -> Look {
        let (mut inner, now) = self.lock();
        if !inner.writing {
            inner.playout.note(now);
        }
        Look {
            segment: inner.segment.as_ref().map(|(record, _)| record.seq),
            live_delay_ms: inner.ingest_ms().map(|ingest| now_ms.saturating_sub(ingest)),
            buffer: inner.playout.buffer(now),
            lack: if inner.writing { Duration::ZERO } else { inner.playout.lack(now) },
            stalls: (inner.playout.stalls(), inner.playout.stalled(now)),
            skipped: inner.segments_skipped,
            has_started: inner.playout.has_started(),
            newest: inner.newest,
            phase: inner.phase,
            first_byte: inner.first_byte,
            segments_played: inner.segments_played,
        }
    }

    /// The summary's boundaries.
    pub fn gaps_ms(&self) -> Vec<i64> {
        self.lock().0.gaps_ms.clone()
    }
}

impl Inner {
    /// A segment's first bytes are about to be given.
    pub fn begin(&mut self, record: &SignedRecord, now: Duration) {
        if let Some((before, _)) = &self.segment
            && before.seq.next() == record.seq
            && self.gaps_ms.len() < MAX_GAPS
        {
            let here = i64::try_from((now - self.last_write).as_millis()).unwrap_or(i64::MAX);
            let source = record.ingest_ms.saturating_sub(before.sealed_ms);
            self.gaps_ms.push(here.saturating_sub(i64::try_from(source).unwrap_or(i64::MAX)));
        }
        self.segment = Some((record.clone(), self.given));
        self.offset = 0;
    }

    /// A write begins: until it ends, the player has enough.
    pub fn write_begins(&mut self, now: Duration) {
        self.playout.note(now);
        self.writing = true;
    }

    /// `length` bytes have been given.
    pub fn write_ends(&mut self, length: usize, now: Duration) {
        self.writing = false;
        self.playout.excuse(now);
        self.first_byte.get_or_insert(now);
        self.last_write = now;
        self.offset += length as u64;
        if let Some((record, before)) = &self.segment {
            let share = self.offset as f64 / record.length as f64;
            self.given = *before + Duration::from_millis(record.duration_ms).mul_f64(share.min(1.0));
            self.playout.give(self.given, now);
        }
    }

    /// The segment has been given to its end.
    pub fn played(&mut self) {
        self.segments_played += 1;
    }

    /// A segment is left out, or the rest of it.
    pub fn skipped(&mut self, count: u64) {
        self.segments_skipped += count;
    }

    /// When the source got the last byte given, in Unix milliseconds.
    fn ingest_ms(&self) -> Option<u64> {
        let (record, _) = self.segment.as_ref().filter(|_| self.first_byte.is_some())?;
        let took = record.sealed_ms.saturating_sub(record.ingest_ms) as f64;
        Some(record.ingest_ms + (took * self.offset as f64 / record.length as f64) as u64)
    }
}

impl Look {
    /// One line of `--stats`, as the command-line contract names its fields. `null` is what plain BitTorrent does
    /// not tell: control traffic, and pieces that failed their hash.
    pub fn to_json(&self, now_ms: u64, swarm: &SwarmStats) -> Value {
        json!({
            "t_ms": now_ms,
            "segment": self.segment.map(|s| s.0),
            "live_delay_ms": self.live_delay_ms,
            "buffer_ms": u64::try_from(self.buffer.as_millis()).unwrap_or(u64::MAX),
            "peers": swarm.peers,
            "source_bytes": swarm.transfer.from_source,
            "peer_bytes": swarm.transfer.from_peers,
            "http_bytes": 0,
            "upload_bytes": swarm.transfer.sent,
            "control_bytes": null,
            "stalls": self.stalls.0,
            "stall_ms": u64::try_from(self.stalls.1.as_millis()).unwrap_or(u64::MAX),
            "corrupt_pieces": null,
            "first_byte_ms": self.first_byte.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            "segments_played": self.segments_played,
            "segments_skipped": self.skipped,
            "newest_segment": self.newest.map(|s| s.0),
        })
    }
}
