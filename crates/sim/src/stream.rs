//! The stream: how many bytes, cut into which pieces and segments, and when each piece closes.
//!
//! Rule: constant bit rate; a piece closes when its last byte has come in; the last piece of a
//! segment is as short as the segment's length makes it; each segment starts with a random access
//! point and has one every [`StreamSpec::random_access`].

use minuet_proto::{PieceId, PieceIndex, SegmentSeq};

use crate::engine::{Micros, SECOND};

/// What is broadcast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamSpec {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes of a piece.
    pub piece_length: u32,
    /// Length of a segment.
    pub segment: Micros,
    /// From one random access point to the next.
    pub random_access: Micros,
    /// Length of the stream.
    pub duration: Micros,
    /// The whole stream is there at the start (a file), not as time goes by.
    pub at_once: bool,
}

/// One piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPiece {
    /// Its name.
    pub id: PieceId,
    /// Its length in bytes.
    pub len: u32,
    /// When its last byte comes in, for a live stream.
    pub closes_at: Micros,
    /// Whether a random access point starts in it.
    pub random_access: bool,
    /// Whether it is the last of its segment.
    pub seals: bool,
}

impl StreamSpec {
    /// 8 Mbit/s, 64 KiB pieces, a minute a segment, a random access point every 2 s, five minutes.
    pub fn standard() -> Self {
        Self {
            rate: 1_000_000,
            piece_length: 64 * 1024,
            segment: 60 * SECOND,
            random_access: 2 * SECOND,
            duration: 300 * SECOND,
            at_once: false,
        }
    }

    /// The pieces of a broadcast that begins with segment `seq` at `start` and ends at `end`.
    pub fn pieces(self, seq: u64, start: Micros, end: Micros) -> impl Iterator<Item = StreamPiece> {
        let in_segment = self.rate * self.segment / SECOND;
        let bytes_at = move |at: Micros| at * self.rate / SECOND;
        (seq..)
            .map(SegmentSeq)
            .flat_map(move |segment| {
                let began = start + (segment.0 - seq) * self.segment;
                let count = in_segment.div_ceil(u64::from(self.piece_length));
                (0..count).map(move |index| {
                    let first = index * u64::from(self.piece_length);
                    let last = (first + u64::from(self.piece_length)).min(in_segment);
                    let point = bytes_at(first.div_ceil(bytes_at(self.random_access)) * self.random_access);
                    StreamPiece {
                        id: PieceId { segment, piece: PieceIndex(index as u32) },
                        len: (last - first) as u32,
                        closes_at: began + last * SECOND / self.rate,
                        random_access: (first..last).contains(&point),
                        seals: index + 1 == count,
                    }
                })
            })
            .take_while(move |piece| piece.closes_at <= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_segments_and_close_in_time() {
        let spec = StreamSpec { segment: 10 * SECOND, ..StreamSpec::standard() };
        let pieces: Vec<_> = spec.pieces(7, 0, 30 * SECOND).collect();
        let bytes: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
        assert_eq!(bytes, 30_000_000);
        assert_eq!(pieces.last().map(|piece| piece.closes_at), Some(30 * SECOND));
        assert!(pieces.windows(2).all(|two| two[0].closes_at < two[1].closes_at));
        assert_eq!(pieces.iter().filter(|piece| piece.seals).count(), 3);
        // Five a segment, and each segment's first piece has one.
        assert_eq!(pieces.iter().filter(|piece| piece.random_access).count(), 15);
        assert!(pieces.iter().filter(|piece| piece.id.piece.0 == 0).all(|piece| piece.random_access));
        assert_eq!(pieces[0].id.segment, SegmentSeq(7));
    }
}
