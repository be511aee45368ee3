//! What differs between sockets of IPv4 and of IPv6: how addresses are written, and how the kernel says which of the host's
//! addresses a packet was sent to.
//!
//! On a host with several addresses the kernel sends from the one that the way to the client suggests. A client that asked
//! another of them would not take the answer for one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsFd;

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, SockaddrIn, SockaddrIn6, SockaddrLike, setsockopt, sockopt,
};

/// One of the host's addresses, with the interface where the address alone does not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Local {
    ip: IpAddr,
    interface: u32,
}

/// Has the kernel say which of the host's addresses packets are sent to, of those that come from now on.
pub(super) fn ask_for_local(socket: &impl AsFd, v4: bool) -> nix::Result<()> {
    if v4 {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
    }
}

/// A socket address as a family's sockets carry it.
pub(super) trait Family: SockaddrLike + Copy {
    /// The same for all families.
    fn addr(&self) -> SocketAddr;

    /// What the kernel says; `None` for addresses that nothing can be sent from.
    fn local(message: &ControlMessageOwned) -> Option<Local>;

    /// Calls `send` with what has the kernel send from there.
    fn with_local<T>(local: Option<Local>, send: impl FnOnce(&[ControlMessage<'_>]) -> T) -> T;
}

impl Family for SockaddrIn {
    fn addr(&self) -> SocketAddr {
        SocketAddrV4::new(self.ip(), self.port()).into()
    }

    fn local(message: &ControlMessageOwned) -> Option<Local> {
        let ControlMessageOwned::Ipv4PacketInfo(info) = message else { return None };
        // The host's own also where the packet was sent to many.
        let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
        Some(Local { ip: ip.into(), interface: 0 })
    }

    fn with_local<T>(local: Option<Local>, send: impl FnOnce(&[ControlMessage<'_>]) -> T) -> T {
        let Some(Local { ip: IpAddr::V4(ip), .. }) = local else { return send(&[]) };
        let info = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
            ipi_addr: in_addr { s_addr: 0 },
        };
        send(&[ControlMessage::Ipv4PacketInfo(&info)])
    }
}

impl Family for SockaddrIn6 {
    fn addr(&self) -> SocketAddr {
        SocketAddrV6::new(self.ip(), self.port(), self.flowinfo(), self.scope_id()).into()
    }

    /// Packets of IPv4 too, on a socket that takes them, with the address written as one of IPv6.
    fn local(message: &ControlMessageOwned) -> Option<Local> {
        let ControlMessageOwned::Ipv6PacketInfo(info) = message else { return None };
        let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
        let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
        (!ip.is_multicast()).then_some(Local { ip: ip.into(), interface })
    }

    fn with_local<T>(local: Option<Local>, send: impl FnOnce(&[ControlMessage<'_>]) -> T) -> T {
        let Some(Local { ip: IpAddr::V6(ip), interface }) = local else { return send(&[]) };
        let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: interface };
        send(&[ControlMessage::Ipv6PacketInfo(&info)])
    }
}
