//! Redirects of an input's server: they lead nowhere that is nearer to this machine than the server is. The user has named
//! the server, and not what is behind it: a server on the internet has no say in what this machine fetches from its own
//! network.
//!
//! What ffmpeg reads by itself (the entries of a playlist) is beyond this rule.

use std::net::{IpAddr, ToSocketAddrs as _};

use minuet_guard::contact::Scope;
use reqwest::{
    Url,
    redirect::{Attempt, Policy},
};

/// Most redirects of one request.
const MOST: usize = 10;

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// In a circle, most likely.
    #[error("redirects in a circle, or too often")]
    TooMany {
        /// No other host was named on the way.
        one_host: bool,
    },
    /// To what is no HTTP.
    #[error(
        "redirects to an address that is not on the web: give that address itself ({0}://…) as the input"
    )]
    NoWeb(String),
    /// Into this machine or its network.
    #[error(
        "redirects from the internet to an address in this machine's own network: name that address yourself if it is meant"
    )]
    TooNear,
}

/// The rule.
pub fn policy() -> Policy {
    Policy::custom(|attempt: Attempt<'_>| match judge(attempt.previous(), attempt.url(), resolve) {
        Ok(()) => attempt.follow(),
        Err(refused) => attempt.error(refused),
    })
}

/// What stands behind a redirect's error, if that is where it comes from.
pub fn refused(error: &reqwest::Error) -> Option<Refused> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return Some(refused.clone());
        }
        cause = inner.source();
    }
    None
}

fn judge(before: &[Url], to: &Url, resolve: impl Fn(&Url) -> Vec<IpAddr>) -> Result<(), Refused> {
    if !matches!(to.scheme(), "http" | "https") {
        return Err(Refused::NoWeb(to.scheme().chars().take(16).collect()));
    }
    if before.len() > MOST {
        return Err(Refused::TooMany { one_host: before.iter().all(|url| url.host() == to.host()) });
    }
    // The user's own address is the measure, whatever lies between.
    let Some(named) = before.first() else { return Ok(()) };
    if named.host() == to.host() {
        return Ok(());
    }
    // What cannot be resolved cannot be connected to, either.
    let scope = |url: &Url| resolve(url).into_iter().filter_map(Scope::of).min();
    match (scope(named), scope(to)) {
        (Some(named), Some(to)) if to < named => Err(Refused::TooNear),
        _ => Ok(()),
    }
}

/// Waits for the resolver: a redirect is rare, and the connection that follows it waits in any case.
fn resolve(url: &Url) -> Vec<IpAddr> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let found = (host.as_str(), url.port_or_known_default().unwrap_or_default()).to_socket_addrs();
    found.map(|addrs| addrs.map(|addr| addr.ip()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_nowhere_that_is_nearer_than_who_was_named() {
        let names = |url: &Url| match url.host_str().unwrap_or_default() {
            "tv.example" => vec![[198, 51, 100, 1].into()],
            "cdn.example" => vec![[203, 0, 113, 1].into(), [203, 0, 113, 2].into()],
            // One of its addresses is this machine.
            "rebound.example" => vec![[203, 0, 113, 1].into(), [127, 0, 0, 1].into()],
            "nas.lan" => vec![[192, 168, 1, 5].into()],
            literal => literal.trim_matches(['[', ']']).parse().into_iter().collect(),
        };
        let judged = |hops: &[&str]| {
            let urls: Vec<Url> = hops.iter().map(|url| url.parse().unwrap()).collect();
            let (to, before) = urls.split_last().unwrap();
            judge(before, to, names)
        };
        assert_eq!(judged(&["http://tv.example/", "https://cdn.example/x"]), Ok(()));
        assert_eq!(judged(&["http://nas.lan/", "http://tv.example/"]), Ok(()));
        assert_eq!(judged(&["http://nas.lan/", "http://192.168.1.9/"]), Ok(()));
        assert_eq!(judged(&["http://127.0.0.1/a", "http://127.0.0.1/b"]), Ok(()));
        for near in [
            "http://127.0.0.1:9/",
            "http://192.168.1.5/",
            "http://[::1]/",
            "http://169.254.169.254/",
            "http://rebound.example/",
        ] {
            assert_eq!(judged(&["http://tv.example/", near]), Err(Refused::TooNear), "{near}");
            assert_eq!(judged(&["http://tv.example/", "http://cdn.example/", near]), Err(Refused::TooNear));
        }
        let many = vec!["http://tv.example/"; MOST + 2];
        assert_eq!(judged(&many), Err(Refused::TooMany { one_host: true }));
        let many: Vec<&str> =
            ["http://tv.example/", "http://cdn.example/"].into_iter().cycle().take(MOST + 2).collect();
        assert_eq!(judged(&many), Err(Refused::TooMany { one_host: false }));
        assert_eq!(
            judged(&["http://tv.example/", "rtsp://tv.example/x"]),
            Err(Refused::NoWeb("rtsp".to_owned()))
        );
    }
}
