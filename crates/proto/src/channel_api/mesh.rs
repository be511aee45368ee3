//! The part of the channel API that the live mesh uses: nodes tell the tracker where they are and are told of others,
//! and the source leaves its newest heads, so that a newcomer has all it needs in one answer.
//!
//! Links prove a node's key, so a tracker that names a false address wastes a dial and nothing else; heads are signed,
//! so it can hold them back, but not make them up. A node proves its key to the tracker as well ([`JoinProof`]), and a
//! source its channel's ([`SourceProof`]): see [`proof`].

mod proof;

use std::net::{IpAddr, SocketAddr};

pub use proof::{JoinProof, Nonce, PROOF_HEADER, SourceProof};

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    ChannelId, ChannelKey, Error, SegmentSeq,
    bencode::{Dict, DictWriter, Value, bytes_after},
    ids,
    key::verify,
    mesh::{Head, NodeId, SIGNATURE_LEN, SignedHead},
};

/// The most addresses of one node.
pub const MAX_NODE_ADDRS: usize = 16;
/// The longest relay URL of a node, in bytes.
pub const MAX_RELAY_URL_LENGTH: usize = 256;
/// The most neighbours in one answer.
pub const MAX_JOIN_NODES: usize = 32;
/// The most pieces that the heads of one answer speak of.
pub const MAX_JOIN_HEAD_PIECES: u32 = 512;
/// The longest [`JoinRequest`] as JSON, in bytes.
pub const MAX_JOIN_REQUEST_LENGTH: usize = 4096;
/// The most heads in one [`encode_heads`].
pub const MAX_POSTED_HEADS: usize = 64;
/// The longest body of a [`SignedHead`] here, in bytes: as on a link.
pub const MAX_HEAD_BODY_LENGTH: usize = 2816;
/// The longest [`encode_heads`], in bytes.
pub const MAX_POSTED_HEADS_LENGTH: usize = MAX_POSTED_HEADS * (SIGNATURE_LEN + MAX_HEAD_BODY_LENGTH + 8) + 16;

const HEAD: &str = "a head";
const HEADS: &str = "a list of heads";

/// `POST`: heads of the channel as [`encode_heads`] writes them.
pub fn heads_path(channel: &ChannelId) -> String {
    format!("c/{channel}/heads")
}

/// `POST`: a [`JoinRequest`] as JSON, with a [`JoinProof`] in the header [`PROOF_HEADER`], answered with a [`MeshJoin`] as
/// JSON. Without a good proof the node is told of others, but others are not told of it.
pub fn mesh_join_path(channel: &ChannelId) -> String {
    format!("c/{channel}/join")
}

/// A node's question to the tracker, and what it says of itself. Unknown keys are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The node that asks, as others are to be told of it.
    #[serde(flatten)]
    pub about: MeshNode,
    /// Whether it is leaving the mesh: it is forgotten, and told of nobody.
    #[serde(default)]
    pub leaving: bool,
    /// Neighbours wanted, at most [`MAX_JOIN_NODES`].
    #[serde(default)]
    pub want: u8,
    /// How many of the newest pieces it wants the heads of: [`MAX_JOIN_HEAD_PIECES`] at most, and none for who has
    /// them from its neighbours and only says that it is still there.
    #[serde(default)]
    pub heads: u32,
    /// A finished segment that it wants: it is told first of nodes that keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeks: Option<SegmentSeq>,
}

impl JoinRequest {
    /// A node that wants nothing, for the other fields to be set.
    pub fn new(about: MeshNode) -> Self {
        Self { about, leaving: false, want: 0, heads: 0, seeks: None }
    }

    /// Parses JSON and holds it to the limits.
    pub fn decode(json: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "a join request";
        Error::check_length(WHAT, json.len(), MAX_JOIN_REQUEST_LENGTH)?;
        let request: Self = serde_json::from_slice(json).map_err(|e| Error::malformed(WHAT, e))?;
        request.about.check()?;
        Ok(request)
    }
}

/// The answer to a [`JoinRequest`]. Unknown keys are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshJoin {
    /// Nodes to link with, at most [`MAX_JOIN_NODES`].
    pub nodes: Vec<MeshNode>,
    /// The newest heads in ascending order, each as [`head_to_base64`] writes it.
    pub heads: Vec<String>,
    /// The tracker's own relay server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The UDP port on the relay server's host where a node can learn its public address (QUIC address discovery).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_quic_port: Option<u16>,
    /// SHA-256 of the certificate (DER) that is shown there, which no authority signed: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_quic_cert: Option<String>,
    /// The address that the request came from, as the tracker sees it.
    pub observed: IpAddr,
    /// Seconds until the node is to ask again; it is forgotten after two to three times as long.
    pub interval_s: u32,
    /// What a node signs when it joins next ([`JoinProof`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
    /// Whether the request carried a good [`JoinProof`]. If not, the node joins again at once with the nonce of this
    /// answer, so that others are told of it.
    #[serde(default = "yes")]
    pub proved: bool,
}

