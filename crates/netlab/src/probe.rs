//! What measurements and tests send through a lab: UDP echoes and floods, from inside the hosts.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::lab::{LabError, namespace::Namespace};

/// How long a probe waits for an echo before it counts as lost: longer than any round trip that is measured.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// A thread that repeats a step until dropped.
#[derive(Debug)]
struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                step();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Sends every UDP packet back. Ends when dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    _worker: Worker,
}

impl Echo {
    /// Starts echoing on a free port of this address.
    pub fn start(namespace: &Namespace, address: Ipv4Addr) -> Result<Self, LabError> {
        let socket = bind(namespace, address)?;
        let ready = || {
            // So that the thread sees that it is to stop.
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            socket.local_addr()
        };
        let address = ready().map_err(LabError::system("start an echo"))?;
        let mut packet = [0; 2048];
        let worker = Worker::start(move || {
            if let Ok((length, from)) = socket.recv_from(&mut packet) {
                // A packet that cannot be sent back is one more that is lost.
                let _ = socket.send_to(&packet[..length], from);
            }
        });
        Ok(Self { address, _worker: worker })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Sends full packets in bursts, without an answer. Ends when dropped.
#[derive(Debug)]
pub struct Stream {
    _worker: Worker,
}

impl Stream {
    /// Starts sending `packets` of 1500 bytes every 2 ms.
    pub fn start(socket: UdpSocket, to: SocketAddr, packets: u32) -> Self {
        let worker = Worker::start(move || {
            for _ in 0..packets {
                // What does not fit the socket's buffer is sent in the next burst.
                let _ = socket.send_to(&[0; 1472], to);
            }
            thread::sleep(Duration::from_millis(2));
        });
        Self { _worker: worker }
    }
}

/// A UDP socket inside a namespace, on a free port.
pub fn bind(namespace: &Namespace, address: Ipv4Addr) -> Result<UdpSocket, LabError> {
    namespace.inside(|| UdpSocket::bind((address, 0)).map_err(LabError::system("open a UDP socket")))
}

/// Sends `count` packets, one after the other has come back, and returns the round trips of those that did.
pub fn ping(socket: &UdpSocket, to: SocketAddr, count: u32) -> Result<Vec<Duration>, LabError> {
    let ping = || -> io::Result<Vec<Duration>> {
        socket.set_read_timeout(Some(LOST_AFTER))?;
        let mut round_trips = Vec::new();
        for number in 0..count {
            let sent = Instant::now();
            socket.send_to(&number.to_be_bytes(), to)?;
            let mut reply = [0; 8];
            // What else comes, as a late echo of an earlier packet, is skipped.
            while let Ok(length) = socket.recv(&mut reply) {
                if reply[..length] == number.to_be_bytes() {
                    round_trips.push(sent.elapsed());
                    break;
                }
            }
        }
        Ok(round_trips)
    };
    ping().map_err(LabError::system(format!("ping {to}")))
}

/// Sends packets of so many payload bytes as fast as it can for a while. Returns how many were sent.
pub fn flood(socket: &UdpSocket, to: SocketAddr, payload: usize, how_long: Duration) -> u64 {
    let packet = vec![0; payload];
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < how_long {
        // A full buffer is no reason to stop.
        sent += u64::from(socket.send_to(&packet, to).is_ok());
    }
    sent
}
