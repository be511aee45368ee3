//! The channel link: all that a viewer is given.
//!
//! A BEP 46 magnet link, `magnet:?xs=urn:btpk:<64 hex digits>&dn=<title>&tr=<tracker URL>&tr=…`, or the short form
//! that a tracker serves, `http(s)://tracker/c/<64 hex digits>`, or the 64 digits alone. `minuet:` may stand in place of `magnet:`,
//! and before the other two: a browser gives these links to no other program. Title and trackers are hints, and
//! only the key is trusted: a hint that is of no use is passed over, and [`Reading`] says which and why.
//!
//! Links are read as they come out of mails, pages and shells ([`text`]).

mod text;

use std::{fmt, str::FromStr};

use url::{Url, form_urlencoded};

use crate::{ChannelId, Error, mask::mask, title::clean_title};

/// The longest link in bytes, with the text around it.
pub const MAX_LINK_LENGTH: usize = 8192;
/// How many trackers of a link are kept; further ones are passed over.
pub const MAX_TRACKERS: usize = 16;
/// How many characters of a hint that is passed over are shown.
const MAX_SHOWN: usize = 80;
/// How many unusable hints are told of by name; all others are only counted.
const MAX_TOLD: usize = 8;
/// How often a link may have been percent-encoded as a whole.
const ENCODED_AT_MOST: usize = 2;

const WHAT: &str = "a channel link";
/// What links begin with that are for this program alone.
const SCHEME: &str = "minuet:";
const BTPK: &str = "urn:btpk:";
const HEX_LENGTH: usize = 64;

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

/// A link, and what was passed over in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The link.
    pub link: ChannelLink,
    /// Hints that are of no use, in the link's order.
    pub passed_over: Vec<PassedOver>,
    /// The link says nothing beyond its key, as one that a shell cut at its first `&`.
    pub ends_after_key: bool,
}

/// A hint that is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The hint, fit for a terminal: shortened, and without its secrets.
    pub hint: String,
    /// Half a sentence: why it is of no use.
    pub why: String,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.hint, self.why)
    }
}

impl FromStr for ChannelLink {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse().map(|reading: Reading| reading.link)
    }
}

impl FromStr for Reading {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Error::check_length(WHAT, text.len(), MAX_LINK_LENGTH)?;
        let mut tidied = text::tidy(text);
        let mut done = read(&tidied);
        for _ in 0..ENCODED_AT_MOST {
            let (Err(_), Some(decoded)) = (&done, text::percent_decoded(&tidied)) else { break };
            tidied = decoded;
            // What is wrong with the text as it was given is the news, not what is wrong with what was tried.
            done = read(&tidied).or(done);
        }
        done
    }
}

fn malformed(why: impl fmt::Display) -> Error {
    Error::malformed(WHAT, why)
}

/// Reads a tidied text, which may begin with a scheme of its own.
fn read(text: &str) -> Result<Reading, Error> {
    let text = text.trim_start();
    match text.split_at_checked(SCHEME.len()) {
        Some((scheme, link)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            let link = link.trim_start_matches('/');
            link.strip_prefix('?').map_or_else(|| read_forms(link), read_query)
        }
        _ => read_forms(text),
    }
}

/// Looks for one kind of link after the other.
fn read_forms(text: &str) -> Result<Reading, Error> {
    let lower = text.to_ascii_lowercase();
    let after = |mark: &str| lower.find(mark).map(|at| (at, at + mark.len()));
    if let Some((at, end)) = after("magnet:") {
        let link = text::link_at(text, at);
        let query = link.get(end - at..).unwrap_or_default();
        return read_query(query.trim_start_matches(['/', '?', ' ', '\n']));
    }
    if let Some(at) = lower.find("http://").or_else(|| lower.find("https://")) {
        return read_short(text::link_at(text, at));
    }
    if let Some(at) = lower.find("xs=urn:").or_else(|| lower.find("xs=urn%3a")) {
        return read_query(text::link_at(text, at));
    }
    if let Some((at, end)) = after(BTPK) {
        let key = text::link_at(text, at).get(end - at..).unwrap_or_default();
        return Ok(Reading::of(read_key(key)?));
    }
    if let Some(at) = lower.find("/c/") {
        let word = text[..at].rsplit(char::is_whitespace).next().unwrap_or_default();
        let host = word.trim_start_matches(['<', '"', '\'', '(', '[', '`']);
        if !host.is_empty() && !host.contains(':')
            || host.rsplit_once(':').is_some_and(|(_, port)| is_port(port))
        {
            return read_short(&format!("http://{}", text::link_at(text, at - host.len())));
        }
    }
    let key: String = text.chars().filter(|c| c.is_alphanumeric()).collect();
    if key.len() == HEX_LENGTH && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Reading::of(read_key(&key)?));
    }
    if !key.is_empty() && key.len() >= HEX_LENGTH / 4 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return read_key(&key).map(Reading::of);
    }
    Err(malformed("it starts neither with magnet:? nor with http:// or https://"))
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Reading {
    /// A key alone.
    fn of(channel: ChannelId) -> Self {
        let link = ChannelLink { channel, title: None, trackers: Vec::new() };
        Self { link, passed_over: Vec::new(), ends_after_key: false }
    }
}

