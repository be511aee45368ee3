//! All hosts' lines and all paths between them, and the packets that are under way.
//!
//! Rule: what comes out does not depend on how often or how late the shell calls: every step of a packet has its
//! time from the model, and steps are taken in the order of these times.

use std::{cmp::Reverse, collections::BinaryHeap};

use serde::Serialize;

use super::{
    line::{Line, LineCount},
    path::{Conditions, Path},
    time::Time,
};

/// Most bytes of packets that may be under way; what comes on top is dropped. 20 hosts at 100 Mbit/s each with a
/// delay of a second need 250 MB.
pub const MAX_BYTES_UNDER_WAY: usize = 256 << 20;

/// A host's number, from 0.
pub type HostIndex = usize;

/// A host's access line.
#[derive(Debug, Clone)]
pub struct Access {
    /// From the host into the network.
    pub up: Line,
    /// From the network to the host.
    pub down: Line,
    /// The host is cut off before this time.
    pub cut_until: Time,
}

/// What a network dropped apart from full queues and lossy paths, and what is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetworkCount {
    /// Packets handed to their receivers.
    pub delivered: u64,
    /// Packets dropped because their sender or receiver was cut off.
    pub cut: u64,
    /// Packets dropped because [`MAX_BYTES_UNDER_WAY`] was reached.
    pub overflow: u64,
    /// Packets under way.
    pub under_way: u64,
}

/// A packet that has reached its receiver.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery<P> {
    /// When its last byte came out of the line.
    pub at: Time,
    /// The receiver.
    pub to: HostIndex,
    /// The packet.
    pub packet: P,
}

/// The emulated network; `P` is whatever stands for a packet.
#[derive(Debug)]
pub struct Network<P> {
    hosts: Vec<Access>,
    /// `paths[from * hosts + to]`.
    paths: Vec<Path>,
    steps: BinaryHeap<Reverse<Step<P>>>,
    next_order: u64,
    bytes_under_way: usize,
    count: NetworkCount,
}

impl<P> Network<P> {
    /// A network of these access lines; `conditions` gives those of the path from one host to another. The same
    /// seed gives the same losses and jitter for the same packets at the same times.
    pub fn new(
        hosts: Vec<Access>,
        seed: u64,
        mut conditions: impl FnMut(HostIndex, HostIndex) -> Conditions,
    ) -> Self {
        let paths = (0..hosts.len())
            .flat_map(|from| (0..hosts.len()).map(move |to| (from, to)))
            .map(|(from, to)| Path::new(conditions(from, to), path_seed(seed, from, to)))
            .collect();
        Self {
            hosts,
            paths,
            steps: BinaryHeap::new(),
            next_order: 0,
            bytes_under_way: 0,
            count: NetworkCount::default(),
        }
    }

    /// A packet of so many bytes comes out of `from` for `to` at `now`.
    pub fn send(&mut self, now: Time, from: HostIndex, to: HostIndex, bytes: usize, packet: P) {
        if now < self.hosts[from].cut_until {
            self.count.cut += 1;
            return;
        }
        if self.bytes_under_way + bytes > MAX_BYTES_UNDER_WAY {
            self.count.overflow += 1;
            return;
        }
        let Some(left) = self.hosts[from].up.admit(now, bytes) else { return };
        let path = from * self.hosts.len() + to;
        let Some(at) = self.paths[path].cross(left) else { return };
        self.bytes_under_way += bytes;
        self.schedule(at, Stage::ReachesLine, to, bytes, packet);
    }

    /// When [`Self::next_delivery`] has something to do.
    pub fn next_step(&self) -> Option<Time> {
        self.steps.peek().map(|Reverse(step)| step.at)
    }

    /// The next packet that has reached its receiver by `now`.
    pub fn next_delivery(&mut self, now: Time) -> Option<Delivery<P>> {
        while self.next_step().is_some_and(|at| at <= now) {
            let Reverse(step) = self.steps.pop()?;
            if step.stage == Stage::ReachesHost {
                return Some(self.deliver(step.at, step));
            }
            let host = &mut self.hosts[step.to];
            if step.at < host.cut_until {
                self.count.cut += 1;
                self.bytes_under_way -= step.bytes;
                continue;
            }
            match host.down.admit(step.at, step.bytes) {
                None => self.bytes_under_way -= step.bytes,
                Some(left) if left <= step.at => return Some(self.deliver(left, step)),
                Some(left) => self.schedule(left, Stage::ReachesHost, step.to, step.bytes, step.packet),
            }
        }
        None
    }

