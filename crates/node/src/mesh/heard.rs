//! What the source has said of the channel, as a node of the mesh has heard it: from neighbours, or from its owner, who has
//! it from a tracker.

use minuet_mesh::Statement;
use minuet_proto::{ChannelId, SignedRecord, SignedState};

/// Records that are kept for who reads them: who lags this far behind finds them at a tracker.
const RECORDS: usize = 16;

/// The newest statements, each verified.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// What the channel is and whether it is on air.
    pub state: Option<SignedState>,
    /// Records of sealed segments, in ascending order.
    pub records: Vec<SignedRecord>,
}

impl Heard {
    /// Takes in a statement. None if it does not verify, or is no news; else itself, to be passed on.
    pub(super) fn take(&mut self, statement: Statement, channel: ChannelId) -> Option<Statement> {
        let news = match &statement {
            Statement::Record(bytes) => {
                SignedRecord::decode(bytes, channel).map(|record| self.take_record(record))
            }
            Statement::State(bytes) => {
                SignedState::decode(bytes, channel).map(|state| self.take_state(state))
            }
        };
        match news {
            Ok(true) => Some(statement),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!("a statement is thrown away: {error}");
                None
            }
        }
    }

    /// An older record is no news: it could be said again and again. A node that wants it asks a tracker.
    fn take_record(&mut self, record: SignedRecord) -> bool {
        if self.records.last().is_some_and(|newest| newest.seq >= record.seq) {
            return false;
        }
        if self.records.len() == RECORDS {
            self.records.remove(0);
        }
        self.records.push(record);
        true
    }

    fn take_state(&mut self, state: SignedState) -> bool {
        let newer = self.state.as_ref().is_none_or(|known| known.at_ms < state.at_ms);
        if newer {
            self.state = Some(state);
        }
        newer
    }
}

#[cfg(test)]
mod tests {
    use minuet_proto::{ChannelKey, ChannelState, InfoHash, Phase, PieceLength, Record, SegmentSeq};

    use super::*;

    fn state(key: &ChannelKey, at_ms: u64) -> Statement {
        let state = ChannelState {
            channel: key.channel(),
            at_ms,
            phase: Phase::Live,
            next: SegmentSeq(1),
            segment_ms: 60_000,
            title: String::new(),
            listed: true,
            origin: None,
        };
        Statement::State(SignedState::sign(key, state).encode())
    }

    fn record(key: &ChannelKey, seq: u64) -> Statement {
        let record = Record {
            channel: key.channel(),
            seq: SegmentSeq(seq),
            prev: None,
            info_hash: InfoHash::of(&seq.to_le_bytes()),
            length: 100,
            piece_length: PieceLength::MIN,
            duration_ms: 1000,
            ingest_ms: 1,
            sealed_ms: 2000,
            discontinuity: false,
            access: Default::default(),
        };
        Statement::Record(SignedRecord::sign(key, record).encode())
    }

    #[test]
    fn only_news_that_the_channel_has_signed_are_passed_on() {
        let (key, other) = (ChannelKey::from_seed(&[1; 32]), ChannelKey::from_seed(&[2; 32]));
        let mut heard = Heard::default();
        let mut take = |statement| heard.take(statement, key.channel()).is_some();
        assert!(
            take(state(&key, 5)) && !take(state(&key, 5)) && !take(state(&key, 4)) && take(state(&key, 6))
        );
        assert!(!take(state(&other, 9)));
        assert!(take(record(&key, 7)) && !take(record(&key, 7)) && !take(record(&key, 6)));
        assert!(!take(record(&other, 8)) && !take(Statement::Record(bytes::Bytes::from_static(b"x"))));
        for seq in 8..100 {
            assert!(take(record(&key, seq)));
        }
        let seqs: Vec<u64> = heard.records.iter().map(|record| record.seq.0).collect();
        assert_eq!(seqs, (84..100).collect::<Vec<u64>>());
        assert_eq!(heard.state.map(|state| state.at_ms), Some(6));
    }
}
