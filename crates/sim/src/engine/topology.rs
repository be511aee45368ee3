//! Where nodes are, and so how far from each other; and who can be dialled.
//!
//! Rule: round trips follow from places in a plane (by default 20 ms to the next door, 160 ms from corner to
//! corner, 88 ms on average; see [`Geography`]), so that "near to a, near to b" holds as it does in the world: a policy
//! that prefers near neighbours must face the clumps which that makes.

use rand::{RngExt, rngs::Xoshiro256PlusPlus};

use super::{MILLISECOND, Micros};

/// How far nodes are from each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geography {
    /// Round trip between two nodes at one place. Not zero: what one node does must not reach another one at once
    /// ([`super::window`]).
    pub rtt_min: Micros,
    /// Round trip between opposite corners.
    pub rtt_max: Micros,
    /// Whether nodes crowd into a few towns, and are not spread all over the plane.
    pub clustered: bool,
}

impl Default for Geography {
    fn default() -> Self {
        Self { rtt_min: 20 * MILLISECOND, rtt_max: 160 * MILLISECOND, clustered: false }
    }
}

impl Geography {
    /// A random place.
    pub fn place(&self, rng: &mut Xoshiro256PlusPlus) -> Place {
        let place = Place { x: rng.random(), y: rng.random() };
        if !self.clustered {
            return place;
        }
        let (x, y) = TOWNS[rng.random_range(0..TOWNS.len())];
        Place { x: x + (place.x - 0.5) * TOWN, y: y + (place.y - 0.5) * TOWN }
    }

    /// Round trip between two places.
    pub fn rtt(&self, a: Place, b: Place) -> Micros {
        self.rtt_min + ((self.rtt_max - self.rtt_min) as f32 * a.distance(b)) as Micros
    }
}

/// Where towns are, and how wide each is.
const TOWNS: [(f32, f32); 4] = [(0.15, 0.2), (0.2, 0.75), (0.8, 0.3), (0.85, 0.85)];
const TOWN: f32 = 0.05;

/// A place in the unit square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    x: f32,
    y: f32,
}

impl Place {
    /// The middle of the plane, where the tracker is.
    pub const CENTRE: Self = Self { x: 0.5, y: 0.5 };

    /// From 0, the same place, to 1, opposite corners. A longer way costs more, but not in proportion: the mean of
    /// the distance and its root.
    fn distance(self, other: Self) -> f32 {
        let (dx, dy) = (self.x - other.x, self.y - other.y);
        let distance = ((dx * dx + dy * dy) / 2.0).sqrt();
        (distance + distance.sqrt()) / 2.0
    }
}

/// Who can open a link to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anyone.
    Open,
    /// Anyone, if the node helps: a NAT that keeps one outside port for all far ends (RFC 4787, endpoint-independent
    /// mapping).
    Cone,
    /// Anyone but its like, if the node helps: a NAT with another outside port for each far end.
    Symmetric,
    /// Only who accepts dials: no hole can be punched, or nobody helps to.
    DialOnly,
}

/// Chance that a hole is punched between two cone NATs; what fails is filters, old devices, lost probes.
const CONE_TO_CONE: f64 = 0.9;
/// The same where one end's port must be guessed or found out by the other.
const CONE_TO_SYMMETRIC: f64 = 0.5;

/// How a link between two nodes can come about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// As dialled.
    Direct,
    /// Both ends dial, told of each other by a server that both have a connection to; with this chance.
    Punched(f64),
    /// Not at all.
    None,
}

impl Reach {
    /// How a node that is reached like this is dialled by another. The chances make 62 % of the pairs of hidden nodes
    /// of which a third is symmetric: a little below the 70 % that libp2p measured in the field (DCUtR).
    pub fn dialled_by(self, dialler: Self) -> Way {
        match (self, dialler) {
            (Self::Open, _) => Way::Direct,
            (Self::DialOnly, _) | (_, Self::DialOnly) => Way::None,
            // The hidden end dials back.
            (_, Self::Open) => Way::Punched(1.0),
            (Self::Cone, Self::Cone) => Way::Punched(CONE_TO_CONE),
            (Self::Cone, Self::Symmetric) | (Self::Symmetric, Self::Cone) => Way::Punched(CONE_TO_SYMMETRIC),
            (Self::Symmetric, Self::Symmetric) => Way::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn round_trips_are_symmetric_and_within_bounds() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let spread = Geography::default();
        let Geography { rtt_min, rtt_max, .. } = spread;
        let mut sum = 0;
        for _ in 0..10_000 {
            let (a, b) = (spread.place(&mut rng), spread.place(&mut rng));
            assert_eq!(spread.rtt(a, b), spread.rtt(b, a));
            assert!((rtt_min..=rtt_max).contains(&spread.rtt(a, b)));
            sum += spread.rtt(a, b);
        }
        assert!((85..91).contains(&(sum / 10_000 / MILLISECOND)), "{sum}");
        assert_eq!(spread.rtt(Place::CENTRE, Place::CENTRE), rtt_min);
    }

    #[test]
    fn people_of_one_town_are_near_each_other() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let towns = Geography { clustered: true, ..Geography::default() };
        let rtts: Vec<Micros> =
            (0..1_000).map(|_| towns.rtt(towns.place(&mut rng), towns.place(&mut rng))).collect();
        let near = rtts.iter().filter(|rtt| **rtt < 45 * MILLISECOND).count();
        assert!((200..320).contains(&near), "{near}");
    }
}
