//! One UDP worker: a socket and a loop.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tracing::debug;

use super::connection_id::ConnectionIds;
use super::respond::Responder;
use crate::tracker::Shared;

/// How often a worker without packets looks whether it should end.
pub const STOP_CHECK: Duration = Duration::from_millis(100);
/// Packets in a batch.
const BATCH: usize = 64;
/// Bytes read of a packet. The longest request, a scrape of 74 torrents, has 1,496; more is cut off unread.
const PACKET: usize = 1500;

/// A socket address as a family's sockets carry it.
trait Sender: SockaddrLike + Copy {
    fn addr(&self) -> SocketAddr;
}

impl Sender for SockaddrIn {
    fn addr(&self) -> SocketAddr {
        SocketAddrV4::new(self.ip(), self.port()).into()
    }
}

impl Sender for SockaddrIn6 {
    fn addr(&self) -> SocketAddr {
        SocketAddrV6::new(self.ip(), self.port(), self.flowinfo(), self.scope_id()).into()
    }
}

/// Answers packets until the tracker shuts down or the socket fails.
pub(crate) fn run(shared: &Shared, ids: &ConnectionIds, socket: &UdpSocket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
        serve::<SockaddrIn>(shared, ids, socket)
    } else {
        serve::<SockaddrIn6>(shared, ids, socket)
    }
}

fn serve<S: Sender>(shared: &Shared, ids: &ConnectionIds, socket: &UdpSocket) -> io::Result<()> {
    let mut headers = MultiHeaders::<S>::preallocate(BATCH, None);
    let mut buffers = vec![[0; PACKET]; BATCH];
    let mut responder = Responder::new(&shared.swarms, ids);
    let mut answers = Answers::default();
    while !shared.shutdown.is_cancelled() {
        let mut received = [(0, None); BATCH];
        let count = match receive(socket, &mut headers, &mut buffers, &mut received) {
            Ok(count) => count,
            // Nothing for a while, or a signal; a peer that is gone (ICMP) is its own problem.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(error) => return Err(error.into()),
        };
        let now = shared.clock.uptime();
        answers.clear();
        for (buffer, (length, sender)) in buffers.iter().zip(&received[..count]) {
            if let Some(sender) = *sender {
                let start = answers.bytes.len();
                responder.respond(&buffer[..*length], sender, now, rand::random(), &mut answers.bytes);
                answers.finish(start, sender);
            }
        }
        answers.send(socket);
        shared.metrics.count_udp(std::mem::take(&mut responder.tally));
    }
    Ok(())
}

/// Waits for packets; the length and sender of each is written to `received`.
fn receive<S: Sender>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<S>,
    buffers: &mut [[u8; PACKET]],
    received: &mut [(usize, Option<SocketAddr>); BATCH],
) -> nix::Result<usize> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
    let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
    let mut count = 0;
    for (message, out) in messages.zip(received) {
        *out = (message.bytes, message.address.map(|address| address.addr()));
        count += 1;
    }
    Ok(count)
}

/// Answers of one batch, back to back.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    /// Where each ends, and whom it is for.
    ends: Vec<(usize, SocketAddrAny)>,
}

impl Answers {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Notes that the bytes from `start` on are for `to`, if there are any.
    fn finish(&mut self, start: usize, to: SocketAddr) {
        if self.bytes.len() > start {
            self.ends.push((self.bytes.len(), to.into()));
        }
    }

    /// Sends all. An answer that the kernel does not take is lost, as any packet may be.
    fn send(&self, socket: &UdpSocket) {
        let mut start = 0;
        let slices: Vec<[IoSlice<'_>; 1]> = self
            .ends
            .iter()
            .map(|(end, _)| [IoSlice::new(&self.bytes[std::mem::replace(&mut start, *end)..*end])])
            .collect();
        let mut control: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            (0..slices.len()).map(|_| SendAncillaryBuffer::new(no_space())).collect();
        let mut messages: Vec<MMsgHdr<'_>> = slices
            .iter()
            .zip(&self.ends)
            .zip(&mut control)
            .map(|((slice, (_, to)), control)| MMsgHdr::new_with_addr(to, slice, control))
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
}

/// Room for no control message.
fn no_space<'a>() -> &'a mut [MaybeUninit<u8>] {
    &mut []
}
