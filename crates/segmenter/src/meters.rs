//! What is being measured while the segmenter runs. Written by whoever knows, read by the status line.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use minuet_media::Counters;
use minuet_proto::SegmentSeq;
use tokio::sync::watch;

/// Figures since the start, and of now.
#[derive(Debug, Default)]
pub struct Meters {
    received: AtomicU64,
    recorded: AtomicU64,
    open: AtomicU64,
    sent_to_peers: AtomicU64,
    newest_sent: watch::Sender<(SegmentSeq, u64)>,
    sent_over_http: AtomicU64,
    sent_live: AtomicU64,
    live_peers: AtomicU64,
    viewers: AtomicU64,
    seeding: AtomicU64,
    key_distance_ms: AtomicU64,
    upload_limit: AtomicU64,
    cutter: Mutex<Counters>,
}

/// A copy of all figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Bytes of feed received.
    pub received: u64,
    /// Bytes of sealed segments.
    pub recorded: u64,
    /// The segment being recorded.
    pub open: SegmentSeq,
    /// Payload bytes sent to BitTorrent peers.
    pub sent_to_peers: u64,
    /// Payload bytes sent to web seed clients.
    pub sent_over_http: u64,
    /// Payload bytes sent over the live mesh.
    pub sent_live: u64,
    /// Neighbours in the live mesh.
    pub live_peers: u64,
    /// BitTorrent peers connected to the busiest minute.
    pub viewers: u64,
    /// Minutes being seeded.
    pub seeding: u64,
    /// From one place where decoding can start to the next, in milliseconds; 0 while that is not known.
    pub key_distance_ms: u64,
    /// The most to send, in bytes a second; 0 without a limit.
    pub upload_limit: u64,
    /// Totals of the cutter.
    pub cutter: Counters,
}

impl Reading {
    /// Payload bytes sent, whatever the way.
    pub fn sent(&self) -> u64 {
        self.sent_live + self.sent_to_peers + self.sent_over_http
    }
}

impl Meters {
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn recorded(&self, bytes: u64) {
        self.recorded.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn set_open(&self, seq: SegmentSeq) {
        self.open.store(seq.0, Ordering::Relaxed);
    }

    pub fn sent_over_http(&self, bytes: usize) {
        self.sent_over_http.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn set_swarm(&self, sent: u64, viewers: u64, seeding: u64) {
        self.sent_to_peers.store(sent, Ordering::Relaxed);
        self.viewers.store(viewers, Ordering::Relaxed);
        self.seeding.store(seeding, Ordering::Relaxed);
    }

    /// What was sent of the newest segment that is seeded.
    pub fn set_newest_sent(&self, seq: SegmentSeq, sent: u64) {
        self.newest_sent.send_replace((seq, sent));
    }

    /// Tells of each reading of what was sent of the newest segment to BitTorrent peers.
    pub fn watch_newest_sent(&self) -> watch::Receiver<(SegmentSeq, u64)> {
        self.newest_sent.subscribe()
    }

    pub fn set_live(&self, sent: u64, peers: u64) {
        self.sent_live.store(sent, Ordering::Relaxed);
        self.live_peers.store(peers, Ordering::Relaxed);
    }

    pub fn set_key_distance(&self, distance: std::time::Duration) {
        let ms = u64::try_from(distance.as_millis()).unwrap_or(u64::MAX);
        self.key_distance_ms.store(ms, Ordering::Relaxed);
    }

    pub fn set_upload_limit(&self, bytes_per_s: u64) {
        self.upload_limit.store(bytes_per_s, Ordering::Relaxed);
    }

    pub fn set_cutter(&self, counters: Counters) {
        *self.cutter.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    pub fn read(&self) -> Reading {
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Reading {
            received: get(&self.received),
            recorded: get(&self.recorded),
            open: SegmentSeq(get(&self.open)),
            sent_to_peers: get(&self.sent_to_peers),
            sent_over_http: get(&self.sent_over_http),
            sent_live: get(&self.sent_live),
            live_peers: get(&self.live_peers),
            viewers: get(&self.viewers),
            seeding: get(&self.seeding),
            key_distance_ms: get(&self.key_distance_ms),
            upload_limit: get(&self.upload_limit),
            cutter: *self.cutter.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}
