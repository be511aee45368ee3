//! Which families of addresses this host has.
#![allow(
    clippy::disallowed_types,
    reason = "only the system can say, and says it by whether a socket can be had"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Whether IPv6 is built in and switched on. Where it is switched off a socket of `[::]` can often still be had, so that
/// says nothing.
pub fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// All addresses of this host: `[::]`, which takes IPv4 as well; `0.0.0.0` where there is no IPv6.
pub fn everywhere() -> IpAddr {
    if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_can_be_had_everywhere() {
        assert!(UdpSocket::bind((everywhere(), 0)).is_ok());
    }
}
