//! What a host can ask a node: counters, what it holds for others, and what it knows of the stream from heads.

use minuet_proto::mesh::Serial;

use crate::demand::strain::Shortage;
use crate::node::Node;
use crate::{PieceRef, Role};

/// Over how much of the stream its rate is taken, in milliseconds.
const RATE_MS: u64 = 4000;
/// Less of it says nothing: pieces differ in length.
const LEAST_MS: u64 = 300;

/// Counters since the node was made. Bytes are frame bytes; payload is media bytes in blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Media bytes sent.
    pub payload_sent: u64,
    /// Media bytes received, duplicates and corrupt ones included.
    pub payload_received: u64,
    /// Of these, received from the source itself.
    pub source_received: u64,
    /// Media bytes received for nothing: had already, or never asked for.
    pub wasted: u64,
    /// All other bytes sent.
    pub control_sent: u64,
    /// All other bytes received.
    pub control_received: u64,
    /// Pieces that verified.
    pub pieces_verified: u64,
    /// Pieces that did not.
    pub pieces_corrupt: u64,
    /// Links that were closed with a ban.
    pub bans: u64,
    /// Of `payload_sent`, what was of finished segments.
    pub kept_given: u64,
    /// Media bytes of finished segments that verified.
    pub kept_taken: u64,
    /// Why this viewer does not get the stream in full at present, and how much of it there is.
    pub shortage: Option<Shortage>,
}

/// What a node holds for others at the moment. Each figure has a bound that no neighbour can move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Links that are up: at most three and a half times [`Config::neighbours`](crate::Config).
    pub links: usize,
    /// Nodes known for later: at most 384, each way to know of one having places of its own.
    pub candidates: usize,
    /// Bytes of control messages that wait for room under the upload limit: at most 1 MiB, besides a greeting for each link.
    pub backlog_bytes: usize,
    /// Bytes of pieces that have begun to come in: for each link at most seven pieces.
    pub arriving_bytes: usize,
    /// Bytes of what neighbours have told of finished segments: for each link at most 12 maps of 8 KiB, and 2 KiB.
    pub told_bytes: usize,
    /// Pieces that the driver is hashing: at most [`Config::window`](crate::Config).
    pub verifying: usize,
}

impl Node {
    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the node is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Number of links that are up.
    pub fn link_count(&self) -> usize {
        self.neighbours.len()
    }

    /// One above the newest piece that a verified head has named; `None` before the first head.
    pub fn edge(&self) -> Option<Serial> {
        self.window.anchored().then(|| Serial::new(self.window.edge()))
    }

    /// Whether the piece is in the window and verified.
    pub fn holds(&self, serial: Serial) -> bool {
        self.window.holds(serial.get())
    }

    /// Everything that is open with neighbours: links, requests both ways, offers, promises counted. Zero once all
    /// neighbours are gone.
    pub fn open_work(&self) -> usize {
        let window = self.window.base()..self.window.end();
        let counted = window
            .map(|serial| self.exchange.copies(serial).saturating_add(self.exchange.requests(serial).into()))
            .map(usize::from);
        let links = self
            .neighbours
            .iter()
            .map(|(_, n)| n.side.incoming().len().saturating_add(n.outgoing.len()).saturating_add(1));
        let work = links.chain(counted).chain([self.offers.len(), self.exchange.verifying()]);
        work.fold(0, usize::saturating_add)
    }

    /// For tests: whether what is counted of each piece is what the neighbours have and send. An error says what is not.
    pub fn check(&self) -> Result<(), String> {
        let sides: Vec<_> = self.neighbours.iter().map(|(_, neighbour)| &neighbour.side).collect();
        self.exchange.check(&sides, &self.window)
    }

    /// What is held for others at the moment.
    pub fn load(&self) -> Load {
        let live =
            self.neighbours.iter().flat_map(|(_, n)| n.side.incoming().iter().map(|i| i.data.capacity()));
        let kept = self.neighbours.iter().flat_map(|(_, n)| n.kept.asked.iter().map(|a| a.arriving()));
        let arriving = live.chain(kept);
        let told = self.neighbours.iter().map(|(_, n)| n.kept.told.bytes());
        Load {
            links: self.neighbours.len(),
            candidates: self.candidates.len(),
            backlog_bytes: self.backlog(),
            arriving_bytes: arriving.fold(0, usize::saturating_add),
            told_bytes: told.fold(0, usize::saturating_add),
            verifying: self.exchange.verifying(),
        }
    }

    /// Number of pieces that are verified and in the window.
    pub fn held(&self) -> usize {
        self.window.held.iter(self.window.base(), self.window.end()).count()
    }

    /// Whether a head has named the piece, or it is older than all that heads have named.
    pub fn knows(&self, serial: Serial) -> bool {
        let serial = serial.get();
        self.window.named(serial).is_some()
            || self.window.anchored() && !self.pieces_of(self.window.base()..serial).any(|_| true)
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
        serials.filter_map(|serial| self.window.named(serial).map(|named| named.piece))
    }
}
