//! A channel's window: the newest records, in order, as one publisher signed them.
//!
//! Invariant: no two records of a window contradict each other. There is at most one record a number, and
//! where two numbers follow each other, the later record names the hash of the earlier.
//!
//! Pure: what leaves the window is returned to the caller, who drops its swarm.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use minuet_proto::channel_api::EVENT_RECORD;
use minuet_proto::{InfoHash, SegmentSeq, SignedRecord, SignedState, record::ChainError};

/// How many of the newest torrents are asked for by many, and so are worth keeping in memory.
pub const HOT_TORRENTS: usize = 4;

/// How much later than the newest record one has to be sealed so that the records between are given up.
pub const GAP_TAKEN_AFTER: Duration = Duration::from_secs(600);

/// What bounds a window. The oldest records go first.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimits {
    /// By time: how long before the newest a record may have been sealed.
    pub duration: Duration,
    /// By number of records.
    pub records: usize,
    /// By bytes of records and torrents.
    pub bytes: usize,
}

/// Why a signed statement has no place in the window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The number is taken by another record.
    #[error("segment {0} is already published with another record; a number is never signed twice")]
    Equivocation(SegmentSeq),
    /// The neighbours are of another history.
    #[error("segment {0} does not fit its neighbours: one names another record before it than the one known")]
    BrokenChain(SegmentSeq),
    /// Records are missing in between.
    #[error("segment {found} leaves a gap after segment {newest}; publish the ones between first")]
    Gap {
        /// The newest number known.
        newest: SegmentSeq,
        /// The number found.
        found: SegmentSeq,
    },
    /// From before the window.
    #[error("segment {found} is older than this tracker's window, which begins at segment {oldest}")]
    TooOld {
        /// The oldest number known.
        oldest: SegmentSeq,
        /// The number found.
        found: SegmentSeq,
    },
    /// A newer state is known.
    #[error("a newer state of this channel is already published")]
    StaleState,
}

/// Where a record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is there already.
    Known,
    /// It belongs at this index of the window.
    New(usize),
}

/// A record with what is needed to hand it out.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The record.
    pub record: SignedRecord,
    /// The server-sent event that carries it.
    pub event: Bytes,
    /// Bytes of the record and the torrent.
    pub size: usize,
}

impl Entry {
    /// Takes a record whose torrent has so many bytes.
    pub fn new(record: SignedRecord, torrent: usize) -> Self {
        let size = record.encode().len() + torrent;
        let event = format!("event: {EVENT_RECORD}\nid: {}\ndata: {}\n\n", record.seq, record.to_base64());
        Self { event: event.into(), record, size }
    }

    /// The record's base64, as joins carry it.
    pub fn base64(&self) -> &str {
        let text = std::str::from_utf8(&self.event).unwrap_or_default();
        text.rsplit_once(' ').map_or("", |(_, data)| data.trim_end())
    }
}

/// A channel's records and state.
#[derive(Debug, Default)]
pub struct Window {
    entries: VecDeque<Entry>,
    bytes: usize,
    state: Option<SignedState>,
}

impl Window {
    /// The records, oldest first.
    pub fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    /// The newest statement about the channel.
    pub fn state(&self) -> Option<&SignedState> {
        self.state.as_ref()
    }

