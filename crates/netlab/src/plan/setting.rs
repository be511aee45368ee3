//! The words in which conditions are set, the same on the command line and while the lab runs:
//! `TARGET key=value …`, as in `h01 up=12Mbit loss=2%`, `all jitter=5ms`, `h01:h02 rtt=80ms` or `h03 cut=20s`.
//!
//! A target is `all`, hosts (`h01`, `h02-h09`, `h01,h05-h07`), or the paths between two such (`h01:h02-h09`, both
//! ways). A path's setting on hosts holds for all paths to and from them.

use std::{str::FromStr, time::Duration};

use minuet_proto::units::{self, Rate};

use super::{PlanError, nat::Nat};
use crate::model::{
    line::QueueLimit,
    network::{HostIndex, Network},
    path::Conditions,
    time::Time,
};

/// Longest text of a change in bytes.
pub const MAX_TEXT: usize = 1024;

/// A target and what is set on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// On what.
    pub target: Target,
    /// What, in order.
    pub settings: Vec<Setting>,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Hosts, with their lines and all their paths.
    Hosts(Selection),
    /// The paths between hosts, both ways.
    Between(Selection, Selection),
}

/// Some hosts, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Every host.
    All,
    /// Ranges of host numbers from 1, both ends included.
    Ranges(Vec<(usize, usize)>),
}

/// One condition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    /// `up=12Mbit`, `up=none`: rate of the line up.
    Up(Option<Rate>),
    /// `down=50Mbit`, `down=none`: rate of the line down.
    Down(Option<Rate>),
    /// `queue=100ms`, `queue=150000` (bytes): what may wait in front of each line.
    Queue(QueueLimit),
    /// `rtt=80ms`: the round trip, half of it each way.
    Rtt(Duration),
    /// `jitter=5ms`: the most that is added to a packet's delay.
    Jitter(Duration),
    /// `reorder=on`: jitter may change the order.
    Reorder(bool),
    /// `loss=2%`: share of the packets lost, each way.
    Loss(f64),
    /// `burst=5`: mean length of a burst of losses in packets; 0: each packet by itself.
    Burst(f64),
    /// `cut=20s`, `cut=on`, `cut=off`: everything is dropped.
    Cut(Duration),
    /// `nat=symmetric`; only before the lab is built.
    Nat(Nat),
}

/// The hosts and directed paths that a target means.
#[derive(Debug)]
pub(super) struct Resolved {
    pub hosts: Vec<HostIndex>,
    pub paths: Vec<(HostIndex, HostIndex)>,
}

impl Change {
    /// Carries the change out on a running network.
    pub fn apply<P>(&self, network: &mut Network<P>, hosts: usize, now: Time) -> Result<(), PlanError> {
        let resolved = self.target.resolve(hosts)?;
        let between = matches!(self.target, Target::Between(..));
        // All is checked before anything is changed.
        if between && self.settings.iter().any(Setting::is_of_hosts) {
            return Err(PlanError::NeedsHosts);
        }
        if self.settings.iter().any(|setting| matches!(setting, Setting::Nat(_))) {
            return Err(PlanError::NatIsFixed);
        }
        for setting in &self.settings {
            for &host in &resolved.hosts {
                let access = network.access(host);
                match *setting {
                    Setting::Up(rate) => access.up.set_rate(rate),
                    Setting::Down(rate) => access.down.set_rate(rate),
                    Setting::Queue(queue) => {
                        access.up.set_queue(queue);
                        access.down.set_queue(queue);
                    }
                    Setting::Cut(duration) => access.cut_until = now + duration,
                    _ => {}
                }
            }
            for &(from, to) in &resolved.paths {
                let path = network.path(from, to);
                setting.apply_to_path(&mut path.conditions);
                if let (Setting::Cut(duration), true) = (*setting, between) {
                    path.cut_until = now + duration;
                }
            }
        }
        Ok(())
    }
}

impl Target {
    /// All hosts and all paths.
    pub const ALL: Self = Self::Hosts(Selection::All);

    pub(super) fn resolve(&self, hosts: usize) -> Result<Resolved, PlanError> {
        let mut paths = Vec::new();
        let (first, second) = match self {
            Self::Hosts(selection) => (selection.resolve(hosts)?, (0..hosts).collect()),
            Self::Between(first, second) => (first.resolve(hosts)?, second.resolve(hosts)?),
        };
        for &a in &first {
            for &b in &second {
                if a != b {
                    paths.extend([(a, b), (b, a)]);
                }
            }
        }
        paths.sort_unstable();
        paths.dedup();
        let hosts = if matches!(self, Self::Hosts(_)) { first } else { Vec::new() };
        Ok(Resolved { hosts, paths })
    }
}

