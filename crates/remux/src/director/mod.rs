//! From frames to segments and parts of all tracks.
//!
//! One track leads: its frames say where all tracks' segments begin. Pictures lead where there are any. The others'
//! frames wait until the leading track has come to their time, since a boundary may fall before them.
//!
//! The tracks' clock begins at [`START`] and never goes back. Where the feed's clock leaps, it goes on from where it was,
//! and the segments there say that they do not follow.

mod segments;

use std::collections::VecDeque;

use minuet_media::Timestamp;

use crate::{
    event::{Event, Pace, TextId, TrackId, Transport},
    frame::{Entry, Frame},
    learn::Learner,
    streams::Streams,
    teletext::Caption,
    text::Captions,
    track::{Cut, Track},
    wall::Wall,
};

/// 90 kHz.
const SECOND: i64 = 90_000;
/// Where the tracks' clock begins: other tracks' first frames may be a little before the leading one's.
pub const START: i64 = 10 * SECOND;
/// The feed's clock leaps when it goes on so much.
const LEAP: i64 = 10 * SECOND;
/// It leaps when it goes back so much. What is less is a multiplexer that gives times in the wrong order.
const STEP_BACK: i64 = SECOND / 2;
/// A segment of pictures ends at the first place after so much where decoding can start.
const SEGMENT: i64 = SECOND - SECOND / 10;
/// A segment of sound alone is so long.
const SOUND_SEGMENT: i64 = 2 * SECOND;
/// A segment may be so much longer than the pace says: it is rounded to seconds.
const ROUNDED: i64 = 4 * SECOND / 10;
/// The leading track is silent when another is so far ahead; then that one leads.
const SILENCE: i64 = 3 * SECOND;
/// A track that has nothing for so long gets a gap.
const PATIENCE: i64 = 3 * SECOND;
/// Where pictures can be decoded from after a while, they begin there, if no better place came for so long.
const SLOW_ENTRY: i64 = 5 * SECOND;
/// A frame of sound is put where the one before ends, if it says that it is no further from there. RTMP's times, for one,
/// are whole milliseconds.
const TOLERANCE_MS: i64 = 10;
/// Frames that wait for the leading track, of each track.
const MAX_WAITING: usize = 4096;
/// And all of them, in bytes.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Presentation is no further from decoding.
const MAX_OFFSET: i64 = 10 * SECOND;

/// A frame with its place on the tracks' clock, at 90 kHz.
#[derive(Debug)]
struct Timed {
    time: i64,
    /// Presentation, the same clock.
    shown: i64,
    frame: Frame,
}

#[derive(Debug)]
struct Lane {
    track: Track,
    /// Frames that wait for the leading track.
    waiting: VecDeque<Timed>,
    /// Where its newest frame ends, and so the next one is expected.
    end: Option<i64>,
}

/// Arranges frames to segments; see the module.
#[derive(Debug)]
pub struct Director {
    lanes: Vec<Lane>,
    waiting_bytes: usize,
    /// The feed's clock and the tracks' at the newest leading frame.
    clock: Option<(Timestamp, i64)>,
    /// The track that leads now.
    leader: TrackId,
    /// Pictures should lead, and are silent.
    deputy: bool,
    /// The newest leading frame; its length is known when the next one is here.
    held: Option<Timed>,
    /// The length of the leading frame before.
    usual: i64,
    /// Leading frames that refer to lost ones are left out, since this time.
    broken_since: Option<i64>,
    /// The next segment does not go on from the one before.
    discontinuity: bool,
    learner: Option<Learner>,
    /// What came before the pace is known, and of which track. None: frames were lost.
    early: Vec<(TrackId, Option<Timed>)>,
    /// Frames before the first leading one.
    before: Vec<(TrackId, Frame)>,
    pace: Option<Pace>,
    /// The open segment.
    open: Option<OpenSegment>,
    /// Tracks of subtitles.
    texts: Vec<Captions>,
    next_number: u64,
    /// What came out and was not taken yet.
    pub out: Vec<Event>,
    /// Where the packets are to be cut: positions in the feed, with what is said of what ends there.
    pub cuts: Vec<(u64, Option<Transport>)>,
}

