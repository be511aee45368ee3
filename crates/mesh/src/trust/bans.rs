//! Bans. A node that sent bytes which do not verify, forged a head, flooded or lied is refused for a while. A node that is
//! only too slow to be of use is no liar: it is refused for a shorter time (set aside); if it comes back and is of no use again,
//! for as long as a liar.
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

/// How long it is remembered that a node was refused before, after that has ended.
const REMEMBERED: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Bans {
    /// Oldest first.
    list: VecDeque<(NodeId, Timestamp)>,
    /// Nodes that were refused before, and until when that is remembered; the oldest first, at most [`MAX_BANS`].
    before: VecDeque<(NodeId, Timestamp)>,
}

impl Bans {
    pub fn ban(&mut self, node: NodeId, now: Timestamp) {
        self.refuse(node, BAN, now);
    }

    /// Refuses a node that may be honest and is of no use here, for a while.
    pub fn set_aside(&mut self, node: NodeId, now: Timestamp) {
        self.expire(now);
        let again = self.before.iter().any(|(before, _)| *before == node);
        self.refuse(node, if again { BAN } else { SET_ASIDE }, now);
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
        self.before.retain(|(_, until)| *until > now);
        let ended: Vec<_> = self.list.iter().filter(|(_, end)| *end <= now).copied().collect();
        self.list.retain(|(_, end)| *end > now);
        for (node, end) in ended {
            if self.before.len() == MAX_BANS {
                self.before.pop_front();
            }
            self.before.push_back((node, end + REMEMBERED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_and_is_of_no_use_again_is_refused_for_longer() {
        let (mut bans, node) = (Bans::default(), NodeId([1; 32]));
        let mut now = Timestamp(1_000_000);
        let refused = |bans: &mut Bans, now: &mut Timestamp| {
            bans.set_aside(node, *now);
            let begun = *now;
            while bans.contains(&node) {
                *now = *now + Duration::from_secs(1);
                bans.expire(*now);
            }
            now.since(begun)
        };
        assert_eq!(refused(&mut bans, &mut now), SET_ASIDE);
        assert_eq!(refused(&mut bans, &mut now), BAN);
        now = now + REMEMBERED;
        assert_eq!(refused(&mut bans, &mut now), SET_ASIDE, "it is forgotten");
        for number in 0..3 * MAX_BANS {
            let mut key = [2; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            bans.ban(NodeId(key), now);
        }
        now = now + BAN;
        bans.expire(now);
        assert!(bans.list.is_empty() && bans.before.len() <= MAX_BANS);
    }
}
