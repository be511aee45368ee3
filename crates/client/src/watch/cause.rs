//! Why there is no stream yet, in one sentence that tells the cause that is known, not the most likely one. Pure.

use std::{fmt, time::Duration};

use minuet_node::{Error, contact::Forbidden, units};
use minuet_proto::{ChannelState, Phase, channel_api::UNKNOWN_CHANNEL, mask::mask};

/// What is known while a viewer has nothing to play.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// No tracker is asked: the channel is looked for in the DHT, or at nodes that are known from before.
    pub without_trackers: bool,
    /// A tracker has told of the channel.
    pub found: bool,
    /// Why the tracker that failed last told nothing, as a whole sentence.
    pub tracker_fails: Option<String>,
    /// Why no tracker names nodes of the mesh, as a whole sentence; only where none of them does.
    pub meeting_fails: Option<String>,
    /// How many other nodes a tracker named.
    pub named: Option<usize>,
    /// None of them has an address that its tracker may name.
    pub all_barred: bool,
    /// Neither has the source's HTTP server.
    pub origin_barred: bool,
    /// Why the node that was to be contacted last was not, where our own rule forbade it.
    pub denied: Option<Forbidden>,
    /// Nodes that this one is linked with.
    pub links: usize,
    /// What the source says that the channel is doing.
    pub phase: Option<Phase>,
    /// How long ago it said so, if the broadcast has ended.
    pub ended_for: Duration,
    /// It has media all the same, which stands in for its silent input.
    pub slate: bool,
    /// The newest pieces are known, and there is somebody to get them from.
    pub pieces: bool,
    /// A random access point is among them.
    pub can_begin: bool,
}

/// The cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// No tracker has answered, and none has failed yet.
    NoAnswer,
    /// The channel was not found without a tracker.
    NotFound,
    /// A tracker failed: a whole sentence.
    Tracker(String),
    /// The broadcast is over, for so long.
    Ended(Duration),
    /// The source is there and gets no media.
    Silent,
    /// Pieces come, and none of them holds a place where a decoder can begin.
    KeyFrame,
    /// Pieces are known, and those to begin with are on their way.
    Coming,
    /// Linked with so many nodes, none of which has media.
    NoMedia(usize),
    /// The tracker names no other node.
    Alone,
    /// The tracker names so many nodes, and none of them could be reached.
    Unreachable(usize),
    /// The tracker names so many nodes, none with an address that it may name.
    Barred(usize),
    /// The tracker names so many nodes, and this program keeps itself from contacting them, for this reason.
    Denied(usize, Forbidden),
}

impl Facts {
    /// The cause that these facts show.
    pub fn cause(&self) -> Cause {
        match (self.phase, self.pieces) {
            (Some(Phase::Ended), _) => return Cause::Ended(self.ended_for),
            (Some(Phase::Silent), _) if !self.slate => return Cause::Silent,
            (_, true) if self.can_begin => return Cause::Coming,
            (_, true) => return Cause::KeyFrame,
            _ if self.links > 0 => return Cause::NoMedia(self.links),
            _ => {}
        }
        if let Some(sentence) = self.tracker_fails.as_ref().filter(|_| !self.found) {
            return Cause::Tracker(sentence.clone());
        }
        match (self.named, &self.meeting_fails) {
            (Some(0), _) if self.origin_barred => Cause::Barred(0),
            (Some(0), _) => Cause::Alone,
            (Some(count), _) if self.all_barred => Cause::Barred(count),
            (Some(count), _) => match self.denied {
                Some(why) => Cause::Denied(count, why),
                None => Cause::Unreachable(count),
            },
            (None, Some(sentence)) => Cause::Tracker(sentence.clone()),
            (None, None) if self.without_trackers => Cause::NotFound,
            (None, None) => Cause::NoAnswer,
        }
    }
}

