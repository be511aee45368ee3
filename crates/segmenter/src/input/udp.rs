//! Datagrams of MPEG-TS, plain or in RTP (RFC 2250), to one port; multicast groups are joined.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::Duration,
};

use minuet_media::packet::SYNC_BYTE;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::{InputError, Read, UdpAddress, pipe::wait_readable};

/// No datagram is longer.
const MAX_DATAGRAM: usize = 65_535;

/// A socket that receives the feed.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
}

impl Udp {
    /// Receives at `address`.
    pub fn bind(address: &UdpAddress) -> Result<Self, InputError> {
        let socket = bind(address).map_err(|reason| match reason.kind() {
            ErrorKind::AddrInUse => InputError::PortInUse(address.listen),
            _ => InputError::Udp { address: address.to_string(), reason },
        })?;
        Ok(Self { socket })
    }

    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        let mut filled = 0;
        // The first datagram is waited for; then all that are there are taken, while one more is sure to fit.
        while filled == 0 || buf.len() - filled >= MAX_DATAGRAM {
            match self.socket.recv(&mut buf[filled..]) {
                Ok(len) => filled += strip_rtp(&mut buf[filled..filled + len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if filled > 0 || !wait_readable(&self.socket, patience)? {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if filled == 0 { Read::Idle } else { Read::Data(filled) })
    }
}

fn bind(address: &UdpAddress) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address.listen), Type::DGRAM, Some(Protocol::UDP))?;
    let group = address.listen.ip().is_multicast();
    if group {
        // Any number of programs may listen to a group.
        socket.set_reuse_address(true)?;
    }
    // More than the system's limit is not granted; the rest is as good as it gets.
    let _ = socket.set_recv_buffer_size(address.buffer);
    socket.bind(&address.listen.into())?;
    match address.listen.ip() {
        IpAddr::V4(ip) if group => join(&socket, ip, address)?,
        IpAddr::V6(ip) if group => {
            let index = address.interface.as_deref().map(interface_index).transpose()?;
            socket.join_multicast_v6(&ip, index.unwrap_or(0))?;
        }
        _ => {}
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn join(socket: &Socket, group: Ipv4Addr, address: &UdpAddress) -> io::Result<()> {
    let interface = address.interface.as_deref();
    let own: Option<Ipv4Addr> = interface.and_then(|text| text.parse().ok());
    if !address.sources.is_empty() {
        if interface.is_some() && own.is_none() {
            let reason = "with a source, name the interface by this machine's address on it";
            return Err(io::Error::new(ErrorKind::InvalidInput, reason));
        }
        let own = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        return address.sources.iter().try_for_each(|source| socket.join_ssm_v4(source, &group, &own));
    }
    let interface = match (own, interface) {
        (Some(own), _) => InterfaceIndexOrAddress::Address(own),
        (None, Some(name)) => InterfaceIndexOrAddress::Index(interface_index(name)?),
        (None, None) => InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED),
    };
    socket.join_multicast_v4_n(&group, &interface)
}

/// The number of an interface, by its name.
fn interface_index(name: &str) -> io::Result<u32> {
    let unknown = || io::Error::new(ErrorKind::NotFound, format!("there is no interface {name:?}"));
    if name.contains('/') || name.starts_with('.') {
        return Err(unknown());
    }
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).map_err(|_| unknown())?;
    text.trim().parse().map_err(|_| unknown())
}

/// Removes the RTP header before MPEG-TS (RFC 3550, 5.1; payload type 33) and returns what is left to
/// count.
fn strip_rtp(datagram: &mut [u8]) -> usize {
    let header = rtp_header(datagram).unwrap_or(0);
    datagram.copy_within(header.., 0);
    datagram.len() - header
}

fn rtp_header(datagram: &[u8]) -> Option<usize> {
    const MP2T: u8 = 33;
    let [first, kind, ..] = *datagram else { return None };
    if first >> 6 != 2 || kind & 0x7f != MP2T {
        return None;
    }
    let mut len = 12 + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let words = datagram.get(len + 2..len + 4)?;
        len += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    (datagram.get(len) == Some(&SYNC_BYTE)).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::{super::MAX_WAIT, *};

    fn received(datagrams: &[&[u8]]) -> Vec<u8> {
        let mut udp = Udp::bind(&UdpAddress::new(([127, 0, 0, 1], 0).into())).unwrap();
        let address = udp.socket.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for datagram in datagrams {
            sender.send_to(datagram, address).unwrap();
        }
        let expected: usize = datagrams.len() * 188;
        let (mut all, mut buf) = (Vec::new(), vec![0; super::super::READ_LEN]);
        while all.len() < expected {
            let Read::Data(len) = udp.read(&mut buf, MAX_WAIT).unwrap() else {
                panic!("datagrams were sent")
            };
            all.extend_from_slice(&buf[..len]);
        }
        all
    }

    #[test]
    fn datagrams_are_joined() {
        let [a, b] = [1, 2].map(|fill| [&[0x47; 4][..], &[fill; 184]].concat());
        assert_eq!(received(&[&a, &b]), [a, b].concat());
    }

    #[test]
    fn rtp_is_unwrapped() {
        let packet = [0x47; 188];
        let plain = [&[0x80, 33, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], &packet].concat();
        // One contributing source, an extension of one word, the marker set.
        let head = [0x91, 0x80 | 33, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 1, 8, 8, 8, 8];
        let extended = [&head[..], &packet].concat();
        assert_eq!(received(&[&plain, &extended]), [0x47; 376]);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Udp::bind(&UdpAddress::new(address)).unwrap_err();
        assert!(matches!(error, InputError::PortInUse(named) if named == address), "{error}");
    }

    #[test]
    fn a_silent_socket_is_idle() {
        let mut udp = Udp::bind(&UdpAddress::new(([127, 0, 0, 1], 0).into())).unwrap();
        assert_eq!(udp.read(&mut [0; 1500], Duration::ZERO).unwrap(), Read::Idle);
    }

    #[test]
    fn a_group_is_heard_from_the_source_that_is_named_only() {
        // The loopback interface has multicast off in many places, but joining by its address works.
        let group = |text: &str| UdpAddress::parse(text).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&sender).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        for (sources, heard) in [("", true), ("127.0.0.1@", true), ("127.0.0.9@", false)] {
            let mut udp = Udp::bind(&group(&format!("{sources}239.255.7.7:0?interface=127.0.0.1"))).unwrap();
            let port = udp.socket.local_addr().unwrap().port();
            sender.send_to(&[0x47; 188], (Ipv4Addr::new(239, 255, 7, 7), port)).unwrap();
            let patience = if heard { MAX_WAIT * 40 } else { MAX_WAIT };
            let read = udp.read(&mut [0; 70_000], patience).unwrap();
            assert_eq!(read, if heard { Read::Data(188) } else { Read::Idle }, "{sources}");
        }
        let unknown = Udp::bind(&group("239.255.7.7:0?interface=no-such0")).unwrap_err();
        assert!(unknown.to_string().contains("no-such0"), "{unknown}");
    }
}
