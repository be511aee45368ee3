//! Real and damaged streams. One binary: each that is linked by itself costs a build as much as all of them.

mod common;
mod damaged;
mod encoders;
mod feeds;
mod properties;
mod real;
