//! What a node asks of, pushes to and tells its neighbours.

use std::collections::VecDeque;

use bytes::Bytes;
use minuet_mesh::{LinkId, Role};
use minuet_proto::PieceHash;
use minuet_proto::mesh::{Block, Hello, HelloFlags, Message, NodeId, Request, Serial};

use crate::{
    SECOND,
    harness::{Alone, Mesh, PIECE, STRANGER, config},
};

#[test]
fn one_request_at_a_time_is_open_with_a_neighbour_and_one_more_for_what_is_late() {
    let mut alone = Alone::settled();
    let asked = |alone: &mut Alone| alone.requests().iter().map(|r| r.serial.get()).collect::<Vec<_>>();
    // At the start everything is late; once it plays, nothing is due soon, and the newest goes first.
    assert_eq!(asked(&mut alone), [0, 1]);
    for (serial, next) in [(0, vec![]), (1, vec![19]), (19, vec![18])] {
        let byte = alone.mesh.closed[&Serial::new(serial)].as_bytes()[0];
        alone.send_piece(serial, byte);
        assert_eq!(asked(&mut alone), next);
        assert!(alone.mesh.members[0].node.holds(Serial::new(serial)));
    }
}

#[test]
fn a_piece_that_has_begun_to_come_survives_a_reject() {
    let mut alone = Alone::settled();
    let payload = Bytes::copy_from_slice(&[alone.mesh.closed[&Serial::new(0)].as_bytes()[0]; 16384]);
    alone.mesh.inbox.clear();
    for offset in (0..PIECE).step_by(16384) {
        if offset + 16384 == PIECE {
            alone.say(Message::Reject(Serial::new(0)));
        }
        let block = Block { serial: Serial::new(0), offset, len: 16384, piece_len: PIECE };
        alone.mesh.say(0, alone.link, Message::Block(block), payload.clone());
    }
    assert!(alone.mesh.members[0].node.holds(Serial::new(0)));
    assert!(!alone.mesh.inbox.iter().any(|(_, m)| matches!(m, Message::DontHave(_) | Message::Cancel(_))));
}

#[test]
fn a_fresh_push_is_taken_also_behind_the_playhead() {
    let mut alone = Alone::new();
    let hash = PieceHash::of(&70_u32.to_le_bytes());
    alone.mesh.closed.insert(Serial::new(70), hash);
    for serial in 0..150 {
        alone.head(serial, hash, true);
    }
    alone.say(Mesh::have(0..150));
    alone.mesh.run(SECOND * 7 / 10);
    let asked = alone.requests();
    assert!(
        !asked.is_empty() && asked.iter().all(|r| r.serial.get() > 80),
        "starts near the edge: {asked:?}"
    );
    alone.send_piece(70, hash.as_bytes()[0]);
    assert!(alone.mesh.members[0].node.holds(Serial::new(70)));
    // What is old is of no use to anybody.
    alone.send_piece(30, hash.as_bytes()[0]);
    assert!(!alone.mesh.members[0].node.holds(Serial::new(30)));
}

#[test]
fn a_refused_push_goes_to_another_at_once_and_a_double_does_not() {
    for refused in [true, false] {
        let mut mesh = Mesh::new(4);
        mesh.add(config(0), Role::Source);
        for stranger in [STRANGER, NodeId([8; 32])] {
            let link = mesh.link_to_test(0, stranger);
            let hello =
                Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 10_000, extensions: vec![] };
            mesh.say(0, link, Message::Hello(hello), Bytes::new());
        }
        mesh.stream(1);
        let receivers = |mesh: &Mesh| {
            let block = |m: &Message| matches!(m, Message::Block(block) if block.offset == 0);
            mesh.inbox.iter().filter(|(_, m)| block(m)).map(|(link, _)| *link).collect::<Vec<_>>()
        };
        for _ in 0..20 {
            if receivers(&mesh).is_empty() {
                mesh.run(SECOND / 100);
            }
        }
        let [first] = receivers(&mesh)[..] else { panic!("pushed once: {:?}", mesh.inbox) };
        if !refused {
            mesh.say(0, first, Mesh::have(0..1), Bytes::new());
        }
        mesh.say(0, first, Message::Cancel(Serial::new(0)), Bytes::new());
        mesh.run(SECOND / 2);
        assert_eq!(receivers(&mesh).len(), if refused { 2 } else { 1 });
    }
}

