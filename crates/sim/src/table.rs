//! Reports as a table for people: one line a scenario and engine, then what each bound shows.

use std::fmt::Write;

use crate::{
    figures::{Bound, Figures},
    run::Report,
    scenario::Scenario,
};

/// The head of the table.
pub fn header() -> String {
    format!(
        "{:<11} {:<7} {:>6} {:>6} {:>6} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>5} {:>6}  {}",
        "scenario",
        "engine",
        "copies",
        "p50 s",
        "p99 s",
        "contin.",
        "stalls",
        "late",
        "others",
        "join50",
        "join95",
        "hand.ms",
        "ctrl %",
        "fair",
        "wall s",
        "bounds"
    )
}

/// A line of the table: of each figure the worst over all seeds.
pub fn line(scenario: &Scenario, reports: &[Report]) -> String {
    let worst = |of: &dyn Fn(&Figures) -> f64| {
        reports.iter().map(|report| of(&report.figures)).fold(f64::NEG_INFINITY, f64::max)
    };
    let least = |of: &dyn Fn(&Figures) -> f64| {
        reports.iter().map(|report| of(&report.figures)).fold(f64::INFINITY, f64::min)
    };
    let Some(first) = reports.first() else { return String::new() };
    let wall: f64 = reports.iter().map(|report| report.cost.wall_s).sum();
    let mut out = format!(
        "{:<11} {:<7} {:>6.3} {:>6.3} {:>6.3} {:>7.3} {:>6} {:>6} {:>6} {:>6.3} {:>6.3} {:>7.0} {:>6.2} {:>5.2} {:>6.1}  ",
        scenario.name,
        format!("{:?}", first.engine).to_lowercase(),
        worst(&|f| f.source_copies),
        worst(&|f| f.spread_p50_s),
        worst(&|f| f.spread_p99_s),
        100.0 * least(&|f| f.continuity),
        worst(&|f| f.stalls as f64),
        worst(&|f| f.stalls_settled as f64),
        worst(&|f| f.stalls_others as f64),
        worst(&|f| f.join_p50_s),
        worst(&|f| f.join_p95_s),
        worst(&|f| f.handover_excess_ms),
        100.0 * worst(&|f| f.control_share),
        least(&|f| f.upload_fairness),
        wall / reports.len() as f64,
    );
    let failed: Vec<String> = scenario
        .bounds
        .iter()
        .filter(|bound| !reports.iter().all(|report| bound.holds(&report.figures)))
        .map(|bound| stated(bound, reports))
        .collect();
    if failed.is_empty() {
        out.push_str("pass");
    } else {
        let _ = write!(out, "FAIL {}", failed.join(", "));
    }
    out
}

/// The head of the same table in Markdown.
pub fn markdown_header() -> String {
    "| scenario | engine | copies | p50 s | p99 s | continuity % | stalls | join p50 s | join p95 s | handover ms | \
     control % | fairness | bounds |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        .to_owned()
}

/// A line of the table, as [`line()`] gives it, in Markdown.
pub fn markdown(line: &str) -> String {
    // Columns are the same but for `late`, `others` and `wall s`; the bounds, last, may hold spaces.
    let words: Vec<&str> = line.split_whitespace().collect();
    let (figures, bounds) = words.split_at(words.len().min(15));
    let kept =
        figures.iter().enumerate().filter(|(index, _)| ![7, 8, 14].contains(index)).map(|(_, word)| *word);
    format!("| {} | {} |", kept.collect::<Vec<_>>().join(" | "), bounds.join(" "))
}

/// Every bound of a scenario with the worst that was seen.
pub fn bounds(scenario: &Scenario, reports: &[Report]) -> String {
    scenario.bounds.iter().map(|bound| format!("  {}\n", stated(bound, reports))).collect()
}

fn stated(bound: &Bound, reports: &[Report]) -> String {
    let values = reports.iter().map(|report| bound.figure.of(&report.figures));
    // Not a number is the worst of all.
    let worst = values.fold(f64::NEG_INFINITY, |worst, value| {
        let value = if bound.at_least { -value } else { value };
        if value.is_nan() || value > worst { value } else { worst }
    });
    let worst = if bound.at_least { -worst } else { worst };
    let sign = if bound.at_least { "≥" } else { "≤" };
    format!("{} {worst:.4} ({sign} {})", bound.figure.name(), bound.limit)
}
