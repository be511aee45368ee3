//! Datagrams of MPEG-TS, plain or in RTP (RFC 2250), to one port; multicast groups are joined. What comes in RTP is put
//! in order.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use minuet_node::units;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::{
    InputError, Read, UdpAddress, drops,
    pipe::wait_readable,
    rtp::{self, Order},
};
use crate::notices::Tally;

/// No datagram is longer.
const MAX_DATAGRAM: usize = 65_535;

/// Datagrams that came after one that is missing wait so long for it.
const PATIENCE_FOR_ORDER: Duration = Duration::from_millis(100);

/// How often the system is asked for what it has dropped.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// So many datagrams in a row with another payload are no chance.
const OTHERS_IN_A_ROW: u32 = 16;

/// A socket that receives the feed.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    address: UdpAddress,
    order: Order,
    /// Since when datagrams wait for one that is missing.
    waiting: Option<Instant>,
    /// What is in order, of which `sent` bytes have been handed out.
    ready: Vec<u8>,
    sent: usize,
    /// Somebody whose datagrams are not wanted.
    stranger: Option<IpAddr>,
    /// Datagrams in a row that are RTP with something else in it, and of which payload type.
    other: (u32, u8),
    losses: Losses,
}

/// What did not come, and what was said of it.
#[derive(Debug, Default)]
struct Losses {
    /// In RTP's numbers: the tally, and how many there were before.
    gaps: (Tally, u64),
    /// At the socket, the same.
    dropped: (Tally, u64),
    asked: Option<Instant>,
}

impl Losses {
    /// A sentence about what has been lost since the last, at `now`.
    fn tell(&mut self, gaps: u64, dropped: impl FnOnce() -> Option<u64>, now: Instant) -> Option<String> {
        let more = gaps.saturating_sub(std::mem::replace(&mut self.gaps.1, gaps));
        if let Some(lost) = self.gaps.0.add(more, now) {
            return Some(format!(
                "{} of RTP never came, by their numbers: viewers see it; check the line from the encoder",
                units::count(lost, "packet", "packets")
            ));
        }
        if self.asked.is_some_and(|at| now.saturating_duration_since(at) < ASK_INTERVAL) {
            return None;
        }
        self.asked = Some(now);
        let total = dropped().unwrap_or(self.dropped.1);
        let more = total.saturating_sub(std::mem::replace(&mut self.dropped.1, total));
        let lost = self.dropped.0.add(more, now)?;
        Some(format!(
            "the system dropped {} because this machine did not take them in time: viewers see it; relieve the machine, or \
             allow a larger buffer (sysctl net.core.rmem_max) and ask for it with ?buffer_size=BYTES",
            units::count(lost, "datagram", "datagrams")
        ))
    }
}

impl Udp {
    /// Receives at `address`.
    pub fn bind(address: &UdpAddress) -> Result<Self, InputError> {
        let socket = bind(address).map_err(|reason| match reason.kind() {
            ErrorKind::AddrInUse => InputError::PortInUse(address.listen),
            _ => InputError::Udp { address: address.to_string(), reason },
        })?;
        let (order, ready) = (Order::default(), Vec::new());
        Ok(Self {
            socket,
            address: address.clone(),
            order,
            waiting: None,
            ready,
            sent: 0,
            stranger: None,
            other: (0, 0),
            losses: Losses::default(),
        })
    }

    /// What was lost on the way here: the first at once, what comes later summed up.
    pub fn loss(&mut self) -> Option<String> {
        let (order, socket) = (&self.order, &self.socket);
        self.losses.tell(order.lost(), || drops::dropped(socket), Instant::now())
    }

