//! The channel's state as the segmenter states it: signed anew whenever it changes.

use std::time::Duration;

use minuet_proto::{ChannelKey, ChannelState, Phase, SegmentSeq, SignedState};
use tokio::sync::watch;
use url::Url;

use crate::clock::now_ms;

/// No clock is set beyond this, the end of the year 9999, in Unix milliseconds: a state from later is a mistake or a
/// mischief, and nothing could ever be stated after it.
pub const LATEST_MS: u64 = 253_402_300_799_999;

/// What the channel's state says at the start.
#[derive(Debug)]
pub struct About {
    /// The channel's title.
    pub title: String,
    /// Whether trackers may list it.
    pub listed: bool,
    /// The length aimed at for a segment.
    pub segment: Duration,
    /// The segment that comes next.
    pub next: SegmentSeq,
    /// Where late pieces may be had by HTTP.
    pub origin: Option<Url>,
}

/// States what the channel is doing.
#[derive(Debug)]
pub struct Announcer {
    key: ChannelKey,
    current: watch::Sender<SignedState>,
}

impl Announcer {
    /// States that the channel is live.
    pub fn new(key: ChannelKey, about: About) -> Self {
        let state = ChannelState {
            channel: key.channel(),
            at_ms: now_ms(),
            phase: Phase::Live,
            next: about.next,
            segment_ms: u64::try_from(about.segment.as_millis()).unwrap_or(u64::MAX),
            title: about.title,
            listed: about.listed,
            origin: about.origin,
        };
        let current = watch::Sender::new(SignedState::sign(&key, state));
        Self { key, current }
    }

    /// Where the newest statement is heard.
    pub fn subscribe(&self) -> watch::Receiver<SignedState> {
        self.current.subscribe()
    }

    /// States what the channel does now, if that is news.
    pub fn set_phase(&self, phase: Phase) {
        self.change(|state| state.phase = phase);
    }

    /// States which segment comes next, if that is news.
    pub fn set_next(&self, next: SegmentSeq) {
        self.change(|state| state.next = next);
    }

    /// States everything anew, later than at `at_ms`: what an earlier run stated by a clock that was set back since must
    /// not stand. False, and nothing is stated, if that is beyond [`LATEST_MS`].
    pub fn go_on_after(&self, at_ms: u64) -> bool {
        if at_ms >= LATEST_MS {
            return false;
        }
        self.current.send_modify(|signed| {
            let mut state = signed.get().clone();
            state.at_ms = later(at_ms.max(state.at_ms));
            *signed = SignedState::sign(&self.key, state);
        });
        true
    }

    fn change(&self, change: impl FnOnce(&mut ChannelState)) {
        self.current.send_if_modified(|signed| {
            let mut state = signed.get().clone();
            change(&mut state);
            if state == *signed.get() {
                return false;
            }
            // Later than the one before, also when the clock was set back.
            state.at_ms = later(state.at_ms);
            *signed = SignedState::sign(&self.key, state);
            true
        });
    }
}

/// Now, or right after `at_ms` if that is later.
fn later(at_ms: u64) -> u64 {
    now_ms().max(at_ms.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_stated_once_and_always_later() {
        let key = ChannelKey::from_seed(&[1; 32]);
        let about = About {
            title: String::new(),
            listed: true,
            segment: Duration::from_secs(60),
            next: SegmentSeq(4),
            origin: None,
        };
        let announcer = Announcer::new(key, about);
        let mut heard = announcer.subscribe();
        let first = heard.borrow_and_update().at_ms;
        announcer.set_phase(Phase::Live);
        assert!(!heard.has_changed().unwrap(), "no news");
        announcer.set_phase(Phase::Silent);
        announcer.set_phase(Phase::Ended);
        assert!(heard.has_changed().unwrap());
        let last = heard.borrow_and_update();
        assert_eq!((last.phase, last.next), (Phase::Ended, SegmentSeq(4)));
        assert!(last.at_ms >= first + 2);
        let ahead = last.at_ms + 3_600_000;
        drop(last);
        assert!(announcer.go_on_after(ahead));
        announcer.set_next(SegmentSeq(5));
        assert_eq!((heard.borrow().at_ms, heard.borrow().next), (ahead + 2, SegmentSeq(5)));
        for never in [LATEST_MS, u64::MAX - 1, u64::MAX] {
            assert!(!announcer.go_on_after(never));
        }
        announcer.set_next(SegmentSeq(6));
        assert_eq!(heard.borrow().at_ms, ahead + 3, "a time that cannot be leaves no trace");
    }
}
