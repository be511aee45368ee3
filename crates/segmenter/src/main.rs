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
mod log;
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

use clap::Parser;

fn main() -> ExitCode {
    let options = options::Options::parse();
    let screen = log::Screen::start();
    match app::run(options, screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
