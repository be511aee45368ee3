//! The players, and what is measured at them.
//!
//! Player model: a player shows the first picture [`START_UP`] after its first piece came, and then holds a fixed
//! delay behind ingest: the target delay, or what it has by then if that is more. Each piece is due at its ingest plus that delay; one that is
//! not verified by then is skipped, and a row of such pieces is one stall. (A player that waits
//! instead would have all later pieces due later: this is the stricter count.)

use hdrhistogram::Histogram;

use crate::{
    engine::{MILLISECOND, Micros, NodeId, SECOND},
    figures::Figures,
    stream::{StreamPiece, StreamSpec},
};

/// Distance to the live edge that players aim at.
pub const TARGET_DELAY: Micros = 4 * SECOND;
/// … but a stream whose pieces come slowly needs as many of them to get round: its players aim at so many pieces more
/// than a second.
pub const TARGET_PIECES: u64 = 12;

/// Distance to the live edge that players of this stream aim at.
pub fn target_delay(stream: &StreamSpec) -> Micros {
    TARGET_DELAY.max(SECOND + TARGET_PIECES * stream.piece_time())
}

/// From a player's first bytes to its first picture: it has to find out what the stream consists of (ffmpeg's
/// probing of MPEG-TS), and decodes.
pub const START_UP: Micros = 500 * MILLISECOND;
/// Spread and gaps at a viewer count from this long after it joined.
pub const SETTLE: Micros = 5 * SECOND;
/// A viewer's stalls count as those of a settled one from this long after it joined: before, it is still finding its
/// neighbours and its line.
pub const SETTLED: Micros = 10 * SECOND;
/// Everybody must play again so long after help has come.
pub const RECOVERED: Micros = 10 * SECOND;
/// Largest value that a histogram holds.
const LONGEST: Micros = 3_600 * SECOND;

/// One viewer.
struct Viewer {
    joined: Micros,
    /// Whether `stalls` (not `stalls_others`) counts its stalls.
    guarded: bool,
    ended: Option<Micros>,
    /// First piece that it plays, by position in `pieces`.
    start: Option<usize>,
    /// Delay of its playing behind ingest, once it plays.
    delay: Option<Micros>,
    joined_after: Option<Micros>,
    /// First piece that is not yet due.
    next_due: usize,
    /// First piece that is not yet handed on in order, and when the one before was.
    frontier: usize,
    handed_on: Option<Micros>,
    in_stall: bool,
    stalls: u64,
    /// Stalls that began once it was settled, and before help came.
    settled_stalls: u64,
    /// Stalls that began once help had had its time.
    recovered_stalls: u64,
    /// What was missing once it was settled.
    missed: Micros,
    due: u64,
    in_time: u64,
    held: Vec<u64>,
    resumed: Option<Micros>,
}

impl Viewer {
    fn holds(&self, piece: usize) -> bool {
        self.held.get(piece / 64).is_some_and(|word| word >> (piece % 64) & 1 == 1)
    }

    fn hold(&mut self, piece: usize) {
        if self.held.len() <= piece / 64 {
            self.held.resize(piece / 64 + 1, 0);
        }
        self.held[piece / 64] |= 1 << (piece % 64);
    }
}

/// All viewers of a run.
pub struct Audience {
    pieces: Vec<StreamPiece>,
    viewers: Vec<Option<Viewer>>,
    spread: Histogram<u64>,
    boundary_spread: Histogram<u64>,
    boundary_gap: Histogram<u64>,
    inner_gap: Histogram<u64>,
    last_verified: Micros,
    /// First piece of the source that returned, and when that was.
    returned: Option<(usize, Micros)>,
    /// How far behind the live edge players aim to be.
    target_delay: Micros,
    /// When help comes, if it does.
    relief: Option<Micros>,
}

impl Default for Audience {
    fn default() -> Self {
        let histogram = || Histogram::new_with_max(LONGEST, 3).unwrap_or_else(|_| unreachable!());
        Self {
            pieces: Vec::new(),
            viewers: Vec::new(),
            spread: histogram(),
            boundary_spread: histogram(),
            boundary_gap: histogram(),
            inner_gap: histogram(),
            last_verified: 0,
            returned: None,
            target_delay: TARGET_DELAY,
            relief: None,
        }
    }
}

impl Audience {
    /// Players aim at this distance to the live edge.
    pub fn aim_at(&mut self, delay: Micros) {
        self.target_delay = delay;
    }

