//! The command line. Every option can also be given in the environment or in a file; the command line wins.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use minuet_options::{FromFile, Papers};
use minuet_proto::units;
use minuet_tls::TlsFiles;
use minuet_tracker::Config;
use minuet_tracker::config::{default_listen, default_udp_workers};
use minuet_tracker::relay::{DiscoveryListen, RelayLimits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The tracker of Minuet: BitTorrent announce and scrape, channels, push.
///
/// Logs go to standard error; MINUET_LOG=debug shows more.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Examples:\n  \
        minuet-tracker\n  \
        minuet-tracker --listen 192.0.2.1:7070 --data /var/lib/minuet-tracker\n  \
        minuet-tracker --listen 127.0.0.1:7070 --trusted-proxy 127.0.0.1   (behind nginx or caddy)\n\n\
Files:\n  \
        /etc/minuet/tracker.conf   options of the service that packages bring\n  \
        /var/lib/minuet-tracker    its channels\n\n\
Exit codes: 0 it was told to end; 1 a failure, with one sentence on standard error; 2 bad usage."
)]
pub struct Options {
    #[command(flatten)]
    file: FromFile,

    #[command(flatten)]
    papers: Papers,

    /// Serve HTTP here: announce, scrape, channel API, metrics. May repeat; [::]:PORT takes IPv4 too unless an IPv4
    /// address with the same port is also named [default: port 7070 of IPv4 and IPv6, as far as the system has them]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_values_t = [default_listen()],
        hide_default_value = true,
        env = "MINUET_TRACKER_LISTEN",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    listen: Vec<SocketAddr>,

