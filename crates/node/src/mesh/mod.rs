//! The live mesh over real networks: a session ([`minuet_session`]) on links of a transport, with its pieces on disk.
//!
//! `transport/quic` is the only module that names iroh. What others see: [`Mesh`] (a running node), [`LiveWindow`] (the newest
//! pieces), [`MeshStats`].

mod archive;
mod dht;
mod driver;
mod error;
#[cfg(test)]
mod faults;
mod heard;
mod known;
mod lines;
mod linger;
mod live;
mod local;
mod look;
mod met;
mod network;
mod origin;
mod rendezvous;
mod shared_line;
mod transport;
#[cfg(test)]
mod whole;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use minuet_guard::tasks::{Fault, Spawner, Tasks};
use minuet_mesh::{Config, HeadKey, Role, Start, Statement, Timestamp};
use minuet_proto::{
    ChannelId, ChannelKey, Metainfo, PieceId, SegmentSeq, SignedRecord, SignedState,
    mesh::{NodeId, SIGNATURE_LEN, Serial},
};
pub use minuet_store::Bound;
use minuet_store::{Keep, PieceRing};
use reqwest::Url;
use tokio::sync::{Mutex, Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use archive::{Archive, Elsewhere};
pub use dht::{DhtOptions, InDht, NobodyAnswers, find as find_in_dht, host_port};
pub use driver::Need;
use driver::{Command, Driver, News, Parts};
pub use error::Error;
pub use heard::Heard;
pub use lines::known_line;
pub use live::{LivePiece, LiveWindow};
pub use look::{Discovery, Look, look};
pub use met::Met;
pub use minuet_mesh::FIRST_ALONE;
pub use minuet_mesh::{Cause as ShortageCause, PieceRef, Role as MeshRole, Shortage, Start as MeshStart};
pub use minuet_session::{ClosedPiece, HORIZON, Outset, Reach};
use minuet_session::{Dialability, ReaderId, Session, Settings, message_rate};
use origin::Origin;
pub use shared_line::Uplink;
use transport::{Transport, quic::Quic};

use crate::{
    TrackerClient,
    contact::{Contacts, Forbidden, Teller},
};

/// Commands that may wait for the driver.
const COMMAND_QUEUE: usize = 1024;
/// Bytes of pieces among them: half a minute of 16 Mbit/s.
const MAX_UNSHARED: usize = 64 << 20;
/// Heads that may wait for who posts them; older ones are passed over.
const HEAD_QUEUE: usize = 256;
/// How long trackers may take before nodes known from an earlier run are dialled.
const TRACKERS_FIRST: Duration = Duration::from_secs(3);
/// How long a node may take to take leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Most trackers that a channel names in the DHT and that are asked.
const MAX_NAMED_TRACKERS: usize = 3;

/// What a node is told when it starts.
#[derive(Debug, Clone)]
pub struct MeshOptions {
    /// The channel.
    pub channel: ChannelId,
    /// The channel's key, at its source.
    pub key: Option<ChannelKey>,
    /// What the node is.
    pub role: Role,
    /// Where a viewer starts.
    pub start: Start,
    /// Distance to the live edge that a viewer aims at.
    pub target_delay: Duration,
    /// Where links are accepted, by UDP.
    pub listen: SocketAddr,
    /// Most that is sent, in bytes a second on the wire; found out by and by where it is not given.
    pub upload_limit: Option<u64>,
    /// Whether media is passed on at all.
    pub upload: bool,
    /// Folder for the newest pieces.
    pub folder: PathBuf,
    /// Pieces that are kept and served: a power of two, at most [`minuet_store::MAX_SLOTS`].
    pub window: usize,
    /// Source: number of the first piece; above all that were ever given out.
    pub first_serial: Serial,
    /// File in which neighbours are remembered for the next run.
    pub known: Option<PathBuf>,
    /// File in which it is remembered what lines can send, for the next run.
    pub lines: Option<PathBuf>,
    /// The line that the mesh shares with other parts of the program; one that is started again goes on with the same.
    pub uplink: Uplink,
    /// Trackers to ask for nodes.
    pub trackers: Vec<TrackerClient>,
    /// BitTorrent's DHT, where the user wishes it.
    pub dht: Option<DhtOptions>,
    /// Whether nodes on the local network are looked for, and hear of this one.
    pub local: bool,
    /// Finished minutes.
    pub keep: Keeping,
}

/// What a node keeps of finished minutes, for others and for its own readers.
#[derive(Debug, Clone)]
pub enum Keeping {
    /// Nothing.
    Nothing,
    /// What comes at the live edge, and what readers want, in this folder.
    Own(PathBuf, Bound),
    /// What somebody else keeps in this folder, as [`Mesh::finished`] tells of it: it is only read.
    Of(PathBuf),
}

/// Figures of a node since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct MeshStats {
    /// What the core counts.
    pub core: minuet_mesh::Stats,
    /// Links.
    pub peers: usize,
    /// Of these, through a relay server.
    pub relayed: usize,
    /// What the line seems to send, in bytes a second on the wire, where no limit was given.
    pub upload_limit: Option<u64>,
    /// What this node's line brings, in bytes a second, where that has been too little for the stream for some seconds.
    pub narrow: Option<u64>,
    /// The stream's rate in bytes a second; 0 while it is not known.
    pub stream: u64,
    /// Payload from the HTTP origin.
    pub http_bytes: u64,
    /// UDP payload sent over links, everything included.
    pub wire_sent: u64,
    /// UDP payload received over links, everything included.
    pub wire_received: u64,
}

