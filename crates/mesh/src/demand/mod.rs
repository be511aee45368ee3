//! What to ask, of whom, and when to give up: the picker and its clocks.

pub(crate) mod arrival;
pub(crate) mod intake;
pub(crate) mod lateness;
pub(crate) mod picker;
pub(crate) mod playback;
pub(crate) mod strain;
