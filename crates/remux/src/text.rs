//! Subtitles of a track, segment by segment, as WebVTT.
//!
//! A line that stays over a boundary is a cue in both segments: players get each of them alone.

use std::{collections::VecDeque, fmt::Write as _};

/// Changes that may wait for their segment's end: some seconds of the fastest subtitles.
const MAX_CHANGES: usize = 256;

/// What a track shows when.
#[derive(Debug)]
pub struct Captions {
    /// Its language.
    pub language: [u8; 3],
    /// For those who hear badly.
    pub impaired: bool,
    /// What is shown at the beginning of the open segment.
    shown: Vec<String>,
    /// What is shown from when on, at 90 kHz; in order.
    changes: VecDeque<(i64, Vec<String>)>,
}

impl Captions {
    /// Nothing is shown.
    pub fn new(language: [u8; 3], impaired: bool) -> Self {
        Self { language, impaired, shown: Vec::new(), changes: VecDeque::new() }
    }

    /// From `time` on these lines are shown.
    pub fn change(&mut self, time: i64, lines: Vec<String>) {
        if self.changes.len() >= MAX_CHANGES {
            self.changes.pop_front();
        }
        // What was to come later than this was sent before it.
        let time = self.changes.back().map_or(time, |(last, _)| time.max(*last));
        self.changes.push_back((time, lines));
    }

    /// The document of a segment from `start` to `end`, at 90 kHz.
    pub fn cut(&mut self, start: i64, end: i64) -> String {
        let mut out = format!("WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:{},LOCAL:00:00:00.000\n", start.max(0));
        let mut from = start;
        while self.changes.front().is_some_and(|(time, _)| *time < end) {
            let Some((time, lines)) = self.changes.pop_front() else { break };
            let time = time.max(start);
            cue(start, from, time, &self.shown, &mut out);
            (from, self.shown) = (time, lines);
        }
        cue(start, from, end, &self.shown, &mut out);
        out
    }
}

fn cue(zero: i64, from: i64, to: i64, lines: &[String], out: &mut String) {
    if lines.is_empty() || to <= from {
        return;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\n{} --> {}", stamp(from.saturating_sub(zero)), stamp(to.saturating_sub(zero)));
    for line in lines {
        let text = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(out, "{text}");
    }
}

fn stamp(ticks: i64) -> String {
    let ms = ticks.max(0) / 90;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn what_stays_over_a_boundary_is_in_both_segments() {
        let second = 90_000;
        let mut captions = Captions::new(*b"deu", false);
        captions.change(11 * second, lines("One & <two>"));
        captions.change(13 * second, Vec::new());
        captions.change(13 * second + 45_000, lines("Three"));
        let head = |start: i64| format!("WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:{start},LOCAL:00:00:00.000\n");
        let first = captions.cut(10 * second, 12 * second);
        assert_eq!(first, head(900_000) + "\n00:00:01.000 --> 00:00:02.000\nOne &amp; &lt;two&gt;\n");
        let next = captions.cut(12 * second, 14 * second);
        let expected = "\n00:00:00.000 --> 00:00:01.000\nOne &amp; &lt;two&gt;\n\n00:00:01.500 --> 00:00:02.000\nThree\n";
        assert_eq!(next, head(1_080_000) + expected);
        // Late news begins where it can.
        captions.change(13 * second, Vec::new());
        assert_eq!(captions.cut(14 * second, 16 * second), head(1_260_000));
    }
}
