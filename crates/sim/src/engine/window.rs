//! Windows: how far nodes may go on without looking at each other.
//!
//! Rule: nothing that a node does reaches another one sooner than [`lookahead`], the shortest way there is. So within
//! a window of that length each node is on its own: they may be run one after the other, which keeps the state of one
//! in the cache for all of its events, or at once on several threads, and nothing of it can be seen in the figures
//! (conservative simulation with a barrier: Nicol, "The cost of conservative synchronization", JACM 40(2), 1993). What
//! concerns all nodes (they come and go, the source closes a piece, the tracker answers) is *scheduled*, and ends a
//! window.

use super::{Micros, topology::Geography};

/// The least time from a node's deed to its effect at another.
pub fn lookahead(geography: &Geography) -> Micros {
    (geography.rtt_min / 2).max(1)
}

/// What a run does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What is scheduled first is due: all nodes have got to its time.
    Scheduled(Micros),
    /// All nodes go on to this time.
    Window(Micros),
}

impl Step {
    /// What to do at `now`, up to which all is done. `earliest` is a time before which no event is pending, `scheduled`
    /// when something is first scheduled, `lookahead` how far nodes may go on alone. `None` at the `end`, or if nothing will ever happen.
    pub fn next(
        now: Micros,
        earliest: Option<Micros>,
        scheduled: Option<Micros>,
        lookahead: Micros,
        end: Micros,
    ) -> Option<Self> {
        if now >= end {
            return None;
        }
        if let Some(at) = scheduled.filter(|at| *at <= now) {
            return Some(Self::Scheduled(at));
        }
        let start = earliest.into_iter().chain(scheduled).min()?.max(now);
        let until = (start + lookahead).min(end);
        Some(Self::Window(scheduled.map_or(until, |at| at.min(until))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_at_what_is_scheduled_and_skip_what_is_empty() {
        const AHEAD: Micros = 10_000;
        let end = 1_000_000;
        assert_eq!(Step::next(0, Some(5_000), None, AHEAD, end), Some(Step::Window(5_000 + AHEAD)));
        assert_eq!(Step::next(6_000, Some(5_000), None, AHEAD, end), Some(Step::Window(6_000 + AHEAD)));
        assert_eq!(Step::next(0, Some(5_000), Some(7_000), AHEAD, end), Some(Step::Window(7_000)));
        assert_eq!(Step::next(7_000, Some(5_000), Some(7_000), AHEAD, end), Some(Step::Scheduled(7_000)));
        assert_eq!(Step::next(0, None, Some(900_000), AHEAD, end), Some(Step::Window(900_000)));
        assert_eq!(Step::next(0, Some(999_000), None, AHEAD, end), Some(Step::Window(end)));
        assert_eq!(Step::next(end, Some(5_000), Some(7_000), AHEAD, end), None);
        assert_eq!(Step::next(0, None, None, AHEAD, end), None);
    }
}
