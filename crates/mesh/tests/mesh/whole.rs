//! Whole meshes: what holds whatever the order, loss and doubling of messages.

use crate::{
    SECOND,
    harness::{Faults, Mesh, PIECE, config},
};
use minuet_mesh::{Input, Role, Timestamp};
use minuet_proto::mesh::Serial;
use proptest::prelude::*;

/// Bytes sent in the fullest second, from any instant on.
fn busiest_second(sent: &[(Timestamp, usize)]) -> usize {
    let mut first = 0;
    let (mut sum, mut most) = (0, 0);
    for (at, bytes) in sent {
        sum += bytes;
        while sent[first].0 + SECOND <= *at {
            sum -= sent[first].1;
            first += 1;
        }
        most = most.max(sum);
    }
    most
}

#[test]
fn ten_nodes_get_every_piece_and_the_source_sends_each_about_once() {
    let mut mesh = Mesh::live(9, 1, |_, _| {});
    mesh.run(2 * SECOND);
    mesh.stream(300);
    mesh.run(30 * SECOND);
    let start = mesh.members[1].started.expect("a start is found");
    assert_eq!(start, Serial::new(0));
    for member in &mesh.members[1..] {
        assert_eq!(member.stored.len(), 300);
        assert!(member.stored.values().all(|times| *times == 1));
        assert!(member.bans.is_empty());
        // Two are asked for one piece only at the start, when everything is due at once.
        assert!(member.double_asked.iter().all(|s| s.get() < 61), "{:?}", member.double_asked);
        assert!(member.requests > 100);
    }
    let copies = mesh.members[0].node.stats().payload_sent as f64 / (300.0 * f64::from(PIECE));
    assert!((1.0..1.1).contains(&copies), "{copies}");
}

#[test]
fn a_newcomer_starts_behind_the_target_delay() {
    let mut mesh = Mesh::live(4, 2, |_, _| {});
    mesh.run(SECOND);
    mesh.stream(200);
    mesh.run(10 * SECOND);
    let late = mesh.add(config(5), Role::Viewer);
    mesh.introduce(late);
    mesh.run(SECOND);
    let edge = mesh.closed.len() as u64;
    let start = mesh.members[late].started.expect("a start is found").get();
    // 4 s are 61 pieces; random access points are 8 pieces apart.
    assert!((edge - 100..edge - 61).contains(&start), "{start} of {edge}");
    assert!(mesh.members[late].stored.contains_key(&Serial::new(start)));
    assert!(mesh.members[late].stored.keys().all(|s| s.get() >= start));
}

#[test]
fn all_tables_are_empty_when_all_neighbours_are_gone() {
    let mut mesh = Mesh::live(5, 3, |_, _| {});
    mesh.stream(100);
    mesh.run(4 * SECOND);
    assert!(mesh.members[1].node.open_work() > 50);
    for member in (0..=5).filter(|m| *m != 1) {
        mesh.kill(member);
    }
    mesh.run(8 * SECOND);
    assert_eq!(mesh.members[1].node.open_work(), 0);
    assert_eq!(mesh.members[1].node.link_count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// That no byte is stored or sent unverified is asserted in the harness, at every step.
    #[test]
    fn whatever_order_loss_and_doubling(
        seed: u64,
        lose in 0.0..0.1,
        double in 0.0..0.1,
        delay in 0.0..0.3,
        corrupt in prop_oneof![Just(0.0), 0.0..0.02],
        limit in 200_000u64..2_000_000,
        killed in 1usize..6,
    ) {
        let mut mesh = Mesh::live(5, seed, |_, config| {
            config.upload_limit = Some(limit);
            config.window = 256;
        });
        mesh.faults = Faults { lose, double, delay, corrupt };
        mesh.stream(320);
        mesh.run(6 * SECOND);
        mesh.kill(killed);
        mesh.run(16 * SECOND);
        for member in &mesh.members {
            let most = busiest_second(&member.sent) as u64;
            prop_assert!(most <= limit, "{most} bytes in a second of {limit}");
            prop_assert!(member.node.held() <= 256);
            prop_assert!(member.most_kept <= 256, "{} pieces kept", member.most_kept);
            // The cause for asking a second one is that the piece is due soon.
            let left = member.earliest_double;
            prop_assert!(left <= SECOND * 9 / 10, "asked twice {left:?} before it is due");
        }
        for member in 1..mesh.members.len() {
            mesh.kill(member);
        }
        mesh.run(8 * SECOND);
        prop_assert_eq!(mesh.members[0].node.open_work(), 0);
    }
}

#[test]
fn a_node_that_uploads_nothing_sends_no_block() {
    let mut mesh = Mesh::live(4, 6, |member, config| config.upload = member != 2);
    mesh.stream(100);
    mesh.run(12 * SECOND);
    assert_eq!(mesh.members[2].node.stats().payload_sent, 0);
    let missing: Vec<_> =
        (0..100).filter(|s| !mesh.members[2].stored.contains_key(&Serial::new(*s))).collect();
    assert!(missing.is_empty(), "{missing:?} {:?}", mesh.members[2].started);
}

#[test]
fn a_node_that_leaves_says_so() {
    let mut mesh = Mesh::live(3, 7, |_, _| {});
    mesh.run(SECOND);
    mesh.feed(1, Input::Leave);
    mesh.run(SECOND);
    assert_eq!(mesh.members[1].node.link_count(), 0);
    assert!(mesh.members[2].links.values().all(|peer| *peer != 1));
}
