//! The event queue: a calendar queue (R. Brown, CACM 31(10), 1988) with an overflow heap.
//!
//! Rule: events leave in order of time, and of insertion where times are equal; that order is the
//! only thing that makes a run repeatable, so nothing else may decide it.
//!
//! A binary heap of all pending events would cost a cache miss a level with 10,000 nodes. Here an
//! event waits unsorted in the bucket of its time; only the bucket that is due is a heap, small
//! enough for the first-level cache.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::Micros;

/// Width of a bucket: 2^7 = 128 µs.
const BUCKET_SHIFT: u32 = 7;
/// Buckets in the ring: together 0.52 s ahead, which holds everything but slow timers.
const BUCKETS: u64 = 4096;

struct Entry<E> {
    at: Micros,
    seq: u64,
    event: E,
}

impl<E> Ord for Entry<E> {
    // Reversed: `BinaryHeap` pops its greatest, and the earliest must leave first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

/// Pending events in order of time.
pub struct EventQueue<E> {
    /// Everything in buckets up to and including `cursor`.
    near: BinaryHeap<Entry<E>>,
    /// Buckets `cursor + 1 .. cursor + BUCKETS`, each at its number modulo `BUCKETS`.
    ring: Vec<Vec<Entry<E>>>,
    in_ring: usize,
    /// Everything later than the ring reaches.
    far: BinaryHeap<Entry<E>>,
    cursor: u64,
    seq: u64,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self {
            near: BinaryHeap::new(),
            ring: (0..BUCKETS).map(|_| Vec::new()).collect(),
            in_ring: 0,
            far: BinaryHeap::new(),
            cursor: 0,
            seq: 0,
        }
    }
}

impl<E> EventQueue<E> {
    /// Adds an event. One that is earlier than the last that left comes next.
    pub fn push(&mut self, at: Micros, event: E) {
        self.seq += 1;
        self.place(Entry { at, seq: self.seq, event });
    }

    /// The earliest event and its time.
    pub fn pop(&mut self) -> Option<(Micros, E)> {
        while self.near.is_empty() {
            self.advance()?;
        }
        self.near.pop().map(|entry| (entry.at, entry.event))
    }

    /// How many events are pending.
    pub fn len(&self) -> usize {
        self.near.len() + self.in_ring + self.far.len()
    }

    /// Whether no event is pending.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&mut self, entry: Entry<E>) {
        let bucket = entry.at >> BUCKET_SHIFT;
        if bucket <= self.cursor {
            self.near.push(entry);
        } else if bucket < self.cursor + BUCKETS {
            self.ring[(bucket % BUCKETS) as usize].push(entry);
            self.in_ring += 1;
        } else {
            self.far.push(entry);
        }
    }

    /// Moves the cursor to the next bucket that may hold something; `None` when all is empty.
    fn advance(&mut self) -> Option<()> {
        if self.in_ring == 0 {
            self.cursor = self.far.peek()?.at >> BUCKET_SHIFT;
        } else {
            self.cursor += 1;
        }
        while self.far.peek().is_some_and(|entry| entry.at >> BUCKET_SHIFT < self.cursor + BUCKETS) {
            let entry = self.far.pop()?;
            self.place(entry);
        }
        let bucket = &mut self.ring[(self.cursor % BUCKETS) as usize];
        if !bucket.is_empty() {
            self.in_ring -= bucket.len();
            // The emptied heap's storage goes back to the ring: no allocation in the steady state.
            self.near.extend(bucket.drain(..));
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

    use super::*;

    #[test]
    fn equal_times_leave_in_order_of_insertion_and_times_in_order() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut queue = EventQueue::default();
        let mut now = 0;
        let mut last = (0, 0);
        let mut pending = 0usize;
        for number in 0..200_000u64 {
            // Steps of every size, so that near, ring and far are all taken and left again.
            let reach = [1, 50, 5_000, 400_000, 900_000, 30_000_000][rng.random_range(0..6)];
            queue.push(now + rng.random_range(0..reach), number);
            pending += 1;
            if rng.random_range(0..10) < 4 {
                let (at, _) = queue.pop().expect("just pushed");
                assert!(at >= now);
                now = at;
                pending -= 1;
            }
            assert_eq!(queue.len(), pending);
        }
        while let Some((at, number)) = queue.pop() {
            assert!(at > last.0 || (at == last.0 && number > last.1), "{at} {number} after {last:?}");
            last = (at, number);
        }
        assert!(queue.is_empty());
    }
}
