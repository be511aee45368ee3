//! The thread that moves packets between the TUN devices and the [`Network`] model, in real time.
//!
//! One thread and one poll: it reads what the hosts have sent in batches, stamps each packet, and sleeps until the
//! next step of a packet is due. The thread has real-time priority and a timer slack of a nanosecond, so that what
//! it adds to a delay is the time to wake up and to copy, also on a busy machine. With a tick it moves together what
//! comes within that time: a first packet after a silence at once, those after it at most a tick later than due.

use std::{
    fs, io,
    num::NonZeroU64,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    process::Pid,
};

use crate::{
    model::{
        network::{HostIndex, Network},
        time::Time,
    },
    plan::host_at,
};

/// Most packets read of one device before it is another's turn and what is due is delivered.
const BATCH: usize = 32;
/// The thread's nice value where it gets no real-time priority.
const NICE: i32 = -19;
/// Longest packet that is read; the devices' MTU is below it.
const BUFFER: usize = 2048;
/// Lateness is counted up to this.
const MAX_LATENESS_US: u64 = 10_000_000;

/// The emulator's network: a packet is its bytes.
pub type LiveNetwork = Network<Box<[u8]>>;

/// The running thread. Ends it when dropped.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// What the emulator counts besides the network.
#[derive(Debug, Clone)]
pub struct Work {
    /// How much later than due packets were handed over, in microseconds.
    pub lateness_us: Histogram<u64>,
    /// IPv4 packets for addresses outside the lab.
    pub no_route: u64,
    /// Packets that a host's device did not take.
    pub refused: u64,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    /// The thread's id, once it runs.
    thread: OnceLock<Pid>,
    network: Mutex<LiveNetwork>,
    work: Mutex<Work>,
}

impl Emulator {
    /// Starts moving packets between these devices, host 0's first: all that have come within `tick` together.
    pub fn start(network: LiveNetwork, devices: Vec<OwnedFd>, tick: Duration) -> io::Result<Self> {
        let lateness_us = Histogram::new_with_bounds(1, MAX_LATENESS_US, 2).map_err(io::Error::other)?;
        let work = Work { lateness_us, no_route: 0, refused: 0 };
        let shared = Arc::new(Shared {
            start: Instant::now(),
            thread: OnceLock::new(),
            network: Mutex::new(network),
            work: Mutex::new(work),
        });
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let mover = Mover { shared: shared.clone(), stop: stop.clone(), devices, tick };
        let thread = thread::Builder::new().name("emulator".into()).spawn(move || mover.run())?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// The time in the network.
    pub fn now(&self) -> Time {
        self.shared.now()
    }

    /// The network, to be read or changed.
    pub fn network(&self) -> MutexGuard<'_, LiveNetwork> {
        lock(&self.shared.network)
    }

    /// What the thread has counted.
    pub fn work(&self) -> Work {
        lock(&self.shared.work).clone()
    }

    /// Processor time that the thread has used, its part of the receivers' network stacks included.
    pub fn cpu(&self) -> Duration {
        // First field: nanoseconds on a processor (Linux, Documentation/scheduler/sched-stats.rst).
        let used = || -> Option<u64> {
            let thread = self.shared.thread.get()?.as_raw_pid();
            let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        Duration::from_nanos(used().unwrap_or(0))
    }

    /// Forgets the lateness so far, as before a measurement.
    pub fn reset_lateness(&self) {
        lock(&self.shared.work).lateness_us.reset();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Writing to an eventfd fails only when its counter is full, and then the thread wakes as well.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn now(&self) -> Time {
        Time::from(self.start.elapsed())
    }
}

/// The data stays usable after a panic elsewhere: counters and packets.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Mover {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    devices: Vec<OwnedFd>,
    tick: Duration,
}

impl Mover {
    fn run(self) {
        let thread = rustix::thread::gettid();
        let _ = self.shared.thread.set(thread);
        go_first(thread);
        let mut ends: Vec<PollFd<'_>> =
            self.devices.iter().map(|end| PollFd::new(end, PollFlags::IN)).collect();
        ends.push(PollFd::new(&*self.stop, PollFlags::IN));
        let mut buffer = [0; BUFFER];
        let mut round = Instant::now();
        loop {
            let next = self.deliver();
            thread::sleep(self.tick.saturating_sub(round.elapsed()));
            let timeout = next.map(|at| timespec(at.since(self.shared.now())));
            match poll(&mut ends, timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => round = Instant::now(),
                Err(error) => return eprintln!("netlab: the emulator stops: {error}"),
            }
            if ends.last().is_some_and(|stop| !stop.revents().is_empty()) {
                return;
            }
            for (host, device) in self.devices.iter().enumerate() {
                if !ends[host].revents().is_empty() {
                    if self.read(host, device, &mut buffer).is_err() {
                        // Somebody removed the device; the others go on.
                        eprintln!("netlab: the device of host {} is gone", host + 1);
                        ends[host] = PollFd::new(device, PollFlags::empty());
                    }
                    if self.tick.is_zero() {
                        self.deliver();
                    }
                }
            }
        }
    }

    /// Reads a batch of what a host has sent.
    fn read(&self, host: HostIndex, device: &OwnedFd, buffer: &mut [u8; BUFFER]) -> Result<(), Errno> {
        let mut network = lock(&self.shared.network);
        let mut no_route = 0;
        for _ in 0..BATCH {
            let length = match rustix::io::read(device, &mut buffer[..]) {
                Ok(length) => length,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            let packet = &buffer[..length];
            match destination(packet).map(|address| host_at(address, self.devices.len())) {
                Some(Some(to)) => network.send(self.shared.now(), host, to, length, packet.into()),
                Some(None) => no_route += 1,
                None => {}
            }
        }
        drop(network);
        if no_route > 0 {
            lock(&self.shared.work).no_route += no_route;
        }
        Ok(())
    }

    /// Hands over what is due. Returns when the next step is.
    fn deliver(&self) -> Option<Time> {
        let mut network = lock(&self.shared.network);
        if network.next_step()? <= self.shared.now() {
            let mut work = lock(&self.shared.work);
            while let Some(delivery) = network.next_delivery(self.shared.now()) {
                let late = self.shared.now().since(delivery.at);
                work.lateness_us.saturating_record(late.as_micros() as u64);
                if rustix::io::write(&self.devices[delivery.to], &delivery.packet).is_err() {
                    work.refused += 1;
                }
            }
        }
        network.next_step()
    }
}

/// Gives the calling thread precedence. Without it all works, only less exactly.
fn go_first(thread: Pid) {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let _ = rustix::process::setpriority_process(None, NICE);
    // No safe call sets a scheduling policy; chrt is part of util-linux. Threads and programs that are started
    // from now on have the usual one.
    let _ = Command::new("chrt")
        .args(["--reset-on-fork", "--fifo", "--pid", "1", &thread.as_raw_pid().to_string()])
        .stderr(Stdio::null())
        .status();
}

/// Where an IPv4 packet goes (RFC 791, 3.1); `None` when it is none.
fn destination(packet: &[u8]) -> Option<std::net::Ipv4Addr> {
    let header: &[u8; 20] = packet.first_chunk()?;
    (header[0] >> 4 == 4).then(|| [header[16], header[17], header[18], header[19]].into())
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
