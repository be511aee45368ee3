//! Finished segments: who fetches which piece from whom.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use bytes::Bytes;
use minuet_mesh::{Config, FIRST_ALONE, HangUpReason, Input, LinkId, Planned, Role, Shape, Start, Timestamp};
use minuet_proto::mesh::{Hello, HelloFlags, Kept, KeptBlock, KeptMap, Message, Minute, NodeId};
use minuet_proto::{PieceId, PieceIndex, SegmentSeq};

use crate::{
    SECOND,
    harness::{Bare, GENUINE, Mesh, PIECE, config, kept_byte},
};

const SEGMENT: SegmentSeq = SegmentSeq(7);
/// Twelve seconds at 8 Mbit/s.
const PIECES: u32 = 183;

fn shape() -> Shape {
    Shape::new(u64::from(PIECES) * u64::from(PIECE) - 1000, PIECE).unwrap()
}

fn plan(due: Timestamp) -> Input {
    Input::Plan(vec![Planned { segment: SEGMENT, from: 0, due, span: 12 * SECOND }])
}

fn elsewhere(member: usize, change: impl Fn(&mut Config)) -> Config {
    let mut config = config(member);
    config.start = Start::Told;
    change(&mut config);
    config
}

/// A source and `keepers` that have the segment, and `comers` who want it from now on.
fn past(keepers: usize, comers: usize, seed: u64) -> Mesh {
    let mut mesh = Mesh::new(seed);
    mesh.finished.insert(SEGMENT, shape());
    for member in 0..=keepers + comers {
        let role = if member == 0 { Role::Source } else { Role::Viewer };
        mesh.add(elsewhere(member, |_| {}), role);
        if member <= keepers {
            mesh.feed(member, Input::Keeps { segment: SEGMENT, shape: shape(), map: None });
        }
    }
    for member in 0..mesh.members.len() {
        mesh.introduce(member);
    }
    mesh.run(SECOND / 2);
    mesh
}

/// By how much, in all, pieces came later than in time for a reader that began with the first piece.
fn late(mesh: &Mesh, member: usize, began: Timestamp) -> std::time::Duration {
    let plan = Planned { segment: SEGMENT, from: 0, due: began, span: 12 * SECOND };
    let past = &mesh.members[member].past;
    let lateness = past.iter().map(|(piece, at)| at.since(plan.due(piece.piece.0, shape())));
    lateness.max().unwrap_or_default()
}

#[test]
fn a_finished_segment_comes_from_those_who_keep_it_and_not_from_the_source() {
    for seed in 0..4 {
        let mut mesh = past(4, 6, seed);
        let began = mesh.now;
        for member in 5..=10 {
            mesh.feed(member, plan(began));
        }
        mesh.run(14 * SECOND);
        for member in 5..=10 {
            assert_eq!(mesh.members[member].past.len(), PIECES as usize, "{member} lacks pieces");
            let late = late(&mesh, member, began);
            // What only keepers have is asked for at random within five seconds.
            assert!(late < 3 * SECOND, "{member} waited {late:?} in all");
        }
        assert_eq!(mesh.members[0].node.stats().kept_given, 0, "the source was asked");
        assert!(mesh.members.iter().all(|member| member.bans.is_empty()));
        // They have it as a whole now, and pass it on.
        let given: u64 = (5..=10).map(|member| mesh.members[member].node.stats().kept_given).sum();
        assert!(given > 0, "nobody who came passed anything on");
    }
}

#[test]
fn what_only_the_source_has_comes_from_the_source() {
    let mut mesh = past(0, 3, 5);
    let began = mesh.now;
    for member in 1..=3 {
        mesh.feed(member, plan(began));
    }
    mesh.run(16 * SECOND);
    for member in 1..=3 {
        assert_eq!(mesh.members[member].past.len(), PIECES as usize, "{member} lacks pieces");
    }
    // Three uplinks of 1.5 times the stream pass it on to each other.
    let copies = mesh.members[0].node.stats().kept_given as f64 / (f64::from(PIECES) * f64::from(PIECE));
    assert!(copies < 2.0, "the source gave {copies:.2} copies");
}

