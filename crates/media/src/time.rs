//! The clocks of MPEG-TS: 33-bit timestamps (PTS, DTS) and the program clock reference (PCR).
//!
//! Both wrap every 26.5 hours, so two of them are only ever compared by their difference modulo 2^33.
//! ISO/IEC 13818-1, 2.4.2.2 (PCR) and 2.7.4, 2.7.5 (PTS, DTS).

use std::time::Duration;

/// Ticks a second of PTS, DTS and of the base of a PCR.
pub const TICKS_PER_SECOND: u64 = 90_000;

/// A PTS, a DTS or the base of a PCR: 33 bits at 90 kHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// One more than the greatest timestamp: they wrap to 0 here.
    pub const MODULUS: u64 = 1 << 33;

    /// A timestamp of `ticks` modulo 2^33.
    pub const fn new(ticks: u64) -> Self {
        Self(ticks % Self::MODULUS)
    }

    /// The 33-bit count of 90 kHz ticks.
    pub const fn ticks(self) -> u64 {
        self.0
    }

    /// Ticks from `earlier` to `self` over the shorter way round the circle: in (-2^32, 2^32].
    pub const fn since(self, earlier: Self) -> i64 {
        let forward = self.forward_from(earlier);
        if forward > Self::MODULUS / 2 { forward as i64 - Self::MODULUS as i64 } else { forward as i64 }
    }

    /// Ticks from `earlier` forward to `self`: in [0, 2^33).
    pub const fn forward_from(self, earlier: Self) -> u64 {
        (self.0 + Self::MODULUS - earlier.0) % Self::MODULUS
    }

    /// This timestamp moved by `ticks`, modulo 2^33.
    #[must_use]
    pub const fn shifted(self, ticks: i64) -> Self {
        let modulus = Self::MODULUS as i64;
        Self((self.0 as i64 + ticks.rem_euclid(modulus)) as u64 % Self::MODULUS)
    }
}

/// A program clock reference: a 33-bit base at 90 kHz and an extension (0 to 299) at 27 MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcr {
    /// The base, comparable with PTS and DTS.
    pub base: Timestamp,
    /// 27 MHz ticks beyond the base, 0 to 299 in a well-formed stream (9 bits on the wire).
    pub extension: u16,
}

impl Pcr {
    /// Reads the six bytes of a PCR field.
    pub fn parse(field: [u8; 6]) -> Self {
        let bits = field.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        Self { base: Timestamp::new(bits >> 15), extension: (bits & 0x1ff) as u16 }
    }

    /// The six bytes of the field; the reserved bits are ones.
    pub fn to_bytes(self) -> [u8; 6] {
        let bits = self.base.ticks() << 15 | 0x7e00 | u64::from(self.extension & 0x1ff);
        let [_, _, bytes @ ..] = bits.to_be_bytes();
        bytes
    }
}

/// A span of stream time, or a position in it, in 90 kHz ticks. Never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

impl Ticks {
    /// The span as a [`Duration`], rounded down to nanoseconds.
    pub fn as_duration(self) -> Duration {
        let nanos = u128::from(self.0) * 100_000 / 9;
        Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32)
    }

    /// Whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 90
    }
}

impl From<Duration> for Ticks {
    /// Rounded to the nearest tick; saturates.
    fn from(duration: Duration) -> Self {
        let ticks = (duration.as_nanos().saturating_mul(9) + 50_000) / 100_000;
        Self(u64::try_from(ticks).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_cross_the_wrap() {
        let before = Timestamp::new(Timestamp::MODULUS - 10);
        let after = Timestamp::new(20);
        assert_eq!(after.since(before), 30);
        assert_eq!(before.since(after), -30);
        assert_eq!(before.shifted(30), after);
        assert_eq!(after.shifted(-30), before);
        assert_eq!(before.shifted(i64::MIN).shifted(i64::MAX).shifted(1), before);
    }

    #[test]
    fn pcr_round_trips() {
        let pcr = Pcr { base: Timestamp::new(0x1_2345_6789), extension: 299 };
        assert_eq!(Pcr::parse(pcr.to_bytes()), pcr);
        // ISO/IEC 13818-1, table 2-6: 33 bits of base, 6 reserved, 9 of extension.
        assert_eq!(Pcr { base: Timestamp::new(1), extension: 1 }.to_bytes(), [0, 0, 0, 0, 0b1111_1110, 1]);
    }

    #[test]
    fn ticks_and_durations_agree() {
        assert_eq!(Ticks::from(Duration::from_secs(60)), Ticks(5_400_000));
        assert_eq!(Ticks(5_400_000).as_duration(), Duration::from_secs(60));
        assert_eq!(Ticks(90).as_millis(), 1);
        assert_eq!(Ticks::from(Ticks(12_345_678_901).as_duration()), Ticks(12_345_678_901));
    }
}
