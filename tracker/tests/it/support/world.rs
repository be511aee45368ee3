//! A tracker with one segment, for other people's clients to find each other through.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use minuet_proto::metainfo::Info;
use minuet_proto::{InfoHash, Metainfo, PieceHash, PieceLength};
use minuet_tracker::{Config, Tracker};

use super::{Publisher, base};

/// An address of this machine that is not loopback: transmission passes over peers on 127.0.0.1. Nothing is sent.
pub fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// A port that is free now.
pub fn free_port(ip: IpAddr) -> u16 {
    std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

/// A tracker with one segment.
pub struct World {
    pub tracker: Tracker,
    pub ip: IpAddr,
    pub content: Vec<u8>,
    pub info_hash: InfoHash,
    info: Info,
    folder: tempfile::TempDir,
}

impl World {
    /// A tracker at this address that has been told of one segment.
    pub async fn new(ip: IpAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = vec![SocketAddr::new(ip, 0)];
        let mut config = Config { udp_listen: listen.clone(), listen, ..Config::default() };
        config.data = folder.path().join("data");
        config.swarms.interval = Duration::from_secs(10);
        let tracker = Tracker::start(config).await.unwrap();

        let mut publisher = Publisher::new(1);
        let content: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let info = Info {
            name: "minute.ts".into(),
            length: content.len() as u64,
            piece_length: PieceLength::MIN,
            pieces: content.chunks(PieceLength::MIN.get() as usize).map(PieceHash::of).collect(),
        };
        let torrent = Metainfo::new(info.clone(), vec![], vec![]).unwrap();
        let info_hash = torrent.info_hash();
        let sealed = publisher.seal_torrent(torrent);
        assert_eq!(publisher.publish(&base(&tracker), &sealed).await.0, 200);
        Self { tracker, ip, content, info_hash, info, folder }
    }

    /// A client's folder, with the content if it is to seed, and a .torrent that names one announce URL.
    pub fn client(&self, name: &str, announce: String, seeds: bool) -> (PathBuf, PathBuf) {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let torrent = folder.join("minute.torrent");
        let metainfo = Metainfo::new(self.info.clone(), vec![announce], vec![]).unwrap();
        std::fs::write(&torrent, metainfo.encode()).unwrap();
        if seeds {
            std::fs::write(folder.join("minute.ts"), &self.content).unwrap();
        }
        (folder, torrent)
    }

    /// The announce URL for HTTP, or for UDP.
    pub fn announce_url(&self, udp: bool) -> String {
        if udp {
            format!("udp://{}/announce", self.tracker.udp_addrs()[0])
        } else {
            format!("{}announce", base(&self.tracker))
        }
    }
}

/// What a client has fetched into its folder.
pub fn received(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("minute.ts")).unwrap()
}

/// Clients that `scripts/clients` has fetched; `None`, and says so, without them.
pub fn fetched(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("MINUET_CLIENTS").map(|folder| Path::new(&folder).join(name));
    let found = found.filter(|folder| folder.exists());
    if found.is_none() {
        eprintln!("skipped: {name} is missing; set MINUET_CLIENTS to what scripts/clients prints");
    }
    found
}

/// Whether a program is there; says so when it is not.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    if !found {
        eprintln!("skipped: {program} is not installed; run scripts/setup test");
    }
    found
}
