//! HTTP/1.1: connections, their limits, and which request goes where.
//!
//! What is asked most is answered in [`direct`]; of the rest hyper parses the requests, and they are dispatched here by
//! hand, since there are a dozen paths. A connection that sends its head or body too slowly, or does not take its
//! answer, is closed: [`HEAD_TIMEOUT`] (also the longest idle time), [`BODY_TIMEOUT`], and for answers
//! [`SEND_TIMEOUT`] and [`LEAST_RATE`]. Memory has an owner too: what comes in and what waits to go out is accounted to
//! the client's household ([`request_body`], [`under_way`]).

mod bittorrent;
pub mod body;
mod channel;
pub mod client_addr;
mod direct;
mod events;
pub(crate) mod front;
mod mesh;
pub mod own_url;
mod pages;
mod request_body;
pub mod tls;
mod under_way;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use iroh_relay::server::streams::MaybeTlsStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::config::HttpLimits;
use crate::connections::Place;
use crate::relay::{self, RELAY_PATH, RELAY_PROBE_PATH};
use body::Body;
use front::Front;
use under_way::UnderWay;

/// How long a client may take to send a request's head; how long a connection may be idle.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a publisher may take to send a body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long sent bytes may stay unacknowledged or unread.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes a second that a client takes at least of an answer, once [`SEND_TIMEOUT`] is over.
pub const LEAST_RATE: u64 = 8 << 10;
/// Bytes that the kernel takes of an answer beyond what is on its way to the client. It would take megabytes, which are nobody's
/// account: of a client that reads nothing, and for hundreds of its requests.
const UNSENT_BYTES: u32 = 64 << 10;
/// How long a shutdown waits for answers under way.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest request head in bytes.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// Connections that the kernel holds before they are accepted.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens a listening socket. Must be called in a runtime.
pub(crate) fn bind(addr: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // Lets a restarted tracker listen while connections of the last one linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How long a client may take for an answer of so many bytes.
fn patience(bytes: u64) -> Duration {
    SEND_TIMEOUT + Duration::from_secs(bytes / LEAST_RATE)
}

/// Accepts connections until the tracker shuts down.
pub(crate) async fn accept(front: Arc<Front>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = front.running.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let trusted = front.state.config.http.trusts(peer.ip().to_canonical());
        let Some(place) = front.connections.enter(peer.ip(), trusted) else {
            front.state.metrics.connections_refused.increment();
            continue;
        };
        let connection = Arc::clone(&front);
        front.running.tasks.spawn(async move {
            serve(&connection, stream, peer, Arc::new(place)).await;
        });
    }
}

async fn serve(front: &Arc<Front>, stream: TcpStream, peer: SocketAddr, place: Arc<Place>) {
    let options = SockRef::from(&stream);
    let set = options
        .set_tcp_nodelay(true)
        .and(options.set_tcp_user_timeout(Some(SEND_TIMEOUT)))
        .and(options.set_tcp_notsent_lowat(UNSENT_BYTES));
    if let Err(error) = set {
        debug!(%error, %peer, "cannot set socket options");
    }
    let stream = match opening(front, stream).await.map(|stream| *stream) {
        Some(MaybeTlsStream::Plain(stream)) => direct::serve(front, stream, peer, &place)
            .await
            .map(|stream| Box::new(MaybeTlsStream::Plain(stream))),
        stream => stream.map(Box::new),
    };
    if let Some(stream) = stream {
        run(front, stream, peer, place).await;
    }
}

/// Shakes hands when the client speaks TLS and the tracker has a certificate.
async fn opening(front: &Front, stream: TcpStream) -> Option<Box<MaybeTlsStream>> {
    let Some(tls) = &front.tls else { return Some(Box::new(MaybeTlsStream::Plain(stream))) };
    tokio::select! {
        // Boxed, so that connections do not hold room for a handshake after it.
        opening = tokio::time::timeout(HEAD_TIMEOUT, Box::pin(tls::accept(tls, stream))) => {
            opening.ok()?.ok().map(Box::new)
        }
        () = front.running.shutdown.cancelled() => None,
    }
}

/// Marks a request that came over TLS.
#[derive(Debug, Clone, Copy)]
struct Secure;

/// Answers the requests of a connection until it ends, does not take its answer, has to go, or the tracker shuts down.
async fn run(front: &Arc<Front>, stream: Box<MaybeTlsStream>, peer: SocketAddr, place: Arc<Place>) {
    let (say, mut under_way) = watch::channel(UnderWay::default());
    let mut connection = connection(front, stream, peer, Arc::clone(&place), Arc::new(say));
    let mut watched = true;
    let result = loop {
        let now = under_way.borrow_and_update().clone();
        tokio::select! {
            result = connection.as_mut() => break result,
            // Ends with the connection's service, which ends with the connection.
            changed = under_way.changed(), if watched => watched = changed.is_ok(),
            why = now.ends() => {
                debug!(%peer, "hanging up on a client: {why}");
                return;
            }
            () = place.evicted() => return,
            () = front.running.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                break tokio::time::timeout(SHUTDOWN_TIMEOUT, connection).await.unwrap_or(Ok(()));
            }
        }
    };
    if let Err(error) = result {
        debug!(%error, %peer, "connection ended");
    }
}

