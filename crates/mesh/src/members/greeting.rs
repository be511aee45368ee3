//! What two nodes say to each other first: who they are, and what they hold.

use std::time::Duration;

use bytes::Bytes;
use minuet_proto::mesh::{Hello, HelloFlags, Message, PeerInfo, Serial, Window};

use crate::members::neighbour::Slab;
use crate::node::Node;
use crate::stream::window::AHEAD;
use crate::{Role, Timestamp};

/// The highest protocol version that this crate speaks; each neighbour is spoken to in the lower of its own and this.
const VERSION: u32 = 3;
/// The first version that knows [`Message::State`].
pub(crate) const KNOWS_STATES: u32 = 2;
/// The first version that knows [`Message::Kept`].
pub(crate) const KNOWS_KEPT: u32 = 3;
/// Heads that a newcomer asks for behind the edge, for the default delay and a group of pictures at 30 pieces
/// a second.
const HEADS_BEHIND: u64 = 256;

/// Neighbours are told no more often than this what this node sends.
const TELL_PROMISE: Duration = Duration::from_secs(3);

/// Kilobits a second, as nodes tell each other.
pub(crate) fn kbps(bytes_per_s: u64) -> u32 {
    u32::try_from(bytes_per_s.saturating_mul(8) / 1000).unwrap_or(u32::MAX)
}

impl Node {
    /// Says who this node is, what it holds, and where it is, so that the neighbour can tell others.
    pub(crate) fn greet(&mut self, to: Slab, now: Timestamp) {
        self.say_hello(to, now);
        let bits = self.promised_bits();
        self.send(to, Message::Bitfield(bits), now);
        self.tell_address(to, now);
    }

    pub(crate) fn say_hello(&mut self, to: Slab, now: Timestamp) {
        let PeerInfo { flags, upload_kbps, .. } = self.own_info();
        let hello = Hello { version: VERSION, flags, upload_kbps, extensions: Vec::new() };
        self.send(to, Message::Hello(hello), now);
    }

    /// What others should know of this node.
    fn own_info(&self) -> PeerInfo {
        PeerInfo {
            node: self.config.node,
            flags: HelloFlags {
                dialable: self.config.dialable,
                no_upload: !self.config.upload,
                relay: self.role == Role::Relay,
                source: self.role == Role::Source,
                elsewhere: self.is_elsewhere(),
            },
            upload_kbps: self.promised_kbps,
            address: self.config.address.clone(),
        }
    }

    /// Tells all neighbours anew what this node is.
    pub(crate) fn tell_anew(&mut self, now: Timestamp) {
        for slab in self.neighbours.slabs() {
            self.tell_address(slab, now);
        }
    }

    /// Tells a neighbour how others can reach this node: a list that names its sender alone.
    fn tell_address(&mut self, to: Slab, now: Timestamp) {
        if !self.config.address.is_empty() {
            let info = self.own_info();
            self.send(to, Message::Peers(vec![info]), now);
        }
    }

    /// What this node is known to send has changed. Neighbours are told when it is another by a quarter, and no more often
    /// than every [`TELL_PROMISE`]: they go by what they measure, once they have measured something.
    pub(crate) fn on_promise(&mut self, bytes_per_s: u64, now: Timestamp) {
        let (told, new) = (u64::from(self.promised_kbps), u64::from(kbps(bytes_per_s)));
        let same = new.saturating_mul(4) <= told.saturating_mul(5)
            && told.saturating_mul(3) <= new.saturating_mul(4);
        if same || now < self.promised_at + TELL_PROMISE {
            return;
        }
        (self.promised_kbps, self.promised_at) = (kbps(bytes_per_s), now);
        for slab in self.neighbours.slabs() {
            self.tell_address(slab, now);
        }
    }

    pub(crate) fn on_address(&mut self, address: Bytes, dialable: bool, now: Timestamp) {
        self.config.dialable = dialable;
        self.config.address = address;
        for slab in self.neighbours.slabs() {
            self.tell_address(slab, now);
        }
    }

    /// What is promised, as a bitmap from the first such piece to the last.
    fn promised_bits(&self) -> Window {
        let (base, end) = (self.window.base(), self.window.horizon());
        let promised = |serial: &u64| self.window.slot(*serial).promised;
        let first = (base..end).find(promised).unwrap_or(end);
        let last = (first..end).rfind(promised);
        let mut bits =
            vec![0u8; last.map_or(0, |last| (last.saturating_sub(first) as usize / 8).saturating_add(1))];
        for serial in (first..end).filter(promised) {
            let offset = serial.saturating_sub(first) as usize;
            bits[offset / 8] |= 0x80 >> (offset % 8);
        }
        Window { first: Serial::new(first), bits: bits.into() }
    }

    pub(crate) fn on_hello(&mut self, from: Slab, hello: Hello, now: Timestamp) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.greeted = true;
        neighbour.flags = hello.flags;
        neighbour.version = hello.version.min(VERSION);
        neighbour.upload_kbps = hello.upload_kbps;
        if hello.upload_kbps > 0 {
            neighbour.rate = hello.upload_kbps as f32 * 125.0;
        }
        let replaces = std::mem::take(&mut neighbour.replaces);
        self.guess_latency(from);
        if replaces {
            self.let_go_worst(from, now);
        }
        self.tell_statements(from, now);
        self.tell_kept(from, now);
    }

    pub(crate) fn on_bitfield(&mut self, from: Slab, window: Window, now: Timestamp) {
        let bits = (window.bits.len() as u64).saturating_mul(8);
        let set = |offset: &u64| window.bits[(*offset / 8) as usize] & (0x80 >> (offset % 8)) != 0;
        let Some(last) = (0..bits).rfind(set) else { return };
        let edge = window.first.plus(last).next().get();
        if !self.window.anchored() && !self.window.contains(edge) {
            // A guess that the first verified head will confirm or correct.
            let base = edge.saturating_add(AHEAD).saturating_sub(self.window.len());
            self.slide_window(base);
        }
        for offset in (0..bits).filter(set) {
            self.add_holder(from, window.first.plus(offset).get());
        }
        if self.role != Role::Source
            && (!self.window.anchored() || self.window.edge().saturating_add(AHEAD / 2) < edge)
        {
            self.ask_heads(from, edge.saturating_sub(HEADS_BEHIND), edge.saturating_add(AHEAD), now);
        }
        self.try_start(now);
        self.request_more(from, now);
    }
}
