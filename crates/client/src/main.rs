//! `minuet`: watch a channel, and look at what links, records and torrents say.

// Both panic where nobody reads any more; see `minuet_console`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod inspect;
mod options;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use options::{Command, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.command {
        Command::Watch(watch) => watch::main(watch, options.verbose),
        Command::Relay(relay) => watch::relay::main(*relay, options.verbose),
        Command::Inspect(inspect) => inspect::main(&inspect),
    };
    match done {
        Ok(()) => {
            minuet_console::flush();
            ExitCode::SUCCESS
        }
        Err(error) => {
            minuet_console::complain(&format!("minuet: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
