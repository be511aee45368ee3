//! Time as the tables see it: whole seconds since the tracker started.
//!
//! The tables never read a clock; the shells read it once a request (or once a batch of packets) and
//! pass it in, so tests step through hours in no time.

use std::time::Duration;

/// Seconds since the tracker started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Uptime(pub u32);

impl Uptime {
    /// Whole seconds from `earlier` until this moment, 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Uptime) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment moved on by `span`, in whole seconds.
    pub fn after(self, span: Duration) -> Uptime {
        Uptime(self.0.saturating_add(u32::try_from(span.as_secs()).unwrap_or(u32::MAX)))
    }
}