/// A running node. Dropping it ends it without leave; [`Mesh::stop`] takes leave first. Its owner listens to
/// [`Mesh::fault`] beside everything else: a mesh whose parts have died says and does nothing more.
#[derive(Debug)]
pub struct Mesh {
    commands: mpsc::Sender<Command>,
    /// What [`MAX_UNSHARED`] leaves.
    unshared: Arc<Semaphore>,
    /// Source: the next piece's.
    serial: Arc<std::sync::Mutex<Serial>>,
    /// What the mesh and the other parts of the program tell each other of their line.
    uplink: Uplink,
    /// Readers that there ever were.
    readers: AtomicU64,
    /// The origin that was named last, and who told it.
    origin: Mutex<Option<(Option<Url>, Teller)>>,
    window: Arc<LiveWindow>,
    archive: Arc<Archive>,
    stats: watch::Receiver<MeshStats>,
    met: watch::Receiver<Met>,
    /// A finished segment that is wanted, for trackers.
    sought: watch::Sender<Option<SegmentSeq>>,
    heard: watch::Receiver<Heard>,
    transport: Arc<dyn Transport>,
    tasks: Tasks,
    /// Ends links that are still there; they outlive the driver, which has last words for them.
    _links: DropGuard,
}

/// Gives closed pieces to a source's mesh, from any thread, and numbers them: each takes the next serial, also one that
/// does not get through, so that viewers see the hole. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PiecePublisher {
    commands: mpsc::Sender<Command>,
    /// A permit for each byte that may wait.
    room: Arc<Semaphore>,
    /// The next piece's.
    serial: Arc<std::sync::Mutex<Serial>>,
}

impl PiecePublisher {
    /// Hands a piece over. False if the mesh is too far behind to take it: viewers will lack that piece.
    pub fn publish(&self, piece: ClosedPiece) -> bool {
        // Held until the piece is in the queue, which is in their order.
        let mut next = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = *next;
        *next = serial.next();
        // A piece without bytes would hold no permit, and be none.
        let bytes = u32::try_from(piece.data.len().max(1)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) else { return false };
        self.commands.try_send(Command::Closed { serial, piece, room }).is_ok()
    }
}

/// Somebody who reads the stream: a player, a recorder, a server. Dropped when it stops reading.
#[derive(Debug)]
pub struct Reader {
    id: ReaderId,
    /// The driver sees that it is dropped.
    alive: Arc<()>,
    commands: mpsc::Sender<Command>,
}

impl Reader {
    /// Says that this reader needs piece `next` at `due`, and those after it by their ingest times.
    pub async fn playhead(&self, next: Serial, due: Instant) {
        let _ = self
            .commands
            .send(Command::Playhead { reader: self.id, alive: Arc::downgrade(&self.alive), next, due })
            .await;
    }

    /// Says what this reader needs of finished segments from now on, first due first: said when that changes, and about once
    /// a second. Nothing, once it is at the live edge.
    pub async fn plan(&self, plans: Vec<Need>) {
        let alive = Arc::downgrade(&self.alive);
        let _ = self.commands.send(Command::Plan { reader: self.id, alive, plans }).await;
    }

    /// Says that this reader is not at the live edge any more.
    pub async fn leave_edge(&self) {
        let _ = self.commands.send(Command::LeftEdge(self.id)).await;
    }
}

/// Meeting other nodes at trackers, however these become known.
struct Trackers {
    options: MeshOptions,
    transport: Arc<dyn Transport>,
    own: rendezvous::Own,
    commands: mpsc::Sender<Command>,
    met: watch::Sender<Met>,
    spawner: Spawner,
}