impl Cause {
    /// Whether it passes by itself, so that waiting is worth while.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Silent | Self::KeyFrame | Self::Coming | Self::NoMedia(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = |count: &usize| units::count(*count as u64, "node", "nodes");
        match self {
            Self::NoAnswer => f.write_str("no tracker has answered yet: check the link and the network"),
            Self::NotFound => f.write_str(
                "no node of the channel was found without a tracker: if a shell cut the link at its first &, put it in \
                 quotes; --tracker URL names one, and --dht finds sources that are on air with it, where UDP is not blocked",
            ),
            Self::Tracker(sentence) => f.write_str(sentence),
            Self::Ended(ago) => write!(
                f,
                "the broadcast ended {}, and nobody has its end live any more: --start oldest plays what is still seeded \
                 of it, if anything is",
                show_ago(*ago)
            ),
            Self::Silent => f.write_str("the source is there, but gets no media at the moment"),
            Self::KeyFrame => f.write_str(
                "the stream comes in, but a picture can begin nowhere in it yet: waiting for a key frame, which this \
                 channel's encoder sends seldom",
            ),
            Self::Coming => f.write_str("the first media is on its way"),
            Self::NoMedia(count) => {
                write!(f, "linked with {}, and no media has come yet: the source has just begun, waits for a key frame itself, or is away", nodes(count))
            }
            Self::Alone => f.write_str(
                "the tracker knows the channel, but nobody who has it live: the source has just gone, or it takes no live \
                 viewers; --mode minute plays finished segments",
            ),
            Self::Unreachable(count) => write!(
                f,
                "the tracker names {} of the channel, and none of them answers: they have just gone, or a firewall here or \
                 there blocks UDP; --mode minute does without",
                nodes(count)
            ),
            Self::Barred(count) => {
                match count {
                    0 => f.write_str("the source is in a private network, and the tracker names no other node")?,
                    count => write!(f, "the tracker names {} of the channel, but no address to contact", nodes(count))?,
                }
                f.write_str(
                    ": private addresses are neither told to a tracker outside of their network nor taken from one; if the \
                     source is in your own network, it and you must name the tracker by its address there (--tracker)",
                )
            }
            Self::Denied(count, why) => write!(
                f,
                "the tracker names {} of the channel, which this program does not contact now: {why}, without an answer; \
                 it tries again by and by, and --mode minute does without",
                nodes(count)
            ),
        }
    }
}

/// How long ago a broadcast ended, by its source's clock and ours.
pub fn ended_for(state: &ChannelState, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(state.at_ms))
}

/// A time ago, as one says it.
pub fn show_ago(ago: Duration) -> String {
    let (minutes, hours) = (ago.as_secs() / 60, ago.as_secs() / 3600);
    let so_many = match (minutes, hours) {
        (0, _) => return "less than a minute ago".to_owned(),
        (1..120, _) => units::count(minutes, "minute", "minutes"),
        (_, 2..48) => units::count(hours, "hour", "hours"),
        _ => units::count(hours / 24, "day", "days"),
    };
    format!("{so_many} ago")
}

/// What a tracker's failure means to a viewer: a whole sentence.
pub fn tracker_fails(tracker: &str, error: &Error) -> String {
    let tracker = mask(tracker);
    let advice = match error {
        Error::Refused { status: 404, said } if said.starts_with(UNKNOWN_CHANNEL) => {
            return format!(
                "{tracker} does not know the channel: check the link, or wait until it is on air"
            );
        }
        Error::Foreign { status: 500.., .. } => {
            "the tracker behind it is down, or being started again, or the address is another server's"
        }
        Error::Foreign { .. } => {
            "the address is another server's, or lacks a part of its path, or a proxy answers in the tracker's place"
        }
        Error::Refused { status: 404 | 405, .. } | Error::Garbage(_) | Error::Endless(_) => {
            "it seems to be no Minuet tracker, or a proxy stands before it: check the address"
        }
        Error::Unreachable(why) => unreachable_advice(why),
        Error::Silent(_) => "check the address and the network",
        _ => return format!("{tracker} {error}"),
    };
    format!("{tracker} {error}; {advice}")
}

