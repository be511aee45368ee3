//! An encoder that comes to us over RTMP: `rtmp://0.0.0.0:1935/live/key`.
//!
//! ffmpeg listens as well, but puts on air whoever comes with whatever key. So we listen, and ffmpeg reads what the
//! encoder with the right key sends. The key is a password: it is compared in constant time, a wrong one is answered
//! late, and a network that gives many is not heard for a while. While an encoder is on air, no other gets in.

mod amf;
mod chunk;
mod session;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use minuet_guard::{
    net::{Net, household},
    pool::Pool,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::mpsc::{Receiver, Sender, channel},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{InputError, Read};
use session::{Said, Session, StreamKey};

/// Connections that are not on air at the same time, shared by household.
const MAX_CONNECTIONS: u64 = 64;
/// Until then the encoder must have given the key.
const KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that nobody takes is given up after so long.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// A wrong key is answered so much later.
const WRONG_KEY_DELAY: Duration = Duration::from_secs(1);
/// A household with so many wrong keys is not heard for [`FORGIVEN_AFTER`].
const MAX_WRONG_KEYS: u32 = 5;
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Households with wrong keys that are remembered; then all are forgotten.
const MAX_REMEMBERED: usize = 4096;
/// How often wrong keys are complained of.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(30);
/// Bytes read at once.
const READ_LEN: usize = 64 << 10;
/// Pieces of FLV that may wait for ffmpeg, each a message at the most; then the encoder waits.
const MAX_WAITING: usize = 64;

/// Where encoders come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtmpAddress {
    /// The address and port.
    pub listen: SocketAddr,
    key: StreamKey,
}

impl RtmpAddress {
    /// Reads what follows `rtmp://`; `None` if it names a host to call.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, path) = text.split_once('/').unwrap_or((text, ""));
        let listen: SocketAddr = match place.strip_prefix(':') {
            Some(port) => (std::net::Ipv4Addr::UNSPECIFIED, port.parse().ok()?).into(),
            None => place.parse().ok()?,
        };
        listen.ip().is_unspecified().then(|| Self { listen, key: StreamKey::new(path) })
    }
}

/// Waits for an encoder.
#[derive(Debug)]
pub struct Rtmp {
    encoders: Receiver<Tags>,
    runtime: Handle,
    task: JoinHandle<()>,
}

/// What an encoder sends, as FLV.
#[derive(Debug)]
pub struct Tags {
    /// Where it is.
    pub from: SocketAddr,
    flv: Receiver<Bytes>,
    rest: Bytes,
    runtime: Handle,
}

impl Rtmp {
    /// Listens. Must be called where a runtime is entered.
    pub fn listen(address: &RtmpAddress) -> Result<Self, InputError> {
        let failed = |reason: io::Error| match reason.kind() {
            io::ErrorKind::AddrInUse => InputError::TcpPortInUse(address.listen),
            _ => InputError::Listen { address: address.listen, reason },
        };
        let runtime = Handle::current();
        let listener = std::net::TcpListener::bind(address.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        if !address.key.is_secret() {
            tracing::warn!(
                "whoever reaches port {} can go on air; add a secret key to the input, as in rtmp://{}/live/KEY",
                address.listen.port(),
                address.listen
            );
        }
        let (out, encoders) = channel(1);
        let door = Arc::new(Door {
            key: address.key.clone(),
            on_air: AtomicBool::new(false),
            wrong: Mutex::default(),
            out,
        });
        let task = runtime.spawn(accept(listener, door));
        Ok(Self { encoders, runtime, task })
    }

    /// The encoder that has come; waits so long for one.
    pub fn encoder(&mut self, patience: Duration) -> Option<Tags> {
        let encoders = &mut self.encoders;
        self.runtime.block_on(async { timeout(patience, encoders.recv()).await.ok().flatten() })
    }
}

impl Drop for Rtmp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tags {
    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        if self.rest.is_empty() {
            let flv = &mut self.flv;
            match self.runtime.block_on(async { timeout(patience, flv.recv()).await }) {
                Err(_) => return Ok(Read::Idle),
                Ok(None) => return Ok(Read::End),
                Ok(Some(bytes)) => self.rest = bytes,
            }
        }
        let len = self.rest.len().min(buf.len());
        buf[..len].copy_from_slice(&self.rest.split_to(len));
        Ok(if len == 0 { Read::Idle } else { Read::Data(len) })
    }
}

/// What all connections share.
struct Door {
    key: StreamKey,
    on_air: AtomicBool,
    wrong: Mutex<Wrong>,
    out: Sender<Tags>,
}

/// Who gave wrong keys.
#[derive(Default)]
struct Wrong {
    households: HashMap<Net, (u32, Instant)>,
    /// When each of both was complained of last: another key, another application.
    told: [Option<Instant>; 2],
}

impl Wrong {
    /// Whether somebody there may try.
    fn may_try(&self, from: IpAddr, now: Instant) -> bool {
        let known = self.households.get(&household(from));
        known.is_none_or(|(count, last)| {
            *count < MAX_WRONG_KEYS || now.duration_since(*last) >= FORGIVEN_AFTER
        })
    }

