//! A client of BEP 15.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How long an answer may take before a test fails. Loopback loses nothing that is read.
const PATIENCE: Duration = Duration::from_secs(20);

/// A socket with a connection id.
pub struct Client {
    pub socket: UdpSocket,
    pub id: u64,
}

impl Client {
    /// Connects to a tracker on loopback.
    pub fn connect(tracker: SocketAddr) -> Self {
        let any: IpAddr =
            if tracker.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(tracker).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self { socket, id: 0 };
        let mut connect = 0x0417_2710_1980u64.to_be_bytes().to_vec();
        connect.extend([0, 0, 0, 0, 1, 2, 3, 4]);
        let answer = client.exchange(&connect);
        assert_eq!(answer[..8], [0, 0, 0, 0, 1, 2, 3, 4]);
        client.id = u64::from_be_bytes(answer[8..].try_into().unwrap());
        client
    }

    /// Sends a packet and returns the answer.
    pub fn exchange(&mut self, packet: &[u8]) -> Vec<u8> {
        self.socket.send(packet).unwrap();
        let mut answer = vec![0; 2048];
        let length = self.socket.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    }

    /// Announces with these options (BEP 41), and returns the answer, which is one to an announce.
    pub fn announce(&mut self, hash: &[u8; 20], port: u16, event: u8, options: &[u8]) -> Vec<u8> {
        let mut packet = announce(self.id, hash, port, event);
        packet.extend(options);
        let answer = self.exchange(&packet);
        assert_eq!(answer[..8], [0, 0, 0, 1, 9, 9, 9, 9]);
        answer
    }

    /// Scrapes one torrent.
    pub fn scrape(&mut self, hash: &[u8; 20]) -> Vec<u8> {
        let mut packet = self.id.to_be_bytes().to_vec();
        packet.extend([0, 0, 0, 2, 9, 9, 9, 9]);
        packet.extend(hash);
        self.exchange(&packet)
    }
}

/// An announce of a leecher.
pub fn announce(id: u64, hash: &[u8; 20], port: u16, event: u8) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([0, 0, 0, 1, 9, 9, 9, 9]);
    packet.extend(hash);
    packet.extend([b'p'; 20 + 8 + 8 + 8]);
    packet.extend([0, 0, 0, event]);
    packet.extend([0; 8]);
    packet.extend((-1i32).to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet
}
