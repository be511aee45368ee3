//! HLS playlists (RFC 8216 and its second edition, rfc8216bis): what players read to know what there is.
//!
//! A [`Rendition`] knows the segments of one track, or of the feed in MPEG-TS, and writes its media playlist; [`multivariant`]
//! writes the playlist that names the tracks. [`check()`] and [`Checker`] know the rules.
//!
//! All addresses are relative, so playlists can stand below any path.

mod check;
mod date;
mod variants;

use std::{collections::VecDeque, fmt::Write as _, time::Duration};

pub use check::{Checker, check};
pub use date::rfc3339;
pub use variants::{Listed, Sound, Subtitles, multivariant};

/// A part need not be shorter than the target by more than this.
const HOLD_PARTS: u32 = 3;
/// Players without low latency keep so many target durations behind the end.
const HOLD_TARGETS: u32 = 3;
/// Segments further from the end, in target durations, can be left out of an update.
const SKIP_TARGETS: u32 = 6;
/// Parts are listed of segments that are no further from the end, in target durations.
const PARTS_TARGETS: u32 = 3;
/// Without parts, players need so many segments to begin.
pub const FEWEST: usize = 3;

/// What is known of one part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartInfo {
    /// How long it is.
    pub duration: Duration,
    /// Decoding can start with its first frame.
    pub independent: bool,
}

/// What is known of one segment.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// When it came in, in Unix milliseconds.
    pub start_ms: u64,
    /// It does not go on from the one before.
    pub discontinuity: bool,
    /// The number of its init segment.
    pub init: u32,
    /// Its parts; none where it comes as a whole.
    pub parts: Vec<PartInfo>,
    /// Its length, so far.
    pub duration: Duration,
    /// Its size in bytes, so far.
    pub bytes: u64,
    /// Nothing more will be added.
    pub complete: bool,
}

impl SegmentInfo {
    /// A segment that begins.
    pub fn new(number: u64, start_ms: u64, discontinuity: bool, init: u32) -> Self {
        Self {
            number,
            start_ms,
            discontinuity,
            init,
            parts: Vec::new(),
            duration: Duration::ZERO,
            bytes: 0,
            complete: false,
        }
    }

    /// It is complete and has nothing.
    pub fn is_gap(&self) -> bool {
        self.complete && self.bytes == 0
    }
}

/// The segments of a track, or of the feed.
#[derive(Debug, Clone)]
pub struct Rendition {
    target_s: u32,
    /// None where segments come as a whole.
    part_target: Option<Duration>,
    segments: VecDeque<SegmentInfo>,
    /// Discontinuities before the first segment.
    discontinuities: u64,
    ended: bool,
}

/// How a media playlist is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style<'a> {
    /// With parts, and what is needed to wait for them.
    pub low_latency: bool,
    /// What players know is left out: they asked for an update.
    pub skip: bool,
    /// Only segments that came in at this time or later, in Unix milliseconds.
    pub from_ms: Option<u64>,
    /// Before the number in the name of each segment: a folder.
    pub folder: &'a str,
    /// Behind the number, as `.m4s`.
    pub ending: &'a str,
    /// Behind the name of each file: `?key=…`, or nothing.
    pub query: &'a str,
    /// Names init segments; these are cached for ever.
    pub session: u64,
}

impl Rendition {
    /// Without segments yet.
    pub fn new(target_s: u32, part_target: Option<Duration>) -> Self {
        Self { target_s, part_target, segments: VecDeque::new(), discontinuities: 0, ended: false }
    }

    /// A segment begins.
    pub fn open(&mut self, segment: SegmentInfo) {
        self.segments.push_back(segment);
    }

    /// A part of the open segment.
    pub fn part(&mut self, part: PartInfo, bytes: u64) {
        let Some(segment) = self.segments.back_mut().filter(|segment| !segment.complete) else { return };
        segment.parts.push(part);
        segment.duration = segment.duration.saturating_add(part.duration);
        segment.bytes = segment.bytes.saturating_add(bytes);
    }

    /// The open segment is complete; one that has nothing is a gap, which lasts for `span`.
    pub fn close(&mut self, span: Duration) {
        if let Some(segment) = self.segments.back_mut() {
            segment.complete = true;
            if segment.is_gap() {
                segment.duration = span;
            }
        }
    }

    /// Nothing more will come.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Forgets the segments before this number, and those behind them that have nothing.
    pub fn forget_before(&mut self, number: u64) {
        while let Some(first) = self.segments.front()
            && self.segments.len() > 1
            && (first.number < number || first.is_gap())
        {
            self.discontinuities = self.discontinuities.saturating_add(first.discontinuity.into());
            self.segments.pop_front();
        }
    }

