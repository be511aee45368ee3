//! How many connections there may be, of all and of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections. The table has an entry for each address with a connection, so it is bounded by the
/// number of connections.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    most_per_address: u32,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, u32>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Connections {
    /// At most `most`, and `most_per_address` of one address.
    pub fn new(most: usize, most_per_address: u32) -> Arc<Self> {
        Arc::new(Self { most, most_per_address, open: Mutex::default() })
    }

    /// A place for a connection from `ip`, if there is one. A trusted proxy speaks for many and is counted
    /// among all only.
    pub fn enter(self: &Arc<Self>, ip: IpAddr, trusted: bool) -> Option<Place> {
        let address = (!trusted).then(|| network(ip));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.most {
            return None;
        }
        if let Some(address) = address {
            let of_address = open.by_address.entry(address).or_default();
            if *of_address >= self.most_per_address {
                return None;
            }
            *of_address += 1;
        }
        open.all += 1;
        Some(Place { connections: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(address) = self.address
            && let Some(of_address) = open.by_address.get_mut(&address)
        {
            *of_address -= 1;
            if *of_address == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// What one household has: an IPv4 address, or an IPv6 /56.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_all() {
        let connections = Connections::new(4, 2);
        let held: Vec<Place> = (0..2).filter_map(|_| connections.enter(ip("192.0.2.1"), false)).collect();
        assert_eq!(held.len(), 2);
        assert!(connections.enter(ip("192.0.2.1"), false).is_none());
        assert!(connections.enter(ip("::ffff:192.0.2.1"), false).is_none());
        assert!(connections.enter(ip("192.0.2.1"), true).is_some());
        let other = connections.enter(ip("192.0.2.2"), false);
        assert!(other.is_some());
        drop(held);
        assert!(connections.enter(ip("192.0.2.1"), false).is_some());
    }

    #[test]
    fn places_come_back_and_leave_no_entry() {
        let connections = Connections::new(2, 2);
        let one = connections.enter(ip("2001:db8::1"), false);
        let two = connections.enter(ip("2001:db8:0:ff::1"), false);
        assert!(connections.enter(ip("192.0.2.1"), true).is_none());
        drop((one, two));
        let open = connections.open.lock().unwrap();
        assert_eq!((open.all, open.by_address.len()), (0, 0));
    }
}