impl Trackers {
    fn meet_at(&self, tracker: TrackerClient) {
        let rendezvous = rendezvous::Rendezvous::new(
            tracker,
            &self.options,
            Arc::clone(&self.transport),
            self.own.clone(),
            self.commands.clone(),
            self.met.clone(),
        );
        let meeting = endless(rendezvous.run(self.spawner.token().clone()));
        self.spawner.spawn_to_end("meeting nodes at a tracker", meeting);
    }

    /// Those that the channel itself names, a few; each contacted as who told of it may name it.
    async fn meet_at_named(self, mut named: mpsc::Receiver<(Url, Teller)>) {
        let mut known: Vec<Url> =
            self.options.trackers.iter().map(|tracker| tracker.base().clone()).collect();
        let most = known.len() + MAX_NAMED_TRACKERS;
        while let Some((url, teller)) = named.recv().await {
            if known.contains(&url) || known.len() >= most {
                continue;
            }
            match TrackerClient::named(url.clone(), teller) {
                Ok(tracker) => {
                    tracing::info!("the channel names the tracker {}", tracker.name());
                    known.push(url);
                    self.meet_at(tracker);
                }
                Err(error) => tracing::debug!("a tracker that the channel names is not asked: {error}"),
            }
        }
    }
}

impl Mesh {
    /// Starts a node.
    pub async fn start(options: MeshOptions) -> Result<Self, Error> {
        let quic = Quic::bind(options.listen, rand::random(), Contacts::of_process()).await?;
        Self::start_over(Arc::new(quic), options)
    }

