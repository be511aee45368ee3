//! Frames: what the parts of a track are made of.

use std::sync::Arc;

use minuet_media::Timestamp;
use mp4_atom::Codec as SampleEntry;

/// How a track is coded: what its init segment says. A change makes a new init segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The sample entry.
    pub entry: SampleEntry,
    /// The same as a word for playlists (RFC 6381).
    pub codecs: String,
    /// Ticks a second of the track's times.
    pub timescale: u32,
    /// What is coded.
    pub kind: Kind,
}

/// What a track holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pictures of so many pixels.
    Video {
        /// Across.
        width: u16,
        /// Down.
        height: u16,
    },
    /// Sound.
    Sound {
        /// Channels.
        channels: u16,
    },
}

/// Whether decoding can start at a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// It refers to others.
    None,
    /// Decoders recover from it after a while (gradual refresh).
    Slow,
    /// At once.
    Clean,
}

/// One access unit as it stands in a sample.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Presentation time, where its PES packet brings one.
    pub pts: Option<Timestamp>,
    /// Decoding time, where it is another.
    pub dts: Option<Timestamp>,
    /// The sample's bytes.
    pub data: Vec<u8>,
    /// Whether decoding can start here.
    pub entry: Entry,
    /// No other frame refers to it.
    pub disposable: bool,
    /// How long it is in the timescale of `config`; pictures last until the next one.
    pub duration: Option<u32>,
    /// How it is coded; None where it is not carried, and only says where segments begin.
    pub config: Option<Arc<Config>>,
    /// Where its PES packet begins in the feed, in bytes.
    pub position: u64,
}
