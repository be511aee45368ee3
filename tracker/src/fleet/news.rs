//! What trackers of a fleet tell each other, as bytes. The store is trusted no more than any client: records, states
//! and heads are checked like a publisher's, and everything is read with limits.

use std::net::IpAddr;

use bytes::Bytes;
use minuet_proto::bencode::{Dict, DictWriter};
use minuet_proto::channel_api::mesh::MeshNode;
use minuet_proto::channel_api::{MAX_PUBLICATION_LENGTH, Peer};
use minuet_proto::{ChannelId, SegmentSeq};
use serde::{Deserialize, Serialize};

/// The longest message, in bytes.
pub const MAX_NEWS_LENGTH: usize = MAX_PUBLICATION_LENGTH + 256;
/// Nodes of one channel that a tracker tells the others of.
pub const SHARED_NODES: usize = 64;
/// Peers of one channel that a tracker tells the others of.
pub const SHARED_PEERS: usize = 50;
/// The longest sample, in bytes as JSON.
pub const MAX_SAMPLE_LENGTH: usize = 64 << 10;

/// A tracker of the fleet, by a number drawn at its start.
pub type TrackerId = u64;

/// What was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A record with its torrent, of this number.
    Record(SegmentSeq),
    /// A channel state.
    State,
    /// Heads of the live mesh.
    Heads,
}

/// Something that one tracker has accepted and the others should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The channel.
    pub channel: ChannelId,
    /// What it is.
    pub kind: Kind,
    /// The body as it was published.
    pub body: Bytes,
}

impl News {
    /// The field of the channel's hash that keeps it; heads are not kept.
    pub fn field(&self) -> Option<String> {
        match self.kind {
            Kind::Record(seq) => Some(record_field(seq)),
            Kind::State => Some(STATE_FIELD.to_owned()),
            Kind::Heads => None,
        }
    }

    /// The message that `from` sends.
    pub fn encode(&self, from: TrackerId) -> Bytes {
        let (kind, seq) = match self.kind {
            Kind::Record(seq) => ("r", seq.0),
            Kind::State => ("s", 0),
            Kind::Heads => ("h", 0),
        };
        DictWriter::new()
            .bytes("b", &self.body)
            .bytes("c", self.channel.as_bytes())
            .number("f", from)
            .bytes("k", kind)
            .number("n", seq)
            .finish()
    }

    /// Parses a message and says who sent it.
    pub fn decode(bytes: &[u8]) -> Result<(TrackerId, Self), minuet_proto::Error> {
        const WHAT: &str = "a message of the fleet";
        let malformed = |why: &str| minuet_proto::Error::Malformed { what: WHAT, why: why.to_owned() };
        if bytes.len() > MAX_NEWS_LENGTH {
            return Err(malformed("it is too long"));
        }
        let dict = Dict::parse(WHAT, bytes)?;
        let channel = dict.bytes("c")?.try_into().map_err(|_| malformed("a channel has 32 bytes"))?;
        let kind = match dict.bytes("k")? {
            b"r" => Kind::Record(SegmentSeq(dict.number("n")?)),
            b"s" => Kind::State,
            b"h" => Kind::Heads,
            _ => return Err(malformed("its kind is not known")),
        };
        let body = Bytes::copy_from_slice(dict.bytes("b")?);
        Ok((dict.number("f")?, Self { channel: ChannelId::new(channel), kind, body }))
    }
}

/// The field of a channel's state.
pub const STATE_FIELD: &str = "s";

/// The field of a record.
pub fn record_field(seq: SegmentSeq) -> String {
    format!("r{seq}")
}

/// The number of a record's field.
pub fn field_record(field: &str) -> Option<SegmentSeq> {
    field.strip_prefix('r')?.parse().ok().map(SegmentSeq)
}

/// Some of the nodes and peers of a channel that one tracker knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Unix time in milliseconds when it was drawn, by that tracker's clock.
    pub at_ms: u64,
    /// Nodes of the live mesh, as they described themselves and where they were seen.
    pub nodes: Vec<(MeshNode, IpAddr)>,
    /// BitTorrent peers of the newest segment.
    pub peers: Vec<Peer>,
}

impl Sample {
    /// Parses JSON, up to the limits.
    pub fn decode(json: &[u8]) -> Option<Self> {
        if json.len() > MAX_SAMPLE_LENGTH {
            return None;
        }
        let mut sample: Self = serde_json::from_slice(json).ok()?;
        sample.nodes.truncate(SHARED_NODES);
        sample.nodes.retain(|(node, _)| node.check().is_ok());
        sample.peers.truncate(SHARED_PEERS);
        Some(sample)
    }
}

#[cfg(test)]
mod tests {
    use minuet_proto::mesh::NodeId;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn news_round_trip() {
        for kind in [Kind::Record(SegmentSeq(7)), Kind::State, Kind::Heads] {
            let news = News { channel: ChannelId::new([3; 32]), kind, body: Bytes::from_static(b"body") };
            assert_eq!(News::decode(&news.encode(u64::MAX)), Ok((u64::MAX, news)));
        }
        assert_eq!(field_record(&record_field(SegmentSeq(12))), Some(SegmentSeq(12)));
        assert_eq!(field_record(STATE_FIELD), None);
    }

    #[test]
    fn a_sample_beyond_its_limits_is_cut() {
        let node = MeshNode::new(NodeId([1; 32]));
        let mut wrong = node.clone();
        wrong.relay = Some("x".repeat(1000));
        let mut nodes = vec![(node, "192.0.2.1".parse().unwrap()); 100];
        nodes[0].0 = wrong;
        let sample = Sample { at_ms: 1, nodes, peers: Vec::new() };
        let cut = Sample::decode(&serde_json::to_vec(&sample).unwrap()).unwrap();
        assert_eq!(cut.nodes.len(), SHARED_NODES - 1);
        assert_eq!(Sample::decode(&[b' '; MAX_SAMPLE_LENGTH + 1]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = News::decode(&bytes);
            let _ = Sample::decode(&bytes);
        }
    }
}
