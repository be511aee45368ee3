//! The folder that holds the media at hand: one process at a time, gone afterwards, whatever happened.
//!
//! Rules:
//! 1. What a run keeps lies in a folder of its own, made for it under a name that nobody could foresee, mode 0700. So a run does
//!    not touch what else lies in `--data`, or in the temporary folder that all users share.
//! 2. The next process removes what a killed one left, if that is this user's own.
//! 3. Names in a shared folder may be anything (a link to somewhere, a pipe that blocks whoever opens it), so they are opened
//!    without following links and without waiting, and then looked at.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

const LOCK: &str = "lock";
const PREFIX: &str = "minuet-watch-";
/// How often a lock is taken again whose file was removed meanwhile by the process that held it.
const LOCK_ATTEMPTS: usize = 16;
/// Where else temporary files may lie, where the temporary folder cannot be written (read-only containers).
const SPARE: &[&str] = &["/dev/shm", "/run/shm"];

/// The folder of temporary files that are on a disk (Filesystem Hierarchy Standard).
const ON_DISK: &str = "/var/tmp";
/// File systems in memory, by their numbers in statfs(2): tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// A folder of this run alone. Dropping it removes it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
    /// Of `--data`.
    outer: Option<Outer>,
}

/// The lock of `--data`, which two processes cannot share.
#[derive(Debug)]
struct Outer {
    lock: PathBuf,
    /// This run made it.
    is_new: bool,
    _file: File,
}

impl Folder {
    /// A new folder, in `named` or among the temporary ones. Those that a killed process left there are removed.
    pub fn open(named: Option<&Path>) -> anyhow::Result<Self> {
        match named {
            Some(path) => Self::open_in(path),
            None => Self::temporary(),
        }
    }

    fn open_in(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make {}: choose another --data", path.display()))?;
        let outer = Outer::take(path)?;
        sweep(path);
        let folder = new_in(path);
        let mut folder =
            folder.with_context(|| format!("cannot write in {}: choose another --data", path.display()))?;
        folder.outer = Some(outer);
        Ok(folder)
    }

    fn temporary() -> anyhow::Result<Self> {
        let temp_dir = temporary_dir();
        sweep(&temp_dir);
        let error = match new_in(&temp_dir) {
            Ok(folder) => return Ok(folder),
            Err(error) => error,
        };
        for spare in SPARE.iter().map(Path::new) {
            sweep(spare);
            if let Ok(folder) = new_in(spare) {
                tracing::debug!(
                    "{} cannot be written ({error}): using {}",
                    temp_dir.display(),
                    spare.display()
                );
                return Ok(folder);
            }
        }
        Err(error).with_context(|| {
            format!(
                "cannot make a folder in {}: name one that can be written with TMPDIR or --data",
                temp_dir.display()
            )
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        if let Some(outer) = self.outer.as_ref().filter(|outer| outer.is_new) {
            let _ = fs::remove_file(&outer.lock);
        }
    }
}

impl Outer {
    fn take(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(LOCK);
        for _ in 0..LOCK_ATTEMPTS {
            // Made anew or found, but never both: what was there before stays there.
            let (file, is_new) =
                match open_lock(&path, File::options().read(true).write(true).create_new(true).mode(0o600)) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        (open_lock(&path, File::options().read(true).write(true)), false)
                    }
                    made => (made, true),
                };
            let file = match file {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_new => continue,
                file => file.with_context(|| {
                    format!("{} cannot be used as a lock: choose another --data", path.display())
                })?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    bail!("{} is in use by another minuet: choose another --data", folder.display())
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| {
                        format!("{} cannot be locked: choose another --data", folder.display())
                    });
                }
            }
            // The process that held it may have removed it, so that the next one would lock another file.
            if is_at(&file, &path) {
                return Ok(Self { lock: path, is_new, _file: file });
            }
        }
        bail!("{} is in use by another minuet: choose another --data", folder.display())
    }
}

/// Whether the open file is the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().is_ok_and(|open| fs::symlink_metadata(path).is_ok_and(|named| same(open, named)))
}

/// Opens a lock of one's own under a name that may be anything.
fn open_lock(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = minuet_files::open(options, path)?;
    if file.metadata()?.uid() != own_uid() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(file)
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Where temporary files belong. Where that is memory and nobody has named it, what is kept for minutes goes to a disk.
fn temporary_dir() -> PathBuf {
    let usual = std::env::temp_dir();
    let is_named = std::env::var_os("TMPDIR").is_some();
    let on_disk = Path::new(ON_DISK);
    if !is_named && is_memory(&usual) && on_disk.is_dir() && !is_memory(on_disk) {
        return on_disk.to_owned();
    }
    usual
}

/// Whether a folder's files are in memory.
fn is_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| IN_MEMORY.contains(&found.f_type.cast_unsigned()))
}

