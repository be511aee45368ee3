//! Which channels a gateway is in the mesh of because somebody asks, when there is room for some only.
//!
//! Rules:
//! 1. Networks (an IPv4 /24, an IPv6 /48) have a voice each, shared among the channels that they have asked for lately.
//! 2. A channel makes room for one that has more voices; or for one that the same network asks for, if no other asks for it and
//!    nobody has for [`IDLE`]: then the one asked for longest ago goes. In a house or a school all are one network.
//! 3. A channel that has just been joined stays for [`HOLD`], whoever asks: joining costs more than asking.
//!
//! So whoever has a few addresses can keep places that nobody else wants, and takes no channel from its viewers.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use minuet_guard::net::{Net, nets};
use minuet_proto::ChannelId;
use tokio_util::sync::CancellationToken;

/// How long a channel stays at least.
pub const HOLD: Duration = Duration::from_secs(10);
/// After how long without a request nobody seems to watch: players ask once a segment, and streams are looked at more often.
const IDLE: Duration = Duration::from_secs(15);
/// How long a network's voice counts after it asked.
const HEARD: Duration = Duration::from_secs(60);
/// How often those whose voices count no more are forgotten, where there are many.
const SWEEP: Duration = Duration::from_secs(1);
/// Voices that are remembered: a channel and a network.
const MOST: usize = 2048;
/// A whole voice.
const VOICE: u64 = 1 << 20;

/// The rooms. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rooms(Arc<Mutex<State>>);

/// A channel's room, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    channel: ChannelId,
    eviction: CancellationToken,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    most: usize,
    joined: BTreeMap<ChannelId, Joined>,
    /// When a network asked for a channel last.
    asked: BTreeMap<(ChannelId, Net), Instant>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Joined {
    since: Instant,
    eviction: CancellationToken,
}

impl Rooms {
    /// So many.
    pub fn new(most: usize) -> Self {
        let state = State { most, joined: BTreeMap::new(), asked: BTreeMap::new(), swept: None };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Somebody at `ip` asks for something of a channel.
    pub fn hear(&self, channel: ChannelId, ip: IpAddr, now: Instant) {
        lock(&self.0).hear(channel, ip, now);
    }

    /// Whoever asked for a channel is sent some of it without asking again.
    pub fn hear_all(&self, channel: ChannelId, now: Instant) {
        for (_, at) in lock(&self.0).asked.iter_mut().filter(|((asked, _), _)| *asked == channel) {
            *at = now;
        }
    }

    /// A room for a channel that somebody at `ip` asks for, by the module's rules; none if there is none.
    pub fn take(&self, channel: ChannelId, ip: IpAddr, now: Instant) -> Option<Room> {
        let mut state = lock(&self.0);
        state.hear(channel, ip, now);
        if state.joined.len() >= state.most {
            let leaves = state.leaving(channel, ip, now)?;
            if let Some(left) = state.joined.remove(&leaves) {
                left.eviction.cancel();
            }
        }
        let eviction = CancellationToken::new();
        state.joined.insert(channel, Joined { since: now, eviction: eviction.clone() });
        Some(Room { channel, eviction, state: Arc::clone(&self.0) })
    }
}

impl Room {
    /// Cancelled when the channel has to make room.
    pub fn eviction(&self) -> CancellationToken {
        self.eviction.clone()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Whoever made room for another has none to give back.
        if !self.eviction.is_cancelled() {
            lock(&self.state).joined.remove(&self.channel);
        }
    }
}

impl State {
    fn hear(&mut self, channel: ChannelId, ip: IpAddr, now: Instant) {
        let key = (channel, site(ip));
        if self.asked.len() >= MOST && !self.asked.contains_key(&key) {
            if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
                self.swept = Some(now);
                self.asked.retain(|_, at| now.saturating_duration_since(*at) < HEARD);
            }
            if self.asked.len() >= MOST {
                return;
            }
        }
        self.asked.insert(key, now);
    }

    /// Which channel makes room for one that `ip` asks for.
    fn leaving(&mut self, channel: ChannelId, ip: IpAddr, now: Instant) -> Option<ChannelId> {
        self.asked.retain(|_, at| now.saturating_duration_since(*at) < HEARD);
        let mut of_net: BTreeMap<Net, u64> = BTreeMap::new();
        for (_, net) in self.asked.keys() {
            let count = of_net.entry(*net).or_default();
            *count = count.saturating_add(1);
        }
        let askers = |channel: ChannelId| {
            let of_channel = self.asked.iter().filter(move |((asked, _), _)| *asked == channel);
            of_channel.map(|((_, net), at)| (*net, *at))
        };
        let voice = |net: Net| VOICE.checked_div(of_net.get(&net).copied().unwrap_or(1)).unwrap_or(VOICE);
        let voices = |channel| askers(channel).map(|(net, _)| voice(net)).fold(0, u64::saturating_add);
        let last = |channel| askers(channel).map(|(_, at)| at).max();
        let may_leave = |(id, joined): (&ChannelId, &Joined)| {
            (now.saturating_duration_since(joined.since) >= HOLD).then_some(*id)
        };
        let settled: Vec<ChannelId> = self.joined.iter().filter_map(may_leave).collect();
        let least = settled.iter().copied().min_by_key(|id| (voices(*id), last(*id)))?;
        if voices(least) < voices(channel) {
            return Some(least);
        }
        let own = site(ip);
        let is_idle = |at| now.saturating_duration_since(at) >= IDLE;
        let only_own = |id: &ChannelId| askers(*id).all(|(net, at)| net == own && is_idle(at));
        settled.into_iter().filter(only_own).min_by_key(|id| last(*id))
    }
}

