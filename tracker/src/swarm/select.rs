//! Which peers a client is told of.
//!
//! The rules, in order:
//! 1. *Of use.* Never the asker itself, never who has been silent too long, no seeder or partial seed for one
//!    that wants nothing more (BEP 21), no loopback address for another machine.
//! 2. *Spread.* Each answer is a fresh random set, so that no peer is told to all and the neighbours of two
//!    clients differ. The set is gathered in a few runs of a table that is in hash order: as spread as
//!    drawing each peer alone, for a fraction of the memory traffic.
//! 3. *Near, a little.* Up to a quarter of the answer is kept for peers in the asker's own network (/16, or /32
//!    for IPv6) that come by while gathering; the rest stays random, so that networks do not fall apart.
//!
//! The own address family is asked first; the other fills what is missing (BEP 7).

use std::net::SocketAddr;

use super::Swarm;
use super::peers::PeerTable;
use super::slot::{Meta, Progress, Slot, V4Slot, V6Slot};
use crate::time::Uptime;

/// Slots looked at for each peer wanted. A table has at most two slots a peer, so this leaves room for as many
/// peers that are of no use; where more of them are, the answer is shorter instead of slower.
const SCAN_PER_WANTED: usize = 6;
/// Slots looked at however few peers are wanted.
const SCAN_LEAST: usize = 64;

/// Who asks, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Where the asker listens, or would.
    pub addr: SocketAddr,
    /// Which addresses the answer can carry.
    pub families: Families,
    /// How far it has got.
    pub progress: Progress,
    /// Seconds of silence after which a peer is not told of.
    pub ttl_seconds: u32,
    /// The present.
    pub now: Uptime,
}

/// Which addresses an answer can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// Those of the asker's family.
    Own,
    /// The asker's family first, then the other.
    Both,
}

/// Calls `take` for up to `want` peers of `swarm` that are of use to `asker`, and returns how many it was.
pub fn select(
    swarm: &Swarm,
    asker: &Asker,
    want: usize,
    random: u64,
    take: &mut impl FnMut(Chosen),
) -> usize {
    let any = Meta::new(Progress::Leecher, asker.now);
    match asker.addr {
        SocketAddr::V4(addr) => {
            let own = V4Slot::new(addr, any);
            let got =
                from_table(swarm.v4(), Some(own), asker, want, random, &mut |slot| take(Chosen::V4(slot)));
            let v6 = swarm.v6().filter(|_| got < want && asker.families == Families::Both);
            got + v6.map_or(0, |v6| {
                from_table(v6, None, asker, want - got, random, &mut |slot| take(Chosen::V6(slot)))
            })
        }
        SocketAddr::V6(addr) => {
            let own = V6Slot::new(addr, any);
            let got = swarm.v6().map_or(0, |v6| {
                from_table(v6, Some(own), asker, want, random, &mut |slot| take(Chosen::V6(slot)))
            });
            if got >= want || asker.families == Families::Own {
                return got;
            }
            got + from_table(swarm.v4(), None, asker, want - got, random, &mut |slot| take(Chosen::V4(slot)))
        }
    }
}

/// A peer to tell of.
#[derive(Debug, Clone, Copy)]
pub enum Chosen {
    /// With an IPv4 address.
    V4(V4Slot),
    /// With an IPv6 address.
    V6(V6Slot),
}

fn from_table<S: Slot>(
    table: &PeerTable<S>,
    own: Option<S>,
    asker: &Asker,
    want: usize,
    random: u64,
    take: &mut impl FnMut(S),
) -> usize {
    let satisfied = asker.progress != Progress::Leecher;
    let local = asker.addr.ip().is_loopback();
    let mut taken = 0;
    table.sample(want, SCAN_LEAST + want * SCAN_PER_WANTED, random, |slot| {
        let Some(meta) = slot.meta() else { return false };
        let useful = meta.age_seconds(asker.now) <= asker.ttl_seconds
            && !(satisfied && meta.progress() != Progress::Leecher)
            && !own.is_some_and(|own| own.same_peer(slot))
            && (local || !slot.is_loopback());
        if useful {
            take(*slot);
            taken += 1;
        }
        useful
    });
    taken
}
