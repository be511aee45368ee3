//! `measure`: the emulator's own cost, on this machine as it is now.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use minuet_netlab::{
    lab::Lab,
    plan::{Defaults, Plan, coordinates::RttRange, nat::NatMix},
    probe::{self, Echo, Stream},
};

/// Echoes per measurement of delay.
const ECHOES: u32 = 500;
/// Full packets every 2 ms beside the echoes: 162 Mbit/s, as 20 viewers of 8 Mbit/s.
const BESIDE: u32 = 27;
/// What packets are moved together in, for comparison.
const TICK: Duration = Duration::from_millis(1);
/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(2);
/// UDP payloads: the least, and what fills a packet of 1500 bytes.
const PAYLOADS: [usize; 2] = [12, 1472];
/// IP and UDP headers.
const HEADERS: usize = 28;

/// Measures and prints a table.
pub fn measure() -> Result<()> {
    say("what is measured                                        median       p99");
    let own = loopback()?;
    line("loopback echo: the two programs alone, one way", own.median_us, own.p99_us);
    for (background, tick, what) in [
        (0, Duration::ZERO, "added to a delay of 20 ms, one way, idle"),
        (BESIDE, Duration::ZERO, "the same with 162 Mbit/s beside it"),
        (BESIDE, TICK, "the same with --tick 1ms"),
    ] {
        let (added, late) = added_delay(background, tick)?;
        line(what, added.median_us, added.p99_us);
        line("  of it waiting for the emulator's turn", late.median_us, late.p99_us);
    }
    for payload in PAYLOADS {
        let flood = highest(payload)?;
        say(&format!(
            "flood of packets of {:4} bytes: {:7.0} packets/s, {:6.1} Mbit/s, {:.1} µs of a processor each: at most {:.0} packets/s",
            payload + HEADERS,
            flood.packets_per_s,
            flood.packets_per_s * ((payload + HEADERS) * 8) as f64 / 1e6,
            flood.cpu_us,
            1e6 / flood.cpu_us,
        ));
    }
    Ok(())
}

struct Spread {
    median_us: f64,
    p99_us: f64,
}

/// Half of what the round trips took beyond `expected`.
fn spread(mut round_trips: Vec<Duration>, expected: Duration) -> Result<Spread> {
    round_trips.sort_unstable();
    let at = |share: f64| {
        let index = (share * (round_trips.len() as f64 - 1.0)) as usize;
        let beyond = round_trips.get(index).context("no echo came back")?.saturating_sub(expected);
        Ok::<f64, anyhow::Error>(beyond.as_secs_f64() * 1e6 / 2.0)
    };
    Ok(Spread { median_us: at(0.5)?, p99_us: at(0.99)? })
}

fn lab(hosts: usize, rtt_ms: u32, tick: Duration) -> Result<Lab> {
    let rtt: RttRange = rtt_ms.to_string().parse()?;
    let plan = Plan::new(&Defaults { hosts, seed: 1, rtt, nat: NatMix::default(), tick }, &[])?;
    Ok(Lab::build(plan)?)
}

/// What an echo costs when nothing is between the programs.
fn loopback() -> Result<Spread> {
    let lab = lab(1, 0, Duration::ZERO)?;
    let own = lab.namespace(0);
    let here = Ipv4Addr::LOCALHOST;
    let echo = Echo::start(&own, here)?;
    spread(probe::ping(&probe::bind(&own, here)?, echo.address(), ECHOES)?, Duration::ZERO)
}

/// What is added to each way of a round trip of 40 ms, with the programs' own share in it; and how much of it is
/// the emulator handing over late. Beside it h03 sends h04 so many full packets every 2 ms.
fn added_delay(background: u32, tick: Duration) -> Result<(Spread, Spread)> {
    let rtt_ms = 40;
    let lab = lab(4, rtt_ms, tick)?;
    let bind = |host: usize| probe::bind(&lab.namespace(host), lab.plan().hosts[host].address);
    let echo = Echo::start(&lab.namespace(1), lab.plan().hosts[1].address)?;
    let socket = bind(0)?;
    let sink = bind(3)?;
    let _beside = Stream::start(bind(2)?, sink.local_addr()?, background);
    lab.reset_lateness();
    let round_trips = probe::ping(&socket, echo.address(), ECHOES)?;
    let emulator = lab.figures().emulator;
    let late = Spread { median_us: emulator.late_p50_us as f64, p99_us: emulator.late_p99_us as f64 };
    Ok((spread(round_trips, Duration::from_millis(rtt_ms.into()))?, late))
}

struct Flood {
    /// What came through while a sender, which needs a processor too, sent as fast as it could.
    packets_per_s: f64,
    /// Processor time of the emulator for each packet; its inverse is what the emulator could do.
    cpu_us: f64,
}

/// One host sends as fast as it can to another, without a rate or a delay.
fn highest(payload: usize) -> Result<Flood> {
    let lab = lab(2, 0, Duration::ZERO)?;
    let bind = |host: usize| probe::bind(&lab.namespace(host), lab.plan().hosts[host].address);
    let sink = bind(1)?;
    let before = lab.figures();
    probe::flood(&bind(0)?, sink.local_addr()?, payload, FLOOD);
    let after = lab.figures();
    let packets = (after.network.delivered - before.network.delivered) as f64;
    Ok(Flood {
        packets_per_s: packets * 1e9 / (after.at_ns - before.at_ns) as f64,
        cpu_us: (after.emulator.cpu_ms - before.emulator.cpu_ms) * 1e3 / packets,
    })
}

fn line(what: &str, median_us: f64, p99_us: f64) {
    say(&format!("{what:<52} {median_us:6.0} µs {p99_us:6.0} µs"));
}

#[allow(clippy::print_stdout, reason = "the table is what was asked for")]
fn say(text: &str) {
    println!("{text}");
}
