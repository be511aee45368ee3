//! One scenario of the space: a value for each dimension, drawn at random, or as at the standard point.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::{
    engine::{
        MILLISECOND, Micros, SECOND,
        line::{Cross, Line, Spells},
        path::{JITTER, LossModel},
        topology::{Geography, Reach},
    },
    plan::Churn,
    scenario::{self, Knows, Profile, Scenario},
    stream::Burst,
};

/// How viewers come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// All within a second.
    AtOnce,
    /// One after the other, for half of the stream.
    OneByOne,
    /// As `AtOnce`, and half of the places are taken by people who stay for 5 to 60 s.
    Zapping,
}

/// What uplinks are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// All the same.
    Even,
    /// From a tenth of the mean to many times it: over two decades.
    Uneven,
    /// A quarter passes nothing on.
    Riders,
}

/// A dimension of the space. Its name on the command line is that of [`Dimension::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dimension {
    Rate,
    Burst,
    KeyFrames,
    Irregular,
    Viewers,
    Arrival,
    Spread,
    Supply,
    Limit,
    Queue,
    Cross,
    RoundTrip,
    Clustered,
    Loss,
    Jitter,
    Hidden,
    Churn,
    Liars,
}

impl Dimension {
    /// All of them, in the order in which a failure is shrunk: what costs most to run first.
    pub const ALL: [Self; 18] = [
        Self::Viewers,
        Self::Churn,
        Self::Liars,
        Self::Hidden,
        Self::Loss,
        Self::Jitter,
        Self::Clustered,
        Self::RoundTrip,
        Self::Cross,
        Self::Queue,
        Self::Limit,
        Self::Spread,
        Self::Supply,
        Self::Arrival,
        Self::Irregular,
        Self::KeyFrames,
        Self::Burst,
        Self::Rate,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Burst => "burst",
            Self::KeyFrames => "key-frames",
            Self::Irregular => "irregular",
            Self::Viewers => "viewers",
            Self::Arrival => "arrival",
            Self::Spread => "uplinks",
            Self::Supply => "supply",
            Self::Limit => "limit",
            Self::Queue => "queue",
            Self::Cross => "cross",
            Self::RoundTrip => "rtt",
            Self::Clustered => "clustered",
            Self::Loss => "loss",
            Self::Jitter => "jitter",
            Self::Hidden => "hidden",
            Self::Churn => "churn",
            Self::Liars => "liars",
        }
    }
}

/// A point of the space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Mbit/s.
    pub rate: f64,
    /// The rate at its highest as a multiple of the mean, for a second and a half of every seven; 1 if it is constant.
    pub burst: f64,
    /// Seconds from one key frame to the next.
    pub key_frames: f64,
    /// Whether that is so on average only.
    pub irregular: bool,
    /// How many watch.
    pub viewers: usize,
    /// How they come.
    pub arrival: Arrival,
    /// How uplinks differ.
    pub spread: Spread,
    /// All uplinks together ÷ what all viewers need, packet headers and promises included.
    pub supply: f64,
    /// Whether nodes are told nine tenths of their uplink as their limit, or find out by themselves.
    pub limit: bool,
    /// Milliseconds that a router's queue holds.
    pub queue: f64,
    /// Whether other programs use the line, for 20 of every 60 s.
    pub cross: bool,
    /// The longest round trip in milliseconds; the shortest is a sixteenth of it, 5 at the least.
    pub rtt: f64,
    /// Whether nodes crowd into a few towns.
    pub clustered: bool,
    /// Packets lost, in per cent, half of them in bursts.
    pub loss: f64,
    /// Milliseconds by which a packet's delay may differ.
    pub jitter: f64,
    /// The part of the viewers that is behind NATs.
    pub hidden: f64,
    /// The part of the viewers that leaves and that comes, each minute.
    pub churn: f64,
    /// The part of the viewers that harms others.
    pub liars: f64,
}

/// How long a burst lasts, and from one to the next.
const BURST: (Micros, Micros) = (1_500 * MILLISECOND, 7 * SECOND);
/// Length of a run.
const DURATION: Micros = 75 * SECOND;

