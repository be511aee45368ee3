//! All swarms of the tracker.
//!
//! Sharded by info hash, a lock each, held for a few hundred nanoseconds an announce; no call holds two locks.
//! Bounded three ways: open swarms by [`Limits::max_open_swarms`] (a new one is refused when the table is
//! full), channel swarms by the windows that name them, peers by [`Limits::max_peers`] (a newcomer to a full
//! tracker is told peers, but not remembered until silent ones have expired).
//!
//! Of each swarm a household or wider network has a share ([`super::crowd`]), and of all peers and all open swarms
//! together a household has no more than there are free: the fuller the tracker, the less (dynamic thresholds: Choudhury,
//! Hahne 1998). A peer that is over is told of others; it is not remembered, or renewed. Peers on the tracker's own
//! machine have no limit of their own: nobody elsewhere is told of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minuet_proto::InfoHash;

use super::calm::Calm;
use super::crowd::AllCrowds;
pub use super::select::Families;
use super::select::{Asker, Chosen, select};
use super::slot::{Progress, Slot};
use super::{Admission, Swarm};
use crate::answer::{Answer, Counts, PeerList};
use crate::time::Uptime;
use crate::{Announce, DEFAULT_WANT, Event, Refusal};

/// Locks that the swarms are spread over.
pub const SHARDS: usize = 16;
/// Peers of all swarms together that a household has however full the tracker is.
const HOUSEHOLD_FLOOR: usize = 64;
/// How many minutes back peers are looked for while a swarm has few.
const HANDOVER_DEPTH: usize = 3;

/// What bounds the table.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Whether torrents that no channel has published are tracked.
    pub open: bool,
    /// The most swarms that no channel has published.
    pub max_open_swarms: usize,
    /// The most peers of all swarms together.
    pub max_peers: usize,
    /// The most peers in one answer.
    pub max_want: u32,
    /// The mean time between two announces of a peer.
    pub interval: Duration,
    /// Announces a second from which on the interval is stretched.
    pub announces_per_second: u32,
}

#[derive(Debug, Default)]
struct Shard {
    swarms: HashMap<InfoHash, Swarm, foldhash::fast::RandomState>,
}

/// How many there are of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Swarms of channels.
    pub channel_swarms: usize,
    /// Swarms that no channel has published.
    pub open_swarms: usize,
    /// Peers of all swarms.
    pub peers: usize,
    /// Peers that have all.
    pub seeders: usize,
    /// Bytes allocated for swarms and peers.
    pub heap_bytes: usize,
}

/// All swarms.
#[derive(Debug)]
pub struct Swarms {
    shards: Box<[Mutex<Shard>]>,
    seed: u64,
    limits: Limits,
    calm: Calm,
    peers: AtomicUsize,
    open_swarms: AtomicUsize,
    crowds: AllCrowds,
}

