//! Whose a channel is and when it last lived, as it is kept over a restart.
//!
//! A channel lives when its key has signed something newer than all before it. Statements are public, so that anybody
//! could bring old ones again and again; they count as nothing.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use minuet_guard::net::household;

/// How long a channel that begins with old statements is kept at least, so that a source with a wrong clock has time to
/// say something newer.
pub const GRACE: Duration = Duration::from_secs(300);

/// Length of what [`Life::encode`] gives.
pub const ENCODED: usize = 33;

/// Who brought a channel, and when it last lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Whose household brought it; `None` when another tracker did.
    pub brought_by: Option<IpAddr>,
    /// The newest time that its key has signed, in Unix milliseconds by the source's clock.
    pub said_ms: u64,
    /// When that was heard, by this tracker's clock.
    pub heard_ms: u64,
}

impl Life {
    /// A channel that begins with a statement of `said_ms`. One that is old already counts as heard back then.
    pub fn begin(brought_by: Option<IpAddr>, said_ms: u64, now_ms: u64, ttl: Duration) -> Self {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let least = now_ms.saturating_sub(ms(ttl)).saturating_add(ms(GRACE.min(ttl)));
        let heard_ms = said_ms.max(least).min(now_ms);
        Self { brought_by: brought_by.map(|ip| household(ip).base()), said_ms, heard_ms }
    }

    /// Something with this time was accepted; returns whether it was newer than all before.
    pub fn hear(&mut self, said_ms: u64, now_ms: u64) -> bool {
        let newer = said_ms > self.said_ms;
        if newer {
            self.said_ms = said_ms;
            self.heard_ms = now_ms;
        }
        newer
    }

    /// Milliseconds since it last lived.
    pub fn quiet_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms)
    }

    /// As it is kept.
    pub fn encode(&self) -> [u8; ENCODED] {
        let mut bytes = [0; ENCODED];
        if let Some(ip) = self.brought_by {
            bytes[0] = 1;
            let v6 = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes[1..17].copy_from_slice(&v6.octets());
        }
        bytes[17..25].copy_from_slice(&self.said_ms.to_be_bytes());
        bytes[25..].copy_from_slice(&self.heard_ms.to_be_bytes());
        bytes
    }

    /// Reads what [`Life::encode`] gave.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENCODED] = bytes.try_into().ok()?;
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let octets: [u8; 16] = bytes[1..17].try_into().ok()?;
        let brought_by = (bytes[0] == 1).then(|| IpAddr::V6(Ipv6Addr::from(octets)).to_canonical());
        Some(Self { brought_by, said_ms: number(17)?, heard_ms: number(25)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn only_what_is_newer_is_life() {
        let now = 1_000 * DAY.as_millis() as u64;
        let mut life = Life::begin(None, now - 5_000, now, DAY);
        assert_eq!(life.quiet_ms(now), 5_000);
        assert!(!life.hear(now - 5_000, now + 1_000) && !life.hear(0, now + 1_000));
        assert_eq!(life.quiet_ms(now + 1_000), 6_000);
        assert!(life.hear(now, now + 1_000));
        assert_eq!(life.quiet_ms(now + 1_000), 0);
        // What is long dead is not brought to life by its old words, and a clock that is wrong does no harm.
        let old = Life::begin(None, 5, now, DAY);
        assert_eq!(old.quiet_ms(now), (DAY - GRACE).as_millis() as u64);
        assert_eq!(Life::begin(None, u64::MAX, now, DAY).quiet_ms(now), 0);
        assert_eq!(Life::begin(None, 5, 0, DAY).quiet_ms(0), 0);
    }

    #[test]
    fn it_is_kept() {
        for brought_by in [None, Some("192.0.2.1".parse().unwrap()), Some("2001:db8:1::".parse().unwrap())] {
            let life = Life { brought_by, said_ms: 7, heard_ms: u64::MAX };
            assert_eq!(Life::decode(&life.encode()), Some(life));
        }
        assert_eq!(Life::decode(b"x"), None);
    }
}
