//! BitTorrent's DHT, as a node of the mesh uses it: to find a channel by its key alone, and to be found. Only where the user
//! wished it: every lookup shows nodes of the DHT which channel is looked for, and from where.
//!
//! [`Dht`] walks (`minuet-dht`) over sockets of its own, one pair for each walk, and keeps to the rule for outgoing contacts:
//! what a node of the DHT names is judged by where that node is. [`meet`] says what a channel's nodes write and read.

pub(super) mod meet;

use std::{
    collections::HashMap,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use minuet_dht::{Beacon, Id, Item, Lookup, MAX_DATAGRAM, Message, Query, TIMEOUT, Transaction};
use minuet_guard::families;
use minuet_proto::ChannelId;
use tokio::{net::UdpSocket, time::Instant};

use crate::contact::{Contact, Contacts, Scope, Teller};

/// Where to begin where nothing is known: who runs them learns who begins there.
pub const BOOTSTRAP: [&str; 3] =
    ["router.bittorrent.com:6881", "dht.transmissionbt.com:6881", "relay.pkarr.org:6881"];
/// Nodes of the DHT that are remembered, the last that answered first.
const MAX_GOOD: usize = 64;
/// With so many of them nobody else is needed to begin.
const ENOUGH: usize = 8;
/// How long the name of a place to begin may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(5);
/// A longer file is not ours.
const MAX_LEN: u64 = 16 * 1024;

/// How the DHT is used.
#[derive(Debug, Clone)]
pub struct DhtOptions {
    /// Where to begin, `HOST:PORT`.
    pub bootstrap: Vec<String>,
    /// File in which nodes of the DHT are remembered for the next run.
    pub remembered: Option<PathBuf>,
}

impl DhtOptions {
    /// As a command line says it: where to begin, [`BOOTSTRAP`] if it names nothing, and the folder of what is remembered for the
    /// next run.
    pub fn new(bootstrap: &[String], folder: Option<&Path>) -> Self {
        let bootstrap = match bootstrap {
            [] => BOOTSTRAP.map(String::from).to_vec(),
            named => named.to_vec(),
        };
        Self { bootstrap, remembered: folder.map(|folder| folder.join("dht.json")) }
    }
}

/// Reads a place to begin.
///
/// # Errors
/// It is no host with a port; says how it should look.
pub fn host_port(text: &str) -> Result<String, String> {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match text.rsplit_once(':') {
        Some((host, number)) if !host.is_empty() && port(number) => Ok(text.to_owned()),
        _ => Err("write a host and a port as in dht.example:6881".into()),
    }
}

/// What the DHT says of a channel.
#[derive(Debug, Clone)]
pub struct InDht {
    /// The item's number: when the source wrote it, in Unix seconds.
    pub seq: i64,
    /// How many nodes of the DHT have it, of those that were asked.
    pub copies: usize,
    /// What it says.
    pub beacon: Beacon,
}

/// Looks a channel's item up. None where no node of the DHT has one; the error says where nobody answered at all.
///
/// # Errors
/// No node of the DHT answers.
pub async fn find(options: DhtOptions, channel: ChannelId) -> Result<Option<InDht>, NobodyAnswers> {
    let walked = Dht::new(options, Contacts::of_process()).walk(channel, Bytes::new(), |_, _| {}).await;
    if walked.reach.is_none() {
        return Err(NobodyAnswers);
    }
    let shown = |item: Item| {
        Some(InDht { seq: item.seq(), copies: walked.copies, beacon: Beacon::decode(item.value()).ok()? })
    };
    Ok(walked.item.clone().and_then(shown))
}

/// No node of the DHT answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no node of the DHT answers: UDP is blocked here, or --dht-bootstrap names no such node")]
pub struct NobodyAnswers;

/// A user of the DHT. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dht(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: DhtOptions,
    contacts: Contacts,
    /// This node's name there: it answers nothing, so it need not be near to anything.
    own: Id,
    good: Mutex<Vec<SocketAddr>>,
}

