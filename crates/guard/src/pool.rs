//! [`Shares`] that tasks hold places of. A holder that has to go for somebody else is told so.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::net::{Net, nets};
use crate::shares::{Refused, Room, Shares};

/// Which part of the total those may hold who were told to go and have not gone.
pub const SLACK: u64 = 16;

/// A bounded quantity that tasks hold parts of. Cheap to clone.
///
/// A holder that is told to go may need a moment. Until it has gone more than the total may be taken: by a
/// [`SLACK`]th of the total, or by one holder's amount if that is more.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    shares: Shares,
    holders: HashMap<u64, Holder>,
    /// Those in each network that may be told to go: whether it is useful, and its number, which grows with time.
    in_net: HashMap<Net, BTreeSet<(bool, u64)>>,
    next: u64,
    /// Amount of those who were told to go and have not gone.
    leaving: u64,
}

#[derive(Debug)]
struct Holder {
    ip: IpAddr,
    amount: u64,
    useful: bool,
    leaving: bool,
    evicted: CancellationToken,
}

/// Something taken of a [`Pool`]; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    pool: Pool,
    /// None: taken by a trusted proxy, of the total alone.
    id: Option<u64>,
    unshared: u64,
    evicted: CancellationToken,
}

impl Pool {
    /// Nothing is taken of `total`.
    pub fn new(total: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            shares: Shares::new(total),
            holders: HashMap::new(),
            in_net: HashMap::new(),
            next: 0,
            leaving: 0,
        })))
    }

    /// Takes `amount` for `ip`, until what is returned is dropped. Tells another holder to go if need be.
    ///
    /// # Errors
    /// [`Refused`] if all is taken and nobody holds more.
    pub fn take(&self, ip: IpAddr, amount: u64) -> Result<Taken, Refused> {
        let evicted = CancellationToken::new();
        let mut inner = self.lock();
        inner.make_room(ip, amount)?;
        inner.shares.take(ip, amount);
        let id = inner.next;
        inner.next = inner.next.wrapping_add(1);
        let holder = Holder { ip, amount, useful: false, leaving: false, evicted: evicted.clone() };
        inner.holders.insert(id, holder);
        inner.list(id, true);
        Ok(Taken { pool: self.clone(), id: Some(id), unshared: 0, evicted })
    }

    /// Takes `amount` for a proxy that is trusted to keep its own clients apart: of the total alone.
    ///
    /// # Errors
    /// [`Refused`] if that much is not free.
    pub fn take_unshared(&self, amount: u64) -> Result<Taken, Refused> {
        let mut inner = self.lock();
        if inner.shares.free() < amount {
            return Err(Refused);
        }
        inner.shares.take_unshared(amount);
        Ok(Taken { pool: self.clone(), id: None, unshared: amount, evicted: CancellationToken::new() })
    }

    /// What is taken, by those too who were told to go and have not gone.
    pub fn used(&self) -> u64 {
        let inner = self.lock();
        inner.shares.used().saturating_add(inner.leaving)
    }

    /// What a network holds, without those who were told to go.
    pub fn held(&self, net: Net) -> u64 {
        self.lock().shares.held(net)
    }

    /// Whether `ip` could take `amount`, from others if need be. Takes nothing, and tells nobody to go.
    pub fn has_room(&self, ip: IpAddr, amount: u64) -> bool {
        self.lock().shares.room(ip, amount).is_ok()
    }

    /// Whether nothing is free, so that whoever takes some takes it from another.
    pub fn is_full(&self) -> bool {
        self.lock().shares.free() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Sees to it that `ip` may take `amount`: tells holders to go until it fits. What they hold counts no more for their
    /// networks from then on.
    fn make_room(&mut self, ip: IpAddr, amount: u64) -> Result<(), Refused> {
        let slack = (self.shares.total() / SLACK).max(amount);
        loop {
            let net = match self.shares.room(ip, amount)? {
                Room::Free => return Ok(()),
                Room::InPlaceOf(net) => net,
            };
            let victim = self
                .in_net
                .get(&net)
                .and_then(|them| them.iter().rev().find(|(useful, _)| !useful).or_else(|| them.last()))
                .map(|(_, id)| *id)
                .ok_or(Refused)?;
            let holder = self.holders.get_mut(&victim).ok_or(Refused)?;
            let leaving = self.leaving.saturating_add(holder.amount);
            if leaving > slack.max(holder.amount) {
                return Err(Refused);
            }
            self.leaving = leaving;
            holder.leaving = true;
            holder.evicted.cancel();
            let (ip, amount) = (holder.ip, holder.amount);
            self.shares.give_back(ip, amount);
            self.list(victim, false);
        }
    }

    /// Puts a holder on the lists of its networks, or takes it off.
    fn list(&mut self, id: u64, on: bool) {
        let Some(holder) = self.holders.get(&id) else { return };
        for net in nets(holder.ip) {
            let them = self.in_net.entry(net).or_default();
            if on {
                them.insert((holder.useful, id));
            } else {
                them.remove(&(holder.useful, id));
            }
            if them.is_empty() {
                self.in_net.remove(&net);
            }
        }
    }
}

