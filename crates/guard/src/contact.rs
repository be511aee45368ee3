//! The one rule for outgoing contacts: may this program contact an address that somebody named?
//!
//! # The rule
//! 1. An address has a [`Scope`]. A teller may name addresses of its own scope and of wider ones: a tracker on the open
//!    internet names public addresses alone; one in the local network may name what is there; one on this machine may
//!    name this machine. The user may name any of them.
//! 2. Multicast, broadcast and unspecified addresses are never contacted.
//! 3. Each household that is contacted has a budget, whoever names it and under whatever key or port: see [`Budgets`].
//!    Failures count for the household that was contacted.
//!
//! A name is judged after it was resolved, each address by itself, and again at each redirect. A redirect stays on its
//! host and port, or goes from http to https on its host: [`may_follow`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::net::{Net, household};

/// How far an address reaches. Ordered from the narrowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This machine.
    Loopback,
    /// This link.
    LinkLocal,
    /// This site: a private network (RFC 1918, 4193).
    Private,
    /// Behind the same carrier's NAT (RFC 6598): strangers to each other, like those on the internet.
    Carrier,
    /// The internet.
    Public,
}

impl Scope {
    /// The scope of a unicast address; none for an address that nobody can be contacted at.
    pub fn of(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                if a == 0 || ip.is_multicast() || a >= 240 {
                    None
                } else if ip.is_loopback() {
                    Some(Self::Loopback)
                } else if ip.is_link_local() {
                    Some(Self::LinkLocal)
                } else if ip.is_private() {
                    Some(Self::Private)
                } else if a == 100 && b & 0xc0 == 64 {
                    Some(Self::Carrier)
                } else {
                    Some(Self::Public)
                }
            }
            IpAddr::V6(ip) => {
                if let Some(inner) = embedded(ip) {
                    return Self::of(inner);
                }
                if ip.is_unspecified() || ip.is_multicast() {
                    None
                } else if ip.is_loopback() {
                    Some(Self::Loopback)
                } else if ip.is_unicast_link_local() {
                    Some(Self::LinkLocal)
                } else if ip.is_unique_local() || ip.segments()[0] & 0xffc0 == 0xfec0 {
                    Some(Self::Private)
                } else {
                    Some(Self::Public)
                }
            }
        }
    }
}

/// The IPv4 address that a translator or tunnel would contact for an IPv6 one: NAT64 (RFC 6052), 6to4 (RFC 3056), and
/// the old IPv4-compatible form.
fn embedded(ip: Ipv6Addr) -> Option<IpAddr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Some(IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into()));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => None,
    }
}

/// Who named an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teller {
    /// The user of this program: the command line, a link that was typed in, a configuration file.
    User,
    /// Somebody at this address: a tracker, a node, an HTTP server.
    At(IpAddr),
    /// Somebody whose address is not known: word that came by others. Counts as on the internet.
    Unknown,
}

/// Why an address is not contacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It is no unicast address, or its port is 0.
    #[error("{0} is no address that can be contacted")]
    NoUnicast(IpAddr),
    /// It is nearer than its teller.
    #[error("{0} is not on the internet, but was named from there")]
    TooNear(IpAddr),
    /// Its household has been contacted too often.
    #[error("{0} has been contacted too often")]
    TooOften(Net),
}

/// Rules 1 and 2: whether `teller` may name `target`.
pub fn may_name(target: IpAddr, teller: Teller) -> Result<(), Forbidden> {
    let scope = Scope::of(target).ok_or(Forbidden::NoUnicast(target))?;
    let reach = match teller {
        Teller::User => return Ok(()),
        Teller::At(ip) => Scope::of(ip).unwrap_or(Scope::Public),
        Teller::Unknown => Scope::Public,
    };
    if scope >= reach { Ok(()) } else { Err(Forbidden::TooNear(target)) }
}

/// Which of `targets` somebody at `teller` may name. Their ports are not 0.
pub fn nameable<'a>(
    targets: impl IntoIterator<Item = &'a SocketAddr> + 'a,
    teller: Teller,
) -> impl Iterator<Item = SocketAddr> + 'a {
    let may = move |target: &SocketAddr| target.port() != 0 && may_name(target.ip(), teller).is_ok();
    targets.into_iter().copied().filter(may)
}

/// What a redirect is judged by: a URL's scheme, host and port (the scheme's own where none is written).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site<'a> {
    /// In lower case.
    pub scheme: &'a str,
    /// In lower case.
    pub host: &'a str,
    /// With the scheme's default filled in.
    pub port: u16,
}

