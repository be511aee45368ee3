//! A mesh in virtual time.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use minuet_proto::SegmentSeq;
use minuet_proto::channel_api::mesh::SourceProof;

use super::places::Place;
use super::*;

const LIMITS: MeshLimits = MeshLimits {
    nodes: 3_000,
    nodes_per_channel: None,
    nodes_per_address: None,
    interval: Duration::from_secs(60),
};

/// A mesh with its clock and its dice.
struct Lab {
    mesh: Mesh,
    places: NodePlaces,
    limits: MeshLimits,
    now: u32,
    random: u64,
}

impl Default for Lab {
    fn default() -> Self {
        let mesh = Mesh::new(ChannelId::new([1; 32]));
        Self { mesh, places: NodePlaces::new(LIMITS.nodes), limits: LIMITS, now: 0, random: 0 }
    }
}

impl Lab {
    fn join_from(&mut self, request: &JoinRequest, ip: IpAddr) -> Vec<MeshNode> {
        self.visit(request, ip, true)
    }

    /// As the tracker does it.
    fn visit(&mut self, request: &JoinRequest, ip: IpAddr, proved: bool) -> Vec<MeshNode> {
        self.random += 1;
        let mut told = Vec::new();
        let room = self.mesh.has(&request.about.node)
            || loop {
                match self.places.find(ip) {
                    Ok(Place::Free) => break true,
                    Ok(Place::InPlaceOf(_, net)) => assert!(self.mesh.evict(net, &self.places)),
                    Err(_) => break false,
                }
            };
        let seen = Seen { ip, own_relay: false, foreign: false };
        let (now, random) = (Uptime(self.now), self.random);
        let visit = Visit { request, seen: &seen, proved, room, interval: 60, now, random };
        self.mesh.join(&visit, &self.limits, &self.places, &mut told);
        told
    }

    fn join(&mut self, n: u32, change: impl FnOnce(&mut JoinRequest)) -> Vec<MeshNode> {
        let mut request = request(n);
        change(&mut request);
        self.join_from(&request, ip(n))
    }

    /// Nodes `0..n`, the first of them the source.
    fn with(n: u32, change: impl Fn(u32, &mut JoinRequest)) -> Self {
        let mut lab = Self::default();
        for n in 0..n {
            lab.join(n, |request| {
                if n == 0 {
                    make_source(request);
                }
                request.about.dialable = true;
                change(n, request);
            });
        }
        lab
    }
}

/// An address of a /24 of its own.
fn ip(n: u32) -> IpAddr {
    IpAddr::from(Ipv4Addr::from_bits(0x0b00_0000 + n * 256))
}

fn make_source(request: &mut JoinRequest) {
    request.about.is_source = true;
    // The shell has checked it.
    let key = minuet_proto::ChannelKey::from_seed(&[1; 32]);
    request.about.source_proof = Some(SourceProof::sign(&key, &request.about.node));
}

fn request(n: u32) -> JoinRequest {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    let mut request = JoinRequest::new(MeshNode::new(NodeId(key)));
    request.about.addrs = vec![(ip(n), 4000).into()];
    request.want = 20;
    request
}

fn number(node: &MeshNode) -> u32 {
    u32::from_be_bytes(node.node.0[..4].try_into().unwrap())
}

fn numbers(told: &[MeshNode]) -> HashSet<u32> {
    let numbers: HashSet<u32> = told.iter().map(number).collect();
    assert_eq!(numbers.len(), told.len(), "told of one twice");
    numbers
}

#[test]
fn all_of_a_small_mesh_hear_of_each_other_and_of_the_source() {
    let mut lab = Lab::with(7, |_, _| {});
    for n in 0..7 {
        let told = lab.join(n, |request| {
            if n == 0 {
                make_source(request);
            }
        });
        assert_eq!(numbers(&told), (0..7).filter(|&other| other != n).collect());
    }
    assert_eq!(lab.join(3, |request| request.want = 0), []);
    assert!(lab.join(3, |request| request.want = 255).len() <= MAX_JOIN_NODES);
}

