//! `minuet`: watch a channel, and look at what links, records and torrents say.

// Both panic where nobody reads any more; see `minuet_console`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod channels;
mod doctor;
mod inspect;
mod media_file;
mod options;
mod player;
mod serve;
mod watch;

use std::process::ExitCode;

use clap::CommandFactory as _;
use minuet_options::Sources;
use options::{Command, Options};

/// The player where the options name none.
const PLAYER: &str = "mpv";

fn main() -> ExitCode {
    let viewers_file = options::viewers_file();
    let sources = Sources { variable: None, file: viewers_file.as_deref().map(|path| ("watch", path)) };
    let options: Options = match minuet_options::read(sources) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let done = match options.command {
        Command::Watch(mut watch) => {
            if watch.play {
                watch.player.get_or_insert_with(|| PLAYER.into());
            }
            watch::main(watch, options.verbose)
        }
        Command::Relay(relay) => watch::relay::main(*relay, options.verbose),
        Command::Channels(channels) => channels::main(&channels),
        Command::Inspect(inspect) => inspect::main(&inspect),
        Command::Doctor(doctor) => match doctor::main(doctor) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Completions(completions) => {
            return minuet_options::print(&minuet_options::completions(
                Options::command(),
                completions.shell,
            ));
        }
        Command::Health => minuet_console::service::check_health().map_err(anyhow::Error::msg),
        Command::Manual(manual) => {
            minuet_options::write_manual(&Options::command(), &manual.folder).map_err(anyhow::Error::msg)
        }
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
