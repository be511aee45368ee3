//! One node: what it does about each kind of neighbour.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use minuet_mesh::{HangUpReason, HeadKey, Input, LinkId, Role};
use minuet_proto::mesh::{
    Block, Head, HeadPiece, Hello, HelloFlags, Message, NodeId, PeerInfo, Request, Serial, SignedHead, Window,
};
use minuet_proto::{PieceHash, PieceIndex, SegmentSeq};

use crate::{
    SECOND,
    harness::{Mesh, PIECE, TestKey, config},
};

/// A viewer whose one neighbour is played by the test.
struct Alone {
    mesh: Mesh,
    link: LinkId,
}

const STRANGER: NodeId = NodeId([9; 32]);

impl Alone {
    fn new() -> Self {
        let mut mesh = Mesh::new(4);
        // The member at 0 is a viewer here: there is no source but the test.
        mesh.add(config(0), Role::Viewer);
        let link = mesh.link_to_test(0, STRANGER);
        let mut alone = Self { mesh, link };
        alone.say(Message::Hello(Hello {
            version: 1,
            flags: HelloFlags::default(),
            upload_kbps: 10_000,
            extensions: Vec::new(),
        }));
        alone
    }

    fn say(&mut self, message: Message) {
        self.mesh.say(0, self.link, message, Bytes::new());
    }

    fn head(&mut self, serial: u64, hash: PieceHash, genuine: bool) {
        self.head_of(serial, hash, genuine, true);
    }

    fn head_of(&mut self, serial: u64, hash: PieceHash, genuine: bool, random_access: bool) {
        let piece = HeadPiece { hash, len: PIECE, ingest_ms: 1000 + 65 * serial, random_access };
        let head = Head {
            first: Serial(serial),
            segment: SegmentSeq(0),
            first_index: PieceIndex(serial as u32),
            pieces: vec![piece],
        };
        let body = head.encode();
        let mut signature = TestKey.sign(&SignedHead::signed_bytes(&body));
        if !genuine {
            signature[3] ^= 1;
        }
        self.say(Message::Head(SignedHead { body, signature }));
    }

    fn requests(&mut self) -> Vec<Request> {
        let sent = self.mesh.inbox.drain(..);
        sent.filter_map(|(_, m)| if let Message::Request(r) = m { Some(r) } else { None }).collect()
    }

    fn bans(&self) -> Vec<HangUpReason> {
        self.mesh.members[0].bans.iter().map(|(_, reason)| *reason).collect()
    }

    fn send_piece(&mut self, serial: u64, byte: u8) {
        for offset in (0..PIECE).step_by(16384) {
            let block = Block { serial: Serial(serial), offset, len: 16384, piece_len: PIECE };
            self.mesh.say(0, self.link, Message::Block(block), Bytes::from(vec![byte; 16384]));
        }
    }

    /// One more neighbour, which can be dialled or not.
    fn meet(&mut self, node: u8, dialable: bool) -> LinkId {
        let link = self.mesh.link_to_test(0, NodeId([node; 32]));
        let flags = HelloFlags { dialable, ..HelloFlags::default() };
        let hello = Hello { version: 1, flags, upload_kbps: 10_000, extensions: Vec::new() };
        self.mesh.say(0, link, Message::Hello(hello), Bytes::new());
        link
    }

    /// Who is asked for a new piece within this time, if these have it.
    fn asked(&mut self, serial: u64, holders: &[LinkId], time: Duration) -> Vec<LinkId> {
        self.head(serial, PieceHash::of(&(serial as u32).to_le_bytes()), true);
        self.mesh.inbox.clear();
        for link in holders {
            self.mesh.say(0, *link, Mesh::have(serial..serial + 1), Bytes::new());
        }
        self.mesh.run(time);
        let request = |(link, message): &(LinkId, Message)| match message {
            Message::Request(request) if request.serial.0 == serial => Some(*link),
            _ => None,
        };
        self.mesh.inbox.iter().filter_map(request).collect()
    }

