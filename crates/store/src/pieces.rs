//! Verified pieces of the live edge: a ring of slots in one file, so that memory stays small, disk use is bounded, and
//! nothing has to be cleaned up after a crash.
//!
//! Rules:
//! - A piece's slot follows from its serial: the ring has as many slots as the mesh's window has places, so what is
//!   in the window is never overwritten by what is in the window.
//! - On a full disk the newest pieces are kept in memory, up to [`MAX_MEMORY`]; live playing goes on.
//! - The file has no name (it is removed as soon as it is open), so it ends with the process, however that ends.
//! - Reading and writing need no lock: [`PieceRing::find`] and [`PieceRing::begin`] give a [`Place`] in the file, and
//!   [`PieceRing::holds`] says afterwards whether what was read there is the piece that was meant.
//! - The page cache does what a cache of our own would do: the newest pieces, which are what is asked for, are read
//!   without a disk.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use bytes::{Bytes, BytesMut};
use minuet_proto::mesh::{MAX_PIECE_LEN, Serial};

/// The most slots of a ring: as many as a mesh window has places.
pub const MAX_SLOTS: usize = 65_536;

/// The most bytes of pieces that are kept in memory when the disk is full: half a minute of 8 Mbit/s.
pub const MAX_MEMORY: usize = 32 << 20;

/// The ring.
#[derive(Debug)]
pub struct PieceRing {
    file: Arc<File>,
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

/// A piece, or part of it, as it is found.
#[derive(Debug)]
pub enum Found {
    /// Its bytes.
    Memory(Bytes),
    /// Where they are in the file.
    Disk(Place),
}

/// Where a piece, or part of it, is in the file.
#[derive(Debug, Clone)]
pub struct Place {
    file: Arc<File>,
    serial: Serial,
    slot_len: u32,
    at: u64,
    len: u32,
}

impl Place {
    /// Reads it. What is there is the piece only if the ring still [holds](PieceRing::holds) it afterwards.
    pub fn read(&self) -> Option<Bytes> {
        let mut piece = BytesMut::zeroed(self.len as usize);
        self.file.read_exact_at(&mut piece, self.at).ok()?;
        Some(piece.freeze())
    }

    /// Writes a piece; one that has no room on the disk is to be kept in memory.
    ///
    /// # Errors
    /// The disk fails otherwise than by being full.
    pub fn write(&self, piece: &[u8]) -> io::Result<Medium> {
        match self.file.write_all_at(piece, self.at) {
            Ok(()) => Ok(Medium::Disk),
            Err(error) if is_full(&error) => Ok(Medium::Memory),
            Err(error) => Err(error),
        }
    }
}

/// Where a piece is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// In the file.
    Disk,
    /// In memory: the disk is full.
    Memory,
}

impl Found {
    /// The bytes, see [`Place::read`].
    pub fn read(&self) -> Option<Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes.clone()),
            Self::Disk(place) => place.read(),
        }
    }
}

impl PieceRing {
    /// A ring of `slots` places (1 to [`MAX_SLOTS`]) in a nameless file in `dir`.
    pub fn new(dir: &Path, slots: usize) -> io::Result<Self> {
        let file = tempfile::tempfile_in(dir)?;
        let slots = std::iter::repeat_with(|| None).take(slots.clamp(1, MAX_SLOTS)).collect();
        Ok(Self { file: Arc::new(file), slots, slot_len: 0, in_memory: VecDeque::new(), memory: 0 })
    }

    /// Keeps a piece, in place of the one that had its slot. A piece longer than [`MAX_PIECE_LEN`] is an error.
    pub fn put(&mut self, serial: Serial, piece: &[u8]) -> io::Result<Medium> {
        let place = self.begin(serial, piece.len())?;
        let medium = place.write(piece)?;
        self.finish(&place, medium, piece);
        Ok(medium)
    }

    /// Bytes of pieces that are held in memory, for want of room on the disk.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Makes a piece's slot free for it; the piece that had it is gone from then on. [`Place::write`] and
    /// [`finish`](Self::finish) follow, before the next one begins.
    ///
    /// # Errors
    /// The piece is longer than [`MAX_PIECE_LEN`], or the disk fails.
    pub fn begin(&mut self, serial: Serial, len: usize) -> io::Result<Place> {
        let len = u32::try_from(len).ok().filter(|len| *len <= MAX_PIECE_LEN);
        let len = len.ok_or_else(|| io::Error::other("a piece is longer than any may be"))?;
        if len > self.slot_len {
            self.widen(len)?;
        }
        let slot = self.slot(serial);
        self.empty(slot);
        Ok(Place {
            file: Arc::clone(&self.file),
            serial,
            slot_len: self.slot_len,
            at: self.offset(slot),
            len,
        })
    }

