//! What a leap of live playback passes over: pieces that did not come in time, or numbers that no piece has.
//!
//! A source counts its pieces up by one, and one that is started again goes on at a number by the clock, 64 to a
//! millisecond: the numbers in between belong to no piece, and nothing was missed with them.

use std::fmt;

use minuet_node::{
    mesh::{LiveWindow, PieceRef},
    units,
};
use minuet_proto::mesh::Serial;

/// No source has more pieces than this: 1 Gbit/s in the smallest ones. A started one leaves out 64.
const MAX_PIECES_PER_MS: u64 = 8;

/// What lies between two pieces that are played one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Pieces that the source made and that were not played.
    pub missed: u64,
    /// The source was started again in between.
    pub anew: bool,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = units::count(self.missed, "piece", "pieces");
        match (self.anew, self.missed) {
            (true, 0) => write!(f, "the source was started again"),
            (true, _) => write!(f, "the source was started again, and {pieces} did not come in time"),
            (false, _) => write!(f, "{pieces} did not come in time"),
        }
    }
}

/// What lies between `last`, which was played, and `target`; `next` is the number after `last`.
pub fn passed_over(window: &LiveWindow, last: Option<PieceRef>, next: Serial, target: Serial) -> Passed {
    let first = window.get(next).or_else(|| window.after(next));
    let known = std::iter::successors(first, |known| window.after(known.piece.serial));
    let known = known.map(|known| known.piece).take_while(|piece| piece.serial <= target);
    count(last, next, target, known)
}

fn count(
    last: Option<PieceRef>,
    next: Serial,
    target: Serial,
    known: impl Iterator<Item = PieceRef>,
) -> Passed {
    let (mut passed, mut before, mut expected) = (Passed::default(), last, next.get());
    for piece in known {
        let unknown = piece.serial.get().saturating_sub(expected);
        let took_ms = before.map_or(0, |before| piece.ingest_ms.saturating_sub(before.ingest_ms));
        let most = took_ms.saturating_add(1).saturating_mul(MAX_PIECES_PER_MS);
        passed.missed += if unknown > most {
            passed.anew = true;
            // Those before it in its segment, which nobody told of here.
            u64::from(piece.id.piece.0).min(unknown)
        } else {
            unknown
        };
        if piece.serial != target {
            passed.missed += 1;
        }
        (before, expected) = (Some(piece), piece.serial.get() + 1);
    }
    passed
}

#[cfg(test)]
mod tests {
    use minuet_proto::{PieceHash, PieceId, PieceIndex, SegmentSeq};

    use super::*;

    fn piece(serial: u64, segment: u64, index: u32, ingest_ms: u64) -> PieceRef {
        let id = PieceId { segment: SegmentSeq(segment), piece: PieceIndex(index) };
        let (serial, hash) = (Serial::new(serial), PieceHash::new([0; 20]));
        PieceRef { serial, id, len: 4, hash, ingest_ms }
    }

    /// After piece 999 of the numbers, which came in at 5 s, with these known up to the target.
    fn passed(known: &[PieceRef]) -> Passed {
        let target = known.last().unwrap().serial;
        count(Some(piece(999, 3, 49, 5000)), Serial::new(1000), target, known.iter().copied())
    }

    #[test]
    fn a_source_that_was_started_again_cost_nothing_by_that() {
        // It was away for 16 s, and began a new segment.
        let anew = 999 + 16_000 * 64;
        let found = passed(&[piece(anew, 5, 0, 21_000)]);
        assert_eq!(found, Passed { missed: 0, anew: true });
        assert_eq!(found.to_string(), "the source was started again");
        // It was known to have made two more before, and the first of the new ones were not heard of.
        let found =
            passed(&[piece(1000, 3, 50, 5100), piece(1001, 3, 51, 5200), piece(anew + 4, 5, 4, 21_400)]);
        assert_eq!(found, Passed { missed: 6, anew: true });
        assert!(found.to_string().contains("and 6 pieces"), "{found}");
    }

    #[test]
    fn pieces_that_did_not_come_are_counted() {
        let late: Vec<PieceRef> =
            (1000..1007).map(|n| piece(n, 3, (n - 950) as u32, 5000 + n - 999)).collect();
        assert_eq!(passed(&late), Passed { missed: 6, anew: false });
        // Nobody told of those in between.
        assert_eq!(passed(&[piece(1040, 4, 10, 9000)]), Passed { missed: 40, anew: false });
        assert_eq!(passed(&[piece(1001, 3, 51, 5000)]).to_string(), "1 piece did not come in time");
    }
}
