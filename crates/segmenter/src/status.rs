//! What the broadcaster sees: a line that is kept up to date on a terminal, or one now and then elsewhere.

use std::{sync::Arc, time::Duration};

use indicatif::ProgressBar;
use minuet_node::units::Rate;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    log::Screen,
    meters::{Meters, Reading},
};

/// How often the figures are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Rates are those of the last so many readings.
const WINDOW: usize = 10;

/// Shows the figures until stopped.
pub async fn run(screen: Screen, meters: Arc<Meters>, stop: CancellationToken) {
    let bar = screen.status();
    let mut readings = Vec::with_capacity(WINDOW + 1);
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            now = interval.tick() => {
                if readings.len() > WINDOW {
                    readings.remove(0);
                }
                readings.push((now, meters.read()));
                show(bar.as_ref(), &readings, &mut written);
            }
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

fn show(bar: Option<&ProgressBar>, readings: &[(Instant, Reading)], written: &mut Instant) {
    let ([(then, old), ..], [.., (now, new)]) = (readings, readings) else { return };
    let text = line(old, new, now.duration_since(*then));
    match bar {
        Some(bar) => {
            bar.set_message(text);
            bar.tick();
        }
        None if written.elapsed() >= LINE_INTERVAL => {
            *written = Instant::now();
            tracing::info!("{text}");
        }
        None => {}
    }
}

/// The line for what happened between two readings.
fn line(old: &Reading, new: &Reading, elapsed: Duration) -> String {
    let rate = |before: u64, after: u64| {
        let per_s = after.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(1.0);
        Rate::from_bytes_per_s(per_s as u64)
    };
    let sent = |reading: &Reading| reading.sent_live + reading.sent_to_peers + reading.sent_over_http;
    // How often the whole stream has been sent so far: what a broadcaster's uplink costs.
    let copies = sent(new) as f64 / new.recorded.max(1) as f64;
    let mut text = format!(
        "segment {} | in {} | out {} ({copies:.2} copies) | {} live peers, {} others | {} seeded",
        new.open,
        rate(old.received, new.received),
        rate(sent(old), sent(new)),
        new.live_peers,
        new.viewers,
        new.seeding,
    );
    if new.cutter.continuity_errors > 0 {
        text.push_str(&format!(" | {} continuity errors", new.cutter.continuity_errors));
    }
    text
}

#[cfg(test)]
mod tests {
    use minuet_proto::SegmentSeq;

    use super::*;

    #[test]
    fn the_line_says_rates_and_copies() {
        let old = Reading::default();
        let new = Reading {
            received: 10_000_000,
            recorded: 8_000_000,
            open: SegmentSeq(3),
            sent_to_peers: 9_000_000,
            sent_over_http: 1_000_000,
            viewers: 5,
            seeding: 2,
            ..Reading::default()
        };
        assert_eq!(
            line(&old, &new, Duration::from_secs(10)),
            "segment 3 | in 8Mbit | out 8Mbit (1.25 copies) | 0 live peers, 5 others | 2 seeded"
        );
    }
}
