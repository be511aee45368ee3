//! Bans. A node that sent bytes which do not verify, forged a head, flooded or lied is refused for a while. A node that is
//! only too slow to be of use is no liar: it is refused for a shorter time (set aside).
//!
//! Rule: a ban names a node's key, which its links prove, and lasts [`BAN`]. The list holds at most [`MAX_BANS`]; beyond
//! that the oldest ban is lifted. A key costs nothing to make, so a ban is no wall. An attacker with many keys is bounded
//! by two other things: each new key can do its harm only once, before it is found out; and neighbours that have delivered
//! are preferred to newcomers.

use std::collections::VecDeque;
use std::time::Duration;

use minuet_proto::mesh::NodeId;

use crate::Timestamp;

/// How long a ban lasts.
const BAN: Duration = Duration::from_secs(600);
/// How long one is refused that is not banned.
const SET_ASIDE: Duration = Duration::from_secs(120);
/// Most bans at a time.
const MAX_BANS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Bans {
    /// Oldest first.
    list: VecDeque<(NodeId, Timestamp)>,
}

impl Bans {
    pub fn ban(&mut self, node: NodeId, now: Timestamp) {
        self.refuse(node, BAN, now);
    }

    /// Refuses a node that may be honest and is of no use here, for a while.
    pub fn set_aside(&mut self, node: NodeId, now: Timestamp) {
        self.refuse(node, SET_ASIDE, now);
    }

    fn refuse(&mut self, node: NodeId, how_long: Duration, now: Timestamp) {
        self.expire(now);
        if self.contains(&node) {
            return;
        }
        if self.list.len() == MAX_BANS {
            self.list.pop_front();
        }
        self.list.push_back((node, now + how_long));
    }

    pub fn contains(&self, node: &NodeId) -> bool {
        self.list.iter().any(|(banned, _)| banned == node)
    }

    pub fn expire(&mut self, now: Timestamp) {
        self.list.retain(|(_, end)| *end > now);
    }
}
