//! The server: takes connections in as far as there are places, and keeps each within its limits.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{
        HeaderValue, Request, Response, StatusCode, Version,
        header::{CONNECTION, RETRY_AFTER},
    },
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use minuet_guard::{
    pool::{Pool, Taken},
    shares::Refused,
};
use minuet_tls::{HANDSHAKE, Tls};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

use crate::{
    Limits,
    io::Watched,
    outlet::{Outlet, Streams},
    request::{Answer, Bounded, Busy, Places, Work},
};

/// Bytes of a connection's heads and answers that are in memory, each way.
pub const MAX_BUFFER: usize = 16 << 10;
/// Headers of a request; twice what browsers send.
const MAX_HEADERS: usize = 64;
/// What is spoken over TLS, the best first.
pub const PROTOCOLS: &[&str] = &["h2", "http/1.1"];
/// Requests that one connection may have under way, with HTTP/2: a player has some four.
const MAX_STREAMS: u32 = 32;
/// Bytes of a stream's answer that HTTP/2 takes in: a chunk, see [`outlet`](crate::outlet).
const MAX_STREAM_BUFFER: usize = crate::file::CHUNK;
/// A connection that says nothing for so long is asked whether it lives, with HTTP/2.
const ASK: Duration = Duration::from_secs(20);
/// A connection on which nothing has been asked for so long ends, with HTTP/2: its client opens another one when it needs it.
const IDLE: Duration = Duration::from_secs(60);
/// How long nobody is taken in when the system has no descriptor or no memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How often, and how long each time, a newcomer waits for those who have to make room.
const GOING: u32 = 100;
const MOMENT: Duration = Duration::from_millis(2);
/// How often the same trouble is told of.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// What who finds no place is told, if there is time for it.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 10\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket is of no use any more.
    #[error("connections are not accepted any more: {0}")]
    Accept(#[source] io::Error),
}

/// Serves `router` on `listener` until stopped; then connections end where they are. Each connection has a place of
/// `pool`, which several servers may share, and so has each request that a connection has under way beside its first one
/// (HTTP/2). Handlers find the peer's address as [`ConnectInfo<SocketAddr>`]. With a
/// certificate the port takes HTTP and HTTPS alike.
///
/// # Errors
/// When the listening socket fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    pool: Pool,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let connections = TaskTracker::new();
    // Ends the connections as well when this future is dropped.
    let stop = stop.child_token();
    let _ended = stop.clone().drop_guard();
    let places = Places { pool, bytes: Pool::new(limits.answers) };
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match place(&places.pool, peer.ip().to_canonical()).await {
                Ok(taken) => {
                    let (router, taken) = (router.clone(), Arc::new(taken));
                    let client = Client { peer, router, limits, taken, places: places.clone() };
                    let work = Streams { tasks: connections.clone(), stop: stop.clone(), limits };
                    let connection = client.connect(stream, tls.clone(), work);
                    let stop = stop.clone();
                    connections.spawn(async move { stop.run_until_cancelled(connection).await });
                }
                Err(_) => drop(stream.try_write(FULL)),
            },
            // That connection is gone again, or never came about.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if is_fatal(&error) => return Err(Error::Accept(error)),
            Err(error) => {
                if told.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                    told = Some(Instant::now());
                    tracing::warn!("a connection could not be accepted: {error}; trying on");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

/// A place for a connection. Where others have to make room for it, and too many of those have not gone yet, they are waited
/// for a moment: connections come in faster than connections end.
async fn place(pool: &Pool, ip: IpAddr) -> Result<Taken, Refused> {
    for _ in 0..GOING {
        match pool.take(ip, 1) {
            Err(Refused) if pool.has_room(ip, 1) => tokio::time::sleep(MOMENT).await,
            taken => return taken,
        }
    }
    pool.take(ip, 1)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whether it is the listening socket that is wrong. All else passes: a lack of descriptors or memory, a network that is
/// down (accept(2)).
fn is_fatal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let fatal = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP, Errno::FAULT];
    error.raw_os_error().is_some_and(|code| fatal.iter().any(|errno| errno.raw_os_error() == code))
}