/// Whether a redirect from one site to another is followed: on the same host and port, or from http to https on its
/// host (port 443, or the port it had).
pub fn may_follow(from: Site<'_>, to: Site<'_>) -> bool {
    if from.host != to.host {
        return false;
    }
    match (from.scheme, to.scheme) {
        (a, b) if a == b => from.port == to.port,
        ("http", "https") => to.port == 443 || to.port == from.port,
        _ => false,
    }
}

/// Contacts with one household that are allowed at once, before any has succeeded.
pub const BURST: u32 = 3;
/// How long it takes until one more is allowed.
pub const REFILL: Duration = Duration::from_secs(600);
/// Contacts that are allowed at once with a household where somebody answers: a school, a carrier's NAT.
pub const PROVEN_BURST: u32 = 64;
/// How long it takes there until one more is allowed. A contact that succeeds costs nothing.
pub const PROVEN_REFILL: Duration = Duration::from_secs(3);
/// How long a household that answered counts as one where somebody answers.
pub const PROVEN_FOR: Duration = Duration::from_secs(3600);
/// Households that are remembered; beyond that the one that was contacted least lately is forgotten.
pub const MAX_HOUSEHOLDS: usize = 4096;

/// Rule 3: how often each household may still be contacted, as token buckets. A household where a contact has succeeded
/// has a larger bucket for [`PROVEN_FOR`]; one where nobody speaks the protocol never gets it, whoever names it.
///
/// Times are durations since any fixed moment.
#[derive(Debug, Default)]
pub struct Budgets {
    households: HashMap<Net, Budget>,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    left: f64,
    /// When `left` was last reckoned.
    at: Duration,
    /// The larger bucket counts until then.
    proven_until: Duration,
}

impl Budgets {
    /// Nobody was contacted so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges a contact by all three rules, and charges for it if it is allowed.
    pub fn contact(&mut self, target: IpAddr, teller: Teller, now: Duration) -> Result<(), Forbidden> {
        may_name(target, teller)?;
        let net = household(target);
        self.make_room(net);
        let fresh = Budget { left: f64::from(BURST), at: now, proven_until: Duration::ZERO };
        let budget = self.households.entry(net).or_insert(fresh);
        budget.refill(now);
        if budget.left < 1.0 {
            return Err(Forbidden::TooOften(net));
        }
        budget.left -= 1.0;
        Ok(())
    }

    /// Somebody at `target` answered as expected: the handshake was completed.
    pub fn succeeded(&mut self, target: IpAddr, now: Duration) {
        if let Some(budget) = self.households.get_mut(&household(target)) {
            budget.refill(now);
            let was_proven = budget.proven_until > now;
            budget.proven_until = now.saturating_add(PROVEN_FOR);
            budget.left = if was_proven {
                (budget.left + 1.0).min(f64::from(PROVEN_BURST))
            } else {
                f64::from(PROVEN_BURST)
            };
        }
    }

    /// Households that are remembered.
    pub fn len(&self) -> usize {
        self.households.len()
    }

    /// Whether nobody was contacted so far.
    pub fn is_empty(&self) -> bool {
        self.households.is_empty()
    }

    fn make_room(&mut self, net: Net) {
        if self.households.len() >= MAX_HOUSEHOLDS
            && !self.households.contains_key(&net)
            && let Some(oldest) =
                self.households.iter().min_by_key(|(_, budget)| budget.at).map(|(net, _)| *net)
        {
            self.households.remove(&oldest);
        }
    }
}