/// What a tracker that does not say is taken to have said.
fn yes() -> bool {
    true
}

/// A node of the mesh, as it describes itself to the tracker and others are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshNode {
    /// The node's key, 64 hexadecimal digits.
    #[serde(with = "hex_node")]
    pub node: NodeId,
    /// Where it may take links, at most [`MAX_NODE_ADDRS`]: as far as it knows, and, as others are told, also where the
    /// tracker saw it. Written as `"<address>:<port>"`; an entry of a kind that is not known is skipped.
    #[serde(default, deserialize_with = "known_addrs")]
    pub addrs: Vec<SocketAddr>,
    /// The relay server through which it can be reached; at most [`MAX_RELAY_URL_LENGTH`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// Whether others can dial it without its help.
    #[serde(default)]
    pub dialable: bool,
    /// Whether it never sends pieces.
    #[serde(default)]
    pub no_upload: bool,
    /// Whether it has no player.
    #[serde(default)]
    pub is_relay: bool,
    /// Whether it holds the channel's key; believed only with a good [`source_proof`](Self::source_proof).
    #[serde(default)]
    pub is_source: bool,
    /// The channel's word that this node is its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_proof: Option<SourceProof>,
    /// Upload that it promises, in kbit/s; 0 if it does not say.
    #[serde(default)]
    pub upload_kbps: u32,
    /// The oldest finished segment that it keeps; it keeps most of what came after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_from: Option<SegmentSeq>,
}

/// The addresses of a kind that is known. Others count against the limit, too: the list is as long as its writer made it.
fn known_addrs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    let entries = Vec::<serde_json::Value>::deserialize(from)?;
    if entries.len() > MAX_NODE_ADDRS {
        return Err(serde::de::Error::custom(format_args!(
            "a mesh node has more than {MAX_NODE_ADDRS} addresses"
        )));
    }
    Ok(entries.iter().filter_map(|entry| entry.as_str()?.parse().ok()).collect())
}

impl MeshNode {
    /// A node that says nothing of itself, for the other fields to be set.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            addrs: Vec::new(),
            relay: None,
            dialable: false,
            no_upload: false,
            is_relay: false,
            is_source: false,
            source_proof: None,
            upload_kbps: 0,
            keeps_from: None,
        }
    }

    /// Whether it is the source of `channel`, by the channel's own word.
    pub fn is_source_of(&self, channel: &ChannelId) -> bool {
        self.is_source && self.source_proof.is_some_and(|proof| proof.holds(channel, &self.node))
    }

    /// Holds it to the limits.
    pub fn check(&self) -> Result<(), Error> {
        if self.addrs.len() > MAX_NODE_ADDRS {
            return Err(Error::malformed(
                "a mesh node",
                format_args!("it has more than {MAX_NODE_ADDRS} addresses"),
            ));
        }
        let url_length = self.relay.as_ref().map_or(0, String::len);
        Error::check_length("a relay URL", url_length, MAX_RELAY_URL_LENGTH)
    }
}

/// A head whose signature is the channel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedHead {
    head: Head,
    signed: SignedHead,
}

impl CheckedHead {
    /// Signs a head.
    pub fn sign(key: &ChannelKey, head: Head) -> Self {
        let body = head.encode();
        // The context is part of what is signed already.
        let signature = key.sign(b"", &SignedHead::signed_bytes(&body));
        Self { head, signed: SignedHead { body, signature } }
    }

    /// Parses a head and checks that `channel` signed it.
    pub fn check(signed: SignedHead, channel: &ChannelId) -> Result<Self, Error> {
        Error::check_length(HEAD, signed.body.len(), MAX_HEAD_BODY_LENGTH)?;
        let head = Head::decode(&signed.body).map_err(|e| Error::malformed(HEAD, e))?;
        if !verify(channel, b"", &SignedHead::signed_bytes(&signed.body), &signed.signature) {
            return Err(Error::BadSignature { what: HEAD });
        }
        Ok(Self { head, signed })
    }

    /// What it says.
    pub fn get(&self) -> &Head {
        &self.head
    }

    /// The form in which it travels.
    pub fn signed(&self) -> &SignedHead {
        &self.signed
    }

