//! Tests of the network as a whole.

use super::*;
use crate::engine::{
    MILLISECOND,
    access::{PACER_BURST_BYTES, wire_bytes},
    path::{JITTER, LossModel},
};

const UP: u64 = 1_500_000;
const DOWN: u64 = 4_000_000;

fn access(reach: Reach) -> Access {
    Access { up: Rate(UP), down: Rate(DOWN), line: None, reach }
}

/// Two linked nodes; returns them and their link.
fn pair(loss: LossModel) -> (Network<u32>, NodeId, NodeId, LinkId) {
    let mut net = Network::new(1, loss);
    let a = net.add_node(access(Reach::Open));
    let b = net.add_node(access(Reach::Open));
    net.dial(a, b);
    let rtt = net.rtt(a, b);
    let Some(Happening::LinkUp { node, link, dialled: true, .. }) = net.next(SECOND) else { panic!() };
    assert_eq!((node, net.now()), (a, rtt * 3 / 2));
    let Some(Happening::LinkUp { node, dialled: false, .. }) = net.next(SECOND) else { panic!() };
    assert_eq!((node, net.now()), (b, rtt * 3 / 2));
    (net, a, b, link)
}

/// Times at which messages arrive, until nothing happens any more.
fn arrivals(net: &mut Network<u32>) -> Vec<(Micros, u32)> {
    let mut seen = Vec::new();
    while let Some(happening) = net.next(Micros::MAX) {
        if let Happening::Message { message, .. } = happening {
            seen.push((net.now(), message));
        }
    }
    seen
}

#[test]
fn pieces_arrive_when_rate_and_delay_say() {
    let (mut net, a, b, link) = pair(LossModel::default());
    // Past slow start.
    for number in 0..4 {
        net.send_media(a, link, 65_536, number);
    }
    arrivals(&mut net);
    let start = net.now();
    net.send_media(a, link, 65_536, 10);
    net.send_media(a, link, 65_536, 11);
    net.send_control(a, link, 20, 12);
    let one = Rate(UP).time(wire_bytes(65_536));
    let way = net.rtt(a, b) / 2;
    let seen = arrivals(&mut net);
    let control = Rate(UP).time(wire_bytes(20));
    for (at, message, expected) in [
        (seen[0].0, 12, Rate(UP).time(PACER_BURST_BYTES) + control),
        (seen[1].0, 10, one + control),
        (seen[2].0, 11, 2 * one + control),
    ] {
        let expected = start + expected + way;
        assert!((expected..=expected + JITTER + 2).contains(&at), "{message}: {at}, not {expected}");
    }
    assert_eq!(seen.iter().map(|(_, message)| *message).collect::<Vec<_>>(), [12, 10, 11]);
}

#[test]
fn two_senders_share_the_receivers_downlink() {
    let mut net: Network<u32> = Network::new(1, LossModel::default());
    let fast = Access { up: Rate(100_000_000), ..access(Reach::Open) };
    let receiver = net.add_node(access(Reach::Open));
    let senders = [net.add_node(fast), net.add_node(fast)];
    for sender in senders {
        net.dial(sender, receiver);
    }
    let mut links = Vec::new();
    while let Some(happening) = net.next(SECOND) {
        if let Happening::LinkUp { node, link, dialled: true, .. } = happening {
            links.push((node, link));
        }
    }
    for (sender, link) in &links {
        net.send_media(*sender, *link, 4_000_000, sender.0);
    }
    arrivals(&mut net);
    // Past slow start.
    let start = net.now();
    for (sender, link) in &links {
        net.send_media(*sender, *link, 4_000_000, sender.0);
    }
    let seen = arrivals(&mut net);
    let both = Rate(DOWN).time(2 * wire_bytes(4_000_000));
    let took = seen[1].0 - start;
    assert!((both..both + 100 * MILLISECOND).contains(&took), "{took}");
}

#[test]
fn a_lossy_link_resends_and_delays() {
    let always = LossModel { good: 0.5, ..LossModel::default() };
    let (mut net, a, b, link) = pair(always);
    let before = net.sent(a);
    for number in 0..50 {
        net.send_media(a, link, 65_536, number);
    }
    let seen = arrivals(&mut net);
    assert_eq!(seen.len(), 50, "reliable");
    let sent = net.sent(a);
    assert_eq!(sent.media - before.media, 50 * 65_536);
    // Half of the packets twice, a quarter thrice, …: as many resent as sent.
    let plain = 50 * wire_bytes(65_536);
    let resent = sent.transport - before.transport + 50 * 65_536 - plain;
    assert!((plain * 9 / 10..plain * 12 / 10).contains(&resent), "{resent} of {plain}");
    let floor = Rate(UP).time(2 * plain) * 9 / 10;
    assert!(seen[49].0 > floor + net.rtt(a, b), "{} {floor}", seen[49].0);
}

