//! Media bytes, piece hashes and the channel's key, for real or modelled.
//!
//! With real media each piece has its own random bytes and its SHA-1, and messages are encoded and
//! decoded: that is how hostile runs are made. Else all honest media is one shared run of zeros, a
//! "hash" is made from the piece's serial, and a piece verifies if its bytes are zeros: a thousand
//! times cheaper, with the same course of events as long as nobody lies.

use crate::{engine::SECOND, stream::StreamSpec};
use bytes::Bytes;
use minuet_mesh::{HeadKey, Learned, PieceRef, Shape, Verdict};
use minuet_proto::{
    PieceHash, PieceId, PieceIndex, SegmentSeq,
    mesh::{Block, KeptBlock, MAX_BLOCK_LEN, MAX_HASHES, Minute, SIGNATURE_LEN, Serial},
};
use minuet_session::Pieces;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
};

/// What honest and dishonest modelled blocks are slices of.
static ZEROS: [u8; MAX_BLOCK_LEN as usize] = [0; MAX_BLOCK_LEN as usize];
static ONES: [u8; MAX_BLOCK_LEN as usize] = [1; MAX_BLOCK_LEN as usize];
/// Bytes of a signed record.
const RECORD_BYTES: usize = 420;
/// Pieces whose real bytes are kept ready.
const CACHED: usize = 256;

/// The channel's media, as every node that has verified a piece holds it.
pub struct Media {
    bytes: MediaBytes,
    /// How every finished segment is cut, if all are alike.
    pub shape: Option<Shape>,
}

enum MediaBytes {
    /// Modelled.
    Modelled,
    /// Real bytes, with a cache of what was made last.
    Real(Vec<Option<(Serial, Bytes, PieceHash)>>),
}

impl Media {
    /// Real or modelled media.
    pub fn new(real: bool, stream: &StreamSpec) -> Self {
        let length = stream.rate * stream.segment / SECOND;
        let shape = Shape::new(length, stream.piece_length);
        Self { bytes: if real { MediaBytes::Real(vec![None; CACHED]) } else { MediaBytes::Modelled }, shape }
    }

    /// Whether bytes, hashes and encodings are real.
    pub fn is_real(&self) -> bool {
        matches!(self.bytes, MediaBytes::Real(_))
    }

    /// The hash of a piece of `len` bytes.
    pub fn hash(&mut self, serial: Serial, len: u32) -> PieceHash {
        match &mut self.bytes {
            MediaBytes::Modelled => {
                let mut hash = [0; 20];
                hash[..8].copy_from_slice(&serial.get().to_le_bytes());
                hash[8..12].copy_from_slice(&len.to_le_bytes());
                PieceHash::new(hash)
            }
            MediaBytes::Real(cache) => made(cache, serial, len).1,
        }
    }

    /// Bytes of a piece.
    pub fn block(&mut self, serial: Serial, offset: u32, len: u32, piece_len: u32) -> Bytes {
        match &mut self.bytes {
            MediaBytes::Modelled => Bytes::from_static(&ZEROS[..len as usize]),
            MediaBytes::Real(cache) => {
                made(cache, serial, piece_len).0.slice(offset as usize..(offset + len) as usize)
            }
        }
    }

    /// All bytes of a piece, as its source has them.
    pub fn closed(&mut self, serial: Serial, len: u32) -> Bytes {
        match &mut self.bytes {
            MediaBytes::Modelled => vec![0; len as usize].into(),
            MediaBytes::Real(cache) => made(cache, serial, len).0,
        }
    }

    /// What a corrupting node sends in place of `honest`.
    pub fn corrupted(&self, honest: &Bytes) -> Bytes {
        match &self.bytes {
            MediaBytes::Modelled => Bytes::from_static(&ONES[..honest.len()]),
            MediaBytes::Real(_) => {
                let mut bytes = honest.to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                bytes.into()
            }
        }
    }
}

impl Pieces for Media {
    fn verify(&mut self, piece: &PieceRef, data: &Bytes) -> bool {
        match &mut self.bytes {
            MediaBytes::Modelled => data.len() == piece.len as usize && data.iter().all(|byte| *byte == 0),
            MediaBytes::Real(_) => PieceHash::of(data) == piece.hash,
        }
    }