#[derive(Debug, Clone, Copy)]
struct OpenSegment {
    number: u64,
    start: i64,
    /// Where it begins by times of presentation.
    shown: i64,
    start_ms: u64,
    discontinuity: bool,
}

impl Director {
    /// Nothing has come; the first segment will have this number.
    pub fn new(first_segment: u64) -> Self {
        Self {
            lanes: Vec::new(),
            waiting_bytes: 0,
            clock: None,
            leader: 0,
            deputy: false,
            held: None,
            usual: 0,
            broken_since: None,
            discontinuity: false,
            learner: Some(Learner::default()),
            early: Vec::new(),
            before: Vec::new(),
            pace: None,
            open: None,
            texts: Vec::new(),
            next_number: first_segment,
            out: Vec::new(),
            cuts: Vec::new(),
        }
    }

    /// Has a lane for each track.
    pub fn arrange(&mut self, streams: &Streams) {
        for (id, slot) in streams.slots().iter().enumerate() {
            if self.lanes.len() <= id {
                let mut track = Track::new(id, slot.video);
                if let Some(pace) = self.pace {
                    track.set_part_target(pace.part);
                }
                if let Some(open) = self.open {
                    let OpenSegment { number, start: time, start_ms, .. } = open;
                    track.cut(
                        Cut { time, number, discontinuity: open.discontinuity, start_ms },
                        &mut self.out,
                    );
                    track.apply(&mut self.out);
                }
                self.lanes.push(Lane { track, waiting: VecDeque::new(), end: None });
            }
            self.lanes[id].track.language = slot.language;
        }
        for page in streams.texts().iter().skip(self.texts.len()) {
            self.texts.push(Captions::new(page.language, page.impaired));
        }
        if let Some(leader) = streams.leader().filter(|leader| *leader != self.leader && !self.deputy) {
            self.held = None;
            self.leader = leader;
            self.discontinuity |= self.clock.is_some();
        }
    }

    fn is_video(&self, id: TrackId) -> bool {
        self.lanes.get(id).is_some_and(|lane| lane.track.video)
    }

    /// A frame of a track.
    pub fn frame(&mut self, id: TrackId, frame: Frame, wall: &mut Wall) {
        let leads = id == self.leader;
        if self.clock.is_none() && !(leads && self.begins(&frame)) {
            if !leads && self.before.len() < MAX_WAITING {
                self.before.push((id, frame));
            }
            return;
        }
        if self.deputy && self.is_video(id) && !leads {
            // Pictures are back.
            if frame.entry != Entry::Clean {
                return;
            }
            self.deputy = false;
            self.leader = id;
            self.discontinuity = true;
            return self.lead(id, frame, wall);
        }
        if leads { self.lead(id, frame, wall) } else { self.follow(id, frame, wall) }
    }

    /// Whether a leading frame can be the first.
    fn begins(&mut self, frame: &Frame) -> bool {
        let waited = self.broken_since.get_or_insert(0);
        // Before the first there is no clock: frames are counted, at least ten a second.
        *waited = waited.saturating_add(SECOND / 25);
        let patience = *waited;
        let begins = match frame.entry {
            Entry::Clean => true,
            Entry::Slow => patience > SLOW_ENTRY,
            Entry::None => patience > 4 * SLOW_ENTRY,
        } && frame.pts.is_some();
        if begins {
            self.broken_since = None;
        }
        begins
    }

    /// A track of subtitles shows something else.
    pub fn caption(&mut self, id: TextId, caption: Caption) {
        let (Some((raw, leading)), Some(text)) = (self.clock, self.texts.get_mut(id)) else { return };
        let ahead = caption.pts.map_or(0, |pts| pts.since(raw));
        if ahead.abs() <= LEAP {
            text.change(leading.saturating_add(ahead), caption.lines);
        }
    }

