//! How `--upload-limit` is divided between the live mesh and BitTorrent: what is needed live goes first, finished minutes
//! get what that leaves.
//!
//! Rules:
//! - BitTorrent keeps a small part in any case, so that clients which want a finished minute are not shut out. The mesh is
//!   limited to the rest, so the two never have more than the whole.
//! - When the mesh takes more, BitTorrent may send less at once. When the mesh takes less, BitTorrent may send more after some
//!   time, since each change gives its account a second's worth at once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use minuet_swarm::MIN_UPLOAD_BYTES_PER_S;

/// BitTorrent's part in any case: one in so many.
const LEAST: u64 = 16;
/// What BitTorrent may send is set in so many steps.
const STEPS: u64 = 8;
/// The mesh is taken to need as much as it needed at most in this time.
const MEMORY: Duration = Duration::from_secs(8);
/// What the mesh sent is measured over at least this time.
const LOOK: Duration = Duration::from_millis(900);

/// The division of one limit.
#[derive(Debug)]
pub struct Share {
    limit: u64,
    /// What BitTorrent may send now.
    given: u64,
    /// BitTorrent has been told.
    told: bool,
    /// When the mesh was looked at last, and what it had sent by then.
    last: Option<(Instant, u64)>,
    /// What the mesh sent a second at recent looks.
    rates: VecDeque<(Instant, u64)>,
}

impl Share {
    /// Divides `limit` bytes a second. All of it is BitTorrent's until the mesh is seen to send.
    pub fn new(limit: u64) -> Self {
        Self { limit, given: limit, told: false, last: None, rates: VecDeque::new() }
    }

    /// The limit is another now. One that was found out changes all the time: only what makes a difference counts.
    pub fn set_limit(&mut self, limit: u64) {
        if limit.abs_diff(self.limit) > self.limit / STEPS {
            self.limit = limit;
        }
    }

    /// The most that the mesh may send of a limit.
    pub fn of_mesh(limit: u64) -> u64 {
        limit - least(limit)
    }

    /// Takes in what the mesh has sent since its start, in bytes on the wire. What BitTorrent may send from now on, in
    /// bytes a second, if that changes.
    pub fn look(&mut self, sent: u64, now: Instant) -> Option<u32> {
        let Some((then, before)) = self.last else {
            self.last = Some((now, sent));
            return None;
        };
        let elapsed = now.saturating_duration_since(then);
        if elapsed < LOOK {
            return None;
        }
        self.last = Some((now, sent));
        let rate = (sent.saturating_sub(before) as f64 / elapsed.as_secs_f64()) as u64;
        self.rates.push_back((now, rate));
        self.rates.retain(|(at, _)| now.saturating_duration_since(*at) < MEMORY);
        let needed = self.rates.iter().map(|(_, rate)| *rate).max().unwrap_or(0);
        let step = (self.limit / STEPS).max(1);
        let left = self.limit.saturating_sub(needed) / step * step;
        // What no step fits into is nothing to send less for.
        let given = if needed < step / 2 { self.limit } else { left.max(least(self.limit)) };
        let changed = given != self.given || !std::mem::replace(&mut self.told, true);
        self.given = given;
        changed.then(|| u32::try_from(given).unwrap_or(u32::MAX))
    }
}

/// What BitTorrent has of a limit in any case: the engine needs a block a second.
fn least(limit: u64) -> u64 {
    (limit / LEAST).max(MIN_UPLOAD_BYTES_PER_S.into()).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1_600_000;

    /// What BitTorrent may send after each second of a mesh that sends so much.
    fn given(rates: &[u64]) -> Vec<u64> {
        let (mut share, start, mut sent) = (Share::new(LIMIT), Instant::now(), 0);
        share.look(0, start);
        let seconds = (1..).zip(rates);
        seconds
            .map(|(second, rate)| {
                sent += rate;
                let now = start + Duration::from_secs(second);
                let before = share.given;
                let change = share.look(sent, now);
                assert_eq!(change.map_or(before, u64::from), share.given);
                share.given
            })
            .collect()
    }

    #[test]
    fn what_the_mesh_needs_is_taken_from_bittorrent_at_once_and_given_back_later() {
        assert_eq!(given(&[0, 10_000]), [LIMIT, LIMIT], "nobody watches live");
        assert_eq!(given(&[790_000, 800_000, 810_000]), [800_000, 800_000, 600_000]);
        let rates = [&[800_000][..], &[0; 9]].concat();
        assert_eq!(given(&rates), [&[800_000; 8][..], &[LIMIT; 2]].concat());
    }

    #[test]
    fn both_together_never_have_more_than_the_whole() {
        for limit in [32_768, 100_000, LIMIT, 1 << 40] {
            let mut share = Share::new(limit);
            let (start, mesh) = (Instant::now(), Share::of_mesh(limit));
            share.look(0, start);
            share.look(mesh, start + Duration::from_secs(1));
            assert!(share.given + mesh <= limit && share.given > 0, "{limit}");
        }
    }
}
