//! A node of the live mesh as `watch` and `relay` run it, with what it seeds of the stream.

use std::{
    convert::Infallible,
    env,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use minuet_guard::tasks::{Fault, Tasks};
use minuet_node::{
    TrackerClient,
    mesh::{Bound, Keeping, Mesh, MeshOptions, MeshRole, MeshStart, Uplink},
};
use minuet_proto::{ChannelId, SignedRecord, mesh::Serial};
use minuet_swarm::{MIN_UPLOAD_BYTES_PER_S, Swarm, Upload};
use tokio::sync::mpsc;

use super::{figures::Traffic, seeder::Seeder};
use crate::options::Common;

/// Pieces that a viewer keeps and passes on: some 30 to 60 s.
const VIEWER_WINDOW: usize = 1024;
/// The same of a viewer that seeds finished minutes, which it puts together from them.
const SEEDING_WINDOW: usize = 4096;
/// The same of a relay: some 4 to 8 minutes.
const RELAY_WINDOW: usize = 8192;
/// Finished minutes that a relay seeds unless told otherwise.
const RELAY_SEEDS: u16 = 10;
/// How much a viewer keeps of what was on air, and a relay, unless told otherwise: time, and bytes.
const VIEWER_KEEPS: (Duration, u64) = (Duration::from_secs(600), 1_000_000_000);
const RELAY_KEEPS: (Duration, u64) = (Duration::from_secs(3600), 20_000_000_000);
/// What is kept at least by who plays what is past.
const LEAST_KEPT: Duration = Duration::from_secs(300);
/// The folder of it.
const KEPT: &str = "kept";
/// The name of the file in which it is remembered what lines can send.
const LINES: &str = "lines.json";
/// Part of an upload limit that finished minutes may take; the live mesh has the rest, so that both keep within it.
const SEEDS_SHARE: u64 = 8;
/// How often it is looked at what that is, where no limit is given.
const SHARE_LOOK: Duration = Duration::from_secs(1);

/// What a node is.
#[derive(Debug, Clone, Copy)]
pub struct Kind<'a> {
    /// What a viewer aims at; a relay has none.
    pub delay: Option<Duration>,
    /// Where a viewer starts.
    pub start: MeshStart,
    /// The recording that a relay serves.
    pub recording: Option<&'a Path>,
    /// Whether it passes anything on.
    pub upload: bool,
}

/// A running node.
pub struct LiveNode {
    /// Its place in the mesh.
    pub mesh: Arc<Mesh>,
    seeding: Option<Seeding>,
}

struct Seeding {
    swarm: Arc<Swarm>,
    records: mpsc::Sender<SignedRecord>,
    tasks: Tasks,
}

impl LiveNode {
    /// Joins the channel's mesh.
    pub async fn start(
        channel: ChannelId,
        common: &Common,
        kind: Kind<'_>,
        trackers: &[TrackerClient],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let Kind { delay, start, recording, upload } = kind;
        let seeds = common.seed_minutes.unwrap_or(if delay.is_some() { 0 } else { RELAY_SEEDS });
        let limit = common.upload_limit.map(|rate| rate.bytes_per_s());
        let for_seeds = limit.filter(|_| seeds > 0).map_or(0, |limit| limit / SEEDS_SHARE);
        let window = match delay {
            None => RELAY_WINDOW,
            Some(_) if seeds > 0 => SEEDING_WINDOW,
            Some(_) => VIEWER_WINDOW,
        };
        let options = MeshOptions {
            channel,
            key: None,
            role: if delay.is_some() { MeshRole::Viewer } else { MeshRole::Relay },
            start,
            target_delay: delay.unwrap_or_default(),
            listen: common.listen(),
            upload_limit: limit.map(|limit| limit - for_seeds),
            upload,
            folder: folder.to_owned(),
            window,
            first_serial: Serial::new(0),
            known: known_nodes(common, channel),
            uplink: Uplink::default(),
            lines: remembered(common).map(|folder| folder.join(LINES)),
            trackers: trackers.to_vec(),
            dht: common.dht(remembered(common).as_deref()),
            local: common.local,
            keep: match recording {
                Some(folder) => Keeping::Of(folder.to_owned()),
                None => keeping(common, delay.is_some(), start, folder),
            },
        };
        let mesh = Mesh::start(options).await?;
        let mesh = Arc::new(mesh);
        let mut listen = common.listen();
        if let Some(bound) = mesh.listen_addrs().iter().find(|addr| addr.is_ipv4() == listen.is_ipv4()) {
            listen.set_port(bound.port());
        }
        let seeding = if seeds > 0 {
            let upload = match limit {
                None => Upload::Unlimited,
                Some(_) => {
                    Upload::AtMost(u32::try_from(for_seeds).unwrap_or(u32::MAX).max(MIN_UPLOAD_BYTES_PER_S))
                }
            };
            let seeder = Seeder::start(folder, listen, upload, trackers, usize::from(seeds)).await?;
            let (records, queue) = Seeder::queue();
            let swarm = Arc::clone(seeder.swarm());
            let tasks = Tasks::new();
            let seeding = seeder.run(queue, Arc::clone(mesh.window()));
            if limit.is_none() {
                let sharing = share_line(mesh.uplink(), Arc::downgrade(&swarm));
                tasks.spawner().spawn("sharing the line with finished minutes", async {
                    sharing.await;
                    Ok::<_, Infallible>(())
                });
            }
            tasks.spawner().spawn("seeding finished minutes", async {
                seeding.await;
                Ok::<_, Infallible>(())
            });
            Some(Seeding { swarm, records, tasks })
        } else {
            None
        };
        Ok(Self { mesh, seeding })
    }

