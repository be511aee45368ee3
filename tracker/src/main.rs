//! `minuet-tracker`: reads the command line, starts the tracker, waits for the signal to end.

mod cli;
mod config_file;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::CommandFactory as _;
use minuet_tracker::Tracker;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// Exit code for options that make no sense.
const BAD_USAGE: u8 = 2;
/// What is logged. The relay server's library warns of every client that gives up, which anybody can do at will.
const LOG: &str = "info,iroh_relay=error,noq=error,noq_proto=error";

#[tokio::main]
async fn main() -> ExitCode {
    let (options, matches) = match cli::Options::read() {
        Ok(read) => read,
        Err(error) => {
            eprintln!("minuet-tracker: {error:#}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    if options.print_config {
        #[expect(clippy::print_stdout, reason = "it is what was asked for")]
        {
            print!("{}", config_file::print(&cli::Options::command(), &matches));
        }
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_env("MINUET_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minuet-tracker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: cli::Options) -> anyhow::Result<()> {
    if let Err(error) = cli::raise_open_files_limit() {
        warn!(%error, "cannot raise the limit of open files; connections may be refused");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let tracker = Tracker::start(options.into_config()).await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = hang_up.recv() => match tracker.reload() {
                Ok(true) => info!("reloaded the certificate"),
                Ok(false) => info!("told to reload, and there is no certificate: see --tls-cert"),
                Err(error) => warn!("{error}; the old certificate stays in use"),
            },
            result = tokio::signal::ctrl_c() => {
                result?;
                break;
            }
        }
    }
    info!("shutting down");
    tracker.shutdown().await;
    Ok(())
}
