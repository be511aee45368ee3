//! Channels: who may publish, what is remembered, and who is told.
//!
//! The channel's key is the only authority: whatever carries its signature, fits what is known and is within
//! the limits is accepted, from whoever brings it. An accepted statement is on disk before its publisher
//! hears of it, and only then visible.
//!
//! Bounded by [`ChannelLimits`]. When the table is full, the channel that has been quiet for the longest goes,
//! if that is longer than [`EVICTABLE_AFTER`]; otherwise the newcomer is refused.

pub mod store;
pub mod window;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use minuet_proto::channel_api::mesh::{CheckedHead, decode_heads};
use minuet_proto::channel_api::{Peer, Publication};
use minuet_proto::{ChannelId, InfoHash, Metainfo, SegmentSeq, SignedRecord, SignedState};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::http::connections::network;
use crate::mesh::{Mesh, NodeCount};
use crate::swarm::table::Swarms;
use crate::time::Uptime;
use store::{Change, Store, StoreError};
use window::{Entry, Place, PlaceError, Window, WindowLimits};

/// How long a channel must have been quiet before a newcomer may take its place in a full table.
pub const EVICTABLE_AFTER: Duration = Duration::from_secs(3600);

/// What bounds the channels.
#[derive(Debug, Clone)]
pub struct ChannelLimits {
    /// The most channels.
    pub channels: usize,
    /// The most channels that one address (/56 for IPv6) may have brought since the start.
    pub channels_per_address: usize,
    /// How long a channel is kept after its last publication.
    pub ttl: Duration,
    /// Each channel's window.
    pub window: WindowLimits,
}

/// Why a publication is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not what the wire format says, a bad signature, or another channel's.
    #[error(transparent)]
    Invalid(#[from] minuet_proto::Error),
    /// The torrent is not the one that the record names.
    #[error("the torrent is not the one that the record names: {0} differs")]
    WrongTorrent(&'static str),
    /// It does not fit what is known.
    #[error(transparent)]
    Misplaced(#[from] PlaceError),
    /// No room for another channel.
    #[error("this tracker has as many channels as it may hold; use another tracker or try again in an hour")]
    Full,
    /// Too many channels of one address.
    #[error("your address has brought as many channels as one may; use another tracker")]
    TooManyOfAddress,
    /// The disk failed.
    #[error("the tracker could not store it: {0}; try again")]
    Store(#[from] StoreError),
    /// The tracker is going down.
    #[error("the tracker is shutting down; try again")]
    ShuttingDown,
}

/// Whether a publication was news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Accepted now.
    New,
    /// Accepted before.
    Known,
}

/// One channel.
#[derive(Debug)]
pub struct Channel {
    id: ChannelId,
    window: Mutex<Window>,
    mesh: Mutex<Mesh>,
    /// Held from looking where a statement belongs until it is there, across the write to disk.
    publishing: tokio::sync::Mutex<()>,
    /// Counts changes, for subscribers.
    changes: watch::Sender<u64>,
    published_at: AtomicU64,
    /// Who brought the channel; not known of channels from an earlier run.
    brought_by: Option<IpAddr>,
    /// How many have joined; wraps.
    joins: AtomicU32,
    /// Peers that other trackers have told of, and until when they count.
    foreign_peers: Mutex<(Vec<Peer>, Uptime)>,
}

impl Channel {
    /// Counts one who joins: its number among them.
    pub fn count_join(&self) -> u32 {
        self.joins.fetch_add(1, Ordering::Relaxed)
    }

    /// Peers that other trackers have told of.
    pub fn foreign_peers(&self, now: Uptime) -> Vec<Peer> {
        let foreign = self.foreign_peers.lock().unwrap_or_else(PoisonError::into_inner);
        if foreign.1 < now { Vec::new() } else { foreign.0.clone() }
    }

    /// Replaces them.
    pub fn set_foreign_peers(&self, peers: Vec<Peer>, until: Uptime) {
        *self.foreign_peers.lock().unwrap_or_else(PoisonError::into_inner) = (peers, until);
    }

    fn new(id: ChannelId, window: Window, now_ms: u64, brought_by: Option<IpAddr>) -> Self {
        Self {
            id,
            window: Mutex::new(window),
            mesh: Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            published_at: AtomicU64::new(now_ms),
            brought_by,
            joins: AtomicU32::new(0),
            foreign_peers: Mutex::default(),
        }
    }

    /// The channel's key.
    pub fn id(&self) -> &ChannelId {
        &self.id
    }

    /// The window, to be looked at briefly.
    pub fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live mesh, to be looked at briefly.
    pub fn mesh(&self) -> MutexGuard<'_, Mesh> {
        self.mesh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the window does.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.changes.receiver_count()
    }

    fn touch(&self, now_ms: u64) {
        self.published_at.store(now_ms, Ordering::Relaxed);
    }

    fn quiet_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.published_at.load(Ordering::Relaxed))
    }
}

