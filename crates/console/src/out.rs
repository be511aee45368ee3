//! Single lines: a program's last word on standard error, and what it prints on standard output.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use crate::{journal, screen::Screen};

/// How long the end of a program waits for a log that is not read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Says one line on standard error, after all log lines before it; for what must be read even where the log is off.
/// In place of `eprintln!`, which panics where standard error cannot be written.
pub fn complain(text: &str) {
    match Screen::started() {
        Some(screen) => {
            let line = format!("{}\n", screen.masked(text));
            screen.writer().line(screen.marked(line, tracing::Level::ERROR).into_bytes());
            flush();
        }
        None => {
            let text = format!("{}\n", minuet_proto::mask(text));
            let text = match journal::is_standard_error() {
                true => journal::marked(&text, journal::priority(tracing::Level::ERROR)),
                false => text,
            };
            drop(io::stderr().write_all(text.as_bytes()));
        }
    }
}

/// Waits until the log is written, for a second at most. To be called before a program ends.
pub fn flush() {
    if let Some(screen) = Screen::started() {
        screen.writer().flush(FLUSH_TIMEOUT);
    }
}

/// Writes `text` to standard output at once. A reader that has gone has had enough, which is no error.
///
/// # Errors
/// When standard output cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
