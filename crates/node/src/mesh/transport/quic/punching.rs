//! Hole punching, kept within bounds.
//!
//! A connected peer may have this node send packets to addresses that it names (REACH_OUT frames of iroh's NAT
//! traversal): nine to each within four seconds, whatever address that is, and as often as it
//! asks. The transport has neither a limit for that nor a way to judge the addresses. So its count of such frames is looked at
//! every [`LOOK`], and a connection that has asked for more than an honest one ever does is closed, which ends its probes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use iroh::endpoint::{Connection, VarInt, WeakConnectionHandle};

/// How often connections are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Addresses that a connection may ask for at once, and one more in each [`GAINS`]: a node has some four, tells them when it
/// connects, and again when its network has changed.
const BURST: u64 = 48;
const GAINS: Duration = Duration::from_secs(5);

/// The connections that are watched, none of which is kept open by that. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Punching(Arc<Mutex<Vec<(WeakConnectionHandle, Instant)>>>);

/// Addresses that a connection of this age may have asked for.
fn allowed(age: Duration) -> u64 {
    BURST + age.as_secs() / GAINS.as_secs()
}

impl Punching {
    /// Watches a connection to its end.
    pub fn watch(&self, connection: &Connection) {
        self.lock().push((connection.weak_handle(), Instant::now()));
    }

    /// Looks for ever.
    pub async fn run(self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.lock().retain(|(connection, since)| {
                let Some(connection) = connection.upgrade().filter(|open| open.close_reason().is_none())
                else {
                    return false;
                };
                let asked = connection.stats().frame_rx.reach_out;
                if asked > allowed(since.elapsed()) {
                    tracing::debug!("a node is hung up on: it had {asked} addresses probed");
                    connection.close(VarInt::from_u32(2), b"too many addresses");
                    return false;
                }
                true
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(WeakConnectionHandle, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