    /// The form in which it travels.
    pub fn into_signed(self) -> SignedHead {
        self.signed
    }
}

/// Parses a certificate's fingerprint, see [`MeshJoin::relay_quic_cert`].
pub fn parse_fingerprint(hex: &str) -> Result<[u8; 32], Error> {
    ids::parse_hex("a certificate's fingerprint", hex)
}

/// A head as JSON carries it: base64 (RFC 4648, standard alphabet, padded) of signature and body, the order in which
/// they are on a link.
pub fn head_to_base64(head: &SignedHead) -> String {
    base64::engine::general_purpose::STANDARD.encode(join_head(head))
}

/// Parses what [`head_to_base64`] wrote. The signature is not checked.
pub fn head_from_base64(text: &str) -> Result<SignedHead, Error> {
    Error::check_length(HEAD, text.len(), (SIGNATURE_LEN + MAX_HEAD_BODY_LENGTH).div_ceil(3) * 4)?;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| Error::malformed(HEAD, e))?;
    split_head(&bytes)
}

/// Heads as they are posted: a bencode dictionary with the one key `heads`, a list of byte strings, each a signature
/// and a body. At most [`MAX_POSTED_HEADS`].
pub fn encode_heads<'a>(heads: impl IntoIterator<Item = &'a SignedHead>) -> Bytes {
    DictWriter::new().list("heads", heads.into_iter().map(join_head)).finish()
}

/// Parses what [`encode_heads`] wrote. The signatures are not checked.
pub fn decode_heads(bytes: &[u8]) -> Result<Vec<SignedHead>, Error> {
    Error::check_length(HEADS, bytes.len(), MAX_POSTED_HEADS_LENGTH)?;
    let dict = Dict::parse(HEADS, bytes)?;
    let Some(Value::List(items)) = dict.get("heads") else {
        return Err(Error::malformed(HEADS, "there is no list under the key heads"));
    };
    if items.len() > MAX_POSTED_HEADS {
        return Err(Error::malformed(HEADS, format_args!("it has more than {MAX_POSTED_HEADS} heads")));
    }
    items
        .iter()
        .map(|item| match item {
            Value::Bytes(bytes) => split_head(bytes),
            _ => Err(Error::malformed(HEADS, "one of them is no byte string")),
        })
        .collect()
}

/// The first head in the first bytes of what [`encode_heads`] wrote, as soon as it is there as a whole; `None` while it is
/// not. So that whoever receives heads can check one before it takes in all. The signature is not checked.
pub fn first_head_in(prefix: &[u8]) -> Result<Option<SignedHead>, Error> {
    match bytes_after(HEADS, b"d5:headsl", prefix, SIGNATURE_LEN + MAX_HEAD_BODY_LENGTH)? {
        Some(bytes) => split_head(bytes).map(Some),
        None => Ok(None),
    }
}

fn join_head(head: &SignedHead) -> Vec<u8> {
    [&head.signature[..], &head.body].concat()
}

fn split_head(bytes: &[u8]) -> Result<SignedHead, Error> {
    Error::check_length(HEAD, bytes.len(), SIGNATURE_LEN + MAX_HEAD_BODY_LENGTH)?;
    let (signature, body) = bytes
        .split_first_chunk::<SIGNATURE_LEN>()
        .ok_or_else(|| Error::malformed(HEAD, "it is shorter than a signature"))?;
    Ok(SignedHead { body: Bytes::copy_from_slice(body), signature: *signature })
}

/// A node's key as 64 hexadecimal digits.
mod hex_node {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    use super::{NodeId, ids};

    struct Hex([u8; 32]);

