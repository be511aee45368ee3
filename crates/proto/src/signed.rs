//! Statements signed by a channel's key.
//!
//! A [`Signed<T>`] exists only if its signature is good: it is made by [`Signed::sign`] or by [`Signed::decode`],
//! which checks. The payload travels as the very bytes that were signed and is never encoded anew, so nothing
//! depends on two encoders agreeing.
//!
//! Encoded (bencode): `d1:p<payload, a byte string>1:s<64-byte ed25519 signature>e`. What is signed is the
//! statement's domain string followed by the payload.

use base64::Engine as _;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    ChannelId, ChannelKey, Error, RecordHash,
    bencode::{Dict, DictWriter},
    key,
};

/// The longest signed statement, encoded, in bytes.
pub const MAX_SIGNED_LENGTH: usize = 4096;

/// A kind of statement that a channel's key can sign.
pub trait Statement: Sized {
    /// What it is called in errors.
    const WHAT: &'static str;
    /// Stands before the payload when it is signed.
    const DOMAIN: &'static [u8];

    /// The channel that it speaks for.
    fn channel(&self) -> ChannelId;

    /// The payload's bytes.
    fn encode(&self) -> Bytes;

    /// Parses a payload of at most [`MAX_SIGNED_LENGTH`] bytes.
    fn decode(payload: &[u8]) -> Result<Self, Error>;
}

/// A statement with a good signature of the channel that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    pub(crate) statement: T,
    pub(crate) payload: Bytes,
    pub(crate) signature: [u8; key::SIGNATURE_LENGTH],
}

impl<T: Statement> Signed<T> {
    /// Signs a statement. The channel it names must be the key's own.
    pub fn sign(key: &ChannelKey, statement: T) -> Self {
        debug_assert_eq!(key.channel(), statement.channel(), "the statement names another channel");
        let payload = statement.encode();
        let signature = key.sign(T::DOMAIN, &payload);
        Self { statement, payload, signature }
    }

    /// Parses and checks a statement of `channel`.
    pub fn decode(encoded: &[u8], channel: ChannelId) -> Result<Self, Error> {
        let signed = Self::decode_any(encoded)?;
        match signed.statement.channel() {
            found if found == channel => Ok(signed),
            found => Err(Error::WrongChannel { what: T::WHAT, expected: channel, found }),
        }
    }

    /// Parses a statement of whichever channel it names, and checks it against that channel's key.
    pub fn decode_any(encoded: &[u8]) -> Result<Self, Error> {
        Error::check_length(T::WHAT, encoded.len(), MAX_SIGNED_LENGTH)?;
        let envelope = Dict::parse(T::WHAT, encoded)?;
        let (payload, signature) = (envelope.bytes("p")?, envelope.bytes("s")?);
        let signature = signature.try_into().map_err(|_| Error::BadSignature { what: T::WHAT })?;
        let statement = T::decode(payload)?;
        if !key::verify(&statement.channel(), T::DOMAIN, payload, &signature) {
            return Err(Error::BadSignature { what: T::WHAT });
        }
        Ok(Self { statement, payload: Bytes::copy_from_slice(payload), signature })
    }

    /// The encoded form.
    pub fn encode(&self) -> Bytes {
        DictWriter::new().bytes("p", &self.payload).bytes("s", self.signature).finish()
    }

    /// The encoded form as base64 (RFC 4648, standard alphabet, padded), as JSON and event streams carry it.
    pub fn to_base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.encode())
    }

    /// Parses and checks what [`Signed::to_base64`] gave.
    pub fn from_base64(text: &str, channel: ChannelId) -> Result<Self, Error> {
        Self::decode(&from_base64(T::WHAT, text)?, channel)
    }

    /// The same of whichever channel it names.
    pub fn from_base64_any(text: &str) -> Result<Self, Error> {
        Self::decode_any(&from_base64(T::WHAT, text)?)
    }

    /// What is stated.
    pub fn get(&self) -> &T {
        &self.statement
    }

    /// SHA-256 of the payload.
    pub fn hash(&self) -> RecordHash {
        RecordHash::new(Sha256::digest(&self.payload).into())
    }
}

fn from_base64(what: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    Error::check_length(what, text.len(), MAX_SIGNED_LENGTH.div_ceil(3) * 4)?;
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| Error::malformed(what, e))
}

impl<T> std::ops::Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.statement
    }
}
