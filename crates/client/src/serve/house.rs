//! The channels of a gateway: which there are, and which of them this machine is in the mesh of.
//!
//! Rules:
//! 1. The channels of a relay's command line, and a single one of `minuet watch`, are joined at the start and for good.
//! 2. Any other is joined when somebody asks for something of it, and left when nobody has for [`LEAVE`].
//! 3. No more than [`JOINED`] are joined by rule 2 at a time. Which of them makes room for another say [`rooms`](super::rooms).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use minuet_proto::{ChannelId, ChannelLink};
use tokio::sync::{mpsc, watch};

use super::{
    Station,
    access::Access,
    http::Gateway,
    rooms::{Room, Rooms},
};

/// How long after the last request a channel is left.
const LEAVE: Duration = Duration::from_secs(120);
/// How often it is looked whether that is so.
const LOOK: Duration = Duration::from_secs(5);
/// Channels that are joined because somebody asks.
const JOINED: usize = 8;
/// Channels in all: as many as a tracker lists.
pub const MAX_CHANNELS: usize = 512;
/// How long whoever asks waits for a channel to be joined.
const JOIN_WAIT: Duration = Duration::from_secs(9);

/// A channel.
pub struct Channel {
    /// Its link.
    pub link: ChannelLink,
    /// What is said of it.
    pub station: Arc<Station>,
    /// It is never left.
    pub stays: bool,
    /// Its routes' state while this machine is in its mesh.
    gateway: watch::Sender<Option<Gateway>>,
    wish: Mutex<Wish>,
}

#[derive(Debug)]
struct Wish {
    /// When somebody asked last.
    at: Instant,
    /// By rule 3; none: it is neither joined nor being joined.
    room: Option<Room>,
    /// Why it was not joined, the last time.
    failed: Option<String>,
}

/// Why a channel is not there for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// The gateway does not carry it.
    Unknown,
    /// It carries as many as it can.
    Full,
    /// It is being joined, or could not be.
    Later(Option<String>),
}

/// All channels. Cheap to clone.
#[derive(Clone)]
pub struct House(Arc<Inner>);

struct Inner {
    channels: Mutex<BTreeMap<ChannelId, Arc<Channel>>>,
    /// The one channel that there is and ever will be.
    single: Option<ChannelId>,
    access: Access,
    rooms: Rooms,
    joins: mpsc::Sender<Arc<Channel>>,
}

impl Channel {
    fn new(link: ChannelLink, stays: bool) -> Self {
        let station = Arc::new(Station::new(link.title.as_deref()));
        let wish = Wish { at: Instant::now(), room: None, failed: None };
        Self { link, station, stays, gateway: watch::Sender::new(None), wish: Mutex::new(wish) }
    }

    /// This machine is in its mesh: requests are answered from now on.
    pub fn set_gateway(&self, gateway: Gateway) {
        self.wish().failed = None;
        self.gateway.send_replace(Some(gateway));
    }

    /// What answers its requests, if this machine is in its mesh.
    pub fn gateway(&self) -> Option<Gateway> {
        self.gateway.borrow().clone()
    }

    /// Requests are not answered any more.
    pub fn close(&self) {
        self.gateway.send_replace(None);
    }

    /// This machine has left its mesh, or could not join it.
    pub fn leave(&self, failed: Option<String>) {
        self.close();
        let mut wish = self.wish();
        (wish.room, wish.failed) = (None, failed);
    }

