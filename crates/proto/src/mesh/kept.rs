//! Messages about finished segments that nodes keep.
//!
//! A finished segment needs no heads: its signed record names its torrent's info hash, and the torrent has the hash of each
//! piece. So these messages name a piece by its segment and its index there, and a node that has the record and the hashes of
//! a segment can check every piece of it.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use smallvec::SmallVec;

use super::codec::{self, DecodeError};
use super::message::{MAX_BITMAP_LEN, MAX_BLOCK_LEN, MAX_PIECE_LEN, MAX_STATEMENT_LEN, MIN_BLOCK_LEN};
use crate::{PieceId, PieceIndex, SegmentSeq};

/// Most ranges in one [`Kept::Whole`].
pub const MAX_RANGES: usize = 64;
/// Most hashes in one [`Minute`].
pub const MAX_HASHES: usize = 2048;
/// Length of a hash.
const HASH_LEN: usize = 20;
/// Most pieces that a segment can have: one bit each in a [`KeptMap`].
pub const MAX_SEGMENT_PIECES: u32 = MAX_BITMAP_LEN as u32 * 8;
/// Most pieces in one [`Kept::Have`].
const MAX_INDICES: usize = 4096;

/// The types of these messages.
pub(super) mod kind {
    pub const WHOLE: u64 = 15;
    pub const MAP: u64 = 16;
    pub const HAVE: u64 = 17;
    pub const GET_MINUTE: u64 = 18;
    pub const MINUTE: u64 = 19;
    pub const REQUEST: u64 = 20;
    pub const CANCEL: u64 = 21;
    pub const REJECT: u64 = 22;
    pub const BLOCK: u64 = 23;
}

/// A message about finished segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The segments that the sender keeps as a whole: all of them, whatever it said before.
    Whole(Ranges),
    /// What the sender has of one segment, whatever it said before.
    Map(KeptMap),
    /// The sender has these pieces, too.
    Have {
        /// The segment.
        segment: SegmentSeq,
        /// Their indices, in ascending order on the wire.
        pieces: Indices,
    },
    /// Please send the segment's record and the hashes of its pieces from `first` on.
    GetMinute {
        /// The segment.
        segment: SegmentSeq,
        /// The first piece whose hash is wanted.
        first: PieceIndex,
    },
    /// The record and hashes of a segment.
    Minute(Minute),
    /// Please send this piece.
    Request {
        /// The piece.
        piece: PieceId,
        /// Milliseconds until the sender's reader needs it; 0 if it does not say.
        due_in_ms: u32,
    },
    /// The piece is no longer wanted.
    Cancel(PieceId),
    /// The request is not served.
    Reject {
        /// The piece.
        piece: PieceId,
        /// Whether the sender has it: if so it is only busy.
        has: bool,
    },
    /// Part of a piece; the payload goes with the frame.
    Block(KeptBlock),
}

/// Segments: the first of each range, and how many there are; ascending, apart from each other, at most [`MAX_RANGES`].
pub type Ranges = SmallVec<[(SegmentSeq, u64); 2]>;

/// Indices of pieces in a segment.
pub type Indices = SmallVec<[PieceIndex; 4]>;

/// Which pieces of one segment a node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMap {
    /// The segment.
    pub segment: SegmentSeq,
    /// Whether its sender fetches the segment, and wishes to hear who else has which pieces.
    pub wants: bool,
    /// One bit a piece from the first on, most significant bit first (BEP 3).
    pub bits: Bytes,
}

/// A segment's record and hashes; empty, record and all, if the sender does not have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minute {
    /// The segment.
    pub segment: SegmentSeq,
    /// The first piece of `hashes`.
    pub first: PieceIndex,
    /// The signed record, opaque to the mesh; at most 4,096 bytes.
    pub record: Bytes,
    /// SHA-1s of pieces, 20 bytes each, at most [`MAX_HASHES`].
    pub hashes: Bytes,
}

/// Part of a piece of a finished segment. Its payload is the rest of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBlock {
    /// The piece.
    pub piece: PieceId,
    /// Where the payload starts in the piece, in bytes.
    pub offset: u32,
    /// Length of the payload in bytes, bounded as a [`Block`](super::Block)'s.
    pub len: u32,
    /// Length of the whole piece in bytes.
    pub piece_len: u32,
}

