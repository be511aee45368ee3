//! Names of things: hashes, keys, sequence numbers. Each has a type of its own, so that none is taken for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use crate::Error;

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Reads exactly `N` bytes from `2 N` hexadecimal digits of either case.
pub fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], Error> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(Error::malformed(
            what,
            format_args!("expected {} hexadecimal digits, found {}", 2 * N, digits.len()),
        ));
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(Error::malformed(what, "not a hexadecimal digit")),
        }
    }
    Ok(out)
}

/// A fixed-size byte string: hexadecimal as text.
macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $length:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = $length;

            /// Wraps raw bytes.
            pub const fn new(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = Error;

            fn try_from(bytes: &[u8]) -> Result<Self, Error> {
                bytes.try_into().map(Self).map_err(|_| {
                    Error::malformed($what, format_args!("{} bytes instead of {}", bytes.len(), $length))
                })
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                parse_hex($what, text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

byte_id!(
    /// SHA-1 of a torrent's info dictionary: names a swarm (BEP 3).
    InfoHash, 20, "an info hash"
);
byte_id!(
    /// A BitTorrent peer's id for one run (BEP 3, BEP 20). Not an identity: anyone can claim any.
    PeerId, 20, "a peer id"
);
byte_id!(
    /// SHA-1 of one piece (BEP 3).
    PieceHash, 20, "a piece hash"
);
byte_id!(
    /// A channel's ed25519 public key: the name of a live stream, and what all its statements are checked against.
    ChannelId, 32, "a channel id"
);
byte_id!(
    /// SHA-256 of a signed record's payload: what the next record's `prev` names.
    RecordHash, 32, "a record hash"
);

impl InfoHash {
    /// The hash of an info dictionary in its encoded form.
    pub fn of(info: &[u8]) -> Self {
        Self(Sha1::digest(info).into())
    }
}

impl PieceHash {
    /// The hash of a piece's bytes.
    pub fn of(piece: &[u8]) -> Self {
        Self(Sha1::digest(piece).into())
    }
}

/// The last time that a statement can name, in Unix milliseconds: the end of the year 9999. Whatever is added to a time
/// that a stranger signed, it stays far below 2^64.
pub const MAX_UNIX_MS: u64 = 253_402_300_799_999;

/// The number of a segment in its channel. Counts up by one, never reused, also across restarts of the segmenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentSeq(pub u64);

impl SegmentSeq {
    /// The last number that can be.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// The number as a stranger named it, if there is such a one.
    pub const fn named(number: u64) -> Option<Self> {
        if number > Self::MAX.0 { None } else { Some(Self(number)) }
    }

    /// The segment after this one. The numbers do not run out: a minute each, they last for 35 million million years.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The segment before this one, unless this is the first.
    pub const fn previous(self) -> Option<Self> {
        match self.0 {
            0 => None,
            n => Some(Self(n.saturating_sub(1))),
        }
    }
}

impl fmt::Display for SegmentSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a piece in its segment, from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PieceIndex(pub u32);

/// A piece's place in the channel's endless piece space. Ordered as the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceId {
    /// The segment that holds it.
    pub segment: SegmentSeq,
    /// Its place there.
    pub piece: PieceIndex,
}

impl fmt::Display for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.segment, self.piece.0)
    }
}

/// Length of a segment's pieces in bytes: a power of two from 16 KiB (one block) to 1 MiB. The last piece of a
/// segment may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceLength(u32);

impl PieceLength {
    /// One BitTorrent block.
    pub const MIN: Self = Self(16 << 10);
    /// Larger pieces only delay the stream.
    pub const MAX: Self = Self(1 << 20);
    /// The rule of [`PieceLength::for_rate`]: at least so many pieces a second (and below twice as many).
    pub const PIECES_PER_SECOND: u64 = 15;

    /// The piece length for a stream of `rate` bytes a second: the largest that gives at least
    /// [`PieceLength::PIECES_PER_SECOND`], so 64 KiB at 8 Mbit/s and 16 KiB at 2 Mbit/s.
    pub fn for_rate(rate: u64) -> Self {
        let wanted = u32::try_from(rate / Self::PIECES_PER_SECOND).unwrap_or(u32::MAX);
        Self(1 << wanted.clamp(Self::MIN.0, Self::MAX.0).ilog2())
    }

    /// The length in bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// How many pieces a file of `length` bytes has.
    pub const fn pieces_in(self, length: u64) -> u64 {
        length.div_ceil(self.0 as u64)
    }
}

impl TryFrom<u32> for PieceLength {
    type Error = Error;

    fn try_from(length: u32) -> Result<Self, Error> {
        if length.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&length) {
            Ok(Self(length))
        } else {
            Err(Error::malformed(
                "a piece length",
                format_args!("{length} is no power of two from 16 KiB to 1 MiB"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn piece_length_follows_the_rate() {
        assert_eq!(PieceLength::for_rate(0).get(), 16 << 10);
        assert_eq!(PieceLength::for_rate(250_000).get(), 16 << 10);
        assert_eq!(PieceLength::for_rate(1_000_000).get(), 64 << 10);
        assert_eq!(PieceLength::for_rate(2_000_000).get(), 128 << 10);
        assert_eq!(PieceLength::for_rate(u64::MAX).get(), 1 << 20);
    }

    proptest! {
        #[test]
        fn piece_rate_is_15_to_30_where_the_limits_allow(rate in 246_000u64..15_000_000) {
            let pieces_per_second = rate as f64 / f64::from(PieceLength::for_rate(rate).get());
            prop_assert!((15.0..30.1).contains(&pieces_per_second), "{pieces_per_second}");
        }

        #[test]
        fn hex_round_trips(bytes: [u8; 20]) {
            prop_assert_eq!(InfoHash::new(bytes).to_string().parse::<InfoHash>(), Ok(InfoHash::new(bytes)));
        }

        #[test]
        fn hex_never_panics(text in ".{0,50}") {
            let _ = text.parse::<InfoHash>();
        }
    }
}
