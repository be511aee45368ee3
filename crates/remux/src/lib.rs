//! MPEG-TS to CMAF parts and HLS playlists.
//!
//! The crate is pure: bytes come in with the time at which the source took them in, events come out; it knows no clock,
//! file or socket. Everything is parsed with limits, and nothing in a feed can make it panic or grow without bound.
//!
//! - [`Remuxer`] takes a feed apart and gives out, for each track, init segments and parts of segments; and the same
//!   segments in MPEG-TS as they came.
//! - [`playlist`] writes what HLS players read, and checks it.
//!
//! What a player gets of it can be decoded: pictures whose bytes were lost are left out, and those that refer to them.
//! Each track is a file of its own, as CMAF has it: players choose sound tracks without fetching pictures.
//!
//! Subtitles that teletext has as text come out as WebVTT.
//!
//! Carried are H.264, H.265, AAC (ADTS and LATM), MPEG audio, AC-3, E-AC-3 and Opus. Other pictures and sound are in the
//! segments in MPEG-TS alone.

// A panic here is the end of a program. Times, lengths and counts come from a feed: only by methods that cannot
// overflow.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod boxes;
mod director;
mod elementary;
mod event;
mod frame;
mod learn;
mod pes;
pub mod playlist;
mod remuxer;
mod sound;
mod streams;
mod teletext;
mod text;
mod track;
mod transport;
mod video;
mod wall;

pub use elementary::Elementary;
pub use event::{Closed, Event, Init, Opened, Pace, Part, Text, TextId, TrackId, Transport};
pub use frame::{Config, Kind};
pub use remuxer::Remuxer;
