//! What the cutter says while the feed passes through it.

use std::fmt;

use crate::{
    psi::{Codec, Stranger},
    time::{Ticks, Timestamp},
};

/// One step of the cutter's output.
///
/// The order is `Start`, any number of `RandomAccess` and `Data`, `End`, then the next `Start`. A segment's
/// bytes are [`SegmentStart::tables`] and then its `Data` and `Repeat`. A `Notice` may come at any time.
#[derive(Debug)]
pub enum Event<'a> {
    /// A segment begins.
    Start(SegmentStart<'a>),
    /// The next `Data` begins with a random access point.
    RandomAccess(RandomAccess),
    /// The next bytes of the segment: whole packets.
    Data(&'a [u8]),
    /// The next bytes of the segment, which are not the input's: tables and parameter sets, repeated at a random access
    /// point that lacks them.
    Repeat(&'a [u8]),
    /// The segment is complete.
    End(SegmentEnd),
    /// Something the broadcaster should know.
    Notice(Notice),
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentStart<'a> {
    /// 0 for the cutter's first segment, then one more each time.
    pub index: u64,
    /// Timestamps do not go on from the segment before, or the source was changed.
    pub discontinuity: bool,
    /// Where it starts in the stream, from the start of segment 0.
    pub position: Ticks,
    /// The decoding time of its first access unit, when it has one.
    pub timestamp: Option<Timestamp>,
    /// Decoding can start here, if perhaps with a picture that is whole only later. False where a segment had to begin
    /// at a picture that refers to earlier ones.
    pub access: bool,
    /// The PAT and PMT in force, repeated as packets: the segment's first bytes. After them, at a cut that had to be
    /// made without a clean random access point, the leading stream's last parameter sets. None of them are among
    /// the input's bytes that `Data` carries.
    pub tables: &'a [u8],
}

/// A place where decoding can start: a clean one, or where there has been none for long, one from which decoders recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomAccess {
    /// Where it lies in the stream, from the start of segment 0.
    pub position: Ticks,
}

/// The end of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// The segment's index.
    pub index: u64,
    /// How much stream time it holds.
    pub duration: Ticks,
    /// Its length in bytes, the tables included.
    pub bytes: u64,
}

