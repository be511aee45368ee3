//! The BitTorrent engine: the only file that names librqbit.
//!
//! What was learned from librqbit 9.1's source, and how it is used here:
//! - *No second hashing pass.* A torrent that is added is checked against its files unless a bitfield for it lies in
//!   the session's persistence folder (`<info hash>.bitv`, `fastresume`). [`Engine::add_finished`] puts a full one
//!   there first, so that some six pieces are sampled instead of all. The folder holds nothing else worth keeping
//!   and is emptied at the start; what to seed after a restart is our own store's business.
//! - *Uploads.* The session's limiter takes whole blocks (16 KiB); it holds over any second plus one second's burst.
//!   A limit below one block a second makes it fail for good, hence
//!   [`MIN_UPLOAD_BYTES_PER_S`](crate::MIN_UPLOAD_BYTES_PER_S). `disable_upload` (a build feature that adds the
//!   option) hides our pieces and hangs up on requests.
//! - *Request window.* Requests queue at the sender, first come first served, and a peer that gets nothing for the
//!   read time-out hangs up. The default of 128 blocks a peer puts many seconds of backlog on a capped uplink, so our
//!   window is small and the time-out long.
//! - *Piece order.* Pieces are taken in file order, from each open stream's place on; a stream held open at a random
//!   offset is the only handle on it. How well viewers trade depends on how far apart their offsets fall: choosing
//!   new ones all the time made it worse.
//! - *First pieces.* A peer that has no piece yet sends no bitfield, and librqbit never tells of new pieces to a peer whose
//!   bitfield it does not know. Two viewers that join together therefore never learn what the other gets, until one of them
//!   connects anew. So a download hangs up once when its first piece is here ([`Torrent::reconnect`]) and dials again, with
//!   a bitfield. Three viewers of a source capped at twice the stream's rate then have a 60 s minute after 36 to 38 s instead
//!   of 67 s (`examples/spread.rs`).
//! - *Permits.* Each open stream holds one of the engine's blocking permits, which disk writes need too; there are far
//!   more permits than streams.
//! - *Outgoing connections* all go through a proxy of ours ([`Gate`]), which judges them: the engine dials whomever a tracker
//!   or a peer names. Its lists of addresses to block hold for incoming connections, too, and would shut out peers behind
//!   the same router.
//! - *uTP* is off: librqbit itself calls it unstable.
//! - *One at a time.* The persistence gives the next torrent the number after the last one stored, and a torrent whose
//!   number is taken already comes back as the other one. Two added at once would be mixed up, so ours are added one
//!   after the other, and the answer is checked.
//! - *Peers* can be given only when a torrent is added; later ones come from trackers and peer exchange (BEP 11).
//! - The announced port of a loopback listener would be made up, so the port is chosen before the session starts.

use std::{
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use librqbit::{
    AddTorrent, AddTorrentOptions, AddTorrentResponse, ConnectionOptions, ListenerMode, ListenerOptions,
    ManagedTorrent, PeerConnectionOptions, Session, SessionOptions, SessionPersistenceConfig,
    TorrentStatsState, api::TorrentIdOrHash, dht::Id20, generate_azereus_style, limits::LimitsConfig,
};
use minuet_guard::contacts::Contacts;
use minuet_proto::InfoHash;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt};

use crate::{Error, Role, SwarmOptions, Upload, gate::Gate};

/// Blocks of 16 KiB asked of one peer ahead of their arrival.
const REQUEST_WINDOW_BLOCKS: usize = 8;
/// A peer that sends nothing for this long is dropped. Longer than a capped sender takes to come round to us.
const PEER_SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connected peers per minute.
const MAX_PEERS_PER_MINUTE: usize = 128;
/// Minutes whose files are opened and sampled at the same time.
const MAX_CONCURRENT_CHECKS: usize = 4;
/// Blocking operations and open streams at the same time.
const MAX_BLOCKING: usize = 256;
/// How long to ask peers for a minute's metadata (BEP 9).
const METADATA_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait before asking the same peers for metadata again.
const METADATA_RETRY: Duration = Duration::from_millis(500);
/// How long the engine's tasks may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts at a free port: between choosing it and listening on it another process may take it.
const PORT_ATTEMPTS: usize = 16;
/// Begins the client name of every Minuet source, see [`Role`].
const SOURCE_NAME: &str = "Minuet source";

