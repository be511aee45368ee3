//! Mutable items (BEP 44): a value under a key, with a number that grows and the key's signature.

use bytes::Bytes;
use minuet_proto::{ChannelId, ChannelKey, key::verify_bytes};
use sha1::{Digest as _, Sha1};

use crate::Id;

/// The longest value, bencoded.
pub const MAX_ITEM: usize = 1000;
/// The longest salt.
pub const MAX_SALT: usize = 64;
/// Length of a signature.
pub(crate) const SIGNATURE_LEN: usize = 64;

/// A signed value. Exists only if the signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    key: ChannelId,
    salt: Bytes,
    seq: i64,
    value: Bytes,
    signature: [u8; SIGNATURE_LEN],
}

impl Item {
    /// Signs a value, which is bencoded and at most [`MAX_ITEM`] long; `salt` is at most [`MAX_SALT`]. None if one is longer.
    pub fn sign(key: &ChannelKey, salt: Bytes, seq: i64, value: Bytes) -> Option<Self> {
        if value.len() > MAX_ITEM || salt.len() > MAX_SALT || seq < 0 {
            return None;
        }
        let signature = key.sign_bytes(&signed_bytes(&salt, seq, &value));
        Some(Self { key: key.channel(), salt, seq, value, signature })
    }

    /// What somebody brought as the item of `key` and `salt`; none if it is not.
    pub fn check(
        key: ChannelId,
        salt: Bytes,
        seq: i64,
        value: Bytes,
        signature: [u8; SIGNATURE_LEN],
    ) -> Option<Self> {
        let fits = value.len() <= MAX_ITEM && salt.len() <= MAX_SALT && seq >= 0;
        (fits && verify_bytes(&key, &signed_bytes(&salt, seq, &value), &signature)).then_some(Self {
            key,
            salt,
            seq,
            value,
            signature,
        })
    }

    /// Where the item of a key and a salt lies.
    pub fn place(key: &ChannelId, salt: &[u8]) -> Id {
        let mut hash = Sha1::new();
        hash.update(key.as_bytes());
        hash.update(salt);
        Id(hash.finalize().into())
    }

    /// Whose it is.
    pub fn key(&self) -> &ChannelId {
        &self.key
    }

    /// Which of its key's items it is.
    pub fn salt(&self) -> &Bytes {
        &self.salt
    }

    /// Its number: the highest counts.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// What it says, bencoded.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// The key's word for it.
    pub fn signature(&self) -> &[u8; SIGNATURE_LEN] {
        &self.signature
    }
}

/// What is signed: number and value as in the message, the salt before them if there is one.
fn signed_bytes(salt: &[u8], seq: i64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len().saturating_add(128));
    if !salt.is_empty() {
        out.extend_from_slice(format!("4:salt{}:", salt.len()).as_bytes());
        out.extend_from_slice(salt);
    }
    out.extend_from_slice(format!("3:seqi{seq}e1:v").as_bytes());
    out.extend_from_slice(value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second example of BEP 44 in all but the signature, which depends on the key's expanded form there.
    #[test]
    fn the_signed_bytes_and_the_place_are_those_of_the_specification() {
        assert_eq!(signed_bytes(b"", 1, b"12:Hello World!"), b"3:seqi1e1:v12:Hello World!");
        assert_eq!(
            signed_bytes(b"foobar", 1, b"12:Hello World!"),
            b"4:salt6:foobar3:seqi1e1:v12:Hello World!"
        );
        let hex = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";
        let key = ChannelKey::from_seed(&[0; 32]).channel();
        let mut bytes = *key.as_bytes();
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        }
        let key = ChannelId::new(bytes);
        let place =
            |salt: &[u8]| Item::place(&key, salt).0.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(place(b""), "4a533d47ec9c7d95b1ad75f576cffc641853b750");
        assert_eq!(place(b"foobar"), "411eba73b6f087ca51a3795d9c8c938d365e32c1");
        let signature = "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01";
        let mut bytes = [0; SIGNATURE_LEN];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&signature[2 * at..2 * at + 2], 16).unwrap();
        }
        let value = Bytes::from_static(b"12:Hello World!");
        assert!(Item::check(key, Bytes::new(), 1, value.clone(), bytes).is_some());
        assert!(Item::check(key, Bytes::new(), 2, value, bytes).is_none());
    }

    #[test]
    fn an_item_passes_only_as_what_it_is() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let value = Bytes::from_static(b"d2:ihi7ee");
        let item = Item::sign(&key, Bytes::from_static(b"s"), 7, value.clone()).unwrap();
        let check = |salt: &'static [u8], seq, key: &ChannelKey| {
            Item::check(key.channel(), Bytes::from_static(salt), seq, value.clone(), item.signature)
        };
        assert_eq!(check(b"s", 7, &key), Some(item.clone()));
        assert!(check(b"t", 7, &key).is_none() && check(b"s", 8, &key).is_none());
        assert!(check(b"s", 7, &ChannelKey::from_seed(&[2; 32])).is_none());
        assert!(Item::sign(&key, Bytes::new(), 1, Bytes::from(vec![0; MAX_ITEM + 1])).is_none());
        assert!(Item::sign(&key, Bytes::new(), -1, value.clone()).is_none());
    }
}
