//! Names in URLs: each address that a name stands for is judged, whoever runs the name server.

use std::net::SocketAddr;

use minuet_guard::contact::Teller;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::Contacts;

/// Addresses that are tried of one name: one of each family and a spare.
const MAX_TRIED: usize = 3;

/// Resolves with the system's means, and gives only what `teller` may name and the budgets allow.
#[derive(Debug, Clone)]
pub(super) struct Judging {
    pub contacts: Contacts,
    pub teller: Teller,
}

impl Resolve for Judging {
    fn resolve(&self, name: Name) -> Resolving {
        let Self { contacts, teller } = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            if teller == Teller::User {
                return Ok(Box::new(found.collect::<Vec<SocketAddr>>().into_iter()) as Addrs);
            }
            let mut allowed: Vec<SocketAddr> = Vec::new();
            let mut refused = None;
            for addr in found {
                if allowed.len() == MAX_TRIED || allowed.contains(&addr) {
                    continue;
                }
                // The port is that of the URL; any other than 0 will do here.
                match contacts.try_open(SocketAddr::new(addr.ip(), 1), teller) {
                    // What becomes of it is known when the answer is there.
                    Ok(_) => allowed.push(addr),
                    Err(forbidden) => refused = Some(forbidden),
                }
            }
            match refused {
                Some(forbidden) if allowed.is_empty() => Err(forbidden.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
