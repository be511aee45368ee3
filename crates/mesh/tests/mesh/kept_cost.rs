//! What a neighbour may make a node spend, and hold, that fetches finished segments.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use bytes::Bytes;
use minuet_mesh::{Direction, HangUpReason, Input, LinkId, Planned, Role, Shape, Start};
use minuet_proto::mesh::{Hello, HelloFlags, Kept, KeptBlock, KeptMap, Message, Minute, NodeId};
use minuet_proto::{PieceId, PieceIndex, SegmentSeq};

use crate::{
    SECOND,
    harness::{Bare, PIECE},
};

/// As many as readers may want at a time.
const WANTED: u64 = 12;
const PIECES: u32 = 900;

fn piece(segment: u64, piece: u32) -> PieceId {
    PieceId { segment: SegmentSeq(segment), piece: PieceIndex(piece) }
}

fn map(segment: u64, wants: bool, bits: Bytes) -> Message {
    Message::Kept(Kept::Map(KeptMap { segment: SegmentSeq(segment), wants, bits }))
}

fn have(segment: u64, pieces: impl IntoIterator<Item = u32>) -> Message {
    let pieces = pieces.into_iter().map(PieceIndex).collect();
    Message::Kept(Kept::Have { segment: SegmentSeq(segment), pieces })
}

fn greeted(bare: &mut Bare, node: u8) -> LinkId {
    let link = bare.link(NodeId([node; 32]), Direction::Accepted, None);
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    bare.say(link, Message::Hello(Hello { version: 3, flags, upload_kbps: 10_000, extensions: vec![] }));
    link
}

/// A node that wants as much as it can, none of which is here, and a neighbour.
fn fetching() -> (Bare, LinkId) {
    let mut bare = Bare::new(Role::Viewer, |config| config.start = Start::Told);
    let link = greeted(&mut bare, 9);
    let shape = Shape::new(u64::from(PIECES) * u64::from(PIECE), PIECE).unwrap();
    for segment in 0..WANTED {
        let segment = SegmentSeq(segment);
        bare.feed(Input::Keeps { segment, shape, map: Some(Bytes::new()) });
    }
    let due = bare.now + SECOND;
    let plan = |segment| Planned { segment: SegmentSeq(segment), from: 0, due, span: 60 * SECOND };
    bare.feed(Input::Plan((0..WANTED).map(plan).collect()));
    // What comes next is not in the same moment.
    bare.run(SECOND);
    bare.said.clear();
    (bare, link)
}

/// What it asked for since the last look.
fn requests(bare: &mut Bare) -> Vec<PieceId> {
    let said = bare.said.drain(..);
    let asked = said.filter_map(|(_, message)| match message {
        Message::Kept(Kept::Request { piece, .. }) => Some(piece),
        _ => None,
    });
    asked.collect()
}

