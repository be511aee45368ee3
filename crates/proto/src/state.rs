//! The channel's state as its source states it: live, silent or ended, under which title, and where the stream is.
//!
//! The newest statement (by `at_ms`) holds; an older one is never taken in its place.

use bytes::Bytes;
use url::Url;

pub use crate::title::{MAX_TITLE_LENGTH, check_title, clean_title};
use crate::{
    ChannelId, Error, MAX_UNIX_MS, SegmentSeq,
    bencode::{Dict, DictWriter},
    record::MAX_SEGMENT_MS,
    signed::{Signed, Statement},
    title,
};

/// The longest URL of an HTTP origin, in bytes.
pub const MAX_ORIGIN_LENGTH: usize = 300;

/// What the channel is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Media is coming in.
    Live,
    /// The source is there, but gets no media.
    Silent,
    /// The broadcast is over.
    Ended,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Silent => "silent",
            Self::Ended => "ended",
        })
    }
}

/// A statement about the channel. Bencode dictionary; keys in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelState {
    /// The channel \[`channel`, 32 bytes].
    pub channel: ChannelId,
    /// When this was stated, in Unix milliseconds, at most [`MAX_UNIX_MS`] \[`at_ms`].
    pub at_ms: u64,
    /// What it is doing \[`phase`: `live`, `silent` or `ended`].
    pub phase: Phase,
    /// The segment that is open, or would come next \[`next`].
    pub next: SegmentSeq,
    /// The length aimed at for a segment, in milliseconds \[`segment_ms`].
    pub segment_ms: u64,
    /// The title, at most [`MAX_TITLE_LENGTH`] bytes without control characters \[`title`; may be empty]. A decoded state has
    /// it as [`clean_title`] leaves it.
    pub title: String,
    /// Whether trackers may list the channel in public \[`listed`, 0 or 1].
    pub listed: bool,
    /// URL below which the channel's segments lie by their file names, finished and open ones, for pieces that no peer
    /// delivers in time; ends in a slash \[`origin`; left out if there is none; at most [`MAX_ORIGIN_LENGTH`] bytes].
    pub origin: Option<Url>,
}

/// A state whose signature is good.
pub type SignedState = Signed<ChannelState>;

impl Statement for ChannelState {
    const WHAT: &'static str = "a channel state";
    const DOMAIN: &'static [u8] = b"minuet state 1\n";

    fn channel(&self) -> ChannelId {
        self.channel
    }

    fn encode(&self) -> Bytes {
        let dict = DictWriter::new()
            .number("at_ms", self.at_ms)
            .bytes("channel", self.channel.as_bytes())
            .number("listed", u8::from(self.listed))
            .number("next", self.next.0);
        let dict = match &self.origin {
            Some(origin) => dict.bytes("origin", origin.as_str()),
            None => dict,
        };
        dict.bytes("phase", self.phase.to_string())
            .number("segment_ms", self.segment_ms)
            .bytes("title", &self.title)
            .finish()
    }

    fn decode(payload: &[u8]) -> Result<Self, Error> {
        let dict = Dict::parse(Self::WHAT, payload)?;
        title::check_title(dict.text("title")?)?;
        let state = Self {
            channel: dict.bytes("channel")?.try_into()?,
            at_ms: dict.number("at_ms")?,
            phase: match dict.text("phase")? {
                "live" => Phase::Live,
                "silent" => Phase::Silent,
                "ended" => Phase::Ended,
                _ => return Err(Error::malformed(Self::WHAT, "its phase is not known")),
            },
            next: SegmentSeq(dict.number("next")?),
            segment_ms: dict.number("segment_ms")?,
            // What is signed stays as it is in the payload; what is shown has no characters that turn or hide text.
            title: title::clean_title(dict.text("title")?),
            listed: dict.flag("listed")?,
            origin: dict.get("origin").map(|_| parse_origin(dict.text("origin")?)).transpose()?,
        };
        if state.at_ms > MAX_UNIX_MS {
            return Err(Error::malformed(Self::WHAT, "its at_ms is out of bounds"));
        }
        if state.next > SegmentSeq::MAX {
            return Err(Error::malformed(Self::WHAT, "its next is out of bounds"));
        }
        if !(1..=MAX_SEGMENT_MS).contains(&state.segment_ms) {
            return Err(Error::malformed(Self::WHAT, "its segment_ms is out of bounds"));
        }
        Ok(state)
    }
}