    /// A host's access line, to be read or changed.
    pub fn access(&mut self, host: HostIndex) -> &mut Access {
        &mut self.hosts[host]
    }

    /// The path from one host to another, to be read or changed.
    pub fn path(&mut self, from: HostIndex, to: HostIndex) -> &mut Path {
        let path = from * self.hosts.len() + to;
        &mut self.paths[path]
    }

    /// What went up and down a host's line.
    pub fn line_counts(&self, host: HostIndex) -> (LineCount, LineCount) {
        (self.hosts[host].up.count(), self.hosts[host].down.count())
    }

    /// Packets that the paths away from a host have lost.
    pub fn lost_from(&self, host: HostIndex) -> u64 {
        self.paths[host * self.hosts.len()..][..self.hosts.len()].iter().map(Path::lost).sum()
    }

    /// What was dropped and delivered, and what is under way.
    pub fn count(&self) -> NetworkCount {
        NetworkCount { under_way: self.steps.len() as u64, ..self.count }
    }

    fn deliver(&mut self, at: Time, step: Step<P>) -> Delivery<P> {
        self.bytes_under_way -= step.bytes;
        self.count.delivered += 1;
        Delivery { at, to: step.to, packet: step.packet }
    }

    fn schedule(&mut self, at: Time, stage: Stage, to: HostIndex, bytes: usize, packet: P) {
        let order = self.next_order;
        self.next_order += 1;
        self.steps.push(Reverse(Step { at, order, stage, to, bytes, packet }));
    }
}

/// Where a packet is at a step's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// At the receiver's line, coming from the path.
    ReachesLine,
    /// At the receiver.
    ReachesHost,
}

#[derive(Debug)]
struct Step<P> {
    at: Time,
    /// Of two steps at the same time, the one that was scheduled first comes first.
    order: u64,
    stage: Stage,
    to: HostIndex,
    bytes: usize,
    packet: P,
}

impl<P> Ord for Step<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<P> PartialOrd for Step<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for Step<P> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<P> Eq for Step<P> {}

