//! Where answers go out: who reads, and who has to go.
//!
//! An answer that is not read is not asked for more, so it cannot see by itself that its place has gone to somebody else. What
//! runs it has an outlet, which sees that: a connection of HTTP/1.1 has one, and each stream of HTTP/2 has one of its own.
//!
//! A stream needs more than that. The connection's socket does not show that a stream is not read: its client reads the
//! connection, and gives the stream no window. So a stream has an account of patience of its own, as [`io`](crate::io) keeps it
//! for a connection. And HTTP/2 takes a chunk in as soon as one byte of it may go, and holds it until all of it has gone: so a
//! stream is given the next chunk, or its end, only when the one before has left. It holds one chunk, and its place until then.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::Executor;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Limits;

/// How often it is looked whether a stream is read.
const LOOK: Duration = Duration::from_secs(1);

tokio::task_local! {
    static OUTLET: Arc<Outlet>;
}

/// Runs the streams of HTTP/2 connections: they end with the server, like the connections.
#[derive(Clone)]
pub struct Streams {
    /// All that runs.
    pub tasks: TaskTracker,
    /// The server ends.
    pub stop: CancellationToken,
    /// How long a reader may take.
    pub limits: Limits,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let stop = self.stop.clone();
        let outlet = Outlet::of_stream(self.limits);
        // Ended early, it is reset.
        self.tasks.spawn(async move { stop.run_until_cancelled(outlet.run(stream)).await });
    }
}

/// See the module.
#[derive(Debug)]
pub struct Outlet {
    state: Mutex<State>,
    /// Of a stream.
    limits: Option<Limits>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// What the answer holds has to be given back when one of these is cancelled.
    evictions: Evictions,
    /// What is left of the patience.
    left: Duration,
    /// Since when a chunk waits, if one does.
    waits: Option<Instant>,
    /// Of whoever has the next chunk.
    waker: Option<Waker>,
}

/// What is cancelled when a holder has to go.
pub type Evictions = [Option<CancellationToken>; 2];

/// A chunk on its way; dropped when it has left.
struct Chunk {
    bytes: Bytes,
    outlet: Arc<Outlet>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.outlet.left(self.bytes.len());
    }
}

impl Outlet {
    /// Of a connection, whose socket is watched.
    pub fn of_connection() -> Arc<Self> {
        Self::new(None)
    }

    fn of_stream(limits: Limits) -> Arc<Self> {
        Self::new(Some(limits))
    }

    fn new(limits: Option<Limits>) -> Arc<Self> {
        let left = limits.map_or(Duration::MAX, |limits| limits.send);
        let state = State { evictions: [None, None], left, waits: None, waker: None };
        Arc::new(Self { state: Mutex::new(state), limits, changed: Notify::new() })
    }

    /// That of the connection or stream whose task this is.
    pub fn current() -> Option<Arc<Self>> {
        OUTLET.try_with(Arc::clone).ok()
    }

    /// Runs what answers, until it has to go: its reader is too slow, or somebody else needs what it holds.
    pub async fn run<T>(self: Arc<Self>, answering: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = OUTLET.scope(Arc::clone(&self), answering) => Some(done),
            () = self.fails() => None,
        }
    }

    /// What is answered now has to go when one of these is cancelled.
    pub fn end_with(&self, evictions: Evictions) {
        self.lock().evictions = evictions;
        self.changed.notify_one();
    }

    /// A chunk as it is sent.
    pub fn send(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if self.limits.is_none() {
            return bytes;
        }
        self.lock().waits = Some(Instant::now());
        Bytes::from_owner(Chunk { bytes, outlet: Arc::clone(self) })
    }

    /// Whether nothing waits.
    pub fn is_free(&self) -> bool {
        self.lock().waits.is_none()
    }

    /// Waits until the chunk before has left.
    pub fn poll_free(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.waits.is_none() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn left(&self, count: usize) {
        let (mut state, Some(limits)) = (self.lock(), self.limits) else { return };
        let Some(since) = state.waits.take() else { return };
        let earned = Duration::from_secs_f64(count as f64 / limits.send_rate.max(1) as f64);
        state.left = state.left.saturating_sub(since.elapsed()).saturating_add(earned).min(limits.send);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn fails(&self) {
        loop {
            let evictions = self.lock().evictions.clone();
            tokio::select! {
                () = evicted(evictions) => return,
                () = self.changed.notified() => {}
                () = sleep(LOOK), if self.limits.is_some() => {}
            }
            let state = self.lock();
            if state.waits.is_some_and(|since| since.elapsed() >= state.left) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each field is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when one of them is cancelled.
pub async fn evicted(evictions: Evictions) {
    let [one, other] = evictions.map(|token| async move {
        match token {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    });
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}
