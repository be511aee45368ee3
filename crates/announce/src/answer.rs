//! What is told to a client, and its bencoded form (BEP 3, 7, 21, 23, 24, 31, 48). Keys are sorted, as bencode
//! demands.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use minuet_proto::InfoHash;

use super::{Refusal, RetryIn};
use crate::swarm::{select::Chosen, slot::Slot};

/// Numbers of one swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Peers that have all.
    pub seeders: u32,
    /// Peers that have not, partial seeds (BEP 21) among them.
    pub leechers: u32,
    /// Leechers that are no partial seeds.
    pub downloaders: u32,
    /// How often a download was reported as complete.
    pub completed: u32,
}

/// Peers in compact form, as answers carry them: 6 bytes each (BEP 23) and 18 bytes each (BEP 7).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PeerList {
    /// IPv4: address and port.
    pub v4: Vec<u8>,
    /// IPv6: address and port.
    pub v6: Vec<u8>,
}

impl PeerList {
    /// Empties the list, keeping its memory.
    pub fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }

    /// Adds a peer.
    pub fn push(&mut self, peer: Chosen) {
        match peer {
            Chosen::V4(slot) => slot.write_compact(&mut self.v4),
            Chosen::V6(slot) => slot.write_compact(&mut self.v6),
        }
    }

    /// Adds a peer that is not in the list yet. Looks through the list, so meant for short ones.
    pub fn push_new(&mut self, peer: Chosen) {
        let before = (self.v4.len(), self.v6.len());
        self.push(peer);
        let (old, new) = self.v4.split_at(before.0);
        if !new.is_empty() && old.as_chunks::<6>().0.iter().any(|known| known == new) {
            self.v4.truncate(before.0);
        }
        let (old, new) = self.v6.split_at(before.1);
        if !new.is_empty() && old.as_chunks::<18>().0.iter().any(|known| known == new) {
            self.v6.truncate(before.1);
        }
    }

    /// Number of peers.
    pub fn len(&self) -> usize {
        self.v4.len() / 6 + self.v6.len() / 18
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// The answer to an announce, without its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The swarm's numbers.
    pub counts: Counts,
    /// Seconds until the client is to announce again.
    pub interval: u32,
    /// Seconds before which it must not.
    pub min_interval: u32,
}

fn put_int(out: &mut Vec<u8>, key: &str, value: u32) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{}:{key}i{value}e", key.len());
}

fn put_bytes(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let _ = write!(out, "{}:{key}{}:", key.len(), value.len());
    out.extend_from_slice(value);
}

/// Writes the bencoded answer to an announce that came from `client`.
pub fn write_announce(out: &mut Vec<u8>, answer: &Answer, peers: &PeerList, client: IpAddr, compact: bool) {
    out.push(b'd');
    put_int(out, "complete", answer.counts.seeders);
    put_int(out, "downloaded", answer.counts.completed);
    match client {
        IpAddr::V4(ip) => put_bytes(out, "external ip", &ip.octets()),
        IpAddr::V6(ip) => put_bytes(out, "external ip", &ip.octets()),
    }
    put_int(out, "incomplete", answer.counts.leechers);
    put_int(out, "interval", answer.interval);
    put_int(out, "min interval", answer.min_interval);
    if compact {
        put_bytes(out, "peers", &peers.v4);
        if !peers.v6.is_empty() {
            put_bytes(out, "peers6", &peers.v6);
        }
    } else {
        out.extend_from_slice(b"5:peersl");
        for peer in peers.v4.as_chunks::<6>().0 {
            let &[a, b, c, d, high, low] = peer;
            write_peer(out, Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]));
        }
        for peer in peers.v6.as_chunks::<18>().0 {
            let (ip, port) = peer.split_at(16);
            let ip: [u8; 16] = ip.try_into().unwrap_or_default();
            write_peer(out, Ipv6Addr::from(ip).into(), u16::from_be_bytes([port[0], port[1]]));
        }
        out.push(b'e');
    }
    out.push(b'e');
}

/// A peer's dictionary (BEP 3). Peer ids are not kept, so it looks as with `no_peer_id=1`.
fn write_peer(out: &mut Vec<u8>, ip: IpAddr, port: u16) {
    out.push(b'd');
    put_bytes(out, "ip", ip.to_string().as_bytes());
    put_int(out, "port", port.into());
    out.push(b'e');
}