impl Budget {
    fn refill(&mut self, now: Duration) {
        let (burst, refill) =
            if self.proven_until > now { (PROVEN_BURST, PROVEN_REFILL) } else { (BURST, REFILL) };
        let elapsed = now.saturating_sub(self.at);
        self.left = (self.left + elapsed.as_secs_f64() / refill.as_secs_f64()).min(f64::from(burst));
        self.at = now.max(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn scopes() {
        for (text, scope) in [
            ("127.0.0.53", Some(Scope::Loopback)),
            ("::1", Some(Scope::Loopback)),
            ("::ffff:127.0.0.1", Some(Scope::Loopback)),
            ("::127.0.0.1", Some(Scope::Loopback)),
            ("64:ff9b::7f00:1", Some(Scope::Loopback)),
            ("2002:7f00:1::", Some(Scope::Loopback)),
            ("169.254.169.254", Some(Scope::LinkLocal)),
            ("fe80::1", Some(Scope::LinkLocal)),
            ("10.1.2.3", Some(Scope::Private)),
            ("172.31.0.1", Some(Scope::Private)),
            ("192.168.1.1", Some(Scope::Private)),
            ("100.64.0.1", Some(Scope::Carrier)),
            ("fd00::1", Some(Scope::Private)),
            ("fec0::1", Some(Scope::Private)),
            ("172.32.0.1", Some(Scope::Public)),
            ("100.128.0.1", Some(Scope::Public)),
            ("2001:db8::1", Some(Scope::Public)),
            ("192.0.2.1", Some(Scope::Public)),
            ("0.0.0.0", None),
            ("0.1.2.3", None),
            ("::", None),
            ("224.0.0.251", None),
            ("ff02::fb", None),
            ("255.255.255.255", None),
            ("240.0.0.1", None),
        ] {
            assert_eq!(Scope::of(ip(text)), scope, "{text}");
        }
    }

    #[test]
    fn a_teller_names_nothing_nearer_than_itself() {
        let tracker = Teller::At(ip("198.51.100.1"));
        assert_eq!(may_name(ip("198.51.100.2"), tracker), Ok(()));
        for near in ["127.0.0.1", "169.254.169.254", "192.168.1.1", "fd00::1", "::1"] {
            assert_eq!(may_name(ip(near), tracker), Err(Forbidden::TooNear(ip(near))));
            assert_eq!(may_name(ip(near), Teller::Unknown), Err(Forbidden::TooNear(ip(near))));
            assert_eq!(may_name(ip(near), Teller::User), Ok(()));
            assert_eq!(may_name(ip(near), Teller::At(ip("127.0.0.1"))), Ok(()));
        }
        assert!(may_name(ip("127.0.0.1"), Teller::At(ip("192.168.1.1"))).is_err());
        assert!(may_name(ip("224.0.0.1"), Teller::User).is_err());
    }

    #[test]
    fn redirects_stay_on_their_host() {
        let site = |scheme, host, port| Site { scheme, host, port };
        let from = site("http", "tracker.example", 7070);
        assert!(may_follow(from, from));
        assert!(may_follow(from, site("https", "tracker.example", 443)));
        assert!(may_follow(from, site("https", "tracker.example", 7070)));
        assert!(!may_follow(from, site("http", "tracker.example", 80)));
        assert!(!may_follow(from, site("http", "router.example", 7070)));
        assert!(!may_follow(site("https", "a", 443), site("http", "a", 80)));
        assert!(!may_follow(from, site("ftp", "tracker.example", 7070)));
    }

    #[test]
    fn a_victim_is_contacted_three_times_in_ten_minutes_whoever_names_it() {
        let mut budgets = Budgets::new();
        let victim = ip("203.0.113.9");
        let mut contacts = 0;
        for second in 0..590 {
            let now = Duration::from_secs(second);
            if budgets.contact(victim, Teller::Unknown, now).is_ok() {
                contacts += 1;
            }
        }
        assert_eq!(contacts, 3);
        assert_eq!(
            budgets.contact(victim, Teller::User, Duration::from_secs(590)),
            Err(Forbidden::TooOften(household(victim)))
        );
    }

    #[test]
    fn a_school_behind_one_address_is_contacted_as_often_as_it_answers() {
        let mut budgets = Budgets::new();
        let school = ip("203.0.113.9");
        for n in 0..500 {
            let now = Duration::from_millis(n * 10);
            budgets.contact(school, Teller::Unknown, now).unwrap();
            budgets.succeeded(school, now);
        }
        // Some who are gone do not spoil it for those who are there.
        for n in 0..60 {
            budgets.contact(school, Teller::Unknown, Duration::from_secs(10 + n)).unwrap();
        }
        budgets.contact(school, Teller::Unknown, Duration::from_secs(71)).unwrap();
    }

    #[test]
    fn memory_is_bounded() {
        let mut budgets = Budgets::new();
        for n in 0..3 * MAX_HOUSEHOLDS as u32 {
            let ip = std::net::Ipv4Addr::from_bits(0x0b00_0000 + n);
            let _ = budgets.contact(ip.into(), Teller::Unknown, Duration::from_millis(u64::from(n)));
        }
        assert_eq!(budgets.len(), MAX_HOUSEHOLDS);
    }
}
