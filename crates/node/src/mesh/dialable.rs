//! Whether others can dial this node, as far as it can know. Pure.
//!
//! Rules:
//! 1. Who is connected to a relay server can be dialled with its help.
//! 2. Who was dialled can be dialled.
//! 3. Who had [`LINKS`] links for [`UNPROVEN`], and was not dialled in that time, cannot: newcomers dial whom they are
//!    told of, and every 20 s each node puts one neighbour in place of another. Until then it counts as dialable, since
//!    nobody dials who says that it is not.
//! 4. What was true of other addresses says nothing of these.

use std::time::Duration;

use minuet_mesh::Timestamp;

/// So many links say that others are there who could have dialled.
const LINKS: usize = 4;
/// In six turns of 20 s all but one node in 400 are dialled.
const UNPROVEN: Duration = Duration::from_secs(120);

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Dialable {
    dialled: bool,
    /// Since when there are links enough, if there are.
    since: Option<Timestamp>,
}

impl Dialable {
    /// Somebody has dialled this node.
    pub fn note_dialled(&mut self) {
        self.dialled = true;
    }

    /// It has other addresses than before.
    pub fn note_moved(&mut self) {
        *self = Self::default();
    }

    /// Whether others can dial it, which has so many links now, and is connected to a relay server or not.
    pub fn look(&mut self, links: usize, relay: bool, now: Timestamp) -> bool {
        self.since = if links < LINKS { None } else { self.since.or(Some(now)) };
        let unproven = self.since.is_some_and(|since| since + UNPROVEN <= now);
        relay || self.dialled || !unproven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_never_dialled_cannot_be() {
        let mut dialable = Dialable::default();
        assert!(dialable.look(LINKS, false, at(1)));
        assert!(dialable.look(LINKS, false, at(120)));
        assert!(!dialable.look(LINKS, false, at(121)));
        assert!(dialable.look(LINKS, true, at(122)), "a relay server helps");
        assert!(!dialable.look(LINKS, false, at(123)));
        dialable.note_dialled();
        assert!(dialable.look(LINKS, false, at(124)));
    }

    #[test]
    fn nothing_is_concluded_where_hardly_anybody_is() {
        let mut dialable = Dialable::default();
        for second in 0..1_000 {
            assert!(dialable.look(LINKS - 1, false, at(second)));
        }
        // Nor from time that was spent so.
        assert!(dialable.look(LINKS, false, at(1_000)));
        assert!(dialable.look(LINKS, false, at(1_119)));
        assert!(!dialable.look(LINKS, false, at(1_120)));
    }

    #[test]
    fn elsewhere_all_is_open_again() {
        let mut dialable = Dialable::default();
        dialable.note_dialled();
        dialable.note_moved();
        assert!(dialable.look(LINKS, false, at(0)));
        assert!(!dialable.look(LINKS, false, at(120)), "what was proven of other addresses still counted");
        dialable.note_moved();
        assert!(dialable.look(LINKS, false, at(121)));
    }
}
