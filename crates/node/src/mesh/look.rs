//! How a tracker sees this machine, for whoever wants to know before there is anything to watch.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use minuet_guard::families;
use minuet_proto::{
    ChannelId,
    channel_api::mesh::{JoinRequest, MeshNode},
};
use reqwest::Url;
use tokio::{sync::watch, time::timeout};

use super::transport::{RelayServer, Transport, quic::Quic};
use crate::{TrackerClient, contact::Contacts};

/// How long the tracker's address discovery may take: some round trips, and a packet lost now and then.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(6);
/// Nodes that are asked for, to see whether there are any.
const WANTED: u8 = 8;

/// What a tracker says of a channel and of this machine.
#[derive(Debug, Clone)]
pub struct Look {
    /// The address that the request came from, as the tracker sees it.
    pub observed: IpAddr,
    /// Whether that is an address of this machine.
    pub is_own: bool,
    /// What became of address discovery.
    pub discovery: Discovery,
    /// Nodes of the live mesh that the tracker named.
    pub nodes: usize,
}

/// What the tracker's address discovery found. It goes by UDP, as live media does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// The tracker has none.
    NotOffered,
    /// It is on another host than the tracker, and was not asked.
    Elsewhere,
    /// The UDP port here, and the public address that it has.
    Seen(u16, SocketAddr),
    /// Nothing new was learned in time. Where `is_own` is true there is nothing to learn.
    Nothing,
}

/// Asks `tracker` for nodes of `channel` without joining, and for this machine's public address.
///
/// # Errors
/// With a sentence: the tracker does not answer as one, or no UDP port is free.
pub async fn look(tracker: &TrackerClient, channel: ChannelId) -> Result<Look, String> {
    let listen = (families::everywhere(), 0).into();
    let quic = Arc::new(
        Quic::bind(listen, rand::random(), Contacts::of_process())
            .await
            .map_err(|error| error.to_string())?,
    );
    let own = quic.reach().addrs;
    let mut request = JoinRequest::new(MeshNode::new(quic.id()));
    request.want = WANTED;
    let asked = tracker.ask_mesh(channel, &request).await;
    let look = match asked {
        Err(error) => Err(error.to_string()),
        Ok(answer) => {
            let relay = answer.relay.map(|url| RelayServer {
                url,
                discovery_port: answer.relay_quic_port,
                discovery_cert: answer.relay_quic_cert,
            });
            Ok(Look {
                observed: answer.observed,
                is_own: own.iter().any(|addr| addr.ip().to_canonical() == answer.observed.to_canonical()),
                discovery: discover(&quic, tracker, relay, &own).await,
                nodes: answer.nodes.len(),
            })
        }
    };
    quic.close().await;
    look
}

async fn discover(
    quic: &Arc<Quic>,
    tracker: &TrackerClient,
    relay: Option<RelayServer>,
    own: &[SocketAddr],
) -> Discovery {
    let Some(relay) = relay.filter(|relay| relay.discovery_port.is_some()) else {
        return Discovery::NotOffered;
    };
    let host = |url: &Url| url.host_str().map(str::to_owned);
    if relay.url.parse().ok().and_then(|url| host(&url)) != host(tracker.base()) {
        return Discovery::Elsewhere;
    }
    let transport: Arc<dyn Transport> = Arc::clone(quic) as Arc<dyn Transport>;
    if transport.use_relay(tracker.base().as_str(), &relay).await.is_err() {
        return Discovery::Nothing;
    }
    let (say, mut reach) = watch::channel(quic.reach());
    let news = async {
        loop {
            let seen = reach.borrow_and_update().addrs.iter().find(|addr| !own.contains(addr)).copied();
            match seen {
                Some(seen) => return Some(seen),
                None => reach.changed().await.ok()?,
            }
        }
    };
    let seen = tokio::select! {
        seen = timeout(DISCOVERY_TIMEOUT, news) => seen.ok().flatten(),
        () = Arc::clone(&transport).watch_reach(say) => None,
    };
    let port = quic.bound().first().map_or(0, SocketAddr::port);
    seen.map_or(Discovery::Nothing, |seen| Discovery::Seen(port, seen))
}