/// One session of the engine.
pub(crate) struct Engine {
    session: Arc<Session>,
    /// Held while a torrent is being added.
    adding: tokio::sync::Mutex<()>,
    state_dir: PathBuf,
    listen_addr: SocketAddr,
    gate: Gate,
}

/// Bytes exchanged with one peer about one minute.
pub(crate) struct PeerLine {
    pub addr: SocketAddr,
    pub fetched: u64,
    pub uploaded: u64,
    /// The peer calls itself a source. Known only while it is connected.
    pub source: bool,
    pub connected: bool,
    /// We dialled it, so `addr` is where it listens.
    pub dialled: bool,
}

/// How far a minute is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Checking,
    Active { have: u64 },
    Failed(String),
}

impl Engine {
    /// Starts a session that keeps its own files in `state_dir`, which must be empty.
    pub async fn start(state_dir: &Path, options: &SwarmOptions) -> Result<Self, Error> {
        let SwarmOptions { listen, upload, role, teller, .. } = *options;
        let gate = Gate::open(Contacts::of_process(), teller, CONNECT_TIMEOUT).await;
        let gate = gate.map_err(|error| Error::Engine(format!("no way out on loopback: {error}")))?;
        let limit = match upload {
            Upload::AtMost(rate) if rate < crate::MIN_UPLOAD_BYTES_PER_S => {
                return Err(Error::UploadLimit { bytes_per_s: rate.into() });
            }
            Upload::AtMost(rate) => NonZeroU32::new(rate),
            Upload::Unlimited | Upload::Never => None,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let addr = free_port(listen)?;
            let options = session_options(state_dir, addr, limit, upload, role, gate.url());
            match Session::new_with_opts(state_dir.to_owned(), options).await {
                Ok(session) => {
                    let adding = tokio::sync::Mutex::default();
                    let state_dir = state_dir.to_owned();
                    return Ok(Self { session, adding, state_dir, listen_addr: addr, gate });
                }
                Err(_) if listen.port() == 0 && attempt < PORT_ATTEMPTS => {}
                Err(error) => return Err(Error::Engine(format!("{error:#}"))),
            }
        }
    }

    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// Adds a minute of which every piece is on disk in `folder`, without hashing it again.
    pub async fn add_finished(
        &self,
        info_hash: InfoHash,
        torrent: Bytes,
        folder: &Path,
        pieces: u32,
        trackers: Vec<String>,
    ) -> Result<Torrent, Error> {
        let bitfield = self.state_dir.join(format!("{}.bitv", id20(info_hash).as_string()));
        tokio::fs::write(&bitfield, full_bitfield(pieces)).await.map_err(Error::folder(&bitfield))?;
        self.add(info_hash, torrent, folder, Vec::new(), trackers).await
    }

    /// Adds a minute, whatever of it is in `folder` already.
    pub async fn add(
        &self,
        info_hash: InfoHash,
        torrent: Bytes,
        folder: &Path,
        peers: Vec<SocketAddr>,
        trackers: Vec<String>,
    ) -> Result<Torrent, Error> {
        let folder =
            folder.to_str().ok_or_else(|| Error::Engine(format!("{folder:?} is not a UTF-8 path")))?;
        let through = trackers.clone();
        let options = AddTorrentOptions {
            overwrite: true,
            output_folder: Some(folder.to_owned()),
            initial_peers: Some(peers),
            trackers: Some(trackers),
            ..Default::default()
        };
        self.gate.let_through(&through).await;
        let adding = self.adding.lock().await;
        let added = self.session.add_torrent(AddTorrent::from_bytes(torrent), Some(options)).await;
        drop(adding);
        let handle =
            added.map_err(engine)?.into_handle().ok_or_else(|| Error::Engine("no handle".to_owned()))?;
        let actual = InfoHash::new(handle.info_hash().0);
        if actual != info_hash {
            return Err(Error::InfoHashMismatch { expected: info_hash, actual });
        }
        Ok(Torrent { handle, session: Arc::downgrade(&self.session) })
    }

