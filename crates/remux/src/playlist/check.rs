//! The rules of media playlists, as a check.
//!
//! [`check`] looks at one playlist, [`Checker`] at each of a row of them that one player got. A violation is a sentence.
//! The numbers are the sections of rfc8216bis.

use std::collections::BTreeMap;

/// What a playlist says.
#[derive(Debug, Clone, Default)]
struct Read {
    target: Option<f64>,
    part_target: Option<f64>,
    hold_back: Option<f64>,
    part_hold_back: Option<f64>,
    skip_until: Option<f64>,
    blocks: bool,
    first: u64,
    discontinuities: u64,
    skipped: u64,
    segments: Vec<ReadSegment>,
    hint: Option<String>,
    ended: bool,
}

impl Read {
    /// The number of the segment that follows.
    fn next(&self) -> u64 {
        self.first.saturating_add(self.skipped).saturating_add(self.segments.len() as u64)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ReadSegment {
    number: u64,
    duration: Option<f64>,
    address: String,
    date: Option<String>,
    discontinuity: bool,
    gap: bool,
    /// Duration, whether independent, address.
    parts: Vec<(f64, bool, String)>,
}

/// What a printed duration may be off, in seconds.
const ROUNDED: f64 = 0.000_002;

/// The rules that one playlist breaks.
pub fn check(playlist: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let read = read(playlist, &mut wrong);
    alone(&read, &mut wrong);
    wrong
}

/// Checks each of a row of playlists of one rendition.
#[derive(Debug, Default)]
pub struct Checker {
    before: Option<Read>,
    /// Duration and address of each segment that was ever complete, and how often a discontinuity came up to it.
    known: BTreeMap<u64, (f64, String, u64)>,
}

impl Checker {
    /// The rules that the next playlist breaks.
    pub fn next(&mut self, playlist: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let read = read(playlist, &mut wrong);
        alone(&read, &mut wrong);
        if let Some(before) = &self.before {
            if (before.target, before.part_target) != (read.target, read.part_target) {
                wrong.push("4.4.3.1, 4.4.3.7: target durations never change".into());
            }
            if read.first < before.first {
                wrong.push("6.2.2: the first segment's number went back".into());
            }
            let last = |read: &Read| read.segments.last().map_or(0, |segment| segment.number);
            if last(&read) < last(before) {
                wrong.push("6.2.2: a segment went away from the end".into());
            }
        }
        let mut discontinuities = read.discontinuities;
        if read.skipped > 0 {
            let first = read.first.saturating_add(read.skipped);
            match first.checked_sub(1).and_then(|last| self.known.get(&last)) {
                Some((.., count)) => discontinuities = *count,
                None => wrong.push("4.4.5.2: a segment was skipped that was never told of".into()),
            }
        }
        for segment in &read.segments {
            discontinuities = discontinuities.saturating_add(segment.discontinuity.into());
            let Some(duration) = segment.duration else { continue };
            let now = (duration, segment.address.clone(), discontinuities);
            match self.known.insert(segment.number, now.clone()) {
                Some(then) if then != now => {
                    wrong.push(format!("6.2.1: segment {} was {then:?} and is {now:?}", segment.number));
                }
                _ => {}
            }
        }
        while self.known.first_key_value().is_some_and(|(number, _)| *number < read.first) {
            self.known.pop_first();
        }
        self.before = Some(read);
        wrong
    }
}

fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = line.split_once(':')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next.strip_prefix(',').unwrap_or(next))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key == name {
            return Some(value);
        }
        rest = next;
    }
}

fn number(line: &str, name: &str) -> Option<f64> {
    attribute(line, name)?.parse().ok()
}

