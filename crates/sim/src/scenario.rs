//! The scenarios, as data: who takes part, what the network is like, what happens, and what must hold.

use crate::{
    engine::{
        MILLISECOND, Micros, SECOND,
        line::{Cross, Line, Spells},
        path::{Conditions, JITTER, LossModel},
        topology::{Geography, Reach},
    },
    figures::{Bound, Figure::*},
    plan::{Churn, VICES, Vice},
    stream::StreamSpec,
};

/// A kind of viewer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Its uplink, as a multiple of the stream's rate.
    pub up: f64,
    /// Its downlink, likewise; if nothing is said, wide enough for what comes and narrow enough to queue.
    pub down: Option<f64>,
    /// Whether it passes pieces on.
    pub upload: bool,
    /// What it knows of its uplink.
    pub knows: Knows,
    /// The router and whatever else is before its uplink. If nothing is said there is none where the uplink is known to
    /// the byte, and a quiet one with [`QUEUE`] elsewhere.
    pub line: Option<Line>,
}

/// What a node knows of its uplink.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Knows {
    /// All: it paces itself exactly.
    Exactly,
    /// It is told to take this part of it (`--upload-limit`).
    Limit(f64),
    /// Nothing: it finds out.
    Nothing,
}

/// A router's queue, unless a scenario says otherwise.
pub const QUEUE: Micros = 200 * MILLISECOND;

impl Profile {
    /// A node that passes pieces on over an uplink that it knows.
    pub const fn with(up: f64) -> Self {
        Self { up, down: None, upload: true, knows: Knows::Exactly, line: None }
    }
}

/// Viewers who come together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crowd {
    /// How many.
    pub viewers: usize,
    /// When the first comes.
    pub at: Micros,
    /// How long until all have come.
    pub within: Micros,
}

/// Viewers of what was on air before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Past {
    /// How much had been on air when the run begins.
    pub history: Micros,
    /// How many come for it.
    pub viewers: usize,
    /// How far back they begin: from this to that, spread evenly.
    pub behind: (Micros, Micros),
    /// When the first of them comes, and how long until all have come.
    pub at: Micros,
    #[allow(missing_docs)]
    pub within: Micros,
    /// How many of the first viewers keep all that was on air before them, as the source does; if nothing is said, all. The
    /// others keep the newer half of it.
    pub keepers: Option<usize>,
    /// When half of these leave.
    pub gone: Option<Micros>,
    /// Whether those who come have watched all along, and keep what they have seen: as if the run had begun long ago.
    pub veterans: bool,
    /// Each of the first viewers pauses once, for so long: from this to that.
    pub pauses: Option<(Micros, Micros)>,
}

/// A relay that comes late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relief {
    /// When.
    pub at: Micros,
    /// Its uplink, as a multiple of the stream's rate.
    pub up: f64,
}

/// A run's description.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, in one line.
    pub about: &'static str,
    /// What is broadcast.
    pub stream: StreamSpec,
    /// The first viewers.
    pub viewers: usize,
    /// When the first of them comes: until then the stream runs without anybody.
    pub opens: Micros,
    /// How long until all of them have come.
    pub arrival: Micros,
    /// Their kinds, in equal parts.
    pub profiles: Vec<Profile>,
    /// The source's uplink, as a multiple of the stream's rate.
    pub source_up: f64,
    /// What the source knows of it.
    pub source_knows: Knows,
    /// The part of all viewers that can only dial.
    pub hidden: f64,
    /// What they are behind, in turn.
    pub nats: &'static [Reach],
    /// The part of the first viewers that harms, and how, in turn.
    pub hostile: f64,
    #[allow(missing_docs)]
    pub vices: &'static [Vice],
    /// Hostile nodes that come besides, all in one network: what they do and how many.
    pub intruders: Option<(Vice, usize)>,
    /// Loss on every path.
    pub loss: LossModel,
    /// Largest deviation of a packet's delay.
    pub jitter: Micros,
    /// How far nodes are from each other.
    pub geography: Geography,
    /// Viewers who come later, together.
    pub crowd: Option<Crowd>,
    /// Viewers who come and go.
    pub churn: Option<Churn>,
    /// This part of the first viewers' places is taken by people who stay for 5 to 60 s and make room for others.
    pub zapping: Option<f64>,
    /// Somebody with much uplink who comes to the help of those who are there.
    pub relief: Option<Relief>,
    /// From when until when there is no source.
    pub source_cut: Option<(Micros, Micros)>,
    /// Viewers of what was on air before.
    pub past: Option<Past>,
    /// What must hold.
    pub bounds: Vec<Bound>,
}

