//! A siege of a gateway: connections that say nothing, that begin and do not go on, and that do not read what they have asked
//! for, over HTTP/1.1 and HTTP/2; and an honest viewer among them, who must not lose a segment.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName},
    },
};

use crate::{
    Process, Segmenter, Tracker, free_port,
    house::{self, Encoder},
    path_str,
};

/// Connections that say nothing.
pub const IDLE: usize = 1_000;
/// Connections that do not read what they have asked for, of each kind.
pub const DEAF: usize = 500;
/// Connections whose head does not end.
const SLOW: usize = 500;
/// Requests of an HTTP/2 connection: all that it may have under way.
const STREAMS: usize = 32;
/// Segments that the gateway has before the siege: its memory has what it needs by then.
const WARM: u64 = 12;
/// Requests that are timed, at least.
const HONEST: usize = 1_000;
/// Segments that the honest viewer gets under siege, at least: the siege lasts until then.
pub const VIEWED: u64 = 6;

/// A channel on air with a gateway.
pub struct Besieged {
    _tracker: Tracker,
    _segmenter: Segmenter,
    gateway: Process,
    _encoder: Encoder,
    port: u16,
    certificate: CertificateDer<'static>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Connections, and requests of HTTP/2, that besieged it.
    pub besiegers: usize,
    /// What its memory grew by at most, in KiB, and with what kind of besiegers it was so large first.
    pub more_kib: u64,
    /// The same, kind by kind.
    pub steps: Vec<(String, u64)>,
    /// How long honest requests took, the shortest first.
    pub took: Vec<Duration>,
    /// Numbers of the segments that the honest viewer got whole, in their order.
    pub segments: Vec<u64>,
}

/// A kind of answer that is not read.
enum Deaf {
    /// Over HTTP/1.1.
    Plain,
    /// Over HTTP/2: its streams have no window.
    Streams,
}

impl Besieged {
    /// A gateway of `minuet watch` or `minuet relay`, with a channel of `rate` bits a second, which takes HTTPS as well.
    pub fn build(dir: &Path, command: &str, rate: u32) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("a certificate");
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).expect("a file");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let (feed, port) = (free_port(), free_port());
        let encoder = Encoder::padded(feed, "320x240", rate);
        let tracker = Tracker::start(free_port(), &dir.join("tracker"));
        let input = format!("udp://127.0.0.1:{feed}");
        let segmenter = Segmenter::start_with(&input, "10s", &tracker.url, &dir.join("segmenter"), &[]);
        let address = port.to_string();
        let tls = ["--tls-cert", path_str(&cert), "--tls-key", path_str(&key)];
        let words = [&[command, &segmenter.link, "--serve", &address][..], &tls].concat();
        let mut gateway = Process::start("minuet", &words, Stdio::null());
        gateway.wait_for("watch at http");
        let certificate = made.cert.der().clone();
        Self { _tracker: tracker, _segmenter: segmenter, gateway, _encoder: encoder, port, certificate }
    }

    /// The siege.
    pub fn endure(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.besiege())
    }

    async fn besiege(self) -> Outcome {
        minuet_serve::files::raise();
        let port = self.port;
        let paths = blocking(move || warm(port)).await;
        // What honest requests take is no part of what the siege costs.
        blocking(move || ask(port, || true)).await;
        let before = self.most_memory();
        let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let viewing = {
            let (over, seen) = (Arc::clone(&over), Arc::clone(&seen));
            std::thread::spawn(move || view(port, &over, &seen))
        };
        let (mut held, mut steps, mut besiegers) = (Besiegers::default(), Vec::new(), 0);
        let mut note = |what: &str, count: usize| {
            besiegers += count;
            steps.push((what.to_owned(), self.most_memory().saturating_sub(before)));
        };
        for number in 0..IDLE {
            held.plain.extend(self.say(1, number, "").await);
        }
        note("idle", IDLE);
        for number in 0..SLOW {
            held.plain.extend(self.say(2, number, "GET /index.m3u8 HTTP/1.1\r\nhost: ").await);
        }
        note("slow heads", SLOW);
        for number in 0..SLOW {
            // The beginning of a handshake.
            held.plain.extend(self.say(3, number, "\u{16}\u{3}\u{1}").await);
        }
        note("slow handshakes", SLOW);
        // Each kind is of a network of its own, so that it takes its share from those before.
        let mut net = 10;
        for path in &paths {
            for deaf in [Deaf::Plain, Deaf::Streams] {
                net += 1;
                let what = match deaf {
                    Deaf::Plain => {
                        self.do_not_read(net, path, &mut held).await;
                        format!("/{path} unread")
                    }
                    Deaf::Streams => {
                        self.give_no_window(net, path, &mut held).await;
                        format!("/{path} unread over HTTP/2")
                    }
                };
                note(&what, DEAF);
            }
        }
        let took = blocking(move || ask(port, || seen.load(Ordering::Relaxed) >= VIEWED)).await;
        note("honest requests", 0);
        over.store(true, Ordering::Relaxed);
        let segments = blocking(move || viewing.join().expect("the viewer gets what it asks for")).await;
        let more_kib = self.most_memory().saturating_sub(before);
        drop(held);
        Outcome { besiegers, more_kib, steps, took, segments }
    }

    /// The most memory that the gateway has had, in KiB.
    fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        peak.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// A connection from one of four households of a network, with hardly any room for what comes, which has said this; none
    /// if it is hung up on.
    async fn say(&self, net: u8, number: usize, says: &str) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.bind((Ipv4Addr::new(127, 0, net, (number % 4) as u8 + 1), 0).into()).expect("loopback");
        let mut stream = socket.connect((Ipv4Addr::LOCALHOST, self.port).into()).await.ok()?;
        stream.write_all(says.as_bytes()).await.ok()?;
        Some(stream)
    }

    /// Asks for a path over HTTP/1.1, and reads nothing.
    async fn do_not_read(&self, net: u8, path: &str, held: &mut Besiegers) {
        let request = format!("GET /{path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut streams = Vec::new();
        for number in 0..DEAF {
            streams.extend(self.say(net, number, &request).await);
        }
        for stream in &streams {
            // The answer has begun, or it is hung up on, or it is kept waiting.
            let _ = tokio::time::timeout(Duration::from_millis(200), stream.peek(&mut [0])).await;
        }
        held.plain.extend(streams);
    }

    /// Asks for a path over HTTP/2 and lets nothing of the answers through.
    async fn give_no_window(&self, net: u8, path: &str, held: &mut Besiegers) {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        for number in 0..DEAF / STREAMS {
            let Some(stream) = self.say(net, number, "").await else { continue };
            let name = ServerName::try_from("127.0.0.1").expect("a name");
            let Ok(stream) = connector.connect(name, stream).await else { continue };
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(1);
            let Ok((mut requests, connection)) = builder.handshake::<_, Bytes>(stream).await else {
                continue;
            };
            held.tasks.spawn(async move { drop(connection.await) });
            for _ in 0..STREAMS {
                let Ok(ready) = requests.clone().ready().await else { break };
                requests = ready;
                let address = format!("https://127.0.0.1/{path}");
                let request = http::Request::get(address).body(()).expect("a request");
                let Ok((answer, _)) = requests.send_request(request, true) else { break };
                held.tasks.spawn(async move {
                    let answer = answer.await;
                    // Its body is held and not read.
                    std::future::pending::<()>().await;
                    drop(answer);
                });
            }
            held.requests.push(requests);
        }
    }
}

