//! What goes into a node and what comes out.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Head, Message, NodeId, PeerInfo, Serial};
use minuet_proto::{PieceHash, PieceId};

use crate::Timestamp;

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
    /// The tracker named nodes of this channel.
    PeersLearned {
        /// The nodes; only the first 256 are looked at.
        peers: Vec<PeerInfo>,
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
    /// Source: a piece is complete; its data is in the driver's store.
    PieceClosed {
        /// Segment and index.
        id: PieceId,
        /// Length in bytes.
        len: u32,
        /// SHA-1.
        hash: PieceHash,
        /// When its last byte came in, Unix milliseconds.
        ingest_ms: u64,
        /// Whether a random access point starts in it.
        random_access: bool,
    },
    /// A signed statement that the host has verified and that is news to it: at the source its own, elsewhere one that
    /// somebody brought. It is passed on to all neighbours, and the last of its kind to each new one.
    Statement(Statement),
    /// The tracker brought a signed head. Verified here.
    Head {
        /// The head.
        head: minuet_proto::mesh::SignedHead,
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
    Head(Head),
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
    /// The source has signed two different statements about one piece. The first one stands.
    Equivocation {
        /// Which piece.
        serial: Serial,
    },
}
