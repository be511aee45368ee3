//! A running tracker: its parts, its tasks, and how they end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use minuet_guard::pool::Pool;
use minuet_guard::tasks::{Fault, Spawner, Tasks};
use minuet_proto::channel_api::Peer;
use minuet_proto::mesh::NodeId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::channel::store::{Store, StoreError};
use crate::channel::{Channel, Channels};
use crate::clock::Clock;
use crate::config::Config;
use crate::fleet::news::{SHARED_NODES, SHARED_PEERS, Sample};
use crate::fleet::{self, Fleet, SAMPLE_TTL};
use crate::http;
use crate::http::connections::Connections;
use crate::http::own_url::has_path;
use crate::http::tls::{Tls, TlsError};
use crate::mesh::nonce::Nonces;
use crate::metrics::{Levels, Metrics};
use crate::relay::discovery::{Certificate, DiscoveryMetrics};
use crate::relay::{self, DiscoveryListen, RelayLimits, RelayServer, discovery};
use crate::swarm::table::{SHARDS, Swarms};
use crate::udp;

/// How often silent nodes of live meshes are looked for.
const EXPIRE_NODES_EVERY: Duration = Duration::from_secs(10);
/// How many announces a join of the live mesh weighs in what the tracker's load is taken to be.
const JOIN_WEIGHT: u64 = 16;
/// Nodes of one sample that are looked at because they say that they are the source.
const MOST_SOURCES: usize = 2;
/// How often quiet channels are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Why a tracker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// A port cannot be had.
    #[error("cannot listen on {addr}: {source}; choose another address or port with {option}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The option that names it.
        option: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refuses a thread.
    #[error("cannot start a thread: {0}; raise the limit of processes")]
    Thread(std::io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The shared store's URL makes no sense.
    #[error("cannot use the shared store: {0}; write --shared redis://HOST:PORT/0")]
    Shared(redis::RedisError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Torrents that are read from disk at once.
const TORRENT_READS: usize = 4;

/// What all tasks work with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Config,
    pub clock: Clock,
    pub metrics: Metrics,
    pub swarms: Arc<Swarms>,
    pub channels: Arc<Channels>,
    pub tls: Option<Tls>,
    /// Places of HTTP connections.
    pub connections: Connections,
    pub fleet: Option<Fleet>,
    pub relay: Option<RelayServer>,
    pub discovery: Option<Discovery>,
    /// What nodes sign when they join.
    pub nonces: Nonces,
    /// Bytes of requests' bodies that are being taken in.
    pub bodies: Pool,
    /// Bytes of answers that wait to be sent.
    pub answers: Pool,
    /// Torrents that are read from disk at once: the store reads each whole, whatever part of it is asked for.
    pub torrent_reads: Semaphore,
    /// Places of subscribers.
    pub subscribers: Pool,
    /// Is cancelled when the tracker shuts down.
    pub shutdown: CancellationToken,
    /// Tasks that end by themselves, such as a connection's. Long-lived ones are under watch ([`Tasks`]).
    pub tasks: TaskTracker,
}

/// Where nodes learn their public address.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub addr: SocketAddr,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    pub metrics: Arc<DiscoveryMetrics>,
}

impl Shared {
    /// Some of the nodes and peers of a channel that spoke to this tracker.
    pub fn sample(&self, channel: &Channel) -> Sample {
        let nodes = channel.mesh().own_sample(SHARED_NODES, rand::random());
        let mut peers = Vec::new();
        let newest = channel.window().entries().back().map(|entry| entry.record.info_hash);
        if let Some(info_hash) = newest {
            // Asked for as from loopback, since the tracker that tells of a peer leaves out what is of no use.
            let asker = SocketAddr::from(([127, 0, 0, 1], 0));
            let (now, random) = (self.clock.uptime(), rand::random());
            self.swarms.peers_of(&info_hash, asker, SHARED_PEERS, now, random, |addr, seed| {
                peers.push(Peer { addr, seed });
            });
        }
        Sample { at_ms: self.clock.unix_ms(), nodes, peers }
    }

