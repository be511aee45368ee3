//! A segment's way to disk: written while it is recorded, sealed at the cut, made durable after.

use std::{
    fs::{self, File},
    io::{self, IoSlice, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use minuet_proto::{SegmentSeq, SignedRecord};
use rustix::fs::{FallocateFlags, fallocate};

use crate::{Error, Kind, Store, part};

/// Bytes are written in multiples of this, at multiples of this: pages that are filled in one go cost a tenth less, and
/// the file system takes them in large folios.
const UNIT: usize = 64 << 10;

/// The file of the segment that is being recorded. Dropped without [`OpenSegment::seal`], it is removed.
#[derive(Debug)]
pub struct OpenSegment {
    file: Option<File>,
    media: PathBuf,
    torrent: PathBuf,
    record: PathBuf,
    dir: PathBuf,
    /// Bytes in the file.
    written: u64,
    /// Bytes after those, less than [`UNIT`], that wait for more.
    tail: Vec<u8>,
    /// A write failed, so the file may go on beyond `written` and the next write belongs elsewhere.
    overhang: bool,
}

/// A segment whose three files have their final names, but may not have reached the disk.
#[derive(Debug)]
#[must_use = "a record may be published only after `sync`"]
pub struct Sealed {
    files: [(PathBuf, File); 3],
    dir: PathBuf,
}

impl OpenSegment {
    pub(crate) fn create(store: &Store, seq: SegmentSeq) -> Result<Self, Error> {
        let media = store.media_path(seq);
        let path = part(&media);
        let file = create(&path).map_err(Error::of(&path))?;
        Ok(Self {
            file: Some(file),
            media,
            torrent: store.path(seq, Kind::Torrent),
            record: store.path(seq, Kind::Record),
            dir: store.segments_dir.clone(),
            written: 0,
            tail: Vec::with_capacity(UNIT),
            overhang: false,
        })
    }

    /// Reserves room on disk for `bytes`, if the file system can do so: writing then costs a third less, and
    /// the file lies in one piece. What is not used is given back when the segment is sealed.
    pub fn reserve(&self, bytes: u64) {
        let Some(file) = &self.file else { return };
        // A full disk shows when the bytes are written, and whoever cannot reserve can still write.
        let _ = fallocate(file, FallocateFlags::empty(), 0, bytes.max(1));
    }

    /// Appends bytes. After an error nothing of `bytes` counts as appended: the next write takes their place.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let whole = (self.tail.len().saturating_add(bytes.len()) / UNIT).saturating_mul(UNIT);
        let Some(now) = whole.checked_sub(self.tail.len()).filter(|_| whole > 0) else {
            self.tail.extend_from_slice(bytes);
            return Ok(());
        };
        let (now, later) = bytes.split_at(now);
        self.write_out(now)?;
        self.tail.extend_from_slice(later);
        Ok(())
    }

    /// Bytes appended.
    pub fn length(&self) -> u64 {
        self.written.saturating_add(self.tail.len() as u64)
    }

    /// Writes the tail and `bytes` to the file.
    fn write_out(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let overhang = std::mem::replace(&mut self.overhang, true);
        let written = match overhang {
            true => file.seek(SeekFrom::Start(self.written)).map(drop),
            false => Ok(()),
        };
        written
            .and_then(|()| write_all_vectored(file, &mut [IoSlice::new(&self.tail), IoSlice::new(bytes)]))
            .map_err(Error::of(&part(&self.media)))?;
        self.overhang = false;
        self.written = self.written.saturating_add(self.tail.len().saturating_add(bytes.len()) as u64);
        self.tail.clear();
        Ok(())
    }

    /// Gives the segment its final names: media, then torrent, then record. Does not wait for the disk. After an error
    /// it can be tried again.
    pub fn seal(&mut self, torrent: &[u8], record: &SignedRecord) -> Result<Sealed, Error> {
        self.write_out(&[])?;
        if let Some(file) = &self.file {
            // Beyond lies what was reserved, or what is left of a write that failed.
            file.set_len(self.written).map_err(Error::of(&part(&self.media)))?;
        }
        let torrent_file = write_part(&self.torrent, torrent)?;
        let record_file = write_part(&self.record, &record.encode())?;
        for path in [&self.media, &self.torrent, &self.record] {
            fs::rename(part(path), path).map_err(Error::of(path))?;
        }
        // Set from `create` until here.
        let media_file = self.file.take().ok_or_else(|| Error::Io {
            path: self.media.clone(),
            reason: std::io::Error::other("sealed twice"),
        })?;
        let files = [
            (self.media.clone(), media_file),
            (self.torrent.clone(), torrent_file),
            (self.record.clone(), record_file),
        ];
        Ok(Sealed { files, dir: self.dir.clone() })
    }
}

impl Drop for OpenSegment {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Whatever names were reached: without all of them it is no segment.
            for path in [&self.record, &self.torrent, &self.media] {
                let _ = fs::remove_file(part(path));
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Sealed {
    /// Waits until the segment would survive a power cut.
    pub fn sync(self) -> Result<(), Error> {
        for (path, file) in &self.files {
            file.sync_data().map_err(Error::of(path))?;
        }
        // The names: a rename is durable once its folder is.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(Error::of(&self.dir))
    }
}

/// A new file, in place of what was left there by this store.
fn create(path: &Path) -> io::Result<File> {
    minuet_files::open(File::options().write(true).create(true).truncate(true), path)
}

/// Writes a file anew, and waits until it would survive a power cut.
pub(crate) fn rewrite(path: &Path) -> Result<(), Error> {
    let part = part(path);
    let written = || {
        let (mut from, mut to) = (minuet_files::open(File::options().read(true), path)?, create(&part)?);
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        fs::rename(&part, path)
    };
    written().map_err(|reason| {
        let _ = fs::remove_file(&part);
        Error::of(path)(reason)
    })
}

fn write_all_vectored(file: &mut File, mut bytes: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut bytes, 0);
    while !bytes.is_empty() {
        match file.write_vectored(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut bytes, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_part(path: &Path, bytes: &[u8]) -> Result<File, Error> {
    let path = part(path);
    let written = create(&path).and_then(|mut file| file.write_all(bytes).map(|()| file));
    written.map_err(Error::of(&path))
}

#[cfg(test)]
mod tests {
    use minuet_proto::ChannelKey;

    use super::*;

    /// `/dev/full` fails every write as a full disk does.
    #[test]
    fn a_write_that_failed_leaves_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), ChannelKey::from_seed(&[5; 32]).channel()).unwrap();
        let mut open = store.create(SegmentSeq(0)).unwrap();
        open.file = Some(File::options().write(true).open("/dev/full").unwrap());
        open.write(b"little enough to wait for more").unwrap();
        let length = open.length();
        for _ in 0..2 {
            assert!(matches!(open.write(&[7; 100_000]).unwrap_err(), Error::DiskFull { .. }));
            assert_eq!(open.length(), length);
        }
    }
}
