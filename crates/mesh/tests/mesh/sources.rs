//! What is kept back: by those whom a source pushes to, by silent links, by those who begin and do not go on.

use bytes::Bytes;
use minuet_mesh::{Direction, Input, LinkId, PieceRef, Role, Timestamp};
use minuet_proto::mesh::{Block, Hello, HelloFlags, MIN_BLOCK_LEN, Message, NodeId, Request, Serial};
use minuet_proto::{PieceHash, PieceId, PieceIndex, SegmentSeq};

use crate::SECOND;
use crate::harness::{Alone, Bare, Mesh, PIECE};

/// How long a piece plays, in milliseconds.
const PIECE_MS: u64 = 65;

fn meet(bare: &mut Bare, number: u8) -> LinkId {
    let ip = Some([198, 51, number, 1].into());
    bare.meet(NodeId([number; 32]), Direction::Accepted, ip)
}

fn close(bare: &mut Bare, serial: u64) {
    let piece = PieceRef {
        serial: Serial::new(serial),
        id: PieceId { segment: SegmentSeq(0), piece: PieceIndex(serial as u32) },
        len: PIECE,
        hash: PieceHash::of(&serial.to_le_bytes()),
        ingest_ms: 1000 + PIECE_MS * serial,
    };
    bare.feed(Input::PieceClosed { piece, random_access: true });
}

/// Pieces that the source has begun to send since the last call, and to whom.
fn begun(bare: &mut Bare) -> Vec<(LinkId, u64)> {
    let said = bare.said.drain(..);
    said.filter_map(|(link, message)| match message {
        Message::Block(block) if block.offset == 0 => Some((link, block.serial.get())),
        _ => None,
    })
    .collect()
}

/// Of twelve neighbours two pass on nothing of what is pushed to them, and tell of all that comes to them from others.
#[test]
fn who_keeps_back_what_is_pushed_to_it_is_found_out_by_the_first_few_pieces() {
    let mut bare = Bare::new(Role::Source, |config| config.upload_limit = Some(4_000_000));
    let links: Vec<LinkId> = (0..12).map(|number| meet(&mut bare, number + 1)).collect();
    let liars = &links[..2];
    // When whoever has not got a piece from the source tells of it.
    let mut told: Vec<(Timestamp, LinkId, u64)> = Vec::new();
    let (mut kept_back, mut pushed_again) = (Vec::new(), Vec::new());
    let mut sent = std::collections::BTreeMap::<u64, usize>::new();
    for serial in 0..400 {
        close(&mut bare, serial);
        for _ in 0..5 {
            bare.run(SECOND * 13 / 1000);
            for (link, serial) in begun(&mut bare) {
                let times = sent.entry(serial).or_default();
                *times += 1;
                match (liars.contains(&link), *times) {
                    (true, 1) => kept_back.push(bare.now),
                    (of_liar, 2..) => pushed_again.push((bare.now, of_liar)),
                    _ => {}
                }
                if !liars.contains(&link) {
                    let others = links.iter().filter(|other| **other != link);
                    told.extend(others.map(|other| (bare.now + SECOND / 4, *other, serial)));
                }
            }
            let now = bare.now;
            for (_, link, serial) in told.extract_if(.., |(at, ..)| *at <= now) {
                bare.say(link, Mesh::have([serial]));
            }
        }
    }
    let begins = Timestamp(1_000_000);
    let late = kept_back.iter().filter(|at| **at > begins + 9 * SECOND).count();
    assert!(late <= 3, "{late} of {} pieces were kept back after the first nine seconds", kept_back.len());
    // From when on somebody has shown that it spreads.
    let wrong = pushed_again.iter().filter(|(at, of_liar)| *of_liar && *at > begins + 2 * SECOND).count();
    assert!(pushed_again.len() > 10 && wrong == 0, "{wrong} of {}", pushed_again.len());
}

