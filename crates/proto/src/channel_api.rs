//! The tracker's channel API: paths, and the shapes of its bodies. Statements in them are signed, so a tracker is
//! never believed: [`Join::records`] and [`Join::state`] are checked by who reads them.

pub mod directory;
pub mod mesh;

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ChannelId, Error, SegmentSeq,
    bencode::{Dict, DictWriter, bytes_after},
    metainfo::MAX_METAINFO_LENGTH,
    signed::MAX_SIGNED_LENGTH,
};

/// How a tracker begins to say, in plain text with status 404, that it does not know a channel.
pub const UNKNOWN_CHANNEL: &str = "nobody has published this channel here";

/// The most records in one [`Join`].
pub const MAX_JOIN_RECORDS: usize = 512;
/// The most peers in one [`Join`].
pub const MAX_JOIN_PEERS: usize = 100;
/// The longest [`Join`] as JSON, in bytes, that a reader accepts.
pub const MAX_JOIN_LENGTH: usize = 2 << 20;
/// The longest [`Publication`], encoded, in bytes.
pub const MAX_PUBLICATION_LENGTH: usize = MAX_SIGNED_LENGTH + MAX_METAINFO_LENGTH + 64;

/// Name of the server-sent event that carries a record: `id` is its number, `data` its base64.
pub const EVENT_RECORD: &str = "record";
/// Name of the server-sent event that carries the channel's state: no `id`, `data` its base64.
pub const EVENT_STATE: &str = "state";

/// `GET`: a [`Join`] as JSON. Query: `from=<number>` or `from=oldest` for records from there on, at most
/// [`MAX_JOIN_RECORDS`]; without it, the newest few.
pub fn join_path(channel: &ChannelId) -> String {
    format!("c/{channel}")
}

/// `GET`: server-sent events. Query `from=<number>`: the records from there on come first; the header
/// `Last-Event-ID` does the same from the number after it and goes before the query. Without either: only what is new.
/// The state that holds comes first of all.
pub fn events_path(channel: &ChannelId) -> String {
    format!("c/{channel}/events")
}

/// `POST`: a [`Publication`].
pub fn records_path(channel: &ChannelId) -> String {
    format!("c/{channel}/records")
}

/// `POST`: a signed channel state, encoded.
pub fn state_path(channel: &ChannelId) -> String {
    format!("c/{channel}/state")
}

/// `GET`: the `.torrent` of a segment.
pub fn torrent_path(channel: &ChannelId, seq: SegmentSeq) -> String {
    format!("c/{channel}/{seq}.torrent")
}

/// All that a viewer needs to join, in one answer. Unknown keys are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The channel's key, 64 hexadecimal digits.
    pub channel: String,
    /// The newest statement about the channel, base64 of [`crate::SignedState`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Records in ascending order, base64 of [`crate::SignedRecord`].
    pub records: Vec<String>,
    /// The oldest segment that the tracker has a record of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<SegmentSeq>,
    /// The newest segment that the tracker has a record of: the live edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<SegmentSeq>,
    /// Peers of the running swarms.
    pub peers: Vec<Peer>,
    /// Where in each minute this viewer should begin to fetch, as a share of its length in units of 2⁻³²: those who
    /// ask one after the other are told places far apart, so that they hold different pieces and can trade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// What a node signs when it next joins the live mesh from this address, see [`mesh::JoinProof`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<mesh::Nonce>,
}

/// The place of the `n`-th who joins: multiples of the golden ratio, the sequence that keeps any number of
/// successive ones apart (Knuth, TAOCP 6.4).
pub const fn nth_place(n: u32) -> u32 {
    n.wrapping_mul(0x9E37_79B9)
}

/// A BitTorrent peer of a running swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it says that it has a whole minute.
    #[serde(default)]
    pub seed: bool,
}

/// A new record with its torrent, as the source publishes it. Bencode dictionary with the keys `record` and
/// `torrent`, both byte strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// [`crate::SignedRecord`], encoded.
    pub record: Bytes,
    /// The `.torrent`.
    pub torrent: Bytes,
}

impl Publication {
    /// The encoded form.
    pub fn encode(&self) -> Bytes {
        DictWriter::new().bytes("record", &self.record).bytes("torrent", &self.torrent).finish()
    }

    /// Parses the encoded form. Neither part is looked into.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "a publication";
        Error::check_length(WHAT, bytes.len(), MAX_PUBLICATION_LENGTH)?;
        let dict = Dict::parse(WHAT, bytes)?;
        let part = |key| dict.bytes(key).map(Bytes::copy_from_slice);
        Ok(Self { record: part("record")?, torrent: part("torrent")? })
    }

    /// The record in the first bytes of an encoded publication, as soon as it is there as a whole; `None` while it is
    /// not. So that whoever receives a publication can check the record before it takes in the torrent.
    pub fn record_in(prefix: &[u8]) -> Result<Option<&[u8]>, Error> {
        // Keys are in order, so `record` stands before `torrent`.
        bytes_after("a publication", b"d6:record", prefix, MAX_SIGNED_LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successive_places_are_apart() {
        for first in [0, 7, u32::MAX - 3] {
            for viewers in [2u32, 3, 5, 8, 20] {
                let mut places: Vec<_> = (0..viewers).map(|n| nth_place(first.wrapping_add(n))).collect();
                places.sort_unstable();
                let apart = places.windows(2).map(|two| two[1] - two[0]).min().unwrap_or(0);
                assert!(apart > u32::MAX / viewers / 3, "{viewers} from {first}: {apart}");
            }
        }
    }

    #[test]
    fn publications_round_trip() {
        let publication = Publication { record: Bytes::from_static(b"r"), torrent: Bytes::from_static(b"") };
        assert_eq!(Publication::decode(&publication.encode()), Ok(publication));
        assert!(Publication::decode(b"d6:record1:re").is_err());
    }

    #[test]
    fn a_record_is_found_in_the_first_bytes_as_soon_as_it_is_there() {
        let publication = Publication {
            record: Bytes::from_static(b"a signed record"),
            torrent: Bytes::from(vec![b'7'; 5000]),
        };
        let encoded = publication.encode();
        let end = encoded.windows(15).position(|part| part == b"a signed record").unwrap() + 15;
        for length in 0..encoded.len() {
            let expected = (length >= end).then_some(&publication.record[..]);
            assert_eq!(Publication::record_in(&encoded[..length]), Ok(expected), "{length}");
        }
        for bad in [
            &b"x"[..],
            b"d7:torrent1:xe",
            b"d6:record:",
            b"d6:record-1:",
            b"d6:record99999:",
            b"d6:record123456",
        ] {
            assert!(Publication::record_in(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
