//! When a segment ends: the grid, and what is done when no random access point comes.
//!
//! Cuts are due at k × segment length from the channel's start, so a late key frame does not push the
//! cuts after it.

use crate::{
    access::Access,
    time::{TICKS_PER_SECOND, Ticks},
};

/// An access unit this short of a grid line is on it: containers that round timestamps to milliseconds
/// put key frames a little early.
const TOLERANCE: u64 = TICKS_PER_SECOND / 50;

/// Decides at which access units to cut.
#[derive(Debug)]
pub struct Schedule {
    segment: u64,
    grace: u64,
    limit: u64,
    /// The position from which the next cut is due.
    due: u64,
    /// A cut is due now, also where positions step back a little.
    forced: bool,
}

/// Whether to cut before an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Pass,
    /// Cut at a clean random access point.
    Cut,
    /// Cut although there is no clean random access point.
    Late {
        /// How long after it was due.
        overdue: Ticks,
    },
}

impl Schedule {
    /// Cuts each `segment`; from `grace` after a cut was due also at degraded access points, and from
    /// `limit` at any access unit. The first cut, the channel's start, is due at 0.
    pub fn new(segment: Ticks, grace: Ticks, limit: Ticks) -> Self {
        Self { segment: segment.0.max(1), grace: grace.0, limit: limit.0.max(grace.0), due: 0, forced: false }
    }

    /// Judges an access unit at `position`.
    pub fn judge(&self, position: Ticks, access: Access) -> Verdict {
        if position.0 + TOLERANCE < self.due && !self.forced {
            return Verdict::Pass;
        }
        let overdue = position.0.saturating_sub(self.due);
        match access {
            Access::Clean => Verdict::Cut,
            Access::Degraded if overdue >= self.grace => Verdict::Late { overdue: Ticks(overdue) },
            _ if overdue >= self.limit => Verdict::Late { overdue: Ticks(overdue) },
            _ => Verdict::Pass,
        }
    }

    /// A cut is due now, at `position`, whatever the grid says.
    pub fn force(&mut self, position: Ticks) {
        self.forced = true;
        self.due = self.due.min(position.0);
    }

    /// A cut was made at `position`: the next is due at the grid line after it.
    pub fn cut(&mut self, position: Ticks) {
        self.forced = false;
        self.due = ((position.0 + TOLERANCE) / self.segment + 1).saturating_mul(self.segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = TICKS_PER_SECOND;

    fn schedule() -> Schedule {
        Schedule::new(Ticks(10 * SECOND), Ticks(3 * SECOND), Ticks(6 * SECOND))
    }

    /// The positions, in seconds, of the cuts among access units of this kind at these seconds.
    fn cuts(units: impl IntoIterator<Item = (u64, Access)>) -> Vec<u64> {
        let mut schedule = schedule();
        let mut cuts = Vec::new();
        for (second, access) in units {
            let position = Ticks(second * SECOND);
            if schedule.judge(position, access) != Verdict::Pass {
                schedule.cut(position);
                cuts.push(second);
            }
        }
        cuts
    }

    #[test]
    fn a_late_key_frame_does_not_push_the_cuts_after_it() {
        let keys = [0, 4, 8, 15, 20, 24, 28, 31, 39, 40];
        assert_eq!(cuts(keys.map(|at| (at, Access::Clean))), [0, 15, 20, 31, 40]);
    }

    #[test]
    fn grace_then_limit() {
        assert_eq!(cuts((0..30).map(|at| (at, Access::Degraded))), [3, 13, 23]);
        assert_eq!(cuts((0..30).map(|at| (at, Access::None))), [6, 16, 26]);
    }

    #[test]
    fn rounded_timestamps_stay_on_the_grid() {
        let mut schedule = schedule();
        schedule.cut(Ticks(0));
        let early = Ticks(10 * SECOND - 90);
        assert_eq!(schedule.judge(early, Access::Clean), Verdict::Cut);
        schedule.cut(early);
        assert_eq!(schedule.judge(Ticks(12 * SECOND), Access::Clean), Verdict::Pass);
        assert_eq!(schedule.judge(Ticks(20 * SECOND), Access::Clean), Verdict::Cut);
    }

    #[test]
    fn a_forced_cut_leaves_the_grid_alone() {
        let mut schedule = schedule();
        schedule.cut(Ticks(0));
        assert_eq!(schedule.judge(Ticks(4 * SECOND), Access::Clean), Verdict::Pass);
        schedule.force(Ticks(4 * SECOND));
        assert_eq!(schedule.judge(Ticks(3 * SECOND), Access::Clean), Verdict::Cut);
        assert_eq!(schedule.judge(Ticks(5 * SECOND), Access::Clean), Verdict::Cut);
        schedule.cut(Ticks(5 * SECOND));
        assert_eq!(schedule.judge(Ticks(9 * SECOND), Access::Clean), Verdict::Pass);
        assert_eq!(schedule.judge(Ticks(10 * SECOND), Access::Clean), Verdict::Cut);
    }
}
