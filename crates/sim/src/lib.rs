//! A seeded discrete-event network that runs thousands of mesh nodes in one process.
pub mod engine;
