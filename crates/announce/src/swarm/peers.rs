//! The peers of one swarm and address family: an open-addressing hash table whose only overhead is its free
//! slots.
//!
//! Linear probing (Knuth, TAOCP 6.4, algorithm L) with deletion by moving later entries back (algorithm R),
//! so there are no tombstones. The table grows by half when four fifths are in use, so between 1.25 and 1.9
//! slots stand for a peer: 10 to 15 bytes for IPv4. Up to [`INLINE`] peers live in the table's own struct,
//! because most torrents of an open tracker have one or two.
//!
//! The order of the table is the order of a keyed hash, which makes a run of neighbouring slots a random set
//! of peers: sampling reads memory in a row and needs no second index.

use smallvec::SmallVec;

use super::slot::{Meta, Slot};

/// Peers kept without an allocation.
pub const INLINE: usize = 2;
/// Up to this size a table may be filled to the last slot; looking through it is one or two cache lines.
const SMALL: usize = 8;
/// Runs of slots that a sample is gathered from.
const RUNS: usize = 4;

/// The peers of one swarm and address family, keyed by address and port.
#[derive(Debug, Default)]
pub struct PeerTable<S: Slot> {
    slots: SmallVec<[S; INLINE]>,
    used: u32,
}

impl<S: Slot> PeerTable<S> {
    /// Number of peers.
    pub fn len(&self) -> usize {
        self.used as usize
    }

    /// Whether there is no peer.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes that this table has allocated, without its own struct.
    pub fn heap_bytes(&self) -> usize {
        if self.slots.spilled() { self.slots.capacity() * size_of::<S>() } else { 0 }
    }

    /// What is known of `peer`.
    pub fn get(&self, seed: u64, peer: &S) -> Option<Meta> {
        self.find(seed, peer).ok().and_then(|at| self.slots[at].meta())
    }

    /// Adds a peer or renews what is known of it, and returns what was known.
    pub fn insert(&mut self, seed: u64, peer: S) -> Option<Meta> {
        match self.find(seed, &peer) {
            Ok(at) => {
                let before = self.slots[at].meta();
                self.slots[at] = peer;
                before
            }
            Err(free) => {
                let free = if self.is_full() {
                    self.rebuild(seed, self.len() + 1, |_| true);
                    self.find(seed, &peer).unwrap_or_else(|free| free)
                } else {
                    free
                };
                self.slots[free] = peer;
                self.used += 1;
                None
            }
        }
    }

    /// Removes a peer and returns what was known of it.
    pub fn remove(&mut self, seed: u64, peer: &S) -> Option<Meta> {
        let mut hole = self.find(seed, peer).ok()?;
        let before = self.slots[hole].meta();
        let capacity = self.slots.len();
        let mut at = hole;
        for _ in 1..capacity {
            at = (at + 1) % capacity;
            if self.slots[at].meta().is_none() {
                break;
            }
            // An entry may fill the hole unless its home lies behind the hole (cyclically).
            let home = self.home(seed, &self.slots[at]);
            let from_home = (at + capacity - home) % capacity;
            let from_hole = (at + capacity - hole) % capacity;
            if from_home >= from_hole {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
        }
        self.slots[hole] = S::default();
        self.used -= 1;
        before
    }

    /// All peers.
    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().filter(|slot| slot.meta().is_some())
    }

    /// Keeps the peers for which `keep` holds, calls `dropped` for each other one, and gives memory back.
    pub fn retain(&mut self, seed: u64, keep: impl Fn(Meta) -> bool, mut dropped: impl FnMut(&S, Meta)) {
        let mut gone = 0;
        for slot in &self.slots {
            if let Some(meta) = slot.meta().filter(|meta| !keep(*meta)) {
                dropped(slot, meta);
                gone += 1;
            }
        }
        if gone > 0 {
            self.rebuild(seed, self.len() - gone, keep);
        }
    }

