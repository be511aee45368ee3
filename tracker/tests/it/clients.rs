//! Other people's clients find each other through the tracker: aria2 over HTTP, transmission over UDP.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use std::process::Stdio;

use crate::support::world::{World, free_port, own_address, received};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// aria2 over HTTP.
fn aria2(world: &World, seeds: bool) -> (Child, PathBuf) {
    let (folder, torrent) = world.client("aria2", world.announce_url(false), seeds);
    let child = Command::new("aria2c")
        .arg(format!("--dir={}", folder.display()))
        .arg(format!("--listen-port={}", free_port(world.ip)))
        .args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"])
        .args(["--enable-peer-exchange=false", "--check-integrity=true", "--allow-overwrite=true"])
        .args(if seeds { ["--seed-ratio=0.0", "--quiet=true"] } else { ["--seed-time=0", "--quiet=true"] })
        .arg(&torrent)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("aria2c is installed");
    (child, folder)
}

/// transmission over UDP.
fn transmission(world: &World, seeds: bool) -> (Child, PathBuf) {
    let (folder, torrent) = world.client("transmission", world.announce_url(true), seeds);
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
        .args(["--no-portmap", "--port", &free_port(world.ip).to_string()])
        .arg(&torrent)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("transmission-cli is installed");
    (child, folder)
}

#[tokio::test]
async fn aria2_fetches_from_transmission() {
    let world = World::new(own_address()).await;
    let (mut seed, _) = transmission(&world, true);
    let mut progress = seed.stdout.take().unwrap();
    let drained = tokio::spawn(async move { progress.read_to_end(&mut Vec::new()).await });
    let (mut fetch, folder) = aria2(&world, false);
    assert!(fetch.wait().await.unwrap().success());
    assert_eq!(received(&folder), world.content);
    seed.kill().await.unwrap();
    drained.await.unwrap().unwrap();
    world.tracker.shutdown().await;
}

#[tokio::test]
async fn transmission_fetches_from_aria2() {
    let world = World::new(own_address()).await;
    let (mut seed, _) = aria2(&world, true);
    let (mut fetch, folder) = transmission(&world, false);
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