/// What to do where there is no connection, by the words of the system, the resolver and the TLS library.
fn unreachable_advice(why: &str) -> &'static str {
    let why = why.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if says(&["not valid yet", "notvalidyet", "expired"]) {
        "its certificate does not hold at this machine's time: is the clock right?"
    } else if says(&["certificate", "unknownissuer"]) {
        "nobody whom this machine trusts vouches for its certificate"
    } else if says(&["lookup", "resolve", "name or service", "dns"]) {
        "its name is not known here: check the link and the network"
    } else if says(&["refused"]) {
        "nothing listens there: is it running, and is the port right?"
    } else if says(&["network is unreachable", "no route", "address family"]) {
        "this machine has no way there: is it connected, and with the address's family (IPv4, IPv6)?"
    } else {
        "check the address and the network"
    }
}

/// What is said when a viewer that has played gives up.
pub fn gave_up(after: Duration, phase: Option<Phase>, links: usize) -> String {
    let why = match (phase, links) {
        (Some(Phase::Silent), _) => "the source is there, but has got no media",
        (_, 0) => "no other node can be reached any more: the source is down, or this machine is cut off",
        (_, _) => "the nodes that can be reached have nothing new: the source is down",
    };
    let after = units::show(after);
    format!("nothing could be played for {after}: {why}; try again later, or wait longer with --give-up")
}