impl Point {
    /// Where every figure is known to be good: the bench's point.
    pub fn standard() -> Self {
        Self {
            rate: 8.0,
            burst: 1.0,
            key_frames: 2.0,
            irregular: false,
            viewers: 20,
            arrival: Arrival::AtOnce,
            spread: Spread::Even,
            supply: 1.4,
            limit: true,
            queue: 200.0,
            cross: false,
            rtt: 160.0,
            clustered: false,
            loss: 0.0,
            jitter: 2.0,
            hidden: 0.0,
            churn: 0.0,
            liars: 0.0,
        }
    }

    /// A point at random. Half of the dimensions that can be off are off, so that few points have all at once.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x7370_6163_6500);
        let arrival = [Arrival::AtOnce, Arrival::OneByOne, Arrival::Zapping][rng.random_range(0..3)];
        let spread = [Spread::Even, Spread::Uneven, Spread::Riders][rng.random_range(0..3)];
        let some = |rng: &mut Xoshiro256PlusPlus, least: f64, most: f64| {
            if rng.random_bool(0.5) { least } else { rng.random_range(least..most) }
        };
        Self {
            rate: decades(rng, 0.05, 25.0),
            burst: some(rng, 1.0, 4.0),
            key_frames: decades(rng, 0.5, 12.0),
            irregular: rng.random_bool(0.3),
            viewers: decades(rng, 1.0, 100.0).round() as usize,
            arrival,
            spread,
            supply: decades(rng, 1.3, 5.0),
            limit: rng.random_bool(0.5),
            queue: decades(rng, 50.0, 1_000.0),
            cross: rng.random_bool(0.3),
            rtt: decades(rng, 20.0, 350.0),
            clustered: rng.random_bool(0.3),
            loss: some(rng, 0.0, 3.0),
            jitter: some(rng, 2.0, 30.0),
            hidden: some(rng, 0.0, 0.8),
            churn: some(rng, 0.0, 0.2),
            liars: some(rng, 0.0, 0.1),
        }
    }

    /// Takes the value of one dimension from another point.
    pub fn take(&mut self, dimension: Dimension, from: &Self) {
        match dimension {
            Dimension::Rate => self.rate = from.rate,
            Dimension::Burst => self.burst = from.burst,
            Dimension::KeyFrames => self.key_frames = from.key_frames,
            Dimension::Irregular => self.irregular = from.irregular,
            Dimension::Viewers => self.viewers = from.viewers,
            Dimension::Arrival => self.arrival = from.arrival,
            Dimension::Spread => self.spread = from.spread,
            Dimension::Supply => self.supply = from.supply,
            Dimension::Limit => self.limit = from.limit,
            Dimension::Queue => self.queue = from.queue,
            Dimension::Cross => self.cross = from.cross,
            Dimension::RoundTrip => self.rtt = from.rtt,
            Dimension::Clustered => self.clustered = from.clustered,
            Dimension::Loss => self.loss = from.loss,
            Dimension::Jitter => self.jitter = from.jitter,
            Dimension::Hidden => self.hidden = from.hidden,
            Dimension::Churn => self.churn = from.churn,
            Dimension::Liars => self.liars = from.liars,
        }
    }

    /// Sets one dimension as written on the command line: `rate=1`, `arrival=zapping`, `limit=false`.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let wrong = || {
            let names = Dimension::ALL.map(Dimension::name).join(", ");
            format!("{text} sets no dimension: write NAME=VALUE, where NAME is one of {names}")
        };
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let number = || value.parse::<f64>().map_err(|_| wrong());
        let flag = || value.parse::<bool>().map_err(|_| wrong());
        let dimension = Dimension::ALL.into_iter().find(|d| d.name() == name).ok_or_else(wrong)?;
        match dimension {
            Dimension::Rate => self.rate = number()?.clamp(0.01, 200.0),
            Dimension::Burst => self.burst = number()?.clamp(1.0, 4.0),
            Dimension::KeyFrames => self.key_frames = number()?.clamp(0.1, 60.0),
            Dimension::Irregular => self.irregular = flag()?,
            Dimension::Viewers => self.viewers = number()?.clamp(1.0, 10_000.0) as usize,
            Dimension::Arrival => {
                self.arrival = match value {
                    "at-once" => Arrival::AtOnce,
                    "one-by-one" => Arrival::OneByOne,
                    "zapping" => Arrival::Zapping,
                    _ => return Err(wrong()),
                }
            }
            Dimension::Spread => {
                self.spread = match value {
                    "even" => Spread::Even,
                    "uneven" => Spread::Uneven,
                    "riders" => Spread::Riders,
                    _ => return Err(wrong()),
                }
            }
            Dimension::Supply => self.supply = number()?.clamp(0.1, 100.0),
            Dimension::Limit => self.limit = flag()?,
            Dimension::Queue => self.queue = number()?.clamp(10.0, 5_000.0),
            Dimension::Cross => self.cross = flag()?,
            Dimension::RoundTrip => self.rtt = number()?.clamp(5.0, 2_000.0),
            Dimension::Clustered => self.clustered = flag()?,
            Dimension::Loss => self.loss = number()?.clamp(0.0, 20.0),
            Dimension::Jitter => self.jitter = number()?.clamp(0.0, 500.0),
            Dimension::Hidden => self.hidden = number()?.clamp(0.0, 1.0),
            Dimension::Churn => self.churn = number()?.clamp(0.0, 1.0),
            Dimension::Liars => self.liars = number()?.clamp(0.0, 0.5),
        }
        Ok(())
    }

    /// The point as options that give it again.
    pub fn options(&self) -> String {
        let arrival = match self.arrival {
            Arrival::AtOnce => "at-once",
            Arrival::OneByOne => "one-by-one",
            Arrival::Zapping => "zapping",
        };
        let spread = match self.spread {
            Spread::Even => "even",
            Spread::Uneven => "uneven",
            Spread::Riders => "riders",
        };
        format!(
            "rate={:.3} burst={:.2} key-frames={:.1} irregular={} viewers={} arrival={arrival} uplinks={spread} \
             supply={:.2} limit={} queue={:.0} cross={} rtt={:.0} clustered={} loss={:.1} jitter={:.0} \
             hidden={:.2} churn={:.2} liars={:.2}",
            self.rate,
            self.burst,
            self.key_frames,
            self.irregular,
            self.viewers,
            self.supply,
            self.limit,
            self.queue,
            self.cross,
            self.rtt,
            self.clustered,
            self.loss,
            self.jitter,
            self.hidden,
            self.churn,
            self.liars,
        )
    }

    /// How many times the mean rate must go out for the stream to come in time: a burst may be sent off over the delay
    /// at which players are behind, of which half is taken to be left for it.
    pub fn burst_need(&self) -> f64 {
        let lasts = BURST.0 as f64 / SECOND as f64;
        (self.burst * lasts / (lasts + 2.0)).max(1.0)
    }

    /// The scenario at this point.
    pub fn scenario(&self) -> Scenario {
        let mut scenario = scenario::find("steady").unwrap_or_else(|| unreachable!("it is the first of all"));
        scenario.name = "space";
        scenario = scenario.at_rate((self.rate * 125_000.0) as u64);
        scenario.stream.duration = DURATION;
        scenario.stream.random_access = (self.key_frames * SECOND as f64) as Micros;
        scenario.stream.irregular = self.irregular;
        scenario.stream.burst =
            (self.burst > 1.0).then_some(Burst { peak: self.burst, lasts: BURST.0, period: BURST.1 });
        scenario.viewers = self.viewers;
        scenario.arrival = match self.arrival {
            Arrival::OneByOne => DURATION / 2,
            Arrival::AtOnce | Arrival::Zapping => SECOND,
        };
        scenario.zapping = (self.arrival == Arrival::Zapping && self.viewers > 1).then_some(0.5);
        let mean = self.supply * super::rules::need(&scenario.stream) * self.burst_need();
        let knows = if self.limit { Knows::Limit(0.9) } else { Knows::Nothing };
        // What a limit leaves unused is no supply.
        let mean = if self.limit { mean / 0.9 } else { mean };
        scenario.source_up = mean.max(1.5 * self.burst_need());
        scenario.source_knows = knows;
        let shares: &[f64] = match self.spread {
            Spread::Even => &[1.0],
            Spread::Uneven => &[0.1, 0.3, 1.0, 2.6],
            Spread::Riders => &[0.0, 1.334, 1.333, 1.333],
        };
        scenario.profiles = shares
            .iter()
            .zip(0..)
            .map(|(share, number)| Profile {
                // A node that uploads nothing needs its uplink for requests and acknowledgements.
                up: if *share > 0.0 { share * mean } else { 0.3 },
                upload: *share > 0.0,
                knows,
                line: Some(self.line(number)),
                ..Profile::with(1.0)
            })
            .collect();
        scenario.hidden = self.hidden;
        scenario.nats = &[Reach::Cone, Reach::Symmetric, Reach::Cone];
        scenario.hostile = self.liars;
        scenario.loss = loss(self.loss / 100.0);
        scenario.jitter = ((self.jitter * MILLISECOND as f64) as Micros).max(JITTER);
        scenario.geography = Geography {
            rtt_min: ((self.rtt / 16.0).max(5.0) * MILLISECOND as f64) as Micros,
            rtt_max: (self.rtt.max(6.0) * MILLISECOND as f64) as Micros,
            clustered: self.clustered,
        };
        scenario.churn = (self.churn > 0.0 && self.viewers >= 5).then_some(Churn {
            exodus_at: 15 * SECOND,
            exodus: 0.0,
            per_minute: self.churn,
        });
        scenario.bounds = super::rules::bounds(self, &scenario);
        scenario
    }

    /// The line of the viewers of a profile: calls and uploads take turns, not all at one time.
    fn line(&self, number: u64) -> Line {
        let quiet = Line::quiet((self.queue * MILLISECOND as f64) as Micros);
        if !self.cross {
            return quiet;
        }
        let first = (15 + 13 * number) * SECOND;
        let cross = if number.is_multiple_of(2) { Cross::Call(0.2) } else { Cross::Upload };
        Line { cross, cross_at: Spells { first, lasts: 20 * SECOND, every: 60 * SECOND }, ..quiet }
    }
}

