//! Where others reach the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use url::Url;

/// The server's base URL as others reach it: the one that the user gave, or a guess from where the server listens
/// and from which of this machine's addresses leads to the first tracker.
pub fn public_base(given: Option<&Url>, listen: SocketAddr, trackers: &[Url]) -> Url {
    let mut base = given.cloned().unwrap_or_else(|| guess(listen, trackers));
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    base
}

fn guess(listen: SocketAddr, trackers: &[Url]) -> Url {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => trackers.iter().find_map(towards).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let text = format!("http://{}/", SocketAddr::new(ip, listen.port()));
    // An address and a port always make a URL.
    Url::parse(&text).expect("a socket address is a URL's authority")
}

/// This machine's address on the way to a tracker. Nothing is sent: connecting a UDP socket only chooses a route.
fn towards(tracker: &Url) -> Option<IpAddr> {
    let target = *tracker.socket_addrs(|| None).ok()?.first()?;
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}
