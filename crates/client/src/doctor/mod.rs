//! `minuet doctor`: looks at what this machine and its network give a viewer. Each finding says what it means, and what to do
//! where something is to be done.

mod machine;
mod network;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Context as _;
use minuet_console::{Screen, Setup};
use minuet_node::TrackerClient;
use minuet_proto::{ChannelId, ChannelKey};

use crate::{options::Doctor, watch::trackers::trackers};

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    /// As it should be.
    Good,
    /// Neither: it could not be looked at, or is only told.
    Known,
    /// A viewer can live with it.
    Poor,
    /// It keeps a stream from being played or passed on.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    grade: Grade,
    /// What was looked at.
    about: &'static str,
    /// What was found.
    found: String,
    /// What that means, and what to do.
    advice: String,
}

impl Finding {
    fn new(grade: Grade, about: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { grade, about, found: found.into(), advice: advice.into() }
    }
}

/// Examines, and writes the findings to standard output.
pub fn main(options: Doctor) -> anyhow::Result<ExitCode> {
    // Warnings of the libraries would stand between the findings.
    Screen::start(Setup { variable: "RUST_LOG", filter: "off", target: false, time_on_terminal: false });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let findings = runtime.block_on(examine(options))?;
    minuet_console::print(&report(&findings)).context("cannot write to standard output")?;
    Ok(match findings.iter().any(|finding| finding.grade == Grade::Bad) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

async fn examine(options: Doctor) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![machine::files(), machine::receive_buffers(), machine::disk(), machine::uplink()];
    findings.push(
        machine::program("mpv", "mpv", "0.33", "minuet watch plays in it; --player names another player")
            .await,
    );
    findings.push(
        machine::program(
            "ffmpeg",
            "ffmpeg",
            "4.3",
            "only minuet-segmenter needs it, for inputs other than MPEG-TS",
        )
        .await,
    );
    let channel = options.link.as_ref().map_or_else(some_channel, |reading| Ok(reading.link.channel))?;
    let asked: Vec<TrackerClient> = match &options.link {
        Some(reading) => trackers(reading, &options.tracker)?.to_vec(),
        None => options.tracker.iter().cloned().map(TrackerClient::new).collect::<Result<_, _>>()?,
    };
    if asked.is_empty() {
        findings.push(Finding::new(
            Grade::Known,
            "network",
            "not looked at",
            "name a channel link or a --tracker: clock, UDP and NAT are looked at from there",
        ));
    }
    for tracker in &asked {
        findings.extend(network::examine(tracker, channel, options.link.is_some()).await);
    }
    Ok(findings)
}

/// A channel that nobody has, for trackers to be asked about.
fn some_channel() -> anyhow::Result<ChannelId> {
    Ok(ChannelKey::from_seed(&rand::random()).channel())
}

/// The findings, a line each, and their advice below.
fn report(findings: &[Finding]) -> String {
    let mut out = String::new();
    for Finding { grade, about, found, advice } in findings {
        let mark = match grade {
            Grade::Good => "good",
            Grade::Known => "-",
            Grade::Poor => "poor",
            Grade::Bad => "BAD",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{mark:<5} {about}: {found}");
        let _ = writeln!(out, "      {advice}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_its_grade_and_its_advice() {
        let findings = [
            Finding::new(Grade::Bad, "clock", "3 h ahead", "set it"),
            Finding::new(Grade::Good, "mpv", "0.35", "plays"),
        ];
        assert_eq!(report(&findings), "BAD   clock: 3 h ahead\n      set it\ngood  mpv: 0.35\n      plays\n");
    }
}
