//! Answers that are under way: what they hold, and how long they may take.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Response;
use minuet_guard::pool::Pool;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::body::{Body, FRAME};
use super::{HEAD_TIMEOUT, patience, try_later};

/// The answer that a connection is sending.
#[derive(Debug, Clone, Default)]
pub struct UnderWay {
    /// When the client should have taken it, and asked for something else.
    until: Option<Instant>,
    /// Cancelled when the bytes that wait have to go for others.
    evicted: Option<CancellationToken>,
}

impl UnderWay {
    /// Resolves, and says why, when the connection has to be closed for it.
    pub async fn ends(&self) -> &'static str {
        let late = async {
            match self.until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let evicted = async {
            match &self.evicted {
                Some(evicted) => evicted.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = late => "it takes its answer too slowly",
            () = evicted => "its answer waits, and others need the memory",
        }
    }
}

/// Accounts an answer to the client at `ip`, and notes that it is under way. In place of one that there is no memory
/// for another is returned, which says so.
pub fn send(
    answers: &Pool,
    ip: IpAddr,
    mut response: Response<Body>,
    under_way: &watch::Sender<UnderWay>,
) -> Response<Body> {
    let body = response.body_mut();
    // The last frame may wait in the connection after the account has been closed; so every answer has one frame free.
    let waiting = body.waiting().saturating_sub(FRAME);
    let mut evicted = None;
    if waiting > 0 {
        match answers.take(ip, waiting as u64) {
            Ok(account) => {
                evicted = Some(account.eviction());
                body.hold(Arc::new(account));
            }
            Err(_) => response = busy(),
        }
    }
    let until = response.body().length().map(|bytes| Instant::now() + patience(bytes) + HEAD_TIMEOUT);
    under_way.send_replace(UnderWay { until, evicted });
    response
}

/// What is said in place of an answer that there is no memory for.
pub fn busy() -> Response<Body> {
    try_later("the tracker is answering as many as it can; try again\n", 1)
}
