//! The body of an answer: bytes that are there, an event stream, or a torrent from disk.
//!
//! Nothing is handed to a connection faster than its client takes it: bytes go in frames of [`FRAME`], and what has not
//! been taken is accounted to the client's household ([`Body::hold`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Frame, SizeHint};
use minuet_guard::pool::Taken;

/// The most bytes that a connection is handed at once.
pub const FRAME: usize = 16 << 10;

/// Events as bytes, each chunk whole.
pub type EventChunks = Pin<Box<dyn Stream<Item = Bytes> + Send>>;
/// Parts of something that lies on disk, each [`FRAME`] long at most.
pub type Parts = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The body of an answer.
pub enum Body {
    /// Bytes that are there, and the account that they are on.
    Full(Bytes, Option<Arc<Taken>>),
    /// Events as they come.
    Events(EventChunks),
    /// So many bytes that are fetched when they are needed.
    Parts(Parts, u64),
}

impl Body {
    /// Bytes that wait in memory to be sent.
    pub fn waiting(&self) -> usize {
        match self {
            Self::Full(bytes, _) => bytes.len(),
            Self::Events(_) | Self::Parts(..) => 0,
        }
    }

    /// Bytes that there are to be sent; `None` when it goes on as long as the client likes.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Full(bytes, _) => Some(bytes.len() as u64),
            Self::Events(_) => None,
            Self::Parts(_, left) => Some(*left),
        }
    }

    /// Keeps an account until the bytes have been handed over.
    pub fn hold(&mut self, account: Arc<Taken>) {
        if let Self::Full(_, held) = self {
            *held = Some(account);
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes, None)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Full(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes, held) => {
                if held.as_ref().is_some_and(|account| account.is_evicted()) {
                    return Poll::Ready(Some(Err(io::ErrorKind::OutOfMemory.into())));
                }
                let frame = bytes.split_to(bytes.len().min(FRAME));
                Poll::Ready(Some(Ok(Frame::data(frame))))
            }
            Self::Events(chunks) => {
                chunks.as_mut().poll_next(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Parts(_, 0) => Poll::Ready(None),
            Self::Parts(parts, left) => match std::task::ready!(parts.as_mut().poll_next(cx)) {
                Some(Ok(part)) if !part.is_empty() && part.len() as u64 <= *left => {
                    *left -= part.len() as u64;
                    Poll::Ready(Some(Ok(Frame::data(part))))
                }
                // The client must not take it for whole.
                Some(Ok(_)) | None => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                Some(Err(error)) => Poll::Ready(Some(Err(error))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.length() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
