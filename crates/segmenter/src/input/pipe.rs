//! Bytes from a pipe: standard input, a named pipe, what ffmpeg writes.

use std::{
    fs::File,
    io::{self, IsTerminal, Read as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};

use super::{InputError, READ_LEN, Read};

/// A pipe, or anything else that can be waited for.
#[derive(Debug)]
pub struct Pipe {
    file: File,
    came: Arc<AtomicU64>,
}

impl Pipe {
    /// Standard input.
    pub fn stdin() -> Result<Self, InputError> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(InputError::Terminal);
        }
        Ok(Self::new(stdin.as_fd().try_clone_to_owned()?))
    }

    /// A named pipe or a device. It is silent until somebody opens it for writing.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let unreadable = |reason| InputError::Unreadable { path: path.to_owned(), reason };
        // Opening a named pipe without a writer would block: nobody could stop us, and nothing stand in.
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        Ok(Self::new(fd.map_err(|error| unreadable(error.into()))?))
    }

    /// What it reads from.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes have been read, by whoever reads.
    pub(super) fn came(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.came)
    }

    /// Whether it is a file, which has an end, rather than a pipe.
    pub(super) fn is_regular_file(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.is_file())
    }

    pub(super) fn new(fd: OwnedFd) -> Self {
        // Room for as much as one read takes: fewer switches between the writer and us. Whatever the
        // system refuses (not a pipe, no more than a quota) is as good.
        #[cfg(target_os = "linux")]
        let _ = rustix::pipe::fcntl_setpipe_size(&fd, READ_LEN);
        Self { file: fd.into(), came: Arc::default() }
    }

    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        loop {
            if !wait_readable(&self.file, patience)? {
                return Ok(Read::Idle);
            }
            match self.file.read(buf) {
                Ok(0) => return Ok(Read::End),
                Ok(len) => {
                    self.came.fetch_add(len as u64, Ordering::Relaxed);
                    return Ok(Read::Data(len));
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether something is there to be read within `patience`, the end included.
pub fn wait_readable(file: &impl AsFd, patience: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn bytes_then_the_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut pipe = Pipe::new(reader.into());
        writer.write_all(b"abc").unwrap();
        let mut buf = [0; 16];
        assert_eq!(pipe.read(&mut buf, Duration::from_secs(5)).unwrap(), Read::Data(3));
        drop(writer);
        assert_eq!(pipe.read(&mut buf, Duration::from_secs(5)).unwrap(), Read::End);
    }

    #[test]
    fn a_silent_pipe_is_idle() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut pipe = Pipe::new(reader.into());
        assert_eq!(pipe.read(&mut [0; 16], Duration::ZERO).unwrap(), Read::Idle);
    }
}
