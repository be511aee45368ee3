//! A running tracker: its parts, its tasks, and how they end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use minuet_guard::tasks::{Fault, Spawner, Tasks};
use minuet_proto::mesh::NodeId;
use minuet_tls::{Tls, TlsError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::channel::Channels;
use crate::channel::store::{Store, StoreError};
use crate::clock::Clock;
use crate::config::{Config, has_path};
use crate::fleet::{self, Fleet};
use crate::http::front::Front;
use crate::http::{self, tls::PROTOCOLS};
use crate::mesh::nonce::Nonces;
use crate::metrics::Metrics;
use crate::relay::discovery::{Certificate, Discovery};
use crate::relay::{self, DiscoveryListen, RelayLimits, RelayServer, discovery};
use crate::state::{Running, State};
use crate::udp;
use minuet_announce::swarm::table::{SHARDS, Swarms};

/// How often silent nodes of live meshes are looked for.
const EXPIRE_NODES_EVERY: Duration = Duration::from_secs(10);
/// How many announces a join of the live mesh weighs in what the tracker's load is taken to be.
const JOIN_WEIGHT: u64 = 16;
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

/// A running tracker. Dropping it stops it without waiting; [`Tracker::shutdown`] waits.
#[derive(Debug)]
pub struct Tracker {
    front: Arc<Front>,
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
        let tls = config.tls.clone().map(|files| Tls::load(files, PROTOCOLS)).transpose()?;
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
        let state = Arc::new(State {
            metrics: Metrics::default(),
            clock,
            swarms,
            channels,
            fleet,
            nonces: Nonces::new(rand::random()),
            config,
        });
        let running = Running { shutdown: spawner.token().clone(), tasks: TaskTracker::new() };
        let relay = relay.map(Arc::new);
        let front = Front::new(Arc::clone(&state), running.clone(), tls, relay.clone(), discovery);
        let front = Arc::new(front);
        for listener in listeners {
            let accepting = http::accept(Arc::clone(&front), listener);
            until_told(spawner, HTTP_LISTENER, accepting);
        }
        until_told(spawner, HOUSE_KEEPER, keep_house(Arc::clone(&state), relay, running.shutdown.clone()));
        spawner.spawn(STORE_WRITER, async move {
            store_ended.await;
            Err::<(), _>("the thread that writes to the data folder has ended")
        });
        if let (Some(store), Some(waiting)) = (store, waiting) {
            until_told(spawner, FLEET, fleet::run(Arc::clone(&state), running.clone(), store, waiting));
        }
        if let (Some(discovery), Some(endpoint)) = (&front.discovery, endpoint) {
            let (most, metrics) = (state.config.relay.discovery_connections, Arc::clone(&discovery.metrics));
            let serving = discovery::serve(endpoint, most, metrics, running.shutdown.clone());
            spawner.spawn_to_end(DISCOVERY, serving);
            info!("telling nodes their address on udp://{}", discovery.addr);
        }
        let udp_workers =
            udp::start(&state, &running, spawner, UDP_WORKER, sockets).map_err(StartError::Thread)?;
        for addr in &addrs {
            info!("listening on http://{addr}/");
        }
        for addr in &udp_addrs {
            info!("listening on udp://{addr}");
        }
        Ok(Self { front, http: addrs, udp: udp_addrs, udp_workers, tasks })
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
        let Some(tls) = &self.front.tls else { return Ok(false) };
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
        let Self { front, tasks, udp_workers, .. } = self;
        tasks.cancel();
        tasks.stop().await;
        front.running.tasks.close();
        front.running.tasks.wait().await;
        // Now that nobody hands it connections any more.
        if let Some(relay) = &front.relay {
            relay.shutdown().await;
        }
        let end = move || {
            for worker in udp_workers {
                if worker.join().is_err() {
                    error!("a UDP worker had panicked");
                }
            }
            let state = Arc::into_inner(front).map(|front| front.state);
            let channels = state.and_then(Arc::into_inner).map(|state| state.channels);
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
async fn keep_house(state: Arc<State>, relay: Option<Arc<RelayServer>>, shutdown: CancellationToken) {
    let mut sweep = tokio::time::interval(state.config.swarms.interval / SHARDS as u32);
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut relayed = tokio::time::interval(relay::OBSERVE_EVERY);
    let mut nodes = tokio::time::interval(EXPIRE_NODES_EVERY);
    let (mut shard, mut asked) = (0, 0);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = sweep.tick() => {
                state.swarms.sweep(shard, state.clock.uptime());
                shard = (shard + 1) % SHARDS;
            }
            _ = second.tick() => {
                let total = state.metrics.announces.get() + JOIN_WEIGHT * state.metrics.mesh_joins.get();
                let before = std::mem::replace(&mut asked, total);
                state.swarms.calm().observe(total - before, state.clock.uptime());
            }
            _ = nodes.tick() => state.channels.expire_nodes(state.clock.uptime()),
            _ = relayed.tick() => if let Some(relay) = &relay {
                relay.observe();
            },
            _ = forget.tick() => state.channels.forget_quiet(state.clock.unix_ms()).await,
        }
    }
}
