//! The query string of an HTTP announce (BEP 3, 7, 21, 23) and scrape (BEP 48).
//!
//! `info_hash` and `peer_id` are 20 raw bytes, percent-encoded (RFC 3986); they are decoded exactly and are
//! never looked at as text. `+` is a space, as in HTML forms: clients that mean a plus sign encode it.
//! Unknown parameters are passed over. Parameters that would let a client speak for another address (`ip`,
//! `ipv4`, `ipv6`) are only read; whether they count is for who knows where the request came from.

use std::net::{IpAddr, SocketAddr};

use minuet_proto::InfoHash;

use super::{Announce, Event, Refusal};

/// The longest query string that is read. A scrape of [`MAX_SCRAPE`] torrents fits.
pub const MAX_QUERY_LENGTH: usize = 6144;
/// The most torrents in one scrape, as many as fit a UDP scrape (BEP 15).
pub const MAX_SCRAPE: usize = 74;

/// An HTTP announce: what all transports have, and how the answer is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnnounce {
    /// What the client announces.
    pub announce: Announce,
    /// `compact=0`: peers as a list of dictionaries (BEP 3) instead of a string (BEP 23).
    pub compact: bool,
    /// Where the client says that it is (BEP 3, BEP 7); the first that is an address.
    pub claimed: Option<IpAddr>,
}

/// Reads an announce's query string.
pub fn parse_announce(query: &[u8]) -> Result<HttpAnnounce, Refusal> {
    let (mut info_hash, mut peer_id, mut port) = (None, false, None);
    let mut parsed = HttpAnnounce {
        announce: Announce {
            info_hash: InfoHash::new([0; 20]),
            port: 0,
            complete: false,
            event: Event::None,
            want: None,
        },
        compact: true,
        claimed: None,
    };
    let announce = &mut parsed.announce;
    for (key, value) in pairs(query)? {
        match key {
            b"info_hash" => {
                let found = decode20(value).ok_or(Refusal::Malformed("info_hash is not 20 bytes"))?;
                if info_hash.replace(found).is_some_and(|other| other != found) {
                    return Err(Refusal::Malformed("two different info_hash"));
                }
            }
            b"peer_id" => {
                decode20(value).ok_or(Refusal::Malformed("peer_id is not 20 bytes"))?;
                peer_id = true;
            }
            b"port" => port = Some(number(value).ok_or(Refusal::Malformed("port is not a number"))?),
            b"left" => announce.complete = value == b"0",
            b"event" => {
                announce.event = match value {
                    b"started" => Event::Started,
                    b"stopped" => Event::Stopped,
                    b"completed" => Event::Completed,
                    b"paused" => Event::Paused,
                    _ => Event::None,
                };
            }
            // A negative number stands for "as many as you like", as in BEP 15.
            b"numwant" => announce.want = number(value),
            b"ip" | b"ipv4" | b"ipv6" if parsed.claimed.is_none() => parsed.claimed = address(value),
            b"compact" => parsed.compact = value != b"0",
            _ => {}
        }
    }
    announce.info_hash = InfoHash::new(info_hash.ok_or(Refusal::Malformed("info_hash is missing"))?);
    if !peer_id {
        return Err(Refusal::Malformed("peer_id is missing"));
    }
    let port: u32 = port.ok_or(Refusal::Malformed("port is missing"))?;
    announce.port = u16::try_from(port).map_err(|_| Refusal::Malformed("port is above 65535"))?;
    Ok(parsed)
}

/// An address, alone or with a port, as it is or with its colons and brackets percent-encoded.
fn address(value: &[u8]) -> Option<IpAddr> {
    let text = String::from_utf8(decode(value)?).ok()?;
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip()))
}

