//! The viewer's view of a channel's history: which records are accepted, and in which order they are used.
//!
//! Rule: a record is given out once, in ascending order. One that follows the newest is taken; one that names
//! another history is refused; one further ahead waits for those between (another tracker may have them) until
//! the caller says that they are not to be had.

use std::collections::BTreeMap;

use minuet_proto::{SegmentSeq, SignedRecord, record::ChainError};

/// How many records may wait for a gap to close.
pub const MAX_WAITING: usize = 1024;

/// The accepted history.
#[derive(Debug, Default)]
pub struct Chain {
    /// The newest record given out.
    newest: Option<SignedRecord>,
    /// The number to give out next; unknown until the start is chosen or a first record comes.
    wanted: Option<SegmentSeq>,
    /// Records not yet given out.
    waiting: BTreeMap<SegmentSeq, SignedRecord>,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New: take it with [`Chain::take_next`], now or when the gap is closed.
    Taken,
    /// Known, or older than what is known.
    Old,
    /// Signed by the source, but of another history than what it said before.
    Refused(ChainError),
}

impl Chain {
    /// Begins with segment `first`: what is older is not wanted.
    pub fn start_at(&mut self, first: SegmentSeq) {
        self.wanted = Some(first);
        self.waiting.retain(|seq, _| *seq >= first);
    }

    /// The number to give out next, once it is known.
    pub fn wanted(&self) -> Option<SegmentSeq> {
        self.wanted
    }

    /// Judges a record whose signature is good.
    pub fn insert(&mut self, record: SignedRecord) -> Verdict {
        if let Some(newest) = &self.newest {
            if record.seq == newest.seq && record.hash() != newest.hash() {
                return Verdict::Refused(ChainError::BrokenLink(record.seq));
            }
            if let Err(broken @ ChainError::BrokenLink(_)) = record.check_follows(newest) {
                return Verdict::Refused(broken);
            }
        }
        if self.wanted.is_some_and(|wanted| record.seq < wanted) {
            return Verdict::Old;
        }
        if let Some(known) = self.waiting.get(&record.seq) {
            return if known.hash() == record.hash() {
                Verdict::Old
            } else {
                Verdict::Refused(ChainError::BrokenLink(record.seq))
            };
        }
        if self.waiting.len() >= MAX_WAITING {
            return Verdict::Old;
        }
        self.waiting.insert(record.seq, record);
        Verdict::Taken
    }

    /// The next record, if it is there; where no start was chosen, the oldest that is there.
    pub fn take_next(&mut self) -> Option<SignedRecord> {
        loop {
            let first = self.waiting.first_entry()?;
            let follows = self.newest.as_ref().map(|newest| first.get().check_follows(newest));
            match follows {
                // Numbers that it leaves out were never sealed.
                Some(Ok(())) => return self.next_past_gap(),
                _ if self.wanted.is_some_and(|wanted| wanted != *first.key()) => return None,
                Some(Err(broken @ ChainError::BrokenLink(_))) => {
                    // It came before the one that it should follow, and does not.
                    tracing::warn!("thrown away: {broken}");
                    first.remove();
                }
                _ => return self.next_past_gap(),
            }
        }
    }

    /// Gives up on what is missing before the oldest waiting record, and gives that out.
    pub fn next_past_gap(&mut self) -> Option<SignedRecord> {
        let (seq, record) = self.waiting.pop_first()?;
        self.newest = Some(record.clone());
        self.wanted = Some(seq.next());
        Some(record)
    }

    /// The first number missing before the oldest waiting record.
    pub fn gap(&self) -> Option<SegmentSeq> {
        let first = self.waiting.first_key_value()?.0;
        self.wanted.filter(|wanted| wanted != first)
    }
}

#[cfg(test)]
mod tests {
    use minuet_proto::{ChannelKey, InfoHash, PieceLength, Record, RecordHash};
    use proptest::prelude::*;

    use super::*;

    fn record(seq: u64, prev: Option<RecordHash>, history: u8) -> SignedRecord {
        let key = ChannelKey::from_seed(&[1; 32]);
        SignedRecord::sign(
            &key,
            Record {
                channel: key.channel(),
                seq: SegmentSeq(seq),
                prev,
                info_hash: InfoHash::new([history; 20]),
                length: 1,
                piece_length: PieceLength::MIN,
                duration_ms: 1,
                ingest_ms: 0,
                sealed_ms: 0,
                discontinuity: false,
                access: Default::default(),
            },
        )
    }

