//! Going back: all that the mesh holds, as one playlist of MPEG-TS.
//!
//! ```text
//! records, pieces on air ─► reel (an index) ─► playlist ─► a player asks for an entry ─► reading ─► disk, live window,
//!                                                                                            └► readers ─► mesh
//! ```
//!
//! The playlist lists what is not here: what a player asks for is fetched then, as `--start` does it, and kept as what is
//! watched is kept. See [`reel`] for how it is cut, and [`readers`] for who may have the mesh fetch how much.

mod press;
mod readers;
mod reading;
mod reel;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use minuet_node::{
    TrackerClient,
    mesh::{Archive, LivePiece, LiveWindow, Mesh, Need},
    tracker::Begin,
};
use minuet_proto::{ChannelId, SegmentSeq, SignedRecord, channel_api::MAX_JOIN_RECORDS};
use tokio::sync::watch;

use self::{press::Press, readers::Readers, reel::Reel};
pub use self::{
    readers::Fare,
    reading::{Lost, Reading},
    reel::{Missing, Span},
};

/// How long neighbours may take to say what they keep.
const HEARS: Duration = Duration::from_millis(1500);
/// How often it is asked what they keep: the first times while that is not known, and then.
const ASK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// So many times it is asked often: a channel may have no past.
const OFTEN: u32 = 8;
/// How long the first records may take to come.
const RECORDS: Duration = Duration::from_secs(3);
/// How often the mesh is told what is needed when.
const TELL: Duration = Duration::from_secs(1);
/// How long until trackers are asked again for records, where none has answered.
const AGAIN: Duration = Duration::from_secs(10);
/// Pages of records that trackers are asked for: two days of minutes and more.
const MAX_PAGES: usize = 6;

/// What is so much later; what is further away than a day is not looked at.
pub fn later(moment: Instant, by: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400);
    moment.checked_add(by.min(FAR)).unwrap_or(moment)
}

/// What was on air before.
pub struct Past {
    reel: Mutex<Reel>,
    archive: Arc<Archive>,
    window: Arc<LiveWindow>,
    readers: Arc<Readers>,
    press: Press,
    /// Counts changes of the reel.
    changed: watch::Sender<u64>,
}

impl Past {
    /// Nothing is known yet.
    pub fn new(mesh: &Mesh) -> Self {
        Self {
            reel: Mutex::default(),
            archive: Arc::clone(mesh.archive()),
            window: Arc::clone(mesh.window()),
            readers: Arc::new(Readers::new()),
            press: Press::new(),
            changed: watch::Sender::new(0),
        }
    }

    /// A piece was on air.
    pub fn live(&self, known: &LivePiece) {
        let piece = &known.piece;
        self.reel().live(piece.id, piece.ingest_ms, piece.len, known.random_access);
        self.note();
    }

    /// A minute is finished.
    pub fn record(&self, record: &SignedRecord) {
        self.reel().record(record);
        self.note();
    }

    /// The broadcast is over, or goes on after all.
    pub fn set_ended(&self, ended: bool) {
        self.reel().set_ended(ended);
        self.note();
    }