#[test]
fn the_source_pushes_little_to_who_keeps_it_back_until_it_does_no_longer() {
    let mut mesh = Mesh::new(4);
    mesh.add(config(0), Role::Source);
    let links = [7, 8, 9].map(|key| {
        let link = mesh.link_to_test(0, NodeId([key; 32]));
        let hello =
            Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 10_000, extensions: vec![] };
        mesh.say(0, link, Message::Hello(hello), Bytes::new());
        link
    });
    let keeper = links[0];
    let (mut pushes, mut reappear) = (Vec::new(), VecDeque::new());
    for round in 0..1500 {
        mesh.stream(1);
        mesh.run(SECOND / 16);
        for (to, message) in std::mem::take(&mut mesh.inbox) {
            let Message::Block(Block { serial, offset: 0, .. }) = message else { continue };
            pushes.push((round, to));
            // Who says nothing would be passed over for that alone.
            mesh.say(0, to, Mesh::have(serial.get()..serial.get() + 1), Bytes::new());
            if to != keeper || round >= 600 {
                reappear.push_back((round + 6, serial.get()));
            }
        }
        while let Some((_, serial)) = reappear.pop_front_if(|(at, _)| *at <= round) {
            for other in &links {
                mesh.say(0, *other, Mesh::have(serial..serial + 1), Bytes::new());
            }
        }
    }
    let kept = |rounds: std::ops::Range<i32>| {
        let pushes = || pushes.iter().filter(|(round, _)| rounds.contains(round));
        pushes().filter(|(_, to)| *to == keeper).count() as f32 / pushes().count() as f32
    };
    // Nobody is blamed in the first five seconds.
    assert!(kept(0..80) > 0.2, "{}", kept(0..80));
    assert!(kept(450..600) < 0.03, "{}", kept(450..600));
    assert!(kept(1350..1500) > 0.2, "{}", kept(1350..1500));
}

/// What a source sends in 200 rounds to neighbours that claim so much uplink (kbit/s), all of whom pass everything on.
fn pushes_by_claim(claims: &[u32]) -> Vec<usize> {
    let mut mesh = Mesh::new(4);
    mesh.add(config(0), Role::Source);
    let links: Vec<LinkId> = (7..)
        .zip(claims)
        .map(|(key, claim)| {
            let link = mesh.link_to_test(0, NodeId([key; 32]));
            let hello =
                Hello { version: 1, flags: HelloFlags::default(), upload_kbps: *claim, extensions: vec![] };
            mesh.say(0, link, Message::Hello(hello), Bytes::new());
            link
        })
        .collect();
    let mut pushes = vec![0; claims.len()];
    for _ in 0..200 {
        mesh.stream(1);
        mesh.run(SECOND / 16);
        for (to, message) in std::mem::take(&mut mesh.inbox) {
            let Message::Block(Block { serial, offset: 0, .. }) = message else { continue };
            pushes[links.iter().position(|link| *link == to).expect("it pushes to a link")] += 1;
            for link in &links {
                mesh.say(0, *link, Mesh::have(serial.get()..serial.get() + 1), Bytes::new());
            }
        }
    }
    pushes
}

#[test]
fn who_claims_a_gigabit_is_pushed_no_more_than_who_claims_a_few_times_the_stream() {
    let honest = [10_000, 10_000, 10_000];
    let with = |claim| pushes_by_claim(&[&honest[..], &[claim]].concat())[3];
    // The stream has 8 Mbit/s, a thirtieth of a claim either way is what its pieces' lengths make of that.
    let (boast, fast, even) = (with(1_000_000), with(32_000), with(10_000));
    assert!(boast.abs_diff(fast) <= 200 / 30, "{boast} and {fast}");
    assert!((40..=60).contains(&even), "{even}");
    assert!(boast > even, "who is fast is pushed more: {boast} and {even}");
}

#[test]
fn among_four_that_tell_one_alone_is_not_believed() {
    for (viewers, believers, again) in [(3, 1, false), (4, 1, true), (4, 2, false), (6, 1, true)] {
        let mut mesh = Mesh::new(4);
        mesh.add(config(0), Role::Source);
        let links: Vec<LinkId> = (0..viewers)
            .map(|key| {
                let link = mesh.link_to_test(0, NodeId([7 + key; 32]));
                let hello = Hello {
                    version: 1,
                    flags: HelloFlags::default(),
                    upload_kbps: 10_000,
                    extensions: vec![],
                };
                mesh.say(0, link, Message::Hello(hello), Bytes::new());
                link
            })
            .collect();
        mesh.stream(1);
        mesh.run(SECOND / 8);
        let pushed = |mesh: &Mesh| {
            let first = |m: &Message| matches!(m, Message::Block(block) if block.offset == 0);
            mesh.inbox.iter().filter(|(_, m)| first(m)).map(|(link, _)| *link).collect::<Vec<_>>()
        };
        let [receiver] = pushed(&mesh)[..] else { panic!("pushed once: {:?}", mesh.inbox) };
        mesh.say(0, receiver, Mesh::have(0..1), Bytes::new());
        for other in links.iter().filter(|link| **link != receiver).take(believers) {
            mesh.say(0, *other, Mesh::have(0..1), Bytes::new());
        }
        mesh.run(2 * SECOND);
        let count = pushed(&mesh).len();
        assert_eq!(count > 1, again, "{believers} of {viewers} tell of it: pushed {count} times");
    }
}

