//! The estimate on modelled lines: what others on the line feel, and what of the line is used.

mod model;
mod space;

use minuet_line::Settings;
use model::{MBIT, Node, Other};
use rand::RngExt;
use space::{ALL, Case, HOMES, over};

fn of(case: &Case) -> Node {
    Node::new(case.line.clone(), Settings::default(), case.seed)
}

/// What a stranger's packet may wait, but for one in twenty: the aim, and what the line itself makes of it. What the far ends
/// tell comes a round trip later, and slow lines need time for each packet.
fn wait(case: &Case) -> f64 {
    0.06 + case.round_trip() / 4.0 + 3.0 * case.packet()
}

#[test]
fn any_line_is_used_and_strangers_hardly_wait() {
    over(ALL, |case| {
        let mut node = of(case);
        node.run(15.0);
        let seen = node.run(45.0);
        let wait = wait(case);
        case.at_most("a stranger's wait", seen.wait(0.95), wait, 2.0 * wait);
        case.at_least("part of the line that is used", seen.own / node.line.bytes_per_s, 0.8, 0.3);
    });
}

#[test]
fn a_line_at_home_is_filled_and_its_queue_is_not() {
    over(HOMES, |case| {
        let mut node = of(case);
        let start = node.run(10.0);
        node.run(5.0);
        let settled = node.run(60.0);
        let wait = wait(case);
        case.at_most("a stranger's wait", settled.wait(0.95), wait, 1.5 * wait);
        case.at_least("part of the line that is used", settled.own / node.line.bytes_per_s, 0.85, 0.6);
        // The line is overrun once, by what is under way until that shows.
        let long = start.waits.iter().filter(|wait| **wait > 0.1).count() as f64 / 1e3;
        case.at_most("seconds of a wait of 100 ms in the first ten", long, 0.9, 4.0);
        case.at_most("the longest wait in the first ten seconds", start.wait(1.0), 0.35, 0.7);
    });
}

#[test]
fn what_waits_at_far_ends_is_not_taken_for_this_lines_queue() {
    over(HOMES, |case| {
        let mut node = of(case);
        node.run(20.0);
        let mut used = 0.0;
        for _ in 0..4 {
            node.line.far_s = case.rng.random_range(0.1..0.4);
            used += node.run(10.0).own / node.line.bytes_per_s / 4.0;
            node.line.far_s = 0.0;
            node.run(10.0);
        }
        // Where there is but one far end, its queue cannot be told from this line's, and where half of all have one it takes
        // some looks until each is known.
        if case.line.round_trips.len() > 2 {
            case.at_least("part of the line that is used", used, 0.4, 0.2);
        }
    });
}

#[test]
fn a_fast_line_is_found_soon() {
    over(HOMES, |case| {
        let mut node = of(case);
        node.run(2.0);
        let third = node.run(1.0).own / node.line.bytes_per_s;
        node.run(1.5);
        let fifth = node.run(1.0).own / node.line.bytes_per_s;
        node.run(5.0);
        let tenth = node.run(5.0).own / node.line.bytes_per_s;
        case.at_least("part that is used in the third second", third, 0.4, 0.05);
        case.at_least("part that is used in the fifth second", fifth, 0.75, 0.05);
        case.at_least("part that is used after ten seconds", tenth, 0.8, 0.4);
    });
}

#[test]
fn a_call_has_its_part_within_two_seconds() {
    over(HOMES, |case| {
        let call = case.rng.random_range(0.1..0.5) * case.line.bytes_per_s;
        let mut node = of(case);
        node.run(30.0);
        node.others = vec![Other::Call(call)];
        // The limit falls within the first second; what stands in the queue then takes its time to drain.
        node.run(2.0);
        let rest = node.run(20.0);
        let wait = wait(case);
        case.at_most("the call's wait", rest.wait(0.95), wait, 2.0 * wait);
        case.at_least("part that is used of the rest", rest.own / (node.line.bytes_per_s - call), 0.8, 0.5);
    });
}

