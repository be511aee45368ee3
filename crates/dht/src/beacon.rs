//! What Minuet's items say: where a channel can be joined.
//!
//! Two kinds, of one form. The channel's own lies under its key without a salt, is signed by its source, and is an item of BEP 46
//! as well: `ih` is the info hash of the newest finished segment. The meeting places lie under a key that anybody can derive from
//! the channel's ([`meeting_key`]): every node writes there, so that a channel whose source has gone is found. What stands there is
//! a hint: a link proves who is at its other end, and what comes over it carries the channel's signature.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use bytes::Bytes;
use minuet_proto::{
    ChannelId, ChannelKey, Error, InfoHash,
    bencode::{Dict, DictWriter, Value},
    link::parse_tracker,
    mesh::NodeId,
};
use sha2::{Digest as _, Sha256};

use crate::MAX_ITEM;

/// Most nodes of each family in one item.
pub const MAX_BEACON_NODES: usize = 12;
/// Most trackers in one item, and most bytes of one.
pub const MAX_BEACON_TRACKERS: (usize, usize) = (3, 100);
/// Meeting places of a channel at a time: more make it harder to overwrite all of them, and dearer to look.
pub const MEETING_PLACES: u64 = 2;
/// How long one is used: whoever writes nonsense there has to do it again.
pub const MEETING_PERIOD_S: u64 = 2 * 3600;

const WHAT: &str = "an item of the DHT";
const V4: usize = 32 + 4 + 2;
const V6: usize = 32 + 16 + 2;

/// Where a channel can be joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beacon {
    /// The newest finished segment's torrent; the channel's own word only.
    pub info_hash: Option<InfoHash>,
    /// Nodes of the live mesh.
    pub nodes: Vec<(NodeId, SocketAddr)>,
    /// Trackers, as [`parse_tracker`] gives them.
    pub trackers: Vec<url::Url>,
}

impl Beacon {
    /// The value of an item: at most [`MAX_ITEM`] bytes, nodes first that come first.
    pub fn encode(&self) -> Bytes {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (node, addr) in &self.nodes {
            match addr {
                SocketAddr::V4(addr) if v4.len() < V4 * MAX_BEACON_NODES => {
                    v4.extend_from_slice(&node.0);
                    v4.extend_from_slice(&addr.ip().octets());
                    v4.extend_from_slice(&addr.port().to_be_bytes());
                }
                SocketAddr::V6(addr) if v6.len() < V6 * MAX_BEACON_NODES => {
                    v6.extend_from_slice(&node.0);
                    v6.extend_from_slice(&addr.ip().octets());
                    v6.extend_from_slice(&addr.port().to_be_bytes());
                }
                _ => {}
            }
        }
        let (most, longest) = MAX_BEACON_TRACKERS;
        let short = self.trackers.iter().map(url::Url::as_str).filter(|url| url.len() <= longest);
        let trackers: Vec<&str> = short.take(most).collect();
        loop {
            let mut dict = DictWriter::new();
            if let Some(info_hash) = &self.info_hash {
                dict = dict.bytes("ih", info_hash.as_bytes());
            }
            let value = dict.bytes("n", &v4).bytes("n6", &v6).list("tr", &trackers).finish();
            if value.len() <= MAX_ITEM {
                return value;
            }
            // The longer list gives way.
            let (list, entry) = if v6.len() > v4.len() { (&mut v6, V6) } else { (&mut v4, V4) };
            list.truncate(list.len().saturating_sub(entry));
        }
    }

    /// Reads an item's value, as far as it is of use.
    ///
    /// # Errors
    /// It is no dictionary.
    pub fn decode(value: &[u8]) -> Result<Self, Error> {
        Error::check_length(WHAT, value.len(), MAX_ITEM)?;
        let dict = Dict::parse(WHAT, value)?;
        let row = |key| match dict.get(key) {
            Some(Value::Bytes(bytes)) => *bytes,
            _ => &[][..],
        };
        let mut nodes =
            read::<V4, 4>(row("n"), |ip, port| SocketAddrV4::new(Ipv4Addr::from(ip), port).into());
        nodes.extend(read::<V6, 16>(row("n6"), |ip, port| {
            SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, 0).into()
        }));
        let (most, longest) = MAX_BEACON_TRACKERS;
        let listed = match dict.get("tr") {
            Some(Value::List(list)) => list.as_slice(),
            _ => &[],
        };
        let texts = listed.iter().take(most).filter_map(|entry| match entry {
            Value::Bytes(text) if text.len() <= longest => std::str::from_utf8(text).ok(),
            _ => None,
        });
        let trackers = texts.filter_map(|text| parse_tracker(text).ok()).collect();
        let info_hash = dict.bytes("ih").ok().and_then(|bytes| InfoHash::try_from(bytes).ok());
        Ok(Self { info_hash, nodes, trackers })
    }
}

