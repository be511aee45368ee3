//! Who takes part in a run, and when: every node's whole life is drawn before the run starts, so
//! that the mesh and its rivals face the same audience.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};

use crate::{
    engine::{Micros, SECOND, access::Rate, line::Line, network::Access, topology::Reach},
    scenario::{Knows, Profile, QUEUE, Scenario},
    stream::StreamSpec,
};

/// How a hostile node behaves; in all else it follows the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vice {
    /// Sends pieces with wrong bytes.
    Corrupts,
    /// Sends heads that the channel's key has not signed.
    Forges,
    /// Claims to hold pieces that it does not hold or that do not exist, and never sends any.
    Lies,
    /// Takes requests and never serves them.
    Stalls,
    /// Sends requests, HAVEs and unreadable frames without end.
    Floods,
    /// Begins every piece that it is asked for or may push, and then sends the least that a block may have now and then.
    Drips,
    /// Tells of made-up keys, and of others' keys, at the address of somebody who has nothing to do with it.
    Poisons,
    /// Links with everybody, and says only that it is still there.
    Idles,
    /// The same, but waits to be dialled: it has joined the tracker under many keys.
    Crowds,
}

/// What the hostile nodes of `hostile` do, in turn.
pub const VICES: [Vice; 5] = [Vice::Corrupts, Vice::Forges, Vice::Lies, Vice::Stalls, Vice::Floods];

/// What a node does in the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Holds the channel's key.
    Source,
    /// Plays from the live edge.
    Viewer,
    /// Plays from this far behind the live edge.
    LateViewer(Micros),
    /// Plays what was on air this long before it comes.
    Past(Micros),
    /// Has no player.
    Relay,
    /// Plays, and harms others.
    Hostile(Vice),
}

/// One node's life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Life {
    /// What it does.
    pub part: Part,
    /// Its line.
    pub access: Access,
    /// What it knows of its uplink.
    pub knows: Knows,
    /// Whether it passes pieces on.
    pub upload: bool,
    /// When it starts.
    pub joins: Micros,
    /// When it leaves, if it does.
    pub leaves: Option<Micros>,
    /// Whether it goes without a word.
    pub silent: bool,
    /// Whether it keeps what was on air before the run.
    pub keeps: bool,
    /// When its player pauses, and for how long.
    pub pause: Option<(Micros, Micros)>,
    /// Whether it is one of many in one network. All others live in networks of their own.
    pub in_one_net: bool,
}

/// Downlinks are this many times the stream: wide enough for what comes, narrow enough to queue.
const DOWNLINK_FACTOR: f64 = 5.0;

/// How long somebody stays who only looks around.
const ZAP_STAYS: std::ops::Range<Micros> = 5 * SECOND..60 * SECOND;

/// When players pause that do.
const PAUSES: std::ops::Range<Micros> = 30 * SECOND..90 * SECOND;

/// The lives of all nodes of a scenario, sources first.
pub fn lives(scenario: &Scenario, seed: u64) -> Vec<Life> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x6c69_7665_7300);
    let mut lives = sources(scenario);
    let mut profiles = crowd_of(scenario, scenario.viewers);
    profiles.shuffle(&mut rng);
    let first = lives.len();
    for (profile, reach) in profiles {
        let joins =
            if scenario.stream.at_once { 0 } else { scenario.opens + rng.random_range(0..scenario.arrival) };
        lives.push(viewer(&scenario.stream, profile, reach, joins));
    }
    let hostile = (scenario.viewers as f64 * scenario.hostile).round() as usize;
    for (life, vice) in lives[first..].iter_mut().take(hostile).zip(scenario.vices.iter().cycle()) {
        life.part = Part::Hostile(*vice);
    }
    if let Some((vice, count)) = scenario.intruders {
        for _ in 0..count {
            let mut intruder = viewer(&scenario.stream, scenario.profiles[0], Reach::Open, 0);
            (intruder.part, intruder.in_one_net) = (Part::Hostile(vice), true);
            lives.push(intruder);
        }
    }
    if let Some(crowd) = scenario.crowd {
        for (profile, reach) in crowd_of(scenario, crowd.viewers) {
            let joins = crowd.at + rng.random_range(0..crowd.within);
            lives.push(viewer(&scenario.stream, profile, reach, joins));
        }
    }
    if let Some(churn) = scenario.churn {
        come_and_go(scenario, churn, first, &mut lives, &mut rng);
    }
    if let Some(cut) = scenario.source_cut {
        let mut relay = viewer(&scenario.stream, scenario.profiles[0], Reach::Open, 0);
        relay.part = Part::Relay;
        lives.push(relay);
        // Someone who comes while there is no source can still watch what exists.
        let mut late =
            viewer(&scenario.stream, scenario.profiles[0], Reach::Open, cut.0 + (cut.1 - cut.0) / 2);
        late.part = Part::LateViewer(cut.1 - cut.0);
        lives.push(late);
    }
    if let Some(part) = scenario.zapping {
        zap(scenario, part, first, &mut lives, &mut rng);
    }
    if let Some(past) = scenario.past {
        let keepers = past.keepers.unwrap_or(scenario.viewers);
        lives[first..].iter_mut().take(keepers).for_each(|life| life.keeps = true);
        if let Some((least, most)) = past.pauses {
            for life in &mut lives[first..] {
                life.pause = Some((rng.random_range(PAUSES), rng.random_range(least..most)));
            }
        }
        if let Some(gone) = past.gone {
            lives[first..].iter_mut().take(keepers / 2).for_each(|life| life.leaves = Some(gone));
        }
        for number in 0..past.viewers as u64 {
            let profile = scenario.profiles[number as usize % scenario.profiles.len()];
            let joins = past.at + rng.random_range(0..past.within);
            let mut life = viewer(&scenario.stream, profile, Reach::Open, joins);
            let (least, most) = past.behind;
            life.part = Part::Past(least + (most - least) * number / past.viewers.max(1) as u64);
            lives.push(life);
        }
    }
    if let Some(relief) = scenario.relief {
        let mut relay = viewer(&scenario.stream, Profile::with(relief.up), Reach::Open, relief.at);
        relay.part = Part::Relay;
        lives.push(relay);
    }
    lives
}

