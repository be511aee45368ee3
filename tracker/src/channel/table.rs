//! Which channels there are, and who has brought how many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use minuet_guard::shares::{Room, Shares};
use minuet_proto::ChannelId;

use super::life::Life;
use super::{Channel, EVICTABLE_AFTER};

/// The table of channels.
#[derive(Debug)]
pub(super) struct Table {
    pub channels: HashMap<ChannelId, Arc<Channel>>,
    /// Who has brought how many.
    pub shares: Shares,
}

impl Table {
    /// No channels, and room for so many.
    pub fn new(most: usize) -> Self {
        Self { channels: HashMap::new(), shares: Shares::new(most as u64) }
    }

    /// Adds a channel, on the account of who brought it.
    pub fn insert(&mut self, channel: Arc<Channel>) {
        match channel.life().brought_by {
            Some(ip) => self.shares.take(ip, 1),
            None => self.shares.take_unshared(1),
        }
        self.channels.insert(channel.id, channel);
    }

    /// Takes a channel off, which is gone from then on.
    pub fn remove(&mut self, id: &ChannelId) -> Option<Arc<Channel>> {
        let channel = self.channels.remove(id)?;
        match channel.life().brought_by {
            Some(ip) => self.shares.give_back(ip, 1),
            None => self.shares.give_back_unshared(1),
        }
        channel.gone.store(true, Ordering::Release);
        Some(channel)
    }

    /// The quietest of those that `of` holds for.
    fn quietest(&self, now_ms: u64, of: impl Fn(&Life) -> bool) -> Option<(ChannelId, u64)> {
        let quiet = self.channels.values().filter(|channel| of(&channel.life()));
        quiet.map(|channel| (channel.id, channel.quiet_ms(now_ms))).max_by_key(|(_, quiet)| *quiet)
    }

    /// Which channel has to go for one that `from` brings, in a full table.
    pub fn victim(&self, from: Option<IpAddr>, now_ms: u64) -> Option<ChannelId> {
        let (quietest, quiet_ms) = self.quietest(now_ms, |_| true)?;
        if u128::from(quiet_ms) > EVICTABLE_AFTER.as_millis() {
            return Some(quietest);
        }
        let Ok(Room::InPlaceOf(net)) = self.shares.room(from?, 1) else { return None };
        let of_net = |life: &Life| life.brought_by.is_some_and(|ip| net.contains(ip));
        self.quietest(now_ms, of_net).map(|(id, _)| id)
    }
}
