//! One swarm: the peers of one torrent, its numbers, and how it ends.
//!
//! Pure: time and randomness are arguments. A swarm of a channel lives while its segment is in the channel's
//! window and is dropped whole; a swarm of an open tracker lives while it has peers.

pub mod calm;
pub mod crowd;
pub mod peers;
pub mod select;
pub mod slot;
pub mod table;

use std::net::{IpAddr, SocketAddr};

use minuet_proto::InfoHash;

use crate::answer::Counts;
use crate::time::Uptime;
use crowd::{COUNTED_FROM, Crowd};
use peers::PeerTable;
use slot::{Meta, Progress, Slot, V4Slot, V6Slot};

/// Why a swarm is here, and so how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A channel's record named it; it stays, also empty, until the channel's window closes over it.
    Channel {
        /// The swarm of the minute before, whose peers are handed on while this one has few.
        predecessor: Option<Box<InfoHash>>,
        /// How many channels name it. Anybody can sign a record of another's torrent; that must not let him
        /// end the other's swarm.
        claims: u32,
    },
    /// Somebody announced it to an open tracker; it goes when it is empty.
    Open,
}

/// The peers of one torrent.
#[derive(Debug)]
pub struct Swarm {
    v4: PeerTable<V4Slot>,
    // Most swarms have no IPv6 peer, so the table is not kept inside.
    v6: Option<Box<PeerTable<V6Slot>>>,
    seeders: u32,
    partial_seeds: u32,
    completed: u32,
    admission: Admission,
    /// Whose peers they are, once there are [`COUNTED_FROM`].
    crowd: Option<Crowd>,
}

impl Swarm {
    /// A swarm without peers.
    pub fn new(admission: Admission) -> Self {
        Self {
            v4: PeerTable::default(),
            v6: None,
            seeders: 0,
            partial_seeds: 0,
            completed: 0,
            admission,
            crowd: None,
        }
    }

    /// Why the swarm is here.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Lets a channel claim the swarm, and returns whether it was an open one until now. The first claim's
    /// predecessor holds.
    pub fn claim(&mut self, predecessor: Option<InfoHash>) -> bool {
        match &mut self.admission {
            Admission::Channel { claims, .. } => {
                *claims += 1;
                false
            }
            Admission::Open => {
                self.admission = Admission::Channel { predecessor: predecessor.map(Box::new), claims: 1 };
                true
            }
        }
    }

    /// Takes a channel's claim back, and returns whether none is left.
    pub fn disclaim(&mut self) -> bool {
        match &mut self.admission {
            Admission::Channel { claims, .. } => {
                *claims -= 1;
                *claims == 0
            }
            Admission::Open => false,
        }
    }

