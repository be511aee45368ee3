//! Other people's clients find each other through the tracker: aria2 over HTTP, transmission over UDP.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use minuet_proto::metainfo::Info;
use minuet_proto::{Metainfo, PieceHash, PieceLength};
use minuet_tracker::{Config, Tracker};
use support::{Publisher, base};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// An address of this machine that is not loopback: transmission passes over peers on 127.0.0.1. Nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// A port that is free now.
fn free_port(ip: IpAddr) -> u16 {
    std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

struct World {
    tracker: Tracker,
    ip: IpAddr,
    content: Vec<u8>,
    info: Info,
    folder: tempfile::TempDir,
}

impl World {
    /// A tracker that has been told of one segment.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ip = own_address();
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
        let sealed = publisher.seal_torrent(torrent);
        assert_eq!(publisher.publish(&base(&tracker), &sealed).await.0, 200);
        Self { tracker, ip, content, info, folder }
    }

    /// A client's folder, with the content if it is to seed, and a .torrent that names one announce URL.
    fn client(&self, name: &str, announce: String, seeds: bool) -> (std::path::PathBuf, std::path::PathBuf) {
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

    /// aria2 over HTTP.
    fn aria2(&self, seeds: bool) -> (Child, std::path::PathBuf) {
        let (folder, torrent) = self.client("aria2", format!("{}announce", base(&self.tracker)), seeds);
        let child = Command::new("aria2c")
            .arg(format!("--dir={}", folder.display()))
            .arg(format!("--listen-port={}", free_port(self.ip)))
            .args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"])
            .args(["--enable-peer-exchange=false", "--check-integrity=true", "--allow-overwrite=true"])
            .args(if seeds {
                ["--seed-ratio=0.0", "--quiet=true"]
            } else {
                ["--seed-time=0", "--quiet=true"]
            })
            .arg(&torrent)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("aria2c is installed");
        (child, folder)
    }

    /// transmission over UDP.
    fn transmission(&self, seeds: bool) -> (Child, std::path::PathBuf) {
        let announce = format!("udp://{}/announce", self.tracker.udp_addrs()[0]);
        let (folder, torrent) = self.client("transmission", announce, seeds);
        let settings = folder.join("config");
        std::fs::create_dir(&settings).unwrap();
        std::fs::write(
            settings.join("settings.json"),
            r#"{"dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
                "port-forwarding-enabled": false, "rename-partial-files": false}"#,
        )
        .unwrap();
        let child = Command::new("transmission-cli")
            .arg("--config-dir")
            .arg(&settings)
            .arg("--download-dir")
            .arg(&folder)
            .args(["--no-portmap", "--port", &free_port(self.ip).to_string()])
            .arg(&torrent)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("transmission-cli is installed");
        (child, folder)
    }
}

fn received(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("minute.ts")).unwrap()
}

#[tokio::test]
async fn aria2_fetches_from_transmission() {
    let world = World::new().await;
    let (mut seed, _) = world.transmission(true);
    let mut progress = seed.stdout.take().unwrap();
    let drained = tokio::spawn(async move { progress.read_to_end(&mut Vec::new()).await });
    let (mut fetch, folder) = world.aria2(false);
    assert!(fetch.wait().await.unwrap().success());
    assert_eq!(received(&folder), world.content);
    seed.kill().await.unwrap();
    drained.await.unwrap().unwrap();
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn transmission_fetches_from_aria2() {
    let world = World::new().await;
    let (mut seed, _) = world.aria2(true);
    let (mut fetch, folder) = world.transmission(false);
    // It reports on one line, by carriage returns.
    let mut progress = BufReader::new(fetch.stdout.take().unwrap());
    let mut line = Vec::new();
    while progress.read_until(b'\r', &mut line).await.unwrap() > 0 {
        if String::from_utf8_lossy(&line).contains("Seeding") {
            break;
        }
        line.clear();
    }
    assert!(!line.is_empty(), "transmission ended before it had the file");
    assert_eq!(received(&folder), world.content);
    fetch.kill().await.unwrap();
    seed.kill().await.unwrap();
    world.tracker.shutdown().await;
}
