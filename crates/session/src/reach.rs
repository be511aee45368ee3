//! How a node is reached, in the bytes that the mesh passes on without reading
//! ([`PeerInfo::address`](minuet_proto::mesh::PeerInfo)). Pure.
//!
//! A row of entries: a type byte, the length of its value in one byte, the value. Types 4 and 6 are a UDP socket address
//! (IP, port, big-endian), type 1 is the URL of a relay server. An entry of another type is skipped, and so is one of
//! these whose length is another than its own; one that is cut off ends the row. 256 bytes at most.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use minuet_guard::{
    contact::{Scope, Teller, nameable},
    net::household,
};

/// Longest encoded form in bytes.
const MAX_LEN: usize = 256;
/// Most socket addresses of one node.
pub const MAX_ADDRS: usize = 8;
/// Most of them that are dialled.
pub const MAX_DIALLED: usize = 4;
/// Longest URL of a relay server in bytes.
const MAX_RELAY_LEN: usize = 100;

const RELAY: u8 = 1;
const V4: u8 = 4;
const V6: u8 = 6;

/// Where a node can be dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// UDP addresses, the likeliest first.
    pub addrs: Vec<SocketAddr>,
    /// URL of the relay server that it is connected to.
    pub relay: Option<String>,
}

impl Reach {
    /// Addresses in the order of how far they reach: what is of use far away goes first.
    pub fn new(addrs: impl IntoIterator<Item = SocketAddr>, relay: Option<String>) -> Self {
        let mut addrs: Vec<SocketAddr> = addrs.into_iter().collect();
        addrs.sort_by_key(|addr| match addr.ip().to_canonical() {
            ip if ip.is_loopback() => 2,
            IpAddr::V4(ip) => u8::from(ip.is_private() || ip.is_link_local()),
            IpAddr::V6(ip) => u8::from(ip.is_unique_local() || ip.is_unicast_link_local()),
        });
        Self { addrs, relay }
    }

    /// What somebody at `teller` may name of it.
    pub fn told_by(&self, teller: Teller) -> Self {
        Self { addrs: nameable(&self.addrs, teller).collect(), relay: self.relay.clone() }
    }

    /// What a neighbour says of itself, as far as it is to be believed where its packets come from `observed`: addresses
    /// of that household, and those of its own site where it is on this node's. The observed address goes first. Of a
    /// neighbour behind a relay server nothing was observed, and only the relay server is left.
    pub fn as_observed(&self, observed: Option<SocketAddr>) -> Self {
        let Some(observed) = observed else { return Self { addrs: Vec::new(), relay: self.relay.clone() } };
        let near = Scope::of(observed.ip()).is_some_and(|scope| scope <= Scope::Private);
        let own = |addr: &SocketAddr| {
            let same_site = near && Scope::of(addr.ip()) == Scope::of(observed.ip());
            *addr != observed && (same_site || household(addr.ip()) == household(observed.ip()))
        };
        let claimed = nameable(&self.addrs, Teller::At(observed.ip())).filter(own);
        let addrs = std::iter::once(observed).chain(claimed).take(MAX_ADDRS).collect();
        Self { addrs, relay: self.relay.clone() }
    }

    /// What is told to somebody at `listener`: nothing that is nearer than that. None: it is not known where they are.
    pub fn told_to(&self, listener: Option<IpAddr>) -> Self {
        self.told_by(listener.map_or(Teller::Unknown, Teller::At))
    }

    /// Whether nobody can be reached so.
    pub fn is_empty(&self) -> bool {
        self.addrs.is_empty() && self.relay.is_none()
    }

