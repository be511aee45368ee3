//! Following a channel: every new record, once, in order, from whichever tracker has it first.
//!
//! One task a tracker asks for a snapshot, then holds the event stream open, and comes back after a jittered wait
//! when it breaks. What they bring goes through one [`Chain`]; a tracker that lies, repeats itself, or dies costs
//! a log line. As long as one tracker answers, nothing is missed.
//!
//! Neighbours in the mesh bring records and states as well: what they bring is as good as a tracker's word, for the source
//! has signed it, but they name nothing that is contacted.
//!
//! That a broadcast has ended is final to a relay. One tracker may be stale, or may repeat what it was told long ago; so
//! this news waits until every tracker has answered or failed once, and a newer statement takes its place.

use std::{convert::Infallible, sync::Arc, time::Duration};

use minuet_guard::tasks::Spawner;
use minuet_proto::{ChannelId, Phase, SegmentSeq, SignedRecord, SignedState, channel_api::Peer};
use tokio::sync::{mpsc, watch};

use crate::{
    Backoff, Error, TrackerClient,
    chain::{Chain, Verdict},
    contact::Teller,
    mesh::Heard,
    tracker::{Begin, News, Snapshot},
};

/// The first wait after a tracker failed, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Bounds of [`settled`].
const SETTLED: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));
/// How many events may wait for who follows.
const QUEUE: usize = 64;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the newest segment that has [`settled`].
    Live,
    /// At the segment that was on air this long ago.
    Ago(Duration),
    /// At the oldest that the tracker has.
    Oldest,
    /// A little before what came in at this time, in Unix milliseconds by the source's clock.
    At(u64),
    /// At this segment, or the next one that there is.
    Segment(SegmentSeq),
}

/// How long a segment should have been sealed when a viewer begins with it: half its time, from 3 to 30 s. Viewers
/// need that long to spread it under a tight uplink, and every later segment has the same time then.
pub fn settled(segment: Duration) -> Duration {
    (segment / 2).clamp(SETTLED.0, SETTLED.1)
}

/// What following yields.
#[derive(Debug, Clone)]
pub enum Followed {
    /// The channel is found: who is in its swarms, so that the first of them is formed at once, and where in each
    /// minute to begin.
    Joined(Vec<Peer>, Option<u32>),
    /// The next segment.
    Record(SignedRecord),
    /// The source's newest statement about the channel, and which tracker told it: what it names is judged by where that is.
    /// None: a neighbour did, and a tracker may follow with the same.
    State(SignedState, Option<Teller>),
    /// A tracker failed just now, after it had worked or at the first try.
    Failed(Arc<(String, Error)>),
}

enum Brought {
    Snapshot(Snapshot),
    News(News),
    Failed(Error),
}

/// Follows `channel` on all `trackers` until `tasks` are cancelled; the receiver ends when all tasks have ended.
///
/// `heard`: what neighbours in the mesh have told. `now_ms` gives Unix time in milliseconds. The owner of `tasks` listens to their
/// faults: when a part of this dies, nothing more may come.
pub fn follow(
    channel: ChannelId,
    trackers: Vec<TrackerClient>,
    heard: Option<watch::Receiver<Heard>>,
    start: Start,
    now_ms: fn() -> u64,
    tasks: &Spawner,
) -> mpsc::Receiver<Followed> {
    let (out, followed) = mpsc::channel(QUEUE);
    let (bring, brought) = mpsc::channel(QUEUE);
    let (position, _) = watch::channel(None);
    for (at, tracker) in trackers.iter().cloned().enumerate() {
        let work = watch_tracker(at, tracker, channel, position.subscribe(), bring.clone());
        tasks.spawn("following the channel at a tracker", until_cancelled(work));
    }
    let waiting = Waiting { unheard: vec![true; trackers.len()], ended: None };
    let merger = Merger {
        channel,
        trackers,
        start,
        now_ms,
        position,
        chain: Chain::default(),
        state: (0, None),
        waiting,
        out,
    };
    tasks.spawn("following the channel", until_cancelled(merger.run(brought, heard)));
    followed
}

/// Work that ends once nobody wants what it brings; then it waits until it is told to end.
async fn until_cancelled(work: impl Future<Output = ()>) -> Result<(), Infallible> {
    work.await;
    std::future::pending().await
}

