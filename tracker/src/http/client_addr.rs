//! Whose request it is, behind proxies.
//!
//! `Forwarded` (RFC 7239) and `X-Forwarded-For` can be written by anybody, so they count only when the
//! connection comes from a proxy that the operator has named. Each proxy appends who spoke to it, so the list
//! is read from its end: the client is the last address that is not a trusted proxy itself.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;

/// The most entries that are read.
const MAX_HOPS: usize = 16;

/// The address to take a request as coming from. An IPv4 address mapped into IPv6 becomes IPv4.
pub fn client_ip(connection: IpAddr, headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let connection = connection.to_canonical();
    if !trusts(connection) {
        return connection;
    }
    let forwarded = entries(headers, "forwarded").map(|entry| {
        entry.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case("for").then(|| parse(value))?
        })
    });
    let x_forwarded_for = entries(headers, "x-forwarded-for").map(parse);
    let mut hops: Vec<Option<IpAddr>> = forwarded.take(MAX_HOPS).collect();
    if hops.is_empty() {
        hops = x_forwarded_for.take(MAX_HOPS).collect();
    }
    let mut client = connection;
    for hop in hops {
        // An entry that is no address (`unknown`, `_hidden`) hides everybody behind it.
        let Some(ip) = hop else { break };
        client = ip;
        if !trusts(ip) {
            break;
        }
    }
    client
}

/// The comma-separated entries of all headers of a name, last first.
fn entries<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    values.into_iter().rev().flat_map(|value| value.rsplit(',')).map(str::trim)
}

/// An address as both headers write it: bare, quoted, with a port, IPv6 in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip()))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn client(connection: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let trusts = |ip: IpAddr| ip.to_string().starts_with("10.");
        client_ip(connection.parse().unwrap(), &map, trusts).to_string()
    }

    #[test]
    fn headers_of_strangers_are_passed_over() {
        assert_eq!(client("192.0.2.1", &[("x-forwarded-for", "198.51.100.7")]), "192.0.2.1");
        assert_eq!(client("192.0.2.1", &[("forwarded", "for=198.51.100.7")]), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_counts() {
        for (name, value) in [
            ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
            ("x-forwarded-for", "203.0.113.9, 198.51.100.7, 10.0.0.2"),
            ("x-forwarded-for", "198.51.100.7:4711"),
            ("forwarded", "for=203.0.113.9, for=\"198.51.100.7:80\";proto=http, For=10.0.0.2;by=10.0.0.3"),
        ] {
            assert_eq!(client("10.0.0.1", &[(name, value)]), "198.51.100.7", "{name}: {value}");
        }
        assert_eq!(client("10.0.0.1", &[("forwarded", "for=\"[2001:db8::1]:80\"")]), "2001:db8::1");
        assert_eq!(
            client("10.0.0.1", &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]),
            "2.2.2.2"
        );
    }

    #[test]
    fn what_is_no_address_leaves_the_proxy() {
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, unknown")]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[("forwarded", "for=_hidden")]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn nothing_panics(value in "[ -~]{0,100}") {
            client("10.0.0.1", &[("x-forwarded-for", &value), ("forwarded", &value)]);
        }
    }
}
