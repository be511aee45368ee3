//! Heads: the source's signed statements of newly closed pieces.
//!
//! A head names one piece or several in a row, all of one segment. Nodes forward heads bit by bit as they came,
//! so one signature serves the whole mesh, and a head proves itself whoever brings it. Ingest times are those of
//! the source's clock; only their differences matter to a viewer, so clocks need not agree.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::codec::{self, DecodeError};
use super::message::MAX_PIECE_LEN;
use super::serial::Serial;
use crate::{MAX_UNIX_MS, PieceHash, PieceId, PieceIndex, SegmentSeq};

/// Most pieces in one head. More only happens when the source catches up with a file.
pub const MAX_HEAD_PIECES: usize = 64;

/// Length of a head's signature in bytes (ed25519, RFC 8032).
pub const SIGNATURE_LEN: usize = 64;

/// What goes before the body when a head is signed, so that its signature can never pass for another statement.
const SIGNING_CONTEXT: &[u8] = b"minuet head 1\n";

/// Newly closed pieces, in a row, of one segment. What a [`SignedHead`] says once its signature is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Place of the first piece in the channel's row of pieces.
    pub first: Serial,
    /// The segment that the pieces are part of.
    pub segment: SegmentSeq,
    /// Index of the first piece in the segment.
    pub first_index: PieceIndex,
    /// The pieces, in order, at least one and at most [`MAX_HEAD_PIECES`].
    pub pieces: Vec<HeadPiece>,
}

/// One piece as a head states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadPiece {
    /// SHA-1 of the piece, as in the `pieces` string of the segment's torrent (BEP 3).
    pub hash: PieceHash,
    /// Length in bytes, 1 to [`MAX_PIECE_LEN`]; only a segment's last piece is shorter than the others.
    pub len: u32,
    /// When the piece's last byte reached the source, in milliseconds of Unix time by the source's clock, at most
    /// [`MAX_UNIX_MS`].
    pub ingest_ms: u64,
    /// Whether a random access point starts in the piece.
    pub random_access: bool,
}

/// A head as it travels: body and signature, verified or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// The encoded [`Head`].
    pub body: Bytes,
    /// Signature over [`SignedHead::signed_bytes`] under the channel's key.
    pub signature: [u8; SIGNATURE_LEN],
}

impl Head {
    /// The body of a [`SignedHead`].
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.pieces.len().saturating_mul(32).saturating_add(24));
        codec::put_varint(&mut out, self.first.get());
        codec::put_varint(&mut out, self.segment.0);
        codec::put_varint(&mut out, u64::from(self.first_index.0));
        let mut before = 0u64;
        for piece in &self.pieces {
            // The flag shares a varint with the length.
            codec::put_varint(&mut out, u64::from(piece.len) << 1 | u64::from(piece.random_access));
            // The source's clock may be set back between two pieces: differences are taken modulo 2^64.
            codec::put_varint(&mut out, zigzag(piece.ingest_ms.wrapping_sub(before)));
            before = piece.ingest_ms;
            out.put_slice(piece.hash.as_bytes());
        }
        out.freeze()
    }

    /// Parses the body of a [`SignedHead`]. Says nothing about who wrote it.
    pub fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let mut buf = body.clone();
        let first = Serial::named(codec::get_varint(&mut buf, "first serial")?)?;
        let segment = SegmentSeq::named(codec::get_varint(&mut buf, "segment")?)
            .ok_or(DecodeError::OutOfRange("segment"))?;
        let first_index = PieceIndex(codec::get_varint_u32(&mut buf, "piece index")?);
        let mut pieces = Vec::new();
        let mut before = 0u64;
        while buf.has_remaining() {
            if pieces.len() == MAX_HEAD_PIECES {
                return Err(DecodeError::OutOfRange("pieces in a head"));
            }
            let len_and_flag = codec::get_varint(&mut buf, "piece length")?;
            let len = len_and_flag >> 1;
            if len == 0 || len > u64::from(MAX_PIECE_LEN) {
                return Err(DecodeError::OutOfRange("piece length"));
            }
            before = before.wrapping_add(unzigzag(codec::get_varint(&mut buf, "ingest time")?));
            if before > MAX_UNIX_MS {
                return Err(DecodeError::OutOfRange("ingest time"));
            }
            let hash = PieceHash::new(codec::get_array(&mut buf, "piece hash")?);
            pieces.push(HeadPiece {
                hash,
                len: len as u32,
                ingest_ms: before,
                random_access: len_and_flag & 1 == 1,
            });
        }
        let count = pieces.len() as u64;
        if count == 0 {
            return Err(DecodeError::OutOfRange("pieces in a head"));
        }
        Serial::named(first.get().saturating_add(count))?;
        if u64::from(first_index.0).saturating_add(count) > u64::from(u32::MAX) {
            return Err(DecodeError::OutOfRange("pieces in a head"));
        }
        Ok(Self { first, segment, first_index, pieces })
    }

    /// One above the last piece's place in the channel.
    pub fn end(&self) -> Serial {
        self.first.plus(self.pieces.len() as u64)
    }

    /// The pieces with their places in the channel and in the segment.
    pub fn iter(&self) -> impl Iterator<Item = (Serial, PieceId, &HeadPiece)> {
        // Neither sum reaches its end: `decode` refuses such heads, and a source never counts that far.
        self.pieces.iter().zip(0u32..).map(|(piece, i)| {
            let index = PieceIndex(self.first_index.0.saturating_add(i));
            (self.first.plus(u64::from(i)), PieceId { segment: self.segment, piece: index }, piece)
        })
    }
}

impl SignedHead {
    /// What the signature covers: a context string, then the body.
    pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
        [SIGNING_CONTEXT, body].concat()
    }
}

fn zigzag(difference: u64) -> u64 {
    let signed = difference as i64;
    ((signed << 1) ^ (signed >> 63)) as u64
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}