/// Reads a scrape's query string: at least one and at most [`MAX_SCRAPE`] torrents.
pub fn parse_scrape(query: &[u8]) -> Result<Vec<InfoHash>, Refusal> {
    let mut hashes = Vec::new();
    for (key, value) in pairs(query)? {
        if key == b"info_hash" {
            let hash = decode20(value).ok_or(Refusal::Malformed("info_hash is not 20 bytes"))?;
            if hashes.len() == MAX_SCRAPE {
                return Err(Refusal::Malformed("more torrents than one scrape may ask for"));
            }
            hashes.push(InfoHash::new(hash));
        }
    }
    if hashes.is_empty() {
        return Err(Refusal::Malformed("info_hash is missing"));
    }
    Ok(hashes)
}

/// The `key=value` pairs of a query, still encoded.
fn pairs(query: &[u8]) -> Result<impl Iterator<Item = (&[u8], &[u8])>, Refusal> {
    if query.len() > MAX_QUERY_LENGTH {
        return Err(Refusal::Malformed("the query is too long"));
    }
    Ok(query.split(|&b| b == b'&').filter_map(|pair| {
        let at = pair.iter().position(|&b| b == b'=')?;
        Some((&pair[..at], &pair[at + 1..]))
    }))
}

/// Exactly 20 percent-encoded bytes.
fn decode20(mut value: &[u8]) -> Option<[u8; 20]> {
    let mut out = [0; 20];
    for byte in &mut out {
        (*byte, value) = decode_one(value)?;
    }
    value.is_empty().then_some(out)
}

/// Bytes of any length, percent-decoded.
fn decode(mut value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !value.is_empty() {
        let (byte, rest) = decode_one(value)?;
        out.push(byte);
        value = rest;
    }
    Some(out)
}

