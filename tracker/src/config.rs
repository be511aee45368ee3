//! What a tracker can be told, with its defaults.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use minuet_guard::families;
use minuet_guard::pool::SLACK;
use minuet_proto::link::parse_tracker;
use minuet_tls::TlsFiles;

use crate::channel::ChannelLimits;
use crate::channel::window::WindowLimits;
use crate::mesh::MeshLimits;
use crate::relay::{DiscoveryListen, RelayLimits};
use minuet_announce::swarm::slot::MAX_PEER_TTL;
use minuet_announce::swarm::table::Limits;

/// A tracker's configuration. [`Config::default`] is what `minuet-tracker` does without options.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where HTTP is served. `[::]` takes IPv4 too, unless an IPv4 address with the same port is also named.
    pub listen: Vec<SocketAddr>,
    /// Where UDP (BEP 15) is served; nowhere when empty. `[::]` as with [`Config::listen`].
    pub udp_listen: Vec<SocketAddr>,
    /// Threads, each with a socket of its own, for each UDP address.
    pub udp_workers: usize,
    /// The certificate, when HTTPS is served too.
    pub tls: Option<TlsFiles>,
    /// The Redis or Valkey that this tracker shares with others, as a `redis://` URL.
    pub shared: Option<String>,
    /// Folder of the channel store.
    pub data: PathBuf,
    /// What bounds swarms and answers.
    pub swarms: Limits,
    /// What bounds channels.
    pub channels: ChannelLimits,
    /// What bounds live meshes.
    pub mesh: MeshLimits,
    /// The tracker's URL as others reach it, ending in `/`; `None`: as each request names it.
    pub public_url: Option<String>,
    /// A gateway that serves the channels that are listed to browsers, ending in `/`.
    pub gateway: Option<String>,
    /// The relay server's URL as others reach it, without a path, ending in `/`; `None`: the tracker's own.
    pub relay_url: Option<String>,
    /// What bounds the relay server.
    pub relay: RelayLimits,
    /// What bounds HTTP.
    pub http: HttpLimits,
}

/// What bounds HTTP.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// The most connections at once; further ones are closed at once.
    pub connections: usize,
    /// The most connections of one address (/56 for IPv6) at once, also where there is room for more. Trusted proxies are
    /// not counted.
    pub connections_per_address: Option<u32>,
    /// Bytes of requests' bodies that are taken in at once, of all.
    pub bodies: usize,
    /// Bytes of answers that wait for their clients at once, of all.
    pub answers: usize,
    /// The most subscribers of event streams at once, of all channels.
    pub subscribers: usize,
    /// How often a silent event stream carries a comment, so that proxies and dead links show.
    pub keep_alive: Duration,
    /// Whose `Forwarded` and `X-Forwarded-For` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether clients at private addresses are believed where they are (`ip=` in announces).
    pub believe_ip: bool,
}

/// Whether a tracker's URL has a path.
pub fn has_path(url: &str) -> bool {
    parse_tracker(url).is_ok_and(|url| url.path() != "/")
}

impl Default for Config {
    fn default() -> Self {
        let listen = default_listen();
        Self {
            listen: vec![listen],
            udp_listen: vec![listen],
            udp_workers: default_udp_workers(),
            tls: None,
            shared: None,
            data: PathBuf::from("minuet-tracker-data"),
            swarms: Limits {
                open: false,
                max_open_swarms: 1_000_000,
                max_peers: 4_000_000,
                max_want: 200,
                interval: Duration::from_secs(120),
                announces_per_second: 100_000,
            },
            channels: ChannelLimits {
                channels: 1_000,
                channels_per_address: None,
                torrents: 16 << 20,
                ttl: Duration::from_secs(24 * 3600),
                window: WindowLimits {
                    duration: Duration::from_secs(2 * 3600 + 300),
                    records: 1_500,
                    bytes: 16 << 20,
                },
            },
            mesh: MeshLimits {
                nodes: 200_000,
                nodes_per_channel: None,
                nodes_per_address: None,
                interval: Duration::from_secs(60),
            },
            public_url: None,
            gateway: None,
            relay_url: None,
            relay: RelayLimits {
                enabled: true,
                clients: 2_000,
                clients_per_address: None,
                any_node: false,
                client_rate: 2_500_000,
                total_rate: 25_000_000,
                discovery_listen: DiscoveryListen::Beside,
                discovery_connections: 768,
            },
            http: HttpLimits {
                connections: 20_000,
                connections_per_address: None,
                bodies: 16 << 20,
                answers: 24 << 20,
                subscribers: 15_000,
                keep_alive: Duration::from_secs(15),
                trusted_proxies: Vec::new(),
                believe_ip: false,
            },
        }
    }
}

