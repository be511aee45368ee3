//! Whether this node's line can carry the stream at all: its way down.
//!
//! A line that is too narrow for the stream shows three things together for some time: less comes in than the stream needs,
//! what comes in does not vary with who sends it, since it is the line's own rate, and packets wait, since senders offer
//! more. Too little upload among viewers shows the first, but nothing waits.

use std::collections::VecDeque;
use std::time::Duration;

/// Time over which it must be so. With what a viewer needs to begin, it is told within ten seconds.
const SPAN: Duration = Duration::from_secs(6);
/// Packets wait: for longer than this, beyond what jitter explains …
const WAIT: Duration = Duration::from_millis(40);
/// … in so many of a hundred looks.
const MOSTLY: usize = 80;
/// Less than this part of the stream comes in.
const SHORT: f64 = 0.97;
/// Less than this part is no line that carries anything: something else is wrong.
const NOTHING: f64 = 0.05;

/// Looks at what comes in. At most a span's looks are kept.
#[derive(Debug, Default)]
pub struct Downlink {
    /// When, bytes received by then, and whether packets waited.
    looks: VecDeque<(Duration, u64, bool)>,
}

impl Downlink {
    /// Takes in the bytes received since the start, the stream's rate in bytes a second (0: not known), and how long
    /// packets wait now. What the line brings, in bytes a second, if that is too little for the stream.
    pub fn look(&mut self, received: u64, stream: u64, wait: Option<Duration>, now: Duration) -> Option<u64> {
        self.looks.push_back((now, received, wait.is_some_and(|wait| wait > WAIT)));
        while self.looks.get(1).is_some_and(|(at, ..)| *at + SPAN <= now) {
            self.looks.pop_front();
        }
        let (since, before, _) = self.looks.front()?;
        let elapsed = now.saturating_sub(*since);
        if elapsed < SPAN || stream == 0 {
            return None;
        }
        let rate = received.saturating_sub(*before) as f64 / elapsed.as_secs_f64();
        let waited = self.looks.iter().filter(|(.., waited)| *waited).count();
        let part = rate / stream as f64;
        let short = (NOTHING..SHORT).contains(&part);
        (short && waited * 100 >= self.looks.len() * MOSTLY).then_some(rate as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said in each of twenty seconds of a line that brings so much, where packets wait so long.
    fn said(rate: u64, stream: u64, wait_ms: u64) -> Option<Duration> {
        let mut downlink = Downlink::default();
        (0..200_u64).find_map(|look| {
            let now = Duration::from_millis(100 * look);
            let wait = Some(Duration::from_millis(wait_ms));
            downlink.look(rate * look / 10, stream, wait, now).map(|_| now)
        })
    }

    #[test]
    fn a_line_that_cannot_carry_the_stream_is_told_of_within_ten_seconds() {
        assert!(said(300_000, 500_000, 200).is_some_and(|at| at < Duration::from_secs(10)));
        assert_eq!(said(300_000, 500_000, 0), None, "others have too little to send");
        assert_eq!(said(520_000, 500_000, 200), None, "it brings enough");
        assert_eq!(said(0, 500_000, 200), None, "nothing comes at all");
        assert_eq!(said(300_000, 0, 200), None, "the stream's rate is not known");
    }
}
