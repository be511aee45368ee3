//! Nodes that are remembered from one run to the next, so that a viewer finds its way back while no tracker answers.
//!
//! A file in JSON, one for each channel: those that this node was linked with, the last seen first. It is a hint, no more:
//! a link proves who is at its other end. Bounds: [`MAX_KNOWN`] nodes, none older than [`MAX_AGE`], [`MAX_LEN`] bytes; and
//! files of channels that were not watched for as long are removed.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use minuet_proto::{
    channel_api::mesh::MeshNode,
    mesh::{HelloFlags, PeerInfo},
};
use minuet_session::Reach;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::contact::{Teller, nameable};

/// Most nodes in a file.
const MAX_KNOWN: usize = 64;
/// A node that was not seen for so long has most likely another key and address by now.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// A longer file is not ours.
const MAX_LEN: u64 = 128 * 1024;
/// When the file is written first, and how often after that.
const WRITE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// The file's content.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// The last seen first.
    nodes: Vec<Seen>,
}

/// A node, and when it was a neighbour.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// In Unix seconds.
    at_s: u64,
    /// Where its packets came from then. Its addresses were told from there, and are judged by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    #[serde(flatten)]
    node: MeshNode,
}

impl Known {
    /// What a file says, as far as it is of use.
    fn parse(json: &[u8], now_s: u64) -> Self {
        let mut known: Self = serde_json::from_slice(json).unwrap_or_default();
        known.forget(now_s);
        known
    }

    fn forget(&mut self, now_s: u64) {
        // What comes from the future was written under a wrong clock.
        self.nodes.retain(|seen| now_s.checked_sub(seen.at_s).is_some_and(|age| age <= MAX_AGE.as_secs()));
        self.nodes.truncate(MAX_KNOWN);
    }

    /// These are neighbours now.
    fn note(&mut self, neighbours: &[(PeerInfo, Option<IpAddr>)], now_s: u64) {
        self.nodes.retain(|seen| neighbours.iter().all(|(neighbour, _)| neighbour.node != seen.node.node));
        let seen =
            neighbours.iter().map(|(info, from)| Seen { at_s: now_s, from: *from, node: describe(info) });
        self.nodes.splice(..0, seen);
        self.forget(now_s);
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let judged = self.nodes.iter().map(|seen| {
            let mut node = seen.node.clone();
            node.addrs = nameable(&seen.node.addrs, seen.from.map_or(Teller::Unknown, Teller::At)).collect();
            peer_info(node)
        });
        judged.collect()
    }
}

/// What the channel API says of a node, as the mesh knows it.
pub(super) fn peer_info(node: MeshNode) -> PeerInfo {
    PeerInfo {
        node: node.node,
        flags: HelloFlags {
            dialable: node.dialable,
            no_upload: node.no_upload,
            relay: node.is_relay,
            source: node.is_source,
            // It says so itself.
            elsewhere: false,
        },
        upload_kbps: node.upload_kbps,
        address: Reach { addrs: node.addrs, relay: node.relay }.encode(),
    }
}

fn describe(info: &PeerInfo) -> MeshNode {
    let reach = Reach::decode(&info.address);
    MeshNode {
        node: info.node,
        addrs: reach.addrs,
        relay: reach.relay,
        dialable: info.flags.dialable,
        no_upload: info.flags.no_upload,
        is_relay: info.flags.relay,
        is_source: info.flags.source,
        source_proof: None,
        upload_kbps: info.upload_kbps,
        keeps_from: None,
    }
}

/// The nodes of an earlier run.
pub(super) fn read(path: &Path) -> Vec<PeerInfo> {
    load(path).peers()
}

fn load(path: &Path) -> Known {
    Known::parse(&minuet_files::read(path, MAX_LEN).unwrap_or_default(), now_s())
}

/// Keeps the file up to date until cancelled.
pub(super) async fn remember(
    path: PathBuf,
    neighbours: watch::Receiver<Vec<(PeerInfo, Option<IpAddr>)>>,
    cancel: CancellationToken,
) {
    let mut wait = WRITE.0;
    let folder = path.clone();
    let looked = tokio::task::spawn_blocking(move || {
        sweep(&folder);
        load(&folder)
    });
    let mut known = looked.await.unwrap_or_default();
    loop {
        let ends = tokio::time::timeout(wait, cancel.cancelled()).await.is_ok();
        wait = WRITE.1;
        let now = neighbours.borrow().clone();
        if !now.is_empty() {
            known.note(&now, now_s());
            let (to, json) = (path.clone(), serde_json::to_vec(&known).unwrap_or_default());
            let written = tokio::task::spawn_blocking(move || write(&to, &json)).await;
            if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                tracing::debug!("neighbours are not remembered in {}: {error}", path.display());
            }
        }
        if ends {
            return;
        }
    }
}