fn read(playlist: &str, wrong: &mut Vec<String>) -> Read {
    let mut read = Read::default();
    let mut segment = ReadSegment::default();
    let mut extinf = None;
    if !playlist.starts_with("#EXTM3U\n") {
        wrong.push("4.4.1.1: does not begin with EXTM3U".into());
    }
    for line in playlist.lines() {
        let value = line.split_once(':').map_or("", |(_, value)| value);
        let tag = line.split_once(':').map_or(line, |(tag, _)| tag);
        match tag {
            "#EXT-X-TARGETDURATION" => read.target = value.parse().ok(),
            "#EXT-X-PART-INF" => read.part_target = number(line, "PART-TARGET"),
            "#EXT-X-SERVER-CONTROL" => {
                read.blocks = attribute(line, "CAN-BLOCK-RELOAD") == Some("YES");
                read.hold_back = number(line, "HOLD-BACK");
                read.part_hold_back = number(line, "PART-HOLD-BACK");
                read.skip_until = number(line, "CAN-SKIP-UNTIL");
            }
            "#EXT-X-MEDIA-SEQUENCE" => read.first = value.parse().unwrap_or(0),
            "#EXT-X-DISCONTINUITY-SEQUENCE" => read.discontinuities = value.parse().unwrap_or(0),
            "#EXT-X-SKIP" => {
                read.skipped = attribute(line, "SKIPPED-SEGMENTS").and_then(|n| n.parse().ok()).unwrap_or(0)
            }
            "#EXT-X-DISCONTINUITY" => segment.discontinuity = true,
            "#EXT-X-GAP" => segment.gap = true,
            "#EXT-X-PROGRAM-DATE-TIME" => segment.date = Some(value.to_owned()),
            "#EXT-X-PART" => {
                if extinf.is_some() {
                    wrong.push("4.4.4.9: a part stands behind the EXTINF of its segment".into());
                }
                let independent = attribute(line, "INDEPENDENT") == Some("YES");
                let address = attribute(line, "URI").unwrap_or_default().to_owned();
                segment.parts.push((number(line, "DURATION").unwrap_or(f64::NAN), independent, address));
            }
            "#EXTINF" => extinf = value.trim_end_matches(',').parse().ok(),
            "#EXT-X-PRELOAD-HINT" => read.hint = attribute(line, "URI").map(str::to_owned),
            "#EXT-X-ENDLIST" => read.ended = true,
            _ if line.starts_with('#') || line.is_empty() => {}
            address => {
                segment.address = address.to_owned();
                segment.duration = extinf.take();
                let number = read.next();
                read.segments.push(ReadSegment { number, ..std::mem::take(&mut segment) });
            }
        }
    }
    if !segment.parts.is_empty() {
        segment.number = read.next();
        read.segments.push(segment);
    }
    read
}

