//! The URL of the tracker's own relay server, as whoever asks can reach it.
//!
//! The relay server is at the root of its host: iroh's clients know no path. So where the tracker is below a path of a
//! reverse proxy, nodes are told of the relay server only if the operator has named another URL for it.

use hyper::HeaderMap;
use hyper::header::HOST;
use hyper::http::uri::Authority;
use minuet_proto::link::parse_tracker;

use crate::config::{Config, has_path};

/// The longest name that is believed, in bytes.
const MAX_HOST_LENGTH: usize = 200;
/// In which proxies say below which path they serve the tracker.
const PREFIX: &str = "x-forwarded-prefix";

/// The relay server's URL: the one that the operator named, else the one by which the request reached the tracker, as the
/// `Host` header says; `None` below a path. `by_proxy` says that the request came from a proxy that is trusted. Ends in
/// `/`.
pub fn own_url(config: &Config, headers: &HeaderMap, secure: bool, by_proxy: bool) -> Option<String> {
    if let Some(url) = config.relay_url.as_ref().or(config.public_url.as_ref()) {
        return (!has_path(url)).then(|| url.clone());
    }
    let below_path = headers.get(PREFIX).is_some_and(|prefix| !matches!(prefix.as_bytes(), b"" | b"/"));
    if by_proxy && below_path {
        return None;
    }
    by_host(headers, secure)
}

/// The tracker's URL as others reach it: the one that the operator named, else the one by which the request came. Ends in `/`.
pub fn public_url(config: &Config, headers: &HeaderMap, secure: bool) -> Option<String> {
    config.public_url.clone().or_else(|| by_host(headers, secure))
}

fn by_host(headers: &HeaderMap, secure: bool) -> Option<String> {
    let host = headers.get(HOST)?.to_str().ok().filter(|host| host.len() <= MAX_HOST_LENGTH)?;
    let authority: Authority =
        host.parse().ok().filter(|authority: &Authority| !authority.as_str().contains('@'))?;
    let scheme = if secure { "https" } else { "http" };
    // Parsed once more, so that one place has one form (`http://tracker.example:80/` is `http://tracker.example/`).
    parse_tracker(&format!("{scheme}://{authority}/")).ok().map(String::from)
}

/// Whether `url` is `own`, in whichever form.
pub fn is_own(url: &str, own: Option<&str>) -> bool {
    own.is_some_and(|own| parse_tracker(url).is_ok_and(|url| url.as_str() == own))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn of(host: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        own_url(&Config::default(), &headers, false, false)
    }

    #[test]
    fn the_host_header_names_the_tracker() {
        assert_eq!(of("tracker.example:7070").as_deref(), Some("http://tracker.example:7070/"));
        assert_eq!(of("TRACKER.example:80").as_deref(), Some("http://tracker.example/"));
        assert_eq!(of("[2001:db8::1]:7070").as_deref(), Some("http://[2001:db8::1]:7070/"));
        for bad in ["", "user@tracker.example", "a b", "tracker.example/path", &"x".repeat(300)] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(own_url(&Config::default(), &HeaderMap::new(), false, false), None);
        let named = Config { public_url: Some("https://t.example/".into()), ..Config::default() };
        assert_eq!(own_url(&named, &HeaderMap::new(), false, false).as_deref(), Some("https://t.example/"));
    }

    #[test]
    fn below_a_path_there_is_no_relay_server_unless_it_has_a_url_of_its_own() {
        let mut config = Config { public_url: Some("https://t.example/minuet/".into()), ..Config::default() };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("t.example"));
        assert_eq!(own_url(&config, &headers, true, true), None);
        config.relay_url = Some("https://relay.t.example/".into());
        assert_eq!(own_url(&config, &headers, true, true).as_deref(), Some("https://relay.t.example/"));
        let config = Config::default();
        headers.insert(PREFIX, HeaderValue::from_static("/minuet"));
        assert_eq!(own_url(&config, &headers, true, true), None);
        // A stranger's word for it counts for nothing.
        assert_eq!(own_url(&config, &headers, true, false).as_deref(), Some("https://t.example/"));
    }

    #[test]
    fn one_relay_server_has_many_spellings() {
        let own = of("tracker.example:80");
        for url in ["http://tracker.example", "http://Tracker.Example:80/"] {
            assert!(is_own(url, own.as_deref()), "{url}");
        }
        for url in ["https://tracker.example/", "http://other.example/", "no url"] {
            assert!(!is_own(url, own.as_deref()), "{url}");
        }
        assert!(!is_own("http://tracker.example/", None));
    }
}
