//! The live window: what the driver knows of the newest pieces, as players, recorders and HTTP servers read it.
//!
//! Bounded by the mesh's window: pieces that leave it are forgotten here, too.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use minuet_mesh::PieceRef;
use minuet_proto::mesh::{Head, Serial};
use minuet_store::{Found, Medium, PieceRing};
use tokio::sync::watch;

/// A piece that a verified head has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivePiece {
    /// What is known of it.
    pub piece: PieceRef,
    /// Whether a random access point starts in it.
    pub random_access: bool,
    /// Whether its verified bytes are here.
    pub held: bool,
}

/// The newest pieces of a channel. Shared between the driver, which fills it, and all who read.
#[derive(Debug)]
pub struct LiveWindow {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    pieces: BTreeMap<Serial, LivePiece>,
    ring: PieceRing,
    /// The disk is full, as was said; it is so until the ring has nothing in memory any more: a disk that is nearly full
    /// takes one piece and not the next.
    full: bool,
    start: Option<Serial>,
}

impl LiveWindow {
    pub(super) fn new(ring: PieceRing) -> Self {
        let state = Mutex::new(State { pieces: BTreeMap::new(), ring, full: false, start: None });
        Self { state, changed: watch::Sender::new(()) }
    }

    /// Is told of every change.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The first piece to play, once the mesh knows enough to choose it.
    pub fn start(&self) -> Option<Serial> {
        self.lock().start
    }

    /// Whether any piece's verified bytes have come.
    pub fn has_media(&self) -> bool {
        self.lock().pieces.values().any(|known| known.held)
    }

    /// What is known of a piece.
    pub fn get(&self, serial: Serial) -> Option<LivePiece> {
        self.lock().pieces.get(&serial).copied()
    }

    /// The newest piece that is known.
    pub fn newest(&self) -> Option<LivePiece> {
        self.lock().pieces.last_key_value().map(|(_, piece)| *piece)
    }

    /// The first known piece after `serial`.
    pub fn after(&self, serial: Serial) -> Option<LivePiece> {
        let after = Serial::new(serial.get().checked_add(1)?);
        self.lock().pieces.range(after..).next().map(|(_, piece)| *piece)
    }

    /// The newest piece in which a random access point starts and which came in at `before_ms` or earlier, by the
    /// source's clock.
    pub fn random_access_before(&self, before_ms: u64) -> Option<LivePiece> {
        let state = self.lock();
        let mut back = state.pieces.values().rev();
        back.find(|known| known.random_access && known.piece.ingest_ms <= before_ms).copied()
    }

    /// The oldest piece in which a random access point starts.
    pub fn first_random_access(&self) -> Option<LivePiece> {
        self.lock().pieces.values().find(|known| known.random_access).copied()
    }

    /// The oldest piece after `after` that came in at `from_ms` or later, in which a random access point starts, and
    /// from which on all pieces of the next `media_ms` are here: playing can go on there without waiting.
    pub fn playable_after(&self, after: Serial, from_ms: u64, media_ms: u64) -> Option<LivePiece> {
        let state = self.lock();
        let mut candidate: Option<LivePiece> = None;
        let mut before: Option<Serial> = None;
        for known in state.pieces.values() {
            let follows = before.is_none_or(|before| before.get() + 1 == known.piece.serial.get());
            before = Some(known.piece.serial);
            if !known.held || !follows {
                candidate = None;
            }
            if let Some(found) = candidate
                && known.piece.ingest_ms >= found.piece.ingest_ms.saturating_add(media_ms)
            {
                return candidate;
            }
            let fits = known.piece.serial > after && known.piece.ingest_ms >= from_ms;
            if candidate.is_none() && known.held && known.random_access && fits {
                candidate = Some(*known);
            }
        }
        None
    }

    /// A verified piece's bytes. Reads from the disk, so asynchronous tasks that must not wait for one use
    /// [`read_in_background`](Self::read_in_background).
    pub fn read(&self, serial: Serial) -> Option<Bytes> {
        let found = self.lock().ring.find_piece(serial)?;
        self.read_found(&found)
    }

    /// A verified piece's bytes, for tasks that must not wait for a disk.
    pub async fn read_in_background(self: &Arc<Self>, serial: Serial) -> Option<Bytes> {
        let window = Arc::clone(self);
        tokio::task::spawn_blocking(move || window.read(serial)).await.ok().flatten()
    }

    /// At most `most` bytes of a verified piece from `offset` on; nothing at its end.
    pub async fn read_some_in_background(
        self: &Arc<Self>,
        piece: &PieceRef,
        offset: u32,
        most: u32,
    ) -> Option<Bytes> {
        let (window, serial) = (Arc::clone(self), piece.serial);
        let len = most.min(piece.len.saturating_sub(offset));
        if len == 0 {
            return Some(Bytes::new());
        }
        tokio::task::spawn_blocking(move || window.read_part(serial, offset, len)).await.ok().flatten()
    }

    /// Part of a verified piece's bytes.
    pub fn read_part(&self, serial: Serial, offset: u32, len: u32) -> Option<Bytes> {
        let found = self.lock().ring.find(serial, offset, len)?;
        self.read_found(&found)
    }

    /// Reads without the lock: nobody else waits for the disk.
    fn read_found(&self, found: &Found) -> Option<Bytes> {
        let bytes = found.read()?;
        match found {
            Found::Disk(place) if !self.lock().ring.holds(place) => None,
            _ => Some(bytes),
        }
    }

