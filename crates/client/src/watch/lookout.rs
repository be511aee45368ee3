//! Looks for the cause while a node has no stream, and says it once it lasts.

use std::{
    mem::discriminant,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use minuet_node::{
    TrackerClient,
    contact::{Teller, nameable},
    follow::Followed,
};
use minuet_proto::ChannelState;
use url::{Host, Url};

use super::{
    cause::{Cause, Facts, ended_for, tracker_fails},
    live_node::LiveNode,
    now_ms,
};

/// How often to look.
pub const LOOK: Duration = Duration::from_millis(500);
/// How long a cause lasts before it is said.
const SAY_AFTER: Duration = Duration::from_secs(3);

/// What is known, and what was said of it.
#[derive(Debug)]
pub struct Lookout {
    facts: Facts,
    cause: Cause,
    since: Instant,
    said: Option<Cause>,
}

impl Lookout {
    /// Nothing is known yet.
    pub fn new(trackers: &[TrackerClient]) -> Self {
        let facts = Facts { without_trackers: trackers.is_empty(), ..Facts::default() };
        let cause = facts.cause();
        Self { facts, cause, since: Instant::now(), said: None }
    }

    /// Takes note of what following brought; says at once what fails.
    pub fn hear(&mut self, news: &Followed) {
        match news {
            Followed::Failed(failure) => {
                let sentence = tracker_fails(&failure.0, &failure.1);
                tracing::warn!("{sentence}; trying again");
                self.facts.tracker_fails = Some(sentence);
            }
            news => {
                self.facts.found = true;
                if let Followed::State(state, Some(teller)) = news {
                    self.facts.origin_barred =
                        state.origin.as_ref().is_some_and(|url| is_barred(url, *teller));
                }
            }
        }
    }

    /// Looks again, with what the source has said last; gives the cause, and how long it has lasted.
    pub fn look(&mut self, node: &LiveNode, state: Option<&ChannelState>, slate: bool) -> (&Cause, Duration) {
        let (met, window) = (node.mesh.met(), node.mesh.window());
        (self.facts.phase, self.facts.slate) = (state.map(|state| state.phase), slate);
        self.facts.ended_for = state.map(|state| ended_for(state, now_ms())).unwrap_or_default();
        (self.facts.all_barred, self.facts.denied) = (met.all_barred(), node.mesh.denied());
        self.facts.links = node.mesh.stats().peers;
        self.facts.named = met.nodes();
        self.facts.meeting_fails = met.failure().map(|(tracker, error)| tracker_fails(tracker, error));
        // A tracker tells of pieces, too, that nobody may have any more.
        let from_nodes = self.facts.links > 0 || window.has_media();
        self.facts.pieces = from_nodes && window.newest().is_some();
        self.facts.can_begin = window.random_access_before(u64::MAX).is_some();
        self.note(self.facts.cause(), Instant::now());
        (&self.cause, self.since.elapsed())
    }

    fn note(&mut self, cause: Cause, now: Instant) {
        // Numbers in it may change; the cause is the same.
        if discriminant(&cause) != discriminant(&self.cause) {
            self.since = now;
        }
        self.cause = cause;
    }

    /// Says the cause, once each time that another one lasts.
    pub fn say(&mut self) {
        if self.is_news(Instant::now()) {
            tracing::info!("waiting: {}", self.cause);
        }
    }

    fn is_news(&mut self, now: Instant) -> bool {
        let lasts = now.saturating_duration_since(self.since) > SAY_AFTER;
        let was_said = self.said.as_ref().is_some_and(|said| discriminant(said) == discriminant(&self.cause));
        // A tracker's failure was said when it came.
        let failed =
            matches!(&self.cause, Cause::Tracker(said) if Some(said) == self.facts.tracker_fails.as_ref());
        let news = lasts && !was_said && !failed;
        if news {
            self.said = Some(self.cause.clone());
        }
        news
    }
}

/// Whether a URL leads to an address that `teller` may not name.
fn is_barred(url: &Url, teller: Teller) -> bool {
    let ip: IpAddr = match url.host() {
        Some(Host::Ipv4(ip)) => ip.into(),
        Some(Host::Ipv6(ip)) => ip.into(),
        _ => return false,
    };
    nameable([&SocketAddr::new(ip, 1)], teller).next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_said_once_and_only_when_it_lasts() {
        let mut lookout = Lookout::new(&[]);
        let began = lookout.since;
        let mut said = Vec::new();
        let mut see = |second: u64, cause: Cause| {
            let now = began + Duration::from_secs(second);
            lookout.note(cause.clone(), now);
            if lookout.is_news(now) {
                said.push(cause);
            }
        };
        see(1, Cause::Alone);
        see(2, Cause::Unreachable(1));
        for second in 3..20 {
            // Another number is no other cause.
            see(second, Cause::Unreachable(second as usize));
        }
        for second in 20..30 {
            see(second, Cause::KeyFrame);
        }
        assert_eq!(said, [Cause::Unreachable(6), Cause::KeyFrame]);
    }

    #[test]
    fn a_source_in_a_network_of_its_own_is_known_by_its_address() {
        let barred = |url: &str, teller: [u8; 4]| is_barred(&url.parse().unwrap(), Teller::At(teller.into()));
        assert!(barred("http://192.168.7.2:7080/", [203, 0, 113, 5]));
        assert!(!barred("http://192.168.7.2:7080/", [192, 168, 7, 1]));
        assert!(!barred("http://203.0.113.9:7080/", [203, 0, 113, 5]));
        assert!(!barred("http://tower.example/", [203, 0, 113, 5]));
    }

    #[test]
    fn a_trackers_failure_is_not_said_twice() {
        let mut lookout = Lookout::new(&[]);
        let late = lookout.since + Duration::from_secs(100);
        lookout.facts.tracker_fails = Some("it is broken".into());
        lookout.note(Cause::Tracker("it is broken".into()), lookout.since);
        assert!(!lookout.is_news(late));
        lookout.note(Cause::Tracker("it is broken in another way".into()), lookout.since);
        assert!(lookout.is_news(late));
    }
}