    /// Asks peers for a minute's metadata (BEP 9). Returns a .torrent without trackers, and the peers met meanwhile.
    pub async fn metadata(
        &self,
        info_hash: InfoHash,
        peers: Vec<SocketAddr>,
        trackers: &[String],
    ) -> Result<(Bytes, Vec<SocketAddr>), Error> {
        self.gate.let_through(trackers).await;
        let mut magnet = format!("magnet:?xt=urn:btih:{}", id20(info_hash).as_string());
        for tracker in trackers {
            magnet.push_str("&tr=");
            magnet.extend(url::form_urlencoded::byte_serialize(tracker.as_bytes()));
        }
        let asking = async {
            loop {
                let options = AddTorrentOptions {
                    list_only: true,
                    initial_peers: Some(peers.clone()),
                    ..Default::default()
                };
                match self.session.add_torrent(AddTorrent::from_url(&magnet), Some(options)).await {
                    Ok(AddTorrentResponse::ListOnly(found)) => {
                        return Ok((found.torrent_bytes, found.seen_peers));
                    }
                    Ok(_) => return Err(Error::Engine("asked for a listing, got a torrent".to_owned())),
                    // All peers are used up, but one may have the minute a moment later.
                    Err(_) => tokio::time::sleep(METADATA_RETRY).await,
                }
            }
        };
        tokio::time::timeout(METADATA_TIMEOUT, asking).await.unwrap_or(Err(Error::NoMetadata(info_hash)))
    }

    /// Drops a minute, and its file too when asked. False when it was not here.
    pub async fn remove(&self, info_hash: InfoHash, delete_files: bool) -> Result<bool, Error> {
        let id = TorrentIdOrHash::Hash(id20(info_hash));
        if self.session.get(id).is_none() {
            return Ok(false);
        }
        self.session.delete(id, delete_files).await.map_err(engine)?;
        Ok(true)
    }

    /// Payload bytes sent since the start, all minutes together.
    pub fn uploaded(&self) -> u64 {
        self.session.stats_snapshot().counters.uploaded_bytes
    }

    /// Sets what may be sent from now on, in payload bytes a second, with a burst of one second's worth at once.
    pub fn set_upload(&self, bytes_per_s: u32) {
        self.session
            .ratelimits
            .set_upload_bps(NonZeroU32::new(bytes_per_s.max(crate::MIN_UPLOAD_BYTES_PER_S)));
    }

    /// Ends every task of the session and frees its port. Tasks that do not end in [`STOP_TIMEOUT`] end with the runtime.
    pub async fn stop(self) {
        let (session, listen): (Weak<Session>, _) = (Arc::downgrade(&self.session), self.listen_addr);
        self.session.cancellation_token().cancel();
        drop(self);
        let gone = async {
            // Whoever drops the session last closes the listener a moment after the count says that it is gone.
            while session.strong_count() > 0 || free_port(listen).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, gone).await.is_err() {
            tracing::debug!("the BitTorrent session did not end in time");
        }
    }
}

/// One minute in the engine.
#[derive(Clone)]
pub(crate) struct Torrent {
    handle: Arc<ManagedTorrent>,
    session: Weak<Session>,
}

impl Torrent {
    pub fn state(&self) -> State {
        let stats = self.handle.stats();
        match stats.state {
            TorrentStatsState::Error => State::Failed(stats.error.unwrap_or_else(|| "unknown".to_owned())),
            TorrentStatsState::Initializing { .. } => State::Checking,
            TorrentStatsState::Live | TorrentStatsState::Paused => {
                State::Active { have: stats.progress_bytes }
            }
        }
    }

    /// Waits until all pieces are here, but not for ever: the engine may forget to tell, so the caller looks again.
    pub async fn completed_or_timeout(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.handle.wait_until_completed()).await;
    }

    /// Hangs up on every peer and dials those that are known, with a bitfield this time. What is here stays, open
    /// streams too; counters start again from zero.
    pub async fn reconnect(&self) -> Result<(), Error> {
        let Some(session) = self.session.upgrade() else { return Ok(()) };
        session.pause(&self.handle).await.map_err(engine)?;
        session.unpause(&self.handle).await.map_err(engine)
    }

    /// Payload bytes sent, since the last [`Self::reconnect`].
    pub fn uploaded(&self) -> u64 {
        self.handle.stats().uploaded_bytes
    }

    /// Every peer that bytes were exchanged with, or that is connected now.
    pub fn peers(&self) -> Vec<PeerLine> {
        let Some(live) = self.handle.live() else { return Vec::new() };
        // The filter's type is not exported; its serialised form is public.
        let all = serde_json::from_value(serde_json::json!({ "state": "all" }));
        let peers = live.per_peer_stats_snapshot(all.unwrap_or_default()).peers;
        let lines = peers.into_iter().filter_map(|(addr, peer)| {
            let (connected, dialled) = (peer.state == "live", peer.counters.connections > 0);
            let (fetched, uploaded) = (peer.counters.fetched_bytes, peer.counters.uploaded_bytes);
            let source = peer.client_name.is_some_and(|name| name.starts_with(SOURCE_NAME));
            let addr = addr.parse().ok().filter(|_| connected || dialled || fetched > 0 || uploaded > 0)?;
            Some(PeerLine { addr, fetched, uploaded, source, connected, dialled })
        });
        lines.collect()
    }

    /// Opens the minute's only file at `offset`. Pieces from there on are asked for before others, as long as the
    /// stream is open.
    pub async fn stream(&self, offset: u64) -> Result<Stream, Error> {
        let mut stream = self.handle.clone().stream(0).await.map_err(engine)?;
        stream
            .seek(std::io::SeekFrom::Start(offset))
            .await
            .map_err(|error| Error::Engine(error.to_string()))?;
        Ok(Stream(Box::new(stream)))
    }
}

