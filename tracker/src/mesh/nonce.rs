//! What nodes sign when they join (`minuet_proto::channel_api::mesh::JoinProof`), without a table: a keyed hash of the
//! household that asks and of the time, as UDP connection ids are.
//!
//! The time is that of day and the key can be shared, so that trackers of a fleet which stand behind one address take each
//! other's. The household and not the address is hashed, since an IPv6 host changes its address when it likes.

use std::fmt;
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use minuet_guard::net::household;
use minuet_proto::channel_api::mesh::Nonce;
use sha2::{Digest as _, Sha256};

/// Milliseconds that nonces are made of one moment for.
const EPOCH_MS: u64 = 256_000;
/// Nonces are accepted in their epoch and in so many more: a quarter of an hour, within which nodes join again even
/// when their interval is stretched to its most.
const EPOCHS: u64 = 3;

/// A secret that only this tracker and its fleet know.
pub type Key = [u8; 32];

/// Makes and checks nonces.
pub struct Nonces(RwLock<Key>);

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is a secret.
        f.write_str("Nonces(_)")
    }
}

impl Nonces {
    /// With a key that must be random.
    pub fn new(key: Key) -> Self {
        Self(RwLock::new(key))
    }

    /// The key in use.
    pub fn key(&self) -> Key {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes another key, that of the fleet. Nonces of the old one are no longer taken; whoever has one joins twice.
    pub fn set_key(&self, key: Key) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// The nonce for whoever asks from `ip`.
    pub fn issue(&self, ip: IpAddr, unix_ms: u64) -> Nonce {
        self.of_epoch(ip, unix_ms / EPOCH_MS)
    }

    /// Whether `nonce` was issued to this household not long ago.
    pub fn check(&self, nonce: Nonce, ip: IpAddr, unix_ms: u64) -> bool {
        let now = unix_ms / EPOCH_MS;
        (0..=EPOCHS).filter_map(|age| now.checked_sub(age)).any(|epoch| self.of_epoch(ip, epoch) == nonce)
    }

    fn of_epoch(&self, ip: IpAddr, epoch: u64) -> Nonce {
        // The text of a network has one form, and its end is told by the slash.
        let hash = Sha256::new()
            .chain_update(self.key())
            .chain_update(epoch.to_be_bytes())
            .chain_update(household(ip).to_string())
            .finalize();
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&hash[..16]);
        Nonce(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_holds_for_its_household_its_tracker_and_a_quarter_of_an_hour() {
        let nonces = Nonces::new([1; 32]);
        let (ip, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for issued in [0, EPOCH_MS - 1, EPOCH_MS, 1_800_000_000_000, u64::MAX - 2_000_000] {
            let nonce = nonces.issue(ip, issued);
            for later in [0, 60_000, 540_000] {
                assert!(nonces.check(nonce, ip, issued + later));
                assert!(!nonces.check(nonce, other, issued + later));
                assert!(!Nonces::new([2; 32]).check(nonce, ip, issued + later));
            }
            assert!(!nonces.check(nonce, ip, issued + (EPOCHS + 1) * EPOCH_MS));
        }
        nonces.set_key([2; 32]);
        assert!(nonces.check(Nonces::new([2; 32]).issue(ip, 7), ip, 7));
    }
}
