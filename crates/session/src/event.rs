//! What goes into a session and what comes out.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use minuet_line::LinkSample;
use minuet_mesh::{
    Direction, Discovery, HangUpReason, Learned, LinkId, PieceRef, Planned, Shape, Statement, Timestamp,
    Verdict,
};
use minuet_proto::{
    PieceHash, PieceId, PieceIndex, SegmentSeq,
    mesh::{Block, Head, KeptBlock, Message, Minute, NodeId, PeerInfo, Serial, SignedHead},
};

use crate::{Reach, ReaderId};

/// Where verified pieces lie. The host's: in files, in memory, or in a model.
pub trait Pieces {
    /// Whether these are the bytes of the piece.
    fn verify(&mut self, piece: &PieceRef, data: &Bytes) -> bool {
        PieceHash::of(data) == piece.hash
    }

    /// Keeps the bytes of a piece, which are verified, or the source's own.
    fn keep(&mut self, piece: &PieceRef, data: &Bytes) -> io::Result<()>;

    /// The bytes that a block carries, of a piece that was kept.
    fn part(&mut self, block: &Block) -> Option<Bytes>;

    /// Record and hashes of a finished segment that is kept, from piece `first` on, as many as fit into a message.
    fn minute(&mut self, _segment: SegmentSeq, _first: PieceIndex) -> Option<Minute> {
        None
    }

    /// Checks record and hashes of a finished segment that a neighbour sent, and keeps them.
    fn learn(&mut self, _minute: &Minute) -> Learned {
        Learned::Nothing
    }

    /// Checks a piece of a finished segment whose hashes are kept, and keeps it.
    fn keep_past(&mut self, _piece: PieceId, _data: &Bytes) -> Verdict {
        Verdict::NotKept
    }

    /// The bytes that a block carries, of a piece of a finished segment; none if they are not there after all.
    fn kept_part(&mut self, _block: &KeptBlock) -> Option<Bytes> {
        None
    }
}

/// What a transport knows of a link's path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Path {
    /// Smoothed round trip; zero while it is not known.
    pub rtt: Duration,
    /// Where the far end's packets come from; none if that is not known, as behind a relay server.
    pub remote: Option<SocketAddr>,
}