impl Kept {
    /// Bytes of payload that follow the header.
    pub(super) fn payload_len(&self) -> usize {
        match self {
            Self::Block(block) => block.len as usize,
            _ => 0,
        }
    }

    /// Appends type and fields.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let put = codec::put_varint;
        match self {
            Self::Whole(ranges) => {
                put(out, kind::WHOLE);
                let mut next = 0;
                for (first, count) in ranges {
                    put(out, first.0.wrapping_sub(next));
                    put(out, count.wrapping_sub(1));
                    next = first.0.wrapping_add(*count);
                }
            }
            Self::Map(map) => {
                put(out, kind::MAP);
                put(out, map.segment.0);
                out.put_u8(map.wants.into());
                out.put_slice(&map.bits);
            }
            Self::Have { segment, pieces } => {
                put(out, kind::HAVE);
                put(out, segment.0);
                let mut next = 0u32;
                for piece in pieces {
                    put(out, piece.0.wrapping_sub(next).into());
                    next = piece.0.wrapping_add(1);
                }
            }
            Self::GetMinute { segment, first } => {
                put(out, kind::GET_MINUTE);
                put(out, segment.0);
                put(out, first.0.into());
            }
            Self::Minute(minute) => {
                put(out, kind::MINUTE);
                put(out, minute.segment.0);
                put(out, minute.first.0.into());
                put(out, minute.record.len() as u64);
                out.put_slice(&minute.record);
                out.put_slice(&minute.hashes);
            }
            Self::Request { piece, due_in_ms } => {
                put(out, kind::REQUEST);
                put_piece(out, *piece);
                put(out, (*due_in_ms).into());
            }
            Self::Cancel(piece) => {
                put(out, kind::CANCEL);
                put_piece(out, *piece);
            }
            Self::Reject { piece, has } => {
                put(out, kind::REJECT);
                put_piece(out, *piece);
                out.put_u8((*has).into());
            }
            Self::Block(block) => {
                put(out, kind::BLOCK);
                put_piece(out, block.piece);
                put(out, block.offset.into());
                put(out, block.piece_len.into());
            }
        }
    }

    /// Length of type, fields and payload.
    pub(super) fn body_len(&self) -> usize {
        let mut out = BytesMut::new();
        match self {
            // What may be long is not written for its length.
            Self::Map(map) => {
                codec::varint_len(map.segment.0).saturating_add(map.bits.len()).saturating_add(2)
            }
            Self::Minute(Minute { segment, first, record, hashes }) => {
                let varints = [segment.0, first.0.into(), record.len() as u64].map(codec::varint_len);
                let fixed = varints.into_iter().fold(1usize, usize::saturating_add);
                fixed.saturating_add(record.len()).saturating_add(hashes.len())
            }
            _ => {
                self.encode(&mut out);
                out.len().saturating_add(self.payload_len())
            }
        }
    }

    /// Parses the fields of a message of type `kind`, which is one of these; the payload comes beside.
    pub(super) fn decode(kind: u64, buf: &mut Bytes) -> Result<(Self, Bytes), DecodeError> {
        let mut payload = Bytes::new();
        let message = match kind {
            kind::WHOLE => Self::Whole(get_ranges(buf)?),
            kind::MAP => {
                let (segment, wants) = (get_segment(buf)?, get_flag(buf)?);
                Self::Map(KeptMap { segment, wants, bits: rest(buf, MAX_BITMAP_LEN, "bitmap")? })
            }
            kind::HAVE => Self::Have { segment: get_segment(buf)?, pieces: get_indices(buf)? },
            kind::GET_MINUTE => Self::GetMinute { segment: get_segment(buf)?, first: get_index(buf)? },
            kind::MINUTE => {
                let (segment, first) = (get_segment(buf)?, get_index(buf)?);
                let record = codec::get_bytes(buf, MAX_STATEMENT_LEN, "record")?;
                let hashes = rest(buf, MAX_HASHES.saturating_mul(HASH_LEN), "hashes")?;
                if !hashes.len().is_multiple_of(HASH_LEN) {
                    return Err(DecodeError::Truncated("hashes"));
                }
                Self::Minute(Minute { segment, first, record, hashes })
            }
            kind::REQUEST => Self::Request {
                piece: get_piece(buf)?,
                due_in_ms: codec::get_varint_u32(buf, "time until due")?,
            },
            kind::CANCEL => Self::Cancel(get_piece(buf)?),
            kind::REJECT => Self::Reject { piece: get_piece(buf)?, has: get_flag(buf)? },
            _ => {
                let header = BlockHeader::get(buf)?;
                payload = rest(buf, MAX_BLOCK_LEN as usize, "block")?;
                Self::Block(header.check(payload.len())?)
            }
        };
        Ok((message, payload))
    }

    /// Parses the fields of a block whose payload, of `len` bytes, is kept apart.
    pub(super) fn decode_block(header: &mut Bytes, len: usize) -> Result<Self, DecodeError> {
        let block = BlockHeader::get(header)?;
        Ok(Self::Block(block.check(len)?))
    }
}