    /// Whether nothing has been published.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.state.is_none()
    }

    /// The number of the oldest record.
    pub fn oldest(&self) -> Option<SegmentSeq> {
        self.entries.front().map(|entry| entry.record.seq)
    }

    /// The number of the newest record.
    pub fn newest(&self) -> Option<SegmentSeq> {
        self.entries.back().map(|entry| entry.record.seq)
    }

    /// The record of a number.
    pub fn get(&self, seq: SegmentSeq) -> Option<&Entry> {
        self.entries.get(self.find(seq).ok()?)
    }

    /// The index of the first record after `seq`; of the first of all for `None`.
    pub fn first_after(&self, seq: Option<SegmentSeq>) -> usize {
        seq.map_or(0, |seq| self.entries.partition_point(|entry| entry.record.seq <= seq))
    }

    /// The swarm of the record before index `at`, if that one is the one right before it.
    pub fn predecessor(&self, at: usize) -> Option<InfoHash> {
        let before = &self.entries.get(at.checked_sub(1)?)?.record;
        self.entries.get(at)?.record.check_follows(before).is_ok().then_some(before.info_hash)
    }

    /// Where a record belongs.
    ///
    /// Any record may be the first. Later ones name the newest as the one before them, unless the newest is so much
    /// older ([`GAP_TAKEN_AFTER`], by when they were sealed) that the publisher may have lost the ones between.
    /// A record from inside a gap, or from before a window that has room, is taken too, when it fits its
    /// neighbours: so a publisher can fill a tracker that has missed some.
    pub fn place(&self, record: &SignedRecord, limits: &WindowLimits) -> Result<Place, PlaceError> {
        let at = match self.find(record.seq) {
            Ok(at) if self.entries[at].record.hash() == record.hash() => return Ok(Place::Known),
            Ok(_) => return Err(PlaceError::Equivocation(record.seq)),
            Err(at) => at,
        };
        let before = at.checked_sub(1).map(|at| &self.entries[at].record);
        let after = self.entries.get(at).map(|entry| &entry.record);
        match before.map(|before| record.check_follows(before)) {
            Some(Err(ChainError::BrokenLink(_))) => return Err(PlaceError::BrokenChain(record.seq)),
            Some(Err(ChainError::NotNext { newest, found }))
                if after.is_none() && before.is_some_and(|before| !is_gap_taken(before, record)) =>
            {
                return Err(PlaceError::Gap { newest, found });
            }
            _ => {}
        }
        if let Some(after) = after {
            // Where the two neighbours are each other's, the numbers between them were never sealed.
            let no_room = before.is_some_and(|before| after.check_follows(before).is_ok());
            if no_room || matches!(after.check_follows(record), Err(ChainError::BrokenLink(_))) {
                return Err(PlaceError::BrokenChain(record.seq));
            }
            if before.is_none() && self.is_full(record, limits) {
                return Err(PlaceError::TooOld { oldest: after.seq, found: record.seq });
            }
        }
        Ok(Place::New(at))
    }

    /// Puts back a record that an earlier run had accepted. They come in ascending order.
    pub fn restore(&mut self, entry: Entry) {
        // The limits may be lower by now; what is over goes at the next publication.
        let unlimited = WindowLimits { duration: Duration::MAX, records: usize::MAX, bytes: usize::MAX };
        self.insert(self.entries.len(), entry, &unlimited);
    }

    /// Puts a record at the index that [`Window::place`] gave, and returns what leaves the window.
    pub fn insert(&mut self, at: usize, entry: Entry, limits: &WindowLimits) -> Vec<Entry> {
        self.bytes += entry.size;
        self.entries.insert(at, entry);
        let mut gone = Vec::new();
        // The newest record always stays.
        while self.entries.len() > 1 && self.is_over(limits) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.size;
                gone.push(entry);
            }
        }
        gone
    }

    /// Whether `state` is news; `false` when it is the one known.
    pub fn place_state(&self, state: &SignedState) -> Result<bool, PlaceError> {
        match &self.state {
            Some(known) if known == state => Ok(false),
            Some(known) if known.at_ms >= state.at_ms => Err(PlaceError::StaleState),
            _ => Ok(true),
        }
    }

    /// Replaces the state.
    pub fn set_state(&mut self, state: SignedState) {
        self.state = Some(state);
    }

    fn find(&self, seq: SegmentSeq) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&seq, |entry| entry.record.seq)
    }

    fn is_over(&self, limits: &WindowLimits) -> bool {
        let (Some(oldest), Some(newest)) = (self.entries.front(), self.entries.back()) else { return false };
        self.entries.len() > limits.records
            || self.bytes > limits.bytes
            || is_older(&oldest.record, &newest.record, limits)
    }

    /// Whether a record before all others would push itself out again. Its torrent's size is not known here,
    /// so a window within a record of its limit counts as full.
    fn is_full(&self, record: &SignedRecord, limits: &WindowLimits) -> bool {
        self.entries.len() >= limits.records
            || self.bytes >= limits.bytes
            || self.entries.back().is_some_and(|newest| is_older(record, &newest.record, limits))
    }
}

fn is_gap_taken(newest: &SignedRecord, found: &SignedRecord) -> bool {
    u128::from(found.sealed_ms.saturating_sub(newest.sealed_ms)) > GAP_TAKEN_AFTER.as_millis()
}

fn is_older(record: &SignedRecord, newest: &SignedRecord, limits: &WindowLimits) -> bool {
    u128::from(newest.sealed_ms.saturating_sub(record.sealed_ms)) > limits.duration.as_millis()
}

#[cfg(test)]
pub(crate) mod tests {
    use minuet_proto::{ChannelKey, ChannelState, Phase, PieceLength, Record, RecordHash};

    use super::*;

    pub(crate) const LIMITS: WindowLimits =
        WindowLimits { duration: Duration::from_secs(7200), records: 4, bytes: 1 << 20 };

    pub(crate) fn key() -> ChannelKey {
        ChannelKey::from_seed(&[1; 32])
    }

    pub(crate) fn record(seq: u64, prev: Option<RecordHash>) -> SignedRecord {
        let key = key();
        let record = Record {
            channel: key.channel(),
            seq: SegmentSeq(seq),
            prev,
            info_hash: InfoHash::new([seq as u8; 20]),
            length: 1,
            piece_length: PieceLength::MIN,
            duration_ms: 60_000,
            ingest_ms: seq * 60_000,
            sealed_ms: (seq + 1) * 60_000,
            discontinuity: false,
            access: Default::default(),
        };
        SignedRecord::sign(&key, record)
    }

    pub(crate) fn chain(length: u64) -> Vec<SignedRecord> {
        let mut chain: Vec<SignedRecord> = Vec::new();
        for seq in 0..length {
            let prev = chain.last().map(|r| r.hash());
            chain.push(record(seq, prev));
        }
        chain
    }

