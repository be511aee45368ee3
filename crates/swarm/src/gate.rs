//! The way out for the BitTorrent engine: every connection that it opens, to peers that trackers or other peers named and to
//! trackers, goes through here and is judged by the rule for outgoing contacts ([`minuet_guard::contact`]).
//!
//! The engine asks nobody before it dials, but it can be told of a proxy. So this is one: SOCKS 5 (RFC 1928) on loopback,
//! within this process, behind a password (RFC 1929) that only the engine has. Rules:
//! - Trackers are contacted as often as the engine likes: the user named them. They are known by their addresses, so where
//!   a tracker redirects the engine to, counts like any peer.
//! - A peer is contacted if those who tell of peers may name it, and within its household's budget. It has answered when
//!   it has sent the first bytes of the protocol (BEP 3); whatever else listens there has not.

use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use minuet_guard::{
    contact::Teller,
    contacts::{Contact, Contacts},
    tasks::Tasks,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Connections at once: as many as the engine has peers, and some to trackers.
const MAX_CONNECTIONS: usize = 1024;
/// How long the engine may take to say where to.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a name server may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of trackers that are remembered.
const MAX_TRACKERS: usize = 256;
/// How a peer that speaks BitTorrent begins.
const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol";
/// How much is passed on at once.
const BUFFER: usize = 32 << 10;

/// The gate. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Gate {
    url: String,
    trackers: Arc<Mutex<HashSet<SocketAddr>>>,
    _tasks: Tasks,
}

#[derive(Debug)]
struct Rule {
    contacts: Contacts,
    /// Who tells of peers.
    teller: Teller,
    trackers: Arc<Mutex<HashSet<SocketAddr>>>,
    password: String,
    connect_timeout: Duration,
}

impl Gate {
    /// Opens a gate for peers that `teller` names.
    pub async fn open(contacts: Contacts, teller: Teller, connect_timeout: Duration) -> io::Result<Self> {
        // Hosts without a way to IPv4 mostly have this address, too. The engine takes no address of IPv6 in the URL, but a
        // name.
        let (listener, host) = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                (TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await?, "localhost")
            }
            listener => (listener?, "127.0.0.1"),
        };
        let password = format!("{:032x}", rand::random::<u128>());
        let url = format!("socks5://minuet:{password}@{host}:{}", listener.local_addr()?.port());
        let trackers: Arc<Mutex<HashSet<SocketAddr>>> = Arc::default();
        let rule = Rule { contacts, teller, trackers: Arc::clone(&trackers), password, connect_timeout };
        let tasks = Tasks::new();
        let spawner = tasks.spawner().clone();
        tasks.spawner().spawn("the way out for BitTorrent", async move {
            let (places, rule) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(rule));
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { continue };
                let Ok((stream, _)) = listener.accept().await else {
                    // No file left, most likely; some will be closed.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let rule = Arc::clone(&rule);
                spawner.errand("a BitTorrent connection", async move {
                    if let Err(error) = rule.pass(stream).await {
                        tracing::trace!("a BitTorrent connection: {error}");
                    }
                    drop(place);
                });
            }
            #[allow(unreachable_code, reason = "says which error it never has")]
            Ok::<_, Infallible>(())
        });
        Ok(Self { url, trackers, _tasks: tasks })
    }

    /// What the engine is told as its proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets the engine contact these trackers, by their announce URLs.
    pub async fn let_through(&self, trackers: &[String]) {
        for url in trackers.iter().filter_map(|tracker| url::Url::parse(tracker).ok()) {
            let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { continue };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let found = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await;
            let found = found.ok().and_then(Result::ok).into_iter().flatten();
            let mut known = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_TRACKERS {
                // Those in use come back with the next torrent.
                known.clear();
            }
            known.extend(found);
        }
    }
}