/// The line before an uplink: a node that knows it to the byte paces itself.
fn line(knows: Knows, line: Option<Line>) -> Option<Line> {
    let quiet = (knows != Knows::Exactly).then(|| Line::quiet(QUEUE));
    line.or(quiet)
}

fn sources(scenario: &Scenario) -> Vec<Life> {
    let knows = scenario.source_knows;
    let access = Access {
        up: rate(&scenario.stream, scenario.source_up),
        down: rate(&scenario.stream, DOWNLINK_FACTOR),
        line: line(knows, None),
        reach: Reach::Open,
    };
    let source = Life {
        part: Part::Source,
        access,
        knows,
        upload: true,
        joins: 0,
        leaves: None,
        silent: true,
        keeps: true,
        pause: None,
        in_one_net: false,
    };
    match scenario.source_cut {
        None => vec![source],
        Some((gone, back)) => {
            vec![Life { leaves: Some(gone), ..source }, Life { joins: back, ..source }]
        }
    }
}

/// `count` viewers' profiles in the scenario's proportions, and who of them can be dialled.
fn crowd_of(scenario: &Scenario, count: usize) -> Vec<(Profile, Reach)> {
    let hidden = (count as f64 * scenario.hidden).round() as usize;
    let mut nats = scenario.nats.iter().cycle();
    let profiles = scenario.profiles.iter().cycle().take(count);
    // Interleaved, so that each profile has its share of hidden nodes.
    profiles
        .enumerate()
        .map(|(number, profile)| {
            let is_hidden = (number + 1) * hidden / count > number * hidden / count;
            let nat = if is_hidden { nats.next() } else { None };
            (*profile, nat.copied().unwrap_or(Reach::Open))
        })
        .collect()
}

fn viewer(stream: &StreamSpec, profile: Profile, reach: Reach, joins: Micros) -> Life {
    let Profile { up, knows, upload, .. } = profile;
    let down = profile.down.unwrap_or(DOWNLINK_FACTOR.max(2.0 * up));
    let line = line(knows, profile.line);
    let access = Access { up: rate(stream, up), down: rate(stream, down), line, reach };
    let part = Part::Viewer;
    Life {
        part,
        access,
        knows,
        upload,
        joins,
        leaves: None,
        silent: false,
        keeps: false,
        pause: None,
        in_one_net: false,
    }
}

fn rate(stream: &StreamSpec, factor: f64) -> Rate {
    Rate((stream.rate as f64 * factor) as u64)
}

/// Turnover of an audience.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// When a part of the audience vanishes at once, without a word.
    pub exodus_at: Micros,
    /// Which part.
    pub exodus: f64,
    /// The part of the audience that leaves, and that comes, each minute from then on.
    pub per_minute: f64,
}

/// Some places are taken by people who look around: one stays for a while, and the next one comes soon after.
fn zap(scenario: &Scenario, part: f64, first: usize, lives: &mut Vec<Life>, rng: &mut Xoshiro256PlusPlus) {
    let places = (scenario.viewers as f64 * part) as usize;
    for index in first..first + places {
        let mut life = lives[index];
        while life.joins < scenario.stream.duration {
            let leaves = life.joins + rng.random_range(ZAP_STAYS);
            life = Life { leaves: Some(leaves), silent: rng.random_bool(0.5), ..life };
            if lives[index].leaves.is_none() {
                lives[index] = life;
            } else {
                lives.push(life);
            }
            life.joins = leaves + rng.random_range(0..2 * SECOND);
        }
    }
}

/// The first of those there at the start vanish; then viewers come and go one by one, half of those
/// who go without a word.
fn come_and_go(
    scenario: &Scenario,
    churn: Churn,
    first: usize,
    lives: &mut Vec<Life>,
    rng: &mut Xoshiro256PlusPlus,
) {
    let leaving = (scenario.viewers as f64 * churn.exodus) as usize;
    for life in &mut lives[first..first + leaving] {
        (life.leaves, life.silent) = (Some(churn.exodus_at), true);
    }
    let left = scenario.viewers - leaving;
    let step = (60.0 * SECOND as f64 / (left as f64 * churn.per_minute)) as Micros;
    let mut at = churn.exodus_at + step;
    let mut silent = false;
    while at < scenario.stream.duration {
        let staying: Vec<usize> = (first..lives.len())
            .filter(|index| lives[*index].leaves.is_none() && lives[*index].joins < at)
            .collect();
        if staying.is_empty() {
            return;
        }
        let goes = staying[rng.random_range(0..staying.len())];
        (lives[goes].leaves, lives[goes].silent) = (Some(at), silent);
        silent = !silent;
        let (profile, reach) =
            crowd_of(scenario, scenario.profiles.len())[rng.random_range(0..scenario.profiles.len())];
        lives.push(viewer(&scenario.stream, profile, reach, at + rng.random_range(0..step)));
        at += step;
    }
}
