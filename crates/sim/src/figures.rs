//! What a run is judged by: the figures, their names and units, and the bounds on them.

use std::collections::BTreeMap;

use serde::Serialize;

/// Median round trip between two random nodes, in milliseconds (see [`crate::engine::topology`]).
pub const MEDIAN_RTT_MS: f64 = 89.0;

/// A run's figures. They follow from scenario and seed alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Media bytes that the source sent ÷ bytes of the stream.
    pub source_copies: f64,
    /// Closing at the source to verified at a viewer: median, 99th percentile, largest.
    pub spread_p50_s: f64,
    #[allow(missing_docs)]
    pub spread_p99_s: f64,
    #[allow(missing_docs)]
    pub spread_max_s: f64,
    /// The same for the first and last pieces of segments only.
    pub boundary_spread_p99_s: f64,
    /// Pieces in time ÷ pieces due, over all honest viewers.
    pub continuity: f64,
    /// Runs of late pieces at the viewers whom the scenario guards.
    pub stalls: u64,
    /// Of these, the ones that began more than 10 s after the viewer joined, and before help came where it does.
    pub stalls_settled: u64,
    /// Stalls that began more than 10 s after help had come.
    pub stalls_recovered: u64,
    /// Viewers that were told at some time that there was less than the stream for them.
    pub told: u64,
    /// Guarded viewers without a settled stall ÷ guarded viewers.
    pub smooth: f64,
    /// What was missing at guarded viewers from 10 s after they joined, all told.
    pub missed_s: f64,
    /// Runs of late pieces at all other honest viewers.
    pub stalls_others: u64,
    /// Start of a viewer to its first verified piece that it plays.
    pub join_p50_s: f64,
    #[allow(missing_docs)]
    pub join_p95_s: f64,
    /// Time between the last piece of a segment and the first of the next, in order of playing,
    /// beyond what it was at the source: 99th percentile over viewers and boundaries.
    pub boundary_gap_ms: f64,
    /// The same between any two pieces within a segment.
    pub inner_gap_ms: f64,
    /// What a boundary adds: `boundary_gap_ms` less `inner_gap_ms`, or 0.
    pub handover_excess_ms: f64,
    /// Control messages ÷ media messages, in bytes as encoded.
    pub control_share: f64,
    /// All that is not media (control, packet headers, acknowledgements, resent packets) ÷ media.
    pub wire_overhead: f64,
    /// Time until the last viewer has everything ÷ the fluid limit; only where all is there at once.
    pub fluid_ratio: Option<f64>,
    /// Jain's index of media sent ÷ uplink, over viewers who pass on and stay.
    pub upload_fairness: f64,
    /// Media bytes received more than once or unasked ÷ media bytes received.
    pub wasted_share: f64,
    /// Pieces that did not verify.
    pub corrupt_pieces: u64,
    /// Pieces handed to a player that differ from the source's.
    pub corrupt_delivered: u64,
    /// Hostile nodes that somebody banned ÷ hostile nodes.
    pub hostile_banned: Option<f64>,
    /// Links of a hostile node at the end ÷ links of an honest one.
    pub hostile_links: Option<f64>,
    /// Dials to the victim whose address hostile nodes name: the most that one honest node made.
    pub victim_dials: u64,
    /// Bans of nodes that did no harm.
    pub false_bans: u64,
    /// Links that were closed, by reason.
    pub hang_ups: BTreeMap<String, u64>,
    /// Viewers that got pieces of the source that returned ÷ viewers, and the longest time it took.
    pub resumed: Option<f64>,
    #[allow(missing_docs)]
    pub resume_max_s: Option<f64>,
    /// Viewers that came while there was no source and could play ÷ those who came.
    pub late_served: Option<f64>,
    /// Viewers of what was on air before: stalls, of all and of the one that has most, their time, and how long it took until their
    /// first piece was there and until their picture ran.
    pub past_stalls: Option<u64>,
    #[allow(missing_docs)]
    pub past_stalls_worst: Option<u64>,
    #[allow(missing_docs)]
    pub past_stalled_s: Option<f64>,
    #[allow(missing_docs)]
    pub past_first_p95_s: Option<f64>,
    #[allow(missing_docs)]
    pub past_begin_p95_s: Option<f64>,
    /// Mean number of links of a viewer at the end.
    pub links_mean: f64,
    /// Viewers there at the end, and nodes that ever were.
    pub viewers: u64,
    #[allow(missing_docs)]
    pub nodes: u64,
    /// Events that the network handled.
    pub events: u64,
}

/// A figure that a bound can be set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Figure {
    SourceCopies,
    SpreadP50,
    SpreadP99,
    BoundarySpreadP99,
    Continuity,
    Stalls,
    StallsSettled,
    StallsRecovered,
    Smooth,
    JoinP50,
    JoinP95,
    HandoverExcess,
    ControlShare,
    FluidRatio,
    CorruptDelivered,
    HostileBanned,
    HostileLinks,
    VictimDials,
    FalseBans,
    Resumed,
    ResumeMax,
    LateServed,
    PastStalls,
    PastStallsWorst,
    PastStalled,
    PastFirstP95,
    PastBeginP95,
}

