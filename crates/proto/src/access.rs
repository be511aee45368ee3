//! Where in a segment decoding can start, besides its beginning: who comes for a moment needs one piece to begin there.
//!
//! Encoded: for each point, in order, two unsigned LEB128 numbers: pieces since the point before (since piece 0), and
//! milliseconds since the point before (since the segment's beginning).

use std::time::Duration;

use crate::{Error, PieceIndex};

/// Points that a record names at most.
pub const MAX_ACCESS_POINTS: usize = 64;
/// Bytes that a number takes at most.
const MAX_NUMBER: usize = 5;
const WHAT: &str = "a record's access points";

/// A piece in which decoding can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessPoint {
    /// The piece.
    pub piece: PieceIndex,
    /// Its first such place, in milliseconds of media since the segment's beginning.
    pub at_ms: u32,
}

/// At most [`MAX_ACCESS_POINTS`] of them, each in a later piece than the one before, and no earlier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessPoints(Vec<AccessPoint>);

impl AccessPoints {
    /// Of points in order those that fit, as evenly as they lie. One in a piece that has one already is left out.
    pub fn of(points: impl IntoIterator<Item = AccessPoint>) -> Self {
        let mut kept: Vec<AccessPoint> = Vec::new();
        for point in points {
            let last = kept.last().map_or((PieceIndex(0), 0), |last| (last.piece, last.at_ms));
            if point.piece > last.0 && point.at_ms >= last.1 {
                kept.push(point);
            }
        }
        let span = kept.last().map_or(0, |last| u64::from(last.at_ms));
        // Each is so far from the one before that no more than these fit.
        let least =
            if kept.len() > MAX_ACCESS_POINTS { span.div_ceil(MAX_ACCESS_POINTS as u64).max(1) } else { 0 };
        let mut next = 0;
        kept.retain(|point| {
            let at = u64::from(point.at_ms);
            let fits = at >= next;
            if fits {
                next = at.saturating_add(least);
            }
            fits
        });
        kept.truncate(MAX_ACCESS_POINTS);
        Self(kept)
    }

    /// The last one at or before a moment, since the segment's beginning. None: the beginning itself.
    pub fn before(&self, moment: Duration) -> Option<AccessPoint> {
        let count = self.0.partition_point(|point| u128::from(point.at_ms) <= moment.as_millis());
        self.0.get(count.checked_sub(1)?).copied()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = AccessPoint> {
        self.0.iter().copied()
    }

    /// The bytes; see the module.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 4);
        let (mut piece, mut at_ms) = (0u32, 0u32);
        for point in &self.0 {
            write(point.piece.0.saturating_sub(piece), &mut bytes);
            write(point.at_ms.saturating_sub(at_ms), &mut bytes);
            (piece, at_ms) = (point.piece.0, point.at_ms);
        }
        bytes
    }

    /// Reads what [`AccessPoints::encode`] wrote.
    ///
    /// # Errors
    /// There are more than [`MAX_ACCESS_POINTS`], a number is out of bounds or cut off, or two are in one piece.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let fail = |why: &str| Error::malformed(WHAT, why);
        let mut rest = bytes;
        let (mut points, mut piece, mut at_ms) = (Vec::new(), 0u32, 0u32);
        while !rest.is_empty() {
            let mut next = || read(&mut rest).ok_or_else(|| fail("a number is out of bounds"));
            let (pieces, ms) = (next()?, next()?);
            piece = piece
                .checked_add(pieces)
                .filter(|_| pieces > 0)
                .ok_or_else(|| fail("pieces are not in order"))?;
            at_ms = at_ms.checked_add(ms).ok_or_else(|| fail("a time is out of bounds"))?;
            points.push(AccessPoint { piece: PieceIndex(piece), at_ms });
            if points.len() > MAX_ACCESS_POINTS {
                return Err(fail("they are too many"));
            }
        }
        Ok(Self(points))
    }
}

fn write(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().take(MAX_NUMBER).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return u32::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_points() -> impl Strategy<Value = AccessPoints> {
        let steps = prop::collection::vec((0u32..1 << 20, 0u32..1 << 20), 0..200);
        steps.prop_map(|steps| {
            let (mut piece, mut at_ms) = (0, 0);
            AccessPoints::of(steps.into_iter().map(|(pieces, ms)| {
                (piece, at_ms) = (piece + pieces, at_ms + ms);
                AccessPoint { piece: PieceIndex(piece), at_ms }
            }))
        })
    }

    proptest! {
        #[test]
        fn points_round_trip(points in any_points()) {
            prop_assert!(points.iter().count() <= MAX_ACCESS_POINTS);
            prop_assert_eq!(AccessPoints::decode(&points.encode()), Ok(points));
        }

        #[test]
        fn garbage_never_panics_and_what_is_read_is_in_order(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(points) = AccessPoints::decode(&bytes) {
                let all: Vec<_> = points.iter().collect();
                prop_assert!(all.len() <= MAX_ACCESS_POINTS);
                prop_assert!(all.windows(2).all(|two| two[0].piece < two[1].piece && two[0].at_ms <= two[1].at_ms));
            }
        }

        #[test]
        fn the_last_point_before_a_moment_is_found(points in any_points(), moment in 0u64..1 << 31) {
            let all: Vec<_> = points.iter().collect();
            let expected = all.iter().rev().find(|point| u64::from(point.at_ms) <= moment).copied();
            prop_assert_eq!(points.before(Duration::from_millis(moment)), expected);
        }
    }

    #[test]
    fn of_many_points_some_are_kept_evenly() {
        // A key frame every 40 ms for ten minutes, and a piece every 20 ms.
        let all = (1..15_000).map(|n| AccessPoint { piece: PieceIndex(n * 2), at_ms: n * 40 });
        let points = AccessPoints::of(all);
        let at: Vec<u32> = points.iter().map(|point| point.at_ms).collect();
        assert!(at.len() > MAX_ACCESS_POINTS / 2 && at.len() <= MAX_ACCESS_POINTS, "{}", at.len());
        assert!(at.windows(2).all(|two| two[1] - two[0] <= 10_000), "{at:?}");
        assert!(*at.last().unwrap() >= 585_000, "{at:?}");
        assert!(points.encode().len() < 400, "a record stays small");
    }

    #[test]
    fn two_points_in_one_piece_are_refused_and_numbers_have_an_end() {
        for bytes in [&[1, 1, 0, 1][..], &[1], &[0x80], &[1, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0xff; 12]] {
            assert!(AccessPoints::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(AccessPoints::decode(&[1, 1].repeat(MAX_ACCESS_POINTS)).is_ok());
        assert!(AccessPoints::decode(&[1, 1].repeat(MAX_ACCESS_POINTS + 1)).is_err());
    }
}
