//! One neighbour: everything that is known of the far end of a link.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{HelloFlags, NodeId, Serial, SerialList};
use smallvec::SmallVec;

use crate::exchange::{Incoming, Side};
use crate::past::fetch::KeptSide;
use crate::stream::bits::Bits;
use crate::stream::tempo::Tempo;
use crate::{Direction, LinkId, Timestamp};

/// Index of a neighbour in its [`Neighbours`] table; free to be reused once the neighbour is gone.
pub(crate) type Slab = usize;

/// At the nominal pace: how much longer than a round trip blocks may still come after a cancel, and requests after a piece.
pub(crate) const CROSSING: Duration = Duration::from_millis(150);
/// The least time after which a neighbour that says nothing is quiet. While the stream goes on, who is there
/// speaks of each piece.
pub(crate) const QUIET: Duration = Duration::from_millis(600);
/// Cancels remembered for a round trip.
const MAX_CANCELLED: usize = 8;
/// Requests without an answer that are remembered of one that has delivered nothing.
const MAX_OVERDUE: usize = 8;
/// A piece that is given up before so much of it is here was hardly sent at all.
pub(crate) const STINGY: u32 = 4;
/// Pieces remembered that were sent within a round trip.
const MAX_SERVED: usize = 8;
/// Pieces that a neighbour need not be told of at once and is told of together.
const MAX_UNTOLD: usize = 16;

/// A piece that a neighbour requested, or that it is pushed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing {
    pub serial: u64,
    /// When it was asked for.
    pub since: Timestamp,
    pub due: Option<Timestamp>,
    /// Bytes sent so far.
    pub sent: u32,
}

#[derive(Debug)]
pub(crate) struct Neighbour {
    pub link: LinkId,
    pub node: NodeId,
    pub direction: Direction,
    /// This node wished for the link: it dialled, or was dialling when the far end did.
    pub chosen: bool,
    /// Another neighbour is to go once this one has said Hello.
    pub replaces: bool,
    /// Where its packets come from; `None` over a relay.
    pub ip: Option<IpAddr>,
    pub since: Timestamp,
    pub heard: Timestamp,
    /// When something was last sent to it.
    pub sent_at: Timestamp,
    /// Hello came in.
    pub greeted: bool,
    /// The version that both ends speak; 0 before Hello.
    pub version: u32,
    pub flags: HelloFlags,
    pub upload_kbps: u32,
    /// How others can reach it, if it told or was dialled there.
    pub address: Bytes,
    pub rtt: Duration,
    /// What it has of the window, and what is coming in from it.
    pub side: Side,
    /// Heads it is known to know: it sent them, or was sent them. (A neighbour that has a piece knows its head.)
    pub knows: Bits,
    /// What was asked or pushed and then cancelled, until the far end must have heard of it: blocks that cross
    /// the cancel are the last that come. At most [`MAX_CANCELLED`].
    pub cancelled: SmallVec<[(u64, Timestamp); 2]>,
    /// What it requested or is pushed: it waits for its turn, or is being sent.
    pub outgoing: SmallVec<[Outgoing; 4]>,
    /// Pieces sent to it whole, until requests that crossed them must have come. At most [`MAX_SERVED`].
    pub served: SmallVec<[(u64, Timestamp); 2]>,
    /// Pieces here that it is not told of yet, in ascending order, at most [`MAX_UNTOLD`], and by when it must be.
    pub untold: SerialList,
    pub untold_by: Timestamp,
    /// Source: pieces pushed to it last that it did not promise by itself. At most [`MAX_SERVED`].
    pub pushed: SmallVec<[u64; 2]>,
    /// Bytes of control messages for it that wait for room under the upload limit.
    pub queued: usize,
    /// Bytes given to the transport that it has not put on the wire.
    pub undrained: u64,
    /// When the transport last took any of these on, or began to have some.
    pub drained: Timestamp,
    /// When a block was last given to it.
    pub block_at: Timestamp,
    /// From request to whole piece, in microseconds, smoothed.
    pub latency_us: f32,
    /// At which rate pieces come from it once they have begun, in bytes a second, smoothed; what it promises before the
    /// first.
    pub rate: f32,
    /// When a piece from it last came to be whole; when the link came up, before the first.
    pub delivered: Timestamp,
    /// It turned a request away: it is not asked before this time.
    pub busy_until: Timestamp,
    /// Requests since its last piece that it left without any answer, although it went on talking.
    pub unanswered: u32,
    /// Requests that were given up before anything was delivered, and when they were made, until an answer comes. At most
    /// [`MAX_OVERDUE`], the oldest.
    pub overdue: SmallVec<[(u64, Timestamp); 2]>,
    /// Pieces that it began to send and did not end, less those that it did end.
    pub broken_off: u32,
    /// Of these, those of which less than one in [`STINGY`] was here, as long as it has delivered nothing.
    pub stingy: u32,
    /// Requests that it has made.
    pub requests: u32,
    /// Media bytes that verified, from it; media bytes sent to it.
    pub taken: u64,
    pub given: u64,
    /// The same, of late: decays by half every few seconds.
    pub taken_lately: f32,
    pub given_lately: f32,
    /// What it may still cause this node to do before it counts as a flood.
    pub allowance: f32,
    /// When `allowance` was last reckoned.
    pub charged: Timestamp,
    /// Newest serial that it promised.
    pub newest: u64,
    /// Oldest serial that it seems to want: what it first promised or asked for since the link is up.
    pub live_from: u64,
    /// Source: its turn among those that pieces are pushed to.
    pub credit: f32,
    /// Source: the part of the pieces pushed to it that reappeared at others, smoothed; 1 before the first.
    pub spreads: f32,
    /// Source: whether a piece pushed to it first has ever reappeared at others.
    pub has_spread: bool,
    /// Hung up, but not yet down.
    pub closing: bool,
    /// What concerns finished segments.
    pub kept: KeptSide,
}