    /// Help comes at `at`.
    pub fn relieved(&mut self, at: Micros) {
        self.relief = Some(at);
    }

    /// A piece has closed at the source; returns its position in the row of all pieces.
    pub fn closed(&mut self, piece: StreamPiece) -> usize {
        self.pieces.push(piece);
        self.pieces.len() - 1
    }

    /// The piece at a position.
    pub fn piece(&self, position: usize) -> &StreamPiece {
        &self.pieces[position]
    }

    /// Number of pieces closed so far.
    pub fn closed_count(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes closed so far.
    pub fn closed_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.len)).sum()
    }

    /// The source is back; its pieces begin at the next position.
    pub fn source_returned(&mut self, now: Micros) {
        self.returned = Some((self.pieces.len(), now));
    }

    /// A viewer starts.
    pub fn join(&mut self, node: NodeId, guarded: bool, now: Micros) {
        if self.viewers.len() <= node.index() {
            self.viewers.resize_with(node.index() + 1, || None);
        }
        self.viewers[node.index()] = Some(Viewer {
            joined: now,
            guarded,
            ended: None,
            start: None,
            delay: None,
            joined_after: None,
            next_due: 0,
            frontier: 0,
            handed_on: None,
            in_stall: false,
            stalls: 0,
            settled_stalls: 0,
            recovered_stalls: 0,
            missed: 0,
            due: 0,
            in_time: 0,
            held: Vec::new(),
            resumed: None,
        });
    }

    /// A viewer has chosen where it starts to play.
    pub fn start(&mut self, node: NodeId, position: usize, now: Micros) {
        let Some(Some(viewer)) = self.viewers.get_mut(node.index()) else { return };
        (viewer.start, viewer.next_due, viewer.frontier) = (Some(position), position, position);
        if viewer.holds(position) {
            self.play(node, position, now);
        }
    }

    /// A viewer goes.
    pub fn leave(&mut self, node: NodeId, now: Micros) {
        self.settle(node, now);
        if let Some(Some(viewer)) = self.viewers.get_mut(node.index()) {
            viewer.ended = Some(now);
        }
    }

    /// The piece that a viewer plays next and when it is due, once it plays.
    pub fn playhead(&mut self, node: NodeId, now: Micros) -> Option<(usize, Micros)> {
        self.settle(node, now);
        let viewer = self.viewers.get(node.index())?.as_ref()?;
        let piece = self.pieces.get(viewer.next_due)?;
        Some((viewer.next_due, piece.closes_at + viewer.delay?))
    }

    /// A viewer has verified a piece. Whether playing begins with it.
    pub fn verified(&mut self, node: NodeId, position: usize, now: Micros) -> bool {
        self.settle(node, now);
        let Some(Some(viewer)) = self.viewers.get_mut(node.index()) else { return false };
        viewer.hold(position);
        self.last_verified = self.last_verified.max(now);
        let piece = &self.pieces[position];
        if piece.closes_at >= viewer.joined + SETTLE {
            let spread = now.saturating_sub(piece.closes_at);
            self.spread.saturating_record(spread);
            if piece.seals || piece.id.piece.0 == 0 {
                self.boundary_spread.saturating_record(spread);
            }
        }
        if let Some((first, back)) = self.returned
            && position >= first
            && viewer.resumed.is_none()
        {
            viewer.resumed = Some(now - back);
        }
        let begins = viewer.delay.is_none() && viewer.start == Some(position);
        if begins {
            self.play(node, position, now);
        }
        self.hand_on(node, now);
        begins
    }

    fn play(&mut self, node: NodeId, position: usize, now: Micros) {
        let Some(Some(viewer)) = self.viewers.get_mut(node.index()) else { return };
        viewer.joined_after = Some(now - viewer.joined);
        let shown = now + START_UP;
        viewer.delay = Some(self.target_delay.max(shown.saturating_sub(self.pieces[position].closes_at)));
    }

    /// Settles all pieces that were due before `now`.
    fn settle(&mut self, node: NodeId, now: Micros) {
        let Some(Some(viewer)) = self.viewers.get_mut(node.index()) else { return };
        let Some(delay) = viewer.delay else { return };
        if viewer.ended.is_some() {
            return;
        }
        while let Some(piece) = self.pieces.get(viewer.next_due) {
            let due = piece.closes_at + delay;
            if due >= now {
                break;
            }
            let held = viewer.holds(viewer.next_due);
            viewer.due += 1;
            viewer.in_time += u64::from(held);
            let begins = !held && !viewer.in_stall;
            viewer.stalls += u64::from(begins);
            if due >= viewer.joined + SETTLED {
                let relieved = self.relief.is_some_and(|at| due >= at);
                viewer.settled_stalls += u64::from(begins && !relieved);
                let recovered = self.relief.is_some_and(|at| due >= at + RECOVERED);
                viewer.recovered_stalls += u64::from(begins && recovered);
                let before = viewer.next_due.checked_sub(1).and_then(|before| self.pieces.get(before));
                let lasts = before.map_or(0, |before| piece.closes_at.saturating_sub(before.closes_at));
                viewer.missed += if held { 0 } else { lasts };
            }
            viewer.in_stall = !held;
            viewer.next_due += 1;
            if viewer.frontier < viewer.next_due {
                (viewer.frontier, viewer.handed_on) = (viewer.next_due, None);
            }
        }
    }

    /// Hands on what is held in order, and measures the gaps between pieces.
    fn hand_on(&mut self, node: NodeId, now: Micros) {
        let Some(Some(viewer)) = self.viewers.get_mut(node.index()) else { return };
        if viewer.delay.is_none() {
            return;
        }
        while viewer.holds(viewer.frontier) {
            let piece = &self.pieces[viewer.frontier];
            if let Some(before) = viewer.handed_on
                && piece.closes_at >= viewer.joined + SETTLE
            {
                let at_source = piece.closes_at - self.pieces[viewer.frontier - 1].closes_at;
                let excess = (now - before).saturating_sub(at_source);
                let boundary = piece.id.piece.0 == 0;
                let gaps = if boundary { &mut self.boundary_gap } else { &mut self.inner_gap };
                gaps.saturating_record(excess);
            }
            viewer.handed_on = Some(now);
            viewer.frontier += 1;
        }
    }

    /// Takes in what was measured of other viewers, over the same pieces.
    pub fn merge(&mut self, other: Self) {
        for (index, viewer) in other.viewers.into_iter().enumerate() {
            if self.viewers.len() <= index {
                self.viewers.push(viewer);
            } else if viewer.is_some() {
                self.viewers[index] = viewer;
            }
        }
        self.spread += other.spread;
        self.boundary_spread += other.boundary_spread;
        self.boundary_gap += other.boundary_gap;
        self.inner_gap += other.inner_gap;
        self.last_verified = self.last_verified.max(other.last_verified);
    }

    /// Ends the run and fills in what was measured here.
    pub fn finish(&mut self, now: Micros, figures: &mut Figures) {
        let nodes = self.viewers.len() as u32;
        (0..nodes).for_each(|node| self.settle(NodeId(node), now));
        let mut joins: Vec<Micros> = Vec::new();
        let (mut due, mut in_time) = (0, 0);
        let (mut guarded, mut smooth) = (0, 0);
        for viewer in self.viewers.iter().flatten() {
            let ended = viewer.ended.unwrap_or(now);
            // A viewer that never played was owed everything from the target delay on.
            let never = self.pieces.iter().filter(|piece| {
                viewer.delay.is_none()
                    && (viewer.joined..ended.saturating_sub(self.target_delay)).contains(&piece.closes_at)
            });
            let never = never.count() as u64;
            due += viewer.due + never;
            in_time += viewer.in_time;
            let stalls = viewer.stalls + u64::from(never > 0);
            if viewer.guarded {
                guarded += 1;
                let settled = viewer.settled_stalls + u64::from(never > 0);
                smooth += u64::from(settled == 0);
                figures.stalls_settled += settled;
                figures.stalls_recovered += viewer.recovered_stalls;
                figures.missed_s += seconds(viewer.missed);
                figures.stalls += stalls
            } else {
                figures.stalls_others += stalls
            }
            if let Some(joined_after) = viewer.joined_after {
                joins.push(joined_after);
            } else if never > 0 {
                joins.push(ended - viewer.joined);
            }
        }
        figures.smooth = if guarded == 0 { 1.0 } else { smooth as f64 / guarded as f64 };
        joins.sort_unstable();
        let join = |share: f64| {
            let rank = ((joins.len() as f64 * share).ceil() as usize).clamp(1, joins.len().max(1)) - 1;
            joins.get(rank).map_or(0.0, |join| seconds(*join))
        };
        (figures.join_p50_s, figures.join_p95_s) = (join(0.5), join(0.95));
        figures.continuity = if due == 0 { 1.0 } else { in_time as f64 / due as f64 };
        figures.spread_p50_s = seconds(self.spread.value_at_quantile(0.5));
        figures.spread_p99_s = seconds(self.spread.value_at_quantile(0.99));
        figures.spread_max_s = seconds(self.spread.max());
        figures.boundary_spread_p99_s = seconds(self.boundary_spread.value_at_quantile(0.99));
        figures.boundary_gap_ms = milliseconds(self.boundary_gap.value_at_quantile(0.99));
        figures.inner_gap_ms = milliseconds(self.inner_gap.value_at_quantile(0.99));
        figures.handover_excess_ms = (figures.boundary_gap_ms - figures.inner_gap_ms).max(0.0);
        if self.returned.is_some() {
            let staying = || self.viewers.iter().flatten().filter(|viewer| viewer.guarded);
            let resumed = staying().filter_map(|viewer| viewer.resumed);
            figures.resumed = Some(resumed.clone().count() as f64 / staying().count().max(1) as f64);
            figures.resume_max_s = resumed.max().map(seconds);
        }
    }

    /// When the last piece was verified anywhere.
    pub fn last_verified(&self) -> Micros {
        self.last_verified
    }

    /// Whether a viewer holds every piece.
    pub fn complete(&self, node: NodeId) -> bool {
        let viewer = self.viewers.get(node.index()).and_then(Option::as_ref);
        viewer.is_some_and(|viewer| (0..self.pieces.len()).all(|piece| viewer.holds(piece)))
    }

    /// Whether a viewer has begun to play.
    pub fn plays(&self, node: NodeId) -> bool {
        self.viewers.get(node.index()).and_then(Option::as_ref).is_some_and(|viewer| viewer.delay.is_some())
    }
}

