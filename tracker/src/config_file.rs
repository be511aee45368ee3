//! A file beside command line and environment: `--config FILE`, and `--print-config`, which writes one.
//!
//! Lines are `option = value`, with the names of the command line without their dashes; `#` begins a comment; an option
//! that may repeat has a line for each value. The command line goes before the environment, the environment before the
//! file, the file before the defaults. Whatever the file says is parsed like the command line, by the same code.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The longest file that is read, in bytes.
pub const MAX_FILE_LENGTH: u64 = 1 << 16;
/// Options that a file cannot set.
const NOT_IN_A_FILE: [&str; 4] = ["config", "print_config", "help", "version"];

/// Adds to `args` what the file sets and neither command line nor environment does. `matches` is what the two alone
/// gave. The error is a sentence.
pub fn merge(
    command: &Command,
    matches: &ArgMatches,
    args: Vec<OsString>,
    file: &str,
) -> Result<Vec<OsString>, String> {
    let mut merged = args;
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
            .find(|arg| arg.get_long() == Some(key))
            .ok_or_else(|| format!("line {number} names an option that there is not: {key}"))?;
        let said = matches.value_source(arg.get_id().as_str());
        if matches!(said, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        match (arg.get_action(), value) {
            (ArgAction::SetTrue, "true") => merged.push(format!("--{key}").into()),
            (ArgAction::SetTrue, "false") => {}
            (ArgAction::SetTrue, _) => {
                return Err(format!("line {number}: {key} is true or false, not {value}"));
            }
            _ => merged.push(format!("--{key}={value}").into()),
        }
    }
    Ok(merged)
}

/// A file that says what `matches` says: each option with its help; what is a default is commented out.
pub fn print(command: &Command, matches: &ArgMatches) -> String {
    let mut out = String::from("# minuet-tracker: what is commented out is the default.\n");
    for arg in in_file(command) {
        let (Some(key), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        out.push('\n');
        for line in help.lines() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# {line}");
        }
        let set = !matches!(matches.value_source(id), None | Some(ValueSource::DefaultValue));
        let mark = if set { "" } else { "# " };
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            let _ = writeln!(out, "{mark}{key} = {}", matches.get_flag(id));
            continue;
        }
        let values: Vec<String> = matches
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

fn in_file(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NOT_IN_A_FILE.contains(&arg.get_id().as_str()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::Options;

    /// What command line and file give together, as the configuration's text.
    fn config(args: &[&str], file: &str) -> Result<String, String> {
        let command = Options::command();
        let args: Vec<OsString> = ["minuet-tracker"].iter().chain(args).map(OsString::from).collect();
        let matches = command.clone().try_get_matches_from(&args).unwrap();
        let merged = merge(&command, &matches, args, file)?;
        let matches = command.try_get_matches_from(merged).map_err(|error| error.to_string())?;
        Ok(format!("{:?}", Options::from_arg_matches(&matches).unwrap().into_config()))
    }

    #[test]
    fn the_file_sets_what_the_command_line_does_not() {
        let file = "# A comment.\nlisten = 127.0.0.1:1\nlisten = 127.0.0.1:2\n\ninterval=5m\nopen = true\n";
        let same = ["--listen=127.0.0.1:1", "--listen=127.0.0.1:2", "--interval=5m", "--open"];
        assert_eq!(config(&[], file), config(&same, ""));
        let other = ["--interval=3m", "--listen=127.0.0.1:9"];
        assert_eq!(config(&other, file), config(&["--interval=3m", "--listen=127.0.0.1:9", "--open"], ""));
        assert_eq!(config(&[], "open = false"), config(&[], ""));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (file, words) in [
            ("\nintervall = 5m", "line 2 names an option that there is not: intervall"),
            ("interval 5m", "line 1 is no `option = value`"),
            ("open = yes", "open is true or false"),
            ("config = x", "names an option that there is not"),
            ("interval = soon", "--interval"),
        ] {
            let error = config(&[], file).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_printed_reads_as_what_was_said() {
        let command = Options::command();
        let args = ["minuet-tracker", "--listen=127.0.0.1:1", "--open", "--relay-client-rate=3Mbit"];
        let matches = command.clone().try_get_matches_from(args).unwrap();
        let printed = print(&command, &matches);
        assert!(
            printed.contains("\nrelay-client-rate = 3Mbit\n") && printed.contains("\n# interval = 2m\n"),
            "{printed}"
        );
        assert_eq!(config(&[], &printed), config(&args[1..], ""));
        // With every default taken at its word, too.
        let all: String = printed
            .lines()
            .map(|line| {
                let bare = line.strip_prefix("# ").unwrap_or(line);
                let is_option =
                    in_file(&command).any(|arg| bare.split_once(" = ").map(|(key, _)| key) == arg.get_long());
                format!("{}\n", if is_option { bare } else { "" })
            })
            .collect();
        assert_eq!(config(&[], &all), config(&args[1..], ""));
    }
}
