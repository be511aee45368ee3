//! Which network this host is on, so that what was learned of its line is used there and nowhere else.
//!
//! A network is known by its router: the hardware address of the default gateway, where the system shows it (Linux: /proc),
//! else by the prefix of the address that packets would leave with, which many homes share. Only a hash of it is kept: a
//! file should not tell where its owner has been.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use sha2::{Digest as _, Sha256};

/// Addresses of documentation (RFC 5737, RFC 3849): a socket that is connected there sends nothing, but has an address.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// Digits of the hash.
const DIGITS: usize = 16;

/// The name of this network; none while there is none.
pub(super) fn name() -> Option<String> {
    let router = || {
        let routes = fs::read_to_string("/proc/net/route").ok()?;
        let neighbours = fs::read_to_string("/proc/net/arp").ok()?;
        hardware_address(&neighbours, gateway(&routes)?)
    };
    let shown = router().or_else(|| ANYWHERE.into_iter().find_map(prefix))?;
    let hash = Sha256::digest(shown.as_bytes());
    Some(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..DIGITS].to_owned())
}

/// The default gateway in the kernel's table: the route to 0.0.0.0/0 with the least metric.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    let default = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "00000000", gateway, _, _, _, metric, "00000000", ..] = fields[..] else { return None };
        // In the order of the machine's bytes.
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        Some((metric.parse::<u32>().ok()?, gateway)).filter(|_| !gateway.is_unspecified())
    };
    routes.lines().filter_map(default).min().map(|(_, gateway)| gateway)
}

/// The hardware address of this host in the kernel's table.
fn hardware_address(neighbours: &str, host: Ipv4Addr) -> Option<String> {
    neighbours.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, hardware, ..] = fields[..] else { return None };
        (address.parse() == Ok(host) && hardware != "00:00:00:00:00:00").then(|| hardware.to_owned())
    })
}

/// The network of the address with which packets to `far` would leave.
fn prefix(far: IpAddr) -> Option<String> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    Some(match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) => Ipv4Addr::from(u32::from(own) & 0xffff_ff00).to_string(),
        IpAddr::V6(own) => Ipv6Addr::from(u128::from(own) >> 64 << 64).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARP: &str = "IP address       HW type     Flags       HW address            Mask     Device\n\
        192.168.1.7      0x1         0x2         00:11:22:33:44:55     *        eth0\n\
        192.168.1.1      0x1         0x2         aa:bb:cc:dd:ee:ff     *        eth0\n\
        192.168.1.9      0x1         0x0         00:00:00:00:00:00     *        eth0\n";

    #[test]
    fn a_network_is_known_by_its_router() {
        let route = |metric: u32, gateway: Ipv4Addr| {
            let gateway = u32::from_ne_bytes(gateway.octets());
            format!("eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n")
        };
        let routes = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n{}{}\
             eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n",
            route(600, [10, 0, 0, 1].into()),
            route(100, [192, 168, 1, 1].into())
        );
        assert_eq!(gateway(&routes), Some([192, 168, 1, 1].into()));
        assert_eq!(hardware_address(ARP, [192, 168, 1, 1].into()).as_deref(), Some("aa:bb:cc:dd:ee:ff"));
        assert_eq!(hardware_address(ARP, [192, 168, 1, 9].into()), None, "not resolved");
        assert_eq!(gateway("Iface\n"), None);
        assert_eq!(hardware_address("garbage\n1 2", [192, 168, 1, 1].into()), None);
    }

    #[test]
    fn its_name_tells_nothing_and_stays() {
        let (name, again) = (name(), name());
        assert_eq!(name, again);
        assert!(name.is_none_or(|name| name.len() == DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