/// The 64 digits at the beginning of `text`, which line breaks may have torn.
fn read_key(text: &str) -> Result<ChannelId, Error> {
    let text = text.trim_start();
    let mut hex = String::new();
    let mut rest = text.chars();
    for c in rest.by_ref().filter(|c| *c != '\n' && *c != ' ') {
        if !c.is_ascii_hexdigit() {
            // The key goes on behind it.
            if c.is_alphanumeric() && rest.clone().take_while(|c| c.is_alphanumeric()).count() > 1 {
                return Err(malformed(format_args!(
                    "character {} of its key is {c:?}, which is no hexadecimal digit (0 to 9, a to f): copy the link again",
                    hex.len() + 1
                )));
            }
            break;
        }
        hex.push(c.to_ascii_lowercase());
        if hex.len() == HEX_LENGTH {
            return match rest.next() {
                Some(c) if c.is_ascii_hexdigit() => {
                    Err(malformed("its key has more than 64 hexadecimal digits: copy the link again"))
                }
                _ => hex.parse(),
            };
        }
    }
    Err(malformed(format_args!(
        "its key has {} of 64 hexadecimal digits: the link was cut short, so copy the whole of it",
        hex.len()
    )))
}

/// Gathers what a link names.
#[derive(Default)]
struct Hints {
    trackers: Vec<Url>,
    passed_over: Vec<PassedOver>,
    untold: usize,
}

impl Hints {
    fn tracker(&mut self, text: &str) {
        // Neither a blank nor a line break is in a URL. A line that follows may be the reader's, not the link's.
        let word = text.split([' ', '\t']).next().unwrap_or_default();
        let joined: String = word.chars().filter(|c| *c != '\n').collect();
        let first_line = word.split('\n').next().unwrap_or_default();
        match parse_tracker(&joined).or_else(|error| parse_tracker(first_line).map_err(|_| error)) {
            Ok(tracker) if self.trackers.contains(&tracker) => {}
            Ok(_) if self.trackers.len() == MAX_TRACKERS => {
                self.pass_over(&joined, format!("there are {MAX_TRACKERS} before it"));
            }
            Ok(tracker) => self.trackers.push(tracker),
            Err(_) => self.pass_over(&joined, why_no_tracker(&joined)),
        }
    }

    fn pass_over(&mut self, hint: &str, why: impl Into<String>) {
        if self.passed_over.len() == MAX_TOLD {
            self.untold += 1;
            return;
        }
        let clean: String =
            hint.chars().filter(|c| !c.is_control() && !crate::title::is_format(*c)).collect();
        let masked = mask(&clean);
        let mut hint: String = masked.chars().take(MAX_SHOWN).collect();
        if hint.len() < masked.len() {
            hint.push('…');
        }
        if hint.is_empty() {
            hint = "a tracker".to_owned();
        }
        self.passed_over.push(PassedOver { hint, why: why.into() });
    }

    fn finish(mut self, channel: ChannelId, title: Option<String>, ends_after_key: bool) -> Reading {
        if self.untold > 0 {
            let hint = format!("{} more", self.untold);
            self.passed_over.push(PassedOver { hint, why: "for the same reasons".into() });
        }
        let link = ChannelLink { channel, title, trackers: self.trackers };
        Reading { link, passed_over: self.passed_over, ends_after_key }
    }
}

/// Why a text is no tracker, for who reads the link.
fn why_no_tracker(text: &str) -> String {
    match text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()) {
        _ if text.is_empty() => "it is empty".into(),
        Some(scheme) if matches!(&*scheme, "udp" | "ws" | "wss") => {
            format!("a tracker is asked by http:// or https://, not by {scheme}://")
        }
        Some(scheme) if matches!(&*scheme, "http" | "https") => "it is no URL".into(),
        _ => "it begins neither with http:// nor with https://".into(),
    }
}

