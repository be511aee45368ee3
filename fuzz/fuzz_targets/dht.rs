//! Any datagrams in answer to a lookup: it asks no more than it may, remembers no more, and ends.
//!
//! Each datagram is its length in two bytes, a byte that says what of it is put right before, and the rest.

#![no_main]

use std::{net::SocketAddr, time::Duration};

use libfuzzer_sys::fuzz_target;
use minuet_dht::{Beacon, Lookup, MAX_QUERIES, Message};
use minuet_proto::ChannelKey;

fuzz_target!(|input: &[u8]| {
    let _ = Beacon::decode(input);
    let channel = ChannelKey::from_seed(&[1; 32]).channel();
    let doors: Vec<SocketAddr> = (1..4).map(|n| ([198, 51, 100, n], 6881).into()).collect();
    let (mut now, mut asked, mut open) = (Duration::ZERO, 0, Vec::new());
    let mut lookup = Lookup::new(channel, Default::default(), doors, 0, now);
    let mut rest = input;
    while let Some(([high, low, how], more)) = rest.split_first_chunk::<3>() {
        while let Some(send) = lookup.poll(now) {
            asked += 1;
            open.push((send.to, send.transaction));
        }
        if lookup.is_over(now) {
            break;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (datagram, after) = more.split_at(length);
        rest = after;
        now += Duration::from_millis(u64::from(*how));
        let Some(&(from, transaction)) = open.get(usize::from(*how) % open.len().max(1)) else { continue };
        match Message::decode(datagram) {
            Ok(Message::Answer(_, answer)) => drop(lookup.on_answer(from, transaction, &answer)),
            Ok(Message::Refusal(_)) => lookup.on_refusal(from, transaction),
            _ => {}
        }
    }
    assert!(asked <= MAX_QUERIES);
    while !lookup.is_over(now) {
        while lookup.poll(now).is_some() {}
        now = lookup.wake(now).unwrap_or(now + Duration::from_secs(1));
    }
});
