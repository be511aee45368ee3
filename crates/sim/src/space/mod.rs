//! The whole space of scenarios, not one point of it: random scenarios, a few rules that hold for all of them, and for
//! one that fails, which of its dimensions breaks it.
//!
//! A point can be tuned until it passes; a space cannot. [`point`] says what is drawn from what, [`rules`] by what a run
//! is judged, and [`survey`] runs many of them and shrinks what fails.

pub mod point;
pub mod rules;
pub mod survey;
