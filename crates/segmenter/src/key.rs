//! The channel's key file: 64 hexadecimal digits, for its owner's eyes only.
//!
//! A key that others can read is refused where its owner can mend that in one command. Where nobody here can (a
//! container's secret, which belongs to root or is mounted read-only; a file system without modes), it is used with a
//! warning: a refusal would keep the channel off the air and the key as readable as it is.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{FileTypeExt as _, MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use minuet_proto::ChannelKey;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, OFlags, RenameFlags, StatVfsMountFlags},
};

/// The most bytes of a key file that are read.
const MAX_KEY_FILE: u64 = 1024;
/// How long a pipe's other end may take for the key.
const PIPE_WAIT: Duration = Duration::from_secs(5);

/// Types of file systems that have no modes of their own, or none that can be changed (statfs(2)): FAT, exFAT, NTFS,
/// SMB, 9P (the folders that virtual machines share), VirtualBox, HFS+, and whatever FUSE brings (sshfs).
const WITHOUT_MODES: &[u64] = &[
    0x4d44,
    0x2011_bab0,
    0x5346_544e,
    0x7366_746e,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x786f_4256,
    0x482b,
    0x6573_5546,
];

/// Reads the key file, or makes one with a new key when there is none. True when it was made.
pub fn load_or_make(path: &Path) -> Result<(ChannelKey, bool)> {
    // A link is followed, since containers give their secrets so. A pipe is not waited for here.
    let opened = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    match opened {
        Ok(file) => load(path, file).map(|key| (key, false)),
        Err(error) if error.kind() == ErrorKind::NotFound => make(path).map(|key| (key, true)),
        Err(error) => Err(error).with_context(|| {
            format!("cannot read the key file {}; check --key and its permissions", path.display())
        }),
    }
}

fn load(path: &Path, file: File) -> Result<ChannelKey> {
    let name = path.display();
    let cannot = || format!("cannot read the key file {name}; it is to hold 64 hexadecimal digits");
    let metadata = file.metadata().with_context(cannot)?;
    let kind = metadata.file_type();
    if metadata.is_dir() {
        bail!("{name} is a folder; let --key name a file");
    } else if !kind.is_file() && !kind.is_fifo() {
        bail!("{name} is no file that could hold a key; let --key name one");
    }
    let mode = metadata.mode() & 0o777;
    match exposure(mode, metadata.uid(), rustix::process::geteuid().as_raw(), || is_fixed(&file)) {
        Exposure::None => {}
        Exposure::Mendable => bail!(
            "the key file {name} can be read by others (mode {mode:03o}), who could then speak for the channel; \
             run: chmod 600 {name}"
        ),
        Exposure::Given => tracing::warn!(
            "the key file {name} can be read by others (mode {mode:03o}), who could then speak for the channel; it is used \
             as it is, since its mode is not this user's to change"
        ),
    }
    let text = read(file, Instant::now() + PIPE_WAIT).with_context(cannot)?;
    text.parse().with_context(|| {
        format!(
            "{name} holds no channel key; name another file with --key, or a missing one to have a key made"
        )
    })
}

/// Reads a file, or a pipe to its end (a shell's `<(...)`). Errors if a pipe's other end says nothing until the deadline.
fn read(file: File, deadline: Instant) -> io::Result<String> {
    let mut text = String::new();
    let mut file = file.take(MAX_KEY_FILE);
    loop {
        match file.read_to_string(&mut text) {
            Ok(_) => return Ok(text),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        if poll(&mut [PollFd::new(file.get_ref(), PollFlags::IN)], Some(&left))? == 0 {
            return Err(io::Error::other("it is a pipe, and nothing came through it"));
        }
    }
}

/// Whether others can read a key, and whether that can be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exposure {
    None,
    /// Its owner, who runs this program, can change the mode.
    Mendable,
    /// It is as whoever set up this machine has made it.
    Given,
}

/// Judges a file by its mode, its owner, who runs this program, and whether modes are fixed where it lies.
fn exposure(mode: u32, owner: u32, user: u32, is_fixed: impl FnOnce() -> bool) -> Exposure {
    if mode & 0o077 == 0 {
        Exposure::None
    } else if owner == 0 || owner != user || is_fixed() {
        Exposure::Given
    } else {
        Exposure::Mendable
    }
}

/// Whether modes cannot be changed where a file lies.
fn is_fixed(file: &File) -> bool {
    let read_only = rustix::fs::fstatvfs(file).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    // The type's width differs from platform to platform; all magic numbers have 32 bits.
    let kind = rustix::fs::fstatfs(file).map(|fs| fs.f_type as u64 & 0xffff_ffff);
    read_only || kind.is_ok_and(|kind| WITHOUT_MODES.contains(&kind))
}

