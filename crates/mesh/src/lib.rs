//! The live swarm as state machines. Pure.
