//! Where nodes are, and so how far from each other; and who can be dialled.
//!
//! Rule: round trips follow from places in a plane (20 ms to the next door, 160 ms from corner to
//! corner, 88 ms on average), so that "near to a, near to b" holds as it does in the world: a policy
//! that prefers near neighbours must face the clumps which that makes.

use rand::{RngExt, rngs::Xoshiro256PlusPlus};

use super::{MILLISECOND, Micros};

/// Round trip between two nodes at one place.
pub const RTT_MIN: Micros = 20 * MILLISECOND;
/// Round trip between opposite corners.
pub const RTT_MAX: Micros = 160 * MILLISECOND;

/// A place in the unit square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    x: f32,
    y: f32,
}

impl Place {
    /// The middle of the plane, where the tracker is.
    pub const CENTRE: Self = Self { x: 0.5, y: 0.5 };

    /// A random place.
    pub fn random(rng: &mut Xoshiro256PlusPlus) -> Self {
        Self { x: rng.random(), y: rng.random() }
    }

    /// Round trip between two places.
    pub fn rtt(self, other: Self) -> Micros {
        let (dx, dy) = (self.x - other.x, self.y - other.y);
        let distance = ((dx * dx + dy * dy) / 2.0).sqrt();
        // Between the distance and its root: a longer way costs more, but not in proportion.
        let delay = (distance + distance.sqrt()) / 2.0;
        RTT_MIN + ((RTT_MAX - RTT_MIN) as f32 * delay) as Micros
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
        let mut sum = 0;
        for _ in 0..10_000 {
            let (a, b) = (Place::random(&mut rng), Place::random(&mut rng));
            assert_eq!(a.rtt(b), b.rtt(a));
            assert!((RTT_MIN..=RTT_MAX).contains(&a.rtt(b)));
            sum += a.rtt(b);
        }
        assert!((85..91).contains(&(sum / 10_000 / MILLISECOND)), "{sum}");
        assert_eq!(Place::CENTRE.rtt(Place::CENTRE), RTT_MIN);
    }
}
