//! What was remuxed, for some minutes.
//!
//! Each segment lies in a file of its own; the newest, whose parts are listed, in memory as well. A file that could not be
//! written (the disk is full) is not missed while its segment is in memory; afterwards the playlist begins behind it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use minuet_remux::{
    Closed, Event, Init, Pace, TextId, TrackId,
    playlist::{Listed, PartInfo, Rendition, SegmentInfo, Sound, Style, Subtitles, multivariant},
};
use tokio::sync::watch;

/// Bytes on disk, whatever `--serve-keep` says.
pub const MAX_DISK: u64 = 1 << 30;
/// Segments in memory: those whose parts are listed, and some more for players that are behind.
const IN_MEMORY: usize = 5;
/// Bytes of finished segments in memory, of each track.
const MAX_MEMORY: usize = 12 << 20;
/// Init segments of a track that are kept. A segment that needs an older one is not kept either.
const MAX_INITS: usize = 64;

/// Segments are of a track, or of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// A track's, in CMAF.
    Track(TrackId),
    /// The feed's, in MPEG-TS.
    Feed,
    /// Of a track of subtitles, in WebVTT.
    Text(TextId),
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is here, so many bytes long.
    Here(u64),
    /// It will come.
    Later,
    /// There is none, or no more.
    None,
}

/// A segment, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of which row.
    pub row: Row,
    /// The segment's number.
    pub number: u64,
    /// The part's number in it; none: all of it.
    pub part: Option<usize>,
}

/// Some bytes of it.
#[derive(Debug)]
pub enum Read {
    /// A copy: who holds it holds nothing else.
    Bytes(Bytes),
    /// They are in this file, at the same place.
    File(PathBuf),
    /// It is not here any more.
    None,
}

/// The shelf. Shared between the feed, which fills it, and all who read.
#[derive(Debug)]
pub struct Shelf {
    state: Mutex<State>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    folder: PathBuf,
    keep: Duration,
    session: u64,
}

#[derive(Debug, Default)]
struct State {
    pace: Option<Pace>,
    tracks: BTreeMap<TrackId, Lane>,
    feed: Option<Lane>,
    texts: BTreeMap<TextId, (Subtitles, Lane)>,
    /// Files of each segment, and bytes in all.
    on_disk: BTreeMap<(u64, Row), u64>,
    bytes_on_disk: u64,
    /// Segments whose file could not be written.
    unwritten: BTreeSet<(u64, Row)>,
    ended: bool,
}

#[derive(Debug)]
struct Lane {
    rendition: Rendition,
    inits: BTreeMap<u32, Init>,
    /// The newest segments: number, and the bytes of each part.
    memory: VecDeque<(u64, Vec<Bytes>)>,
}

/// A segment that is to be written.
struct Write {
    number: u64,
    row: Row,
    chunks: Vec<Bytes>,
}

impl Row {
    /// The name of a segment's file.
    fn file(self, number: u64) -> String {
        match self {
            Self::Track(track) => format!("{track}-{number}.m4s"),
            Self::Feed => format!("{number}.ts"),
            Self::Text(text) => format!("{text}-{number}.vtt"),
        }
    }
}

impl Lane {
    fn new(pace: &Pace, parts: bool) -> Self {
        let rendition = Rendition::new(pace.segment_s, parts.then_some(pace.part));
        Self { rendition, inits: BTreeMap::new(), memory: VecDeque::new() }
    }

    /// Takes in a segment that comes as a whole.
    fn whole(&mut self, row: Row, mut info: SegmentInfo, bytes: Bytes) -> Write {
        let number = info.number;
        info.bytes = bytes.len() as u64;
        let lasts = info.duration;
        self.rendition.open(info);
        self.rendition.close(lasts);
        self.memory.push_back((number, vec![bytes.clone()]));
        Write { number, row, chunks: vec![bytes] }
    }

    fn in_memory(&self) -> usize {
        self.memory.iter().flat_map(|(_, parts)| parts).map(Bytes::len).fold(0, usize::saturating_add)
    }
}

