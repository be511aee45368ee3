//! Properties of a small mesh, and what a node does about each kind of neighbour.

mod chaos;
mod harness;
mod kept_cost;
mod numbers;
mod past;
mod pieces;
mod reach;
mod sources;
mod strangers;
mod trust;
mod whole;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