impl Selection {
    fn resolve(&self, hosts: usize) -> Result<Vec<HostIndex>, PlanError> {
        let Self::Ranges(ranges) = self else { return Ok((0..hosts).collect()) };
        let mut selected = Vec::new();
        for &(first, last) in ranges {
            if let Some(bad) = [first, last].into_iter().find(|number| !(1..=hosts).contains(number)) {
                return Err(PlanError::NoSuchHost { name: format!("h{bad:02}"), hosts });
            }
            selected.extend(first - 1..last);
        }
        selected.sort_unstable();
        selected.dedup();
        Ok(selected)
    }
}

impl Setting {
    /// Whether it is about hosts only, not about paths.
    pub(super) const fn is_of_hosts(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Down(_) | Self::Queue(_) | Self::Nat(_))
    }

    pub(super) const fn apply_to_path(&self, path: &mut Conditions) {
        match *self {
            Self::Rtt(rtt) => path.delay = Duration::from_nanos(rtt.as_nanos() as u64 / 2),
            Self::Jitter(jitter) => path.jitter = jitter,
            Self::Reorder(reorder) => path.reorder = reorder,
            Self::Loss(share) => path.loss.share = share,
            Self::Burst(mean) => path.loss.mean_burst = mean,
            Self::Up(_) | Self::Down(_) | Self::Queue(_) | Self::Cut(_) | Self::Nat(_) => {}
        }
    }
}

impl FromStr for Change {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        if text.len() > MAX_TEXT {
            return Err(PlanError::Syntax(format!("a setting has at most {MAX_TEXT} bytes")));
        }
        let mut words = text.split_whitespace();
        let target = words.next().unwrap_or_default().parse()?;
        let settings: Vec<Setting> = words.map(str::parse).collect::<Result<_, _>>()?;
        if settings.is_empty() {
            return Err(PlanError::Syntax("write what to set, as in `h01 loss=2% up=12Mbit`".into()));
        }
        Ok(Self { target, settings })
    }
}

impl FromStr for Target {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        Ok(match text.split_once(':') {
            None => Self::Hosts(text.parse()?),
            Some((first, second)) => Self::Between(first.parse()?, second.parse()?),
        })
    }
}

impl FromStr for Selection {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = |name: &str| name.strip_prefix('h')?.parse::<u16>().ok().map(usize::from);
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        };
        let ranges = text.split(',').map(range).collect::<Option<Vec<_>>>().ok_or_else(|| {
            PlanError::Syntax(format!("{text:?} names no hosts: write all, h01, h02-h09 or h01:h02"))
        })?;
        Ok(Self::Ranges(ranges))
    }
}

impl FromStr for Setting {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let say = |help: &str| PlanError::Syntax(format!("{text:?} is no setting: {help}"));
        let duration = |value: &str| {
            units::duration(value)
                .ok()
                .filter(|duration| *duration <= LONGEST)
                .ok_or_else(|| say("write a duration of at most 24h, as in 20ms or 20s"))
        };
        Ok(match key {
            "up" => Self::Up(rate(value).ok_or_else(|| say("write a rate as in up=12Mbit, or up=none"))?),
            "down" => {
                Self::Down(rate(value).ok_or_else(|| say("write a rate as in down=50Mbit, or down=none"))?)
            }
            "queue" => Self::Queue(match value.parse() {
                Ok(bytes) => QueueLimit::Bytes(bytes),
                Err(_) => QueueLimit::Wait(duration(value)?),
            }),
            "rtt" => Self::Rtt(duration(value)?),
            "jitter" => Self::Jitter(duration(value)?),
            "reorder" => Self::Reorder(match value {
                "on" => true,
                "off" => false,
                _ => return Err(say("write reorder=on or reorder=off")),
            }),
            "loss" => Self::Loss(share(value)?),
            "burst" => Self::Burst(
                value
                    .parse()
                    .ok()
                    .filter(|mean| (0.0..=10_000.0).contains(mean))
                    .ok_or_else(|| say("write the mean length of a burst in packets, as in burst=5"))?,
            ),
            "cut" => Self::Cut(match value {
                "on" => Duration::MAX,
                "off" => Duration::ZERO,
                _ => duration(value)?,
            }),
            "nat" => Self::Nat(value.parse()?),
            _ => return Err(say("set one of up, down, queue, rtt, jitter, reorder, loss, burst, cut, nat")),
        })
    }
}

