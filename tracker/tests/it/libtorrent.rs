//! Clients that are made of libtorrent find each other through the tracker: over HTTP and UDP, IPv4 and IPv6.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::world::{World, fetched, free_port, installed, own_address, received};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How often qBittorrent is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);

struct Libtorrent {
    lines: Lines<BufReader<ChildStdout>>,
    folder: PathBuf,
    _child: Child,
}

impl Libtorrent {
    fn start(world: &World, library: &Path, name: &str, udp: bool, seeds: bool) -> Self {
        let (folder, torrent) = world.client(name, world.announce_url(udp), seeds);
        let mut child = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/libtorrent_client.py"))
            .arg(&torrent)
            .arg(&folder)
            .arg(SocketAddr::new(world.ip, free_port(world.ip)).to_string())
            .env("PYTHONPATH", library)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 is installed");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { lines, folder, _child: child }
    }

    async fn seeding(&mut self) {
        assert_eq!(self.lines.next_line().await.unwrap().as_deref(), Some("seeding"));
    }
}

#[tokio::test]
async fn libtorrent_fetches_from_libtorrent_over_each_transport_and_family() {
    // The wheel's folder has one of the same name in it.
    let Some(library) = fetched("libtorrent") else { return };
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        for udp in [false, true] {
            let world = World::new(ip).await;
            let mut seed = Libtorrent::start(&world, &library, "seed", udp, true);
            seed.seeding().await;
            let mut fetch = Libtorrent::start(&world, &library, "fetch", udp, false);
            fetch.seeding().await;
            assert_eq!(received(&fetch.folder), world.content, "{ip}, UDP: {udp}");
            world.tracker.shutdown().await;
        }
    }
}

#[tokio::test]
async fn qbittorrent_fetches_from_libtorrent() {
    let Some(library) = fetched("libtorrent") else { return };
    if !installed("qbittorrent-nox") {
        return;
    }
    let world = World::new(own_address()).await;
    let mut seed = Libtorrent::start(&world, &library, "seed", true, true);
    seed.seeding().await;
    let (folder, torrent) = world.client("qbittorrent", world.announce_url(false), false);
    let settings = folder.join("qBittorrent/config");
    std::fs::create_dir_all(&settings).unwrap();
    let (web, port) = (free_port(Ipv4Addr::LOCALHOST.into()), free_port(world.ip));
    std::fs::write(
        settings.join("qBittorrent.conf"),
        format!(
            "[LegalNotice]\nAccepted=true\n[Preferences]\nWebUI\\Address=127.0.0.1\nWebUI\\LocalHostAuth=false\n\
             [BitTorrent]\nSession\\DHTEnabled=false\nSession\\LSDEnabled=false\nSession\\Port={port}\n"
        ),
    )
    .unwrap();
    let mut fetch = Command::new("qbittorrent-nox")
        .arg(format!("--profile={}", folder.display()))
        .arg(format!("--webui-port={web}"))
        .arg(format!("--save-path={}", folder.display()))
        .arg(&torrent)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = reqwest::Client::new();
    loop {
        assert_eq!(fetch.try_wait().unwrap(), None, "qbittorrent-nox ended");
        let torrents = http.get(format!("http://127.0.0.1:{web}/api/v2/torrents/info")).send().await;
        if let Ok(answer) = torrents {
            let torrents: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            if torrents[0]["progress"] == 1 {
                break;
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    assert_eq!(received(&folder), world.content);
    fetch.kill().await.unwrap();
    world.tracker.shutdown().await;
}
