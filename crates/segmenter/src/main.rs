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
mod marks;
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

use std::process::ExitCode;

use minuet_console::{Screen, Setup};
use minuet_options::Sources;

/// What is logged unless `RUST_LOG` says otherwise. The BitTorrent engine reports each connection's end as an error.
const FILTER: &str = "info,librqbit=off,iroh=off,netwatch=off,librqbit_core=off,librqbit_tracker_comms=off,\
                      rustls_platform_verifier=off";

fn main() -> ExitCode {
    let options: options::Options = match minuet_options::read(Sources::default()) {
        Ok(options) => options,
        Err(code) => return code,
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
