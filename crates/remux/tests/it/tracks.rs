//! What comes out of the remuxer, put together to files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use minuet_media::StreamClock;
use minuet_remux::{Event, Init, Opened, Pace, Remuxer, Text, TrackId, Transport};

/// One segment of a track.
#[derive(Debug, Clone)]
pub struct Segment {
    pub opened: Opened,
    pub parts: Vec<(Duration, bool, Vec<u8>)>,
    pub closed: bool,
}

/// All that came out.
#[derive(Debug, Default)]
pub struct Output {
    pub pace: Option<Pace>,
    pub inits: BTreeMap<TrackId, Vec<Init>>,
    pub segments: BTreeMap<TrackId, Vec<Segment>>,
    pub transport: Vec<Transport>,
    pub texts: Vec<Text>,
}

impl Output {
    pub fn take(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Ready(pace) => assert!(self.pace.replace(pace).is_none(), "the pace is told once"),
                Event::Init(init) => self.inits.entry(init.track).or_default().push(init),
                Event::Opened(opened) => {
                    let segments = self.segments.entry(opened.track).or_default();
                    assert!(segments.last().is_none_or(|last| last.closed), "one segment at a time");
                    assert!(segments.last().is_none_or(|last| last.opened.number + 1 == opened.number));
                    segments.push(Segment { opened, parts: Vec::new(), closed: false });
                }
                Event::Part(part) => {
                    let segment = self.segments.get_mut(&part.track).and_then(|all| all.last_mut()).unwrap();
                    assert!(!segment.closed);
                    segment.parts.push((part.duration, part.independent, part.bytes.to_vec()));
                }
                Event::Closed(closed) => {
                    self.segments.get_mut(&closed.track).and_then(|all| all.last_mut()).unwrap().closed =
                        true;
                }
                Event::Transport(segment) => self.transport.push(segment),
                Event::Text(text) => self.texts.push(text),
            }
        }
    }

    /// Writes a track to a file, those of its segments that need its nth init segment.
    pub fn write(&self, folder: &Path, track: TrackId, init: usize) -> PathBuf {
        let path = folder.join(format!("{track}-{init}.mp4"));
        let mut bytes = self.inits[&track][init].bytes.to_vec();
        for segment in self.segments[&track].iter().filter(|segment| segment.opened.init as usize == init) {
            segment.parts.iter().for_each(|(_, _, part)| bytes.extend(part));
        }
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A feed in deliveries of so many bytes, with the Unix times in milliseconds at which it comes: as fast as it plays.
pub fn paced(feed: &[u8], step: usize, start_ms: u64) -> Vec<(u64, &[u8])> {
    let mut clock = StreamClock::default();
    let mut now_ms = 0;
    let mut deliver = |bytes| {
        let mut rest: &[u8] = bytes;
        while let Some((at, position)) = clock.next(rest) {
            now_ms = position.as_millis();
            rest = rest.get(at + 188..).unwrap_or_default();
        }
        (start_ms + now_ms, bytes)
    };
    feed.chunks(step / 188 * 188).map(&mut deliver).collect()
}

/// Remuxes a feed.
pub fn remux(feed: &[u8]) -> Output {
    let (mut remuxer, mut output) = (Remuxer::new(7), Output::default());
    for (now_ms, bytes) in paced(feed, 20_000, 1_700_000_000_000) {
        let mut events = Vec::new();
        remuxer.push(bytes, now_ms, &mut events).unwrap();
        output.take(events);
    }
    let mut events = Vec::new();
    remuxer.end(&mut events);
    output.take(events);
    output
}
