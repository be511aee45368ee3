//! What a request may bring, and how long its answer counts as work.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{BoxError, body::Body as AxumBody};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use minuet_guard::pool::{Pool, Taken};
use tokio::{
    sync::watch,
    time::{Sleep, sleep},
};

use crate::{
    Limits,
    file::CHUNK,
    outlet::{Outlet, evicted},
};

/// A request's body is longer than it may be, or takes longer.
#[derive(Debug, thiserror::Error)]
pub enum Excess {
    /// Too many bytes.
    #[error("the request's body is too long")]
    Length,
    /// Too much time.
    #[error("the request's body takes too long")]
    Time,
}

/// A request's body within its limits.
pub struct Bounded {
    body: Incoming,
    left: usize,
    timer: Pin<Box<Sleep>>,
}

impl Bounded {
    /// None if the body says that it is too long.
    pub fn new(body: Incoming, limits: &Limits) -> Option<Self> {
        let fits = body.size_hint().lower() <= limits.body_len as u64;
        let timer = Box::pin(sleep(limits.body));
        fits.then_some(Self { body, left: limits.body_len, timer })
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let len = frame.data_ref().map_or(0, Bytes::len);
                match this.left.checked_sub(len) {
                    Some(left) => {
                        this.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => Poll::Ready(Some(Err(Excess::Length.into()))),
                }
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => this.timer.as_mut().poll(cx).map(|()| Some(Err(Excess::Time.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's place, and how many of its requests are being answered: as long as there are some, it is of use.
#[derive(Debug)]
pub struct Work {
    taken: Arc<Taken>,
    requests: watch::Sender<usize>,
    ip: IpAddr,
    places: Places,
}

/// What the answers of a server take up.
#[derive(Debug, Clone)]
pub struct Places {
    /// Connections, and requests beside the first of a connection.
    pub pool: Pool,
    /// Bytes of answers that are in memory as a whole.
    pub bytes: Pool,
}

impl Work {
    /// Nothing has been asked for yet.
    pub fn new(taken: Arc<Taken>, ip: IpAddr, places: Places) -> Self {
        Self { taken, requests: watch::Sender::new(0), ip, places }
    }

    /// Resolves when nothing has been asked for so long.
    pub async fn is_left_alone(&self, limit: Duration) {
        let mut news = self.requests.subscribe();
        loop {
            // It has a sender as long as there is this.
            let _ = news.wait_for(|requests| *requests == 0).await;
            if tokio::time::timeout(limit, news.wait_for(|requests| *requests > 0)).await.is_err() {
                return;
            }
        }
    }

    /// One more request, as long as what is returned lives: the connection is of use.
    ///
    /// # Errors
    /// The connection has another request under way, and there is no place for one more: all that can be answered is that.
    pub fn begin(self: &Arc<Self>) -> Result<Busy, Busy> {
        let mut is_first = false;
        self.requests.send_modify(|requests| {
            is_first = *requests == 0;
            *requests = requests.saturating_add(1);
        });
        self.taken.set_useful(true);
        let mut busy = Busy { work: Arc::clone(self), place: None };
        if is_first {
            return Ok(busy);
        }
        match self.places.pool.take(self.ip, 1) {
            Ok(place) => {
                busy.place = Some(place);
                Ok(busy)
            }
            Err(_) => Err(busy),
        }
    }
}

/// Says that a connection is of use, until dropped: it is being answered.
#[derive(Debug)]
pub struct Busy {
    work: Arc<Work>,
    /// Of a request that is not the connection's only one.
    place: Option<Taken>,
}

impl Busy {
    /// Resolves when this request has to make room for somebody else. Cancel-safe.
    pub async fn evicted(&self) {
        match &self.place {
            Some(place) => place.evicted().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut is_last = false;
        self.work.requests.send_modify(|requests| {
            *requests = requests.saturating_sub(1);
            is_last = *requests == 0;
        });
        if is_last {
            self.work.taken.set_useful(false);
        }
    }
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
#[error("somebody else needs the room")]
struct Evicted;

/// An answer's body, which keeps its connection busy until it was sent. What is in memory as a whole is accounted for, and
/// given in chunks: the server takes the next one when the reader has taken most of those before.
pub struct Answer {
    body: AxumBody,
    /// What is left of a frame that is longer than a chunk.
    rest: Bytes,
    busy: Busy,
    bytes: Option<Taken>,
    evicted: Pin<Box<dyn Future<Output = ()> + Send>>,
    outlet: Option<Arc<Outlet>>,
}

impl Answer {
    /// Of a busy connection.
    ///
    /// # Errors
    /// There is no room for an answer of this length in memory.
    pub fn new(body: AxumBody, busy: Busy) -> Result<Self, Busy> {
        // Exact of what is in memory, and of nothing else.
        let length = body.size_hint().exact().unwrap_or(0);
        let bytes = match length > CHUNK as u64 {
            true => match busy.work.places.bytes.take(busy.work.ip, length) {
                Ok(taken) => Some(taken),
                Err(_) => return Err(busy),
            },
            false => None,
        };
        let evictions = [&busy.place, &bytes].map(|taken| taken.as_ref().map(Taken::eviction));
        let outlet = Outlet::current();
        if let Some(outlet) = &outlet {
            outlet.end_with(evictions.clone());
        }
        let evicted = Box::pin(evicted(evictions));
        Ok(Self { body, rest: Bytes::new(), busy, bytes, evicted, outlet })
    }

    /// Nothing.
    pub fn empty(busy: Busy) -> Self {
        let evicted = Box::pin(std::future::pending());
        Self { body: AxumBody::empty(), rest: Bytes::new(), busy, bytes: None, evicted, outlet: None }
    }

    fn chunk(&mut self) -> Option<Frame<Bytes>> {
        let length = self.rest.len().min(CHUNK);
        (length > 0).then(|| self.rest.split_to(length)).map(|chunk| self.send(chunk))
    }

    fn send(&self, chunk: Bytes) -> Frame<Bytes> {
        Frame::data(match &self.outlet {
            Some(outlet) if !chunk.is_empty() => outlet.send(chunk),
            _ => chunk,
        })
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let bounded = this.busy.place.is_some() || this.bytes.is_some();
        if bounded && this.evicted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(Evicted))));
        }
        if let Some(outlet) = &this.outlet {
            std::task::ready!(outlet.poll_free(cx));
        }
        if let Some(chunk) = this.chunk() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        match std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.len() > CHUNK => {
                    this.rest = data;
                    Poll::Ready(this.chunk().map(Ok))
                }
                Ok(data) => Poll::Ready(Some(Ok(this.send(data)))),
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_sent = self.outlet.as_ref().is_none_or(|outlet| outlet.is_free());
        is_sent && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest.is_empty() {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}
