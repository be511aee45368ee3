//! Files of what is kept: written whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use crate::part;

/// Whether what was tried may succeed once the disk has room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes a file under its final name, whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = part(path);
    let mut options = File::options();
    let mut file = minuet_files::open(options.write(true).create(true).truncate(true), &unfinished)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Removes all files of a segment, the record first: what has one is there.
pub(super) fn remove_all(media: &Path) {
    for path in ["record", "torrent", "map"].map(|end| media.with_extension(end)) {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_file(media);
}
