//! What to send, and to whom first.

pub(crate) mod contribution;
pub(crate) mod offer;
pub(crate) mod push;
pub(crate) mod reappearance;
pub(crate) mod uplink;
