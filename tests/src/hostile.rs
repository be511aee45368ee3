//! Nodes that do harm, over real links: they join a channel's mesh as any node does, and then lie. One kind of harm each,
//! so that it can be told which one an honest node did not survive.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, TransportAddr,
    endpoint::{Connection, RecvStream, SendStream, presets},
};
use minuet_node::TrackerClient;
use minuet_proto::{
    ChannelId, ChannelLink, PieceHash, SegmentSeq,
    channel_api::mesh::{JoinRequest, MeshNode},
    mesh::{
        Block, Frame, Head, Hello, HelloFlags, Kept, KeptBlock, Message, Minute, NodeId, PeerInfo, Request,
        Serial, SignedHead, Window,
    },
};
use tokio::{runtime::Runtime, task::JoinHandle};

const ALPN: &[u8] = b"minuet-mesh/2";
/// How often the tracker is asked for victims, and those who hung up are dialled again.
const AGAIN: Duration = Duration::from_secs(1);
/// Payload of a block.
const BLOCK: u32 = 16 * 1024;
/// Between two blocks that drip, and their length: the least that is a block.
const DRIP: Duration = Duration::from_millis(300);
const DROP: u32 = 1024;
/// A type of frames that no version has.
const NO_TYPE: u8 = 99;
/// Payload of a frame of it.
const NO_PAYLOAD: usize = 60 * 1024;
/// Nodes that are made up at once.
const MADE_UP: u8 = 60;
/// Numbers that cannot be, or hardly.
const EXTREMES: [u64; 6] = [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, (1 << 62) - 1, u32::MAX as u64];
/// Types of frames that begin with a serial: bitfield, have, do not have, request, cancel, reject, block, get heads, offer.
const WITH_SERIAL: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 9, 13];

/// What a node does to those who trust it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Promises every piece, and sends garbage for it.
    Corrupt,
    /// Passes on heads that it has changed, signed by nobody.
    Forge,
    /// Asks for everything, again and again, as fast as it can.
    Flood,
    /// Promises every piece, and never sends one.
    Silence,
    /// Promises every piece, and sends of each that it is asked for a little now and then.
    Drip,
    /// Takes a place, and says nothing more.
    Hold,
    /// Sends frames of a type that nobody knows, as long and as fast as it can.
    Unknown,
    /// Says numbers that cannot be, a different one on each link.
    Extreme,
    /// Says that it keeps every finished segment, and sends garbage for each piece.
    KeepGarbage,
    /// Says so, and rejects each request as though it had never said it.
    KeepNothing,
    /// Says so, and never answers.
    KeepSilent,
    /// Says so, and gives records and hashes that it has made up.
    KeepForged,
    /// Says that nodes which it has made up are at [`VICTIM`], at [`VICTIM_PORTS`] ports from this one on.
    Poison(u16),
}

impl Harm {
    fn is_keeper(self) -> bool {
        matches!(self, Self::KeepGarbage | Self::KeepNothing | Self::KeepSilent | Self::KeepForged)
    }
}

/// Segments that a false keeper says it has.
const KEPT: u64 = 10_000;
/// Whom [`Harm::Poison`] names: an address on loopback that nothing else uses.
pub const VICTIM: [u8; 4] = [127, 0, 0, 99];
/// Ports of it that are named.
pub const VICTIM_PORTS: u16 = 16;

/// A node that does harm until it is dropped.
pub struct Hostile {
    deeds: Arc<Deeds>,
    _runtime: Runtime,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Deeds {
    /// Links over which an honest node said something.
    pub links: AtomicU64,
    /// Links that were cut off without a word: the far end knows what this is, and refuses it.
    pub refused: AtomicU64,
    /// Messages sent.
    pub sent: AtomicU64,
    /// Requests that a false keeper got for what it lies about: pieces, or hashes.
    pub asked: AtomicU64,
}

impl Hostile {
    /// Starts one in the channel that `link` names.
    pub fn start(harm: Harm, link: &str) -> Self {
        let link: ChannelLink = link.parse().expect("a channel link");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let deeds = Arc::new(Deeds::default());
        runtime.spawn(live(harm, link, Arc::clone(&deeds)));
        Self { deeds, _runtime: runtime }
    }

    /// Links over which it was listened to.
    pub fn links(&self) -> u64 {
        self.deeds.links.load(Ordering::Relaxed)
    }

