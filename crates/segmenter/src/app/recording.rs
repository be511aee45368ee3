//! The two threads of a recording: one records, one makes durable what is recorded and lets others have it.
//!
//! Rule: nobody else sees a segment that the disk has not taken. One whose sync fails is written anew, and all after it
//! wait until that has worked, since each names the one before it.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    thread,
};

use anyhow::{Context, Result, anyhow};
use minuet_proto::{SegmentSeq, SignedRecord};
use minuet_store::{Error, Sealed, Store};
use tokio::sync::oneshot;

use crate::{
    archive::{Archive, Keeping},
    input::Feed,
    recorder::{Recorded, Recorder, Unsynced},
    shelf::Shelf,
    state::Announcer,
};

/// Segments that may wait for a disk that takes nothing; with more the segmenter ends.
const MAX_WAITING: usize = 128;

/// A recording that is under way.
#[derive(Debug)]
pub struct Recording {
    recorder: Option<oneshot::Receiver<Result<()>>>,
    durable: Option<oneshot::Receiver<Result<()>>>,
    stop: Arc<AtomicBool>,
}

impl Recording {
    /// Starts both threads. Must be called in the runtime: inputs over HTTP read there.
    pub fn start(
        recorder: Recorder,
        mut feed: Feed,
        sealed: Receiver<Unsynced>,
        shelf: Arc<Shelf>,
        announcer: Arc<Announcer>,
        archive: Option<Archive>,
    ) -> Result<Self> {
        let (store, stop) = (Arc::clone(&recorder.store), Arc::clone(&recorder.stop));
        let runtime = tokio::runtime::Handle::current();
        let recorder = watched("recorder", "the recorder", move || {
            let _entered = runtime.enter();
            recorder.run(&mut feed).map_err(anyhow::Error::from)
        })?;
        let durable = watched("sync", "making segments durable", move || {
            let mut keeping = Keeping::new(archive);
            let publish = |record: SignedRecord| {
                keeping.keep(&store, &record);
                announcer.set_next(record.seq.next());
                shelf.push(record);
            };
            make_durable(&sealed, &*store, publish)?;
            keeping.finish();
            Ok(())
        })?;
        Ok(Self { recorder: Some(recorder), durable: Some(durable), stop })
    }

    /// Waits until the recording is over: the feed has ended or failed, it was told to end, or a thread has died.
    /// Cancel-safe.
    pub async fn over(&mut self) -> Result<()> {
        if self.recorder.is_none() {
            return Ok(());
        }
        let ended = tokio::select! {
            biased;
            ended = joined(&mut self.recorder) => ended,
            ended = joined(&mut self.durable) => match ended {
                // That thread ends once the recorder has.
                Ok(()) => joined(&mut self.recorder).await,
                died => died,
            },
        };
        self.end();
        ended
    }

    /// Tells the recorder to seal what is open and to end.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all that was recorded is durable and with others. Cancel-safe.
    pub async fn settled(&mut self) -> Result<()> {
        if self.durable.is_none() { Ok(()) } else { joined(&mut self.durable).await }
    }
}

/// Waits for a thread's result; for ever when it was given out before.
async fn joined(thread: &mut Option<oneshot::Receiver<Result<()>>>) -> Result<()> {
    let Some(result) = thread else { return std::future::pending().await };
    // The sender is dropped unused only with its thread, which catches what it panics with.
    let result = result.await.unwrap_or_else(|_| Err(anyhow!("a thread is gone")));
    *thread = None;
    result
}

/// Starts a thread whose end is always heard of.
fn watched(
    thread: &str,
    what: &'static str,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<oneshot::Receiver<Result<()>>> {
    let (say, ended) = oneshot::channel();
    let work = move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        let _ = say.send(result.unwrap_or_else(|panic| Err(died(what, &*panic))));
    };
    thread::Builder::new().name(thread.to_owned()).spawn(work).context("the system gives no thread")?;
    Ok(ended)
}

