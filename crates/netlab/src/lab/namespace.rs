//! Network namespaces by name, as `ip netns` keeps them: a file in /run/netns for each.

use std::{
    fs::{self, File},
    os::{fd::AsFd, linux::fs::MetadataExt},
    path::PathBuf,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{error::LabError, program};

const FOLDER: &str = "/run/netns";

/// A network namespace that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The one with this name, whether it exists or not.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// All whose names begin so.
    pub fn with_prefix(prefix: &str) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(FOLDER) else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .map(Self::named)
            .collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes them all.
    pub fn create(namespaces: &[Self]) -> Result<(), LabError> {
        let commands: String = namespaces.iter().map(|n| format!("netns add {}\n", n.name)).collect();
        program::ip(&commands)
    }

    /// Removes its name; it is gone when the last process has left it.
    pub fn delete(&self) -> Result<(), LabError> {
        program::ip(&format!("netns del {}\n", self.name))
    }

    /// What `/proc/PID/ns/net` of a process inside points to; `None` when it does not exist.
    pub fn proc_link(&self) -> Option<String> {
        let inode = fs::metadata(self.path()).ok()?.st_ino();
        Some(format!("net:[{inode}]"))
    }

    /// Moves the calling thread, and what it starts from now on, into the namespace.
    pub fn enter(&self) -> Result<(), LabError> {
        let enter = || {
            let file = File::open(self.path())?;
            Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
        };
        enter().map_err(LabError::system(format!("enter the namespace {}", self.name)))
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        let run = || {
            self.enter()?;
            work()
        };
        thread::scope(|scope| match scope.spawn(run).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }
}