impl Rule {
    async fn pass(&self, mut near: TcpStream) -> io::Result<()> {
        near.set_nodelay(true)?;
        let target = timeout(REQUEST_TIMEOUT, self.target(&mut near)).await??;
        let is_tracker = self.trackers.lock().unwrap_or_else(PoisonError::into_inner).contains(&target);
        let contact = if is_tracker {
            None
        } else {
            match timeout(self.connect_timeout, self.contacts.open(target, self.teller)).await {
                Ok(Ok(contact)) => Some(contact),
                judged => {
                    if let Ok(Err(forbidden)) = judged {
                        tracing::debug!("a BitTorrent peer is not contacted: {forbidden}");
                    }
                    return answer(&mut near, Answer::Forbidden).await;
                }
            }
        };
        let Ok(Ok(mut far)) = timeout(self.connect_timeout, TcpStream::connect(target)).await else {
            drop(contact);
            return answer(&mut near, Answer::Unreachable).await;
        };
        far.set_nodelay(true)?;
        answer(&mut near, Answer::Granted).await?;
        let (mut near_in, mut near_out) = near.split();
        let (mut far_in, mut far_out) = far.split();
        let out = copy(&mut near_in, &mut far_out);
        let back = async {
            if let Some(contact) = contact {
                watch_handshake(&mut far_in, &mut near_out, contact).await?;
            }
            copy(&mut far_in, &mut near_out).await
        };
        // Neither side of either protocol listens on after it has ended its own half.
        tokio::select! {
            done = out => done,
            done = back => done,
        }
    }

    /// Which address is asked for, once the password was right.
    async fn target(&self, near: &mut TcpStream) -> io::Result<SocketAddr> {
        let bad = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let [version, methods] = read(near).await?;
        let mut offered = vec![0; usize::from(methods)];
        near.read_exact(&mut offered).await?;
        if version != 5 || !offered.contains(&2) {
            near.write_all(&[5, 0xff]).await?;
            return Err(bad("no SOCKS 5 with a password"));
        }
        near.write_all(&[5, 2]).await?;
        let [_, length] = read(near).await?;
        near.read_exact(&mut vec![0; usize::from(length)]).await?;
        let [length] = read(near).await?;
        let mut password = vec![0; usize::from(length)];
        near.read_exact(&mut password).await?;
        let good = password == self.password.as_bytes();
        near.write_all(&[1, u8::from(!good)]).await?;
        if !good {
            return Err(bad("a wrong password"));
        }
        let [version, command, _, kind] = read(near).await?;
        if version != 5 || command != 1 {
            return Err(bad("no connection is asked for"));
        }
        let ip: IpAddr = match kind {
            1 => Ipv4Addr::from(read::<4>(near).await?).into(),
            4 => Ipv6Addr::from(read::<16>(near).await?).into(),
            // Names are resolved by whoever asks, so that what is judged is what is contacted.
            _ => {
                answer(near, Answer::Forbidden).await?;
                return Err(bad("a name where an address is wanted"));
            }
        };
        Ok(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(read(near).await?)))
    }
}

async fn read<const N: usize>(near: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    near.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Replies of RFC 1928, 6.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Granted = 0,
    Forbidden = 2,
    Unreachable = 4,
}

