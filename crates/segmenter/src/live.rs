//! The source's place in the live mesh, under watch.
//!
//! Rule: the channel outlives its mesh. When a part of the mesh dies, the source joins a new one under the same channel key.
//! Its address is another, its serials go on above all that were given out, and viewers find it by the tracker, as after a
//! restart. The recorder goes on meanwhile. Pieces that it closes in between are missing live, and come with the minute.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use minuet_node::{
    Backoff, TrackerClient,
    mesh::{
        ClosedPiece, DhtOptions, Error, Keeping, LiveWindow, Mesh, MeshOptions, MeshRole, MeshStart,
        MeshStats, PiecePublisher, Uplink,
    },
};
use minuet_proto::{ChannelKey, SegmentSeq, SignedRecord, SignedState, mesh::Serial};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{clock::now_ms, shelf::Shelf};

/// Pieces that the source keeps and serves: some 30 to 60 s.
const WINDOW: usize = 1024;
/// Serials that a millisecond has: more than any feed has pieces.
const SERIALS_PER_MS: u64 = 64;
/// What serials are counted from: 2025-01-01, in Unix milliseconds.
const SERIAL_EPOCH_MS: u64 = 1_735_689_600_000;
/// No serial is given out beyond this, whatever a clock says: there is room for all pieces of a thousand years above it.
const LAST_FIRST_SERIAL: u64 = 1 << 61;
/// How long after its last sealed segment an earlier run may have gone on.
const LONGEST_OPEN_MS: u64 = 2 * minuet_proto::record::MAX_SEGMENT_MS;
/// The first wait before a mesh that cannot be joined is tried again, and the longest.
const REJOIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How the source joins.
#[derive(Debug)]
pub struct Join {
    /// The channel's key.
    pub key: ChannelKey,
    /// Where live viewers connect to, by UDP.
    pub listen: SocketAddr,
    /// The most to send, in bytes a second on the wire.
    pub upload_limit: Option<u64>,
    /// Folder for the newest pieces.
    pub folder: PathBuf,
    /// The line that it shares with HTTP and BitTorrent.
    pub uplink: Uplink,
    /// Trackers to tell where the source is.
    pub trackers: Vec<TrackerClient>,
    /// BitTorrent's DHT, if it is to say where the source is.
    pub dht: Option<DhtOptions>,
    /// Whether nodes on the local network hear of the source.
    pub local: bool,
}

/// The mesh as the rest of the segmenter sees it, whichever it is just now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    current: watch::Receiver<Option<Current>>,
    stats: watch::Receiver<MeshStats>,
}

#[derive(Debug, Clone)]
struct Current {
    publisher: PiecePublisher,
    window: Arc<LiveWindow>,
}

impl Live {
    /// Hands a piece over. False if the mesh is too far behind to take it, or dead: viewers will lack that piece.
    pub fn publish(&self, piece: ClosedPiece) -> bool {
        self.current.borrow().as_ref().is_some_and(|current| current.publisher.publish(piece))
    }

    /// The newest pieces; none while there is no mesh.
    pub fn window(&self) -> Option<Arc<LiveWindow>> {
        self.current.borrow().as_ref().map(|current| Arc::clone(&current.window))
    }

    /// Figures since the start, all meshes together.
    pub fn stats(&self) -> MeshStats {
        *self.stats.borrow()
    }
}

/// The source's mesh, and what becomes of it.
#[derive(Debug)]
pub struct Source {
    join: Join,
    mesh: Mesh,
    serials: Serials,
    /// What meshes before this one sent.
    past: MeshStats,
    current: watch::Sender<Option<Current>>,
    stats: watch::Sender<MeshStats>,
}

