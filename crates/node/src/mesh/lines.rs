//! The file in which it is remembered what lines can send ([`Memory`]): one for all channels, in JSON. It is a hint, and
//! several nodes may share it; each reads it anew before it writes it whole.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use minuet_line::{Learned, Memory};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A longer file is not ours, in bytes.
const MAX_LEN: u64 = 16 * 1024;
/// When the file is written first, and how often after that.
const WRITE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// What is remembered. A file that cannot be read remembers nothing.
pub(super) fn read(path: &Path) -> Memory {
    let mut memory: Memory = minuet_files::read(path, MAX_LEN)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default();
    memory.tidy(now_s());
    memory
}

/// What earlier runs learned of the line of the network that this host is on, in bytes a second on the wire, and whether they filled
/// it: else it can send more. None where there was no run, or there is no network.
pub fn known_line(path: &Path) -> Option<(u64, bool)> {
    let learned = read(path).line(&super::network::name()?)?;
    Some((learned.bytes_per_s, learned.full))
}

/// Keeps the file up to date until cancelled.
pub(super) async fn remember(
    path: PathBuf,
    network: String,
    learned: watch::Receiver<Option<Learned>>,
    cancel: CancellationToken,
) {
    let mut wait = WRITE.0;
    loop {
        let ends = tokio::time::timeout(wait, cancel.cancelled()).await.is_ok();
        wait = WRITE.1;
        let now = *learned.borrow();
        if let Some(now) = now {
            let (to, network) = (path.clone(), network.clone());
            let written = tokio::task::spawn_blocking(move || {
                let mut memory = read(&to);
                memory.note(&network, now, now_s());
                write(&to, &memory)
            });
            if let Ok(Err(error)) = written.await {
                tracing::debug!("what the line sends is not remembered in {}: {error}", path.display());
            }
        }
        if ends {
            return;
        }
    }
}

fn write(path: &Path, memory: &Memory) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut part = tempfile::Builder::new().prefix("lines-").suffix(".part").tempfile_in(folder)?;
    part.write_all(&serde_json::to_vec(memory)?)?;
    part.persist(path)?;
    Ok(())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_learned_outlives_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below").join("lines.json");
        assert_eq!(read(&path), Memory::default());
        let (_say, news) = watch::channel(Some(Learned { bytes_per_s: 500_000, full: true }));
        let cancel = CancellationToken::new();
        cancel.cancel();
        remember(path.clone(), "home".into(), news, cancel).await;
        assert_eq!(read(&path).line("home").map(|line| line.bytes_per_s), Some(500_000));
        std::fs::write(&path, "{\"lines\":[{\"network\":7}]}").unwrap();
        assert_eq!(read(&path), Memory::default(), "what is no such file is nothing");
    }
}
