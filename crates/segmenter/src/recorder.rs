//! The hot path: one thread that takes the feed's bytes through the cutter, the piece hasher and into a file.
//!
//! Rules:
//! - It waits for the feed and the disk, for nothing else. Publishing and seeding happen elsewhere, and what they need
//!   stands in the store.
//! - A segment that cannot be written is not kept, but still goes out live; the next one is written again.
//! - A number is given to one segment only, from the moment the segment begins: viewers may have seen its pieces.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    time::{Duration, Instant},
};

use minuet_media::{Counters, Cutter, CutterConfig, Event, ProgramFilter, SegmentEnd, SegmentStart, Ticks};
use minuet_node::mesh::ClosedPiece;
use minuet_proto::{
    ChannelKey, Metainfo, Phase, PieceId, PieceIndex, Record, SegmentSeq, SignedRecord, metainfo::Info,
};
use minuet_store::{OpenSegment, Sealed, Store};

use crate::{
    clock::{SourceClock, now_ms},
    hasher::{Closed, SegmentHasher, per_second},
    input::{Fed, Feed, InputError, READ_LEN, Tempo},
    keeper::Room,
    live::Live,
    marks::Marks,
    meters::Meters,
    notices::{self, Notices, Repeated, Tally},
    state::Announcer,
};

/// What is written into every torrent besides the pieces.
#[derive(Debug, Clone)]
pub struct TorrentHead {
    /// Announce URLs.
    pub announce: Vec<String>,
    /// Base URL of the segmenter's own HTTP server, ending in a slash; a segment's web seed is below it (BEP 19).
    pub web_seed: String,
}

/// What waits for the disk.
#[derive(Debug)]
pub enum Unsynced {
    /// The number of a segment that has begun.
    Begun,
    /// A segment.
    Sealed(Box<Recorded>),
}

/// A segment that is sealed but may not have reached the disk.
#[derive(Debug)]
pub struct Recorded {
    /// Its signed record.
    pub record: SignedRecord,
    /// Its files.
    pub sealed: Sealed,
}

/// What the recorder works with.
pub struct Recorder {
    /// Where segments go.
    pub store: Arc<Store>,
    /// What records are signed with.
    pub key: ChannelKey,
    /// Goes into torrents.
    pub head: TorrentHead,
    /// The newest record: the next segment follows it.
    pub newest: Option<SignedRecord>,
    /// The number of the next segment.
    pub next: SegmentSeq,
    /// Where sealed segments go. Bounded: it holds up the feed only when the disk is so many segments behind.
    pub out: SyncSender<Unsynced>,
    /// Makes room when the disk is full.
    pub room: Room,
    /// What the status line shows.
    pub meters: Arc<Meters>,
    /// States whether the feed is live or silent.
    pub announcer: Arc<Announcer>,
    /// Set when the recording is to end.
    pub stop: Arc<AtomicBool>,
    /// How to cut.
    pub cutting: CutterConfig,
    /// Where pieces go as they close.
    pub live: Option<Live>,
}

/// Why a recording ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The feed cannot be read or used.
    #[error(transparent)]
    Read(#[from] InputError),
}

/// The segment that is open.
struct Open {
    seq: SegmentSeq,
    /// None once it cannot be kept.
    file: Option<OpenSegment>,
    hasher: SegmentHasher,
    ingest_ms: u64,
    /// The same moment on the clock that nobody sets.
    begun: Instant,
    discontinuity: bool,
    marks: Marks,
}

/// The state between events.
struct State {
    recorder: Recorder,
    open: Option<Open>,
    /// Bytes a second of the segment before.
    rate: Option<u64>,
    /// A segment was lost, so that the next does not go on from the one before it.
    lost: bool,
    notices: Notices,
    /// Says that pieces are not shared live.
    unshared: Repeated,
    /// Says that packets were lost before they came here, and how many the cutters had counted when it was asked last.
    lost_before: (Tally, u64),
    /// Where decoding could start last.
    last_access: Option<Ticks>,
    /// Whether media comes as fast as it plays.
    tempo: Tempo,
    /// The cutter has seen nothing yet.
    fresh: bool,
    /// Takes one program out of a multiplex, where one was chosen and the feed has all.
    filter: Option<ProgramFilter>,
    /// Totals of the cutters before the one in use.
    counted: Counters,
    /// Gives ingest times.
    clock: SourceClock,
}

