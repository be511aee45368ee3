//! What goes into a node and what comes out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Head, Message, Minute, NodeId, PeerInfo, Serial, SignedHead};
use minuet_proto::{PieceHash, PieceId, PieceIndex, SegmentSeq};

use crate::Timestamp;
use crate::past::{Learned, Planned, Shape, Verdict};

/// Handle of a link, chosen by the driver; never reused for another link of the same node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Who opened a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This node, after [`Output::Dial`].
    Dialled,
    /// The far end.
    Accepted,
}

/// How nodes become known, otherwise than by neighbours. Each way has places of its own among the candidates and an equal part of the
/// dials, so that none crowds the others out; of one node the word of the greater counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discovery {
    /// From a place where anybody may write, as the DHT is.
    Public,
    /// From an earlier run.
    Remembered,
    /// A tracker named them.
    Tracker,
}

/// A piece with everything that is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceRef {
    /// Place in the channel.
    pub serial: Serial,
    /// Place in its segment.
    pub id: PieceId,
    /// Length in bytes.
    pub len: u32,
    /// Expected SHA-1.
    pub hash: PieceHash,
    /// Ingest time at the source, Unix milliseconds by the source's clock.
    pub ingest_ms: u64,
}

/// What the source has signed, besides heads; at most 4,096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// The record of a sealed segment.
    Record(Bytes),
    /// What the channel is and whether it is on air.
    State(Bytes),
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A link is open; its far end has proved to be `peer`.
    LinkUp {
        /// The driver's handle.
        link: LinkId,
        /// The far end's key.
        peer: NodeId,
        /// Who opened it.
        direction: Direction,
        /// Round trip as measured while connecting.
        rtt: Duration,
        /// Where the far end's packets come from; `None` if a relay server carries the link. When all places are taken,
        /// they are shared out by network.
        ip: Option<IpAddr>,
    },
    /// The transport has a new estimate of a link's round trip.
    LinkRtt {
        /// Which link.
        link: LinkId,
        /// Smoothed round trip.
        rtt: Duration,
    },
    /// A link is gone, for whatever reason, [`Output::HangUp`] included.
    LinkDown {
        /// Which link.
        link: LinkId,
    },
    /// An [`Output::Dial`] did not lead to a link.
    DialFailed {
        /// Who was dialled.
        peer: NodeId,
    },
    /// A message came in. `payload` is a block's payload and empty for all other messages.
    Message {
        /// On which link.
        link: LinkId,
        /// The message.
        message: Message,
        /// A block's payload.
        payload: Bytes,
    },
    /// A frame of a type that is not known came in. It is skipped, but its sender is charged for it.
    Unknown {
        /// On which link.
        link: LinkId,
        /// Length of the frame ([`Frame::len`](minuet_proto::mesh::Frame)).
        bytes: usize,
    },
    /// A frame came in that does not decode.
    Malformed {
        /// On which link.
        link: LinkId,
    },
    /// The transport has put that many bytes of what was sent on a link on the wire, counted as in
    /// [`Output::Send`]: frames with payload, without the transport's own overhead.
    Drained {
        /// Which link.
        link: LinkId,
        /// How many bytes since the last report.
        bytes: u64,
    },
    /// Nodes of this channel have become known otherwise than by neighbours.
    PeersLearned {
        /// The nodes; only the first 256 are looked at.
        peers: Vec<PeerInfo>,
        /// How.
        by: Discovery,
    },
    /// The line can send so much, as far as is known now. Given where [`Config::upload_limit`](crate::Config) says
    /// nothing: it counts in its place, but is promised to nobody.
    UploadLimit {
        /// Bytes a second, counted as in [`Output::Send`].
        bytes_per_s: u64,
    },
    /// What this node is known to send, where no limit was given: neighbours are told.
    UploadPromise {
        /// Bytes a second, counted as in [`Output::Send`].
        bytes_per_s: u64,
    },
    /// This node can be reached in another way than before ([`Config::address`](crate::Config)). Neighbours are told.
    Address {
        /// How, in the words of the transport; at most 256 bytes.
        address: Bytes,
        /// Whether others can dial it ([`Config::dialable`](crate::Config)).
        dialable: bool,
    },
    /// Source: a piece is complete; its data is in the driver's store. Serials ascend, and one that no piece comes for stays a
    /// hole, which viewers see. Below the last one, or [`Config::first_serial`](crate::Config), it is passed over.
    PieceClosed {
        /// The piece.
        piece: PieceRef,
        /// Whether a random access point starts in it.
        random_access: bool,
    },
    /// A signed statement that the host has verified and that is news to it: at the source its own, elsewhere one that
    /// somebody brought. It is passed on to all neighbours, and the last of its kind to each new one.
    Statement(Statement),
    /// The tracker brought a signed head. Verified here.
    Head {
        /// The head.
        head: SignedHead,
    },
    /// Answer to [`Output::Verify`]. With `ok` the piece is in the driver's store from now on.
    Verified {
        /// Which piece.
        serial: Serial,
        /// Whether its SHA-1 is the expected one.
        ok: bool,
    },
    /// The driver has a verified piece from elsewhere (HTTP origin, minute torrent, disk) in its store.
    Stored {
        /// Which piece.
        serial: Serial,
    },
    /// An [`Output::FetchHttp`] failed.
    HttpFailed {
        /// Which piece.
        serial: Serial,
    },
    /// The player will need piece `next` at `due`, and those after it by their ingest times. Given when playback
    /// starts, after each stall or skip, and otherwise about once a second.
    Playhead {
        /// First piece that is not yet played.
        next: Serial,
        /// When it is due.
        due: Timestamp,
    },
    /// Nobody reads at the live edge any more: nothing of it is asked for until the next [`Input::Playhead`].
    NoPlayhead,
    /// The host keeps a finished segment, as a whole or in part.
    Keeps {
        /// The segment.
        segment: SegmentSeq,
        /// How it is cut.
        shape: Shape,
        /// Which pieces are there, one bit each, most significant bit first; none: all are.
        map: Option<Bytes>,
    },
    /// The host does not keep a segment any more.
    Forgets(SegmentSeq),
    /// What readers want of finished segments from now on, in place of what they wanted before; given when that changes
    /// and about once a second. At most twelve segments are looked at, those due first.
    Plan(Vec<Planned>),
    /// What the host makes of an [`Output::Minute`]. Then, too, if it has found the hashes elsewhere.
    Learned {
        /// Who brought it.
        link: LinkId,
        /// The segment.
        segment: SegmentSeq,
        /// What it is.
        learned: Learned,
    },
    /// Answer to [`Output::TellMinute`].
    TellMinute {
        /// To whom.
        link: LinkId,
        /// What.
        minute: Minute,
    },
    /// A piece of a finished segment is in the driver's store, from elsewhere than a neighbour.
    KeptStored(PieceId),
    /// A piece of a finished segment is not there after all: an [`Output::Send`] of a block of it did not go out.
    KeptLost {
        /// To whom.
        link: LinkId,
        /// Which piece.
        piece: PieceId,
        /// Bytes of the message.
        bytes: u64,
    },
    /// Answer to [`Output::VerifyKept`].
    KeptVerified {
        /// Which piece.
        piece: PieceId,
        /// What it is.
        verdict: Verdict,
    },
    /// The time of [`Node::poll_timeout`](crate::Node::poll_timeout) has come.
    Timeout,
    /// The node is leaving: it takes leave of all neighbours; the driver drains outputs and drops it.
    Leave,
}