#[test]
fn an_upload_gets_the_line() {
    over(HOMES, |case| {
        let mut node = of(case);
        node.run(30.0);
        node.others = vec![Other::Upload];
        let beside = node.run(30.0).others;
        node.others.clear();
        node.run(5.0);
        let after = node.run(10.0).own / node.line.bytes_per_s;
        let mut alone = of(case);
        alone.wanted = 0.0;
        alone.others = vec![Other::Upload];
        let alone = alone.run(30.0).others;
        case.at_least("part that the upload gets of what it gets alone", beside / alone, 0.8, 0.7);
        case.at_least("part of the line that is used after it", after, 0.75, 0.15);
    });
}

#[test]
fn a_line_that_falls_to_a_third_is_followed() {
    over(HOMES, |case| {
        let mut node = of(case);
        node.run(30.0);
        node.line.bytes_per_s /= 3.0;
        // By now all is in the queue that was sent before the fall showed, and that drains.
        node.run(1.5);
        let third = node.run(8.5);
        node.line.bytes_per_s *= 3.0;
        node.run(8.0);
        let back = node.run(8.0);
        case.at_most("a stranger's wait", third.wait(0.95), 0.2, 1.0);
        case.at_least("part of the third that is used", third.own * 3.0 / node.line.bytes_per_s, 0.75, 0.4);
        case.at_least("part of the line that is used after it", back.own / node.line.bytes_per_s, 0.8, 0.4);
    });
}

#[test]
fn what_is_not_used_is_not_learned() {
    over(ALL, |case| {
        case.line.bytes_per_s = 1000.0 * MBIT;
        let mut node = of(case);
        node.wanted = case.rng.random_range(1.0..30.0) * MBIT;
        node.run(60.0);
        // No more than a limit is of which `USED` is in use, one step on.
        let limit = node.estimate.limit() as f64 / node.wanted;
        case.at_least("the limit, as a multiple of what is sent", limit, 1.0, 1.0);
        case.at_most("the limit, as a multiple of what is sent,", limit, 1.7, 2.2);
        case.at_most("what is promised", node.estimate.promise() as f64 / node.wanted, 1.15, 1.4);
    });
}

#[test]
fn a_bad_line_is_no_narrow_one() {
    over(HOMES, |case| {
        case.line.loss = 0.05;
        case.line.jitter_s = 0.03;
        case.line.bytes_per_s = 50.0 * MBIT;
        let mut node = of(case);
        node.wanted = 30.0 * MBIT;
        node.run(10.0);
        case.at_least("part of what is wanted", node.run(20.0).own / node.wanted, 0.9, 0.2);
    });
}

#[test]
fn a_source_always_sends_the_stream() {
    over(HOMES, |case| {
        let settings = Settings { is_source: true, remembered: None };
        let mut node = Node::new(case.line.clone(), settings, case.seed);
        node.stream = node.line.bytes_per_s * case.rng.random_range(1.0..2.0);
        node.run(1.0);
        case.at_least("part of the stream", node.run(10.0).own / node.stream, 1.1, 1.1);
    });
}

#[test]
fn what_was_learned_is_used_at_once() {
    over(HOMES, |case| {
        let mut first = of(case);
        first.run(30.0);
        let settings = Settings { is_source: false, remembered: first.estimate.learned() };
        let mut second = Node::new(case.line.clone(), settings, case.seed + 1);
        let used = second.run(1.0).own / second.line.bytes_per_s;
        case.at_least("part of the line that is used in the first second", used, 0.5, 0.4);
        // A line that is narrower today is not flooded for long.
        case.line.bytes_per_s /= 3.0;
        let mut narrow = Node::new(case.line.clone(), settings, case.seed + 2);
        narrow.run(5.0);
        let bound = wait(case);
        case.at_most(
            "a stranger's wait where it is narrower today",
            narrow.run(20.0).wait(0.95),
            bound,
            2.5 * bound,
        );
    });
}
