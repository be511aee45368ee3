//! `minuet-tracker`: reads the command line, starts the tracker, waits for the signal to end.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use minuet_console::{Screen, Setup, complain, flush, service};
use minuet_options::Sources;
use minuet_tracker::Tracker;
use rustix::process::{Resource, getrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// How long a tracker that has lost a part of itself may take to end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What is logged. The relay server's library warns of every client that gives up, which anybody can do at will.
const LOG: &str = "info,iroh_relay=error,noq=error,noq_proto=error";

#[tokio::main]
async fn main() -> ExitCode {
    let sources = Sources { variable: Some("MINUET_TRACKER_CONFIG"), file: None };
    let options: cli::Options = match minuet_options::read(sources) {
        Ok(options) => options,
        Err(code) => return code,
    };
    Screen::start(Setup { variable: "MINUET_LOG", filter: LOG, target: false, time_on_terminal: true });
    match run(options).await {
        Ok(()) => {
            flush();
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("minuet-tracker: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but for those that it names itself.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match () {
        () if said.is_empty() => cause,
        () if said.contains(&cause) => said,
        () => format!("{said}: {cause}"),
    })
}

async fn run(options: cli::Options) -> anyhow::Result<()> {
    if let Err(error) = cli::raise_open_files_limit() {
        warn!(%error, "cannot raise the limit of open files; connections may be refused");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut config = options.into_config();
    if let Some(files) = getrlimit(Resource::Nofile).current
        && config.http.fit(files)
    {
        warn!(
            "the system allows {files} open files, so there are at most {} connections; raise its limit (ulimit -n, or \
             LimitNOFILE= of the service)",
            config.http.connections
        );
    }
    let tracker = Tracker::start(config).await?;
    service::ready();
    let mut living = std::pin::pin!(service::live());
    let fault = loop {
        tokio::select! {
            never = &mut living => match never {},
            fault = tracker.fault() => break Some(fault),
            _ = terminate.recv() => break None,
            _ = hang_up.recv() => match tracker.reload() {
                Ok(true) => info!("reloaded the certificate"),
                Ok(false) => info!("told to reload, and there is no certificate: see --tls-cert"),
                Err(error) => warn!("{error}; the old certificate stays in use"),
            },
            result = tokio::signal::ctrl_c() => {
                result?;
                break None;
            }
        }
    };
    service::stopping();
    match fault {
        None => {
            info!("shutting down");
            tracker.shutdown().await;
            Ok(())
        }
        Some(fault) => {
            // What is left may wait for the dead, so not for long.
            let _ = tokio::time::timeout(LAST_WORDS, tracker.shutdown()).await;
            Err(anyhow::anyhow!(
                "{fault}; this is a fault of the program: start it again, and report what it says"
            ))
        }
    }
}
