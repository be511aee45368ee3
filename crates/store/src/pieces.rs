//! Verified pieces of the live edge: a ring of slots in one file, so that memory stays small, disk use is bounded, and
//! nothing has to be cleaned up after a crash.
//!
//! Rules:
//! - A piece's slot follows from its serial: the ring has as many slots as the mesh's window has places, so what is
//!   in the window is never overwritten by what is in the window.
//! - The file has no name (it is removed as soon as it is open), so it ends with the process, however that ends.
//! - The page cache does what a cache of our own would do: the newest pieces, which are what is asked for, are read
//!   without a disk.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use bytes::{Bytes, BytesMut};
use minuet_proto::mesh::{MAX_PIECE_LEN, Serial};

/// The most slots of a ring: as many as a mesh window has places.
pub const MAX_SLOTS: usize = 65_536;

/// The ring.
#[derive(Debug)]
pub struct PieceRing {
    file: File,
    /// Which piece a slot holds, and its length.
    slots: Vec<Option<(Serial, u32)>>,
    /// Room of a slot in bytes: the longest piece seen so far.
    slot_len: u32,
}

impl PieceRing {
    /// A ring of `slots` places (1 to [`MAX_SLOTS`]) in a nameless file in `dir`.
    pub fn new(dir: &Path, slots: usize) -> io::Result<Self> {
        let file = tempfile::tempfile_in(dir)?;
        Ok(Self { file, slots: vec![None; slots.clamp(1, MAX_SLOTS)], slot_len: 0 })
    }

    /// Keeps a piece, in place of the one that had its slot. A piece longer than [`MAX_PIECE_LEN`] is an error.
    pub fn put(&mut self, serial: Serial, piece: &[u8]) -> io::Result<()> {
        let len = u32::try_from(piece.len()).ok().filter(|len| *len <= MAX_PIECE_LEN);
        let len = len.ok_or_else(|| io::Error::other("a piece is longer than any may be"))?;
        if len > self.slot_len {
            self.widen(len)?;
        }
        let slot = self.slot(serial);
        self.slots[slot] = None;
        self.file.write_all_at(piece, self.offset(slot))?;
        self.slots[slot] = Some((serial, len));
        Ok(())
    }

    /// `len` bytes of a piece from `offset`; none if the piece is not held or has no such bytes.
    pub fn get(&self, serial: Serial, offset: u32, len: u32) -> Option<Bytes> {
        let slot = self.slot(serial);
        let (held, held_len) = self.slots[slot]?;
        if held != serial || offset.checked_add(len)? > held_len {
            return None;
        }
        let mut piece = BytesMut::zeroed(len as usize);
        self.file.read_exact_at(&mut piece, self.offset(slot) + u64::from(offset)).ok()?;
        Some(piece.freeze())
    }

    /// A whole piece.
    pub fn piece(&self, serial: Serial) -> Option<Bytes> {
        let (_, len) = self.slots[self.slot(serial)]?;
        self.get(serial, 0, len)
    }

    fn slot(&self, serial: Serial) -> usize {
        // Below the number of slots, so it fits.
        (serial.0 % self.slots.len() as u64) as usize
    }

    fn offset(&self, slot: usize) -> u64 {
        slot as u64 * u64::from(self.slot_len)
    }

    /// Makes room for longer pieces: the feed's rate has gone up. Rare, so pieces are moved one by one, from the last
    /// to the first, each to a place that is free by then.
    fn widen(&mut self, slot_len: u32) -> io::Result<()> {
        let moved: Vec<usize> =
            (0..self.slots.len()).rev().filter(|slot| self.slots[*slot].is_some()).collect();
        for slot in moved {
            let Some((serial, _)) = self.slots[slot] else { continue };
            match self.piece(serial) {
                Some(piece) => self.file.write_all_at(&piece, slot as u64 * u64::from(slot_len))?,
                None => self.slots[slot] = None,
            }
        }
        self.slot_len = slot_len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(slots: usize) -> PieceRing {
        PieceRing::new(&std::env::temp_dir(), slots).unwrap()
    }

    #[test]
    fn what_is_not_there_is_not_given() {
        let mut ring = ring(4);
        assert_eq!(ring.piece(Serial(0)), None);
        ring.put(Serial(1), b"one").unwrap();
        assert_eq!(ring.piece(Serial(5)), None);
        assert_eq!(ring.get(Serial(1), 1, 3), None);
        assert_eq!(ring.get(Serial(1), u32::MAX, 2), None);
        assert_eq!(ring.get(Serial(1), 1, 2).as_deref(), Some(&b"ne"[..]));
        assert!(ring.put(Serial(2), &vec![0; MAX_PIECE_LEN as usize + 1]).is_err());
    }

    proptest! {
        #[test]
        fn the_last_pieces_are_held_whatever_their_lengths(lengths in prop::collection::vec(1usize..300, 1..60)) {
            let mut ring = ring(16);
            let piece = |serial: usize| vec![serial as u8; lengths[serial]];
            for serial in 0..lengths.len() {
                ring.put(Serial(serial as u64), &piece(serial)).unwrap();
                for held in serial.saturating_sub(15)..=serial {
                    prop_assert_eq!(ring.piece(Serial(held as u64)).unwrap(), piece(held));
                }
                if serial >= 16 {
                    prop_assert_eq!(ring.piece(Serial(serial as u64 - 16)), None);
                }
            }
        }
    }
}