/// Neither a lone viewer nor one among those who upload nothing, and so tell of nothing, keeps pieces back.
#[test]
fn a_viewer_that_has_nobody_to_pass_pieces_on_to_stays_first() {
    for among in [0, 3] {
        let mut mesh = Mesh::new(4);
        mesh.add(config(0), Role::Source);
        let join = |mesh: &mut Mesh, key: u8, no_upload: bool| {
            let link = mesh.link_to_test(0, NodeId([key; 32]));
            let flags = HelloFlags { no_upload, ..HelloFlags::default() };
            let hello = Hello { version: 1, flags, upload_kbps: 10_000, extensions: vec![] };
            mesh.say(0, link, Message::Hello(hello), Bytes::new());
            link
        };
        // All that the source sends in so many rounds: to whom, which piece.
        let pushes = |mesh: &mut Mesh, rounds: usize| {
            let mut sent = Vec::new();
            for _ in 0..rounds {
                mesh.stream(1);
                mesh.run(SECOND / 16);
                for (to, message) in std::mem::take(&mut mesh.inbox) {
                    let Message::Block(Block { serial, offset: 0, .. }) = message else { continue };
                    sent.push((to, serial.get()));
                    mesh.say(0, to, Mesh::have(serial.get()..serial.get() + 1), Bytes::new());
                }
            }
            sent
        };
        let first = join(&mut mesh, 7, false);
        for key in 0..among {
            join(&mut mesh, 20 + key, true);
        }
        let before = pushes(&mut mesh, 600);
        let newcomer = join(&mut mesh, 8, false);
        let sent = pushes(&mut mesh, 10);
        assert!(sent.iter().any(|(to, _)| *to == newcomer), "{among} beside it: {sent:?}");
        // The first piece that is new to all. Of later ones the first viewer rightly gets fewer: it passes nothing on.
        let new = sent.iter().find(|(_, serial)| before.iter().all(|(_, sent)| sent != serial));
        assert_eq!(new.map(|(to, _)| *to), Some(first), "{among} beside it: {sent:?}");
    }
}

#[test]
fn of_a_rare_piece_neighbours_hear_at_once_and_of_common_ones_together() {
    let mut alone = Alone::new();
    let links = [20, 21, 22, 23, 24, 25, 26].map(|key| {
        let link = alone.mesh.link_to_test(0, NodeId([key; 32]));
        let hello =
            Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 10_000, extensions: vec![] };
        alone.mesh.say(0, link, Message::Hello(hello), Bytes::new());
        link
    });
    let hash = PieceHash::of(&1_u32.to_le_bytes());
    for serial in 0..3 {
        alone.mesh.closed.insert(Serial::new(serial), hash);
        alone.head(serial, hash, true);
    }
    for link in &links[..5] {
        alone.mesh.say(0, *link, Mesh::have(1..3), Bytes::new());
    }
    alone.mesh.inbox.clear();
    // What a neighbour that has the last two pieces hears, and one that lacks them.
    let told = |mesh: &mut Mesh| {
        let sent: Vec<_> = mesh.inbox.drain(..).collect();
        [links[0], links[6]].map(|to| -> Vec<Vec<u64>> {
            let sent = sent.iter().filter(|(link, _)| *link == to);
            let haves = sent.filter_map(|(_, message)| match message {
                Message::Have(serials) => Some(serials.iter().map(|serial| serial.get()).collect()),
                _ => None,
            });
            haves.collect()
        })
    };
    // The sender is one holder of eight; five others have the next two pieces.
    alone.send_piece(0, hash.as_bytes()[0]);
    assert_eq!(told(&mut alone.mesh), [[[0]], [[0]]]);
    alone.send_piece(2, hash.as_bytes()[0]);
    alone.send_piece(1, hash.as_bytes()[0]);
    assert_eq!(told(&mut alone.mesh), [Vec::<Vec<u64>>::new(), vec![]]);
    alone.mesh.run(SECOND * 3 / 10);
    assert_eq!(told(&mut alone.mesh), [vec![], vec![vec![1, 2]]]);
    alone.mesh.run(SECOND * 3 / 10);
    assert_eq!(told(&mut alone.mesh), [vec![vec![1, 2]], vec![]]);

    // Who pushes what is here by now hears that it is before it hears that the push is not wanted.
    for link in &links[..5] {
        alone.mesh.say(0, *link, Mesh::have(3..4), Bytes::new());
    }
    alone.mesh.closed.insert(Serial::new(3), hash);
    alone.head(3, hash, true);
    alone.send_piece(3, hash.as_bytes()[0]);
    alone.mesh.inbox.clear();
    let block = Block { serial: Serial::new(3), offset: 0, len: 16384, piece_len: PIECE };
    alone.mesh.say(0, links[6], Message::Block(block), Bytes::from(vec![hash.as_bytes()[0]; 16384]));
    let answers: Vec<&Message> =
        alone.mesh.inbox.iter().filter(|(link, _)| *link == links[6]).map(|(_, message)| message).collect();
    assert!(
        matches!(answers[..], [Message::Have(_), Message::Cancel(serial)] if serial.get() == 3),
        "{answers:?}"
    );
}

