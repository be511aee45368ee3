//! What the machine gives: files, buffers, disk, programs.

use std::{fs, process::Stdio, time::Duration};

use rustix::process::{Resource, getrlimit};
use tokio::{process::Command, time::timeout};

use minuet_node::{mesh::known_line, units::Rate};

use super::{Finding, Grade};
use crate::watch::live_node::lines_file;

/// With fewer open files a node takes fewer neighbours than it could have.
const ENOUGH_FILES: u64 = 1024;
/// What a socket should be able to hold: a tenth of a second of 40 Mbit/s.
const ENOUGH_BUFFER: u64 = 512 << 10;
/// What viewers keep by default, with room to spare.
const ENOUGH_DISK: u64 = 2 << 30;
/// How long a program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

pub fn files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let shown = limit.maximum.map_or("as many as there are".to_owned(), |most| most.to_string());
    match most >= ENOUGH_FILES {
        true => {
            Finding::new(Grade::Good, "open files", shown, "enough for every neighbour and finished minutes")
        }
        false => Finding::new(
            Grade::Poor,
            "open files",
            shown,
            format!(
                "few neighbours can connect: allow {ENOUGH_FILES} or more (`ulimit -Hn`, or LimitNOFILE= of a service)"
            ),
        ),
    }
}

/// What the line can send, as viewers on this network have found out: who wants to know it sooner has to fill it.
pub fn uplink() -> Finding {
    let about = "uplink";
    match lines_file().and_then(|file| known_line(&file)) {
        None => Finding::new(
            Grade::Known,
            about,
            "not known on this network yet",
            "viewers find it out while they pass the stream on: watch for a minute, and ask again",
        ),
        Some((bytes_per_s, full)) => {
            let rate = Rate::from_bytes_per_s(bytes_per_s);
            let (found, advice) = match full {
                true => (
                    format!("{rate}"),
                    "what an earlier viewer on this network could send; --upload-limit sets less",
                ),
                false => {
                    (format!("{rate} or more"), "as much as an earlier viewer on this network had to send")
                }
            };
            Finding::new(Grade::Good, about, found, advice)
        }
    }
}

pub fn receive_buffers() -> Finding {
    const FILE: &str = "/proc/sys/net/core/rmem_max";
    let about = "receive buffer";
    match fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<u64>().ok()) {
        None => Finding::new(
            Grade::Known,
            about,
            "cannot be seen here",
            "a container often hides it: look on its host",
        ),
        Some(most) if most >= ENOUGH_BUFFER => Finding::new(
            Grade::Good,
            about,
            format!("{most} bytes"),
            "packets wait there while the processor is busy",
        ),
        Some(most) => Finding::new(
            Grade::Poor,
            about,
            format!("{most} bytes at most"),
            format!(
                "packets of a fast stream may be lost while the processor is busy: `sysctl -w net.core.rmem_max={ENOUGH_BUFFER}`, \
                 and the same line in /etc/sysctl.d"
            ),
        ),
    }
}

pub fn disk() -> Finding {
    let folder = std::env::temp_dir();
    let about = "disk";
    match rustix::fs::statvfs(&folder) {
        Err(error) => Finding::new(
            Grade::Poor,
            about,
            format!("{} cannot be looked at: {error}", folder.display()),
            "name a folder that can be written with --data",
        ),
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            let found = format!("{} MB free in {}", free / 1_000_000, folder.display());
            match free >= ENOUGH_DISK {
                true => {
                    Finding::new(Grade::Good, about, found, "enough for what a viewer keeps to go back to")
                }
                false => Finding::new(
                    Grade::Poor,
                    about,
                    found,
                    "a viewer keeps less than ten minutes to go back to: name a larger folder with --data",
                ),
            }
        }
    }
}

/// Whether a program is there, and in which version. `oldest` is the oldest that was tried.
pub async fn program(name: &str, about: &'static str, oldest: &str, purpose: &str) -> Finding {
    let mut asking = Command::new(name);
    let flag = if name == "ffmpeg" { "-version" } else { "--version" };
    asking.arg(flag).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(VERSION_TIMEOUT, asking.output()).await {
        Err(_) => Finding::new(
            Grade::Poor,
            about,
            "does not say its version",
            format!("{purpose}: see what `{name} {flag}` does"),
        ),
        Ok(Err(error)) => Finding::new(
            Grade::Poor,
            about,
            format!("not found ({error})"),
            format!("{purpose}: install {name}"),
        ),
        Ok(Ok(output)) => judge(about, &String::from_utf8_lossy(&output.stdout), oldest, purpose),
    }
}

fn judge(about: &'static str, said: &str, oldest: &str, purpose: &str) -> Finding {
    let version = said.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches(['n', 'v']);
        word.starts_with(|c: char| c.is_ascii_digit()).then_some(word)
    });
    match version {
        None => Finding::new(Grade::Known, about, "a version without a number", purpose),
        Some(version) if numbers(version) >= numbers(oldest) => {
            Finding::new(Grade::Good, about, version, purpose)
        }
        Some(version) => Finding::new(
            Grade::Poor,
            about,
            version,
            format!("{purpose}; older than {oldest} was not tried: install a newer one if it plays badly"),
        ),
    }
}

/// The first two numbers of a version.
fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_and_compared() {
        let grade = |said, oldest| judge("x", said, oldest, "").grade;
        assert_eq!(grade("mpv 0.35.1 Copyright © 2000-2023", "0.33"), Grade::Good);
        assert_eq!(grade("mpv v0.9.0-dirty", "0.33"), Grade::Poor);
        assert_eq!(grade("ffmpeg version 5.1.6-0+deb12u1 Copyright", "4.3"), Grade::Good);
        assert_eq!(grade("ffmpeg version n7.0", "4.3"), Grade::Good);
        assert_eq!(grade("ffmpeg version N-12345", "4.3"), Grade::Known);
        assert_eq!(grade("", "4.3"), Grade::Known);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let finding = program("no-such-program-here", "x", "1", "for pictures").await;
        assert!(
            finding.grade == Grade::Poor && finding.advice.contains("install no-such-program-here"),
            "{finding:?}"
        );
    }
}
