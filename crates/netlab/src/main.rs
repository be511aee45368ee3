//! The command line of the lab; see README.md.

#[cfg(not(target_os = "linux"))]
compile_error!("netlab is made of Linux network namespaces");

mod measure;
mod options;
mod run;

use std::{
    os::unix::process::CommandExt,
    process::{self, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use minuet_netlab::{
    lab::{LabError, cleanup, control, identity::LabId, program},
    stranger::{self, Ends},
};

use crate::options::{Between, Command, Exec, Options, WhichLab};

fn main() -> ExitCode {
    match carry_out(Options::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("netlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<u8> {
    match command {
        Command::Run(options) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run::run(&options))
        }
        Command::Exec(options) => exec(&options),
        Command::Set(options) => {
            control::ask(&which(&options.which)?, &format!("set {}", options.change.join(" ")))?;
            Ok(0)
        }
        Command::Show(options) => {
            say(&control::ask(&which(&options.which)?, "show")?);
            Ok(0)
        }
        Command::Ping(options) => {
            let ends = ends(&options.between)?;
            say(&serde_json::to_string(&stranger::ping(&ends, options.every, options.between.how_long)?)?);
            Ok(0)
        }
        Command::Load(options) => {
            let (ends, how_long) = (ends(&options.between)?, options.between.how_long);
            let load = match options.rate {
                Some(rate) => stranger::call(&ends, rate, how_long)?,
                None => stranger::upload(&ends, how_long)?,
            };
            say(&serde_json::to_string(&load)?);
            Ok(0)
        }
        Command::Measure => measure::measure().map(|()| 0),
        Command::Sweep => {
            program::check()?;
            eprintln!("netlab: {} dead labs taken down", cleanup::sweep()?);
            Ok(0)
        }
    }
}

/// Becomes the command, inside the host's namespace. Returns only when that fails.
fn exec(options: &Exec) -> Result<u8> {
    let id = which(&options.which)?;
    let namespace = id.namespace(&options.host);
    if namespace.proc_link().is_none() {
        bail!("lab {} has no host {}: `show` lists its hosts", id.as_str(), options.host);
    }
    namespace.enter()?;
    let (program, arguments) = match options.command.split_first() {
        Some(split) => split,
        None => bail!("name the command that is to run on {}", options.host),
    };
    let error = process::Command::new(program).args(arguments).env("NETLAB_ID", id.as_str()).exec();
    bail!("cannot run {program}: {error}")
}

/// The hosts that are meant, in the lab that is meant.
fn ends(between: &Between) -> Result<Ends> {
    let id = which(&between.which)?;
    let shown: serde_json::Value = serde_json::from_str(&control::ask(&id, "show")?)?;
    let address = |name: &str| {
        let host = shown["hosts"].as_array().into_iter().flatten().find(|host| host["name"] == name);
        let address = host.and_then(|host| host["inside"].as_str()?.parse().ok());
        address.with_context(|| format!("lab {} has no host {name}: `show` lists its hosts", id.as_str()))
    };
    Ok(Ends {
        from: id.namespace(&between.from),
        from_address: address(&between.from)?,
        to: id.namespace(&between.to),
        to_address: address(&between.to)?,
    })
}

fn which(options: &WhichLab) -> Result<LabId, LabError> {
    if let Some(id) = &options.lab {
        return Ok(LabId::named(id));
    }
    let mut running = LabId::running();
    match (running.pop(), running.is_empty()) {
        (Some(id), true) => Ok(id),
        (None, _) => Err(LabError::WhichLab("no lab runs: start one with `run`".to_owned())),
        (Some(last), false) => {
            running.push(last);
            let ids: Vec<&str> = running.iter().map(LabId::as_str).collect();
            Err(LabError::WhichLab(format!("several labs run: choose one with --lab, of {}", ids.join(", "))))
        }
    }
}

#[allow(clippy::print_stdout, reason = "the figures are what was asked for")]
fn say(text: &str) {
    println!("{text}");
}
