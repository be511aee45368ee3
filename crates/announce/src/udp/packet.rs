//! UDP tracker packets (BEP 15): requests in, answers out. All numbers are big-endian.
//!
//! What follows an announce's 98 bytes are options (BEP 41), which name the path of the tracker's URL. There is one
//! tracker here, whatever the path, so they are accepted and passed over.

use minuet_proto::InfoHash;

use crate::answer::{Answer, Counts};
use crate::{Announce, Event};

/// What a connect request carries in the place of a connection id.
pub const PROTOCOL_ID: u64 = 0x0417_2710_1980;
/// The most torrents in a scrape.
pub const MAX_SCRAPE: usize = 74;
/// Bytes of an announce without options.
pub const ANNOUNCE_LENGTH: usize = 98;
/// Bytes of an announce's answer before its peers.
pub const ANSWER_HEAD_LENGTH: usize = 20;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// What a client asks. The connection id is still to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Asks for a connection id.
    Connect,
    /// Announces; the port is the one that the client takes connections on.
    Announce(Announce),
    /// Asks for numbers of up to [`MAX_SCRAPE`] torrents.
    Scrape(&'a [[u8; 20]]),
}

/// A packet's first 16 bytes and what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The connection id, or [`PROTOCOL_ID`].
    pub connection_id: u64,
    /// Repeated in the answer.
    pub transaction_id: u32,
    /// What is asked.
    pub request: Request<'a>,
}

impl<'a> Packet<'a> {
    /// Reads a packet; `None` for what is not one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<16>()?;
        let connection_id = u64_at(head, 0)?;
        let request = match u32_at(head, 8)? {
            CONNECT if connection_id == PROTOCOL_ID => Request::Connect,
            ANNOUNCE => Request::Announce(parse_announce(body)?),
            SCRAPE => {
                let hashes = body.as_chunks::<20>().0;
                if hashes.is_empty() {
                    return None;
                }
                Request::Scrape(&hashes[..hashes.len().min(MAX_SCRAPE)])
            }
            _ => return None,
        };
        Some(Self { connection_id, transaction_id: u32_at(head, 12)?, request })
    }
}

/// Reads what follows an announce's first 16 bytes.
fn parse_announce(body: &[u8]) -> Option<Announce> {
    let body: &[u8; ANNOUNCE_LENGTH - 16] = body.first_chunk()?;
    let event = match u32_at(body, 64)? {
        1 => Event::Completed,
        2 => Event::Started,
        3 => Event::Stopped,
        // Not in BEP 15; what clients send for BEP 21.
        4 => Event::Paused,
        _ => Event::None,
    };
    // The address at 68 is passed over: it is the sender's own.
    let want = u32_at(body, 76)?;
    Some(Announce {
        info_hash: InfoHash::new(*body.first_chunk()?),
        port: u16::from_be_bytes(*body.last_chunk()?),
        complete: u64_at(body, 48)? == 0,
        event,
        // -1, and what else is below zero, leaves it to the tracker.
        want: i32::try_from(want).is_ok().then_some(want),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn head(out: &mut Vec<u8>, action: u32, transaction_id: u32) {
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction_id.to_be_bytes());
}

/// Writes the answer to a connect.
pub fn write_connect(out: &mut Vec<u8>, transaction_id: u32, connection_id: u64) {
    head(out, CONNECT, transaction_id);
    out.extend_from_slice(&connection_id.to_be_bytes());
}

/// Writes the answer to an announce; `peers` are compact.
pub fn write_announce(out: &mut Vec<u8>, transaction_id: u32, answer: &Answer, peers: &[u8]) {
    head(out, ANNOUNCE, transaction_id);
    for number in [answer.interval, answer.counts.leechers, answer.counts.seeders] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(peers);
}

/// Writes the answer to a scrape, in the order of the request. What is not known has zeros.
pub fn write_scrape(out: &mut Vec<u8>, transaction_id: u32, swarms: impl Iterator<Item = Counts>) {
    head(out, SCRAPE, transaction_id);
    for counts in swarms {
        for number in [counts.seeders, counts.completed, counts.leechers] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// Writes a refusal.
pub fn write_error(out: &mut Vec<u8>, transaction_id: u32, sentence: &str) {
    head(out, ERROR, transaction_id);
    out.extend_from_slice(sentence.as_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn connect(transaction_id: u32) -> Vec<u8> {
        let mut out = PROTOCOL_ID.to_be_bytes().to_vec();
        head(&mut out, CONNECT, transaction_id);
        out
    }

    pub(crate) fn announce(connection_id: u64, hash: [u8; 20], port: u16, left: u64, want: i32) -> Vec<u8> {
        let mut out = connection_id.to_be_bytes().to_vec();
        head(&mut out, ANNOUNCE, 9);
        out.extend(hash);
        out.extend([b'p'; 20]);
        for number in [0, left, 0] {
            out.extend(u64::to_be_bytes(number));
        }
        // Event, address, key.
        out.extend([0; 12]);
        out.extend(want.to_be_bytes());
        out.extend(port.to_be_bytes());
        assert_eq!(out.len(), ANNOUNCE_LENGTH);
        out
    }

    #[test]
    fn connects_are_known_by_their_magic() {
        let packet = connect(7);
        assert_eq!(
            Packet::parse(&packet),
            Some(Packet { connection_id: PROTOCOL_ID, transaction_id: 7, request: Request::Connect })
        );
        let mut wrong = packet.clone();
        wrong[0] = 1;
        assert_eq!(Packet::parse(&wrong), None);
        assert_eq!(Packet::parse(&packet[..15]), None);
    }

    #[test]
    fn an_announce_with_url_data_is_an_announce() {
        let mut packet = announce(5, [3; 20], 6881, 0, -1);
        let expected = Announce {
            info_hash: InfoHash::new([3; 20]),
            port: 6881,
            complete: true,
            event: Event::None,
            want: None,
        };
        let request = Request::Announce(expected);
        assert_eq!(Packet::parse(&packet).unwrap().request, request);
        packet.extend(b"\x02\x09/announce\x00");
        assert_eq!(Packet::parse(&packet).unwrap().request, request);
        assert_eq!(Packet::parse(&packet[..97]), None);
    }

    #[test]
    fn events_and_numbers_are_where_bep_15_has_them() {
        let mut packet = announce(5, [3; 20], 0x1234, 1, 7);
        packet[83] = 3;
        let Request::Announce(found) = Packet::parse(&packet).unwrap().request else { panic!() };
        assert_eq!(
            (found.event, found.want, found.port, found.complete),
            (Event::Stopped, Some(7), 0x1234, false)
        );
    }

    #[test]
    fn a_scrape_of_too_many_is_cut() {
        let mut packet = 5u64.to_be_bytes().to_vec();
        head(&mut packet, SCRAPE, 1);
        assert_eq!(Packet::parse(&packet), None);
        packet.extend([1; 20 * 100 + 3]);
        let Request::Scrape(hashes) = Packet::parse(&packet).unwrap().request else { panic!() };
        assert_eq!(hashes.len(), MAX_SCRAPE);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), action in 0u8..4) {
            let _ = Packet::parse(&bytes);
            let mut bytes = bytes;
            if let Some(at) = bytes.get_mut(8..12) {
                at.copy_from_slice(&[0, 0, 0, action]);
            }
            let _ = Packet::parse(&bytes);
        }
    }
}
