//! How many connections there may be, shared between households (`minuet_guard`): while there is room everybody gets in,
//! and when there is none a newcomer takes the place of a connection of the network that holds most, an idle one first.

use std::net::IpAddr;

use minuet_guard::net::household;
use minuet_guard::pool::{Pool, Taken};
use tokio_util::sync::CancellationToken;

/// Places for connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections {
    places: Pool,
    per_address: Option<u32>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place(Taken);

impl Connections {
    /// At most `most`; and, if the operator wants so, at most `per_address` of one household also where there is room.
    pub fn new(most: usize, per_address: Option<u32>) -> Self {
        Self { places: Pool::new(most as u64), per_address }
    }

    /// A place for a connection from `ip`, if there is one. A trusted proxy speaks for many and is counted among all
    /// only.
    pub fn enter(&self, ip: IpAddr, trusted: bool) -> Option<Place> {
        if trusted {
            return self.places.take_unshared(1).ok().map(Place);
        }
        let held = || self.places.held(household(ip));
        if self.per_address.is_some_and(|most| held() >= u64::from(most)) {
            return None;
        }
        self.places.take(ip, 1).ok().map(Place)
    }

    /// Connections now, those of the relay server's clients too.
    pub fn used(&self) -> u64 {
        self.places.used()
    }
}

impl Place {
    /// Resolves when this connection has to go for another. Cancel-safe.
    pub async fn evicted(&self) {
        self.0.evicted().await;
    }

    /// Is cancelled when this connection has to go for another.
    pub fn eviction(&self) -> CancellationToken {
        self.0.eviction()
    }

    /// Says whether the connection is of use; those that are not go first.
    pub fn set_useful(&self, useful: bool) {
        self.0.set_useful(useful);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_gets_all_that_is_free_and_makes_room_for_others() {
        let connections = Connections::new(32, None);
        let held: Vec<Place> = (0..40).filter_map(|_| connections.enter(ip("192.0.2.1"), false)).collect();
        assert_eq!(held.len(), 32);
        let other = connections.enter(ip("198.51.100.1"), false);
        assert!(other.is_some());
        assert_eq!(held.iter().filter(|place| place.0.is_evicted()).count(), 1);
        drop(held);
        assert!(connections.enter(ip("192.0.2.1"), true).is_some());
    }

    #[test]
    fn an_operator_may_set_a_ceiling() {
        let connections = Connections::new(32, Some(2));
        let held: Vec<Place> = (0..4).filter_map(|_| connections.enter(ip("192.0.2.1"), false)).collect();
        assert_eq!(held.len(), 2);
        assert!(connections.enter(ip("::ffff:192.0.2.1"), false).is_none());
        assert!(connections.enter(ip("192.0.2.2"), false).is_some());
    }
}