impl Scenario {
    /// The same scenario with a stream of `rate` bytes a second. Lines are multiples of the stream.
    pub fn at_rate(mut self, rate: u64) -> Self {
        self.stream = self.stream.at_rate(rate);
        self
    }

    /// What all paths are like.
    pub fn conditions(&self) -> Conditions {
        Conditions { loss: self.loss, jitter: self.jitter, geography: self.geography }
    }
}

const EVEN: Profile = Profile::with(1.5);

fn steady() -> Scenario {
    Scenario {
        name: "steady",
        about: "50 viewers, every uplink 1.5 times the stream",
        stream: StreamSpec::standard(),
        viewers: 50,
        opens: 0,
        arrival: SECOND,
        profiles: vec![EVEN],
        source_up: 1.5,
        source_knows: Knows::Exactly,
        hidden: 0.0,
        nats: &[Reach::DialOnly],
        hostile: 0.0,
        vices: &VICES,
        intruders: None,
        loss: LossModel::default(),
        jitter: JITTER,
        geography: Geography::default(),
        crowd: None,
        zapping: None,
        relief: None,
        churn: None,
        source_cut: None,
        past: None,
        bounds: vec![
            Bound::at_most(SourceCopies, 1.02),
            Bound::at_most(SpreadP50, 0.6),
            Bound::at_most(SpreadP99, 1.0),
            Bound::at_most(Stalls, 0.0),
            Bound::at_most(ControlShare, 0.02),
        ],
    }
}

const MINUTE: Micros = 60 * SECOND;

/// Viewers spread over the last ten minutes, who come while the live edge stands.
const SHIFTED: Past = Past {
    history: 10 * MINUTE,
    viewers: 25,
    behind: (MINUTE + 10 * SECOND, 10 * MINUTE),
    at: 15 * SECOND,
    within: 60 * SECOND,
    keepers: None,
    gone: None,
    veterans: true,
    pauses: None,
};

fn past(copies: f64) -> Scenario {
    Scenario {
        stream: StreamSpec { duration: 130 * SECOND, ..StreamSpec::standard() },
        bounds: vec![
            Bound::at_most(PastStalls, 0.0),
            Bound::at_most(PastFirstP95, 1.5),
            Bound::at_most(SourceCopies, copies),
            Bound::at_most(SpreadP99, 1.1),
            Bound::at_most(Stalls, 0.0),
            Bound::at_most(ControlShare, 0.02),
        ],
        ..steady()
    }
}

/// Uplinks and downlinks that people have, as multiples of a stream of 4 Mbit/s: 1, 3, 10 and 40 Mbit/s up.
const HOME_LINES: [(f64, f64); 4] = [(0.25, 3.75), (0.75, 8.0), (2.5, 25.0), (10.0, 50.0)];
/// What their routers hold.
const HOME_QUEUE: Micros = 300 * MILLISECOND;

fn home_line(up: f64, down: f64, line: Line) -> Profile {
    Profile { down: Some(down), knows: Knows::Nothing, line: Some(line), ..Profile::with(up) }
}

fn home() -> Scenario {
    Scenario {
        name: "home",
        about: "16 viewers of 4 Mbit/s with 1, 3, 10 and 40 Mbit/s up, which they must find out; half a per cent is lost",
        stream: StreamSpec { duration: 150 * SECOND, ..StreamSpec::standard().at_rate(500_000) },
        viewers: 16,
        arrival: 2 * SECOND,
        profiles: HOME_LINES.map(|(up, down)| home_line(up, down, Line::quiet(HOME_QUEUE))).to_vec(),
        source_up: 2.5,
        source_knows: Knows::Nothing,
        hidden: 0.75,
        nats: &[Reach::Cone, Reach::Cone, Reach::Symmetric],
        loss: LossModel { good: 0.005, ..LossModel::default() },
        jitter: 8 * MILLISECOND,
        geography: Geography { rtt_max: 120 * MILLISECOND, ..Geography::default() },
        bounds: vec![Bound::at_most(StallsSettled, 0.0), Bound::at_most(SourceCopies, 1.1)],
        ..steady()
    }
}

