//! Load for a running tracker, for `scripts/bench tracker`. Each kind prints one line of JSON.
//!
//! - `load herd ADDR CLIENTS SECONDS one|each`: that many clients come to a UDP tracker within that time, each with a
//!   connect and an announce, of one torrent or of one each, and none asks twice: who is unanswered 3 s after the
//!   last came was lost.
//! - `load loris URL COUNT PID`: that many connections which stay in the middle of their request's head; what they cost
//!   the process PID, and how long somebody waits who asks meanwhile.
//! - `load subscribers URL COUNT PID`: that many event streams of one channel; how long a record takes to the last
//!   of them, and what they cost the process PID.
//! - `load joins URL RATE SECONDS plain|mesh`: joins at that rate over kept connections, and how long they take; `mesh`:
//!   of nodes that are new to the live mesh and want all that there is.
//! - `load siege URL PID`: a thousand silent connections, and five hundred each that do not read a cold torrent and a long
//!   join; what they cost, and how long honest requests take meanwhile.
#![allow(clippy::print_stdout, reason = "its result is for standard output")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use minuet_proto::channel_api::mesh::{
    CheckedHead, JoinProof, JoinRequest, MAX_JOIN_HEAD_PIECES, MeshNode, Nonce, PROOF_HEADER, encode_heads,
    heads_path, mesh_join_path,
};
use minuet_proto::channel_api::{Join, Publication, events_path, join_path, records_path};
use minuet_proto::mesh::{Head, HeadPiece, NodeId, Serial};
use minuet_proto::metainfo::Info;
use minuet_proto::{
    ChannelId, ChannelKey, Metainfo, PieceHash, PieceIndex, PieceLength, Record, SegmentSeq, SignedRecord,
    record::segment_file_name,
};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt, sockopt};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["herd", addr, clients, seconds, torrents @ ("one" | "each")] => {
            herd(addr.parse()?, clients.parse()?, seconds.parse()?, torrents == "each")
        }
        ["loris", url, count, pid] => in_runtime(loris(url, count.parse()?, pid.parse()?)),
        ["subscribers", url, count, pid] => in_runtime(subscribers(url, count.parse()?, pid.parse()?)),
        ["siege", url, pid] => in_runtime(siege(url, pid.parse()?)),
        ["joins", url, rate, seconds, kind @ ("plain" | "mesh")] => {
            in_runtime(joins(url, rate.parse()?, seconds.parse()?, kind == "mesh"))
        }
        _ => bail!("usage: load herd|loris|subscribers|joins …; see the head of its source"),
    }
}

