//! Whom a node believes, and whom it bans.

use bytes::Bytes;
use minuet_mesh::{HangUpReason, Role};
use minuet_proto::PieceHash;
use minuet_proto::mesh::{Block, Hello, HelloFlags, Message, NodeId, Request, Serial, Window};

use crate::{
    SECOND,
    harness::{Alone, Mesh, PIECE, STRANGER, config},
};

#[test]
fn a_corrupt_piece_bans_its_sender_and_is_not_held() {
    let mut alone = Alone::settled();
    let byte = alone.mesh.closed[&Serial::new(0)].as_bytes()[0];
    alone.send_piece(0, !byte);
    assert_eq!(alone.bans(), [HangUpReason::Corrupt]);
    assert!(!alone.mesh.members[0].node.holds(Serial::new(0)));
    // The ban holds for the node's next link, which is hung up at once.
    let again = alone.mesh.link_to_test(0, STRANGER);
    assert!(!alone.mesh.members[0].links.contains_key(&again));
    assert_eq!(alone.bans().len(), 1);
}

#[test]
fn a_forged_head_bans_and_is_not_passed_on() {
    let mut alone = Alone::new();
    let other = alone.mesh.link_to_test(0, NodeId([8; 32]));
    let hello = Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 0, extensions: Vec::new() };
    alone.mesh.say(0, other, Message::Hello(hello), Bytes::new());
    alone.mesh.inbox.clear();
    alone.head(0, PieceHash::of(b"x"), false);
    assert_eq!(alone.bans(), [HangUpReason::BadHead]);
    assert!(!alone.mesh.inbox.iter().any(|(_, m)| matches!(m, Message::Head(_))));
    assert_eq!(alone.mesh.members[0].node.edge(), None);
}

#[test]
fn a_head_is_passed_on_once_and_equivocation_is_told() {
    let mut alone = Alone::new();
    let other = alone.mesh.link_to_test(0, NodeId([8; 32]));
    let hello = Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 0, extensions: Vec::new() };
    alone.mesh.say(0, other, Message::Hello(hello), Bytes::new());
    alone.mesh.inbox.clear();
    alone.head(0, PieceHash::of(b"x"), true);
    alone.head(0, PieceHash::of(b"x"), true);
    let heads = alone.mesh.inbox.iter().filter(|(_, m)| matches!(m, Message::Head(_))).count();
    assert_eq!(heads, 1);
    alone.head(0, PieceHash::of(b"y"), true);
    assert_eq!(alone.mesh.members[0].equivocations, 1);
    assert_eq!(alone.bans(), []);
}

#[test]
fn promises_of_what_does_not_exist_are_not_believed() {
    let mut alone = Alone::settled();
    alone.requests();
    // 64 pieces beyond the newest head are believed; a million are not, nor does the window move.
    alone.say(Mesh::have([1_000_000]));
    alone.say(Message::Bitfield(Window {
        first: Serial::new(5_000_000),
        bits: Bytes::from_static(&[255; 100]),
    }));
    alone.mesh.run(SECOND);
    assert!(alone.requests().iter().all(|r| r.serial < Serial::new(20)));
    assert_eq!(alone.mesh.members[0].node.edge(), Some(Serial::new(20)));
}

#[test]
fn who_promises_and_never_sends_is_banned() {
    let mut alone = Alone::settled();
    // It keeps the link alive, so that only its silence on requests counts.
    for serial in 20..60 {
        alone.head(serial, PieceHash::of(&(serial as u32).to_le_bytes()), true);
        alone.say(Mesh::have([serial]));
        alone.mesh.run(SECOND / 2);
    }
    assert_eq!(alone.bans(), [HangUpReason::Liar]);
}

#[test]
fn who_answers_late_and_never_sends_is_slow_and_not_banned() {
    let mut alone = Alone::settled();
    let mut open: Vec<(u64, Serial)> = Vec::new();
    for serial in 20..80 {
        alone.head(serial, PieceHash::of(&(serial as u32).to_le_bytes()), true);
        alone.say(Mesh::have([serial]));
        open.extend(alone.requests().into_iter().map(|request| (serial + 4, request.serial)));
        let (due, later): (Vec<_>, _) = open.into_iter().partition(|(at, _)| *at <= serial);
        open = later;
        due.into_iter().for_each(|(_, asked)| alone.say(Message::Reject(asked)));
        alone.mesh.run(SECOND / 2);
    }
    assert!(alone.bans().is_empty(), "{:?}", alone.bans());
}