/// The same where finished minutes are played; `published`: the next one is known, and does not come.
pub fn gave_up_minutes(after: Duration, phase: Option<Phase>, published: bool) -> String {
    let why = match (phase, published) {
        (_, true) => "the next segment is published, but nobody who has it can be reached",
        (Some(Phase::Ended), _) => "the broadcast has ended, and its last segments are not to be had",
        (Some(Phase::Silent), _) => "the source is there, but has got no media",
        _ => {
            "no new segment was published: the source is down, or it or this machine is cut off from the tracker"
        }
    };
    let after = units::show(after);
    format!("nothing could be played for {after}: {why}; try again later, or wait longer with --give-up")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(change: impl FnOnce(&mut Facts)) -> Cause {
        let mut facts = Facts::default();
        change(&mut facts);
        facts.cause()
    }

    #[test]
    fn each_cause_is_told_from_the_others() {
        let bad = || Some("it is broken".to_owned());
        assert_eq!(cause(|_| {}), Cause::NoAnswer);
        assert_eq!(cause(|f| f.tracker_fails = bad()), Cause::Tracker("it is broken".into()));
        // A tracker that does not know the channel may still keep a mesh for it.
        assert_eq!(
            cause(|f| (f.tracker_fails, f.named) = (bad(), Some(0))),
            Cause::Tracker("it is broken".into())
        );
        // One tracker of two fails, or failed before.
        assert_eq!(cause(|f| (f.found, f.tracker_fails, f.named) = (true, bad(), Some(0))), Cause::Alone);
        // GET works and POST does not, as behind a proxy that redirects.
        assert_eq!(
            cause(|f| (f.found, f.meeting_fails) = (true, bad())),
            Cause::Tracker("it is broken".into())
        );
        assert_eq!(cause(|f| (f.found, f.named) = (true, Some(7))), Cause::Unreachable(7));
        assert_eq!(cause(|f| (f.found, f.named, f.links) = (true, Some(7), 2)), Cause::NoMedia(2));
        assert_eq!(cause(|f| (f.links, f.pieces) = (1, true)), Cause::KeyFrame);
        assert_eq!(cause(|f| (f.links, f.pieces, f.can_begin) = (1, true, true)), Cause::Coming);
        assert_eq!(cause(|f| (f.named, f.phase) = (Some(0), Some(Phase::Silent))), Cause::Silent);
        let slate = cause(|f| (f.phase, f.slate, f.pieces) = (Some(Phase::Silent), true, true));
        assert_eq!(slate, Cause::KeyFrame);
        let ended = cause(|f| (f.named, f.phase) = (Some(3), Some(Phase::Ended)));
        assert_eq!(ended, Cause::Ended(Duration::ZERO));
    }

    #[test]
    fn nodes_that_this_program_does_not_contact_are_not_called_unreachable() {
        let named = |f: &mut Facts| (f.found, f.named) = (true, Some(2));
        let barred = cause(|f| {
            named(f);
            f.all_barred = true;
        });
        assert_eq!(barred, Cause::Barred(2));
        assert!(barred.to_string().contains("--tracker") && !barred.to_string().contains("answers"));
        let origin = cause(|f| (f.found, f.named, f.origin_barred) = (true, Some(0), true));
        assert!(origin.to_string().starts_with("the source is in a private network"), "{origin}");
        let often = Forbidden::TooOften(minuet_guard::net::household([192, 0, 2, 9].into()));
        let denied = cause(|f| {
            named(f);
            f.denied = Some(often);
        });
        assert_eq!(denied, Cause::Denied(2, often));
        assert!(denied.to_string().contains("192.0.2.9/32 has been contacted too often"), "{denied}");
        assert!(!denied.is_passing());
    }

    #[test]
    fn a_time_ago_is_told_in_words() {
        let says = |seconds| show_ago(Duration::from_secs(seconds));
        assert_eq!(says(0), "less than a minute ago");
        assert_eq!(says(61), "1 minute ago");
        assert_eq!(says(119 * 60), "119 minutes ago");
        assert_eq!(says(120 * 60), "2 hours ago");
        assert_eq!(says(48 * 3600), "2 days ago");
    }

    #[test]
    fn only_who_was_not_reached_is_told_of_firewalls() {
        let causes = [
            Cause::NoAnswer,
            Cause::Tracker("x".into()),
            Cause::Ended(Duration::ZERO),
            Cause::Silent,
            Cause::KeyFrame,
            Cause::Coming,
            Cause::NoMedia(1),
            Cause::Alone,
            Cause::Unreachable(1),
            Cause::Barred(1),
            Cause::Denied(1, Forbidden::NoUnicast([0, 0, 0, 0].into())),
        ];
        for cause in causes {
            let is_unreachable = matches!(cause, Cause::Unreachable(_));
            assert_eq!(cause.to_string().contains("firewall"), is_unreachable, "{cause}");
        }
    }

    #[test]
    fn a_trackers_failure_is_explained() {
        let says = |error: Error, word: &str| {
            let said = tracker_fails("http://alice:hunter2@t.example/", &error);
            assert!(said.contains(word) && !said.contains("hunter2"), "{said}");
        };
        let refused = |status| Error::Refused { status, said: "no".into() };
        let unreachable = |why: &str| Error::Unreachable(why.into());
        let unknown = format!("{UNKNOWN_CHANNEL}; check the link");
        says(Error::Refused { status: 404, said: unknown }, "does not know the channel");
        says(refused(404), "no Minuet tracker");
        let page = |status| Error::Foreign { status, found: "a web page (\"Not Found\")".into() };
        says(page(404), "another server's");
        says(page(404), "Not Found");
        says(page(502), "being started again");
        says(refused(405), "proxy");
        says(refused(503), "503");
        says(Error::Moved { status: 301, to: "https://t.example/".into() }, "https://t.example/");
        says(unreachable("invalid peer certificate: certificate not valid yet: x"), "clock");
        says(unreachable("invalid peer certificate: Expired"), "clock");
        says(unreachable("invalid peer certificate: UnknownIssuer"), "vouches");
        says(
            unreachable("failed to lookup address information: Name or service not known"),
            "name is not known",
        );
        says(unreachable("Connection refused (os error 111)"), "nothing listens");
        says(unreachable("Network is unreachable (os error 101)"), "no way there");
    }

    #[test]
    fn who_gives_up_says_what_was_the_matter() {
        let after = Duration::from_secs(600);
        assert!(gave_up(after, Some(Phase::Silent), 3).contains("no media"));
        assert!(gave_up(after, Some(Phase::Live), 0).contains("cut off"));
        assert!(gave_up(after, None, 3).contains("source is down"));
        assert!(gave_up_minutes(after, Some(Phase::Ended), false).contains("has ended"));
        assert!(gave_up_minutes(after, Some(Phase::Live), true).contains("nobody who has it"));
        assert!(gave_up_minutes(after, None, false).contains("no new segment"));
    }
}
