//! From a packet to its answer, without a socket.
//!
//! What is not a request is not answered, and neither is a connection id that was not issued to its sender: a
//! forged sender address gets one packet of 16 bytes for one of 16. Everything longer goes only to who has shown
//! that it gets what is sent to its address.

use std::net::SocketAddr;

use minuet_proto::InfoHash;

use super::connection_id::ConnectionIds;
use super::packet::{self, Packet, Request};
use crate::DEFAULT_WANT;
use crate::answer::PeerList;
use crate::swarm::slot::{Slot as _, V4Slot, V6Slot};
use crate::swarm::table::{Families, Swarms};
use crate::time::Uptime;

/// What a responder has done with packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connection ids issued.
    pub connects: u64,
    /// Announces answered with peers.
    pub announces: u64,
    /// Scrapes answered.
    pub scrapes: u64,
    /// Announces refused.
    pub refusals: u64,
    /// Packets that were not answered.
    pub ignored: u64,
}

/// Answers packets. One for each thread, as it keeps scratch memory.
#[derive(Debug)]
pub struct Responder<'a> {
    swarms: &'a Swarms,
    ids: &'a ConnectionIds,
    peers: PeerList,
    /// What has been done so far.
    pub tally: Tally,
}

impl<'a> Responder<'a> {
    /// A responder for these swarms.
    pub fn new(swarms: &'a Swarms, ids: &'a ConnectionIds) -> Self {
        Self { swarms, ids, peers: PeerList::default(), tally: Tally::default() }
    }

    /// Appends the answer to `bytes` from `sender` to `out`; appends nothing when there is none.
    pub fn respond(&mut self, bytes: &[u8], sender: SocketAddr, now: Uptime, random: u64, out: &mut Vec<u8>) {
        let ip = sender.ip().to_canonical();
        let Some(packet) = Packet::parse(bytes).filter(|packet| {
            packet.request == Request::Connect || self.ids.check(packet.connection_id, ip, now)
        }) else {
            self.tally.ignored += 1;
            return;
        };
        let transaction_id = packet.transaction_id;
        match packet.request {
            Request::Connect => {
                self.tally.connects += 1;
                packet::write_connect(out, transaction_id, self.ids.issue(ip, now));
            }
            Request::Announce(mut announce) => {
                let fits = if ip.is_ipv4() { MOST_V4 } else { MOST_V6 };
                announce.want = Some(announce.want.unwrap_or(DEFAULT_WANT).min(fits));
                let peer = SocketAddr::new(ip, announce.port);
                self.peers.clear();
                let peers = &mut self.peers;
                match self.swarms.announce(&announce, peer, Families::Own, now, random, peers) {
                    Ok(answer) => {
                        self.tally.announces += 1;
                        // The length of a peer follows the family of the packet (BEP 15).
                        let peers = if ip.is_ipv4() { &peers.v4 } else { &peers.v6 };
                        packet::write_announce(out, transaction_id, &answer, peers);
                    }
                    Err(refusal) => {
                        self.tally.refusals += 1;
                        packet::write_error(out, transaction_id, &refusal.to_string());
                    }
                }
            }
            Request::Scrape(hashes) => {
                self.tally.scrapes += 1;
                let counts =
                    hashes.iter().map(|hash| self.swarms.scrape(&InfoHash::new(*hash)).unwrap_or_default());
                packet::write_scrape(out, transaction_id, counts);
            }
        }
    }
}