/// Something the broadcaster should know. [`Display`](fmt::Display) is a sentence for a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Packets were found, this many bytes apart (188, 192 or 204).
    Synchronised {
        /// Distance from packet to packet in bytes.
        stride: usize,
    },
    /// Sync was lost and found again.
    Resynchronised {
        /// Bytes dropped in between.
        garbage: u64,
    },
    /// The stream whose frames decide where to cut was chosen or has changed.
    Leading {
        /// `program_number`.
        program: u16,
        /// The stream's PID.
        pid: u16,
        /// `stream_type` of the PMT.
        stream_type: u8,
        /// How it is coded.
        codec: Codec,
    },
    /// The first segment begins; what came before it cannot be decoded and was dropped.
    Skipped {
        /// Bytes dropped.
        bytes: u64,
    },
    /// The leading stream is silent while others of the program go on: they keep the time meanwhile.
    LeadingSilent {
        /// The leading stream's PID.
        pid: u16,
    },
    /// The program has pictures and no sound: from the start, or from now on.
    NoSound {
        /// `program_number`.
        program: u16,
    },
    /// The program has streams that are passed on and that players may leave out.
    Strangers {
        /// `program_number`.
        program: u16,
        /// Their PIDs, and why.
        streams: Vec<(u16, Stranger)>,
    },
    /// The leading stream is scrambled.
    Scrambled,
    /// The stream's clock jumped.
    Discontinuity,
    /// No clean random access point came in time, and the segment was cut without one.
    NoRandomAccess {
        /// How long after it was due.
        overdue: Ticks,
        /// Something is decodable from here on, if not all.
        degraded: bool,
    },
    /// A segment reached its greatest length in bytes and was cut where it stood.
    TooLarge {
        /// The greatest length in bytes.
        limit: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synchronised { stride: 188 } => write!(f, "MPEG-TS found"),
            Self::Synchronised { stride } => {
                write!(f, "MPEG-TS found in packets of {stride} bytes; they are stripped to 188")
            }
            Self::Resynchronised { garbage } => {
                let (bytes, were) = if *garbage == 1 { ("byte", "was") } else { ("bytes", "were") };
                write!(f, "{garbage} {bytes} of what is not MPEG-TS {were} dropped from the feed")
            }
            Self::Leading { program, pid, stream_type, codec } => match codec {
                Codec::OtherVideo | Codec::Private => write!(
                    f,
                    "program {program}, PID {pid:#x}: stream type {stream_type:#04x} cannot be looked into, so \
                     cuts follow the random access flag and the clock; H.264 or HEVC is cut exactly"
                ),
                _ => write!(f, "program {program}, PID {pid:#x}: {codec:?} decides where to cut"),
            },
            Self::Skipped { bytes } => {
                write!(f, "{bytes} bytes before the first random access point were dropped")
            }
            Self::LeadingSilent { pid } => write!(
                f,
                "PID {pid:#x} is silent while the rest of the program goes on; check the encoder's picture input"
            ),
            Self::NoSound { program } => write!(
                f,
                "program {program} has no sound; if it should have, give the encoder an audio input and map it (ffmpeg: \
                 -map 0:a)"
            ),
            Self::Strangers { program, streams } => {
                write!(f, "program {program}: ")?;
                for (nth, (pid, why)) in streams.iter().enumerate() {
                    let why = match why {
                        Stranger::Unnamed => {
                            "does not say what it carries (stream type 0x06 without a registration)"
                        }
                        Stranger::Av1 => "carries AV1, which few players read in MPEG-TS",
                        Stranger::Reserved => "is of a stream type that is not known here",
                    };
                    write!(f, "{}PID {pid:#x} {why}", if nth == 0 { "" } else { "; " })?;
                }
                f.write_str(
                    ": it is passed on, but players may leave it out; if it is the picture, as encoders send \
                     AV1 and VP9, let the encoder send H.264 or HEVC",
                )
            }
            Self::Scrambled => write!(
                f,
                "the feed is scrambled, so cuts follow the random access flag and the clock; descramble it first"
            ),
            Self::Discontinuity => write!(f, "the feed's clock jumped: a new segment starts"),
            Self::NoRandomAccess { overdue, degraded } => write!(
                f,
                "no key frame with parameter sets came for {:.1} s after the cut was due, so the segment was cut \
                 {}; set the encoder's GOP (keyframe interval) to 2 s and repeat headers with each key frame",
                overdue.as_duration().as_secs_f64(),
                if *degraded { "at a frame that players recover from late" } else { "between key frames" },
            ),
            Self::TooLarge { limit } => write!(
                f,
                "a segment reached {limit} bytes and was cut; its timestamps stand still or its rate is too high"
            ),
        }
    }
}

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            null_packets: self.null_packets + other.null_packets,
            continuity_errors: self.continuity_errors + other.continuity_errors,
            transport_errors: self.transport_errors + other.transport_errors,
            scrambled_packets: self.scrambled_packets + other.scrambled_packets,
            garbage_bytes: self.garbage_bytes + other.garbage_bytes,
            skipped_bytes: self.skipped_bytes + other.skipped_bytes,
        }
    }
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets seen.
    pub packets: u64,
    /// Null packets among them.
    pub null_packets: u64,
    /// Continuity errors: losses or repetitions on one PID.
    pub continuity_errors: u64,
    /// Packets that the receiver marked as damaged.
    pub transport_errors: u64,
    /// Packets of the leading stream that are scrambled.
    pub scrambled_packets: u64,
    /// Bytes dropped because they belong to no packet.
    pub garbage_bytes: u64,
    /// Bytes dropped before the first segment.
    pub skipped_bytes: u64,
}
