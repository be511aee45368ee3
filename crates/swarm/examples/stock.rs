//! librqbit as it is, without anything that this crate adds, for `scripts/bench live`: seeds each segment once it is
//! whole, or fetches each once it is told of.
//!
//! `stock seed SEGMENTS TORRENTS` seeds what a segmenter seals in SEGMENTS and then puts its torrent into TORRENTS; it
//! prints each second, for each segment, how much of it was sent. `stock fetch TORRENTS FOLDER PEER…` fetches what comes to
//! TORRENTS, from PEERs (addresses and ports); it prints when each was whole, in Unix milliseconds. Both listen at port
//! 6881.
#![allow(clippy::print_stdout, reason = "its figures are what it is run for")]

use std::{
    collections::BTreeMap,
    error::Error,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use librqbit::{AddTorrent, AddTorrentOptions, ListenerOptions, ManagedTorrent, Session, SessionOptions};

/// Where each node waits for the others.
const PORT: u16 = 6881;
/// How often to look for what is new.
const LOOK: Duration = Duration::from_millis(100);
/// How often to print what was sent.
const TELL: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["seed", segments, torrents] => seed(Path::new(segments), Path::new(torrents)).await,
        ["fetch", torrents, folder, ref peers @ ..] => {
            let peers = peers.iter().map(|peer| peer.parse()).collect::<Result<_, _>>()?;
            fetch(Path::new(torrents), Path::new(folder), peers).await
        }
        _ => Err("usage: stock seed SEGMENTS TORRENTS | stock fetch TORRENTS FOLDER PEER…".into()),
    }
}

async fn seed(segments: &Path, torrents: &Path) -> Result<(), Box<dyn Error>> {
    let session = session(segments).await?;
    let (mut seeded, mut told) = (BTreeMap::new(), Instant::now());
    loop {
        // A record comes last of a sealed segment's files.
        for (name, record) in new(segments, "record", &seeded)? {
            let torrent = record.with_extension("torrent");
            let handle = add(&session, &torrent, segments, Vec::new()).await?;
            while !handle.stats().finished {
                tokio::time::sleep(LOOK / 10).await;
            }
            let part = torrents.join(format!("{name}.part"));
            std::fs::copy(&torrent, &part)?;
            std::fs::rename(&part, torrents.join(format!("{name}.torrent")))?;
            seeded.insert(name, handle);
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            for (name, handle) in &seeded {
                println!("{name} {}", handle.stats().uploaded_bytes);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn fetch(torrents: &Path, folder: &Path, peers: Vec<SocketAddr>) -> Result<(), Box<dyn Error>> {
    let session = session(folder).await?;
    // Each with whether it was whole.
    let mut fetched = BTreeMap::new();
    loop {
        for (name, torrent) in new(torrents, "torrent", &fetched)? {
            let handle = add(&session, &torrent, folder, peers.clone()).await?;
            fetched.insert(name, (handle, false));
        }
        for (name, (handle, whole)) in &mut fetched {
            if !*whole && handle.stats().finished {
                *whole = true;
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
                println!("{name} {}", since.as_millis());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Only the ways to find peers are off: nothing leads out of the network, and who has the torrent knows all peers.
async fn session(folder: &Path) -> Result<Arc<Session>, Box<dyn Error>> {
    let options = SessionOptions {
        dht: None,
        disable_trackers: true,
        disable_local_service_discovery: true,
        ipv4_only: true,
        listen: Some(ListenerOptions {
            listen_addr: (Ipv4Addr::UNSPECIFIED, PORT).into(),
            ipv4_only: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    Ok(Session::new_with_opts(folder.to_owned(), options).await?)
}

async fn add(
    session: &Arc<Session>,
    torrent: &Path,
    folder: &Path,
    peers: Vec<SocketAddr>,
) -> Result<Arc<ManagedTorrent>, Box<dyn Error>> {
    let options = AddTorrentOptions {
        overwrite: true,
        output_folder: Some(folder.to_str().ok_or("the folder is not UTF-8")?.to_owned()),
        initial_peers: Some(peers),
        ..Default::default()
    };
    let added = session.add_torrent(AddTorrent::from_bytes(std::fs::read(torrent)?), Some(options)).await?;
    Ok(added.into_handle().ok_or("the engine gives no handle")?)
}

/// Files in `folder` that end in `end` and are not `known` by the name before it.
fn new<T>(
    folder: &Path,
    end: &str,
    known: &BTreeMap<String, T>,
) -> Result<BTreeMap<String, PathBuf>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|found| found == end) && !known.contains_key(&name) {
            files.insert(name, path);
        }
    }
    Ok(files)
}
