//! Where segments begin and end, and what goes into them.

use super::{
    Director, OpenSegment, PATIENCE, ROUNDED, SECOND, SEGMENT, SOUND_SEGMENT, START, TOLERANCE_MS, Timed,
    duration, from_90k, length,
};
use crate::{
    boxes::Sample,
    event::{Event, Text, TrackId, Transport},
    frame::Entry,
    track::Cut,
    wall::Wall,
};

impl Director {
    /// Takes in a leading frame, which lasts for `lasts`.
    pub(super) fn commit(&mut self, id: TrackId, timed: Timed, lasts: i64, wall: &mut Wall) {
        let half = length(&timed.frame) / 2;
        let track = &mut self.lanes[id].track;
        // Boundaries of a time when another led.
        while track.next_cut().is_some_and(|cut| timed.time.saturating_add(half) >= cut.time) {
            track.apply(&mut self.out);
        }
        let differs = timed.frame.config.as_ref().is_some_and(|config| self.lanes[id].track.differs(config));
        let can_begin = timed.frame.entry != Entry::None;
        let due = match self.open {
            None => true,
            Some(open) => {
                let long = timed.time.saturating_sub(open.start);
                let goal = if self.lanes[id].track.video { SEGMENT } else { SOUND_SEGMENT };
                let anew = self.discontinuity || differs;
                // One that goes on for a whole segment: single deliveries may be late.
                let anew = anew || long >= goal && wall.is_astray();
                let overdue = long.saturating_add(lasts) > self.longest();
                can_begin && (anew || long >= goal) || overdue
            }
        };
        if due {
            let anew = differs || self.discontinuity || wall.is_astray();
            self.cut(timed.time, timed.shown, timed.frame.position, anew, wall);
        }
        self.sample(id, timed, lasts);
    }

    /// Cuts where pictures are left out for so long that the segment would become too long.
    pub(super) fn overdue(&mut self, timed: &Timed, wall: &mut Wall) {
        if self.open.is_some_and(|open| {
            timed.time.saturating_sub(open.start) > self.longest().saturating_sub(SECOND / 10)
        }) {
            self.cut(timed.time, timed.shown, timed.frame.position, self.discontinuity, wall);
        }
    }

    fn longest(&self) -> i64 {
        self.pace
            .map_or(i64::MAX, |pace| i64::from(pace.segment_s).saturating_mul(SECOND).saturating_add(ROUNDED))
    }

    /// All tracks' segments end here: the leading one's at `time`, the others' at `shown`.
    pub(super) fn cut(&mut self, time: i64, shown: i64, position: u64, discontinuity: bool, wall: &mut Wall) {
        let discontinuity = discontinuity && self.open.is_some();
        self.discontinuity = false;
        let start_ms = wall.cut(time, discontinuity || self.open.is_none());
        let said = self.open.map(|open| Transport {
            number: open.number,
            start_ms: open.start_ms,
            duration: duration(time.saturating_sub(open.start)),
            discontinuity: open.discontinuity,
            bytes: bytes::Bytes::new(),
        });
        self.cuts.push((position, said));
        self.cut_texts(shown, duration(time.saturating_sub(self.open.map_or(time, |open| open.start))));
        let number = self.next_number;
        self.next_number = self.next_number.saturating_add(1);
        self.open = Some(OpenSegment { number, start: time, shown, start_ms, discontinuity });
        for id in 0..self.lanes.len() {
            let leads = id == self.leader;
            let cut = Cut { time: if leads { time } else { shown }, number, discontinuity, start_ms };
            let lane = &mut self.lanes[id];
            lane.track.cut(cut, &mut self.out);
            if leads {
                // Boundaries that it has not come to yet are those of a time when it did not lead.
                while lane.track.next_cut().is_some() {
                    lane.track.apply(&mut self.out);
                }
            }
        }
    }

    /// The open segment's subtitles end at `shown`.
    fn cut_texts(&mut self, shown: i64, lasts: std::time::Duration) {
        let Some(open) = self.open else { return };
        for (track, captions) in self.texts.iter_mut().enumerate() {
            let (language, impaired) = (captions.language, captions.impaired);
            self.out.push(Event::Text(Text {
                track,
                language,
                impaired,
                number: open.number,
                start_ms: open.start_ms,
                duration: lasts,
                discontinuity: open.discontinuity,
                bytes: captions.cut(open.shown, shown).into(),
            }));
        }
    }

    /// Hands the other tracks' frames on that the leading track has come to.
    pub(super) fn release(&mut self) {
        let Some((_, newest)) = self.clock.filter(|_| self.open.is_some()) else { return };
        let limit = self.held.as_ref().map_or(newest, |held| held.time);
        for id in 0..self.lanes.len() {
            if id == self.leader {
                continue;
            }
            while self.lanes[id].waiting.front().is_some_and(|timed| timed.time < limit) {
                let Some(timed) = self.lanes[id].waiting.pop_front() else { break };
                self.waiting_bytes = self.waiting_bytes.saturating_sub(timed.frame.data.len());
                self.sample_of_other(id, timed);
            }
            let track = &mut self.lanes[id].track;
            while track.next_cut().is_some_and(|cut| limit.saturating_sub(cut.time) > PATIENCE) {
                track.apply(&mut self.out);
            }
        }
    }

