//! Building one host: its namespace's devices, addresses and routes, and, when it is behind one, its NAT router.
//!
//! ```text
//! host                                   host          router
//! net0 (TUN) ── emulator        or       net0 ══════ lan0   wan0 (TUN) ── emulator
//! 198.18.0.N                             192.168.N.2  .1    198.18.0.N
//! ```

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

use tun_rs::DeviceBuilder;

use super::{error::LabError, identity::LabId, namespace::Namespace, nat, program};
use crate::plan::HostPlan;

/// Largest IP packet in bytes, as on Ethernet.
pub const MTU: usize = 1500;
/// Packets that the kernel keeps for the emulator; enough for the time in which it is not scheduled.
const DEVICE_QUEUE: u32 = 4096;

/// The namespaces that a host needs, its own first.
pub fn namespaces(id: &LabId, host: &HostPlan) -> Vec<Namespace> {
    let own = id.namespace(&host.name);
    match router(id, host) {
        None => vec![own],
        Some(router) => vec![own, router],
    }
}

/// The host's address in its own namespace.
pub fn inside_address(host: &HostPlan) -> Ipv4Addr {
    if nat::rules(host.nat, host.address, host.address).is_none() { host.address } else { lan(host, 2) }
}

/// Wires up a host whose namespaces exist. Returns the end of its TUN device, non-blocking.
pub fn wire(id: &LabId, host: &HostPlan) -> Result<OwnedFd, LabError> {
    let own = id.namespace(&host.name);
    let Some(router) = router(id, host) else {
        return own.inside(|| {
            let device = open_device("net0", host.address)?;
            program::ip("link set lo up\nroute add default dev net0\n")?;
            Ok(device)
        });
    };
    let (gateway, inside) = (lan(host, 1), lan(host, 2));
    let device = router.inside(|| {
        let device = open_device("wan0", host.address)?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(LabError::system("switch on forwarding"))?;
        program::ip(&format!(
            "link set lo up\nroute add default dev wan0\n\
             link add lan0 type veth peer name net0 netns {own}\n\
             addr add {gateway}/24 dev lan0\nlink set lan0 up\n",
            own = own.name()
        ))?;
        program::nft(&nat::rules(host.nat, inside, host.address).unwrap_or_default())?;
        Ok(device)
    })?;
    own.inside(|| {
        program::ip(&format!(
            "link set lo up\naddr add {inside}/24 dev net0\nlink set net0 up\nroute add default via {gateway}\n"
        ))
    })?;
    Ok(device)
}

fn router(id: &LabId, host: &HostPlan) -> Option<Namespace> {
    nat::rules(host.nat, host.address, host.address)?;
    Some(id.namespace(&format!("{}-nat", host.name)))
}

/// A different network for every host, so that an address in a log says whose it is.
fn lan(host: &HostPlan, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, host.address.octets()[3], last)
}

/// Makes a TUN device with this address in the calling thread's namespace. It lives as long as its end is open.
fn open_device(name: &str, address: Ipv4Addr) -> Result<OwnedFd, LabError> {
    // The emulator carries IPv4; without this, IPv6 would talk to itself on the device.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let open = || -> io::Result<OwnedFd> {
        let device = DeviceBuilder::new().name(name).inherit_enable_state().build_sync()?;
        let end = device.as_fd().try_clone_to_owned()?;
        rustix::io::ioctl_fionbio(&end, true)?;
        Ok(end)
    };
    let end = open().map_err(LabError::system(format!("make the TUN device {name}")))?;
    program::ip(&format!(
        "addr add {address}/15 dev {name}\nlink set {name} mtu {MTU} txqueuelen {DEVICE_QUEUE} up\n"
    ))?;
    Ok(end)
}
