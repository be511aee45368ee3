//! Walking towards an item.
//!
//! Rules:
//! 1. The nearest nodes that are heard of are asked, [`WIDTH`] at a time; one that has not answered within [`SOON`] holds up
//!    nobody any more, and within [`TIMEOUT`] has failed.
//! 2. The walk ends when the [`NEAREST`] nodes that answer are known, and the nearest whose names fit their addresses as well: who
//!    makes up names can surround an item with the first, but hardly with the second.
//! 3. An item is given to both.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use minuet_guard::net::Net;
use minuet_proto::ChannelId;

use crate::{
    Id, Item,
    krpc::{Answer, MAX_NAMED, Query, Transaction},
};

/// Nodes that hold an item (BEP 44).
const NEAREST: usize = 8;
/// Questions under way that may still be answered soon.
const WIDTH: usize = 6;
/// A node that answers at all mostly does so by then.
const SOON: Duration = Duration::from_millis(600);
/// After this long no answer is waited for.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// A lookup takes no longer.
const LONGEST: Duration = Duration::from_secs(15);
/// Most questions of one lookup.
pub const MAX_QUERIES: usize = 128;
/// Most nodes that one lookup remembers: the nearest.
pub const MAX_HEARD: usize = 256;
/// Most of them from one network on the internet (an IPv4 /24, an IPv6 /48).
pub const MAX_OF_NET: usize = 2;

/// Something to send, and who named where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Where to.
    pub to: SocketAddr,
    /// Under which number.
    pub transaction: Transaction,
    /// What.
    pub query: Query,
    /// Who named the address; none if this node's user did, or it answered before.
    pub teller: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Heard,
    Asked(Duration),
    Answered,
    Failed,
}

#[derive(Debug)]
struct Candidate {
    addr: SocketAddr,
    fits: bool,
    teller: Option<IpAddr>,
    stage: Stage,
    token: Option<Bytes>,
}

/// A walk towards one item. Times are durations since any fixed moment.
#[derive(Debug)]
pub struct Lookup {
    key: ChannelId,
    salt: Bytes,
    target: Id,
    /// By distance.
    heard: BTreeMap<Id, Candidate>,
    /// Where to begin: nodes whose names are not known.
    doors: Vec<SocketAddr>,
    under_way: HashMap<Transaction, (SocketAddr, Option<Id>, Duration)>,
    nets: HashMap<Net, usize>,
    asked: usize,
    next: Transaction,
    began: Duration,
    newest: Option<Item>,
    /// Nodes that gave it.
    copies: usize,
}

impl Lookup {
    /// Begins at `doors`. `first` is the first number of this lookup's questions: random, so that nobody who sees none can answer.
    pub fn new(
        key: ChannelId,
        salt: Bytes,
        doors: impl IntoIterator<Item = SocketAddr>,
        first: Transaction,
        now: Duration,
    ) -> Self {
        let target = Item::place(&key, &salt);
        let mut doors: Vec<_> = doors.into_iter().take(MAX_NAMED * 2).collect();
        doors.reverse();
        Self {
            key,
            salt,
            target,
            heard: BTreeMap::new(),
            doors,
            under_way: HashMap::new(),
            nets: HashMap::new(),
            asked: 0,
            next: first,
            began: now,
            newest: None,
            copies: 0,
        }
    }

    /// The item as far as it was found.
    pub fn newest(&self) -> Option<&Item> {
        self.newest.as_ref()
    }

    /// How many nodes gave it: few mean that it should be given again.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// What is to be sent now; call again until there is nothing.
    pub fn poll(&mut self, now: Duration) -> Option<Send> {
        self.expire(now);
        let waiting = self.under_way.values().filter(|(_, _, at)| now.saturating_sub(*at) < SOON).count();
        if waiting >= WIDTH || self.asked >= MAX_QUERIES || now.saturating_sub(self.began) >= LONGEST {
            return None;
        }
        let (to, distance, teller) = match self.nearest_unasked() {
            Some(distance) => {
                let candidate = self.heard.get_mut(&distance)?;
                candidate.stage = Stage::Asked(now);
                (candidate.addr, Some(distance), candidate.teller)
            }
            // Doors only as long as nothing better is known.
            None if self.is_lost() => (self.doors.pop()?, None, None),
            None => return None,
        };
        let transaction = self.number();
        self.asked = self.asked.saturating_add(1);
        self.under_way.insert(transaction, (to, distance, now));
        Some(Send { to, transaction, query: Query::Get { target: self.target }, teller })
    }

