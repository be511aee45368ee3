//! Any bytes as a UDP packet: nobody without a connection id gets more than it sent, and with one the answer fits
//! a packet.
//!
//! The first byte says whether the connection id is put right before.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use minuet_announce::swarm::table::{Limits, Swarms};
use minuet_announce::time::Uptime;
use minuet_announce::udp::connection_id::ConnectionIds;
use minuet_announce::udp::respond::Responder;

fuzz_target!(|input: &[u8]| {
    let Some((&how, packet)) = input.split_first() else { return };
    let limits = Limits {
        open: true,
        max_open_swarms: 4,
        max_peers: 4,
        max_want: 1_000,
        interval: Duration::from_secs(120),
        announces_per_second: 1_000,
    };
    let (swarms, ids) = (Swarms::new(limits, 1), ConnectionIds::default());
    let mut responder = Responder::new(&swarms, &ids);
    let sender = if how & 2 == 0 { "192.0.2.1:1" } else { "[2001:db8::1]:1" }.parse().unwrap();
    let mut packet = packet.to_vec();
    let known = how & 1 == 1 && packet.len() >= 8;
    if known {
        let id = ids.issue(std::net::SocketAddr::ip(&sender), Uptime(9));
        packet[..8].copy_from_slice(&id.to_be_bytes());
    }
    let mut out = Vec::new();
    responder.respond(&packet, sender, Uptime(9), 3, &mut out);
    assert!(out.len() <= if known { 1_472 } else { packet.len() });
});