    /// Waits until nobody has asked for long, or until it has to make room for another.
    async fn unwanted(&self, rooms: &Rooms) {
        let eviction = self.wish().room.as_ref().map(Room::eviction);
        let looking = async {
            while !self.is_left_alone(rooms, Instant::now()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        match eviction {
            _ if self.stays => std::future::pending().await,
            None => looking.await,
            Some(eviction) => tokio::select! {
                () = eviction.cancelled() => {}
                () = looking => {}
            },
        }
    }

    /// Whether nobody has asked for long.
    fn is_left_alone(&self, rooms: &Rooms, now: Instant) -> bool {
        let plays = self.gateway().is_some_and(|gateway| gateway.is_playing());
        if plays {
            rooms.hear_all(self.link.channel, now);
        }
        let mut wish = self.wish();
        if plays {
            wish.at = now;
        }
        now.saturating_duration_since(wish.at) > LEAVE
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        // Each field is whole by itself.
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl House {
    /// These channels, of which the first `staying` are never left; and what is to be joined, as it is asked for. A house
    /// that `grows` may get more.
    pub fn new(
        links: Vec<ChannelLink>,
        staying: usize,
        grows: bool,
        word: Option<String>,
    ) -> (Self, mpsc::Receiver<Arc<Channel>>) {
        let (joins, wanted) = mpsc::channel(MAX_CHANNELS);
        let single = (!grows && links.len() == 1).then(|| links[0].channel);
        let channel = |(index, link): (usize, ChannelLink)| {
            (link.channel, Arc::new(Channel::new(link, index < staying)))
        };
        let channels = links.into_iter().enumerate().take(MAX_CHANNELS).map(channel).collect();
        let access = Access::new(word);
        let inner =
            Inner { channels: Mutex::new(channels), single, access, rooms: Rooms::new(JOINED), joins };
        (Self(Arc::new(inner)), wanted)
    }

    /// A house of one channel, which is joined already.
    pub fn of_one(link: ChannelLink, word: Option<String>) -> (Self, Arc<Channel>) {
        let channel = link.channel;
        let (house, _) = Self::new(vec![link], 1, false, word);
        let found = house.channels().into_iter().find(|known| known.link.channel == channel);
        // It was put there just now.
        let found = found.unwrap_or_else(|| Arc::new(Channel::new(empty(channel), true)));
        (house, found)
    }

    /// Who may watch.
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// Whether there are several channels, so that each has a folder of its own.
    pub fn has_several(&self) -> bool {
        self.0.single.is_none()
    }

    /// The channels, those that stay first, then by title.
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        let mut all: Vec<Arc<Channel>> = self.lock().values().cloned().collect();
        all.sort_by_cached_key(|channel| {
            (!channel.stays, channel.station.title().to_lowercase(), channel.link.channel)
        });
        all
    }

    /// The channels that may be asked for besides those of the command line are these now.
    pub fn list(&self, listed: Vec<ChannelLink>, named: &[ChannelId]) {
        let mut channels = self.lock();
        channels.retain(|id, channel| {
            let is_named = channel.stays || named.contains(id);
            is_named || channel.gateway().is_some() || listed.iter().any(|link| link.channel == *id)
        });
        for link in listed {
            if channels.len() >= MAX_CHANNELS {
                break;
            }
            channels.entry(link.channel).or_insert_with(|| Arc::new(Channel::new(link, false)));
        }
    }

    /// The channel of a name in an address; without one, the single one.
    pub fn find(&self, name: Option<&str>) -> Option<Arc<Channel>> {
        let id = match name {
            Some(name) => name.parse().ok()?,
            None => self.0.single?,
        };
        self.lock().get(&id).cloned()
    }

    /// Somebody at `ip` asks for something of a channel: it is joined if need be. Does not wait.
    pub fn ask(&self, channel: &Arc<Channel>, ip: IpAddr) -> Result<(), Absent> {
        if channel.stays {
            return Ok(());
        }
        let (id, now) = (channel.link.channel, Instant::now());
        let mut wish = channel.wish();
        wish.at = now;
        if wish.room.is_some() {
            self.0.rooms.hear(id, ip, now);
            return Ok(());
        }
        wish.room = Some(self.0.rooms.take(id, ip, now).ok_or(Absent::Full)?);
        drop(wish);
        if self.0.joins.try_send(Arc::clone(channel)).is_err() {
            channel.leave(None);
            return Err(Absent::Full);
        }
        Ok(())
    }

    /// What answers the requests of a channel, for somebody at `ip`: waits until it is joined.
    pub async fn gateway(&self, channel: &Arc<Channel>, ip: IpAddr) -> Result<Gateway, Absent> {
        self.ask(channel, ip)?;
        let mut there = channel.gateway.subscribe();
        let waiting = there.wait_for(Option::is_some);
        let found = tokio::time::timeout(JOIN_WAIT, waiting).await.ok().and_then(Result::ok);
        match found.as_deref() {
            Some(Some(gateway)) => Ok(gateway.clone()),
            Some(None) | None => Err(Absent::Later(channel.wish().failed.clone())),
        }
    }

    /// Waits until nobody has asked for a channel for long, or until it has to make room for another.
    pub async fn unwanted(&self, channel: &Channel) {
        channel.unwanted(&self.0.rooms).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ChannelId, Arc<Channel>>> {
        // Each entry is whole by itself.
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link that names nothing but the channel.
fn empty(channel: ChannelId) -> ChannelLink {
    ChannelLink { channel, title: None, trackers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(n: u8) -> ChannelLink {
        ChannelLink { title: Some(format!("Tower {n}")), ..empty(ChannelId::new([n; 32])) }
    }

    fn home(n: u8) -> IpAddr {
        [192, 0, n, 1].into()
    }

    #[tokio::test]
    async fn a_channel_is_joined_when_somebody_asks_and_once() {
        let (house, mut wanted) = House::new(vec![link(1), link(2)], 1, false, None);
        let [stays, comes] = [1, 2].map(|n| house.find(Some(&ChannelId::new([n; 32]).to_string())).unwrap());
        assert_eq!(house.ask(&stays, home(1)), Ok(()));
        assert!(wanted.try_recv().is_err(), "it is joined already");
        assert_eq!((house.ask(&comes, home(1)), house.ask(&comes, home(2))), (Ok(()), Ok(())));
        assert_eq!(wanted.try_recv().unwrap().link, link(2));
        assert!(wanted.try_recv().is_err(), "it is being joined");
        comes.leave(None);
        assert_eq!(house.ask(&comes, home(1)), Ok(()));
        assert_eq!(wanted.try_recv().unwrap().link, link(2));
        assert!(house.find(None).is_none() && house.find(Some("no")).is_none());
    }

    #[tokio::test]
    async fn a_channel_that_nobody_asks_for_is_left() {
        let (house, _wanted) = House::new(vec![link(1), link(2)], 0, false, None);
        let channel = house.find(Some(&ChannelId::new([2; 32]).to_string())).unwrap();
        house.ask(&channel, home(1)).unwrap();
        let now = Instant::now();
        let left_alone = |after| channel.is_left_alone(&house.0.rooms, now + after);
        assert!(!left_alone(LEAVE / 2) && left_alone(LEAVE + LOOK));
    }

    #[tokio::test]
    async fn there_is_room_for_some_channels_and_whoever_asks_for_another_is_told() {
        let (house, _wanted) = House::new((0..20).map(link).collect(), 0, true, None);
        let channels = house.channels();
        let joined = channels.iter().filter(|channel| house.ask(channel, home(1)).is_ok()).count();
        assert_eq!(joined, JOINED);
        let other = channels.iter().find(|channel| channel.wish().room.is_none()).unwrap();
        assert_eq!(house.ask(other, home(2)), Err(Absent::Full));
        let left = channels.iter().find(|channel| channel.wish().room.is_some()).unwrap();
        left.leave(None);
        assert_eq!(house.ask(other, home(2)), Ok(()));
    }

    #[test]
    fn what_trackers_list_comes_and_goes() {
        let (house, _wanted) = House::new(vec![link(1), link(2)], 1, true, None);
        let named = [ChannelId::new([2; 32])];
        house.list(vec![link(3), link(4)], &named);
        assert_eq!(house.channels().len(), 4);
        house.list(vec![link(4)], &named);
        assert!(house.find(Some(&ChannelId::new([3; 32]).to_string())).is_none());
        house.list((5..=255).map(link).collect(), &named);
        assert_eq!(house.channels().len(), 2 + 251);
    }
}
