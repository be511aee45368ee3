//! The built tracker under siege: whoever does not read, does not write or never ends costs a bounded amount of memory,
//! and honest requests are answered meanwhile.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Publisher, get};
use minuet_proto::channel_api;
use minuet_proto::metainfo::Info;
use minuet_proto::{Metainfo, Phase, PieceHash, PieceLength, SegmentSeq};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};

/// What memory may grow by.
const MOST_MORE_KIB: u64 = 50 << 10;
/// Connections that say nothing.
const IDLE: usize = 1_000;
/// Connections that do not read what they have asked for, of each kind.
const DEAF: usize = 500;
/// Bodies that begin and never end.
const ENDLESS: usize = 200;
/// Honest requests while all of them are there.
const HONEST: usize = 200;

/// The program, killed when dropped.
struct Program {
    process: Child,
    addr: SocketAddr,
    _data: tempfile::TempDir,
}

impl Program {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_minuet-tracker"))
            .args(["--listen", "127.0.0.1:0", "--udp-workers", "1", "--data"])
            .arg(data.path())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let addr = loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some((_, url)) = line.split_once("listening on http://") {
                break url.trim_end_matches('/').parse().unwrap();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { process, addr, _data: data }
    }

    fn at(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// The most memory that it has had, in KiB.
    fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// A connection with hardly any room for what comes, which has said this.
async fn connection(to: SocketAddr, says: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 66), 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let _ = stream.write_all(says.as_bytes()).await;
    stream
}

/// Connections that ask for this and wait until the answer has begun, or they have been hung up on.
async fn deaf(to: SocketAddr, path: &str) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..DEAF {
        streams.push(connection(to, &format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n")).await);
    }
    for stream in &streams {
        let _ = stream.peek(&mut [0]).await;
    }
    streams
}

/// A torrent of as many pieces as a long minute has.
fn large_torrent(publisher: &Publisher, seq: u64) -> Metainfo {
    let pieces = 15_000;
    let info = Info {
        name: minuet_proto::record::segment_file_name(&publisher.channel(), SegmentSeq(seq)),
        length: u64::from(PieceLength::MIN.get()) * pieces,
        piece_length: PieceLength::MIN,
        pieces: (0..pieces).map(|n| PieceHash::of(&(seq * pieces + n).to_be_bytes())).collect(),
    };
    Metainfo::new(info, vec![], vec![]).unwrap()
}

#[tokio::test]
async fn who_does_not_read_or_write_costs_little_and_honest_requests_are_answered() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let program = Program::start().await;
    let (at, addr) = (program.at(), program.addr);
    let mut publisher = Publisher::new(1);
    for seq in 0..8 {
        let torrent = large_torrent(&publisher, seq);
        let segment = publisher.seal_torrent(torrent);
        assert_eq!(publisher.publish(&at, &segment).await.0, 200);
    }
    // As many minutes as a window holds beside these.
    for _ in 0..100 {
        let segment = publisher.seal();
        assert_eq!(publisher.publish(&at, &segment).await.0, 200);
    }
    // Read once, so that what reading needs is there.
    let path = format!("/{}", channel_api::torrent_path(&publisher.channel(), SegmentSeq(0)));
    let whole = reqwest::get(format!("{at}{}", &path[1..])).await.unwrap().bytes().await.unwrap();
    assert_eq!(whole.len(), Metainfo::parse(&whole).unwrap().encode().len());
    assert!(whole.len() > 300_000);
    publisher.join(&at, "?from=oldest").await;
    let before = program.most_memory();

    let more = |what: &str| println!("{what}: {} KiB more", program.most_memory().saturating_sub(before));
    let mut held = Vec::new();
    for _ in 0..IDLE {
        held.push(connection(addr, "").await);
    }
    more("idle");
    held.extend(deaf(addr, &path).await);
    more("deaf torrents");
    let join = format!("/{}?from=oldest", channel_api::join_path(&publisher.channel()));
    held.extend(deaf(addr, &join).await);
    more("deaf joins");
    let begun = format!(
        "POST /c/{}/records HTTP/1.1\r\nhost: t\r\ncontent-length: 2000000\r\n\r\nd6:record4000:{}",
        publisher.channel(),
        "x".repeat(60_000)
    );
    for _ in 0..ENDLESS {
        held.push(connection(addr, &begun).await);
    }
    more("endless bodies");
    let mut times = Vec::new();
    for n in 0..HONEST {
        let start = Instant::now();
        let (status, _) = get(&format!("{at}c/{}", publisher.channel())).await;
        assert_eq!(status, 200, "request {n}");
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let more = program.most_memory().saturating_sub(before);
    println!(
        "{} KiB before, {more} KiB more; honest requests p50 {:?}, p99 {:?}",
        before,
        times[HONEST / 2],
        times[HONEST * 99 / 100]
    );
    assert!(more <= MOST_MORE_KIB, "{more} KiB more than {before}");
    drop(held);
}

#[tokio::test]
async fn a_body_is_not_waited_for_when_its_first_bytes_show_that_it_is_not_signed() {
    let data = tempfile::tempdir().unwrap();
    let tracker = minuet_tracker::Tracker::start(crate::support::config(data.path())).await.unwrap();
    let (at, addr) = (crate::support::base(&tracker), tracker.http_addrs()[0]);
    let (mut publisher, mut other) = (Publisher::new(1), Publisher::new(2));
    let (good, forged) = (publisher.seal(), other.seal());
    // The head says two megabytes; what comes is the record and one byte more.
    let begin = async |publisher: &Publisher, record: &[u8]| {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!(
            "POST /c/{}/records HTTP/1.1\r\nhost: t\r\ncontent-length: 2000000\r\n\r\nd6:record{}:",
            publisher.channel(),
            record.len()
        );
        stream.write_all(&[head.as_bytes(), record, b"7"].concat()).await.unwrap();
        stream
    };
    let answer = async |mut stream: TcpStream| {
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        String::from_utf8_lossy(&first).into_owned()
    };
    let stream = begin(&publisher, &forged.record.encode()).await;
    assert_eq!(answer(stream).await, "HTTP/1.1 403");
    // More of a torrent than the record's pieces have hashes is refused, too.
    let mut stream = begin(&publisher, &good.record.encode()).await;
    let _ = stream.write_all(&vec![b'x'; 200_000]).await;
    assert_eq!(answer(stream).await, "HTTP/1.1 413");
    assert_eq!(publisher.publish(&at, &good).await.0, 200);
    assert_eq!(publisher.publish(&at, &good).await, (200, "known already\n".into()));
    tracker.shutdown().await;
}

#[tokio::test]
async fn the_end_of_any_part_of_the_tracker_is_told() {
    for part in minuet_tracker::tracker::PARTS {
        let data = tempfile::tempdir().unwrap();
        let mut config = crate::support::config(data.path());
        config.shared = Some("redis://127.0.0.1:9/0".into());
        let tracker = minuet_tracker::Tracker::start(config).await.unwrap();
        tracker.tasks().kill(part);
        let fault = tracker.fault().await;
        assert_eq!(fault.to_string(), format!("{part} has stopped: internal error: killed by a test"));
        tracker.shutdown().await;
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_kills_no_tracker() {
    let mut program = Program::start().await;
    // Reading has ended with the lines that were read; now the other end goes, too.
    let data = tempfile::tempdir().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_minuet-tracker"))
        .args(["--listen", "127.0.0.1:0", "--udp-workers", "1", "--data"])
        .arg(data.path())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let at = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some((_, url)) = line.split_once("listening on http") {
            break format!("http{url}");
        }
    };
    drop(lines);
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.id().unwrap()).unwrap()).unwrap();
    for _ in 0..3 {
        // Each writes a line.
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        assert_eq!(get(&format!("{at}health")).await.0, 200);
    }
    let publisher = Publisher::new(1);
    publisher.publish_state(&at, &publisher.state(5, Phase::Live, "", false)).await;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), process.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    program.process.start_kill().unwrap();
}