fn read<const ENTRY: usize, const IP: usize>(
    row: &[u8],
    addr: impl Fn([u8; IP], u16) -> SocketAddr,
) -> Vec<(NodeId, SocketAddr)> {
    let entries = row.chunks_exact(ENTRY).take(MAX_BEACON_NODES);
    let read = entries.filter_map(|entry| {
        let (node, rest) = entry.split_first_chunk::<32>()?;
        let (ip, port) = rest.split_first_chunk::<IP>()?;
        let addr = addr(*ip, u16::from_be_bytes(port.try_into().ok()?));
        (addr.port() > 0).then_some((NodeId(*node), addr))
    });
    read.collect()
}

/// The key of a channel's meeting places, which anybody can derive: what is signed with it proves nothing.
pub fn meeting_key(channel: &ChannelId) -> ChannelKey {
    let mut hash = Sha256::new();
    hash.update(b"minuet meeting 1\n");
    hash.update(channel.as_bytes());
    ChannelKey::from_seed(&hash.finalize().into())
}

/// The salt of a meeting place, of those that count at `unix_s`; [`MEETING_PLACES`] of them.
pub fn meeting_salt(unix_s: u64, place: u64) -> Bytes {
    format!("{}.{}", unix_s / MEETING_PERIOD_S, place % MEETING_PLACES).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8, addr: &str) -> (NodeId, SocketAddr) {
        (NodeId([n; 32]), addr.parse().unwrap())
    }

    #[test]
    fn a_beacon_survives_the_way_and_foreign_readers_find_the_torrent() {
        let beacon = Beacon {
            info_hash: Some(InfoHash::of(b"x")),
            nodes: vec![node(1, "192.0.2.1:7"), node(2, "[2001:db8::1]:8")],
            trackers: vec!["http://tracker.example:7070/".parse().unwrap()],
        };
        let value = beacon.encode();
        assert_eq!(Beacon::decode(&value).unwrap(), beacon);
        assert!(value.starts_with(b"d2:ih20:"));
    }

    #[test]
    fn however_much_there_is_to_say_it_fits() {
        let many = |n: u8| [node(n, "192.0.2.1:7"), node(n, "[2001:db8::1]:8")];
        let long = |n: usize| format!("http://{}{n}.example/", "x".repeat(70)).parse().unwrap();
        let beacon = Beacon {
            info_hash: Some(InfoHash::of(b"x")),
            nodes: (1..100).flat_map(many).collect(),
            trackers: (0..9).map(long).collect(),
        };
        let value = beacon.encode();
        assert!(value.len() <= MAX_ITEM && value.len() > MAX_ITEM - 2 * V6, "{}", value.len());
        let read = Beacon::decode(&value).unwrap();
        assert_eq!(read.trackers.len(), MAX_BEACON_TRACKERS.0);
        assert!(read.nodes.len() >= 12 && read.nodes.contains(&beacon.nodes[0]));
    }

    #[test]
    fn a_channel_has_meeting_places_of_its_own_that_change() {
        let channel = |n| ChannelKey::from_seed(&[n; 32]).channel();
        assert_ne!(meeting_key(&channel(1)).channel(), meeting_key(&channel(2)).channel());
        assert_eq!(meeting_salt(7200, 0), "1.0");
        assert_eq!(meeting_salt(7199 + 7200, 5), "1.1");
    }

    proptest! {
        #[test]
        fn any_value_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Beacon::decode(&bytes);
            let dict = DictWriter::new().bytes("ih", &bytes).bytes("n", &bytes).bytes("n6", &bytes).list("tr", [&bytes]);
            let _ = Beacon::decode(&dict.finish());
        }
    }
}
