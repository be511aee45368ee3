//! All readers of the stream as one: the mesh core knows a single playhead. Pure.
//!
//! Rule: what is needed is what the reader needs that is farthest back; whoever is nearer to the live edge gets it before
//! its time.

use std::collections::BTreeMap;

use minuet_mesh::Timestamp;
use minuet_proto::mesh::Serial;

/// A reader of the stream, by a number that the host gives and never gives again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// Where readers are.
#[derive(Debug, Default)]
pub(crate) struct Playheads(BTreeMap<ReaderId, (Serial, Timestamp)>);

impl Playheads {
    /// A reader is at `next`, which is due at `due`. Where the core's playhead is then.
    pub fn set(&mut self, reader: ReaderId, next: Serial, due: Timestamp) -> (Serial, Timestamp) {
        self.0.insert(reader, (next, due));
        self.merged().unwrap_or((next, due))
    }

    /// Whether no reader is there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A reader has gone. Where the core's playhead is then, if that has changed; it stays where it was without readers.
    pub fn remove(&mut self, reader: ReaderId) -> Option<(Serial, Timestamp)> {
        let before = self.merged();
        self.0.remove(&reader);
        self.merged().filter(|now| Some(*now) != before)
    }

    fn merged(&self) -> Option<(Serial, Timestamp)> {
        self.0.values().copied().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_farthest_back_decides_until_it_has_gone() {
        let mut heads = Playheads::default();
        let at = |serial, micros| (Serial::new(serial), Timestamp(micros));
        let mut set =
            |reader, serial, micros| heads.set(ReaderId(reader), Serial::new(serial), Timestamp(micros));
        assert_eq!(set(1, 100, 5), at(100, 5));
        assert_eq!(set(2, 40, 6), at(40, 6));
        assert_eq!(set(1, 101, 7), at(40, 6));
        assert_eq!(heads.remove(ReaderId(2)), Some(at(101, 7)));
        assert_eq!(heads.remove(ReaderId(2)), None);
        assert_eq!(heads.remove(ReaderId(1)), None);
    }
}
