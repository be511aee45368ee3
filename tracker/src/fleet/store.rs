//! A connection to the shared store that what is in the store cannot fill the memory through: a text that is longer than any
//! tracker writes is passed over as it comes in, as if there were none, and said once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use redis::{Client, ConnectionAddr, ErrorKind, RedisResult};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tracing::warn;

/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// The longest line of the protocol, such as an error of the store's.
const MAX_LINE: usize = 4 << 10;
/// Digits of a length, with its sign.
const MAX_DIGITS: usize = 20;
/// Bytes of news that wait to be taken in; then no more are read.
const MAX_BACKLOG: usize = 16 << 20;

/// Says once that there is something in the store that is too long.
#[derive(Debug, Clone, Default)]
pub(super) struct Oversized(Arc<AtomicBool>);

impl Oversized {
    /// There is one of so many bytes.
    pub fn tell(&self, bytes: u64) {
        if !self.0.swap(true, Ordering::Relaxed) {
            warn!(
                "something in the shared store is longer than trackers write ({bytes} bytes); such things are left out; let \
                 nobody but trackers write there"
            );
        }
    }
}

/// A stream to a store.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Opens a stream to the store on which no text is longer than `longest`.
pub(super) async fn open(
    client: &Client,
    longest: u64,
    oversized: &Oversized,
    backlog: Option<Arc<Backlog>>,
) -> RedisResult<Bounded<Box<dyn Stream>>> {
    let stream: Box<dyn Stream> = match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
        _ => return Err((ErrorKind::InvalidClientConfig, "a shared store is reached without TLS").into()),
    };
    Ok(Bounded::new(stream, longest, oversized.clone(), backlog))
}

/// Bytes of texts that were read and not yet taken in.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: AtomicUsize,
    waiting: AtomicWaker,
}

impl Backlog {
    /// So many have been taken in.
    pub fn taken(&self, bytes: usize) {
        let less = |held: usize| Some(held.saturating_sub(bytes));
        // Never refused.
        let _ = self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.waiting.wake();
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.bytes.load(Ordering::Acquire) < MAX_BACKLOG { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A stream whose long texts are left out.
pub(super) struct Bounded<S> {
    inner: S,
    shortener: Shortener,
    oversized: Oversized,
    backlog: Option<Arc<Backlog>>,
    read: Box<[u8]>,
    /// What has been read and may be passed on, from here on.
    ready: (Vec<u8>, usize),
}

impl<S> Bounded<S> {
    fn new(inner: S, longest: u64, oversized: Oversized, backlog: Option<Arc<Backlog>>) -> Self {
        let (shortener, read) = (Shortener::new(longest), vec![0; READ].into());
        Self { inner, shortener, oversized, backlog, read, ready: (Vec::with_capacity(READ), 0) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, shortener, oversized, backlog, read, ready } = &mut *self;
        while ready.1 >= ready.0.len() {
            if let Some(backlog) = backlog {
                ready!(backlog.poll_room(cx));
            }
            let mut come = ReadBuf::new(read);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut come))?;
            if come.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready.0.clear();
            ready.1 = 0;
            let passed = shortener.pass(come.filled(), &mut ready.0)?;
            if let Some(backlog) = backlog {
                backlog.bytes.fetch_add(passed.text, Ordering::AcqRel);
            }
            if let Some(bytes) = passed.left_out {
                oversized.tell(bytes);
            }
        }
        let rest = &ready.0[ready.1..];
        let fits = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..fits]);
        ready.1 += fits;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What [`Shortener::pass`] has seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Passed {
    /// Bytes of texts that were passed on.
    text: usize,
    /// The length of a text that was left out.
    left_out: Option<u64>,
}

/// Reads the store's protocol (RESP) no further than it takes to know how long its texts are. Pure.
#[derive(Debug)]
struct Shortener {
    longest: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// At the beginning of a line.
    Start,
    /// In a line that says no length, after so many bytes.
    Line(usize),
    /// In a line that says a text's length: what has come of it.
    Length(Vec<u8>),
    /// In a text and the end of line after it, of which so much is still to come.
    Text(u64),
    /// In one that is left out.
    Skip(u64),
}

impl Shortener {
    fn new(longest: u64) -> Self {
        Self { longest, state: State::Start }
    }

