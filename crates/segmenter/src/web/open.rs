//! Byte ranges of the segment that is open, from the live window. Not for caches: the whole is not known yet.
//!
//! Viewers ask for a piece's bytes, with both ends. Players and proxies may ask for what follows a byte: they get what is
//! here of it. How long the segment will be is not known, so there are no bytes from its end, and a range that is not
//! here cannot be told how much there is (RFC 9110, 14.4).

use std::{io, sync::Arc};

use axum::{
    body::Body,
    http::{
        Method, StatusCode,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream::try_unfold};
use minuet_node::mesh::{LivePiece, LiveWindow};
use minuet_proto::{SegmentSeq, mesh::Serial};
use minuet_serve::{
    file::CHUNK,
    range::{self, Range},
};

use super::{VIDEO, Web, paced};
use crate::live::Live;

/// Bytes of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    serial: Serial,
    /// Where they begin in the piece.
    from: u32,
    /// Where they end.
    to: u32,
}

/// Answers a request for a segment that is not finished.
pub fn answer(web: Web, seq: SegmentSeq, request: &Parts) -> Response {
    let window = web.live.as_ref().and_then(Live::window);
    let range = range::asked(&request.headers).filter(|_| request.method == Method::GET);
    let (Some(window), Some(range)) = (window, range) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (first, last) = match range {
        Range::From(first, last) => (first, last),
        Range::Suffix(_) => return StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
    };
    let (parts, length) = parts(&window.of_segment(seq), first, last);
    let whole = last.and_then(|last| (last - first).checked_add(1));
    if length == 0 || whole.is_some_and(|whole| whole != length) {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let head = [
        (CONTENT_TYPE, VIDEO.to_owned()),
        (CONTENT_RANGE, format!("bytes {first}-{}/*", first + (length - 1))),
        (CONTENT_LENGTH, length.to_string()),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    let body = Body::from_stream(paced(web, chunks(window, parts)));
    (StatusCode::PARTIAL_CONTENT, head, body).into_response()
}

/// The bytes from `first` to `last` (included) that are here without a gap from `first` on, and how many they are. Takes
/// one look at each piece.
fn parts(pieces: &[LivePiece], first: u64, last: Option<u64>) -> (Vec<Part>, u64) {
    // All pieces of a segment but its last have one length; if only one is known, it may be that last one.
    let length = match pieces {
        [only] if only.piece.id.piece.0 == 0 => 0,
        [one, _, ..] => u64::from(one.piece.len),
        _ => return (Vec::new(), 0),
    };
    let end = last.map_or(u64::MAX, |last| last.saturating_add(1));
    let (mut parts, mut at) = (Vec::new(), first);
    for known in pieces {
        let offset = length.saturating_mul(u64::from(known.piece.id.piece.0));
        let after = offset.saturating_add(u64::from(known.piece.len));
        if after <= at {
            continue;
        }
        if at >= end || offset > at || !known.held {
            break;
        }
        let to = after.min(end);
        // Within the piece, so they fit.
        parts.push(Part { serial: known.piece.serial, from: (at - offset) as u32, to: (to - offset) as u32 });
        at = to;
    }
    (parts, at - first)
}

/// The bytes in chunks, each read when its turn has come. A piece that has left the window meanwhile breaks them off.
fn chunks(window: Arc<LiveWindow>, parts: Vec<Part>) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
    let parts = parts.into_iter();
    try_unfold((window, parts, None), |(window, mut parts, current)| async move {
        let Some(Part { serial, from, to }) = current.or_else(|| parts.next()) else { return Ok(None) };
        let len = (to - from).min(CHUNK as u32);
        let gone = || io::Error::new(io::ErrorKind::NotFound, "a piece has left the window");
        let chunk = window.read_part(serial, from, len).ok_or_else(gone)?;
        let rest = (from + len < to).then_some(Part { serial, from: from + len, to });
        Ok(Some((chunk, (window, parts, rest))))
    })
}

#[cfg(test)]
mod tests {
    use minuet_mesh::PieceRef;
    use minuet_proto::{PieceHash, PieceId, PieceIndex};
    use proptest::prelude::*;

    use super::*;

    /// Pieces of 100 bytes, numbered from `first`; the last has `short` bytes. Those in `missing` are not here.
    fn pieces(first: u32, count: u32, short: u32, missing: &[u32]) -> Vec<LivePiece> {
        let piece = |index: u32| LivePiece {
            piece: PieceRef {
                serial: Serial::new(1000 + u64::from(index)),
                id: PieceId { segment: SegmentSeq(7), piece: PieceIndex(index) },
                len: if index + 1 == first + count { short } else { 100 },
                hash: PieceHash::new([0; 20]),
                ingest_ms: 0,
            },
            random_access: false,
            held: !missing.contains(&index),
        };
        (first..first + count).map(piece).collect()
    }

    fn part(index: u64, from: u32, to: u32) -> Part {
        Part { serial: Serial::new(1000 + index), from, to }
    }

    #[test]
    fn a_range_is_made_of_parts_of_pieces() {
        let known = pieces(3, 5, 40, &[6]);
        assert_eq!(parts(&known, 350, Some(449)), (vec![part(3, 50, 100), part(4, 0, 50)], 100));
        assert_eq!(parts(&known, 300, Some(300)), (vec![part(3, 0, 1)], 1));
        // To where the first gap is.
        assert_eq!(parts(&known, 580, None), (vec![part(5, 80, 100)], 20));
        assert_eq!(parts(&known, 580, Some(700)).1, 20);
        assert_eq!(parts(&known, 700, None), (vec![part(7, 0, 40)], 40));
        for (first, last) in
            [(0, None), (600, None), (740, None), (u64::MAX, None), (u64::MAX, Some(u64::MAX))]
        {
            assert_eq!(parts(&known, first, last), (Vec::new(), 0), "{first}");
        }
        assert_eq!(parts(&pieces(0, 1, 40, &[]), 0, None).1, 40);
        assert_eq!(parts(&pieces(4, 1, 40, &[]), 400, None).1, 0, "its place is not known");
        assert_eq!(parts(&[], 0, None).1, 0);
    }

    proptest! {
        #[test]
        fn parts_make_up_the_range_whatever_it_is(
            index in 0u32..50, count in 1u32..50, short in 1u32..=100,
            missing in prop::collection::vec(0u32..100, 0..5),
            first in prop_oneof![0u64..10_000, any::<u64>()], last in prop::option::of(any::<u64>()),
        ) {
            prop_assume!(last.is_none_or(|last| first <= last));
            let (parts, length) = parts(&pieces(index, count, short, &missing), first, last);
            let sum: u64 = parts.iter().map(|part| u64::from(part.to - part.from)).sum();
            prop_assert_eq!(sum, length);
            prop_assert!(parts.iter().all(|part| part.from < part.to && part.to <= 100));
            prop_assert!(last.is_none_or(|last| length <= (last - first).saturating_add(1)));
        }
    }
}
