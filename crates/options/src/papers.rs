//! Completions and manual pages, from the same texts as `--help`.
//!
//! A page has the sections of man-pages(7). What stands below the options in `--help` becomes sections of its own: a line that
//! ends in a colon, with indented lines below it, is a section with that name, its lines as they are; `Exit codes: …` is
//! EXIT STATUS; any other paragraph goes to NOTES.

use std::{fmt::Write as _, fs, io, path::Path};

use clap::{Arg, Command};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

/// Completions of the whole command line for a shell.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut out = Vec::new();
    generate(shell, &mut command, name, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Writes a page for the program and one for each subcommand into a folder, made when missing. The error is a sentence.
pub fn write_manual(command: &Command, folder: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write manual pages to {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(failed)?;
    let mut whole = command.clone().disable_help_subcommand(true);
    whole.build();
    let name = whole.get_name().to_owned();
    let verbs: Vec<Command> = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect();
    let pages: Vec<String> = verbs.iter().map(|verb| format!("{name}-{}", verb.get_name())).collect();
    for (verb, title) in verbs.into_iter().zip(&pages) {
        let page = page(verb, title, std::slice::from_ref(&name)).map_err(failed)?;
        fs::write(folder.join(format!("{title}.1")), page).map_err(failed)?;
    }
    let page = page(whole, &name, &pages).map_err(failed)?;
    fs::write(folder.join(format!("{name}.1")), page).map_err(failed)
}

/// One page. `title` is its name, `others` are those that it refers to.
fn page(command: Command, title: &str, others: &[String]) -> io::Result<String> {
    let version = command.get_version().unwrap_or(env!("CARGO_PKG_VERSION")).to_owned();
    let below = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let variables = variables(&command);
    let has_options = command.get_arguments().any(|arg| !arg.is_hide_set());
    let has_verbs = command.has_subcommands();
    let man = Man::new(command.display_name(title.to_owned()))
        .title(title.to_uppercase())
        .source(format!("minuet {version}"))
        .manual("Minuet");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if has_options {
        man.render_options_section(&mut out)?;
    }
    if has_verbs {
        man.render_subcommands_section(&mut out)?;
    }
    let mut out = String::from_utf8_lossy(&out).into_owned();
    out.push_str(&sections(&below.unwrap_or_default()));
    out.push_str(&variables);
    if !others.is_empty() {
        out.push_str(".SH \"SEE ALSO\"\n");
        let others: Vec<String> = others.iter().map(|name| format!("\\fB{}\\fR(1)", escape(name))).collect();
        out.push_str(&others.join(", "));
        out.push('\n');
    }
    Ok(out)
}

/// What stands below the options in `--help`, as sections.
fn sections(text: &str) -> String {
    let mut out = String::new();
    let mut notes = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let is_list = line.ends_with(':') && lines.peek().is_some_and(|next| next.starts_with(' '));
        if is_list {
            // Writing to a string cannot fail.
            let _ = writeln!(out, ".SH \"{}\"\n.nf", escape(&line.trim_end_matches(':').to_uppercase()));
            while let Some(example) = lines.next_if(|next| next.starts_with(' ')) {
                let _ = writeln!(out, "{}", literal(example.trim_start()));
            }
            out.push_str(".fi\n");
        } else if let Some(codes) = line.strip_prefix("Exit codes: ") {
            out.push_str(".SH \"EXIT STATUS\"\n");
            for code in codes.trim_end_matches('.').split("; ") {
                let (code, meaning) = code.split_once(' ').unwrap_or((code, ""));
                let _ = writeln!(out, ".TP\n.B {}\n{}", escape(code), literal(meaning));
            }
        } else {
            let _ = writeln!(notes, ".PP\n{}", literal(line));
        }
    }
    if !notes.is_empty() {
        out.push_str(".SH NOTES\n");
        out.push_str(&notes);
    }
    out
}

/// The variables that options can be set with, if any.
fn variables(command: &Command) -> String {
    let name = |arg: &Arg| {
        let variable = arg.get_env()?.to_str()?.to_owned();
        Some((variable, arg.get_long()?.to_owned()))
    };
    let mut out = String::new();
    for (variable, option) in command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(name) {
        if out.is_empty() {
            out.push_str(".SH ENVIRONMENT\n");
        }
        let _ = writeln!(out, ".TP\n.B {}\nThe same as \\-\\-{}.", escape(&variable), escape(&option));
    }
    out
}

/// A line of text that is no request, whatever it begins with.
fn literal(line: &str) -> String {
    let escaped = escape(line);
    match escaped.starts_with(['.', '\'']) {
        true => format!("\\&{escaped}"),
        false => escaped,
    }
}

/// Text as roff reads it: what people copy from a page must be ASCII hyphens and quotes.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('`', "\\(ga")
        .replace('^', "\\(ha")
        .replace('~', "\\(ti")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_below_the_options_becomes_sections() {
        let text = "Examples:\n  prog a-b 'c'\n  .hidden\n\nFiles:\n  /etc/x   options\n\nLINK is a link.\nExit codes: 0 all is \
                    well; 1 a failure.";
        let made = sections(text);
        for part in [
            ".SH \"EXAMPLES\"\n.nf\nprog a\\-b \\(aqc\\(aq\n\\&.hidden\n.fi\n",
            ".SH \"FILES\"\n.nf\n/etc/x   options\n.fi\n",
            ".SH \"EXIT STATUS\"\n.TP\n.B 0\nall is well\n.TP\n.B 1\na failure\n",
            ".SH NOTES\n.PP\nLINK is a link.\n",
        ] {
            assert!(made.contains(part), "{part} is not in {made}");
        }
    }
}
