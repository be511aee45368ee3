//! What most connections are for, answered without hyper: announces, scrapes and event streams.
//!
//! A request's head is looked at where it is, in the socket. When it is there as a whole and asks for one of these it
//! is taken out and answered; everything else finds the connection untouched and goes to hyper with it, for good. So
//! an announce costs little more than its system calls, and a connection that is idle or in the middle of a head, or
//! a subscriber, has no buffer at all, of which hyper keeps 8 KiB and more.
//!
//! The answers are those that hyper's way gives, from the same functions; TLS connections take that way.

mod head;

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use rustix::net::RecvFlags;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::client_addr::client_ip;
use super::events::{Subscriber, last_seen};
use super::front::Front;
use super::{HEAD_TIMEOUT, bittorrent, channel, patience};
use crate::clock::Clock;
use crate::connections::Place;
use crate::state::Running;
use head::{Ask, Head, Not};

/// The longest head that is answered here, in bytes.
const MAX_HEAD_BYTES: usize = 4096;
/// Room for the digits of a body's length.
const LENGTH_DIGITS: usize = 8;
/// The head of an event stream, which ends with its connection.
const EVENTS_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
    x-accel-buffering: no\r\nconnection: close\r\n\r\n";

/// What to do next.
enum Next {
    /// The answer is written; the head has so many bytes.
    Answer { head: usize, close: bool },
    /// The client subscribes; the head has so many bytes.
    Stream { head: usize, subscriber: Subscriber },
    /// Somebody else answers.
    Leave,
    /// The client is gone or silent, or the tracker shuts down.
    End,
}

/// Answers the requests of a connection as long as they are of these kinds. Returns the connection, with the next
/// request still in it, when one is not.
pub(super) async fn serve(
    front: &Arc<Front>,
    mut stream: TcpStream,
    peer: SocketAddr,
    place: &Place,
) -> Option<TcpStream> {
    let mut idle = pin!(sleep(HEAD_TIMEOUT));
    let mut shutdown = pin!(front.running.shutdown.cancelled());
    let mut evicted = pin!(place.evicted());
    let mut out = Vec::new();
    loop {
        let mut come = 0;
        let next = poll_fn(|cx| {
            while stream.poll_read_ready(cx).is_ready() {
                // What has come of a head counts as nothing, so that more of it wakes the task again.
                let looked =
                    stream.try_io(Interest::READABLE, || look(front, peer, &stream, &mut come, &mut out));
                match looked {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    looked => return Poll::Ready(looked.unwrap_or(Next::End)),
                }
            }
            if idle.as_mut().poll(cx).is_ready() || evicted.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::End);
            }
            shutdown.as_mut().poll(cx).map(|()| Next::End)
        });
        match next.await {
            Next::Answer { head, close } => {
                take(&stream, head).ok()?;
                send(&front.running, &mut stream, place, &out).await.ok()?;
                if close {
                    return None;
                }
                idle.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
            }
            Next::Stream { head, subscriber } => {
                take(&stream, head).ok()?;
                drop(out);
                // The connection ends with it, whichever way.
                let _ = events(&front.running, stream, place, subscriber).await;
                return None;
            }
            Next::Leave => return Some(stream),
            Next::End => return None,
        }
    }
}

/// Looks at what is in the socket without taking it out. Nothing and half a head, of which `come` bytes had come before,
/// are [`io::ErrorKind::WouldBlock`].
fn look(
    front: &Arc<Front>,
    peer: SocketAddr,
    stream: &TcpStream,
    come: &mut usize,
    out: &mut Vec<u8>,
) -> io::Result<Next> {
    let mut space = [const { MaybeUninit::uninit() }; MAX_HEAD_BYTES];
    let ((bytes, _), _) = rustix::net::recv(stream, &mut space[..], RecvFlags::PEEK)?;
    if bytes.is_empty() {
        return Ok(Next::End);
    }
    match Head::parse(bytes, front.state.config.http.trusts(peer.ip().to_canonical())) {
        Ok(head) => Ok(decide(front, peer, head, out)),
        // A wake-up without more of it may be the end of the stream, which shows only to who takes the bytes out.
        Err(Not::Whole) if (*come + 1..MAX_HEAD_BYTES).contains(&bytes.len()) => {
            *come = bytes.len();
            Err(io::ErrorKind::WouldBlock.into())
        }
        Err(_) => Ok(Next::Leave),
    }
}

