//! Places of nodes in all meshes together, shared between households (`minuet_guard::shares`): while there is room every
//! node gets one, and when there is none a newcomer takes the place of a node of the network that holds most.
//!
//! Pure. Says too which keys have a place: the relay server serves no others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use minuet_guard::net::{Net, household};
use minuet_guard::shares::{Refused, Room, Shares};
use minuet_proto::ChannelId;
use minuet_proto::mesh::NodeId;

/// Households of one network that are looked at for the one that holds most.
const MOST_LOOKED_AT: usize = 1024;

/// How there is a place for a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is free.
    Free,
    /// A node of this household in this channel's mesh has to go.
    InPlaceOf(ChannelId, Net),
}

/// The places of all meshes.
#[derive(Debug)]
pub struct NodePlaces(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    shares: Shares,
    /// Nodes of each household in each mesh.
    held: BTreeMap<(Net, ChannelId), u32>,
    /// How many places each key has: one for each channel.
    keys: HashMap<NodeId, u32, foldhash::fast::RandomState>,
}

impl NodePlaces {
    /// `total` places, all of them free.
    pub fn new(total: usize) -> Self {
        let shares = Shares::new(total as u64);
        Self(Mutex::new(Inner { shares, held: BTreeMap::new(), keys: HashMap::default() }))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        usize::try_from(self.lock().shares.used()).unwrap_or(usize::MAX)
    }

    /// Whether a node with this key has a place.
    pub fn has(&self, node: &NodeId) -> bool {
        self.lock().keys.contains_key(node)
    }

    /// Where there would be a place for a node at `ip`.
    ///
    /// # Errors
    /// [`Refused`] if all are taken and nobody holds more.
    pub fn find(&self, ip: IpAddr) -> Result<Place, Refused> {
        let inner = self.lock();
        let net = match inner.shares.room(ip, 1)? {
            Room::Free => return Ok(Place::Free),
            Room::InPlaceOf(net) => net,
        };
        let first = (household(net.base()), ChannelId::new([0; 32]));
        inner
            .held
            .range(first..)
            .take_while(|((household, _), _)| net.contains(household.base()))
            .take(MOST_LOOKED_AT)
            .max_by_key(|(_, count)| **count)
            .map(|((household, channel), _)| Place::InPlaceOf(*channel, *household))
            .ok_or(Refused)
    }

    /// Whether there is a free place.
    pub fn has_free(&self) -> bool {
        self.lock().shares.free() > 0
    }

    /// Takes a place, whether there is one or not: the caller has looked.
    pub(super) fn take(&self, channel: &ChannelId, node: &NodeId, ip: IpAddr) {
        let mut inner = self.lock();
        inner.shares.take(ip, 1);
        *inner.held.entry((household(ip), *channel)).or_default() += 1;
        *inner.keys.entry(*node).or_default() += 1;
    }

    /// Gives a place back.
    pub(super) fn give_back(&self, channel: &ChannelId, node: &NodeId, ip: IpAddr) {
        let mut inner = self.lock();
        inner.shares.give_back(ip, 1);
        let at = (household(ip), *channel);
        if let Some(count) = inner.held.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                inner.held.remove(&at);
            }
        }
        if let Some(count) = inner.keys.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                inner.keys.remove(node);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