impl Source {
    /// Joins the mesh as its source. `newest` is the newest record of an earlier run.
    ///
    /// # Errors
    /// When viewers cannot be listened for, or the folder takes no pieces.
    pub async fn start(join: Join, newest: Option<&SignedRecord>) -> Result<(Self, Live), Error> {
        let first = first_serial(now_ms(), newest.map(|record| record.sealed_ms));
        let mesh = open(&join, first).await?;
        let (current, hear_current) = watch::channel(Some(Current::of(&mesh)));
        let (stats, hear_stats) = watch::channel(MeshStats::default());
        let serials = Serials { first, since: Instant::now() };
        let source = Self { join, mesh, serials, past: MeshStats::default(), current, stats };
        Ok((source, Live { current: hear_current, stats: hear_stats }))
    }

    /// Where live viewers connect to.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.mesh.listen_addrs()
    }

    /// Passes records and states on and joins anew whenever the mesh has died, until stopped. Then it stays until neighbours ask
    /// for nothing more, but not for ever, and takes leave.
    pub async fn run(
        mut self,
        shelf: Arc<Shelf>,
        mut states: watch::Receiver<SignedState>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut offered = shelf.watch_offered();
        let mut passed: Option<SegmentSeq> = *offered.borrow_and_update();
        let numbers = |shelf: &Shelf| shelf.after(None).iter().map(|record| record.seq).collect();
        let mut held: BTreeSet<SegmentSeq> = numbers(&shelf);
        let mut stats = self.mesh.watch_stats();
        states.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                fault = self.mesh.fault() => {
                    tracing::error!(
                        "{fault}; the channel goes on, and live viewers are served again in a moment; please report this"
                    );
                    let Some(again) = self.join_again(&stop).await else { return Ok(()) };
                    self = again;
                    stats = self.mesh.watch_stats();
                    states.mark_changed();
                }
                Ok(()) = states.changed() => {
                    let state = states.borrow_and_update().clone();
                    self.mesh.state(&state).await;
                }
                Ok(()) = stats.changed() => {
                    let now = *stats.borrow_and_update();
                    self.stats.send_replace(after(&self.past, &now));
                }
                Ok(()) = offered.changed() => {
                    let newest = *offered.borrow_and_update();
                    let news = shelf.after(passed).into_iter().filter(|record| Some(record.seq) <= newest);
                    for record in news {
                        passed = Some(record.seq);
                        self.mesh.record(&record).await;
                        self.mesh.finished(record).await;
                    }
                    let before = std::mem::replace(&mut held, numbers(&shelf));
                    for gone in before.difference(&held) {
                        self.mesh.removed(*gone).await;
                    }
                }
            }
        }
        let last = states.borrow().clone();
        self.mesh.state(&last).await;
        self.current.send_replace(None);
        self.mesh.linger().await;
        self.mesh.stop().await;
        Ok(())
    }

    /// Ends the mesh and joins a new one, as often as that takes. None if the source is stopped meanwhile.
    async fn join_again(self, stop: &CancellationToken) -> Option<Self> {
        let Self { join, mesh, serials, past, current, stats } = self;
        current.send_replace(None);
        let past = after(&past, &mesh.stats());
        mesh.stop().await;
        let mut backoff = Backoff::new(REJOIN.0, REJOIN.1);
        let (first, mesh) = loop {
            let first = serials.next(Instant::now(), now_ms());
            match open(&join, first).await {
                Ok(mesh) => break (first, mesh),
                Err(error) => {
                    let wait = backoff.failed(rand::random());
                    tracing::warn!("live viewers cannot connect: {error}; trying again");
                    stop.run_until_cancelled(tokio::time::sleep(wait)).await?;
                }
            }
        };
        tracing::info!("live viewers connect to {:?} by UDP again", mesh.listen_addrs());
        current.send_replace(Some(Current::of(&mesh)));
        let serials = Serials { first, since: Instant::now() };
        Some(Self { join, mesh, serials, past, current, stats })
    }

    /// Makes a part of the mesh panic, by the name that its fault has.
    #[cfg(test)]
    pub fn kill(&self, task: &'static str) {
        self.mesh.kill(task);
    }
}

impl Current {
    fn of(mesh: &Mesh) -> Self {
        Self { publisher: mesh.publisher(), window: Arc::clone(mesh.window()) }
    }
}

