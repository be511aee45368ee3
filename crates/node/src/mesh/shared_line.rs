//! The line that the parts of one program share, and what earlier runs have learned of it. What it can send the session
//! finds out.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use minuet_guard::tasks::Spawner;
use minuet_line::Learned;
use tokio::sync::watch;

use super::{MeshOptions, endless, lines, network};

/// What the parts of one program tell each other of the line that they share: the mesh, HTTP and BitTorrent. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Uplink(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    mesh_bytes: AtomicU64,
    others_bytes: AtomicU64,
    /// 0: not known.
    limit: AtomicU64,
}

impl Uplink {
    /// Other parts of the program have sent so many bytes more. What they do not say, the estimate takes for somebody
    /// else's, and gives way to it.
    pub fn note_others(&self, bytes: u64) {
        self.0.others_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What the mesh has sent since its start, in bytes on the wire; renewed ten times a second.
    pub fn mesh_bytes(&self) -> u64 {
        self.0.mesh_bytes.load(Ordering::Relaxed)
    }

    /// The most that all parts together should send, in bytes a second on the wire, as the mesh has found out. None where
    /// a limit was given, or where nobody is linked, so that nothing is known.
    pub fn limit(&self) -> Option<u64> {
        Some(self.0.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// The mesh says what it has sent and found out; for whoever stands in for it in a test.
    pub fn say(&self, mesh_bytes: u64, limit: Option<u64>) {
        self.0.mesh_bytes.store(mesh_bytes, Ordering::Relaxed);
        self.0.limit.store(limit.unwrap_or(0), Ordering::Relaxed);
    }

    /// What other parts of the program have said that they sent.
    pub fn others_bytes(&self) -> u64 {
        self.0.others_bytes.load(Ordering::Relaxed)
    }
}

/// What an earlier run on the same network has learned of its line, if this one is to find out a limit. What the session
/// says to the sender is remembered from now on.
pub(super) fn remember(
    options: &MeshOptions,
    tasks: &Spawner,
) -> (watch::Sender<Option<Learned>>, Option<Learned>) {
    let (learned, news) = watch::channel(None);
    let counts = options.upload && options.upload_limit.is_none();
    let known = options.lines.clone().zip(network::name()).filter(|_| counts);
    let Some((path, network)) = known else { return (learned, None) };
    let remembered = lines::read(&path).line(&network);
    if let Some(Learned { bytes_per_s, full }) = remembered {
        let full = if full { ", and was full" } else { "" };
        tracing::debug!("this network's line has sent {} kbit/s before{full}", bytes_per_s / 125);
    }
    let remembering = lines::remember(path, network, news, tasks.token().clone());
    tasks.spawn_to_end("the memory of what lines can send", endless(remembering));
    (learned, remembered)
}