/// Spreads the lab's seed over the paths (the finalizer of SplitMix64, Steele, Lea, Flood 2014).
fn path_seed(seed: u64, from: HostIndex, to: HostIndex) -> u64 {
    let mut z = seed.wrapping_add(((from as u64) << 32 | to as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use minuet_proto::units::Rate;
    use proptest::prelude::*;

    use super::*;
    use crate::model::{line::QueueLimit, loss::Loss};

    fn network(hosts: usize, bytes_per_s: u64, delay: Duration, loss: f64) -> Network<usize> {
        let rate = Some(Rate::from_bytes_per_s(bytes_per_s));
        let line = Line::new(rate, QueueLimit::Wait(Duration::from_secs(3600)));
        let access = Access { up: line.clone(), down: line, cut_until: Time::START };
        network_of(vec![access; hosts], delay, loss)
    }

    fn network_of(hosts: Vec<Access>, delay: Duration, share: f64) -> Network<usize> {
        let loss = Loss { share, mean_burst: 4.0 };
        let conditions = Conditions { delay, jitter: Duration::ZERO, reorder: false, loss };
        Network::new(hosts, 3, |_, _| conditions)
    }

    fn drain(network: &mut Network<usize>, until: Time) -> Vec<(Time, HostIndex, usize)> {
        std::iter::from_fn(|| network.next_delivery(until)).map(|d| (d.at, d.to, d.packet)).collect()
    }

    #[test]
    fn a_packet_takes_line_up_path_and_line_down() {
        let mut network = network(2, 1_000_000, Duration::from_millis(40), 0.0);
        network.send(Time::START, 0, 1, 1000, 7);
        let due = Time::from(Duration::from_millis(42));
        assert_eq!(network.next_delivery(Time::from_nanos(due.as_nanos() - 1)), None);
        assert_eq!(network.next_delivery(due), Some(Delivery { at: due, to: 1, packet: 7 }));
        assert_eq!(network.bytes_under_way, 0);
    }

    #[test]
    fn a_line_without_a_rate_adds_nothing() {
        let line = Line::new(None, QueueLimit::Bytes(0));
        let access = Access { up: line.clone(), down: line, cut_until: Time::START };
        let mut network = network_of(vec![access; 2], Duration::from_millis(5), 0.0);
        for packet in 0..3 {
            network.send(Time::START, 0, 1, 1500, packet);
        }
        let at = Time::from(Duration::from_millis(5));
        assert_eq!(drain(&mut network, Time::NEVER), [(at, 1, 0), (at, 1, 1), (at, 1, 2)]);
    }

    #[test]
    fn a_host_that_is_cut_off_neither_sends_nor_receives() {
        let mut network = network(3, 1_000_000, Duration::from_millis(10), 0.0);
        network.access(1).cut_until = Time::from(Duration::from_millis(100));
        let sent = [(0, 0, 1), (0, 1, 0), (0, 0, 2), (95, 0, 1), (100, 1, 2)];
        for (packet, (at_ms, from, to)) in sent.into_iter().enumerate() {
            network.send(Time::from(Duration::from_millis(at_ms)), from, to, 100, packet);
        }
        let came: Vec<_> =
            drain(&mut network, Time::NEVER).into_iter().map(|(_, _, packet)| packet).collect();
        assert_eq!(came, [2, 3, 4], "3 arrives after the cut has ended");
        assert_eq!(network.count(), NetworkCount { delivered: 3, cut: 2, ..NetworkCount::default() });
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let line = Line::new(None, QueueLimit::Bytes(0));
        let access = Access { up: line.clone(), down: line, cut_until: Time::START };
        let mut network = network_of(vec![access; 2], Duration::from_secs(1), 0.0);
        for packet in 0..5 {
            network.send(Time::START, 0, 1, MAX_BYTES_UNDER_WAY / 4, packet);
        }
        assert_eq!(network.count().overflow, 1);
        assert_eq!(drain(&mut network, Time::NEVER).len(), 4);
        assert_eq!(network.bytes_under_way, 0);
    }

    prop_compose! {
        fn traffic()(sends in proptest::collection::vec(
            (0u64..2_000_000, 0usize..4, 0usize..4, 20usize..1500), 1..300)) -> Vec<(Time, usize, usize, usize)> {
            let mut now = 0;
            sends.into_iter().map(|(gap, from, to, bytes)| {
                now += gap;
                (Time::from_nanos(now), from, to, bytes)
            }).collect()
        }
    }

    proptest! {
        /// Any two hosts' packets come in the order in which they were sent, each once, none before the line and
        /// the path allow; and a receiver's line never carries more than its rate in any stretch of time.
        #[test]
        fn order_rate_and_delay_hold(sends in traffic(), bytes_per_s in 10_000u64..10_000_000) {
            let delay = Duration::from_millis(30);
            let mut network = network(4, bytes_per_s, delay, 0.0);
            for (packet, (now, from, to, bytes)) in sends.iter().enumerate() {
                network.send(*now, *from, *to, *bytes, packet);
            }
            let came = drain(&mut network, Time::NEVER);
            prop_assert_eq!(came.len(), sends.len());
            let mut last = std::collections::HashMap::new();
            let mut free_at = [Time::START; 4];
            for (at, to, packet) in came {
                let (sent, from, meant_for, bytes) = sends[packet];
                prop_assert_eq!(to, meant_for);
                prop_assert!(last.insert((from, to), packet).is_none_or(|before| before < packet));
                let sending = Duration::from_nanos((bytes as u64 * 1_000_000_000).div_ceil(bytes_per_s));
                prop_assert!(at >= sent + sending + delay + sending);
                prop_assert!(at >= free_at[to] + sending, "two packets at once on one line");
                free_at[to] = at;
            }
        }

        /// A shell that wakes up late gets the same packets with the same times.
        #[test]
        fn late_calls_change_nothing(sends in traffic(), every in 1usize..50) {
            let run = |every: usize| {
                let mut network = network(4, 1_000_000, Duration::from_millis(3), 0.1);
                let mut came = Vec::new();
                for (packet, (now, from, to, bytes)) in sends.iter().enumerate() {
                    network.send(*now, *from, *to, *bytes, packet);
                    if packet % every == 0 {
                        came.extend(drain(&mut network, *now));
                    }
                }
                came.extend(drain(&mut network, Time::NEVER));
                came.sort();
                came
            };
            prop_assert_eq!(run(1), run(every));
        }
    }
}
