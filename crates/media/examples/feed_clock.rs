//! A clock inside the feed, so that a benchmark need not believe anybody's own counters: a packet of a private PID carries
//! the time on the wall at which it went into the source, and whoever reads the stream at its end knows how old it is.
//!
//! `feed_clock write FILE` plays a file of MPEG-TS over and over to standard output, in real time by its own clock, with a
//! stamp ten times a second. `feed_clock read` reads such a stream on standard input and prints a line for each stamp:
//! the Unix time in milliseconds at which it came out, and its age in milliseconds. Both must run on one machine.
#![allow(clippy::disallowed_methods, reason = "a clock on the wall is what this is about")]

use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, Instant, SystemTime},
};

use minuet_media::{
    PacketSync, Restamper, StreamClock,
    packet::{PACKET_LEN, SYNC_BYTE},
};

/// PID of the stamps. No table names it, so no player looks at it.
const PID: u16 = 0x1abc;
/// Begins a stamp's payload; the time follows, in Unix microseconds, big-endian.
const MAGIC: &[u8; 8] = b"feedtime";
/// Time between stamps.
const EACH: Duration = Duration::from_millis(100);
/// Writes between two stamps.
const WRITES: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("write"), Some(file)) => write(&std::fs::read(file)?),
        (Some("read"), None) => read(),
        _ => Err("usage: feed_clock write FILE | feed_clock read".into()),
    }
}

fn write(file: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let packets = whole_packets(file)?;
    let round = duration(&packets).ok_or("the file has no clock")?;
    let stamps = (round.as_secs_f64() / EACH.as_secs_f64()).max(1.0);
    let part =
        (packets.len() as f64 / PACKET_LEN as f64 / stamps / WRITES as f64).ceil() as usize * PACKET_LEN;
    let (mut restamper, mut out) = (Restamper::default(), io::stdout().lock());
    let (mut due, mut stamps) = (Instant::now(), 0_u8);
    loop {
        let mut now = packets.clone();
        restamper.packets(&mut now);
        let parts = now.chunks(part);
        let each = round.div_f64(parts.len() as f64);
        for (at, bytes) in parts.enumerate() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += each;
            if at % WRITES == 0 {
                out.write_all(&stamp(stamps))?;
                stamps = stamps.wrapping_add(1);
            }
            out.write_all(bytes)?;
            out.flush()?;
        }
        restamper.rewind();
    }
}

fn read() -> Result<(), Box<dyn std::error::Error>> {
    let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let (mut buffer, mut bytes) = (vec![0; 256 << 10], Vec::new());
    loop {
        let count = input.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let now = unix_us();
        bytes.extend_from_slice(&buffer[..count]);
        let whole = bytes.len() - bytes.len() % PACKET_LEN;
        for packet in bytes[..whole].chunks_exact(PACKET_LEN) {
            if let Some(stamp) = stamped(packet) {
                writeln!(out, "{} {:.1}", now / 1000, now.saturating_sub(stamp) as f64 / 1000.0)?;
                out.flush()?;
            }
        }
        bytes.drain(..whole);
    }
}

/// A packet of our own PID with the time in it.
fn stamp(count: u8) -> [u8; PACKET_LEN] {
    let mut packet = [0xff; PACKET_LEN];
    packet[..4].copy_from_slice(&[SYNC_BYTE, (PID >> 8) as u8, PID as u8, 0x10 | (count & 0x0f)]);
    packet[4..12].copy_from_slice(MAGIC);
    packet[12..20].copy_from_slice(&unix_us().to_be_bytes());
    packet
}

fn stamped(packet: &[u8]) -> Option<u64> {
    let ours = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]) == PID && packet[4..12] == *MAGIC;
    ours.then(|| packet[12..20].try_into().map(u64::from_be_bytes).ok()).flatten()
}

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn whole_packets(file: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let (mut sync, mut packets, mut rest) = (PacketSync::default(), Vec::new(), file);
    while sync.fill(&mut rest)? {
        packets.extend_from_slice(sync.run(rest));
        sync.release(&mut rest);
    }
    Ok(packets)
}

/// How long the packets last, by their own clock.
fn duration(packets: &[u8]) -> Option<Duration> {
    let (mut clock, mut rest, mut last) = (StreamClock::default(), packets, None);
    while let Some((at, due)) = clock.next(rest) {
        rest = &rest[(at + PACKET_LEN).min(rest.len())..];
        last = Some(Duration::from_millis(due.as_millis()));
    }
    last.filter(|last| !last.is_zero())
}
