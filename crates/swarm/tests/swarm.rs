//! Nodes on loopback sockets: what is seeded arrives, what must not be sent is not sent, lies are refused.
// Helpers of tests are tests: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use minuet_proto::{InfoHash, Metainfo, PieceHash, PieceLength, metainfo::Info};
use minuet_swarm::{
    Download, Error, Files, Finished, MIN_UPLOAD_BYTES_PER_S, Place, Role, Swarm, SwarmOptions, Teller,
    Upload, Wanted,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PIECE: usize = 16 << 10;
/// Peers are told of by somebody on this machine.
const HERE: Teller = Teller::At(IpAddr::V4(Ipv4Addr::LOCALHOST));

struct Minute {
    media: Vec<u8>,
    torrent: Bytes,
    info_hash: InfoHash,
    folder: TempDir,
}

/// A finished minute of random bytes on disk; the last piece is short.
fn minute(pieces: usize) -> Minute {
    let mut media = vec![0; pieces * PIECE - 100];
    rand::fill(&mut media[..]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("minute.ts"), &media).unwrap();
    let info = Info {
        name: "minute.ts".to_owned(),
        length: media.len() as u64,
        piece_length: PieceLength::MIN,
        pieces: media.chunks(PIECE).map(PieceHash::of).collect(),
    };
    let metainfo = Metainfo::new(info, Vec::new(), Vec::new()).unwrap();
    Minute { media, torrent: metainfo.encode(), info_hash: metainfo.info_hash(), folder }
}

struct Node {
    swarm: Swarm,
    folder: TempDir,
}

async fn node(role: Role, upload: Upload) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = SwarmOptions { data_dir: folder.path().to_owned(), listen, upload, role, teller: HERE };
    Node { swarm: Swarm::start(options).await.unwrap(), folder }
}

impl Node {
    async fn seed(&self, minute: &Minute) {
        let finished = Finished { torrent: minute.torrent.clone(), folder: minute.folder.path().to_owned() };
        assert_eq!(self.swarm.seed(finished).await.unwrap(), minute.info_hash);
    }

    async fn fetch(&self, minute: &Minute, from: &[&Node]) -> Download {
        let wanted = Wanted {
            info_hash: minute.info_hash,
            torrent: Some(minute.torrent.clone()),
            peers: from.iter().map(|node| node.swarm.listen_addr()).collect(),
            trackers: Vec::new(),
            spread: Some(Place(1 << 31)),
        };
        self.swarm.fetch(wanted).await.unwrap()
    }
}

