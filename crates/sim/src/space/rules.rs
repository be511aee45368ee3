//! The rules that every point of the space is judged by, where uplinks suffice:
//!
//! 1. Nobody stalls after its first ten seconds.
//! 2. The source sends at most [`COPIES`] copies.
//! 3. The 99th percentile of the spread stays below what rate, round trip and viewers make necessary, see [`p99_s`].
//! 4. Nobody who does no harm is banned, and nothing corrupt is played.

use crate::{
    engine::{SECOND, access::PACKET_BYTES},
    figures::{Bound, Figure},
    scenario::Scenario,
    stream::StreamSpec,
};

use super::point::Point;

/// Copies of the stream that the source may send.
const COPIES: f64 = 1.3;
/// How many times as long as a piece must take to get to everybody it may take.
const SLACK: f64 = 2.5;
/// Bytes on the wire of one promise to one neighbour, and neighbours that are told.
const PROMISE: (f64, f64) = (80.0, 12.0);

/// What must be sent for each byte of the stream that is received: packet headers, acknowledgements, and promises, which
/// cost as much for a short piece as for a long one.
pub fn need(stream: &StreamSpec) -> f64 {
    let headers = 63.0 / (PACKET_BYTES - 63) as f64;
    let acknowledgements = 0.01;
    1.0 + headers + acknowledgements + PROMISE.0 * PROMISE.1 / f64::from(stream.piece_length)
}

/// Seconds in which 99 of 100 pieces must be verified at a viewer.
///
/// A piece cannot be passed on before it is whole, so that the number of its holders at most doubles with each hop
/// ("snowball", Liu, ACM MM 2007): ⌈log₂(viewers + 1)⌉ hops. A hop takes the time of a piece on the median uplink, and half a
/// round trip; where packets are lost, also a round trip to send one again. [`SLACK`] times that, and what of a burst the
/// uplinks cannot take at once.
pub fn p99_s(point: &Point, scenario: &Scenario) -> f64 {
    let stream = &scenario.stream;
    let hops = ((point.viewers + 1) as f64).log2().ceil();
    let mut ups: Vec<f64> = scenario.profiles.iter().filter(|p| p.upload).map(|p| p.up).collect();
    ups.push(scenario.source_up);
    ups.sort_by(f64::total_cmp);
    let median = ups[(ups.len() - 1) / 2];
    let piece = f64::from(stream.piece_length) / (median * stream.rate as f64);
    let rtt = scenario.geography.rtt_max as f64 / SECOND as f64 * 0.55;
    let again = if point.loss > 0.0 { rtt * 1.125 } else { 0.0 };
    let jitter = point.jitter / 1e3;
    let burst = (point.burst - point.supply).max(0.0) * 1.5 / point.supply;
    // What is looked at every 100 ms cannot be quicker.
    SLACK * (hops * (piece + rtt / 2.0 + jitter) + again).max(0.2) + burst
}

/// The rules as bounds on a run's figures.
pub fn bounds(point: &Point, scenario: &Scenario) -> Vec<Bound> {
    let mut bounds = vec![
        Bound::at_most(Figure::StallsSettled, 0.0),
        Bound::at_most(Figure::SpreadP99, p99_s(point, scenario)),
        Bound::at_most(Figure::CorruptDelivered, 0.0),
        Bound::at_most(Figure::FalseBans, 0.0),
    ];
    // With one or two viewers a copy each comes from the source.
    if point.viewers > 3 {
        bounds.push(Bound::at_most(Figure::SourceCopies, COPIES));
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_point_is_asked_for_what_it_is_known_to_reach() {
        let point = Point::standard();
        let scenario = point.scenario();
        let p99 = p99_s(&point, &scenario);
        assert!((0.9..1.3).contains(&p99), "{p99}");
        assert!((1.4..1.8).contains(&scenario.profiles[0].up), "{:?}", scenario.profiles[0]);
    }

    #[test]
    fn more_viewers_and_narrower_lines_may_take_longer() {
        let of = |viewers, rate| {
            let point = Point { viewers, rate, ..Point::standard() };
            p99_s(&point, &point.scenario())
        };
        assert!(of(100, 8.0) > of(20, 8.0));
        assert!(of(20, 0.3) > 3.0 * of(20, 8.0));
    }
}