struct BlockHeader {
    piece: PieceId,
    offset: u32,
    piece_len: u32,
}

impl BlockHeader {
    fn get(buf: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            piece: get_piece(buf)?,
            offset: codec::get_varint_u32(buf, "block offset")?,
            piece_len: codec::get_varint_u32(buf, "piece length")?,
        })
    }

    fn check(self, len: usize) -> Result<KeptBlock, DecodeError> {
        let Self { piece, offset, piece_len } = self;
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let end = u64::from(offset).saturating_add(len.into());
        let small = len < MIN_BLOCK_LEN && end < u64::from(piece_len);
        if len == 0 || small || len > MAX_BLOCK_LEN || piece_len > MAX_PIECE_LEN || end > u64::from(piece_len)
        {
            return Err(DecodeError::OutOfRange("block"));
        }
        Ok(KeptBlock { piece, offset, len, piece_len })
    }
}

fn put_piece(out: &mut BytesMut, piece: PieceId) {
    codec::put_varint(out, piece.segment.0);
    codec::put_varint(out, piece.piece.0.into());
}

fn get_piece(buf: &mut Bytes) -> Result<PieceId, DecodeError> {
    Ok(PieceId { segment: get_segment(buf)?, piece: get_index(buf)? })
}

fn get_segment(buf: &mut Bytes) -> Result<SegmentSeq, DecodeError> {
    segment(codec::get_varint(buf, "segment")?)
}

fn segment(number: u64) -> Result<SegmentSeq, DecodeError> {
    if number > SegmentSeq::MAX.0 { Err(DecodeError::OutOfRange("segment")) } else { Ok(SegmentSeq(number)) }
}

fn get_index(buf: &mut Bytes) -> Result<PieceIndex, DecodeError> {
    index(codec::get_varint(buf, "piece index")?)
}

fn index(number: u64) -> Result<PieceIndex, DecodeError> {
    let index = u32::try_from(number).ok().filter(|index| *index < MAX_SEGMENT_PIECES);
    index.map(PieceIndex).ok_or(DecodeError::OutOfRange("piece index"))
}

fn get_flag(buf: &mut Bytes) -> Result<bool, DecodeError> {
    match codec::get_u8(buf, "flag")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::OutOfRange("flag")),
    }
}

fn get_ranges(buf: &mut Bytes) -> Result<Ranges, DecodeError> {
    let (mut ranges, mut next) = (Ranges::new(), 0u64);
    while buf.has_remaining() {
        if ranges.len() == MAX_RANGES {
            return Err(DecodeError::OutOfRange("number of ranges"));
        }
        let first = segment(next.saturating_add(codec::get_varint(buf, "segment")?))?;
        let count = codec::get_varint(buf, "number of segments")?.saturating_add(1);
        segment(first.0.saturating_add(count).saturating_sub(1))?;
        ranges.push((first, count));
        next = first.0.saturating_add(count);
    }
    Ok(ranges)
}

fn get_indices(buf: &mut Bytes) -> Result<Indices, DecodeError> {
    let (mut indices, mut next) = (Indices::new(), 0u64);
    while buf.has_remaining() {
        if indices.len() == MAX_INDICES {
            return Err(DecodeError::OutOfRange("number of pieces"));
        }
        let found = index(next.saturating_add(codec::get_varint(buf, "piece index")?))?;
        indices.push(found);
        next = u64::from(found.0).saturating_add(1);
    }
    Ok(indices)
}

fn rest(buf: &mut Bytes, max: usize, what: &'static str) -> Result<Bytes, DecodeError> {
    if buf.len() > max { Err(DecodeError::OutOfRange(what)) } else { Ok(buf.split_to(buf.len())) }
}