/// Marks a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub struct Secure;

/// Who has connected.
struct Client {
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    taken: Arc<Taken>,
    places: Places,
}

impl Client {
    /// Until it ends or has to make room, in whatever state it is: one that has not said whether it speaks TLS, too.
    async fn connect(self, stream: TcpStream, tls: Option<Arc<Tls>>, streams: Streams) {
        let (peer, taken) = (self.peer, Arc::clone(&self.taken));
        tokio::select! {
            () = self.begin(stream, tls, streams) => {}
            () = taken.evicted() => tracing::debug!("{peer} gives its place to somebody else"),
        }
    }

    async fn begin(self, stream: TcpStream, tls: Option<Arc<Tls>>, streams: Streams) {
        let head = self.limits.head;
        let mut first = [0];
        let secure = match &tls {
            None => None,
            Some(tls) => match tokio::time::timeout(head, stream.peek(&mut first)).await {
                Ok(Ok(1..)) if first[0] == HANDSHAKE => Some(tls.acceptor()),
                Ok(Ok(_)) => None,
                Ok(Err(_)) | Err(_) => return,
            },
        };
        let stream = Watched::new(stream, Arc::clone(&self.taken), self.limits);
        let Some(acceptor) = secure else { return self.serve(stream, None, streams).await };
        // Boxed, so that connections do not hold room for a handshake after it.
        match tokio::time::timeout(head, Box::pin(acceptor.accept(stream))).await {
            Ok(Ok(stream)) => {
                let version = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Version::HTTP_2,
                    _ => Version::HTTP_11,
                };
                self.serve(stream, Some(version), streams).await;
            }
            Ok(Err(error)) => tracing::debug!("{}: {error}", self.peer),
            Err(_) => {}
        }
    }

    /// Answers a connection's requests; `secure` is what is spoken over TLS.
    async fn serve<S>(self, stream: S, secure: Option<Version>, streams: Streams)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { peer, router, limits, taken, places } = self;
        let io = TokioIo::new(stream);
        let work = Arc::new(Work::new(taken, peer.ip().to_canonical(), places));
        let asked = Arc::clone(&work);
        let service = service_fn(move |mut request: Request<Incoming>| {
            if secure.is_some() {
                request.extensions_mut().insert(Secure);
            }
            answer(request, peer, router.clone(), limits, Arc::clone(&asked))
        });
        let serving = async {
            if secure == Some(Version::HTTP_2) {
                let connection = http2::Builder::new(streams)
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_STREAMS)
                    .max_header_list_size(MAX_BUFFER as u32)
                    .max_send_buf_size(MAX_STREAM_BUFFER)
                    .keep_alive_interval(ASK)
                    .keep_alive_timeout(limits.head)
                    .serve_connection(io, service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => return ended,
                    () = work.is_left_alone(IDLE) => connection.as_mut().graceful_shutdown(),
                }
                // Whoever has asked meanwhile is answered.
                tokio::time::timeout(limits.send, connection).await.unwrap_or(Ok(()))
            } else {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.head)
                    .max_buf_size(MAX_BUFFER)
                    .max_headers(MAX_HEADERS)
                    .serve_connection(io, service);
                Outlet::of_connection().run(connection).await.unwrap_or(Ok(()))
            }
        };
        let ended = serving.await;
        if let Err(error) = ended {
            tracing::debug!("{peer}: {error}");
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    mut router: Router,
    limits: Limits,
    work: Arc<Work>,
) -> Result<Response<Answer>, Infallible> {
    let (mut head, body) = request.into_parts();
    let busy = match work.begin() {
        Ok(busy) => busy,
        Err(busy) => return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, busy)),
    };
    let Some(body) = Bounded::new(body, &limits) else {
        let mut refusal = refusal(StatusCode::PAYLOAD_TOO_LARGE, busy);
        if head.version < Version::HTTP_2 {
            refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        return Ok(refusal);
    };
    head.extensions.insert(ConnectInfo(peer));
    let response = tokio::select! {
        response = router.call(Request::from_parts(head, Body::new(body))) => response?,
        () = busy.evicted() => return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, busy)),
    };
    let (head, body) = response.into_parts();
    Ok(match Answer::new(body, busy) {
        Ok(answer) => Response::from_parts(head, answer),
        Err(busy) => refusal(StatusCode::SERVICE_UNAVAILABLE, busy),
    })
}