    /// Something that the user should know: the same again from a connection to the next.
    pub fn remark(&mut self) -> Option<String> {
        let address = &self.address;
        if let Some(stranger) = self.stranger.take() {
            return Some(format!(
                "{stranger} sends to {address}, too, and is not the sender it names: ignored"
            ));
        }
        let kind = (self.other.0 >= OTHERS_IN_A_ROW).then(|| std::mem::take(&mut self.other).1)?;
        Some(format!(
            "{address} brings RTP of payload type {kind}, which is not MPEG-TS: save the session description (SDP) that the \
             sender writes as a file, stream.sdp, and give that as the input in place of {address}"
        ))
    }

    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        let mut filled = 0;
        // The first datagram is waited for; then all that are there are taken, while one more is sure to fit.
        while filled == 0 || buf.len() - filled >= MAX_DATAGRAM {
            if self.sent < self.ready.len() {
                let len = (buf.len() - filled).min(self.ready.len() - self.sent);
                buf[filled..filled + len].copy_from_slice(&self.ready[self.sent..self.sent + len]);
                filled += len;
                self.sent += len;
                continue;
            }
            self.ready.clear();
            self.sent = 0;
            match self.socket.recv_from(&mut buf[filled..]) {
                Ok((_, sender)) if !self.address.takes(sender.ip()) => {
                    self.stranger = Some(sender.ip());
                    // A flood of them must not keep the thread here.
                    if filled == 0 {
                        break;
                    }
                }
                Ok((len, _)) => filled += self.take(&mut buf[filled..filled + len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if filled > 0 || !self.wait(patience)? {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if filled == 0 { Read::Idle } else { Read::Data(filled) })
    }

    /// Leaves what can be used at once of a datagram at its beginning, and returns its length.
    fn take(&mut self, datagram: &mut [u8]) -> usize {
        let Some(header) = rtp::header(datagram) else {
            self.other = match rtp::other_payload(datagram) {
                Some(kind) if kind == self.other.1 => (self.other.0.saturating_add(1), kind),
                Some(kind) => (1, kind),
                None => (0, 0),
            };
            return datagram.len();
        };
        self.other = (0, 0);
        let payload = header.payload.clone();
        let in_order = self.order.take(&header, &datagram[payload.clone()], &mut self.ready);
        self.waiting = self.order.is_waiting().then(|| self.waiting.unwrap_or_else(Instant::now));
        if !in_order {
            return 0;
        }
        datagram.copy_within(payload.clone(), 0);
        payload.len()
    }

    /// Waits for a datagram, and for a missing one no longer than it may take; false: nothing came.
    fn wait(&mut self, patience: Duration) -> io::Result<bool> {
        let Some(since) = self.waiting else { return wait_readable(&self.socket, patience) };
        let left = PATIENCE_FOR_ORDER.saturating_sub(since.elapsed());
        if wait_readable(&self.socket, patience.min(left))? {
            return Ok(true);
        }
        if left <= patience {
            self.order.give_up(&mut self.ready);
            self.waiting = self.order.is_waiting().then(Instant::now);
        }
        Ok(!self.ready.is_empty())
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
        let sources = address.sources.iter().filter_map(|source| match source {
            IpAddr::V4(source) => Some(source),
            IpAddr::V6(_) => None,
        });
        return sources.into_iter().try_for_each(|source| socket.join_ssm_v4(source, &group, &own));
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

#[cfg(test)]
mod tests {
    use super::{super::MAX_WAIT, *};

    fn received(datagrams: &[&[u8]]) -> Vec<u8> {
        received_of(datagrams, datagrams.len())
    }

    /// So many packets of what comes of these datagrams.
    fn received_of(datagrams: &[&[u8]], packets: usize) -> Vec<u8> {
        let mut udp = Udp::bind(&UdpAddress::new(([127, 0, 0, 1], 0).into())).unwrap();
        let address = udp.socket.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for datagram in datagrams {
            sender.send_to(datagram, address).unwrap();
        }
        let expected = packets * 188;
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
    fn rtp_that_came_twice_or_out_of_order_is_mended() {
        let datagram = |seq: u8, fill: u8| {
            let packet = [&[0x47; 4][..], &[fill; 184]].concat();
            [&[0x80, 33, 0, seq, 0, 0, 0, 0, 0, 0, 0, 7][..], &packet].concat()
        };
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| datagram(n, n));
        let fills = |bytes: Vec<u8>| bytes.chunks(188).map(|packet| packet[4]).collect::<Vec<_>>();
        assert_eq!(fills(received_of(&[&a, &c, &b, &b, &a, &d], 4)), [1, 2, 3, 4]);
        // One is lost: the others come all the same.
        assert_eq!(fills(received_of(&[&a, &c, &d], 3)), [1, 3, 4]);
        let (mut order, mut ready) = (Order::default(), Vec::new());
        for seq in [1, 3, 4, 900] {
            order.take(&rtp::Header { seq, source: 7, payload: 0..1 }, &[0], &mut ready);
        }
        assert_eq!(order.lost(), 1 + 895, "each number that was left out");
    }

    #[test]
    fn losses_are_told_at_once_for_each_kind_and_then_summed_up() {
        let (mut losses, start) = (Losses::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(losses.tell(0, || Some(0), at(0)), None);
        assert!(losses.tell(3, || Some(9), at(1)).is_some_and(|said| said.starts_with("3 packets of RTP")));
        // The other kind is not held back by it.
        let said = losses.tell(3, || Some(9), at(1)).unwrap_or_default();
        assert!(said.starts_with("the system dropped 9 datagrams"), "{said}");
        assert_eq!(losses.tell(10, || Some(20), at(20)), None);
        assert!(losses.tell(10, || Some(20), at(31)).is_some_and(|said| said.starts_with("7 packets")));
        assert!(losses.tell(10, || None, at(31)).is_some_and(|said| said.contains("dropped 11")));
        assert_eq!(losses.tell(10, || Some(20), at(90)), None);
    }

    #[test]
    fn who_is_not_the_named_sender_is_not_heard() {
        let own = UdpAddress::parse("127.0.0.1@127.0.0.1:0").unwrap();
        let other = UdpAddress::parse("127.0.0.9@127.0.0.1:0").unwrap();
        for (address, heard) in [(own, true), (other, false)] {
            let mut udp = Udp::bind(&address).unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(&[0x47; 188], udp.socket.local_addr().unwrap()).unwrap();
            let read = udp.read(&mut [0; 70_000], MAX_WAIT * 40).unwrap();
            assert_eq!(read, if heard { Read::Data(188) } else { Read::Idle });
            assert_eq!(udp.remark().is_some(), !heard);
        }
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
