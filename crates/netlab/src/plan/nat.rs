//! Kinds of NAT, named as in RFC 3489, and which hosts are behind which.

use std::{fmt, str::FromStr};

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::Serialize;

use super::{PlanError, setting::share};

/// What stands between a host and the network. In the terms of RFC 4787: all but the last map an inside address
/// and port to the same outside port whoever it talks to; they differ in whom they let in through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// Nothing: the host has a public address and is reachable.
    #[default]
    None,
    /// Anyone may send to a port that the host has sent from.
    FullCone,
    /// Only addresses that the host has sent to from this port.
    AddressRestricted,
    /// Only addresses and ports that the host has sent to from this port.
    PortRestricted,
    /// As port-restricted, and the outside port is a new one for every destination.
    Symmetric,
}

impl Nat {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::None, Self::FullCone, Self::AddressRestricted, Self::PortRestricted, Self::Symmetric];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
        }
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Nat {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        Self::ALL.into_iter().find(|nat| nat.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            PlanError::Syntax(format!("{text:?} is no kind of NAT: write one of {names}"))
        })
    }
}

/// Shares of the hosts behind each kind of NAT; the rest are behind none. Written `none`, `symmetric` (all hosts)
/// or `port-restricted=40%,symmetric=20%`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NatMix(Vec<(Nat, f64)>);

impl FromStr for NatMix {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let part = |part: &str| {
            let (nat, portion) = part.split_once('=').unwrap_or((part, "100%"));
            Ok((nat.parse()?, share(portion)?))
        };
        let parts: Vec<(Nat, f64)> = text.split(',').map(part).collect::<Result<_, PlanError>>()?;
        if parts.iter().map(|(_, share)| share).sum::<f64>() > 1.0 + 1e-9 {
            return Err(PlanError::Syntax("the shares of --nat are more than 100% together".into()));
        }
        Ok(Self(parts))
    }
}

impl NatMix {
    /// Which NAT each host is behind: the shares as whole numbers of hosts, which ones at random.
    pub fn assign(&self, hosts: usize, seed: u64) -> Vec<Nat> {
        let mut nats = Vec::new();
        for (nat, share) in &self.0 {
            let room = hosts - nats.len();
            let count = (share * hosts as f64).round() as usize;
            nats.extend(std::iter::repeat_n(*nat, count.min(room)));
        }
        nats.resize(hosts, Nat::None);
        // Not the stream of numbers that places the hosts, so that NAT and distance are independent.
        nats.shuffle(&mut SmallRng::seed_from_u64(!seed));
        nats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_whole_hosts() {
        let mix: NatMix = "port-restricted=40%,symmetric=20%".parse().unwrap();
        let nats = mix.assign(20, 1);
        let count = |nat| nats.iter().filter(|n| **n == nat).count();
        assert_eq!((count(Nat::PortRestricted), count(Nat::Symmetric), count(Nat::None)), (8, 4, 8));
        assert_eq!(nats, mix.assign(20, 1));
        assert_ne!(nats, mix.assign(20, 2));
        assert_eq!("symmetric".parse::<NatMix>().unwrap().assign(2, 1), [Nat::Symmetric; 2]);
        assert_eq!("full-cone=50%,symmetric=50%".parse::<NatMix>().unwrap().assign(1, 1).len(), 1);
    }

    #[test]
    fn names_read_as_written() {
        for nat in Nat::ALL {
            assert_eq!(nat.to_string().parse(), Ok(nat));
        }
        for bad in ["", "cone", "symmetric=", "symmetric=120%", "symmetric=60%,full-cone=60%"] {
            assert!(bad.parse::<NatMix>().is_err(), "{bad}");
        }
    }
}
