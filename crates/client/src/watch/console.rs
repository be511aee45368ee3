//! What is said on standard error: log lines, and on a terminal a status line below them.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Standard error, shared by log and status line. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Console {
    bar: ProgressBar,
    terminal: bool,
}

impl Console {
    /// Starts logging; `verbose` counts the `-v`.
    pub fn start(verbose: u8) -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(
            ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        let console = Self { bar, terminal };
        let default = match verbose {
            0 => "warn,minuet=info,minuet_node=info,librqbit=off,iroh=off,netwatch=off",
            1 => "info,minuet=debug,minuet_node=debug,minuet_swarm=debug,librqbit=off,iroh=warn,netwatch=off",
            _ => "debug",
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(verbose > 1)
            .with_ansi(terminal)
            .with_writer(console.clone());
        // Who reads along knows what time it is. A second start in one process (tests) keeps the first.
        let _ = if terminal { log.without_time().try_init() } else { log.try_init() };
        console
    }

    /// Whether a status line can be seen, and so how often to renew it.
    pub fn interval(&self) -> Duration {
        if self.terminal { Duration::from_millis(500) } else { Duration::from_secs(30) }
    }

    /// Shows the status: in place on a terminal, else as a line.
    pub fn status(&self, text: String) {
        if self.terminal {
            self.bar.set_message(text);
            self.bar.tick();
        } else {
            tracing::info!("{text}");
        }
    }

    /// Takes the status line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { console: self, text: Vec::new() }
    }
}

/// One log line, written as a whole above the status line.
pub struct Line<'a> {
    console: &'a Console,
    text: Vec<u8>,
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.console.bar.suspend(|| {
            let _ = io::stderr().write_all(&self.text);
        });
    }
}
