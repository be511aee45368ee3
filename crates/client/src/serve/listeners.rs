//! Where others find the gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// The address to open. Where it listens everywhere, the one by which this machine is reached in its own network.
pub fn address(bound: SocketAddr, secure: bool, asks: bool) -> String {
    let address = if bound.ip().is_unspecified() {
        SocketAddr::new(own_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), bound.port())
    } else {
        bound
    };
    let scheme = if secure { "https" } else { "http" };
    let query = if asks { "/?key=…" } else { "" };
    format!("{scheme}://{address}{query}")
}

/// The address that this machine's packets have. Nothing is sent to find it.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address that is nobody's (RFC 5737): it only chooses the way out.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|own| own.ip()).filter(|ip| !ip.is_unspecified())
}