    /// How often it was refused.
    pub fn refused(&self) -> u64 {
        self.deeds.refused.load(Ordering::Relaxed)
    }

    /// Requests that it got for what it says it keeps.
    pub fn asked(&self) -> u64 {
        self.deeds.asked.load(Ordering::Relaxed)
    }

    /// Messages that it has sent.
    pub fn sent(&self) -> u64 {
        self.deeds.sent.load(Ordering::Relaxed)
    }
}

/// Meets all it can, and meets them again when they hang up.
async fn live(harm: Harm, link: ChannelLink, deeds: Arc<Deeds>) {
    let endpoint = Endpoint::builder(presets::Minimal)
        .alpns(vec![ALPN.to_vec()])
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .bind()
        .await
        .expect("an endpoint");
    let tracker = TrackerClient::new(link.trackers[0].clone()).expect("a tracker");
    let mut about = MeshNode::new(NodeId(*endpoint.id().as_bytes()));
    about.addrs = endpoint.bound_sockets();
    about.upload_kbps = 1_000_000;
    let mut request = JoinRequest::new(about);
    request.want = 32;
    let mut victims: HashMap<NodeId, JoinHandle<()>> = HashMap::new();
    loop {
        let told = tracker
            .join_mesh(link.channel, &request, |bytes| endpoint.secret_key().sign(bytes).to_bytes())
            .await;
        for node in told.map(|answer| answer.nodes).unwrap_or_default() {
            if victims.get(&node.node).is_some_and(|task| !task.is_finished()) {
                continue;
            }
            let Ok(id) = EndpointId::from_bytes(&node.node.0) else { continue };
            let addr = EndpointAddr::from_parts(id, node.addrs.into_iter().map(TransportAddr::Ip));
            let (endpoint, deeds) = (endpoint.clone(), Arc::clone(&deeds));
            let harming = async move {
                if let Ok(connection) = endpoint.connect(addr, ALPN).await {
                    let _ = Link { harm, channel: link.channel, deeds }.run(connection).await;
                }
            };
            victims.insert(node.node, tokio::spawn(harming));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

struct Link {
    harm: Harm,
    channel: ChannelId,
    deeds: Arc<Deeds>,
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Link {
    async fn run(self, connection: Connection) -> Result<(), Broken> {
        let mut control = connection.open_uni().await?;
        control.write_all(&[0]).await?;
        control.write_all(self.channel.as_bytes()).await?;
        let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
        // Since version 3 nodes speak of what they keep.
        let version = if self.harm.is_keeper() { 3 } else { 1 };
        let hello = Hello { version, flags, upload_kbps: 1_000_000, extensions: Vec::new() };
        self.say(&mut control, &Message::Hello(hello)).await?;
        let nothing = Window { first: Serial::new(0), bits: Bytes::new() };
        self.say(&mut control, &Message::Bitfield(nothing)).await?;
        let mut media = connection.open_uni().await?;
        media.write_all(&[1]).await?;

        let said = tokio::time::timeout(Duration::from_secs(5), connection.accept_uni()).await;
        let mut frames = match said {
            Ok(Ok(stream)) => Frames { stream, buffer: BytesMut::new() },
            _ => return self.refused(),
        };
        let greeting = 1 + ChannelId::LENGTH;
        if frames.stream.read_exact(&mut vec![0; greeting]).await.is_err() {
            return self.refused();
        }
        let Some(first) = frames.next().await else { return self.refused() };
        self.deeds.links.fetch_add(1, Ordering::Relaxed);
        // Unread blocks would hold the far end's stream up.
        let unread = connection.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = unread.accept_uni().await else { return };
            while let Ok(Some(_)) = stream.read_chunk(1 << 16).await {}
        });
        let newest = Arc::new(Mutex::new(Serial::new(0)));
        let control = Arc::new(tokio::sync::Mutex::new(control));
        if self.harm == Harm::Flood {
            let (control, newest, deeds) =
                (Arc::clone(&control), Arc::clone(&newest), Arc::clone(&self.deeds));
            tokio::spawn(flood(control, newest, deeds));
        }
        match self.harm {
            Harm::Unknown => drop(tokio::spawn(babble(Arc::clone(&control), Arc::clone(&self.deeds)))),
            Harm::Extreme => {
                let frame = extreme(self.deeds.links.load(Ordering::Relaxed));
                control.lock().await.write_all(&frame).await?;
            }
            Harm::Poison(port) => {
                let (control, deeds) = (Arc::clone(&control), Arc::clone(&self.deeds));
                drop(tokio::spawn(poison(port, connection.clone(), control, deeds)));
            }
            _ => {}
        }
        if self.harm.is_keeper() {
            let all = Kept::Whole([(SegmentSeq(0), KEPT)].into_iter().collect());
            self.say(&mut *control.lock().await, &Message::Kept(all)).await?;
        }
        let mut lens: HashMap<Serial, u32> = HashMap::new();
        let mut message = Some(first);
        while let Some(said) = message {
            if let Message::Head(head) = &said
                && let Ok(head) = Head::decode(&head.body)
            {
                lens.extend(head.iter().map(|(serial, _, piece)| (serial, piece.len)));
                *newest.lock().unwrap_or_else(PoisonError::into_inner) = head.first;
            }
            self.harm(said, &lens, &mut *control.lock().await, &mut media).await?;
            message = frames.next().await;
        }
        Ok(())
    }

    /// Does it.
    async fn harm(
        &self,
        said: Message,
        lens: &HashMap<Serial, u32>,
        control: &mut SendStream,
        media: &mut SendStream,
    ) -> Result<(), Broken> {
        let asks = match &said {
            Message::Kept(Kept::Request { .. }) => {
                matches!(self.harm, Harm::KeepGarbage | Harm::KeepNothing | Harm::KeepSilent)
            }
            Message::Kept(Kept::GetMinute { .. }) => self.harm == Harm::KeepForged,
            _ => false,
        };
        self.deeds.asked.fetch_add(asks.into(), Ordering::Relaxed);
        match (self.harm, said) {
            (Harm::Corrupt | Harm::Silence | Harm::Drip, Message::Have(serials)) => {
                self.say(control, &Message::Have(serials)).await?;
            }
            (Harm::Corrupt | Harm::Silence | Harm::Drip, Message::Head(head)) => {
                let serials = Head::decode(&head.body)?.iter().map(|(serial, ..)| serial).collect();
                self.say(control, &Message::Have(serials)).await?;
            }
            (Harm::Corrupt, Message::Request(Request { serial, .. })) => {
                let Some(&piece_len) = lens.get(&serial) else { return Ok(()) };
                for offset in (0..piece_len).step_by(BLOCK as usize) {
                    let len = BLOCK.min(piece_len - offset);
                    self.say(media, &Message::Block(Block { serial, offset, len, piece_len })).await?;
                    media.write_all(&vec![0x66; len as usize]).await?;
                }
            }
            (Harm::Drip, Message::Request(Request { serial, .. })) => {
                let Some(&piece_len) = lens.get(&serial) else { return Ok(()) };
                for offset in (0..piece_len.saturating_sub(DROP)).step_by(DROP as usize).take(4) {
                    self.say(media, &Message::Block(Block { serial, offset, len: DROP, piece_len })).await?;
                    media.write_all(&[0x66; DROP as usize]).await?;
                    tokio::time::sleep(DRIP).await;
                }
            }
            (Harm::KeepGarbage, Message::Kept(Kept::Request { piece, .. })) => {
                // All pieces of a stream but the last of a segment are of one length.
                let Some(&piece_len) = lens.values().max() else { return Ok(()) };
                for offset in (0..piece_len).step_by(BLOCK as usize) {
                    let len = BLOCK.min(piece_len - offset);
                    let block = Kept::Block(KeptBlock { piece, offset, len, piece_len });
                    self.say(media, &Message::Kept(block)).await?;
                    media.write_all(&vec![0x66; len as usize]).await?;
                }
            }
            (Harm::KeepNothing, Message::Kept(Kept::Request { piece, .. })) => {
                self.say(control, &Message::Kept(Kept::Reject { piece, has: false })).await?;
            }
            (Harm::KeepForged, Message::Kept(Kept::GetMinute { segment, first })) => {
                let made_up = |len: usize| Bytes::from(vec![0x66; len]);
                let (record, hashes) = (made_up(300), made_up(20 * 100));
                let minute = Minute { segment, first, record, hashes };
                self.say(control, &Message::Kept(Kept::Minute(minute))).await?;
            }
            (Harm::Forge, Message::Head(head)) => {
                let mut forged = Head::decode(&head.body)?;
                forged.pieces[0].hash = PieceHash::new([0x66; 20]);
                let forged = SignedHead { body: forged.encode(), signature: head.signature };
                self.say(control, &Message::Head(forged)).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn say(&self, stream: &mut SendStream, message: &Message) -> Result<(), Broken> {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        stream.write_all(&frame).await?;
        self.deeds.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn refused(&self) -> Result<(), Broken> {
        self.deeds.refused.fetch_add(1, Ordering::Relaxed);
        Err("refused".into())
    }
}

/// Asks for whatever there is until the link breaks.
async fn flood(control: Arc<tokio::sync::Mutex<SendStream>>, newest: Arc<Mutex<Serial>>, deeds: Arc<Deeds>) {
    loop {
        let newest = *newest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut frames = BytesMut::new();
        for back in 0..100 {
            let serial = Serial::new(newest.get().saturating_sub(back));
            Message::Request(Request { serial, due_in_ms: 1 }).encode(&mut frames);
            Message::GetHeads { first: serial, count: 1024 }.encode(&mut frames);
        }
        deeds.sent.fetch_add(200, Ordering::Relaxed);
        if control.lock().await.write_all(&frames).await.is_err() {
            return;
        }
    }
}

/// Sends what nobody knows until the link breaks.
async fn babble(control: Arc<tokio::sync::Mutex<SendStream>>, deeds: Arc<Deeds>) {
    let mut frame = BytesMut::new();
    varint(&mut frame, NO_PAYLOAD as u64 + 1);
    frame.extend_from_slice(&[NO_TYPE]);
    frame.resize(frame.len() + NO_PAYLOAD, 0x66);
    while control.lock().await.write_all(&frame).await.is_ok() {
        deeds.sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// The `n`th frame of those that say a number that cannot be.
fn extreme(n: u64) -> Bytes {
    let (kinds, numbers) = (WITH_SERIAL.len() as u64, EXTREMES.len() as u64);
    let mut body = BytesMut::from(&[WITH_SERIAL[(n % kinds) as usize]][..]);
    varint(&mut body, EXTREMES[(n / kinds % numbers) as usize]);
    body.extend_from_slice(&[1]);
    let mut frame = BytesMut::new();
    varint(&mut frame, body.len() as u64);
    frame.extend_from_slice(&body);
    frame.freeze()
}

/// Names a victim again and again, under keys and ports that are made up, until the link breaks.
async fn poison(
    first_port: u16,
    connection: Connection,
    control: Arc<tokio::sync::Mutex<SendStream>>,
    deeds: Arc<Deeds>,
) {
    let victim = |port: u16| {
        let mut address = vec![4, VICTIM[0], VICTIM[1], VICTIM[2], VICTIM[3]];
        address.extend_from_slice(&port.to_be_bytes());
        Bytes::from(address)
    };
    for round in 1u16.. {
        let made_up = (0..MADE_UP).map(|n| {
            let mut node = [n; 32];
            node[..2].copy_from_slice(&round.to_be_bytes());
            (NodeId(node), victim(first_port + u16::from(n) % VICTIM_PORTS))
        });
        let flags = HelloFlags { dialable: true, ..HelloFlags::default() };
        let peers = made_up.map(|(node, address)| PeerInfo { node, flags, upload_kbps: 1_000_000, address });
        let mut frame = BytesMut::new();
        Message::Peers(peers.collect()).encode(&mut frame);
        if connection.close_reason().is_some() || control.lock().await.write_all(&frame).await.is_err() {
            return;
        }
        deeds.sent.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(AGAIN).await;
    }
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.extend_from_slice(&[value as u8 | 0x80]);
        value >>= 7;
    }
    out.extend_from_slice(&[value as u8]);
}

/// A stream's messages.
struct Frames {
    stream: RecvStream,
    buffer: BytesMut,
}

impl Frames {
    async fn next(&mut self) -> Option<Message> {
        loop {
            match Frame::decode(&mut self.buffer).ok()? {
                Some(Frame { message: Some(message), .. }) => return Some(message),
                Some(_) => {}
                None => {
                    let chunk = self.stream.read_chunk(1 << 16).await.ok()??;
                    self.buffer.extend_from_slice(&chunk);
                }
            }
        }
    }
}
