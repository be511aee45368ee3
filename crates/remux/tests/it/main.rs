//! Remuxing of streams that ffmpeg makes. One binary: each that is linked by itself costs a build as much as all of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

mod captions;
mod faults;
mod ffmpeg;
mod frames;
mod hour;
mod playlists;
mod subtitles;
mod tracks;
