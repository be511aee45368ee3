//! Verified pieces of the live edge: a ring of slots in one file, so that memory stays small, disk use is bounded, and
//! nothing has to be cleaned up after a crash.
//!
//! Rules:
//! - A piece's slot follows from its serial: the ring has as many slots as the mesh's window has places, so what is
//!   in the window is never overwritten by what is in the window.
//! - On a full disk the newest pieces are kept in memory, up to [`MAX_MEMORY`]; live playing goes on.
//! - The file has no name (it is removed as soon as it is open), so it ends with the process, however that ends.
//! - The page cache does what a cache of our own would do: the newest pieces, which are what is asked for, are read
//!   without a disk.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use bytes::{Bytes, BytesMut};
use minuet_proto::mesh::{MAX_PIECE_LEN, Serial};

/// The most slots of a ring: as many as a mesh window has places.
pub const MAX_SLOTS: usize = 65_536;

/// The most bytes of pieces that are kept in memory when the disk is full: half a minute of 8 Mbit/s.
pub const MAX_MEMORY: usize = 32 << 20;

/// The ring.
#[derive(Debug)]
pub struct PieceRing {
    file: File,
    slots: Vec<Option<Slot>>,
    /// Room of a slot in bytes: the longest piece seen so far.
    slot_len: u32,
    /// Pieces that are in memory, oldest first, also some that have left their slot since.
    in_memory: VecDeque<Serial>,
    /// Bytes in memory.
    memory: usize,
}

/// A piece that is held.
#[derive(Debug)]
struct Slot {
    serial: Serial,
    len: u32,
    /// Its bytes, where the disk had no room for them.
    bytes: Option<Bytes>,
}

/// Where a piece is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// In the file.
    Disk,
    /// In memory: the disk is full.
    Memory,
}

impl PieceRing {
    /// A ring of `slots` places (1 to [`MAX_SLOTS`]) in a nameless file in `dir`.
    pub fn new(dir: &Path, slots: usize) -> io::Result<Self> {
        let file = tempfile::tempfile_in(dir)?;
        let slots = std::iter::repeat_with(|| None).take(slots.clamp(1, MAX_SLOTS)).collect();
        Ok(Self { file, slots, slot_len: 0, in_memory: VecDeque::new(), memory: 0 })
    }

    /// Keeps a piece, in place of the one that had its slot. A piece longer than [`MAX_PIECE_LEN`] is an error.
    pub fn put(&mut self, serial: Serial, piece: &[u8]) -> io::Result<Medium> {
        let len = u32::try_from(piece.len()).ok().filter(|len| *len <= MAX_PIECE_LEN);
        let len = len.ok_or_else(|| io::Error::other("a piece is longer than any may be"))?;
        if len > self.slot_len {
            self.widen(len)?;
        }
        self.place(serial, len, piece)
    }

    /// Puts a piece into its slot, on disk or else in memory.
    fn place(&mut self, serial: Serial, len: u32, piece: &[u8]) -> io::Result<Medium> {
        let slot = self.slot(serial);
        self.empty(slot);
        let medium = match self.file.write_all_at(piece, self.offset(slot)) {
            Ok(()) => Medium::Disk,
            Err(error) if is_full(&error) => Medium::Memory,
            Err(error) => return Err(error),
        };
        let bytes = (medium == Medium::Memory).then(|| Bytes::copy_from_slice(piece));
        if bytes.is_some() {
            self.make_room(piece.len());
            self.in_memory.push_back(serial);
            self.memory += piece.len();
        }
        self.slots[slot] = Some(Slot { serial, len, bytes });
        Ok(medium)
    }

    fn empty(&mut self, slot: usize) {
        if let Some(Slot { bytes: Some(bytes), .. }) = self.slots[slot].take() {
            self.memory -= bytes.len();
        }
    }

    /// Drops the oldest pieces in memory until there is room for `len` bytes more, and forgets which were there.
    fn make_room(&mut self, len: usize) {
        while self.memory + len > MAX_MEMORY || self.in_memory.len() >= self.slots.len() {
            let Some(oldest) = self.in_memory.pop_front() else { return };
            let slot = self.slot(oldest);
            let there = |held: &Slot| held.serial == oldest && held.bytes.is_some();
            if self.slots[slot].as_ref().is_some_and(there) {
                self.empty(slot);
            }
        }
    }