impl Recorder {
    /// Records until the feed ends, fails, or the recording is stopped; the open segment is sealed in each case.
    pub fn run(self, feed: &mut Feed) -> Result<(), Failure> {
        let mut cutter = Cutter::new(self.cutting.clone());
        let stop = Arc::clone(&self.stop);
        let mut state = State {
            recorder: self,
            open: None,
            rate: None,
            lost: false,
            notices: Notices::default(),
            unshared: Repeated::default(),
            lost_before: (Tally::default(), 0),
            last_access: None,
            tempo: Tempo::default(),
            fresh: true,
            filter: None,
            counted: Counters::default(),
            clock: SourceClock::new(Instant::now(), now_ms()),
        };
        let read = state.read(feed, &mut cutter, &stop);
        // A feed that is unusable says so again here; what was recorded before is sealed all the same.
        let drained = state.rest(&mut cutter);
        if stop.load(Ordering::Relaxed) {
            // Whatever the feed came to meanwhile, it was to end.
            return Ok(());
        }
        read.and(drained.map_err(|error| Failure::Read(error.into())))
    }
}

impl State {
    fn read(&mut self, feed: &mut Feed, cutter: &mut Cutter, stop: &AtomicBool) -> Result<(), Failure> {
        let mut buffer = vec![0; READ_LEN];
        let mut phase = Phase::Live;
        let mut heard = false;
        while !stop.load(Ordering::Relaxed) {
            let count = match feed.read(&mut buffer)? {
                Fed::Data(count) => count,
                Fed::Other(count) => {
                    // Too short to be judged before its end.
                    if let Err(error) = self.next_cutter(cutter) {
                        tracing::warn!(
                            "what came last cannot be broadcast: {error}; waiting for what comes next"
                        );
                    }
                    count
                }
                Fed::Idle => 0,
                Fed::End if !heard => return Err(InputError::Nothing(feed.name()).into()),
                Fed::End => {
                    match self.rest(cutter) {
                        Ok(()) => return Ok(()),
                        // What was too short to be judged before its end may still be for ffmpeg.
                        Err(error) => feed.reject(error.into())?,
                    }
                    // It was said.
                    let _ = self.next_cutter(cutter);
                    continue;
                }
            };
            if phase != feed.phase() {
                phase = feed.phase();
                self.tempo.restart();
                match phase {
                    Phase::Silent if heard => {
                        tracing::warn!("the feed is silent; waiting for it to come back");
                    }
                    Phase::Silent => tracing::info!("nothing has come yet; waiting for the feed"),
                    _ if heard => tracing::info!("the feed is back"),
                    _ => tracing::info!("the feed has come"),
                }
                self.recorder.announcer.set_phase(phase);
            }
            self.tell_lost(cutter.counters(), feed);
            if count == 0 {
                continue;
            }
            heard = true;
            self.recorder.meters.received(count);
            if std::mem::take(&mut self.fresh) {
                // ffmpeg has chosen already, and numbers what it writes anew.
                let program = self.recorder.cutting.program.filter(|_| !feed.has_chosen());
                *cutter = Cutter::new(CutterConfig { program, ..self.recorder.cutting.clone() });
                self.filter = program.map(ProgramFilter::new);
            }
            if let Err(error) = self.take(cutter, &buffer[..count]) {
                feed.reject(error.into())?;
                let _ = self.next_cutter(cutter);
            }
            if self.open.is_some() {
                feed.accepted();
            }
            if let Some(position) = self.last_access
                && let Some(wrong) = self.tempo.observe(position, Instant::now())
                && !feed.is_hurried()
            {
                tracing::warn!("{wrong}");
            }
            self.recorder.meters.set_cutter(self.counted + cutter.counters());
        }
        Ok(())
    }

    /// What comes now does not go on from what came before: seals what is open and looks at the feed with new eyes.
    ///
    /// # Errors
    /// Why nothing could be made of what came before, once all of it was looked at.
    fn next_cutter(&mut self, cutter: &mut Cutter) -> Result<(), minuet_media::Error> {
        let drained = self.rest(cutter);
        self.counted = self.counted + cutter.counters();
        self.last_access = None;
        self.tempo.restart();
        *cutter = Cutter::new(self.recorder.cutting.clone());
        (self.fresh, self.filter) = (true, None);
        drained
    }

    /// Takes what has come: of a multiplex the program that was chosen.
    fn take(&mut self, cutter: &mut Cutter, mut bytes: &[u8]) -> Result<(), minuet_media::Error> {
        let Some(mut filter) = self.filter.take() else { return self.drain(cutter, &mut bytes) };
        let taken = filter.push(bytes).and_then(|mut own| self.drain(cutter, &mut own));
        self.filter = Some(filter);
        taken
    }

