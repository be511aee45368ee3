//! webtorrent's tracker client announces, scrapes and hears of its like.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use crate::support::world::{World, fetched, installed};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

struct Client {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Client {
    fn start(folder: &Path, url: &str, world: &World, port: u16, left: u32) -> Self {
        let mut child = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/webtorrent.mjs"))
            .arg(folder)
            .arg(url)
            .arg(world.info_hash.to_string())
            .args([port.to_string(), left.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { lines, child }
    }

    /// The next thing of a kind that it is told.
    async fn told(&mut self, what: &str) -> Value {
        loop {
            let line = self.lines.next_line().await.unwrap().expect("the client ended");
            let told: Value = serde_json::from_str(&line).unwrap();
            assert_ne!(told["what"], "error", "{line}");
            if told["what"] == what {
                return told["value"].clone();
            }
        }
    }

    async fn leave(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().await.unwrap().success());
    }
}

#[tokio::test]
async fn webtorrents_tracker_client_announces_scrapes_and_leaves() {
    let Some(folder) = fetched("webtorrent").filter(|_| installed("node")) else { return };
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    // Its UDP knows IPv4 only.
    for (ip, udp) in [(v4, false), (v4, true), (v6, false)] {
        let world = World::new(ip).await;
        let url = world.announce_url(udp);
        let mut seed = Client::start(&folder, &url, &world, 7001, 0);
        assert_eq!(seed.told("update").await["complete"], 1, "{url}");
        let mut fetch = Client::start(&folder, &url, &world, 7002, 5);
        assert_eq!(fetch.told("peer").await, SocketAddr::new(ip, 7001).to_string(), "{url}");
        assert_eq!(fetch.told("scrape").await, json!({ "complete": 1, "incomplete": 1 }), "{url}");
        fetch.leave().await;
        let at = crate::support::base(&world.tracker);
        let scraped = crate::support::scrape(&at, &world.info_hash).await;
        assert!(scraped.contains("8:completei1e10:downloadedi0e11:downloadersi0e"), "{url}: {scraped}");
        seed.leave().await;
        assert!(crate::support::scrape(&at, &world.info_hash).await.contains("8:completei0e"), "{url}");
        world.tracker.shutdown().await;
    }
}