/// Writes the answer to `out` if there is one to be written.
fn decide(front: &Arc<Front>, peer: SocketAddr, head: Head<'_>, out: &mut Vec<u8>) -> Next {
    let (state, clock) = (&front.state, &front.state.clock);
    let trusts = |ip| front.state.config.http.trusts(ip);
    let query = head.query.as_bytes();
    match head.ask {
        Ask::Announce => write_answer(clock, head.close, out, |out| {
            bittorrent::announce(state, client_ip(peer.ip(), &head.forwarded, trusts), query, out);
        }),
        Ask::Scrape => write_answer(clock, head.close, out, |out| bittorrent::scrape(state, query, out)),
        Ask::Events(id) => {
            let subscriber = state.channels.get(&id).and_then(|channel| {
                let from = channel::parse_from(head.query).ok()?;
                let last_record = last_seen(&channel, from, head.last_event_id).ok()?;
                let ip = client_ip(peer.ip(), &head.forwarded, trusts);
                Subscriber::new(front, channel, ip, last_record)
            });
            // A refusal is rare enough to be hyper's.
            return subscriber
                .map_or(Next::Leave, |subscriber| Next::Stream { head: head.length, subscriber });
        }
    }
    Next::Answer { head: head.length, close: head.close }
}

/// Writes an answer whose body `write` appends.
fn write_answer(clock: &Clock, close: bool, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: ");
    out.extend_from_slice(&clock.http_date());
    out.extend_from_slice(if close { b"\r\nconnection: close" } else { b"" });
    out.extend_from_slice(b"\r\ncontent-length: ");
    let length_at = out.len();
    out.extend_from_slice(&[b' '; LENGTH_DIGITS]);
    out.extend_from_slice(b"\r\n\r\n");
    let body_at = out.len();
    write(out);
    let length = out.len() - body_at;
    // Spaces before a number do not count (RFC 9110, 5.5). Writing to a slice that has the room cannot fail.
    let _ = write!(&mut out[length_at..length_at + LENGTH_DIGITS], "{length:>LENGTH_DIGITS$}");
}

/// Takes a head out of the socket, in which it is known to be.
fn take(stream: &TcpStream, mut length: usize) -> io::Result<()> {
    let mut space = [0; MAX_HEAD_BYTES];
    while length > 0 {
        match stream.try_read(&mut space[..length])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => length -= taken,
        }
    }
    Ok(())
}

/// Sends all, which is mostly one call. Who does not take it in time ([`patience`]) is hung up on, and so is who has to go
/// for others meanwhile.
async fn send(running: &Running, stream: &mut TcpStream, place: &Place, bytes: &[u8]) -> io::Result<()> {
    let sent = match stream.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        sent => sent?,
    };
    if sent == bytes.len() {
        return Ok(());
    }
    let rest = stream.write_all(&bytes[sent..]);
    tokio::select! {
        sent = tokio::time::timeout(patience(bytes.len() as u64), rest) => sent?,
        () = place.evicted() => Err(io::ErrorKind::ConnectionAborted.into()),
        () = running.shutdown.cancelled() => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Sends a subscriber what comes, until one of both sides ends it.
async fn events(
    running: &Running,
    mut stream: TcpStream,
    place: &Place,
    mut subscriber: Subscriber,
) -> io::Result<()> {
    send(running, &mut stream, place, EVENTS_HEAD).await?;
    // It reads, and is what most connections are for.
    place.set_useful(true);
    loop {
        let mut more = [0];
        let chunk = tokio::select! {
            biased;
            // It has no more to say, so its end is all that there is to hear.
            _ = stream.peek(&mut more) => return Ok(()),
            () = place.evicted() => return Ok(()),
            chunk = subscriber.next() => chunk,
        };
        let Some(chunk) = chunk else { return Ok(()) };
        send(running, &mut stream, place, &chunk).await?;
    }
}
