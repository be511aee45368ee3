//! `minuet-segmenter`: cuts a live MPEG-TS feed into segments, shares each as a torrent, and tells trackers.
//!
//! The way of a byte: [`input`] → the cutter of `minuet_media` → [`hasher`] → a file ([`recorder`], one thread) → made
//! durable ([`app`]) → [`shelf`] → seeded ([`keeper`]), published ([`publisher`], one task a tracker) and served
//! ([`web`]).

mod app;
mod archive;
mod budget;
mod clock;
mod dashboard;
mod hasher;
mod input;
mod keeper;
mod key;
mod live;
mod meters;
mod notices;
mod options;
mod publisher;
mod recorder;
mod share;
mod shelf;
mod state;
mod status;
mod web;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser;
use minuet_console::{Screen, Setup};

/// What is logged unless `RUST_LOG` says otherwise. The BitTorrent engine reports each connection's end as an error.
const FILTER: &str = "info,librqbit=off,iroh=off,netwatch=off,librqbit_core=off,librqbit_tracker_comms=off,\
                      rustls_platform_verifier=off";

fn main() -> ExitCode {
    let options = match options::Options::try_parse() {
        Ok(options) => options,
        Err(error) => return usage(&error),
    };
    let setup = Setup { variable: "RUST_LOG", filter: FILTER, target: false, time_on_terminal: true };
    let screen = Screen::start(setup);
    let code = match app::run(options, screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    minuet_console::flush();
    code
}

/// Says what is wrong with the command line, or what was asked about it. Not as clap would: it repeats what was typed,
/// passwords included, and panics where standard error cannot be written.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        let ansi = std::io::stderr().is_terminal();
        let text = if ansi { text.ansi().to_string() } else { text.to_string() };
        minuet_console::complain(text.trim_end());
        return ExitCode::from(2);
    }
    let ansi = std::io::stdout().is_terminal();
    let text = if ansi { text.ansi().to_string() } else { text.to_string() };
    match minuet_console::print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