    /// All pieces known of a segment, in order. Those of a segment that was begun twice under one number (its source
    /// lost its folder) are those of the later beginning.
    pub fn of_segment(&self, segment: minuet_proto::SegmentSeq) -> Vec<LivePiece> {
        let state = self.lock();
        let mut pieces: Vec<LivePiece> = Vec::new();
        for known in state.pieces.values().filter(|known| known.piece.id.segment == segment) {
            if pieces.last().is_some_and(|last| last.piece.id.piece >= known.piece.id.piece) {
                pieces.clear();
            }
            pieces.push(*known);
        }
        pieces
    }

    pub(super) fn note_head(&self, head: &Head) {
        let mut state = self.lock();
        for (serial, id, piece) in head.iter() {
            let piece_ref =
                PieceRef { serial, id, len: piece.len, hash: piece.hash, ingest_ms: piece.ingest_ms };
            let known = LivePiece { piece: piece_ref, random_access: piece.random_access, held: false };
            state.pieces.entry(serial).or_insert(known);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// A piece's bytes are here.
    pub(super) fn note_held(&self, serial: Serial) {
        if let Some(known) = self.lock().pieces.get_mut(&serial) {
            known.held = true;
        }
        self.changed.send_replace(());
    }

    /// Keeps a verified piece. Only the driver does, so one is written at a time; readers do not wait for it.
    pub(super) fn keep(&self, serial: Serial, bytes: &[u8]) -> io::Result<()> {
        let place = self.lock().ring.begin(serial, bytes.len())?;
        let medium = place.write(bytes)?;
        let mut state = self.lock();
        state.ring.finish(&place, medium, bytes);
        let full = stays_full(state.full, medium, state.ring.memory());
        let was_full = std::mem::replace(&mut state.full, full);
        drop(state);
        match (was_full, full) {
            (false, true) => {
                tracing::warn!(
                    "the disk is full: live pieces are kept in memory, some half a minute of them"
                );
            }
            (true, false) => tracing::info!("the disk has room again for live pieces"),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn set_start(&self, serial: Serial) {
        self.lock().start = Some(serial);
        self.changed.send_replace(());
    }

    pub(super) fn forget_before(&self, before: Serial) {
        let mut state = self.lock();
        state.pieces = state.pieces.split_off(&before);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each entry is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the disk counts as full after a piece went to `medium`, with so many bytes in memory.
fn stays_full(was_full: bool, medium: Medium, in_memory: usize) -> bool {
    medium == Medium::Memory || was_full && in_memory > 0
}

#[cfg(test)]
mod tests {
    use minuet_proto::{
        PieceHash, PieceIndex, SegmentSeq,
        mesh::{Head, HeadPiece},
    };

    use super::*;

    /// Ten pieces a second, a random access point every second; `held` says which are here.
    fn window(pieces: u64, held: impl Fn(u64) -> bool) -> LiveWindow {
        let window = LiveWindow::new(PieceRing::new(&std::env::temp_dir(), 256).unwrap());
        for serial in 0..pieces {
            let piece = HeadPiece {
                hash: PieceHash::new([0; 20]),
                len: 4,
                ingest_ms: serial * 100,
                random_access: serial % 10 == 0,
            };
            let head = Head {
                first: Serial::new(serial),
                segment: SegmentSeq(serial / 50),
                first_index: PieceIndex((serial % 50) as u32),
                pieces: vec![piece],
            };
            window.note_head(&head);
            if held(serial) {
                window.keep(Serial::new(serial), b"data").unwrap();
                window.note_held(Serial::new(serial));
            }
        }
        window
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_told_of_once() {
        // It takes one piece and not the next, until there is room for all that are kept.
        let (mut full, mut told) = (false, 0);
        for (medium, in_memory) in [(Medium::Memory, 1), (Medium::Disk, 1)].repeat(100) {
            let was_full = full;
            full = stays_full(full, medium, in_memory);
            told += usize::from(was_full != full);
        }
        assert!(full && told == 1, "{told}");
        assert!(!stays_full(true, Medium::Disk, 0));
    }

    #[test]
    fn playing_goes_on_where_nothing_is_missing() {
        let playable = |window: &LiveWindow, after, from_ms| {
            window.playable_after(Serial::new(after), from_ms, 1000).map(|known| known.piece.serial.get())
        };
        let all = window(100, |_| true);
        assert_eq!(playable(&all, 5, 0), Some(10));
        assert_eq!(playable(&all, 5, 3500), Some(40));
        assert_eq!(playable(&all, 85, 0), None);
        let hole = window(100, |serial| serial != 14 && serial != 33);
        assert_eq!(playable(&hole, 5, 0), Some(20));
        assert_eq!(playable(&hole, 20, 0), Some(40));
        assert_eq!(playable(&window(100, |serial| serial % 10 != 9), 0, 0), None);
    }

    #[test]
    fn what_is_held_can_be_read_until_it_is_forgotten() {
        let window = window(60, |serial| serial < 55);
        let held = |serial| window.get(Serial::new(serial)).map(|known| known.held);
        assert_eq!((held(54), held(55), held(60)), (Some(true), Some(false), None));
        assert!(window.has_media() && !self::window(60, |_| false).has_media(), "heads are no media");
        assert_eq!(window.read(Serial::new(3)).as_deref(), Some(&b"data"[..]));
        assert_eq!(window.read(Serial::new(57)), None);
        window.forget_before(Serial::new(59));
        assert_eq!((held(58), held(59)), (None, Some(false)));
    }
}
