//! The channel's key: who holds it is the source, and nobody else can speak for the channel.

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::{ChannelId, Error, ids};

/// Length of an ed25519 signature in bytes.
pub const SIGNATURE_LENGTH: usize = 64;

/// A channel's ed25519 secret key (RFC 8032).
#[derive(Clone)]
pub struct ChannelKey(SigningKey);

impl ChannelKey {
    /// The key of a 32-byte seed, which must come from a cryptographic random number generator.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half: the channel's name.
    pub fn channel(&self) -> ChannelId {
        ChannelId::new(self.0.verifying_key().to_bytes())
    }

    /// The seed as 64 hexadecimal digits, to be kept in a file that only its owner can read.
    pub fn to_secret_hex(&self) -> String {
        self.0.to_bytes().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Signs bytes that begin with the name of what they are, so that they cannot be taken for another statement.
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        self.sign(b"", bytes)
    }

    /// Signs `message` under `domain`, which keeps a signature of one kind of statement from passing as another.
    pub(crate) fn sign(&self, domain: &[u8], message: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        self.0.sign(&[domain, message].concat()).to_bytes()
    }
}

impl FromStr for ChannelKey {
    type Err = Error;

    /// Reads what [`ChannelKey::to_secret_hex`] wrote; surrounding white space is ignored.
    fn from_str(text: &str) -> Result<Self, Error> {
        ids::parse_hex("a channel key", text.trim()).map(|seed| Self::from_seed(&seed))
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelKey(of {})", self.channel())
    }
}

/// Whether `signature` is the channel's over bytes as [`ChannelKey::sign_bytes`] signs them.
pub fn verify_bytes(channel: &ChannelId, bytes: &[u8], signature: &[u8; SIGNATURE_LENGTH]) -> bool {
    verify(channel, b"", bytes, signature)
}

/// Whether `signature` is the channel's over `message` under `domain`. Strict as in RFC 8032: no weak keys, no
/// second form of the same signature.
pub(crate) fn verify(
    channel: &ChannelId,
    domain: &[u8],
    message: &[u8],
    signature: &[u8; SIGNATURE_LENGTH],
) -> bool {
    VerifyingKey::from_bytes(channel.as_bytes())
        .and_then(|key| key.verify_strict(&[domain, message].concat(), &Signature::from_bytes(signature)))
        .is_ok()
}
