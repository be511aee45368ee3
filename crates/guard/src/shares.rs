//! Shares of something bounded: places for connections, bytes of memory, entries of a table.
//!
//! # The rule
//! While there is room everybody gets in: a school with a thousand viewers behind one address too. When all is taken, the
//! network that holds most gives way, as with push-out of the longest queue (Thareja, Agrawala 1984): a newcomer takes
//! the place of a holder in that network, if the newcomer's own networks hold less; else the newcomer is refused. This is
//! max-min fair: of `k` greedy networks each is left with `1 / k`, and a newcomer always gets its first place.
//!
//! What a network holds counts by its *weight*: a household 1, an IPv4 /24 or IPv6 /48 [`SITE_WEIGHT`], an IPv6 /32
//! [`PROVIDER_WEIGHT`]. So a customer with a whole /24 gets no more than four households.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::net::{Net, nets};

/// What an IPv4 /24 or an IPv6 /48 may hold, as a multiple of a household's.
pub const SITE_WEIGHT: u64 = 4;
/// What an IPv6 /32 may hold, as a multiple of a household's.
pub const PROVIDER_WEIGHT: u64 = 64;
/// Weight of each of [`nets`], the narrowest first.
pub(crate) const WEIGHTS: [u64; 3] = [1, SITE_WEIGHT, PROVIDER_WEIGHT];

/// What `amount` is in a network, for its weight: comparable between networks of different width.
pub fn weighed(net: Net, amount: u64) -> u64 {
    let weight = match (net.base(), net.bits()) {
        (IpAddr::V4(_), 25..) | (IpAddr::V6(_), 49..) => WEIGHTS[0],
        (IpAddr::V4(_), _) | (IpAddr::V6(_), 33..) => WEIGHTS[1],
        (IpAddr::V6(_), _) => WEIGHTS[2],
    };
    Held { amount, weight }.measure()
}

/// Why something was refused: all of it is taken, and nobody holds more than who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all is taken, and nobody holds more")]
pub struct Refused;

/// How there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It is free.
    Free,
    /// Somebody in this network has to go.
    InPlaceOf(Net),
}

/// Accounts of a bounded quantity by network. Pure; entries exist only for networks that hold something.
#[derive(Debug)]
pub struct Shares {
    total: u64,
    used: u64,
    by_net: HashMap<Net, Held>,
    /// Networks by what they hold for their weight.
    ranking: BTreeSet<(u64, Net)>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    amount: u64,
    weight: u64,
}

impl Held {
    /// Comparable between networks of different weight.
    fn measure(self) -> u64 {
        self.amount.saturating_mul(PROVIDER_WEIGHT) / self.weight
    }
}

impl Shares {
    /// Nothing is taken of `total`.
    pub fn new(total: u64) -> Self {
        Self { total, used: 0, by_net: HashMap::new(), ranking: BTreeSet::new() }
    }

    /// Whether there is room for `amount` of `ip`, and whether somebody has to go for it. Takes nothing.
    ///
    /// # Errors
    /// [`Refused`] if nobody holds more than `ip`'s networks then would, or if `amount` is more than the total.
    pub fn room(&self, ip: IpAddr, amount: u64) -> Result<Room, Refused> {
        if self.free() >= amount {
            return Ok(Room::Free);
        }
        let (most, net) = *self.ranking.last().ok_or(Refused)?;
        let own = nets(ip)
            .into_iter()
            .zip(WEIGHTS)
            // What goes, goes from the same network if that is the largest: nothing would be gained.
            .map(|(net, weight)| Held { amount: self.held(net).saturating_add(amount), weight }.measure())
            .max();
        match own {
            Some(own) if own <= most && !nets(ip).contains(&net) && amount <= self.total => {
                Ok(Room::InPlaceOf(net))
            }
            _ => Err(Refused),
        }
    }

    /// Takes `amount` for `ip`, whether there is room or not: the caller has asked [`room`](Self::room).
    pub fn take(&mut self, ip: IpAddr, amount: u64) {
        self.used = self.used.saturating_add(amount);
        for (net, weight) in nets(ip).into_iter().zip(WEIGHTS) {
            self.change(net, weight, |held| held.saturating_add(amount));
        }
    }

    /// Gives `amount` of `ip` back.
    pub fn give_back(&mut self, ip: IpAddr, amount: u64) {
        self.used = self.used.saturating_sub(amount);
        for (net, weight) in nets(ip).into_iter().zip(WEIGHTS) {
            self.change(net, weight, |held| held.saturating_sub(amount));
        }
    }

