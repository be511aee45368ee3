//! What can go wrong with a folder of segments, in words that name the remedy.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No room left, or the user's quota is used up.
    #[error("the disk is full: cannot write {}; make room there, or keep less with --keep", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The user may not read or write there.
    #[error("no permission for {}; choose another folder with --data, or make this one writable for this user", path.display())]
    Permission {
        /// What was being used.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("{} is on a read-only file system; choose another folder with --data", path.display())]
    ReadOnly {
        /// What was being written.
        path: PathBuf,
    },
    /// Another process has the folder.
    #[error("{} is in use by another process; end that one first, or choose another folder with --data", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Anything else that the system says.
    #[error("cannot use {}: {reason}", path.display())]
    Io {
        /// What was being used.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

impl Error {
    /// Sorts a system error by its remedy.
    pub(crate) fn of(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| match reason.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path },
            ErrorKind::PermissionDenied => Self::Permission { path },
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            _ => Self::Io { path, reason },
        }
    }
}