    /// All segments, the oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &SegmentInfo> {
        self.segments.iter()
    }

    /// A segment by its number.
    pub fn segment(&self, number: u64) -> Option<&SegmentInfo> {
        let first = self.segments.front()?.number;
        self.segments.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// The number that the next segment will have, and the number of the next part: what a player may wait for.
    pub fn next(&self) -> (u64, usize) {
        match self.segments.back() {
            None => (0, 0),
            Some(last) if last.complete => (last.number.saturating_add(1), 0),
            Some(last) => (last.number, last.parts.len()),
        }
    }

    /// Whether the playlist has this segment as a whole, or with `part` this part of it.
    pub fn has(&self, number: u64, part: Option<usize>) -> bool {
        let (next, next_part) = self.next();
        self.ended || number < next || number == next && part.is_some_and(|part| part < next_part)
    }

    /// The greatest rate of the segments, in bits a second.
    pub fn peak(&self) -> u64 {
        let rate = |segment: &SegmentInfo| {
            let millis = segment.duration.as_millis().max(1) as u64;
            segment.bytes.saturating_mul(8000).checked_div(millis).unwrap_or(0)
        };
        self.segments.iter().filter(|segment| segment.complete).map(rate).max().unwrap_or(0)
    }

    /// Whether players can begin: there is enough for the way in which they play.
    pub fn is_ready(&self, low_latency: bool) -> bool {
        let complete = self.segments.iter().filter(|segment| segment.complete && !segment.is_gap()).count();
        complete >= if low_latency { 1 } else { FEWEST }
    }

    /// The media playlist.
    pub fn write(&self, style: &Style<'_>) -> String {
        let parts = self.part_target.filter(|_| style.low_latency);
        let mut listed =
            self.segments.iter().filter(|segment| segment.complete || parts.is_some()).peekable();
        let mut discontinuities = self.discontinuities;
        let from = |segment: &SegmentInfo| {
            style.from_ms.is_some_and(|from_ms| segment.start_ms < from_ms) || segment.is_gap()
        };
        while let Some(left_out) = listed.next_if(|segment| segment.complete && from(segment)) {
            discontinuities = discontinuities.saturating_add(left_out.discontinuity.into());
        }
        let listed: Vec<&SegmentInfo> = listed.collect();
        let target = Duration::from_secs(u64::from(self.target_s));
        let mut out = String::with_capacity(listed.len().saturating_mul(96).saturating_add(256));
        let first = listed.first().map_or_else(|| self.next().0, |segment| segment.number);
        let version = match (parts, style.ending) {
            (Some(_), _) => 9,
            (None, ".ts" | ".vtt") => 3,
            (None, _) => 6,
        };
        let _ = write!(out, "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{}\n", self.target_s);
        if let Some(part) = parts {
            let _ = write!(
                out,
                "#EXT-X-PART-INF:PART-TARGET={}\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={},\
                 HOLD-BACK={},CAN-SKIP-UNTIL={}\n",
                seconds(part),
                seconds(part.saturating_mul(HOLD_PARTS)),
                seconds(target.saturating_mul(HOLD_TARGETS)),
                seconds(target.saturating_mul(SKIP_TARGETS)),
            );
        }
        let _ = writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{first}");
        if discontinuities > 0 {
            let _ = writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuities}");
        }
        // How far each segment's end is from the end of the playlist.
        let mut behind = vec![Duration::ZERO; listed.len()];
        for index in (1..listed.len()).rev() {
            behind[index.saturating_sub(1)] = behind[index].saturating_add(listed[index].duration);
        }
        let old = |index: &usize| behind[*index] > target.saturating_mul(SKIP_TARGETS);
        let skipped =
            if style.skip && parts.is_some() { (0..listed.len()).take_while(old).count() } else { 0 };
        if skipped > 0 {
            let _ = writeln!(out, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}");
        }
        let mut init = listed[..skipped].last().map(|segment| segment.init);
        for (index, segment) in listed.iter().enumerate().skip(skipped) {
            self.write_segment(
                segment,
                style,
                parts.filter(|_| behind[index] < target.saturating_mul(PARTS_TARGETS)),
                &mut init,
                &mut out,
            );
        }
        if self.ended {
            out.push_str("#EXT-X-ENDLIST\n");
        } else if parts.is_some() && !listed.is_empty() {
            let (number, part) = self.next();
            let Style { folder, ending, query, .. } = style;
            let _ =
                writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{folder}{number}.{part}{ending}{query}\"");
        }
        out
    }

    fn write_segment(
        &self,
        segment: &SegmentInfo,
        style: &Style<'_>,
        parts: Option<Duration>,
        init: &mut Option<u32>,
        out: &mut String,
    ) {
        let Style { folder, ending, query, session, .. } = style;
        if segment.discontinuity {
            out.push_str("#EXT-X-DISCONTINUITY\n");
        }
        if !matches!(*ending, ".ts" | ".vtt") && init.replace(segment.init) != Some(segment.init) {
            let _ = writeln!(out, "#EXT-X-MAP:URI=\"{folder}init-{session}-{}.mp4{query}\"", segment.init);
        }
        let _ = writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", rfc3339(segment.start_ms));
        let number = segment.number;
        if let Some(target) = parts {
            for (index, part) in segment.parts.iter().enumerate() {
                let independent = if part.independent { ",INDEPENDENT=YES" } else { "" };
                let duration = seconds(part.duration.min(target));
                let _ = writeln!(
                    out,
                    "#EXT-X-PART:DURATION={duration},URI=\"{folder}{number}.{index}{ending}{query}\"{independent}"
                );
            }
        }
        if segment.complete {
            if segment.is_gap() {
                out.push_str("#EXT-X-GAP\n");
            }
            let longest =
                Duration::from_millis(u64::from(self.target_s).saturating_mul(1000).saturating_add(499));
            let duration = seconds(segment.duration.min(longest));
            let _ = writeln!(out, "#EXTINF:{duration},\n{folder}{number}{ending}{query}");
        }
    }
}

/// Seconds with microseconds.
fn seconds(duration: Duration) -> String {
    let text = format!("{}.{:06}", duration.as_secs(), duration.subsec_micros());
    let short = text.trim_end_matches('0');
    short.strip_suffix('.').unwrap_or(short).to_owned()
}