fn make(path: &Path) -> Result<ChannelKey> {
    let name = path.display();
    let cannot = || {
        format!("cannot make the key file {name}; with --data or --key choose a folder that can be written")
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(cannot)?;
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random numbers to make a key of")?;
    let key = ChannelKey::from_seed(&seed);
    // Whole or not at all: half a key file would stop every later start.
    let part = path.with_extension("key.part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(cannot),
        _ => {}
    }
    let made = write(&part, &key).and_then(|()| give_name(&part, path));
    // Nothing is left behind, on a full disk neither.
    let _ = fs::remove_file(&part);
    made.with_context(cannot)?;
    Ok(key)
}

fn write(part: &Path, key: &ChannelKey) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(part)?;
    writeln!(file, "{}", key.to_secret_hex())?;
    file.sync_all()
}

/// Gives a file its name, unless another process has made one of that name meanwhile: a plain rename would replace that
/// key. By a second link, or where the file system has none (FAT, some FUSE ones), by a rename that replaces nothing.
fn give_name(part: &Path, path: &Path) -> io::Result<()> {
    let linked = fs::hard_link(part, path);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists && error.kind() != ErrorKind::StorageFull => {
            rename_new(part, path)
        }
        linked => linked,
    }
}

fn rename_new(part: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // The file system knows no such rename either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP)
            if !path.exists() =>
        {
            fs::rename(part, path)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/channel.key");
        let (key, made) = load_or_make(&path).unwrap();
        assert!(made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (again, made) = load_or_make(&path).unwrap();
        assert!(!made);
        assert_eq!(again.channel(), key.channel());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_only_where_that_can_be_mended() {
        let fixed = || true;
        let not_fixed = || false;
        for (mode, owner, user, given) in [
            (0o600, 1000, 1000, Exposure::None),
            (0o400, 0, 1000, Exposure::None),
            (0o444, 1000, 1000, Exposure::Mendable),
            (0o640, 1000, 1000, Exposure::Mendable),
            // A secret of a container, whoever its process runs as.
            (0o444, 0, 1000, Exposure::Given),
            (0o440, 0, 0, Exposure::Given),
            (0o640, 65_534, 1000, Exposure::Given),
        ] {
            assert_eq!(exposure(mode, owner, user, not_fixed), given, "{mode:o} {owner} {user}");
        }
        assert_eq!(exposure(0o755, 1000, 1000, fixed), Exposure::Given, "a file system without modes");
    }

    #[test]
    fn a_key_that_is_root_s_is_used_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("channel.key");
        let (key, _) = load_or_make(&path).unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        for mode in [0o444, 0o440, 0o640] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match load_or_make(&path) {
                Ok((same, false)) => assert!(owner == 0 && same.channel() == key.channel()),
                Ok(_) => panic!("another key was made"),
                Err(error) => {
                    assert!(owner != 0 && error.to_string().contains("chmod 600"), "{owner} {error}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("channel.key");
        load_or_make(&path).unwrap();
        fs::write(&path, "not a key").unwrap();
        assert!(load_or_make(&path).unwrap_err().to_string().contains("holds no channel key"));
        assert!(load_or_make(dir.path()).is_err());
    }

    #[test]
    fn a_key_comes_through_a_pipe_and_a_pipe_that_says_nothing_ends_the_wait() {
        let (from, mut to) = io::pipe().unwrap();
        let key = ChannelKey::from_seed(&[5; 32]);
        let from = File::from(std::os::fd::OwnedFd::from(from));
        rustix::fs::fcntl_setfl(&from, OFlags::NONBLOCK).unwrap();
        let hex = key.to_secret_hex();
        let writer = std::thread::spawn(move || {
            let (first, rest) = hex.as_bytes().split_at(10);
            to.write_all(first).unwrap();
            std::thread::yield_now();
            to.write_all(rest).unwrap();
        });
        assert_eq!(read(from, Instant::now() + Duration::from_secs(60)).unwrap(), key.to_secret_hex());
        writer.join().unwrap();

        let (from, _to) = io::pipe().unwrap();
        let from = File::from(std::os::fd::OwnedFd::from(from));
        rustix::fs::fcntl_setfl(&from, OFlags::NONBLOCK).unwrap();
        assert!(read(from, Instant::now()).unwrap_err().to_string().contains("nothing came"));
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_no_key_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("channel.key");
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(load_or_make(&path).unwrap_err().to_string().contains("holds no channel key"));
    }

    #[test]
    fn without_hard_links_a_key_gets_its_name_and_replaces_none() {
        let dir = tempfile::tempdir().unwrap();
        let (part, path) = (dir.path().join("part"), dir.path().join("key"));
        fs::write(&part, "one").unwrap();
        rename_new(&part, &path).unwrap();
        fs::write(&part, "two").unwrap();
        assert!(rename_new(&part, &path).is_err());
        assert!(give_name(&part, &path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    }
}
