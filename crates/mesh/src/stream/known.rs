//! What a node knows of the stream from heads, for its host.

use minuet_proto::mesh::Serial;

use crate::PieceRef;
use crate::node::Node;

/// Over how much of the stream its rate is taken, in milliseconds.
const RATE_MS: u64 = 4000;
/// Less of it says nothing: pieces differ in length.
const LEAST_MS: u64 = 300;

impl Node {
    /// Whether a head has named the piece, or it is older than all that heads have named.
    pub fn knows(&self, serial: Serial) -> bool {
        let serial = serial.get();
        self.window.known(serial).is_some()
            || self.window.anchored() && !self.pieces_of(self.window.base()..serial).any(|_| true)
    }

    /// What heads say of a piece in the window.
    pub fn piece(&self, serial: Serial) -> Option<PieceRef> {
        self.window.known(serial.get()).map(|known| known.piece)
    }

    /// The stream's rate of late in bytes a second, 0 where too little is known.
    pub fn rate(&self) -> u64 {
        let mut newest_first = self.pieces_of(self.window.base()..self.window.edge()).rev();
        let Some(last) = newest_first.next() else { return 0 };
        let (mut bytes, mut oldest) = (u64::from(last.len), last.ingest_ms);
        for piece in
            newest_first.take_while(|piece| piece.ingest_ms.saturating_add(RATE_MS) >= last.ingest_ms)
        {
            bytes = bytes.saturating_add(u64::from(piece.len));
            oldest = oldest.min(piece.ingest_ms);
        }
        let ms = last.ingest_ms.saturating_sub(oldest);
        if ms < LEAST_MS { 0 } else { bytes.saturating_mul(1000).checked_div(ms).unwrap_or(0) }
    }

    /// Where a piece begins in its segment's file, in bytes. All pieces of a segment but the last have one length; a piece
    /// that is the only one known of its segment may be that last one, so its place is not known.
    pub fn offset(&self, piece: &PieceRef) -> Option<u64> {
        let index = piece.id.piece.0;
        if index == 0 {
            return Some(0);
        }
        let others = self.pieces_of(self.window.base()..self.window.edge());
        let mut others = others.filter(|other| other.id.segment == piece.id.segment);
        let length = others.find_map(|other| match other.id.piece.0 {
            before if before < index => Some(other.len),
            after if after > index => Some(piece.len),
            _ => None,
        })?;
        Some(u64::from(index).saturating_mul(u64::from(length)))
    }

    fn pieces_of(&self, serials: std::ops::Range<u64>) -> impl DoubleEndedIterator<Item = PieceRef> + '_ {
        serials.filter_map(|serial| self.window.known(serial).map(|known| known.piece))
    }
}