impl Shelf {
    /// An empty shelf in `folder`, which keeps so much. Segments are numbered from `session` on.
    pub fn new(folder: PathBuf, keep: Duration, session: u64) -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0), folder, keep, session }
    }

    /// The number of the first segment.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Is told of every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes what the remuxer gave.
    pub async fn take(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let writes = self.lock().take(events);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        for write in writes {
            let path = self.folder.join(write.row.file(write.number));
            let length = write.chunks.iter().map(Bytes::len).fold(0, usize::saturating_add);
            let written =
                tokio::task::spawn_blocking(move || std::fs::write(path, write.chunks.concat())).await;
            let mut state = self.lock();
            if matches!(written, Ok(Ok(()))) {
                state.on_disk.insert((write.number, write.row), length as u64);
                state.bytes_on_disk = state.bytes_on_disk.saturating_add(length as u64);
            } else {
                if state.unwritten.is_empty() {
                    tracing::warn!("the disk takes nothing more: what is served cannot be gone back in");
                }
                state.unwritten.insert((write.number, write.row));
            }
        }
        let gone = self.lock().forget(self.keep);
        if !gone.is_empty() {
            let paths: Vec<PathBuf> =
                gone.iter().map(|(number, row)| self.folder.join(row.file(*number))).collect();
            let _ = tokio::task::spawn_blocking(move || {
                paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
            })
            .await;
        }
    }

    /// The broadcast is over.
    pub fn end(&self) {
        self.lock().end();
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whether a row has this segment, or this part of it, listed; None where nothing is known of the row.
    pub fn has(&self, row: Row, number: u64, part: Option<usize>) -> Option<bool> {
        self.lock().lane(row).map(|lane| lane.rendition.has(number, part))
    }

    /// The numbers of the segment and the part that come next.
    pub fn next(&self, row: Row) -> Option<(u64, usize)> {
        self.lock().lane(row).map(|lane| lane.rendition.next())
    }

    /// A media playlist, once players can begin with it.
    pub fn playlist(&self, row: Row, style: &Style<'_>) -> Option<String> {
        let state = self.lock();
        let lane = state.lane(row)?;
        // What has ended will not become more.
        (lane.rendition.is_ready(style.low_latency) || state.ended).then(|| lane.rendition.write(style))
    }

    /// Whether players can begin with a row.
    pub fn is_ready(&self, row: Row, low_latency: bool) -> bool {
        let state = self.lock();
        state.lane(row).is_some_and(|lane| lane.rendition.is_ready(low_latency) || state.ended)
    }

    /// The multivariant playlist, once all tracks can begin.
    pub fn variants(&self, file: &str, query: &str, low_latency: bool) -> Option<String> {
        let state = self.lock();
        let mut listed = Listed::default();
        for (track, lane) in &state.tracks {
            let Some((_, init)) = lane.inits.last_key_value() else { continue };
            if !lane.rendition.is_ready(low_latency) && !state.ended {
                return None;
            }
            let peak = lane.rendition.peak();
            match init.config.kind {
                minuet_remux::Kind::Video { .. } => listed.video = Some((*track, &init.config, peak)),
                minuet_remux::Kind::Sound { .. } => {
                    listed.sounds.push(Sound {
                        track: *track,
                        config: &init.config,
                        language: init.language,
                        peak,
                    });
                }
            }
        }
        listed.texts = state.texts.values().map(|(text, _)| *text).collect();
        let some = listed.video.is_some() || !listed.sounds.is_empty();
        some.then(|| multivariant(&listed, file, query))
    }

    /// What there is to play, for the page: how pictures and sound are coded; whether there are pictures at all.
    pub fn codings(&self) -> (Vec<String>, bool) {
        let state = self.lock();
        let codecs = state.tracks.values().filter_map(|lane| lane.inits.last_key_value());
        let codecs = codecs.map(|(_, init)| init.config.codecs.clone()).collect();
        (codecs, state.pace.is_some_and(|pace| pace.has_pictures))
    }

    /// Ingest times of the oldest and the newest segment of a row.
    pub fn span_ms(&self, row: Row) -> Option<(u64, u64)> {
        let state = self.lock();
        let mut segments = state.lane(row)?.rendition.segments();
        let first = segments.next()?.start_ms;
        Some((first, segments.next_back().map_or(first, |last| last.start_ms)))
    }

    /// The init segment of a track.
    pub fn init(&self, track: TrackId, number: u32) -> Option<Bytes> {
        Some(self.lock().tracks.get(&track)?.inits.get(&number)?.bytes.clone())
    }

    /// A part of a segment.
    pub fn part(&self, row: Row, number: u64, part: usize) -> Found {
        let state = self.lock();
        let Some(lane) = state.lane(row) else { return Found::None };
        let known =
            lane.memory.iter().find(|(known, _)| *known == number).and_then(|(_, parts)| parts.get(part));
        if let Some(bytes) = known {
            return Found::Here(bytes.len() as u64);
        }
        if (number, part) == lane.rendition.next() && !state.ended { Found::Later } else { Found::None }
    }

    /// A whole segment.
    pub fn segment(&self, row: Row, number: u64) -> Found {
        let state = self.lock();
        let Some(lane) = state.lane(row) else { return Found::None };
        if !lane.rendition.segment(number).is_some_and(|segment| segment.complete) {
            let next = lane.rendition.next().0;
            return if number == next && !state.ended { Found::Later } else { Found::None };
        }
        if let Some((_, parts)) = lane.memory.iter().find(|(known, _)| *known == number) {
            let lengths = parts.iter().map(|part| part.len() as u64);
            return Found::Here(lengths.fold(0, u64::saturating_add));
        }
        state.on_disk.get(&(number, row)).map_or(Found::None, |length| Found::Here(*length))
    }

    /// At most `most` bytes of what was found, from `at` on. A part is read only as long as it is in memory: who is further
    /// behind than that does not play with low latency.
    pub fn read(&self, place: Place, at: u64, most: usize) -> Read {
        let Place { row, number, part } = place;
        let state = self.lock();
        let in_memory = state
            .lane(row)
            .and_then(|lane| lane.memory.iter().find(|(known, _)| *known == number))
            .map(|(_, parts)| part.map_or(&parts[..], |part| parts.get(part..=part).unwrap_or_default()));
        match in_memory {
            Some(parts) => copied(parts, at, most).map_or(Read::None, Read::Bytes),
            None if part.is_none() && state.on_disk.contains_key(&(number, row)) => {
                Read::File(self.folder.join(row.file(number)))
            }
            None => Read::None,
        }
    }

    /// The tracks.
    pub fn tracks(&self) -> Vec<TrackId> {
        self.lock().tracks.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // An event is taken in as a whole, or what is missing of it is one segment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most `most` bytes of chunks, from `at` on; none if they end before.
fn copied(chunks: &[Bytes], at: u64, most: usize) -> Option<Bytes> {
    let mut skip = usize::try_from(at).ok()?;
    let mut copy = Vec::new();
    for chunk in chunks {
        let rest = chunk.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(chunk.len());
        let room = most.saturating_sub(copy.len());
        copy.extend_from_slice(&rest[..rest.len().min(room)]);
    }
    (!copy.is_empty()).then(|| copy.into())
}

impl State {
    fn end(&mut self) {
        self.ended = true;
        self.lanes_mut().for_each(|(_, lane)| lane.rendition.end());
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.tracks.values().chain(&self.feed).chain(self.texts.values().map(|(_, lane)| lane))
    }

    fn lanes_mut(&mut self) -> impl Iterator<Item = (Row, &mut Lane)> {
        let tracks = self.tracks.iter_mut().map(|(track, lane)| (Row::Track(*track), lane));
        let feed = self.feed.iter_mut().map(|lane| (Row::Feed, lane));
        tracks.chain(feed).chain(self.texts.iter_mut().map(|(text, (_, lane))| (Row::Text(*text), lane)))
    }

    fn lane(&self, row: Row) -> Option<&Lane> {
        match row {
            Row::Track(track) => self.tracks.get(&track),
            Row::Feed => self.feed.as_ref(),
            Row::Text(text) => self.texts.get(&text).map(|(_, lane)| lane),
        }
    }

    fn take(&mut self, events: Vec<Event>) -> Vec<Write> {
        let mut writes = Vec::new();
        for event in events {
            let Some(pace) = self.pace.or(match &event {
                Event::Ready(pace) => Some(*pace),
                _ => None,
            }) else {
                continue;
            };
            match event {
                Event::Ready(pace) => self.pace = Some(pace),
                Event::Init(init) => {
                    let lane = self.tracks.entry(init.track).or_insert_with(|| Lane::new(&pace, true));
                    lane.inits.insert(init.number, init);
                    while lane.inits.len() > MAX_INITS {
                        lane.inits.pop_first();
                    }
                }
                Event::Opened(opened) => {
                    let Some(lane) = self.tracks.get_mut(&opened.track) else { continue };
                    let (number, start_ms) = (opened.number, opened.start_ms);
                    lane.rendition.open(SegmentInfo::new(
                        number,
                        start_ms,
                        opened.discontinuity,
                        opened.init,
                    ));
                    lane.memory.push_back((number, Vec::new()));
                }
                Event::Part(part) => {
                    let Some(lane) = self.tracks.get_mut(&part.track) else { continue };
                    let info = PartInfo { duration: part.duration, independent: part.independent };
                    lane.rendition.part(info, part.bytes.len() as u64);
                    if let Some((_, parts)) = lane.memory.back_mut() {
                        parts.push(part.bytes);
                    }
                }
                Event::Closed(Closed { track, span }) => {
                    let Some(lane) = self.tracks.get_mut(&track) else { continue };
                    lane.rendition.close(span);
                    if let Some((number, parts)) = lane.memory.back().filter(|(_, parts)| !parts.is_empty()) {
                        writes.push(Write { number: *number, row: Row::Track(track), chunks: parts.clone() });
                    }
                }
                Event::Transport(segment) => {
                    let lane = self.feed.get_or_insert_with(|| Lane::new(&pace, false));
                    let mut info =
                        SegmentInfo::new(segment.number, segment.start_ms, segment.discontinuity, 0);
                    info.duration = segment.duration;
                    writes.push(lane.whole(Row::Feed, info, segment.bytes));
                }
                Event::Text(text) => {
                    let subtitles =
                        Subtitles { track: text.track, language: text.language, impaired: text.impaired };
                    let (_, lane) =
                        self.texts.entry(text.track).or_insert_with(|| (subtitles, Lane::new(&pace, false)));
                    let mut info = SegmentInfo::new(text.number, text.start_ms, text.discontinuity, 0);
                    info.duration = text.duration;
                    writes.push(lane.whole(Row::Text(text.track), info, text.bytes));
                }
            }
        }
        writes
    }

    /// Forgets what is too old or too much. Returns the files that are not needed any more.
    fn forget(&mut self, keep: Duration) -> Vec<(u64, Row)> {
        let newest = |lane: &Lane| lane.rendition.segments().next_back().map(|last| last.start_ms);
        let newest_ms = self.lanes().filter_map(newest).max().unwrap_or(0);
        let oldest_ms = newest_ms.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let (mut first, mut dropped) = (0, Vec::new());
        for (row, lane) in self.lanes_mut() {
            while lane.memory.len() > IN_MEMORY || lane.memory.len() > 2 && lane.in_memory() > MAX_MEMORY {
                let Some((number, _)) = lane.memory.pop_front() else { break };
                dropped.push((number, row));
            }
            let old = lane.rendition.segments().filter(|segment| segment.start_ms < oldest_ms);
            first = old.map(|segment| segment.number.saturating_add(1)).max().unwrap_or(0).max(first);
            let least_init = lane.inits.first_key_value().map_or(0, |(number, _)| *number);
            let has_inits = matches!(row, Row::Track(_));
            let lost = lane.rendition.segments().filter(|segment| has_inits && segment.init < least_init);
            first = lost.map(|segment| segment.number.saturating_add(1)).max().unwrap_or(0).max(first);
        }
        for (number, row) in dropped {
            if self.unwritten.remove(&(number, row)) {
                first = first.max(number.saturating_add(1));
            }
        }
        let mut gone = Vec::new();
        while let Some((&(number, row), &length)) = self.on_disk.first_key_value()
            && (number < first || self.bytes_on_disk > MAX_DISK)
        {
            self.on_disk.pop_first();
            self.bytes_on_disk = self.bytes_on_disk.saturating_sub(length);
            first = first.max(number.saturating_add(1));
            gone.push((number, row));
        }
        self.lanes_mut().for_each(|(_, lane)| lane.rendition.forget_before(first));
        gone
    }
}