/// A new folder. Its lock appears under its name once it is held: a sweep never sees one that seems to be nobody's.
fn new_in(parent: &Path) -> io::Result<Folder> {
    let mut builder = tempfile::Builder::new();
    let dir = builder.prefix(PREFIX).permissions(Permissions::from_mode(0o700)).tempdir_in(parent)?;
    let unnamed = dir.path().join("lock.new");
    let lock = File::create_new(&unnamed)?;
    // A file system without locks has nobody to share with.
    if let Err(error) = lock.lock()
        && error.kind() != io::ErrorKind::Unsupported
    {
        return Err(error);
    }
    fs::rename(&unnamed, dir.path().join(LOCK))?;
    Ok(Folder { path: dir.keep(), _lock: lock, outer: None })
}

/// Removes what a killed process left: folders of ours whose lock nobody holds.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if named && is_abandoned(&entry.path()) {
            // Does not follow links, neither here nor below.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    let ours = fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == own_uid());
    ours && open_lock(&folder.join(LOCK), File::options().read(true))
        .is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn memory_is_told_from_a_disk() {
        assert!(is_memory(Path::new("/dev/shm")));
        assert!(!is_memory(Path::new("/proc/self")) && !is_memory(Path::new("/not/there")));
    }

    #[test]
    fn a_named_folder_serves_one_process_and_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["state", "minutes", "sealed"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("mine"), "x").unwrap();
        }
        fs::write(dir.path().join("mine"), "x").unwrap();
        let folder = Folder::open(Some(dir.path())).unwrap();
        assert!(Folder::open(Some(dir.path())).unwrap_err().to_string().contains("in use"));
        for part in ["state", "minutes"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        drop(folder);
        assert_eq!(names(dir.path()), ["mine", "minutes", "sealed", "state"]);
        assert!(dir.path().join("minutes/mine").exists() && dir.path().join("state/mine").exists());
    }

    #[test]
    fn a_lock_that_was_there_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "mine").unwrap();
        drop(Folder::open(Some(dir.path())).unwrap());
        assert_eq!(fs::read(dir.path().join(LOCK)).unwrap(), b"mine");
        assert_eq!(names(dir.path()), [LOCK]);
    }

    #[test]
    fn what_a_run_keeps_is_its_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(dir.path())).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o700);
        let temporary = new_in(dir.path()).unwrap();
        assert_eq!(fs::metadata(temporary.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_lock_that_is_a_link_or_a_pipe_or_a_folder_neither_blocks_nor_fools() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        for make in ["link", "pipe", "folder"] {
            let data = dir.path().join(make);
            fs::create_dir(&data).unwrap();
            let lock = data.join(LOCK);
            match make {
                "link" => symlink(&victim, &lock).unwrap(),
                "pipe" => assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success()),
                _ => fs::create_dir(&lock).unwrap(),
            }
            let error = Folder::open(Some(&data)).unwrap_err().to_string();
            assert!(error.contains("--data"), "{make}: {error}");
            assert!(fs::symlink_metadata(&lock).is_ok(), "{make}");
        }
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn strangers_names_in_a_shared_folder_are_left_alone_and_do_not_block() {
        let temp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(LOCK), "").unwrap();
        fs::write(elsewhere.path().join("precious"), "x").unwrap();
        let at = |name: &str| temp.path().join(format!("{PREFIX}{name}"));
        fs::create_dir(at("pipe")).unwrap();
        assert!(Command::new("mkfifo").arg(at("pipe").join(LOCK)).status().unwrap().success());
        symlink(elsewhere.path(), at("link")).unwrap();
        fs::create_dir(at("lock-is-link")).unwrap();
        symlink(elsewhere.path().join(LOCK), at("lock-is-link").join(LOCK)).unwrap();
        fs::write(at("file"), "").unwrap();
        let before = names(temp.path());
        sweep(temp.path());
        assert_eq!(names(temp.path()), before);
        assert_eq!(names(elsewhere.path()), [LOCK, "precious"]);
    }

    #[test]
    fn many_at_once_leave_each_others_folders_alone() {
        let temp = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        sweep(temp.path());
                        let folder = new_in(temp.path()).unwrap();
                        fs::create_dir(folder.path().join("minutes")).unwrap();
                    }
                });
            }
        });
        assert_eq!(names(temp.path()), [""; 0]);
    }

    #[test]
    fn a_named_folder_is_one_processs_at_a_time_whoever_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let Ok(folder) = Folder::open(Some(dir.path())) else { continue };
                        let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(others, 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(folder);
                    }
                });
            }
        });
        // Of two that come at once one may make the lock and the other hold it; then it stays, and it is empty.
        for name in names(dir.path()) {
            assert_eq!((name.as_str(), fs::metadata(dir.path().join(LOCK)).unwrap().len()), (LOCK, 0));
        }
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_is_in_use_is_not() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["minuet-watch-dead", "minuet-watch-alive", "other"] {
            fs::create_dir(temp.path().join(name)).unwrap();
            fs::write(temp.path().join(name).join(LOCK), "").unwrap();
        }
        let alive = File::open(temp.path().join("minuet-watch-alive").join(LOCK)).unwrap();
        alive.lock().unwrap();
        sweep(temp.path());
        assert_eq!(names(temp.path()), ["minuet-watch-alive", "other"]);
        drop(alive);
        drop(Folder::open(Some(temp.path())).unwrap());
        assert_eq!(names(temp.path()), ["other"], "in --data as well");
    }
}
