//! A gateway under siege: whoever does not read, does not write or never ends costs a bounded amount of memory, and an honest
//! viewer loses nothing. `scripts/bench siege` says how fast it answers meanwhile.

use minuet_tests::siege::{Besieged, VIEWED};

/// What memory may grow by, as docs/security.md counts it: for each of 1,024 places a request's head and a chunk of media with
/// as much on its way (16 KiB each), and 32 MiB of playlists and pages that wait for their readers.
const MOST_MORE_KIB: u64 = (1024 * 3 * 16) + (32 << 10);
/// Of the channel, in bits a second.
const RATE: u32 = 6_000_000;

fn endures(command: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let outcome = Besieged::build(dir.path(), command, RATE).endure();
    assert!(outcome.more_kib <= MOST_MORE_KIB, "{} KiB more: {:?}", outcome.more_kib, outcome.steps);
    let (first, count) = (outcome.segments[0], outcome.segments.len() as u64);
    assert_eq!(outcome.segments, (first..first + count).collect::<Vec<_>>(), "none is missing");
    assert!(count >= VIEWED, "{:?}", outcome.segments);
}

#[test]
fn a_viewers_gateway_endures_a_siege() {
    endures("watch");
}

#[test]
fn a_relays_gateway_endures_a_siege() {
    endures("relay");
}