/// An answer without a body.
fn refusal(status: StatusCode, busy: Busy) -> Response<Answer> {
    let mut refusal = Response::new(Answer::empty(busy));
    *refusal.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
    }
    refusal
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use bytes::Bytes;
    use futures_util::{future::select_all, stream::repeat};
    use h2::client::SendRequest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const HOME: [u8; 4] = [192, 0, 2, 1];

    /// A server without a listener, which holds two long answers in memory at a time.
    struct Bench {
        places: Places,
        limits: Limits,
        stop: CancellationToken,
    }

    impl Bench {
        fn new(places: u64) -> Self {
            let limits = Limits { answers: 130_000, ..Limits::default() };
            let places = Places { pool: Pool::new(places), bytes: Pool::new(limits.answers) };
            Self { places, limits, stop: CancellationToken::new() }
        }

        /// A connection of one household that holds a few bytes on the way.
        fn connect(&self, secure: Option<Version>) -> DuplexStream {
            let router = Router::new()
                .route("/", get(async || "hello"))
                .route("/never", get(async || std::future::pending::<&str>().await))
                .route("/short", get(async || "x".repeat(10_000)))
                .route(
                    "/endless",
                    get(async || Body::from_stream(repeat(Ok::<_, Infallible>("x".repeat(10_000))))),
                )
                .route("/long", get(async || "x".repeat(60_000)));
            let taken = Arc::new(self.places.pool.take(HOME.into(), 1).unwrap());
            let (peer, limits, places) = ((HOME, 1).into(), self.limits, self.places.clone());
            let (near, far) = duplex(1000);
            let streams = Streams { tasks: TaskTracker::new(), stop: self.stop.clone(), limits };
            tokio::spawn(Client { peer, router, limits, taken, places }.serve(near, secure, streams));
            far
        }

        async fn http2(&self) -> SendRequest<Bytes> {
            let far = self.connect(Some(Version::HTTP_2));
            let (requests, connection) = h2::client::handshake(far).await.unwrap();
            tokio::spawn(connection);
            requests
        }
    }

    /// A request, and how it is answered.
    async fn ask(
        requests: &mut SendRequest<Bytes>,
        path: &str,
    ) -> impl Future<Output = StatusCode> + Unpin + use<> {
        *requests = requests.clone().ready().await.unwrap();
        let request = Request::get(format!("https://x{path}")).body(()).unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        Box::pin(async move { answer.await.unwrap().status() })
    }

    #[tokio::test]
    async fn requests_beside_a_connections_first_have_places_of_their_own() {
        let bench = Bench::new(4);
        let mut requests = bench.http2().await;
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.push(ask(&mut requests, "/never").await);
        }
        assert_eq!(ask(&mut requests, "/").await.await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(bench.places.pool.used(), 4);
        // Somebody else comes: one of the requests goes, and not the connection.
        let elsewhere: IpAddr = [198, 51, 100, 1].into();
        let other = bench.places.pool.take(elsewhere, 1).unwrap();
        let (answered, _, waiting) = select_all(waiting).await;
        assert_eq!(answered, StatusCode::SERVICE_UNAVAILABLE);
        drop(other);
        assert_eq!(ask(&mut requests, "/").await.await, StatusCode::OK);
        assert_eq!(waiting.len(), 3);
    }

    /// Streams of a client that reads its connection, and lets one byte of each answer through.
    async fn without_window(bench: &Bench, count: usize, path: &str) -> impl Sized + use<> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1);
        let (mut requests, connection) =
            builder.handshake::<_, Bytes>(bench.connect(Some(Version::HTTP_2))).await.unwrap();
        tokio::spawn(connection);
        let mut unread = Vec::new();
        for _ in 0..count {
            requests = requests.ready().await.unwrap();
            let request = Request::get(format!("https://x{path}")).body(()).unwrap();
            unread.push(requests.send_request(request, true).unwrap().0.await.unwrap());
        }
        (requests, unread)
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_not_read_keep_their_places_and_lose_them_in_time() {
        let bench = Bench::new(64);
        // The answer is shorter than a chunk: HTTP/2 takes all of it in, and waits.
        let _held = without_window(&bench, 20, "/short").await;
        tokio::time::sleep(bench.limits.send / 2).await;
        assert_eq!(bench.places.pool.used(), 20, "what waits for its reader is accounted for");
        tokio::time::sleep(bench.limits.send).await;
        assert_eq!(bench.places.pool.used(), 1, "they were reset, and the connection stands");
        // Nothing is asked for on it: it ends.
        tokio::time::sleep(IDLE + bench.limits.send).await;
        assert_eq!(bench.places.pool.used(), 0);
    }

    /// Waits until whoever had to go has gone; much less than a reader may take.
    async fn gone(pool: &Pool, left: u64) {
        let going = async {
            while pool.used() > left {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_millis(500), going).await.expect("it has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_makes_room_for_somebody_else() {
        let bench = Bench::new(20);
        let _held = without_window(&bench, 20, "/endless").await;
        let mut newcomers = Vec::new();
        for number in 0..10 {
            let taken = bench.places.pool.take([198, 51, 100 + number, 1].into(), 1);
            newcomers.push(taken.expect("there is room"));
            gone(&bench.places.pool, 20).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_are_not_turned_away_while_others_make_room() {
        let pool = Pool::new(20);
        for _ in 0..20 {
            let taken = pool.take(HOME.into(), 1).unwrap();
            tokio::spawn(async move {
                taken.evicted().await;
                tokio::time::sleep(MOMENT * 3).await;
            });
        }
        let mut newcomers = Vec::new();
        for number in 0..10 {
            newcomers.push(place(&pool, [198, 51, 100 + number, 1].into()).await.expect("there is room"));
        }
        assert!(place(&pool, HOME.into()).await.is_err(), "it has its share");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_memory_that_is_not_read_makes_room_for_somebody_else() {
        let bench = Bench::new(64);
        let mut unread = Vec::new();
        for _ in 0..2 {
            let mut far = bench.connect(None);
            far.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            far.read_exact(&mut [0; 12]).await.unwrap();
            unread.push(far);
        }
        assert_eq!(bench.places.bytes.used(), 120_000);
        let taken = bench.places.bytes.take([198, 51, 100, 1].into(), 60_000).expect("there is room");
        // It is not asked for more meanwhile, and goes all the same.
        gone(&bench.places.bytes, 120_000).await;
        drop((taken, unread));
    }

    #[tokio::test]
    async fn answers_in_memory_that_nobody_reads_are_bounded_in_bytes() {
        let bench = Bench::new(64);
        let mut head = [0; 12];
        let mut unread = Vec::new();
        for number in 0..5 {
            let mut far = bench.connect(None);
            far.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            far.read_exact(&mut head).await.unwrap();
            assert_eq!(&head[9..], if number < 2 { b"200" } else { b"503" }, "{number}");
            unread.push(far);
        }
        // Who reads gets all of it, and leaves room.
        let mut first = unread.swap_remove(0);
        let mut text = String::new();
        while !text.ends_with("xxx") || text.len() < 60_000 {
            text.push(char::from(first.read_u8().await.unwrap()));
        }
        let mut far = bench.connect(None);
        far.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        far.read_exact(&mut head).await.unwrap();
        assert_eq!(&head[9..], b"200");
    }
}