/// All channels.
#[derive(Debug)]
pub struct Channels {
    table: RwLock<HashMap<ChannelId, Arc<Channel>>>,
    limits: ChannelLimits,
    store: Store,
    swarms: Arc<Swarms>,
    nodes: NodeCount,
}

impl Channels {
    /// Takes up what the store has kept, and admits its swarms.
    pub fn restore(
        store: Store,
        swarms: Arc<Swarms>,
        limits: ChannelLimits,
        now_ms: u64,
    ) -> Result<Self, StoreError> {
        let mut table = HashMap::new();
        for (id, kept) in store.load()? {
            let mut window = Window::default();
            for entry in kept.entries {
                let info_hash = entry.record.info_hash;
                window.restore(entry);
                swarms.admit(info_hash, window.predecessor(window.entries().len() - 1));
            }
            if let Some(state) = kept.state {
                window.set_state(state);
            }
            table.insert(id, Arc::new(Channel::new(id, window, now_ms, None)));
        }
        if !table.is_empty() {
            info!(channels = table.len(), "took up the channels of the last run");
        }
        Ok(Self { table: RwLock::new(table), limits, store, swarms, nodes: NodeCount::default() })
    }

    /// A channel, if something has been published in it.
    pub fn get(&self, id: &ChannelId) -> Option<Arc<Channel>> {
        self.read().get(id).cloned()
    }

    /// Number of channels.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is no channel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All channels, in no order.
    pub fn all(&self) -> Vec<Arc<Channel>> {
        self.read().values().cloned().collect()
    }

    /// Accepts a record with its torrent, brought by `from`; by another tracker when it is `None`.
    ///
    /// Not to be dropped half-way, since the write may be done by then: run it in a task of its own.
    pub async fn publish_record(
        &self,
        id: ChannelId,
        body: &[u8],
        from: Option<IpAddr>,
        now_ms: u64,
    ) -> Result<Published, PublishError> {
        let publication = Publication::decode(body)?;
        let record = SignedRecord::decode(&publication.record, id)?;
        let torrent = Metainfo::parse(&publication.torrent)?;
        check_torrent(&record, &torrent)?;
        let (channel, evicted) = self.get_or_create(id, from, now_ms)?;
        let _publishing = channel.publishing.lock().await;
        let limits = &self.limits.window;
        let (at, entry) = {
            let window = channel.window();
            match window.place(&record, limits)? {
                Place::Known => return Ok(Published::Known),
                Place::New(at) => (at, Entry::new(record.clone(), publication.torrent.clone())),
            }
        };
        // What will leave the window is taken off the disk with the next commit that follows; a crash in
        // between only leaves a few records more to load.
        let put = Change::Put(Box::new(record.clone()), publication.torrent);
        self.store.commit(evicted.map(Change::Forget).into_iter().chain([put]).collect()).await?;
        let (gone, predecessor) = {
            let mut window = channel.window();
            let gone = window.insert(at, entry, limits);
            let at = window.first_after(Some(record.seq)).saturating_sub(1);
            (gone, window.predecessor(at))
        };
        self.swarms.admit(record.info_hash, predecessor);
        channel.changes.send_modify(|changes| *changes += 1);
        self.drop_entries(&channel, gone).await;
        Ok(Published::New)
    }

    /// Accepts a channel state. As with records, not to be dropped half-way.
    pub async fn publish_state(
        &self,
        id: ChannelId,
        body: &[u8],
        from: Option<IpAddr>,
        now_ms: u64,
    ) -> Result<Published, PublishError> {
        let state = SignedState::decode(body, id)?;
        let (channel, evicted) = self.get_or_create(id, from, now_ms)?;
        let _publishing = channel.publishing.lock().await;
        if !channel.window().place_state(&state)? {
            return Ok(Published::Known);
        }
        let set = Change::SetState(Box::new(state.clone()));
        self.store.commit(evicted.map(Change::Forget).into_iter().chain([set]).collect()).await?;
        channel.window().set_state(state);
        channel.changes.send_modify(|changes| *changes += 1);
        Ok(Published::New)
    }

