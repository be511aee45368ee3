//! Runs: one scenario, one engine, one seed each; many of them side by side.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cold,
    engine::NodeId,
    figures::Figures,
    mesh::{member::Tuning, world::World},
    scenario::Scenario,
};

/// What spreads the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The live mesh.
    Mesh,
    /// The rival: each minute a new swarm, formed when the minute is over.
    Cold,
}

/// One run to be done.
#[derive(Clone, Debug)]
pub struct Job {
    /// What happens.
    pub scenario: Scenario,
    /// What spreads the stream.
    pub engine: Engine,
    /// What is tried in place of defaults.
    pub tuning: Tuning,
    /// What decides all that is random.
    pub seed: u64,
    /// Threads that it may take; the figures do not depend on it.
    pub threads: usize,
    /// A node whose inputs and outputs are printed.
    pub trace: Option<NodeId>,
}

/// A run that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: &'static str,
    /// What spread the stream.
    pub engine: Engine,
    /// Its seed.
    pub seed: u64,
    /// What it showed: the same for each run with this seed.
    #[serde(flatten)]
    pub figures: Figures,
    /// Whether all of the scenario's bounds hold.
    pub pass: bool,
    /// What it cost here: different each time.
    pub cost: Cost,
}

/// What a run cost this machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Seconds it took.
    pub wall_s: f64,
    /// Events handled a second.
    pub events_per_s: f64,
    /// Resident memory of the process at the run's end ÷ nodes, where the system tells. With several runs
    /// side by side it counts them all.
    pub rss_kib_per_node: Option<f64>,
}

impl Job {
    /// Does the run.
    pub fn run(&self) -> Report {
        let started = Instant::now();
        let (figures, rss_kib) = match self.engine {
            Engine::Cold => cold::world::World::new(&self.scenario, self.seed).run(resident_kib),
            Engine::Mesh => {
                World::new(&self.scenario, self.tuning, self.seed, self.trace, self.threads).run(resident_kib)
            }
        };
        let wall_s = started.elapsed().as_secs_f64();
        Report {
            scenario: self.scenario.name,
            engine: self.engine,
            seed: self.seed,
            pass: self.scenario.bounds.iter().all(|bound| bound.holds(&figures)),
            cost: Cost {
                wall_s,
                events_per_s: figures.events as f64 / wall_s,
                rss_kib_per_node: rss_kib.map(|kib| kib as f64 / figures.nodes.max(1) as f64),
            },
            figures,
        }
    }
}

/// Does all runs on `threads` threads; `done` gets the reports in the order of `jobs`. Panics if a run does.
pub fn run_all(jobs: &[Job], threads: usize, mut done: impl FnMut(usize, Report)) {
    let next = &AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            let sender = sender.clone();
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    // Whoever reads has gone only if it panicked, and then nobody misses this.
                    let _ = sender.send((index, job.run()));
                }
            });
        }
        // Only the threads hold senders: if a run panics, the wait below ends, and the scope passes the panic on.
        drop(sender);
        let mut early = std::collections::BTreeMap::new();
        let mut wanted = 0;
        while wanted < jobs.len() {
            let Ok((index, report)) = receiver.recv() else { break };
            early.insert(index, report);
            while let Some(report) = early.remove(&wanted) {
                done(wanted, report);
                wanted += 1;
            }
        }
    });
}

/// Resident memory of this process in KiB (Linux only).
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