#[test]
fn the_source_of_a_large_mesh_is_told_to_few() {
    let mut lab = Lab::with(1_000, |_, _| {});
    let told_of_source = (1..1_000)
        .filter(|&n| lab.join(n, |request| request.about.dialable = true).iter().any(|node| node.is_source));
    // Looked at in a sample of 80 of 1,000, so of the eight one is left.
    assert!(told_of_source.count() <= 8);
    // With nobody else it is told always.
    let mut lab = Lab::with(1, |_, _| {});
    assert_eq!(numbers(&lab.join(1, |_| {})), HashSet::from([0]));
}

#[test]
fn neighbours_are_spread_out() {
    let mut lab = Lab::with(1_000, |_, _| {});
    let mut times = vec![0u32; 1_000];
    let mut sets = Vec::new();
    for n in 1..1_000 {
        let told = numbers(&lab.join(n, |request| request.about.dialable = true));
        assert_eq!(told.len(), 20);
        told.iter().for_each(|&other| times[other as usize] += 1);
        sets.push(told);
    }
    let most = times[1..].iter().max().unwrap();
    let untold = times[1..].iter().filter(|&&times| times == 0).count();
    // Drawn one by one the most told of 1,000 is told 2 x the mean.
    assert!(*most <= 45 && untold == 0, "{most}, {untold}");
    let shared: usize = sets.windows(2).map(|two| two[0].intersection(&two[1]).count()).sum();
    // 20 of 1,000: two sets share 0.4 on average.
    assert!(shared <= sets.len(), "{shared}");
}

#[test]
fn who_cannot_be_dialled_is_told_of_those_who_can() {
    let mut lab = Lab::with(400, |n, request| request.about.dialable = n % 2 == 0);
    let told = lab.join(401, |_| {});
    assert!(told.iter().all(|node| node.dialable), "{told:?}");
    let told = lab.join(402, |request| request.about.dialable = true);
    let hidden = told.iter().filter(|node| !node.dialable).count();
    assert!((4..=16).contains(&hidden), "{hidden}");
    // Where there are none, holes have to be punched.
    let mut lab = Lab::with(40, |n, request| request.about.dialable = n == 0);
    assert_eq!(lab.join(41, |_| {}).len(), 20);
}

#[test]
fn givers_come_before_riders_and_relays_do_not_carry_all() {
    let mut lab = Lab::with(60, |n, request| request.about.no_upload = n > 25);
    assert!(lab.join(99, |_| {}).iter().all(|node| !node.no_upload));
    let mut lab = Lab::with(60, |n, request| request.about.is_relay = n > 30);
    let relays =
        (0..100).map(|_| lab.join(99, |_| {}).iter().filter(|node| node.is_relay).count()).sum::<usize>();
    assert!((200..900).contains(&relays), "{relays} of 2000");
}

#[test]
fn silent_nodes_and_those_that_leave_are_forgotten() {
    let mut lab = Lab::with(3, |_, _| {});
    lab.now = 100;
    lab.join(1, |_| {});
    lab.now = 151;
    assert_eq!(numbers(&lab.join(1, |_| {})), HashSet::new());
    lab.mesh.expire(Uptime(lab.now), &lab.places);
    assert_eq!((lab.mesh.nodes(), lab.places.taken()), (1, 1));
    assert_eq!(lab.join(1, |request| request.leaving = true), []);
    assert_eq!((lab.mesh.nodes(), lab.places.taken()), (0, 0));
}

#[test]
fn a_stranger_with_anothers_key_changes_nothing() {
    let mut lab = Lab::with(2, |_, _| {});
    let mut forged = request(1);
    forged.about.addrs = vec!["198.51.100.66:9".parse().unwrap()];
    assert!(!lab.visit(&forged, ip(77), false).is_empty(), "it is told of others all the same");
    forged.leaving = true;
    lab.visit(&forged, ip(78), false);
    let told = lab.join(5, |_| {});
    let one = told.iter().find(|node| number(node) == 1).unwrap();
    assert_eq!(one.addrs, [(ip(1), 4000).into()]);
    assert_eq!(lab.places.taken(), 3);
}