/// A piece as the source closes it.
#[derive(Debug, Clone)]
pub struct ClosedPiece {
    /// Segment and index.
    pub id: PieceId,
    /// SHA-1 of `data`.
    pub hash: PieceHash,
    /// When its last byte came in, Unix milliseconds.
    pub ingest_ms: u64,
    /// Whether a random access point starts in it.
    pub random_access: bool,
    /// Its bytes.
    pub data: Bytes,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A link is open; its far end has proved to be `peer`.
    LinkUp {
        /// The host's handle, never used for another link of this session.
        link: LinkId,
        /// The far end's key.
        peer: NodeId,
        /// Who opened it.
        direction: Direction,
        /// Its path, as it was found while connecting.
        path: Path,
    },
    /// A look at a link's path; given twice a second.
    Path {
        /// Which link.
        link: LinkId,
        /// What the transport knows now.
        path: Path,
    },
    /// A link is gone. [`Effect::HangUp`] has no such answer: its link is gone for the session at once.
    LinkDown {
        /// Which link.
        link: LinkId,
    },
    /// An [`Effect::Dial`] led to no link.
    DialFailed {
        /// Who was dialled.
        peer: NodeId,
    },
    /// A message came in. `payload` is a block's, and empty for all others.
    Frame {
        /// On which link.
        link: LinkId,
        /// The message.
        message: Message,
        /// A block's payload.
        payload: Bytes,
    },
    /// A frame of a type that is not known came in and was skipped.
    Unknown {
        /// On which link.
        link: LinkId,
        /// Its length in bytes.
        bytes: usize,
    },
    /// Bytes came in that are no frame. Nothing more comes on that link.
    Malformed {
        /// On which link.
        link: LinkId,
    },
    /// So many bytes of what was sent have gone out, counted as [`Message::encoded_len`] does.
    Drained {
        /// On which link.
        link: LinkId,
        /// How many since the last report.
        bytes: u64,
    },
    /// A look at what all links have sent and received; given every [`minuet_line::LOOK`].
    Line {
        /// What the transport has counted of each link that is up.
        links: Vec<LinkSample>,
        /// Bytes that have come in over all links since the start.
        received: u64,
        /// Bytes that other parts of the program have sent since the start.
        others: u64,
    },
    /// This node can be reached so.
    Reached(Reach),
    /// The relay servers in use, by URL.
    Relays(Vec<String>),
    /// Source: a piece is complete.
    Closed {
        /// Its place in the channel, above all before it.
        serial: Serial,
        /// The piece.
        piece: ClosedPiece,
    },
    /// A signed statement, verified by the host, that is news. It is passed on to all neighbours.
    Statement(Statement),
    /// Somebody who is not a neighbour (a tracker, a list of an earlier run, the user) named nodes.
    Peers {
        /// The nodes.
        peers: Vec<PeerInfo>,
        /// How.
        by: Discovery,
    },
    /// Somebody who is not a neighbour brought a head.
    Head(SignedHead),
    /// A reader of the stream needs piece `next` at `due`, and those after it by their ingest times. Given when reading
    /// starts, after each stall or skip, and otherwise about once a second.
    Playhead {
        /// Which reader.
        reader: ReaderId,
        /// First piece that it has not got.
        next: Serial,
        /// When that is due.
        due: Timestamp,
    },
    /// What a reader needs of finished segments from now on, in place of what it needed before; given when that changes, and
    /// about once a second.
    Plan {
        /// Which reader.
        reader: ReaderId,
        /// What it needs, the first due first; nothing, once it is at the live edge.
        plans: Vec<Planned>,
    },
    /// A reader has left the live edge. If no other is there, nothing of it is asked for until one comes.
    LeftEdge(ReaderId),
    /// A reader has gone.
    ReaderGone(ReaderId),
    /// The host keeps a finished segment, as a whole (none) or in part: one bit a piece, most significant bit first.
    Keeps {
        /// The segment.
        segment: SegmentSeq,
        /// How it is cut.
        shape: Shape,
        /// Which pieces are there.
        map: Option<Bytes>,
    },
    /// The host does not keep a segment any more.
    Forgets(SegmentSeq),
    /// A piece of a finished segment is among the [`Pieces`], from elsewhere than a neighbour.
    KeptStored(PieceId),
    /// What became of an [`Effect::Fetch`].
    Fetched {
        /// The piece.
        piece: PieceRef,
        /// Its bytes, not verified; none if there are none.
        bytes: Option<Bytes>,
    },
    /// The time of [`Session::poll_timeout`](crate::Session::poll_timeout) has come.
    Timeout,
    /// The node is leaving: it takes leave of all neighbours.
    Leave,
}

/// Something that the host is to do.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send a message; after a block, its payload. Messages of one link keep their order.
    Send {
        /// On which link.
        link: LinkId,
        /// What.
        message: Message,
        /// A block's payload, and empty for all others.
        payload: Bytes,
    },
    /// Open a link; answered by [`Event::LinkUp`] or [`Event::DialFailed`].
    Dial {
        /// To whom; its address is a [`Reach`].
        peer: PeerInfo,
    },
    /// Close a link, after what was sent on it.
    HangUp {
        /// Which link.
        link: LinkId,
        /// Why.
        reason: HangUpReason,
        /// Whether its far end is banned for it.
        ban: bool,
    },
    /// No neighbour will bring this piece in time: get it from the HTTP origin. Answered by [`Event::Fetched`].
    Fetch {
        /// Which piece.
        piece: PieceRef,
        /// Where it begins in its segment's file, in bytes.
        offset: u64,
    },
    /// Pieces exist, under the channel's signature. Each piece is in at most one of these.
    Head {
        /// What it says.
        head: Head,
        /// The same as the channel signed it.
        signed: Arc<SignedHead>,
    },
    /// A piece is among the [`Pieces`] from now on. The host has heard of its head.
    Held(PieceRef),
    /// A piece of a finished segment is among the [`Pieces`] from now on.
    HeldKept(PieceId),
    /// Enough is known to start: read from this piece on.
    Start(Serial),
    /// Nothing before this piece is served any more.
    Release(Serial),
    /// A statement came in from a neighbour, not verified. If it verifies and is news, the host gives it back as
    /// [`Event::Statement`].
    Statement(Statement),
    /// The source has signed two different statements about one piece. The first stands.
    Equivocation(Serial),
    /// The [`Pieces`] have failed.
    PiecesFailed {
        /// On which piece.
        serial: Serial,
        /// What they said; empty if a piece that was kept could not be read back.
        reason: String,
    },
}
