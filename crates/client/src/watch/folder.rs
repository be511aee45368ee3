//! The folder that holds the minutes at hand: one process at a time, empty afterwards, whatever happened.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

const LOCK: &str = "lock";
const PREFIX: &str = "minuet-watch-";

/// A locked folder. Dropping it empties it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Ours to remove as a whole.
    temporary: bool,
    _lock: File,
}

impl Folder {
    /// Takes `named`, or a new temporary folder; temporary folders that a killed process left behind are removed.
    pub fn open(named: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = named else {
            let temp_dir = std::env::temp_dir();
            sweep(&temp_dir);
            return temporary(&temp_dir).context("cannot make a temporary folder: set TMPDIR or use --data");
        };
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make {}: choose another --data", path.display()))?;
        let lock = File::create(path.join(LOCK))
            .with_context(|| format!("cannot write in {}: choose another --data", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{} is in use by another minuet: choose another --data", path.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        Ok(Self { path: path.to_owned(), temporary: false, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.path);
        } else {
            // What the swarm keeps here; the folder itself is its owner's.
            for part in ["state", "minutes", super::seeder::FOLDER] {
                let _ = fs::remove_dir_all(self.path.join(part));
            }
            let _ = fs::remove_file(self.path.join(LOCK));
        }
    }
}

/// A new folder. Its lock appears under its name once it is held: a sweep never sees one that seems to be nobody's.
fn temporary(temp_dir: &Path) -> io::Result<Folder> {
    let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(temp_dir)?;
    let unnamed = dir.path().join("lock.new");
    let lock = File::create(&unnamed)?;
    lock.lock()?;
    fs::rename(&unnamed, dir.path().join(LOCK))?;
    Ok(Folder { path: dir.keep(), temporary: true, _lock: lock })
}

/// Removes what a killed process left: our temporary folders whose lock nobody holds.
fn sweep(temp_dir: &Path) {
    let Ok(entries) = fs::read_dir(temp_dir) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if ours
            && is_dir
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_serves_one_process_and_keeps_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        let folder = Folder::open(Some(dir.path())).unwrap();
        assert!(Folder::open(Some(dir.path())).unwrap_err().to_string().contains("in use"));
        fs::create_dir(folder.path().join("minutes")).unwrap();
        drop(folder);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["mine"]);
    }

    #[test]
    fn many_at_once_leave_each_others_folders_alone() {
        let temp = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        sweep(temp.path());
                        let folder = temporary(temp.path()).unwrap();
                        fs::create_dir(folder.path().join("minutes")).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
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
        let mut left: Vec<_> = fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["minuet-watch-alive", "other"]);
    }
}