fn file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_reads_in_order_what_the_source_seeds_and_tells_who_sent_it() {
    let minute = minute(40);
    let (source, viewer) =
        (node(Role::Source, Upload::Unlimited).await, node(Role::Viewer, Upload::Unlimited).await);
    source.seed(&minute).await;
    let download = viewer.fetch(&minute, &[&source]).await;
    let mut reader = download.reader(0).await.unwrap();
    let (mut read, mut buffer) = (Vec::new(), vec![0; 10_000]);
    loop {
        match reader.read(&mut buffer).await.unwrap() {
            0 => break,
            count => read.extend_from_slice(&buffer[..count]),
        }
    }
    assert!(read == minute.media, "the bytes read are those seeded");
    download.complete().await.unwrap();
    assert!(file(&download.path()) == minute.media);
    let length = minute.media.len() as u64;
    assert!(download.transfer().from_source + download.transfer().from_peers >= length);
    assert_eq!(source.swarm.stats().transfer.sent, length);
    assert_eq!(download.peers(), [source.swarm.listen_addr()]);

    let path = download.path();
    assert!(viewer.swarm.forget(minute.info_hash, Files::Delete).await.unwrap());
    assert!(!viewer.swarm.forget(minute.info_hash, Files::Delete).await.unwrap());
    assert!(!path.exists());
    let total = viewer.swarm.stats();
    assert!(total.transfer.from_source + total.transfer.from_peers >= length, "figures outlive the minute");
    assert_eq!(total.minutes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_comes_from_peers_when_there_is_no_torrent() {
    let minute = minute(40);
    let (source, viewer) =
        (node(Role::Source, Upload::Unlimited).await, node(Role::Viewer, Upload::Unlimited).await);
    source.seed(&minute).await;
    let wanted = Wanted {
        info_hash: minute.info_hash,
        torrent: None,
        peers: vec![source.swarm.listen_addr()],
        trackers: Vec::new(),
        spread: None,
    };
    let download = viewer.swarm.fetch(wanted).await.unwrap();
    download.complete().await.unwrap();
    assert!(file(&download.path()) == minute.media);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_of_something_else_is_refused() {
    let (wanted, other) = (minute(2), minute(2));
    let viewer = node(Role::Viewer, Upload::Unlimited).await;
    let request = Wanted {
        info_hash: wanted.info_hash,
        torrent: Some(other.torrent.clone()),
        peers: Vec::new(),
        trackers: Vec::new(),
        spread: None,
    };
    match viewer.swarm.fetch(request).await {
        Err(Error::InfoHashMismatch { expected, actual }) => {
            assert_eq!((expected, actual), (wanted.info_hash, other.info_hash));
        }
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(viewer.swarm.stats().minutes, 0);
    assert_eq!(std::fs::read_dir(viewer.folder.path().join("minutes")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_length_is_not_seeded() {
    let minute = minute(2);
    std::fs::write(minute.folder.path().join("minute.ts"), b"short").unwrap();
    let source = node(Role::Source, Upload::Unlimited).await;
    let finished = Finished { torrent: minute.torrent.clone(), folder: minute.folder.path().to_owned() };
    assert!(matches!(source.swarm.seed(finished).await, Err(Error::NotAMinute { .. })));
    assert_eq!(file(&minute.folder.path().join("minute.ts")), b"short", "and is left as it was");
}

/// Speaks just enough BitTorrent to ask for the first block. Returns the ids of the messages that came back before
/// the peer hung up or sent a piece.
async fn ask_for_a_block(addr: SocketAddr, minute: InfoHash) -> Vec<u8> {
    let mut peer = TcpStream::connect(addr).await.unwrap();
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    hello.extend_from_slice(minute.as_bytes());
    hello.extend_from_slice(b"-XX0000-aaaaaaaaaaaa");
    hello.extend_from_slice(&[0, 0, 0, 1, 2]);
    hello.extend_from_slice(&[0, 0, 0, 13, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0]);
    peer.write_all(&hello).await.unwrap();
    let mut ids = Vec::new();
    let mut handshake = [0; 68];
    if peer.read_exact(&mut handshake).await.is_err() {
        return ids;
    }
    while let Ok(length) = peer.read_u32().await {
        let mut message = vec![0; length as usize];
        if peer.read_exact(&mut message).await.is_err() {
            break;
        }
        ids.extend(message.first());
        if ids.last() == Some(&7) {
            break;
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_must_not_upload_sends_nothing_to_anyone_who_asks() {
    const PIECE_MESSAGE: u8 = 7;
    let minute = minute(8);
    let source = node(Role::Source, Upload::Unlimited).await;
    let (miser, sharer) =
        (node(Role::Viewer, Upload::Never).await, node(Role::Viewer, Upload::Unlimited).await);
    source.seed(&minute).await;
    for node in [&miser, &sharer] {
        node.fetch(&minute, &[&source]).await.complete().await.unwrap();
    }
    let asked = ask_for_a_block(sharer.swarm.listen_addr(), minute.info_hash).await;
    assert!(asked.contains(&PIECE_MESSAGE), "the question is one that others answer");
    let asked = ask_for_a_block(miser.swarm.listen_addr(), minute.info_hash).await;
    assert!(!asked.contains(&PIECE_MESSAGE), "{asked:?}");
    assert_eq!(miser.swarm.stats().transfer.sent, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_pass_pieces_on_and_every_upload_stays_within_its_limit() {
    const LIMIT: u32 = 400_000;
    let minute = minute(60);
    let length = minute.media.len() as u64;
    let source = node(Role::Source, Upload::AtMost(LIMIT)).await;
    let one = node(Role::Viewer, Upload::AtMost(LIMIT)).await;
    let two = node(Role::Viewer, Upload::AtMost(LIMIT)).await;
    source.seed(&minute).await;
    let start = Instant::now();
    let first = one.fetch(&minute, &[&source]).await;
    first.complete().await.unwrap();
    let second = two.fetch(&minute, &[&source, &one]).await;
    second.complete().await.unwrap();
    assert!(file(&second.path()) == minute.media);
    let sent = source.swarm.stats().transfer.sent;
    assert!(sent < 2 * length, "the source sent {sent} bytes for two copies of {length}");
    // More than the length when a block was asked of both.
    assert!(second.transfer().from_source + second.transfer().from_peers >= length);
    assert!(second.transfer().from_source < length && second.transfer().from_peers > 0);
    for node in [&source, &one, &two] {
        let sent = node.swarm.stats().transfer.sent as f64;
        // One second's worth may go at once.
        let most = f64::from(LIMIT) * (start.elapsed().as_secs_f64() + 1.0) + PIECE as f64;
        assert!(sent <= most, "sent {sent} bytes where the limit allows {most}");
    }
    assert!(one.swarm.stats().transfer.sent >= length * 2 - sent);
}

/// At its first limit the source would need an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_can_be_set_anew_while_peers_wait() {
    let minute = minute(3600);
    let source = node(Role::Source, Upload::AtMost(MIN_UPLOAD_BYTES_PER_S)).await;
    let viewer = node(Role::Viewer, Upload::Unlimited).await;
    source.seed(&minute).await;
    let download = viewer.fetch(&minute, &[&source]).await;
    let mut reader = download.reader(0).await.unwrap();
    let read = reader.read(&mut [0; PIECE]).await.unwrap();
    assert!(read > 0 && !download.progress().unwrap().is_complete());
    source.swarm.set_upload(u32::MAX);
    tokio::time::timeout(Duration::from_secs(300), download.complete()).await.expect("in time").unwrap();
    assert!(file(&download.path()) == minute.media);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_would_silence_the_engine_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let upload = Upload::AtMost(minuet_swarm::MIN_UPLOAD_BYTES_PER_S - 1);
    let options =
        SwarmOptions { data_dir: folder.path().to_owned(), listen, upload, role: Role::Viewer, teller: HERE };
    assert!(matches!(Swarm::start(options).await, Err(Error::UploadLimit { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_and_a_stopped_node_frees_its_port() {
    let first = node(Role::Viewer, Upload::Unlimited).await;
    let listen = first.swarm.listen_addr();
    let folder = tempfile::tempdir().unwrap();
    let options = SwarmOptions {
        data_dir: folder.path().to_owned(),
        listen,
        upload: Upload::Unlimited,
        role: Role::Viewer,
        teller: HERE,
    };
    match Swarm::start(options.clone()).await {
        Err(Error::Listen { addr, .. }) => assert_eq!(addr, listen),
        other => panic!("{:?}", other.err()),
    }
    first.swarm.stop().await;
    Swarm::start(options).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minutes_that_are_joined_at_once_are_not_mixed_up() {
    let source = node(Role::Source, Upload::Unlimited).await;
    let viewer = Arc::new(node(Role::Viewer, Upload::Unlimited).await);
    let minutes: Vec<_> = (1..9).map(minute).collect();
    for minute in &minutes {
        source.seed(minute).await;
    }
    let source = Arc::new(source);
    let fetching: Vec<_> = minutes
        .into_iter()
        .map(|minute| {
            let (source, viewer) = (Arc::clone(&source), Arc::clone(&viewer));
            tokio::spawn(async move {
                let download = viewer.fetch(&minute, &[&source]).await;
                assert_eq!(download.info_hash(), minute.info_hash);
                download.complete().await.unwrap();
                assert!(file(&download.path()) == minute.media, "another minute's bytes");
            })
        })
        .collect();
    for fetch in fetching {
        fetch.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_that_begin_together_with_nothing_trade() {
    let minute = minute(250);
    let length = minute.media.len() as u64;
    let source = node(Role::Source, Upload::AtMost(500_000)).await;
    let one = node(Role::Viewer, Upload::Unlimited).await;
    let two = node(Role::Viewer, Upload::Unlimited).await;
    source.seed(&minute).await;
    let wanted = |peers: Vec<SocketAddr>, place: u32| Wanted {
        info_hash: minute.info_hash,
        torrent: Some(minute.torrent.clone()),
        peers,
        trackers: Vec::new(),
        spread: Some(Place(place)),
    };
    let (at_source, at_one) = (source.swarm.listen_addr(), one.swarm.listen_addr());
    let first = one.swarm.fetch(wanted(vec![at_source], 0)).await.unwrap();
    let second = two.swarm.fetch(wanted(vec![at_source, at_one], 1 << 31)).await.unwrap();
    first.complete().await.unwrap();
    second.complete().await.unwrap();
    assert!(file(&first.path()) == minute.media && file(&second.path()) == minute.media);
    // Without trade each has the whole minute from the source.
    let sent = source.swarm.stats().transfer.sent;
    assert!(sent < length * 17 / 10, "the source sent {sent} bytes of a minute of {length}");
    // The books go on when the peers are met anew.
    let booked = first.transfer().from_source + second.transfer().from_source;
    assert!(booked > length * 9 / 10, "{booked} bytes booked as the source's of {sent}");
}
