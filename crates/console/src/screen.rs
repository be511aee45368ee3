//! Log lines, and on a terminal a status line that stays below them.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use indicatif::{ProgressBar, ProgressStyle};
use minuet_proto::Secrets;
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{flood::Flood, journal, writer::Writer};

/// The process's screen: there is one standard error.
static SCREEN: OnceLock<Screen> = OnceLock::new();

/// How a program logs.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The environment variable with another filter, as in `RUST_LOG`.
    pub variable: &'a str,
    /// The filter where the variable is not set, or cannot be read.
    pub filter: &'a str,
    /// Whether lines name the module that they come from.
    pub target: bool,
    /// Whether lines have the time on a terminal, too. Elsewhere they always have it, but for the journal.
    pub time_on_terminal: bool,
}

/// Standard error, shared by log lines and a status line. Cheap to clone; nothing that it does fails or blocks.
#[derive(Debug, Clone)]
pub struct Screen {
    writer: Writer,
    terminal: bool,
    journal: bool,
    secrets: Arc<RwLock<Secrets>>,
    flood: Arc<Flood>,
}

impl Screen {
    /// Starts logging. A second start in one process keeps the first.
    pub fn start(setup: Setup<'_>) -> Self {
        let screen = SCREEN.get_or_init(Self::open).clone();
        let filter = EnvFilter::try_from_env(setup.variable).unwrap_or_else(|_| EnvFilter::new(setup.filter));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(setup.target)
            .with_ansi(screen.terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
            // It would use `eprintln!`, which panics.
            .log_internal_errors(false)
            .with_writer(screen.clone());
        // Fails only if logging was started before.
        let _ = match () {
            () if screen.journal => log.without_time().with_level(false).try_init(),
            () if screen.terminal && !setup.time_on_terminal => log.without_time().try_init(),
            () => log.try_init(),
        };
        screen
    }

    /// The one that was started, if any.
    pub(crate) fn started() -> Option<&'static Self> {
        SCREEN.get()
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    fn open() -> Self {
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = io::stderr().is_terminal() && !dumb;
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self {
            writer: Writer::start(io::stderr(), bar),
            terminal,
            journal: journal::is_standard_error(),
            secrets: Arc::default(),
            flood: Arc::new(Flood::new()),
        }
    }

    /// Whether a status line can be seen.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Masks these wherever they turn up from now on, in place of those that were named before.
    pub fn keep_secret(&self, secrets: Secrets) {
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = secrets;
    }

    /// `text` as it may be shown.
    pub(crate) fn masked(&self, text: &str) -> String {
        // A list is whole by itself.
        self.secrets.read().unwrap_or_else(PoisonError::into_inner).mask(text)
    }

    /// A line of this importance as it is written: where the journal reads, with its priority.
    pub(crate) fn marked(&self, text: String, level: Level) -> String {
        match self.journal {
            true => journal::marked(&text, journal::priority(level)),
            false => text,
        }
    }

    /// Shows `text` as the status line, in place of the one before. Does nothing where there is no terminal.
    pub fn status(&self, text: impl Into<String>) {
        if self.terminal {
            self.writer.status(Some(self.masked(&text.into())));
        }
    }

    /// Takes the status line away.
    pub fn clear_status(&self) {
        if self.terminal {
            self.writer.status(None);
        }
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { screen: self, level: Level::INFO, text: Vec::new(), left_out: Some(0) }
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Line<'a> {
        Line { screen: self, level: *line.level(), text: Vec::new(), left_out: self.flood.admit(line) }
    }
}

/// One log line, queued as a whole when it is dropped.
#[derive(Debug)]
pub struct Line<'a> {
    screen: &'a Screen,
    level: Level,
    text: Vec<u8>,
    /// How many like it were left out before; `None`: so is this one.
    left_out: Option<u64>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left_out.is_some() {
            self.text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            if let Some(more @ 1..) = self.left_out {
                self.text.truncate(self.text.trim_ascii_end().len());
                let left_out = match more {
                    1 => " (1 more line like this one was left out)\n".to_owned(),
                    _ => format!(" ({more} more lines like this one were left out)\n"),
                };
                self.text.extend(left_out.into_bytes());
            }
            let text = self.screen.masked(&String::from_utf8_lossy(&self.text));
            self.screen.writer.line(self.screen.marked(text, self.level).into_bytes());
        }
    }
}