/// Verified bytes of a minute, in order. Must be polled on a multi-threaded runtime: reads block in place.
pub(crate) struct Stream(Box<dyn SeekRead>);

trait SeekRead: AsyncRead + AsyncSeek + Send + Unpin {}
impl<T: AsyncRead + AsyncSeek + Send + Unpin> SeekRead for T {}

impl Stream {
    pub async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer).await
    }
}

fn session_options(
    state_dir: &Path,
    listen_addr: SocketAddr,
    upload_bps: Option<NonZeroU32>,
    upload: Upload,
    role: Role,
    gate: &str,
) -> SessionOptions {
    let version = env!("CARGO_PKG_VERSION");
    let name = match role {
        Role::Source => format!("{SOURCE_NAME} {version}"),
        Role::Viewer => format!("Minuet {version}"),
    };
    SessionOptions {
        dht: None,
        disable_local_service_discovery: true,
        fastresume: true,
        persistence: Some(SessionPersistenceConfig::Json { folder: Some(state_dir.to_owned()) }),
        peer_id: Some(generate_azereus_style(*b"MN", (0, 1, 0, 0))),
        listen: Some(ListenerOptions {
            mode: ListenerMode::TcpOnly,
            listen_addr,
            announce_port: Some(listen_addr.port()),
            ipv4_only: listen_addr.is_ipv4(),
            ..Default::default()
        }),
        connect: Some(ConnectionOptions {
            peer_opts: Some(PeerConnectionOptions {
                connect_timeout: Some(CONNECT_TIMEOUT),
                read_write_timeout: Some(PEER_SILENCE),
                max_request_window: Some(REQUEST_WINDOW_BLOCKS),
                ..Default::default()
            }),
            proxy_url: Some(gate.to_owned()),
            ..Default::default()
        }),
        ratelimits: LimitsConfig { upload_bps, download_bps: None },
        disable_upload: upload == Upload::Never,
        ipv4_only: listen_addr.is_ipv4(),
        runtime_worker_threads: Some(MAX_BLOCKING),
        concurrent_init_limit: Some(MAX_CONCURRENT_CHECKS),
        peer_limit: Some(MAX_PEERS_PER_MINUTE),
        client_name_and_version: Some(name),
        ..Default::default()
    }
}

/// The address to listen on: `listen` itself, or a port that is free just now in place of port 0.
fn free_port(listen: SocketAddr) -> Result<SocketAddr, Error> {
    let bind = || TcpListener::bind(listen).and_then(|socket| socket.local_addr());
    bind().map_err(|source| Error::Listen { addr: listen, reason: source.to_string() })
}

/// A bitfield (BEP 3: high bit first, spare bits zero) with every piece set.
fn full_bitfield(pieces: u32) -> Vec<u8> {
    let mut bytes = vec![0xff; pieces.div_ceil(8) as usize];
    let spare = (8 - pieces % 8) % 8;
    if let Some(last) = bytes.last_mut() {
        *last <<= spare;
    }
    bytes
}

fn id20(info_hash: InfoHash) -> Id20 {
    Id20::new(*info_hash.as_bytes())
}

fn engine(error: impl std::fmt::Display) -> Error {
    Error::Engine(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::full_bitfield;

    #[test]
    fn full_bitfield_sets_one_bit_a_piece() {
        for pieces in 1..100 {
            let field = full_bitfield(pieces);
            assert_eq!(field.len(), pieces.div_ceil(8) as usize);
            assert_eq!(field.iter().map(|byte| byte.count_ones()).sum::<u32>(), pieces);
            assert_eq!(field[0] & 0x80, 0x80, "the first piece is the high bit");
        }
    }
}
