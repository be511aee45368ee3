//! The channels that want to be seen, as a tracker lists them. Each is a signed state, so a tracker can leave channels out and make
//! none up.

use serde::{Deserialize, Serialize};

use crate::{ChannelId, Error, SignedState};

/// The most channels in one [`Directory`].
pub const MAX_DIRECTORY_CHANNELS: usize = 500;
/// The longest [`Directory`] as JSON, in bytes, that a reader accepts.
pub const MAX_DIRECTORY_LENGTH: usize = 4 << 20;

/// `GET`: a [`Directory`] as JSON. Query: `after=<channel>` for the channels after that one.
pub fn directory_path() -> &'static str {
    "channels"
}

/// Channels whose state says that trackers may list them, ascending by key. Unknown keys are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// At most [`MAX_DIRECTORY_CHANNELS`].
    pub channels: Vec<Listing>,
    /// What to ask `after` for the next ones; none if these are the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The newest statement about the channel, base64 of [`SignedState`].
    pub state: String,
    /// Mean rate of the newest segment, in bits a second: the tracker's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate_bps: Option<u64>,
    /// How many follow it at this tracker: the tracker's word.
    #[serde(default)]
    pub viewers: u64,
}

impl Listing {
    /// The state, if its signature is good and it may be listed.
    ///
    /// # Errors
    /// It is forged, malformed, or its source does not want it to be seen.
    pub fn check(&self) -> Result<SignedState, Error> {
        let state = SignedState::from_base64_any(&self.state)?;
        if state.listed {
            Ok(state)
        } else {
            Err(Error::malformed("a listed channel", "it is not to be listed"))
        }
    }
}

/// Reads the query's `after=`.
///
/// # Errors
/// It is no channel.
pub fn parse_after(query: &str) -> Result<Option<ChannelId>, Error> {
    query.split('&').find_map(|pair| pair.strip_prefix("after=")).map(str::parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChannelKey, ChannelState, Phase, SegmentSeq};

    fn listing(listed: bool) -> Listing {
        let key = ChannelKey::from_seed(&[1; 32]);
        let state = ChannelState {
            channel: key.channel(),
            at_ms: 5,
            phase: Phase::Live,
            next: SegmentSeq(9),
            segment_ms: 60_000,
            title: "Radio Tower".into(),
            listed,
            origin: None,
        };
        Listing { state: SignedState::sign(&key, state).to_base64(), bitrate_bps: None, viewers: 3 }
    }

    #[test]
    fn only_what_its_source_has_signed_and_wants_to_be_seen_passes() {
        assert_eq!(listing(true).check().unwrap().title, "Radio Tower");
        assert!(listing(false).check().is_err());
        let mut forged = listing(true);
        let last = forged.state.len() / 2;
        forged
            .state
            .replace_range(last..=last, if forged.state.as_bytes()[last] == b'A' { "B" } else { "A" });
        assert!(forged.check().is_err());
    }

    #[test]
    fn a_place_to_go_on_is_a_channel() {
        assert_eq!(parse_after("").unwrap(), None);
        assert!(parse_after(&format!("x=1&after={}", "0a".repeat(32))).unwrap().is_some());
        assert!(parse_after("after=x").is_err());
    }
}