    /// When the oldest came in that can be had, in Unix milliseconds.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.reel().oldest_ms()
    }

    /// The index, for a moment.
    pub fn reel(&self) -> MutexGuard<'_, Reel> {
        // Each change in it is whole by itself.
        self.reel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until players can begin.
    pub async fn has_some(&self) {
        let mut news = self.subscribe();
        while !self.reel().has_some() {
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The minute of everybody who goes back now, and how each fares; and how all have fared since the start.
    pub fn fares(&self) -> (Vec<(SegmentSeq, Fare)>, Fare) {
        let (each, total) = self.readers.fares();
        (each.into_iter().map(|(place, fare)| (place.segment, fare)).collect(), total)
    }

    /// Is told of every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Writes something for somebody at `ip`, when its turn comes; none if there are too many.
    pub async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        ip: IpAddr,
        write: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let past = Arc::clone(self);
        self.press.write(ip, move || write(&past)).await
    }

    /// Begins to read an entry, for somebody at `ip`.
    pub async fn read(self: &Arc<Self>, ip: IpAddr, segment: SegmentSeq, from: u64) -> Result<Reading, Lost> {
        let entry = self.reel().entry(segment, from).ok_or(Lost::Unknown)?;
        Reading::begin(Arc::clone(self), ip, entry).await
    }

    fn note(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Has the mesh fetch what players wait for, for ever.
    pub async fn fetch(self: Arc<Self>, mesh: Weak<Mesh>) {
        let Some(reader) = mesh.upgrade().map(|mesh| mesh.reader()) else { return };
        let (mut planned, mut sought) = (false, None);
        loop {
            let _ = tokio::time::timeout(TELL, self.readers.changed()).await;
            let needs = self.readers.plan(Instant::now());
            let lacks = |need: &&Need| {
                let elsewhere = self.archive.elsewhere(need.segment);
                !self.archive.is_whole(need.segment)
                    && elsewhere.is_none_or(|elsewhere| elsewhere.holders == 0)
            };
            let lacked = needs.iter().find(lacks).map(|need| need.segment);
            if lacked != sought
                && let Some(mesh) = mesh.upgrade()
            {
                // Trackers know who keeps what is old.
                mesh.seek(lacked);
                sought = lacked;
            }
            if planned || !needs.is_empty() {
                planned = !needs.is_empty();
                reader.plan(needs).await;
            }
        }
    }

    /// Learns how far back anybody keeps anything, for ever.
    pub async fn look(self: Arc<Self>, mesh: Weak<Mesh>) {
        let mut news = self.subscribe();
        let known = async { while self.reel().oldest().is_none() && news.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(RECORDS, known).await;
        let mut asked = 0u32;
        loop {
            let own = self.archive.records();
            let own = own.iter().map(|record| record.seq).find(|segment| self.archive.is_whole(*segment));
            let others = match mesh.upgrade() {
                Some(mesh) => self.ask(&mesh, asked == 0).await,
                None => None,
            };
            asked = asked.saturating_add(1);
            self.reel().hold_from(own.into_iter().chain(others).min());
            self.note();
            let often = others.is_none() && asked < OFTEN;
            tokio::time::sleep(if often { ASK.0 } else { ASK.1 }).await;
        }
    }

    /// The oldest minute that a neighbour keeps, by its word.
    async fn ask(&self, mesh: &Mesh, first: bool) -> Option<SegmentSeq> {
        let reader = mesh.reader();
        if first {
            // So that trackers name nodes that keep much.
            mesh.seek(self.reel().oldest());
        }
        // Nothing of it is needed: it is asked who has it, or what comes next.
        let need =
            Need { segment: SegmentSeq(0), from: 1_000_000, due: later(Instant::now(), HEARS), span: HEARS };
        reader.plan(vec![need]).await;
        // The first to answer need not be the one that keeps most.
        tokio::time::sleep(HEARS).await;
        if first {
            mesh.seek(None);
        }
        self.archive.elsewhere(SegmentSeq(0)).and_then(|elsewhere| elsewhere.next)
    }

    /// Gets the records of what was on air before this node came, from the first tracker that has them.
    pub async fn learn(self: Arc<Self>, channel: ChannelId, trackers: Arc<[TrackerClient]>) {
        for record in self.archive.records() {
            self.record(&record);
        }
        loop {
            for tracker in trackers.iter() {
                if self.learn_from(channel, tracker).await.is_some() {
                    return;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// None: the tracker does not answer, or has none.
    async fn learn_from(&self, channel: ChannelId, tracker: &TrackerClient) -> Option<()> {
        let snapshot = tracker.join(channel, Begin::Newest).await.ok()?;
        let (mut from, oldest) = (snapshot.records.first()?.seq, snapshot.oldest?);
        snapshot.records.iter().for_each(|record| self.record(record));
        for _ in 0..MAX_PAGES {
            if from <= oldest {
                break;
            }
            from = SegmentSeq(from.0.saturating_sub(MAX_JOIN_RECORDS as u64)).max(oldest);
            let page = tracker.join(channel, Begin::Seq(from)).await.ok()?;
            // The newest first: what is not reached from there is kept account of until it is.
            page.records.iter().rev().for_each(|record| self.record(record));
        }
        Some(())
    }
}
