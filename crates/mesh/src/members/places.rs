//! Places for links that others open: who stays when all are taken.
//!
//! Rules, after Bitcoin Core's eviction of inbound peers:
//! 1. While there is a place, everybody gets it, even a school with many viewers behind one address.
//! 2. Places for links that this node dials are its own: no number of accepted links takes them (`neighbourhood.rs`).
//! 3. When all are taken, a neighbour that has not even greeted goes first, after [`GREETS`]. Then goes one that has been of no
//!    use: after [`PROBATION`] it has neither requested anything nor delivered anything, and tells of no new pieces.
//! 4. Else one of the network that holds most goes, if that holds more than the newcomer's networks then would. Protected are
//!    an eighth of all, with the shortest round trips; a quarter, over which most media went of late; and the older half of the
//!    rest. Of the others the youngest goes.
//! 5. A newcomer is refused only if nobody is worse.
//!
//! Networks count by weight, as everywhere (`minuet_guard::shares`). What comes over relay servers counts as one site: the
//! relay servers give out their places by network themselves.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use minuet_guard::net::{Net, nets};
use minuet_guard::shares::weighed;
use minuet_proto::mesh::{ByeReason, Message};
use smallvec::{SmallVec, smallvec};

use crate::members::neighbour::{Neighbour, Slab};
use crate::node::Node;
use crate::{HangUpReason, Timestamp};

/// How long a neighbour may take to greet, beyond two round trips, before it gives way to a newcomer.
const GREETS: Duration = Duration::from_secs(1);
/// How long it may be of no use, at the nominal pace (`tempo.rs`), and at most: who wants the stream asks for some of it, or
/// tells of what it has got, within a piece or two.
const PROBATION: Duration = Duration::from_secs(3);
const LONGEST_PROBATION: Duration = Duration::from_secs(10);
/// One in so many accepted links is protected for its short round trip, and for what went over it of late.
const NEAR: usize = 8;
const USEFUL: usize = 4;

impl Node {
    /// Links that others may have open here.
    pub(crate) fn most_accepted(&self) -> usize {
        self.aim().saturating_mul(2)
    }

    /// Sees to a place for a link that somebody at `ip` has opened. False if all are taken and nobody is worse.
    pub(crate) fn make_room(&mut self, ip: Option<IpAddr>, now: Timestamp) -> bool {
        let accepted = self.neighbours.iter().filter(|(_, n)| !n.chosen && !n.closing);
        let accepted: Vec<(Slab, &Neighbour)> = accepted.collect();
        if accepted.len() < self.most_accepted() {
            return true;
        }
        let streams = now.since(self.edge_at) < self.probation();
        let silent = |n: &Neighbour| !n.greeted && n.since + GREETS + n.rtt.saturating_mul(2) < now;
        let useless = |n: &Neighbour| streams && self.is_useless(n, now);
        let goes = accepted.iter().filter(|(_, n)| silent(n) || useless(n));
        let goes = goes.max_by_key(|(_, n)| (silent(n), n.since)).map(|(slab, _)| *slab);
        let Some(goes) = goes.or_else(|| worst_of_largest(&accepted, ip)) else { return false };
        self.send(goes, Message::Bye(ByeReason::Replaced), now);
        self.hang_up(goes, HangUpReason::Replaced, false, now);
        true
    }

    fn probation(&self) -> Duration {
        self.tempo.time(PROBATION).clamp(PROBATION, LONGEST_PROBATION)
    }

    /// Whether a neighbour has had the time to be of use and was of none.
    fn is_useless(&self, neighbour: &Neighbour, now: Timestamp) -> bool {
        let tells = neighbour.tells(self.window.edge());
        neighbour.since + self.probation() < now && neighbour.taken == 0 && neighbour.requests == 0 && !tells
    }
}

/// Networks of who is there.
fn nets_of(ip: Option<IpAddr>) -> SmallVec<[Net; 3]> {
    match ip {
        Some(ip) => nets(ip),
        // One that nobody has, as wide as a site.
        None => smallvec![Net::of(Ipv4Addr::UNSPECIFIED.into(), 24)],
    }
}

/// Which neighbour goes from the network that holds most, unless that is the newcomer's own or holds no more than its would.
fn worst_of_largest(accepted: &[(Slab, &Neighbour)], newcomer: Option<IpAddr>) -> Option<Slab> {
    let mut held: Vec<(Net, u64)> = Vec::new();
    for (_, neighbour) in accepted {
        for net in nets_of(neighbour.ip) {
            match held.iter_mut().find(|(known, _)| *known == net) {
                Some((_, count)) => *count = count.saturating_add(1),
                None => held.push((net, 1)),
            }
        }
    }
    let own = nets_of(newcomer).into_iter().map(|net| {
        let count = held.iter().find(|(known, _)| *known == net).map_or(0, |(_, count)| *count);
        weighed(net, count.saturating_add(1))
    });
    let own = own.max()?;
    let (largest, _) = held
        .iter()
        .map(|(net, count)| (*net, weighed(*net, *count)))
        .filter(|(_, measure)| *measure > own)
        .max_by_key(|(net, measure)| (*measure, *net))?;
    let protected = protected(accepted);
    accepted
        .iter()
        .filter(|(slab, n)| !protected.contains(slab) && nets_of(n.ip).contains(&largest))
        .max_by_key(|(_, n)| n.since)
        .map(|(slab, _)| *slab)
}

/// Those who stay whatever network they are in.
fn protected(accepted: &[(Slab, &Neighbour)]) -> SmallVec<[Slab; 32]> {
    let mut rest: Vec<&(Slab, &Neighbour)> = accepted.iter().filter(|(_, n)| n.greeted).collect();
    let mut protected = SmallVec::new();
    let mut protect = |rest: &mut Vec<&(Slab, &Neighbour)>, count: usize| {
        protected.extend(rest.drain(..count.min(rest.len())).map(|(slab, _)| *slab));
    };
    rest.sort_by_key(|(_, n)| n.rtt);
    protect(&mut rest, accepted.len() / NEAR);
    rest.sort_by(|(_, a), (_, b)| lately(b).total_cmp(&lately(a)));
    let useful = rest.iter().take_while(|(_, n)| lately(n) > 0.0).count().min(accepted.len() / USEFUL);
    protect(&mut rest, useful);
    rest.sort_by_key(|(_, n)| n.since);
    let oldest = rest.len() / 2;
    protect(&mut rest, oldest);
    protected
}

/// Media that went over a link of late, both ways: what was delivered here counts twice, since nobody can ask for it, and
/// what a source pushed there as far as it reappeared elsewhere.
fn lately(neighbour: &Neighbour) -> f32 {
    2.0 * neighbour.taken_lately + neighbour.given_lately * neighbour.spreads
}
