//! The tracker's own base URL, as whoever asks can reach it.

use hyper::HeaderMap;
use hyper::header::HOST;
use hyper::http::uri::Authority;
use minuet_proto::link::parse_tracker;

/// The longest name that is believed, in bytes.
const MAX_HOST_LENGTH: usize = 200;

/// The URL by which a request reached the tracker: `configured`, when the operator named one, else what the `Host`
/// header says. Ends in `/`.
pub fn own_url(configured: Option<&str>, headers: &HeaderMap, secure: bool) -> Option<String> {
    if let Some(url) = configured {
        return Some(url.to_owned());
    }
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
        own_url(None, &headers, false)
    }

    #[test]
    fn the_host_header_names_the_tracker() {
        assert_eq!(of("tracker.example:7070").as_deref(), Some("http://tracker.example:7070/"));
        assert_eq!(of("TRACKER.example:80").as_deref(), Some("http://tracker.example/"));
        assert_eq!(of("[2001:db8::1]:7070").as_deref(), Some("http://[2001:db8::1]:7070/"));
        for bad in ["", "user@tracker.example", "a b", "tracker.example/path", &"x".repeat(300)] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(own_url(None, &HeaderMap::new(), false), None);
        assert_eq!(
            own_url(Some("https://t.example/"), &HeaderMap::new(), false).unwrap(),
            "https://t.example/"
        );
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
