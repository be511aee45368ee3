//! What strangers do to a server. Time is virtual where a limit is to run out.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::stream;
use minuet_guard::pool::Pool;
use minuet_serve::{Limits, listen, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// The chunks of an answer that goes on for ever.
const CHUNK: usize = 16 << 10;

struct Server {
    address: SocketAddr,
    pool: Pool,
    stop: CancellationToken,
    /// Bytes that the endless answer has given to the server.
    given: Arc<AtomicUsize>,
    running: JoinHandle<Result<(), minuet_serve::Error>>,
}

impl Server {
    fn start(places: u64) -> Self {
        let given = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&given);
        let endless = move || {
            let counted = Arc::clone(&counted);
            let chunks = stream::repeat_with(move || {
                counted.fetch_add(CHUNK, Ordering::Relaxed);
                Ok::<_, std::io::Error>(Bytes::from_static(&[0; CHUNK]))
            });
            async move { Body::from_stream(chunks) }
        };
        let router = Router::new()
            .route("/", get(async || "hello").post(async |body: Bytes| body.len().to_string()))
            .route("/endless", get(endless));
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, pool, stop) =
            (listener.local_addr().unwrap(), Pool::new(places), CancellationToken::new());
        let limits = Limits::default();
        let running = tokio::spawn(serve(listener, router, limits, pool.clone(), None, stop.clone()));
        Self { address, pool, stop, given, running }
    }

    /// A connection from an address of the loopback network, with a small buffer for what comes.
    async fn connect(&self, from: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(32 << 10).unwrap();
        socket.bind((IpAddr::from(from), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        assert_eq!(self.pool.used(), 0);
    }
}

/// Reads to the end of a connection, however it ends.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// One request, and what comes back until the connection ends.
async fn ask(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(stream).await
}

const HOME: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 1, 0, 1];
const HELLO: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn who_says_nothing_or_half_a_head_loses_the_place() {
    let server = Server::start(10);
    let silent = server.connect(HOME).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(rest(silent).await, "");
    assert!(begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
    let half = server.connect(HOME).await;
    ask(half, "GET / HTTP/1.1\r\nhost:").await;
    // The same after an answer: a kept connection is no place for ever.
    let kept = server.connect(HOME).await;
    assert!(ask(kept, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("hello"));
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_costs_little_and_not_for_long() {
    let server = Server::start(10);
    let mut stream = server.connect(HOME).await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let begun = tokio::time::Instant::now();
    while server.given.load(Ordering::Relaxed) == 0 || server.pool.used() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() <= Duration::from_secs(30), "{:?}", begun.elapsed());
    let given = server.given.load(Ordering::Relaxed);
    assert!(given <= 2 << 20, "{given} bytes were made for somebody who reads none");
    drop(stream);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_a_little_now_and_then_is_found_out() {
    let server = Server::start(10);
    let mut stream = server.connect(HOME).await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut few = [0; 1000];
    // A thousand bytes each second: an eighth of the least rate.
    while stream.read(&mut few).await.is_ok_and(|len| len > 0) && server.pool.used() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(3600), "it goes on for ever");
    }
    server.end().await;
}

#[tokio::test]
async fn a_crowd_from_one_place_shuts_nobody_else_out() {
    let server = Server::start(32);
    let mut crowd = Vec::new();
    for _ in 0..32 {
        crowd.push(server.connect(HOME).await);
    }
    // All are in once the server has answered the last.
    let mut last = crowd.pop().unwrap();
    last.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    last.read_exact(&mut [0; 15]).await.unwrap();
    assert_eq!(server.pool.used(), 32);
    let refused = ask(server.connect(HOME).await, "").await;
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 503"), "{refused}");
    for _ in 0..8 {
        assert!(ask(server.connect(ELSEWHERE).await, HELLO).await.ends_with("hello"));
    }
    server.end().await;
    drop(crowd);
}

#[tokio::test]
async fn a_crowd_that_is_gone_leaves_room() {
    let server = Server::start(8);
    for _ in 0..50 {
        assert!(ask(server.connect(HOME).await, HELLO).await.ends_with("hello"));
    }
    server.end().await;
}

#[tokio::test]
async fn bodies_have_a_greatest_length() {
    let server = Server::start(10);
    let post = |head: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n\r\n{body}")
    };
    let said = ask(server.connect(HOME).await, &post("content-length: 5", "hello")).await;
    assert!(said.ends_with("\r\n\r\n5"), "{said}");
    let said = ask(server.connect(HOME).await, &post("content-length: 999999999", "")).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(3);
    let said = ask(server.connect(HOME).await, &post("transfer-encoding: chunked", &chunk)).await;
    assert!(!said.contains(" 200 "), "{said}");
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::start(10);
    let request = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhel";
    let said = ask(server.connect(HOME).await, request).await;
    assert!(!said.contains(" 200 "), "{said}");
    server.end().await;
}