/// Asks one tracker, for ever.
async fn watch_tracker(
    at: usize,
    tracker: TrackerClient,
    channel: ChannelId,
    mut position: watch::Receiver<Option<SegmentSeq>>,
    bring: mpsc::Sender<(usize, Brought)>,
) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let failure = visit(at, &tracker, channel, &mut position, &bring, &mut backoff).await.err();
        // A stream that merely ended is opened again after the same wait: a tracker that is told to come back
        // by many at once has just been restarted.
        let wait = backoff.failed(rand::random());
        if let Some(error) = failure
            && bring.send((at, Brought::Failed(error))).await.is_err()
        {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}

/// A snapshot, then the event stream until it ends.
async fn visit(
    at: usize,
    tracker: &TrackerClient,
    channel: ChannelId,
    position: &mut watch::Receiver<Option<SegmentSeq>>,
    bring: &mpsc::Sender<(usize, Brought)>,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let snapshot = tracker.join(channel, Begin::Newest).await?;
    let has_records = !snapshot.records.is_empty();
    if bring.send((at, Brought::Snapshot(snapshot))).await.is_err() {
        return Ok(());
    }
    if has_records && position.wait_for(Option::is_some).await.is_err() {
        return Ok(());
    }
    let from = *position.borrow_and_update();
    let mut events = tracker.events(channel, from).await?;
    loop {
        let Some(news) = events.next().await? else { return Ok(()) };
        backoff.succeeded();
        if bring.send((at, Brought::News(news))).await.is_err() {
            return Ok(());
        }
    }
}

/// What neighbours have told, once there is news; never, if there is no mesh.
async fn changed(heard: &mut Option<watch::Receiver<Heard>>) -> Heard {
    if let Some(news) = heard
        && news.changed().await.is_ok()
    {
        return news.borrow_and_update().clone();
    }
    std::future::pending().await
}

struct Merger {
    channel: ChannelId,
    trackers: Vec<TrackerClient>,
    start: Start,
    now_ms: fn() -> u64,
    /// The segment wanted next: where event streams resume.
    position: watch::Sender<Option<SegmentSeq>>,
    chain: Chain,
    /// When the newest state was made, and which tracker told it, if any has.
    state: (u64, Option<Teller>),
    waiting: Waiting,
    out: mpsc::Sender<Followed>,
}

/// The news that the broadcast has ended, before all have been heard.
struct Waiting {
    /// Which trackers have neither answered nor failed yet.
    unheard: Vec<bool>,
    ended: Option<(SignedState, Option<Teller>)>,
}

impl Waiting {
    fn is_over(&self) -> bool {
        !self.unheard.contains(&true)
    }
}

/// Who follows is gone.
struct Gone;

impl Merger {
    async fn run(
        mut self,
        mut brought: mpsc::Receiver<(usize, Brought)>,
        mut heard: Option<watch::Receiver<Heard>>,
    ) {
        let mut failing = vec![false; self.trackers.len()];
        loop {
            let given = tokio::select! {
                // Without a tracker neighbours are all that there is.
                Some((at, item)) = brought.recv() => self.brought(at, item, &mut failing).await,
                heard = changed(&mut heard) => self.heard(heard).await,
                else => return,
            };
            if given.is_err() || self.tell_end().await.is_err() {
                return;
            }
        }
    }

    async fn brought(&mut self, at: usize, item: Brought, failing: &mut [bool]) -> Result<(), Gone> {
        let name = self.trackers[at].name();
        let failed = matches!(item, Brought::Failed(_));
        let heard = failed || matches!(item, Brought::Snapshot(_));
        let given = match item {
            Brought::Snapshot(snapshot) => self.snapshot(snapshot).await,
            Brought::News(News::Record(record)) => self.record(record).await,
            Brought::News(News::State(state)) => self.state(state, Some(self.trackers[at].teller())).await,
            Brought::Failed(error) if failing[at] => {
                tracing::debug!("{name} {error}");
                Ok(())
            }
            Brought::Failed(error) => self.give(Followed::Failed(Arc::new((name.clone(), error)))).await,
        };
        if failing[at] && !failed {
            tracing::info!("{name} answers again");
        }
        failing[at] = failed;
        if heard {
            self.waiting.unheard[at] = false;
        }
        given
    }

    /// What neighbours have told.
    async fn heard(&mut self, heard: Heard) -> Result<(), Gone> {
        for record in heard.records {
            if self.position.borrow().is_none() {
                // No tracker has said where the channel is.
                self.chain.start_at(record.seq);
            }
            self.record(record).await?;
        }
        match heard.state {
            Some(state) => self.state(state, None).await,
            None => Ok(()),
        }
    }

