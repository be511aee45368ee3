//! `run`: a lab around a command.

use std::{
    env, io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
};

use anyhow::{Context, Result};
use minuet_netlab::lab::{Lab, control::Control};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::options::Run;

/// What a shell adds to a signal's number.
const KILLED: u8 = 128;

/// Builds the lab, runs the command, takes the lab down. Returns the command's exit code, or 128 and the signal's
/// number when it or we were ended by one.
pub async fn run(options: &Run) -> Result<u8> {
    // Before anything is made: a signal that comes while the lab is built ends it when it is.
    let mut interrupts = Interrupts::listen().context("cannot listen for signals")?;
    let lab = Lab::build(options.plan()?)?;
    let control = Control::open(&lab)?;
    let mut child =
        options.command.split_first().map(|(program, rest)| start(&lab, program, rest)).transpose()?;
    if child.is_none() {
        eprintln!(
            "netlab: lab {} stands with {} hosts; Ctrl-C ends it",
            lab.id().as_str(),
            lab.plan().hosts.len()
        );
    }
    let ended = async {
        match &mut child {
            Some(child) => child.wait().await.map(exit_code),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        code = ended => code.context("cannot wait for the command"),
        number = interrupts.next() => Ok(KILLED + number),
        () = control.serve(&lab) => unreachable!("serving ends only by being dropped"),
    }
}

fn start(lab: &Lab, program: &str, arguments: &[String]) -> Result<Child> {
    let netlab = env::current_exe().context("cannot find this program")?;
    Command::new(program)
        .args(arguments)
        .envs(lab.environment())
        .env("NETLAB", netlab)
        .stdin(Stdio::null())
        // A Ctrl-C is for us; we end the command.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {program}: check its name and that it is executable"))
}

fn exit_code(status: ExitStatus) -> u8 {
    let signal = status.signal().and_then(|number| u8::try_from(number).ok());
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.or(signal.map(|number| KILLED.saturating_add(number))).unwrap_or(1)
}

/// The signals that ask a program to end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupts {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        };
        u8::try_from(kind.as_raw_value()).unwrap_or(0)
    }
}