/// Evenly over orders of magnitude.
fn decades(rng: &mut Xoshiro256PlusPlus, least: f64, most: f64) -> f64 {
    (rng.random_range(least.ln()..most.ln())).exp()
}

/// Loss of which half comes in bursts of 200 ms every 5 s.
fn loss(share: f64) -> LossModel {
    let standard = LossModel::BURSTY_2_PERCENT;
    let factor = share / 0.02;
    if share <= 0.0 {
        LossModel::default()
    } else {
        LossModel { good: standard.good * factor, bad: (standard.bad * factor).min(0.9), ..standard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_written_as_options_that_give_it_again() {
        for seed in 0..200 {
            let drawn = Point::draw(seed);
            let mut again = Point::standard();
            for option in drawn.options().split_whitespace() {
                again.set(option).unwrap();
            }
            let mut rounded = Point::standard();
            for option in again.options().split_whitespace() {
                rounded.set(option).unwrap();
            }
            assert_eq!(again, rounded, "{drawn:?}");
            assert_eq!(again.viewers, drawn.viewers);
            assert!((again.rate - drawn.rate).abs() < 0.001);
        }
        assert!(Point::standard().set("colour=red").unwrap_err().contains("key-frames"));
        assert!(Point::standard().set("rate").is_err());
    }

    #[test]
    fn each_dimension_takes_its_value_and_no_other() {
        let drawn = (0..).map(Point::draw).find(|p| p.liars > 0.0 && p.loss > 0.0 && p.irregular).unwrap();
        let mut all = Point::standard();
        for dimension in Dimension::ALL {
            let before = all;
            all.take(dimension, &drawn);
            let mut back = all;
            back.take(dimension, &before);
            assert_eq!(back, before, "{}", dimension.name());
        }
        assert_eq!(all, drawn);
    }
}