fn died(what: &str, panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown");
    anyhow!("{what} has stopped: internal error: {text}; start the segmenter again, and please report this")
}

/// What makes segments durable.
trait Disk {
    /// Waits until a segment just sealed would survive a power cut.
    fn sync(&self, sealed: Sealed) -> Result<(), Error>;
    /// The same for one with which that failed.
    fn rewrite(&self, seq: SegmentSeq) -> Result<(), Error>;
    /// Waits until the number of the segment that has begun would survive one.
    fn sync_begun(&self) -> Result<(), Error>;
}

impl Disk for Store {
    fn sync(&self, sealed: Sealed) -> Result<(), Error> {
        sealed.sync()
    }

    fn rewrite(&self, seq: SegmentSeq) -> Result<(), Error> {
        Self::rewrite(self, seq)
    }

    fn sync_begun(&self) -> Result<(), Error> {
        Self::sync_begun(self)
    }
}

/// Waits for the disk, segment by segment, and only then lets others have the segment.
fn make_durable(
    unsynced: &Receiver<Unsynced>,
    disk: &impl Disk,
    publish: impl FnMut(SignedRecord),
) -> Result<()> {
    let mut queue = Queue { waiting: VecDeque::new(), publish };
    for work in unsynced {
        match work {
            Unsynced::Begun => {
                if let Err(error) = disk.sync_begun() {
                    tracing::error!("{error}");
                }
            }
            Unsynced::Sealed(recorded) => {
                let Recorded { record, sealed } = *recorded;
                queue.take(record, disk.sync(sealed), disk)?;
            }
        }
    }
    // One more try for what waits, at the end.
    queue.write_anew(disk);
    Ok(())
}

/// Segments in the order in which others get them.
struct Queue<P> {
    /// The first was not durable when it was tried last.
    waiting: VecDeque<SignedRecord>,
    publish: P,
}

impl<P: FnMut(SignedRecord)> Queue<P> {
    /// Takes a segment, and gives out what can be.
    fn take(&mut self, record: SignedRecord, synced: Result<(), Error>, disk: &impl Disk) -> Result<()> {
        match synced {
            Ok(()) if self.waiting.is_empty() => (self.publish)(record),
            synced => {
                if let Err(error) = synced {
                    tracing::error!(
                        "segment {} has not reached the disk: {error}; it is written anew and published when that works",
                        record.seq
                    );
                }
                self.waiting.push_back(record);
                self.write_anew(disk);
            }
        }
        match self.waiting.front() {
            Some(oldest) if self.waiting.len() > MAX_WAITING => Err(anyhow!(
                "the disk has taken no segment since segment {}; replace it, or choose another folder with --data",
                oldest.seq
            )),
            _ => Ok(()),
        }
    }

