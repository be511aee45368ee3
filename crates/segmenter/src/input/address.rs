//! Where datagrams are received: `udp://[SOURCE@]ADDRESS:PORT[?interface=…&sources=…&buffer_size=…]`, as VLC and ffmpeg
//! write it.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

/// Asked of the system for datagrams that wait while a segment is written; it may grant less.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Nobody needs more.
const MAX_RECEIVE_BUFFER: usize = 1 << 30;
/// Senders of one group that are told apart.
const MAX_SOURCES: usize = 16;

/// Where to receive, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpAddress {
    /// The address and port; a multicast group is joined.
    pub listen: SocketAddr,
    /// Only what these send to the group (source-specific multicast, RFC 4607); empty: whoever sends.
    pub sources: Vec<Ipv4Addr>,
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
            address.sources.push(source.parse().ok()?);
        }
        // Others than an IPv4 group's sources cannot be told apart.
        let group = address.listen.is_ipv4() && address.listen.ip().is_multicast();
        (group || address.sources.is_empty()).then_some(address)
    }
}

impl fmt::Display for UdpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<String> = self.sources.iter().map(Ipv4Addr::to_string).collect();
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
            ["", "239.1.1.1", "10.0.0.1@127.0.0.1:5000", "x@239.1.1.1:5000", "@239.1.1.1:5000?buffer_size=x"]
        {
            assert_eq!(UdpAddress::parse(wrong), None, "{wrong}");
        }
    }
}
