//! `minuet-sim`: runs scenarios and prints what they show.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
    process::{self, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use minuet_sim::{
    engine::{NodeId, SECOND},
    mesh::member::Tuning,
    run::{Engine, Job, Report, run_all},
    scenario::{self, Knows, Profile, Scenario},
    space::survey,
    table,
};

/// Runs the live mesh, thousands of nodes in one process, on a simulated network.
///
/// The same seed gives the same figures, byte for byte. Figures of several seeds are shown as the worst of them.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    /// Names of scenarios, `all`, `list` to see them, or `space` for random ones
    #[arg(required = true)]
    scenario: Vec<String>,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of runs, with seeds counted up from the first
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// What spreads the stream; may be repeated, to compare
    #[arg(long, value_enum, default_values_t = [Engine::Mesh])]
    engine: Vec<Engine>,
    /// Viewers at the start, in place of the scenario's
    #[arg(long)]
    nodes: Option<usize>,
    /// Seconds of stream, in place of the scenario's
    #[arg(long)]
    seconds: Option<u64>,
    /// Bytes of a piece, a power of two: 16384
    #[arg(long)]
    piece_length: Option<u32>,
    /// Neighbours that each node aims at: 8
    #[arg(long)]
    neighbours: Option<usize>,
    /// What the source does with a new piece
    #[arg(long, value_enum, default_value_t = SourcePolicy::Push)]
    source_policy: SourcePolicy,
    /// In which order viewers ask for pieces that are not due soon
    #[arg(long, value_enum, default_value_t = Picker::RarestNewest)]
    picker: Picker,
    /// The stream's rate, in place of the scenario's; lines are multiples of it, and pieces are cut as for that rate: 1Mbit
    #[arg(long, value_parser = parse_rate)]
    rate: Option<u64>,
    /// Seconds from one key frame to the next, in place of the scenario's: 10
    #[arg(long)]
    key_frames: Option<f64>,
    /// The viewers' uplinks, as multiples of the stream, in place of the scenario's: 1.5 or 0.5,3
    #[arg(long, value_delimiter = ',')]
    up: Vec<f64>,
    /// The source's uplink, as a multiple of the stream, in place of the scenario's
    #[arg(long)]
    source_up: Option<f64>,
    /// Tell nodes this part of their uplink as their upload limit, and have a router before it: 0.9
    #[arg(long, conflicts_with = "no_limit")]
    limit: Option<f64>,
    /// Set no upload limit: nodes find out by themselves what their uplink takes
    #[arg(long)]
    no_limit: bool,
    /// With `space`: how many random scenarios
    #[arg(long, default_value_t = 20)]
    samples: u64,
    /// With `space`: a dimension that all of them have the same value of; may be repeated: rate=1
    #[arg(long, value_name = "DIMENSION=VALUE")]
    only: Vec<String>,
    /// Print what this node is told and does to standard error (the source is 0)
    #[arg(long, value_name = "NODE")]
    trace: Option<u32>,
    /// Viewers that lack the stream stand back for others
    #[arg(long)]
    stand_back: bool,
    /// Print one JSON line a run in place of the table
    #[arg(long)]
    json: bool,
    /// Print the table in Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Runs side by side
    #[arg(long, default_value_t = cores())]
    jobs: usize,
    /// Threads of one run, if it is large; by default what runs side by side leave of the cores
    #[arg(long)]
    threads: Option<usize>,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the source does with a new piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SourcePolicy {
    /// Pushes it to one neighbour
    Push,
    /// Promises it to all its neighbours, and waits to be asked
    Request,
}

/// In which order viewers ask for pieces that are not due soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Picker {
    /// The rarest among neighbours, then the newest
    RarestNewest,
    /// As they are played
    InOrder,
}

const EXAMPLES: &str = "Examples:
  minuet-sim steady
  minuet-sim all --seeds 5
  minuet-sim steady boundary --engine mesh --engine cold
  minuet-sim scale10k --json
  minuet-sim space --samples 200 --seed 7
  minuet-sim space --samples 1 --seed 12 --only rate=1
  minuet-sim steady scarce --rate 1Mbit
  minuet-sim steady --piece-length 16384 --neighbours 8
  minuet-sim churn --seed 3 --trace 17 2> node17.log";

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whether all bounds are met.
fn run(cli: &Cli) -> Result<bool> {
    if cli.scenario == ["list"] {
        list();
        return Ok(true);
    }
    if cli.scenario == ["space"] {
        return survey(cli);
    }
    let scenarios = scenarios(cli)?;
    let mut jobs: Vec<Job> = scenarios.iter().flat_map(|scenario| jobs(cli, scenario)).collect();
    let side_by_side = cli.jobs.clamp(1, jobs.len());
    let threads = cli.threads.unwrap_or(cores() / side_by_side).max(1);
    jobs.iter_mut().for_each(|job| job.threads = threads);
    if cli.json { print_json(&jobs, cli.jobs) } else { Ok(print_table(cli, &scenarios, &jobs)) }
}

/// Random scenarios from the whole space.
fn survey(cli: &Cli) -> Result<bool> {
    let samples = survey::run(cli.seed, cli.samples, &cli.only, cli.jobs).map_err(anyhow::Error::msg)?;
    say(survey::told(&samples, &cli.only).trim_end());
    Ok(samples.iter().all(survey::Sample::holds))
}