    /// A frame of the leading track.
    fn lead(&mut self, id: TrackId, frame: Frame, wall: &mut Wall) {
        let raw = frame.dts.or(frame.pts);
        let expected = self.expected(id);
        let (time, raw) = match (self.clock, raw) {
            (None, Some(raw)) => (START, raw),
            (None, None) => return,
            (Some((before, last)), None) => {
                let time = expected.unwrap_or(last.saturating_add(1));
                (time, before.shifted(time.saturating_sub(last)))
            }
            (Some((before, last)), Some(raw)) => match raw.since(before) {
                step if !(-STEP_BACK..=LEAP).contains(&step) => {
                    self.leap(wall);
                    (expected.unwrap_or(last).max(last.saturating_add(1)), raw)
                }
                step => (last.saturating_add(step.max(1)), raw),
            },
        };
        self.clock = Some((raw, time));
        wall.frame(time, frame.position);
        let offset = match (frame.pts, frame.dts) {
            (Some(pts), Some(dts)) => pts.since(dts).clamp(0, MAX_OFFSET),
            _ => 0,
        };
        let timed = Timed { time, shown: time.saturating_add(offset), frame };
        if let Some(learner) = &mut self.learner {
            learner.lead(time, timed.frame.entry, self.lanes[id].track.video);
        }
        self.place(id, timed, wall);
        for (id, frame) in std::mem::take(&mut self.before) {
            self.follow(id, frame, wall);
        }
    }

    /// Where a track's next frame is expected, at 90 kHz.
    fn expected(&self, id: TrackId) -> Option<i64> {
        let usual = if self.is_video(id) { self.usual.max(1) } else { 0 };
        self.lanes.get(id)?.end.map(|end| end.saturating_add(usual))
    }

    /// A frame of another track than the leading one.
    fn follow(&mut self, id: TrackId, frame: Frame, wall: &mut Wall) {
        let Some((raw, leading)) = self.clock else { return };
        let time = match frame.pts {
            Some(pts) => {
                let ahead = pts.since(raw);
                if ahead.abs() > LEAP {
                    return;
                }
                leading.saturating_add(ahead)
            }
            // A further frame of its PES packet.
            None => match self.lanes[id].end {
                Some(time) => time,
                None => return,
            },
        };
        if let Some(learner) = &mut self.learner {
            learner.other(length(&frame));
        }
        let silent = time.saturating_sub(leading) > SILENCE;
        self.place(id, Timed { time, shown: time, frame }, wall);
        if silent && self.learner.is_none() && self.is_video(self.leader) {
            self.finish_held(wall);
            self.deputy = true;
            self.leader = id;
            let waiting = std::mem::take(&mut self.lanes[id].waiting);
            for timed in waiting {
                let raw = raw.shifted(timed.time.saturating_sub(leading));
                self.clock = Some((raw, timed.time.max(leading)));
                self.route(id, timed, wall);
            }
        }
    }

    /// Puts a frame to the others of its time, or keeps it until the pace is known.
    fn place(&mut self, id: TrackId, timed: Timed, wall: &mut Wall) {
        self.lanes[id].end = Some(timed.time.saturating_add(length(&timed.frame)));
        let Some(learner) = &self.learner else { return self.route(id, timed, wall) };
        self.waiting_bytes = self.waiting_bytes.saturating_add(timed.frame.data.len());
        self.early.push((id, Some(timed)));
        let has_come = |id: TrackId| self.early.iter().any(|(came, _)| *came == id);
        let complete = (0..self.lanes.len()).all(has_come);
        let full = self.waiting_bytes > MAX_WAITING_BYTES || self.early.len() > MAX_WAITING;
        let pace = learner.pace(complete || full).or_else(|| full.then(|| learner.pace(true)).flatten());
        let Some(pace) = pace else {
            if full {
                self.early.clear();
                self.waiting_bytes = 0;
                self.clock = None;
                self.learner = Some(Learner::default());
            }
            return;
        };
        self.learner = None;
        self.pace = Some(pace);
        self.waiting_bytes = 0;
        for lane in &mut self.lanes {
            lane.track.set_part_target(pace.part);
        }
        self.out.push(Event::Ready(pace));
        // All tracks are told of before the first of them begins.
        for id in 0..self.lanes.len() {
            let mut its_own = self.early.iter().filter(|(of, _)| *of == id);
            let first = its_own.find_map(|(_, timed)| timed.as_ref()?.frame.config.clone());
            if let Some(config) = first {
                self.lanes[id].track.configure(&config, &mut self.out);
            }
        }
        for (id, timed) in std::mem::take(&mut self.early) {
            match timed {
                Some(timed) => self.route(id, timed, wall),
                None => self.broken(id, wall),
            }
        }
    }

