//! One track: frames become fragments, fragments parts, parts segments.
//!
//! Times here are in the track's own timescale. A track never has two samples at one time, nor one before another: what
//! comes late is dropped.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    boxes::{self, Sample},
    event::{Closed, Event, Init, Opened, Part, TrackId},
    frame::{Config, Entry},
};

/// Samples of a part; one more begins the next part.
const MAX_SAMPLES: usize = 1024;
/// Cuts that a track has not come to yet.
const MAX_CUTS: usize = 16;
/// Of a part target, no part is shorter that ends for a key frame in the middle of a segment, in per cent.
const LEAST_PART: u64 = 85;

/// A boundary of all tracks' segments.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Where, at 90 kHz.
    pub time: i64,
    /// The number of the segment that begins.
    pub number: u64,
    /// It does not go on from the segment before.
    pub discontinuity: bool,
    /// When it came in.
    pub start_ms: u64,
}

/// A track.
#[derive(Debug)]
pub struct Track {
    id: TrackId,
    /// Of pictures.
    pub video: bool,
    /// Its language.
    pub language: Option<[u8; 3]>,
    config: Option<Arc<Config>>,
    inits: u32,
    /// Where the next sample is expected.
    pub next: Option<i64>,
    /// No part is longer.
    part_target: Duration,
    segment: Option<Segment>,
    part: OpenPart,
    cuts: VecDeque<Cut>,
    sequence: u32,
}

#[derive(Debug)]
struct Segment {
    cut: Cut,
    /// It was told of.
    told: bool,
}

#[derive(Debug, Default)]
struct OpenPart {
    /// Fragments that are complete.
    bytes: Vec<u8>,
    /// Of the open fragment.
    samples: Vec<Sample>,
    /// The first sample's time.
    start: i64,
    /// Of all fragments.
    ticks: u64,
    count: usize,
    independent: bool,
}

impl Track {
    /// A track without a config yet.
    pub fn new(id: TrackId, video: bool) -> Self {
        Self {
            id,
            video,
            language: None,
            config: None,
            inits: 0,
            next: None,
            part_target: Duration::ZERO,
            segment: None,
            part: OpenPart::default(),
            cuts: VecDeque::new(),
            sequence: 0,
        }
    }

    /// Says how long parts are.
    pub fn set_part_target(&mut self, part_target: Duration) {
        self.part_target = part_target;
    }

    /// Whether frames of this config need another init segment.
    pub fn differs(&self, config: &Arc<Config>) -> bool {
        self.config.as_ref().is_some_and(|known| !Arc::ptr_eq(known, config) && known != config)
    }

    /// Whether there is an init segment.
    pub fn has_config(&self) -> bool {
        self.config.is_some()
    }

    /// Ticks a second.
    pub fn timescale(&self) -> u32 {
        self.config.as_ref().map_or(90_000, |config| config.timescale)
    }

    /// Takes a config for what follows.
    pub fn configure(&mut self, config: &Arc<Config>, out: &mut Vec<Event>) {
        if self.config.is_some() && !self.differs(config) {
            return;
        }
        let Ok(bytes) = boxes::init(config, self.language) else { return };
        if self.timescale() != config.timescale {
            self.next = None;
        }
        self.config = Some(Arc::clone(config));
        let number = self.inits;
        self.inits = self.inits.saturating_add(1);
        let config = Arc::clone(config);
        out.push(Event::Init(Init { track: self.id, number, config, language: self.language, bytes }));
    }

    /// There is a boundary; the track has perhaps not come to it.
    pub fn cut(&mut self, cut: Cut, out: &mut Vec<Event>) {
        if self.cuts.len() >= MAX_CUTS {
            self.apply(out);
        }
        self.cuts.push_back(cut);
    }

    /// The next boundary.
    pub fn next_cut(&self) -> Option<Cut> {
        self.cuts.front().copied()
    }