/// Says what went wrong, if anybody listens.
fn complain(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "minuet-sim: {error:#}");
}

/// Prints a line; who reads no further ends the command, since there is nobody to run for.
fn say(line: impl Display) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            complain(&anyhow::Error::new(error).context("cannot write what the runs show"));
        }
        process::exit(1);
    }
}

fn list() {
    for scenario in scenario::all() {
        say(format_args!("{:<11} {}", scenario.name, scenario.about));
    }
}

fn scenarios(cli: &Cli) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for name in &cli.scenario {
        match name.as_str() {
            "all" => scenarios.extend(scenario::all()),
            name => scenarios.push(scenario::find(name).with_context(|| {
                format!("there is no scenario called {name}: `minuet-sim list` shows them all")
            })?),
        }
    }
    if cli
        .piece_length
        .is_some_and(|length| !length.is_power_of_two() || !(1 << 12..=1 << 20).contains(&length))
    {
        bail!("--piece-length must be a power of two from 4096 to 1048576");
    }
    for scenario in &mut scenarios {
        scenario.viewers = cli.nodes.unwrap_or(scenario.viewers).max(1);
        if let Some(rate) = cli.rate {
            *scenario = scenario.clone().at_rate(rate);
        }
        adapt_lines(cli, scenario);
        scenario.stream.piece_length = cli.piece_length.unwrap_or(scenario.stream.piece_length);
        scenario.stream.duration = cli.seconds.map_or(scenario.stream.duration, |seconds| seconds * SECOND);
    }
    Ok(scenarios)
}

/// Bytes a second of a rate such as `1Mbit` or `500kbit`.
fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no rate: write 8Mbit, 500kbit or 1.5Mbit");
    let (number, unit) = match text.split_at(text.find(|c: char| c.is_alphabetic()).ok_or_else(wrong)?) {
        (number, "Mbit") => (number, 125_000.0),
        (number, "kbit") => (number, 125.0),
        _ => return Err(wrong()),
    };
    let rate = number.parse::<f64>().map_err(|_| wrong())? * unit;
    // From 8 kbit/s to 1 Gbit/s: what a piece length exists for.
    if (1e3..=1.25e8).contains(&rate) { Ok(rate as u64) } else { Err(wrong()) }
}

/// Puts what the command line says of lines in place of what the scenario says.
fn adapt_lines(cli: &Cli, scenario: &mut Scenario) {
    let knows = match (cli.limit, cli.no_limit) {
        (_, true) => Some(Knows::Nothing),
        (Some(part), _) => Some(Knows::Limit(part)),
        (None, false) => None,
    };
    if !cli.up.is_empty() {
        scenario.profiles = cli.up.iter().map(|up| Profile::with(*up)).collect();
    }
    for profile in &mut scenario.profiles {
        profile.knows = knows.unwrap_or(profile.knows);
    }
    scenario.source_knows = knows.unwrap_or(scenario.source_knows);
    scenario.source_up = cli.source_up.unwrap_or(scenario.source_up);
    if let Some(seconds) = cli.key_frames {
        scenario.stream.random_access = (seconds * SECOND as f64) as u64;
    }
}

fn jobs(cli: &Cli, scenario: &Scenario) -> Vec<Job> {
    let tuning = Tuning {
        neighbours: cli.neighbours,
        on_request: cli.source_policy == SourcePolicy::Request,
        stands_back: cli.stand_back,
        in_order: cli.picker == Picker::InOrder,
    };
    let engines = cli.engine.iter();
    engines
        .flat_map(|engine| {
            (cli.seed..cli.seed + cli.seeds.max(1)).map(|seed| Job {
                scenario: scenario.clone(),
                engine: *engine,
                tuning,
                seed,
                threads: 1,
                trace: cli.trace.map(NodeId),
            })
        })
        .collect()
}

fn print_json(jobs: &[Job], threads: usize) -> Result<bool> {
    let (mut passed, mut failure) = (true, None);
    run_all(jobs, threads, |_, report| {
        passed &= report.pass;
        match serde_json::to_string(&report) {
            Ok(line) => say(line),
            Err(error) => failure = Some(error),
        }
    });
    failure.map_or(Ok(passed), |error| Err(error).context("cannot write a report as JSON"))
}

/// One line for the runs of each scenario and engine; the bounds as well if there is only one.
fn print_table(cli: &Cli, scenarios: &[Scenario], jobs: &[Job]) -> bool {
    if cli.markdown {
        say(table::markdown_header());
    } else {
        say(format_args!("seeds {} to {}", cli.seed, cli.seed + cli.seeds.max(1) - 1));
        say(table::header());
    }
    let mut passed = true;
    let mut group: Vec<Report> = Vec::new();
    run_all(jobs, cli.jobs, |index, report| {
        passed &= report.pass;
        let same = |job: &Job| job.scenario.name == report.scenario && job.engine == report.engine;
        let last = !jobs.get(index + 1).is_some_and(same);
        group.push(report);
        if last {
            let scenario = &jobs[index].scenario;
            let line = table::line(scenario, &group);
            say(if cli.markdown { table::markdown(&line) } else { line });
            if scenarios.len() == 1 && !cli.markdown {
                table::bounds(scenario, &group).lines().for_each(say);
            }
            group.clear();
        }
    });
    passed
}