/// The port that a tracker listens on unless it is told another.
pub const PORT: u16 = 7070;

/// [`PORT`] of all addresses of both families; of IPv4 alone where the system has no IPv6.
pub fn default_listen() -> SocketAddr {
    (families::everywhere(), PORT).into()
}

/// A worker for each core, as far as more of them help.
pub fn default_udp_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_DEFAULT_UDP_WORKERS))
}

/// Room for one of the longest bodies and answers.
const LEAST_MEMORY: usize = 4 << 20;
/// Beyond this the network is the limit.
const MOST_DEFAULT_UDP_WORKERS: usize = 4;

impl Config {
    /// The first thing that makes no sense, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let interval = self.swarms.interval;
        if interval < Duration::from_secs(10) || interval * 2 > MAX_PEER_TTL {
            return Err(format!(
                "the interval must be between 10s and {}s, not {}s",
                MAX_PEER_TTL.as_secs() / 2,
                interval.as_secs()
            ));
        }
        if !(Duration::from_secs(5)..=Duration::from_secs(3600)).contains(&self.mesh.interval) {
            return Err("the mesh interval must be between 5s and 1h".into());
        }
        if self.listen.is_empty() {
            return Err("there is no address to listen on; give one with --listen".into());
        }
        if !(1..=64).contains(&self.udp_workers) {
            return Err("there must be between 1 and 64 UDP workers".into());
        }
        if self.relay_url.as_deref().is_some_and(has_path) {
            return Err("the relay server cannot be below a path; give --relay-url a URL without one".into());
        }
        if self.http.bodies < LEAST_MEMORY || self.http.answers < LEAST_MEMORY {
            return Err(
                "bodies and answers need 4 MiB each at least; raise --max-body-bytes or --max-answer-bytes"
                    .into(),
            );
        }
        if self.channels.window.records == 0 || self.channels.channels == 0 {
            return Err(
                "a tracker without room for a channel or a record is of no use; raise the limit".into()
            );
        }
        Ok(())
    }
}

/// Open files besides connections: sockets that listen, the store's, the fleet's.
const OTHER_FILES: u64 = 128;

impl HttpLimits {
    /// Lowers the limit of connections to what so many open files allow, also while some that were told to go have not gone.
    /// Returns whether that was needed. Without it files would run out first, and nobody's connections would make room.
    pub fn fit(&mut self, files: u64) -> bool {
        let most = files.saturating_sub(OTHER_FILES).saturating_mul(SLACK) / (SLACK + 1);
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        let lowered = most < self.connections;
        self.connections = self.connections.min(most);
        lowered
    }

    /// Whether `ip` may say whom it speaks for.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_files_that_there_may_be() {
        let mut http = Config::default().http;
        assert!(!http.fit(65_536));
        assert_eq!(http.connections, 20_000);
        assert!(http.fit(4096));
        let (most, slack) = (http.connections as u64, http.connections as u64 / SLACK);
        assert!(most + slack + OTHER_FILES <= 4096 && most > 3_700, "{most}");
        assert!(http.fit(10));
        assert_eq!(http.connections, 1);
    }
}