/// What answers the requests of one connection.
trait Service:
    hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
{
}

impl<S> Service for S where
    S: hyper::service::Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send,
        >
{
}

/// A connection as hyper serves it. Made in its place on the heap: a future that moves it holds room for it twice,
/// and there may be many thousands.
fn connection(
    front: &Arc<Front>,
    stream: Box<MaybeTlsStream>,
    peer: SocketAddr,
    place: Arc<Place>,
    under_way: Arc<watch::Sender<UnderWay>>,
) -> Pin<Box<UpgradeableConnection<TokioIo<MaybeTlsStream>, impl Service + use<>>>> {
    let secure = matches!(*stream, MaybeTlsStream::Tls(_));
    let first = AtomicBool::new(true);
    let front = Arc::clone(front);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (front, place, under_way) = (Arc::clone(&front), Arc::clone(&place), Arc::clone(&under_way));
        if secure {
            request.extensions_mut().insert(Secure);
        }
        let first = first.swap(false, Ordering::Relaxed);
        // Boxed, so that a connection has no room of its own for what answers a request while it is idle or streams.
        Box::pin(async move {
            // However many requests a client sends at once, others have their turn between them.
            if !first {
                tokio::task::yield_now().await;
            }
            // Idle until the next answer is under way.
            under_way.send_replace(UnderWay::default());
            let trusts = |ip| front.state.config.http.trusts(ip);
            let ip = client_addr::client_ip(peer.ip(), request.headers(), trusts);
            let response = answer(Arc::clone(&front), peer, place, request).await;
            Ok::<_, Infallible>(under_way::send(&front.answers, ip, response, &under_way))
        })
    });
    Box::pin(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            // No flushing of pipelines: with it hyper takes an answer in whole, however slowly the client reads.
            .half_close(true)
            .serve_connection(TokioIo::new(*stream), service)
            // As the relay server takes it over, when it is asked for.
            .with_upgrades(),
    )
}

/// Whether a request came over TLS, to the tracker itself or to a proxy that it trusts.
fn is_secure(limits: &HttpLimits, peer: SocketAddr, request: &Request<Incoming>) -> bool {
    let by_proxy = || {
        limits.trusts(peer.ip().to_canonical())
            && request.headers().get("x-forwarded-proto").is_some_and(|proto| proto == "https")
    };
    request.extensions().get::<Secure>().is_some() || by_proxy()
}

async fn answer(
    front: Arc<Front>,
    peer: SocketAddr,
    place: Arc<Place>,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path();
    // The channel part of the path, if it is one, is parsed by its own module.
    if let Some(rest) = path.strip_prefix("/c/") {
        let rest = rest.to_owned();
        return channel::answer(front, peer, rest, request).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return wrong_method("GET, HEAD");
    }
    match path {
        RELAY_PATH => relay(&front, peer, place, request),
        // Nodes measure their way to a relay server by this.
        RELAY_PROBE_PATH if front.relay.is_some() => text(StatusCode::OK, "pong\n"),
        "/announce" => {
            let ip =
                client_addr::client_ip(peer.ip(), request.headers(), |ip| front.state.config.http.trusts(ip));
            let mut out = Vec::new();
            bittorrent::announce(&front.state, ip, query(&request).as_bytes(), &mut out);
            respond(StatusCode::OK, bittorrent::CONTENT_TYPE, out)
        }
        "/scrape" => {
            let mut out = Vec::new();
            bittorrent::scrape(&front.state, query(&request).as_bytes(), &mut out);
            respond(StatusCode::OK, bittorrent::CONTENT_TYPE, out)
        }
        "/health" => text(StatusCode::OK, "ok\n"),
        "/metrics" => pages::metrics(&front),
        "/status" => pages::status(&front),
        "/channels" => {
            let ip =
                client_addr::client_ip(peer.ip(), request.headers(), |ip| front.state.config.http.trusts(ip));
            pages::directory(&front.state, &front.answers, ip, query(&request))
        }
        "/" => pages::home(&front.state),
        "/site.css" => pages::style(),
        _ => text(StatusCode::NOT_FOUND, "there is nothing here; see / for what this tracker serves\n"),
    }
}

fn query(request: &Request<Incoming>) -> &str {
    request.uri().query().unwrap_or_default()
}

/// Hands a connection to the relay server.
fn relay(front: &Front, peer: SocketAddr, place: Arc<Place>, request: Request<Incoming>) -> Response<Body> {
    let Some(server) = &front.relay else {
        return text(StatusCode::NOT_FOUND, "this tracker has no relay server\n");
    };
    let limits = &front.state.config.http;
    let ip = client_addr::client_ip(peer.ip(), request.headers(), |ip| limits.trusts(ip));
    relay::upgrade(server, &front.running, request, ip, place).map(Body::from)
}

/// An answer of a content type.
fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in one sentence.
fn text(status: StatusCode, sentence: impl Into<String>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", sentence.into().into_bytes())
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut response =
        text(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allowed} requests only\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A refusal for now.
fn try_later(sentence: impl Into<String>, seconds: u32) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, sentence);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}
