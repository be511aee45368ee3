//! A seeded discrete-event network that runs thousands of mesh nodes in one process.
pub mod audience;
pub mod cold;
pub mod engine;
pub mod figures;
pub mod mesh;
pub mod plan;
pub mod run;
pub mod scenario;
pub mod space;
pub mod stream;
pub mod table;
pub mod tracker;
