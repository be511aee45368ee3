//! Walks in a model of the DHT: honest nodes, silent ones, and those who surround an item.

use std::{
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use minuet_dht::{Answer, Id, Item, Lookup, MAX_OF_NET, MAX_QUERIES, Named, Query};
use minuet_proto::ChannelKey;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const PORT: u16 = 6881;
/// Nodes that an answer names, as those of the DHT do.
const NAMES: usize = 8;

#[derive(Clone)]
struct Node {
    id: Id,
    is_silent: bool,
    /// Names only its like, and has nothing.
    lies: bool,
    item: Option<Item>,
}

/// All nodes by address.
struct Dht {
    nodes: BTreeMap<SocketAddr, Node>,
    rng: StdRng,
}

fn key() -> ChannelKey {
    ChannelKey::from_seed(&[7; 32])
}

fn target() -> Id {
    Item::place(&key().channel(), b"")
}

fn item(seq: i64) -> Item {
    Item::sign(&key(), Bytes::new(), seq, Bytes::from_static(b"d2:ihi1ee")).expect("it is short")
}

impl Dht {
    fn new(seed: u64) -> Self {
        Self { nodes: BTreeMap::new(), rng: StdRng::seed_from_u64(seed) }
    }

    fn address(&mut self) -> SocketAddr {
        loop {
            let ip = Ipv4Addr::from(self.rng.random::<u32>());
            let addr = SocketAddr::new(ip.into(), PORT);
            let public =
                minuet_guard::contact::Scope::of(ip.into()) == Some(minuet_guard::contact::Scope::Public);
            if public && !self.nodes.contains_key(&addr) {
                return addr;
            }
        }
    }

    /// A name that fits the address, as an honest node draws it.
    fn fitting(&mut self, ip: IpAddr) -> Id {
        let mut id: [u8; 20] = self.rng.random();
        let IpAddr::V4(ip) = ip else { unreachable!("the model has IPv4 alone") };
        let mut masked = (u32::from(ip) & 0x030f_3fff).to_be_bytes();
        masked[0] |= (id[19] & 7) << 5;
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&masked).to_be_bytes();
        [id[0], id[1]] = [crc[0], crc[1]];
        id[2] = crc[2] & 0xf8 | id[2] & 7;
        assert!(Id(id).fits(ip.into()));
        Id(id)
    }

    fn add_honest(&mut self, count: usize) {
        for _ in 0..count {
            let addr = self.address();
            let id = self.fitting(addr.ip());
            self.nodes.insert(addr, Node { id, is_silent: false, lies: false, item: None });
        }
    }

    /// Names next to the item, which fit no address.
    fn surround(&mut self, count: usize, is_silent: bool) {
        for n in 0..count {
            let addr = self.address();
            let mut id = target();
            id.0[18..].copy_from_slice(&(n as u16 + 1).to_be_bytes());
            self.nodes.insert(addr, Node { id, is_silent, lies: true, item: None });
        }
    }

    fn nearest(&self, to: Id, count: usize, mut of: impl FnMut(&Node) -> bool) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self.nodes.iter().filter(|(_, node)| of(node)).collect();
        all.sort_by_key(|(_, node)| node.id.distance(&to));
        all.into_iter().take(count).map(|(addr, _)| *addr).collect()
    }

    fn store(&mut self, seq: i64) {
        for addr in self.nearest(target(), 8, |node| !node.lies) {
            let node = self.nodes.get_mut(&addr);
            node.expect("it is there").item = Some(item(seq));
        }
    }

    fn answer(&mut self, addr: SocketAddr) -> Option<Answer> {
        let node = self.nodes.get(&addr)?.clone();
        if node.is_silent {
            return None;
        }
        // An honest node knows those near the place, as far as they are not made up since it last looked, and some liars.
        let mut named = self.nearest(target(), NAMES, |other| other.lies);
        if !node.lies {
            let step = node.id.distance(&target());
            named.truncate(NAMES / 2);
            // It knows the nearer half of the way, not all of it.
            let nearer: Vec<_> = self
                .nodes
                .iter()
                .filter(|(_, other)| !other.lies && other.id.distance(&target()) < step)
                .map(|(addr, _)| *addr)
                .collect();
            for _ in 0..NAMES.min(nearer.len()) {
                named.push(nearer[self.rng.random_range(0..nearer.len())]);
            }
            named.extend(self.nearest(node.id, 3, |other| !other.lies));
        }
        let nodes = named
            .iter()
            .filter_map(|addr| Some(Named { id: self.nodes.get(addr)?.id, addr: *addr }))
            .collect();
        let value = node.item.map(|item| (item.seq(), item.value().clone(), *item.signature()));
        Some(Answer { id: node.id, nodes, token: Some(Bytes::from_static(b"t")), value })
    }

    /// Walks from some doors; the lookup, how long it took, when the item was found, and how many were asked.
    fn walk(&mut self, doors: &[SocketAddr]) -> (Lookup, Duration, Option<Duration>, usize) {
        let mut now = Duration::from_secs(1000);
        let began = now;
        let mut lookup = Lookup::new(key().channel(), Bytes::new(), doors.iter().copied(), 5, now);
        let (mut coming, mut found, mut asked) = (BinaryHeap::new(), None, 0);
        while !lookup.is_over(now) {
            while let Some(send) = lookup.poll(now) {
                asked += 1;
                assert_eq!(send.query, Query::Get { target: target() });
                let back = now + Duration::from_millis(self.rng.random_range(20..200));
                coming.push(std::cmp::Reverse((back, send.transaction, send.to)));
            }
            if lookup.is_over(now) {
                break;
            }
            let next = [coming.peek().map(|std::cmp::Reverse((at, ..))| *at), lookup.wake(now)];
            now = next.into_iter().flatten().min().expect("a walk that is not over waits for something");
            while let Some(std::cmp::Reverse((at, transaction, from))) = coming.peek().copied() {
                if at > now {
                    break;
                }
                coming.pop();
                let Some(answer) = self.answer(from) else { continue };
                let (item, _) = lookup.on_answer(from, transaction, &answer);
                if item.is_some() && found.is_none() {
                    found = Some(now - began);
                }
            }
        }
        (lookup, now - began, found, asked)
    }

    fn doors(&mut self) -> Vec<SocketAddr> {
        let honest: Vec<_> =
            self.nodes.iter().filter(|(_, node)| !node.lies).map(|(addr, _)| *addr).collect();
        (0..3).map(|_| honest[self.rng.random_range(0..honest.len())]).collect()
    }
}