impl Swarms {
    /// A table without swarms. `seed` must not be known to clients.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            seed,
            calm: Calm::new(
                u32::try_from(limits.interval.as_secs()).unwrap_or(u32::MAX),
                limits.announces_per_second,
            ),
            limits,
            peers: AtomicUsize::new(0),
            open_swarms: AtomicUsize::new(0),
            crowds: AllCrowds::default(),
        }
    }

    /// How long clients are told to wait.
    pub fn calm(&self) -> &Calm {
        &self.calm
    }

    /// Takes an announce of the peer at `peer`, and writes who else there is to `peers`.
    pub fn announce(
        &self,
        announce: &Announce,
        peer: SocketAddr,
        families: Families,
        now: Uptime,
        random: u64,
        peers: &mut PeerList,
    ) -> Result<Answer, Refusal> {
        let want = announce.want.unwrap_or(DEFAULT_WANT).min(self.limits.max_want) as usize;
        let want = if announce.event == Event::Stopped { 0 } else { want };
        let asker = Asker {
            addr: peer,
            families,
            progress: announce.progress(),
            ttl_seconds: self.calm.ttl_seconds(),
            now,
        };
        let (counts, missing, predecessor) = {
            let mut shard = self.shard(&announce.info_hash);
            let swarm = self.swarm_for(&mut shard, announce, peer.ip())?;
            self.update(swarm, announce, &asker);
            let got = select(swarm, &asker, want, random, &mut |chosen| peers.push(chosen));
            let predecessor = match swarm.admission() {
                Admission::Channel { predecessor: Some(hash), .. } if got < want => Some(**hash),
                _ => None,
            };
            (swarm.counts(), want - got, predecessor)
        };
        if let Some(predecessor) = predecessor {
            self.hand_over(predecessor, &asker, missing, random, &mut |chosen| {
                peers.push_new(chosen);
            });
        }
        let interval = self.interval(peer);
        Ok(Answer { counts, interval, min_interval: interval / 4 })
    }

    /// The numbers of a swarm, if it is known.
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<Counts> {
        self.shard(info_hash).swarms.get(info_hash).map(Swarm::counts)
    }

    /// Calls `take` for up to `want` peers of a swarm, or of the ones before it, for somebody at `addr` who
    /// takes no connections yet; the flag says whether the peer has all.
    pub fn peers_of(
        &self,
        info_hash: &InfoHash,
        addr: SocketAddr,
        want: usize,
        now: Uptime,
        random: u64,
        mut take: impl FnMut(SocketAddr, bool),
    ) {
        let asker = Asker {
            addr,
            families: Families::Both,
            progress: Progress::Leecher,
            ttl_seconds: self.calm.ttl_seconds(),
            now,
        };
        let mut seen = Vec::with_capacity(want);
        self.hand_over(*info_hash, &asker, want, random, &mut |chosen| {
            let (addr, meta) = match chosen {
                Chosen::V4(slot) => (slot.addr(), slot.meta()),
                Chosen::V6(slot) => (slot.addr(), slot.meta()),
            };
            if !seen.contains(&addr) {
                seen.push(addr);
                take(addr, meta.is_some_and(|meta| meta.progress() == Progress::Seeder));
            }
        });
    }

    /// Admits the swarm of a channel's segment.
    pub fn admit(&self, info_hash: InfoHash, predecessor: Option<InfoHash>) {
        let mut shard = self.shard(&info_hash);
        let swarm = shard.swarms.entry(info_hash).or_insert_with(|| {
            self.open_swarms.fetch_add(1, Ordering::Relaxed);
            Swarm::new(Admission::Open)
        });
        if swarm.claim(predecessor) {
            self.open_swarms.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Drops the swarm of a segment that has left its channel's window, with all its peers, unless another
    /// channel claims it too.
    pub fn retire(&self, info_hash: &InfoHash) {
        let dropped = {
            let mut shard = self.shard(info_hash);
            let last_claim = shard.swarms.get_mut(info_hash).is_some_and(Swarm::disclaim);
            if last_claim { shard.swarms.remove(info_hash) } else { None }
        };
        // Freed here, with the lock released.
        if let Some(swarm) = dropped {
            swarm.addresses().for_each(|ip| self.crowds.leave(self.seed, ip));
            self.peers.fetch_sub(swarm.len(), Ordering::Relaxed);
        }
    }

    /// Forgets silent peers, and open swarms without peers, in one shard. To be called for every shard well
    /// within [`super::slot::MAX_PEER_TTL`].
    pub fn sweep(&self, shard: usize, now: Uptime) {
        let ttl = self.calm.ttl_seconds();
        let (mut peers, mut swarms) = (0, 0);
        lock(&self.shards[shard % SHARDS]).swarms.retain(|_, swarm| {
            peers += swarm.expire(self.seed, now, ttl, |ip| self.crowds.leave(self.seed, ip));
            let keep = *swarm.admission() != Admission::Open || !swarm.is_empty();
            swarms += usize::from(!keep);
            keep
        });
        self.peers.fetch_sub(peers, Ordering::Relaxed);
        self.open_swarms.fetch_sub(swarms, Ordering::Relaxed);
    }

    /// Counts everything. Looks at every swarm; meant for metrics.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            let shard = lock(shard);
            totals.heap_bytes += shard.swarms.capacity() * (size_of::<(InfoHash, Swarm)>() + 1);
            for swarm in shard.swarms.values() {
                match swarm.admission() {
                    Admission::Channel { .. } => totals.channel_swarms += 1,
                    Admission::Open => totals.open_swarms += 1,
                }
                totals.peers += swarm.len();
                totals.seeders += swarm.counts().seeders as usize;
                totals.heap_bytes += swarm.heap_bytes();
            }
        }
        totals
    }

    /// Seconds until `peer` is to announce again: the mean interval, moved by up to an eighth either way, each
    /// peer by its own amount, so that peers which came together do not come back together.
    fn interval(&self, peer: SocketAddr) -> u32 {
        let mean = self.calm.interval_seconds();
        let any = super::slot::Meta::new(Progress::Leecher, Uptime::default());
        let hash = match peer {
            SocketAddr::V4(addr) => super::slot::V4Slot::new(addr, any).hash(self.seed),
            SocketAddr::V6(addr) => super::slot::V6Slot::new(addr, any).hash(self.seed),
        };
        mean - mean / 8 + (hash % u64::from(mean / 4 + 1)) as u32
    }

    /// The swarm to announce to; made when the tracker is open and has room.
    fn swarm_for<'a>(
        &self,
        shard: &'a mut Shard,
        announce: &Announce,
        ip: IpAddr,
    ) -> Result<&'a mut Swarm, Refusal> {
        use std::collections::hash_map::Entry;
        match shard.swarms.entry(announce.info_hash) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(_) if !self.limits.open => Err(Refusal::UnknownTorrent),
            Entry::Vacant(entry) => {
                let open = self.open_swarms.load(Ordering::Relaxed);
                let free = self.limits.max_open_swarms.saturating_sub(open);
                // Each open swarm of a household has a peer of it.
                let over = || self.crowds.held(self.seed, ip) >= free.max(HOUSEHOLD_FLOOR);
                if free == 0 || (!ip.is_loopback() && over()) {
                    return Err(Refusal::Full);
                }
                self.open_swarms.fetch_add(1, Ordering::Relaxed);
                Ok(entry.insert(Swarm::new(Admission::Open)))
            }
        }
    }

    fn update(&self, swarm: &mut Swarm, announce: &Announce, asker: &Asker) {
        if announce.event == Event::Stopped {
            if swarm.remove(self.seed, asker.addr).is_some() {
                self.crowds.leave(self.seed, asker.addr.ip());
                self.peers.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        }
        // Who takes no connections is of no use to others.
        if announce.port == 0 {
            return;
        }
        let ip = asker.addr.ip();
        let free = self.limits.max_peers.saturating_sub(self.peers.load(Ordering::Relaxed));
        let stranger = !ip.is_loopback();
        let over = || stranger && self.crowds.held(self.seed, ip) > free.max(HOUSEHOLD_FLOOR);
        match swarm.get(self.seed, asker.addr) {
            // Left to expire, which makes room for others.
            Some(_) if over() => return,
            Some(_) => {}
            None if free == 0 || over() || (stranger && swarm.is_crowded(self.seed, ip)) => return,
            None => {}
        }
        let before = swarm.insert(self.seed, asker.addr, asker.progress, asker.now);
        if before.is_none() {
            self.peers.fetch_add(1, Ordering::Relaxed);
            self.crowds.enter(self.seed, ip);
        }
        if announce.event == Event::Completed
            && before.is_some_and(|meta| meta.progress() != Progress::Seeder)
        {
            swarm.count_completed();
        }
    }

    /// Peers of `from` and, while there are too few, of the swarms before it.
    fn hand_over(
        &self,
        from: InfoHash,
        asker: &Asker,
        want: usize,
        random: u64,
        take: &mut impl FnMut(Chosen),
    ) {
        let (mut from, mut missing) = (Some(from), want);
        for _ in 0..HANDOVER_DEPTH {
            let Some(hash) = from.filter(|_| missing > 0) else { return };
            let shard = self.shard(&hash);
            let Some(swarm) = shard.swarms.get(&hash) else { return };
            missing -= select(swarm, asker, missing, random, take);
            from = match swarm.admission() {
                Admission::Channel { predecessor, .. } => predecessor.as_deref().copied(),
                Admission::Open => None,
            };
        }
    }

    fn shard(&self, info_hash: &InfoHash) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(info_hash.as_bytes()[InfoHash::LENGTH - 1]) % SHARDS])
    }
}

/// A panic while a lock was held is a bug that has been reported; the table itself is still sound.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
