//! What a channel's nodes write into the DHT and read there.
//!
//! 1. The source writes where the channel can be joined under the channel's key ([`Beacon`]): with each finished segment, but at
//!    most every [`SOURCE`], and at least every [`RENEWAL`], since nodes of the DHT keep an item for some two hours.
//! 2. A node that reads it and finds few copies puts it again. So the item lives as long as one node of the channel does.
//! 3. A node that others can dial puts itself and its neighbours into one of the channel's meeting places, every quarter of an hour.
//!    Nodes with few neighbours read these places too.
//! 4. A node without neighbours looks every few seconds, a node with some every quarter of an hour.
//!
//! Nodes that are named there rank below those of a tracker, with places of their own. Trackers are taken from the channel's own
//! item alone.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use minuet_dht::{Beacon, Item, MAX_BEACON_NODES, MEETING_PLACES, meeting_key, meeting_salt};
use minuet_guard::contact::may_name;
use minuet_mesh::Discovery;
use minuet_proto::{
    ChannelId, ChannelKey, InfoHash,
    mesh::{HelloFlags, NodeId, PeerInfo},
};
use minuet_session::Reach;
use reqwest::Url;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::Dht;
use crate::{
    contact::{Teller, nameable},
    mesh::{driver::Command, heard::Heard},
};

/// The source writes at most so often,
const SOURCE: Duration = Duration::from_secs(120);
/// and at least so often.
const RENEWAL: Duration = Duration::from_secs(20 * 60);
/// A node without neighbours looks again after so long, and twice as long each time,
const LOST: Duration = Duration::from_secs(5);
/// up to this.
const LOST_LONGEST: Duration = Duration::from_secs(120);
/// A node with neighbours looks after this, and up to half as long again.
const CALM: Duration = Duration::from_secs(15 * 60);
/// Neighbours with which nobody else is needed.
const SOME: usize = 3;
/// Copies of an item with which it need not be given again.
const COPIES: usize = 5;
/// The time from which items of the DHT may be numbered: below it the clock is wrong.
const YEAR_2020_S: u64 = 1_577_836_800;

/// What of this node is written, as it changes.
#[derive(Debug, Clone)]
pub(in crate::mesh) struct About {
    pub node: NodeId,
    pub reach: watch::Receiver<Reach>,
    pub dialable: watch::Receiver<bool>,
    pub neighbours: watch::Receiver<Vec<(PeerInfo, Option<IpAddr>)>>,
    pub heard: watch::Receiver<Heard>,
    /// Trackers of the source, for those who have a link without any.
    pub trackers: Vec<Url>,
}

/// A node that meets others of its channel by the DHT.
pub(in crate::mesh) struct Meeting {
    pub dht: Dht,
    pub channel: ChannelId,
    /// The source's.
    pub key: Option<ChannelKey>,
    pub about: About,
    pub commands: mpsc::Sender<Command>,
    /// Trackers that the channel itself names, and where it was said.
    pub trackers: mpsc::Sender<(Url, Teller)>,
}

impl Meeting {
    /// For ever.
    pub async fn run(mut self) {
        match self.key.clone() {
            Some(key) => self.write(&key).await,
            None => self.look().await,
        }
    }

    async fn write(&mut self, key: &ChannelKey) {
        let mut told: Option<InfoHash> = None;
        let mut reported = false;
        loop {
            let began = Instant::now();
            let newest = self.about.heard.borrow().records.last().map(|record| record.info_hash);
            let mut walked = self.dht.walk(self.channel, Bytes::new(), |_, _| {}).await;
            let beacon = Beacon {
                info_hash: newest,
                nodes: self.nodes(walked.reach),
                trackers: self.about.trackers.clone(),
            };
            // Above whatever was written before, by this clock or another.
            let above = walked.item.as_ref().map_or(0, |item| item.seq().saturating_add(1));
            let seq = i64::try_from(unix_s()).unwrap_or(0).max(above);
            let taken = match Item::sign(key, Bytes::new(), seq, beacon.encode()) {
                Some(item) => self.dht.put(&item, &mut walked).await,
                None => 0,
            };
            match (taken, std::mem::replace(&mut reported, taken > 0)) {
                (0, true) => tracing::warn!(
                    "the DHT takes nothing any more: who has only the key cannot find the channel"
                ),
                (0, false) => tracing::debug!("no node of the DHT takes the channel's item"),
                (taken, false) => {
                    tracing::info!(
                        "the channel can be found by its key alone: {taken} nodes of the DHT say where it is"
                    );
                }
                _ => {}
            }
            told = if taken > 0 { newest } else { told };
            let wait = if taken > 0 { SOURCE } else { LOST.saturating_mul(2) };
            tokio::time::sleep_until(began + wait).await;
            let is_news = |heard: &Heard| heard.records.last().map(|record| record.info_hash) != told;
            let _ = tokio::time::timeout_at(began + RENEWAL, self.about.heard.wait_for(is_news)).await;
        }
    }

    async fn look(&mut self) {
        let mut lost = LOST;
        loop {
            let found = self.read().await;
            let neighbours = self.about.neighbours.borrow().len();
            let wait = match neighbours {
                0 => lost,
                _ => CALM.mul_f64(1.0 + rand::random::<f64>() / 2.0),
            };
            lost = if found || neighbours > 0 { LOST } else { lost.saturating_mul(2).min(LOST_LONGEST) };
            let lonely = async |about: &mut About| {
                // A node that loses all its neighbours does not wait.
                let _ = about.neighbours.wait_for(Vec::is_empty).await;
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = lonely(&mut self.about), if neighbours > 0 => {}
            }
        }
    }