fn in_runtime(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn percentile(sorted: &[Duration], part: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * part) as usize;
    sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

// A herd.

/// Sockets that the clients share, each on a loopback address of its own, so that ports do not repeat.
const SOCKETS: usize = 20;
const BATCH: usize = 64;
/// The torrent that all of a herd want: its info hash and peer ids are all sevens.
const HERD: u32 = 0x0707_0707;
/// How long after the last came an answer still counts.
const PATIENCE: Duration = Duration::from_secs(3);

fn herd(tracker: SocketAddrV4, clients: u32, seconds: f64, torrents: bool) -> Result<()> {
    ensure!(clients as usize <= SOCKETS * 60_000, "at most {} clients", SOCKETS * 60_000);
    let to = SocketAddrAny::from(SocketAddr::from(tracker));
    let mut sockets = Vec::new();
    for n in 0..SOCKETS {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 10 + n as u8), 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
        setsockopt(&socket, sockopt::SndBufForce, &(16 << 20))?;
        sockets.push(socket);
    }
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![[0u8; 2048]; BATCH];
    let mut came: Vec<Instant> = Vec::with_capacity(clients as usize);
    let mut taken: Vec<Option<Duration>> = vec![None; clients as usize];
    let (mut answered, mut connected) = (0u32, 0u32);
    let start = Instant::now();
    let mut last_came = start;
    while answered < clients && (came.len() < clients as usize || last_came.elapsed() < PATIENCE) {
        let due = (f64::from(clients) * (start.elapsed().as_secs_f64() / seconds).min(1.0)) as usize;
        while came.len() < due {
            let first = came.len();
            let batch: Vec<Vec<u8>> = (first..due.min(first + BATCH)).map(|n| connect(n as u32)).collect();
            // A batch comes from one socket, the next from the next.
            send(&sockets[first / BATCH % SOCKETS], &to, &batch)?;
            last_came = Instant::now();
            came.resize(first + batch.len(), last_came);
        }
        for socket in &sockets {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            let lengths: Vec<usize> =
                match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
                    Ok(messages) => messages.map(|message| message.bytes).collect(),
                    Err(Errno::EAGAIN | Errno::EINTR) => continue,
                    Err(error) => return Err(error.into()),
                };
            let mut announces = Vec::new();
            for (buffer, length) in buffers.iter().zip(lengths) {
                let answer = &buffer[..length];
                let (Some(action), Some(&client)) =
                    (answer.first_chunk::<4>(), answer.get(4..8).and_then(|b| b.first_chunk::<4>()))
                else {
                    continue;
                };
                let client = u32::from_be_bytes(client);
                match u32::from_be_bytes(*action) {
                    0 => {
                        connected += 1;
                        let connection_id = answer.get(8..16).context("a short answer")?;
                        let torrent = if torrents { client } else { HERD };
                        announces.push(announce(connection_id, client, torrent));
                    }
                    1 => {
                        let slot = taken.get_mut(client as usize).context("an answer to nobody")?;
                        if slot.is_none() {
                            *slot = Some(came[client as usize].elapsed());
                            answered += 1;
                        }
                    }
                    other => bail!("action {other}: {}", String::from_utf8_lossy(&answer[8..])),
                }
            }
            send(socket, &to, &announces)?;
        }
    }
    let mut taken: Vec<Duration> = taken.into_iter().flatten().collect();
    taken.sort_unstable();
    println!(
        "{{\"clients\":{clients},\"seconds\":{seconds},\"connected\":{connected},\"answered\":{answered},\
         \"lost\":{},\"p50_ms\":{:.1},\"p99_ms\":{:.1},\"max_ms\":{:.1}}}",
        clients - answered,
        percentile(&taken, 0.5),
        percentile(&taken, 0.99),
        percentile(&taken, 1.0),
    );
    Ok(())
}

fn send(socket: &UdpSocket, to: &SocketAddrAny, packets: &[Vec<u8>]) -> Result<()> {
    let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
    fn no_space<'a>() -> &'a mut [MaybeUninit<u8>] {
        &mut []
    }
    let mut control: Vec<_> = packets.iter().map(|_| SendAncillaryBuffer::new(no_space())).collect();
    let mut messages: Vec<MMsgHdr<'_>> = slices
        .iter()
        .zip(&mut control)
        .map(|(slice, control)| MMsgHdr::new_with_addr(to, slice, control))
        .collect();
    let mut rest = &mut messages[..];
    while !rest.is_empty() {
        let sent = sendmmsg(socket, rest, SendFlags::empty())?;
        rest = &mut rest[sent..];
    }
    Ok(())
}

fn connect(client: u32) -> Vec<u8> {
    let mut packet = 0x0417_2710_1980u64.to_be_bytes().to_vec();
    packet.extend([0; 4]);
    packet.extend(client.to_be_bytes());
    packet
}