/// The network that has a voice.
fn site(ip: IpAddr) -> Net {
    let nets = nets(ip);
    nets.get(1).or(nets.first()).copied().unwrap_or_else(|| Net::of(ip, 0))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Each entry is whole by itself.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_JOINED: usize = 4;

    fn channel(n: u8) -> ChannelId {
        ChannelId::new([n; 32])
    }

    fn home(n: u8) -> IpAddr {
        [192, 0, n, 1].into()
    }

    #[test]
    fn a_channel_with_viewers_stays_however_many_others_one_network_asks_for() {
        let (rooms, start) = (Rooms::new(MOST_JOINED), Instant::now());
        let watched = rooms.take(channel(0), home(1), start).unwrap();
        rooms.hear(channel(0), home(2), start);
        // A minute of asking for everything, from all addresses of one network.
        let mut held = Vec::new();
        for second in 0..60_u8 {
            let now = start + Duration::from_secs(second.into());
            for viewer in [1, 2] {
                rooms.hear(channel(0), home(viewer), now);
            }
            for n in 1..100 {
                held.extend(rooms.take(channel(n), [203, 0, 113, n].into(), now));
            }
        }
        assert!(!watched.eviction().is_cancelled());
        // At most all rooms anew each time the hold is over.
        assert!(held.len() <= MOST_JOINED * 7, "{} joined", held.len());
    }

    #[test]
    fn what_more_networks_want_takes_the_room_of_what_fewer_want() {
        let (rooms, start) = (Rooms::new(MOST_JOINED), Instant::now());
        let held: Vec<Room> = (0..4).map(|n| rooms.take(channel(n), home(100 + n), start).unwrap()).collect();
        let later = start + HOLD;
        for n in 0..4 {
            rooms.hear(channel(n), home(100 + n), later);
        }
        assert!(rooms.take(channel(9), home(1), later).is_none(), "one voice against one each");
        let wanted = rooms.take(channel(9), home(2), later).expect("two voices");
        assert_eq!(held.iter().filter(|room| room.eviction().is_cancelled()).count(), 1);
        assert!(rooms.take(channel(8), home(3), later + HOLD).is_none());
        assert!(!wanted.eviction().is_cancelled());
    }

    #[test]
    fn who_changes_channels_leaves_the_one_seen_longest_ago() {
        let (rooms, start) = (Rooms::new(MOST_JOINED), Instant::now());
        let mut held = Vec::new();
        for n in 0..9 {
            let now = start + HOLD * u32::from(n);
            held.push(rooms.take(channel(n), home(1), now).expect("one's own makes room"));
        }
        let gone = held.iter().take_while(|room| room.eviction().is_cancelled()).count();
        assert_eq!(gone, 5);
        assert!(held[5..].iter().all(|room| !room.eviction().is_cancelled()));
    }

    #[test]
    fn in_one_house_nobody_takes_the_channel_that_another_watches() {
        let (rooms, start) = (Rooms::new(MOST_JOINED), Instant::now());
        let held: Vec<Room> = (0..4).map(|n| rooms.take(channel(n), home(1), start).unwrap()).collect();
        let now = start + IDLE;
        (1..4).for_each(|n| rooms.hear(channel(n), home(1), now));
        let _next = rooms.take(channel(5), home(1), now).expect("the first is not watched");
        assert!(rooms.take(channel(6), home(1), now + IDLE / 2).is_none());
        let gone: Vec<bool> = held.iter().map(|room| room.eviction().is_cancelled()).collect();
        assert_eq!(gone, [true, false, false, false]);
    }

    #[test]
    fn a_room_is_free_when_it_is_given_back_and_not_twice() {
        let (rooms, start) = (Rooms::new(1), Instant::now());
        let first = rooms.take(channel(1), home(1), start).unwrap();
        assert!(rooms.take(channel(2), home(1), start).is_none(), "it has just been joined");
        let second = rooms.take(channel(2), home(1), start + IDLE).unwrap();
        assert!(first.eviction().is_cancelled());
        drop(first);
        assert!(rooms.take(channel(3), home(2), start + IDLE).is_none(), "the second has the room");
        drop(second);
        assert!(rooms.take(channel(3), home(2), start + IDLE).is_some());
    }

    #[test]
    fn who_is_sent_a_stream_keeps_its_voice() {
        let (rooms, start) = (Rooms::new(1), Instant::now());
        let room = rooms.take(channel(1), home(1), start).unwrap();
        let later = start + HEARD * 2;
        rooms.hear_all(channel(1), later);
        assert!(rooms.take(channel(2), home(2), later).is_none());
        assert!(!room.eviction().is_cancelled());
    }

    #[test]
    fn strangers_fill_no_memory() {
        let (rooms, start) = (Rooms::new(1), Instant::now());
        for n in 0..4 * MOST as u32 {
            rooms.hear(channel(1), IpAddr::from((n << 8).to_be_bytes()), start);
        }
        assert_eq!(lock(&rooms.0).asked.len(), MOST);
    }
}