    /// Reads what there is, and writes what others will need. Whether anybody was found.
    async fn read(&self) -> bool {
        let mut named = 0;
        let (say, mut said) = mpsc::unbounded_channel();
        let walking = self.dht.walk(self.channel, Bytes::new(), |item, from| {
            // At most as many as the walk asks.
            let _ = say.send((item.value().clone(), from));
        });
        tokio::pin!(walking);
        let mut walked = loop {
            tokio::select! {
                biased;
                Some((value, from)) = said.recv() => {
                    named += self.tell(&value, from, true).await;
                }
                walked = &mut walking => break walked,
            }
        };
        while let Ok((value, from)) = said.try_recv() {
            named += self.tell(&value, from, true).await;
        }
        if let Some(item) = walked.item.clone()
            && walked.copies < COPIES
        {
            let taken = self.dht.put(&item, &mut walked).await;
            tracing::debug!("the channel's item was given to {taken} nodes of the DHT again");
        }
        for place in 0..MEETING_PLACES {
            named += self.meet(place).await;
        }
        named > 0
    }

    /// Reads a meeting place, and writes into it where that is of use.
    async fn meet(&self, place: u64) -> usize {
        let now = unix_s();
        let (key, salt) = (meeting_key(&self.channel), meeting_salt(now, place));
        let writes = self.writes_to(place);
        let known = self.about.neighbours.borrow().len() >= SOME;
        if known && !writes {
            return 0;
        }
        let mut walked = self.dht.walk(key.channel(), salt.clone(), |_, _| {}).await;
        let mut named = 0;
        let mut there = Vec::new();
        if let (Some(item), Some(reach)) = (&walked.item, walked.reach) {
            named = self.tell(item.value(), reach, false).await;
            there = Beacon::decode(item.value()).unwrap_or_default().nodes;
        }
        if writes {
            let mut nodes = self.nodes(walked.reach);
            for known in there {
                if !nodes.contains(&known) {
                    nodes.push(known);
                }
            }
            let above = walked.item.as_ref().map_or(0, |item| item.seq().saturating_add(1));
            let seq = i64::try_from(now).unwrap_or(0).max(above);
            let beacon = Beacon { nodes, ..Beacon::default() };
            if let Some(item) = Item::sign(&key, salt, seq, beacon.encode()) {
                let taken = self.dht.put(&item, &mut walked).await;
                tracing::debug!("meeting place {place}: {taken} nodes of the DHT have this node");
            }
        }
        named
    }

    /// Whether this node writes there: nodes that others can dial share the places out by their keys.
    fn writes_to(&self, place: u64) -> bool {
        let is_own = u64::from(self.about.node.0[0]) % MEETING_PLACES == place;
        is_own && *self.about.dialable.borrow() && unix_s() > YEAR_2020_S
    }

    /// Hands over what an item names, as far as a node of the DHT at `from` may name it. How many nodes that is.
    async fn tell(&self, value: &Bytes, from: IpAddr, is_channels: bool) -> usize {
        let beacon = match Beacon::decode(value) {
            Ok(beacon) => beacon,
            Err(error) => {
                tracing::debug!("an item of the DHT is passed over: {error}");
                return 0;
            }
        };
        let teller = Teller::At(from);
        let peers: Vec<PeerInfo> = beacon
            .nodes
            .iter()
            .filter(|(node, _)| *node != self.about.node)
            .filter_map(|(node, addr)| peer(*node, nameable([addr], teller).next()?))
            .collect();
        let count = peers.len();
        tracing::debug!("the DHT names {count} nodes of the channel");
        if !peers.is_empty() {
            let _ = self.commands.send(Command::Peers(peers, Discovery::Public)).await;
        }
        if is_channels {
            for url in beacon.trackers {
                // A few are taken; the rest find the queue full.
                let _ = self.trackers.try_send((url, teller));
            }
        }
        count
    }

    /// This node and its neighbours, those that others can dial, as nodes of the DHT at `reach` may be told of them.
    fn nodes(&self, reach: Option<IpAddr>) -> Vec<(NodeId, SocketAddr)> {
        let teller = reach.map_or(Teller::Unknown, Teller::At);
        let mut nodes = Vec::new();
        let mut take = |node: NodeId, addrs: &[SocketAddr]| {
            let good = || addrs.iter().filter(|addr| addr.port() != 0 && may_name(addr.ip(), teller).is_ok());
            let first = |v4: bool| good().find(|addr| addr.is_ipv4() == v4).copied();
            nodes.extend([first(true), first(false)].into_iter().flatten().map(|addr| (node, addr)));
        };
        if *self.about.dialable.borrow() {
            take(self.about.node, &self.about.reach.borrow().addrs);
        }
        for (info, _) in self.about.neighbours.borrow().iter().filter(|(info, _)| info.flags.dialable) {
            take(info.node, &Reach::decode(&info.address).addrs);
        }
        nodes.truncate(2 * MAX_BEACON_NODES);
        nodes
    }
}

fn peer(node: NodeId, addr: SocketAddr) -> Option<PeerInfo> {
    let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
    let address = Reach { addrs: vec![addr], relay: None }.encode();
    Some(PeerInfo { node, flags, upload_kbps: 0, address })
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
