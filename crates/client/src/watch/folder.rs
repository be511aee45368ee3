//! The folder that holds the minutes at hand: one process at a time, empty afterwards, whatever happened.

use std::{
    fs::{self, File, TryLockError},
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
        let temporary = named.is_none();
        let path = match named {
            Some(path) => path.to_owned(),
            None => {
                sweep(&std::env::temp_dir());
                tempfile::Builder::new()
                    .prefix(PREFIX)
                    .tempdir()
                    .context("cannot make a temporary folder: set TMPDIR or use --data")?
                    .keep()
            }
        };
        fs::create_dir_all(&path)
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
        Ok(Self { path, temporary, _lock: lock })
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