impl Figure {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceCopies => "source_copies",
            Self::SpreadP50 => "spread_p50_s",
            Self::SpreadP99 => "spread_p99_s",
            Self::BoundarySpreadP99 => "boundary_spread_p99_s",
            Self::Continuity => "continuity",
            Self::Stalls => "stalls",
            Self::StallsSettled => "stalls_settled",
            Self::StallsRecovered => "stalls_recovered",
            Self::Smooth => "smooth",
            Self::JoinP50 => "join_p50_s",
            Self::JoinP95 => "join_p95_s",
            Self::HandoverExcess => "handover_excess_ms",
            Self::ControlShare => "control_share",
            Self::FluidRatio => "fluid_ratio",
            Self::CorruptDelivered => "corrupt_delivered",
            Self::HostileBanned => "hostile_banned",
            Self::HostileLinks => "hostile_links",
            Self::VictimDials => "victim_dials",
            Self::FalseBans => "false_bans",
            Self::Resumed => "resumed",
            Self::ResumeMax => "resume_max_s",
            Self::LateServed => "late_served",
            Self::PastStalls => "past_stalls",
            Self::PastStallsWorst => "past_stalls_worst",
            Self::PastStalled => "past_stalled_s",
            Self::PastFirstP95 => "past_first_p95_s",
            Self::PastBeginP95 => "past_begin_p95_s",
        }
    }

    /// Its value in `figures`; not a number where the run has none.
    pub fn of(self, figures: &Figures) -> f64 {
        match self {
            Self::SourceCopies => figures.source_copies,
            Self::SpreadP50 => figures.spread_p50_s,
            Self::SpreadP99 => figures.spread_p99_s,
            Self::BoundarySpreadP99 => figures.boundary_spread_p99_s,
            Self::Continuity => figures.continuity,
            Self::Stalls => figures.stalls as f64,
            Self::StallsSettled => figures.stalls_settled as f64,
            Self::StallsRecovered => figures.stalls_recovered as f64,
            Self::Smooth => figures.smooth,
            Self::JoinP50 => figures.join_p50_s,
            Self::JoinP95 => figures.join_p95_s,
            Self::HandoverExcess => figures.handover_excess_ms,
            Self::ControlShare => figures.control_share,
            Self::FluidRatio => figures.fluid_ratio.unwrap_or(f64::NAN),
            Self::CorruptDelivered => figures.corrupt_delivered as f64,
            Self::HostileBanned => figures.hostile_banned.unwrap_or(f64::NAN),
            Self::HostileLinks => figures.hostile_links.unwrap_or(f64::NAN),
            Self::VictimDials => figures.victim_dials as f64,
            Self::FalseBans => figures.false_bans as f64,
            Self::Resumed => figures.resumed.unwrap_or(f64::NAN),
            Self::ResumeMax => figures.resume_max_s.unwrap_or(f64::NAN),
            Self::LateServed => figures.late_served.unwrap_or(f64::NAN),
            Self::PastStalls => figures.past_stalls.map_or(f64::NAN, |stalls| stalls as f64),
            Self::PastStallsWorst => figures.past_stalls_worst.map_or(f64::NAN, |stalls| stalls as f64),
            Self::PastStalled => figures.past_stalled_s.unwrap_or(f64::NAN),
            Self::PastFirstP95 => figures.past_first_p95_s.unwrap_or(f64::NAN),
            Self::PastBeginP95 => figures.past_begin_p95_s.unwrap_or(f64::NAN),
        }
    }
}

/// What must hold of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Of which.
    pub figure: Figure,
    /// Whether `limit` is its least value, not its greatest.
    pub at_least: bool,
    /// The limit itself.
    pub limit: f64,
}

impl Bound {
    /// `figure` ≤ `limit`.
    pub const fn at_most(figure: Figure, limit: f64) -> Self {
        Self { figure, at_least: false, limit }
    }

    /// `figure` ≥ `limit`.
    pub const fn at_least(figure: Figure, limit: f64) -> Self {
        Self { figure, at_least: true, limit }
    }

    /// Whether `figures` keep it. A figure that is not a number keeps nothing.
    pub fn holds(&self, figures: &Figures) -> bool {
        let value = self.figure.of(figures);
        if self.at_least { value >= self.limit } else { value <= self.limit }
    }
}

/// Jain's fairness index (Jain, Chiu, Hawe 1984): 1 when all shares are equal, 1/n when one has all.
pub fn jain(shares: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for share in shares {
        count += 1.0;
        sum += share;
        squares += share * share;
    }
    if squares == 0.0 { 1.0 } else { sum * sum / (count * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_their_limit_and_never_without_a_figure() {
        let figures = Figures { source_copies: 1.02, continuity: 0.999, ..Figures::default() };
        assert!(Bound::at_most(Figure::SourceCopies, 1.02).holds(&figures));
        assert!(!Bound::at_most(Figure::SourceCopies, 1.01).holds(&figures));
        assert!(Bound::at_least(Figure::Continuity, 0.999).holds(&figures));
        assert!(!Bound::at_least(Figure::Continuity, 0.9991).holds(&figures));
        assert!(!Bound::at_most(Figure::FluidRatio, 9.0).holds(&figures));
        assert!(!Bound::at_least(Figure::FluidRatio, 0.0).holds(&figures));
    }

    #[test]
    fn fairness_is_one_for_equals_and_the_nth_for_one() {
        assert_eq!(jain([2.0, 2.0, 2.0].into_iter()), 1.0);
        assert_eq!(jain([4.0, 0.0, 0.0, 0.0].into_iter()), 0.25);
    }
}
