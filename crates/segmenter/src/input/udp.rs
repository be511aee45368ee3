//! Datagrams of MPEG-TS, plain or in RTP (RFC 2250), to one port; multicast groups are joined.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use minuet_media::packet::SYNC_BYTE;
use socket2::{Domain, Protocol, Socket, Type};

use super::{InputError, MAX_WAIT, Read};

/// Asked of the system for datagrams that wait while a segment is written; it may grant less.
const RECEIVE_BUFFER: usize = 8 << 20;
/// No datagram is longer.
const MAX_DATAGRAM: usize = 65_535;

/// A socket that receives the feed.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
}

/// Reads `address:port` as ffmpeg writes it: an `@` before a group, options after a `?`, no address for any.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    let text = text.split(['?', '/']).next()?;
    let text = text.strip_prefix('@').unwrap_or(text);
    match text.strip_prefix(':') {
        Some(port) => Some((Ipv4Addr::UNSPECIFIED, port.parse().ok()?).into()),
        None => text.parse().ok(),
    }
}

impl Udp {
    /// Receives at `address`.
    pub fn bind(address: SocketAddr) -> Result<Self, InputError> {
        let socket = bind(address).map_err(|source| match source.kind() {
            ErrorKind::AddrInUse => InputError::PortInUse(address),
            _ => InputError::Udp { address, source },
        })?;
        Ok(Self { socket })
    }

    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<Read, InputError> {
        let mut filled = 0;
        // The first datagram is waited for; then all that are there are taken, while one more is sure to fit.
        while filled == 0 || buf.len() - filled >= MAX_DATAGRAM {
            match self.socket.recv(&mut buf[filled..]) {
                Ok(len) => filled += strip_rtp(&mut buf[filled..filled + len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if filled > 0 {
                self.socket.set_nonblocking(true)?;
            }
        }
        if filled == 0 {
            return Ok(Read::Idle);
        }
        self.socket.set_nonblocking(false)?;
        Ok(Read::Data(filled))
    }
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    let group = address.ip().is_multicast();
    if group {
        // Any number of programs may listen to a group.
        socket.set_reuse_address(true)?;
    }
    // More than the system's limit is not granted; the rest is as good as it gets.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    match address.ip() {
        IpAddr::V4(ip) if group => socket.join_multicast_v4(&ip, &Ipv4Addr::UNSPECIFIED)?,
        IpAddr::V6(ip) if group => socket.join_multicast_v6(&ip, 0)?,
        _ => {}
    }
    socket.set_read_timeout(Some(MAX_WAIT))?;
    Ok(socket.into())
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
    use super::*;

    fn received(datagrams: &[&[u8]]) -> Vec<u8> {
        let mut udp = Udp::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = udp.socket.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for datagram in datagrams {
            sender.send_to(datagram, address).unwrap();
        }
        let expected: usize = datagrams.len() * 188;
        let (mut all, mut buf) = (Vec::new(), vec![0; super::super::READ_LEN]);
        while all.len() < expected {
            let Read::Data(len) = udp.read(&mut buf).unwrap() else { panic!("datagrams were sent") };
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
        let error = Udp::bind(address).unwrap_err();
        assert!(matches!(error, InputError::PortInUse(named) if named == address), "{error}");
    }

    #[test]
    fn a_silent_socket_is_idle() {
        let mut udp = Udp::bind(([127, 0, 0, 1], 0).into()).unwrap();
        assert_eq!(udp.read(&mut [0; 1500]).unwrap(), Read::Idle);
    }
}
