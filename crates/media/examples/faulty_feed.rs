//! Writes a file of MPEG-TS to standard output over and over, for as many hours of stream time as asked for, as fast
//! as it is taken, with a fault about each minute: `faulty_feed FILE HOURS [SEED]`. For soak tests.
//!
//! Faults: lost packets (one, a burst, one in a hundred for a while), lost bytes, garbage, flipped bits, repeated
//! packets, and a source that starts again with its first timestamps.

use std::io::{self, Write as _};

use minuet_media::{PacketSync, Restamper, StreamClock, packet::PACKET_LEN};

/// Stream time between faults.
const EACH_MS: u64 = 60_000;

/// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound.max(1) as u64) as usize
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: faulty_feed FILE HOURS [SEED]";
    let file = std::fs::read(arguments.next().ok_or(usage)?)?;
    let hours: f64 = arguments.next().ok_or(usage)?.parse()?;
    let mut random = Random(arguments.next().map_or(Ok(1), |seed| seed.parse())?);
    let packets = whole_packets(&file)?;

    let mut out = io::stdout().lock();
    let mut restamper = Restamper::default();
    let (mut written_ms, mut faults) = (0, 0_u64);
    let mut until_fault_ms = EACH_MS;
    // How long one round lasts, by its own clock.
    let round_ms = duration_ms(&packets);
    while (written_ms as f64) < hours * 3_600_000.0 {
        let mut round = packets.clone();
        restamper.packets(&mut round);
        let mut left_ms = round_ms;
        let mut rest = round.as_slice();
        while left_ms >= until_fault_ms {
            let at = (rest.len() as u64 * until_fault_ms / left_ms) as usize / PACKET_LEN * PACKET_LEN;
            out.write_all(&rest[..at])?;
            rest = fault(&mut random, &rest[at..], &mut out)?;
            faults += 1;
            left_ms -= until_fault_ms;
            until_fault_ms = EACH_MS;
        }
        out.write_all(rest)?;
        until_fault_ms -= left_ms.min(until_fault_ms);
        written_ms += round_ms;
        // Now and then the source starts again; else the rounds go on from each other.
        if random.below(10) == 0 {
            restamper = Restamper::default();
            faults += 1;
        } else {
            restamper.rewind();
        }
    }
    writeln!(io::stderr(), "{:.2} hours of feed, {faults} faults", written_ms as f64 / 3_600_000.0)?;
    Ok(())
}

/// Writes the next bit of feed damaged, and returns what comes after it.
fn fault<'a>(random: &mut Random, feed: &'a [u8], out: &mut impl io::Write) -> io::Result<&'a [u8]> {
    let (now, later) = feed.split_at(feed.len().min(2000 * PACKET_LEN));
    let whole = |packets: usize| (packets * PACKET_LEN).min(now.len());
    match random.below(7) {
        0 => out.write_all(&now[whole(1)..])?,
        1 => out.write_all(&now[whole(1 + random.below(300))..])?,
        2 => {
            for packet in now.chunks(PACKET_LEN).filter(|_| random.below(100) > 0) {
                out.write_all(packet)?;
            }
        }
        3 => out.write_all(&now[random.below(5000).min(now.len())..])?,
        4 => {
            let garbage: Vec<u8> = (0..random.below(20_000)).map(|_| random.below(256) as u8).collect();
            out.write_all(&garbage)?;
            out.write_all(now)?;
        }
        5 => {
            let mut flipped = now.to_vec();
            for _ in 0..50 {
                let at = random.below(flipped.len());
                if let Some(byte) = flipped.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            out.write_all(&flipped)?;
        }
        _ => {
            out.write_all(&now[..whole(20)])?;
            out.write_all(now)?;
        }
    }
    Ok(later)
}

fn whole_packets(file: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let (mut sync, mut packets, mut rest) = (PacketSync::default(), Vec::new(), file);
    while sync.fill(&mut rest)? {
        packets.extend_from_slice(sync.run(rest));
        sync.release(&mut rest);
    }
    Ok(packets)
}

fn duration_ms(packets: &[u8]) -> u64 {
    let (mut clock, mut rest, mut last) = (StreamClock::default(), packets, 1);
    while let Some((at, due)) = clock.next(rest) {
        rest = &rest[(at + PACKET_LEN).min(rest.len())..];
        last = due.as_millis().max(1);
    }
    last
}
