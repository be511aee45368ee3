//! A connection's bytes, with a time for sending.
//!
//! A reader has an account of patience. While the server waits for it, the account runs down; what it takes fills the
//! account up again, at the least rate. So a reader that takes a byte now and then is found out as one that takes none.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use minuet_guard::pool::Taken;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use crate::Limits;

/// Bytes that the kernel may hold of an answer and has not sent. What it has sent is bounded by what the reader's
/// machine takes in.
pub const MAX_UNSENT: u32 = 128 << 10;
/// A reader that kept the server waiting so long is the first to go when somebody needs its place.
const USELESS_AFTER: Duration = Duration::from_secs(1);

fn moment(since: Instant, later: Duration) -> Instant {
    since.checked_add(later).unwrap_or(since)
}

/// A connection under watch.
#[derive(Debug)]
pub struct Watched {
    stream: TcpStream,
    taken: Arc<Taken>,
    limits: Limits,
    /// What is left of the patience.
    left: Duration,
    blocked: Option<Blocked>,
}

#[derive(Debug)]
struct Blocked {
    since: Instant,
    useless: bool,
    timer: Pin<Box<Sleep>>,
}

impl Watched {
    /// Watches a connection that has this place.
    pub fn new(stream: TcpStream, taken: Arc<Taken>, limits: Limits) -> Self {
        // Without them a reader costs more of the kernel's memory, and its answers come later.
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT);
        let _ = stream.set_nodelay(true);
        Self { stream, taken, limits, left: limits.send, blocked: None }
    }

    /// Takes in what came of a write.
    fn wrote(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(len)) => {
                if let Some(blocked) = self.blocked.take() {
                    self.left = self.left.saturating_sub(blocked.since.elapsed());
                    if blocked.useless {
                        self.taken.set_useful(true);
                    }
                }
                let earned = Duration::from_secs_f64(len as f64 / self.limits.send_rate.max(1) as f64);
                self.left = self.left.saturating_add(earned).min(self.limits.send);
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(cx),
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = self.left;
        let blocked = self.blocked.get_or_insert_with(|| {
            let since = Instant::now();
            let timer = Box::pin(sleep_until(moment(since, left.min(USELESS_AFTER))));
            Blocked { since, useless: false, timer }
        });
        loop {
            ready!(blocked.timer.as_mut().poll(cx));
            if blocked.since.elapsed() >= left {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader is too slow")));
            }
            blocked.useless = true;
            self.taken.set_useful(false);
            blocked.timer.as_mut().reset(moment(blocked.since, left));
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
