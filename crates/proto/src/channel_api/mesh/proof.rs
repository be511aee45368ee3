//! What a node proves to a tracker when it joins the live mesh.
//!
//! # Why
//! A stranger who could join under any key could write addresses of his own into the entries of others, and fill a mesh with
//! nodes that are not there. So a node signs its join with its own key ([`JoinProof`]).
//!
//! # Against replays
//! The node signs a [`Nonce`] that the tracker gave to the address which it asked from, and which only this tracker (or
//! its fleet) can have made. So what somebody overhears is of no use from another address, at another tracker, in
//! another channel, with another body, or a quarter of an hour later. A time stamp in place of the nonce would need the
//! clocks of viewers to be right, and a name of the tracker in place of the nonce's secret would need the tracker to know
//! the names under which it is reached.
//!
//! # What it costs
//! No round trip before a newcomer has its neighbours: every answer about the channel carries a nonce, that to a plain
//! [`Join`](super::super::Join) too, and a node whose nonce is missing, old, or of its last address is told of others all
//! the same. It joins once more to be told to others.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ChannelId, ChannelKey, Error, NodeId, SIGNATURE_LEN, ids, verify};

/// Carries a [`JoinProof`].
pub const PROOF_HEADER: &str = "minuet-proof";

/// Stands before what a node signs.
const JOIN_DOMAIN: &[u8] = b"minuet join 1\n";
/// Stands before what a channel signs of its source.
const SOURCE_DOMAIN: &[u8] = b"minuet source 1\n";

/// Something that only one tracker can have made, and only for one address. 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

/// A node's signature of its join, by the key that the request names. As a header: the nonce and the signature as
/// hexadecimal digits, with a dot between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinProof {
    /// The tracker's nonce.
    pub nonce: Nonce,
    /// Ed25519, of what [`JoinProof::signed_bytes`] says.
    pub signature: [u8; SIGNATURE_LEN],
}

impl JoinProof {
    /// What is signed: the domain, the channel, the nonce, and the request's body as it is sent.
    pub fn signed_bytes(channel: &ChannelId, nonce: Nonce, body: &[u8]) -> Vec<u8> {
        [JOIN_DOMAIN, channel.as_bytes(), &nonce.0, body].concat()
    }

    /// Whether `node` signed this body for this channel. That the nonce is good is for the tracker to say.
    pub fn holds(&self, node: &NodeId, channel: &ChannelId, body: &[u8]) -> bool {
        let signed = Self::signed_bytes(channel, self.nonce, body);
        verify(&ChannelId::new(node.0), b"", &signed, &self.signature)
    }
}

impl fmt::Display for JoinProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.nonce)?;
        ids::write_hex(&self.signature, f)
    }
}

impl FromStr for JoinProof {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const WHAT: &str = "a join's proof";
        let (nonce, signature) =
            text.split_once('.').ok_or_else(|| Error::malformed(WHAT, "there is no dot in it"))?;
        Ok(Self { nonce: nonce.parse()?, signature: ids::parse_hex(WHAT, signature)? })
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ids::write_hex(&self.0, f)
    }
}

impl FromStr for Nonce {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        ids::parse_hex("a nonce", text).map(Self)
    }
}

/// A channel's word that a node is its source: its signature of the node's key. It needs no nonce, since it is of use to
/// nobody but that node, and so trackers and nodes can pass it on. 128 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceProof([u8; SIGNATURE_LEN]);

impl SourceProof {
    /// Signs for a node.
    pub fn sign(key: &ChannelKey, node: &NodeId) -> Self {
        Self(key.sign(SOURCE_DOMAIN, &node.0))
    }

    /// Whether `channel` signed this for `node`.
    pub fn holds(&self, channel: &ChannelId, node: &NodeId) -> bool {
        verify(channel, SOURCE_DOMAIN, &node.0, &self.0)
    }
}

impl fmt::Display for SourceProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ids::write_hex(&self.0, f)
    }
}

impl FromStr for SourceProof {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        ids::parse_hex("a source's proof", text).map(Self)
    }
}

/// As the text of its `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($type:ty, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

serde_as_text!(Nonce, "32 hexadecimal digits");
serde_as_text!(SourceProof, "128 hexadecimal digits");

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: &ChannelKey) -> NodeId {
        NodeId(*key.channel().as_bytes())
    }

    #[test]
    fn a_join_is_proved_by_its_own_key_for_one_channel_nonce_and_body() {
        let (key, other) = (ChannelKey::from_seed(&[1; 32]), ChannelKey::from_seed(&[2; 32]));
        let (channel, nonce) = (other.channel(), Nonce([7; 16]));
        let signature = key.sign_bytes(&JoinProof::signed_bytes(&channel, nonce, b"body"));
        let proof = JoinProof { nonce, signature };
        assert_eq!(proof.to_string().parse(), Ok(proof));
        assert!(proof.holds(&node(&key), &channel, b"body"));
        assert!(!proof.holds(&node(&other), &channel, b"body"));
        assert!(!proof.holds(&node(&key), &key.channel(), b"body"));
        assert!(!proof.holds(&node(&key), &channel, b"another"));
        let moved = JoinProof { nonce: Nonce([8; 16]), ..proof };
        assert!(!moved.holds(&node(&key), &channel, b"body"));
        for bad in ["", ".", "07", &"0".repeat(161), &format!("{nonce}.{nonce}")] {
            assert!(bad.parse::<JoinProof>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_source_is_one_by_the_word_of_its_channel_alone() {
        let (key, other) = (ChannelKey::from_seed(&[1; 32]), ChannelKey::from_seed(&[2; 32]));
        let source = node(&other);
        let proof = SourceProof::sign(&key, &source);
        assert_eq!(proof.to_string().parse(), Ok(proof));
        assert!(proof.holds(&key.channel(), &source));
        assert!(!proof.holds(&other.channel(), &source));
        assert!(!proof.holds(&key.channel(), &node(&key)));
        let mut about = super::super::MeshNode::new(source);
        about.is_source = true;
        assert!(!about.is_source_of(&key.channel()));
        about.source_proof = Some(proof);
        assert!(about.is_source_of(&key.channel()) && !about.is_source_of(&other.channel()));
        let json = serde_json::to_string(&about).unwrap();
        assert_eq!(serde_json::from_str::<super::super::MeshNode>(&json).unwrap(), about);
    }
}