    /// Starts a node that gets its links from `transport`.
    fn start_over(transport: Arc<dyn Transport>, options: MeshOptions) -> Result<Self, Error> {
        let ring = PieceRing::new(&options.folder, options.window)
            .map_err(|reason| Error::Store { folder: options.folder.clone(), reason })?;
        let window = Arc::new(LiveWindow::new(ring));
        let keep = match &options.keep {
            Keeping::Nothing => Ok(None),
            Keeping::Own(folder, bound) => Keep::open(folder, options.channel, *bound).map(Some),
            Keeping::Of(folder) => Keep::over(folder, options.channel).map(Some),
        };
        let keep = keep.map_err(|reason| Error::Store { folder: options.folder.clone(), reason })?;
        let archive = Arc::new(Archive::new(keep));
        let (say_sought, sought) = watch::channel(None);
        let key = Arc::new(ChannelHeads { channel: options.channel, key: options.key.clone() });
        let config = Config {
            upload_limit: options.upload_limit.map(message_rate),
            transport_queue: transport.queue(),
            upload: options.upload,
            target_delay: options.target_delay,
            start: options.start,
            window: options.window,
            first_serial: options.first_serial,
            http_origin: options.role == Role::Viewer,
            ..Config::new(transport.id(), key)
        };
        let epoch = Instant::now();
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let (say_heard, heard) = watch::channel(Heard::default());
        let (heads, _) = broadcast::channel(HEAD_QUEUE);
        let (say_stats, stats) = watch::channel(MeshStats::default());
        let (tasks, links) = (Tasks::new(), CancellationToken::new());
        let spawner = tasks.spawner();
        let (say_neighbours, neighbours) = watch::channel(Vec::new());
        let (say_met, met) = watch::channel(Met::default());
        if let Some(path) = options.known.clone() {
            let peers = known::read(&path);
            tracing::debug!("{} nodes are known from before", peers.len());
            let (met, commands, alone) = (met.clone(), commands.clone(), options.trackers.is_empty());
            spawner.errand("the nodes known from before", async move {
                if alone || nobody_is_named(met).await {
                    let _ = commands.send(Command::Peers(peers, minuet_mesh::Discovery::Remembered)).await;
                }
            });
            let remembering = known::remember(path, neighbours.clone(), spawner.token().clone());
            spawner.spawn_to_end("the list of nodes to find again", endless(remembering));
        }
        let (learned, remembered) = shared_line::remember(&options, spawner);
        let (say_reach, reach) = watch::channel(transport.reach());
        spawner.spawn(
            "the watch over this node's addresses",
            endless(Arc::clone(&transport).watch_reach(say_reach)),
        );
        let (say_dialable, dialable) = watch::channel(true);
        let settings = Settings {
            core: config,
            role: options.role,
            reach: transport.reach(),
            dialability: Dialability::FoundOut,
            remembered,
            seed: rand::random(),
        };
        let news = News {
            heard: say_heard,
            heads: heads.clone(),
            stats: say_stats,
            neighbours: say_neighbours,
            dialable: say_dialable,
            learned,
        };
        let driver = Driver::new(Parts {
            session: Session::new(settings, Timestamp::ZERO),
            role: options.role,
            channel: options.channel,
            epoch,
            transport: Arc::clone(&transport),
            reach: reach.clone(),
            uplink: options.uplink.clone(),
            window: Arc::clone(&window),
            archive: Arc::clone(&archive),
            news,
            tasks: spawner.clone(),
            links_cancel: links.clone(),
        });
        spawner.spawn_to_end("the live mesh", endless(driver.run(queue)));
        let own = rendezvous::Own {
            reach: reach.clone(),
            dialable: dialable.clone(),
            keeps_from: archive.watch_oldest(),
            seeks: sought.clone(),
        };
        let meeting = Trackers {
            options: options.clone(),
            transport: Arc::clone(&transport),
            own,
            commands: commands.clone(),
            met: say_met,
            spawner: spawner.clone(),
        };
        for tracker in options.trackers.clone() {
            meeting.meet_at(tracker.clone());
            if options.role == Role::Source {
                let posting = rendezvous::post_heads(tracker, options.channel, heads.subscribe());
                spawner.spawn("leaving heads at a tracker", endless(posting));
            }
        }
        if let Some(found_by) = options.dht.clone() {
            let (trackers, named) = mpsc::channel(MAX_NAMED_TRACKERS);
            let by_dht = dht::meet::Meeting {
                dht: dht::Dht::new(found_by, Contacts::of_process()),
                channel: options.channel,
                key: options.key.clone(),
                about: dht::meet::About {
                    node: transport.id(),
                    reach,
                    dialable,
                    neighbours,
                    heard: heard.clone(),
                    trackers: options.trackers.iter().map(|tracker| tracker.base().clone()).collect(),
                },
                commands: commands.clone(),
                trackers,
            };
            spawner.spawn("meeting nodes by the DHT", endless(by_dht.run()));
            spawner.spawn("trackers that the channel names", endless(meeting.meet_at_named(named)));
        }
        if options.local
            && let Some(port) = transport.bound().first().map(SocketAddr::port)
        {
            let meeting = local::meet(options.channel, transport.id(), port, commands.clone());
            spawner.spawn("meeting nodes on the local network", endless(meeting));
        }
        let _links = links.drop_guard();
        let unshared = Arc::new(Semaphore::new(MAX_UNSHARED));
        Ok(Self {
            commands,
            unshared,
            serial: Arc::new(std::sync::Mutex::new(options.first_serial)),
            uplink: options.uplink,
            readers: AtomicU64::new(0),
            origin: Mutex::default(),
            window,
            archive,
            sought: say_sought,
            stats,
            met,
            heard,
            transport,
            tasks,
            _links,
        })
    }

    /// The next fault: a part of the node has died, and the node with it. Waits for ever while all is well; one of several
    /// listeners hears of it. The owner ends its program with the sentence that the fault is, or [stops](Self::stop) this
    /// mesh and starts another. Cancel-safe.
    pub async fn fault(&self) -> Fault {
        self.tasks.fault().await
    }

    /// Makes a part of the node panic, by the name that its fault has: for tests of who notices.
    pub fn kill(&self, task: &'static str) {
        self.tasks.kill(task);
    }

    /// The newest pieces.
    pub fn window(&self) -> &Arc<LiveWindow> {
        &self.window
    }

    /// Finished minutes.
    pub fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// A finished segment is wanted of which no neighbour has anything: trackers are asked for nodes that keep it. None: no
    /// longer.
    pub fn seek(&self, segment: Option<SegmentSeq>) {
        self.sought.send_if_modified(|sought| std::mem::replace(sought, segment) != segment);
    }

    /// Record and torrent of a finished segment, from elsewhere than the mesh: its pieces can be [given](Self::give_kept).
    pub async fn learn(&self, record: SignedRecord, torrent: &Metainfo) {
        let hashes = torrent.info().pieces.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>();
        let _ = self.commands.send(Command::Torrent { record, hashes: hashes.into() }).await;
    }

    /// A piece of a finished segment, from elsewhere than the mesh. It is verified before it is kept.
    pub async fn give_kept(&self, piece: PieceId, bytes: Bytes) {
        let _ = self.commands.send(Command::KeptPiece { piece, bytes }).await;
    }