#[tokio::test]
async fn without_being_told_where_a_tracker_listens_on_both_families() {
    let any = minuet_tracker::config::default_listen();
    assert_eq!(any.port(), 7070);
    let data = tempfile::tempdir().unwrap();
    let mut config = crate::support::config(data.path());
    config.listen = vec![SocketAddr::new(any.ip(), 0)];
    config.udp_listen = config.listen.clone();
    let tracker = minuet_tracker::Tracker::start(config).await.unwrap();
    let (http, udp) = (tracker.http_addrs()[0].port(), tracker.udp_addrs()[0].port());
    let hosts: &[&str] = if any.is_ipv6() { &["127.0.0.1", "[::1]"] } else { &["127.0.0.1"] };
    for host in hosts {
        assert_eq!(get(&format!("http://{host}:{http}/health")).await.0, 200, "{host}");
        let to: SocketAddr = format!("{host}:{udp}").parse().unwrap();
        let client =
            tokio::task::spawn_blocking(move || crate::support::udp::Client::connect(to)).await.unwrap();
        assert_ne!(client.id, 0);
    }
    tracker.shutdown().await;
}

/// A client that asks for long answers by the hundred and does not read them has none written that cannot be kept.
#[tokio::test]
async fn answers_that_there_is_no_room_for_are_not_written() {
    let data = tempfile::tempdir().unwrap();
    let mut limited = crate::support::config(data.path());
    limited.http.answers = 4 << 20;
    let tracker = minuet_tracker::Tracker::start(limited).await.unwrap();
    let (at, addr) = (crate::support::base(&tracker), tracker.http_addrs()[0]);
    let mut publisher = Publisher::new(1);
    for _ in 0..500 {
        let segment = publisher.seal();
        assert_eq!(publisher.publish(&at, &segment).await.0, 200);
    }
    let path = channel_api::join_path(&publisher.channel());
    let request = format!("GET /{path}?from=oldest HTTP/1.1\r\nhost: t\r\n\r\n");
    let refused = async || {
        let mut stream = connection(addr, &request).await;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        &status == b"HTTP/1.1 503"
    };
    // Those that ask for more than their sockets hold, and do not read, take all the room.
    let mut held = Vec::new();
    while !refused().await {
        held.push(connection(addr, &request.repeat(20)).await);
        assert!(held.len() < 1_000, "nobody is refused");
    }
    let written = async || crate::support::sample(&at, "joins_total").await;
    let before = written().await;
    for _ in 0..20 {
        assert!(refused().await);
    }
    assert_eq!(written().await, before, "what was refused has been written");
    drop(held);
    tracker.shutdown().await;
}