/// Why the core closes a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HangUpReason {
    /// There are neighbours enough.
    Full,
    /// A better neighbour was found.
    Replaced,
    /// Another link to the same node exists.
    Duplicate,
    /// The far end said that it leaves, or this node does.
    Leaving,
    /// Nothing was heard, or nothing useful for long.
    Idle,
    /// It sent bytes that do not verify.
    Corrupt,
    /// It sent a head that the channel's key did not sign, or one that contradicts another.
    BadHead,
    /// It broke the protocol.
    Protocol,
    /// It asked or talked more than any honest node does.
    Flood,
    /// It promised pieces again and again that it did not send.
    Liar,
    /// It was banned before, and has come back.
    Banned,
}

/// Something that the driver is to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send a message. A [`Message::Block`] is followed by `len` bytes of piece `serial` from `offset`, from the
    /// driver's store. Messages of one link keep their order.
    Send {
        /// On which link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Open a link. Answered by [`Input::LinkUp`] or [`Input::DialFailed`].
    Dial {
        /// To whom.
        peer: PeerInfo,
    },
    /// Close a link, after what was sent on it. Answered by [`Input::LinkDown`].
    HangUp {
        /// Which link.
        link: LinkId,
        /// Why.
        reason: HangUpReason,
        /// Whether its far end is banned for it: the core will refuse it for a while.
        ban: bool,
    },
    /// Check a piece's SHA-1 and, if it matches, store the piece; then tell by [`Input::Verified`].
    Verify {
        /// The piece and its expected hash.
        piece: PieceRef,
        /// Its bytes, `piece.len` of them.
        data: Bytes,
    },
    /// A head was verified: these pieces exist. A node gets each piece in at most one of these, in order of
    /// arrival, which is not always serial order.
    Head {
        /// What it says.
        head: Head,
        /// The same as the channel signed it.
        signed: Arc<SignedHead>,
    },
    /// A viewer knows enough to start: play from this piece. Pieces before it are not fetched.
    Start {
        /// First piece to play.
        serial: Serial,
    },
    /// No neighbour will deliver this piece in time: get it from the HTTP origin.
    FetchHttp {
        /// Which piece.
        piece: PieceRef,
        /// When it is due.
        due: Timestamp,
    },
    /// A statement that was not given before came in from a neighbour, not verified. If it verifies and is news, the
    /// host gives it back as [`Input::Statement`].
    Statement(Statement),
    /// The window has moved: nothing before this piece is served or accounted for any more.
    Release {
        /// First piece that is kept.
        before: Serial,
    },
    /// Read the record and the hashes of a segment that the host keeps, from piece `first` on, as many as fit into one
    /// message; answered by [`Input::TellMinute`].
    TellMinute {
        /// Who asks.
        link: LinkId,
        /// The segment.
        segment: SegmentSeq,
        /// The first piece whose hash is asked for.
        first: PieceIndex,
    },
    /// A neighbour sent the record or hashes of a segment that is wanted. Check them against the channel's key; answered
    /// by [`Input::Learned`].
    Minute {
        /// Who sent it.
        link: LinkId,
        /// What.
        minute: Minute,
    },
    /// Check a piece of a finished segment against its hash and keep it; answered by [`Input::KeptVerified`].
    VerifyKept {
        /// Which piece.
        piece: PieceId,
        /// Its bytes.
        data: Bytes,
    },
    /// The source has signed two different statements about one piece. The first one stands.
    Equivocation {
        /// Which piece.
        serial: Serial,
    },
}