    /// The node's owner has finished a segment in the folder of [`Keeping::Of`].
    pub async fn finished(&self, record: SignedRecord) {
        let _ = self.commands.send(Command::Finished(record)).await;
    }

    /// The node's owner has removed a segment from it.
    pub async fn removed(&self, segment: SegmentSeq) {
        let _ = self.commands.send(Command::Removed(segment)).await;
    }

    /// The line that the mesh shares with the other parts of the program.
    pub fn uplink(&self) -> Uplink {
        self.uplink.clone()
    }

    /// Figures, renewed twice a second.
    pub fn stats(&self) -> MeshStats {
        *self.stats.borrow()
    }

    /// Figures as they are renewed.
    pub fn watch_stats(&self) -> watch::Receiver<MeshStats> {
        self.stats.clone()
    }

    /// What trackers said of other nodes.
    pub fn met(&self) -> Met {
        self.met.borrow().clone()
    }

    /// Why the node that was to be dialled last was not, where this program's own rule for contacts forbade it.
    pub fn denied(&self) -> Option<Forbidden> {
        self.transport.denied()
    }

    /// This node's key.
    pub fn id(&self) -> NodeId {
        self.transport.id()
    }

    /// Where links are accepted.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.transport.bound()
    }

    /// A way to give it closed pieces.
    pub fn publisher(&self) -> PiecePublisher {
        PiecePublisher {
            commands: self.commands.clone(),
            room: Arc::clone(&self.unshared),
            serial: Arc::clone(&self.serial),
        }
    }

    /// A signed record that is known here: neighbours are told.
    pub async fn record(&self, record: &SignedRecord) {
        let _ = self.commands.send(Command::Statement(Statement::Record(record.encode()))).await;
    }

    /// What the source says of the channel, as it is known here: neighbours are told.
    pub async fn state(&self, state: &SignedState) {
        let _ = self.commands.send(Command::Statement(Statement::State(state.encode()))).await;
    }

    /// What the source has said, as neighbours and the node's owner have told it.
    pub fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.clone()
    }

    /// A reader of the stream: what it needs next is fetched in time.
    pub fn reader(&self) -> Reader {
        let id = ReaderId(self.readers.fetch_add(1, Ordering::Relaxed));
        Reader { id, alive: Arc::default(), commands: self.commands.clone() }
    }

    /// Names the HTTP origin, below which segments lie by their file names, as `teller` has told it; none: there is none.
    /// Nothing happens if it is the one that was named last.
    pub async fn set_origin(&self, base: Option<Url>, teller: Teller) {
        let named = Some((base.clone(), teller));
        if std::mem::replace(&mut *self.origin.lock().await, named.clone()) == named {
            return;
        }
        let origin = base.and_then(|base| {
            let made = Origin::new(base, Contacts::of_process(), teller);
            made.inspect_err(|error| tracing::warn!("the HTTP origin is not used: {error}")).ok()
        });
        let _ = self.commands.send(Command::Origin(origin)).await;
    }

    /// Takes leave of all neighbours and ends.
    pub async fn stop(self) {
        let Self { tasks, transport, .. } = self;
        if tokio::time::timeout(LEAVE_TIMEOUT, tasks.stop()).await.is_err() {
            tracing::debug!("some links did not end in time");
        }
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, transport.close()).await;
    }
}

/// Waits until trackers have said whom they know, for [`TRACKERS_FIRST`] at most. Whether that is nobody: what was true in an
/// earlier run is worth a dial then. Else it would only use up what may be contacted at the addresses where the living are.
async fn nobody_is_named(mut met: watch::Receiver<Met>) -> bool {
    let said = met.wait_for(|met| met.nodes().is_some() || met.failure().is_some());
    match tokio::time::timeout(TRACKERS_FIRST, said).await {
        Ok(Ok(met)) => met.nodes().unwrap_or(0) == 0,
        Ok(Err(_)) | Err(_) => true,
    }
}

/// Long-lived work that cannot fail; that it ends at all is a fault.
async fn endless(work: impl Future<Output = ()>) -> Result<(), Infallible> {
    work.await;
    Ok(())
}

/// The channel's key as heads use it.
#[derive(Debug)]
struct ChannelHeads {
    channel: ChannelId,
    key: Option<ChannelKey>,
}

impl HeadKey for ChannelHeads {
    fn verify(&self, signed: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        minuet_proto::key::verify_bytes(&self.channel, signed, signature)
    }

    fn sign(&self, signed: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.key.as_ref().map_or([0; SIGNATURE_LEN], |key| key.sign_bytes(signed))
    }
}
