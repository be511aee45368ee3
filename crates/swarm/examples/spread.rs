//! How long one minute takes to reach every viewer when every uplink is capped, and how often the source sends it.
//!
//! `cargo run --release -p minuet-swarm --example spread -- [VIEWERS [SECONDS [SOURCE_UPLINK [VIEWER_UPLINK]]]]`: a stream of 1 MB/s, all
//! viewers joining at once and told of each other, uplinks in bytes a second (default: 3 viewers, 60 s, 2 MB/s).
//! Prints one JSON line. The bound is that of Kumar and Ross, "Peer-assisted file distribution" (2006).
#![allow(clippy::print_stdout, reason = "its figures are what it is run for")]

use std::{net::SocketAddr, path::Path, time::Instant};

use minuet_proto::{Metainfo, PieceHash, PieceLength, channel_api::nth_place, metainfo::Info};
use minuet_swarm::{Error, Finished, Place, Role, Swarm, SwarmOptions, Teller, Upload, Wanted};

const STREAM_BYTES_PER_S: u32 = 1_000_000;

async fn node(dir: &Path, upload: u32, role: Role) -> Result<Swarm, Error> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Swarm::start(SwarmOptions {
        data_dir: dir.to_owned(),
        listen,
        upload: Upload::AtMost(upload),
        role,
        teller: Teller::User,
    })
    .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let mut next = |default: u32| arguments.next().unwrap_or(Ok(default));
    let (viewers, seconds, uplink) = (next(3)?, next(60)?, next(2_000_000)?);
    let viewer_uplink = next(uplink)?;

    let dir = tempfile::tempdir()?;
    let mut media = vec![0; (STREAM_BYTES_PER_S * seconds) as usize];
    rand::fill(&mut media[..]);
    std::fs::write(dir.path().join("minute.ts"), &media)?;
    let piece_length = PieceLength::for_rate(STREAM_BYTES_PER_S.into());
    let info = Info {
        name: "minute.ts".to_owned(),
        length: media.len() as u64,
        piece_length,
        pieces: media.chunks(piece_length.get() as usize).map(PieceHash::of).collect(),
    };
    let metainfo = Metainfo::new(info, Vec::new(), Vec::new())?;
    let torrent = metainfo.encode();

    let source = node(&dir.path().join("source"), uplink, Role::Source).await?;
    source.seed(Finished { torrent: torrent.clone(), folder: dir.path().to_owned() }).await?;
    let mut nodes = Vec::new();
    for n in 0..viewers {
        nodes.push(node(&dir.path().join(n.to_string()), viewer_uplink, Role::Viewer).await?);
    }
    let start = Instant::now();
    let mut peers = vec![source.listen_addr()];
    let mut downloads = Vec::new();
    for (n, node) in (0..).zip(&nodes) {
        let wanted = Wanted {
            info_hash: metainfo.info_hash(),
            torrent: Some(torrent.clone()),
            peers: peers.clone(),
            trackers: Vec::new(),
            spread: Some(Place(nth_place(n))),
        };
        downloads.push(node.fetch(wanted).await?);
        peers.push(node.listen_addr());
    }
    let mut waiting = tokio::task::JoinSet::new();
    for download in downloads {
        waiting.spawn(async move { download.complete().await.map(|()| start.elapsed().as_secs_f64()) });
    }
    let mut last_s = 0.0_f64;
    while let Some(done) = waiting.join_next().await {
        last_s = last_s.max(done??);
    }
    let (length, n, rate) = (media.len() as f64, f64::from(viewers), f64::from(uplink));
    let bound_s = (length / rate).max(n * length / (rate + n * f64::from(viewer_uplink)));
    let copies = source.stats().transfer.sent as f64 / length;
    println!(
        "{{\"viewers\":{viewers},\"seconds\":{seconds},\"uplink\":{uplink},\"last_s\":{last_s:.1},\
         \"bound_s\":{bound_s:.1},\"source_copies\":{copies:.2}}}"
    );
    Ok(())
}