    /// `len` bytes of a piece from `offset`; none if the piece is not held or has no such bytes.
    pub fn get(&self, serial: Serial, offset: u32, len: u32) -> Option<Bytes> {
        let slot = self.slot(serial);
        let held = self.slots[slot].as_ref()?;
        let end = offset.checked_add(len)?;
        if held.serial != serial || end > held.len {
            return None;
        }
        if let Some(bytes) = &held.bytes {
            return Some(bytes.slice(offset as usize..end as usize));
        }
        let mut piece = BytesMut::zeroed(len as usize);
        self.file.read_exact_at(&mut piece, self.offset(slot) + u64::from(offset)).ok()?;
        Some(piece.freeze())
    }

    /// A whole piece.
    pub fn piece(&self, serial: Serial) -> Option<Bytes> {
        let len = self.slots[self.slot(serial)].as_ref()?.len;
        self.get(serial, 0, len)
    }

    fn slot(&self, serial: Serial) -> usize {
        // Below the number of slots, so it fits.
        (serial.get() % self.slots.len() as u64) as usize
    }

    fn offset(&self, slot: usize) -> u64 {
        slot as u64 * u64::from(self.slot_len)
    }

    /// Makes room for longer pieces: the feed's rate has gone up. Rare, so pieces are moved one by one, from the last
    /// to the first, each to a place that is free by then. One that the disk has no room for is dropped.
    fn widen(&mut self, slot_len: u32) -> io::Result<()> {
        for slot in (0..self.slots.len()).rev() {
            let Some(Slot { serial, bytes: None, .. }) = &self.slots[slot] else { continue };
            let moved = match self.piece(*serial) {
                Some(piece) => self.file.write_all_at(&piece, slot as u64 * u64::from(slot_len)),
                None => Err(io::ErrorKind::StorageFull.into()),
            };
            match moved {
                Ok(()) => {}
                Err(error) if is_full(&error) => self.slots[slot] = None,
                Err(error) => return Err(error),
            }
        }
        self.slot_len = slot_len;
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
        assert_eq!(ring.piece(Serial::new(0)), None);
        ring.put(Serial::new(1), b"one").unwrap();
        assert_eq!(ring.piece(Serial::new(5)), None);
        assert_eq!(ring.get(Serial::new(1), 1, 3), None);
        assert_eq!(ring.get(Serial::new(1), u32::MAX, 2), None);
        assert_eq!(ring.get(Serial::new(1), 1, 2).as_deref(), Some(&b"ne"[..]));
        assert!(ring.put(Serial::new(2), &vec![0; MAX_PIECE_LEN as usize + 1]).is_err());
    }

    /// `/dev/full` fails every write as a full disk does.
    #[test]
    fn on_a_full_disk_the_newest_pieces_are_in_memory_and_no_more_than_may_be() {
        let mut ring = ring(256);
        ring.put(Serial::new(0), b"on disk").unwrap();
        let disk = std::mem::replace(&mut ring.file, File::options().write(true).open("/dev/full").unwrap());
        let piece = |serial: u64| vec![serial as u8; 1 << 20];
        let newest = 400;
        for serial in 1..=newest {
            assert_eq!(ring.put(Serial::new(serial), &piece(serial)).unwrap(), Medium::Memory);
            assert!(ring.memory <= MAX_MEMORY && ring.in_memory.len() <= 256);
        }
        let held = (MAX_MEMORY >> 20) as u64;
        assert!(
            (newest - held + 1..=newest)
                .all(|serial| ring.piece(Serial::new(serial)).unwrap() == piece(serial))
        );
        assert_eq!(ring.piece(Serial::new(newest - held)), None);
        assert_eq!(ring.get(Serial::new(newest), 1 << 19, 2).as_deref(), Some(&piece(newest)[..2]));
        // There is room again.
        ring.file = disk;
        for serial in newest + 1..=newest + 256 {
            assert_eq!(ring.put(Serial::new(serial), b"small").unwrap(), Medium::Disk);
        }
        assert_eq!(ring.memory, 0);
        assert_eq!(ring.piece(Serial::new(newest + 1)).as_deref(), Some(&b"small"[..]));
    }

    proptest! {
        #[test]
        fn the_last_pieces_are_held_whatever_their_lengths(lengths in prop::collection::vec(1usize..300, 1..60)) {
            let mut ring = ring(16);
            let piece = |serial: usize| vec![serial as u8; lengths[serial]];
            for serial in 0..lengths.len() {
                ring.put(Serial::new(serial as u64), &piece(serial)).unwrap();
                for held in serial.saturating_sub(15)..=serial {
                    prop_assert_eq!(ring.piece(Serial::new(held as u64)).unwrap(), piece(held));
                }
                if serial >= 16 {
                    prop_assert_eq!(ring.piece(Serial::new(serial as u64 - 16)), None);
                }
            }
        }
    }
}
