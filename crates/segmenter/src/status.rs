//! What the broadcaster sees: a line that is kept up to date on a terminal, or one now and then elsewhere.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use minuet_console::Screen;
use minuet_node::units::{self, Rate};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::meters::{Meters, Reading};

/// How often the figures are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Rates are those of the last so many readings.
const WINDOW: usize = 10;

/// How often a rate above the uplink is complained about.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(600);
/// An uplink of less than this many times the stream cannot start a swarm in time.
const LEAST_COPIES: f64 = 1.2;
/// How many figures are kept for the status page: ten minutes of them.
const HISTORY: usize = 600;

/// Shows the figures until stopped, and keeps them for the status page.
///
/// # Errors
/// None; it ends when it is stopped.
pub async fn run(
    screen: Screen,
    meters: Arc<Meters>,
    history: Arc<History>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut readings = Vec::with_capacity(WINDOW + 1);
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = Instant::now();
    let mut complained: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            now = interval.tick() => {
                if readings.len() > WINDOW {
                    readings.remove(0);
                }
                readings.push((now, meters.read()));
                let Some(figures) = figures(&readings) else { continue };
                show(&screen, &figures, &mut written);
                if figures.exceeds_uplink() && complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                    complained = Some(now);
                    tracing::warn!(
                        "the feed comes at {} and --upload-limit is {}: viewers will fall behind; lower the encoder's \
                         bitrate or raise the limit",
                        Rate::from_bytes_per_s(figures.in_per_s),
                        Rate::from_bytes_per_s(figures.now.upload_limit),
                    );
                }
                history.push(figures);
            }
        }
    }
    screen.clear_status();
    Ok(())
}

fn show(screen: &Screen, figures: &Figures, written: &mut Instant) {
    if screen.is_terminal() {
        screen.status(figures.to_string());
    } else if written.elapsed() >= LINE_INTERVAL {
        *written = Instant::now();
        tracing::info!("{figures}");
    }
}

/// What happened lately.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// The newest reading.
    pub now: Reading,
    /// Bytes of feed a second.
    pub in_per_s: u64,
    /// Bytes sent a second.
    pub out_per_s: u64,
}

impl Figures {
    /// How often the whole stream has been sent so far: what a broadcaster's uplink costs.
    pub fn copies(&self) -> f64 {
        self.now.sent() as f64 / self.now.recorded.max(1) as f64
    }

    /// The share of what viewers get that does not come from here, in percent; none without viewers.
    pub fn offload_percent(&self) -> Option<f64> {
        let wanted = (self.now.live_peers + self.now.viewers) as f64 * self.in_per_s as f64;
        (wanted > 0.0).then(|| (100.0 * (1.0 - self.out_per_s as f64 / wanted)).clamp(0.0, 100.0))
    }

    fn exceeds_uplink(&self) -> bool {
        self.now.upload_limit > 0 && self.in_per_s as f64 * LEAST_COPIES > self.now.upload_limit as f64
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (now, rate) = (&self.now, Rate::from_bytes_per_s);
        write!(f, "segment {} | in {} | ", now.open, rate(self.in_per_s))?;
        if now.key_distance_ms > 0 {
            write!(f, "key frame each {:.1} s | ", now.key_distance_ms as f64 / 1000.0)?;
        }
        write!(f, "out {} ({:.2} copies) | ", rate(self.out_per_s), self.copies())?;
        let live = units::count(now.live_peers, "live peer", "live peers");
        write!(f, "{live}, {}", units::count(now.viewers, "other", "others"))?;
        if let Some(offload) = self.offload_percent() {
            write!(f, " | {offload:.0} % offload")?;
        }
        write!(f, " | {} seeded", now.seeding)?;
        if now.cutter.continuity_errors > 0 {
            let errors = now.cutter.continuity_errors;
            write!(f, " | {}", units::count(errors, "continuity error", "continuity errors"))?;
        }
        Ok(())
    }
}

/// The figures between the first and the last of some readings.
fn figures(readings: &[(Instant, Reading)]) -> Option<Figures> {
    let ([(then, old), ..], [.., (now, new)]) = (readings, readings) else { return None };
    let elapsed_s = now.duration_since(*then).as_secs_f64().max(1.0);
    let rate = |before: u64, after: u64| (after.saturating_sub(before) as f64 / elapsed_s) as u64;
    Some(Figures {
        now: *new,
        in_per_s: rate(old.received, new.received),
        out_per_s: rate(old.sent(), new.sent()),
    })
}

/// The figures of the last minutes, one a second.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Figures>>);

impl History {
    fn push(&self, figures: Figures) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == HISTORY {
            kept.pop_front();
        }
        kept.push_back(figures);
    }

    /// A copy, oldest first.
    pub fn read(&self) -> Vec<Figures> {
        // Each entry is whole by itself, so a panic elsewhere does not spoil the list.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use minuet_proto::SegmentSeq;

    use super::*;

    #[test]
    fn the_line_says_rates_copies_and_offload() {
        let start = Instant::now();
        let new = Reading {
            received: 10_000_000,
            recorded: 8_000_000,
            open: SegmentSeq(3),
            sent_live: 2_000_000,
            sent_to_peers: 7_000_000,
            sent_over_http: 1_000_000,
            live_peers: 2,
            viewers: 5,
            seeding: 2,
            key_distance_ms: 2000,
            upload_limit: 1_100_000,
            ..Reading::default()
        };
        let figures =
            figures(&[(start, Reading::default()), (start + Duration::from_secs(10), new)]).unwrap();
        assert_eq!(
            figures.to_string(),
            "segment 3 | in 8Mbit | key frame each 2.0 s | out 8Mbit (1.25 copies) | 2 live peers, 5 others | 86 % offload | 2 seeded"
        );
        assert!(figures.exceeds_uplink(), "1.1 times the stream is too little");
    }
}