/// At the beginning a source has silent links alone. What it has pushed there goes at once to who comes and asks for it.
#[test]
fn what_silent_links_were_pushed_is_still_nobodys() {
    // Less than the stream takes, so that there is always something new to push.
    let limit = u64::from(PIECE) * 800 / PIECE_MS;
    let mut bare = Bare::new(Role::Source, |config| config.upload_limit = Some(limit));
    for number in 1..9 {
        meet(&mut bare, number);
    }
    let mut serial = 0;
    let mut run = |bare: &mut Bare, pieces: u64| {
        for _ in 0..pieces {
            close(bare, serial);
            serial += 1;
            bare.run(SECOND * PIECE_MS as u32 / 1000);
        }
    };
    run(&mut bare, 4);
    assert!(begun(&mut bare).iter().any(|(_, serial)| *serial == 0), "it was pushed");
    let viewer = meet(&mut bare, 100);
    bare.say(viewer, Message::Request(Request { serial: Serial::ZERO, due_in_ms: 1 }));
    run(&mut bare, 4);
    assert!(begun(&mut bare).contains(&(viewer, 0)), "{:?}", bare.said);
}

/// As soon as somebody is there who tells of pieces, all that the silent links have kept goes there.
#[test]
fn what_silent_links_have_swallowed_is_pushed_again_to_the_first_who_tells() {
    let mut bare = Bare::new(Role::Source, |config| config.upload_limit = Some(4_000_000));
    for number in 1..9 {
        meet(&mut bare, number);
    }
    for serial in 0..4 {
        close(&mut bare, serial);
        bare.run(SECOND * PIECE_MS as u32 / 1000);
    }
    assert_eq!(begun(&mut bare).len(), 4, "they were pushed");
    let viewer = meet(&mut bare, 100);
    bare.say(viewer, Mesh::have([3]));
    bare.run(SECOND * 4 / 10);
    let pushed = begun(&mut bare);
    assert!((0..3).all(|serial| pushed.contains(&(viewer, serial))), "{pushed:?}");
}

#[test]
fn who_begins_pieces_and_sends_hardly_anything_of_them_is_set_aside_after_two() {
    for (sent, most) in [(MIN_BLOCK_LEN, 2), (PIECE / 2, 5)] {
        let mut alone = Alone::settled();
        alone.say(Message::DontHave((0..20).map(Serial::new).collect()));
        for _ in 0..7 {
            alone.say(Mesh::have([]));
            alone.mesh.run(SECOND);
        }
        let mut begun = 0;
        for number in 0..20u64 {
            let (link, serial) = (alone.link, 120 + 20 * number);
            let asked = alone.asked(serial, &[link], SECOND / 10);
            if !alone.mesh.members[0].links.contains_key(&link) {
                break;
            }
            assert_eq!(asked, [link], "{serial}");
            begun += 1;
            for offset in (0..sent).step_by(MIN_BLOCK_LEN as usize) {
                let block =
                    Block { serial: Serial::new(serial), offset, len: MIN_BLOCK_LEN, piece_len: PIECE };
                alone.mesh.say(0, link, Message::Block(block), Bytes::from(vec![0; MIN_BLOCK_LEN as usize]));
            }
            alone.mesh.run(SECOND * 12 / 10);
        }
        assert_eq!(begun, most, "of which {sent} bytes were sent");
        assert!(alone.bans().is_empty(), "its line may be slow");
    }
}

/// Three who claim a gigabit do not make all others look slow.
#[test]
fn who_claims_a_gigabit_does_not_come_before_all_others() {
    for claim in [1_000_000, 10_000] {
        let mut alone = Alone::settled();
        let mut meet = |node: u8, upload_kbps: u32| {
            let link = alone.mesh.link_to_test(0, NodeId([node; 32]));
            let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
            let hello = Hello { version: 1, flags, upload_kbps, extensions: Vec::new() };
            alone.mesh.say(0, link, Message::Hello(hello), Bytes::new());
            link
        };
        for node in 20..23 {
            meet(node, claim);
        }
        let modest = meet(30, 5000);
        assert_eq!(alone.asked(25, &[modest], SECOND / 10), [modest], "beside {claim} kbit/s");
    }
}