    /// Takes note of a piece that was written, or keeps it in memory.
    pub fn finish(&mut self, place: &Place, medium: Medium, piece: &[u8]) {
        let bytes = (medium == Medium::Memory).then(|| Bytes::copy_from_slice(piece));
        if bytes.is_some() {
            self.make_room(piece.len());
            self.in_memory.push_back(place.serial);
            self.memory = self.memory.saturating_add(piece.len());
        }
        let slot = self.slot(place.serial);
        self.slots[slot] = Some(Slot { serial: place.serial, len: place.len, bytes });
    }

    /// Whether the ring holds, at this place, the piece that it was found for.
    pub fn holds(&self, place: &Place) -> bool {
        let held = self.slots[self.slot(place.serial)].as_ref();
        place.slot_len == self.slot_len && held.is_some_and(|held| held.serial == place.serial)
    }

    fn empty(&mut self, slot: usize) {
        if let Some(Slot { bytes: Some(bytes), .. }) = self.slots[slot].take() {
            self.memory = self.memory.saturating_sub(bytes.len());
        }
    }

    /// Drops the oldest pieces in memory until there is room for `len` bytes more, and forgets which were there.
    fn make_room(&mut self, len: usize) {
        while self.memory.saturating_add(len) > MAX_MEMORY || self.in_memory.len() >= self.slots.len() {
            let Some(oldest) = self.in_memory.pop_front() else { return };
            let slot = self.slot(oldest);
            let there = |held: &Slot| held.serial == oldest && held.bytes.is_some();
            if self.slots[slot].as_ref().is_some_and(there) {
                self.empty(slot);
            }
        }
    }

    /// Where `len` bytes of a piece from `offset` are; none if the piece is not held or has no such bytes.
    pub fn find(&self, serial: Serial, offset: u32, len: u32) -> Option<Found> {
        let slot = self.slot(serial);
        let held = self.slots[slot].as_ref()?;
        let end = offset.checked_add(len)?;
        if held.serial != serial || end > held.len {
            return None;
        }
        if let Some(bytes) = &held.bytes {
            return Some(Found::Memory(bytes.slice(offset as usize..end as usize)));
        }
        let at = self.offset(slot).saturating_add(offset.into());
        Some(Found::Disk(Place { file: Arc::clone(&self.file), serial, slot_len: self.slot_len, at, len }))
    }

    /// Where a whole piece is; none if it is not held.
    pub fn find_piece(&self, serial: Serial) -> Option<Found> {
        let len = self.slots[self.slot(serial)].as_ref()?.len;
        self.find(serial, 0, len)
    }

    /// `len` bytes of a piece from `offset`; none if the piece is not held or has no such bytes.
    pub fn get(&self, serial: Serial, offset: u32, len: u32) -> Option<Bytes> {
        self.find(serial, offset, len)?.read()
    }

    /// A whole piece.
    pub fn piece(&self, serial: Serial) -> Option<Bytes> {
        self.find_piece(serial)?.read()
    }

    fn slot(&self, serial: Serial) -> usize {
        // Below the number of slots, so it fits.
        serial.get().checked_rem(self.slots.len() as u64).unwrap_or(0) as usize
    }

    fn offset(&self, slot: usize) -> u64 {
        (slot as u64).saturating_mul(self.slot_len.into())
    }

    /// Makes room for longer pieces: the feed's rate has gone up. Rare, so pieces are moved one by one, from the last
    /// to the first, each to a place that is free by then. One that the disk has no room for is dropped.
    fn widen(&mut self, slot_len: u32) -> io::Result<()> {
        for slot in (0..self.slots.len()).rev() {
            let Some(Slot { serial, bytes: None, .. }) = &self.slots[slot] else { continue };
            let moved = match self.piece(*serial) {
                Some(piece) => self.file.write_all_at(&piece, (slot as u64).saturating_mul(slot_len.into())),
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

    #[test]
    fn what_was_overwritten_while_it_was_read_is_not_taken_for_the_piece() {
        let mut ring = ring(4);
        ring.put(Serial::new(1), b"one").unwrap();
        let Some(Found::Disk(place)) = ring.find_piece(Serial::new(1)) else { panic!("it is on disk") };
        assert!(ring.holds(&place));
        assert_eq!(place.read().as_deref(), Some(&b"one"[..]));
        let five = ring.begin(Serial::new(5), 3).unwrap();
        assert!(!ring.holds(&place) && !ring.holds(&five));
        let medium = five.write(b"six").unwrap();
        ring.finish(&five, medium, b"six");
        assert!(!ring.holds(&place) && ring.holds(&five));
        // Wider slots are elsewhere.
        ring.put(Serial::new(2), b"longer").unwrap();
        assert!(!ring.holds(&five) && ring.piece(Serial::new(5)).is_some());
    }

    /// `/dev/full` fails every write as a full disk does.
    #[test]
    fn on_a_full_disk_the_newest_pieces_are_in_memory_and_no_more_than_may_be() {
        let mut ring = ring(256);
        ring.put(Serial::new(0), b"on disk").unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let disk = std::mem::replace(&mut ring.file, Arc::new(full));
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
        assert_eq!(ring.memory(), 0);
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