    /// Takes in heads of the live mesh and returns how many were news. They are kept in memory only: what is newest
    /// now is old in a minute. The first head proves a channel that nothing has been published of.
    pub async fn publish_heads(
        &self,
        id: ChannelId,
        body: &[u8],
        from: Option<IpAddr>,
        now_ms: u64,
    ) -> Result<usize, PublishError> {
        let mut heads = decode_heads(body)?;
        if let Some(channel) = self.get(&id) {
            let mesh = channel.mesh();
            heads.retain(|head| !mesh.heads.knows(head));
        }
        // With no lock held: signatures take their time.
        let heads =
            heads.into_iter().map(|head| CheckedHead::check(head, &id)).collect::<Result<Vec<_>, _>>()?;
        if heads.is_empty() {
            return Ok(0);
        }
        let (channel, evicted) = self.get_or_create(id, from, now_ms)?;
        let news = {
            let mut mesh = channel.mesh();
            heads.iter().filter(|head| mesh.heads.insert(head)).count()
        };
        if let Some(evicted) = evicted {
            self.store.commit(vec![Change::Forget(evicted)]).await?;
        }
        Ok(news)
    }

    /// Nodes of all meshes.
    pub fn nodes(&self) -> &NodeCount {
        &self.nodes
    }

    /// Forgets nodes that have been silent for too long.
    pub fn expire_nodes(&self, now: Uptime) {
        self.all().iter().for_each(|channel| channel.mesh().expire(now, &self.nodes));
    }

    /// The torrent of a segment. Reads the disk unless it is one of the newest: not for an async task.
    pub fn torrent_from_disk(&self, id: &ChannelId, seq: SegmentSeq) -> Result<Option<Bytes>, StoreError> {
        self.store.torrent(id, seq)
    }

    /// Forgets channels that have published nothing for as long as a channel is kept.
    pub async fn forget_quiet(&self, now_ms: u64) {
        let ttl_ms = u64::try_from(self.limits.ttl.as_millis()).unwrap_or(u64::MAX);
        let quiet: Vec<ChannelId> = {
            let table = self.read();
            table.values().filter(|c| c.quiet_ms(now_ms) > ttl_ms).map(|c| c.id).collect()
        };
        for id in quiet {
            if let Some(channel) = self.remove(&id) {
                info!(channel = %channel.id, "forgetting a channel that has been quiet for long");
                if let Err(error) = self.store.commit(vec![Change::Forget(id)]).await {
                    warn!(%error, "a forgotten channel is still on disk");
                }
            }
        }
    }

    /// Waits for writes that are under way and closes the store.
    pub fn close(self) {
        self.store.close();
    }

    /// The channel, and the one that had to go for it.
    fn get_or_create(
        &self,
        id: ChannelId,
        from: Option<IpAddr>,
        now_ms: u64,
    ) -> Result<(Arc<Channel>, Option<ChannelId>), PublishError> {
        if let Some(channel) = self.get(&id) {
            channel.touch(now_ms);
            return Ok((channel, None));
        }
        // What another tracker has accepted was counted there.
        let network = from.map(network);
        let brought = self.read().values().filter(|c| network.is_some() && c.brought_by == network).count();
        if brought >= self.limits.channels_per_address {
            return Err(PublishError::TooManyOfAddress);
        }
        let mut evicted = None;
        if self.len() >= self.limits.channels {
            let quietest = self.read().values().max_by_key(|c| c.quiet_ms(now_ms)).cloned();
            let quietest = quietest
                .filter(|c| u128::from(c.quiet_ms(now_ms)) > EVICTABLE_AFTER.as_millis())
                .ok_or(PublishError::Full)?;
            self.remove(&quietest.id);
            evicted = Some(quietest.id);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let channel = table.entry(id).or_insert_with(|| {
            info!(channel = %id, "a new channel");
            Arc::new(Channel::new(id, Window::default(), now_ms, network))
        });
        Ok((Arc::clone(channel), evicted))
    }

    /// Takes a channel off the table and drops its swarms.
    fn remove(&self, id: &ChannelId) -> Option<Arc<Channel>> {
        let channel = self.table.write().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        let hashes: Vec<InfoHash> = channel.window().entries().iter().map(|e| e.record.info_hash).collect();
        hashes.iter().for_each(|hash| self.swarms.retire(hash));
        channel.mesh().clear(&self.nodes);
        Some(channel)
    }

    async fn drop_entries(&self, channel: &Channel, gone: Vec<Entry>) {
        if gone.is_empty() {
            return;
        }
        gone.iter().for_each(|entry| self.swarms.retire(&entry.record.info_hash));
        let removals = gone.iter().map(|entry| Change::Remove(channel.id, entry.record.seq)).collect();
        if let Err(error) = self.store.commit(removals).await {
            warn!(channel = %channel.id, %error, "records that have left the window are still on disk");
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<ChannelId, Arc<Channel>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_torrent(record: &SignedRecord, torrent: &Metainfo) -> Result<(), PublishError> {
    if torrent.info_hash() != record.info_hash {
        return Err(PublishError::WrongTorrent("the info hash"));
    }
    if torrent.info().length != record.length {
        return Err(PublishError::WrongTorrent("the length"));
    }
    if torrent.info().piece_length != record.piece_length {
        return Err(PublishError::WrongTorrent("the piece length"));
    }
    Ok(())
}