/// One byte, and what follows it.
fn decode_one(value: &[u8]) -> Option<(u8, &[u8])> {
    let (&first, rest) = value.split_first()?;
    Some(match first {
        b'%' => (hex(*rest.first()?)? << 4 | hex(*rest.get(1)?)?, &rest[2..]),
        b'+' => (b' ', rest),
        plain => (plain, rest),
    })
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A plain decimal number.
fn number(value: &[u8]) -> Option<u32> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u32, |n, &digit| {
        digit.is_ascii_digit().then(|| n.checked_mul(10)?.checked_add(u32::from(digit - b'0')))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::slot::Progress;
    use proptest::prelude::*;

    fn announce(query: &str) -> Result<HttpAnnounce, Refusal> {
        parse_announce(query.as_bytes())
    }

    const HASH: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa";
    const BASE: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-AA0000-bbbbbbbbbbbb&port=6881";

    #[test]
    fn a_client_may_say_where_it_is() {
        for (value, expected) in [
            ("ip=198.51.100.7", Some("198.51.100.7")),
            ("ipv6=2001:db8::7", Some("2001:db8::7")),
            ("ipv6=%5B2001%3adb8::7%5D:6881", Some("2001:db8::7")),
            ("ip=tracker.example&ipv4=198.51.100.7:6881", Some("198.51.100.7")),
            ("ip=%ff%", None),
        ] {
            let parsed = announce(&format!("{BASE}&{value}")).unwrap();
            assert_eq!(parsed.claimed.map(|ip| ip.to_string()).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn an_announce_as_aria2_sends_it() {
        let query = "info_hash=%08%89%CFhe%AE%C4q%E2%13%27%C0%8F%5C%9D%FCr%EA%A3G&peer_id=A2-1-37-0-%A5%E1%99%85%AEMF%85%16z\
                     &uploaded=0&downloaded=0&left=1048576&compact=1&key=%85%AEMF%85%16&numwant=50&no_peer_id=1\
                     &port=6999&event=started&supportcrypto=1";
        let parsed = announce(query).unwrap();
        assert_eq!(parsed.announce.info_hash.as_bytes()[..5], [0x08, 0x89, 0xcf, b'h', b'e']);
        assert_eq!(parsed.announce.port, 6999);
        assert_eq!(parsed.announce.event, Event::Started);
        assert_eq!(parsed.announce.want, Some(50));
        assert!(!parsed.announce.complete);
        assert!(parsed.compact);
    }

    #[test]
    fn left_zero_is_a_seeder_and_paused_a_partial_seed() {
        assert_eq!(announce(&format!("{BASE}&left=0")).unwrap().announce.progress(), Progress::Seeder);
        let paused = announce(&format!("{BASE}&left=5&event=paused")).unwrap();
        assert_eq!(paused.announce.progress(), Progress::PartialSeed);
        assert_eq!(announce(BASE).unwrap().announce.progress(), Progress::Leecher);
        assert_eq!(announce(&format!("{BASE}&left=-1")).unwrap().announce.progress(), Progress::Leecher);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (query, why) in [
            ("", "info_hash is missing"),
            ("peer_id=-AA0000-bbbbbbbbbbbb&port=1", "info_hash is missing"),
            (HASH, "peer_id is missing"),
            ("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-AA0000-bbbbbbbbbbbb", "port is missing"),
            ("info_hash=aaaaaaaaaaaaaaaaaaa", "info_hash is not 20 bytes"),
            ("info_hash=aaaaaaaaaaaaaaaaaaaaa", "info_hash is not 20 bytes"),
            ("info_hash=aaaaaaaaaaaaaaaaaaa%4", "info_hash is not 20 bytes"),
            ("info_hash=aaaaaaaaaaaaaaaaaaa%zz", "info_hash is not 20 bytes"),
            ("info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=baaaaaaaaaaaaaaaaaaa", "two different info_hash"),
        ] {
            assert_eq!(announce(query), Err(Refusal::Malformed(why)), "{query}");
        }
        assert_eq!(
            announce("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-AA0000-bbbbbbbbbbbb&port=65536"),
            Err(Refusal::Malformed("port is above 65535"))
        );
        assert_eq!(
            parse_announce(&vec![b'a'; MAX_QUERY_LENGTH + 1]),
            Err(Refusal::Malformed("the query is too long"))
        );
    }

    #[test]
    fn a_number_below_zero_leaves_the_choice_to_the_tracker() {
        assert_eq!(announce(&format!("{BASE}&numwant=-1")).unwrap().announce.want, None);
        assert_eq!(announce(&format!("{BASE}&numwant=0")).unwrap().announce.want, Some(0));
    }

    #[test]
    fn a_scrape_is_bounded() {
        let many = vec![HASH; MAX_SCRAPE].join("&");
        assert_eq!(parse_scrape(many.as_bytes()).unwrap().len(), MAX_SCRAPE);
        assert!(parse_scrape(format!("{many}&{HASH}").as_bytes()).is_err());
        assert!(parse_scrape(b"").is_err());
    }

    /// Encodes as one of the ways that clients have: all, or only what RFC 3986 wants.
    fn encode(bytes: &[u8], all: bool, upper: bool) -> String {
        bytes
            .iter()
            .map(|&b| match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' if !all => {
                    char::from(b).to_string()
                }
                _ if upper => format!("%{b:02X}"),
                _ => format!("%{b:02x}"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_hash_arrives_exactly(hash: [u8; 20], id: [u8; 20], port: u16, all: bool, upper: bool) {
            let query = format!("port={port}&info_hash={}&peer_id={}", encode(&hash, all, upper), encode(&id, all, upper));
            let parsed = announce(&query).unwrap().announce;
            prop_assert_eq!(parsed.info_hash.as_bytes(), &hash);
            prop_assert_eq!(parsed.port, port);
        }

        #[test]
        fn nothing_panics(query in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_announce(&query);
            let _ = parse_scrape(&query);
        }

        #[test]
        fn nothing_panics_close_to_an_announce(tail in "[&=%+a-f0-9]{0,80}") {
            let _ = parse_announce(format!("info_hash={tail}").as_bytes());
            let _ = parse_announce(format!("{BASE}&numwant={tail}").as_bytes());
        }
    }
}