const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A rate, or `none` for no limit.
pub fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "none" { Some(None) } else { text.parse().ok().map(Some) }
}

/// A share: `2%`, `0.5%`, or `0`.
pub fn share(text: &str) -> Result<f64, PlanError> {
    let number = if text == "0" { Some("0") } else { text.strip_suffix('%') };
    number
        .and_then(|number| number.parse::<f64>().ok())
        .map(|percent| percent / 100.0)
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| PlanError::Syntax(format!("{text:?} is no share: write it as in 2% or 0.5%")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{Defaults, Plan};

    fn change(text: &str) -> Result<Change, PlanError> {
        text.parse()
    }

    #[test]
    fn targets_name_hosts_and_paths() {
        let resolve = |text: &str| text.parse::<Target>().unwrap().resolve(4).unwrap();
        assert_eq!(resolve("h01,h03-h04").hosts, [0, 2, 3]);
        assert_eq!(resolve("all").paths.len(), 12);
        let one = resolve("h02");
        assert_eq!(one.paths, [(0, 1), (1, 0), (1, 2), (1, 3), (2, 1), (3, 1)]);
        let between = resolve("h01:h02-h03");
        assert!(between.hosts.is_empty());
        assert_eq!(between.paths, [(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert!("h00".parse::<Target>().unwrap().resolve(4).is_err());
        assert!("h05".parse::<Target>().unwrap().resolve(4).is_err());
    }

    #[test]
    fn reads_every_setting() {
        let read = change("h01 up=12Mbit down=none queue=150000 queue=100ms rtt=80ms jitter=1ms reorder=on loss=2% burst=5 cut=20s cut=off nat=full-cone").unwrap();
        assert_eq!(read.settings.len(), 12);
        assert_eq!(read.settings[1], Setting::Down(None));
        assert_eq!(read.settings[2], Setting::Queue(QueueLimit::Bytes(150_000)));
        assert_eq!(read.settings[7], Setting::Loss(0.02));
        let bad = [
            "",
            "h01",
            "h1x loss=1%",
            "h03-h01 loss=1%",
            "h01 loss",
            "h01 loss=2",
            "h01 loss=101%",
            "h01 loss=-1%",
            "h01 loss=nan%",
            "h01 burst=nan",
            "h01 up=0",
            "h01 up=5",
            "h01 cut=soon",
            "h01 cut=99d",
            "h01 speed=3",
            "h01: rtt=3ms",
        ];
        for text in bad {
            assert!(change(text).is_err(), "{text}");
        }
    }

    #[test]
    fn changes_reach_the_running_network() {
        let (rtt, tick) = ("10".parse().unwrap(), Duration::ZERO);
        let defaults = Defaults { hosts: 3, seed: 1, rtt, nat: Default::default(), tick };
        let mut network: Network<()> = Plan::new(&defaults, &[]).unwrap().network();
        let now = Time::from(Duration::from_secs(1));
        let mut apply = |text: &str| change(text).unwrap().apply(&mut network, 3, now);
        apply("h01 cut=20s loss=3%").unwrap();
        apply("h02:h03 cut=on rtt=60ms").unwrap();
        assert_eq!(apply("h01 loss=9% nat=none"), Err(PlanError::NatIsFixed));
        assert_eq!(apply("h01:h02 loss=9% up=none"), Err(PlanError::NeedsHosts));
        assert_eq!(network.access(0).cut_until, Time::from(Duration::from_secs(21)));
        assert_eq!(network.access(1).cut_until, Time::START);
        assert_eq!(network.path(2, 0).conditions.loss.share, 0.03, "nothing of a refused change holds");
        assert_eq!(network.path(1, 2).conditions.delay, Duration::from_millis(30));
        assert_eq!(network.path(2, 1).cut_until, Time::NEVER);
        assert_eq!(network.path(0, 1).cut_until, Time::START);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(all|h[0-9]{0,6}|[ -~]{0,9})(:h0[0-9])? ([a-z]{2,6}=[ -~]{0,9} ?){0,3}") {
            let _ = change(&text);
        }
    }
}