    fn add(window: &mut Window, record: &SignedRecord) -> Result<Vec<u64>, PlaceError> {
        match window.place(record, &LIMITS)? {
            Place::Known => Ok(vec![]),
            Place::New(at) => {
                let gone = window.insert(at, Entry::new(record.clone(), 1), &LIMITS);
                Ok(gone.iter().map(|entry| entry.record.seq.0).collect())
            }
        }
    }

    fn numbers(window: &Window) -> Vec<u64> {
        window.entries().iter().map(|entry| entry.record.seq.0).collect()
    }

    #[test]
    fn the_oldest_leaves_when_the_window_is_full() {
        let (chain, mut window) = (chain(6), Window::default());
        for record in &chain[..4] {
            assert_eq!(add(&mut window, record), Ok(vec![]));
        }
        assert_eq!(add(&mut window, &chain[4]), Ok(vec![0]));
        assert_eq!(numbers(&window), [1, 2, 3, 4]);
        assert_eq!(
            add(&mut window, &chain[0]),
            Err(PlaceError::TooOld { oldest: SegmentSeq(1), found: SegmentSeq(0) })
        );
    }

    #[test]
    fn bytes_and_time_bound_the_window_too() {
        let chain = chain(3);
        let size = Entry::new(chain[1].clone(), 200).size;
        for limits in [
            WindowLimits { bytes: 2 * size + 100, ..LIMITS },
            WindowLimits { duration: Duration::from_secs(60), ..LIMITS },
        ] {
            let mut window = Window::default();
            let mut gone = 0;
            for record in &chain {
                let Ok(Place::New(at)) = window.place(record, &limits) else { panic!() };
                gone += window.insert(at, Entry::new(record.clone(), 200), &limits).len();
            }
            assert_eq!(gone, 1, "{limits:?}");
        }
    }

    #[test]
    fn a_repeat_is_known_and_another_under_the_same_number_is_refused() {
        let (chain, mut window) = (chain(2), Window::default());
        add(&mut window, &chain[0]).unwrap();
        add(&mut window, &chain[1]).unwrap();
        assert_eq!(window.place(&chain[1], &LIMITS), Ok(Place::Known));
        let other = record(1, Some(RecordHash::new([9; 32])));
        assert_eq!(window.place(&other, &LIMITS), Err(PlaceError::Equivocation(SegmentSeq(1))));
    }

    #[test]
    fn a_broken_link_is_refused_on_either_side() {
        let (chain, mut window) = (chain(3), Window::default());
        add(&mut window, &chain[0]).unwrap();
        let wrong = record(1, Some(RecordHash::new([9; 32])));
        assert_eq!(window.place(&wrong, &LIMITS), Err(PlaceError::BrokenChain(SegmentSeq(1))));
        let mut window = Window::default();
        add(&mut window, &chain[2]).unwrap();
        assert_eq!(window.place(&wrong, &LIMITS), Err(PlaceError::BrokenChain(SegmentSeq(1))));
        assert_eq!(window.place(&chain[1], &LIMITS), Ok(Place::New(0)));
    }

    #[test]
    fn a_gap_is_taken_only_when_it_is_long_and_can_be_filled() {
        let (chain, mut window) = (chain(13), Window::default());
        let limits = WindowLimits { records: 100, ..LIMITS };
        add(&mut window, &chain[0]).unwrap();
        assert_eq!(
            window.place(&chain[10], &limits),
            Err(PlaceError::Gap { newest: SegmentSeq(0), found: SegmentSeq(10) })
        );
        for (record, at) in [(&chain[11], 1), (&chain[12], 2), (&chain[10], 1), (&chain[9], 1)] {
            assert_eq!(window.place(record, &limits), Ok(Place::New(at)));
            window.insert(at, Entry::new(record.clone(), 0), &limits);
        }
        assert_eq!(numbers(&window), [0, 9, 10, 11, 12]);
        assert_eq!(window.predecessor(1), None);
        assert_eq!(window.predecessor(2), Some(chain[9].info_hash));
    }

    #[test]
    fn a_number_that_was_never_sealed_is_no_gap() {
        let (chain, mut window) = (chain(2), Window::default());
        add(&mut window, &chain[0]).unwrap();
        let next = record(2, Some(chain[0].hash()));
        assert_eq!(add(&mut window, &next), Ok(vec![]));
        assert_eq!(window.predecessor(1), Some(chain[0].info_hash));
        assert_eq!(window.place(&chain[1], &LIMITS), Err(PlaceError::BrokenChain(SegmentSeq(1))));
    }

    #[test]
    fn an_older_state_never_replaces_a_newer() {
        let state = |at_ms| {
            let state = ChannelState {
                channel: key().channel(),
                at_ms,
                phase: Phase::Live,
                next: SegmentSeq(0),
                segment_ms: 60_000,
                title: String::new(),
                listed: false,
                origin: None,
            };
            SignedState::sign(&key(), state)
        };
        let mut window = Window::default();
        assert_eq!(window.place_state(&state(5)), Ok(true));
        window.set_state(state(5));
        assert_eq!(window.place_state(&state(5)), Ok(false));
        assert_eq!(window.place_state(&state(4)), Err(PlaceError::StaleState));
        assert_eq!(window.place_state(&state(6)), Ok(true));
    }
}
