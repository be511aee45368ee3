//! The sockets of the UDP tracker protocol (BEP 15, BEP 41), IPv4 and IPv6; packets are read and answered by
//! [`minuet_announce::udp`].
//!
//! Each worker is a thread with a socket of its own on the shared port (`SO_REUSEPORT`), which takes packets in
//! batches (recvmmsg), answers them and sends the answers, each from the address that was asked. Nothing is kept
//! between packets but what the swarms keep.

mod family;
mod worker;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;

use minuet_announce::udp::connection_id::ConnectionIds;
use minuet_guard::tasks::Spawner;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;
use tracing::debug;

use crate::state::{Running, State};

/// The receive buffer asked for, in bytes: room for what a herd sends while its first packets are answered.
/// Without the right to pass the system's limit (CAP_NET_ADMIN), the kernel gives `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 64 << 20;
/// The send buffer asked for, in bytes.
const SEND_BUFFER: usize = 4 << 20;

/// Opens the workers' sockets, all on one port. The first decides which, when `addr` leaves it open.
pub fn bind(addr: SocketAddr, only_v6: bool, workers: usize) -> io::Result<(SocketAddr, Vec<UdpSocket>)> {
    let mut addr = addr;
    if workers > 1 && addr.port() != 0 {
        // Sockets that share a port would share it with another tracker's too, and each would miss half.
        let alone = open(addr, only_v6)?;
        alone.bind(&addr.into())?;
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = open(addr, only_v6)?;
        if workers > 1 {
            socket.set_reuse_port(true)?;
        }
        set_buffers(&socket)?;
        if addr.ip().is_unspecified() {
            family::ask_for_local(&socket, addr.is_ipv4())?;
        }
        socket.set_read_timeout(Some(worker::STOP_CHECK))?;
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from(socket);
        addr = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok((addr, sockets))
}

/// Opens a socket that is not shared. `[::]` takes IPv4 too.
pub(crate) fn bind_one(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(addr, false)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn open(addr: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    Ok(socket)
}

fn set_buffers(socket: &Socket) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    if setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        socket.set_send_buffer_size(SEND_BUFFER)?;
    }
    // The kernel reports twice what it gives, to count its own book-keeping.
    let given = socket.recv_buffer_size()? / 2;
    if given < RECEIVE_BUFFER / 8 {
        debug!(
            "the system gives UDP sockets {given} bytes; raise net.core.rmem_max to {RECEIVE_BUFFER} so that \
             no announce is lost when all viewers come at once"
        );
    }
    Ok(())
}

/// Starts a worker for each socket, under watch by this name. They end when the tracker shuts down; join them.
pub(crate) fn start(
    state: &Arc<State>,
    running: &Running,
    spawner: &Spawner,
    name: &'static str,
    sockets: Vec<UdpSocket>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let ids = Arc::new(ConnectionIds::default());
    sockets
        .into_iter()
        .enumerate()
        .map(|(n, socket)| {
            let (state, shutdown) = (Arc::clone(state), running.shutdown.clone());
            let ids = Arc::clone(&ids);
            let (ends, ended) = oneshot::channel();
            spawner.spawn_to_end(name, async {
                // A thread that panics drops the sender.
                ended.await.unwrap_or_else(|_| Err(io::Error::other("internal error: its thread panicked")))
            });
            std::thread::Builder::new().name(format!("udp-{n}")).spawn(move || {
                let result = worker::run(&state, &shutdown, &ids, &socket);
                // Before its end is told, so that the store can be closed.
                drop(state);
                let _ = ends.send(result);
            })
        })
        .collect()
}