    /// The encoded form. What does not fit is left out, the last addresses first.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let mut put = |kind: u8, value: &[u8]| {
            let Ok(len) = u8::try_from(value.len()) else { return };
            if out.len().saturating_add(value.len()).saturating_add(2) <= MAX_LEN {
                out.put_slice(&[kind, len]);
                out.put_slice(value);
            }
        };
        if let Some(relay) = self.relay.as_ref().filter(|relay| relay.len() <= MAX_RELAY_LEN) {
            put(RELAY, relay.as_bytes());
        }
        for addr in self.addrs.iter().take(MAX_ADDRS) {
            let port = addr.port().to_be_bytes();
            match addr.ip() {
                IpAddr::V4(ip) => put(V4, &[&ip.octets()[..], &port].concat()),
                IpAddr::V6(ip) => put(V6, &[&ip.octets()[..], &port].concat()),
            }
        }
        out.freeze()
    }

    /// What the bytes say, as far as they can be read. Addresses that cannot be anyone's are left out.
    pub fn decode(bytes: &Bytes) -> Self {
        let mut buf = bytes.slice(..bytes.len().min(MAX_LEN));
        let mut reach = Self::default();
        while buf.remaining() >= 2 {
            let (kind, len) = (buf.get_u8(), usize::from(buf.get_u8()));
            if buf.remaining() < len {
                break;
            }
            let mut value = buf.split_to(len);
            let ip: IpAddr = match (kind, len) {
                (V4, 6) => Ipv4Addr::from_bits(value.get_u32()).into(),
                (V6, 18) => Ipv6Addr::from_bits(value.get_u128()).into(),
                (RELAY, ..=MAX_RELAY_LEN) if reach.relay.is_none() => {
                    reach.relay = std::str::from_utf8(&value).ok().map(str::to_owned);
                    continue;
                }
                _ => continue,
            };
            let addr = SocketAddr::new(ip, value.get_u16());
            let possible = addr.port() != 0 && Scope::of(addr.ip()).is_some();
            if possible && reach.addrs.len() < MAX_ADDRS && !reach.addrs.contains(&addr) {
                reach.addrs.push(addr);
            }
        }
        reach
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_survives_the_way() {
        let reach = Reach {
            addrs: vec!["192.0.2.7:4433".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()],
            relay: Some("http://tracker.example:7070/".into()),
        };
        assert_eq!(Reach::decode(&reach.encode()), reach);
        let many =
            Reach { addrs: vec!["[2001:db8::1]:7".parse().unwrap(); 99], relay: Some("x".repeat(100)) };
        assert!(many.encode().len() <= MAX_LEN);
    }

    #[test]
    fn entries_that_are_not_known_are_skipped() {
        let known = Reach { addrs: vec!["192.0.2.7:4433".parse().unwrap()], relay: None }.encode();
        let mut grown = BytesMut::new();
        // A type of another version, a known type with a length that is not its own, and one without a value.
        for entry in [&[9, 3, 1, 2, 3][..], &[4, 2, 192, 0], &[200, 0]] {
            grown.put_slice(entry);
        }
        grown.put_slice(&known);
        grown.put_slice(&[6, 18, 1]);
        assert_eq!(Reach::decode(&grown.freeze()), Reach::decode(&known));
    }

    #[test]
    fn addresses_that_reach_farthest_are_told_first() {
        let addrs = ["127.0.0.1:7", "192.168.1.2:7", "[fe80::1]:7", "198.51.100.1:7", "[2001:db8::1]:7"];
        let reach = Reach::new(addrs.map(|addr| addr.parse().unwrap()), None);
        let order: Vec<String> = reach.addrs.iter().map(ToString::to_string).collect();
        assert_eq!(
            order,
            ["198.51.100.1:7", "[2001:db8::1]:7", "192.168.1.2:7", "[fe80::1]:7", "127.0.0.1:7"]
        );
    }

    #[test]
    fn a_neighbour_is_believed_about_its_own_household_alone() {
        let addrs =
            |addrs: &[&str]| addrs.iter().map(|addr| addr.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let claimed = Reach {
            addrs: addrs(&["203.0.113.9:53", "198.51.100.7:9", "192.168.1.7:8", "127.0.0.1:7"]),
            relay: Some("http://tracker.example/".into()),
        };
        let from = |observed: &str| claimed.as_observed(Some(observed.parse().unwrap())).addrs;
        assert_eq!(from("198.51.100.7:5"), addrs(&["198.51.100.7:5", "198.51.100.7:9"]));
        assert_eq!(from("192.168.1.7:5"), addrs(&["192.168.1.7:5", "192.168.1.7:8"]));
        assert_eq!(from("192.168.1.9:5"), addrs(&["192.168.1.9:5", "192.168.1.7:8"]));
        let relayed = claimed.as_observed(None);
        assert!(relayed.addrs.is_empty() && relayed.relay.is_some());
    }

    #[test]
    fn what_is_near_is_told_only_to_those_who_are_near() {
        let addrs = ["198.51.100.1:7", "192.168.1.2:7", "127.0.0.1:7"].map(|addr| addr.parse().unwrap());
        let all = Reach { addrs: addrs.to_vec(), relay: None };
        let told = |listener: Option<&str>| all.told_to(listener.map(|ip| ip.parse().unwrap())).addrs.len();
        assert_eq!(
            [told(None), told(Some("203.0.113.1")), told(Some("10.0.0.1")), told(Some("::1"))],
            [1, 1, 2, 3]
        );
    }

    #[test]
    fn what_nobody_listens_on_is_left_out() {
        let reach = Reach {
            addrs: ["0.0.0.0:7", "192.0.2.7:0", "224.0.0.1:7"].map(|a| a.parse().unwrap()).to_vec(),
            relay: None,
        };
        assert_eq!(Reach::decode(&reach.encode()), Reach::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let reach = Reach::decode(&bytes.into());
            prop_assert!(reach.addrs.len() <= MAX_ADDRS);
            prop_assert_eq!(Reach::decode(&reach.encode()), reach);
        }
    }
}
