//! What to send, and to whom first.

pub(crate) mod contribution;
pub(crate) mod control;
pub(crate) mod offer;
pub(crate) mod pump;
pub(crate) mod push;
pub(crate) mod rank;
pub(crate) mod reappearance;
pub(crate) mod requests;
pub(crate) mod uplink;
