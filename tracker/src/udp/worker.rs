//! One UDP worker: a socket and a loop.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use minuet_announce::udp::connection_id::ConnectionIds;
use minuet_announce::udp::respond::Responder;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, recvmmsg, sendmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::family::{Family, Local};
use crate::state::State;

/// How often a worker without packets looks whether it should end.
pub const STOP_CHECK: Duration = Duration::from_millis(100);
/// Packets in a batch.
const BATCH: usize = 64;
/// Bytes read of a packet. The longest request, a scrape of 74 torrents, has 1,496; more is cut off unread.
const PACKET: usize = 1500;

/// Answers packets until the tracker shuts down or the socket fails.
pub(crate) fn run(
    state: &State,
    shutdown: &CancellationToken,
    ids: &ConnectionIds,
    socket: &UdpSocket,
) -> io::Result<()> {
    let addr = socket.local_addr()?;
    let everywhere = addr.ip().is_unspecified();
    if addr.is_ipv4() {
        serve::<SockaddrIn>(state, shutdown, ids, socket, everywhere.then(|| cmsg_space!(in_pktinfo)))
    } else {
        serve::<SockaddrIn6>(state, shutdown, ids, socket, everywhere.then(|| cmsg_space!(in6_pktinfo)))
    }
}

/// With `room` for it the kernel says which of the host's addresses a packet was sent to, and the answer leaves from there:
/// one call for each answer, of which a socket of one address needs one for all.
fn serve<F: Family>(
    state: &State,
    shutdown: &CancellationToken,
    ids: &ConnectionIds,
    socket: &UdpSocket,
    room: Option<Vec<u8>>,
) -> io::Result<()> {
    let everywhere = room.is_some();
    let mut buffers = vec![[0; PACKET]; BATCH];
    let mut responder = Responder::new(&state.swarms, ids);
    let mut headers = MultiHeaders::<F>::preallocate(BATCH, room.clone());
    let mut answers = Answers::new();
    while !shutdown.is_cancelled() {
        let mut received = [Received { length: 0, from: None }; BATCH];
        let count = match receive(socket, &mut headers, &mut buffers, &mut received) {
            Ok(count) => count,
            // Nothing for a while, or a signal; a peer that is gone (ICMP) is its own problem.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(error) => return Err(error.into()),
        };
        let now = state.clock.uptime();
        answers.clear();
        for (buffer, packet) in buffers.iter().zip(&received[..count]) {
            // Of what was sent to many, the answer has no address to leave from.
            if let Some((sender, local)) = packet.from.filter(|(_, local)| local.is_some() == everywhere) {
                let start = answers.bytes.len();
                responder.respond(
                    &buffer[..packet.length],
                    sender.addr(),
                    now,
                    rand::random(),
                    &mut answers.bytes,
                );
                answers.finish(start, sender, local);
            }
        }
        answers.send(socket);
        if received[..count]
            .iter()
            .any(|packet| packet.from.is_some_and(|(_, local)| local.is_none() && everywhere))
        {
            // What was not said of one packet has no room in its place any more.
            headers = MultiHeaders::preallocate(BATCH, room.clone());
        }
        state.metrics.count_udp(std::mem::take(&mut responder.tally));
    }
    Ok(())
}

/// A packet that has come.
#[derive(Clone, Copy)]
struct Received<F> {
    length: usize,
    /// Who sent it, and to which of the host's addresses.
    from: Option<(F, Option<Local>)>,
}

/// Waits for packets, and writes what they are to `received`.
fn receive<F: Family>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<F>,
    buffers: &mut [[u8; PACKET]],
    received: &mut [Received<F>; BATCH],
) -> nix::Result<usize> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
    let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
    let mut count = 0;
    for (message, out) in messages.zip(received) {
        let local = message.cmsgs().ok().and_then(|mut messages| messages.find_map(|m| F::local(&m)));
        *out = Received { length: message.bytes, from: message.address.map(|address| (address, local)) };
        count += 1;
    }
    Ok(count)
}

/// Answers of one batch, back to back.
struct Answers<F> {
    bytes: Vec<u8>,
    /// Where each ends, whom it is for, and where it leaves from.
    ends: Vec<(usize, F, Option<Local>)>,
}

impl<F: Family> Answers<F> {
    fn new() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new() }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Notes that the bytes from `start` on are for `to`, if there are any.
    fn finish(&mut self, start: usize, to: F, from: Option<Local>) {
        if self.bytes.len() > start {
            self.ends.push((self.bytes.len(), to, from));
        }
    }

    /// Sends all. An answer that the kernel does not take is lost, as any packet may be.
    fn send(&self, socket: &UdpSocket) {
        let mut start = 0;
        let slices: Vec<[IoSlice<'_>; 1]> = self
            .ends
            .iter()
            .map(|(end, ..)| [IoSlice::new(&self.bytes[std::mem::replace(&mut start, *end)..*end])])
            .collect();
        if self.ends.iter().any(|(.., from)| from.is_some()) {
            self.send_each(socket, &slices);
        } else {
            self.send_all(socket, &slices);
        }
    }

    /// In one call.
    fn send_all(&self, socket: &UdpSocket, slices: &[[IoSlice<'_>; 1]]) {
        let to: Vec<SocketAddrAny> = self.ends.iter().map(|(_, to, _)| to.addr().into()).collect();
        let mut control: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            (0..slices.len()).map(|_| SendAncillaryBuffer::new(no_space())).collect();
        let mut messages: Vec<MMsgHdr<'_>> = slices
            .iter()
            .zip(&to)
            .zip(&mut control)
            .map(|((slice, to), control)| MMsgHdr::new_with_addr(to, slice, control))
            .collect();
        let mut rest = &mut messages[..];
        while !rest.is_empty() {
            let done = match sendmmsg(socket, rest, SendFlags::empty()) {
                Ok(sent) => sent.max(1),
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => {
                    debug!(%error, "an answer could not be sent");
                    1
                }
            };
            rest = &mut rest[done..];
        }
    }

    /// Each from its address, which no safe interface to sendmmsg can say.
    fn send_each(&self, socket: &UdpSocket, slices: &[[IoSlice<'_>; 1]]) {
        for (slice, (_, to, from)) in slices.iter().zip(&self.ends) {
            let send = |control: &[ControlMessage<'_>]| {
                sendmsg(socket.as_raw_fd(), slice, control, MsgFlags::empty(), Some(to))
            };
            loop {
                match F::with_local(*from, send) {
                    Err(Errno::EINTR) => {}
                    Err(error) => break debug!(%error, "an answer could not be sent"),
                    Ok(_) => break,
                }
            }
        }
    }
}

/// Room for no control message.
fn no_space<'a>() -> &'a mut [MaybeUninit<u8>] {
    &mut []
}
