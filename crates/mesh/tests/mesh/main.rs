//! Properties of a small mesh, and what a node does about each kind of neighbour.

mod chaos;
mod harness;
mod numbers;
mod pieces;
mod reach;
mod strangers;
mod trust;
mod whole;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
