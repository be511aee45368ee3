//! The stream's pace: how often a piece closes at the source, and how long each is.
//!
//! Whatever the mesh waits for, it waits for pieces. A line that is about as wide as the stream needs a time for a piece that
//! is in proportion to the time from one piece to the next. So the times of the picker, of pushes and of promises are stated
//! for a stream with [`NOMINAL`] from one piece to the next, at which they were found by simulation (8 Mbit/s in pieces of
//! 64 KiB), and are stretched where pieces come more slowly. Times that people set (how long a picture may stand) stay as they
//! are.
//!
//! The pace comes from heads, which the channel's key has signed, so no neighbour can stretch a time.

use std::time::Duration;

use crate::stream::window::PieceWindow;

/// From one piece to the next at the pace for which times are stated.
const NOMINAL: Duration = Duration::from_micros(65_536);
/// The most that a time is stretched: a piece every four seconds.
const MOST: f32 = 64.0;
/// Pieces that the pace is taken from: a stream that bursts for seconds does not change it at each burst.
const SPAN: u64 = 128;
/// Fewer pieces than that do not show a pace.
const FEW: u64 = 3;
/// What is taken for a piece's length, and for the stream's rate in bytes a second, before the first head: at 8 Mbit/s.
const USUAL_LEN: u32 = 64 * 1024;
const USUAL_RATE: f32 = 1e6;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Tempo {
    scale: f32,
    /// Length of a piece in bytes.
    pub piece_len: u32,
    /// Bytes a second.
    pub rate: f32,
    /// The edge that this was taken at.
    edge: u64,
}

impl Default for Tempo {
    fn default() -> Self {
        Self { scale: 1.0, piece_len: USUAL_LEN, rate: USUAL_RATE, edge: 0 }
    }
}

impl Tempo {
    /// Takes the pace from the newest pieces.
    pub fn look(&mut self, window: &PieceWindow) {
        let edge = window.edge();
        if edge == self.edge {
            return;
        }
        self.edge = edge;
        let (mut bytes, mut longest, mut count) = (0u64, 0, 0u64);
        let (mut oldest_ms, mut newest_ms) = (u64::MAX, 0);
        for serial in (edge.saturating_sub(SPAN).max(window.base())..edge).rev() {
            // A source that comes back leaves serials out: its pieces before are another stream's.
            let Some(named) = window.named(serial) else { break };
            let piece = named.piece;
            newest_ms = newest_ms.max(piece.ingest_ms);
            oldest_ms = oldest_ms.min(piece.ingest_ms);
            longest = longest.max(piece.len);
            bytes = bytes.saturating_add(piece.len.into());
            count = count.saturating_add(1);
        }
        let span_ms = newest_ms.saturating_sub(oldest_ms);
        if longest > 0 {
            self.piece_len = longest;
        }
        if count <= FEW || span_ms == 0 {
            return;
        }
        // The oldest piece came before the time that is counted.
        let seconds = span_ms as f32 / 1000.0;
        let others = count.saturating_sub(1) as f32;
        self.rate = bytes as f32 * others / count as f32 / seconds;
        let interval = seconds / others;
        self.scale = (interval / NOMINAL.as_secs_f32()).clamp(1.0, MOST);
    }

    /// A time that is stated for the nominal pace, at this one. It never shrinks: round trips do not.
    pub fn time(&self, nominal: Duration) -> Duration {
        nominal.mul_f64(self.scale.into())
    }

    /// The same for a time before a deadline: at most `share` of the delay at which the stream is played, since more is
    /// never left.
    pub fn before_due(&self, nominal: Duration, share: f32, delay: Duration) -> Duration {
        self.time(nominal).min(delay.mul_f64(share.into()).max(nominal))
    }

    /// How many times as long as at the nominal pace things take.
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stretch_with_the_pace_and_never_shrink() {
        let half_a_second = Duration::from_millis(500);
        let usual = Tempo::default();
        assert_eq!(usual.time(half_a_second), half_a_second);
        let slow = Tempo { scale: 4.0, ..usual };
        assert_eq!(slow.time(half_a_second), 4 * half_a_second);
        let delay = Duration::from_secs(4);
        assert_eq!(slow.before_due(half_a_second, 0.25, delay), Duration::from_secs(1));
        assert_eq!(slow.before_due(half_a_second, 0.01, delay), half_a_second, "never below the nominal");
    }
}