fn read_query(query: &str) -> Result<Reading, Error> {
    let (mut channel, mut bad_key, mut title) = (None::<ChannelId>, None, None);
    let (mut hints, mut has_more, mut torrent) = (Hints::default(), false, false);
    for (key, value) in form_urlencoded::parse(text::ampersands(query).as_bytes()) {
        let key: String = key.chars().filter(|c| *c != '\n').collect::<String>().to_ascii_lowercase();
        let urn: String = value.chars().filter(|c| *c != '\n').collect::<String>().to_ascii_lowercase();
        // BEP 9 allows numbered keys, as in tr.1.
        match key.trim().split('.').next().unwrap_or_default() {
            "xs" | "xt" if urn.trim_start().starts_with(BTPK) => {
                let at = value.char_indices().filter(|(_, c)| *c == ':').nth(1).map_or(0, |(at, _)| at + 1);
                match read_key(&value[at..]) {
                    Ok(found) if *channel.get_or_insert(found) != found => {
                        return Err(malformed("it names two channels"));
                    }
                    Ok(_) => {}
                    Err(error) => bad_key = bad_key.or(Some(error)),
                }
                continue;
            }
            "xt" => torrent |= urn.starts_with("urn:btih:") || urn.starts_with("urn:btmh:"),
            "dn" => {
                let one_line: String = value.chars().filter(|c| *c != '\n').collect();
                title = title.or(Some(clean_title(&one_line)).filter(|title| !title.is_empty()));
            }
            "tr" => hints.tracker(&value),
            _ => {}
        }
        has_more = true;
    }
    match (channel, bad_key) {
        (Some(channel), None) => Ok(hints.finish(channel, title, !has_more)),
        (Some(channel), Some(error)) => {
            let why = match error {
                Error::Malformed { why, .. } => why,
                other => other.to_string(),
            };
            hints.pass_over("a second key", why);
            Ok(hints.finish(channel, title, !has_more))
        }
        (None, Some(error)) => Err(error),
        (None, None) if torrent => Err(malformed(
            "it is the link of a torrent (xt=urn:btih) and names no channel: open it with a BitTorrent client, or ask \
             the broadcaster for the channel's link",
        )),
        (None, None) => Err(malformed("it has no xs=urn:btpk:<key>, so it names no channel")),
    }
}

fn read_short(text: &str) -> Result<Reading, Error> {
    let word = text.split([' ', '\t']).next().unwrap_or_default();
    let key_at = |at: usize| match text::percent_decoded(&word[at..]) {
        Some(decoded) => read_key(&decoded),
        None => read_key(&word[at..]),
    };
    // A tracker may lie below a path that has the mark in it, too.
    const MARK: &str = "/c/";
    let begins = |text: &str| text.get(..MARK.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(MARK));
    let marks = word.match_indices('/').map(|(at, _)| at).filter(|at| begins(&word[*at..]));
    let mut places = marks.map(|at| (at, key_at(at + MARK.len())));
    let Some(first) = places.next() else {
        return Err(malformed("its path does not end in /c/<64 hexadecimal digits>, so it names no channel"));
    };
    let (at, channel) = match first.1 {
        Ok(_) => first,
        Err(_) => places.find(|(_, key)| key.is_ok()).unwrap_or(first),
    };
    let (before, channel) = (&word[..at], channel?);
    // What stands before /c/ is the tracker's; of a page that leads to the link, it would be a query.
    let base: String = before.chars().filter(|c| *c != '\n').collect();
    if base.contains(['?', '#']) {
        return Err(malformed("it names no tracker before /c/<64 hexadecimal digits>"));
    }
    let tracker = parse_tracker(&format!("{base}/"))?;
    let link = ChannelLink { channel, title: None, trackers: vec![tracker] };
    Ok(Reading { link, passed_over: Vec::new(), ends_after_key: false })
}

/// Parses a tracker's base URL: `http` or `https`; a path ends in `/`; a final `announce` or `c/KEY` is taken off, so that
/// the address of an announce or a channel may stand for its tracker.
///
/// # Errors
/// When it is no such URL.
pub fn parse_tracker(text: &str) -> Result<Url, Error> {
    // As it was copied, with the quotes or brackets around it.
    let bare = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '<' | '>'));
    let mut url = parse_http(bare)?;
    let path = url.path();
    let mut path = path.strip_suffix("announce").filter(|p| p.ends_with('/')).unwrap_or(path);
    while let Some((base, _)) = path.rsplit_once("/c/").filter(|(_, key)| is_key(key)) {
        path = base;
    }
    let path = format!("{}/", path.trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn is_key(text: &str) -> bool {
    text.trim_end_matches('/').parse::<ChannelId>().is_ok()
}

fn parse_http(text: &str) -> Result<Url, Error> {
    const WHAT: &str = "a tracker URL";
    Error::check_length(WHAT, text.len(), MAX_LINK_LENGTH)?;
    let is_http = text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"));
    if !is_http && !text.contains("://") {
        return Err(Error::malformed(WHAT, format_args!("it lacks its scheme: write http://{text}")));
    }
    let mut url = Url::parse(text).map_err(|e| Error::malformed(WHAT, e))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Error::malformed(WHAT, "it is neither http:// nor https://"));
    }
    if url.port() == Some(0) {
        return Err(Error::malformed(WHAT, "nothing listens on port 0"));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

impl fmt::Display for ChannelLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "magnet:?xs={BTPK}{}", self.channel)?;
        let escape = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        if let Some(title) = &self.title {
            let mut title = escape(title);
            // At the end of a link these would be taken for the end of a sentence.
            if let Some(last @ ('.' | '*' | '_')) = title.chars().next_back() {
                title.truncate(title.len() - 1);
                title += &format!("%{:02X}", u32::from(last));
            }
            write!(f, "&dn={title}")?;
        }
        self.trackers.iter().try_for_each(|tracker| write!(f, "&tr={}", escape(tracker.as_str())))
    }
}

#[cfg(test)]
mod tests;