async fn answer(near: &mut TcpStream, answer: Answer) -> io::Result<()> {
    // The bound address is of no use to anybody here.
    near.write_all(&[5, answer as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

/// Passes the first bytes on; a peer that begins as BitTorrent does has answered.
async fn watch_handshake(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    contact: Contact,
) -> io::Result<()> {
    let (mut seen, mut byte) = (0, [0; HANDSHAKE.len()]);
    while seen < HANDSHAKE.len() {
        let count = from.read(&mut byte[seen..]).await?;
        to.write_all(&byte[seen..seen + count]).await?;
        seen += count;
        if count == 0 || byte[..seen] != HANDSHAKE[..seen] {
            return Ok(());
        }
    }
    contact.succeeded();
    Ok(())
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn gate(teller: Teller) -> Gate {
        Gate::open(Contacts::new(), teller, Duration::from_secs(2)).await.unwrap()
    }

    /// Asks for a connection to `target` as the engine does; the stream, or the reply's number.
    async fn ask(gate: &Gate, password: &str, target: SocketAddr) -> Result<TcpStream, u8> {
        let proxy = gate.url().rsplit_once('@').unwrap().1;
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(&[5, 1, 2]).await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap(), [5, 2]);
        let mut login = vec![1, 6];
        login.extend_from_slice(b"minuet");
        login.push(password.len() as u8);
        login.extend_from_slice(password.as_bytes());
        stream.write_all(&login).await.unwrap();
        let [_, refused] = read(&mut stream).await.unwrap();
        if refused != 0 {
            return Err(99);
        }
        let IpAddr::V4(ip) = target.ip() else { panic!("IPv4 here") };
        let mut request = vec![5, 1, 0, 1];
        request.extend_from_slice(&ip.octets());
        request.extend_from_slice(&target.port().to_be_bytes());
        stream.write_all(&request).await.unwrap();
        let reply: [u8; 10] = read(&mut stream).await.unwrap();
        if reply[1] == 0 { Ok(stream) } else { Err(reply[1]) }
    }

    fn password(gate: &Gate) -> &str {
        gate.url().split_once("minuet:").unwrap().1.split_once('@').unwrap().0
    }

    #[tokio::test]
    async fn only_the_engine_goes_out_here() {
        let gate = gate(Teller::User).await;
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(ask(&gate, "guessed", target).await.err(), Some(99));
    }

    #[tokio::test]
    async fn peers_that_are_nearer_than_who_names_them_are_not_contacted() {
        let victim = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = victim.local_addr().unwrap();
        let gate = gate(Teller::Unknown).await;
        assert_eq!(ask(&gate, password(&gate), target).await.err(), Some(Answer::Forbidden as u8));
        // The tracker itself the user has named.
        gate.let_through(&[format!("http://{target}/announce")]).await;
        for _ in 0..10 {
            assert!(ask(&gate, password(&gate), target).await.is_ok());
        }
    }

    /// A tracker, or a peer, names ports and ports of one household that has nothing to do with BitTorrent.
    #[tokio::test]
    async fn a_household_that_does_not_speak_bittorrent_is_contacted_three_times() {
        let gate = gate(Teller::At([127, 0, 0, 1].into())).await;
        let mut victims = Vec::new();
        for _ in 0..10 {
            victims.push(TcpListener::bind("127.0.0.9:0").await.unwrap());
        }
        let mut let_in = 0;
        for victim in &victims {
            if let Ok(stream) = ask(&gate, password(&gate), victim.local_addr().unwrap()).await {
                let_in += 1;
                let (mut far, _) = victim.accept().await.unwrap();
                far.write_all(b"220 mail.example ESMTP, who are you?\r\n").await.unwrap();
                drop(stream);
                // Once the gate has hung up, the contact is over.
                while far.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
            }
        }
        assert_eq!(let_in, 3);
    }

    #[tokio::test]
    async fn a_household_of_peers_is_contacted_as_often_as_they_answer() {
        let gate = gate(Teller::At([127, 0, 0, 1].into())).await;
        let peer = TcpListener::bind("127.0.0.9:0").await.unwrap();
        for _ in 0..100 {
            let mut stream = ask(&gate, password(&gate), peer.local_addr().unwrap()).await.unwrap();
            let (mut far, _) = peer.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            assert_eq!(&read::<5>(&mut far).await.unwrap(), b"hello");
            far.write_all(&HANDSHAKE[..7]).await.unwrap();
            far.write_all(&HANDSHAKE[7..]).await.unwrap();
            far.write_all(b"more").await.unwrap();
            let mut got = vec![0; HANDSHAKE.len() + 4];
            stream.read_exact(&mut got).await.unwrap();
            assert!(got.starts_with(HANDSHAKE) && got.ends_with(b"more"));
        }
    }
}