/// The end of a walk.
#[derive(Debug)]
pub struct Walked {
    /// The newest item that was found.
    pub item: Option<Item>,
    /// How many nodes had it.
    pub copies: usize,
    /// Of the nodes of the DHT that answered, one that reaches as far as any: what is told to them, and what they have said together,
    /// is judged by where that is. With one on the internet among them nothing of a local network is named.
    pub reach: Option<IpAddr>,
    /// To whom the item can be given.
    holders: Vec<(SocketAddr, Bytes)>,
    sockets: Option<Sockets>,
}

impl Dht {
    /// Nothing is sent until something is looked up.
    pub fn new(options: DhtOptions, contacts: Contacts) -> Self {
        let good = Mutex::new(options.remembered.as_deref().map(read).unwrap_or_default());
        Self(Arc::new(Inner { options, contacts, own: Id(rand::random()), good }))
    }

    /// Looks an item up. `found` hears of each copy that is newer than those before, and from where it came.
    pub async fn walk(&self, key: ChannelId, salt: Bytes, mut found: impl FnMut(&Item, IpAddr)) -> Walked {
        let doors = self.doors().await;
        let own = self.good();
        let sockets = Sockets::bind().await;
        let began = Instant::now();
        let mut lookup = Lookup::new(key, salt, doors, rand::random(), Duration::ZERO);
        let mut under_way: HashMap<Transaction, Contact> = HashMap::new();
        let mut reach: Option<IpAddr> = None;
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        loop {
            let now = began.elapsed();
            while let Some(send) = lookup.poll(now) {
                let teller = match send.teller {
                    Some(ip) => Teller::At(ip),
                    // It answered before, perhaps to another network's node: it may name itself.
                    None if own.contains(&send.to) => Teller::At(send.to.ip()),
                    None => Teller::User,
                };
                let asked = match self.0.contacts.try_open(send.to, teller) {
                    Ok(contact) => {
                        let query = send.query.encode(&self.0.own, send.transaction);
                        sockets.send(send.to, &query).await.map(|()| contact).ok()
                    }
                    Err(error) => {
                        tracing::trace!("a node of the DHT is not asked: {error}");
                        None
                    }
                };
                match asked {
                    Some(contact) => drop(under_way.insert(send.transaction, contact)),
                    None => lookup.cannot_ask(send.transaction),
                }
            }
            if lookup.is_over(now) {
                break;
            }
            let wake = lookup.wake(now).unwrap_or(now + TIMEOUT);
            let Ok(received) = tokio::time::timeout_at(began + wake, sockets.receive(&mut buffer)).await
            else {
                continue;
            };
            let Ok((length, from)) = received else { continue };
            match Message::decode(&buffer[..length]) {
                Ok(Message::Answer(transaction, answer)) => {
                    let (item, was_asked) = lookup.on_answer(from, transaction, &answer);
                    if !was_asked {
                        continue;
                    }
                    if let Some(contact) = under_way.remove(&transaction) {
                        contact.succeeded();
                    }
                    reach = Some(farther(reach, from.ip()));
                    if let Some(item) = item {
                        found(&item, from.ip());
                    }
                }
                Ok(Message::Refusal(transaction)) => lookup.on_refusal(from, transaction),
                Ok(Message::Query) => {}
                Err(error) => tracing::trace!("{from} sends no answer: {error}"),
            }
        }
        let answered: Vec<SocketAddr> = lookup.answered().take(ENOUGH).collect();
        self.note(&answered).await;
        Walked {
            item: lookup.newest().cloned(),
            copies: lookup.copies(),
            reach,
            holders: lookup.put(),
            sockets: Some(sockets),
        }
    }

    /// Gives an item to the nodes that a walk to its place has found; how many have taken it.
    pub async fn put(&self, item: &Item, walked: &mut Walked) -> usize {
        let Some(sockets) = walked.sockets.take() else { return 0 };
        let first: Transaction = rand::random();
        let mut waiting = HashMap::new();
        for ((to, token), number) in walked.holders.drain(..).zip(0..) {
            let transaction = first.wrapping_add(number);
            let query = Query::Put { token, item: item.clone() };
            if sockets.send(to, &query.encode(&self.0.own, transaction)).await.is_ok() {
                waiting.insert(transaction, to);
            }
        }
        let (until, mut taken) = (Instant::now() + TIMEOUT, 0);
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        // Whatever else comes in meanwhile.
        while !waiting.is_empty() && Instant::now() < until {
            let Ok(received) = tokio::time::timeout_at(until, sockets.receive(&mut buffer)).await else {
                break;
            };
            let Ok((length, from)) = received else { continue };
            let (transaction, good) = match Message::decode(&buffer[..length]) {
                Ok(Message::Answer(transaction, _)) => (transaction, true),
                Ok(Message::Refusal(transaction)) => (transaction, false),
                _ => continue,
            };
            if waiting.get(&transaction) == Some(&from) {
                waiting.remove(&transaction);
                taken += usize::from(good);
            }
        }
        taken
    }