/// Figures of now, and what earlier meshes sent and received.
fn after(past: &MeshStats, now: &MeshStats) -> MeshStats {
    let mut stats = *now;
    stats.core.payload_sent = now.core.payload_sent.saturating_add(past.core.payload_sent);
    stats.wire_sent = now.wire_sent.saturating_add(past.wire_sent);
    stats.wire_received = now.wire_received.saturating_add(past.wire_received);
    stats
}

async fn open(join: &Join, first_serial: Serial) -> Result<Mesh, Error> {
    let options = MeshOptions {
        channel: join.key.channel(),
        key: Some(join.key.clone()),
        role: MeshRole::Source,
        start: MeshStart::Live,
        target_delay: Duration::ZERO,
        listen: join.listen,
        upload_limit: join.upload_limit,
        upload: true,
        folder: join.folder.clone(),
        window: WINDOW,
        first_serial,
        known: None,
        lines: Some(join.folder.join("lines.json")),
        uplink: join.uplink.clone(),
        trackers: join.trackers.clone(),
        // The segments' own folder: what is finished there is served to whom nobody else can serve.
        dht: join.dht.clone(),
        local: join.local,
        keep: Keeping::Of(join.folder.join("segments")),
    };
    // Records come from here, so none that a neighbour brings is news.
    Mesh::start(options).await
}

/// The serials of one mesh.
#[derive(Debug, Clone, Copy)]
struct Serials {
    first: Serial,
    since: Instant,
}

impl Serials {
    /// The first serial of the mesh after this one: by the clock, and above all that this one can have given out, also
    /// when the clock was set back meanwhile.
    fn next(self, now: Instant, now_ms: u64) -> Serial {
        let ms = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        let used = ms.saturating_add(1).saturating_mul(SERIALS_PER_MS);
        let above = self.first.get().saturating_add(used).min(LAST_FIRST_SERIAL);
        Serial::new(first_serial(now_ms, None).get().max(above))
    }
}

/// The serial to begin with: above all that an earlier run can have used. Serials follow the clock, far faster than
/// pieces come; where the clock was set back since the last segment was sealed, they go on after that.
fn first_serial(now_ms: u64, sealed_ms: Option<u64>) -> Serial {
    let from_ms = match sealed_ms {
        Some(sealed_ms) if now_ms <= sealed_ms => sealed_ms.saturating_add(LONGEST_OPEN_MS),
        _ => now_ms,
    };
    let serial = from_ms.saturating_sub(SERIAL_EPOCH_MS).saturating_mul(SERIALS_PER_MS);
    Serial::new(serial.min(LAST_FIRST_SERIAL))
}

#[cfg(test)]
mod tests {
    use minuet_proto::{PieceHash, PieceId, PieceIndex};

    use super::*;

    #[test]
    fn serials_go_on_above_those_of_an_earlier_run() {
        let at = SERIAL_EPOCH_MS + 1000;
        assert_eq!(first_serial(at, None), Serial::new(64_000));
        assert_eq!(first_serial(at, Some(at - 1)), Serial::new(64_000));
        let set_back = first_serial(at, Some(at + 5));
        assert!(set_back.get() > (1005 + LONGEST_OPEN_MS - 1) * SERIALS_PER_MS);
        assert_eq!(
            first_serial(at, Some(u64::MAX)),
            Serial::new(LAST_FIRST_SERIAL),
            "a record of no time there is"
        );
    }