#[test]
fn death_is_noticed_by_idle_timeout_only_and_hanging_up_at_once() {
    let (mut net, a, b, link) = pair(LossModel::default());
    let start = net.now();
    net.kill(b);
    net.send_control(a, link, 10, 1);
    let Some(Happening::LinkDown { node, peer, .. }) = net.next(Micros::MAX) else { panic!() };
    assert_eq!((node, peer, net.now()), (a, b, start + IDLE_TIMEOUT));
    assert!(!net.send_media(a, link, 10, 1), "the link is gone");

    let (mut net, a, b, link) = pair(LossModel::default());
    let start = net.now();
    net.hang_up(a, link);
    let Some(Happening::LinkDown { node, peer, .. }) = net.next(Micros::MAX) else { panic!() };
    assert_eq!((node, peer, net.now()), (b, a, start + net.rtt(a, b) / 2));
}

#[test]
fn nobody_dials_the_dead_or_the_hidden() {
    let mut net: Network<u32> = Network::new(1, LossModel::default());
    let a = net.add_node(access(Reach::Open));
    let hidden = net.add_node(access(Reach::DialOnly));
    let dead = net.add_node(access(Reach::Open));
    let dying = net.add_node(access(Reach::Open));
    net.kill(dead);
    for peer in [hidden, dead, dying] {
        net.dial(a, peer);
    }
    net.kill(dying);
    let mut failed = Vec::new();
    while let Some(happening) = net.next(Micros::MAX) {
        match happening {
            Happening::DialFailed { node, peer } if node == a => failed.push(peer),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, [hidden, dead, dying]);
    net.dial(hidden, a);
    assert!(
        matches!(net.next(Micros::MAX), Some(Happening::LinkUp { node, dialled: false, .. }) if node == a)
    );
}

#[test]
fn dials_that_cross_become_one_link() {
    for reach in [Reach::Open, Reach::Cone] {
        let mut net: Network<u32> = Network::new(1, LossModel::default());
        let [a, b] = [(); 2].map(|()| net.add_node(access(reach)));
        net.dial(a, b);
        net.dial(b, a);
        let mut seen = Vec::new();
        while let Some(happening) = net.next(Micros::MAX) {
            match happening {
                Happening::LinkUp { node, link, dialled, .. } => seen.push((node, link, dialled)),
                other => panic!("{other:?}"),
            }
        }
        let [(first, link, true), (second, far, false)] = seen[..] else { panic!("{seen:?}") };
        assert_eq!((first, second), (a, b));
        net.send_control(a, link, 10, 1);
        assert!(matches!(net.next(Micros::MAX), Some(Happening::Message { link, .. }) if link == far));
    }
}

#[test]
fn holes_are_punched_by_class_and_for_good() {
    let mut net: Network<u32> = Network::new(1, LossModel::default());
    let open = net.add_node(access(Reach::Open));
    let cones: Vec<NodeId> = (0..60).map(|_| net.add_node(access(Reach::Cone))).collect();
    let symmetric: Vec<NodeId> = (0..60).map(|_| net.add_node(access(Reach::Symmetric))).collect();
    let mut dial = |from: &[NodeId], to: &[NodeId]| {
        for (from, to) in from.iter().zip(to) {
            net.dial(*from, *to);
        }
        let (mut up, mut failed) = (0, 0);
        while let Some(happening) = net.next(Micros::MAX) {
            match happening {
                Happening::LinkUp { dialled: true, .. } => up += 1,
                Happening::DialFailed { .. } => failed += 1,
                _ => {}
            }
        }
        (up, failed)
    };
    assert_eq!(dial(&[open; 60], &symmetric), (60, 0));
    assert_eq!(dial(&symmetric[..30], &symmetric[30..]), (0, 30));
    let (up, failed) = dial(&cones[..30], &cones[30..]);
    assert!(up + failed == 30 && (22..30).contains(&up), "{up}");
    let (up, failed) = dial(&cones, &symmetric);
    assert!(up + failed == 60 && (20..40).contains(&up), "{up}");
    // Whoever of them dials: those that failed fail again, the others have their link.
    assert_eq!(dial(&symmetric, &cones), (0, failed));
}

#[test]
fn a_timer_fires_once_at_its_earliest_setting() {
    let mut net: Network<u32> = Network::new(1, LossModel::default());
    let a = net.add_node(access(Reach::Open));
    net.set_timer(a, Some(500));
    net.set_timer(a, Some(300));
    net.set_timer(a, Some(400));
    assert!(matches!(net.next(Micros::MAX), Some(Happening::Timer { node }) if node == a));
    assert_eq!(net.now(), 300);
    assert!(net.next(Micros::MAX).is_none());
}
