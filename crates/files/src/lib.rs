//! Files of one's own under names that may be anybody's: in a folder where others may write, each could be a link to
//! another file, or a pipe that holds up whoever opens it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// Opens the regular file `path` as `options` say; their own flags are replaced. It neither follows a link nor waits
/// for the other end of a pipe.
///
/// Errors as [`OpenOptions::open`], and with a sentence if `path` is a link or no regular file.
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    const OWN: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
    match options.custom_flags(OWN.bits().cast_signed()).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        // A new file was to be made, and its name is taken: an answer, whatever is there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        opened => Err(match (path.symlink_metadata(), opened) {
            (Ok(found), _) if found.is_symlink() => {
                io::Error::other("it is a link, which may lead anywhere; put the file itself there")
            }
            (Ok(found), Err(error)) if found.is_file() => error,
            (Err(_), Err(error)) => error,
            _ => io::Error::other("it is no regular file; remove what is there"),
        }),
    }
}

/// Opens for reading a regular file that the user has named: a link is followed, but a pipe is not waited for.
///
/// Errors as [`File::open`], and with a sentence if it is no regular file.
pub fn open_named(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// Reads the whole file `path`, opened as by [`open`], of at most `most` bytes.
///
/// Errors as [`open`], and if the file is longer.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(File::options().read(true), path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    #[test]
    fn a_regular_file_is_opened_made_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read(&path, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        open(File::options().write(true).create(true).truncate(false), &path).unwrap();
        fs::write(&path, "123456789").unwrap();
        assert_eq!(read(&path, 9).unwrap(), b"123456789");
        assert!(read(&path, 8).unwrap_err().to_string().contains("longer"));
        let again = open(File::options().write(true).create_new(true), &path);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn links_pipes_and_folders_are_refused_without_waiting_however_they_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("victim"), "precious").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("missing"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for name in ["link", "dangling", "folder", "pipe"] {
            for options in [
                File::options().read(true),
                File::options().write(true).create(true).truncate(true),
                File::options().read(true).write(true).create(true).truncate(false),
            ] {
                let error = open(options, &at(name)).unwrap_err().to_string();
                let said =
                    if name.ends_with("k") || name == "dangling" { "a link" } else { "no regular file" };
                assert!(error.contains(said), "{name}: {error}");
            }
        }
        assert_eq!(fs::read(at("victim")).unwrap(), b"precious");
        assert!(!at("missing").exists());
        for name in ["folder", "pipe"] {
            assert!(open_named(&at(name)).unwrap_err().to_string().contains("no regular file"));
        }
        assert!(open_named(&at("link")).is_ok() && open_named(&at("dangling")).is_err());
    }
}
