//! Whether others can dial this node, as far as it can know. Pure.
//!
//! Rules:
//! 1. Who is connected to a relay server can be dialled with its help.
//! 2. Who was dialled can be dialled.
//! 3. Who had [`LINKS`] links for [`UNPROVEN`], and was not dialled in that time, cannot: newcomers dial whom they are
//!    told of, and every 20 s each node puts one neighbour in place of another. Until then it counts as dialable, since
//!    nobody dials who says that it is not.
//! 4. What was true elsewhere, where it had none of its present addresses, says nothing of here.
//!
//! It is a hint: who has too few neighbours dials also those who say that nobody can.

use std::{net::SocketAddr, time::Duration};

use minuet_mesh::Timestamp;

use crate::Reach;

/// So many links say that others are there who could have dialled.
const LINKS: usize = 4;
/// In six turns of 20 s all but one node in 400 are dialled.
const UNPROVEN: Duration = Duration::from_secs(120);

/// What is known so far.
#[derive(Debug, Default)]
pub(crate) struct Dialable {
    dialled: bool,
    addrs: Vec<SocketAddr>,
    /// Since when there are links enough, if there are.
    since: Option<Timestamp>,
}

impl Dialable {
    /// Somebody has dialled this node.
    pub fn note_dialled(&mut self) {
        self.dialled = true;
    }

    /// Whether others can dial it, which has so many links now and is reached so.
    pub fn look(&mut self, links: usize, reach: &Reach, now: Timestamp) -> bool {
        if self.addrs != reach.addrs {
            let here = self.addrs.is_empty() || self.addrs.iter().any(|addr| reach.addrs.contains(addr));
            if !here {
                *self = Self::default();
            }
            self.addrs.clone_from(&reach.addrs);
        }
        self.since = if links < LINKS { None } else { self.since.or(Some(now)) };
        let unproven = self.since.is_some_and(|since| since + UNPROVEN <= now);
        reach.relay.is_some() || self.dialled || !unproven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn reach(addrs: &[&str], relay: bool) -> Reach {
        let relay = relay.then(|| "http://tracker.example/".to_owned());
        Reach { addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(), relay }
    }

    #[test]
    fn who_is_never_dialled_cannot_be() {
        let (alone, relayed) = (reach(&["192.0.2.1:7"], false), reach(&["192.0.2.1:7"], true));
        let mut dialable = Dialable::default();
        assert!(dialable.look(LINKS, &alone, at(1)));
        assert!(dialable.look(LINKS, &alone, at(120)));
        assert!(!dialable.look(LINKS, &alone, at(121)));
        assert!(dialable.look(LINKS, &relayed, at(122)), "a relay server helps");
        assert!(!dialable.look(LINKS, &alone, at(123)));
        dialable.note_dialled();
        assert!(dialable.look(LINKS, &alone, at(124)));
    }

    #[test]
    fn nothing_is_concluded_where_hardly_anybody_is() {
        let reach = reach(&["192.0.2.1:7"], false);
        let mut dialable = Dialable::default();
        for second in 0..1_000 {
            assert!(dialable.look(LINKS - 1, &reach, at(second)));
        }
        // Nor from time that was spent so.
        assert!(dialable.look(LINKS, &reach, at(1_000)));
        assert!(dialable.look(LINKS, &reach, at(1_119)));
        assert!(!dialable.look(LINKS, &reach, at(1_120)));
    }

    #[test]
    fn elsewhere_all_is_open_again_and_one_more_address_is_not_elsewhere() {
        let home = reach(&["192.0.2.1:7", "[2001:db8::1]:7"], false);
        let renewed = reach(&["[2001:db8::2]:7", "192.0.2.1:7"], false);
        let elsewhere = reach(&["198.51.100.1:7"], false);
        let mut dialable = Dialable::default();
        assert!(dialable.look(LINKS, &home, at(0)));
        dialable.note_dialled();
        assert!(dialable.look(LINKS, &renewed, at(1_000)));
        assert!(dialable.look(LINKS, &elsewhere, at(2_000)));
        assert!(!dialable.look(LINKS, &elsewhere, at(2_120)), "what was proven elsewhere still counted");
        assert!(dialable.look(LINKS, &home, at(2_121)));
    }
}
