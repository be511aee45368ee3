//! Channels: who may publish, what is remembered, and who is told.
//!
//! The channel's key is the only authority: whatever carries its signature, fits what is known and is within
//! the limits is accepted, from whoever brings it. An accepted statement is on disk before its publisher
//! hears of it, and only then visible.
//!
//! Bounded by [`ChannelLimits`]. When the table is full, the channel that has been quiet for the longest goes,
//! if that is longer than [`EVICTABLE_AFTER`]; otherwise the quietest of the network that has brought most, if the
//! newcomer's has brought less (`minuet_guard::shares`); otherwise the newcomer is refused.

mod error;
pub mod life;
pub mod store;
mod table;
pub mod torrents;
pub mod window;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use minuet_guard::net::household;
use minuet_proto::channel_api::mesh::{CheckedHead, decode_heads};
use minuet_proto::channel_api::{Peer, Publication};
use minuet_proto::{ChannelId, InfoHash, Metainfo, SegmentSeq, SignedRecord, SignedState};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::mesh::Mesh;
use crate::mesh::places::{NodePlaces, Place as NodePlace};
pub use error::{PublishError, Published};
use life::Life;
use minuet_announce::swarm::table::Swarms;
use minuet_announce::time::Uptime;
use minuet_proto::mesh::NodeId;
use store::{Change, Part, Store, StoreError};
use table::Table;
use torrents::Torrents;
use window::{Entry, Place, Window, WindowLimits};

/// How long a channel must have been quiet before a newcomer may take its place in a full table.
pub const EVICTABLE_AFTER: Duration = Duration::from_secs(3600);

/// What bounds the channels.
#[derive(Debug, Clone)]
pub struct ChannelLimits {
    /// The most channels.
    pub channels: usize,
    /// The most channels that one address (/56 for IPv6) may bring, also where there is room for more.
    pub channels_per_address: Option<usize>,
    /// How long a channel is kept after its last publication.
    pub ttl: Duration,
    /// Bytes of torrents that are kept in memory, of all channels.
    pub torrents: usize,
    /// Each channel's window.
    pub window: WindowLimits,
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
    life: Mutex<Life>,
    /// Whether the channel was forgotten; then what is published goes to another one of the same name.
    gone: AtomicBool,
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

