//! The server: takes connections in as far as there are places, and keeps each within its limits.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use minuet_guard::pool::{Pool, Taken};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

use crate::{
    Limits,
    io::Watched,
    request::{Answer, Bounded, Busy},
};

/// Bytes of a connection's heads and answers that are in memory, each way.
pub const MAX_BUFFER: usize = 16 << 10;
/// Headers of a request; twice what browsers send.
const MAX_HEADERS: usize = 64;
/// How long nobody is taken in when the system has no descriptor or no memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);
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
/// `pool`, which several servers may share. Handlers find the peer's address as [`ConnectInfo<SocketAddr>`].
///
/// # Errors
/// When the listening socket fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    pool: Pool,
    stop: CancellationToken,
) -> Result<(), Error> {
    let connections = TaskTracker::new();
    // Ends the connections as well when this future is dropped.
    let stop = stop.child_token();
    let _ended = stop.clone().drop_guard();
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match pool.take(peer.ip().to_canonical(), 1) {
                Ok(taken) => {
                    let connection = connection(stream, peer, router.clone(), limits, Arc::new(taken));
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

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, taken: Arc<Taken>) {
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&taken), limits));
    let place = Arc::clone(&taken);
    let service = service_fn(move |request: Request<Incoming>| {
        answer(request, peer, router.clone(), limits, Arc::clone(&taken))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = place.evicted() => return tracing::debug!("{peer} gives its place to somebody else"),
    };
    if let Err(error) = ended {
        tracing::debug!("{peer}: {error}");
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    mut router: Router,
    limits: Limits,
    taken: Arc<Taken>,
) -> Result<Response<Answer>, Infallible> {
    let busy = Busy::new(taken);
    let (mut head, body) = request.into_parts();
    let Some(body) = Bounded::new(body, &limits) else {
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Ok(refusal.map(|body| Answer::new(body, busy)));
    };
    head.extensions.insert(ConnectInfo(peer));
    let response = router.call(Request::from_parts(head, Body::new(body))).await?;
    Ok(response.map(|body| Answer::new(body, busy)))
}
