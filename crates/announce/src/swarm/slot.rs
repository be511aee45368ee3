//! One peer in as few bytes as can be: 8 for IPv4, 20 for IPv6.
//!
//! A peer is its address and port; the peer id of BEP 3 is not kept, as compact answers (BEP 23) do not
//! carry it. The last 16 bits say what the peer is and when it was last heard of; a slot whose 16 bits are
//! zero is empty.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use crate::time::Uptime;

/// How far a peer has got with the torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Wants more.
    Leecher,
    /// Has all that it wants, but not all there is (BEP 21).
    PartialSeed,
    /// Has all (`left=0`).
    Seeder,
}

/// Unit of [`Meta`]'s clock.
const TICK_SECONDS: u32 = 4;
const TICK_MASK: u16 = 0x0fff;
const SEEDER: u16 = 0x1000;
const PARTIAL: u16 = 0x2000;
const OCCUPIED: u16 = 0x8000;

/// Longest time after which a peer may be dropped for silence. The clock of a slot wraps after 16,384 s, so
/// a table has to be swept, and its silent peers gone, well before that.
pub const MAX_PEER_TTL: Duration = Duration::from_secs(8192);

/// What a peer is and when it was last heard of. Never zero, so that zero can mean an empty slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta(u16);

impl Meta {
    /// A peer that was heard of at `now`.
    pub fn new(progress: Progress, now: Uptime) -> Self {
        let kind = match progress {
            Progress::Leecher => 0,
            Progress::PartialSeed => PARTIAL,
            Progress::Seeder => SEEDER,
        };
        Self(OCCUPIED | kind | tick(now))
    }

    /// How far the peer has got.
    pub fn progress(self) -> Progress {
        if self.0 & SEEDER != 0 {
            Progress::Seeder
        } else if self.0 & PARTIAL != 0 {
            Progress::PartialSeed
        } else {
            Progress::Leecher
        }
    }

    /// Seconds since the peer was last heard of, rounded to [`TICK_SECONDS`].
    pub fn age_seconds(self, now: Uptime) -> u32 {
        u32::from(tick(now).wrapping_sub(self.0) & TICK_MASK) * TICK_SECONDS
    }
}

fn tick(now: Uptime) -> u16 {
    // The mask keeps 12 bits, which fit.
    ((now.0 / TICK_SECONDS) & u32::from(TICK_MASK)) as u16
}

/// A peer as a [`super::peers::PeerTable`] stores it.
pub trait Slot: Copy + Default {
    /// The address with its port.
    type Addr: Copy;
    /// Bytes of a peer in a compact list: 6 (BEP 23) or 18 (BEP 7).
    const COMPACT_LEN: usize;

    /// A slot in use.
    fn new(addr: Self::Addr, meta: Meta) -> Self;
    /// `None` for an empty slot.
    fn meta(&self) -> Option<Meta>;
    /// Whether both are the same peer, whatever is known of it.
    fn same_peer(&self, other: &Self) -> bool;
    /// A hash of address and port that nobody without `seed` can aim.
    fn hash(&self, seed: u64) -> u64;
    /// Whether the address is the loopback address, which is of no use to another machine.
    fn is_loopback(&self) -> bool;
    /// Appends address and port in network byte order.
    fn write_compact(&self, out: &mut Vec<u8>);
    /// Address and port.
    fn addr(&self) -> SocketAddr;
}

/// Multiplies to 128 bits and folds: every bit of the input reaches every bit of the result.
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// An IPv4 peer: 32 bits of address, 16 of port, 16 of [`Meta`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct V4Slot(u64);

impl Slot for V4Slot {
    type Addr = SocketAddrV4;
    const COMPACT_LEN: usize = 6;

    fn new(addr: SocketAddrV4, meta: Meta) -> Self {
        Self(u64::from(addr.ip().to_bits()) << 32 | u64::from(addr.port()) << 16 | u64::from(meta.0))
    }

    fn meta(&self) -> Option<Meta> {
        let bits = self.0 as u16;
        (bits != 0).then_some(Meta(bits))
    }

    fn same_peer(&self, other: &Self) -> bool {
        self.0 >> 16 == other.0 >> 16
    }

    fn hash(&self, seed: u64) -> u64 {
        fold((self.0 >> 16) ^ seed, ODD ^ seed.rotate_left(32))
    }

    fn is_loopback(&self) -> bool {
        self.0 >> 56 == 127
    }

    fn write_compact(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes()[..6]);
    }

    fn addr(&self) -> SocketAddr {
        SocketAddrV4::new(Ipv4Addr::from_bits((self.0 >> 32) as u32), (self.0 >> 16) as u16).into()
    }
}

/// An IPv6 peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct V6Slot {
    ip: [u8; 16],
    port: u16,
    meta: u16,
}

impl Slot for V6Slot {
    type Addr = SocketAddrV6;
    const COMPACT_LEN: usize = 18;

    fn new(addr: SocketAddrV6, meta: Meta) -> Self {
        Self { ip: addr.ip().octets(), port: addr.port(), meta: meta.0 }
    }

    fn meta(&self) -> Option<Meta> {
        (self.meta != 0).then_some(Meta(self.meta))
    }

    fn same_peer(&self, other: &Self) -> bool {
        self.ip == other.ip && self.port == other.port
    }

    fn hash(&self, seed: u64) -> u64 {
        let bits = u128::from_be_bytes(self.ip);
        let high = fold((bits >> 64) as u64 ^ seed, ODD ^ seed.rotate_left(32));
        fold(bits as u64 ^ high, u64::from(self.port) << 32 ^ ODD ^ seed)
    }

    fn is_loopback(&self) -> bool {
        self.ip == Ipv6Addr::LOCALHOST.octets()
    }

    fn write_compact(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ip);
        out.extend_from_slice(&self.port.to_be_bytes());
    }

    fn addr(&self) -> SocketAddr {
        SocketAddrV6::new(Ipv6Addr::from(self.ip), self.port, 0, 0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_as_small_as_promised() {
        assert_eq!(size_of::<V4Slot>(), 8);
        assert_eq!(size_of::<V6Slot>(), 20);
    }

    #[test]
    fn meta_keeps_what_it_is_given() {
        for progress in [Progress::Leecher, Progress::PartialSeed, Progress::Seeder] {
            let meta = Meta::new(progress, Uptime(1_000_000));
            assert_eq!(meta.progress(), progress);
            assert_eq!(meta.age_seconds(Uptime(1_000_000)), 0);
            assert_eq!(meta.age_seconds(Uptime(1_000_400)), 400);
        }
    }

    #[test]
    fn age_is_right_across_the_wrap_of_the_clock() {
        let meta = Meta::new(Progress::Leecher, Uptime(16_380));
        assert_eq!(meta.age_seconds(Uptime(16_380 + 8192)), 8192);
    }

    #[test]
    fn compact_form_is_network_order() {
        let mut out = Vec::new();
        let meta = Meta::new(Progress::Seeder, Uptime(5));
        V4Slot::new(SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 0x0506), meta).write_compact(&mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6]);
        out.clear();
        V6Slot::new(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0x0102, 0, 0), meta).write_compact(&mut out);
        assert_eq!(out.len(), V6Slot::COMPACT_LEN);
        assert_eq!(&out[15..], [1, 1, 2]);
    }
}
