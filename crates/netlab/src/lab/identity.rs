//! Which labs there are: each has an id, a folder in /run with a lock and a control socket, and namespaces named
//! after the id. The lock is held by the process of the lab and goes with it, so a lab whose lock can be taken is
//! a dead one's remains, whatever process has its id by now.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{error::LabError, namespace::Namespace};

/// What the names of all labs' namespaces begin with.
const PREFIX: &str = "netlab-";
/// What tells a script, and everything that it starts, which lab it is in.
pub const ENV_ID: &str = "NETLAB_ID";

/// A lab's name: process id and count, as in `4711-0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabId(String);

/// A lab's folder and lock, held while it lives.
#[derive(Debug)]
pub struct Claim {
    id: LabId,
    _lock: File,
}

impl LabId {
    /// The one that was named.
    pub fn named(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    fn next() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of a host, or, with `-nat` behind the host's name, of the router before it.
    pub fn namespace(&self, host: &str) -> Namespace {
        Namespace::named(format!("{PREFIX}{}-{host}", self.0))
    }

    /// All namespaces of this lab that exist.
    pub fn namespaces(&self) -> Vec<Namespace> {
        Namespace::with_prefix(&format!("{PREFIX}{}-", self.0))
    }

    /// Where the lab listens for changes.
    pub fn control_socket(&self) -> PathBuf {
        self.folder().join("control")
    }

    fn folder(&self) -> PathBuf {
        folder().join(&self.0)
    }

    /// Every lab with a folder or a namespace, running or dead.
    fn all() -> Vec<Self> {
        let folders = fs::read_dir(folder()).into_iter().flatten();
        let mut ids: Vec<Self> =
            folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).map(Self).collect();
        for namespace in Namespace::with_prefix(PREFIX) {
            // netlab-4711-0-h01
            let mut parts = namespace.name()[PREFIX.len()..].split('-');
            if let (Some(process), Some(count), Some(_)) = (parts.next(), parts.next(), parts.next()) {
                ids.push(Self(format!("{process}-{count}")));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether its process lives.
    fn is_running(&self) -> bool {
        File::open(self.folder().join("lock")).is_ok_and(|lock| lock.try_lock_shared().is_err())
    }

    /// The labs that run.
    pub fn running() -> Vec<Self> {
        Self::all().into_iter().filter(Self::is_running).collect()
    }

    /// The labs whose process is gone.
    pub fn dead() -> Vec<Self> {
        Self::all().into_iter().filter(|id| !id.is_running()).collect()
    }

    /// Forgets a dead lab's folder.
    pub fn forget(&self) {
        // Gone already, or in a state that the next sweep finds.
        let _ = fs::remove_dir_all(self.folder());
    }
}

impl Claim {
    /// Takes a new id.
    pub fn new() -> Result<Self, LabError> {
        let _alone = alone()?;
        let id = LabId::next();
        let folder = id.folder();
        let claim = || {
            fs::create_dir_all(&folder)?;
            let lock = File::create(folder.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = claim().map_err(LabError::system(format!("make {}", folder.display())))?;
        Ok(Self { id, _lock: lock })
    }

    /// The id.
    pub fn id(&self) -> &LabId {
        &self.id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.id.forget();
    }
}

/// Held while labs are claimed or swept, so that no lab is taken for dead before it has its lock.
pub fn alone() -> Result<File, LabError> {
    let path = "/run/minuet-netlab.lock";
    let alone = || {
        let file = File::create(path)?;
        file.lock()?;
        Ok(file)
    };
    alone().map_err(LabError::system(format!("lock {path}")))
}

fn folder() -> &'static Path {
    Path::new("/run/minuet-netlab")
}