    /// A minute is sealed.
    pub async fn record(&self, record: SignedRecord) {
        if let Some(seeding) = &self.seeding {
            // A minute that finds no place here is not seeded.
            let _ = seeding.records.try_send(record.clone());
        }
        self.mesh.record(&record).await;
    }

    /// The next fault of a part of it. Cancel-safe.
    pub async fn fault(&self) -> Fault {
        let seeding = async {
            match &self.seeding {
                Some(seeding) => seeding.tasks.fault().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            fault = self.mesh.fault() => fault,
            fault = seeding => fault,
        }
    }

    /// What it sends and receives.
    pub fn traffic(&self) -> Box<dyn Fn() -> Traffic + Send + Sync> {
        let stats = self.mesh.watch_stats();
        // Who reports must not keep it from ending.
        let swarm = self.seeding.as_ref().map(|seeding| Arc::downgrade(&seeding.swarm));
        Box::new(move || {
            let live: Traffic = (*stats.borrow()).into();
            let swarm = swarm.as_ref().and_then(std::sync::Weak::upgrade);
            let sent = swarm.map_or(0, |swarm| swarm.stats().transfer.sent);
            Traffic { sent: live.sent + sent, ..live }
        })
    }

    /// Takes leave.
    pub async fn stop(self) {
        if let Some(Seeding { swarm, records, tasks }) = self.seeding {
            tasks.stop().await;
            drop(records);
            if let Some(swarm) = Arc::into_inner(swarm) {
                swarm.stop().await;
            }
        }
        if let Some(mesh) = Arc::into_inner(self.mesh) {
            mesh.stop().await;
        }
    }
}

/// Gives finished minutes their part of what the mesh finds out that the line can send, and tells the mesh what they took.
/// Waits for ever once the swarm has ended.
async fn share_line(uplink: Uplink, swarm: Weak<Swarm>) {
    let mut interval = tokio::time::interval(SHARE_LOOK);
    let (mut sent, mut given) = (0, u32::MAX);
    while let Some(swarm) = swarm.upgrade() {
        let total = swarm.stats().transfer.sent;
        uplink.note_others(total.saturating_sub(sent));
        sent = total;
        let part = uplink.limit().map_or(u64::from(u32::MAX), |limit| limit / SEEDS_SHARE);
        let part = u32::try_from(part).unwrap_or(u32::MAX).max(MIN_UPLOAD_BYTES_PER_S);
        // Each change gives the engine a second's worth at once.
        if part.abs_diff(given) > given / 8 {
            swarm.set_upload(part);
            given = part;
        }
        drop(swarm);
        interval.tick().await;
    }
    std::future::pending().await
}

/// What is kept of finished minutes. It outlives this run where `--data` names a folder.
fn keeping(common: &Common, is_viewer: bool, start: MeshStart, folder: &Path) -> Keeping {
    let (time, bytes) = if is_viewer { VIEWER_KEEPS } else { RELAY_KEEPS };
    let time = common.keep.unwrap_or(time);
    // Who goes back needs room for what it plays, whatever it keeps for others.
    let goes_back = start != MeshStart::Live || common.serve.serve.is_some();
    let time = if goes_back { time.max(LEAST_KEPT) } else { time };
    if time.is_zero() {
        return Keeping::Nothing;
    }
    let bound =
        Bound { time, bytes: common.keep_bytes.unwrap_or(bytes), modest: common.keep_bytes.is_none() };
    Keeping::Own(common.data.as_deref().unwrap_or(folder).join(KEPT), bound)
}

/// Removes what was kept and remembered of a channel in this folder, which is its own, and the folder if nothing else is there.
pub fn forget(folder: &Path, channel: ChannelId) {
    // What is not there need not go.
    let _ = std::fs::remove_dir_all(folder.join(KEPT));
    let _ = std::fs::remove_file(folder.join(nodes_file(channel)));
    let _ = std::fs::remove_dir(folder);
}

fn nodes_file(channel: ChannelId) -> String {
    format!("nodes-{channel}.json")
}

/// The file of the channel's nodes that are remembered.
pub fn known_nodes(common: &Common, channel: ChannelId) -> Option<PathBuf> {
    remembered(common).map(|folder| folder.join(nodes_file(channel)))
}

/// The folder of what is remembered for the next run: `--data`, else where caches belong (XDG Base Directory Specification).
fn remembered(common: &Common) -> Option<PathBuf> {
    common.data.clone().or_else(cache)
}

/// Where caches belong.
fn cache() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("minuet"))
}

/// The file of what lines can send.
pub fn lines_file() -> Option<PathBuf> {
    cache().map(|folder| folder.join(LINES))
}
