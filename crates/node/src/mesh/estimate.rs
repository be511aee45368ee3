//! The estimate of this node's line ([`minuet_line`]) as a node runs it: with what other parts of the program send, and
//! with what an earlier run on the same network has learned.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use minuet_guard::tasks::Spawner;
use minuet_line::{Downlink, Estimate, Learned, LinkSample, Look, Settings};
use minuet_mesh::{Role, Timestamp};
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

/// Finds the limit where nobody has given one, and whether the line carries the stream.
#[derive(Debug)]
pub(super) struct UplinkEstimate {
    line: Estimate,
    downlink: Downlink,
    is_source: bool,
    /// Nobody has given a limit, and media is passed on.
    counts: bool,
    /// What the line brings, if that is too little for the stream.
    narrow: Option<u64>,
    uplink: Uplink,
    learned: watch::Sender<Option<Learned>>,
}

impl UplinkEstimate {
    /// Begins with what is remembered of this network, and remembers what is learned.
    pub fn start(options: &MeshOptions, uplink: Uplink, tasks: &Spawner) -> Self {
        let (learned, news) = watch::channel(None);
        let mut remembered = None;
        let counts = options.upload && options.upload_limit.is_none();
        if counts && let Some((path, network)) = options.lines.clone().zip(network::name()) {
            remembered = lines::read(&path).line(&network);
            if let Some(Learned { bytes_per_s, full }) = remembered {
                let full = if full { ", and was full" } else { "" };
                tracing::debug!("this network's line has sent {} kbit/s before{full}", bytes_per_s / 125);
            }
            let remembering = lines::remember(path, network, news, tasks.token().clone());
            tasks.spawn_to_end("the memory of what lines can send", endless(remembering));
        }
        let is_source = options.role == Role::Source;
        let settings = Settings { is_source, remembered };
        let line = Estimate::new(settings, Duration::ZERO);
        Self { line, downlink: Downlink::default(), is_source, counts, narrow: None, uplink, learned }
    }

    /// The most that may be sent, in bytes a second on the wire; none if that is not for the estimate to say.
    pub fn limit(&self) -> Option<u64> {
        self.counts.then(|| self.line.limit())
    }

    /// What neighbours may be told that this node sends: no more than the line has delivered. None where a limit was given,
    /// and before anything was delivered.
    pub fn promise(&self) -> Option<u64> {
        Some(self.line.promise()).filter(|promise| self.counts && *promise > 0)
    }

    /// The part of it that is for the mesh.
    pub fn for_mesh(&self) -> Option<u64> {
        self.counts.then(|| self.line.for_links())
    }

    /// What the line brings, in bytes a second, if that is too little for the stream.
    pub fn narrow(&self) -> Option<u64> {
        self.narrow
    }

    /// Takes a look at all links that are up, given what they have received since the start, and the stream's rate
    /// in bytes a second; 0 where that is not known.
    pub fn look(&mut self, links: &[LinkSample], received: u64, stream: u64, now: Timestamp) {
        let now = now.since(Timestamp::ZERO);
        let look = Look { links, others_bytes: self.uplink.others_bytes(), stream };
        self.line.look(look, now);
        // A source gets no media.
        let stream = if self.is_source { 0 } else { stream };
        self.narrow = self.downlink.look(received, stream, self.line.wait(), now);
        self.learned.send_if_modified(|learned| {
            let news = self.line.learned();
            std::mem::replace(learned, news) != news
        });
    }
}
