//! The table's rules, through hours of made-up time.

use super::*;
use crate::Event;

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
    assert!(swarms.announce(&request(hash(1)), addr(1), Families::Both, Uptime(0), 0, &mut peers).is_ok());
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

/// An address of a /24 of its own.
fn home(n: u16) -> SocketAddr {
    SocketAddr::from(([11, (n >> 8) as u8, n as u8, 1], 6881))
}

#[test]
fn thirty_thousand_ports_of_one_address_fill_neither_a_swarm_nor_an_answer() {
    let swarms = Swarms::new(Limits { max_peers: 100_000, ..limits() }, 1);
    swarms.admit(hash(1), None);
    (0..20).for_each(|n| drop(told(&swarms, &request(hash(1)), home(n), 0)));
    for port in 1..=30_000 {
        told(&swarms, &request(hash(1)), SocketAddr::from(([198, 51, 100, 66], port)), 0);
    }
    (20..40).for_each(|n| drop(told(&swarms, &request(hash(1)), home(n), 0)));
    assert!(swarms.totals().peers <= 40 + 64, "{}", swarms.totals().peers);
    let answer = told(&swarms, &request(hash(1)), home(0), 0);
    let greedy = answer.iter().filter(|peer| peer[0] == 198).count();
    assert!(greedy <= 50 / 4 && 3 * greedy < answer.len(), "{greedy} of {}", answer.len());
    // The greedy one is told of others like everybody.
    let asker = SocketAddr::from(([198, 51, 100, 66], 40_000));
    assert!(!told(&swarms, &request(hash(1)), asker, 0).is_empty());
}

#[test]
fn a_school_behind_one_address_is_told_of_its_own_and_of_others() {
    let swarms = Swarms::new(Limits { max_peers: 100_000, ..limits() }, 1);
    swarms.admit(hash(1), None);
    let school = |port| SocketAddr::from(([198, 51, 100, 66], port));
    for port in 1..=1_000 {
        told(&swarms, &request(hash(1)), school(port), 0);
    }
    assert_eq!(told(&swarms, &request(hash(1)), school(999), 0).len(), 50);
    (0..1_000).for_each(|n| drop(told(&swarms, &request(hash(1)), home(n), 0)));
    // It has more of a larger swarm.
    let before = swarms.totals().peers;
    for port in 1..=1_000 {
        told(&swarms, &request(hash(1)), school(port), 0);
    }
    assert!(swarms.totals().peers > before + 50, "{before} and {}", swarms.totals().peers);
}

#[test]
fn the_fuller_the_tracker_the_less_one_household_has_of_it() {
    let swarms = Swarms::new(Limits { open: true, max_open_swarms: 1_000, max_peers: 1_000, ..limits() }, 1);
    let name = |n: u16| {
        let mut name = [0; 20];
        name[18..].copy_from_slice(&n.to_be_bytes());
        InfoHash::new(name)
    };
    let mut peers = PeerList::default();
    let mut announce = |n, peer, now| {
        swarms.announce(&request(name(n)), peer, Families::Both, Uptime(now), 0, &mut peers).is_ok()
    };
    let greedy = SocketAddr::from(([198, 51, 100, 66], 1));
    let opened = (0..2_000).filter(|n| announce(*n, greedy, 0)).count();
    assert_eq!(opened, 500, "half of what was free");
    // Others come, and it is over its share: what it has expires although it goes on announcing.
    assert!((3_000..3_450).all(|n| announce(n, home(n), 100)));
    (0..500).for_each(|n| assert!(announce(n, greedy, 200)));
    (0..SHARDS).for_each(|shard| swarms.sweep(shard, Uptime(300)));
    assert_eq!(swarms.totals().peers, 450);
    assert!((3_450..3_900).all(|n| announce(n, home(n), 300)));
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