fn seconds(span: Micros) -> f64 {
    span as f64 / SECOND as f64
}

fn milliseconds(span: Micros) -> f64 {
    span as f64 / MILLISECOND as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::StreamSpec;

    /// 20 s of stream whose pieces one viewer gets `delays(position)` after they close, if at all.
    fn run(delays: impl Fn(usize) -> Option<Micros>) -> Figures {
        let spec = StreamSpec { segment: 5 * SECOND, ..StreamSpec::standard() };
        let mut audience = Audience::default();
        let node = NodeId(3);
        audience.join(node, true, 0);
        let mut arrivals = Vec::new();
        for piece in spec.pieces(0, 0, 20 * SECOND) {
            let position = audience.closed(piece);
            arrivals.extend(delays(position).map(|delay| (piece.closes_at + delay, position)));
        }
        audience.start(node, 0, 0);
        arrivals.sort_unstable();
        for (at, position) in arrivals {
            audience.verified(node, position, at);
        }
        let mut figures = Figures::default();
        audience.finish(40 * SECOND, &mut figures);
        figures
    }

    #[test]
    fn pieces_in_time_do_not_stall() {
        let figures = run(|_| Some(700 * MILLISECOND));
        assert_eq!((figures.stalls, figures.continuity), (0, 1.0));
        assert!((figures.spread_p50_s - 0.7).abs() < 0.01 && (figures.spread_p99_s - 0.7).abs() < 0.01);
        assert_eq!(figures.handover_excess_ms, 0.0);
        assert!((figures.join_p50_s - 0.765).abs() < 0.001, "{}", figures.join_p50_s);
    }

    #[test]
    fn a_row_of_late_or_missing_pieces_is_one_stall() {
        let figures = run(|position| match position {
            50..55 => None,
            100..110 => Some(4_100 * MILLISECOND),
            200 => Some(3_900 * MILLISECOND),
            _ => Some(SECOND),
        });
        assert_eq!(figures.stalls, 2);
        assert!((figures.continuity - (1.0 - 15.0 / 308.0)).abs() < 1e-9, "{}", figures.continuity);
    }

    #[test]
    fn a_boundary_that_takes_longer_shows_as_handover() {
        // Three boundaries in 20 s of 5 s segments, 77 pieces each; the first after settling is the second.
        let figures = run(|position| Some(if position % 77 == 0 { 1_500 } else { 1_000 } * MILLISECOND));
        assert!((figures.handover_excess_ms - 500.0).abs() < 5.0, "{}", figures.handover_excess_ms);
        assert!(figures.inner_gap_ms < 1.0);
    }

    #[test]
    fn who_never_plays_was_owed_everything() {
        let figures = run(|_| None);
        assert_eq!((figures.stalls, figures.continuity), (1, 0.0));
        assert_eq!(figures.join_p50_s, 40.0);
    }
}
