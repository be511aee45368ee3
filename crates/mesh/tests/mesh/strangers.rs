//! What strangers can take up: places, words, dials and time.

use std::net::IpAddr;

use bytes::Bytes;
use minuet_mesh::{Direction, Discovery, HangUpReason, Input, LinkId, Role};
use minuet_proto::mesh::{
    Block, HelloFlags, MAX_FRAME_LEN, MIN_BLOCK_LEN, Message, NodeId, PeerInfo, Request, Serial,
};
use minuet_proto::{PieceId, PieceIndex, SegmentSeq};

use crate::SECOND;
use crate::harness::{Alone, Bare, Mesh, PIECE};

fn key(number: usize) -> NodeId {
    let mut key = [9; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    NodeId(key)
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

fn info(node: NodeId, address: &'static str) -> PeerInfo {
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    PeerInfo { node, flags, upload_kbps: 0, address: Bytes::from_static(address.as_bytes()) }
}

/// Says the least that keeps a link alive, while the stream goes on, for some seconds.
fn keep_alive(bare: &mut Bare, links: &[LinkId], seconds: u32) {
    for _ in 0..seconds {
        let id = PieceId { segment: SegmentSeq(0), piece: PieceIndex(0) };
        let ingest_ms = bare.now.0 / 1000;
        bare.close(id, 0, ingest_ms);
        for link in links {
            bare.say(*link, Mesh::have([]));
        }
        bare.run(SECOND);
    }
}

#[test]
fn a_drip_neither_holds_a_piece_nor_stays() {
    let mut alone = Alone::settled();
    let other = alone.meet(8, true);
    alone.mesh.say(0, other, Mesh::have(0..20), Bytes::new());
    alone.mesh.run(SECOND / 10);
    alone.mesh.inbox.clear();
    // Everything is late in the beginning, so all that the stranger holds up is asked of the other as well.
    let mut dripping = vec![(0, 0), (1, 0)];
    let mut asked = Vec::new();
    for round in 0..200 {
        if round % 3 == 0 {
            for (serial, offset) in &mut dripping {
                let len = MIN_BLOCK_LEN;
                let block = Block { serial: Serial::new(*serial), offset: *offset, len, piece_len: PIECE };
                let payload = Bytes::from(vec![0; len as usize]);
                alone.mesh.say(0, alone.link, Message::Block(block), payload);
                *offset += len;
            }
        }
        alone.mesh.say(0, other, Mesh::have([]), Bytes::new());
        alone.mesh.run(SECOND / 10);
        for (link, message) in std::mem::take(&mut alone.mesh.inbox) {
            match message {
                Message::Request(request) if link == other => asked.push((round, request.serial.get())),
                Message::Request(request) => dripping.push((request.serial.get(), 0)),
                Message::Cancel(serial) if link == alone.link => dripping.retain(|(s, _)| *s != serial.get()),
                _ => {}
            }
        }
        if !alone.mesh.members[0].links.contains_key(&alone.link) {
            break;
        }
    }
    assert!(!alone.mesh.members[0].links.contains_key(&alone.link), "it stays");
    assert!(alone.bans().is_empty(), "its line may be slow: {:?}", alone.bans());
    let first = asked.iter().find(|(_, serial)| *serial < 2).expect("the other is asked for what drips");
    assert!(first.0 <= 12, "after {} ms", first.0 * 100);
}

#[test]
fn frames_of_unknown_type_are_charged_by_their_length() {
    let mut bare = Bare::new(Role::Viewer, |_| {});
    let link = bare.meet(key(1), Direction::Accepted, None);
    let mut sent = 0;
    while bare.is_up(link) && sent < 1000 {
        bare.feed(Input::Unknown { link, bytes: MAX_FRAME_LEN });
        sent += 1;
    }
    assert_eq!(bare.hung_up, [(link, HangUpReason::Flood, true)]);
    assert!(sent < 30, "{sent} of the longest");
    // A newer node's own words, now and then, are welcome; before Hello nothing is.
    let link = bare.meet(key(2), Direction::Accepted, None);
    for _ in 0..600 {
        bare.feed(Input::Unknown { link, bytes: 200 });
        bare.run(SECOND / 100);
    }
    assert!(bare.is_up(link));
    let link = bare.link(key(3), Direction::Accepted, None);
    bare.feed(Input::Unknown { link, bytes: 1 });
    assert_eq!(bare.hung_up[1..], [(link, HangUpReason::Protocol, true)]);
}

#[test]
fn records_and_long_lists_are_charged() {
    /// What is sent, the number-th of it, and how many of it a neighbour may send at most.
    type Flood = (&'static str, fn(u64) -> Message, u64);
    let lists: [Flood; 4] = [
        ("records", |n| Message::Record(Bytes::from(n.to_le_bytes().to_vec())), 150),
        ("states", |n| Message::State(Bytes::from(n.to_le_bytes().to_vec())), 150),
        ("lists", |_| Mesh::have((0..4096).map(|n| 10_000 + n)), 30),
        ("peers", |n| Message::Peers(vec![info(key(n as usize), "x")]), 150),
    ];
    for (what, message, most) in lists {
        let mut bare = Bare::new(Role::Viewer, |_| {});
        let link = bare.meet(key(1), Direction::Accepted, None);
        let count = (0..10_000).take_while(|n| {
            bare.say(link, message(*n));
            bare.is_up(link)
        });
        assert!((count.count() as u64) < most, "{what}");
        assert_eq!(bare.hung_up, [(link, HangUpReason::Flood, true)]);
    }
}

#[test]
fn hello_is_neither_dropped_nor_late_when_others_have_filled_the_queue() {
    let mut bare = Bare::new(Role::Source, |config| {
        config.neighbours = 16;
        config.upload_limit = Some(20_000);
    });
    for number in 0..100 {
        let id = PieceId { segment: SegmentSeq(0), piece: PieceIndex(number) };
        bare.close(id, 0, 1000);
    }
    for number in 0..20 {
        let link = bare.meet(key(number), Direction::Accepted, None);
        for _ in 0..25 {
            bare.say(link, Message::GetHeads { first: Serial::ZERO, count: 1024 });
        }
        assert!(bare.is_up(link));
    }
    let full = bare.node.load().backlog_bytes;
    assert!((1_000_000..=1 << 20).contains(&full), "{full}");
    bare.said.clear();
    let newcomer = bare.meet(key(100), Direction::Accepted, None);
    bare.run(2 * SECOND);
    let first = bare.said.iter().find(|(link, _)| *link == newcomer);
    assert!(matches!(first, Some((_, Message::Hello(_)))), "{first:?}");
}

#[test]
fn silent_links_give_way_to_who_comes_at_the_source_too() {
    for role in [Role::Source, Role::Viewer] {
        let mut bare = Bare::new(role, |config| config.neighbours = 4);
        let flood: Vec<LinkId> =
            (0..8).map(|number| bare.meet(key(number), Direction::Accepted, ip("203.0.113.7"))).collect();
        assert!(flood.iter().all(|link| bare.is_up(*link)), "while there is room all get in");
        keep_alive(&mut bare, &flood, 15);
        // From elsewhere, and from the same house: who does nothing goes first, or whose network holds most.
        for (number, host) in ["198.51.100.1", "203.0.113.7", "198.51.100.2"].into_iter().enumerate() {
            if role == Role::Viewer && host == "203.0.113.7" {
                // Without a stream nobody can be of use, so only networks count.
                continue;
            }
            let newcomer = bare.meet(key(100 + number), Direction::Accepted, ip(host));
            assert!(bare.is_up(newcomer), "{role:?} {host}: {:?}", bare.hung_up);
            assert_eq!(
                bare.hung_up.last().map(|(_, reason, ban)| (*reason, *ban)),
                Some((HangUpReason::Replaced, false))
            );
        }
        assert!(bare.hung_up.iter().all(|(link, ..)| flood.contains(link)));
    }
}

#[test]
fn a_newcomer_is_refused_if_nobody_is_worse() {
    let mut bare = Bare::new(Role::Source, |config| config.neighbours = 4);
    let house = |number: usize| ip(&format!("198.51.{number}.1"));
    let links: Vec<LinkId> =
        (0..8).map(|number| bare.meet(key(number), Direction::Accepted, house(number))).collect();
    for link in &links {
        bare.say(*link, Message::Request(Request { serial: Serial::ZERO, due_in_ms: 0 }));
    }
    keep_alive(&mut bare, &links, 15);
    let newcomer = bare.meet(key(100), Direction::Accepted, house(100));
    assert_eq!(bare.hung_up, [(newcomer, HangUpReason::Full, false)]);
    // Nor does a network gain by coming again.
    let newcomer = bare.meet(key(101), Direction::Accepted, house(0));
    assert_eq!(bare.hung_up[1..], [(newcomer, HangUpReason::Full, false)]);
}

#[test]
fn who_does_not_say_hello_is_not_waited_for() {
    let mut bare = Bare::new(Role::Viewer, |_| {});
    let link = bare.link(key(1), Direction::Accepted, None);
    bare.run(4 * SECOND);
    assert!(bare.is_up(link));
    bare.run(3 * SECOND);
    assert_eq!(bare.hung_up, [(link, HangUpReason::Idle, false)]);
}

#[test]
fn no_number_of_accepted_links_takes_the_places_that_a_node_dials() {
    for role in [Role::Source, Role::Viewer, Role::Relay] {
        let mut bare = Bare::new(role, |config| config.neighbours = 4);
        for number in 0..8 {
            bare.meet(key(number), Direction::Accepted, ip("203.0.113.7"));
        }
        let peers = (100..110).map(|number| info(key(number), "there")).collect();
        bare.feed(Input::PeersLearned { peers, by: Discovery::Tracker });
        bare.run(2 * SECOND);
        assert_eq!(bare.dialled.len(), 2, "{role:?}");
        for peer in bare.dialled.clone() {
            let link = bare.meet(peer.node, Direction::Dialled, ip("198.51.100.1"));
            assert!(bare.is_up(link));
        }
        assert_eq!((bare.node.link_count(), bare.hung_up.len()), (10, 0));
    }
}

#[test]
fn gossip_neither_overwrites_what_a_tracker_said_nor_is_passed_on() {
    let mut bare = Bare::new(Role::Viewer, |config| config.neighbours = 4);
    let liar = bare.meet(key(1), Direction::Accepted, None);
    // Two are dialled at once, and the other two only afterwards.
    let honest: Vec<NodeId> = (10..14).map(key).collect();
    let told = |address| honest.iter().map(|node| info(*node, address)).collect::<Vec<_>>();
    bare.feed(Input::PeersLearned { peers: told("right"), by: Discovery::Tracker });
    bare.say(liar, Message::Peers(told("wrong")));
    bare.say(liar, Message::Peers((1000..1050).map(|number| info(key(number), "made up")).collect()));
    for _ in 0..3 {
        bare.run(2 * SECOND);
        for peer in std::mem::take(&mut bare.dialled) {
            if honest.contains(&peer.node) {
                assert_eq!(peer.address, "right");
            }
            bare.feed(Input::DialFailed { peer: peer.node });
        }
    }
    bare.said.clear();
    bare.meet(key(2), Direction::Accepted, None);
    let passed_on = bare.said.iter().any(|(_, message)| match message {
        Message::Peers(peers) => {
            peers.iter().any(|peer| peer.address == "made up" || peer.address == "wrong")
        }
        _ => false,
    });
    assert!(!passed_on);
}

#[test]
fn a_replaced_neighbour_goes_when_the_new_link_stands() {
    let mut bare = Bare::new(Role::Viewer, |config| config.neighbours = 2);
    bare.feed(Input::PeersLearned {
        peers: vec![info(key(1), "a"), info(key(2), "b")],
        by: Discovery::Tracker,
    });
    bare.run(2 * SECOND);
    let links: Vec<LinkId> =
        bare.dialled.clone().iter().map(|peer| bare.meet(peer.node, Direction::Dialled, None)).collect();
    bare.run(2 * SECOND);
    let mut links = links;
    for peer in bare.dialled.clone().iter().skip(links.len()) {
        links.push(bare.meet(peer.node, Direction::Dialled, None));
    }
    assert_eq!(links.len(), 2);
    bare.dialled.clear();
    bare.run(25 * SECOND);
    let new = key(3);
    bare.feed(Input::PeersLearned { peers: vec![info(new, "c")], by: Discovery::Tracker });
    while bare.dialled.is_empty() {
        bare.run(SECOND);
    }
    assert_eq!(bare.hung_up, [], "nobody has come in its place");
    bare.feed(Input::DialFailed { peer: new });
    assert_eq!(bare.hung_up, [], "nor will");
    bare.dialled.clear();
    while bare.dialled.is_empty() {
        bare.run(SECOND);
    }
    let link = bare.link(new, Direction::Dialled, None);
    assert_eq!(bare.hung_up, [], "it has not said Hello");
    let hello = minuet_proto::mesh::Hello {
        version: 1,
        flags: HelloFlags::default(),
        upload_kbps: 0,
        extensions: Vec::new(),
    };
    bare.say(link, Message::Hello(hello));
    assert_eq!(bare.hung_up.len(), 1);
    assert!(links.contains(&bare.hung_up[0].0) && bare.hung_up[0].1 == HangUpReason::Replaced);
}