    fn good(&self) -> Vec<SocketAddr> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        // The list is whole after each change.
        self.0.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a walk begins: at nodes that answered before; with few of those, also at the places that the user or this program
    /// names.
    async fn doors(&self) -> Vec<SocketAddr> {
        let mut doors = self.good();
        doors.truncate(ENOUGH);
        if doors.len() >= ENOUGH / 2 {
            return doors;
        }
        for place in &self.0.options.bootstrap {
            match tokio::time::timeout(RESOLVE, tokio::net::lookup_host(place)).await {
                Ok(Ok(found)) => doors.extend(found.take(2)),
                _ => tracing::debug!("{place} has no address: the DHT is not entered there"),
            }
        }
        doors
    }

    async fn note(&self, answered: &[SocketAddr]) {
        if answered.is_empty() {
            return;
        }
        let all = {
            let mut good = self.lock();
            good.retain(|known| !answered.contains(known));
            good.splice(..0, answered.iter().copied());
            good.truncate(MAX_GOOD);
            good.clone()
        };
        if let Some(path) = self.0.options.remembered.clone() {
            let written = tokio::task::spawn_blocking(move || write(&path, &all)).await;
            if let Ok(Err(error)) = written {
                tracing::debug!("nodes of the DHT are not remembered: {error}");
            }
        }
    }
}

/// Which of two addresses reaches farther.
fn farther(known: Option<IpAddr>, other: IpAddr) -> IpAddr {
    known.filter(|known| Scope::of(*known) >= Scope::of(other)).unwrap_or(other)
}

/// Sockets of one walk, for each family that there is.
#[derive(Debug)]
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    async fn bind() -> Self {
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok();
        let v6 =
            if families::has_ipv6() { UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.ok() } else { None };
        Self { v4, v6 }
    }

    async fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        match socket {
            Some(socket) => socket.send_to(datagram, to).await.map(drop),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Cancel-safe.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let readable = async |socket: &Option<UdpSocket>| match socket {
                Some(socket) => socket.readable().await,
                None => std::future::pending().await,
            };
            let socket = tokio::select! {
                ready = readable(&self.v4) => ready.map(|()| &self.v4)?,
                ready = readable(&self.v6) => ready.map(|()| &self.v6)?,
            };
            let Some(socket) = socket else { continue };
            match socket.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }
}

fn read(path: &Path) -> Vec<SocketAddr> {
    let json = minuet_files::read(path, MAX_LEN).unwrap_or_default();
    let mut good: Vec<SocketAddr> = serde_json::from_slice(&json).unwrap_or_default();
    good.truncate(MAX_GOOD);
    good
}

/// Writes the file anew, whole or not at all, for its owner alone.
fn write(path: &Path, good: &[SocketAddr]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut part = tempfile::Builder::new().prefix("dht-").suffix(".part").tempfile_in(folder)?;
    part.write_all(&serde_json::to_vec(good)?)?;
    part.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_on_the_internet_keeps_local_addresses_out() {
        let [lan, internet]: [IpAddr; 2] = ["192.168.1.7", "198.51.100.7"].map(|ip| ip.parse().unwrap());
        assert_eq!(farther(None, lan), lan);
        assert_eq!([farther(Some(lan), internet), farther(Some(internet), lan)], [internet; 2]);
    }

    #[test]
    fn a_place_to_begin_has_a_host_and_a_port() {
        assert!(["dht.example:6881", "[2001:db8::1]:6881"].iter().all(|text| host_port(text).is_ok()));
        assert!(
            ["dht.example", ":6881", "dht.example:0", "dht.example:x"]
                .iter()
                .all(|text| host_port(text).is_err())
        );
    }
}
