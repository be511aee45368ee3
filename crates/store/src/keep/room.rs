//! How much is kept, and what is said when that is less than was wished for.

use std::{io, time::Duration};

use bytes::Bytes;
use minuet_proto::{PieceId, SegmentSeq};

use super::{Change, Disk, Keep, files::remove_all};
use crate::MAX_MEMORY;

/// What is kept takes no more than one in so many bytes of the disk's room.
const SHARE_OF_ROOM: u64 = 10;

impl Keep {
    pub(super) fn fail(&mut self, error: &io::Error) {
        if std::mem::replace(&mut self.disk, Disk::Full) == Disk::Fine {
            tracing::warn!(
                "finished minutes cannot be kept in {}: {error}; playing goes on, but going back reaches less far",
                self.dir.display()
            );
        }
    }

    /// A piece was written.
    pub(super) fn took(&mut self) {
        if std::mem::replace(&mut self.disk, Disk::Fine) != Disk::Fine {
            tracing::info!("the disk has room again: finished minutes are kept");
        }
    }

    /// Removes the oldest segments until what is kept is within its bound.
    pub(super) fn make_room(&mut self) {
        let Some(bound) = self.bound else { return };
        let most = self.most();
        loop {
            let (bytes, time) = (self.bytes(), self.time());
            if bytes <= most && time <= bound.time {
                if self.disk == Disk::Full {
                    // Something was written: room for a piece, perhaps.
                    self.disk = Disk::Trying;
                }
                return;
            }
            if bytes > most && time < bound.time && !std::mem::replace(&mut self.said_small, true) {
                tracing::info!(
                    "there is room for the newest {:.0} min of finished minutes, {} MB{}",
                    time.as_secs_f64() / 60.0,
                    most / 1_000_000,
                    if most < bound.bytes {
                        ", a tenth of what is free; --keep-bytes says otherwise"
                    } else {
                        ""
                    }
                );
            }
            let newest = self.segments.keys().next_back().copied();
            let oldest = self.segments.keys().find(|segment| !self.needed.contains(segment)).copied();
            match oldest.filter(|oldest| Some(*oldest) != newest) {
                Some(oldest) => {
                    self.let_go(oldest);
                    remove_all(&self.media_path(oldest));
                }
                None => return,
            }
        }
    }

    /// Bytes that may be kept on disk. What is on air may take as many again until it is finished.
    pub(super) fn most(&self) -> u64 {
        match self.bound {
            Some(bound) if bound.modest => bound.bytes.min(self.tenth_of_room()),
            Some(bound) => bound.bytes,
            None => 0,
        }
    }

    /// Time of media that is kept, from the oldest to the newest; holes do not count.
    fn time(&self) -> Duration {
        Duration::from_millis(self.records().map(|record| record.duration_ms).sum())
    }

    /// What is free on the disk, with what is kept, shared by all.
    fn tenth_of_room(&self) -> u64 {
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else { return u64::MAX };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        free.saturating_add(self.bytes()) / SHARE_OF_ROOM
    }

    /// Keeps a piece in memory: the disk has no room for it.
    pub(super) fn remember(&mut self, piece: PieceId, data: Bytes) {
        self.in_memory = self.in_memory.saturating_add(data.len());
        self.memory.push_back((piece, data));
        while self.in_memory > MAX_MEMORY
            && let Some((oldest, data)) = self.memory.pop_front()
        {
            self.in_memory = self.in_memory.saturating_sub(data.len());
            self.lose(oldest);
        }
    }

    pub(super) fn let_go(&mut self, segment: SegmentSeq) {
        self.at_hand.retain(|at_hand| at_hand.segment != segment);
        let in_memory = &mut self.in_memory;
        self.memory.retain(|(piece, data)| {
            let stays = piece.segment != segment;
            *in_memory = in_memory.saturating_sub(if stays { 0 } else { data.len() });
            stays
        });
        if self.segments.remove(&segment).is_some() {
            self.changes.push_back(Change::Forgets(segment));
        }
    }
}