/// What is held as long as the siege lasts.
#[derive(Default)]
struct Besiegers {
    plain: Vec<TcpStream>,
    requests: Vec<h2::client::SendRequest<Bytes>>,
    tasks: tokio::task::JoinSet<()>,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

/// Numbers of the segments in a playlist of MPEG-TS.
fn listed(playlist: &str) -> Vec<u64> {
    let names = playlist.lines().filter_map(|line| line.strip_prefix("ts/")?.split_once(".ts"));
    names.map(|(number, _)| number.parse().expect("a number")).collect()
}

/// Waits until the gateway has all that it keeps in memory; what is to be asked for then.
fn warm(port: u16) -> Vec<String> {
    let numbers = loop {
        let numbers = listed(&house::text(port, "ts.m3u8"));
        if numbers.len() as u64 >= WARM {
            break numbers;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    let newest = *numbers.last().expect("some");
    let variants = house::text(port, "dvr.m3u8?start=oldest");
    let past = variants.lines().last().expect("an address").to_owned();
    let entries = house::text(port, &past);
    let entry = entries.lines().find(|line| line.starts_with("past/")).expect("an entry").to_owned();
    let track = format!("track/0/{newest}.m4s");
    let segment = format!("ts/{newest}.ts");
    let waits = format!("track/0/index.m3u8?_HLS_msn={}", newest + 2);
    let mut paths: Vec<String> =
        ["", "assets/page.js", "assets/hls.js", "status.json", "metrics"].map(Into::into).into();
    paths.extend(["index.m3u8", "ts.m3u8", "track/0/index.m3u8", "dvr.m3u8"].map(Into::into));
    paths.extend([waits, past, entry, segment, track]);
    paths.extend(["stream.ts", "stream.aac"].map(Into::into));
    for path in paths.iter().filter(|path| !path.contains("_HLS_msn") && !path.starts_with("stream")) {
        let (head, _) = house::get(port, path, "");
        // A build without the page's player has no hls.js.
        assert!(head.starts_with("HTTP/1.1 200") || path.ends_with("hls.js"), "{path}: {head}");
    }
    paths
}

/// A viewer, who gets one segment after the other and counts them in `count`; their numbers.
fn view(port: u16, over: &AtomicBool, count: &AtomicU64) -> Vec<u64> {
    let mut seen: Vec<u64> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let playlist = house::text(port, "ts.m3u8");
        assert!(!playlist.contains("EXT-X-DISCONTINUITY\n"), "something was lost: {playlist}");
        let numbers = listed(&playlist);
        let next = seen.last().map_or(*numbers.last().expect("some"), |last| last + 1);
        if !numbers.contains(&next) {
            assert!(numbers.last().is_none_or(|newest| *newest < next), "{next} has gone: {playlist}");
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        let (head, body) = house::get(port, &format!("ts/{next}.ts"), "");
        let said = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        assert!(head.starts_with("HTTP/1.1 200"), "segment {next}: {head}");
        assert_eq!(
            said.and_then(|said| said.trim().parse().ok()),
            Some(body.len()),
            "segment {next} is whole"
        );
        seen.push(next);
        count.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

/// Honest requests, one after the other, until there are enough; how long they took, the shortest first.
fn ask(port: u16, enough: impl Fn() -> bool) -> Vec<Duration> {
    let newest = *listed(&house::text(port, "ts.m3u8")).last().expect("some");
    let paths =
        ["index.m3u8", "ts.m3u8", "track/0/index.m3u8", "status.json", "", "dvr.m3u8"].map(str::to_owned);
    let paths = [&paths[..], &[format!("ts/{newest}.ts"), format!("track/0/{newest}.m4s")]].concat();
    let mut took = Vec::new();
    for path in paths.iter().cycle() {
        if took.len() >= HONEST {
            if enough() {
                break;
            }
            // So that those who only wait for the viewer leave it the machine.
            std::thread::sleep(Duration::from_millis(5));
        }
        let began = Instant::now();
        let (head, _) = house::get(port, path, "");
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took
}
