//! Runs many points of the space, shows the worst, and finds out why they fail.

use std::fmt::Write;

use crate::{
    engine::NodeId,
    figures::{Bound, Figures},
    mesh::member::Tuning,
    run::{Engine, Job, run_all},
};

use super::point::{Dimension, Point};

/// Worst points that are shown.
const SHOWN: usize = 10;
/// Failures that are shrunk: each costs a run for each dimension.
const SHRUNK: usize = 3;

/// A point that was run.
pub struct Sample {
    /// Its seed: `minuet-sim space --seed SEED --samples 1` runs it again.
    pub seed: u64,
    /// Where it lies.
    pub point: Point,
    /// What the run showed.
    pub figures: Figures,
    /// How far the rule that is broken most is broken: figure ÷ bound, at most 1 if all hold.
    pub worst: f64,
    /// The rules that do not hold, with what was seen.
    pub broken: Vec<String>,
}

impl Sample {
    fn new(seed: u64, point: Point, figures: Figures) -> Self {
        let bounds = point.scenario().bounds;
        let worst = bounds.iter().map(|bound| excess(bound, &figures)).fold(0.0, f64::max);
        let stated = |bound: &Bound| {
            format!("{} {:.3} > {:.3}", bound.figure.name(), bound.figure.of(&figures), bound.limit)
        };
        let broken = bounds.iter().filter(|bound| !bound.holds(&figures)).map(stated).collect();
        Self { seed, point, figures, worst, broken }
    }

    /// Whether all rules hold.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

/// How far a bound is broken.
fn excess(bound: &Bound, figures: &Figures) -> f64 {
    let value = bound.figure.of(figures);
    if value.is_nan() {
        return f64::INFINITY;
    }
    // Of what must not be at all, each counts as one.
    if bound.limit > 0.0 { value / bound.limit } else { 1.0 + value - f64::from(u8::from(value == 0.0)) }
}

fn job(seed: u64, point: &Point) -> Job {
    Job {
        scenario: point.scenario(),
        engine: Engine::Mesh,
        tuning: Tuning::default(),
        seed,
        threads: 1,
        trace: None::<NodeId>,
    }
}

/// Runs `samples` points from `seed` on, each with the dimensions that `only` sets; returns them in order.
pub fn run(seed: u64, samples: u64, only: &[String], threads: usize) -> Result<Vec<Sample>, String> {
    let mut points = Vec::new();
    for seed in seed..seed + samples {
        let mut point = Point::draw(seed);
        for option in only {
            point.set(option)?;
        }
        points.push((seed, point));
    }
    let jobs: Vec<Job> = points.iter().map(|(seed, point)| job(*seed, point)).collect();
    let mut out = Vec::new();
    run_all(&jobs, threads, |index, report| {
        let (seed, point) = points[index];
        out.push(Sample::new(seed, point, report.figures));
    });
    Ok(out)
}

/// Takes a failing point as near to the standard one as it goes and still fails. Returns that point, and the dimensions
/// in which it differs: those break it.
pub fn shrink(sample: &Sample) -> (Point, Vec<&'static str>) {
    let standard = Point::standard();
    let mut point = sample.point;
    for dimension in Dimension::ALL {
        let mut nearer = point;
        nearer.take(dimension, &standard);
        if nearer == point {
            continue;
        }
        let figures = job(sample.seed, &nearer).run().figures;
        if !Sample::new(sample.seed, nearer, figures).holds() {
            point = nearer;
        }
    }
    let differs = |dimension: &Dimension| {
        let mut same = point;
        same.take(*dimension, &standard);
        same != point
    };
    (point, Dimension::ALL.into_iter().filter(differs).map(Dimension::name).collect())
}

/// What a survey shows people: how many hold, the worst, and why they fail.
pub fn told(samples: &[Sample], only: &[String]) -> String {
    let mut out = String::new();
    let held = samples.iter().filter(|sample| sample.holds()).count();
    let _ = writeln!(out, "{held} of {} hold all rules", samples.len());
    let mut worst: Vec<&Sample> = samples.iter().collect();
    worst.sort_by(|a, b| b.worst.total_cmp(&a.worst));
    let only: String = only.iter().fold(String::new(), |all, option| all + " --only " + option);
    for (rank, sample) in worst.into_iter().take(SHOWN).enumerate() {
        let state = if sample.holds() { "holds".to_owned() } else { sample.broken.join(", ") };
        let _ = writeln!(out, "{:>6.2}  {state}", sample.worst);
        let _ = writeln!(out, "        {}", sample.point.options());
        let _ = writeln!(
            out,
            "        p99 {:.2} s, copies {:.2}, continuity {:.2} %; again: minuet-sim space --samples 1 --seed {}{only}",
            sample.figures.spread_p99_s,
            sample.figures.source_copies,
            100.0 * sample.figures.continuity,
            sample.seed
        );
        if !sample.holds() && rank < SHRUNK {
            let (point, why) = shrink(sample);
            let why = if why.is_empty() { "the standard point itself".to_owned() } else { why.join(" and ") };
            let _ = writeln!(out, "        fails by {why} alone: {}", point.options());
        }
    }
    out
}
