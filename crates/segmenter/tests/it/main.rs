//! The segmenter from input to swarm. One binary: each that is linked by itself costs a build as much as all of them.

mod access;
mod broken_feeds;
mod common;
mod feeds;
mod inputs;
mod odd_feeds;
mod odd_films;
mod odd_servers;
mod recording;
mod sharing;
mod status;
mod strangers;