fn parse_origin(text: &str) -> Result<Url, Error> {
    const WHAT: &str = "an origin's URL";
    Error::check_length(WHAT, text.len(), MAX_ORIGIN_LENGTH)?;
    // Parsers of URLs drop line ends and tabs; then others would read another URL than this one.
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return Err(Error::malformed(WHAT, "it holds spaces or control characters"));
    }
    let url = Url::parse(text).map_err(|error| Error::malformed(WHAT, error))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::malformed(WHAT, "it names a user or a password"));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !url.path().ends_with('/') {
        return Err(Error::malformed(WHAT, "it is no http:// or https:// URL of a folder"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChannelKey, SignedRecord};

    fn state(key: &ChannelKey) -> ChannelState {
        ChannelState {
            channel: key.channel(),
            at_ms: 1,
            phase: Phase::Ended,
            next: SegmentSeq(3),
            segment_ms: 60_000,
            title: "Radio Tower".into(),
            listed: true,
            origin: Some(Url::parse("http://tower.example:7080/segments/").unwrap()),
        }
    }

    #[test]
    fn round_trips() {
        let key = ChannelKey::from_seed(&[3; 32]);
        let signed = SignedState::sign(&key, state(&key));
        assert_eq!(SignedState::decode(&signed.encode(), key.channel()), Ok(signed));
    }

    #[test]
    fn an_origin_is_a_folder_on_the_web_or_left_out() {
        let key = ChannelKey::from_seed(&[3; 32]);
        let with = |origin: Option<&str>| ChannelState {
            origin: origin.map(|url| Url::parse(url).unwrap()),
            ..state(&key)
        };
        let read = |state| SignedState::decode(&SignedState::sign(&key, state).encode(), key.channel());
        assert_eq!(read(with(None)).unwrap().origin, None);
        for bad in [
            "file:///etc/",
            "http://x/no-folder",
            "http://user@x/",
            "http://:word@x/",
            &format!("http://x/{}/", "y".repeat(300)),
        ] {
            assert!(read(with(Some(bad))).is_err(), "{bad}");
        }
        for bad in ["http://x/\r\nHost: y/", "http://x/a b/", " http://x/", "http://x/\t/"] {
            assert!(parse_origin(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_and_numbers_that_cannot_be_are_refused() {
        let key = ChannelKey::from_seed(&[3; 32]);
        let read = |state| SignedState::decode(&SignedState::sign(&key, state).encode(), key.channel());
        assert!(read(ChannelState { at_ms: MAX_UNIX_MS, ..state(&key) }).is_ok());
        for at_ms in [MAX_UNIX_MS + 1, u64::MAX - 1, u64::MAX] {
            assert!(read(ChannelState { at_ms, ..state(&key) }).is_err(), "{at_ms}");
        }
        assert!(read(ChannelState { next: SegmentSeq(1 << 62), ..state(&key) }).is_err());
    }

    #[test]
    fn a_state_is_no_record() {
        let key = ChannelKey::from_seed(&[3; 32]);
        assert!(SignedRecord::decode(&SignedState::sign(&key, state(&key)).encode(), key.channel()).is_err());
    }

    #[test]
    fn a_title_that_would_drive_the_terminal_is_refused() {
        let key = ChannelKey::from_seed(&[3; 32]);
        let bad = ChannelState { title: "\u{1b}[2J".into(), ..state(&key) };
        assert!(SignedState::decode(&SignedState::sign(&key, bad).encode(), key.channel()).is_err());
    }

    #[test]
    fn a_title_loses_what_would_turn_or_hide_text_and_the_signature_stays_good() {
        let key = ChannelKey::from_seed(&[3; 32]);
        let tricky = ChannelState { title: "Radio\u{202e}rewoT\u{200b}".into(), ..state(&key) };
        let signed = SignedState::sign(&key, tricky);
        let read = SignedState::decode(&signed.encode(), key.channel()).unwrap();
        assert_eq!(read.title, "RadiorewoT");
        assert_eq!(read.encode(), signed.encode());
    }
}