    /// Twenty pieces are known and promised, and playback has begun.
    fn settled() -> Self {
        let mut alone = Self::new();
        for serial in 0..20 {
            let hash = PieceHash::of(&(serial as u32).to_le_bytes());
            alone.mesh.closed.insert(Serial(serial), hash);
            alone.head(serial, hash, true);
        }
        alone.say(Mesh::have(0..20));
        alone.mesh.run(SECOND * 7 / 10);
        alone
    }
}

#[test]
fn one_request_at_a_time_is_open_with_a_neighbour_and_one_more_for_what_is_late() {
    let mut alone = Alone::settled();
    let asked = |alone: &mut Alone| alone.requests().iter().map(|r| r.serial.0).collect::<Vec<_>>();
    // At the start everything is late; once it plays, nothing is due soon, and the newest goes first.
    assert_eq!(asked(&mut alone), [0, 1]);
    for (serial, next) in [(0, vec![]), (1, vec![19]), (19, vec![18])] {
        let byte = alone.mesh.closed[&Serial(serial)].as_bytes()[0];
        alone.send_piece(serial, byte);
        assert_eq!(asked(&mut alone), next);
        assert!(alone.mesh.members[0].node.holds(Serial(serial)));
    }
}

#[test]
fn a_piece_that_has_begun_to_come_survives_a_reject() {
    let mut alone = Alone::settled();
    let payload = Bytes::copy_from_slice(&[alone.mesh.closed[&Serial(0)].as_bytes()[0]; 16384]);
    alone.mesh.inbox.clear();
    for offset in (0..PIECE).step_by(16384) {
        if offset + 16384 == PIECE {
            alone.say(Message::Reject(Serial(0)));
        }
        let block = Block { serial: Serial(0), offset, len: 16384, piece_len: PIECE };
        alone.mesh.say(0, alone.link, Message::Block(block), payload.clone());
    }
    assert!(alone.mesh.members[0].node.holds(Serial(0)));
    assert!(!alone.mesh.inbox.iter().any(|(_, m)| matches!(m, Message::DontHave(_) | Message::Cancel(_))));
}

