//! A file of options beside command line and environment: `--config FILE`, and `--print-config`, which writes one.
//!
//! Lines are `option = value`, with the names of the command line without their dashes; `#` begins a comment; an option
//! that may repeat has a line for each value. What has no dashes on the command line has its name in lower case
//! (`input`, `link`).

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// Options that a file cannot set.
const NOT_IN_A_FILE: [&str; 8] =
    ["config", "print_config", "completions", "manual", "health", "help", "version", "verbose"];

/// What the file sets and neither command line nor environment does, as arguments. `said` is what those two gave.
/// The error is a sentence.
pub fn arguments(command: &Command, said: &ArgMatches, file: &str) -> Result<Vec<OsString>, String> {
    let mut arguments = Vec::new();
    for (number, line) in (1..).zip(file.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()))
            .ok_or_else(|| format!("line {number} is no `option = value`: {line}"))?;
        let arg = in_file(command)
            .find(|arg| name(arg) == key)
            .ok_or_else(|| format!("line {number} names an option that there is not: {key}"))?;
        let source = said.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        match (arg.get_action(), value) {
            (ArgAction::SetTrue, "true") => arguments.push(format!("--{key}").into()),
            (ArgAction::SetTrue, "false") => {}
            (ArgAction::SetTrue, _) => {
                return Err(format!("line {number}: {key} is true or false, not {value}"));
            }
            _ if !arg.is_positional() => arguments.push(format!("--{key}={value}").into()),
            // It would be read as an option.
            _ if value.len() > 1 && value.starts_with('-') => {
                return Err(format!("line {number}: {key} cannot begin with a dash: {value}"));
            }
            _ => arguments.push(value.into()),
        }
    }
    Ok(arguments)
}

/// A file that says what `said` says: each option with its help; what is a default is commented out. `title` is what the
/// command is called.
pub fn print(title: &str, command: &Command, said: &ArgMatches) -> String {
    let mut out = format!("# Options of {title}: what is commented out is the default.\n");
    for arg in in_file(command) {
        let (key, id) = (name(arg), arg.get_id().as_str());
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        out.push('\n');
        for line in help.lines() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# {line}");
        }
        let set = !matches!(said.value_source(id), None | Some(ValueSource::DefaultValue));
        let mark = if set { "" } else { "# " };
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            let _ = writeln!(out, "{mark}{key} = {}", said.get_flag(id));
            continue;
        }
        let values: Vec<String> = said
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        if values.is_empty() {
            let _ = writeln!(out, "# {key} =");
        }
        for value in values {
            let _ = writeln!(out, "{mark}{key} = {value}");
        }
    }
    out
}

/// The options that a file can set.
pub fn in_file(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NOT_IN_A_FILE.contains(&arg.get_id().as_str()))
}

/// What a file calls an option.
pub fn name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(arg.get_id().as_str())
}