#[test]
fn an_item_is_found_from_anywhere_and_given_to_the_nearest() {
    for seed in 0..8 {
        let mut dht = Dht::new(seed);
        dht.add_honest(200);
        let doors = dht.doors();
        let (lookup, took, found, asked) = dht.walk(&doors);
        assert!(found.is_none() && asked < MAX_QUERIES && took < Duration::from_secs(5), "{took:?}, {asked}");
        let nearest = dht.nearest(target(), 8, |_| true);
        let given: Vec<_> = lookup.put().into_iter().map(|(addr, _)| addr).collect();
        // A node knows most of those near it, not all.
        assert!(nearest.iter().filter(|addr| given.contains(addr)).count() >= 6, "seed {seed}");
        for addr in given {
            dht.nodes.get_mut(&addr).unwrap().item = Some(item(3));
        }
        let (lookup, _, found, asked) = dht.walk(&doors);
        assert_eq!(lookup.newest().map(Item::seq), Some(3), "seed {seed}");
        assert!(found.unwrap() < Duration::from_secs(2), "{found:?}");
        assert!(asked < 60, "{asked}");
    }
}

#[test]
fn a_thousand_made_up_names_next_to_an_item_neither_hide_it_nor_hold_up() {
    for seed in 0..8 {
        for is_silent in [true, false] {
            let mut dht = Dht::new(seed);
            dht.add_honest(200);
            dht.surround(1000, is_silent);
            dht.store(3);
            let doors = dht.doors();
            let (lookup, took, found, asked) = dht.walk(&doors);
            assert_eq!(
                lookup.newest().map(Item::seq),
                Some(3),
                "seed {seed}, silent {is_silent}, {asked} asked"
            );
            assert!(found.unwrap() < Duration::from_secs(6), "seed {seed}: {found:?}");
            assert!(took <= Duration::from_secs(16) && asked <= MAX_QUERIES);
        }
    }
}

#[test]
fn the_newest_copy_counts_and_a_false_one_does_not() {
    let mut dht = Dht::new(3);
    dht.add_honest(100);
    dht.store(3);
    let holders = dht.nearest(target(), 8, |_| true);
    dht.nodes.get_mut(&holders[5]).unwrap().item = Some(item(4));
    let doors = dht.doors();
    let (lookup, ..) = dht.walk(&doors);
    assert_eq!(lookup.newest().map(Item::seq), Some(4));

    // Another key's item under this place.
    let mut lookup = Lookup::new(key().channel(), Bytes::new(), doors.clone(), 5, Duration::ZERO);
    let send = lookup.poll(Duration::ZERO).unwrap();
    let foreign =
        Item::sign(&ChannelKey::from_seed(&[8; 32]), Bytes::new(), 9, Bytes::from_static(b"de")).unwrap();
    let value = Some((9, foreign.value().clone(), *foreign.signature()));
    let answer = Answer { id: Id([1; 20]), nodes: Vec::new(), token: None, value };
    assert_eq!(lookup.on_answer(send.to, send.transaction, &answer), (None, true));
    assert_eq!(lookup.on_answer(send.to, send.transaction, &answer), (None, false), "it was asked once");
}

#[test]
fn answers_from_elsewhere_and_crowds_of_one_network_are_passed_over() {
    let door: SocketAddr = "198.51.100.1:6881".parse().unwrap();
    let mut lookup = Lookup::new(key().channel(), Bytes::new(), [door], 5, Duration::ZERO);
    let send = lookup.poll(Duration::ZERO).unwrap();
    let crowd = |n: u8| Named { id: Id([n; 20]), addr: SocketAddr::from(([203, 0, 113, n], PORT)) };
    let crowd: Vec<_> = (1..30).map(crowd).collect();
    let answer = Answer { id: Id([1; 20]), nodes: crowd, token: None, value: None };
    let elsewhere = "198.51.100.2:6881".parse().unwrap();
    assert!(!lookup.on_answer(elsewhere, send.transaction, &answer).1);
    assert!(!lookup.on_answer(door, send.transaction.wrapping_add(1), &answer).1);
    assert!(lookup.on_answer(door, send.transaction, &answer).1);
    let mut told = 0;
    while let Some(send) = lookup.poll(Duration::ZERO) {
        assert_eq!(send.teller, Some(door.ip()));
        told += 1;
    }
    assert_eq!(told, MAX_OF_NET);
}

#[test]
fn a_walk_ends_where_nobody_answers() {
    let mut dht = Dht::new(4);
    dht.surround(300, true);
    let doors: Vec<_> = dht.nodes.keys().copied().take(20).collect();
    let (lookup, took, found, asked) = dht.walk(&doors);
    assert!(found.is_none() && lookup.put().is_empty() && took <= Duration::from_secs(16) && asked <= 20);
}