/// The source is asked for what is due within six seconds, and not only for what is almost due.
#[test]
fn a_crowd_that_only_the_source_can_serve_has_some_seconds_ahead() {
    let mut mesh = past(0, 4, 1);
    let began = mesh.now;
    (1..=4).for_each(|member| mesh.feed(member, plan(began + 2 * SECOND)));
    mesh.run(5 * SECOND);
    let due = Planned { segment: SEGMENT, from: 0, due: began + 2 * SECOND, span: 12 * SECOND };
    for member in 1..=4 {
        let ahead = |piece: &PieceId| due.due(piece.piece.0, shape()) > mesh.now + 2 * SECOND;
        let count = mesh.members[member].past.iter().filter(|(piece, _)| ahead(piece)).count();
        assert!(count > 10, "{member} has {count} pieces that are due later than in two seconds");
    }
}

#[test]
fn the_live_edge_goes_first() {
    let run = |shifted: bool| {
        // Hardly more than the live edge takes.
        let mut mesh = Mesh::live(6, 3, |_, config| config.upload_limit = Some(1_150_000));
        mesh.finished.insert(SEGMENT, shape());
        for member in 0..=3 {
            mesh.feed(member, Input::Keeps { segment: SEGMENT, shape: shape(), map: None });
        }
        for member in 7..=9 {
            mesh.add(elsewhere(member, |_| {}), Role::Viewer);
            mesh.introduce(member);
        }
        mesh.stream(300);
        mesh.run(5 * SECOND);
        if shifted {
            for member in 7..=9 {
                let now = mesh.now;
                mesh.feed(member, plan(now));
            }
        }
        mesh.run(15 * SECOND);
        let stored: usize = (1..=6).map(|member| mesh.members[member].stored.len()).sum();
        let given: u64 = mesh.members.iter().map(|member| member.node.stats().kept_given).sum();
        (stored, given)
    };
    let ((alone, none), (with, given)) = (run(false), run(true));
    assert_eq!(none, 0);
    assert!(given > u64::from(PIECES) * u64::from(PIECE) / 2, "nothing is left for what is past: {given}");
    // A piece each way that is under way at the end.
    assert!(with + 12 >= alone, "{with} live pieces came, and {alone} where nobody fetched what is past");
}

#[test]
fn a_piece_that_does_not_verify_bans_its_sender_and_comes_from_another() {
    let mut mesh = past(3, 1, 6);
    mesh.members[1].forges = true;
    let began = mesh.now;
    mesh.feed(4, plan(began));
    mesh.run(20 * SECOND);
    assert_eq!(mesh.members[4].past.len(), PIECES as usize);
    assert_eq!(mesh.members[4].bans, [(1, HangUpReason::Corrupt)]);
}

/// One node that wants the segment, and a neighbour that the test plays.
fn bare() -> (Bare, LinkId) {
    let mut bare = Bare::new(Role::Viewer, |config| config.start = Start::Told);
    let link = greeted(&mut bare, 9, false);
    let due = bare.now;
    bare.feed(plan(due));
    (bare, link)
}

fn greeted(bare: &mut Bare, node: u8, source: bool) -> LinkId {
    let link = bare.link(NodeId([node; 32]), minuet_mesh::Direction::Accepted, None);
    let flags = HelloFlags { dialable: true, source, ..HelloFlags::default() };
    bare.say(link, Message::Hello(Hello { version: 3, flags, upload_kbps: 10_000, extensions: vec![] }));
    link
}

fn whole() -> Message {
    Message::Kept(Kept::Whole([(SEGMENT, 1)].into_iter().collect()))
}