    /// Takes `amount` for somebody who speaks for many (a proxy that is trusted): of the total alone.
    pub fn take_unshared(&mut self, amount: u64) {
        self.used = self.used.saturating_add(amount);
    }

    /// Gives back what was taken with [`take_unshared`](Self::take_unshared).
    pub fn give_back_unshared(&mut self, amount: u64) {
        self.used = self.used.saturating_sub(amount);
    }

    /// What a network holds.
    pub fn held(&self, net: Net) -> u64 {
        self.by_net.get(&net).map_or(0, |held| held.amount)
    }

    /// What is free of the total.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    /// What is taken.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The total.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The network that holds most for its weight.
    pub fn largest(&self) -> Option<Net> {
        self.ranking.last().map(|(_, net)| *net)
    }

    /// Networks that hold something.
    pub fn len(&self) -> usize {
        self.by_net.len()
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.by_net.is_empty()
    }

    fn change(&mut self, net: Net, weight: u64, change: impl FnOnce(u64) -> u64) {
        let before = self.by_net.get(&net).copied().unwrap_or(Held { amount: 0, weight });
        let after = Held { amount: change(before.amount), weight };
        self.ranking.remove(&(before.measure(), net));
        if after.amount == 0 {
            self.by_net.remove(&net);
        } else {
            self.ranking.insert((after.measure(), net));
            self.by_net.insert(net, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::household;

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    /// An address of a /24 of its own.
    fn home(n: u32) -> IpAddr {
        ip(0x0b00_0000 + n * 256)
    }

    /// Takes one place, with push-out of one if need be.
    fn enter(shares: &mut Shares, ip: IpAddr) -> bool {
        match shares.room(ip, 1) {
            Ok(Room::Free) => {}
            Ok(Room::InPlaceOf(net)) => shares.give_back(net.base(), 1),
            Err(Refused) => return false,
        }
        shares.take(ip, 1);
        true
    }

    #[test]
    fn a_school_behind_one_address_gets_in_while_there_is_room() {
        let mut shares = Shares::new(1000);
        assert_eq!((0..1000).filter(|_| enter(&mut shares, home(1))).count(), 1000);
        assert!(!enter(&mut shares, home(1)), "it pushes nobody out but itself");
    }

    #[test]
    fn newcomers_take_the_places_of_the_greedy() {
        let mut shares = Shares::new(1000);
        for _ in 0..2000 {
            enter(&mut shares, home(1));
        }
        for n in 2..500 {
            assert!(enter(&mut shares, home(n)));
            assert!(enter(&mut shares, home(n)));
        }
        assert_eq!(shares.held(household(home(1))), 4);
        assert_eq!(shares.used(), 1000);
    }

    #[test]
    fn a_whole_net_of_addresses_counts_as_four_households() {
        let mut shares = Shares::new(1000);
        for n in 0..1000 {
            shares.take(ip(0x0a00_0000 + n % 250), 1);
        }
        assert_eq!(shares.largest().map(|net| net.to_string()).as_deref(), Some("10.0.0.0/24"));
        let mut entered = 0;
        while shares.room(home(1), 1) == Ok(Room::InPlaceOf(Net::of(ip(0x0a00_0000), 24))) {
            let busiest = (0..250).map(|n| ip(0x0a00_0000 + n)).max_by_key(|ip| shares.held(household(*ip)));
            shares.give_back(busiest.unwrap(), 1);
            shares.take(home(1), 1);
            entered += 1;
        }
        assert_eq!(entered, 200);
    }

    proptest! {
        /// Whatever greedy households did, a newcomer gets in; the total holds; what is given back leaves no entry.
        #[test]
        fn newcomers_always_get_in(total in 1u64..500, tries in proptest::collection::vec(0u32..40, 0..2000)) {
            let mut shares = Shares::new(total);
            for n in &tries {
                enter(&mut shares, home(*n));
                prop_assert!(shares.used() <= total);
            }
            let most = (0..40).map(|n| shares.held(household(home(n)))).max().unwrap_or(0);
            if most > 1 || shares.free() > 0 {
                prop_assert!(enter(&mut shares, home(99)));
            }
            for n in (0..40).chain([99]) {
                let held = shares.held(household(home(n)));
                shares.give_back(home(n), held);
            }
            prop_assert!(shares.is_empty() && shares.ranking.is_empty() && shares.used() == 0);
        }
    }
}
