//! What a lab is to be: its hosts, lines, paths and NATs, from flags and settings. Pure and seeded.

pub mod coordinates;
pub mod nat;
pub mod setting;

use std::{net::Ipv4Addr, time::Duration};

use minuet_proto::units::Rate;

use self::{
    coordinates::RttRange,
    nat::{Nat, NatMix},
    setting::{Change, Setting, Target},
};
use crate::model::{
    line::{Line, QueueLimit},
    loss::Loss,
    network::{Access, HostIndex, Network},
    path::Conditions,
    time::Time,
};

/// Most hosts of a lab; each costs one or two namespaces and a device.
pub const MAX_HOSTS: usize = 250;

/// A lab before it is built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What every random choice comes from.
    pub seed: u64,
    /// The hosts, h01 first.
    pub hosts: Vec<HostPlan>,
    /// Packets are moved together, once in so much time; zero: each by itself.
    pub tick: Duration,
    /// `conditions[from][to]`.
    conditions: Vec<Vec<Conditions>>,
}

/// A host before it is built.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// `h01`, `h02`, …
    pub name: String,
    /// Where the others reach it: its own address, or that of its NAT. From 198.18.0.0/15 (RFC 2544).
    pub address: Ipv4Addr,
    /// What it is behind.
    pub nat: Nat,
    up: Option<Rate>,
    down: Option<Rate>,
    queue: QueueLimit,
}

/// What holds for all hosts unless a setting says otherwise.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Number of hosts, 1 to [`MAX_HOSTS`].
    pub hosts: usize,
    /// What every random choice comes from.
    pub seed: u64,
    /// Round trips between the hosts.
    pub rtt: RttRange,
    /// Which hosts are behind which NAT.
    pub nat: NatMix,
    /// Packets are moved together, once in so much time; zero: each by itself.
    pub tick: Duration,
}

impl Plan {
    /// Lays out the hosts and applies the settings in their order.
    pub fn new(defaults: &Defaults, changes: &[Change]) -> Result<Self, PlanError> {
        let count = defaults.hosts;
        if !(1..=MAX_HOSTS).contains(&count) {
            return Err(PlanError::HostCount);
        }
        let rtts = coordinates::round_trips(count, defaults.rtt, defaults.seed);
        let conditions = rtts.iter().map(|row| row.iter().map(|rtt| still(*rtt / 2)).collect()).collect();
        let nats = defaults.nat.assign(count, defaults.seed);
        let hosts = nats.into_iter().enumerate().map(|(index, nat)| HostPlan::new(index, nat)).collect();
        let mut plan = Self { seed: defaults.seed, hosts, tick: defaults.tick, conditions };
        for change in changes {
            plan.apply(change)?;
        }
        Ok(plan)
    }

    /// The network that the plan describes.
    pub fn network<P>(&self) -> Network<P> {
        let access = |host: &HostPlan| Access {
            up: Line::new(host.up, host.queue),
            down: Line::new(host.down, host.queue),
            cut_until: Time::START,
        };
        let hosts = self.hosts.iter().map(access).collect();
        Network::new(hosts, self.seed, |from, to| self.conditions[from][to])
    }

    /// The round trip between two hosts without jitter and queues.
    pub fn rtt(&self, a: HostIndex, b: HostIndex) -> Duration {
        self.conditions[a][b].delay + self.conditions[b][a].delay
    }

    fn apply(&mut self, change: &Change) -> Result<(), PlanError> {
        let resolved = change.target.resolve(self.hosts.len())?;
        for setting in &change.settings {
            for &host in &resolved.hosts {
                let host = &mut self.hosts[host];
                match *setting {
                    Setting::Up(rate) => host.up = rate,
                    Setting::Down(rate) => host.down = rate,
                    Setting::Queue(queue) => host.queue = queue,
                    Setting::Nat(nat) => host.nat = nat,
                    Setting::Cut(_) => return Err(PlanError::OnlyLive),
                    _ => {}
                }
            }
            for &(from, to) in &resolved.paths {
                setting.apply_to_path(&mut self.conditions[from][to]);
            }
            if setting.is_of_hosts() && matches!(change.target, Target::Between(..)) {
                return Err(PlanError::NeedsHosts);
            }
        }
        Ok(())
    }
}

impl HostPlan {
    /// Room for 100 ms in front of a line, as a home router has.
    const QUEUE: QueueLimit = QueueLimit::Wait(Duration::from_millis(100));