    /// Writes what waits anew, as far as the disk takes it.
    fn write_anew(&mut self, disk: &impl Disk) {
        while let Some(record) = self.waiting.front() {
            if let Err(error) = disk.rewrite(record.seq) {
                tracing::error!("segment {} is not published: {error}; check the disk", record.seq);
                return;
            }
            tracing::info!("segment {} has reached the disk", record.seq);
            if let Some(record) = self.waiting.pop_front() {
                (self.publish)(record);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, path::PathBuf};

    use minuet_proto::{ChannelKey, InfoHash, PieceLength, Record};

    use super::*;

    fn record(seq: u64, before: Option<&SignedRecord>) -> SignedRecord {
        let key = ChannelKey::from_seed(&[1; 32]);
        let record = Record {
            channel: key.channel(),
            seq: SegmentSeq(seq),
            prev: before.map(SignedRecord::hash),
            info_hash: InfoHash::new([2; 20]),
            length: 188,
            piece_length: PieceLength::MIN,
            duration_ms: 1000,
            ingest_ms: 1,
            sealed_ms: 2,
            discontinuity: false,
            access: Default::default(),
        };
        SignedRecord::sign(&key, record)
    }

    fn broken() -> Error {
        Error::Io { path: PathBuf::from("minute.ts"), reason: std::io::Error::other("input/output error") }
    }

    /// A disk that fails until it is well.
    struct Failing {
        well: Cell<bool>,
    }

    impl Disk for Failing {
        fn sync(&self, _: Sealed) -> Result<(), Error> {
            self.rewrite(SegmentSeq(0))
        }

        fn rewrite(&self, _: SegmentSeq) -> Result<(), Error> {
            if self.well.get() { Ok(()) } else { Err(broken()) }
        }

        fn sync_begun(&self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn nobody_sees_a_segment_that_the_disk_has_not_taken() {
        let (mut published, disk) = (Vec::new(), Failing { well: Cell::new(true) });
        let mut before = None;
        let mut queue =
            Queue { waiting: VecDeque::new(), publish: |record: SignedRecord| published.push(record) };
        for seq in 0..8 {
            let next = record(seq, before.as_ref());
            before = Some(next.clone());
            disk.well.set(!(2..5).contains(&seq));
            let synced = disk.rewrite(next.seq);
            queue.take(next, synced, &disk).unwrap();
            let waiting = if (2..5).contains(&seq) { seq - 1 } else { 0 };
            assert_eq!(queue.waiting.len() as u64, waiting);
        }
        let numbers: Vec<u64> = published.iter().map(|record| record.seq.0).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7], "in order, once each");
        for pair in published.windows(2) {
            pair[1].check_follows(&pair[0]).unwrap();
        }
    }

    #[test]
    fn a_disk_that_takes_nothing_for_long_ends_the_recording_with_a_sentence() {
        let disk = Failing { well: Cell::new(false) };
        let mut queue = Queue { waiting: VecDeque::new(), publish: |_| panic!("nothing is durable") };
        let end =
            (0..1000).find_map(|seq| queue.take(record(seq, None), Err(broken()), &disk).err()).unwrap();
        assert_eq!(queue.waiting.len(), MAX_WAITING + 1);
        assert!(end.to_string().starts_with("the disk has taken no segment since segment 0"), "{end}");
    }

    #[tokio::test]
    async fn the_end_of_either_thread_is_heard_of_at_once() {
        let start = || {
            let ((recorder, ended), (durable, synced)) = (oneshot::channel(), oneshot::channel());
            let stop = Arc::new(AtomicBool::new(false));
            (recorder, durable, Recording { recorder: Some(ended), durable: Some(synced), stop })
        };
        // The second thread dies while the first runs: the first is told to end.
        let (recorder, durable, mut recording) = start();
        durable.send(Err(anyhow!("the disk is gone"))).unwrap();
        assert_eq!(recording.over().await.unwrap_err().to_string(), "the disk is gone");
        assert!(recording.stop.load(Ordering::Relaxed));
        recorder.send(Ok(())).unwrap();
        recording.over().await.unwrap();
        recording.settled().await.unwrap();
        // The first dies; what it sealed is made durable all the same.
        let (recorder, durable, mut recording) = start();
        recorder.send(Err(anyhow!("out of luck"))).unwrap();
        assert_eq!(recording.over().await.unwrap_err().to_string(), "out of luck");
        recording.over().await.unwrap();
        durable.send(Ok(())).unwrap();
        recording.settled().await.unwrap();
        // At the end of a feed the second may be done before the first has said so.
        let (recorder, durable, mut recording) = start();
        durable.send(Ok(())).unwrap();
        recorder.send(Ok(())).unwrap();
        recording.over().await.unwrap();
        recording.settled().await.unwrap();
    }

    #[tokio::test]
    async fn a_thread_that_dies_says_why() {
        let ended = watched("test", "the recorder", || panic!("out of {}", "luck")).unwrap();
        let error = ended.await.unwrap().unwrap_err().to_string();
        assert!(error.starts_with("the recorder has stopped: internal error: out of luck"), "{error}");
    }
}
