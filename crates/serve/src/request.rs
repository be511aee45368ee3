//! What a request may bring, and how long its answer counts as work.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{BoxError, body::Body as AxumBody};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use minuet_guard::pool::Taken;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Limits;

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
        let timer = Box::pin(sleep_until(Instant::now() + limits.body));
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

/// Says that a connection is of use, until dropped: it is being answered.
#[derive(Debug)]
pub struct Busy(Arc<Taken>);

impl Busy {
    /// From now on.
    pub fn new(taken: Arc<Taken>) -> Self {
        taken.set_useful(true);
        Self(taken)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_useful(false);
    }
}

/// An answer's body, which keeps its connection busy until it was sent.
pub struct Answer {
    body: AxumBody,
    _busy: Busy,
}

impl Answer {
    /// Of a busy connection.
    pub fn new(body: AxumBody, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