#[test]
fn a_fresh_push_is_taken_also_behind_the_playhead() {
    let mut alone = Alone::new();
    let hash = PieceHash::of(&70_u32.to_le_bytes());
    alone.mesh.closed.insert(Serial(70), hash);
    for serial in 0..150 {
        alone.head(serial, hash, true);
    }
    alone.say(Mesh::have(0..150));
    alone.mesh.run(SECOND * 7 / 10);
    let asked = alone.requests();
    assert!(!asked.is_empty() && asked.iter().all(|r| r.serial.0 > 80), "starts near the edge: {asked:?}");
    alone.send_piece(70, hash.as_bytes()[0]);
    assert!(alone.mesh.members[0].node.holds(Serial(70)));
    // What is old is of no use to anybody.
    alone.send_piece(30, hash.as_bytes()[0]);
    assert!(!alone.mesh.members[0].node.holds(Serial(30)));
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
        mesh.say(0, first, Message::Cancel(Serial(0)), Bytes::new());
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
            mesh.say(0, to, Mesh::have(serial.0..serial.0 + 1), Bytes::new());
            if to != keeper || round >= 600 {
                reappear.push_back((round + 6, serial.0));
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
    assert!(kept(0..150) > 0.2, "{}", kept(0..150));
    assert!(kept(450..600) < 0.03, "{}", kept(450..600));
    assert!(kept(1350..1500) > 0.2, "{}", kept(1350..1500));
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
                    sent.push((to, serial.0));
                    mesh.say(0, to, Mesh::have(serial.0..serial.0 + 1), Bytes::new());
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
        alone.mesh.closed.insert(Serial(serial), hash);
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
                Message::Have(serials) => Some(serials.iter().map(|serial| serial.0).collect()),
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
    alone.mesh.closed.insert(Serial(3), hash);
    alone.head(3, hash, true);
    alone.send_piece(3, hash.as_bytes()[0]);
    alone.mesh.inbox.clear();
    let block = Block { serial: Serial(3), offset: 0, len: 16384, piece_len: PIECE };
    alone.mesh.say(0, links[6], Message::Block(block), Bytes::from(vec![hash.as_bytes()[0]; 16384]));
    let answers: Vec<&Message> =
        alone.mesh.inbox.iter().filter(|(link, _)| *link == links[6]).map(|(_, message)| message).collect();
    assert!(matches!(answers[..], [Message::Have(_), Message::Cancel(Serial(3))]), "{answers:?}");
}

#[test]
fn who_does_not_know_who_has_what_starts_near_the_edge() {
    let mut alone = Alone::new();
    let hash = PieceHash::of(&1_u32.to_le_bytes());
    for serial in 0..66 {
        alone.mesh.closed.insert(Serial(serial), hash);
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
            alone.send_piece(request.serial.0, hash.as_bytes()[0]);
        }
        asked.extend(requests.iter().map(|request| request.serial.0));
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
    let request = Message::Request(Request { serial: Serial(20), due_in_ms: 0 });
    let answers = |mesh: &Mesh| {
        let answer = |m: &Message| matches!(m, Message::Block(_) | Message::Reject(_));
        mesh.inbox.iter().filter(|(_, m)| answer(m)).count() as u32
    };
    mesh.say(1, link, request.clone(), Bytes::new());
    for _ in 0..20 {
        if answers(&mesh) < PIECE / 16384 {
            mesh.run(SECOND / 100);
        }
    }
    assert_eq!(answers(&mesh), PIECE / 16384);
    mesh.say(1, link, request.clone(), Bytes::new());
    mesh.run(SECOND);
    assert_eq!(answers(&mesh), PIECE / 16384);
    // What was lost on its way is asked for later.
    mesh.say(1, link, request, Bytes::new());
    mesh.run(SECOND);
    assert!(answers(&mesh) > PIECE / 16384);
}

#[test]
fn a_corrupt_piece_bans_its_sender_and_is_not_held() {
    let mut alone = Alone::settled();
    let byte = alone.mesh.closed[&Serial(0)].as_bytes()[0];
    alone.send_piece(0, !byte);
    assert_eq!(alone.bans(), [HangUpReason::Corrupt]);
    assert!(!alone.mesh.members[0].node.holds(Serial(0)));
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
    alone.say(Message::Bitfield(Window { first: Serial(5_000_000), bits: Bytes::from_static(&[255; 100]) }));
    alone.mesh.run(SECOND);
    assert!(alone.requests().iter().all(|r| r.serial < Serial(20)));
    assert_eq!(alone.mesh.members[0].node.edge(), Some(Serial(20)));
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
fn a_head_that_did_not_come_is_asked_for_and_its_piece_is_due_all_the_same() {
    let mut alone = Alone::settled();
    for serial in (20..40).filter(|serial| *serial != 30) {
        alone.head(serial, PieceHash::of(&(serial as u32).to_le_bytes()), true);
    }
    alone.mesh.inbox.clear();
    alone.say(Mesh::have(20..40));
    alone.mesh.run(SECOND);
    let asked = |m: &Message| matches!(m, Message::GetHeads { first: Serial(30), count: 1 });
    assert!(alone.mesh.inbox.iter().any(|(_, m)| asked(m)));
    // Of a second holder that has only this piece: its request says when it is due.
    let other = alone.mesh.link_to_test(0, NodeId([8; 32]));
    let hello =
        Hello { version: 1, flags: HelloFlags::default(), upload_kbps: 10_000, extensions: Vec::new() };
    alone.mesh.say(0, other, Message::Hello(hello), Bytes::new());
    alone.requests();
    alone.mesh.say(0, other, Mesh::have([30]), Bytes::new());
    let requests = alone.requests();
    assert!(requests.iter().any(|r| r.serial == Serial(30) && r.due_in_ms > 0), "{requests:?}");
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
                Message::Request(Request { serial: Serial(serial), due_in_ms: 0 }),
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

#[test]
fn a_flood_is_banned_and_costs_a_bounded_number_of_answers() {
    let mut alone = Alone::settled();
    alone.mesh.inbox.clear();
    for serial in 0..20_000 {
        alone.say(Message::Request(Request { serial: Serial(serial % 20), due_in_ms: 0 }));
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
        mesh.feed(0, Input::PeersLearned { peers: flags.iter().enumerate().map(info).collect() });
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
            let request = Request { serial: Serial(serial), due_in_ms: 0 };
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
