//! Segments on disk: finished ones as files, and the pieces of the live edge in a ring.
//!
//! A data folder belongs to one process at a time (a lock file) and holds, for each segment of a channel, three files
//! in `segments/`: `<name>.ts`, its `.torrent` and its signed `.record`; `<name>` comes from the channel and the
//! segment's number alone ([`minuet_proto::record::segment_file_name`]), so no name from outside ever meets a path.
//!
//! Rules:
//! - What has a final name is whole. Files are written as `.part` and renamed; of the three, the record comes last.
//!   A process that is killed at any point leaves either all three or strays, which the next start removes.
//! - [`Sealed::sync`] makes a segment survive a power cut. A record is published only after that, so a number whose
//!   record anybody has seen is never given to another segment.
//! - The newest record is never removed, not even when its media is: it carries the number to go on from. The file
//!   `begun` carries the number of a segment that was begun after it and never sealed.
//! - Age is counted in media time, not by the clock on the wall, so a clock that is set does not empty the folder.

// A panic here is the end of a program. Lengths, numbers and places come from signed statements of strangers, and from files: only by methods that cannot
// overflow.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod begun;
mod error;
mod keep;
mod pieces;
mod recover;
mod retention;
mod segment;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use begun::Begun;
use bytes::Bytes;
use minuet_proto::{ChannelId, SegmentSeq, metainfo::MAX_METAINFO_LENGTH, record::segment_file_name};

pub use error::Error;
pub use keep::{Bound, Change, Keep, Learned, Put};
pub use pieces::{Found, MAX_MEMORY, MAX_SLOTS, Medium, PieceRing, Place};
pub use recover::Recovered;
pub use retention::{Held, Retention};
pub use segment::{OpenSegment, Sealed};

/// A data folder, held by this process until dropped.
#[derive(Debug)]
pub struct Store {
    segments_dir: PathBuf,
    channel: ChannelId,
    begun: Begun,
    /// Locked; unlocks when the process ends, however it ends.
    _lock: File,
}

/// The three files of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Media,
    Torrent,
    Record,
}

/// Ends the name of a file that is being written.
const PART: &str = ".part";

impl Store {
    /// Opens the data folder `dir` for a channel, making it when missing, and tidies up what the last run left.
    pub fn open(dir: &Path, channel: ChannelId) -> Result<(Self, Recovered), Error> {
        let segments_dir = dir.join("segments");
        fs::create_dir_all(&segments_dir).map_err(Error::of(&segments_dir))?;
        let lock_path = dir.join("lock");
        let lock = minuet_files::open(File::options().create(true).truncate(false).write(true), &lock_path)
            .map_err(Error::of(&lock_path))?;
        let locked = lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Error::InUse { path: dir.to_owned() },
            fs::TryLockError::Error(source) => Error::of(&lock_path)(source),
        });
        match locked {
            // The file system has no locks (some network ones): nobody can have it, and nobody is kept out.
            Err(Error::Io { reason, .. }) if has_no_locks(&reason) => {}
            locked => locked?,
        }
        let begun = Begun::open(dir, channel)?;
        let store = Self { segments_dir, channel, begun, _lock: lock };
        let recovered = recover::recover(&store)?;
        Ok((store, recovered))
    }

    /// Notes that the number `seq` is given to a segment, before anybody else sees the segment. It survives this
    /// process at once, and a power cut after [`Store::sync_begun`].
    pub fn note_begun(&self, seq: SegmentSeq) -> Result<(), Error> {
        self.begun.note(seq)
    }

    /// Waits until what [`Store::note_begun`] noted would survive a power cut.
    pub fn sync_begun(&self) -> Result<(), Error> {
        self.begun.sync()
    }

    /// Begins a segment's file.
    pub fn create(&self, seq: SegmentSeq) -> Result<OpenSegment, Error> {
        OpenSegment::create(self, seq)
    }

    /// The folder of finished segments.
    pub fn segments_dir(&self) -> &Path {
        &self.segments_dir
    }

    /// Writes a finished segment anew whose [`Sealed::sync`] failed, and waits until it would survive a power cut. What the
    /// system could not write it may have thrown away, so asking it once more is not enough.
    pub fn rewrite(&self, seq: SegmentSeq) -> Result<(), Error> {
        for kind in [Kind::Media, Kind::Torrent, Kind::Record] {
            segment::rewrite(&self.path(seq, kind))?;
        }
        let dir = &self.segments_dir;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::of(dir))
    }

    /// Opens a segment's media for reading.
    pub fn media(&self, seq: SegmentSeq) -> Result<File, Error> {
        let path = self.media_path(seq);
        minuet_files::open(File::options().read(true), &path).map_err(Error::of(&path))
    }

    /// Where a segment's media is.
    pub fn media_path(&self, seq: SegmentSeq) -> PathBuf {
        self.path(seq, Kind::Media)
    }

    /// Reads a segment's .torrent.
    pub fn torrent(&self, seq: SegmentSeq) -> Result<Bytes, Error> {
        let path = self.path(seq, Kind::Torrent);
        minuet_files::read(&path, MAX_METAINFO_LENGTH as u64).map(Bytes::from).map_err(Error::of(&path))
    }

    /// Removes a segment's media and torrent, and its record too unless it is the newest, whose number must not be
    /// forgotten. Nothing happens where there is nothing.
    pub fn remove(&self, seq: SegmentSeq, newest: SegmentSeq) -> Result<(), Error> {
        // The record goes first: what has a record is whole.
        if seq != newest {
            remove_if_there(&self.path(seq, Kind::Record))?;
        }
        remove_if_there(&self.path(seq, Kind::Torrent))?;
        remove_if_there(&self.path(seq, Kind::Media))
    }

    fn path(&self, seq: SegmentSeq, kind: Kind) -> PathBuf {
        let mut path = self.segments_dir.join(segment_file_name(&self.channel, seq));
        match kind {
            Kind::Media => {}
            Kind::Torrent => drop(path.set_extension("torrent")),
            Kind::Record => drop(path.set_extension("record")),
        }
        path
    }
}

fn has_no_locks(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let without = [Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP];
    error.raw_os_error().is_some_and(|code| without.iter().any(|errno| errno.raw_os_error() == code))
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::of(path)(error)),
        _ => Ok(()),
    }
}

/// The name under which a file is written before it is whole.
fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PART);
    name.into()
}