    /// When [`poll`](Self::poll) may have something again, if nothing comes in before.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        let of = |at: &Duration| [at.saturating_add(SOON), at.saturating_add(TIMEOUT)];
        self.under_way.values().flat_map(|(_, _, at)| of(at)).filter(|at| *at > now).min()
    }

    /// Nothing more is asked, and nothing more is waited for.
    pub fn is_over(&self, now: Duration) -> bool {
        if now.saturating_sub(self.began) >= LONGEST {
            return true;
        }
        let spent = self.asked >= MAX_QUERIES;
        let asks = self.nearest_unasked().is_some() || self.is_lost() && !self.doors.is_empty();
        self.under_way.is_empty() && (spent || !asks)
    }

    /// An address may not be contacted, or cannot be.
    pub fn cannot_ask(&mut self, transaction: Transaction) {
        if let Some((_, distance, _)) = self.under_way.remove(&transaction) {
            self.fail(distance);
        }
    }

    /// A node has refused to answer.
    pub fn on_refusal(&mut self, from: SocketAddr, transaction: Transaction) {
        if self.under_way.get(&transaction).is_some_and(|(to, ..)| *to == from) {
            self.cannot_ask(transaction);
        }
    }

    /// A node has answered. The item, if this is the first copy or a newer one. False in second place: it was not asked.
    pub fn on_answer(
        &mut self,
        from: SocketAddr,
        transaction: Transaction,
        answer: &Answer,
    ) -> (Option<Item>, bool) {
        if self.under_way.get(&transaction).is_none_or(|(to, ..)| *to != from) {
            return (None, false);
        }
        let (_, asked_as, _) = self.under_way.remove(&transaction).unwrap_or((from, None, Duration::ZERO));
        let distance = answer.id.distance(&self.target);
        if asked_as != Some(distance) {
            // Named under another name than its own, or a door.
            self.fail(asked_as);
            self.hear(answer.id, from, None);
        }
        if let Some(candidate) = self.heard.get_mut(&distance).filter(|candidate| candidate.addr == from) {
            candidate.stage = Stage::Answered;
            candidate.token.clone_from(&answer.token);
        }
        for named in answer.nodes.iter().take(2 * MAX_NAMED) {
            self.hear(named.id, named.addr, Some(from.ip()));
        }
        (self.take(answer), true)
    }

    /// To whom the item can be given, and with what token. For the end of the walk.
    pub fn put(&self) -> Vec<(SocketAddr, Bytes)> {
        let near = self.near(false, &[Stage::Answered]);
        let fitting = self.near(true, &[Stage::Answered]);
        let mut all: Vec<Id> = near.into_iter().chain(fitting).collect();
        all.sort_unstable();
        all.dedup();
        let with_token = |distance: &Id| {
            let candidate = self.heard.get(distance)?;
            Some((candidate.addr, candidate.token.clone()?))
        };
        all.iter().filter_map(with_token).collect()
    }

    /// Nodes that answered, the nearest first: where to begin another time.
    pub fn answered(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.heard
            .values()
            .filter(|candidate| candidate.stage == Stage::Answered)
            .map(|candidate| candidate.addr)
    }

    /// Nobody is known who may answer.
    fn is_lost(&self) -> bool {
        self.heard.values().all(|candidate| candidate.stage == Stage::Failed)
    }

    fn number(&mut self) -> Transaction {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn take(&mut self, answer: &Answer) -> Option<Item> {
        let (seq, value, signature) = answer.value.as_ref()?;
        if let Some(newest) = self.newest.as_ref().filter(|newest| newest.seq() >= *seq) {
            let same = newest.seq() == *seq && newest.value() == value;
            self.copies = self.copies.saturating_add(same.into());
            return None;
        }
        let item = Item::check(self.key, self.salt.clone(), *seq, value.clone(), *signature)?;
        self.copies = 1;
        self.newest = Some(item.clone());
        Some(item)
    }

    fn hear(&mut self, id: Id, addr: SocketAddr, teller: Option<IpAddr>) {
        let distance = id.distance(&self.target);
        let known = self.heard.contains_key(&distance) || self.heard.values().any(|other| other.addr == addr);
        if known || addr.port() == 0 {
            return;
        }
        let net = crowd(addr.ip());
        if let Some(net) = net
            && self.nets.get(&net).is_some_and(|count| *count >= MAX_OF_NET)
        {
            return;
        }
        if self.heard.len() >= MAX_HEARD {
            let farthest =
                self.heard.iter().rev().find(|(_, c)| matches!(c.stage, Stage::Heard | Stage::Failed));
            match farthest.map(|(distance, _)| *distance) {
                Some(farthest) if farthest > distance => self.forget(&farthest),
                _ => return,
            }
        }
        if let Some(net) = net {
            let count = self.nets.entry(net).or_default();
            *count = count.saturating_add(1);
        }
        let candidate =
            Candidate { addr, fits: id.fits(addr.ip()), teller, stage: Stage::Heard, token: None };
        self.heard.insert(distance, candidate);
    }

    fn forget(&mut self, distance: &Id) {
        let Some(gone) = self.heard.remove(distance) else { return };
        if let Some(count) = crowd(gone.addr.ip()).and_then(|net| self.nets.get_mut(&net)) {
            *count = count.saturating_sub(1);
        }
    }

    fn fail(&mut self, distance: Option<Id>) {
        if let Some(candidate) = distance.and_then(|distance| self.heard.get_mut(&distance)) {
            candidate.stage = Stage::Failed;
        }
    }

    fn expire(&mut self, now: Duration) {
        let late: Vec<Transaction> = self
            .under_way
            .iter()
            .filter(|(_, (_, _, at))| now.saturating_sub(*at) >= TIMEOUT)
            .map(|(transaction, _)| *transaction)
            .collect();
        late.into_iter().for_each(|transaction| self.cannot_ask(transaction));
    }

    /// The nearest in one of these stages among those that count: of all that have not failed, the nearest [`NEAREST`].
    fn near(&self, fitting: bool, stages: &[Stage]) -> Vec<Id> {
        self.heard
            .iter()
            .filter(|(_, candidate)| candidate.stage != Stage::Failed && (!fitting || candidate.fits))
            .take(NEAREST)
            .filter(|(_, candidate)| stages.contains(&candidate.stage))
            .map(|(distance, _)| *distance)
            .collect()
    }

    fn nearest_unasked(&self) -> Option<Id> {
        let first = |fitting| self.near(fitting, &[Stage::Heard]).into_iter().next();
        // By turns, so that made-up names, however near, hold up nobody else.
        let fitting = self.asked.is_multiple_of(2);
        first(fitting).or_else(|| first(!fitting))
    }
}

/// The network that an address on the internet counts for.
fn crowd(ip: IpAddr) -> Option<Net> {
    use minuet_guard::contact::Scope;
    let bits = if ip.is_ipv4() { 24 } else { 48 };
    (Scope::of(ip) == Some(Scope::Public)).then(|| Net::of(ip, bits))
}
