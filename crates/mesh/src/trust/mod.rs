//! Whom to believe, and what a neighbour may cost.

pub(crate) mod bans;
pub(crate) mod flood;
