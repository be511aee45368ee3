//! What the command lines of all programs have in common: options from a file, completions, manual pages, and how a
//! wrong command line is answered.
//!
//! A program reads its command line with [`read`]. The command line goes before the environment, the environment before
//! the file, the file before the defaults. What the file says is parsed by the same code as the command line.
//!
//! Nothing here repeats what was typed but through [`minuet_console`], which masks passwords and never panics.

mod file;
mod papers;

use std::{
    ffi::OsString,
    fs::File,
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches};

pub use clap_complete::Shell;
use minuet_console::service;
pub use papers::{completions, write_manual};

/// Exit code for options that make no sense.
pub const BAD_USAGE: u8 = 2;
/// The longest file of options that is read, in bytes.
pub const MAX_FILE_LENGTH: u64 = 1 << 16;

/// Options about a file of options. A program takes them in with `#[command(flatten)]`; [`read`] acts on them.
#[derive(Debug, Clone, Default, Args)]
pub struct FromFile {
    /// Read options from this file too, one `option = value` a line; the command line goes before it.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,
    /// Write a commented file for --config with all options as they would be used, and exit.
    #[arg(long, help_heading = "Configuration")]
    pub print_config: bool,
}

/// What a program without subcommands writes about itself. [`read`] acts on it.
#[derive(Debug, Clone, Default, Args)]
pub struct Papers {
    /// Write completions for this shell to standard output, and exit. Example: --completions bash
    #[arg(long, value_name = "SHELL", help_heading = "Configuration")]
    pub completions: Option<Shell>,
    /// Write the manual pages into this folder, and exit.
    #[arg(long, value_name = "DIR", hide = true)]
    pub manual: Option<PathBuf>,
    /// Say by the exit code whether the program that has this one's environment lives; for containers.
    #[arg(long, hide = true)]
    pub health: bool,
}

/// Where options come from besides the command line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'a> {
    /// The environment variable that names the file.
    pub variable: Option<&'static str>,
    /// The file that this subcommand reads where no other is named. It need not exist.
    pub file: Option<(&'a str, &'a Path)>,
}

/// Reads the program's command line, the environment, and the file that they name. When that was all to be done, or when
/// it is wrong, the user has been told and the exit code is the error.
pub fn read<O: CommandFactory + FromArgMatches>(sources: Sources<'_>) -> Result<O, ExitCode> {
    match answer::<O>(std::env::args_os().collect(), sources) {
        Ok(Answer::Run(options)) => Ok(options),
        Ok(Answer::Print(text)) => Err(print(&text)),
        Ok(Answer::Done) => Err(ExitCode::SUCCESS),
        Err(Refused::Usage(error)) => Err(usage(&error)),
        Err(Refused::Health(error)) => {
            minuet_console::complain(&error);
            Err(ExitCode::FAILURE)
        }
        Err(Refused::File(error)) => {
            minuet_console::complain(&format!("{}: {error}", O::command().get_name()));
            Err(ExitCode::from(BAD_USAGE))
        }
    }
}

/// What a command line comes to.
#[derive(Debug)]
enum Answer<O> {
    Run(O),
    Print(String),
    Done,
}

#[derive(Debug)]
enum Refused {
    Usage(clap::Error),
    /// A sentence about a file.
    File(String),
    /// A sentence about a program that does not live.
    Health(String),
}