impl Neighbour {
    /// Whether it is known to finish the pieces that it begins: it has finished one, and has broken none off of late.
    pub fn finishes(&self) -> bool {
        self.taken > 0 && self.broken_off == 0
    }

    /// Whether a piece of `len` bytes that it has begun can be expected to become whole: it finishes what it begins, or
    /// half of the piece is here.
    pub fn will_finish(&self, incoming: &Incoming, len: u32) -> bool {
        self.finishes() || incoming.received() >= len.div_ceil(2)
    }

    pub fn new(
        link: LinkId,
        node: NodeId,
        direction: Direction,
        ip: Option<IpAddr>,
        rtt: Duration,
        window: usize,
        now: Timestamp,
    ) -> Self {
        Self {
            link,
            node,
            direction,
            chosen: direction == Direction::Dialled,
            replaces: false,
            ip,
            since: now,
            heard: now,
            sent_at: now,
            greeted: false,
            flags: HelloFlags::default(),
            version: 0,
            upload_kbps: 0,
            address: Bytes::new(),
            rtt,
            side: Side::new(window),
            knows: Bits::new(window),
            cancelled: SmallVec::new(),
            outgoing: SmallVec::new(),
            served: SmallVec::new(),
            untold: SerialList::new(),
            untold_by: now,
            pushed: SmallVec::new(),
            queued: 0,
            undrained: 0,
            drained: now,
            block_at: Timestamp::ZERO,
            latency_us: 0.0,
            rate: 0.0,
            delivered: now,
            busy_until: Timestamp::ZERO,
            unanswered: 0,
            overdue: SmallVec::new(),
            broken_off: 0,
            stingy: 0,
            requests: 0,
            taken: 0,
            given: 0,
            taken_lately: 0.0,
            given_lately: 0.0,
            allowance: crate::trust::flood::FULL_ALLOWANCE,
            charged: now,
            newest: 0,
            live_from: u64::MAX,
            credit: 0.0,
            spreads: 1.0,
            has_spread: false,
            closing: false,
            kept: KeptSide::default(),
        }
    }

    /// Whether it has never shown that it is there for the stream: it has told of no piece. One that passes nothing on tells of
    /// none either, and shows it by its requests.
    pub fn is_mute(&self) -> bool {
        self.newest == 0 && !(self.flags.no_upload && self.requests > 0)
    }

    /// Whether so much waits in the transport for it that it gets no block.
    pub fn is_congested(&self) -> bool {
        self.undrained >= crate::supply::uplink::LINK_UNDRAINED
    }

    /// Notes at which rate a piece came that is whole now. One that came in one block tells nothing.
    pub fn note_rate(&mut self, incoming: &Incoming, now: Timestamp) {
        let Some(pace) = incoming.pace else { return };
        let took = now.since(pace.begun).as_secs_f32();
        let rate = incoming.data.len() as f32 / took;
        if rate.is_finite() {
            self.rate = if self.rate > 0.0 { self.rate + (rate - self.rate) / 4.0 } else { rate };
        }
    }

    /// Whether it tells of new pieces, as everybody does who gets the stream.
    pub fn tells(&self, edge: u64) -> bool {
        self.newest > 0 && self.newest.saturating_add(crate::supply::rank::LIVE) > edge
    }

    /// Notes a request that is given up without an answer.
    pub fn note_overdue(&mut self, serial: u64, asked_at: Timestamp) {
        if self.overdue.len() < MAX_OVERDUE && !self.overdue.iter().any(|(s, _)| *s == serial) {
            self.overdue.push((serial, asked_at));
        }
    }

    /// It answers a request, by a word.
    pub fn note_answer(&mut self, serial: u64) {
        self.overdue.retain(|(s, _)| *s != serial);
    }

    /// Requests that it let pass for longer than `patience` without any answer, while it went on talking.
    pub fn never_answered(&self, patience: Duration) -> usize {
        self.overdue.iter().filter(|(_, at)| *at + self.rtt + patience < self.heard).count()
    }

