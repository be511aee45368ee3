//! What is counted while watching, and how it is written down (`--stats`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use minuet_node::mesh::{MeshStats, Shortage};
use minuet_proto::{ChannelState, Phase, SegmentSeq};
use minuet_swarm::SwarmStats;
use serde_json::{Value, json};

use super::playout::Playout;

/// How many boundaries' gaps are kept for the summary; later ones are left out.
const MAX_GAPS: usize = 10_000;
/// The last of an input may come so long after its silence was stated: the piece that was open then.
const SLATE_AFTER_MS: u64 = 1000;

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
    /// The segment that is being given.
    segment: Option<SegmentSeq>,
    /// When the source got the last byte given, in Unix milliseconds.
    ingest_ms: Option<u64>,
    /// When the last byte was given.
    last_write: Duration,
    /// A write is under way: the player has enough.
    writing: bool,
    first_byte: Option<Duration>,
    segments_played: u64,
    segments_skipped: u64,
    leaps: u64,
    gaps_ms: Vec<i64>,
    /// The newest segment known.
    pub newest: Option<SegmentSeq>,
    /// What the source says that the channel is doing.
    pub phase: Option<Phase>,
    /// When the source said that its input is silent, by its clock, while it is.
    silent_ms: Option<u64>,
    /// Why playing cannot begin, while it cannot.
    pub why: Option<String>,
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
    /// The source has media although its input is silent.
    pub slate: bool,
    /// Why playing cannot begin.
    pub why: Option<String>,
    first_byte: Option<Duration>,
    segments_played: u64,
    leaps: u64,
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
            segment: inner.segment,
            live_delay_ms: inner.ingest_ms.map(|ingest| now_ms.saturating_sub(ingest)),
            buffer: inner.playout.buffer(now),
            lack: if inner.writing { Duration::ZERO } else { inner.playout.lack(now) },
            stalls: (inner.playout.stalls(), inner.playout.stalled(now)),
            skipped: inner.segments_skipped,
            has_started: inner.playout.has_started(),
            newest: inner.newest,
            phase: inner.phase,
            slate: inner.ingest_ms.is_some_and(|ingest_ms| inner.is_slate(ingest_ms)),
            why: inner.why.clone(),
            first_byte: inner.first_byte,
            segments_played: inner.segments_played,
            leaps: inner.leaps,
        }
    }

    /// The summary's boundaries.
    pub fn gaps_ms(&self) -> Vec<i64> {
        self.lock().0.gaps_ms.clone()
    }
}

impl Inner {
    /// A segment's first bytes are about to be given. `source_gap_ms` is the time at the source between the last byte
    /// of the segment before and the first of this one, where that is known.
    pub fn begin(&mut self, segment: SegmentSeq, source_gap_ms: Option<u64>, now: Duration) {
        if let Some(source) = source_gap_ms
            && self.segment.is_some_and(|before| before.next() == segment)
            && self.gaps_ms.len() < MAX_GAPS
        {
            let here = i64::try_from((now - self.last_write).as_millis()).unwrap_or(i64::MAX);
            self.gaps_ms.push(here.saturating_sub(i64::try_from(source).unwrap_or(i64::MAX)));
        }
        self.segment = Some(segment);
    }

    /// A write begins: until it ends, the player has enough.
    pub fn write_begins(&mut self, now: Duration) {
        self.playout.note(now);
        self.writing = true;
    }

    /// Media has been given up to `position`, counted from the first media given; the source got its last byte at
    /// `ingest_ms`, in Unix milliseconds.
    pub fn write_ends(&mut self, position: Duration, ingest_ms: u64, now: Duration) {
        self.writing = false;
        self.playout.excuse(now);
        self.first_byte.get_or_insert(now);
        self.last_write = now;
        self.ingest_ms = Some(ingest_ms);
        self.playout.give(position, now);
    }

    /// The segment that is being given.
    pub fn segment(&self) -> Option<SegmentSeq> {
        self.segment
    }

    /// The source says what the channel is doing.
    pub fn hear(&mut self, state: &ChannelState) {
        self.phase = Some(state.phase);
        self.silent_ms = (state.phase == Phase::Silent).then(|| self.silent_ms.unwrap_or(state.at_ms));
    }

    /// Whether what came in at `ingest_ms` stands in for a silent input: it came after the source had said so.
    pub fn is_slate(&self, ingest_ms: u64) -> bool {
        self.silent_ms.is_some_and(|since| ingest_ms > since.saturating_add(SLATE_AFTER_MS))
    }

    /// The clock of the picture.
    pub fn playout(&mut self) -> &mut Playout {
        &mut self.playout
    }

    /// The segment has been given to its end.
    pub fn played(&mut self) {
        self.segments_played += 1;
    }

    /// Live playback left pieces out.
    pub fn leapt(&mut self) {
        self.leaps += 1;
    }

    /// A segment is left out, or the rest of it.
    pub fn skipped(&mut self, count: u64) {
        self.segments_skipped += count;
    }
}