    /// A history of `length` records.
    fn history(length: u64) -> Vec<SignedRecord> {
        let mut records: Vec<SignedRecord> = Vec::new();
        for seq in 0..length {
            records.push(record(seq, records.last().map(|r| r.hash()), 7));
        }
        records
    }

    fn drain(chain: &mut Chain) -> Vec<u64> {
        std::iter::from_fn(|| chain.take_next()).map(|r| r.seq.0).collect()
    }

    proptest! {
        #[test]
        fn whatever_the_order_and_repetition_each_comes_out_once_in_order(
            order in prop::collection::vec(0usize..8, 0..60)
        ) {
            let records = history(8);
            let mut chain = Chain::default();
            chain.insert(records[0].clone());
            let mut out = drain(&mut chain);
            for at in order.into_iter().chain(0..8) {
                chain.insert(records[at].clone());
                out.extend(drain(&mut chain));
            }
            prop_assert_eq!(out, (0..8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn another_history_is_refused_before_and_after_the_true_one() {
        let records = history(3);
        let mut chain = Chain::default();
        chain.insert(records[0].clone());
        assert_eq!(drain(&mut chain), [0]);
        let broken = Verdict::Refused(ChainError::BrokenLink(SegmentSeq(1)));
        assert_eq!(chain.insert(record(1, Some(RecordHash::new([9; 32])), 7)), broken);
        assert_eq!(chain.insert(records[1].clone()), Verdict::Taken);
        assert_eq!(chain.insert(record(1, Some(records[0].hash()), 8)), broken);
        assert_eq!(drain(&mut chain), [1]);
        assert_eq!(chain.insert(record(1, Some(records[0].hash()), 8)), broken);
        assert_eq!(chain.insert(records[0].clone()), Verdict::Old);
    }

    #[test]
    fn one_of_another_history_that_waits_behind_a_gap_goes_when_the_gap_closes() {
        let records = history(3);
        let mut chain = Chain::default();
        chain.insert(records[0].clone());
        drain(&mut chain);
        assert_eq!(chain.insert(record(2, Some(RecordHash::new([9; 32])), 7)), Verdict::Taken);
        assert_eq!(chain.gap(), Some(SegmentSeq(1)));
        chain.insert(records[1].clone());
        assert_eq!(drain(&mut chain), [1]);
        assert_eq!(chain.insert(records[2].clone()), Verdict::Taken);
        assert_eq!(drain(&mut chain), [2]);
    }

    #[test]
    fn a_chosen_start_is_waited_for() {
        let records = history(4);
        let mut chain = Chain::default();
        chain.start_at(SegmentSeq(1));
        chain.insert(records[3].clone());
        assert_eq!(chain.insert(records[0].clone()), Verdict::Old);
        assert_eq!((drain(&mut chain), chain.gap()), (vec![], Some(SegmentSeq(1))));
        chain.insert(records[2].clone());
        chain.insert(records[1].clone());
        assert_eq!(drain(&mut chain), [1, 2, 3]);
    }

    #[test]
    fn a_number_that_was_never_sealed_is_no_gap() {
        let records = history(2);
        let mut chain = Chain::default();
        chain.insert(records[0].clone());
        drain(&mut chain);
        assert_eq!(chain.insert(record(4, Some(records[0].hash()), 7)), Verdict::Taken);
        assert_eq!((chain.gap(), drain(&mut chain)), (Some(SegmentSeq(1)), vec![4]));
        assert_eq!((chain.gap(), chain.wanted()), (None, Some(SegmentSeq(5))));
        assert_eq!(chain.insert(records[1].clone()), Verdict::Old);
    }

    #[test]
    fn a_gap_is_named_and_can_be_given_up() {
        let records = history(4);
        let mut chain = Chain::default();
        chain.insert(records[0].clone());
        drain(&mut chain);
        chain.insert(records[3].clone());
        assert_eq!((drain(&mut chain), chain.gap()), (vec![], Some(SegmentSeq(1))));
        assert_eq!(chain.next_past_gap().map(|r| r.seq.0), Some(3));
        assert_eq!(chain.gap(), None);
    }
}
