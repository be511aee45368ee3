//! Any bytes as the query of an announce and of a scrape; what parses goes through the table of swarms into an
//! answer.

#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use minuet_announce::answer::{PeerList, write_announce, write_refusal, write_scrape};
use minuet_announce::query::{MAX_SCRAPE, parse_announce, parse_scrape};
use minuet_announce::swarm::table::{Families, Limits, Swarms};
use minuet_announce::time::Uptime;

fuzz_target!(|input: &[u8]| {
    let limits = Limits {
        open: true,
        max_open_swarms: 4,
        max_peers: 4,
        max_want: 50,
        interval: Duration::from_secs(120),
        announces_per_second: 1_000,
    };
    let swarms = Swarms::new(limits, 1);
    let mut out = Vec::new();
    // A request a line, from as many clients, so that they meet.
    for (n, query) in (0u16..).zip(input.split(|&b| b == b'\n')) {
        let mut peers = PeerList::default();
        match parse_announce(query) {
            Ok(http) => {
                let peer = SocketAddr::from(([192, 0, (n >> 8) as u8, n as u8], http.announce.port));
                let now = Uptime(n.into());
                let random = u64::from(n) << 40;
                match swarms.announce(&http.announce, peer, Families::Both, now, random, &mut peers) {
                    Ok(answer) => write_announce(&mut out, &answer, &peers, peer.ip(), http.compact),
                    Err(refusal) => write_refusal(&mut out, refusal),
                }
                assert!(peers.len() <= 50);
            }
            Err(refusal) => write_refusal(&mut out, refusal),
        }
        if let Ok(hashes) = parse_scrape(query) {
            assert!((1..=MAX_SCRAPE).contains(&hashes.len()));
            let known: Vec<_> =
                hashes.into_iter().filter_map(|hash| Some((hash, swarms.scrape(&hash)?))).collect();
            write_scrape(&mut out, &known, 60);
        }
    }
    assert!(swarms.totals().peers <= 4);
});
