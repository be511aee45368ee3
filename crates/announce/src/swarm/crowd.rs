//! How many peers each household and each wider network has, in a few kilobytes however many there are.
//!
//! A swarm keeps 8 bytes of a peer, so there is no room for an account of each household. A [`Crowd`] counts in a
//! count-min sketch (Cormode, Muthukrishnan 2005): a network's count is never too low, and too high by chance only, by
//! less than one in [`WIDTH`] of all with each of its [`ROWS`].
//!
//! The rule is that of dynamic thresholds: a household has as many peers in a swarm as it likes up to a floor, and beyond the
//! floor a share of all of them. A peer beyond that is told of others like everybody, but others are not told of it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counters of a row.
pub const WIDTH: usize = 512;
/// Rows, each with a hash of its own.
const ROWS: usize = 2;

/// Peers that a household, a site (IPv4 /24, IPv6 /48) and a provider (IPv6 /32) have in any swarm.
pub const FLOORS: [usize; 3] = [64, 128, 256];
/// Which part of a swarm they may be beyond that: one of so many.
pub const SHARES: [usize; 3] = [8, 4, 2];
/// Below this many peers nobody is over a floor, so nothing is counted.
pub const COUNTED_FROM: usize = 64;

/// Counts of one swarm.
#[derive(Debug)]
pub struct Crowd(Box<[u32; ROWS * WIDTH]>);

/// Keyed hashes of an address's household, site and provider; IPv4 has no provider. As in `minuet_guard::net`, but without
/// a table entry each: this is done for each peer of each answer.
fn hashes(seed: u64, ip: IpAddr) -> ([u64; 3], usize) {
    /// Keep the same bits of different networks apart.
    const TAGS: [u64; 3] = [0x1 << 60, 0x2 << 60, 0x3 << 60];
    let (prefixes, nets) = match ip.to_canonical() {
        IpAddr::V4(ip) => ([u64::from(ip.to_bits()), u64::from(ip.to_bits() >> 8), 0], 2),
        // A /56, a /48 and a /32; so the upper bits are free for the tags.
        IpAddr::V6(ip) => ([72, 80, 96].map(|shift| (ip.to_bits() >> shift) as u64 | 1 << 57), 3),
    };
    let mut hashes = [0; 3];
    for ((hash, prefix), tag) in hashes.iter_mut().zip(prefixes).zip(TAGS) {
        let wide = u128::from(prefix ^ tag ^ seed) * u128::from(ODD ^ seed.rotate_left(32));
        *hash = (wide as u64) ^ ((wide >> 64) as u64);
    }
    (hashes, nets)
}

/// Any odd number without a pattern.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where a hash counts: one place in each row. Both halves of the hash are as good as a hash of their own.
fn places(hash: u64, width: usize) -> [usize; ROWS] {
    [hash as usize & (width - 1), width + ((hash >> 32) as usize & (width - 1))]
}

impl Crowd {
    /// Counts these peers.
    pub fn of(seed: u64, peers: impl Iterator<Item = IpAddr>) -> Self {
        let mut crowd = Self(Box::new([0; ROWS * WIDTH]));
        peers.for_each(|ip| crowd.enter(seed, ip));
        crowd
    }

    /// Whether one more at `ip`, besides `all`, is more than its networks' shares.
    pub fn is_over(&self, seed: u64, ip: IpAddr, all: usize) -> bool {
        let (hashes, nets) = hashes(seed, ip);
        hashes[..nets].iter().zip(FLOORS.into_iter().zip(SHARES)).any(|(hash, (floor, share))| {
            let held = places(*hash, WIDTH).map(|at| self.0[at]).into_iter().min().unwrap_or(0);
            held as usize >= floor.max(all / share)
        })
    }

    /// Counts one.
    pub fn enter(&mut self, seed: u64, ip: IpAddr) {
        self.each(seed, ip, |count| *count = count.saturating_add(1));
    }

    /// Counts one less.
    pub fn leave(&mut self, seed: u64, ip: IpAddr) {
        self.each(seed, ip, |count| *count = count.saturating_sub(1));
    }

    fn each(&mut self, seed: u64, ip: IpAddr, change: impl Fn(&mut u32)) {
        let (hashes, nets) = hashes(seed, ip);
        for at in hashes[..nets].iter().flat_map(|hash| places(*hash, WIDTH)) {
            change(&mut self.0[at]);
        }
    }
}

/// Counters of a row of [`AllCrowds`].
const WIDE: usize = 16_384;

/// Counts of all swarms together, by household alone, kept without a lock.
#[derive(Debug)]
pub struct AllCrowds(Box<[AtomicU32]>);