    fn route(&mut self, id: TrackId, timed: Timed, wall: &mut Wall) {
        if id != self.leader {
            self.waiting_bytes = self.waiting_bytes.saturating_add(timed.frame.data.len());
            let lane = &mut self.lanes[id];
            lane.waiting.push_back(timed);
            while lane.waiting.len() > MAX_WAITING || self.waiting_bytes > MAX_WAITING_BYTES {
                let Some(dropped) = lane.waiting.pop_front() else { break };
                self.waiting_bytes = self.waiting_bytes.saturating_sub(dropped.frame.data.len());
            }
            // A track that is behind the leading one need not wait.
            return self.release();
        }
        if self.lanes[id].track.video || timed.frame.duration.is_none() {
            if self.skipped(&timed) {
                self.finish_held(wall);
                self.overdue(&timed, wall);
            } else if let Some(held) = self.held.take() {
                let lasts = timed.time.saturating_sub(held.time);
                let most = self.pace.map_or(SECOND, |pace| (pace.part.as_millis() as i64).saturating_mul(90));
                // What is longer than a part is a gap.
                let lasts = if lasts > most { self.usual.clamp(1, most) } else { lasts };
                self.usual = lasts;
                self.held = Some(timed);
                self.commit(id, held, lasts, wall);
            } else {
                self.held = Some(timed);
            }
        } else {
            let lasts = length(&timed.frame);
            self.commit(id, timed, lasts, wall);
        }
        self.release();
    }

    /// Whether a leading picture is to be left out, since it refers to lost ones.
    fn skipped(&mut self, timed: &Timed) -> bool {
        let Some(since) = self.broken_since else { return false };
        let begins = match timed.frame.entry {
            Entry::Clean => true,
            Entry::Slow => timed.time.saturating_sub(since) > SLOW_ENTRY,
            Entry::None => false,
        };
        if begins {
            self.broken_since = None;
        }
        !begins
    }

    /// Frames of a track are lost that others refer to.
    pub fn broken(&mut self, id: TrackId, wall: &mut Wall) {
        let Some((_, time)) = self.clock.filter(|_| id == self.leader) else { return };
        if self.learner.is_some() {
            if self.early.len() < MAX_WAITING {
                self.early.push((id, None));
            }
        } else {
            self.finish_held(wall);
            self.broken_since.get_or_insert(time);
        }
    }

    /// The held frame will have no follower.
    fn finish_held(&mut self, wall: &mut Wall) {
        if let Some(held) = self.held.take() {
            let lasts = self.usual.max(1);
            self.commit(self.leader, held, lasts, wall);
        }
    }
}

/// How long a frame is at 90 kHz; 0 where only the next one tells.
fn length(frame: &Frame) -> i64 {
    match (&frame.config, frame.duration) {
        (Some(config), Some(duration)) => to_90k(i64::from(duration), config.timescale),
        _ => 0,
    }
}

fn to_90k(time: i64, timescale: u32) -> i64 {
    scaled(time, SECOND, i64::from(timescale.max(1)))
}

fn from_90k(time: i64, timescale: u32) -> i64 {
    scaled(time, i64::from(timescale), SECOND)
}

/// `value * by / of`, to the nearest.
fn scaled(value: i64, by: i64, of: i64) -> i64 {
    let exact = i128::from(value).saturating_mul(by.into()).saturating_add(i128::from(of) / 2);
    i64::try_from(exact.div_euclid(i128::from(of))).unwrap_or(i64::MAX)
}

fn duration(ticks: i64) -> std::time::Duration {
    minuet_media::Ticks(u64::try_from(ticks).unwrap_or(0)).as_duration()
}