    #[test]
    fn serials_go_on_above_those_of_the_mesh_before() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let serials = Serials { first: Serial::new(64_000), since: start };
        let wall = SERIAL_EPOCH_MS + 1000;
        assert!(serials.next(at(0), wall) > Serial::new(64_000));
        assert!(serials.next(at(5000), wall + 5000) >= Serial::new(64_000 + 5000 * SERIALS_PER_MS));
        // The clock was set back by an hour.
        assert!(serials.next(at(5000), wall - 3_600_000) >= Serial::new(64_000 + 5000 * SERIALS_PER_MS));
        let last = Serials { first: Serial::new(LAST_FIRST_SERIAL), since: start };
        assert_eq!(last.next(at(u64::from(u32::MAX)), u64::MAX), Serial::new(LAST_FIRST_SERIAL));
    }

    /// Pieces of some bytes each, as a recorder closes them.
    fn piece(index: u32) -> ClosedPiece {
        let data = bytes::Bytes::from(format!("piece {index}"));
        let id = PieceId { segment: SegmentSeq(0), piece: PieceIndex(index) };
        ClosedPiece { id, hash: PieceHash::of(&data), ingest_ms: now_ms(), random_access: true, data }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn when_the_mesh_dies_viewers_get_what_comes_after_from_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let listen: SocketAddr = ([127, 0, 0, 1], 0).into();
        let config = minuet_tracker::Config {
            listen: vec![listen],
            udp_listen: Vec::new(),
            data: dir.path().join("tracker"),
            ..minuet_tracker::Config::default()
        };
        let tracker = minuet_tracker::Tracker::start(config).await.unwrap();
        let client =
            || TrackerClient::new(format!("http://{}/", tracker.http_addrs()[0]).parse().unwrap()).unwrap();
        let key = ChannelKey::from_seed(&[7; 32]);
        let state = crate::state::Announcer::new(
            key.clone(),
            crate::state::About {
                title: String::new(),
                listed: false,
                segment: Duration::from_secs(60),
                next: SegmentSeq(0),
                origin: None,
            },
        );
        let stated = state.subscribe().borrow().clone();
        client().publish_state(&stated).await.unwrap();
        let join = Join {
            key: key.clone(),
            listen,
            upload_limit: None,
            folder: dir.path().to_owned(),
            uplink: Uplink::default(),
            trackers: vec![client()],
            dht: None,
            local: false,
        };
        let (source, live) = Source::start(join, None).await.unwrap();
        let viewer = MeshOptions {
            channel: key.channel(),
            key: None,
            role: MeshRole::Viewer,
            start: MeshStart::Live,
            target_delay: Duration::from_secs(1),
            listen,
            upload_limit: None,
            upload: true,
            folder: dir.path().to_owned(),
            window: WINDOW,
            first_serial: Serial::new(0),
            known: None,
            lines: None,
            uplink: Uplink::default(),
            trackers: vec![client()],
            dht: None,
            local: false,
            keep: Keeping::Nothing,
        };
        let viewer = Mesh::start(viewer).await.unwrap();
        let window = Arc::clone(viewer.window());
        let (die, dead) = tokio::sync::oneshot::channel::<()>();
        let stop = CancellationToken::new();
        let running = {
            let (shelf, states, stop) = (Arc::new(Shelf::new(Vec::new())), state.subscribe(), stop.clone());
            tokio::spawn(async move {
                let _ = dead.await;
                source.kill("the live mesh");
                source.run(shelf, states, stop).await
            })
        };
        // The recorder goes on and on; some of its pieces find no mesh.
        let (mut index, mut refused, mut die) = (0, 0, Some(die));
        let mut last = Serial::new(0);
        let going_on = async {
            loop {
                refused += u32::from(!live.publish(piece(index)));
                index += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let Some(newest) = window.newest().filter(|newest| newest.held) else { continue };
                match die.take() {
                    Some(die) => {
                        last = newest.piece.serial;
                        let _ = die.send(());
                    }
                    // Beyond all that the first mesh can have given out since.
                    None if newest.piece.serial.get() > last.get() + SERIALS_PER_MS * 100 => break,
                    None => {}
                }
            }
        };
        // Mostly within a second, since the source looks for viewers as soon as it is back. One that nobody could dial yet
        // finds the source when it asks the tracker next, which it does each minute.
        tokio::time::timeout(Duration::from_secs(180), going_on)
            .await
            .expect("viewers see the channel again");
        assert!(refused > 0, "there was a time without a mesh");
        stop.cancel();
        running.await.unwrap().unwrap();
        viewer.stop().await;
        tracker.shutdown().await;
    }
}