/// Bytes since the start, and whom they went between; `None` is what the transport does not tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Other nodes connected.
    pub peers: usize,
    /// Of these, through a relay server.
    pub relayed: Option<usize>,
    /// Media from the source.
    pub from_source: u64,
    /// Media from other viewers.
    pub from_peers: u64,
    /// Media from the HTTP origin.
    pub from_http: u64,
    /// Media passed on.
    pub sent: u64,
    /// All else that was sent and received to get and to pass on media.
    pub control: Option<u64>,
    /// Pieces that failed their hash.
    pub corrupt: Option<u64>,
    /// Nodes that were found to do harm and are not talked to any more.
    pub bans: Option<u64>,
    /// What this line brings and what the stream needs, in bytes a second, where the first is too little.
    pub narrow: Option<(u64, u64)>,
    /// Why the stream does not come in in full at present, and how much of it does.
    pub shortage: Option<Shortage>,
}

impl From<SwarmStats> for Traffic {
    fn from(stats: SwarmStats) -> Self {
        let SwarmStats { transfer, peers, .. } = stats;
        Self {
            peers,
            from_source: transfer.from_source,
            from_peers: transfer.from_peers,
            sent: transfer.sent,
            ..Self::default()
        }
    }
}

impl From<MeshStats> for Traffic {
    fn from(stats: MeshStats) -> Self {
        let core = stats.core;
        Self {
            peers: stats.peers,
            relayed: Some(stats.relayed),
            narrow: stats.narrow.map(|brings| (brings, stats.stream)),
            from_source: core.source_received,
            from_peers: core.payload_received - core.source_received,
            from_http: stats.http_bytes,
            sent: core.payload_sent,
            control: Some(core.control_sent + core.control_received),
            corrupt: Some(core.pieces_corrupt),
            bans: Some(core.bans),
            shortage: core.shortage,
        }
    }
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            peers: self.peers + other.peers,
            relayed: self.relayed.or(other.relayed),
            from_source: self.from_source + other.from_source,
            from_peers: self.from_peers + other.from_peers,
            from_http: self.from_http + other.from_http,
            sent: self.sent + other.sent,
            control: self.control.or(other.control),
            corrupt: self.corrupt.or(other.corrupt),
            bans: self.bans.or(other.bans),
            narrow: self.narrow.or(other.narrow),
            shortage: self.shortage.or(other.shortage),
        }
    }
}

impl Look {
    /// One line of `--stats`, as the command-line contract names its fields. `null` is what plain BitTorrent does
    /// not tell: control traffic, pieces that failed their hash, and whom that cost its place.
    pub fn to_json(&self, now_ms: u64, traffic: &Traffic) -> Value {
        json!({
            "t_ms": now_ms,
            "segment": self.segment.map(|s| s.0),
            "live_delay_ms": self.live_delay_ms,
            "buffer_ms": u64::try_from(self.buffer.as_millis()).unwrap_or(u64::MAX),
            "peers": traffic.peers,
            "relayed_peers": traffic.relayed,
            "source_bytes": traffic.from_source,
            "peer_bytes": traffic.from_peers,
            "http_bytes": traffic.from_http,
            "upload_bytes": traffic.sent,
            "control_bytes": traffic.control,
            "stalls": self.stalls.0,
            "stall_ms": u64::try_from(self.stalls.1.as_millis()).unwrap_or(u64::MAX),
            "corrupt_pieces": traffic.corrupt,
            "bans": traffic.bans,
            "first_byte_ms": self.first_byte.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            "segments_played": self.segments_played,
            "segments_skipped": self.skipped,
            "leaps": self.leaps,
            "newest_segment": self.newest.map(|s| s.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use minuet_proto::ChannelKey;

    use super::*;

    #[test]
    fn media_that_came_after_the_silence_was_stated_is_a_slate() {
        let state = |phase, at_ms| ChannelState {
            channel: ChannelKey::from_seed(&[1; 32]).channel(),
            at_ms,
            phase,
            next: SegmentSeq(1),
            segment_ms: 60_000,
            title: String::new(),
            listed: false,
            origin: None,
        };
        let figures = Figures::new(Instant::now());
        let given = |ingest_ms| {
            let (mut inner, now) = figures.lock();
            inner.write_ends(Duration::ZERO, ingest_ms, now);
            drop(inner);
            figures.look(0).slate
        };
        figures.lock().0.hear(&state(Phase::Live, 1000));
        assert!(!given(9000));
        figures.lock().0.hear(&state(Phase::Silent, 10_000));
        // What was before it is played to its end.
        assert!(!given(9900) && given(12_000));
        // Stated once more; the slate goes on.
        figures.lock().0.hear(&state(Phase::Silent, 20_000));
        assert!(given(12_500));
        figures.lock().0.hear(&state(Phase::Live, 30_000));
        assert!(!given(30_500));
    }
}