#[test]
fn a_node_that_moves_has_one_entry() {
    let mut lab = Lab::with(2, |_, _| {});
    lab.join_from(&request(1), ip(77));
    let told = lab.join(5, |_| {});
    let one = told.iter().find(|node| number(node) == 1).unwrap();
    assert!(one.addrs.contains(&(ip(77), 4000).into()), "{one:?}");
    assert_eq!((lab.mesh.nodes(), lab.places.taken()), (3, 3));
    assert!(lab.places.has(&request(1).about.node) && !lab.places.has(&request(9).about.node));
}

#[test]
fn two_sources_do_not_push_others_out() {
    let mut lab = Lab::with(400, |n, request| {
        if n % 2 == 0 {
            make_source(request);
        }
    });
    for n in 1_000..1_200 {
        let told = lab.join(n, |request| request.about.dialable = true);
        assert!(told.iter().filter(|node| node.is_source).count() <= 2);
    }
}

#[test]
fn an_address_that_joins_three_hundred_times_gets_no_more_than_its_share() {
    let mut lab = Lab::with(12, |_, _| {});
    for n in 1_000..1_300 {
        lab.join_from(&request(n), ip(500));
    }
    for n in 1_300..1_600 {
        // A whole /24 of them.
        let address = Ipv4Addr::from_bits(0x0c00_0000 + n % 256);
        lab.join_from(&request(n), address.into());
    }
    let (mut honest, mut of_source) = (0, 0);
    for n in 100..200 {
        let mut asking = request(n);
        asking.want = 32;
        let told = lab.visit(&asking, ip(n), false);
        let of =
            |least: u32, most: u32| told.iter().filter(|node| (least..most).contains(&number(node))).count();
        assert!(of(1_000, 1_300) <= 4 && of(1_300, 1_600) <= 8, "{} {}", of(1_000, 1_300), of(1_300, 1_600));
        honest += of(1, 12);
        of_source += of(0, 1);
    }
    // Of eleven others. The source is told to eight an interval: the mesh counts as one of 12, 4 and 16 nodes.
    assert!(honest > 500, "{honest}");
    assert!(of_source >= 15, "{of_source}");
    let to_the_greedy = (1_000..1_300).filter(|n| {
        let told = lab.visit(&request(*n), ip(500), false);
        told.iter().any(|node| number(node) == 0)
    });
    assert!(to_the_greedy.count() <= 8);
    println!("{honest} of 1100 honest, {of_source} of 100 the source");
}

#[test]
fn a_school_behind_one_address_gets_in_and_is_told_of() {
    let mut lab = Lab::default();
    for n in 0..1_000 {
        lab.join_from(&request(n), ip(0));
    }
    assert_eq!(lab.mesh.nodes(), 1_000);
    let mut asking = request(5);
    asking.want = 32;
    assert_eq!(lab.join_from(&asking, ip(0)).len(), 32, "its own neighbours are no strangers");
    asking = request(2_000);
    asking.want = 32;
    assert_eq!(lab.join_from(&asking, ip(9)).len(), 4);
}

#[test]
fn when_all_places_are_taken_the_greedy_make_room_and_operators_may_set_ceilings() {
    let mut lab = Lab::default();
    for n in 0..5_000 {
        lab.join_from(&request(n), ip(0));
    }
    assert_eq!((lab.mesh.nodes(), lab.places.taken()), (3_000, 3_000));
    for n in 5_000..7_000 {
        assert!(!lab.join(n, |_| {}).is_empty());
        assert!(lab.places.has(&request(n).about.node));
    }
    assert_eq!((lab.mesh.nodes(), lab.places.taken()), (3_000, 3_000));
    lab.mesh.clear(&lab.places);
    assert_eq!((lab.mesh.nodes(), lab.places.taken(), lab.mesh.heap_bytes()), (0, 0, 0));

    lab.limits.nodes_per_address = Some(4);
    lab.limits.nodes_per_channel = Some(6);
    for n in 0..10 {
        lab.join_from(&request(n), ip(0));
    }
    assert_eq!(lab.mesh.nodes(), 4);
    (20..30).for_each(|n| drop(lab.join(n, |_| {})));
    assert_eq!(lab.mesh.nodes(), 6);
    // A known one is renewed all the same.
    lab.now = 140;
    lab.join_from(&request(0), ip(0));
    lab.mesh.expire(Uptime(200), &lab.places);
    assert_eq!(lab.mesh.nodes(), 1);
}

