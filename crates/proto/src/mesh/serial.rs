//! Serials: where pieces stand in the channel's endless row.
//!
//! Rule: a serial is below 2^62 by construction, and has no operators. Strangers name serials; a sum of two, or of one and
//! any length or count in this protocol, fits in 64 bits, and every difference is taken by [`Serial::since`] or
//! [`Serial::minus`], which end at zero.

use super::codec::DecodeError;

/// A piece's place in the channel's endless row of pieces. Consecutive pieces have consecutive serials, across
/// segments; a source that lost count may leave a gap but never uses a serial twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(u64);

impl Serial {
    /// The first serial that can be.
    pub const ZERO: Self = Self(0);
    /// The last serial that can be. At 64 to a millisecond they last for two million years.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// The serial with this number, or [`Serial::MAX`] if there is none.
    pub const fn new(number: u64) -> Self {
        if number > Self::MAX.0 { Self::MAX } else { Self(number) }
    }

    /// The serial with this number, as a stranger named it.
    ///
    /// # Errors
    /// There is no such serial.
    pub fn named(number: u64) -> Result<Self, DecodeError> {
        if number > Self::MAX.0 { Err(DecodeError::OutOfRange("serial")) } else { Ok(Self(number)) }
    }

    /// Its number, below 2^62.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The serial after this one; the last one stays.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The serial `count` later, at most the last one.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self::new(self.0.saturating_add(count))
    }

    /// The serial `count` earlier, at least the first one.
    #[must_use]
    pub const fn minus(self, count: u64) -> Self {
        Self(self.0.saturating_sub(count))
    }

    /// How many serials later than `earlier` this one is; 0 if it is not.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_stays_below_two_to_the_62_whatever_is_done_to_it() {
        assert_eq!(Serial::new(u64::MAX), Serial::MAX);
        assert_eq!(Serial::named(1 << 62), Err(DecodeError::OutOfRange("serial")));
        assert_eq!(Serial::named((1 << 62) - 1), Ok(Serial::MAX));
        assert_eq!(Serial::MAX.next(), Serial::MAX);
        assert_eq!(Serial::MAX.plus(u64::MAX), Serial::MAX);
        assert_eq!(Serial::ZERO.minus(1), Serial::ZERO);
        assert_eq!(Serial::ZERO.since(Serial::MAX), 0);
        assert_eq!(Serial::MAX.since(Serial::ZERO), Serial::MAX.get());
    }
}
