//! Others who use a host's line: a ping, which feels how long packets wait; a call, which sends at a constant rate; and an
//! upload by TCP, which takes what it can get. What they see is what a program under test does to its neighbours at home.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use minuet_proto::units::Rate;
use serde::Serialize;

use crate::{
    lab::{LabError, namespace::Namespace},
    probe::{self, Echo},
};

/// How long after the last ping an echo may come.
const LINGER: Duration = Duration::from_secs(2);
/// UDP payload of a call's packets in bytes.
const CALL_PACKET: usize = 1000;
/// What an upload writes at once in bytes, and how long it waits for room before it looks at the clock.
const UPLOAD_CHUNK: usize = 16 * 1024;
const UPLOAD_WAIT: Duration = Duration::from_millis(200);

/// Two hosts of a lab.
#[derive(Debug)]
pub struct Ends {
    /// Who sends.
    pub from: Namespace,
    /// From which address.
    pub from_address: Ipv4Addr,
    /// Who answers; behind no NAT.
    pub to: Namespace,
    /// At which address.
    pub to_address: Ipv4Addr,
}

/// What a ping saw. Round trips in milliseconds.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Pings {
    /// Packets sent.
    pub sent: usize,
    /// Those that did not come back.
    pub lost: usize,
    /// Half of the others took no longer.
    pub p50_ms: f64,
    /// 95 % of them.
    pub p95_ms: f64,
    /// 99 % of them.
    pub p99_ms: f64,
}

/// What a call or an upload got through.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Load {
    /// Payload that arrived, in bytes.
    pub bytes: u64,
    /// The same in Mbit/s.
    pub mbit: f64,
}

/// Sends a packet `every` so often for a while, whether or not the ones before have come back.
pub fn ping(ends: &Ends, every: Duration, how_long: Duration) -> Result<Pings, LabError> {
    let echo = Echo::start(&ends.to, ends.to_address)?;
    let socket = probe::bind(&ends.from, ends.from_address)?;
    let series = || -> io::Result<(usize, Vec<f64>)> {
        let begin = Instant::now();
        let (mut under_way, mut took, mut sent) = (HashMap::new(), Vec::new(), 0_u32);
        loop {
            let now = begin.elapsed();
            if now >= how_long + LINGER || (now >= how_long && under_way.is_empty()) {
                return Ok((sent as usize, took));
            }
            let next = every * sent;
            if now < how_long && now >= next {
                socket.send_to(&sent.to_be_bytes(), echo.address())?;
                under_way.insert(sent, Instant::now());
                sent += 1;
                continue;
            }
            let wait = if now < how_long { next - now } else { how_long + LINGER - now };
            socket.set_read_timeout(Some(wait.max(Duration::from_micros(100))))?;
            let mut reply = [0; 4];
            match socket.recv(&mut reply) {
                Ok(4) => {
                    if let Some(at) = under_way.remove(&u32::from_be_bytes(reply)) {
                        took.push(Instant::elapsed(&at).as_secs_f64() * 1e3);
                    }
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
        }
    };
    let (sent, mut took) = series().map_err(LabError::system(format!("ping {}", ends.to_address)))?;
    took.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * took.len().saturating_sub(1) as f64).round() as usize;
        took.get(index).copied().unwrap_or(f64::NAN)
    };
    Ok(Pings { sent, lost: sent - took.len(), p50_ms: at(0.5), p95_ms: at(0.95), p99_ms: at(0.99) })
}

/// Sends packets at a constant rate for a while.
pub fn call(ends: &Ends, rate: Rate, how_long: Duration) -> Result<Load, LabError> {
    let sink = probe::bind(&ends.to, ends.to_address)?;
    let socket = probe::bind(&ends.from, ends.from_address)?;
    let talk = || -> io::Result<u64> {
        let to = sink.local_addr()?;
        sink.set_read_timeout(Some(LINGER))?;
        let begin = Instant::now();
        let hearing = thread::spawn(move || {
            let (mut packet, mut bytes) = ([0; CALL_PACKET], 0);
            while begin.elapsed() < how_long + LINGER {
                match sink.recv(&mut packet) {
                    Ok(length) => bytes += length as u64,
                    Err(_) => break,
                }
            }
            bytes
        });
        let gap = Duration::from_secs_f64(CALL_PACKET as f64 / rate.bytes_per_s() as f64);
        let mut sent = 0_u32;
        while begin.elapsed() < how_long {
            // What does not fit the socket's buffer is lost, as in a call.
            let _ = socket.send_to(&[0; CALL_PACKET], to);
            sent += 1;
            thread::sleep((gap * sent).saturating_sub(begin.elapsed()));
        }
        hearing.join().map_err(|_| io::Error::other("the far end of the call failed"))
    };
    let bytes = talk().map_err(LabError::system(format!("call {}", ends.to_address)))?;
    Ok(Load::over(bytes, how_long))
}

/// Uploads by TCP for a while, as fast as the line takes it.
pub fn upload(ends: &Ends, how_long: Duration) -> Result<Load, LabError> {
    let failed = || LabError::system(format!("upload to {}", ends.to_address));
    let listener = ends.to.inside(|| TcpListener::bind((ends.to_address, 0)).map_err(failed()))?;
    let to = listener.local_addr().map_err(failed())?;
    let (say, heard) = mpsc::channel();
    let begin = Instant::now();
    thread::spawn(move || {
        let mut bytes = 0_u64;
        if let Ok((mut stream, _)) = listener.accept() {
            let mut chunk = [0; UPLOAD_CHUNK];
            let _ = stream.set_read_timeout(Some(LINGER));
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                if begin.elapsed() > how_long {
                    break;
                }
                bytes += length as u64;
            }
        }
        let _ = say.send(bytes);
    });
    let mut stream = ends.from.inside(|| TcpStream::connect(to).map_err(failed()))?;
    let mut send = || -> io::Result<()> {
        stream.set_write_timeout(Some(UPLOAD_WAIT))?;
        while begin.elapsed() < how_long {
            match stream.write(&[0; UPLOAD_CHUNK]) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    send().map_err(failed())?;
    drop(stream);
    let bytes = heard.recv_timeout(2 * LINGER).unwrap_or(0);
    Ok(Load::over(bytes, how_long))
}

impl Load {
    fn over(bytes: u64, time: Duration) -> Self {
        Self { bytes, mbit: bytes as f64 * 8.0 / 1e6 / time.as_secs_f64().max(f64::MIN_POSITIVE) }
    }
}
