//! What this node's line can send. Pure: time is an argument, and nothing here knows a socket, a link or a message.
//!
//! [`Estimate`] learns the rate from what the transport sees of each link anyway: bytes acknowledged and round trips. Its
//! rules stand at the head of `estimate.rs`. Real nodes and simulated ones drive the same code:
//!
//! 1. [`Estimate::new`] when the node starts, with what an earlier run learned on the same network.
//! 2. [`Estimate::look`] every [`LOOK`], with a [`LinkSample`] of each link that is up.
//! 3. [`Estimate::limit`] is the most that may be sent from now on; [`Estimate::promise`] is what neighbours may be told;
//!    [`Estimate::learned`] is what the next run on this network should be given, which [`Memory`] keeps.

mod deliveries;
mod downlink;
mod estimate;
mod memory;
mod queue;

pub use downlink::Downlink;
pub use estimate::{Estimate, LinkSample, Look, Settings};
pub use memory::{Learned, Memory};

use std::time::Duration;

/// How often to look: a tenth of the second within which a node gives way to others on its line.
pub const LOOK: Duration = Duration::from_millis(100);
