//! What the source has said of its broadcast. Pure.

use minuet_proto::{Phase, PieceId, SignedRecord, SignedState};

/// What the source has said.
#[derive(Debug, Default)]
pub struct Said {
    /// Its newest statement.
    pub state: Option<SignedState>,
    /// The newest record.
    pub newest: Option<SignedRecord>,
}

impl Said {
    /// Whether the broadcast has ended.
    pub fn ended(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.phase == Phase::Ended)
    }

    /// Whether the broadcast has ended with the piece `last`.
    pub fn ended_with(&self, last: PieceId) -> bool {
        let (Some(state), Some(newest)) = (&self.state, &self.newest) else { return false };
        let pieces = newest.piece_length.pieces_in(newest.length);
        let is_last = last.segment == newest.seq && u64::from(last.piece.0) + 1 >= pieces;
        self.ended() && is_last && newest.seq.next() == state.next
    }
}

#[cfg(test)]
mod tests {
    use minuet_proto::{ChannelKey, ChannelState, InfoHash, PieceIndex, PieceLength, Record, SegmentSeq};

    use super::*;

    const PIECE: u64 = PieceLength::MIN.get() as u64;

    fn state(phase: Phase, next: u64) -> SignedState {
        let key = ChannelKey::from_seed(&[1; 32]);
        let state = ChannelState {
            channel: key.channel(),
            at_ms: 1,
            phase,
            next: SegmentSeq(next),
            segment_ms: 60_000,
            title: String::new(),
            listed: false,
            origin: None,
        };
        SignedState::sign(&key, state)
    }

    fn record(seq: u64, length: u64) -> SignedRecord {
        let key = ChannelKey::from_seed(&[1; 32]);
        let record = Record {
            channel: key.channel(),
            seq: SegmentSeq(seq),
            prev: None,
            info_hash: InfoHash::new([2; 20]),
            length,
            piece_length: PieceLength::MIN,
            duration_ms: 60_000,
            ingest_ms: 1,
            sealed_ms: 60_001,
            discontinuity: false,
            access: Default::default(),
        };
        SignedRecord::sign(&key, record)
    }

    #[test]
    fn a_broadcast_is_over_with_the_last_piece_of_its_last_segment() {
        let piece = |segment, piece| PieceId { segment: SegmentSeq(segment), piece: PieceIndex(piece) };
        let mut said = Said { state: Some(state(Phase::Ended, 4)), newest: Some(record(2, 3 * PIECE)) };
        // The record of the last segment is still to come, and with it what belongs to it.
        assert!(!said.ended_with(piece(2, 2)) && !said.ended_with(piece(3, 2)));
        said.newest = Some(record(3, 3 * PIECE));
        assert!(
            !said.ended_with(piece(2, 2)) && !said.ended_with(piece(3, 1)) && said.ended_with(piece(3, 2))
        );
        said.newest = Some(record(3, 3 * PIECE + 1));
        assert!(!said.ended_with(piece(3, 2)) && said.ended_with(piece(3, 3)));
        said.state = Some(state(Phase::Live, 4));
        assert!(!said.ended_with(piece(3, 3)));
    }
}
