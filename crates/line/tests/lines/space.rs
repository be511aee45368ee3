//! Lines drawn from a whole space: a point can be tuned until it passes, a space cannot. The usual run draws the same lines
//! each time, so that a change that breaks nothing is not held up by chance; `LINES_SEED=fresh` draws others each time, and
//! who changes the estimate runs it so.
//!
//! Two kinds of bound: what holds on *every* line, and what holds on most: on all but one in [`SPARED`]. Chance decides what
//! a single line shows in a minute, so a tight bound for every line would be one for the luckiest seeds.
//!
//! What does not hold is told with the seed: `LINES_SEED=… LINES_CASES=1` draws that line alone again. `LINES_CASES=1000` draws
//! so many in place of the usual number, and `--nocapture` shows what all of them gave.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher as _;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::model::{Line, MBIT};

/// Lines that a test draws.
const CASES: u64 = 40;
/// The first of the usual run.
const SEED: u64 = 1_000;
/// One in so many may lie beyond a bound that holds on most.
const SPARED: usize = 6;

/// What of the space a test draws from; the rest is the same for all.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Least and most Mbit/s, between which orders of magnitude are even.
    pub mbit: (f64, f64),
    /// The most jitter in seconds.
    pub jitter_s: f64,
    /// The most that is lost.
    pub loss: f64,
}

/// Lines at home, wired or over a radio that works.
pub const HOMES: Space = Space { mbit: (1.0, 50.0), jitter_s: 0.01, loss: 0.01 };
/// Any line.
pub const ALL: Space = Space { mbit: (0.6, 150.0), jitter_s: 0.03, loss: 0.03 };

/// A line that was drawn, with what else a test wants to draw.
#[derive(Debug)]
pub struct Case {
    pub line: Line,
    pub seed: u64,
    pub rng: StdRng,
    seen: Vec<Figure>,
}

#[derive(Debug, Clone, Copy)]
struct Figure {
    name: &'static str,
    value: f64,
    bound: f64,
    at_most: bool,
    /// It must hold on every line.
    every: bool,
}

impl Figure {
    fn holds(&self) -> bool {
        if self.at_most { self.value <= self.bound } else { self.value >= self.bound }
    }

    /// How far within the bound it is, as a part of it.
    fn spare(&self) -> f64 {
        let spare = (self.bound - self.value) / self.bound.abs().max(1e-9);
        if self.at_most { spare } else { -spare }
    }
}

impl Case {
    fn draw(space: Space, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mbit = (space.mbit.0.ln() + rng.random::<f64>() * (space.mbit.1 / space.mbit.0).ln()).exp();
        let links = rng.random_range(1..=16);
        let nearest_s = rng.random_range(0.005..0.15);
        let spread_s = rng.random_range(0.0..0.2);
        let line = Line {
            bytes_per_s: mbit * MBIT,
            queue_s: rng.random_range(0.05..1.0),
            round_trips: (0..links).map(|_| nearest_s + rng.random::<f64>() * spread_s).collect(),
            jitter_s: rng.random::<f64>() * space.jitter_s,
            loss: rng.random::<f64>() * space.loss,
            far_s: 0.0,
        };
        Self { line, seed, rng, seen: Vec::new() }
    }

    /// A figure that is at most so much on most lines, and so much on every one.
    pub fn at_most(&mut self, name: &'static str, value: f64, most: f64, every: f64) {
        self.note(name, value, true, (most, every));
    }

    /// A figure that is at least so much on most lines, and so much on every one.
    pub fn at_least(&mut self, name: &'static str, value: f64, most: f64, every: f64) {
        self.note(name, value, false, (most, every));
    }

    fn note(&mut self, name: &'static str, value: f64, at_most: bool, (most, every): (f64, f64)) {
        let figure = |bound, every| Figure { name, value, bound, at_most, every };
        self.seen.extend([figure(most, false), figure(every, true)]);
    }

    /// The mean round trip to whom this node sends.
    pub fn round_trip(&self) -> f64 {
        self.line.round_trips.iter().sum::<f64>() / self.line.round_trips.len() as f64
    }

    /// A packet's time on the line.
    pub fn packet(&self) -> f64 {
        1200.0 / self.line.bytes_per_s
    }
}

/// Judges so many lines of the space.
pub fn over(space: Space, judge: impl Fn(&mut Case)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = match std::env::var("LINES_SEED").as_deref() {
        Ok("fresh") => RandomState::new().hash_one(0) >> 32,
        _ => number("LINES_SEED").unwrap_or(SEED),
    };
    let cases = number("LINES_CASES").unwrap_or(CASES);
    let mut all: Vec<(Figure, String)> = Vec::new();
    for seed in first..first + cases {
        let mut case = Case::draw(space, seed);
        judge(&mut case);
        let on = format!(
            "LINES_SEED={seed}: {:.2} Mbit/s, queue {:.0} ms, {} links, round trip {:.0} ms, jitter {:.0} ms, loss {:.1} %",
            case.line.bytes_per_s / MBIT,
            case.line.queue_s * 1e3,
            case.line.round_trips.len(),
            case.round_trip() * 1e3,
            case.line.jitter_s * 1e3,
            case.line.loss * 1e2,
        );
        all.extend(case.seen.iter().map(|figure| (*figure, on.clone())));
    }
    let (mut told, mut holds) = (String::new(), true);
    let mut kinds: Vec<(&str, bool)> = Vec::new();
    for (figure, _) in &all {
        if !kinds.contains(&(figure.name, figure.every)) {
            kinds.push((figure.name, figure.every));
        }
    }
    for kind in kinds {
        let mut of: Vec<&(Figure, String)> =
            all.iter().filter(|(figure, _)| (figure.name, figure.every) == kind).collect();
        of.sort_by(|(a, _), (b, _)| b.spare().total_cmp(&a.spare()));
        let broken: Vec<_> = of.iter().rev().filter(|(figure, _)| !figure.holds()).collect();
        let at = |part: f64| of[((of.len() - 1) as f64 * part) as usize].0;
        let (name, every) = kind;
        let _ = writeln!(
            told,
            "{name}, {}: half {:.3}, 95 % {:.3} (bound {:.3}), worst {:.3} (bound {:.3}), {} of {} do not hold",
            if every { "every line" } else { "most lines" },
            at(0.5).value,
            at(0.95).value,
            at(0.95).bound,
            at(1.0).value,
            at(1.0).bound,
            broken.len(),
            of.len(),
        );
        let spared = if every { 0 } else { of.len().div_ceil(SPARED) };
        if broken.len() > spared {
            holds = false;
            for (figure, on) in broken {
                let _ = writeln!(told, "    {on}: {:.3} (bound {:.3})", figure.value, figure.bound);
            }
        }
    }
    assert!(holds, "\n{told}");
    eprintln!("{told}");
}