    /// Number of peers.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.as_ref().map_or(0, |table| table.len())
    }

    /// Whether there is no peer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The swarm's numbers.
    pub fn counts(&self) -> Counts {
        let leechers = self.len() as u32 - self.seeders;
        Counts {
            seeders: self.seeders,
            leechers,
            downloaders: leechers - self.partial_seeds,
            completed: self.completed,
        }
    }

    /// What is known of a peer.
    pub fn get(&self, seed: u64, peer: SocketAddr) -> Option<Meta> {
        let any = Meta::new(Progress::Leecher, Uptime::default());
        match peer {
            SocketAddr::V4(addr) => self.v4.get(seed, &V4Slot::new(addr, any)),
            SocketAddr::V6(addr) => self.v6.as_ref()?.get(seed, &V6Slot::new(addr, any)),
        }
    }

    /// Whether one more peer at `ip` is more than its networks' shares of the swarm ([`crowd`]).
    pub fn is_crowded(&self, seed: u64, ip: IpAddr) -> bool {
        self.crowd.as_ref().is_some_and(|crowd| crowd.is_over(seed, ip, self.len()))
    }

    /// Adds a peer or renews it, and returns what was known of it.
    pub fn insert(&mut self, seed: u64, peer: SocketAddr, progress: Progress, now: Uptime) -> Option<Meta> {
        let meta = Meta::new(progress, now);
        let before = match peer {
            SocketAddr::V4(addr) => self.v4.insert(seed, V4Slot::new(addr, meta)),
            SocketAddr::V6(addr) => self.v6.get_or_insert_default().insert(seed, V6Slot::new(addr, meta)),
        };
        self.uncount(before);
        if before.is_none() {
            if let Some(crowd) = &mut self.crowd {
                crowd.enter(seed, peer.ip());
            } else if self.len() >= COUNTED_FROM {
                self.crowd = Some(Crowd::of(seed, self.addresses()));
            }
        }
        match progress {
            Progress::Seeder => self.seeders += 1,
            Progress::PartialSeed => self.partial_seeds += 1,
            Progress::Leecher => {}
        }
        before
    }

    /// Removes a peer and returns what was known of it.
    pub fn remove(&mut self, seed: u64, peer: SocketAddr) -> Option<Meta> {
        let any = Meta::new(Progress::Leecher, Uptime::default());
        let before = match peer {
            SocketAddr::V4(addr) => self.v4.remove(seed, &V4Slot::new(addr, any)),
            SocketAddr::V6(addr) => self.v6.as_mut()?.remove(seed, &V6Slot::new(addr, any)),
        };
        self.uncount(before);
        if before.is_some()
            && let Some(crowd) = &mut self.crowd
        {
            crowd.leave(seed, peer.ip());
        }
        before
    }

    /// Counts a finished download.
    pub fn count_completed(&mut self) {
        self.completed = self.completed.saturating_add(1);
    }

    /// Drops peers that have been silent for more than `ttl_seconds`, calls `gone` for the address of each, and returns
    /// how many.
    pub fn expire(
        &mut self,
        seed: u64,
        now: Uptime,
        ttl_seconds: u32,
        mut gone: impl FnMut(IpAddr),
    ) -> usize {
        let before = self.len();
        let keep = |meta: Meta| meta.age_seconds(now) <= ttl_seconds;
        let (mut seeders, mut partial_seeds) = (0, 0);
        let crowd = &mut self.crowd;
        let mut dropped = |ip: IpAddr, meta: Meta| {
            match meta.progress() {
                Progress::Seeder => seeders += 1,
                Progress::PartialSeed => partial_seeds += 1,
                Progress::Leecher => {}
            }
            if let Some(crowd) = crowd {
                crowd.leave(seed, ip);
            }
            gone(ip);
        };
        self.v4.retain(seed, keep, |slot, meta| dropped(slot.addr().ip(), meta));
        if let Some(v6) = &mut self.v6 {
            v6.retain(seed, keep, |slot, meta| dropped(slot.addr().ip(), meta));
            if v6.is_empty() {
                self.v6 = None;
            }
        }
        self.seeders -= seeders;
        self.partial_seeds -= partial_seeds;
        if self.len() < COUNTED_FROM / 2 {
            self.crowd = None;
        }
        before - self.len()
    }

    /// Bytes that the swarm has allocated.
    pub fn heap_bytes(&self) -> usize {
        let v6 = self.v6.as_ref().map_or(0, |v6| size_of::<PeerTable<V6Slot>>() + v6.heap_bytes());
        let crowd = if self.crowd.is_some() { size_of_val(&[0u32; 2 * crowd::WIDTH]) } else { 0 };
        self.v4.heap_bytes() + v6 + crowd
    }

    /// The IPv4 peers.
    pub fn v4(&self) -> &PeerTable<V4Slot> {
        &self.v4
    }

    /// The IPv6 peers, if there are any.
    pub fn v6(&self) -> Option<&PeerTable<V6Slot>> {
        self.v6.as_deref()
    }

    /// The address of each peer.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v6 = self.v6.iter().flat_map(|v6| v6.iter()).map(|slot| slot.addr().ip());
        self.v4.iter().map(|slot| slot.addr().ip()).chain(v6)
    }

    fn uncount(&mut self, before: Option<Meta>) {
        match before.map(Meta::progress) {
            Some(Progress::Seeder) => self.seeders -= 1,
            Some(Progress::PartialSeed) => self.partial_seeds -= 1,
            Some(Progress::Leecher) | None => {}
        }
    }
}