    fn new(id: ChannelId, window: Window, life: Life) -> Self {
        Self {
            id,
            window: Mutex::new(window),
            mesh: Mutex::new(Mesh::new(id)),
            publishing: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            life: Mutex::new(life),
            gone: AtomicBool::new(false),
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

    /// Whether the channel was forgotten.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whose household brought it; `None` when another tracker did.
    pub fn brought_by(&self) -> Option<IpAddr> {
        self.life().brought_by
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something with this time was accepted. Returns the change to keep.
    fn lives(&self, said_ms: u64, now_ms: u64) -> Change {
        let mut life = self.life();
        life.hear(said_ms, now_ms);
        Change::SetLife(self.id, *life)
    }

    fn quiet_ms(&self, now_ms: u64) -> u64 {
        self.life().quiet_ms(now_ms)
    }
}

/// All channels.
#[derive(Debug)]
pub struct Channels {
    table: RwLock<Table>,
    limits: ChannelLimits,
    store: Store,
    torrents: Torrents,
    swarms: Arc<Swarms>,
    nodes: NodePlaces,
}

impl Channels {
    /// Takes up what the store has kept, and admits its swarms. `nodes` may meet in all meshes together.
    pub fn restore(
        store: Store,
        swarms: Arc<Swarms>,
        limits: ChannelLimits,
        nodes: usize,
        now_ms: u64,
    ) -> Result<Self, StoreError> {
        let mut table = Table::new(limits.channels);
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
            let life = kept.life.unwrap_or(Life { brought_by: None, said_ms: 0, heard_ms: now_ms });
            table.insert(Arc::new(Channel::new(id, window, life)));
        }
        if !table.channels.is_empty() {
            info!(channels = table.channels.len(), "took up the channels of the last run");
        }
        let torrents = Torrents::new(limits.torrents);
        let nodes = NodePlaces::new(nodes);
        Ok(Self { table: RwLock::new(table), limits, store, torrents, swarms, nodes })
    }

    /// A channel, if something has been published in it.
    pub fn get(&self, id: &ChannelId) -> Option<Arc<Channel>> {
        self.read().channels.get(id).cloned()
    }

    /// Number of channels.
    pub fn len(&self) -> usize {
        self.read().channels.len()
    }

    /// Whether there is no channel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All channels, in no order.
    pub fn all(&self) -> Vec<Arc<Channel>> {
        self.read().channels.values().cloned().collect()
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
        let channel = self.get_or_create(id, from, record.sealed_ms, now_ms).await?;
        let _publishing = channel.publishing.lock().await;
        if channel.is_gone() {
            return Err(PublishError::Evicted);
        }
        let limits = &self.limits.window;
        let (at, entry) = {
            let window = channel.window();
            match window.place(&record, limits)? {
                Place::Known => return Ok(Published::Known),
                Place::New(at) => (at, Entry::new(record.clone(), publication.torrent.len())),
            }
        };
        // What will leave the window is taken off the disk with the next commit that follows; a crash in
        // between only leaves a few records more to load.
        let put = Change::Put(Box::new(record.clone()), publication.torrent.clone());
        self.store.commit(vec![put, channel.lives(record.sealed_ms, now_ms)]).await?;
        self.torrents.keep(id, record.seq, publication.torrent);
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
        let channel = self.get_or_create(id, from, state.at_ms, now_ms).await?;
        let _publishing = channel.publishing.lock().await;
        if channel.is_gone() {
            return Err(PublishError::Evicted);
        }
        if !channel.window().place_state(&state)? {
            return Ok(Published::Known);
        }
        let set = Change::SetState(Box::new(state.clone()));
        self.store.commit(vec![set, channel.lives(state.at_ms, now_ms)]).await?;
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
        let said_ms =
            |head: &CheckedHead| head.get().pieces.iter().map(|piece| piece.ingest_ms).max().unwrap_or(0);
        let newest_ms = heads.iter().map(said_ms).max().unwrap_or(0);
        let channel = self.get_or_create(id, from, newest_ms, now_ms).await?;
        let news = {
            let mut mesh = channel.mesh();
            heads.iter().filter(|head| mesh.heads.insert(head)).count()
        };
        if news > 0 {
            // On disk with the next record or state.
            channel.lives(newest_ms, now_ms);
        }
        Ok(news)
    }

    /// Places of the nodes of all meshes.
    pub fn nodes(&self) -> &NodePlaces {
        &self.nodes
    }

    /// Sees to it that there is a place for a node of a channel at `ip`, and returns whether there is. Nodes of those who
    /// hold most go for it.
    pub fn room_for(&self, channel: &Channel, node: &NodeId, ip: IpAddr) -> bool {
        // More than one can be needed only when others take the places meanwhile.
        const TRIES: usize = 4;
        channel.mesh().has(node)
            || (0..TRIES).any(|_| match self.nodes.find(ip) {
                Ok(NodePlace::Free) => true,
                Ok(NodePlace::InPlaceOf(id, net)) => {
                    // When it has gone by itself, the next try finds the place free.
                    let _ = self.get(&id).map(|channel| channel.mesh().evict(net, &self.nodes));
                    self.nodes.has_free()
                }
                Err(_) => false,
            })
    }

    /// Forgets nodes that have been silent for too long.
    pub fn expire_nodes(&self, now: Uptime) {
        self.all().iter().for_each(|channel| channel.mesh().expire(now, &self.nodes));
    }

    /// A part of a torrent that is in memory.
    pub fn torrent_in_memory(&self, id: &ChannelId, seq: SegmentSeq, at: usize, most: usize) -> Option<Part> {
        self.torrents.get(id, seq).map(|torrent| Part::of(&torrent, at, most))
    }

    /// A part of a torrent, from disk; with `keep`, the whole of it is kept in memory. Not for an async task.
    pub fn torrent_from_disk(
        &self,
        id: &ChannelId,
        seq: SegmentSeq,
        at: usize,
        most: usize,
        keep: bool,
    ) -> Result<Option<Part>, StoreError> {
        self.store.torrent(id, seq, |torrent| {
            if keep {
                self.torrents.keep(*id, seq, Bytes::copy_from_slice(torrent));
            }
            Part::of(torrent, at, most)
        })
    }

    /// A whole torrent. Reads the disk unless it is in memory: not for an async task.
    pub fn torrent(&self, id: &ChannelId, seq: SegmentSeq) -> Result<Option<Bytes>, StoreError> {
        match self.torrents.get(id, seq) {
            Some(torrent) => Ok(Some(torrent)),
            None => self.store.torrent(id, seq, Bytes::copy_from_slice),
        }
    }

    /// Bytes of torrents in memory.
    pub fn torrent_bytes(&self) -> usize {
        self.torrents.bytes()
    }

    /// Forgets channels that have published nothing for as long as a channel is kept.
    pub async fn forget_quiet(&self, now_ms: u64) {
        let ttl_ms = u64::try_from(self.limits.ttl.as_millis()).unwrap_or(u64::MAX);
        let is_quiet = |channel: &Channel| channel.quiet_ms(now_ms) > ttl_ms;
        let quiet: Vec<ChannelId> =
            self.read().channels.values().filter(|channel| is_quiet(channel)).map(|c| c.id).collect();
        for id in quiet {
            // A second look, with nobody else at the table: it may have lived meanwhile.
            let gone = {
                let mut table = self.write();
                let still = table.channels.get(&id).is_some_and(|channel| is_quiet(channel));
                if still { table.remove(&id) } else { None }
            };
            if let Some(channel) = gone {
                info!(channel = %channel.id, "forgetting a channel that has been quiet for long");
                if let Err(error) = self.forget(&channel).await {
                    warn!(%error, "a forgotten channel is still on disk");
                }
            }
        }
    }

    /// Resolves when the store's writing thread has ended; for the first who asks.
    pub fn store_ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.store.ended()
    }

    /// Waits for writes that are under way and closes the store.
    pub fn close(self) {
        self.store.close();
    }

    /// The channel; made, in place of another if need be, when it is not there. `said_ms` is when its key signed what
    /// makes it.
    async fn get_or_create(
        &self,
        id: ChannelId,
        from: Option<IpAddr>,
        said_ms: u64,
        now_ms: u64,
    ) -> Result<Arc<Channel>, PublishError> {
        if let Some(channel) = self.get(&id) {
            return Ok(channel);
        }
        let (channel, evicted) = {
            // From the look at the limits until the channel is there nobody else is at the table.
            let mut table = self.write();
            if let Some(channel) = table.channels.get(&id) {
                return Ok(Arc::clone(channel));
            }
            let over = |ip: IpAddr, most: usize| table.shares.held(household(ip)) >= most as u64;
            // What another tracker has accepted was counted there.
            if from.zip(self.limits.channels_per_address).is_some_and(|(ip, most)| over(ip, most)) {
                return Err(PublishError::TooManyOfAddress);
            }
            let mut evicted = None;
            if table.channels.len() >= self.limits.channels {
                let victim = table.victim(from, now_ms).ok_or(PublishError::Full)?;
                evicted = table.remove(&victim);
            }
            info!(channel = %id, "a new channel");
            let life = Life::begin(from, said_ms, now_ms, self.limits.ttl);
            let channel = Arc::new(Channel::new(id, Window::default(), life));
            table.insert(Arc::clone(&channel));
            (channel, evicted)
        };
        if let Some(evicted) = evicted {
            info!(channel = %evicted.id, "forgetting a channel for a new one");
            self.forget(&evicted).await?;
        }
        Ok(channel)
    }

    /// Drops the swarms, nodes and records of a channel that has been taken off the table, and ends its subscriptions.
    async fn forget(&self, channel: &Channel) -> Result<(), StoreError> {
        // What is being published is on disk before it is forgotten.
        let _publishing = channel.publishing.lock().await;
        let gone: Vec<(InfoHash, SegmentSeq)> =
            channel.window().entries().iter().map(|e| (e.record.info_hash, e.record.seq)).collect();
        for (info_hash, seq) in gone {
            self.swarms.retire(&info_hash);
            self.torrents.forget(channel.id, seq);
        }
        channel.mesh().clear(&self.nodes);
        channel.changes.send_modify(|changes| *changes += 1);
        self.store.commit(vec![Change::Forget(channel.id)]).await
    }

    async fn drop_entries(&self, channel: &Channel, gone: Vec<Entry>) {
        if gone.is_empty() {
            return;
        }
        for entry in &gone {
            self.swarms.retire(&entry.record.info_hash);
            self.torrents.forget(channel.id, entry.record.seq);
        }
        let removals = gone.iter().map(|entry| Change::Remove(channel.id, entry.record.seq)).collect();
        if let Err(error) = self.store.commit(removals).await {
            warn!(channel = %channel.id, %error, "records that have left the window are still on disk");
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
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