    /// Where the open segment begins, at 90 kHz.
    pub fn segment_start(&self) -> Option<i64> {
        self.segment.as_ref().map(|segment| segment.cut.time)
    }

    /// Ends the open segment, and begins the next one.
    pub fn apply(&mut self, out: &mut Vec<Event>) {
        let Some(cut) = self.cuts.pop_front() else { return };
        self.close_part(out);
        if let Some(segment) = &self.segment {
            let ticks = u64::try_from(cut.time.saturating_sub(segment.cut.time)).unwrap_or(0);
            self.tell(out);
            out.push(Event::Closed(Closed {
                track: self.id,
                span: minuet_media::Ticks(ticks).as_duration(),
            }));
        }
        self.segment = Some(Segment { cut, told: false });
    }

    /// Adds a sample that is decoded at `time`. The caller has seen to it that it is not before the last one's end.
    pub fn add(&mut self, mut sample: Sample, time: i64, entry: Entry, out: &mut Vec<Event>) {
        let timescale = u64::from(self.timescale());
        let target = (self.part_target.as_nanos() as u64).saturating_mul(timescale) / 1_000_000_000;
        let part = &self.part;
        if part.count > 0
            && part.ticks.saturating_mul(100) < target.saturating_mul(LEAST_PART)
            && part.ticks < target
        {
            // A frame that stands for lost ones as well would leave the part too short: what it is longer is a gap.
            let room = u32::try_from(target.saturating_sub(part.ticks)).unwrap_or(u32::MAX);
            sample.duration = sample.duration.min(room);
        }
        let duration = u64::from(sample.duration);
        let full = part.ticks.saturating_add(duration) > target || part.count >= MAX_SAMPLES;
        let at_entry = self.video
            && entry == Entry::Clean
            && part.ticks.saturating_mul(100) >= target.saturating_mul(LEAST_PART);
        if part.count > 0 && (full || at_entry) {
            self.close_part(out);
        }
        let follows = self.part.samples.is_empty()
            || self.next.is_some_and(|next| next == time) && !self.part.samples.is_empty();
        if !follows {
            self.close_fragment();
        }
        if self.part.samples.is_empty() {
            self.part.start = time;
        }
        if self.part.count == 0 {
            self.part.independent = entry == Entry::Clean || entry == Entry::Slow && sample.sync;
        }
        self.part.count = self.part.count.saturating_add(1);
        self.part.ticks = self.part.ticks.saturating_add(duration);
        self.part.samples.push(sample);
        self.next = Some(time.saturating_add(duration as i64));
    }

    fn close_fragment(&mut self) {
        let samples = std::mem::take(&mut self.part.samples);
        if samples.is_empty() {
            return;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let length = self.part.bytes.len();
        let time = u64::try_from(self.part.start).unwrap_or(0);
        if boxes::fragment(self.sequence, time, &samples, &mut self.part.bytes).is_err() {
            // Nothing half written.
            self.part.bytes.truncate(length);
        }
    }

    /// Ends the open part, if there is one.
    pub fn close_part(&mut self, out: &mut Vec<Event>) {
        self.close_fragment();
        let part = std::mem::take(&mut self.part);
        if part.bytes.is_empty() || self.segment.is_none() {
            return;
        }
        self.tell(out);
        let nanos = u128::from(part.ticks)
            .saturating_mul(1_000_000_000)
            .checked_div(self.timescale().into())
            .unwrap_or(0);
        let duration = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        out.push(Event::Part(Part {
            track: self.id,
            duration,
            independent: part.independent,
            bytes: part.bytes.into(),
        }));
    }

    fn tell(&mut self, out: &mut Vec<Event>) {
        let init = self.inits.saturating_sub(1);
        if let Some(segment) = &mut self.segment
            && !std::mem::replace(&mut segment.told, true)
        {
            let Cut { number, start_ms, discontinuity, .. } = segment.cut;
            out.push(Event::Opened(Opened { track: self.id, number, start_ms, discontinuity, init }));
        }
    }
}