impl Taken {
    /// Resolves when this holder has to go for somebody else. Cancel-safe.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Is cancelled when this holder has to go; for whoever watches over it without holding it.
    pub fn eviction(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// Whether this holder has to go.
    pub fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Says whether this holder is of use (it reads what it asked for, it has proved who it is): of a network, those who
    /// are not go first, the newest of them before the others.
    pub fn set_useful(&self, useful: bool) {
        let Some(id) = self.id else { return };
        let mut inner = self.pool.lock();
        if inner.holders.get(&id).is_none_or(|holder| holder.leaving || holder.useful == useful) {
            return;
        }
        inner.list(id, false);
        if let Some(holder) = inner.holders.get_mut(&id) {
            holder.useful = useful;
        }
        inner.list(id, true);
    }

    /// Takes `more` for the same holder.
    ///
    /// # Errors
    /// [`Refused`] if there is no room, or if this holder has to go itself.
    pub fn grow(&mut self, more: u64) -> Result<(), Refused> {
        let mut inner = self.pool.lock();
        let Some(id) = self.id else {
            if inner.shares.free() < more {
                return Err(Refused);
            }
            inner.shares.take_unshared(more);
            self.unshared = self.unshared.saturating_add(more);
            return Ok(());
        };
        let Some(ip) = inner.holders.get(&id).filter(|holder| !holder.leaving).map(|holder| holder.ip) else {
            return Err(Refused);
        };
        inner.make_room(ip, more)?;
        inner.shares.take(ip, more);
        if let Some(holder) = inner.holders.get_mut(&id) {
            holder.amount = holder.amount.saturating_add(more);
        }
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut inner = self.pool.lock();
        let Some(id) = self.id else {
            return inner.shares.give_back_unshared(self.unshared);
        };
        inner.list(id, false);
        if let Some(holder) = inner.holders.remove(&id) {
            if holder.leaving {
                inner.leaving = inner.leaving.saturating_sub(holder.amount);
            } else {
                inner.shares.give_back(holder.ip, holder.amount);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        [192, 0, n, 1].into()
    }

    #[test]
    fn the_newest_useless_holder_of_the_largest_network_is_told_to_go() {
        let pool = Pool::new(32);
        let greedy: Vec<Taken> = (0..32).map(|_| pool.take(ip(1), 1).unwrap()).collect();
        greedy[31].set_useful(true);
        let newcomer = pool.take(ip(2), 1).unwrap();
        assert_eq!(greedy.iter().filter(|taken| taken.is_evicted()).count(), 1);
        assert!(greedy[30].is_evicted() && !newcomer.is_evicted());
        assert!(pool.take(ip(1), 1).is_err());
        assert_eq!(pool.used(), 33, "who was told to go still counts");
        drop(greedy);
        assert_eq!(pool.used(), 1);
        drop(newcomer);
        let inner = pool.lock();
        assert!(inner.holders.is_empty() && inner.in_net.is_empty() && inner.shares.is_empty());
        assert_eq!(inner.leaving, 0);
    }

    #[test]
    fn holders_that_do_not_go_do_not_let_the_pool_grow() {
        let pool = Pool::new(32);
        let greedy: Vec<Taken> = (0..32).map(|_| pool.take(ip(1), 1).unwrap()).collect();
        let newcomers: Vec<Taken> = (2..200).filter_map(|n| pool.take(ip(n), 1).ok()).collect();
        assert!(pool.used() <= 34, "{}", pool.used());
        drop((greedy, newcomers));
    }

    #[test]
    fn who_asks_whether_there_is_room_pushes_nobody_out() {
        let pool = Pool::new(32);
        let greedy: Vec<Taken> = (0..32).map(|_| pool.take(ip(1), 1).unwrap()).collect();
        assert!(!pool.has_room(ip(1), 1) && pool.has_room(ip(2), 1) && !pool.has_room(ip(2), 33));
        assert!(greedy.iter().all(|taken| !taken.is_evicted()));
    }

    #[test]
    fn bytes_grow_until_somebody_has_to_go() {
        let pool = Pool::new(1000);
        let mut large = pool.take(ip(1), 100).unwrap();
        large.grow(800).unwrap();
        let mut other = pool.take(ip(2), 100).unwrap();
        assert!(large.grow(1).is_err(), "the largest pushes nobody out");
        other.grow(300).unwrap();
        assert!(large.is_evicted());
        assert!(large.grow(1).is_err());
        drop(large);
        other.grow(600).unwrap();
        let proxy = pool.take_unshared(1).unwrap_err();
        assert_eq!(proxy, Refused);
    }
}
