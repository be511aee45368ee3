//! Which neighbours to believe, and what one may cost.

pub(crate) mod bans;
pub(crate) mod flood;
