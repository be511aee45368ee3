//! Varints and bounded reads that all mesh messages share.
//!
//! Varints are unsigned LEB128, at most ten bytes, and must be the shortest form: one value, one encoding.

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

/// Why a frame is not a message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame ends inside a field.
    #[error("the frame ends inside {0}")]
    Truncated(&'static str),
    /// A field holds a value that the protocol does not allow.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// A varint is longer than ten bytes, overflows 64 bits or is not in its shortest form.
    #[error("a varint is malformed")]
    Varint,
    /// The frame claims to be longer than [`MAX_FRAME_LEN`](super::MAX_FRAME_LEN).
    #[error("the frame is too long")]
    FrameTooLong,
    /// Bytes are left over after the last field.
    #[error("bytes are left over after the last field")]
    Trailing,
}

/// Bytes that `value` takes as a varint.
pub(super) fn varint_len(value: u64) -> usize {
    // 7 bits a byte, and zero still takes one.
    ((value | 1).ilog2() as usize / 7).saturating_add(1)
}

pub(super) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads a varint; `Ok(None)` if `buf` ends before the varint does.
pub(super) fn try_varint(buf: &mut impl Buf) -> Result<Option<u64>, DecodeError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if !buf.has_remaining() {
            return Ok(None);
        }
        let byte = buf.get_u8();
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(DecodeError::Varint);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return if byte == 0 && shift > 0 { Err(DecodeError::Varint) } else { Ok(Some(value)) };
        }
    }
    Err(DecodeError::Varint)
}

pub(super) fn get_varint(buf: &mut impl Buf, what: &'static str) -> Result<u64, DecodeError> {
    try_varint(buf)?.ok_or(DecodeError::Truncated(what))
}

pub(super) fn get_varint_u32(buf: &mut impl Buf, what: &'static str) -> Result<u32, DecodeError> {
    u32::try_from(get_varint(buf, what)?).map_err(|_| DecodeError::OutOfRange(what))
}

pub(super) fn get_u8(buf: &mut impl Buf, what: &'static str) -> Result<u8, DecodeError> {
    if buf.has_remaining() { Ok(buf.get_u8()) } else { Err(DecodeError::Truncated(what)) }
}

pub(super) fn get_array<const N: usize>(
    buf: &mut impl Buf,
    what: &'static str,
) -> Result<[u8; N], DecodeError> {
    if buf.remaining() < N {
        return Err(DecodeError::Truncated(what));
    }
    let mut out = [0; N];
    buf.copy_to_slice(&mut out);
    Ok(out)
}

/// A byte string behind its length, at most `max` bytes.
pub(super) fn get_bytes(buf: &mut Bytes, max: usize, what: &'static str) -> Result<Bytes, DecodeError> {
    let len = get_varint(buf, what)?;
    if len > max as u64 {
        return Err(DecodeError::OutOfRange(what));
    }
    // `len` fits: it is at most `max`.
    let len = len as usize;
    if buf.remaining() < len {
        return Err(DecodeError::Truncated(what));
    }
    Ok(buf.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_has_one_encoding() {
        for value in [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            assert_eq!(try_varint(&mut &out[..]), Ok(Some(value)));
            assert_eq!(try_varint(&mut &out[..out.len() - 1]), Ok(None));
        }
        assert_eq!(try_varint(&mut &[0x80, 0x00][..]), Err(DecodeError::Varint));
        assert_eq!(try_varint(&mut &[0xff; 10][..]), Err(DecodeError::Varint));
    }
}
