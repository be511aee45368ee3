//! Households and wider networks.
//!
//! A household is what one subscriber has: an IPv4 address, or an IPv6 /56. Wider networks are what one customer of a
//! hosting company has without effort: an IPv4 /24; an IPv6 /48 and /32.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::{SmallVec, smallvec};

/// A network: an address whose host bits are zero, and the length of its prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    base: IpAddr,
    bits: u8,
}

impl Net {
    /// The network of `bits` bits that `ip` is in. An IPv4 address that is written as an IPv6 one counts as IPv4.
    pub fn of(ip: IpAddr, bits: u8) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let bits = bits.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                Self { base: Ipv4Addr::from_bits(ip.to_bits() & mask).into(), bits }
            }
            IpAddr::V6(ip) => {
                let bits = bits.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                Self { base: Ipv6Addr::from_bits(ip.to_bits() & mask).into(), bits }
            }
        }
    }

    /// Length of its prefix in bits.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Its first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.to_canonical().is_ipv4() == self.base.is_ipv4() && Self::of(ip, self.bits) == *self
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// The household of an address: the IPv4 address, or the IPv6 /56.
pub fn household(ip: IpAddr) -> Net {
    match ip.to_canonical() {
        IpAddr::V4(_) => Net::of(ip, 32),
        IpAddr::V6(_) => Net::of(ip, 56),
    }
}

/// The networks of an address, the narrowest (its household) first.
pub fn nets(ip: IpAddr) -> SmallVec<[Net; 3]> {
    match ip.to_canonical() {
        IpAddr::V4(_) => smallvec![Net::of(ip, 32), Net::of(ip, 24)],
        IpAddr::V6(_) => smallvec![Net::of(ip, 56), Net::of(ip, 48), Net::of(ip, 32)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn households_are_an_address_or_a_56() {
        assert_eq!(household(ip("192.0.2.1")), household(ip("::ffff:192.0.2.1")));
        assert_ne!(household(ip("192.0.2.1")), household(ip("192.0.2.2")));
        assert_eq!(household(ip("2001:db8::1")), household(ip("2001:db8:0:ff::1")));
        assert_ne!(household(ip("2001:db8::1")), household(ip("2001:db8:0:100::1")));
        assert_eq!(household(ip("2001:db8:0:1ff::1")).to_string(), "2001:db8:0:100::/56");
    }

    #[test]
    fn wider_nets_hold_the_narrower_ones() {
        assert_eq!(nets(ip("192.0.2.77"))[1].to_string(), "192.0.2.0/24");
        assert_eq!(nets(ip("2001:db8:1:2::3"))[2].to_string(), "2001:db8::/32");
        assert_eq!(Net::of(ip("192.0.2.1"), 0).to_string(), "0.0.0.0/0");
        assert_eq!(Net::of(ip("::1"), 0).to_string(), "::/0");
        let site = nets(ip("192.0.2.77"))[1];
        assert!(
            site.contains(ip("::ffff:192.0.2.1"))
                && !site.contains(ip("192.0.3.1"))
                && !site.contains(ip("::1"))
        );
    }
}
