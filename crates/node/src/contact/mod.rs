//! Outgoing contacts: whatever a node contacts, a tracker, another node, an HTTP origin, a relay server, it asks
//! [`Contacts`] first, which keep the rule ([`minuet_guard::contact`]) and the budgets of the process. [`Http`] is the only
//! HTTP client: it judges names after they were resolved, addresses in URLs, and redirects. BitTorrent peers are judged in
//! the same way where they are dialled (`minuet-swarm`).

mod http;
mod resolver;

use std::net::SocketAddr;

use minuet_guard::contact::may_name;

pub(crate) use http::literal;
pub use http::{Http, Request};
pub use minuet_guard::{
    contact::{Forbidden, Scope, Teller},
    contacts::{Contact, Contacts},
};

/// Which of `targets` somebody at `teller` may name. Their ports are not 0.
pub fn nameable<'a>(
    targets: impl IntoIterator<Item = &'a SocketAddr> + 'a,
    teller: Teller,
) -> impl Iterator<Item = SocketAddr> + 'a {
    let may = move |target: &SocketAddr| target.port() != 0 && may_name(target.ip(), teller).is_ok();
    targets.into_iter().copied().filter(may)
}