#[test]
fn private_addresses_stay_at_home() {
    let mut lab = Lab::default();
    let mut at_home = request(1);
    at_home.about.addrs = vec!["192.168.0.2:4000".parse().unwrap(), "127.0.0.1:4000".parse().unwrap()];
    lab.join_from(&at_home, ip(1));
    let stranger = lab.join(2, |_| {});
    assert_eq!(stranger[0].addrs, [(ip(1), 4000).into()]);
    let neighbour = lab.join_from(&request(3), ip(1));
    let one = neighbour.iter().find(|node| number(node) == 1).unwrap();
    assert_eq!(one.addrs, [(ip(1), 4000).into(), "192.168.0.2:4000".parse().unwrap()]);
}

#[test]
fn a_node_takes_little_memory() {
    let lab = Lab::with(3_000, |_, _| {});
    let each = lab.mesh.heap_bytes() / lab.mesh.nodes();
    println!("{each} bytes a node");
    assert!(each <= 400, "{each} bytes a node");
}

#[test]
fn who_seeks_a_finished_segment_is_told_of_those_who_keep_it_however_few_they_are() {
    // Those who come later keep nothing.
    let keeps = |n: u32| n < 2000 && n % 500 == 7;
    let mut lab = Lab::with(2000, |n, request| {
        request.about.keeps_from = Some(SegmentSeq(if keeps(n) { 100 } else { 900 }));
    });
    for round in 0..20 {
        let told = numbers(&lab.join(5000 + round, |request| request.seeks = Some(SegmentSeq(150))));
        assert_eq!(told.len(), 20, "others fill the answer");
        assert_eq!(told.iter().filter(|n| keeps(**n)).count(), 4, "all keepers are named");
    }
    // Where nobody keeps it, the source may.
    let told = numbers(&lab.join(6000, |request| request.seeks = Some(SegmentSeq(50))));
    assert!(told.contains(&0));
    let told = numbers(&lab.join(6001, |request| request.seeks = Some(SegmentSeq(950))));
    assert!(!told.iter().any(|n| *n >= 5000), "who has just come keeps nothing");
}

#[test]
fn all_who_come_for_one_segment_are_told_of_each_other() {
    let mut lab = Lab::with(2000, |n, request| {
        request.about.keeps_from = Some(SegmentSeq(if n % 50 == 7 { 100 } else { 900 }));
    });
    let seek = |lab: &mut Lab, n: u32, segment: u64| {
        numbers(&lab.join(n, |request| {
            request.about.dialable = true;
            request.seeks = Some(SegmentSeq(segment));
        }))
    };
    for n in 5000..5010 {
        seek(&mut lab, n, 150);
    }
    // They have found somebody, and say no more that they seek.
    for n in 5000..5010 {
        lab.join(n, |request| request.about.dialable = true);
    }
    let told = seek(&mut lab, 5010, 151);
    let fellows = told.iter().filter(|n| (5000..5010).contains(*n)).count();
    let keepers = told.iter().filter(|n| **n < 5000 && **n % 50 == 7).count();
    assert_eq!((fellows, keepers), (10, 10), "half and half: {told:?}");
    // Who seeks something else is not.
    assert!(!seek(&mut lab, 5011, 170).iter().any(|n| (5000..5011).contains(n)));
    lab.now += 61;
    assert!(!seek(&mut lab, 5012, 150).iter().any(|n| (5000..5010).contains(n)));
}
