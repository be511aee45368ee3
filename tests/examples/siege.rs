//! A siege of a gateway, for `scripts/bench siege`: `siege watch|relay` prints one line of JSON.
#![allow(clippy::print_stdout, reason = "its result is for standard output")]

use minuet_tests::siege::Besieged;

/// Of the channel, in bits a second.
const RATE: u32 = 6_000_000;

fn main() {
    let command = std::env::args().nth(1).unwrap_or_else(|| "watch".into());
    let dir = tempfile::tempdir().expect("a folder");
    let outcome = Besieged::build(dir.path(), &command, RATE).endure();
    let at = |part: usize| outcome.took[(outcome.took.len() - 1) * part / 100].as_secs_f64() * 1e3;
    // Memory so far, after each kind of besiegers.
    let steps: Vec<_> = outcome.steps.iter().map(|(what, kib)| format!("{what:?}:{kib}")).collect();
    println!(
        "{{\"connections\":{},\"more_kb\":{},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"segments\":{},\"steps_kb\":{{{}}}}}",
        outcome.besiegers,
        outcome.more_kib,
        at(50),
        at(99),
        outcome.segments.len(),
        steps.join(",")
    );
}
