//! Messages and the status line, both on standard error, without one tearing the other.

use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// What is logged unless `RUST_LOG` says otherwise. The BitTorrent engine reports each connection's end as an error.
const FILTER: &str = "info,librqbit=off,iroh=off,netwatch=off,librqbit_core=off,librqbit_tracker_comms=off";

/// Standard error, shared by log lines and a status line that stays at the bottom of a terminal.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: MultiProgress,
    terminal: bool,
}

/// Writes one log line above the status line.
#[derive(Debug)]
pub struct Line(Screen);

impl Screen {
    /// Starts logging.
    pub fn start() -> Self {
        let screen = Self { bars: MultiProgress::new(), terminal: io::stderr().is_terminal() };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
        let format = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(false)
            .with_ansi(screen.terminal)
            .with_writer(screen.clone());
        // Fails only if logging was started before.
        let _ = format.try_init();
        screen
    }

    /// A status line, if standard error is a terminal.
    pub fn status(&self) -> Option<ProgressBar> {
        if !self.terminal {
            return None;
        }
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(
            ProgressStyle::with_template("{spinner} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Some(bar)
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.clone())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A whole line comes in one call. A reader that went away must not end the broadcast.
        self.0.bars.suspend(|| drop(io::stderr().write_all(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