#[test]
fn who_does_not_know_who_has_what_starts_near_the_edge() {
    let mut alone = Alone::new();
    let hash = PieceHash::of(&1_u32.to_le_bytes());
    for serial in 0..66 {
        alone.mesh.closed.insert(Serial::new(serial), hash);
        alone.head_of(serial, hash, true, serial % 16 == 0);
    }
    // The one neighbour has too little to start with: the source must have the rest, and the live edge to send.
    alone.say(Mesh::have(65..66));
    alone.mesh.run(SECOND * 7 / 10);
    alone.say(Mesh::have(0..66));
    let mut asked: Vec<u64> = Vec::new();
    for _ in 0..66 {
        let requests = alone.requests();
        for request in &requests {
            alone.send_piece(request.serial.get(), hash.as_bytes()[0]);
        }
        asked.extend(requests.iter().map(|request| request.serial.get()));
    }
    assert_eq!(asked.iter().min(), Some(&48), "{asked:?}");
}

#[test]
fn a_request_that_crosses_its_piece_is_not_served_again() {
    let mut mesh = Mesh::live(1, 8, |_, _| {});
    mesh.stream(40);
    mesh.run(4 * SECOND);
    let link = mesh.link_to_test(1, STRANGER);
    let hello = Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 0, extensions: Vec::new() };
    mesh.say(1, link, Message::Hello(hello), Bytes::new());
    mesh.inbox.clear();
    let request = Message::Request(Request { serial: Serial::new(20), due_in_ms: 0 });
    let answers = |mesh: &Mesh| {
        let answer = |m: &Message| match m {
            Message::Block(block) => block.len,
            Message::Reject(_) => PIECE,
            _ => 0,
        };
        mesh.inbox.iter().map(|(_, m)| answer(m)).sum::<u32>()
    };
    mesh.say(1, link, request.clone(), Bytes::new());
    for _ in 0..20 {
        if answers(&mesh) < PIECE {
            mesh.run(SECOND / 100);
        }
    }
    assert_eq!(answers(&mesh), PIECE);
    mesh.say(1, link, request.clone(), Bytes::new());
    mesh.run(SECOND);
    assert_eq!(answers(&mesh), PIECE);
    // What was lost on its way is asked for later.
    mesh.say(1, link, request, Bytes::new());
    mesh.run(SECOND);
    assert!(answers(&mesh) > PIECE);
}

#[test]
fn a_busy_holder_answers_each_request_with_a_piece_or_a_word() {
    let limit = |member, config: &mut minuet_mesh::Config| {
        if member == 1 {
            config.upload_limit = Some(40_000);
        }
    };
    let mut mesh = Mesh::live(1, 8, limit);
    mesh.stream(40);
    mesh.run(4 * SECOND);
    let links: Vec<LinkId> = (0..6).map(|peer| mesh.link_to_test(1, NodeId([20 + peer; 32]))).collect();
    let mut asked = 0;
    mesh.inbox.clear();
    for link in &links {
        let hello =
            Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 0, extensions: Vec::new() };
        mesh.say(1, *link, Message::Hello(hello), Bytes::new());
        for serial in 20..25 {
            mesh.say(
                1,
                *link,
                Message::Request(Request { serial: Serial::new(serial), due_in_ms: 0 }),
                Bytes::new(),
            );
            asked += 1;
        }
    }
    mesh.run(SECOND);
    let rejected = mesh.inbox.iter().filter(|(_, m)| matches!(m, Message::Reject(_))).count();
    let served = mesh.inbox.iter().filter(|(_, m)| matches!(m, Message::Block(b) if b.offset == 0)).count();
    assert_eq!(rejected + served, asked, "{rejected} turned away, {served} served");
}
