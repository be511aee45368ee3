//! Those whom nobody can dial, and how others are found.

use bytes::Bytes;
use minuet_mesh::{Input, LinkId, Role};
use minuet_proto::mesh::{Hello, HelloFlags, Message, NodeId, PeerInfo, Request, Serial};

use crate::{
    SECOND,
    harness::{Alone, Mesh, config},
};

#[test]
fn who_was_dialled_says_where_it_is_and_others_are_told() {
    let mut alone = Alone::new();
    let told = |alone: &mut Alone| -> Vec<PeerInfo> {
        let said = std::mem::take(&mut alone.mesh.inbox).into_iter();
        said.filter_map(|(_, message)| if let Message::Peers(peers) = message { Some(peers) } else { None })
            .flatten()
            .filter(|info| info.address != config(0).address)
            .collect()
    };
    let hello = |flags| Message::Hello(Hello { version: 1, flags, upload_kbps: 0, extensions: Vec::new() });
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    let (node, address) = (NodeId([8; 32]), Bytes::from_static(b"elsewhere"));
    let first = alone.mesh.link_to_test(0, node);
    alone.mesh.say(0, first, hello(flags), Bytes::new());
    alone.mesh.link_to_test(0, NodeId([7; 32]));
    assert!(told(&mut alone).is_empty(), "told of a node that nobody can find");
    let info = PeerInfo { node, flags, upload_kbps: 0, address };
    alone.mesh.say(0, first, Message::Peers(vec![info.clone()]), Bytes::new());
    alone.mesh.link_to_test(0, NodeId([6; 32]));
    assert_eq!(told(&mut alone), [info]);

    let address = Bytes::from_static(b"there");
    alone.mesh.feed(0, Input::Address { address: address.clone(), dialable: false });
    let all = told(&mut alone);
    assert_eq!(all.len(), 4, "not all neighbours were told: {all:?}");
    assert!(all.iter().all(|info| info.address == address && !info.flags.dialable));
}

#[test]
fn who_says_that_nobody_can_dial_it_is_dialled_if_nobody_else_is_left() {
    let dialled = |flags: &[bool]| -> Vec<NodeId> {
        let mut mesh = Mesh::new(4);
        mesh.add(config(0), Role::Viewer);
        let info = |(number, dialable): (usize, &bool)| PeerInfo {
            node: NodeId([20 + number as u8; 32]),
            flags: HelloFlags { dialable: *dialable, ..HelloFlags::default() },
            upload_kbps: 0,
            address: Bytes::from_static(b"somewhere"),
        };
        mesh.feed(
            0,
            Input::PeersLearned {
                peers: flags.iter().enumerate().map(info).collect(),
                by: minuet_mesh::Discovery::Tracker,
            },
        );
        mesh.run(SECOND / 10);
        mesh.members[0].dialled.clone()
    };
    let mut both = dialled(&[false, true]);
    assert_eq!(both.remove(0), NodeId([21; 32]), "not the one that can be dialled first");
    assert_eq!(both, [NodeId([20; 32])]);
    assert_eq!(dialled(&[false]), [NodeId([20; 32])]);
}

#[test]
fn who_can_be_dialled_asks_those_who_cannot_if_most_cannot() {
    // The first neighbour cannot be dialled either.
    let mut alone = Alone::settled();
    let (dialable, hidden) = (alone.meet(20, true), alone.meet(21, false));
    assert_eq!(alone.asked(20, &[dialable, hidden], SECOND / 10), [hidden]);
    assert_eq!(alone.asked(21, &[dialable], SECOND / 10), []);
    assert_eq!(alone.asked(22, &[dialable], SECOND), [dialable], "nobody else had it for a while");
    // One of each, and one that has not said yet what it is.
    let mut alone = Alone::settled();
    let dialable = alone.meet(20, true);
    alone.mesh.link_to_test(0, NodeId([22; 32]));
    assert_eq!(alone.asked(20, &[dialable], SECOND / 10), [dialable]);
}

#[test]
fn who_cannot_be_dialled_is_served_before_who_can() {
    let limit = |member, config: &mut minuet_mesh::Config| {
        if member == 1 {
            config.upload_limit = Some(400_000);
        }
    };
    let mut mesh = Mesh::live(1, 8, limit);
    mesh.stream(40);
    mesh.run(4 * SECOND);
    let links: [LinkId; 3] = std::array::from_fn(|peer| mesh.link_to_test(1, NodeId([20 + peer as u8; 32])));
    let dialable = |dialable| HelloFlags { dialable, ..HelloFlags::default() };
    for (link, flags) in links.iter().zip([true, true, false].map(dialable)) {
        let hello = Hello { version: 1, flags, upload_kbps: 0, extensions: Vec::new() };
        mesh.say(1, *link, Message::Hello(hello), Bytes::new());
    }
    // The first is being served when the others ask; of these the first asks for the older piece.
    let mut serial = 10;
    let mut served = |mesh: &mut Mesh| -> Vec<LinkId> {
        mesh.inbox.clear();
        for link in links {
            let request = Request { serial: Serial::new(serial), due_in_ms: 0 };
            mesh.say(1, link, Message::Request(request), Bytes::new());
            serial += 1;
        }
        mesh.run(3 * SECOND);
        let begun = |(link, message): &(LinkId, Message)| {
            matches!(message, Message::Block(block) if block.offset == 0).then_some(*link)
        };
        mesh.inbox.iter().filter_map(begun).collect()
    };
    let [busy, older, newer] = links;
    assert_eq!(served(&mut mesh), [busy, newer, older], "who can be dialled was not last");
    // They find out that it is the other way round.
    for (peer, link, flags) in [(21, older, dialable(false)), (22, newer, dialable(true))] {
        let address = Bytes::from_static(b"there");
        let info = PeerInfo { node: NodeId([peer; 32]), flags, upload_kbps: 0, address };
        mesh.say(1, link, Message::Peers(vec![info]), Bytes::new());
    }
    assert_eq!(served(&mut mesh), [busy, older, newer]);
    // Who cannot be dialled itself has only dialable neighbours, all alike.
    mesh.feed(1, Input::Address { address: Bytes::from_static(b"here"), dialable: false });
    for (peer, link) in [(21, older), (22, newer)] {
        let address = Bytes::from_static(b"there");
        let flags = dialable(peer == 21);
        let info = PeerInfo { node: NodeId([peer; 32]), flags, upload_kbps: 0, address };
        mesh.say(1, link, Message::Peers(vec![info]), Bytes::new());
    }
    assert_eq!(served(&mut mesh), [busy, older, newer], "it must not matter here");
}
