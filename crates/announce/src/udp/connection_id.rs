//! Connection ids (BEP 15) without a table.
//!
//! An id is a keyed hash of the sender's address and the time, so it proves that the sender gets what is sent
//! to its address, and there is nothing that a flood of connects could fill. BEP 15 has clients use an id for one
//! minute and trackers accept it for two after it was sent.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use crate::time::Uptime;

/// Seconds that ids are made of one moment for.
const EPOCH_SECONDS: u32 = 64;
/// Ids are accepted in their epoch and in two more: 128 to 192 s.
const EPOCHS: u32 = 3;
/// Low bits of an id that say its epoch, so that one hash is enough to check it.
const EPOCH_MASK: u64 = 3;

/// Makes and checks connection ids.
#[derive(Debug, Default)]
pub struct ConnectionIds {
    // SipHash-1-3 under a random key.
    key: RandomState,
}

impl ConnectionIds {
    /// The id for a sender.
    pub fn issue(&self, ip: IpAddr, now: Uptime) -> u64 {
        self.of_epoch(ip, now.0 / EPOCH_SECONDS)
    }

    /// Whether `id` was issued to this sender not long ago.
    pub fn check(&self, id: u64, ip: IpAddr, now: Uptime) -> bool {
        let now = now.0 / EPOCH_SECONDS;
        let age = (u64::from(now).wrapping_sub(id) & EPOCH_MASK) as u32;
        age < EPOCHS && age <= now && self.of_epoch(ip, now - age) == id
    }

    fn of_epoch(&self, ip: IpAddr, epoch: u32) -> u64 {
        let bits = match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        self.key.hash_one((bits, epoch)) & !EPOCH_MASK | u64::from(epoch) & EPOCH_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_for_two_minutes_and_its_own_address() {
        let ids = ConnectionIds::default();
        let (ip, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for issued in [0, 1, 63, 64, 1_000, 4_000_000_000] {
            let id = ids.issue(ip, Uptime(issued));
            for later in [0, 60, 120] {
                assert!(ids.check(id, ip, Uptime(issued + later)), "{issued} + {later}");
                assert!(!ids.check(id, other, Uptime(issued + later)));
                assert!(!ids.check(id ^ 1 << 40, ip, Uptime(issued + later)));
            }
            for later in [192, 256, 300, 3_600] {
                assert!(!ids.check(id, ip, Uptime(issued + later)), "{issued} + {later}");
            }
        }
    }

    #[test]
    fn another_tracker_issues_other_ids() {
        let ip = IpAddr::from([192, 0, 2, 1]);
        let id = ConnectionIds::default().issue(ip, Uptime(5));
        assert!(!ConnectionIds::default().check(id, ip, Uptime(5)));
    }
}