/// Writes a refusal: `failure reason` (BEP 3) and `retry in` (BEP 31).
pub fn write_refusal(out: &mut Vec<u8>, refusal: Refusal) {
    out.push(b'd');
    put_bytes(out, "failure reason", refusal.to_string().as_bytes());
    match refusal.retry_in() {
        RetryIn::Minutes(minutes) => put_int(out, "retry in", minutes),
        RetryIn::Never => put_bytes(out, "retry in", b"never"),
    }
    out.push(b'e');
}

/// Writes the bencoded answer to a scrape (BEP 48). Swarms that are not known are left out.
pub fn write_scrape(out: &mut Vec<u8>, swarms: &[(InfoHash, Counts)], min_interval: u32) {
    let mut swarms: Vec<_> = swarms.iter().collect();
    swarms.sort_unstable_by_key(|(hash, _)| *hash.as_bytes());
    swarms.dedup_by_key(|(hash, _)| *hash.as_bytes());
    out.extend_from_slice(b"d5:filesd");
    for (hash, counts) in swarms {
        out.extend_from_slice(b"20:");
        out.extend_from_slice(hash.as_bytes());
        out.push(b'd');
        put_int(out, "complete", counts.seeders);
        put_int(out, "downloaded", counts.completed);
        put_int(out, "downloaders", counts.downloaders);
        put_int(out, "incomplete", counts.leechers);
        out.push(b'e');
    }
    out.extend_from_slice(b"e5:flagsd");
    put_int(out, "min_request_interval", min_interval);
    out.extend_from_slice(b"ee");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Answer = Answer {
        counts: Counts { seeders: 1, leechers: 2, downloaders: 2, completed: 3 },
        interval: 120,
        min_interval: 30,
    };

    fn announce(peers: &PeerList, client: &str, compact: bool) -> String {
        let mut out = Vec::new();
        write_announce(&mut out, &ANSWER, peers, client.parse().unwrap(), compact);
        out.iter().map(|&b| char::from(b)).collect()
    }

    #[test]
    fn compact_answers_carry_both_families() {
        let mut peers = PeerList { v4: b"abcdef".to_vec(), v6: Vec::new() };
        let head = "d8:completei1e10:downloadedi3e11:external ip4:ABCD10:incompletei2e8:intervali120e12:min intervali30e";
        assert_eq!(announce(&peers, "65.66.67.68", true), format!("{head}5:peers6:abcdefe"));
        peers.v6 = b"0123456789abcdefgh".to_vec();
        assert_eq!(
            announce(&peers, "65.66.67.68", true),
            format!("{head}5:peers6:abcdef6:peers618:0123456789abcdefghe")
        );
    }

    #[test]
    fn a_client_that_wants_dictionaries_gets_them() {
        let mut v6 = Ipv6Addr::LOCALHOST.octets().to_vec();
        v6.extend([0x1a, 0xe1]);
        let peers = PeerList { v4: vec![10, 0, 0, 1, 0x1a, 0xe1], v6 };
        let text = announce(&peers, "::1", false);
        assert!(text.ends_with("5:peersld2:ip8:10.0.0.14:porti6881eed2:ip3:::14:porti6881eeee"), "{text}");
    }

    #[test]
    fn refusals_say_when_to_come_back() {
        let mut out = Vec::new();
        write_refusal(&mut out, Refusal::UnknownTorrent);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("d14:failure reason"), "{text}");
        assert!(text.ends_with("8:retry ini5ee"), "{text}");
        let mut out = Vec::new();
        write_refusal(&mut out, Refusal::Malformed("x"));
        assert!(out.ends_with(b"8:retry in5:nevere"));
    }

    #[test]
    fn scrapes_are_sorted_and_without_repeats() {
        let (a, b) = (InfoHash::new([b'a'; 20]), InfoHash::new([b'b'; 20]));
        let mut out = Vec::new();
        write_scrape(&mut out, &[(b, ANSWER.counts), (a, Counts::default()), (b, ANSWER.counts)], 60);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei0e10:downloadedi0e11:downloadersi0e10:incompletei0ee\
             20:bbbbbbbbbbbbbbbbbbbbd8:completei1e10:downloadedi3e11:downloadersi2e10:incompletei2eee\
             5:flagsd20:min_request_intervali60eee"
        );
    }
}
