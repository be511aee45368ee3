//! What lines could send, by network, from one run to the next.
//!
//! Bounds: [`MAX_LINES`] networks, the last used first, none older than [`MAX_AGE_S`]. What is remembered is a hint: an
//! [`Estimate`](crate::Estimate) begins with a part of it and looks again.

use serde::{Deserialize, Serialize};

/// Most networks: home, work, and the cafés of a year.
pub const MAX_LINES: usize = 32;
/// A line that was not used for so long may be another by now, in seconds: 90 days.
pub const MAX_AGE_S: u64 = 90 * 24 * 3600;
/// Longest name of a network in bytes.
pub const MAX_NAME: usize = 64;

/// What a node has learned of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// What the line has delivered, in bytes a second.
    pub bytes_per_s: u64,
    /// The line was full at that rate; else it may be faster.
    pub full: bool,
}

/// All lines that are remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The last used first.
    lines: Vec<Remembered>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// The network's name.
    network: String,
    bytes_per_s: u64,
    /// The line was full at that rate.
    #[serde(default)]
    full: bool,
    /// When it was used last, in Unix seconds.
    at_s: u64,
}

impl Memory {
    /// Forgets what is too old, from the future, or too much. For what comes from a file.
    pub fn tidy(&mut self, now_s: u64) {
        self.lines.retain(|line| {
            line.network.len() <= MAX_NAME
                && line.bytes_per_s > 0
                && now_s.checked_sub(line.at_s).is_some_and(|age| age <= MAX_AGE_S)
        });
        self.lines.truncate(MAX_LINES);
    }

    /// What is remembered of the line of this network.
    pub fn line(&self, network: &str) -> Option<Learned> {
        let line = self.lines.iter().find(|line| line.network == network)?;
        Some(Learned { bytes_per_s: line.bytes_per_s, full: line.full })
    }

    /// Notes what was learned. A line that was not full keeps the higher rate that an earlier run saw.
    pub fn note(&mut self, network: &str, learned: Learned, now_s: u64) {
        let faster = |before: &Learned| !learned.full && before.bytes_per_s >= learned.bytes_per_s;
        let Learned { bytes_per_s, full } = self.line(network).filter(faster).unwrap_or(learned);
        self.lines.retain(|line| line.network != network);
        self.lines.insert(0, Remembered { network: network.to_owned(), bytes_per_s, full, at_s: now_s });
        self.tidy(now_s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_remembered_by_network_but_not_for_ever_and_not_without_number() {
        let mut memory = Memory::default();
        let learned = |bytes_per_s, full| Learned { bytes_per_s, full };
        memory.note("home", learned(1000, true), 10);
        memory.note("home", learned(300, false), 20);
        assert_eq!(memory.line("home"), Some(learned(1000, true)), "nothing slower was seen to be full");
        memory.note("home", learned(500, true), 30);
        assert_eq!((memory.line("home"), memory.line("work")), (Some(learned(500, true)), None));
        memory.note("home", learned(600, false), 35);
        assert_eq!(memory.line("home"), Some(learned(600, false)), "it may be faster");
        for n in 0..100 {
            memory.note(&format!("network {n}"), learned(n + 1, true), 40 + n);
        }
        assert_eq!((memory.lines.len(), memory.line("home")), (MAX_LINES, None));
        memory.tidy(130 + MAX_AGE_S);
        assert_eq!((memory.lines.len(), memory.line("network 99")), (10, Some(learned(100, true))));
        memory.tidy(0);
        assert_eq!(memory, Memory::default(), "the future is no past");
    }
}
