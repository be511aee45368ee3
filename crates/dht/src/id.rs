//! Names of nodes and places of items: 160 bits, near to each other by exclusive or (BEP 5).

use std::net::IpAddr;

use crc::{CRC_32_ISCSI, Crc};

/// Length of a name in bytes.
pub(crate) const ID_LEN: usize = 20;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Which bits of an address count towards a name (BEP 42).
const V4: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
const V6: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];

/// A node's name, or an item's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; ID_LEN]);

impl Id {
    /// How far two are apart; compares as a number.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Self {
        let mut out = [0; ID_LEN];
        for (out, (a, b)) in out.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *out = a ^ b;
        }
        Self(out)
    }

    /// Whether a node at `ip` may have this name (BEP 42): an address has few names, so nobody with one address can be near to
    /// whatever he likes. Addresses that are not on the internet may have any.
    pub fn fits(&self, ip: IpAddr) -> bool {
        if !is_public(ip) {
            return true;
        }
        let random = self.0[ID_LEN - 1];
        let expected = match ip {
            IpAddr::V4(ip) => crc_of(&ip.octets(), &V4, random),
            IpAddr::V6(ip) => crc_of(&ip.octets()[..8], &V6, random),
        };
        let [a, b, c, _] = expected.to_be_bytes();
        self.0[0] == a && self.0[1] == b && self.0[2] & 0xf8 == c & 0xf8
    }
}

fn crc_of(address: &[u8], mask: &[u8], random: u8) -> u32 {
    let mut masked: Vec<u8> = address.iter().zip(mask).map(|(byte, mask)| byte & mask).collect();
    masked[0] |= (random & 7) << 5;
    CRC.checksum(&masked)
}

fn is_public(ip: IpAddr) -> bool {
    minuet_guard::contact::Scope::of(ip) == Some(minuet_guard::contact::Scope::Public)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of BEP 42.
    #[test]
    fn names_fit_their_addresses() {
        let id = |hex: &str| {
            let mut id = [0; ID_LEN];
            for (at, byte) in id.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
            }
            Id(id)
        };
        let examples = [
            ("124.31.75.21", "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
            ("21.75.31.124", "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
            ("65.23.51.170", "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
            ("84.124.73.14", "1b0321dd1bb1fe518101ceef99462b947a01ff41"),
            ("43.213.53.83", "e56f6cbf5b7c4be0237986d5243b87aa6d51305a"),
        ];
        for (ip, hex) in examples {
            assert!(id(hex).fits(ip.parse().unwrap()), "{ip}");
            assert!(!id(hex).fits("8.8.8.8".parse().unwrap()), "{ip}");
        }
        assert!(id(examples[0].1).fits("192.168.1.7".parse().unwrap()));
    }

    #[test]
    fn distance_is_a_number() {
        let id = |first| Id([first; ID_LEN]);
        assert!(id(1).distance(&id(3)) < id(1).distance(&id(4)));
        assert_eq!(id(7).distance(&id(7)), id(0));
    }
}