/// The most peers in an IPv4 answer: it fits an Ethernet frame (1,472 bytes).
const MOST_V4: u32 = (1472 - packet::ANSWER_HEAD_LENGTH as u32) / V4Slot::COMPACT_LEN as u32;
/// The most peers in an IPv6 answer: it fits the least that every IPv6 link carries (1,232 bytes).
const MOST_V6: u32 = (1232 - packet::ANSWER_HEAD_LENGTH as u32) / V6Slot::COMPACT_LEN as u32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::swarm::table::Limits;
    use crate::udp::packet::tests::{announce, connect};

    fn swarms() -> Swarms {
        let limits = Limits {
            open: false,
            max_open_swarms: 10,
            max_peers: 10_000,
            max_want: 10_000,
            interval: Duration::from_secs(120),
            announces_per_second: 1_000,
        };
        let swarms = Swarms::new(limits, 1);
        swarms.admit(InfoHash::new([1; 20]), None);
        swarms
    }

    fn ask(responder: &mut Responder<'_>, packet: &[u8], from: &str, now: u32) -> Vec<u8> {
        let mut out = Vec::new();
        responder.respond(packet, from.parse().unwrap(), Uptime(now), 5, &mut out);
        out
    }

    fn connection(responder: &mut Responder<'_>, from: &str) -> u64 {
        let answer = ask(responder, &connect(77), from, 0);
        assert_eq!(answer[..8], [0, 0, 0, 0, 0, 0, 0, 77]);
        u64::from_be_bytes(answer[8..].try_into().unwrap())
    }

    #[test]
    fn two_clients_find_each_other_in_their_own_family() {
        let (swarms, ids) = (swarms(), ConnectionIds::default());
        let mut responder = Responder::new(&swarms, &ids);
        for (a, b, compact) in [
            ("192.0.2.1:1000", "192.0.2.2:1000", vec![192, 0, 2, 1, 0, 81]),
            ("[2001:db8::1]:1000", "[2001:db8::2]:1000", {
                let mut v6 = vec![0x20, 1, 0x0d, 0xb8];
                v6.extend([0; 11]);
                v6.extend([1, 0, 81]);
                v6
            }),
            ("[::ffff:198.51.100.1]:9", "198.51.100.2:9", vec![198, 51, 100, 1, 0, 81]),
        ] {
            let id = connection(&mut responder, a);
            let answer = ask(&mut responder, &announce(id, [1; 20], 81, 5, -1), a, 30);
            assert_eq!(answer[..8], [0, 0, 0, 1, 0, 0, 0, 9]);
            let id = connection(&mut responder, b);
            let answer = ask(&mut responder, &announce(id, [1; 20], 82, 0, -1), b, 30);
            assert!(answer[20..].chunks(compact.len()).any(|peer| peer == compact), "{a}: {answer:?}");
        }
        assert_eq!(responder.tally, Tally { connects: 6, announces: 6, ..Tally::default() });
    }

    #[test]
    fn a_connection_id_of_another_gets_no_answer() {
        let (swarms, ids) = (swarms(), ConnectionIds::default());
        let mut responder = Responder::new(&swarms, &ids);
        let id = connection(&mut responder, "192.0.2.1:1000");
        let packet = announce(id, [1; 20], 81, 5, -1);
        assert!(ask(&mut responder, &packet, "192.0.2.9:1000", 0).is_empty());
        assert!(ask(&mut responder, &packet, "192.0.2.1:1000", 600).is_empty());
        assert_eq!(responder.tally.ignored, 2);
        assert!(!ask(&mut responder, &packet, "192.0.2.1:2000", 1).is_empty());
    }

    #[test]
    fn an_unknown_torrent_is_refused_in_words() {
        let (swarms, ids) = (swarms(), ConnectionIds::default());
        let mut responder = Responder::new(&swarms, &ids);
        let id = connection(&mut responder, "192.0.2.1:1000");
        let answer = ask(&mut responder, &announce(id, [2; 20], 81, 5, -1), "192.0.2.1:1000", 0);
        assert_eq!(answer[..8], [0, 0, 0, 3, 0, 0, 0, 9]);
        assert!(answer[8..].starts_with(b"this torrent"));
    }

    #[test]
    fn a_scrape_answers_in_order() {
        let (swarms, ids) = (swarms(), ConnectionIds::default());
        let mut responder = Responder::new(&swarms, &ids);
        let id = connection(&mut responder, "192.0.2.1:1000");
        ask(&mut responder, &announce(id, [1; 20], 81, 0, -1), "192.0.2.1:1000", 0);
        let mut packet = id.to_be_bytes().to_vec();
        packet.extend([0, 0, 0, 2, 0, 0, 0, 8]);
        packet.extend([2; 20]);
        packet.extend([1; 20]);
        let answer = ask(&mut responder, &packet, "192.0.2.1:1000", 0);
        assert_eq!(answer[..8], [0, 0, 0, 2, 0, 0, 0, 8]);
        assert_eq!(answer[8..20], [0; 12]);
        assert_eq!(answer[20..], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_answer_fits_a_packet() {
        let (swarms, ids) = (swarms(), ConnectionIds::default());
        let mut responder = Responder::new(&swarms, &ids);
        let id = connection(&mut responder, "192.0.2.1:1000");
        let id6 = connection(&mut responder, "[2001:db8::1]:1000");
        // Each of a household of its own, since one has only its share.
        for n in 0..500 {
            let (v4, v6) = (format!("11.{}.{}.1:1000", n / 256, n % 256), format!("[2001:{n:x}::1]:1000"));
            let (id, id6) = (connection(&mut responder, &v4), connection(&mut responder, &v6));
            ask(&mut responder, &announce(id, [1; 20], 1000, 1, 0), &v4, 0);
            ask(&mut responder, &announce(id6, [1; 20], 1000, 1, 0), &v6, 0);
        }
        let answer = ask(&mut responder, &announce(id, [1; 20], 900, 1, 9_000), "192.0.2.1:1000", 0);
        assert!(answer.len() > 1_400 && answer.len() <= 1_472, "{}", answer.len());
        let answer = ask(&mut responder, &announce(id6, [1; 20], 900, 1, 9_000), "[2001:db8::1]:1000", 0);
        assert!(answer.len() > 1_200 && answer.len() <= 1_232, "{}", answer.len());
    }

    proptest! {
        #[test]
        fn who_has_proven_nothing_gets_no_more_than_it_sent(bytes in prop::collection::vec(any::<u8>(), 0..150)) {
            let (swarms, ids) = (swarms(), ConnectionIds::default());
            let mut responder = Responder::new(&swarms, &ids);
            prop_assert!(ask(&mut responder, &bytes, "192.0.2.1:1000", 0).len() <= bytes.len());
        }
    }
}