    /// Takes in the nodes and peers that other trackers tell of. A sample from the past or the future counts as none, and
    /// the channel's word that a node is its source is looked at anew.
    pub fn take_samples(&self, channel: &Channel, samples: impl Iterator<Item = Sample>) {
        let now = self.clock.uptime();
        let expires = now.after(SAMPLE_TTL);
        let ttl_ms = u64::try_from(SAMPLE_TTL.as_millis()).unwrap_or(u64::MAX);
        let (mut peers, now_ms) = (Vec::new(), self.clock.unix_ms());
        for mut sample in samples.filter(|sample| sample.at_ms.abs_diff(now_ms) < ttl_ms) {
            let mut claims = 0;
            for (node, _) in sample.nodes.iter_mut().filter(|(node, _)| node.is_source) {
                claims += 1;
                node.is_source = claims <= MOST_SOURCES && node.is_source_of(channel.id());
            }
            let mut mesh = channel.mesh();
            if channel.is_gone() {
                return;
            }
            for (node, ip) in &sample.nodes {
                mesh.hear_of(node, *ip, &self.config.mesh, self.channels.nodes(), expires);
            }
            peers.extend(sample.peers);
        }
        channel.set_foreign_peers(peers, expires);
    }

    pub fn levels(&self) -> Levels {
        Levels {
            uptime_seconds: u64::from(self.clock.uptime().0),
            connections: self.connections.used(),
            channels: self.channels.len(),
            mesh_nodes: self.channels.nodes().taken(),
            torrent_bytes: self.channels.torrent_bytes(),
            body_bytes: self.bodies.used(),
            answer_bytes: self.answers.used(),
            mesh_bytes: self.channels.all().iter().map(|channel| channel.mesh().heap_bytes()).sum(),
            fleet_connected: self.fleet.as_ref().is_some_and(Fleet::is_connected),
            fleet_received: self.fleet.as_ref().map_or(0, |fleet| fleet.received.get()),
            fleet_told: self.fleet.as_ref().map_or(0, |fleet| fleet.told.get()),
            relay: self.relay.as_ref().map(RelayServer::totals).unwrap_or_default(),
            discovery_connections: self.discovery.as_ref().map_or(0, |d| d.metrics.connections.get()),
            discovery_refused: self.discovery.as_ref().map_or(0, |d| d.metrics.refused.get()),
            interval_seconds: self.swarms.calm().interval_seconds(),
            swarms: self.swarms.totals(),
        }
    }
}

/// A running tracker. Dropping it stops it without waiting; [`Tracker::shutdown`] waits.
#[derive(Debug)]
pub struct Tracker {
    shared: Arc<Shared>,
    http: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    udp_workers: Vec<JoinHandle<()>>,
    tasks: Tasks,
}