fn announce(connection_id: &[u8], client: u32, torrent: u32) -> Vec<u8> {
    let mut packet = connection_id.to_vec();
    packet.extend(1u32.to_be_bytes());
    packet.extend(client.to_be_bytes());
    // Info hash and peer id, downloaded, left, uploaded, started, address, key.
    packet.extend(torrent.to_be_bytes());
    packet.extend([7; 36]);
    packet.extend([0; 8]);
    packet.extend(1u64.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend(2u32.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend(50u32.to_be_bytes());
    // Clients of a socket have ports of their own.
    let port = (client as usize / (BATCH * SOCKETS) * BATCH + client as usize % BATCH) % 65_535 + 1;
    packet.extend((port as u16).to_be_bytes());
    packet
}

// Subscribers and joins.

/// A channel of its own for each run, so that a run does not meet the last one's records.
struct Channel {
    key: ChannelKey,
    last: Option<SignedRecord>,
}

impl Channel {
    fn new() -> Self {
        Self { key: ChannelKey::from_seed(&rand::random()), last: None }
    }

    /// Signs and publishes the next record.
    async fn publish(&mut self, authority: &str) -> Result<()> {
        let channel = self.key.channel();
        let seq = self.last.as_ref().map_or(SegmentSeq(0), |last| last.seq.next());
        let info = Info {
            name: segment_file_name(&channel, seq),
            length: 60_000_000,
            piece_length: PieceLength::for_rate(1_000_000),
            pieces: (0..60_000_000u32.div_ceil(65_536)).map(|n| PieceHash::of(&n.to_be_bytes())).collect(),
        };
        let torrent = Metainfo::new(info, vec![], vec![])?;
        let record = Record {
            channel,
            seq,
            prev: self.last.as_ref().map(|last| last.hash()),
            info_hash: torrent.info_hash(),
            length: torrent.info().length,
            piece_length: torrent.info().piece_length,
            duration_ms: 60_000,
            ingest_ms: seq.0 * 60_000,
            sealed_ms: (seq.0 + 1) * 60_000,
            discontinuity: false,
            access: Default::default(),
        };
        let record = SignedRecord::sign(&self.key, record);
        let body = Publication { record: record.encode(), torrent: torrent.encode() }.encode();
        self.last = Some(record);
        post(authority, &records_path(&channel), &body).await
    }

    /// Publishes heads of as many pieces as a join may tell of, eight in each, as at a few Mbit/s.
    async fn publish_heads(&self, authority: &str) -> Result<()> {
        let piece =
            HeadPiece { hash: PieceHash::new([1; 20]), len: 65_536, ingest_ms: 1, random_access: false };
        let heads: Vec<_> = (0..u64::from(MAX_JOIN_HEAD_PIECES) / 8)
            .map(|n| Head {
                first: Serial::new(n * 8 + 1),
                segment: SegmentSeq(1),
                first_index: PieceIndex(n as u32 * 8),
                pieces: vec![piece; 8],
            })
            .map(|head| CheckedHead::sign(&self.key, head).into_signed())
            .collect();
        post(authority, &heads_path(&self.key.channel()), &encode_heads(&heads)).await
    }
}

async fn post(authority: &str, path: &str, body: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(authority).await?;
    let head = format!(
        "POST /{path} HTTP/1.1\r\nhost: {authority}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "refused: {answer}");
    Ok(())
}

fn authority(url: &str) -> Result<&str> {
    url.strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .context("the URL is to begin with http://")
}

fn resident_kb(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

async fn subscribers(url: &str, count: usize, pid: u32) -> Result<()> {
    const ROUNDS: usize = 5;
    let authority = authority(url)?;
    let mut channel = Channel::new();
    channel.publish(authority).await?;
    let before_kb = resident_kb(pid)?;
    let request = format!(
        "GET /{} HTTP/1.1\r\nhost: {authority}\r\naccept: text/event-stream\r\n\r\n",
        events_path(&channel.key.channel())
    );
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(authority).await?;
        stream.write_all(request.as_bytes()).await?;
        streams.push(BufReader::with_capacity(1024, stream));
    }
    // The greeting shows that a stream is subscribed.
    let mut line = Vec::new();
    for stream in &mut streams {
        loop {
            line.clear();
            ensure!(stream.read_until(b'\n', &mut line).await? > 0, "a stream ended");
            if line.starts_with(b"retry: ") {
                break;
            }
        }
    }
    let each_bytes = (resident_kb(pid)?.saturating_sub(before_kb)) * 1024 / count as u64;
    let (news, mut arrived) = tokio::sync::mpsc::channel(count);
    for mut stream in streams {
        let news = news.clone();
        tokio::spawn(async move {
            let mut line = Vec::new();
            while let Ok(1..) = stream.read_until(b'\n', &mut line).await {
                if line.starts_with(b"data: ") && news.send(Instant::now()).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    let mut last: Vec<Duration> = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        channel.publish(authority).await?;
        let mut latest = start;
        for _ in 0..count {
            latest = latest.max(arrived.recv().await.context("all streams ended")?);
        }
        last.push(latest - start);
    }
    last.sort_unstable();
    let with_news_bytes = (resident_kb(pid)?.saturating_sub(before_kb)) * 1024 / count as u64;
    println!(
        "{{\"subscribers\":{count},\"rounds\":{ROUNDS},\"last_p50_ms\":{:.1},\"last_max_ms\":{:.1},\
         \"bytes_each\":{each_bytes},\"bytes_each_after\":{with_news_bytes}}}",
        percentile(&last, 0.5),
        percentile(&last, 1.0),
    );
    Ok(())
}

async fn loris(url: &str, count: usize, pid: u32) -> Result<()> {
    let authority = authority(url)?;
    let to: SocketAddr = authority.parse()?;
    let before_kb = resident_kb(pid)?;
    let mut held = Vec::with_capacity(count);
    for n in 0..count {
        let socket = TcpSocket::new_v4()?;
        // An address for each hundred, as one address may not have many.
        socket.bind((Ipv4Addr::from_bits(0x7f01_0001 + n as u32 / 100), 0).into())?;
        let mut stream = socket.connect(to).await?;
        stream.write_all(b"GET /announce?info_hash=%07 HTTP/1.1\r\nhost: ").await?;
        held.push(stream);
    }
    let mut asking = BufReader::new(TcpStream::connect(to).await?);
    let start = Instant::now();
    asking
        .get_mut()
        .write_all(format!("GET /health HTTP/1.1\r\nhost: {authority}\r\n\r\n").as_bytes())
        .await?;
    read_answer(&mut asking).await?;
    let bytes_each = (resident_kb(pid)?.saturating_sub(before_kb)) * 1024 / count as u64;
    let waited_ms = start.elapsed().as_secs_f64() * 1e3;
    println!("{{\"connections\":{count},\"bytes_each\":{bytes_each},\"waited_ms\":{waited_ms:.2}}}");
    Ok(())
}

/// A connection with hardly any room for what comes, from another address of this machine, which has said this.
async fn besieger(authority: &str, says: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 66), 0).into())?;
    let mut stream = socket.connect(authority.parse()?).await?;
    stream.write_all(says.as_bytes()).await?;
    Ok(stream)
}

async fn siege(url: &str, pid: u32) -> Result<()> {
    const IDLE: usize = 1_000;
    const DEAF: usize = 500;
    const HONEST: u32 = 2_000;
    let authority = authority(url)?.to_owned();
    let mut channel = Channel::new();
    for _ in 0..500 {
        channel.publish(&authority).await?;
    }
    let name = channel.key.channel();
    let before_kb = resident_kb(pid)?;
    let mut held = Vec::new();
    for _ in 0..IDLE {
        held.push(besieger(&authority, "").await?);
    }
    for path in [format!("/{}/0.torrent", join_path(&name)), format!("/{}?from=oldest", join_path(&name))] {
        for _ in 0..DEAF {
            held.push(besieger(&authority, &format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n")).await?);
        }
    }
    for stream in &held[IDLE..] {
        // The answer has begun, or the tracker has hung up.
        let _ = stream.peek(&mut [0]).await;
    }
    let request = format!("GET /{} HTTP/1.1\r\nhost: {authority}\r\n\r\n", join_path(&name));
    let mut taken = Vec::new();
    for _ in 0..HONEST {
        // A connection of its own each, since the places are what is fought for.
        let start = Instant::now();
        let mut stream = BufReader::new(TcpStream::connect(&authority).await?);
        stream.get_mut().write_all(request.as_bytes()).await?;
        read_answer(&mut stream).await?;
        taken.push(start.elapsed());
    }
    taken.sort_unstable();
    let more_kb = resident_kb(pid)?.saturating_sub(before_kb);
    println!(
        "{{\"connections\":{},\"more_kb\":{more_kb},\"p50_ms\":{:.2},\"p99_ms\":{:.2}}}",
        held.len(),
        percentile(&taken, 0.5),
        percentile(&taken, 0.99),
    );
    Ok(())
}

async fn joins(url: &str, rate: u32, seconds: u32, mesh: bool) -> Result<()> {
    const CONNECTIONS: u32 = 32;
    let authority = authority(url)?.to_owned();
    let mut channel = Channel::new();
    for _ in 0..10 {
        channel.publish(&authority).await?;
    }
    channel.publish_heads(&authority).await?;
    let requests: Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync> = if mesh {
        let head =
            format!("POST /{} HTTP/1.1\r\nhost: {authority}\r\n", mesh_join_path(&channel.key.channel()));
        let (channel, nonce) = (channel.key.channel(), nonce(&authority, &channel.key.channel()).await?);
        Arc::new(move |n| mesh_join(&head, &channel, nonce, n))
    } else {
        let request =
            format!("GET /{} HTTP/1.1\r\nhost: {authority}\r\n\r\n", join_path(&channel.key.channel()));
        Arc::new(move |_| request.clone().into_bytes())
    };
    let start = Instant::now();
    let mut workers = Vec::new();
    for worker in 0..CONNECTIONS {
        let requests = Arc::clone(&requests);
        let mut stream = BufReader::new(TcpStream::connect(&authority).await?);
        workers.push(tokio::spawn(async move {
            let mut taken = Vec::new();
            // Each worker has every CONNECTIONS-th tick; what is late counts from when it was due.
            for tick in (worker..rate * seconds).step_by(CONNECTIONS as usize) {
                let due = start + Duration::from_secs_f64(f64::from(tick) / f64::from(rate));
                tokio::time::sleep_until(due.into()).await;
                stream.get_mut().write_all(&requests(tick)).await?;
                read_answer(&mut stream).await?;
                taken.push(due.elapsed());
            }
            anyhow::Ok(taken)
        }));
    }
    let mut taken = Vec::new();
    for worker in workers {
        taken.extend(worker.await??);
    }
    let rate = taken.len() as f64 / start.elapsed().as_secs_f64();
    taken.sort_unstable();
    println!(
        "{{\"joins\":{},\"rate\":{rate:.0},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"max_ms\":{:.2}}}",
        taken.len(),
        percentile(&taken, 0.5),
        percentile(&taken, 0.99),
        percentile(&taken, 1.0),
    );
    Ok(())
}

/// What a node here signs when it joins.
async fn nonce(authority: &str, channel: &ChannelId) -> Result<Nonce> {
    let mut stream = BufReader::new(TcpStream::connect(authority).await?);
    let request = format!("GET /{} HTTP/1.1\r\nhost: {authority}\r\n\r\n", join_path(channel));
    stream.get_mut().write_all(request.as_bytes()).await?;
    let join: Join = serde_json::from_slice(&read_answer(&mut stream).await?)?;
    join.nonce.context("the tracker gives no nonce")
}

/// The join of the `n`-th node, each with a key and an address of its own.
fn mesh_join(head: &str, channel: &ChannelId, nonce: Nonce, n: u32) -> Vec<u8> {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    // A node's key is one of ed25519, as a channel's is.
    let key = ChannelKey::from_seed(&seed);
    let mut request = JoinRequest::new(MeshNode::new(NodeId(*key.channel().as_bytes())));
    request.about.addrs = vec![SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + n), 4000))];
    request.about.dialable = true;
    request.about.upload_kbps = 5_000;
    request.want = 16;
    request.heads = MAX_JOIN_HEAD_PIECES;
    // Strings and numbers always serialise.
    let body = serde_json::to_string(&request).unwrap_or_default();
    let signature = key.sign_bytes(&JoinProof::signed_bytes(channel, nonce, body.as_bytes()));
    let proof = JoinProof { nonce, signature };
    let length = body.len();
    format!("{head}content-length: {length}\r\n{PROOF_HEADER}: {proof}\r\n\r\n{body}").into_bytes()
}

/// Reads an answer and returns its body.
async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let (mut line, mut length) = (String::new(), None);
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "the tracker hung up");
        match line.trim_end() {
            "" => break,
            head => {
                if let Some(value) = head.strip_prefix("content-length: ") {
                    length = Some(value.parse()?);
                }
            }
        }
    }
    let mut body = vec![0; length.context("no content-length")?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}