/// What it asked for since the last look.
fn requests(bare: &mut Bare) -> Vec<(LinkId, u32)> {
    let said = bare.said.drain(..);
    let request = |(link, message)| match message {
        Message::Kept(Kept::Request { piece, .. }) => Some((link, piece.piece.0)),
        _ => None,
    };
    said.filter_map(request).collect()
}

fn asks_for_hashes(bare: &mut Bare) -> Option<LinkId> {
    let said = bare.said.drain(..);
    let asked = said.filter(|(_, message)| matches!(message, Message::Kept(Kept::GetMinute { .. })));
    asked.map(|(link, _)| link).last()
}

#[test]
fn hashes_are_asked_of_another_when_they_do_not_come() {
    let (mut bare, first) = bare();
    assert_eq!(asks_for_hashes(&mut bare), None, "nobody is known to have it");
    bare.say(first, whole());
    bare.run(SECOND / 5);
    assert_eq!(asks_for_hashes(&mut bare), Some(first));
    let second = greeted(&mut bare, 8, false);
    bare.say(second, whole());
    bare.run(7 * SECOND / 10);
    assert_eq!(asks_for_hashes(&mut bare), Some(second));
    // Whoever answers first counts, and nobody is blamed for being second.
    let minute = Minute {
        segment: SEGMENT,
        first: PieceIndex(0),
        record: Bytes::from_static(GENUINE),
        hashes: Bytes::new(),
    };
    bare.say(first, Message::Kept(Kept::Minute(minute)));
    assert_eq!(bare.minutes, 1);
    assert!(bare.is_up(first) && bare.is_up(second));
}

#[test]
fn hashes_that_nobody_asked_for_are_not_looked_at() {
    let (mut bare, link) = bare();
    let minute = Minute {
        segment: SEGMENT,
        first: PieceIndex(0),
        record: Bytes::from_static(GENUINE),
        hashes: Bytes::new(),
    };
    bare.say(link, Message::Kept(Kept::Minute(minute)));
    assert_eq!(bare.minutes, 0);
    bare.say(link, whole());
    bare.run(SECOND / 5);
    bare.feed(Input::Learned { link, segment: SEGMENT, learned: minuet_mesh::Learned::Wrong });
    assert!(!bare.is_up(link));
}

/// The segment's hashes are known.
fn known() -> (Bare, LinkId) {
    let (mut bare, link) = bare();
    bare.feed(Input::Keeps { segment: SEGMENT, shape: shape(), map: Some(Bytes::new()) });
    (bare, link)
}

#[test]
fn what_is_due_is_asked_for_in_order_and_not_of_everybody() {
    let (mut bare, first) = known();
    let second = greeted(&mut bare, 8, false);
    bare.said.clear();
    bare.say(first, whole());
    assert_eq!(requests(&mut bare), [(first, 0), (first, 1)]);
    bare.say(second, whole());
    assert_eq!(requests(&mut bare), [(second, 2), (second, 3)]);
    // What is urgent is asked of a second one after a while.
    bare.run(SECOND);
    let again = requests(&mut bare);
    assert!(again.is_empty(), "both have two requests open: {again:?}");
}

#[test]
fn the_source_is_left_alone_as_long_as_another_has_it() {
    let (mut bare, other) = known();
    let source = greeted(&mut bare, 8, true);
    bare.said.clear();
    bare.say(source, whole());
    assert_eq!(requests(&mut bare), [], "others may yet say that they have it");
    bare.say(other, whole());
    bare.run(SECOND);
    assert!(requests(&mut bare).iter().all(|(link, _)| *link == other));
    bare.feed(Input::LinkDown { link: other });
    bare.run(SECOND);
    assert!(requests(&mut bare).iter().any(|(link, _)| *link == source), "nobody else has it");
}

