//! MPEG-TS for live segments: finding packets, tables and random access points, and cutting a feed into
//! segments that each play alone and joined are the feed.
//!
//! The crate is pure: bytes come in as slices and leave as slices; it knows no clock, file or socket.
//! Everything is parsed with limits, and nothing in a feed can make it panic or grow without bound.
//!
//! - [`Cutter`] does the cutting; [`Event`] is what it says.
//! - [`PacketSync`] turns bytes into whole packets.
//! - [`StreamClock`] says when each of them is due.
//! - [`ProgramFilter`] takes one program out of a multiplex.
//! - [`Restamper`] makes an endless feed of a file.
//! - [`Programs`], [`PesHeader`], [`Scanner`] and [`Bits`] are what it reads with, for those who take a stream apart.
//!
//! Terms are those of ISO/IEC 13818-1.

mod access;
mod clock;
mod cutter;
mod event;
mod only;
pub mod packet;
mod pes;
mod program;
mod psi;
mod restamp;
mod section;
mod sync;
mod time;

pub use access::{Access, Bits, SCAN_LIMIT, START_CODE, Scanner, recovery_point};
pub use clock::StreamClock;
pub use cutter::{Cutter, CutterConfig};
pub use event::{Counters, Event, Notice, RandomAccess, SegmentEnd, SegmentStart};
pub use only::ProgramFilter;
pub use pes::{NoHeader, PesHeader};
pub use program::{Programs, Selection};
pub use psi::{Codec, ElementaryStream, Sound, Stranger, TeletextPage};
pub use restamp::Restamper;
pub use sync::{CONFIRMATIONS, Found, PacketSync, SYNC_LIMIT, looks_like_mpeg_ts, looks_like_other_media};
pub use time::{Pcr, TICKS_PER_SECOND, Ticks, Timestamp};

/// Why a feed cannot be cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No sync in the first bytes.
    #[error(
        "the input is not MPEG-TS: no packets in its first {searched} bytes; let ffmpeg make it with `-f mpegts`"
    )]
    NotMpegTs {
        /// Bytes looked at.
        searched: u64,
    },
    /// The program that is wanted is not in the feed.
    #[error("the feed has no program {wanted}; choose one of {available:?}")]
    NoSuchProgram {
        /// What is wanted.
        wanted: u16,
        /// What the PAT lists.
        available: Vec<u16>,
    },
    /// The feed ended before decoding could start.
    #[error(
        "the feed ended without a frame to start at; make it longer than the encoder's GOP (keyframe interval), \
         or repeat the headers with each key frame"
    )]
    NothingToCut,
    /// There are packets but no usable program.
    #[error(
        "{searched} bytes of the feed name no video or audio (no PAT and PMT with a stream that is known); \
         let ffmpeg make it with `-f mpegts`"
    )]
    NoProgram {
        /// Bytes looked at.
        searched: u64,
    },
}
