//! Nodes of the channel on the local network, by multicast DNS (RFC 6762, 6763), so that two viewers in one house fetch the stream
//! once. Only where the user wished it: every device on that network can see that a node of some channel is here.
//!
//! The service is `_minuet._udp`; its TXT record has `c`, by which those who know the channel recognise it and others cannot tell what
//! is watched, and `k`, the node's key. Anybody on the network can answer. So answers count as words from a public place, lead only to
//! addresses of this network, and are bounded in number; a link proves the key.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mdns_sd::{ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use minuet_guard::contact::Scope;
use minuet_mesh::Discovery;
use minuet_proto::{
    ChannelId,
    mesh::{HelloFlags, NodeId, PeerInfo},
    parse_hex,
};
use minuet_session::Reach;
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, time::Instant};

use super::driver::Command;

const SERVICE: &str = "_minuet._udp.local.";
/// Nodes that are taken in within [`WHILE`].
const MOST: usize = 64;
const WHILE: Duration = Duration::from_secs(60);
/// Bytes of the channel's mark.
const MARK: usize = 16;
/// Records and timers that the responder may hold: it remembers whatever anybody on the network answers, as long as that says.
const MOST_HELD: i64 = 8192;
/// How often they are counted.
const LOOK: Duration = Duration::from_secs(5);

/// Says that this node is here, and takes in others, for ever.
pub(super) async fn meet(channel: ChannelId, node: NodeId, port: u16, commands: mpsc::Sender<Command>) {
    let mut taken = Taken { count: 0, since: Instant::now() };
    loop {
        // Dropped when the node ends: others are told that it has gone.
        let met = match Here::announce(&channel, &node, port) {
            Ok(here) => here.meet(&mark(&channel), node, &commands, &mut taken).await,
            Err(error) => Err(error),
        };
        if let Err(error) = met {
            tracing::warn!("nodes on the local network are not looked for: {error}");
            return std::future::pending().await;
        }
        tracing::debug!("more is said on the local network than can be held: all of it is forgotten");
    }
}

/// How many nodes were taken in within [`WHILE`].
struct Taken {
    count: usize,
    since: Instant,
}

impl Taken {
    fn has_room(&mut self) -> bool {
        if self.since.elapsed() > WHILE {
            *self = Self { count: 0, since: Instant::now() };
        }
        self.count += 1;
        self.count <= MOST
    }
}

/// This node, as the local network hears of it.
struct Here(ServiceDaemon);

impl Here {
    fn announce(channel: &ChannelId, node: &NodeId, port: u16) -> mdns_sd::Result<Self> {
        let key = hex(&node.0);
        let name = &key[..2 * MARK];
        let said = HashMap::from([("c".to_owned(), mark(channel)), ("k".to_owned(), key.clone())]);
        let host = format!("minuet-{name}.local.");
        let service = ServiceInfo::new(SERVICE, name, &host, "", port, said)?.enable_addr_auto();
        let here = Self(ServiceDaemon::new()?);
        here.0.register(service)?;
        Ok(here)
    }

    /// Takes in other nodes of the channel until the responder holds too much.
    async fn meet(
        &self,
        mark: &str,
        node: NodeId,
        commands: &mpsc::Sender<Command>,
        taken: &mut Taken,
    ) -> mdns_sd::Result<()> {
        let events = self.0.browse(SERVICE)?;
        let mut look = tokio::time::interval(LOOK);
        loop {
            let event = tokio::select! {
                event = events.recv_async() => event,
                _ = look.tick() => {
                    if self.held().await? > MOST_HELD {
                        return Ok(());
                    }
                    continue;
                }
            };
            let event = event.map_err(|_| mdns_sd::Error::DaemonShutdown)?;
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let Some(peer) = peer(&service, mark).filter(|peer| peer.node != node) else { continue };
            if taken.has_room() {
                tracing::debug!("a node of the channel is on the local network");
                let _ = commands.send(Command::Peers(vec![peer], Discovery::Public)).await;
            }
        }
    }

    /// Records and timers that the responder holds.
    async fn held(&self) -> mdns_sd::Result<i64> {
        let metrics = match self.0.get_metrics() {
            Ok(metrics) => metrics,
            // It is busy; the next look will tell.
            Err(mdns_sd::Error::Again) => return Ok(0),
            Err(error) => return Err(error),
        };
        let metrics = metrics.recv_async().await.map_err(|_| mdns_sd::Error::DaemonShutdown)?;
        let holds = |name: &str| name.starts_with("cached-") || name == "timer";
        Ok(metrics
            .iter()
            .filter(|(name, _)| holds(name))
            .map(|(_, count)| *count)
            .fold(0, i64::saturating_add))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // Says good-bye first.
        let _ = self.0.shutdown();
    }
}