#[test]
fn who_never_sends_what_it_says_it_has_keeps_nobody_from_the_source() {
    let (mut bare, first) = known();
    let liars = [first, greeted(&mut bare, 7, false), greeted(&mut bare, 6, false)];
    let source = greeted(&mut bare, 8, true);
    bare.said.clear();
    bare.say(source, whole());
    for liar in liars {
        bare.say(liar, whole());
    }
    bare.run(SECOND);
    assert!(requests(&mut bare).iter().all(|(link, _)| *link != source), "their word is believed at first");
    bare.run(SECOND);
    let asked = requests(&mut bare);
    assert!(asked.contains(&(source, 0)), "what is due goes on: {asked:?}");
}

#[test]
fn who_says_that_it_has_what_it_never_sends_is_banned() {
    let (mut bare, link) = known();
    bare.say(link, whole());
    for _ in 0..40 {
        bare.say(link, Message::Have(minuet_proto::mesh::SerialList::new()));
        bare.run(SECOND / 2);
    }
    assert_eq!(bare.hung_up, [(link, HangUpReason::Liar, true)]);
}

#[test]
fn who_has_not_what_it_said_is_not_asked_again() {
    let (mut bare, link) = known();
    bare.say(
        link,
        Message::Kept(Kept::Map(KeptMap { segment: SEGMENT, wants: false, bits: vec![0xc0].into() })),
    );
    assert_eq!(requests(&mut bare), [(link, 0), (link, 1)]);
    let piece = PieceId { segment: SEGMENT, piece: PieceIndex(0) };
    bare.say(link, Message::Kept(Kept::Reject { piece, has: false }));
    bare.run(SECOND);
    assert_eq!(requests(&mut bare), []);
    // One that is only busy is.
    let piece = PieceId { segment: SEGMENT, piece: PieceIndex(1) };
    bare.say(link, Message::Kept(Kept::Reject { piece, has: true }));
    bare.run(SECOND);
    assert_eq!(requests(&mut bare), [(link, 1)]);
}

#[test]
fn blocks_that_nobody_asked_for_are_charged_and_end_the_link() {
    let (mut bare, link) = known();
    let block = KeptBlock {
        piece: PieceId { segment: SEGMENT, piece: PieceIndex(50) },
        offset: 0,
        len: 16_384,
        piece_len: PIECE,
    };
    for _ in 0..400 {
        let payload = Bytes::from(vec![kept_byte(block.piece); 16_384]);
        bare.feed(Input::Message { link, message: Message::Kept(Kept::Block(block)), payload });
    }
    assert_eq!(bare.hung_up, [(link, HangUpReason::Flood, true)]);
}

#[test]
fn readers_at_several_places_are_served_by_deadline() {
    let (mut bare, link) = known();
    let other = SegmentSeq(3);
    bare.feed(Input::Keeps { segment: other, shape: shape(), map: Some(Bytes::new()) });
    let (now, span) = (bare.now, 12 * SECOND);
    bare.feed(Input::Plan(vec![
        Planned { segment: SEGMENT, from: 0, due: now + 2 * SECOND, span },
        Planned { segment: other, from: 500_000, due: now + SECOND, span },
    ]));
    bare.said.clear();
    bare.say(link, Message::Kept(Kept::Whole([(other, 1), (SEGMENT, 1)].into_iter().collect())));
    let first = PIECES / 2;
    assert_eq!(requests(&mut bare), [(link, first), (link, first + 1)]);
}

/// A source whose only viewer plays what is past must have its uplink for that.
#[test]
fn a_source_pushes_nothing_to_who_plays_what_is_past() {
    let mut mesh = past(0, 2, 7);
    mesh.stream(400);
    mesh.run(3 * SECOND);
    let began = mesh.now;
    for member in 1..=2 {
        mesh.feed(member, plan(began));
    }
    mesh.run(16 * SECOND);
    for member in 1..=2 {
        assert_eq!(mesh.members[member].past.len(), PIECES as usize, "{member} lacks pieces");
        assert!(mesh.members[member].bans.is_empty(), "{:?}", mesh.members[member].bans);
    }
    let stats = *mesh.members[0].node.stats();
    assert_eq!(stats.payload_sent, stats.kept_given, "live pieces were pushed");
}

