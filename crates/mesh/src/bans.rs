//! Bans: who sent bytes that do not verify, forged, flooded or lied is not talked to again for a while.
//!
//! Rule: a ban names a node's key, which its links prove, lasts [`BAN`], and the list holds at most [`MAX_BANS`];
//! beyond that the oldest ban is lifted. A key costs nothing to make, so a ban is no wall: what bounds an
//! attacker with many keys is that each new key must do its harm before it is found out, once, and that
//! neighbours who have delivered are preferred to newcomers.

use std::collections::VecDeque;
use std::time::Duration;

use minuet_proto::mesh::NodeId;

use crate::Timestamp;

/// How long a ban lasts.
const BAN: Duration = Duration::from_secs(600);
/// Most bans at a time.
const MAX_BANS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Bans {
    /// Oldest first.
    list: VecDeque<(NodeId, Timestamp)>,
}

impl Bans {
    pub fn ban(&mut self, node: NodeId, now: Timestamp) {
        self.expire(now);
        if self.contains(&node) {
            return;
        }
        if self.list.len() == MAX_BANS {
            self.list.pop_front();
        }
        self.list.push_back((node, now + BAN));
    }

    pub fn contains(&self, node: &NodeId) -> bool {
        self.list.iter().any(|(banned, _)| banned == node)
    }

    pub fn expire(&mut self, now: Timestamp) {
        while self.list.front().is_some_and(|(_, end)| *end <= now) {
            self.list.pop_front();
        }
    }
}