/// A node that somebody on the network has named, if it is one of the channel, at addresses that lie here.
fn peer(service: &ResolvedService, mark: &str) -> Option<PeerInfo> {
    if service.get_property_val_str("c") != Some(mark) || service.port == 0 {
        return None;
    }
    let node = NodeId(parse_hex("a node's key", service.get_property_val_str("k")?).ok()?);
    let mut addrs: Vec<SocketAddr> = service
        .addresses
        .iter()
        .filter(|addr| is_here(addr))
        .map(|addr| SocketAddr::new(addr.to_ip_addr(), service.port))
        .collect();
    addrs.sort_unstable();
    addrs.truncate(4);
    let address = Reach { addrs, relay: None };
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    (!address.is_empty()).then(|| PeerInfo { node, flags, upload_kbps: 0, address: address.encode() })
}

/// Whether an address is one of the local network. One of this machine counts only if it was heard on this machine alone.
fn is_here(addr: &ScopedIp) -> bool {
    let heard_here = match addr {
        ScopedIp::V4(v4) => v4.interface_ids().iter().all(|interface| interface.name.starts_with("lo")),
        ScopedIp::V6(v6) => v6.scope_id().name.starts_with("lo"),
        _ => false,
    };
    match Scope::of(IpAddr::to_canonical(&addr.to_ip_addr())) {
        Some(Scope::Private) => true,
        Some(Scope::Loopback) => heard_here,
        // A link-local address needs an interface, which addresses in the mesh do not have.
        _ => false,
    }
}

/// What a channel is recognised by, for those who know it.
fn mark(channel: &ChannelId) -> String {
    let mut hash = Sha256::new();
    hash.update(b"minuet local 1\n");
    hash.update(channel.as_bytes());
    hex(&hash.finalize()[..MARK])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use minuet_proto::ChannelKey;

    use super::*;

    fn channel(n: u8) -> ChannelId {
        ChannelKey::from_seed(&[n; 32]).channel()
    }

    #[test]
    fn a_mark_tells_channels_apart_and_not_what_they_are() {
        assert_ne!(mark(&channel(1)), mark(&channel(2)));
        assert!(!mark(&channel(1)).contains(&channel(1).to_string()[..8]));
    }

    #[tokio::test]
    async fn two_nodes_of_a_channel_on_one_network_hear_of_each_other_and_of_no_other_channel() {
        let (say, mut heard) = mpsc::channel(16);
        // The channel is this run's alone: other runs may be on the same network.
        let channel = ChannelId::new(rand::random());
        let (one, two, other) = (NodeId([1; 32]), NodeId([2; 32]), NodeId([3; 32]));
        let (quiet, _) = mpsc::channel(16);
        let foreign = tokio::spawn(meet(ChannelId::new(rand::random()), other, 4003, quiet.clone()));
        let second = tokio::spawn(meet(channel, two, 4002, quiet));
        let first = tokio::spawn(meet(channel, one, 4001, say));
        let command = tokio::time::timeout(Duration::from_secs(30), heard.recv()).await;
        let Ok(Some(Command::Peers(peers, Discovery::Public))) = command else {
            panic!("it is heard of in time")
        };
        assert_eq!(peers.iter().map(|peer| peer.node).collect::<Vec<_>>(), [two]);
        let addrs = Reach::decode(&peers[0].address).addrs;
        assert!(!addrs.is_empty() && addrs.iter().all(|addr| addr.port() == 4002), "{addrs:?}");
        [foreign, second, first].iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn what_the_responder_holds_is_counted() {
        let here = Here::announce(&channel(1), &NodeId([1; 32]), 4001).unwrap();
        let before = here.held().await.unwrap();
        let other = Here::announce(&channel(2), &NodeId([2; 32]), 4002).unwrap();
        let (say, mut heard) = mpsc::channel(16);
        let mut taken = Taken { count: 0, since: Instant::now() };
        let mark = mark(&channel(2));
        tokio::select! {
            met = here.meet(&mark, NodeId([1; 32]), &say, &mut taken) => panic!("{met:?}"),
            _ = heard.recv() => {}
        }
        assert!(here.held().await.unwrap() > before, "the other node's records");
        drop(other);
    }
}
