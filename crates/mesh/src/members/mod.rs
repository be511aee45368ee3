//! Which nodes to know: links, places, candidates, greetings.

pub(crate) mod candidates;
pub(crate) mod greeting;
pub(crate) mod neighbour;
pub(crate) mod neighbourhood;
pub(crate) mod parting;
pub(crate) mod places;
