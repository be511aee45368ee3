//! The messages and their limits.

use bytes::Bytes;
use smallvec::SmallVec;

use super::head::SignedHead;
use super::kept::Kept;
use super::serial::Serial;
use crate::PieceLength;

/// Longest frame, without its own length: a block with its header, or the longest control message.
pub const MAX_FRAME_LEN: usize = 64 * 1024;
/// Longest piece in bytes.
pub const MAX_PIECE_LEN: u32 = PieceLength::MAX.get();
/// Most payload bytes in one [`Block`].
pub const MAX_BLOCK_LEN: u32 = 32 * 1024;
/// Least payload bytes in one [`Block`], but for the last of its piece: what a block costs its receiver must be paid for.
pub const MIN_BLOCK_LEN: u32 = 1024;
/// Longest signed statement, a record or a state, in bytes.
pub const MAX_STATEMENT_LEN: usize = 4096;
/// Longest encoded [`SignedHead::body`].
pub(super) const MAX_HEAD_LEN: usize = 2048 + 64 * 12;
/// Most serials in one [`SerialList`] on the wire.
pub(super) const MAX_SERIALS: usize = 4096;
/// Longest bitmap in a [`Window`] in bytes: 65,536 pieces, more than an hour at 15 pieces a second.
pub(super) const MAX_BITMAP_LEN: usize = 8192;
/// Most peers in one [`Message::Peers`].
pub(super) const MAX_PEERS: usize = 64;
/// Longest [`PeerInfo::address`].
pub(super) const MAX_ADDRESS_LEN: usize = 256;
/// Most extensions in one [`Hello`], and longest extension in bytes.
pub(super) const MAX_EXTENSIONS: usize = 16;
pub(super) const MAX_EXTENSION_LEN: usize = 1024;

/// A node's key, as its links prove it (an ed25519 public key in production).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl std::fmt::Debug for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in &self.0[..5] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A few serials, in ascending order on the wire.
pub type SerialList = SmallVec<[Serial; 4]>;

/// One message. [`Block`]'s payload travels beside it, so that media bytes need not be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First message in both directions.
    Hello(Hello),
    /// Which pieces the sender holds (BEP 3 bitfield). Follows Hello; adds to what was known.
    Bitfield(Window),
    /// The sender holds these pieces, or has begun to receive them from somebody and will hold them soon.
    Have(SerialList),
    /// The sender does not hold these pieces, whatever it said before (BEP 54).
    DontHave(SerialList),
    /// The sender holds this piece and has uplink to spare: a request for it would be served at once.
    Offer(Serial),
    /// Please send this piece.
    Request(Request),
    /// The piece is no longer wanted.
    Cancel(Serial),
    /// Too much waits here already: the piece is better asked of somebody else (BEP 6).
    Reject(Serial),
    /// Part of a piece; the payload goes with the frame.
    Block(Block),
    /// Newly closed pieces, signed by the source.
    Head(SignedHead),
    /// Please send the heads of `count` pieces from `first`.
    GetHeads {
        /// First piece.
        first: Serial,
        /// Number of pieces.
        count: u32,
    },
    /// The signed record of a sealed segment, opaque to the mesh.
    Record(Bytes),
    /// The signed state of the channel, opaque to the mesh.
    State(Bytes),
    /// Nodes of this channel that the sender knows of (BEP 11).
    Peers(Vec<PeerInfo>),
    /// The sender is about to close the link.
    Bye(ByeReason),
    /// About finished segments.
    Kept(Kept),
}

/// Who the sender is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Highest protocol version that the sender speaks; the lower of both is used. This is version 1.
    pub version: u32,
    /// What the sender is.
    pub flags: HelloFlags,
    /// Upload that the sender promises to this channel, in kbit/s; a hint, 0 if it does not say.
    pub upload_kbps: u32,
    /// What newer nodes add. Unknown ones are skipped.
    pub extensions: Vec<Extension>,
}

/// What a node is, in [`Hello`] and [`PeerInfo`]. Unknown bits are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HelloFlags {
    /// It accepts links that others dial.
    pub dialable: bool,
    /// It never sends pieces.
    pub no_upload: bool,
    /// It has no player.
    pub relay: bool,
    /// It holds the channel's key.
    pub source: bool,
    /// It plays what was on air before, and takes no part in the live edge.
    pub elsewhere: bool,
}

/// A [`Hello`] extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its number.
    pub id: u64,
    /// Its content.
    pub data: Bytes,
}

/// A set of pieces as a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The piece of the first bit.
    pub first: Serial,
    /// One bit a piece, most significant bit first (BEP 3).
    pub bits: Bytes,
}

/// Asks for a whole piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The piece.
    pub serial: Serial,
    /// Milliseconds until the sender's player needs it; 0 if it does not say.
    pub due_in_ms: u32,
}

/// Part of a piece. Its payload is the rest of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The piece.
    pub serial: Serial,
    /// Where the payload starts in the piece, in bytes.
    pub offset: u32,
    /// Length of the payload in bytes, [`MIN_BLOCK_LEN`] to [`MAX_BLOCK_LEN`]; the last block of a piece has what is left.
    pub len: u32,
    /// Length of the whole piece in bytes.
    pub piece_len: u32,
}

/// A node to link with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its key.
    pub node: NodeId,
    /// What it is.
    pub flags: HelloFlags,
    /// Its promised upload in kbit/s, 0 if unknown.
    pub upload_kbps: u32,
    /// How to reach it, in the words of the transport; may be empty. At most 256 bytes.
    pub address: Bytes,
}

/// Why a link is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ByeReason {
    /// The node is leaving the channel.
    Leaving,
    /// The node has neighbours enough.
    Full,
    /// A better neighbour was found.
    Replaced,
    /// The receiver broke the protocol or sent corrupt pieces.
    Misbehaved,
    /// Any other number on the wire.
    Other(u8),
}