/// Pieces that are asked for, in milliseconds until they are due, and in which order they are begun.
fn served(asked: &[(usize, u32, u32)]) -> Vec<(usize, u32)> {
    let mut bare = Bare::new(Role::Relay, |config| config.upload_limit = Some(400_000));
    bare.feed(Input::Keeps { segment: SEGMENT, shape: shape(), map: None });
    let links: Vec<LinkId> = (8..12).map(|number| greeted(&mut bare, number, false)).collect();
    for (who, piece, due_in_ms) in asked.iter().copied() {
        let piece = PieceId { segment: SEGMENT, piece: PieceIndex(piece) };
        bare.say(links[who], Message::Kept(Kept::Request { piece, due_in_ms }));
    }
    bare.run(4 * SECOND);
    let begun = bare.said.iter().filter_map(|(link, message)| match message {
        Message::Kept(Kept::Block(block)) if block.offset == 0 => {
            Some((links.iter().position(|of| of == link).unwrap(), block.piece.piece.0))
        }
        _ => None,
    });
    begun.collect()
}

#[test]
fn the_piece_that_a_reader_begins_with_goes_first_and_one_in_a_while() {
    let others = [(0, 0, 2), (0, 1, 2), (1, 2, 2), (1, 3, 2)];
    let ask = |mine: &[(usize, u32, u32)]| served(&[&others, mine].concat());
    // The first is sent already, so others have it; what none has had goes before it.
    let place = |begun: &[(usize, u32)], of: (usize, u32)| begun.iter().position(|other| *other == of);
    assert_eq!(place(&ask(&[(2, 0, 2)]), (2, 0)), Some(4));
    let begun = ask(&[(2, 0, 1)]);
    assert_eq!(place(&begun, (2, 0)), Some(1), "{begun:?}");
    // Who says so of all that it asks for has one of them.
    let begun = ask(&[(2, 0, 1), (2, 1, 1)]);
    assert_eq!((place(&begun, (2, 0)), place(&begun, (2, 1))), (Some(1), Some(5)), "{begun:?}");
}

#[test]
fn only_the_piece_that_a_reader_begins_with_is_asked_for_until_it_is_here() {
    let mut mesh = past(2, 1, 3);
    let alone = Planned { segment: SEGMENT, from: 500_000, due: mesh.now, span: FIRST_ALONE };
    mesh.feed(3, Input::Plan(vec![alone]));
    mesh.run(2 * SECOND);
    let came: Vec<u32> = mesh.members[3].past.keys().map(|piece| piece.piece.0).collect();
    assert_eq!(came, [PIECES / 2]);
}

#[test]
fn a_keeper_sends_what_it_has_not_sent_before_it_sends_anything_again() {
    let mut bare = Bare::new(Role::Relay, |config| config.upload_limit = Some(200_000));
    bare.feed(Input::Keeps { segment: SEGMENT, shape: shape(), map: None });
    let (a, b) = (greeted(&mut bare, 8, false), greeted(&mut bare, 9, false));
    let ask = |bare: &mut Bare, link, piece| {
        let piece = PieceId { segment: SEGMENT, piece: PieceIndex(piece) };
        bare.say(link, Message::Kept(Kept::Request { piece, due_in_ms: 2 }));
    };
    ask(&mut bare, a, 0);
    ask(&mut bare, b, 0);
    bare.run(SECOND / 100);
    ask(&mut bare, a, 1);
    bare.run(2 * SECOND);
    let begun = bare.said.iter().filter_map(|(link, message)| match message {
        Message::Kept(Kept::Block(block)) if block.offset == 0 => Some((*link, block.piece.piece.0)),
        _ => None,
    });
    assert_eq!(begun.collect::<Vec<_>>(), [(a, 0), (a, 1), (b, 0)]);
}