    impl fmt::Display for Hex {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            ids::write_hex(&self.0, f)
        }
    }

    pub(super) fn serialize<S: Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Hex(node.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = NodeId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NodeId, E> {
                ids::parse_hex("a node's key", text).map(NodeId).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        PieceHash, PieceIndex,
        mesh::{HeadPiece, Serial},
    };

    fn head(first: u64) -> Head {
        let piece = HeadPiece {
            hash: PieceHash::of(&first.to_be_bytes()),
            len: 65_536,
            ingest_ms: 1_000 * first,
            random_access: true,
        };
        Head {
            first: Serial::new(first),
            segment: SegmentSeq(3),
            first_index: PieceIndex(7),
            pieces: vec![piece; 2],
        }
    }

    #[test]
    fn heads_round_trip_and_only_the_channels_own_pass() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let heads = [1, 3].map(|first| CheckedHead::sign(&key, head(first)).into_signed());
        assert_eq!(decode_heads(&encode_heads(&heads)).unwrap(), heads);
        let signed = head_from_base64(&head_to_base64(&heads[0])).unwrap();
        assert_eq!(*CheckedHead::check(signed.clone(), &key.channel()).unwrap().get(), head(1));
        let other = ChannelKey::from_seed(&[2; 32]).channel();
        assert_eq!(CheckedHead::check(signed.clone(), &other), Err(Error::BadSignature { what: "a head" }));
        let mut forged = signed;
        forged.signature[5] ^= 1;
        assert!(CheckedHead::check(forged, &key.channel()).is_err());
    }

    #[test]
    fn a_join_request_is_what_the_specification_shows() {
        let json = format!(
            r#"{{"node":"{}","addrs":["192.0.2.1:4000","[2001:db8::1]:4000"],"relay":"http://r.example/","dialable":true,"upload_kbps":9,"want":8,"new":1}}"#,
            "0f".repeat(32)
        );
        let request = JoinRequest::decode(json.as_bytes()).unwrap();
        assert_eq!(request.about.node, NodeId([0x0f; 32]));
        assert_eq!((request.about.addrs.len(), request.want), (2, 8));
        assert_eq!(
            (request.about.relay.as_deref(), request.about.upload_kbps),
            (Some("http://r.example/"), 9)
        );
        assert!(request.about.dialable && !request.leaving && request.heads == 0);
        let again = serde_json::to_vec(&request).unwrap();
        assert_eq!(JoinRequest::decode(&again), Ok(request));
    }

    #[test]
    fn an_address_of_a_kind_that_is_not_known_is_skipped() {
        let json = format!(
            r#"{{"node":"{}","addrs":["onion:abc",7,"192.0.2.1:4000",{{"kind":"webrtc"}},"192.0.2.1"]}}"#,
            "0f".repeat(32)
        );
        let request = JoinRequest::decode(json.as_bytes()).unwrap();
        assert_eq!(request.about.addrs, ["192.0.2.1:4000".parse().unwrap()]);
        let many =
            format!(r#"{{"node":"{}","addrs":[{}"x"]}}"#, "0f".repeat(32), r#""x","#.repeat(MAX_NODE_ADDRS));
        assert!(JoinRequest::decode(many.as_bytes()).is_err());
    }

    #[test]
    fn a_join_request_beyond_its_limits_is_refused() {
        let mut request = JoinRequest::new(MeshNode::new(NodeId([1; 32])));
        let refused =
            |request: &JoinRequest| JoinRequest::decode(&serde_json::to_vec(request).unwrap()).is_err();
        assert!(!refused(&request));
        request.about.addrs = vec![SocketAddr::from(([192, 0, 2, 1], 1)); MAX_NODE_ADDRS + 1];
        assert!(refused(&request));
        request.about.addrs.pop();
        assert!(!refused(&request));
        request.about.relay = Some("x".repeat(MAX_RELAY_URL_LENGTH + 1));
        assert!(refused(&request));
        assert!(JoinRequest::decode(br#"{"node":"00"}"#).is_err());
        assert!(JoinRequest::decode(&[b' '; MAX_JOIN_REQUEST_LENGTH + 1]).is_err());
    }

    #[test]
    fn the_first_head_is_found_in_the_first_bytes_as_soon_as_it_is_there() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let heads = [1, 3].map(|first| CheckedHead::sign(&key, head(first)).into_signed());
        let (one, both) = (encode_heads(&heads[..1]), encode_heads(&heads));
        for length in 0..both.len() {
            // Without the two letters that end the list and the dictionary.
            let expected = (length >= one.len() - 2).then(|| heads[0].clone());
            assert_eq!(first_head_in(&both[..length]), Ok(expected), "{length}");
        }
        assert!(first_head_in(b"d5:headsle").is_err() && first_head_in(b"x").is_err());
    }

    #[test]
    fn too_many_heads_are_refused() {
        let signed = CheckedHead::sign(&ChannelKey::from_seed(&[1; 32]), head(1)).into_signed();
        assert!(decode_heads(&encode_heads(&vec![signed.clone(); MAX_POSTED_HEADS])).is_ok());
        assert!(decode_heads(&encode_heads(&vec![signed; MAX_POSTED_HEADS + 1])).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9+/=]{0,120}") {
            let _ = decode_heads(&bytes);
            let _ = JoinRequest::decode(&bytes);
            if let Ok(head) = head_from_base64(&text) {
                let _ = CheckedHead::check(head, &ChannelId::new([9; 32]));
            }
        }
    }
}