fn alone(read: &Read, wrong: &mut Vec<String>) {
    let Some(target) = read.target else { return wrong.push("4.4.3.1: no target duration".into()) };
    if read.hold_back.is_some_and(|hold| hold < 3.0 * target - ROUNDED) {
        wrong.push("4.4.3.8: HOLD-BACK is less than three target durations".into());
    }
    if read.skip_until.is_some_and(|skip| skip < 6.0 * target - ROUNDED) {
        wrong.push("4.4.3.8: CAN-SKIP-UNTIL is less than six target durations".into());
    }
    if let Some(part) = read.part_target {
        if read.part_hold_back.is_none_or(|hold| hold < 3.0 * part - ROUNDED) {
            wrong.push("4.4.3.8: PART-HOLD-BACK is less than three part targets".into());
        }
        if !read.blocks {
            wrong.push("4.4.3.8: parts without blocking reload".into());
        }
        if read.hint.is_none() && !read.ended && !read.segments.is_empty() {
            wrong.push("6.2.2: no hint of the next part".into());
        }
    }
    if read.segments.first().is_some_and(|segment| segment.gap) && read.skipped == 0 {
        wrong.push("a playlist begins with a gap, which players show as black".into());
    }
    for segment in &read.segments {
        let number = segment.number;
        if segment.date.is_none() {
            wrong.push(format!("segment {number} has no date"));
        }
        if segment.duration.is_some_and(|duration| duration.round() > target) {
            wrong
                .push(format!("4.4.3.1: segment {number} is longer than the target: {:?}", segment.duration));
        }
        let Some(part_target) = read.part_target else { continue };
        let last = segment.parts.len().saturating_sub(1);
        for (index, (duration, _, _)) in segment.parts.iter().enumerate() {
            if *duration > part_target + ROUNDED {
                wrong.push(format!("4.4.4.9: part {number}.{index} is longer than the target: {duration}"));
            }
            let is_last = index == last;
            if *duration < 0.85 * part_target - ROUNDED && !is_last {
                wrong.push(format!(
                    "4.4.4.9: part {number}.{index} is shorter than 85 % of the target: {duration}"
                ));
            }
        }
        if let Some(duration) = segment.duration.filter(|_| !segment.parts.is_empty()) {
            let sum: f64 = segment.parts.iter().map(|(duration, ..)| duration).sum();
            if (sum - duration).abs() > 0.001 {
                wrong.push(format!("segment {number} lasts {duration}, and its parts {sum}"));
            }
        }
    }
    // The segment at the end may get more parts; all before it must be complete.
    let open = read.segments.iter().rev().skip(1).filter(|segment| segment.duration.is_none()).count();
    if open > 0 {
        wrong.push("a segment before the last one is not complete".into());
    }
    if let (Some(hint), Some(last)) = (&read.hint, read.segments.last())
        && last.parts.iter().any(|(.., address)| address == hint)
    {
        wrong.push("4.4.5.3: the hint is of a part that is there".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:2\n#EXT-X-PART-INF:PART-TARGET=0.334\n\
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.002,HOLD-BACK=6,CAN-SKIP-UNTIL=12\n#EXT-X-MEDIA-SEQUENCE:7\n\
#EXT-X-MAP:URI=\"init-1-0.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.000Z\n\
#EXT-X-PART:DURATION=0.32,URI=\"7.0.m4s\",INDEPENDENT=YES\n#EXT-X-PART:DURATION=0.1,URI=\"7.1.m4s\"\n#EXTINF:0.42,\n7.m4s\n\
#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.420Z\n#EXT-X-PART:DURATION=0.32,URI=\"8.0.m4s\"\n\
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"8.1.m4s\"\n";

    #[test]
    fn each_rule_is_looked_at() {
        assert_eq!(check(GOOD), Vec::<String>::new());
        for (from, to) in [
            ("HOLD-BACK=6", "HOLD-BACK=5"),
            ("CAN-SKIP-UNTIL=12", "CAN-SKIP-UNTIL=6"),
            ("PART-HOLD-BACK=1.002", "PART-HOLD-BACK=1"),
            ("CAN-BLOCK-RELOAD=YES", "CAN-BLOCK-RELOAD=NO"),
            ("DURATION=0.32,URI=\"7.0", "DURATION=0.4,URI=\"7.0"),
            ("DURATION=0.32,URI=\"7.0", "DURATION=0.2,URI=\"7.0"),
            ("8.1.m4s", "8.0.m4s"),
            ("#EXT-X-PRELOAD-HINT", "#EXT-X-OTHER"),
            ("#EXTINF:0.42", "#EXTINF:2.6"),
            ("#EXTINF:0.42", "#EXTINF:0.5"),
            ("#EXTM3U\n", ""),
            ("#EXT-X-MEDIA-SEQUENCE:7\n", "#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-GAP\n"),
            ("#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.420Z\n", ""),
            ("#EXT-X-TARGETDURATION:2\n", ""),
        ] {
            let bad = GOOD.replacen(from, to, 1);
            assert_ne!(bad, GOOD, "{from}");
            assert!(!check(&bad).is_empty(), "{from} to {to}");
        }
    }

    #[test]
    fn what_was_said_stays() {
        for (from, to) in [
            ("PART-TARGET=0.334", "PART-TARGET=0.333"),
            ("TARGETDURATION:2", "TARGETDURATION:1"),
            ("MEDIA-SEQUENCE:7", "MEDIA-SEQUENCE:6"),
            ("#EXTINF:0.42", "#EXTINF:0.4205"),
        ] {
            let mut checker = Checker::default();
            assert!(checker.next(GOOD).is_empty() && checker.next(GOOD).is_empty());
            assert!(!checker.next(&GOOD.replacen(from, to, 1)).is_empty(), "{from}");
        }
    }
}