    /// Takes what is left of what has come: nothing follows it.
    fn rest(&mut self, cutter: &mut Cutter) -> Result<(), minuet_media::Error> {
        if let Some(mut filter) = self.filter.take() {
            self.drain(cutter, &mut filter.end()?)?;
        }
        cutter.end();
        self.drain(cutter, &mut [].as_slice())
    }

    /// Says that packets were lost on the way here, where the feed's own numbers show it.
    fn tell_lost(&mut self, cutter: Counters, feed: &Feed) {
        let total = (self.counted + cutter).continuity_errors;
        let (tally, before) = &mut self.lost_before;
        let more = total.saturating_sub(std::mem::replace(before, total));
        if let Some(breaks) = tally.add(more, Instant::now()) {
            tracing::warn!("{}", notices::lost(breaks, feed.is_recorded().then(|| feed.name()).as_deref()));
        }
    }

    fn drain(&mut self, cutter: &mut Cutter, input: &mut &[u8]) -> Result<(), minuet_media::Error> {
        while let Some(event) = cutter.poll(input)? {
            match event {
                Event::Data(bytes) | Event::Repeat(bytes) => self.data(bytes),
                Event::Start(start) => self.start(&start),
                Event::End(end) => self.end(end),
                Event::RandomAccess(access) => {
                    if let Some(open) = &mut self.open {
                        open.hasher.mark_random_access();
                        open.marks.mark(access.position);
                    }
                    let last = self.last_access.replace(access.position);
                    if let Some(distance) = last.and_then(|last| access.position.0.checked_sub(last.0)) {
                        self.recorder.meters.set_key_distance(Ticks(distance).as_duration());
                    }
                }
                Event::Notice(notice) => {
                    if let Some(line) = self.notices.tell(&notice, Instant::now()) {
                        notices::log(&notice, &line);
                    }
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, start: &SegmentStart<'_>) {
        let seq = self.begin();
        let file = match self.create(seq) {
            Ok(file) => Some(file),
            Err(error) => {
                self.tell_unkept(seq, &error);
                None
            }
        };
        // After a restart, too, the media does not go on from the segment before.
        let restarted = start.index == 0 && self.recorder.newest.is_some();
        let discontinuity = start.discontinuity || self.lost || restarted;
        let mut hasher = SegmentHasher::new(self.rate, self.recorder.live.is_some());
        if start.access {
            hasher.mark_random_access();
        }
        let begun = Instant::now();
        if let Some(set_ms) = self.clock.check(begun, now_ms()) {
            let way = if set_ms > 0 { "ahead" } else { "back" };
            let set_s = (set_ms.unsigned_abs() + 500) / 1000;
            tracing::warn!("the clock was set {set_s} s {way}: times are new from segment {seq} on");
        }
        let ingest_ms = self.clock.at(begun);
        let marks = Marks::new(start.position);
        self.open = Some(Open { seq, file, hasher, ingest_ms, begun, discontinuity, marks });
        self.recorder.meters.set_open(seq);
        self.data(start.tables);
    }

    /// Takes the next number, for good.
    fn begin(&mut self) -> SegmentSeq {
        let recorder = &mut self.recorder;
        let seq = recorder.next;
        recorder.next = seq.next();
        if let Err(error) = recorder.store.note_begun(seq) {
            tracing::error!("a restart might give the number of segment {seq} to another segment: {error}");
        }
        // The receiver ends only after this thread.
        let _ = recorder.out.send(Unsynced::Begun);
        let follows = recorder.newest.as_ref().map_or(SegmentSeq(0), |newest| newest.seq.next());
        if seq != follows {
            recorder.announcer.set_next(seq);
        }
        seq
    }

    /// Says that a segment will be missing among the finished ones.
    fn tell_unkept(&self, seq: SegmentSeq, error: &dyn std::error::Error) {
        match self.recorder.live {
            Some(_) => tracing::error!("segment {seq} goes out live from memory, but is not kept: {error}"),
            None => tracing::error!("segment {seq} is lost: {error}"),
        }
    }

    fn create(&self, seq: SegmentSeq) -> Result<OpenSegment, minuet_store::Error> {
        let file = self.with_room(|| self.recorder.store.create(seq))?;
        // Known once a segment of this run has ended. A little more, since none is quite like the one before.
        if let (Some(_), Some(newest)) = (self.rate, &self.recorder.newest) {
            file.reserve(newest.length + newest.length / 32);
        }
        Ok(file)
    }

    /// Does something on disk, and makes room for it as long as there is none.
    fn with_room<T>(
        &self,
        mut work: impl FnMut() -> Result<T, minuet_store::Error>,
    ) -> Result<T, minuet_store::Error> {
        loop {
            match work() {
                Err(error) if self.recorder.room.make(&error) => {}
                result => return result,
            }
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        let Some(mut open) = self.open.take() else { return };
        if open.file.is_some() || self.recorder.live.is_some() {
            open.hasher.update(bytes);
        }
        open.marks.add(bytes.len());
        if let Some(file) = &mut open.file
            && let Err(error) = self.with_room(|| file.write(bytes))
        {
            self.tell_unkept(open.seq, &error);
            // What was written goes: there may be room for something else then.
            open.file = None;
        }
        let (seq, closed) = (open.seq, open.hasher.take_closed());
        self.open = Some(open);
        self.share(seq, closed);
    }

    /// Gives pieces to the live mesh.
    fn share(&mut self, segment: SegmentSeq, closed: Vec<Closed>) {
        let Some(live) = &self.recorder.live else { return };
        let ingest_ms = self.clock.at(Instant::now());
        for Closed { index, hash, random_access, data } in closed {
            let id = PieceId { segment, piece: PieceIndex(index) };
            let piece = ClosedPiece { id, hash, ingest_ms, random_access, data };
            // At the end the mesh may be gone before the last piece is.
            if !live.publish(piece)
                && !self.recorder.stop.load(Ordering::Relaxed)
                && let Some(withheld) = self.unshared.tell(Instant::now())
            {
                tracing::warn!(
                    "the live mesh is too far behind: a piece of segment {segment} is not shared live, and {withheld} \
                     before it"
                );
            }
        }
    }

    fn end(&mut self, end: SegmentEnd) {
        let begun = Instant::now();
        let Some(open) = self.open.take() else { return };
        let seq = open.seq;
        let duration = end.duration.as_duration();
        self.rate = per_second(end.bytes, duration).or(self.rate);
        match self.seal(open, duration) {
            Some(recorded) => {
                self.lost = false;
                let took = begun.elapsed();
                tracing::info!(
                    "segment {seq} sealed: {:.1} s, {} bytes, {} bytes a piece, torrent after {:.2} ms",
                    duration.as_secs_f64(),
                    recorded.record.length,
                    recorded.record.piece_length.get(),
                    took.as_secs_f64() * 1000.0,
                );
                self.recorder.meters.recorded(recorded.record.length);
                self.recorder.newest = Some(recorded.record.clone());
                let _ = self.recorder.out.send(Unsynced::Sealed(Box::new(recorded)));
            }
            None => self.lost = true,
        }
    }

    fn seal(&mut self, open: Open, duration: Duration) -> Option<Recorded> {
        let Open { seq, file, hasher, ingest_ms, begun, discontinuity, marks } = open;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (piece_length, pieces, closed) = hasher.finish(duration);
        self.share(seq, closed);
        let mut file = file?;
        let length = file.length();
        let key = &self.recorder.key;
        let name = minuet_proto::record::segment_file_name(&key.channel(), seq);
        let web_seed = format!("{}{name}", self.recorder.head.web_seed);
        let info = Info { name, length, piece_length, pieces };
        let torrent = Metainfo::new(info, self.recorder.head.announce.clone(), vec![web_seed]);
        let torrent = match torrent {
            Ok(torrent) => torrent,
            Err(error) => {
                self.tell_unkept(seq, &error);
                return None;
            }
        };
        let record = SignedRecord::sign(
            key,
            Record {
                channel: key.channel(),
                seq,
                prev: self.recorder.newest.as_ref().map(|newest| newest.hash()),
                info_hash: torrent.info_hash(),
                length,
                piece_length,
                duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                ingest_ms,
                // A clock that is set meanwhile does not make the segment longer or shorter.
                sealed_ms: ingest_ms.saturating_add(took_ms),
                discontinuity,
                access: marks.points(piece_length),
            },
        );
        let torrent = torrent.encode();
        match self.with_room(|| file.seal(&torrent, &record)) {
            Ok(sealed) => Some(Recorded { record, sealed }),
            Err(error) => {
                self.tell_unkept(seq, &error);
                None
            }
        }
    }
}