#[test]
fn a_block_that_overtakes_hello_is_no_breach_and_other_words_are() {
    let mut mesh = Mesh::live(1, 8, |_, _| {});
    mesh.stream(10);
    mesh.run(SECOND);
    let link = mesh.link_to_test(1, STRANGER);
    let block = Block { serial: Serial::new(5), offset: 0, len: 1024, piece_len: PIECE };
    mesh.say(1, link, Message::Block(block), Bytes::from(vec![0; 1024]));
    mesh.run(SECOND / 10);
    assert!(mesh.members[1].links.contains_key(&link) && mesh.members[1].bans.is_empty());
    mesh.say(1, link, Mesh::have([5]), Bytes::new());
    mesh.run(SECOND / 10);
    assert!(!mesh.members[1].links.contains_key(&link));
}

#[test]
fn a_head_that_did_not_come_is_asked_for_and_its_piece_is_due_all_the_same() {
    let mut alone = Alone::settled();
    for serial in (20..40).filter(|serial| *serial != 30) {
        alone.head(serial, PieceHash::of(&(serial as u32).to_le_bytes()), true);
    }
    alone.mesh.inbox.clear();
    alone.say(Mesh::have(20..40));
    alone.mesh.run(SECOND);
    let asked = |m: &Message| matches!(m, Message::GetHeads { first, count: 1 } if first.get() == 30);
    assert!(alone.mesh.inbox.iter().any(|(_, m)| asked(m)));
    // Of a second holder that has only this piece: its request says when it is due.
    let other = alone.mesh.link_to_test(0, NodeId([8; 32]));
    let hello =
        Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 10_000, extensions: Vec::new() };
    alone.mesh.say(0, other, Message::Hello(hello), Bytes::new());
    alone.requests();
    alone.mesh.say(0, other, Mesh::have([30]), Bytes::new());
    let requests = alone.requests();
    assert!(requests.iter().any(|r| r.serial == Serial::new(30) && r.due_in_ms > 0), "{requests:?}");
}

#[test]
fn who_promises_and_then_denies_is_banned() {
    let mut alone = Alone::settled();
    for _ in 0..200 {
        alone.say(Mesh::have(0..20));
        for request in alone.requests() {
            alone.say(Message::DontHave([request.serial].into_iter().collect()));
        }
        alone.mesh.run(SECOND / 20);
    }
    assert_eq!(alone.bans(), [HangUpReason::Flood]);
}

#[test]
fn who_falls_silent_is_not_counted_on_and_not_banned() {
    let mut alone = Alone::settled();
    let other = alone.mesh.link_to_test(0, NodeId([8; 32]));
    let hello =
        Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 10_000, extensions: Vec::new() };
    alone.mesh.say(0, other, Message::Hello(hello), Bytes::new());
    alone.requests();
    // The first one says nothing any more; the other names each piece, and so does the first one's past.
    for serial in 20..100 {
        let first = alone.link;
        alone.link = other;
        alone.head(serial, PieceHash::of(&(serial as u32).to_le_bytes()), true);
        alone.say(Mesh::have([serial]));
        alone.link = first;
        alone.mesh.run(SECOND / 10);
    }
    let requests = alone.mesh.inbox.iter().filter(|(_, m)| matches!(m, Message::Request(_))).count();
    assert!(requests > 5, "it asks the other: {requests}");
    assert_eq!(alone.bans().iter().filter(|reason| **reason == HangUpReason::Liar).count(), 1);
    assert_eq!(
        alone.mesh.members[0].bans.len(),
        1,
        "the other, who talks and sends nothing, is the only one banned"
    );
}

#[test]
fn a_flood_is_banned_and_costs_a_bounded_number_of_answers() {
    let mut alone = Alone::settled();
    alone.mesh.inbox.clear();
    for serial in 0..20_000 {
        alone.say(Message::Request(Request { serial: Serial::new(serial % 20), due_in_ms: 0 }));
    }
    assert_eq!(alone.bans(), [HangUpReason::Flood]);
    assert!(alone.mesh.inbox.len() < 7_000);
}

#[test]
fn the_first_message_must_be_hello_and_the_only_one() {
    let mut mesh = Mesh::new(5);
    mesh.add(config(0), Role::Viewer);
    let link = mesh.link_to_test(0, STRANGER);
    mesh.say(0, link, Mesh::have([1]), Bytes::new());
    assert_eq!(mesh.members[0].bans[0].1, HangUpReason::Protocol);
}