    /// Serve the UDP tracker protocol (BEP 15) here; may repeat. `none` turns it off [default: as --listen]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "MINUET_TRACKER_UDP_LISTEN",
        value_delimiter = ',',
        value_parser = parse_udp_listen,
        help_heading = "Network"
    )]
    udp_listen: Vec<UdpListen>,

    /// Threads for each UDP address; one answers some 150,000 announces a second [default: one for each core, at most 4]
    #[arg(
        long,
        value_name = "N",
        default_value_t = default_udp_workers(),
        hide_default_value = true,
        env = "MINUET_TRACKER_UDP_WORKERS",
        help_heading = "Network"
    )]
    udp_workers: usize,

    /// Serve HTTPS too, on the same ports, with this certificate (PEM, with those between it and its authority).
    /// SIGHUP reads it anew
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        env = "MINUET_TRACKER_TLS_CERT",
        help_heading = "Network"
    )]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        env = "MINUET_TRACKER_TLS_KEY",
        help_heading = "Network"
    )]
    tls_key: Option<PathBuf>,

    /// Share channels, nodes and peers with other trackers through this Redis or Valkey.
    /// Example: redis://10.0.0.5:6379/0
    #[arg(
        long,
        value_name = "URL",
        env = "MINUET_TRACKER_SHARED",
        hide_env_values = true,
        help_heading = "Network"
    )]
    shared: Option<String>,

    /// Believe Forwarded and X-Forwarded-For of connections from here: an address or a network such as
    /// 10.0.0.0/8. May repeat
    #[arg(long, value_name = "ADDR", value_parser = parse_net, env = "MINUET_TRACKER_TRUSTED_PROXY",
          value_delimiter = ',', help_heading = "Network")]
    trusted_proxy: Vec<IpNet>,

    /// Believe clients at private addresses which public address they have (`ip=` in announces): for seeders beside the
    /// tracker, where no stranger comes from such an address
    #[arg(long, env = "MINUET_TRACKER_BELIEVE_IP", help_heading = "Network")]
    believe_ip: bool,

    /// The tracker's URL as others reach it, told as the relay server's unless it has a path.
    /// Example: https://tracker.example/ [default: as each request names it]
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "MINUET_TRACKER_PUBLIC_URL",
          help_heading = "Network")]
    public_url: Option<String>,

    /// A gateway that serves the channels that this tracker lists (`minuet relay --allow listed --serve …`): the list links
    /// to it. Example: https://watch.example/ [default: none, and the list says how to watch]
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "MINUET_TRACKER_GATEWAY", help_heading = "Network")]
    gateway: Option<String>,

    /// The URL under which others reach this tracker's relay server, which is at the root of its host: needed where the
    /// tracker is below a path of a proxy. Example: https://relay.tracker.example/ [default: the tracker's]
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "MINUET_TRACKER_RELAY_URL",
          help_heading = "Relay server")]
    relay_url: Option<String>,

    /// Let any node use the relay server, also one that has joined no channel at this tracker
    #[arg(long, env = "MINUET_TRACKER_RELAY_ANY_NODE", help_heading = "Relay server")]
    relay_any_node: bool,

    /// Run no relay server and no address discovery
    #[arg(long, env = "MINUET_TRACKER_NO_RELAY", help_heading = "Relay server")]
    no_relay: bool,

    /// The most clients of the relay server at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2_000,
        env = "MINUET_TRACKER_RELAY_CLIENTS",
        help_heading = "Relay server"
    )]
    relay_clients: usize,

    /// A ceiling for clients of the relay server of one address (/56 for IPv6), also while there is room
    /// for more [default: no ceiling; when all is taken, the address that has most makes room]
    #[arg(
        long,
        value_name = "N",
        env = "MINUET_TRACKER_RELAY_CLIENTS_PER_ADDRESS",
        help_heading = "Relay server"
    )]
    relay_clients_per_address: Option<u32>,

    /// What one client may send through the relay server. Example: 4Mbit
    #[arg(
        long,
        value_name = "RATE",
        default_value = "20Mbit",
        env = "MINUET_TRACKER_RELAY_CLIENT_RATE",
        help_heading = "Relay server"
    )]
    relay_client_rate: units::Rate,

    /// What all clients together may send through the relay server; each may send less when they want more.
    /// Example: 1Gbit
    #[arg(
        long,
        value_name = "RATE",
        default_value = "200Mbit",
        env = "MINUET_TRACKER_RELAY_TOTAL_RATE",
        help_heading = "Relay server"
    )]
    relay_total_rate: units::Rate,

    /// Tell nodes the address that they are seen at here (UDP, QUIC); `none` turns it off. Example: 0.0.0.0:7071
    /// [default: the address of --listen on the next port, if it is free]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_udp_listen,
          env = "MINUET_TRACKER_DISCOVERY_LISTEN", help_heading = "Relay server")]
    discovery_listen: Option<UdpListen>,

    /// The most nodes that are connected for address discovery at once. Some 60 KB each
    #[arg(
        long,
        value_name = "N",
        default_value_t = 768,
        env = "MINUET_TRACKER_DISCOVERY_CONNECTIONS",
        help_heading = "Relay server"
    )]
    discovery_connections: usize,

    /// Keep channel windows in this folder; made when missing
    #[arg(long, value_name = "DIR", default_value = "minuet-tracker-data", env = "MINUET_TRACKER_DATA")]
    data: PathBuf,

    /// Track any torrent, not only those that a channel's record names
    #[arg(long, env = "MINUET_TRACKER_OPEN")]
    open: bool,

    /// Mean time between two announces of a peer; a peer is forgotten after two. Each peer is told its own,
    /// up to an eighth longer or shorter. Example: 5m
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = units::duration,
          env = "MINUET_TRACKER_INTERVAL", help_heading = "Limits")]
    interval: Duration,

    /// Announces a second from which on clients are told to wait longer, up to eight times the interval
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        env = "MINUET_TRACKER_ANNOUNCES_PER_SECOND",
        help_heading = "Limits"
    )]
    announces_per_second: u32,

    /// The most peers in one answer
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200,
        env = "MINUET_TRACKER_MAX_WANT",
        help_heading = "Limits"
    )]
    max_want: u32,

    /// The most peers of all swarms; then newcomers are told peers but are not remembered. 10 to 15 bytes each (IPv4)
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4_000_000,
        env = "MINUET_TRACKER_MAX_PEERS",
        help_heading = "Limits"
    )]
    max_peers: usize,

    /// The most swarms that no channel has published (with --open); then new ones are refused
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        env = "MINUET_TRACKER_MAX_OPEN_SWARMS",
        help_heading = "Limits"
    )]
    max_open_swarms: usize,

    /// The most channels; then a new one takes the place of the one that has been quiet for the longest, if that is over an
    /// hour, else of the quietest of the address that has brought most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000,
        env = "MINUET_TRACKER_MAX_CHANNELS",
        help_heading = "Limits"
    )]
    max_channels: usize,

    /// A ceiling for channels that one address (/56 for IPv6) brings, also while there is room
    /// for more [default: no ceiling; when all is taken, the address that has most makes room]
    #[arg(long, value_name = "N", env = "MINUET_TRACKER_MAX_CHANNELS_PER_ADDRESS", help_heading = "Limits")]
    max_channels_per_address: Option<usize>,

    /// Forget a channel this long after its last publication. Example: 7d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = units::duration,
          env = "MINUET_TRACKER_CHANNEL_TTL", help_heading = "Limits")]
    channel_ttl: Duration,

    /// Keep a channel's records, torrents and swarms this far back. Example: 6h
    #[arg(long, value_name = "DURATION", default_value = "125m", value_parser = units::duration,
          env = "MINUET_TRACKER_WINDOW", help_heading = "Limits")]
    window: Duration,

    /// The most records of a channel
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_500,
        env = "MINUET_TRACKER_WINDOW_RECORDS",
        help_heading = "Limits"
    )]
    window_records: usize,

    /// The most bytes of a channel's records and torrents
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, env = "MINUET_TRACKER_WINDOW_BYTES",
          help_heading = "Limits")]
    window_bytes: usize,

    /// Mean time between two joins of a node of the live mesh; a node is forgotten after two and a half. Example: 30s
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration,
          env = "MINUET_TRACKER_MESH_INTERVAL", help_heading = "Limits")]
    mesh_interval: Duration,

    /// The most nodes of all live meshes; then a newcomer takes the place of a node of the address that has most. Some 600
    /// bytes each
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200_000,
        env = "MINUET_TRACKER_MAX_NODES",
        help_heading = "Limits"
    )]
    max_nodes: usize,

    /// A ceiling for nodes of one channel's live mesh, also while there is room for more [default: no ceiling]
    #[arg(long, value_name = "N", env = "MINUET_TRACKER_MAX_NODES_PER_CHANNEL", help_heading = "Limits")]
    max_nodes_per_channel: Option<usize>,

    /// A ceiling for nodes of one channel's live mesh behind one address (/56 for IPv6), also while there is room
    /// for more [default: no ceiling; when all is taken, the address that has most makes room]
    #[arg(long, value_name = "N", env = "MINUET_TRACKER_MAX_NODES_PER_ADDRESS", help_heading = "Limits")]
    max_nodes_per_address: Option<usize>,

    /// The most HTTP connections at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20_000,
        env = "MINUET_TRACKER_MAX_CONNECTIONS",
        help_heading = "Limits"
    )]
    max_connections: usize,

    /// A ceiling for HTTP connections of one address (/56 for IPv6), trusted proxies not counted, also while there is room
    /// for more [default: no ceiling; when all is taken, the address that has most makes room]
    #[arg(
        long,
        value_name = "N",
        env = "MINUET_TRACKER_MAX_CONNECTIONS_PER_ADDRESS",
        help_heading = "Limits"
    )]
    max_connections_per_address: Option<u32>,

    /// Bytes of requests' bodies that are taken in at once, of all; then the address that sends most makes room
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, env = "MINUET_TRACKER_MAX_BODY_BYTES",
          help_heading = "Limits")]
    max_body_bytes: usize,

    /// Bytes of answers that wait for their readers at once, of all; then the address that most wait for makes room
    #[arg(long, value_name = "BYTES", default_value_t = 24 << 20, env = "MINUET_TRACKER_MAX_ANSWER_BYTES",
          help_heading = "Limits")]
    max_answer_bytes: usize,

    /// Bytes of the newest torrents that are kept in memory, of all channels; others are read from disk
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, env = "MINUET_TRACKER_TORRENT_CACHE",
          help_heading = "Limits")]
    torrent_cache: usize,

    /// The most subscribers of event streams at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 15_000,
        env = "MINUET_TRACKER_MAX_SUBSCRIBERS",
        help_heading = "Limits"
    )]
    max_subscribers: usize,

    /// How often a silent event stream carries a comment. Example: 30s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = units::duration,
          env = "MINUET_TRACKER_KEEP_ALIVE", help_heading = "Limits")]
    keep_alive: Duration,
}