    fn new(index: HostIndex, nat: Nat) -> Self {
        Self {
            name: host_name(index),
            address: address(index),
            nat,
            up: None,
            down: None,
            queue: Self::QUEUE,
        }
    }
}

/// `h01` for 0.
pub fn host_name(index: HostIndex) -> String {
    format!("h{:02}", index + 1)
}

/// 198.18.0.1 for 0.
pub const fn address(index: HostIndex) -> Ipv4Addr {
    // At most MAX_HOSTS, so below 256.
    Ipv4Addr::new(198, 18, 0, index as u8 + 1)
}

/// The host with this address, if the lab is large enough.
pub fn host_at(address: Ipv4Addr, hosts: usize) -> Option<HostIndex> {
    match address.octets() {
        [198, 18, 0, last] => usize::from(last).checked_sub(1).filter(|index| *index < hosts),
        _ => None,
    }
}

fn still(delay: Duration) -> Conditions {
    Conditions { delay, jitter: Duration::ZERO, reorder: false, loss: Loss::NONE }
}

/// What is wrong with a lab's description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// None, or more than [`MAX_HOSTS`].
    #[error("a lab has 1 to {MAX_HOSTS} hosts: change --hosts")]
    HostCount,
    /// A host that does not exist.
    #[error("there is no host {name} in this lab of {hosts}: they are named {first} to {last}", first = host_name(0), last = host_name(hosts - 1))]
    NoSuchHost {
        /// What was asked for.
        name: String,
        /// How many there are.
        hosts: usize,
    },
    /// A text that is no setting; the sentence says what is.
    #[error("{0}")]
    Syntax(String),
    /// A line's or NAT's setting for the path between two hosts.
    #[error(
        "up, down, queue and nat belong to a host, not to the path between two: name hosts without a colon"
    )]
    NeedsHosts,
    /// A cut while the lab is only planned.
    #[error("cut works while the lab runs: use `set` from the script")]
    OnlyLive,
    /// A NAT while the lab runs.
    #[error("a host's NAT is fixed when the lab is built: use --nat or --host")]
    NatIsFixed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(hosts: usize, changes: &[&str]) -> Result<Plan, PlanError> {
        let rtt = "20..160".parse().unwrap();
        let defaults = Defaults { hosts, seed: 5, rtt, nat: NatMix::default(), tick: Duration::ZERO };
        let changes: Result<Vec<Change>, _> = changes.iter().map(|text| text.parse()).collect();
        Plan::new(&defaults, &changes?)
    }

    #[test]
    fn settings_reach_what_they_name_and_later_ones_win() {
        let plan =
            plan(4, &["all up=12Mbit loss=2%", "h02 up=none nat=symmetric", "h01:h03 rtt=80ms"]).unwrap();
        assert_eq!(plan.hosts[0].up.unwrap().bytes_per_s(), 1_500_000);
        assert_eq!(plan.hosts[1].up, None);
        assert_eq!([plan.hosts[0].nat, plan.hosts[1].nat], [Nat::None, Nat::Symmetric]);
        assert_eq!(plan.rtt(0, 2), Duration::from_millis(80));
        assert_eq!(plan.conditions[2][0].delay, Duration::from_millis(40));
        assert_ne!(plan.rtt(0, 1), Duration::from_millis(80));
        for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))) {
            let share = if from == to { 0.0 } else { 0.02 };
            assert_eq!(plan.conditions[from][to].loss.share, share);
        }
    }

    #[test]
    fn refuses_what_cannot_be() {
        assert_eq!(plan(0, &[]).unwrap_err(), PlanError::HostCount);
        assert_eq!(plan(251, &[]).unwrap_err(), PlanError::HostCount);
        assert_eq!(plan(3, &["h01:h02 up=1Mbit"]).unwrap_err(), PlanError::NeedsHosts);
        assert_eq!(plan(3, &["h01 cut=2s"]).unwrap_err(), PlanError::OnlyLive);
        let error = plan(3, &["h04 loss=1%"]).unwrap_err();
        assert_eq!(error.to_string(), "there is no host h04 in this lab of 3: they are named h01 to h03");
    }

    #[test]
    fn addresses_lead_back_to_hosts() {
        for index in [0, 1, MAX_HOSTS - 1] {
            assert_eq!(host_at(address(index), MAX_HOSTS), Some(index));
        }
        assert_eq!(host_at(address(3), 3), None);
        assert_eq!(host_at(Ipv4Addr::new(198, 18, 0, 0), 3), None);
        assert_eq!(host_at(Ipv4Addr::new(192, 168, 1, 1), 3), None);
    }
}
