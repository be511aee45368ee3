//! Where datagrams are received: `udp://[SENDER@]ADDRESS:PORT[?interface=…&sources=…&buffer_size=…]`, as VLC and ffmpeg
//! write it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Asked of the system for datagrams that wait while a segment is written; it may grant less.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Nobody needs more.
const MAX_RECEIVE_BUFFER: usize = 1 << 30;
/// Senders that are told apart.
const MAX_SOURCES: usize = 16;

/// Where to receive, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpAddress {
    /// The address and port; a multicast group is joined.
    pub listen: SocketAddr,
    /// Only what these send is taken (of an IPv4 group by source-specific multicast, RFC 4607); empty: whoever sends.
    pub sources: Vec<IpAddr>,
    /// The interface on which the group is joined: one of this machine's addresses, or a name such as `eth0`.
    pub interface: Option<String>,
    /// Bytes of receive buffer to ask of the system.
    pub buffer: usize,
}

impl UdpAddress {
    /// Any sender, on the interface that the system chooses.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, sources: Vec::new(), interface: None, buffer: RECEIVE_BUFFER }
    }

    /// Reads what follows `udp://` or `rtp://`. Options of ffmpeg that mean nothing here are passed over.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let place = place.trim_end_matches('/');
        let (source, place) = place.rsplit_once('@').unwrap_or(("", place));
        let mut address = Self::new(match place.strip_prefix(':') {
            Some(port) => (Ipv4Addr::UNSPECIFIED, port.parse().ok()?).into(),
            None => place.parse().ok()?,
        });
        let mut sources = vec![source];
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "sources" => sources.extend(value.split(',')),
                "interface" | "localaddr" => address.interface = Some(value.to_owned()),
                "buffer_size" => address.buffer = value.parse::<usize>().ok()?.min(MAX_RECEIVE_BUFFER),
                _ => {}
            }
        }
        for source in sources.into_iter().filter(|source| !source.is_empty()).take(MAX_SOURCES) {
            let source = source.trim_start_matches('[').trim_end_matches(']');
            address.sources.push(source.parse().ok()?);
        }
        // No sender of the other family ever comes to this address. `[::]` takes both.
        let both = address.listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let reaches = |source: &IpAddr| both || source.is_ipv4() == address.listen.is_ipv4();
        address.sources.iter().all(reaches).then_some(address)
    }

    /// Whether the system gives the port to one of both only.
    pub fn collides(&self, other: &Self) -> bool {
        let [one, two] = [self.listen.ip(), other.listen.ip()];
        let groups = one.is_multicast() && two.is_multicast();
        let same = one == two || one.is_unspecified() || two.is_unspecified();
        self.listen.port() == other.listen.port() && self.listen.port() != 0 && same && !groups
    }

    /// Whether what `sender` sends is wanted.
    pub fn takes(&self, sender: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.contains(&sender.to_canonical())
    }
}

impl fmt::Display for UdpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<String> = self.sources.iter().map(IpAddr::to_string).collect();
        match sources.as_slice() {
            [] => write!(f, "udp://{}", self.listen),
            _ => write!(f, "udp://{}@{}", sources.join(","), self.listen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_sources_and_interfaces() {
        let plain = UdpAddress::new(([239, 1, 1, 1], 5000).into());
        assert_eq!(UdpAddress::parse("@239.1.1.1:5000"), Some(plain.clone()));
        assert_eq!(UdpAddress::parse("239.1.1.1:5000/?pkt_size=1316"), Some(plain.clone()));
        let told = UdpAddress {
            sources: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
            interface: Some("eth1".to_owned()),
            buffer: 65_536,
            ..plain
        };
        let text = "10.0.0.1@239.1.1.1:5000?sources=10.0.0.2&localaddr=eth1&buffer_size=65536";
        assert_eq!(UdpAddress::parse(text), Some(told.clone()));
        assert_eq!(told.to_string(), "udp://10.0.0.1,10.0.0.2@239.1.1.1:5000");
        for wrong in
            ["", "239.1.1.1", "::1@127.0.0.1:5000", "x@239.1.1.1:5000", "@239.1.1.1:5000?buffer_size=x"]
        {
            assert_eq!(UdpAddress::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_port_is_given_to_one() {
        let collide = |one: &str, two: &str| {
            let [one, two] = [one, two].map(|text| UdpAddress::parse(text).unwrap());
            one.collides(&two)
        };
        assert!(collide("127.0.0.1:5000", "127.0.0.1:5000") && collide(":5000", "127.0.0.1:5000"));
        assert!(!collide(":5000", ":5001") && !collide("127.0.0.1:5000", "127.0.0.2:5000"));
        assert!(!collide("@239.1.1.1:5000", "@239.1.1.1:5000"), "any number may listen to a group");
    }

    #[test]
    fn one_sender_to_an_address_of_this_machine() {
        let address = UdpAddress::parse("192.0.2.9@:5000").unwrap();
        assert!(address.takes([192, 0, 2, 9].into()) && !address.takes([192, 0, 2, 8].into()));
        assert!(address.takes("::ffff:192.0.2.9".parse().unwrap()));
        let address = UdpAddress::parse("[2001:db8::9]@[::]:5000?sources=192.0.2.9").unwrap();
        assert!(address.takes("2001:db8::9".parse().unwrap()) && address.takes([192, 0, 2, 9].into()));
        assert!(UdpAddress::parse(":5000").unwrap().takes([192, 0, 2, 8].into()));
    }
}