/// An address, or nowhere.
#[derive(Debug, Clone, Copy)]
struct UdpListen(Option<SocketAddr>);

fn parse_udp_listen(text: &str) -> Result<UdpListen, String> {
    match text {
        "none" => Ok(UdpListen(None)),
        addr => addr
            .parse()
            .map(|addr| UdpListen(Some(addr)))
            .map_err(|_| format!("{text:?} is neither ADDR:PORT nor none")),
    }
}

impl Options {
    /// The configuration that the options describe.
    pub fn into_config(self) -> Config {
        let udp_listen = match self.udp_listen.as_slice() {
            [] => self.listen.clone(),
            named => named.iter().filter_map(|listen| listen.0).collect(),
        };
        let mut config = Config {
            listen: self.listen,
            udp_listen,
            udp_workers: self.udp_workers,
            shared: self.shared,
            tls: self.tls_cert.zip(self.tls_key).map(|(cert, key)| TlsFiles { cert, key }),
            data: self.data,
            ..Config::default()
        };
        config.swarms.open = self.open;
        config.swarms.interval = self.interval;
        config.swarms.announces_per_second = self.announces_per_second;
        config.swarms.max_want = self.max_want;
        config.swarms.max_peers = self.max_peers;
        config.swarms.max_open_swarms = self.max_open_swarms;
        config.channels.channels = self.max_channels;
        config.channels.channels_per_address = self.max_channels_per_address;
        config.channels.ttl = self.channel_ttl;
        config.channels.window.duration = self.window;
        config.channels.window.records = self.window_records;
        config.channels.window.bytes = self.window_bytes;
        config.mesh.interval = self.mesh_interval;
        config.mesh.nodes = self.max_nodes;
        config.mesh.nodes_per_channel = self.max_nodes_per_channel;
        config.mesh.nodes_per_address = self.max_nodes_per_address;
        config.public_url = self.public_url;
        config.gateway = self.gateway;
        config.relay_url = self.relay_url;
        config.channels.torrents = self.torrent_cache;
        config.relay = RelayLimits {
            enabled: !self.no_relay,
            clients: self.relay_clients,
            clients_per_address: self.relay_clients_per_address,
            any_node: self.relay_any_node,
            client_rate: u32::try_from(self.relay_client_rate.bytes_per_s()).unwrap_or(u32::MAX),
            total_rate: self.relay_total_rate.bytes_per_s(),
            discovery_listen: match self.discovery_listen {
                None => DiscoveryListen::Beside,
                Some(UdpListen(None)) => DiscoveryListen::Nowhere,
                Some(UdpListen(Some(addr))) => DiscoveryListen::At(addr),
            },
            discovery_connections: self.discovery_connections,
        };
        config.http.connections = self.max_connections;
        config.http.connections_per_address = self.max_connections_per_address;
        config.http.bodies = self.max_body_bytes;
        config.http.answers = self.max_answer_bytes;
        config.http.believe_ip = self.believe_ip;
        config.http.subscribers = self.max_subscribers;
        config.http.keep_alive = self.keep_alive;
        config.http.trusted_proxies = self.trusted_proxy;
        config
    }
}

/// Lets the process have as many open files as the system allows it: a connection is one.
pub fn raise_open_files_limit() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
}

fn parse_url(text: &str) -> Result<String, minuet_proto::Error> {
    minuet_proto::link::parse_tracker(text).map(String::from)
}

fn parse_net(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an address nor a network such as 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_its_defaults_are_the_librarys() {
        Options::command().debug_assert();
        let config = Options::try_parse_from(["minuet-tracker"]).unwrap().into_config();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        assert!(parse_net("127.0.0.1").unwrap().contains(&"127.0.0.1".parse::<std::net::IpAddr>().unwrap()));
        assert!(parse_net("10.0.0.0/8").is_ok());
        assert!(parse_net("proxy").is_err());
    }
}