impl Tracker {
    /// Starts a tracker; when this returns, it takes connections.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let store =
            config.shared.as_deref().map(redis::Client::open).transpose().map_err(StartError::Shared)?;
        let tls = config.tls.clone().map(Tls::load).transpose()?;
        let mut listeners = Vec::new();
        let mut addrs = Vec::new();
        for &addr in &config.listen {
            let only_v6 = config.listen.iter().any(|other| other.is_ipv4() && other.port() == addr.port());
            let failed = |source| StartError::Listen { addr, option: "--listen", source };
            let listener = http::bind(addr, only_v6).map_err(failed)?;
            addrs.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let (mut sockets, mut udp_addrs) = (Vec::new(), Vec::new());
        for &addr in &config.udp_listen {
            let only_v6 =
                config.udp_listen.iter().any(|other| other.is_ipv4() && other.port() == addr.port());
            let (addr, bound) = udp::bind(addr, only_v6, config.udp_workers)
                .map_err(|source| StartError::Listen { addr, option: "--udp-listen", source })?;
            udp_addrs.push(addr);
            sockets.extend(bound);
        }
        let discovery = bind_discovery(&config.relay, &addrs)?;
        let clock = Clock::start();
        let swarms = Arc::new(Swarms::new(config.swarms.clone(), rand::random()));
        let (folder, limits, restored) = (config.data.clone(), config.channels.clone(), Arc::clone(&swarms));
        let (nodes, now_ms) = (config.mesh.nodes, clock.unix_ms());
        let open = move || Channels::restore(Store::open(&folder)?, restored, limits, nodes, now_ms);
        let mut channels = match tokio::task::spawn_blocking(open).await {
            Ok(channels) => channels?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };

        let tasks = Tasks::new();
        let spawner = tasks.spawner();
        let store_ended = channels.store_ended();
        let channels = Arc::new(channels);
        let relay = config.relay.enabled.then(|| {
            // Weak, since the store is closed when nobody holds the channels any more.
            let channels = Arc::downgrade(&channels);
            let joined = move |node: &NodeId| channels.upgrade().is_some_and(|all| all.nodes().has(node));
            RelayServer::new(&config.relay, Arc::new(joined))
        });
        if relay.is_some() && config.public_url.as_deref().is_some_and(has_path) && config.relay_url.is_none()
        {
            warn!(
                "the relay server cannot be reached below a path, so nodes are not told of it; name a URL without a \
                 path that leads to this tracker with --relay-url, or say --no-relay"
            );
        }
        let (discovery, endpoint) = discovery.unzip();
        let (fleet, waiting) = store.is_some().then(Fleet::new).unzip();
        let pool = |total: usize| Pool::new(total as u64);
        let shared = Arc::new(Shared {
            metrics: Metrics::default(),
            clock,
            swarms,
            channels,
            tls,
            connections: Connections::new(config.http.connections, config.http.connections_per_address),
            fleet,
            relay,
            discovery,
            nonces: Nonces::new(rand::random()),
            bodies: pool(config.http.bodies),
            answers: pool(config.http.answers),
            torrent_reads: Semaphore::new(TORRENT_READS),
            subscribers: pool(config.http.subscribers),
            shutdown: spawner.token().clone(),
            tasks: TaskTracker::new(),
            config,
        });
        for listener in listeners {
            let accepting = http::accept(Arc::clone(&shared), listener);
            until_told(spawner, HTTP_LISTENER, accepting);
        }
        until_told(spawner, HOUSE_KEEPER, keep_house(Arc::clone(&shared)));
        spawner.spawn(STORE_WRITER, async move {
            store_ended.await;
            Err::<(), _>("the thread that writes to the data folder has ended")
        });
        if let (Some(store), Some(waiting)) = (store, waiting) {
            until_told(spawner, FLEET, fleet::run(Arc::clone(&shared), store, waiting));
        }
        if let (Some(discovery), Some(endpoint)) = (&shared.discovery, endpoint) {
            let (most, metrics) = (shared.config.relay.discovery_connections, Arc::clone(&discovery.metrics));
            let serving = discovery::serve(endpoint, most, metrics, shared.shutdown.clone());
            spawner.spawn_to_end(DISCOVERY, serving);
            info!("telling nodes their address on udp://{}", discovery.addr);
        }
        let udp_workers = udp::start(&shared, spawner, UDP_WORKER, sockets).map_err(StartError::Thread)?;
        for addr in &addrs {
            info!("listening on http://{addr}/");
        }
        for addr in &udp_addrs {
            info!("listening on udp://{addr}");
        }
        Ok(Self { shared, http: addrs, udp: udp_addrs, udp_workers, tasks })
    }

    /// Where HTTP is served, in the order of [`Config::listen`], with the ports that were really taken.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where UDP is served, in the order of [`Config::udp_listen`].
    pub fn udp_addrs(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Reads the certificate anew; connections under way keep the old one. False when there is none.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(tls) = &self.shared.tls else { return Ok(false) };
        tls.reload().map(|()| true)
    }

    /// The next long-lived part of the tracker that ended although nobody told it to; waits while there is none. The
    /// tracker is of little use from then on: end the program. Cancel-safe.
    pub async fn fault(&self) -> Fault {
        self.tasks.fault().await
    }