#[test]
fn every_word_about_finished_segments_is_charged() {
    /// What is said, the number-th of it, and how many of it a neighbour may say at once.
    type Flood = (&'static str, fn(u64) -> Kept, usize);
    let floods: [Flood; 10] = [
        ("ranges", |n| Kept::Whole([(SegmentSeq(n), 1)].into_iter().collect()), 150),
        (
            "maps",
            |n| Kept::Map(KeptMap { segment: SegmentSeq(n), wants: true, bits: vec![255; 100].into() }),
            150,
        ),
        (
            "long lists",
            |n| Kept::Have { segment: SegmentSeq(n % 3), pieces: (0..900).map(PieceIndex).collect() },
            80,
        ),
        (
            "lists of one",
            |n| Kept::Have { segment: SegmentSeq(n % 3), pieces: [PieceIndex(7)].into_iter().collect() },
            7000,
        ),
        ("questions for hashes", |n| Kept::GetMinute { segment: SegmentSeq(n), first: PieceIndex(0) }, 220),
        (
            "questions for many hashes",
            |n| Kept::GetMinute { segment: SegmentSeq(n % 3), first: PieceIndex(0) },
            30,
        ),
        (
            "hashes",
            |n| {
                let (record, hashes) = (Bytes::from_static(b"x"), Bytes::new());
                Kept::Minute(Minute { segment: SegmentSeq(n), first: PieceIndex(0), record, hashes })
            },
            80,
        ),
        ("requests", |n| Kept::Request { piece: piece(n % 12, n as u32 % 900), due_in_ms: 1 }, 7000),
        ("cancels", |n| Kept::Cancel(piece(n % 12, 0)), 7000),
        ("refusals", |n| Kept::Reject { piece: piece(n % 12, 0), has: true }, 7000),
    ];
    for (what, kept, most) in floods {
        let (mut bare, link) = fetching();
        let count = (0..20_000).take_while(|n| {
            bare.say(link, Message::Kept(kept(*n)));
            bare.is_up(link)
        });
        assert!(count.count() < most, "{what}");
        assert_eq!(bare.hung_up, [(link, HangUpReason::Flood, true)], "{what}");
    }
    let (mut bare, link) = fetching();
    let block = KeptBlock { piece: piece(0, 50), offset: 0, len: 16_384, piece_len: PIECE };
    let count = (0..20_000).take_while(|_| {
        let message = Message::Kept(Kept::Block(block));
        bare.feed(Input::Message { link, message, payload: Bytes::from(vec![0; 16_384]) });
        bare.is_up(link)
    });
    assert!(count.count() < 400, "blocks");
}

#[test]
fn what_a_neighbour_tells_of_finished_segments_takes_no_more_than_its_bound() {
    let (mut bare, link) = fetching();
    // Of all that is wanted, and of much that is not; longer than any of it is.
    for round in 0..50u64 {
        bare.say(link, map(round % 40, true, vec![0xff; 8192].into()));
        bare.say(link, have(round % 40, [65_535]));
        let ranges = (0..64).map(|n| (SegmentSeq(1000 + n * 3 + round), 1)).collect();
        bare.say(link, Message::Kept(Kept::Whole(ranges)));
        assert!(bare.is_up(link));
        let load = bare.node.load();
        assert!(load.told_bytes <= 12 * 8192 + 2048, "{load:?}");
        assert!(load.backlog_bytes <= 1 << 20, "{load:?}");
        bare.run(SECOND / 50);
    }
    assert!(bare.node.load().told_bytes > 12 * 8192);
    // What is not wanted any more is forgotten.
    bare.feed(Input::Plan(Vec::new()));
    assert!(bare.node.load().told_bytes <= 2048);
}

#[test]
fn a_neighbour_that_says_much_is_heeded_no_more_often_than_one_that_says_little() {
    let (mut bare, link) = fetching();
    // It has one piece after the other, and each time there is something to choose.
    let mut asked = 0;
    for number in 0..1000 {
        bare.say(link, have(0, [number % PIECES]));
        for piece in requests(&mut bare) {
            asked += 1;
            bare.say(link, Message::Kept(Kept::Reject { piece, has: true }));
        }
    }
    assert!(asked <= 2, "{asked} times in the same moment");
    assert!(bare.is_up(link));
    bare.run(SECOND);
    assert!(!requests(&mut bare).is_empty(), "what it has is asked for");
}

#[test]
fn refusals_make_a_node_choose_anew_no_more_often_than_they_may() {
    let (mut bare, link) = fetching();
    let other = greeted(&mut bare, 8);
    let all = || vec![0xff; PIECES as usize / 8];
    bare.say(link, map(0, false, all().into()));
    bare.run(SECOND / 5);
    let mut open = requests(&mut bare);
    assert_eq!(open.len(), 2);
    // The other comes to have what the first says that it lacks.
    bare.say(other, have(1, [0]));
    bare.run(SECOND / 5);
    open.extend(requests(&mut bare).into_iter().filter(|piece| piece.segment.0 == 0));
    let mut refused = 0;
    while let Some(piece) = open.pop() {
        refused += 1;
        bare.say(link, Message::Kept(Kept::Reject { piece, has: false }));
        open.extend(requests(&mut bare).into_iter().filter(|piece| piece.segment.0 == 0));
    }
    // Each refusal would bring another request, and with it another refusal, until the flood limit ends it.
    assert!(refused <= 5, "{refused} in the same moment");
    assert!(bare.is_up(link));
}
