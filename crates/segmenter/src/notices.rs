//! What the cutter says about the feed, as log lines: a feed that is bad all the time must not fill the log.

use std::{
    mem::Discriminant,
    time::{Duration, Instant},
};

use minuet_media::Notice;
use minuet_node::units;

/// After a line, others of its kind are only counted for so long.
const INTERVAL: Duration = Duration::from_secs(30);

/// Notices by kind; there are about a dozen kinds.
#[derive(Debug, Default)]
pub struct Notices {
    told: Vec<Told>,
}

#[derive(Debug)]
struct Told {
    kind: Discriminant<Notice>,
    at: Instant,
    withheld: u64,
}

impl Notices {
    /// The line to write about a notice, unless one of its kind was written a moment ago.
    pub fn tell(&mut self, notice: &Notice, now: Instant) -> Option<String> {
        let kind = std::mem::discriminant(notice);
        let Some(told) = self.told.iter_mut().find(|told| told.kind == kind) else {
            self.told.push(Told { kind, at: now, withheld: 0 });
            return Some(notice.to_string());
        };
        if now.saturating_duration_since(told.at) < INTERVAL {
            told.withheld += 1;
            return None;
        }
        told.at = now;
        Some(match std::mem::take(&mut told.withheld) {
            0 => notice.to_string(),
            withheld => format!("{notice} (and {} before)", units::count(withheld, "time", "times")),
        })
    }
}

/// One kind of line that must not fill the log.
#[derive(Debug, Default)]
pub struct Repeated {
    told: Option<Instant>,
    withheld: u64,
}

impl Repeated {
    /// Whether to write the line now, and how often it was withheld before.
    pub fn tell(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            self.withheld += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.withheld))
    }
}

/// Something that is counted, and said: the first at once, what comes later summed up after a while.
#[derive(Debug, Default)]
pub struct Tally {
    told: Option<Instant>,
    waiting: u64,
}

impl Tally {
    /// So many more have come by `now`; how many are to be said. To be asked with 0 as well as time goes by.
    pub fn add(&mut self, more: u64, now: Instant) -> Option<u64> {
        self.waiting = self.waiting.saturating_add(more);
        if self.waiting == 0 || self.told.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.waiting))
    }
}

/// Writes the line, as a warning when the broadcaster should do something.
pub fn log(notice: &Notice, line: &str) {
    match notice {
        Notice::Synchronised { .. } | Notice::Leading { .. } | Notice::Skipped { .. } => {
            tracing::info!("{line}")
        }
        _ => tracing::warn!("{line}"),
    }
}

/// Says that packets were lost before they came here, or when `recorded` was made.
pub fn lost(breaks: u64, recorded: Option<&str>) -> String {
    let breaks = units::count(breaks, "time", "times");
    match recorded {
        Some(name) => format!(
            "the numbers of the packets of {name} broke off {breaks}: it was joined of parts there, or lost packets when \
             it was recorded (viewers see it)"
        ),
        None => format!(
            "the numbers of the feed's packets broke off {breaks}: packets were lost on the way here, or came twice \
             (viewers see it); check the line from the encoder"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_one_kind_is_written_now_and_then() {
        let mut line = Repeated::default();
        let start = Instant::now();
        let told: Vec<_> = (0..=60).map(|s| line.tell(start + Duration::from_secs(s))).collect();
        assert_eq!((told[0], told[30], told[60]), (Some(0), Some(29), Some(29)));
        assert_eq!(told.iter().flatten().count(), 3);
    }

    #[test]
    fn what_is_counted_is_said_at_once_and_then_summed_up() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(tally.add(0, at(0)), None);
        assert_eq!(tally.add(3, at(1)), Some(3));
        assert_eq!((tally.add(2, at(2)), tally.add(5, at(30))), (None, None));
        // Nothing more has to come for it.
        assert_eq!((tally.add(0, at(31)), tally.add(0, at(61))), (Some(7), None));
        assert_eq!(tally.add(1, at(62)), Some(1));
    }

    #[test]
    fn a_flood_is_two_lines() {
        let mut notices = Notices::default();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let lost = |garbage| Notice::Resynchronised { garbage };
        assert!(notices.tell(&lost(1), at(0)).is_some());
        for second in 1..30 {
            assert_eq!(notices.tell(&lost(second), at(second)), None);
        }
        // Another kind is not held back by it.
        assert!(notices.tell(&Notice::Discontinuity, at(5)).is_some());
        let line = notices.tell(&lost(7), at(30)).unwrap();
        assert!(line.starts_with("7 bytes") && line.ends_with("(and 29 times before)"), "{line}");
        let line = notices.tell(&lost(8), at(60)).unwrap();
        assert!(!line.contains("before"), "{line}");
    }
}