    /// Appends to `out` what may be passed on of what has come.
    fn pass(&mut self, mut come: &[u8], out: &mut Vec<u8>) -> io::Result<Passed> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut passed = Passed::default();
        while let Some(first) = come.first() {
            match &mut self.state {
                State::Start => {
                    self.state = match first {
                        b'$' | b'=' | b'!' => State::Length(Vec::new()),
                        _ => State::Line(0),
                    };
                }
                State::Line(before) => {
                    let (line, ends) = line(come);
                    *before += line.len();
                    if *before > MAX_LINE {
                        return Err(wrong("the shared store has sent a line without end"));
                    }
                    out.extend_from_slice(line);
                    come = &come[line.len()..];
                    if ends {
                        self.state = State::Start;
                    }
                }
                State::Length(held) => {
                    let (line, ends) = line(come);
                    held.extend_from_slice(&line[..line.len().min(MAX_DIGITS + 4)]);
                    come = &come[line.len()..];
                    if held.len() > MAX_DIGITS + 3 {
                        return Err(wrong("the shared store has sent a length without end"));
                    }
                    if ends {
                        let digits = std::str::from_utf8(&held[1..]).ok().map(str::trim_ascii_end);
                        let length: i64 = digits
                            .and_then(|digits| digits.parse().ok())
                            .ok_or_else(|| wrong("the shared store has sent a length that is no number"))?;
                        // Less than nothing says that there is no text.
                        self.state = match u64::try_from(length) {
                            Err(_) => {
                                out.extend_from_slice(held);
                                State::Start
                            }
                            Ok(length) if length > self.longest => {
                                out.extend_from_slice(b"$-1\r\n");
                                passed.left_out = Some(length);
                                State::Skip(length.saturating_add(2))
                            }
                            Ok(length) => {
                                out.extend_from_slice(held);
                                State::Text(length.saturating_add(2))
                            }
                        };
                    }
                }
                State::Text(left) | State::Skip(left) => {
                    let part = come.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= part as u64;
                    let ends = *left == 0;
                    if matches!(self.state, State::Text(_)) {
                        out.extend_from_slice(&come[..part]);
                        passed.text += part;
                    }
                    come = &come[part..];
                    if ends {
                        self.state = State::Start;
                    }
                }
            }
        }
        Ok(passed)
    }
}

/// The line that `bytes` begin with, and whether its end is there.
fn line(bytes: &[u8]) -> (&[u8], bool) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..=end], true),
        None => (bytes, false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is passed on of `come`, which comes in parts of `part` bytes.
    fn passed(come: &[u8], part: usize) -> io::Result<(Vec<u8>, Option<u64>)> {
        let (mut shortener, mut out, mut left_out) = (Shortener::new(5), Vec::new(), None);
        for some in come.chunks(part.max(1)) {
            left_out = shortener.pass(some, &mut out)?.left_out.or(left_out);
        }
        Ok((out, left_out))
    }

    #[test]
    fn a_long_text_is_passed_over_however_it_comes() {
        let come = b"*4\r\n$5\r\nh\r\nlo\r\n$6\r\n$3\r\nab\r\n:7\r\n$-1\r\n+OK\r\n$0\r\n\r\n";
        let left = b"*4\r\n$5\r\nh\r\nlo\r\n$-1\r\n:7\r\n$-1\r\n+OK\r\n$0\r\n\r\n";
        for part in 1..=come.len() {
            assert_eq!(passed(come, part).unwrap(), (left.to_vec(), Some(6)), "{part}");
        }
    }

    #[test]
    fn what_is_not_the_protocol_ends_the_connection() {
        assert!(passed(b"$x\r\n", 1).is_err());
        assert!(passed(&[b"$".as_slice(), &[b'1'; 100]].concat(), 7).is_err());
        assert!(passed(&[b"-".as_slice(), &[b'x'; MAX_LINE]].concat(), 100).is_err());
    }

    #[tokio::test]
    async fn a_gigabyte_costs_no_memory_and_news_that_nobody_takes_wait_in_the_store() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (store, mut feed) = tokio::io::duplex(1 << 10);
        let backlog = Arc::new(Backlog::default());
        let mut bounded = Bounded::new(store, 1 << 20, Oversized::default(), Some(Arc::clone(&backlog)));
        let feeding = tokio::spawn(async move {
            feed.write_all(b"$100000000\r\n").await.unwrap();
            for _ in 0..100_000_000 / 1000 {
                feed.write_all(&[b'x'; 1000]).await.unwrap();
            }
            feed.write_all(b"\r\n").await.unwrap();
            loop {
                let text = [b"$1000\r\n".as_slice(), &[b'y'; 1000], b"\r\n"].concat();
                if feed.write_all(&text).await.is_err() {
                    return;
                }
            }
        });
        let mut head = [0; 5];
        bounded.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"$-1\r\n");
        assert!(bounded.ready.0.capacity() <= 2 * READ);
        let mut read = 0;
        let mut buffer = vec![0; 1 << 16];
        let stops = std::future::poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut bounded).poll_read(cx, &mut buffer);
            read += buffer.filled().len();
            match polled {
                // As long as the backlog has room, it only waits for more to come.
                Poll::Pending if backlog.bytes.load(Ordering::Relaxed) < MAX_BACKLOG => Poll::Pending,
                Poll::Pending => Poll::Ready(()),
                Poll::Ready(result) => {
                    result.unwrap();
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        });
        stops.await;
        assert!(read < MAX_BACKLOG + MAX_BACKLOG / 10, "{read}");
        backlog.taken(1 << 20);
        bounded.read_exact(&mut head).await.unwrap();
        drop(bounded);
        feeding.await.unwrap();
    }

    proptest! {
        #[test]
        fn parts_do_not_matter_and_nothing_panics(
            come in "[$*:+=!-]?[0-9]{0,2}(\r\n)?[a-z$]{0,8}(\r\n)?[$:][0-9]{1,2}\r\n[a-z\r\n]{0,30}",
            part in 1usize..9,
        ) {
            let whole = passed(come.as_bytes(), come.len()).ok();
            prop_assert_eq!(passed(come.as_bytes(), part).ok(), whole);
        }
    }
}
