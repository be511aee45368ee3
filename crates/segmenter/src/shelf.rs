//! The finished segments that are held. They are durable, and so fit to be served and seeded. They are published once they are
//! *offered*: seeded, or known not to be. So a viewer that hears of a segment finds it at its source.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use minuet_proto::{SegmentSeq, SignedRecord};
use minuet_store::{Held, Retention};
use tokio::sync::watch;

/// Records of the held segments, ascending. Bounded by the retention.
#[derive(Debug)]
pub struct Shelf {
    records: Mutex<VecDeque<SignedRecord>>,
    newest: watch::Sender<Option<SegmentSeq>>,
    offered: watch::Sender<Option<SegmentSeq>>,
}

impl Shelf {
    /// A shelf with what an earlier run left.
    pub fn new(records: Vec<SignedRecord>) -> Self {
        let newest = records.last().map(|record| record.seq);
        Self {
            records: Mutex::new(records.into()),
            newest: watch::Sender::new(newest),
            offered: watch::Sender::new(None),
        }
    }

    /// Puts a new segment on and tells those who wait.
    pub fn push(&self, record: SignedRecord) {
        let seq = record.seq;
        self.lock().push_back(record);
        self.newest.send_replace(Some(seq));
    }

    /// Tells of new segments.
    pub fn watch(&self) -> watch::Receiver<Option<SegmentSeq>> {
        self.newest.subscribe()
    }

    /// Marks segments up to `seq` as offered.
    pub fn offer(&self, seq: Option<SegmentSeq>) {
        self.offered.send_if_modified(|offered| {
            let news = seq > *offered;
            *offered = seq.max(*offered);
            news
        });
    }

    /// Tells up to which number segments are offered.
    pub fn watch_offered(&self) -> watch::Receiver<Option<SegmentSeq>> {
        self.offered.subscribe()
    }

    /// Records of the offered segments.
    pub fn offered(&self) -> Vec<SignedRecord> {
        let offered = *self.offered.borrow();
        self.lock().iter().filter(|record| Some(record.seq) <= offered).cloned().collect()
    }

    /// Records after segment `seq`, or all.
    pub fn after(&self, seq: Option<SegmentSeq>) -> Vec<SignedRecord> {
        self.lock().iter().filter(|record| seq.is_none_or(|seq| record.seq > seq)).cloned().collect()
    }

    /// The record of a segment, if it is held.
    pub fn get(&self, seq: SegmentSeq) -> Option<SignedRecord> {
        self.lock().iter().find(|record| record.seq == seq).cloned()
    }

    /// The newest number, if any segment is held.
    pub fn newest(&self) -> Option<SegmentSeq> {
        self.lock().back().map(|record| record.seq)
    }

    /// The newest record, if any segment is held.
    pub fn newest_record(&self) -> Option<SignedRecord> {
        self.lock().back().cloned()
    }

    /// Takes off what the retention does not keep.
    pub fn prune(&self, retention: Retention) -> Vec<SignedRecord> {
        let mut records = self.lock();
        let held: Vec<Held> = records
            .iter()
            .map(|record| Held { seq: record.seq, length: record.length, duration_ms: record.duration_ms })
            .collect();
        let surplus = retention.surplus(&held);
        records.drain(..surplus).collect()
    }

    /// Takes off the oldest segment, unless it is the only one.
    pub fn take_oldest(&self) -> Option<SignedRecord> {
        let mut records = self.lock();
        if records.len() < 2 { None } else { records.pop_front() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<SignedRecord>> {
        // Each record is whole by itself, so a panic elsewhere does not spoil the list.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