impl Default for AllCrowds {
    fn default() -> Self {
        Self((0..ROWS * WIDE).map(|_| AtomicU32::new(0)).collect())
    }
}

impl AllCrowds {
    /// Peers of the household of `ip`; never too few.
    pub fn held(&self, seed: u64, ip: IpAddr) -> usize {
        self.household(seed, ip).map(|count| count.load(Ordering::Relaxed)).into_iter().min().unwrap_or(0)
            as usize
    }

    /// Counts one.
    pub fn enter(&self, seed: u64, ip: IpAddr) {
        for count in self.household(seed, ip) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts one less.
    pub fn leave(&self, seed: u64, ip: IpAddr) {
        for count in self.household(seed, ip) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn household(&self, seed: u64, ip: IpAddr) -> [&AtomicU32; ROWS] {
        let ([household, ..], _) = hashes(seed, ip);
        places(household, WIDE).map(|at| &self.0[at])
    }
}

/// What networks have of one answer, counted by hash: for a handful of peers that is exact but for rare chances.
#[derive(Debug)]
pub struct AnswerShares {
    seed: u64,
    taken: [u8; ANSWER_CELLS],
    most: [usize; 3],
}

/// Counters for one answer.
const ANSWER_CELLS: usize = 1024;
/// Peers of one household, site and provider that any answer may have.
const ANSWER_FLOORS: [usize; 3] = [4, 8, 16];
/// Which part of an answer they may be beyond that: one of so many.
const ANSWER_SHARES: [usize; 3] = [4, 2, 1];

impl AnswerShares {
    /// For an answer of so many peers.
    pub fn new(seed: u64, want: usize) -> Self {
        let most = [0, 1, 2].map(|net| ANSWER_FLOORS[net].max(want / ANSWER_SHARES[net]).min(255));
        Self { seed, taken: [0; ANSWER_CELLS], most }
    }

    /// Takes a place for one at `ip`, if its networks have not had their shares.
    pub fn take(&mut self, ip: IpAddr) -> bool {
        let (hashes, nets) = hashes(self.seed, ip);
        let at = |hash: &u64| *hash as usize & (ANSWER_CELLS - 1);
        let room =
            hashes[..nets].iter().zip(self.most).all(|(hash, most)| usize::from(self.taken[at(hash)]) < most);
        if room {
            for hash in &hashes[..nets] {
                self.taken[at(hash)] = self.taken[at(hash)].saturating_add(1);
            }
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    /// An address of a /24 of its own.
    fn home(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0b00_0000 + n * 256).into()
    }

    #[test]
    fn a_household_has_a_share_of_a_large_swarm_and_honest_ones_are_never_over() {
        let mut crowd = Crowd::of(7, (0..10_000).map(home));
        assert!((0..20_000).all(|n| !crowd.is_over(7, home(n), 10_000)));
        let mut all = 10_000;
        for _ in 0..30_000 {
            if !crowd.is_over(7, home(77), all) {
                crowd.enter(7, home(77));
                all += 1;
            }
        }
        // An eighth of all, n = (10,000 + n) / 8, less what the sketch counts too many: a few for each of its places.
        let collisions = 4 * 10_000 / WIDTH;
        assert!((11_429 - collisions..=11_429).contains(&all), "{all}");
        assert!((0..20_000).filter(|n| *n != 77).all(|n| !crowd.is_over(7, home(n), all)));
    }

    proptest! {
        #[test]
        fn what_leaves_is_counted_no_more(ins in proptest::collection::vec(0u32..50, 0..200)) {
            let mut crowd = Crowd::of(1, ins.iter().map(|n| home(*n)));
            let all = AllCrowds::default();
            ins.iter().for_each(|n| all.enter(1, home(*n)));
            for n in 0..50 {
                let count = ins.iter().filter(|other| **other == n).count();
                prop_assert!(all.held(1, home(n)) >= count);
            }
            for n in &ins {
                crowd.leave(1, home(*n));
                all.leave(1, home(*n));
            }
            prop_assert!(crowd.0.iter().all(|count| *count == 0));
            prop_assert!((0..50).all(|n| all.held(1, home(n)) == 0));
        }
    }

    #[test]
    fn an_answer_has_a_share_of_each_network() {
        let mut shares = AnswerShares::new(3, 50);
        let one = (0..100).filter(|_| shares.take(home(1))).count();
        let site = (0..100).filter(|n| shares.take(Ipv4Addr::from_bits(0x0c00_0000 + n).into())).count();
        assert_eq!((one, site), (12, 25));
    }
}
