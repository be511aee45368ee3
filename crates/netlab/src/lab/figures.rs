//! What a running lab tells about itself, as JSON.

use std::net::Ipv4Addr;

use serde::Serialize;

use super::{emulator::Emulator, identity::LabId};
use crate::{
    model::{line::LineCount, network::NetworkCount},
    plan::{Plan, nat::Nat},
};

/// Counters since the start, all taken at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// The lab's id.
    pub id: String,
    /// When they were taken, in nanoseconds since the start.
    pub at_ns: u64,
    /// Every host.
    pub hosts: Vec<HostFigures>,
    /// `rtt_ms[a][b]`: round trips as planned, without jitter and queues.
    pub rtt_ms: Vec<Vec<f64>>,
    /// Of the network as a whole.
    pub network: NetworkCount,
    /// Of the emulator itself.
    pub emulator: EmulatorFigures,
}

/// A host's counters.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct HostFigures {
    /// `h01`, …
    pub name: String,
    /// Its address, or that of its NAT.
    pub address: Ipv4Addr,
    /// Its own address, behind its NAT.
    pub inside: Ipv4Addr,
    /// What it is behind.
    pub nat: Nat,
    /// What its line up took.
    pub up: LineCount,
    /// What its line down took.
    pub down: LineCount,
    /// Packets that the paths away from it have lost.
    pub lost: u64,
}

/// How well the emulator keeps time. Lateness is how much later than due a packet was handed to its receiver.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct EmulatorFigures {
    /// Half of the packets were handed over no later than this, in microseconds.
    pub late_p50_us: u64,
    /// 99 % of them.
    pub late_p99_us: u64,
    /// The latest.
    pub late_max_us: u64,
    /// Processor time that the emulator's thread has used, in milliseconds.
    pub cpu_ms: f64,
    /// Packets for addresses outside the lab.
    pub no_route: u64,
    /// Packets that a host's device did not take.
    pub refused: u64,
}

impl Figures {
    pub(super) fn collect(plan: &Plan, id: &LabId, emulator: &Emulator) -> Self {
        let network = emulator.network();
        let at_ns = emulator.now().as_nanos();
        let hosts = plan.hosts.iter().enumerate().map(|(index, host)| {
            let (up, down) = network.line_counts(index);
            let lost = network.lost_from(index);
            HostFigures {
                name: host.name.clone(),
                address: host.address,
                inside: super::wiring::inside_address(host),
                nat: host.nat,
                up,
                down,
                lost,
            }
        });
        let hosts = hosts.collect();
        let count = network.count();
        drop(network);
        let work = emulator.work();
        let late = |quantile| work.lateness_us.value_at_quantile(quantile);
        let numbers = 0..plan.hosts.len();
        let row = |a| numbers.clone().map(|b| plan.rtt(a, b).as_secs_f64() * 1e3).collect();
        Self {
            id: id.as_str().to_owned(),
            at_ns,
            hosts,
            rtt_ms: numbers.clone().map(row).collect(),
            network: count,
            emulator: EmulatorFigures {
                late_p50_us: late(0.5),
                late_p99_us: late(0.99),
                late_max_us: work.lateness_us.max(),
                cpu_ms: emulator.cpu().as_secs_f64() * 1e3,
                no_route: work.no_route,
                refused: work.refused,
            },
        }
    }
}