fn scale(name: &'static str, about: &'static str, viewers: usize, seconds: u64, p99: f64) -> Scenario {
    Scenario {
        name,
        about,
        viewers,
        stream: StreamSpec { duration: seconds * SECOND, ..StreamSpec::standard() },
        bounds: vec![
            Bound::at_most(SourceCopies, 1.05),
            Bound::at_most(SpreadP99, p99),
            Bound::at_most(ControlShare, 0.02),
        ],
        ..steady()
    }
}

/// All scenarios, in the order in which they are shown.
pub fn all() -> Vec<Scenario> {
    let stream = StreamSpec::standard();
    vec![
        steady(),
        Scenario {
            name: "scarce",
            about: "50 viewers, the source's uplink 1.2 times the stream, the viewers' 1.15",
            profiles: vec![Profile::with(1.15)],
            source_up: 1.2,
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(SpreadP99, 1.6),
                Bound::at_most(SourceCopies, 1.05),
            ],
            ..steady()
        },
        Scenario {
            name: "mixed",
            about: "50 viewers, uplinks 0.2, 0.8, 1.5 and 4 times the stream in equal parts, the source's 3",
            profiles: [0.2, 0.8, 1.5, 4.0].map(Profile::with).to_vec(),
            source_up: 3.0,
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(SpreadP99, 1.0),
                Bound::at_most(SourceCopies, 1.05),
            ],
            ..steady()
        },
        Scenario {
            name: "minute",
            about: "as steady, but the whole minute is there at once",
            stream: StreamSpec { duration: 60 * SECOND, at_once: true, ..stream },
            bounds: vec![Bound::at_most(FluidRatio, 1.15)],
            ..steady()
        },
        Scenario {
            name: "boundary",
            about: "as steady, with segments of 10 s",
            stream: StreamSpec { segment: 10 * SECOND, ..stream },
            bounds: vec![
                Bound::at_most(HandoverExcess, crate::figures::MEDIAN_RTT_MS),
                Bound::at_most(SpreadP50, 0.6),
                Bound::at_most(SpreadP99, 1.0),
                Bound::at_most(BoundarySpreadP99, 1.0),
                Bound::at_most(Stalls, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "opening",
            about: "20 viewers come within 6 s to a stream that ran for 10 s without anybody",
            stream: StreamSpec { duration: 90 * SECOND, ..stream },
            viewers: 20,
            opens: 10 * SECOND,
            arrival: 6 * SECOND,
            bounds: vec![
                Bound::at_most(JoinP50, 0.8),
                Bound::at_most(JoinP95, 2.0),
                Bound::at_most(SpreadP50, 0.6),
                Bound::at_most(SpreadP99, 1.3),
                Bound::at_most(Stalls, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "crowd",
            about: "500 viewers join 20 within 5 s",
            stream: StreamSpec { duration: 120 * SECOND, ..stream },
            viewers: 20,
            crowd: Some(Crowd { viewers: 500, at: 60 * SECOND, within: 5 * SECOND }),
            bounds: vec![
                Bound::at_most(JoinP50, 0.7),
                Bound::at_most(JoinP95, 1.2),
                Bound::at_most(Stalls, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "churn",
            about: "200 viewers, a quarter vanishes at once, then 10 % a minute come and go",
            viewers: 200,
            churn: Some(Churn { exodus_at: 60 * SECOND, exodus: 0.25, per_minute: 0.1 }),
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(SpreadP99, 1.3),
                Bound::at_most(SourceCopies, 1.05),
            ],
            ..steady()
        },
        Scenario {
            name: "riders",
            about: "half of 100 viewers upload nothing, the rest have 3 times the stream",
            viewers: 100,
            profiles: vec![Profile { upload: false, ..Profile::with(3.0) }, Profile::with(3.0)],
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_least(Continuity, 0.999),
                Bound::at_most(SpreadP99, 1.0),
                Bound::at_most(SourceCopies, 1.02),
            ],
            ..steady()
        },
        Scenario {
            name: "hostile",
            about: "a tenth of 100 viewers corrupts, forges, lies, stalls or floods",
            viewers: 100,
            hostile: 0.1,
            bounds: vec![
                Bound::at_most(CorruptDelivered, 0.0),
                Bound::at_most(Stalls, 0.0),
                Bound::at_least(HostileBanned, 1.0),
                Bound::at_most(FalseBans, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "drip",
            about: "a tenth of 100 viewers begins every piece and sends 1 KiB of it now and then",
            viewers: 100,
            hostile: 0.1,
            vices: &[Vice::Drips],
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(HostileLinks, 0.1),
                Bound::at_most(FalseBans, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "silent",
            about: "200 nodes of one network link with all of 100 viewers and the source, and do nothing",
            viewers: 100,
            intruders: Some((Vice::Idles, 200)),
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(JoinP95, 2.0),
                Bound::at_most(SpreadP99, 1.6),
                Bound::at_most(FalseBans, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "poisoned",
            about: "a tenth of 100 viewers names made-up nodes, and others, at a victim's address",
            viewers: 100,
            hostile: 0.1,
            vices: &[Vice::Poisons],
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(VictimDials, 3.0),
                Bound::at_most(SpreadP99, 1.3),
                Bound::at_most(FalseBans, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "sybils",
            about: "300 nodes of one network stand at the tracker beside 100 viewers, and do nothing",
            viewers: 100,
            intruders: Some((Vice::Crowds, 300)),
            bounds: vec![
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(JoinP95, 2.0),
                Bound::at_most(SpreadP99, 1.6),
                Bound::at_most(FalseBans, 0.0),
            ],
            ..steady()
        },
        Scenario {
            name: "lossy",
            about: "as steady, with 2 % loss, half of it in bursts",
            loss: LossModel::BURSTY_2_PERCENT,
            bounds: vec![Bound::at_most(Stalls, 0.0)],
            ..steady()
        },
        Scenario {
            name: "nat",
            about: "60 % of 100 viewers are behind NATs, a third of these symmetric; holes are punched",
            viewers: 100,
            hidden: 0.6,
            nats: &[Reach::Cone, Reach::Symmetric, Reach::Cone],
            bounds: vec![
                Bound::at_most(SourceCopies, 1.02),
                Bound::at_most(SpreadP50, 0.75),
                Bound::at_most(SpreadP99, 1.2),
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(FalseBans, 0.0),
                Bound::at_most(ControlShare, 0.02),
            ],
            ..steady()
        },
        // Beyond the fluid limit: two who can only dial cannot link, so the other 40, with the source, must serve
        // these 60: 60 streams, with packet headers and acknowledgements 63.4, of 40 × 1.5 + 1.5.
        Scenario {
            name: "nat_strict",
            about: "60 % of 100 viewers can only dial, and no holes are punched: beyond the fluid limit",
            viewers: 100,
            hidden: 0.6,
            bounds: vec![Bound::at_most(FalseBans, 0.0), Bound::at_most(ControlShare, 0.02)],
            ..steady()
        },
        Scenario {
            name: "nat_wide",
            about: "as nat_strict, with uplinks of 1.8 times the stream: what a mesh without hole punching needs",
            viewers: 100,
            hidden: 0.6,
            profiles: vec![Profile::with(1.8)],
            bounds: vec![
                Bound::at_most(SourceCopies, 1.05),
                Bound::at_most(SpreadP50, 0.65),
                Bound::at_most(SpreadP99, 1.3),
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(ControlShare, 0.02),
            ],
            ..steady()
        },
        Scenario {
            name: "source_cut",
            about: "50 viewers and a relay; the source vanishes for 20 s and returns under the same key",
            stream: StreamSpec { duration: 180 * SECOND, ..stream },
            source_cut: Some((80 * SECOND, 100 * SECOND)),
            bounds: vec![
                Bound::at_least(Resumed, 1.0),
                Bound::at_most(ResumeMax, 5.0),
                Bound::at_least(LateServed, 1.0),
                Bound::at_most(SpreadP99, 1.0),
            ],
            ..steady()
        },
        home(),
        Scenario {
            name: "busy",
            about: "as home, with calls and uploads over the same lines for 20 of every 60 s",
            profiles: HOME_LINES
                .into_iter()
                .zip(0..)
                .map(|((up, down), number)| {
                    let cross = if number % 2 == 0 { Cross::Call(0.2) } else { Cross::Upload };
                    let first = (20 + 15 * number) * SECOND;
                    let cross_at = Spells { first, lasts: 20 * SECOND, every: 60 * SECOND };
                    home_line(up, down, Line { cross, cross_at, ..Line::quiet(HOME_QUEUE) })
                })
                .collect(),
            ..home()
        },
        Scenario {
            name: "wifi",
            about: "as home; lines fall to a third for 5 s, by turns",
            profiles: HOME_LINES
                .into_iter()
                .zip(0..)
                .map(|((up, down), number)| {
                    let first = (15 + 5 * number) * SECOND;
                    let dips = Spells { first, lasts: 5 * SECOND, every: 20 * SECOND };
                    home_line(up, down, Line { dip: 1.0 / 3.0, dips, ..Line::quiet(HOME_QUEUE) })
                })
                .collect(),
            ..home()
        },
        Scenario {
            name: "thin_down",
            about: "16 viewers with downlinks of 1.25 times the stream and uplinks of 1.5 that they must find out",
            viewers: 16,
            stream: StreamSpec { duration: 120 * SECOND, ..stream },
            profiles: vec![Profile { down: Some(1.25), knows: Knows::Nothing, ..EVEN }],
            source_up: 2.5,
            source_knows: Knows::Nothing,
            bounds: vec![Bound::at_most(StallsSettled, 0.0), Bound::at_most(SourceCopies, 1.1)],
            ..steady()
        },
        Scenario {
            name: "lack",
            about: "50 viewers with uplinks of 0.8 times the stream, until a relay with 30 times comes after a minute",
            stream: StreamSpec { duration: 100 * SECOND, ..stream },
            profiles: vec![Profile::with(0.8)],
            relief: Some(Relief { at: 60 * SECOND, up: 30.0 }),
            bounds: vec![Bound::at_least(Smooth, 0.7), Bound::at_most(StallsRecovered, 0.0)],
            ..steady()
        },
        Scenario {
            name: "shifted",
            about: "25 viewers live and 25 spread over the last ten minutes",
            viewers: 25,
            past: Some(SHIFTED),
            ..past(1.1)
        },
        Scenario {
            name: "late",
            about: "50 viewers live, eight of whom keep a minute long past, for which 50 come within 10 s",
            past: Some(Past {
                viewers: 50,
                behind: (8 * MINUTE, 8 * MINUTE),
                within: 10 * SECOND,
                keepers: Some(8),
                veterans: false,
                ..SHIFTED
            }),
            ..past(1.2)
        },
        Scenario {
            name: "gone",
            about: "as shifted, but ten keep what is past, and half of them leave after 40 s",
            viewers: 25,
            past: Some(Past { keepers: Some(10), gone: Some(70 * SECOND), ..SHIFTED }),
            ..past(1.2)
        },
        Scenario {
            name: "thin_past",
            about: "as shifted, with uplinks of 1.15 times the stream",
            viewers: 25,
            past: Some(SHIFTED),
            profiles: vec![Profile::with(1.15)],
            bounds: vec![Bound::at_most(Stalls, 0.0), Bound::at_most(SpreadP99, 1.5)],
            ..past(1.2)
        },
        Scenario {
            name: "paused",
            about: "as steady, and each viewer pauses once, for longer than its live window and up to five minutes",
            stream: StreamSpec { duration: 420 * SECOND, ..StreamSpec::standard() },
            past: Some(Past {
                history: 0,
                viewers: 0,
                veterans: false,
                pauses: Some((75 * SECOND, 5 * MINUTE)),
                ..SHIFTED
            }),
            bounds: vec![
                Bound::at_most(PastStalls, 0.0),
                Bound::at_most(Stalls, 0.0),
                Bound::at_most(SpreadP99, 1.1),
                Bound::at_most(SourceCopies, 1.05),
            ],
            ..steady()
        },
        scale("scale", "1,000 viewers, as steady, for 2 minutes", 1_000, 120, 1.4),
        scale("scale10k", "10,000 viewers, as steady, for 1 minute", 10_000, 60, 1.9),
    ]
}

/// The scenario called `name`.
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_scenario_has_bounds() {
        let all = all();
        for (index, scenario) in all.iter().enumerate() {
            assert!(!scenario.bounds.is_empty());
            assert!(all[index + 1..].iter().all(|other| other.name != scenario.name));
        }
    }
}
