//! All swarms of the tracker.
//!
//! Sharded by info hash, a lock each, held for a few hundred nanoseconds an announce; no call holds two locks.
//! Bounded three ways: open swarms by [`Limits::max_open_swarms`] (a new one is refused when the table is
//! full), channel swarms by the windows that name them, peers by [`Limits::max_peers`] (a newcomer to a full
//! tracker is told peers, but not remembered until silent ones have expired).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minuet_proto::InfoHash;

use super::calm::Calm;
pub use super::select::Families;
use super::select::{Asker, Chosen, select};
use super::slot::{Progress, Slot};
use super::{Admission, Swarm};
use crate::announce::answer::{Answer, Counts, PeerList};
use crate::announce::{Announce, DEFAULT_WANT, Event, Refusal};
use crate::time::Uptime;

/// Locks that the swarms are spread over.
pub const SHARDS: usize = 16;
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
            let swarm = self.swarm_for(&mut shard, announce)?;
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
            self.peers.fetch_sub(swarm.len(), Ordering::Relaxed);
        }
    }

    /// Forgets silent peers, and open swarms without peers, in one shard. To be called for every shard well
    /// within [`super::slot::MAX_PEER_TTL`].
    pub fn sweep(&self, shard: usize, now: Uptime) {
        let ttl = self.calm.ttl_seconds();
        let (mut peers, mut swarms) = (0, 0);
        lock(&self.shards[shard % SHARDS]).swarms.retain(|_, swarm| {
            peers += swarm.expire(self.seed, now, ttl);
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
    fn swarm_for<'a>(&self, shard: &'a mut Shard, announce: &Announce) -> Result<&'a mut Swarm, Refusal> {
        use std::collections::hash_map::Entry;
        match shard.swarms.entry(announce.info_hash) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(_) if !self.limits.open => Err(Refusal::UnknownTorrent),
            Entry::Vacant(entry) => {
                if self.open_swarms.load(Ordering::Relaxed) >= self.limits.max_open_swarms {
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
                self.peers.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        }
        // Who takes no connections is of no use to others.
        if announce.port == 0 {
            return;
        }
        if self.peers.load(Ordering::Relaxed) >= self.limits.max_peers
            && swarm.get(self.seed, asker.addr).is_none()
        {
            return;
        }
        let before = swarm.insert(self.seed, asker.addr, asker.progress, asker.now);
        if before.is_none() {
            self.peers.fetch_add(1, Ordering::Relaxed);
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
mod tests {
    use super::*;
    use crate::announce::Event;

    fn limits() -> Limits {
        Limits {
            open: false,
            max_open_swarms: 2,
            max_peers: 1_000,
            max_want: 200,
            interval: Duration::from_secs(120),
            announces_per_second: 1_000,
        }
    }

    fn hash(n: u8) -> InfoHash {
        InfoHash::new([n; 20])
    }

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 6881))
    }

    fn request(info_hash: InfoHash) -> Announce {
        Announce { info_hash, port: 6881, complete: false, event: Event::None, want: None }
    }

    fn told(swarms: &Swarms, announce: &Announce, peer: SocketAddr, now: u32) -> Vec<[u8; 6]> {
        let mut peers = PeerList::default();
        swarms.announce(announce, peer, Families::Both, Uptime(now), 99, &mut peers).unwrap();
        peers.v4.as_chunks::<6>().0.to_vec()
    }

    fn compact(peer: SocketAddr) -> [u8; 6] {
        let SocketAddr::V4(addr) = peer else { unreachable!() };
        let (ip, port) = (addr.ip().octets(), addr.port().to_be_bytes());
        [ip[0], ip[1], ip[2], ip[3], port[0], port[1]]
    }

    #[test]
    fn only_admitted_torrents_are_tracked_unless_open() {
        let swarms = Swarms::new(limits(), 1);
        let mut peers = PeerList::default();
        let refused = swarms.announce(&request(hash(1)), addr(1), Families::Both, Uptime(0), 0, &mut peers);
        assert_eq!(refused, Err(Refusal::UnknownTorrent));
        swarms.admit(hash(1), None);
        assert!(
            swarms.announce(&request(hash(1)), addr(1), Families::Both, Uptime(0), 0, &mut peers).is_ok()
        );
        swarms.retire(&hash(1));
        let refused = swarms.announce(&request(hash(1)), addr(1), Families::Both, Uptime(0), 0, &mut peers);
        assert_eq!(refused, Err(Refusal::UnknownTorrent));
        assert_eq!(swarms.totals(), Totals { heap_bytes: swarms.totals().heap_bytes, ..Totals::default() });
    }

    #[test]
    fn a_channel_cannot_end_the_swarm_of_another() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        swarms.admit(hash(1), Some(hash(9)));
        told(&swarms, &request(hash(1)), addr(1), 0);
        swarms.retire(&hash(1));
        assert_eq!(told(&swarms, &request(hash(1)), addr(2), 0), [compact(addr(1))]);
        swarms.retire(&hash(1));
        assert_eq!(swarms.scrape(&hash(1)), None);
    }

    #[test]
    fn an_open_tracker_is_bounded_and_forgets_empty_swarms() {
        let swarms = Swarms::new(Limits { open: true, ..limits() }, 1);
        told(&swarms, &request(hash(1)), addr(1), 0);
        told(&swarms, &request(hash(2)), addr(1), 0);
        let mut peers = PeerList::default();
        let third = |now, peers: &mut PeerList| {
            swarms.announce(&request(hash(3)), addr(1), Families::Both, Uptime(now), 0, peers)
        };
        assert_eq!(third(1, &mut peers), Err(Refusal::Full));
        (0..SHARDS).for_each(|shard| swarms.sweep(shard, Uptime(1_000)));
        assert!(third(1_000, &mut peers).is_ok());
        assert_eq!(swarms.totals().open_swarms, 1);
        assert_eq!(swarms.totals().peers, 1);
    }

    #[test]
    fn peers_learn_of_each_other_but_not_of_themselves() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        assert!(told(&swarms, &request(hash(1)), addr(1), 0).is_empty());
        assert_eq!(told(&swarms, &request(hash(1)), addr(2), 0), [compact(addr(1))]);
        assert_eq!(told(&swarms, &request(hash(1)), addr(1), 0), [compact(addr(2))]);
        let stopped = Announce { event: Event::Stopped, ..request(hash(1)) };
        assert!(told(&swarms, &stopped, addr(2), 0).is_empty());
        assert!(told(&swarms, &request(hash(1)), addr(1), 0).is_empty());
    }

    #[test]
    fn silent_peers_are_told_of_no_more_even_before_they_are_swept() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        told(&swarms, &request(hash(1)), addr(1), 0);
        assert_eq!(told(&swarms, &request(hash(1)), addr(2), 239).len(), 1);
        assert_eq!(told(&swarms, &request(hash(1)), addr(2), 300).len(), 0);
        (0..SHARDS).for_each(|shard| swarms.sweep(shard, Uptime(300)));
        assert_eq!(swarms.totals().peers, 1);
    }

    #[test]
    fn who_wants_nothing_is_told_only_of_leechers() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        let seeder = Announce { complete: true, ..request(hash(1)) };
        let paused = Announce { event: Event::Paused, ..request(hash(1)) };
        told(&swarms, &seeder, addr(1), 0);
        told(&swarms, &paused, addr(2), 0);
        told(&swarms, &request(hash(1)), addr(3), 0);
        assert_eq!(told(&swarms, &seeder, addr(4), 0), [compact(addr(3))]);
        assert_eq!(told(&swarms, &paused, addr(2), 0), [compact(addr(3))]);
        assert_eq!(told(&swarms, &request(hash(1)), addr(3), 0).len(), 3);
        let counts = swarms.scrape(&hash(1)).unwrap();
        assert_eq!(counts, Counts { seeders: 2, leechers: 2, downloaders: 1, completed: 0 });
    }

    #[test]
    fn a_download_is_counted_as_complete_once() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        let completed = Announce { complete: true, event: Event::Completed, ..request(hash(1)) };
        told(&swarms, &completed, addr(9), 0);
        told(&swarms, &request(hash(1)), addr(1), 0);
        told(&swarms, &completed, addr(1), 0);
        told(&swarms, &completed, addr(1), 0);
        assert_eq!(swarms.scrape(&hash(1)).unwrap().completed, 1);
    }

    #[test]
    fn a_young_swarm_is_lent_the_peers_of_the_minutes_before() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        told(&swarms, &request(hash(1)), addr(1), 0);
        told(&swarms, &request(hash(1)), addr(2), 0);
        swarms.admit(hash(2), Some(hash(1)));
        swarms.admit(hash(3), Some(hash(2)));
        told(&swarms, &request(hash(3)), addr(1), 0);
        let mut peers = told(&swarms, &request(hash(3)), addr(7), 0);
        peers.sort_unstable();
        assert_eq!(peers, [compact(addr(1)), compact(addr(2))]);
        let few = Announce { want: Some(1), ..request(hash(3)) };
        assert_eq!(told(&swarms, &few, addr(8), 0).len(), 1);
    }

    #[test]
    fn a_full_tracker_tells_a_newcomer_but_does_not_keep_it() {
        let swarms = Swarms::new(Limits { max_peers: 2, ..limits() }, 1);
        swarms.admit(hash(1), None);
        told(&swarms, &request(hash(1)), addr(1), 0);
        told(&swarms, &request(hash(1)), addr(2), 0);
        assert_eq!(told(&swarms, &request(hash(1)), addr(3), 0).len(), 2);
        assert_eq!(swarms.totals().peers, 2);
        told(&swarms, &Announce { event: Event::Stopped, ..request(hash(1)) }, addr(1), 0);
        told(&swarms, &request(hash(1)), addr(3), 0);
        assert_eq!(swarms.totals().peers, 2);
    }

    #[test]
    fn loopback_peers_are_told_only_to_this_machine() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        told(&swarms, &request(hash(1)), local(1), 0);
        assert_eq!(told(&swarms, &request(hash(1)), local(2), 0).len(), 1);
        assert_eq!(told(&swarms, &request(hash(1)), addr(1), 0).len(), 0);
    }

    #[test]
    fn the_other_family_fills_what_is_missing() {
        let swarms = Swarms::new(limits(), 1);
        swarms.admit(hash(1), None);
        let v6: SocketAddr = "[2001:db8::1]:6881".parse().unwrap();
        told(&swarms, &request(hash(1)), v6, 0);
        told(&swarms, &request(hash(1)), addr(1), 0);
        let mut peers = PeerList::default();
        swarms.announce(&request(hash(1)), addr(2), Families::Both, Uptime(0), 5, &mut peers).unwrap();
        assert_eq!((peers.v4.len(), peers.v6.len()), (6, 18));
        peers.clear();
        let one = Announce { want: Some(1), ..request(hash(1)) };
        swarms.announce(&one, addr(2), Families::Both, Uptime(0), 5, &mut peers).unwrap();
        assert_eq!((peers.v4.len(), peers.v6.len()), (6, 0));
    }

    #[test]
    fn intervals_differ_by_peer_and_stay_near_the_mean() {
        let swarms = Swarms::new(limits(), 1);
        let intervals: std::collections::HashSet<u32> = (0..500).map(|n| swarms.interval(addr(n))).collect();
        assert!(intervals.len() > 20, "{}", intervals.len());
        assert!(intervals.iter().all(|i| (105..=135).contains(i)), "{intervals:?}");
    }

    #[test]
    fn a_week_of_minutes_leaves_nothing_behind() {
        let swarms = Swarms::new(limits(), 1);
        let name = |minute: u32| {
            let mut hash = [0; 20];
            hash[16..].copy_from_slice(&minute.to_be_bytes());
            InfoHash::new(hash)
        };
        let mut most = 0;
        for minute in 0u32..7 * 24 * 60 {
            swarms.admit(name(minute), minute.checked_sub(1).map(name));
            for viewer in 0..20 {
                told(&swarms, &request(name(minute)), addr(viewer), minute * 60);
            }
            if let Some(closed) = minute.checked_sub(120) {
                swarms.retire(&name(closed));
            }
            swarms.sweep(minute as usize, Uptime(minute * 60));
            most = most.max(swarms.peers.load(Ordering::Relaxed));
        }
        let totals = swarms.totals();
        assert_eq!(totals.channel_swarms, 120);
        assert!(most <= 20 * (SHARDS + 5), "{most}");
        assert!(totals.heap_bytes < 100_000, "{}", totals.heap_bytes);
    }
}
