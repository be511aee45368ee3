//! What the remuxer gives out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::frame::Config;

/// The number of a track, for as long as the remuxer lives.
pub type TrackId = usize;

/// One step of the output. A track's order is `Init`, then `Opened`, its `Part`s and `Closed`, then the next `Opened`.
/// All tracks have the same segments, by number.
#[derive(Debug, Clone)]
pub enum Event {
    /// Enough of the stream has been seen; tracks and segments follow. Comes once.
    Ready(Pace),
    /// A track, with all that its parts from here on need to be decoded. Comes again when that changes.
    Init(Init),
    /// A segment of a track begins.
    Opened(Opened),
    /// The next part of the track's open segment.
    Part(Part),
    /// The track's open segment is complete. One without parts is a gap.
    Closed(Closed),
    /// A segment as it came, in MPEG-TS, with its tables in front.
    Transport(Transport),
    /// The subtitles of a segment, as WebVTT.
    Text(Text),
}

/// The number of a track of subtitles, for as long as the remuxer lives.
pub type TextId = usize;

/// What holds for all playlists, for as long as the remuxer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// No part is longer.
    pub part: Duration,
    /// No segment is longer, rounded to seconds.
    pub segment_s: u32,
    /// The stream has pictures, carried as a track or not.
    pub has_pictures: bool,
}

/// An init segment.
#[derive(Debug, Clone)]
pub struct Init {
    /// Whose.
    pub track: TrackId,
    /// 0 for the track's first one, then one more each time.
    pub number: u32,
    /// How the track is coded.
    pub config: Arc<Config>,
    /// Its language, where the feed names one.
    pub language: Option<[u8; 3]>,
    /// The init segment.
    pub bytes: Bytes,
}

/// The beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Whose.
    pub track: TrackId,
    /// Counts up by one.
    pub number: u64,
    /// When it came in, in Unix milliseconds by the source's clock.
    pub start_ms: u64,
    /// It does not go on from the segment before.
    pub discontinuity: bool,
    /// The number of its init segment.
    pub init: u32,
}

/// The end of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Whose.
    pub track: TrackId,
    /// From its beginning to the next one's: how long it is if it is a gap.
    pub span: Duration,
}

/// A part of a segment: one fragment or more.
#[derive(Debug, Clone)]
pub struct Part {
    /// Whose.
    pub track: TrackId,
    /// How long it is.
    pub duration: Duration,
    /// It begins with a frame at which decoding can start.
    pub independent: bool,
    /// The fragments.
    pub bytes: Bytes,
}

/// A segment in MPEG-TS.
#[derive(Debug, Clone)]
pub struct Transport {
    /// The number of the segments of the tracks that it corresponds to.
    pub number: u64,
    /// When it came in, in Unix milliseconds by the source's clock.
    pub start_ms: u64,
    /// How long it is.
    pub duration: Duration,
    /// It does not go on from the segment before.
    pub discontinuity: bool,
    /// Whole packets.
    pub bytes: Bytes,
}

/// The subtitles of a segment.
#[derive(Debug, Clone)]
pub struct Text {
    /// Whose.
    pub track: TextId,
    /// Their language.
    pub language: [u8; 3],
    /// They are for those who hear badly.
    pub impaired: bool,
    /// The number of the segments of the tracks that it corresponds to.
    pub number: u64,
    /// When that came in, in Unix milliseconds by the source's clock.
    pub start_ms: u64,
    /// How long it is.
    pub duration: Duration,
    /// It does not go on from the segment before.
    pub discontinuity: bool,
    /// WebVTT.
    pub bytes: Bytes,
}