    async fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), Gone> {
        self.give(Followed::Joined(snapshot.peers, snapshot.place)).await?;
        if let Some(newest) = snapshot.records.last()
            && self.position.borrow().is_none()
        {
            let first = self.first_wanted(&snapshot.records, newest, &snapshot.state, snapshot.oldest);
            self.chain.start_at(first);
            if snapshot.records[0].seq <= first {
                snapshot.records.into_iter().for_each(|record| self.insert(record));
                self.drain().await?;
            }
            // Older ones than this answer has come by the event streams, in order.
            self.position.send_replace(self.chain.wanted());
        }
        match snapshot.state {
            Some(state) => self.state(state, Some(snapshot.teller)).await,
            None => Ok(()),
        }
    }

    fn first_wanted(
        &self,
        records: &[SignedRecord],
        newest: &SignedRecord,
        state: &Option<SignedState>,
        oldest: Option<SegmentSeq>,
    ) -> SegmentSeq {
        let oldest = oldest.unwrap_or(records[0].seq).min(newest.seq);
        let segment =
            Duration::from_millis(state.as_ref().map_or(newest.duration_ms, |s| s.segment_ms).max(1));
        match self.start {
            Start::Live => {
                let settled = settled(segment);
                let ended = state.as_ref().is_some_and(|s| s.phase == Phase::Ended);
                let before = (self.now_ms)().saturating_sub(millis(settled));
                records.iter().rev().find(|r| ended || r.sealed_ms <= before).unwrap_or(&records[0]).seq
            }
            Start::Ago(ago) => {
                SegmentSeq(newest.seq.0.saturating_sub(millis(ago) / millis(segment))).max(oldest)
            }
            Start::Oldest => oldest,
            Start::At(at_ms) => {
                // Segments may be shorter than the rule says, and the newest is a while old.
                let ago = (self.now_ms)().saturating_sub(at_ms);
                let count = (ago / millis(segment)).saturating_add(2);
                let count = count.saturating_add(count / 16);
                SegmentSeq(newest.seq.0.saturating_sub(count)).max(oldest)
            }
            Start::Segment(wanted) => wanted.clamp(oldest, newest.seq.next()),
        }
    }

    async fn state(&mut self, state: SignedState, teller: Option<Teller>) -> Result<(), Gone> {
        let (known, told_by) = self.state;
        if state.at_ms < known || state.at_ms == known && (told_by.is_some() || teller.is_none()) {
            return Ok(());
        }
        self.state = (state.at_ms, teller);
        self.waiting.ended = None;
        if state.phase == Phase::Ended && !self.waiting.is_over() {
            self.waiting.ended = Some((state, teller));
            return Ok(());
        }
        self.give(Followed::State(state, teller)).await
    }

    /// Tells of the end that nobody has contradicted.
    async fn tell_end(&mut self) -> Result<(), Gone> {
        if !self.waiting.is_over() {
            return Ok(());
        }
        match self.waiting.ended.take() {
            Some((state, teller)) => self.give(Followed::State(state, teller)).await,
            None => Ok(()),
        }
    }

    async fn record(&mut self, record: SignedRecord) -> Result<(), Gone> {
        self.insert(record);
        self.drain().await?;
        if let Some(missing) = self.chain.gap() {
            self.fill(missing).await?;
        }
        Ok(())
    }

    fn insert(&mut self, record: SignedRecord) {
        if let Verdict::Refused(why) = self.chain.insert(record) {
            tracing::warn!("thrown away: {why}");
        }
    }

    /// Asks every tracker for what is missing; what none has is left out.
    async fn fill(&mut self, missing: SegmentSeq) -> Result<(), Gone> {
        for at in 0..self.trackers.len() {
            if let Ok(snapshot) = self.trackers[at].join(self.channel, Begin::Seq(missing)).await {
                snapshot.records.into_iter().for_each(|record| self.insert(record));
            }
            self.drain().await?;
            if self.chain.gap().is_none() {
                return Ok(());
            }
        }
        if let Some(record) = self.chain.next_past_gap() {
            tracing::warn!("no tracker has the records from segment {missing} to before {}", record.seq);
            self.give_record(record).await?;
        }
        self.drain().await
    }

    async fn drain(&mut self) -> Result<(), Gone> {
        while let Some(record) = self.chain.take_next() {
            self.give_record(record).await?;
        }
        Ok(())
    }

    async fn give_record(&mut self, record: SignedRecord) -> Result<(), Gone> {
        self.position.send_replace(Some(record.seq.next()));
        self.give(Followed::Record(record)).await
    }

    async fn give(&self, item: Followed) -> Result<(), Gone> {
        self.out.send(item).await.map_err(|_| Gone)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
