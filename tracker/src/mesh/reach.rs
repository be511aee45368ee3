//! Which of a node's addresses are worth telling to whom.

use std::net::{IpAddr, SocketAddr};

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// No machine: unspecified, multicast, broadcast.
    None,
    /// The same machine.
    Host,
    /// The same site: private (RFC 1918, RFC 4193), shared (RFC 6598) and link-local addresses.
    Site,
    /// The internet.
    World,
}

/// How far `ip` reaches.
pub fn reach(ip: IpAddr) -> Reach {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || a == 0 {
                Reach::None
            } else if ip.is_loopback() {
                Reach::Host
            } else if ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64) {
                Reach::Site
            } else {
                Reach::World
            }
        }
        IpAddr::V6(ip) => {
            if ip.is_unspecified() || ip.is_multicast() {
                Reach::None
            } else if ip.is_loopback() {
                Reach::Host
            } else if ip.is_unique_local() || ip.is_unicast_link_local() {
                Reach::Site
            } else {
                Reach::World
            }
        }
    }
}

/// Whether somebody whose requests come from `asker` may have use of `addr`, which a node seen at `owner` named.
///
/// A private address is told within one household only, unless the asker comes from a private address itself: then
/// tracker and asker are of one site, and whoever else the tracker sees may be too.
pub fn is_of_use(addr: SocketAddr, owner: IpAddr, asker: IpAddr) -> bool {
    match reach(addr.ip()) {
        Reach::None => false,
        Reach::Host => reach(asker) == Reach::Host,
        Reach::Site => reach(asker) != Reach::World || super::same_network(owner, asker),
        Reach::World => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_use(addr: &str, owner: &str, asker: &str) -> bool {
        is_of_use(SocketAddr::new(addr.parse().unwrap(), 1), owner.parse().unwrap(), asker.parse().unwrap())
    }

    #[test]
    fn an_address_reaches_as_far_as_its_kind() {
        for (addr, expected) in [
            ("0.0.0.0", Reach::None),
            ("0.1.2.3", Reach::None),
            ("224.0.0.1", Reach::None),
            ("255.255.255.255", Reach::None),
            ("127.0.0.1", Reach::Host),
            ("::ffff:127.0.0.1", Reach::Host),
            ("10.1.2.3", Reach::Site),
            ("100.64.0.1", Reach::Site),
            ("100.128.0.1", Reach::World),
            ("169.254.1.1", Reach::Site),
            ("198.51.100.1", Reach::World),
            ("::", Reach::None),
            ("ff02::1", Reach::None),
            ("::1", Reach::Host),
            ("fe80::1", Reach::Site),
            ("fd00::1", Reach::Site),
            ("2001:db8::1", Reach::World),
        ] {
            assert_eq!(reach(addr.parse().unwrap()), expected, "{addr}");
        }
    }

    #[test]
    fn addresses_are_told_to_whom_they_may_be_of_use() {
        assert!(of_use("198.51.100.1", "198.51.100.1", "203.0.113.1"));
        // A private address within one household, and on a site that the tracker is part of.
        assert!(of_use("192.168.0.2", "198.51.100.1", "198.51.100.1"));
        assert!(!of_use("192.168.0.2", "198.51.100.1", "203.0.113.1"));
        assert!(of_use("192.168.0.2", "198.51.100.1", "192.168.0.9"));
        assert!(of_use("fd00::2", "2001:db8:0:aa00::1", "2001:db8:0:aaff::1"));
        // A loopback address on one machine.
        assert!(of_use("127.0.0.1", "127.0.0.1", "127.0.0.1"));
        assert!(!of_use("127.0.0.1", "192.168.0.9", "192.168.0.9"));
    }
}
