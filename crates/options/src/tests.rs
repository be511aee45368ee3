//! Command line and file together.

use clap::{Parser, Subcommand};

use super::*;

/// A program without subcommands.
#[derive(Debug, Parser, PartialEq)]
#[command(name = "prog")]
struct Plain {
    #[arg(value_name = "INPUT")]
    input: String,
    #[arg(long)]
    listen: Vec<String>,
    /// How long. Example: 5m
    #[arg(long, default_value = "2m")]
    interval: String,
    #[arg(long)]
    open: bool,
    #[arg(long, requires = "open")]
    word: Option<String>,
    #[arg(long, default_value_t = 1)]
    number: u8,
    #[command(flatten)]
    file: Ignored,
}

/// Equal whatever it says.
#[derive(Debug, Args)]
struct Ignored {
    #[command(flatten)]
    file: FromFile,
    #[command(flatten)]
    papers: Papers,
}

impl PartialEq for Ignored {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A program with subcommands.
#[derive(Debug, Parser)]
#[command(name = "verbs")]
struct Verbs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Go {
        link: String,
        #[arg(long)]
        rate: Option<String>,
        #[command(flatten)]
        file: FromFile,
    },
    Look {
        what: String,
    },
}

fn args(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// What `prog` makes of a command line and a file.
fn plain(words: &[&str], file: &str) -> Result<Plain, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conf");
    std::fs::write(&path, file).unwrap();
    let mut all = args(&["prog", "--config"]);
    all.push(path.into());
    all.extend(args(words));
    match answer::<Plain>(all, Sources::default()) {
        Ok(Answer::Run(options)) => Ok(options),
        Ok(other) => panic!("{other:?}"),
        Err(Refused::Usage(error)) => Err(error.to_string()),
        Err(Refused::File(error) | Refused::Health(error)) => Err(error),
    }
}

#[test]
fn the_file_sets_what_the_command_line_does_not() {
    let file = "# A comment.\ninput = a b.ts\nlisten = one\nlisten = two\n\ninterval=5m\nopen = true\n";
    let same = plain(&["a b.ts", "--listen=one", "--listen=two", "--interval=5m", "--open"], "");
    assert_eq!(plain(&[], file), same);
    let other = plain(&["--interval=3m", "--listen=nine", "--", "b.ts"], file);
    assert_eq!(other, plain(&["b.ts", "--interval=3m", "--listen=nine", "--open"], ""));
    assert_eq!(plain(&["x"], "open = false"), plain(&["x"], ""));
    // One half of a pair here, the other there.
    let both = plain(&["x", "--word=w", "--open"], "");
    assert!(both.is_ok());
    assert_eq!(plain(&["x", "--word=w"], "open = true"), both);
    assert_eq!(plain(&["x", "--open"], "word = w"), both);
    assert!(plain(&["x", "--word=w"], "").unwrap_err().contains("--open"));
    assert_eq!(plain(&[], "input = -"), plain(&["-"], ""));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (file, words) in [
        ("\nintervall = 5m", "line 2 names an option that there is not: intervall"),
        ("interval 5m", "line 1 is no `option = value`"),
        ("open = yes", "open is true or false"),
        ("config = x", "names an option that there is not"),
        ("completions = bash", "names an option that there is not"),
        ("number = many", "--number"),
        ("input = -x", "cannot begin with a dash"),
        ("open = true", "<INPUT>"),
    ] {
        let error = plain(&[], file).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert!(plain(&["x"], &"#".repeat(1 << 17)).unwrap_err().contains("longer than"));
    let missing = answer::<Plain>(args(&["prog", "--config", "/not/there"]), Sources::default());
    assert!(matches!(missing, Err(Refused::File(error)) if error.contains("/not/there")));
}

#[test]
fn what_is_printed_reads_as_what_was_said() {
    let words = ["x.ts", "--listen=one", "--open"];
    let Ok(Answer::Print(printed)) =
        answer::<Plain>(args(&[&["prog", "--print-config"][..], &words].concat()), Sources::default())
    else {
        panic!("nothing was printed")
    };
    assert!(printed.contains("\n# How long. Example: 5m\n# interval = 2m\n"), "{printed}");
    assert!(printed.starts_with("# Options of prog: "), "{printed}");
    assert!(printed.contains("\ninput = x.ts\n") && printed.contains("\nopen = true\n"), "{printed}");
    assert_eq!(plain(&[], &printed), plain(&words, ""));
    // A service's first file is printed before there is any input.
    assert!(matches!(
        answer::<Plain>(args(&["prog", "--print-config"]), Sources::default()),
        Ok(Answer::Print(_))
    ));
}

#[test]
fn a_subcommand_has_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("go.conf");
    let sources = Sources { variable: None, file: Some(("go", &path)) };
    let rate = |words: &[&str]| match answer::<Verbs>(args(words), sources) {
        Ok(Answer::Run(Verbs { verb: Verb::Go { link, rate, .. } })) => (link, rate),
        other => panic!("{other:?}"),
    };
    assert_eq!(rate(&["verbs", "go", "here"]), ("here".into(), None));
    std::fs::write(&path, "rate = 5\nlink = there").unwrap();
    assert_eq!(rate(&["verbs", "go", "here"]), ("here".into(), Some("5".into())));
    assert_eq!(rate(&["verbs", "go"]), ("there".into(), Some("5".into())));
    assert_eq!(rate(&["verbs", "go", "--rate=1"]), ("there".into(), Some("1".into())));
    // The other one has none, and the file is not for it.
    assert!(matches!(answer::<Verbs>(args(&["verbs", "look", "x"]), sources), Ok(Answer::Run(_))));
    assert!(matches!(answer::<Verbs>(args(&["verbs", "look"]), sources), Err(Refused::Usage(_))));
}

#[test]
fn completions_and_pages_are_written_without_an_input() {
    let Ok(Answer::Print(bash)) =
        answer::<Plain>(args(&["prog", "--completions", "bash"]), Sources::default())
    else {
        panic!("no completions")
    };
    assert!(bash.contains("--interval"));
    let folder = tempfile::tempdir().unwrap();
    write_manual(&Verbs::command(), folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("verbs.1").contains("verbs\\-go"));
    assert!(read("verbs-go.1").contains("\\-\\-rate") && read("verbs-go.1").contains("SEE ALSO"));
}

#[test]
fn help_and_wrong_words_are_answered_with_the_whole_usage() {
    let error = |words: &[&str]| match answer::<Plain>(args(words), Sources::default()) {
        Err(Refused::Usage(error)) => error,
        other => panic!("{other:?}"),
    };
    let help = error(&["prog", "--help"]);
    assert!(!help.use_stderr() && help.to_string().contains("<INPUT>"), "{help}");
    assert!(error(&["prog", "--no-such"]).use_stderr());
}
