//! The channel link: all that a viewer is given.
//!
//! A BEP 46 magnet link, `magnet:?xs=urn:btpk:<64 hex digits>&dn=<title>&tr=<tracker URL>&tr=…`, or the short form
//! that a tracker serves, `http(s)://tracker/c/<64 hex digits>`. The title and the trackers are hints; only the key
//! is trusted.

use std::{fmt, str::FromStr};

use url::{Url, form_urlencoded};

use crate::{ChannelId, Error};

/// The longest link in bytes.
pub const MAX_LINK_LENGTH: usize = 8192;
/// How many trackers of a link are kept; further ones are passed over.
pub const MAX_TRACKERS: usize = 16;

const WHAT: &str = "a channel link";
const BTPK: &str = "urn:btpk:";

/// A channel, where to ask for it, and what it may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelLink {
    /// The channel's key.
    pub channel: ChannelId,
    /// The title that the link claims.
    pub title: Option<String>,
    /// Base URLs of trackers (`http` or `https`), without query and fragment, each ending in `/`.
    pub trackers: Vec<Url>,
}

impl FromStr for ChannelLink {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        Error::check_length(WHAT, text.len(), MAX_LINK_LENGTH)?;
        match text.get(..8) {
            Some(scheme) if scheme.eq_ignore_ascii_case("magnet:?") => parse_magnet(&text[8..]),
            Some(start) if start.to_ascii_lowercase().starts_with("http") => parse_short(text),
            _ => Err(Error::malformed(WHAT, "it starts neither with magnet:? nor with http:// or https://")),
        }
    }
}

fn parse_magnet(query: &str) -> Result<ChannelLink, Error> {
    let (mut channel, mut title, mut trackers) = (None, None, Vec::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        // BEP 9 allows numbered keys, as in tr.1.
        match key.split_once('.').map_or(&*key, |(name, _)| name) {
            "xs" => {
                if let Some(hex) = value
                    .get(..BTPK.len())
                    .filter(|p| p.eq_ignore_ascii_case(BTPK))
                    .map(|p| &value[p.len()..])
                {
                    let found: ChannelId = hex.parse()?;
                    if *channel.get_or_insert(found) != found {
                        return Err(Error::malformed(WHAT, "it names two channels"));
                    }
                }
            }
            "dn" => title = title.or_else(|| clean_title(&value)),
            "tr" if trackers.len() < MAX_TRACKERS => {
                let tracker = parse_tracker(&value)?;
                if !trackers.contains(&tracker) {
                    trackers.push(tracker);
                }
            }
            _ => {}
        }
    }
    let channel = channel
        .ok_or_else(|| Error::malformed(WHAT, "it has no xs=urn:btpk:<key>, so it names no channel"))?;
    Ok(ChannelLink { channel, title, trackers })
}

fn parse_short(text: &str) -> Result<ChannelLink, Error> {
    let mut url = parse_http(text)?;
    let (base, hex) = url
        .path()
        .trim_end_matches('/')
        .rsplit_once("/c/")
        .map(|(base, hex)| (format!("{base}/"), hex.to_owned()))
        .ok_or_else(|| Error::malformed(WHAT, "its path does not end in /c/<64 hexadecimal digits>"))?;
    let channel = hex.parse()?;
    url.set_path(&base);
    Ok(ChannelLink { channel, title: None, trackers: vec![url] })
}

/// Parses a tracker's base URL: `http` or `https`; a path ends in `/`; a final `announce` is taken off, so that an
/// announce URL may stand for its tracker.
pub fn parse_tracker(text: &str) -> Result<Url, Error> {
    let mut url = parse_http(text)?;
    let path = url.path();
    let path = path.strip_suffix("announce").filter(|p| p.ends_with('/')).unwrap_or(path);
    let path = format!("{}/", path.trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn parse_http(text: &str) -> Result<Url, Error> {
    Error::check_length("a tracker URL", text.len(), MAX_LINK_LENGTH)?;
    let mut url = Url::parse(text).map_err(|e| Error::malformed("a tracker URL", e))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Error::malformed("a tracker URL", "it is neither http:// nor https://"));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// A title from a stranger: control characters go, since it is shown on terminals; what is too long is cut.
fn clean_title(title: &str) -> Option<String> {
    let mut clean = String::new();
    for c in title.chars().filter(|c| !c.is_control()) {
        if clean.len() + c.len_utf8() > crate::state::MAX_TITLE_LENGTH {
            break;
        }
        clean.push(c);
    }
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

impl fmt::Display for ChannelLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "magnet:?xs={BTPK}{}", self.channel)?;
        let escape = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        if let Some(title) = &self.title {
            write!(f, "&dn={}", escape(title))?;
        }
        self.trackers.iter().try_for_each(|tracker| write!(f, "&tr={}", escape(tracker.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";

    #[test]
    fn reads_both_forms() {
        let magnet: ChannelLink = format!(
            "magnet:?xs=urn:btpk:{HEX}&dn=Radio+Tower&tr=http%3A%2F%2Ftracker.example%3A7070&xt=urn:btih:00"
        )
        .parse()
        .unwrap();
        assert_eq!(magnet.title.as_deref(), Some("Radio Tower"));
        assert_eq!(magnet.trackers[0].as_str(), "http://tracker.example:7070/");
        let short: ChannelLink = format!("http://tracker.example:7070/c/{HEX}").parse().unwrap();
        assert_eq!((short.channel, &short.trackers), (magnet.channel, &magnet.trackers));
    }

    #[test]
    fn an_announce_url_stands_for_its_tracker() {
        for text in ["http://t.example/announce", "http://t.example", "http://t.example/?x#y"] {
            assert_eq!(parse_tracker(text).unwrap().as_str(), "http://t.example/");
        }
        assert_eq!(parse_tracker("http://t.example/a/announce").unwrap().as_str(), "http://t.example/a/");
    }

    #[test]
    fn what_is_no_link_is_refused() {
        for text in [
            "",
            "magnet:?",
            "magnet:?xs=urn:btpk:12",
            "magnet:?xt=urn:btih:8543d3e6115f0f98c944077a4493dcd543e49c73",
            "ftp://t.example/c/00",
            "http://t.example/d/00",
            &format!("magnet:?xs=urn:btpk:{HEX}&xs=urn:btpk:{}", HEX.replace('8', "9")),
            &format!("magnet:?xs=urn:btpk:{HEX}&tr=file:///etc/passwd"),
            &format!("magnet:?xs=urn:btpk:{HEX}&dn={}", "x".repeat(MAX_LINK_LENGTH)),
        ] {
            assert!(text.parse::<ChannelLink>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn links_round_trip(key: [u8; 32], title in "[^\\pC]{1,40}", ports in prop::collection::btree_set(1u16.., 0..5)) {
            let link = ChannelLink {
                channel: ChannelId::new(key),
                title: clean_title(&title),
                trackers: ports.iter().map(|p| parse_tracker(&format!("http://t.example:{p}")).unwrap()).collect(),
            };
            prop_assert_eq!(link.to_string().parse::<ChannelLink>(), Ok(link));
        }

        #[test]
        fn garbage_never_panics(text in ".{0,200}", hex in "[0-9a-f]{64}") {
            let _ = text.parse::<ChannelLink>();
            let _ = format!("magnet:?xs=urn:btpk:{hex}&{text}").parse::<ChannelLink>();
            let _ = format!("http://{text}/c/{hex}").parse::<ChannelLink>();
        }
    }
}
