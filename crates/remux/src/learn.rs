//! The first moments of a stream: what parts and segments can be, which then never changes (rfc8216bis, 4.4.3.1 and
//! 4.4.3.7: players give up otherwise).

use std::time::Duration;

use crate::{event::Pace, frame::Entry};

/// Lengths of parts, the best first: the shorter, the nearer to the source; but each costs every player a request.
const PARTS_MS: [u64; 8] = [334, 400, 500, 600, 750, 1000, 2000, LONGEST_PART_MS];
const LONGEST_PART_MS: u64 = 5000;
/// Of a part target, no part is shorter, in per cent.
const LEAST_PART: u64 = 85;
/// No longer is looked, in stream time at 90 kHz.
const LONGEST_LOOK: i64 = 5 * 90_000;
/// Nor less, so that all tracks have come.
const SHORTEST_LOOK: i64 = 90_000 / 2;
/// Bounds of a segment in seconds.
const SEGMENT_S: std::ops::RangeInclusive<u32> = 2..=10;
/// Frames of a track whose lengths are looked at.
const MAX_LENGTHS: usize = 64;

/// Looks at the first frames.
#[derive(Debug, Default)]
pub struct Learner {
    start: Option<i64>,
    newest: i64,
    /// Decoding times of the leading pictures that decoding can start at.
    entries: Vec<i64>,
    /// Lengths of frames, at 90 kHz; the leading track's and the others'.
    leading: Vec<i64>,
    others: Vec<i64>,
    has_pictures: bool,
}

impl Learner {
    /// A frame of the track whose frames say where segments begin.
    pub fn lead(&mut self, time: i64, entry: Entry, video: bool) {
        self.has_pictures |= video;
        if self.start.is_none() {
            self.start = Some(time);
        } else if self.leading.len() < MAX_LENGTHS {
            self.leading.push(time.saturating_sub(self.newest));
        }
        self.newest = time;
        if entry != Entry::None && video && self.entries.len() < MAX_LENGTHS {
            self.entries.push(time);
        }
    }

    /// A frame of another track, of this length at 90 kHz.
    pub fn other(&mut self, length: i64) {
        if self.others.len() < MAX_LENGTHS {
            self.others.push(length);
        }
    }

    /// What can be said, once enough was seen. `complete`: all tracks have come.
    pub fn pace(&self, complete: bool) -> Option<Pace> {
        let seen = self.newest.saturating_sub(self.start?);
        let whole_group = !self.has_pictures || self.entries.len() > 2;
        let enough = seen >= SHORTEST_LOOK && whole_group && complete;
        if !enough && seen < LONGEST_LOOK {
            return None;
        }
        Some(self.decide())
    }

    fn decide(&self) -> Pace {
        let usual = |lengths: &[i64]| {
            let mut sorted: Vec<i64> = lengths.iter().copied().filter(|length| *length > 0).collect();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).copied().unwrap_or(0)
        };
        let frames = [usual(&self.leading), usual(&self.others)];
        let fits = |part_ms: &&u64| {
            let target = (**part_ms as i64).saturating_mul(90);
            let fills = |frame: i64| {
                let whole = target.checked_div(frame).map_or(target, |count| count.saturating_mul(frame));
                whole.saturating_mul(100) >= target.saturating_mul(LEAST_PART as i64)
            };
            frames.into_iter().all(fills)
        };
        let part_ms = PARTS_MS.iter().find(fits).copied().unwrap_or(LONGEST_PART_MS);
        let gaps = self.entries.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        // Who has not seen two of them has seen that they are far apart.
        let group =
            gaps.max().unwrap_or(if self.has_pictures { LONGEST_LOOK } else { 0 }).min(LONGEST_LOOK * 2);
        let group_s = u32::try_from(group.max(0).saturating_add(89_999) / 90_000).unwrap_or(u32::MAX);
        Pace {
            part: Duration::from_millis(part_ms),
            segment_s: group_s.clamp(*SEGMENT_S.start(), *SEGMENT_S.end()),
            has_pictures: self.has_pictures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(frame: i64, group: usize, other: i64, seconds: i64) -> Option<Pace> {
        let mut learner = Learner::default();
        for n in 0..(seconds * 90_000 / frame) {
            let entry = if (n as usize).is_multiple_of(group) { Entry::Clean } else { Entry::None };
            learner.lead(n * frame, entry, true);
            learner.other(other);
        }
        learner.pace(true)
    }

    #[test]
    fn parts_are_filled_by_whole_frames_and_segments_by_whole_groups() {
        let part = |frame, other| learn(frame, 2, other, 5).unwrap().part.as_millis();
        assert_eq!(part(3600, 1920), 334);
        assert_eq!(part(3003, 1920), 334);
        // Five pictures a second: one lasts 200 ms.
        assert_eq!(part(18_000, 1920), 400);
        // One a second.
        assert_eq!(part(90_000, 1920), 1000);
        assert_eq!(learn(3600, 50, 1920, 5).unwrap().segment_s, 2);
        assert_eq!(learn(3600, 60, 1920, 6).unwrap().segment_s, 3);
        assert_eq!(learn(3600, 1000, 1920, 3), None);
        assert_eq!(learn(3600, 1000, 1920, 6).unwrap().segment_s, 5);
    }
}