impl From<clap::Error> for Refused {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

fn answer<O: CommandFactory + FromArgMatches>(
    args: Vec<OsString>,
    sources: Sources<'_>,
) -> Result<Answer<O>, Refused> {
    let command = match sources.variable {
        Some(variable) => O::command().mut_arg("config", |arg| arg.env(variable)),
        None => O::command(),
    };
    // What the command line lacks the file may have.
    let lenient = without_required(command.clone());
    let said = match lenient.clone().try_get_matches_from(&args) {
        Ok(said) => said,
        // An option of the command line may need one that the file has. What is wrong with both together shows below.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            ignoring_errors(lenient.clone()).try_get_matches_from(&args)?
        }
        // The other one's usage line is wrong.
        Err(error) => return Err(command.try_get_matches_from(&args).err().unwrap_or(error).into()),
    };
    let (verb, inner) = said.subcommand().map_or((None, &said), |(verb, inner)| (Some(verb), inner));
    if let Some(shell) = value::<Shell>(inner, "completions") {
        return Ok(Answer::Print(completions(command, *shell)));
    }
    if value::<bool>(inner, "health") == Some(&true) {
        return match service::check_health() {
            Ok(()) => Ok(Answer::Done),
            Err(error) => Err(Refused::Health(error)),
        };
    }
    if let Some(folder) = value::<PathBuf>(inner, "manual") {
        write_manual(&command, folder).map_err(Refused::File)?;
        return Ok(Answer::Done);
    }
    let Some(parent) = verb.map_or(Some(&command), |verb| command.find_subcommand(verb)) else {
        return Ok(Answer::Run(O::from_arg_matches(&said)?));
    };
    let text = match value::<PathBuf>(inner, "config") {
        Some(path) => read_file(path)?,
        None => match sources.file {
            Some((of, path)) if verb == Some(of) && path.exists() => read_file(path)?,
            _ => (PathBuf::new(), String::new()),
        },
    };
    let named = |error| Refused::File(format!("cannot use {}: {error}", text.0.display()));
    let from_file = file::arguments(parent, inner, &text.1).map_err(named)?;
    // Before what was typed, whose last words may be no options any more (`--`).
    let at = verb.and_then(|verb| args.iter().position(|arg| arg == verb)).unwrap_or(0).saturating_add(1);
    let mut merged = args;
    merged.splice(at..at, from_file);
    if value::<bool>(inner, "print_config") == Some(&true) {
        let said = lenient.try_get_matches_from(merged)?;
        let inner = said.subcommand().map_or(&said, |(_, inner)| inner);
        let title = match verb {
            Some(verb) => format!("{} {verb}", command.get_name()),
            None => command.get_name().to_owned(),
        };
        return Ok(Answer::Print(file::print(&title, parent, inner)));
    }
    Ok(Answer::Run(O::from_arg_matches(&command.try_get_matches_from(merged)?)?))
}

/// The value of an option that the command may not have at all.
fn value<'a, T: Clone + Send + Sync + 'static>(said: &'a ArgMatches, id: &str) -> Option<&'a T> {
    said.try_get_one(id).ok().flatten()
}

fn without_required(command: Command) -> Command {
    command
        .mut_args(|arg| if arg.is_required_set() { arg.required(false) } else { arg })
        .mut_subcommands(without_required)
}

fn ignoring_errors(command: Command) -> Command {
    command.ignore_errors(true).mut_subcommands(ignoring_errors)
}

fn read_file(path: &Path) -> Result<(PathBuf, String), Refused> {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_FILE_LENGTH.saturating_add(1)).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > MAX_FILE_LENGTH => Err(Refused::File(format!(
            "cannot use {}: it is longer than {MAX_FILE_LENGTH} bytes; is it a file of options?",
            path.display()
        ))),
        Ok(_) => Ok((path.to_owned(), text)),
        Err(error) => Err(Refused::File(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Says what is wrong with the command line, or what was asked about it. Not as clap would: it repeats what was typed,
/// passwords included, and panics where standard error cannot be written.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        let ansi = std::io::stderr().is_terminal();
        let text = if ansi { text.ansi().to_string() } else { text.to_string() };
        minuet_console::complain(text.trim_end());
        return ExitCode::from(BAD_USAGE);
    }
    let ansi = std::io::stdout().is_terminal();
    print(&if ansi { text.ansi().to_string() } else { text.to_string() })
}

/// Writes `text` to standard output, as the program's only work.
pub fn print(text: &str) -> ExitCode {
    match minuet_console::print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            minuet_console::complain(&format!("cannot write to standard output: {error}; is the disk full?"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
