//! Which peers a client is told of.
//!
//! The rules:
//! 1. *Of use.* Never the asker itself, no peer that has been silent too long, no seeder or partial seed for an asker that
//!    wants nothing more (BEP 21), no loopback address for another machine.
//! 2. *Spread.* Each answer is a fresh random set, so that no peer is told to all and the neighbours of two
//!    clients differ. The set is gathered in a few runs of a table that is in hash order: as spread as
//!    drawing each peer alone, for a fraction of the memory traffic.
//!
//! 3. *Shares.* No more than a share of an answer is of one household or wider network, except for the asker's own household.
//!    So a client that announces under thousands of ports is named no more often than a large household.
//!
//! What it does for the spread of neighbours is measured beside the textbook ways in this module's tests. Nearness
//! by network prefix is left out: in a random sample of a large swarm hardly anybody is near, and an order of
//! the table by prefix would hand out whole networks at a time.
//!
//! The own address family is asked first; the other fills what is missing (BEP 7).

use std::net::{IpAddr, SocketAddr};

use minuet_guard::net::{Net, household};

use super::Swarm;
use super::crowd::AnswerShares;
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
    let mut shares = Shares { own: household(asker.addr.ip()), answer: None, want, random };
    let any = Meta::new(Progress::Leecher, asker.now);
    match asker.addr {
        SocketAddr::V4(addr) => {
            let own = V4Slot::new(addr, any);
            let got = from_table(swarm.v4(), Some(own), asker, want, random, &mut shares, &mut |slot| {
                take(Chosen::V4(slot));
            });
            let v6 = swarm.v6().filter(|_| got < want && asker.families == Families::Both);
            got + v6.map_or(0, |v6| {
                from_table(v6, None, asker, want - got, random, &mut shares, &mut |slot| {
                    take(Chosen::V6(slot))
                })
            })
        }
        SocketAddr::V6(addr) => {
            let own = V6Slot::new(addr, any);
            let got = swarm.v6().map_or(0, |v6| {
                from_table(v6, Some(own), asker, want, random, &mut shares, &mut |slot| {
                    take(Chosen::V6(slot))
                })
            });
            if got >= want || asker.families == Families::Own {
                return got;
            }
            got + from_table(swarm.v4(), None, asker, want - got, random, &mut shares, &mut |slot| {
                take(Chosen::V4(slot));
            })
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

/// What networks have of the answer; made with the first peer that is not of the asker's household.
struct Shares {
    own: Net,
    answer: Option<AnswerShares>,
    want: usize,
    random: u64,
}

impl Shares {
    fn take(&mut self, ip: IpAddr) -> bool {
        let (random, want) = (self.random, self.want);
        household(ip) == self.own
            || self.answer.get_or_insert_with(|| AnswerShares::new(random, want)).take(ip)
    }
}

fn from_table<S: Slot>(
    table: &PeerTable<S>,
    own: Option<S>,
    asker: &Asker,
    want: usize,
    random: u64,
    shares: &mut Shares,
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
            && (local || !slot.is_loopback())
            && shares.take(slot.addr().ip());
        if useful {
            take(*slot);
            taken += 1;
        }
        useful
    });
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::net::Ipv4Addr;

    use super::*;
    use crate::swarm::Admission;

    const PEERS: u32 = 2_000;
    const WANT: usize = 20;
    const SEED: u64 = 77;

    fn addr(n: u32) -> SocketAddr {
        // Many networks, a few addresses in each.
        SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + (n / 8) * 65_536 + n % 8), 6881))
    }

    fn next(random: &mut u64) -> u64 {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *random ^ (*random >> 31)
    }

    /// Whom each of the peers is told of, when all are there.
    fn ours() -> Vec<Vec<u32>> {
        let mut swarm = Swarm::new(Admission::Open);
        let mut numbers = HashMap::new();
        for n in 0..PEERS {
            swarm.insert(SEED, addr(n), Progress::Leecher, Uptime(0));
            numbers.insert(addr(n), n);
        }
        let mut random = 1;
        (0..PEERS)
            .map(|n| {
                let asker = Asker {
                    addr: addr(n),
                    families: Families::Own,
                    progress: Progress::Leecher,
                    ttl_seconds: 240,
                    now: Uptime(0),
                };
                let mut told = Vec::new();
                select(&swarm, &asker, WANT, next(&mut random), &mut |chosen| {
                    let Chosen::V4(slot) = chosen else { unreachable!() };
                    told.push(numbers[&slot.addr()]);
                });
                told
            })
            .collect()
    }

    /// Each peer drawn alone: as spread as can be.
    fn drawn() -> Vec<Vec<u32>> {
        let mut random = 1;
        (0..PEERS)
            .map(|n| {
                let mut told = HashSet::new();
                while told.len() < WANT {
                    let other = (next(&mut random) >> 33) as u32 % PEERS;
                    if other != n {
                        told.insert(other);
                    }
                }
                told.into_iter().collect()
            })
            .collect()
    }

    /// The first that came, as the plainest tracker has it.
    fn first_come() -> Vec<Vec<u32>> {
        (0..PEERS).map(|n| (0..=WANT as u32).filter(|&other| other != n).take(WANT).collect()).collect()
    }

    struct Spread {
        /// How often the most told peer is told, over the mean.
        most_told: f64,
        /// Peers that nobody is told of.
        untold: usize,
        /// The part of a peer's neighbours whose neighbours it shares: how clumped the graph is.
        clumped: f64,
        /// The part of the rest that still hangs together when the most told fifth is gone.
        survivors: f64,
    }

    fn spread(told: &[Vec<u32>]) -> Spread {
        let mut times = vec![0usize; told.len()];
        told.iter().flatten().for_each(|&n| times[n as usize] += 1);
        let mut graph: Vec<HashSet<u32>> = vec![HashSet::new(); told.len()];
        for (n, others) in told.iter().enumerate() {
            for &other in others {
                graph[n].insert(other);
                graph[other as usize].insert(n as u32);
            }
        }
        let (mut closed, mut pairs) = (0usize, 0usize);
        for neighbours in &graph {
            let some: Vec<u32> = neighbours.iter().copied().take(WANT).collect();
            for (i, a) in some.iter().enumerate() {
                pairs += some.len() - i - 1;
                closed += some[i + 1..].iter().filter(|b| graph[*a as usize].contains(b)).count();
            }
        }
        let mut order: Vec<u32> = (0..told.len() as u32).collect();
        order.sort_by_key(|&n| std::cmp::Reverse(times[n as usize]));
        let gone: HashSet<u32> = order[..told.len() / 5].iter().copied().collect();
        let (mut seen, mut stack) = (HashSet::new(), vec![order[told.len() / 5]]);
        while let Some(n) = stack.pop() {
            if !gone.contains(&n) && seen.insert(n) {
                stack.extend(&graph[n as usize]);
            }
        }
        Spread {
            most_told: *times.iter().max().unwrap() as f64 / WANT as f64,
            untold: times.iter().filter(|&&t| t == 0).count(),
            clumped: closed as f64 / pairs as f64,
            survivors: seen.len() as f64 / (told.len() - gone.len()) as f64,
        }
    }

    #[test]
    fn neighbours_are_about_as_spread_as_when_each_is_drawn_alone() {
        let (ours, drawn, first) = (spread(&ours()), spread(&drawn()), spread(&first_come()));
        for (name, s) in [("ours", &ours), ("drawn", &drawn), ("first come", &first)] {
            println!(
                "{name}: most told {:.2} x the mean, {} untold, clumped {:.4}, {:.1} % hang together",
                s.most_told,
                s.untold,
                s.clumped,
                100.0 * s.survivors
            );
        }
        assert!(ours.most_told <= 1.7 * drawn.most_told, "{} to {}", ours.most_told, drawn.most_told);
        assert!(ours.untold <= PEERS as usize / 200, "{}", ours.untold);
        assert!(ours.clumped <= 2.0 * drawn.clumped, "{} to {}", ours.clumped, drawn.clumped);
        assert_eq!(ours.survivors, 1.0);
        // What the comparison is worth.
        assert!(first.untold > PEERS as usize / 2 && first.survivors < 0.01);
    }
}