/// Removes files beside this one that are as old as what nobody should use any more.
fn sweep(path: &Path) {
    let entries = path.parent().map(std::fs::read_dir).and_then(Result::ok);
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = |end| name.to_str().is_some_and(|name| name.starts_with("nodes-") && name.ends_with(end));
        let ours = ours(".json") || ours(".part");
        let old = |found: std::fs::Metadata| found.modified().ok()?.elapsed().ok();
        if ours && entry.metadata().ok().and_then(old).is_some_and(|age| age > MAX_AGE) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Writes the file anew, whole or not at all. It says with whom this user watches what, so nobody else may read it.
fn write(path: &Path, json: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // Several nodes may share the file; each writes one of its own under a name that nobody can foresee, mode 0600.
    let mut part = tempfile::Builder::new().prefix("nodes-").suffix(".part").tempfile_in(folder)?;
    part.write_all(json)?;
    part.persist(path)?;
    Ok(())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use minuet_proto::mesh::NodeId;
    use proptest::prelude::*;

    use super::*;

    fn seen(n: u8) -> (PeerInfo, Option<IpAddr>) {
        (info(n), Some([192, 0, 2, n].into()))
    }

    fn info(n: u8) -> PeerInfo {
        let addrs = vec![([192, 0, 2, n], 7).into()];
        let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
        let address = Reach { addrs, relay: Some("http://tracker.example/".into()) }.encode();
        PeerInfo { node: NodeId([n; 32]), flags, upload_kbps: 9, address }
    }

    #[test]
    fn neighbours_survive_a_restart_but_not_for_ever_and_not_without_number() {
        let mut known = Known::default();
        for n in 0..100 {
            known.note(&[seen(n)], 1000 + u64::from(n));
        }
        assert_eq!(known.nodes.len(), MAX_KNOWN);
        let json = serde_json::to_vec(&known).unwrap();
        assert!(json.len() < MAX_LEN as usize);
        let peers = Known::parse(&json, 1100).peers();
        assert_eq!(peers[0], info(99));
        assert_eq!(peers.len(), MAX_KNOWN);
        known.note(&[seen(50)], 1100);
        assert_eq!((known.peers()[0].clone(), known.nodes.len()), (info(50), MAX_KNOWN));
        assert_eq!(Known::parse(&json, 1098 + MAX_AGE.as_secs()).peers(), [info(99), info(98)]);
        assert!(Known::parse(&json, 10).nodes.is_empty());
    }

    #[test]
    fn files_of_channels_that_nobody_watches_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name);
        for file in ["nodes-old.json", "nodes-new.json", "mine.json"] {
            std::fs::write(name(file), "{}").unwrap();
        }
        for file in ["nodes-old.json", "mine.json"] {
            let file = std::fs::File::options().write(true).open(name(file)).unwrap();
            file.set_modified(SystemTime::now() - 2 * MAX_AGE).unwrap();
        }
        sweep(&name("nodes-this.json"));
        assert!(!name("nodes-old.json").exists());
        assert!(name("nodes-new.json").exists() && name("mine.json").exists());
    }

    #[test]
    fn addresses_in_the_file_are_judged_by_where_they_were_told() {
        let addrs = ["127.0.0.1:7", "192.168.1.7:7", "198.51.100.7:7"].map(|addr| addr.parse().unwrap());
        let info = |n| PeerInfo {
            node: NodeId([n; 32]),
            address: Reach { addrs: addrs.to_vec(), relay: None }.encode(),
            ..info(n)
        };
        let mut known = Known::default();
        let from = [None, Some([198, 51, 100, 7].into()), Some([192, 168, 1, 7].into())];
        known.note(&[(info(0), from[0]), (info(1), from[1]), (info(2), from[2])], 1000);
        let json = serde_json::to_vec(&known).unwrap();
        let left: Vec<usize> = Known::parse(&json, 1000)
            .peers()
            .iter()
            .map(|info| Reach::decode(&info.address).addrs.len())
            .collect();
        assert_eq!(left, [1, 1, 2]);
    }

    #[test]
    fn the_file_is_for_its_owner_alone_and_is_no_link_and_no_pipe() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes-x.json");
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "{\"nodes\":[]}").unwrap();
        symlink(&victim, &path).unwrap();
        assert!(minuet_files::read(&path, MAX_LEN).is_err());
        write(&path, b"mine").unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"{\"nodes\":[]}");
        assert_eq!(minuet_files::read(&path, MAX_LEN).unwrap(), b"mine");
        let mode = std::fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        assert!(minuet_files::read(&path, MAX_LEN).unwrap_err().to_string().contains("no regular file"));
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_harm(json in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Known::parse(&json, 1000).peers();
        }
    }
}