    /// A node that has verified a piece has it: its bytes are made anew whenever they are needed.
    fn keep(&mut self, _piece: &PieceRef, _data: &Bytes) -> io::Result<()> {
        Ok(())
    }

    fn part(&mut self, block: &Block) -> Option<Bytes> {
        Some(self.block(block.serial, block.offset, block.len, block.piece_len))
    }

    /// All finished segments are zeros, and so are their hashes: nobody lies about them here.
    fn minute(&mut self, segment: SegmentSeq, first: PieceIndex) -> Option<Minute> {
        let hashes = vec![0; 20 * (self.shape?.pieces() as usize).min(MAX_HASHES)].into();
        Some(Minute { segment, first, record: Bytes::from_static(&ZEROS[..RECORD_BYTES]), hashes })
    }

    fn learn(&mut self, _minute: &Minute) -> Learned {
        self.shape.map_or(Learned::Nothing, Learned::Whole)
    }

    fn keep_past(&mut self, _piece: PieceId, _data: &Bytes) -> Verdict {
        Verdict::Good
    }

    fn kept_part(&mut self, block: &KeptBlock) -> Option<Bytes> {
        Some(Bytes::from_static(&ZEROS[..block.len as usize]))
    }
}

fn made(cache: &mut [Option<(Serial, Bytes, PieceHash)>], serial: Serial, len: u32) -> (Bytes, PieceHash) {
    let slot = &mut cache[serial.get() as usize % CACHED];
    if let Some((cached, bytes, hash)) = slot
        && *cached == serial
    {
        return (bytes.clone(), *hash);
    }
    let mut state = serial.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        // xorshift64 (Marsaglia, 2003): any bytes that differ from piece to piece will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes: Bytes = words.take(len as usize).collect();
    let hash = PieceHash::of(&bytes);
    *slot = Some((serial, bytes.clone(), hash));
    (bytes, hash)
}

/// The channel's key as a keyed hash: without `secret` nobody signs, and checking costs nanoseconds.
pub struct ModelKey {
    secret: u64,
    /// Whether this node can sign.
    pub private: bool,
}

impl ModelKey {
    /// The key of the channel with this secret.
    pub fn new(secret: u64, private: bool) -> Self {
        Self { secret, private }
    }

    fn mac(&self, signed: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut hasher = DefaultHasher::new();
        (self.secret, signed).hash(&mut hasher);
        let mut signature = [0; SIGNATURE_LEN];
        signature[..8].copy_from_slice(&hasher.finish().to_le_bytes());
        signature
    }
}

impl HeadKey for ModelKey {
    fn verify(&self, signed: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.mac(signed) == *signature
    }

    fn sign(&self, signed: &[u8]) -> [u8; SIGNATURE_LEN] {
        if self.private { self.mac(signed) } else { [0; SIGNATURE_LEN] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_honest_blocks_verify() {
        for real in [false, true] {
            let mut media = Media::new(real, &StreamSpec::standard());
            let len = 65_536;
            let hash = media.hash(Serial::new(7), len);
            let piece = PieceRef {
                serial: Serial::new(7),
                id: PieceId { segment: SegmentSeq(0), piece: PieceIndex(7) },
                len,
                hash,
                ingest_ms: 0,
            };
            let blocks: Vec<Bytes> =
                (0..2).map(|part| media.block(Serial::new(7), part * 32_768, 32_768, len)).collect();
            let whole = |blocks: &[Bytes]| Bytes::from(blocks.concat());
            assert!(media.verify(&piece, &whole(&blocks)));
            let corrupted = [media.corrupted(&blocks[0]), blocks[1].clone()];
            assert!(!media.verify(&piece, &whole(&corrupted)));
            assert!(!media.verify(&piece, &blocks[0]));
            assert_ne!(hash, media.hash(Serial::new(8), len));
        }
    }

    #[test]
    fn who_has_not_the_secret_cannot_sign() {
        let key = ModelKey::new(5, true);
        let signature = key.sign(b"head");
        assert!(ModelKey::new(5, false).verify(b"head", &signature));
        assert!(!key.verify(b"dead", &signature));
        assert!(!key.verify(b"head", &ModelKey::new(5, false).sign(b"head")));
        assert!(!key.verify(b"head", &ModelKey::new(6, true).sign(b"head")));
    }
}
