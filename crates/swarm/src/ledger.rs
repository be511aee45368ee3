//! Who sent what: bytes by kind of peer, also of minutes that are gone.
//!
//! A peer's kind is known only while it is connected (the client name of BEP 10), its bytes for as long as the minute
//! is in the engine. So the ledger is fed often while minutes are being fetched, remembers the kind of each address
//! for as long as its minute lives, and settles a minute's bytes when it goes.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use minuet_proto::InfoHash;

use crate::engine::PeerLine;

/// Payload bytes exchanged with peers, by kind of peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Received from the node that records the channel.
    pub from_source: u64,
    /// Received from everyone else.
    pub from_peers: u64,
    /// Sent.
    pub sent: u64,
}

impl std::ops::AddAssign for Transfer {
    fn add_assign(&mut self, other: Self) {
        self.from_source += other.from_source;
        self.from_peers += other.from_peers;
        self.sent += other.sent;
    }
}

#[derive(Default)]
struct Account {
    sources: HashSet<SocketAddr>,
    now: Transfer,
    /// From before the engine's counters were last reset.
    before: Transfer,
}

impl Account {
    fn all(&self) -> Transfer {
        let mut all = self.before;
        all += self.now;
        all
    }
}

/// Addresses of sources that are remembered from minute to minute; a channel has one source, at a few addresses.
const MAX_SOURCES: usize = 64;

/// Bytes by minute and kind of peer.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Where sources listen: a short minute may be fetched before anyone looked at who sent it.
    sources: HashSet<SocketAddr>,
    open: HashMap<InfoHash, Account>,
    settled: Transfer,
}

impl Ledger {
    /// Takes in a minute's peers as they are now.
    pub fn enter(&mut self, minute: InfoHash, peers: &[PeerLine]) {
        let account = self.open.entry(minute).or_default();
        account.sources.extend(peers.iter().filter(|peer| peer.source).map(|peer| peer.addr));
        for peer in peers.iter().filter(|peer| peer.source && peer.dialled) {
            if self.sources.len() < MAX_SOURCES {
                self.sources.insert(peer.addr);
            }
        }
        let mut now = Transfer::default();
        for peer in peers {
            now.sent += peer.uploaded;
            if account.sources.contains(&peer.addr) || self.sources.contains(&peer.addr) {
                now.from_source += peer.fetched;
            } else {
                now.from_peers += peer.fetched;
            }
        }
        // A minute that is being dropped has no peers any more; what they sent stays.
        if now.from_source + now.from_peers + now.sent
            >= account.now.from_source + account.now.from_peers + account.now.sent
        {
            account.now = now;
        }
    }

    /// The engine counts a minute from zero again.
    pub fn renew(&mut self, minute: InfoHash) {
        if let Some(account) = self.open.get_mut(&minute) {
            account.before += std::mem::take(&mut account.now);
        }
    }

    /// Closes a minute's account.
    pub fn settle(&mut self, minute: InfoHash) {
        if let Some(account) = self.open.remove(&minute) {
            self.settled += account.all();
        }
    }

    /// What was exchanged about one minute.
    pub fn of(&self, minute: InfoHash) -> Transfer {
        self.open.get(&minute).map(Account::all).unwrap_or_default()
    }

    /// What was exchanged about all minutes since the start.
    pub fn total(&self) -> Transfer {
        let mut total = self.settled;
        self.open.values().for_each(|account| total += account.all());
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(port: u16, fetched: u64, source: bool) -> PeerLine {
        let addr = SocketAddr::from(([10, 0, 0, 1], port));
        PeerLine { addr, fetched, uploaded: 1, source, connected: source, dialled: true }
    }

    #[test]
    fn bytes_stay_with_the_kind_of_peer_after_it_hangs_up_and_after_the_minute_goes() {
        let minute = InfoHash::new([1; 20]);
        let mut ledger = Ledger::default();
        ledger.enter(minute, &[line(1, 10, true), line(2, 5, false)]);
        ledger.enter(minute, &[line(1, 12, false), line(2, 7, false)]);
        let expected = Transfer { from_source: 12, from_peers: 7, sent: 2 };
        assert_eq!(ledger.of(minute), expected);
        ledger.enter(minute, &[]);
        ledger.renew(minute);
        assert_eq!(ledger.of(minute), expected);
        ledger.enter(minute, &[line(1, 1, false)]);
        let expected = Transfer { from_source: 13, from_peers: 7, sent: 3 };
        ledger.settle(minute);
        ledger.settle(minute);
        assert_eq!(ledger.of(minute), Transfer::default());
        assert_eq!(ledger.total(), expected);
        // The next minute's source is known by its address, although nobody saw it connected.
        let next = InfoHash::new([2; 20]);
        ledger.enter(next, &[line(1, 3, false)]);
        assert_eq!(ledger.of(next).from_source, 3);
    }
}
