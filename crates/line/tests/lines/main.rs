//! The estimate on modelled lines: what others on the line feel, and what of the line is used.

mod model;

use minuet_line::Settings;
use model::{Line, MBIT, Node, Other};
use proptest::prelude::*;

fn node(line: Line) -> Node {
    Node::new(line, Settings::default(), 1)
}

#[test]
fn a_line_is_filled_and_its_queue_is_not() {
    for mbit in [1.0, 3.0, 10.0, 40.0, 200.0] {
        let mut node = node(Line::new(mbit));
        let start = node.run(15.0);
        let settled = node.run(60.0);
        let (used, wait) = (settled.own / node.line.bytes_per_s, settled.wait(0.95));
        assert!(used > 0.85, "{used} of {mbit} Mbit/s");
        assert!(wait < 0.065, "{wait} s at {mbit} Mbit/s");
        assert!(start.wait(0.95) < 0.12, "{} s while {mbit} Mbit/s are found", start.wait(0.95));
    }
}

#[test]
fn a_fast_line_is_found_soon() {
    let mut node = node(Line::new(40.0));
    node.run(4.0);
    let half = node.run(1.0).own / node.line.bytes_per_s;
    node.run(5.0);
    let most = node.run(5.0).own / node.line.bytes_per_s;
    assert!(half > 0.5, "{half}");
    assert!(most > 0.8, "{most}");
}

#[test]
fn a_call_has_its_part_within_two_seconds() {
    for (mbit, call) in [(1.0, 0.3), (3.0, 1.5), (10.0, 3.0)] {
        let mut node = node(Line::new(mbit));
        node.run(30.0);
        node.others = vec![Other::Call(call * MBIT)];
        // The limit falls within the first second; what stands in the queue then takes its time to drain.
        node.run(2.0);
        let rest = node.run(20.0);
        assert!(rest.wait(0.95) < 0.075, "{} s at {mbit} Mbit/s", rest.wait(0.95));
        assert!(rest.own > 0.6 * (mbit - call) * MBIT, "{}", rest.own / MBIT);
    }
}

#[test]
fn an_upload_gets_the_line() {
    for mbit in [1.0, 3.0, 10.0] {
        for queue_s in [0.1, 0.3, 1.0] {
            let mut node = node(Line { queue_s, ..Line::new(mbit) });
            node.run(30.0);
            node.others = vec![Other::Upload];
            let beside = node.run(30.0).others / node.line.bytes_per_s;
            node.others.clear();
            node.run(5.0);
            let after = node.run(10.0).own / node.line.bytes_per_s;
            assert!(beside > 0.8, "{beside} of {mbit} Mbit/s, queue {queue_s} s");
            assert!(after > 0.8, "{after} of {mbit} Mbit/s, queue {queue_s} s");
        }
    }
}

#[test]
fn a_line_that_falls_to_a_third_is_followed() {
    for mbit in [3.0, 10.0, 40.0] {
        let mut node = node(Line::new(mbit));
        node.run(30.0);
        node.line.bytes_per_s /= 3.0;
        node.run(1.5);
        let third = node.run(8.5);
        node.line.bytes_per_s *= 3.0;
        node.run(8.0);
        let back = node.run(8.0);
        assert!(third.wait(0.95) < 0.2);
        assert!(third.own * 3.0 > 0.7 * mbit * MBIT);
        assert!(back.own > 0.7 * mbit * MBIT);
    }
}

#[test]
fn what_is_not_used_is_not_learned() {
    let mut node = node(Line::new(1000.0));
    node.wanted = 20.0 * MBIT;
    node.run(60.0);
    let limit = node.estimate.limit() as f64 / MBIT;
    assert!((20.0..=30.0).contains(&limit), "{limit}");
    assert!(node.estimate.promise() as f64 <= 22.0 * MBIT);
}

#[test]
fn a_bad_line_is_no_narrow_one() {
    let mut node = node(Line { loss: 0.05, jitter_s: 0.03, ..Line::new(50.0) });
    node.wanted = 30.0 * MBIT;
    node.run(10.0);
    let used = node.run(20.0).own / MBIT;
    assert!(used > 27.0, "{used}");
}

#[test]
fn a_source_always_sends_the_stream() {
    let line = Line::new(5.0);
    let mut node = Node::new(line, Settings { is_source: true, remembered: None }, 1);
    node.stream = 8.0 * MBIT;
    node.run(1.0);
    assert!(node.run(10.0).own > 8.5 * MBIT);
}

#[test]
fn what_was_learned_is_used_at_once() {
    let mut first = node(Line::new(10.0));
    first.run(30.0);
    let remembered = first.estimate.learned();
    let mut second = Node::new(Line::new(10.0), Settings { is_source: false, remembered }, 1);
    assert!(second.run(1.0).own > 5.0 * MBIT);
    // A line that is narrower today is not flooded for long.
    let mut narrow = Node::new(Line::new(2.0), Settings { is_source: false, remembered }, 1);
    narrow.run(3.0);
    assert!(narrow.run(10.0).wait(0.95) < 0.06);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// On any line: a stranger's packet hardly waits, and most of the line is used where all of it is wanted.
    #[test]
    fn any_line(
        mbit_log in 0.0_f64..5.0,
        queue_ms in 50_u32..1000,
        links in 1_usize..16,
        nearest_ms in 5_u32..150,
        spread_ms in 0_u32..200,
        jitter_ms in 0_u32..30,
        loss in 0.0_f64..0.03,
        seed in any::<u64>(),
    ) {
        let round_trips = (0..links)
            .map(|n| f64::from(nearest_ms) / 1e3 + f64::from(spread_ms) / 1e3 * n as f64 / links as f64)
            .collect();
        let line = Line {
            queue_s: f64::from(queue_ms) / 1e3,
            round_trips,
            jitter_s: f64::from(jitter_ms) / 1e3,
            loss,
            ..Line::new(mbit_log.exp())
        };
        let mut node = Node::new(line, Settings::default(), seed);
        node.run(15.0);
        let seen = node.run(45.0);
        let used = seen.own / node.line.bytes_per_s;
        // What the far ends tell comes a round trip later, and slow lines need time for each packet.
        let bound = 0.06 + f64::from(nearest_ms + spread_ms / 2) / 4e3 + 3.0 * 1200.0 / node.line.bytes_per_s;
        prop_assert!(seen.wait(0.95) < bound, "waits {} s, bound {bound}", seen.wait(0.95));
        // Beside jitter a queue is hard to see.
        let bound = if jitter_ms < 20 { 0.7 } else { 0.3 };
        prop_assert!(used > bound, "used {used}");
    }
}