    fn sample_of_other(&mut self, id: TrackId, timed: Timed) {
        let half = length(&timed.frame) / 2;
        let track = &mut self.lanes[id].track;
        while let Some(cut) = track.next_cut().filter(|cut| timed.time.saturating_add(half) >= cut.time) {
            let frame_differs = timed.frame.config.as_ref().is_some_and(|config| track.differs(config));
            track.apply(&mut self.out);
            if cut.discontinuity
                && frame_differs
                && let Some(config) = &timed.frame.config
            {
                track.configure(config, &mut self.out);
            }
        }
        if track.segment_start().is_none_or(|start| timed.time.saturating_add(half) < start) {
            return;
        }
        if timed.frame.config.as_ref().is_some_and(|config| track.differs(config)) {
            // It begins with the next segment, which then says that it does not go on from the one before.
            self.discontinuity = true;
            return;
        }
        let lasts = length(&timed.frame);
        self.sample(id, timed, lasts);
    }

    /// Adds a frame to its track.
    fn sample(&mut self, id: TrackId, timed: Timed, lasts: i64) {
        let Timed { time, shown, frame } = timed;
        let Some(config) = &frame.config else { return };
        let track = &mut self.lanes[id].track;
        track.configure(config, &mut self.out);
        if !track.has_config() {
            return;
        }
        let timescale = track.timescale();
        let (mut at, duration) = match frame.duration {
            Some(duration) => (from_90k(time, timescale), duration),
            None => (from_90k(time, timescale), u32::try_from(lasts).unwrap_or(u32::MAX)),
        };
        if let Some(next) = track.next {
            let tolerance = if frame.duration.is_some() {
                i64::from(timescale).saturating_mul(TOLERANCE_MS) / 1000
            } else {
                0
            };
            if at.saturating_sub(next).saturating_abs() <= tolerance {
                at = next;
            } else if at < next {
                return;
            }
        }
        let offset = i32::try_from(shown.saturating_sub(time)).unwrap_or(0);
        let sync = frame.entry != Entry::None;
        let sample = Sample { data: frame.data, duration, offset, sync, disposable: frame.disposable };
        track.add(sample, at, frame.entry, &mut self.out);
    }

    /// The feed's clock leaps: what waits belongs before that.
    pub(super) fn leap(&mut self, wall: &mut Wall) {
        self.finish_held(wall);
        for id in 0..self.lanes.len() {
            for timed in std::mem::take(&mut self.lanes[id].waiting) {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(timed.frame.data.len());
                if self.open.is_some() {
                    self.sample_of_other(id, timed);
                }
            }
        }
        wall.leap();
        self.discontinuity = true;
        if self.is_video(self.leader) {
            let time = self.clock.map_or(START, |(_, time)| time);
            self.broken_since = Some(time);
        }
    }

    /// A segment has too many bytes.
    pub fn overflow(&mut self, wall: &mut Wall, position: u64) {
        match self.open {
            Some(_) => {
                self.finish_held(wall);
                let time = self.clock.map_or(START, |(_, time)| time);
                self.cut(time, time, position, false, wall);
            }
            None => self.cuts.push((position, None)),
        }
    }

    /// The feed has ended at `position`.
    pub fn end(&mut self, wall: &mut Wall, position: u64) {
        if let Some(learner) = self.learner.take()
            && !self.early.is_empty()
        {
            // Too short to be learned of: what there was of it.
            let mut learner = learner;
            learner.lead(i64::MAX / 4, Entry::None, false);
            self.learner = Some(learner);
            while let Some((id, timed)) = self.early.pop() {
                let Some(timed) = timed else { continue };
                self.place(id, timed, wall);
                break;
            }
        }
        self.finish_held(wall);
        for id in 0..self.lanes.len() {
            for timed in std::mem::take(&mut self.lanes[id].waiting) {
                if self.open.is_some() {
                    self.sample_of_other(id, timed);
                }
            }
        }
        let Some(open) = self.open else { return };
        let end = self.expected(self.leader).unwrap_or(open.start);
        let lasts = end.saturating_sub(open.start);
        self.cut_texts(lasts.saturating_add(open.shown), duration(lasts));
        self.open = None;
        let said = Transport {
            number: open.number,
            start_ms: open.start_ms,
            duration: duration(lasts),
            discontinuity: open.discontinuity,
            bytes: bytes::Bytes::new(),
        };
        self.cuts.push((position, Some(said)));
        for lane in &mut self.lanes {
            let time = end;
            lane.track.cut(
                Cut { time, number: self.next_number, discontinuity: false, start_ms: 0 },
                &mut self.out,
            );
            while lane.track.next_cut().is_some() {
                lane.track.apply(&mut self.out);
            }
        }
    }
}
