//! Round trips from places on a map: hosts stand at random places on a square, and the round trip between two
//! grows with their distance, the nearest pair at the low end and the farthest at the high end. So there are
//! clusters and outliers, and the triangle inequality holds, as mostly on the Internet (Vivaldi, SIGCOMM 2004).

use std::{str::FromStr, time::Duration};

use minuet_proto::units;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::PlanError;

/// The shortest and the longest round trip of a lab. Written `20..160` (ms), `20ms..160ms` or `50ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RttRange {
    low: Duration,
    high: Duration,
}

impl FromStr for RttRange {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let (low, high) = (milliseconds(low)?, milliseconds(high)?);
        if low > high || high > Duration::from_secs(60) {
            return Err(PlanError::Syntax(
                "write the shorter round trip first, and none above 60s, as in 20..160".into(),
            ));
        }
        Ok(Self { low, high })
    }
}

fn milliseconds(text: &str) -> Result<Duration, PlanError> {
    let text =
        if text.ends_with(|c: char| c.is_ascii_digit()) { format!("{text}ms") } else { text.to_owned() };
    units::duration(&text)
        .map_err(|_| PlanError::Syntax("write round trips in milliseconds, as in 20..160 or 50ms".into()))
}

/// `round_trips[a][b]` between every two hosts; zero from a host to itself.
pub fn round_trips(hosts: usize, range: RttRange, seed: u64) -> Vec<Vec<Duration>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let places: Vec<(f64, f64)> = (0..hosts).map(|_| (rng.random(), rng.random())).collect();
    let distance = |a: usize, b: usize| (places[a].0 - places[b].0).hypot(places[a].1 - places[b].1);
    let pairs = || (0..hosts).flat_map(|a| (0..a).map(move |b| (a, b)));
    let nearest = pairs().map(|(a, b)| distance(a, b)).fold(f64::INFINITY, f64::min);
    let farthest = pairs().map(|(a, b)| distance(a, b)).fold(0.0, f64::max);
    let between = |a: usize, b: usize| {
        if a == b {
            return Duration::ZERO;
        }
        // One pair alone is in the middle.
        let share = if farthest > nearest { (distance(a, b) - nearest) / (farthest - nearest) } else { 0.5 };
        range.low + (range.high - range.low).mul_f64(share)
    };
    (0..hosts).map(|a| (0..hosts).map(|b| between(a, b)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_the_range_and_keeps_the_triangle_inequality() {
        let range: RttRange = "20..160".parse().unwrap();
        let rtts = round_trips(30, range, 9);
        let all = || (0..30).flat_map(|a| (0..a).map(move |b| (a, b)));
        assert_eq!(all().map(|(a, b)| rtts[a][b]).min(), Some(range.low));
        assert_eq!(all().map(|(a, b)| rtts[a][b]).max(), Some(range.high));
        for (a, b) in all() {
            assert_eq!(rtts[a][b], rtts[b][a]);
            assert!((0..30).all(|c| c == a || c == b || rtts[a][b] <= rtts[a][c] + rtts[c][b]));
        }
        assert_eq!(rtts, round_trips(30, range, 9));
        assert_ne!(rtts, round_trips(30, range, 10));
    }

    #[test]
    fn reads_ranges() {
        assert_eq!("50".parse::<RttRange>(), "50ms..50ms".parse());
        assert_eq!("0..1s".parse::<RttRange>().unwrap().high, Duration::from_secs(1));
        for bad in ["", "..", "160..20", "a..b", "20..", "2m", "-1..3"] {
            assert!(bad.parse::<RttRange>().is_err(), "{bad}");
        }
        assert_eq!(round_trips(2, "20..160".parse().unwrap(), 1)[0][1], Duration::from_millis(90));
    }
}