    /// Offers peers to `take`, which says whether it took the one it saw, until `want` are taken or `scan`
    /// slots have been looked at. No peer is offered twice. `random` decides where the runs start.
    pub fn sample(&self, want: usize, scan: usize, random: u64, mut take: impl FnMut(&S) -> bool) {
        let capacity = self.slots.len();
        // Several runs leave gaps, which a sample of about everything cannot afford.
        let runs = if capacity < 16 * RUNS || want * 2 > self.len() { 1 } else { RUNS };
        let start = |run: usize| {
            let (from, to) = (run * capacity / runs, (run + 1) * capacity / runs);
            let random16 = (random >> (16 * run)) as usize & 0xffff;
            from + (((to - from) * random16) >> 16)
        };
        let (mut taken, mut scanned) = (0, 0);
        for run in 0..runs {
            let quota = taken + (want - taken).div_ceil(runs - run);
            let from = start(run);
            // A run ends where the next one began, the last one where the first did.
            let to = if run + 1 == runs { start(0) + capacity } else { start(run + 1) };
            for at in from..to {
                if taken >= quota || scanned >= scan {
                    break;
                }
                scanned += 1;
                let slot = &self.slots[if at < capacity { at } else { at - capacity }];
                if slot.meta().is_some() && take(slot) {
                    taken += 1;
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        let capacity = self.slots.len();
        if capacity <= SMALL { self.len() >= capacity } else { self.len() * 5 >= capacity * 4 }
    }

    fn home(&self, seed: u64, peer: &S) -> usize {
        // Lemire's range reduction: the upper half of hash × capacity.
        ((u128::from(peer.hash(seed)) * self.slots.len() as u128) >> 64) as usize
    }

    /// Where `peer` is, or the free slot where it belongs (any number when the table is full).
    fn find(&self, seed: u64, peer: &S) -> Result<usize, usize> {
        let capacity = self.slots.len();
        let mut at = self.home(seed, peer);
        for _ in 0..capacity {
            if self.slots[at].meta().is_none() {
                return Err(at);
            }
            if self.slots[at].same_peer(peer) {
                return Ok(at);
            }
            at = if at + 1 == capacity { 0 } else { at + 1 };
        }
        Err(0)
    }

    /// Moves the peers to keep into a table made for `peers` of them with room to grow by half.
    fn rebuild(&mut self, seed: u64, peers: usize, keep: impl Fn(Meta) -> bool) {
        let capacity = match peers {
            0..=INLINE => INLINE,
            few if few < SMALL => few + 2,
            many => many * 15 / 8,
        };
        let mut slots = SmallVec::new();
        slots.reserve_exact(capacity);
        slots.resize(capacity, S::default());
        let old = std::mem::replace(&mut self.slots, slots);
        self.used = 0;
        for slot in old {
            if slot.meta().is_some_and(&keep) {
                let free = self.find(seed, &slot).unwrap_or_else(|free| free);
                self.slots[free] = slot;
                self.used += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::net::{Ipv4Addr, SocketAddrV4};

    use proptest::prelude::*;

    use super::*;
    use crate::swarm::slot::{Progress, V4Slot};
    use crate::time::Uptime;

    const SEED: u64 = 0x1234_5678_9abc_def1;

    fn peer(n: u32, progress: Progress) -> V4Slot {
        let addr = SocketAddrV4::new(Ipv4Addr::from_bits(n / 7), (n % 7) as u16 + 1);
        V4Slot::new(addr, Meta::new(progress, Uptime(0)))
    }

    fn table(peers: u32) -> PeerTable<V4Slot> {
        let mut table = PeerTable::default();
        for n in 0..peers {
            table.insert(SEED, peer(n, Progress::Leecher));
        }
        table
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u32, bool),
        Remove(u32),
        DropSeeders,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            8 => (0u32..60, any::<bool>()).prop_map(|(n, seeder)| Op::Insert(n, seeder)),
            6 => (0u32..60).prop_map(Op::Remove),
            1 => Just(Op::DropSeeders),
        ];
        prop::collection::vec(op, 0..300)
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(ops in ops(), seed: u64) {
            let (mut table, mut model) = (PeerTable::default(), HashMap::new());
            for op in ops {
                match op {
                    Op::Insert(n, seeder) => {
                        let slot = peer(n, if seeder { Progress::Seeder } else { Progress::Leecher });
                        prop_assert_eq!(table.insert(seed, slot), model.insert(n, slot).and_then(|s| s.meta()));
                    }
                    Op::Remove(n) => {
                        let slot = peer(n, Progress::Leecher);
                        prop_assert_eq!(table.remove(seed, &slot), model.remove(&n).and_then(|s| s.meta()));
                    }
                    Op::DropSeeders => {
                        let mut dropped = 0;
                        table.retain(seed, |m| m.progress() != Progress::Seeder, |_, _| dropped += 1);
                        let before = model.len();
                        model.retain(|_, s| s.meta().unwrap().progress() != Progress::Seeder);
                        prop_assert_eq!(dropped, before - model.len());
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for n in 0..60 {
                    prop_assert_eq!(table.get(seed, &peer(n, Progress::Leecher)), model.get(&n).and_then(|s| s.meta()));
                }
            }
        }

        #[test]
        fn a_sample_has_no_peer_twice_and_all_when_it_may(peers in 0u32..400, want in 0usize..500, random: u64) {
            let table = table(peers);
            let mut seen = HashSet::new();
            table.sample(want, usize::MAX, random, |slot| { assert!(seen.insert(slot.addr())); true });
            prop_assert!(seen.len() <= want);
            if want >= peers as usize {
                prop_assert_eq!(seen.len(), peers as usize);
            }
        }
    }

    #[test]
    fn a_sample_that_nobody_pleases_ends_at_the_scan_limit() {
        let mut offered = 0;
        table(10_000).sample(50, 300, 7, |_| {
            offered += 1;
            false
        });
        assert!(offered <= 300, "{offered}");
    }

    #[test]
    fn every_peer_is_told_about_as_often_as_any_other() {
        let table = table(2_000);
        let mut told: HashMap<_, u32> = HashMap::new();
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            table.sample(50, usize::MAX, random ^ (random >> 29), |slot| {
                *told.entry(slot.addr()).or_default() += 1;
                true
            });
        }
        // 500 on the average; drawing each peer alone would stay within 400 and 600.
        assert_eq!(told.len(), 2_000);
        let (least, most) = (told.values().min().unwrap(), told.values().max().unwrap());
        assert!(*least > 250 && *most < 1_000, "{least} to {most}");
    }

    #[test]
    fn a_peer_costs_at_most_16_bytes() {
        let mut table = PeerTable::default();
        for n in 0..200_000 {
            table.insert(SEED, peer(n, Progress::Leecher));
            if n > 100 {
                assert!(table.heap_bytes() <= (n as usize + 1) * 16, "{n}: {}", table.heap_bytes());
            }
        }
    }
}