    /// The long-lived parts under watch.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Stops taking connections, lets answers under way finish, and returns when every task has ended and the store is closed.
    pub async fn shutdown(self) {
        let Self { shared, tasks, udp_workers, .. } = self;
        tasks.cancel();
        tasks.stop().await;
        shared.tasks.close();
        shared.tasks.wait().await;
        // Now that nobody hands it connections any more.
        if let Some(relay) = &shared.relay {
            relay.shutdown().await;
        }
        let end = move || {
            for worker in udp_workers {
                if worker.join().is_err() {
                    error!("a UDP worker had panicked");
                }
            }
            let channels = Arc::into_inner(shared).map(|shared| shared.channels);
            match channels.and_then(Arc::into_inner) {
                // Joins the store's thread.
                Some(channels) => channels.close(),
                None => error!("a task outlived the tracker; the store closes with it"),
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(end).await {
            error!(%error, "the tracker did not end in order");
        }
    }
}

/// Names of the long-lived parts, as a fault is told.
const HTTP_LISTENER: &str = "the HTTP listener";
const HOUSE_KEEPER: &str = "the keeper of time-outs";
const STORE_WRITER: &str = "the channel store";
const FLEET: &str = "the exchange with other trackers";
const DISCOVERY: &str = "address discovery";
const UDP_WORKER: &str = "a UDP worker";

/// Names of all parts of a tracker that are under watch.
pub const PARTS: [&str; 6] = [HTTP_LISTENER, HOUSE_KEEPER, STORE_WRITER, FLEET, DISCOVERY, UDP_WORKER];

/// Starts a long-lived task that cannot fail and ends by itself when it is told to.
fn until_told(spawner: &Spawner, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    spawner.spawn_to_end(name, async move {
        work.await;
        Ok::<_, Infallible>(())
    });
}

/// Opens the endpoint for address discovery. When the operator left the port to the tracker, it does without rather
/// than fail.
fn bind_discovery(
    limits: &RelayLimits,
    http: &[SocketAddr],
) -> Result<Option<(Discovery, noq::Endpoint)>, StartError> {
    let (addr, named) = match (limits.enabled, limits.discovery_listen, http.first()) {
        (true, DiscoveryListen::At(addr), _) => (addr, true),
        // The port after the last is 0, which is any.
        (true, DiscoveryListen::Beside, Some(http)) => {
            (SocketAddr::new(http.ip(), http.port().wrapping_add(1)), false)
        }
        _ => return Ok(None),
    };
    let open = || {
        let certificate = Certificate::generate()?;
        let fingerprint = certificate.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
        let endpoint = discovery::open(udp::bind_one(addr)?, certificate)?;
        let addr = endpoint.local_addr()?;
        Ok((Discovery { addr, fingerprint, metrics: Arc::default() }, endpoint))
    };
    match open() {
        Ok(opened) => Ok(Some(opened)),
        Err(source) if named => Err(StartError::Listen { addr, option: "--discovery-listen", source }),
        Err(error) => {
            warn!(
                "cannot use UDP port {} for address discovery ({error}); nodes behind a NAT will reach each other \
                 through the relay server only, unless --discovery-listen names another port",
                addr.port()
            );
            Ok(None)
        }
    }
}

/// Sweeps one shard after the other, so that each comes up once an interval, watches the load, and forgets quiet
/// channels.
async fn keep_house(shared: Arc<Shared>) {
    let mut sweep = tokio::time::interval(shared.config.swarms.interval / SHARDS as u32);
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut relayed = tokio::time::interval(relay::OBSERVE_EVERY);
    let mut nodes = tokio::time::interval(EXPIRE_NODES_EVERY);
    let (mut shard, mut asked) = (0, 0);
    loop {
        tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return,
            _ = sweep.tick() => {
                shared.swarms.sweep(shard, shared.clock.uptime());
                shard = (shard + 1) % SHARDS;
            }
            _ = second.tick() => {
                let total = shared.metrics.announces.get() + JOIN_WEIGHT * shared.metrics.mesh_joins.get();
                let before = std::mem::replace(&mut asked, total);
                shared.swarms.calm().observe(total - before, shared.clock.uptime());
            }
            _ = nodes.tick() => shared.channels.expire_nodes(shared.clock.uptime()),
            _ = relayed.tick() => if let Some(relay) = &shared.relay {
                relay.observe();
            },
            _ = forget.tick() => shared.channels.forget_quiet(shared.clock.unix_ms()).await,
        }
    }
}
