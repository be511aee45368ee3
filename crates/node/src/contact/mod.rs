//! Outgoing contacts: whatever a node contacts, a tracker, another node, an HTTP origin, a relay server, it asks
//! [`Contacts`] first, which keep the rule ([`minuet_guard::contact`]) and the budgets of the process. [`Http`] is the only
//! HTTP client: it judges names after they were resolved, addresses in URLs, and redirects. BitTorrent peers are judged in
//! the same way where they are dialled (`minuet-swarm`).

mod http;
mod resolver;

pub(crate) use http::literal;
pub use http::{Http, Request};
pub use minuet_guard::{
    contact::{Forbidden, Scope, Teller, nameable},
    contacts::{Contact, Contacts},
};