    /// Notes a cancel that goes out now.
    pub fn note_cancel(&mut self, serial: u64, crossing: Duration, now: Timestamp) {
        self.cancelled.retain(|(_, until)| *until > now);
        if self.cancelled.len() < MAX_CANCELLED {
            self.cancelled.push((serial, now + self.rtt + crossing));
        }
    }

    pub fn note_served(&mut self, serial: u64, crossing: Duration, now: Timestamp) {
        self.served.retain(|(_, until)| *until > now);
        if self.served.len() == MAX_SERVED {
            self.served.remove(0);
        }
        self.served.push((serial, now + self.rtt + crossing));
    }

    /// Notes that it is to be told of a piece, by then; false if too many wait by now.
    pub fn put_off(&mut self, serial: Serial, by: Timestamp) -> bool {
        self.untold_by = if self.untold.is_empty() { by } else { self.untold_by.min(by) };
        let index = self.untold.partition_point(|s| *s < serial);
        self.untold.insert(index, serial);
        self.untold.len() < MAX_UNTOLD
    }

    /// What it is to be told, in order.
    pub fn take_untold(&mut self) -> SerialList {
        std::mem::take(&mut self.untold)
    }

    /// Notes that a piece is pushed to it, which it has not promised.
    pub fn note_pushed(&mut self, serial: u64) {
        if self.pushed.len() == MAX_SERVED {
            self.pushed.remove(0);
        }
        self.pushed.push(serial);
    }

    /// Whether its Cancel refuses a push. A receiver that already has the piece sends Have before Cancel; a Cancel without a Have is a
    /// refusal.
    pub fn refuses(&mut self, serial: u64) -> bool {
        let before = self.pushed.len();
        self.pushed.retain(|s| *s != serial);
        self.pushed.len() < before
    }

    /// Whether a request that comes now is for a piece that it has been sent and has not seen yet.
    pub fn crossed(&self, serial: u64, now: Timestamp) -> bool {
        self.served.iter().any(|(s, until)| *s == serial && *until > now)
    }

    pub fn cancelled(&self, serial: u64, now: Timestamp) -> bool {
        self.cancelled.iter().any(|(s, until)| *s == serial && *until > now)
    }

    /// Whether nothing was heard for `patience`, in which neighbours that are there speak many times.
    pub fn quiet(&self, patience: Duration, now: Timestamp) -> bool {
        self.heard + patience < now
    }

    pub fn knows_head(&self, serial: u64) -> bool {
        self.knows.get(serial) || self.side.has(serial)
    }

    /// Bytes a second at which pieces come from it: as measured, or as its uplink promises.
    pub fn rate_of_pieces(&self, tempo: &Tempo) -> f32 {
        if self.rate > 0.0 { self.rate } else { tempo.piece_len as f32 / self.transfer_us(tempo) * 1e6 }
    }

    /// Time that a piece takes on its promised uplink, in microseconds.
    pub fn transfer_us(&self, tempo: &Tempo) -> f32 {
        // A neighbour that promises nothing is taken to have about as much as one stream.
        let bytes_per_s = if self.upload_kbps == 0 { tempo.rate } else { self.upload_kbps as f32 * 125.0 };
        tempo.piece_len as f32 * 1e6 / bytes_per_s
    }
}

/// All neighbours. Links are few, so a scan finds one faster than a hash.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    links: Vec<Option<LinkId>>,
    table: Vec<Option<Box<Neighbour>>>,
    count: usize,
}

impl Neighbours {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn find(&self, link: LinkId) -> Option<Slab> {
        self.links.iter().position(|l| *l == Some(link))
    }

    pub fn get(&self, slab: Slab) -> Option<&Neighbour> {
        self.table.get(slab)?.as_deref()
    }

    pub fn get_mut(&mut self, slab: Slab) -> Option<&mut Neighbour> {
        self.table.get_mut(slab)?.as_deref_mut()
    }

    pub fn insert(&mut self, neighbour: Neighbour) -> Slab {
        self.count = self.count.saturating_add(1);
        let link = Some(neighbour.link);
        let neighbour = Some(Box::new(neighbour));
        if let Some(free) = self.table.iter().position(Option::is_none) {
            self.table[free] = neighbour;
            self.links[free] = link;
            return free;
        }
        let slab = self.table.len();
        self.table.push(neighbour);
        self.links.push(link);
        slab
    }

    pub fn remove(&mut self, slab: Slab) -> Option<Box<Neighbour>> {
        let gone = self.table.get_mut(slab)?.take()?;
        self.links[slab] = None;
        self.count = self.count.saturating_sub(1);
        Some(gone)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slab, &Neighbour)> {
        self.table.iter().enumerate().filter_map(|(i, n)| Some((i, n.as_deref()?)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Slab, &mut Neighbour)> {
        self.table.iter_mut().enumerate().filter_map(|(i, n)| Some((i, n.as_deref_mut()?)))
    }

    /// Upper bound of slab indices, for loops that change neighbours as they go.
    pub fn slabs(&self) -> std::ops::Range<Slab> {
        0..self.table.len()
    }
}