    /// Somebody there gave a wrong key, or named another application; whether to complain.
    fn note(&mut self, from: IpAddr, elsewhere: bool, now: Instant) -> bool {
        if self.households.len() >= MAX_REMEMBERED {
            self.households.clear();
        }
        let (count, last) = self.households.entry(household(from)).or_insert((0, now));
        if now.duration_since(*last) >= FORGIVEN_AFTER {
            *count = 0;
        }
        (*count, *last) = (count.saturating_add(1), now);
        let last = &mut self.told[usize::from(elsewhere)];
        let told = last.is_some_and(|at| now.duration_since(at) < COMPLAINT_INTERVAL);
        if !told {
            *last = Some(now);
        }
        !told
    }
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    let places = Pool::new(MAX_CONNECTIONS);
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((peer, from)) = accepted else {
            // Out of files, perhaps: it passes.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let ip = from.ip().to_canonical();
        let may_try = door.wrong.lock().unwrap_or_else(PoisonError::into_inner).may_try(ip, Instant::now());
        let (true, Ok(place)) = (may_try, places.take(ip, 1)) else { continue };
        let door = Arc::clone(&door);
        connections.spawn(async move {
            let mut connection = Connection { peer, session: Session::new(door.key.clone()), door, from };
            let first = tokio::select! {
                first = timeout(KEY_TIMEOUT, connection.first_words()) => first.ok().flatten(),
                () = place.evicted() => None,
            };
            let Some(first) = first else { return };
            // One on air takes up no place.
            drop(place);
            connection.on_air(first).await;
        });
    }
}

struct Connection {
    peer: TcpStream,
    session: Session,
    door: Arc<Door>,
    from: SocketAddr,
}

/// Nobody else may be on air while this is there.
struct OnAir(Arc<Door>);

impl Drop for OnAir {
    fn drop(&mut self) {
        self.0.on_air.store(false, Ordering::Release);
    }
}

impl Connection {
    /// Reads until the right key has come: what came after it.
    async fn first_words(&mut self) -> Option<(OnAir, Vec<Said>)> {
        loop {
            let mut said = self.read().await?;
            let judged = |said: &Said| matches!(said, Said::OnAir | Said::WrongKey | Said::WrongApplication);
            let Some(at) = said.iter().position(judged) else { continue };
            if said[at] != Said::OnAir {
                let from = self.from.ip().to_canonical();
                let elsewhere = said[at] == Said::WrongApplication;
                let mut wrong = self.door.wrong.lock().unwrap_or_else(PoisonError::into_inner);
                if wrong.note(from, elsewhere, Instant::now()) {
                    let what = match elsewhere {
                        true => {
                            "names another application (the part of the address after the port) than the input does"
                        }
                        false => "came with another stream key",
                    };
                    tracing::warn!("an encoder at {from} {what} and was refused");
                }
                return None;
            }
            if self.door.on_air.swap(true, Ordering::AcqRel) {
                tracing::warn!("a second encoder at {} was refused: one is on air", self.from.ip());
                return None;
            }
            let media = said.split_off(at + 1);
            return Some((OnAir(Arc::clone(&self.door)), media));
        }
    }

    async fn on_air(mut self, (_on_air, mut said): (OnAir, Vec<Said>)) {
        let (out, flv) = channel(MAX_WAITING);
        let tags = Tags { from: self.from, flv, rest: Bytes::new(), runtime: Handle::current() };
        if self.door.out.send(tags).await.is_err() {
            return;
        }
        loop {
            for said in said {
                match said {
                    Said::Flv(bytes) => {
                        if out.send(bytes.into()).await.is_err() {
                            return;
                        }
                    }
                    Said::Over => return,
                    Said::OnAir | Said::WrongKey | Said::WrongApplication => {}
                }
            }
            said = match self.read().await {
                Some(said) => said,
                None => return,
            };
        }
    }

    /// What comes next; `None`: the connection is of no use any more.
    async fn read(&mut self) -> Option<Vec<Said>> {
        let mut buffer = vec![0; READ_LEN];
        let len = self.peer.read(&mut buffer).await.ok().filter(|len| *len > 0)?;
        let mut answer = Vec::new();
        let said = self.session.push(&buffer[..len], &mut answer).ok()?;
        if said.iter().any(|said| matches!(said, Said::WrongKey | Said::WrongApplication)) {
            sleep(WRONG_KEY_DELAY).await;
        }
        timeout(SEND_TIMEOUT, self.peer.write_all(&answer)).await.ok()?.ok()?;
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_no_machine_is_one_to_wait_at() {
        let address = RtmpAddress::parse("0.0.0.0:1935/live/key").unwrap();
        assert_eq!(address.listen, "0.0.0.0:1935".parse().unwrap());
        assert_eq!(RtmpAddress::parse(":1935/live/key"), Some(address));
        assert!(RtmpAddress::parse("[::]:1935/live").is_some_and(|address| !address.key.is_secret()));
        for other in ["host/live", "host:1935/live/key", "192.0.2.1:1935/live"] {
            assert_eq!(RtmpAddress::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_household_of_wrong_keys_is_not_heard_for_a_while() {
        let (mut wrong, now) = (Wrong::default(), Instant::now());
        let [guesser, other]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        for _ in 0..MAX_WRONG_KEYS {
            assert!(wrong.may_try(guesser, now));
            wrong.note(guesser, false, now);
        }
        assert!(!wrong.may_try(guesser, now) && wrong.may_try(other, now));
        assert!(wrong.may_try(guesser, now + FORGIVEN_AFTER));
        assert!(!wrong.note(other, false, now), "told a moment ago");
        assert!(wrong.note(other, true, now), "another thing");
    }
}
