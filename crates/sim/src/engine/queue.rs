//! The event queue: a calendar queue (R. Brown, CACM 31(10), 1988) that is emptied a window at a time.
//!
//! Rule: events of one node leave in order of time, and where times are equal in order of who caused them and in
//! which order it did. Nothing else may decide the order at a node, least of all how nodes are spread over threads:
//! that makes a run repeatable.
//!
//! Events wait unsorted in the bucket of their time; those of a window are sorted when it begins, by node first: what
//! happens to one node in a window is handled in one go, while its state is in the cache (see [`super::window`]).

use std::{cmp::Ordering, collections::BTreeMap};

use super::{Micros, NodeId};

/// Width of a bucket: 2^10 µs, about a millisecond.
const BUCKET_SHIFT: u32 = 10;
/// Buckets in the ring: together 0.52 s ahead, which holds everything but slow timers.
const BUCKETS: u64 = 512;

/// What decides the order of events of one node at one time: who caused it, and its how-manieth event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause(u64);

impl Cause {
    /// The `count`th event that `node` causes.
    pub fn new(node: NodeId, count: u32) -> Self {
        Self(u64::from(node.0) << 32 | u64::from(count))
    }
}

/// A pending event.
pub struct Entry<E> {
    /// To whom it happens.
    pub node: NodeId,
    /// When.
    pub at: Micros,
    /// See [`Cause`]; no two events have the same.
    pub cause: Cause,
    /// What.
    pub event: E,
}

impl<E> Entry<E> {
    fn order(&self) -> (NodeId, Micros, Cause) {
        (self.node, self.at, self.cause)
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
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

/// Pending events.
pub struct EventQueue<E> {
    /// Buckets `cursor .. cursor + BUCKETS`, each at its number modulo `BUCKETS`.
    ring: Vec<Vec<Entry<E>>>,
    in_ring: usize,
    /// Everything later than the ring reaches, by bucket.
    far: BTreeMap<u64, Vec<Entry<E>>>,
    /// The first bucket that may hold something.
    cursor: u64,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { ring: (0..BUCKETS).map(|_| Vec::new()).collect(), in_ring: 0, far: BTreeMap::new(), cursor: 0 }
    }
}

impl<E> EventQueue<E> {
    /// Adds an event, which must not be earlier than what [`EventQueue::take_before`] was last given.
    pub fn push(&mut self, entry: Entry<E>) {
        let bucket = entry.at >> BUCKET_SHIFT;
        debug_assert!(bucket >= self.cursor);
        if bucket < self.cursor + BUCKETS {
            self.in_ring += 1;
            self.ring[(bucket % BUCKETS) as usize].push(entry);
        } else {
            self.far.entry(bucket).or_default().push(entry);
        }
    }

    /// A time before which no event is pending, less than a bucket before the first; `None` if there is none at all.
    pub fn earliest(&self) -> Option<Micros> {
        let bucket = if self.in_ring > 0 {
            let in_ring = |bucket: &u64| !self.ring[(bucket % BUCKETS) as usize].is_empty();
            (self.cursor..self.cursor + BUCKETS).find(in_ring)
        } else {
            self.far.first_key_value().map(|(bucket, _)| *bucket)
        };
        bucket.map(|bucket| bucket << BUCKET_SHIFT)
    }

    /// Moves all events before `until` to `out`, in no order.
    pub fn take_before(&mut self, until: Micros, out: &mut Vec<Entry<E>>) {
        while (self.cursor + 1) << BUCKET_SHIFT <= until {
            let bucket = &mut self.ring[(self.cursor % BUCKETS) as usize];
            self.in_ring -= bucket.len();
            out.append(bucket);
            self.cursor += 1;
            if let Some(mut reached) = self.far.remove(&(self.cursor + BUCKETS - 1)) {
                self.in_ring += reached.len();
                self.ring[((self.cursor - 1) % BUCKETS) as usize].append(&mut reached);
            }
        }
        let bucket = &mut self.ring[(self.cursor % BUCKETS) as usize];
        let held = bucket.len();
        out.extend(bucket.extract_if(.., |entry| entry.at < until));
        self.in_ring -= held - bucket.len();
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

    use super::*;

    #[test]
    fn each_event_leaves_in_the_window_of_its_time() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut queue = EventQueue::default();
        let (mut pending, mut now) = (Vec::new(), 0);
        for count in 0..50_000 {
            // Steps of every size, so that ring and far are taken and left again.
            let reach = [1, 50, 5_000, 400_000, 900_000, 30_000_000][rng.random_range(0..6)];
            let at = now + rng.random_range(0..reach);
            let cause = Cause::new(NodeId(0), count);
            queue.push(Entry { node: NodeId(0), at, cause, event: () });
            pending.push(at);
            if rng.random_range(0..10) == 0 {
                now += rng.random_range(0..3_000);
                let mut taken = Vec::new();
                queue.take_before(now, &mut taken);
                let mut taken: Vec<Micros> = taken.iter().map(|entry| entry.at).collect();
                let mut due: Vec<Micros> = pending.extract_if(.., |at| *at < now).collect();
                taken.sort_unstable();
                due.sort_unstable();
                assert_eq!(taken, due);
                let first = pending.iter().min().copied();
                let earliest = queue.earliest();
                assert_eq!(first.is_some(), earliest.is_some());
                assert!(earliest <= first);
                assert!(first.is_none() || earliest.map(|at| at + (1 << BUCKET_SHIFT)) > first);
            }
        }
    }

    #[test]
    fn events_of_a_node_are_in_order_of_time_and_cause() {
        let entry = |node, at, by, count| Entry {
            node: NodeId(node),
            at,
            cause: Cause::new(NodeId(by), count),
            event: (),
        };
        let ordered =
            [entry(1, 9, 4, 1), entry(2, 5, 1, 7), entry(2, 5, 1, 8), entry(2, 5, 3, 0), entry(2, 6, 0, 0)];
        assert!(ordered.is_sorted());
    }
}
