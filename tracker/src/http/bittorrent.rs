//! Announce and scrape over HTTP. A refusal is a bencoded answer with status 200, as BEP 3 has it: clients do
//! not read the body of any other status.

use std::net::{IpAddr, SocketAddr};

use crate::mesh::reach::{Reach, reach};
use crate::state::State;
use minuet_announce::answer::{PeerList, write_announce, write_refusal, write_scrape};
use minuet_announce::query;
use minuet_announce::swarm::table::Families;

/// What every answer is.
pub(super) const CONTENT_TYPE: &str = "text/plain";

/// Appends the answer to an announce from `ip` to `out`.
pub(super) fn announce(state: &State, ip: IpAddr, query: &[u8], out: &mut Vec<u8>) {
    let mut peers = PeerList::default();
    let answer = query::parse_announce(query).and_then(|http| {
        let addr =
            SocketAddr::new(told_address(ip, http.claimed, state.config.http.believe_ip), http.announce.port);
        let random = rand::random();
        let answer = state.swarms.announce(
            &http.announce,
            addr,
            Families::Both,
            state.clock.uptime(),
            random,
            &mut peers,
        )?;
        Ok((answer, http.compact))
    });
    out.reserve(192 + peers.v4.len() + peers.v6.len());
    match answer {
        Ok((answer, compact)) => {
            state.metrics.announces.increment();
            write_announce(out, &answer, &peers, ip, compact);
        }
        Err(refusal) => {
            state.metrics.refusals.increment();
            write_refusal(out, refusal);
        }
    }
}

/// Where others are told that a client is. One on the tracker's own machine or site is seen at an address that is of
/// no use to the world; if the operator trusts those (`believe`), it may say which it has. Nobody else is believed, or he
/// could send viewers to a victim: behind a proxy that is not known as one, everybody comes from a private address.
fn told_address(seen: IpAddr, claimed: Option<IpAddr>, believe: bool) -> IpAddr {
    match claimed.filter(|_| believe) {
        Some(claimed) if reach(seen) != Reach::World && reach(claimed) == Reach::World => {
            claimed.to_canonical()
        }
        _ => seen,
    }
}

/// Appends the answer to a scrape to `out`.
pub(super) fn scrape(state: &State, query: &[u8], out: &mut Vec<u8>) {
    match query::parse_scrape(query) {
        Ok(hashes) => {
            state.metrics.scrapes.increment();
            let known: Vec<_> =
                hashes.into_iter().filter_map(|hash| Some((hash, state.swarms.scrape(&hash)?))).collect();
            write_scrape(out, &known, state.swarms.calm().interval_seconds());
        }
        // A scrape of everything would be a dump of the tracker; BEP 48 leaves it to the tracker.
        Err(refusal) => {
            state.metrics.refusals.increment();
            write_refusal(out, refusal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_of_this_site_is_believed_and_only_a_public_address() {
        let told = |seen: &str, claimed: &str| {
            told_address(seen.parse().unwrap(), claimed.parse().ok(), true).to_string()
        };
        assert_eq!(told("127.0.0.1", "198.51.100.7"), "198.51.100.7");
        assert_eq!(told("192.168.0.2", "2001:db8::7"), "2001:db8::7");
        assert_eq!(told("203.0.113.9", "198.51.100.7"), "203.0.113.9");
        assert_eq!(told("127.0.0.1", "10.0.0.7"), "127.0.0.1");
        assert_eq!(told("127.0.0.1", ""), "127.0.0.1");
        let seen = "127.0.0.1".parse().unwrap();
        assert_eq!(told_address(seen, "198.51.100.7".parse().ok(), false), seen);
    }
}
