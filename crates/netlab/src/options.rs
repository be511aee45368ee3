//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use minuet_netlab::plan::{
    Defaults, Plan, PlanError,
    coordinates::RttRange,
    nat::NatMix,
    setting::{Change, Setting, Target},
};
use minuet_proto::units::{self, Rate};

/// The longest time in which packets are moved together.
const MAX_TICK: Duration = Duration::from_millis(100);

/// The longest time for which a line is used by `ping` and `load`.
const MAX_USE: Duration = Duration::from_secs(24 * 3600);

/// A network of many hosts on this machine: namespaces, a link emulator in user space, and NAT. Needs root.
#[derive(Debug, Parser)]
#[command(name = "minuet-netlab", version)]
pub struct Options {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a lab, run a command in it, take it down again; without a command, until it is interrupted.
    Run(Box<Run>),
    /// Run a command on a host of a running lab [example: exec h01 -- curl http://198.18.0.2/].
    Exec(Exec),
    /// Change conditions of a running lab [example: set h01 cut=20s loss=2%].
    Set(Set),
    /// Print a running lab's counters as one line of JSON.
    Show(Show),
    /// Ping over a host's line while others use it; prints one line of JSON [example: ping h03 h01 --for 60s].
    Ping(Ping),
    /// Use a host's line as another program would: an upload by TCP, or with --rate a call; prints what arrived as one
    /// line of JSON [example: load h03 h01 --for 30s --rate 1500kbit].
    Load(Load),
    /// Measure the emulator itself: what it adds to a delay, and the most that goes through it.
    Measure,
    /// Take down what killed labs have left (`run` does it first).
    Sweep,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Number of hosts, named h01, h02, … [example: 30].
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// Round trips in milliseconds, from the nearest pair to the farthest [example: 20..160 or 50].
    #[arg(long, value_name = "RANGE", default_value = "20..160")]
    rtt: RttRange,
    /// Each host's rate up, or none [example: 12Mbit].
    #[arg(long, value_name = "RATE", default_value = "none", value_parser = setting("up"))]
    up: Setting,
    /// Each host's rate down, or none [example: 50Mbit].
    #[arg(long, value_name = "RATE", default_value = "none", value_parser = setting("down"))]
    down: Setting,
    /// What may wait in front of each line, as time or bytes [example: 100ms or 150000].
    #[arg(long, value_name = "LIMIT", default_value = "100ms", value_parser = setting("queue"))]
    queue: Setting,
    /// The most that is added to each packet's delay [example: 5ms].
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = setting("jitter"))]
    jitter: Setting,
    /// Let jitter change the order of packets: on or off.
    #[arg(long, value_name = "ON|OFF", default_value = "off", value_parser = setting("reorder"))]
    reorder: Setting,
    /// Share of the packets lost, each way [example: 2%].
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = setting("loss"))]
    loss: Setting,
    /// Mean length of a burst of losses in packets; 0: each packet by itself [example: 5].
    #[arg(long, value_name = "PACKETS", default_value = "0", value_parser = setting("burst"))]
    burst: Setting,
    /// Which hosts are behind which NAT: none, full-cone, address-restricted, port-restricted, symmetric, or shares
    /// of them [example: port-restricted=40%,symmetric=20%].
    #[arg(long, value_name = "MIX", default_value = "none")]
    nat: NatMix,
    /// Settings of some hosts or of the paths between them, over those above; may repeat
    /// [example: 'h01 up=100Mbit nat=none' or 'h01:h02 rtt=80ms'].
    #[arg(long = "host", value_name = "SETTINGS")]
    settings: Vec<Change>,
    /// Move packets together, once in so much time, and so spend far less on each; at 1ms they are 1.5 ms later each
    /// way. 0ms: each by itself; at most 100ms [example: 1ms].
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = tick)]
    tick: Duration,
    /// What the hosts' places, their NATs, losses and jitter come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The command and its arguments, run beside the hosts (`exec` runs on one).
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Parses a tick.
fn tick(text: &str) -> Result<Duration, String> {
    let tick = units::duration(text).map_err(|error| error.to_string())?;
    // The emulator sleeps that long, also when it is to end.
    (tick <= MAX_TICK).then_some(tick).ok_or_else(|| "give at most 100ms".to_owned())
}

/// Parses a flag's value as the setting of that name.
fn setting(key: &'static str) -> impl Fn(&str) -> Result<Setting, PlanError> + Clone + Send + Sync {
    move |value| format!("{key}={value}").parse()
}

impl Run {
    /// The lab that the flags describe.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let Self { hosts, seed, rtt, tick, .. } = *self;
        let defaults = Defaults { hosts, seed, rtt, nat: self.nat.clone(), tick };
        let settings = vec![self.up, self.down, self.queue, self.jitter, self.reorder, self.loss, self.burst];
        let mut changes = vec![Change { target: Target::ALL, settings }];
        changes.extend(self.settings.iter().cloned());
        Plan::new(&defaults, &changes)
    }
}

/// Which running lab is meant.
#[derive(Debug, Args)]
pub struct WhichLab {
    /// The lab; not needed in a lab's script, or when only one runs.
    #[arg(long, value_name = "ID", env = "NETLAB_ID")]
    pub lab: Option<String>,
}

#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    pub which: WhichLab,
    /// The host [example: h01].
    pub host: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    pub which: WhichLab,
    /// all, hosts (h01, h02-h09, h01,h05) or the paths between two such (h01:h02-h09), then what to set on them:
    /// up, down, queue, rtt, jitter, reorder, loss, burst, cut [example: h01 cut=20s].
    #[arg(required = true, num_args = 2.., value_names = ["TARGET", "KEY=VALUE"])]
    pub change: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    pub which: WhichLab,
}

/// Between whom, and for how long.
#[derive(Debug, Args)]
pub struct Between {
    #[command(flatten)]
    pub which: WhichLab,
    /// The host that sends [example: h03].
    pub from: String,
    /// The host that answers, behind no NAT [example: h01].
    pub to: String,
    /// How long [example: 30s].
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub how_long: Duration,
}

#[derive(Debug, Args)]
pub struct Ping {
    #[command(flatten)]
    pub between: Between,
    /// Time between two packets [example: 50ms].
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub every: Duration,
}

#[derive(Debug, Args)]
pub struct Load {
    #[command(flatten)]
    pub between: Between,
    /// Send packets at this rate, as a call does; without it, upload by TCP [example: 1500kbit].
    #[arg(long)]
    pub rate: Option<Rate>,
}

/// Parses a duration that is not zero.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text).map_err(|error| error.to_string())?;
    (!duration.is_zero() && duration <= MAX_USE)
        .then_some(duration)
        .ok_or_else(|| "give at most 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_tick_is_short() {
        assert_eq!(tick("1ms"), Ok(Duration::from_millis(1)));
        assert!(tick("1s").is_err() && tick("soon").is_err());
    }

    #[test]
    fn flags_and_settings_make_the_plan() {
        let options = Options::parse_from([
            "minuet-netlab",
            "run",
            "--hosts",
            "30",
            "--rtt",
            "20..160",
            "--up",
            "12Mbit",
            "--down",
            "50Mbit",
            "--loss",
            "0",
            "--nat",
            "none",
            "--host",
            "h01 nat=symmetric",
            "--",
            "sh",
            "-c",
            "true",
        ]);
        let Command::Run(run) = options.command else { panic!("not run") };
        assert_eq!(run.command, ["sh", "-c", "true"]);
        let plan = run.plan().unwrap();
        assert_eq!(plan.hosts.len(), 30);
        assert_eq!(plan.hosts[0].nat.to_string(), "symmetric");
    }
}
