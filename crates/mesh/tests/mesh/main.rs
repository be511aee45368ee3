//! Properties of a small mesh, and what a node does about each kind of neighbour.

mod harness;
mod pieces;
mod reach;
mod trust;
mod whole;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
