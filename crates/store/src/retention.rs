//! Which segments have had their day.

use std::time::Duration;

use minuet_proto::SegmentSeq;

/// How much to keep. The newest segment is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So much media time before the live edge.
    pub duration: Duration,
    /// So many bytes of media.
    pub bytes: u64,
}

/// A segment that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which one.
    pub seq: SegmentSeq,
    /// Its media's length in bytes.
    pub length: u64,
    /// Its media's duration in milliseconds.
    pub duration_ms: u64,
}

impl Retention {
    /// How many of the oldest of `held`, which is in ascending order, are to go.
    pub fn surplus(&self, held: &[Held]) -> usize {
        let keep_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        let (mut bytes, mut newer_ms, mut kept) = (0_u64, 0_u64, 0_usize);
        for segment in held.iter().rev() {
            bytes = bytes.saturating_add(segment.length);
            // A segment stays while its end is within the window.
            if kept > 0 && (newer_ms >= keep_ms || bytes > self.bytes) {
                break;
            }
            newer_ms = newer_ms.saturating_add(segment.duration_ms);
            kept = kept.saturating_add(1);
        }
        held.len().saturating_sub(kept)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(lengths: &[(u64, u64)]) -> Vec<Held> {
        let numbered = lengths.iter().zip(0..);
        numbered.map(|(&(length, duration_ms), n)| Held { seq: SegmentSeq(n), length, duration_ms }).collect()
    }

    #[test]
    fn two_minutes_are_two_segments_of_a_minute() {
        let keep = Retention { duration: Duration::from_secs(120), bytes: u64::MAX };
        assert_eq!(keep.surplus(&held(&[(1, 60_000); 5])), 3);
        assert_eq!(keep.surplus(&held(&[(1, 60_000); 2])), 0);
        assert_eq!(keep.surplus(&[]), 0);
    }

    #[test]
    fn bytes_bound_too() {
        let keep = Retention { duration: Duration::MAX, bytes: 25 };
        assert_eq!(keep.surplus(&held(&[(10, 1); 5])), 3);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_within_bounds_but_for_the_newest(
            lengths in prop::collection::vec((0u64..100, 0u64..100), 0..30),
            ms in 0u64..500,
            bytes in 0u64..500,
        ) {
            let held = held(&lengths);
            let keep = Retention { duration: Duration::from_millis(ms), bytes };
            let kept = &held[keep.surplus(&held)..];
            prop_assert_eq!(kept.is_empty(), held.is_empty());
            if kept.len() > 1 {
                prop_assert!(kept.iter().map(|s| s.length).sum::<u64>() <= bytes);
                prop_assert!(kept[1..].iter().map(|s| s.duration_ms).sum::<u64>() < ms);
            }
            if let Some(dropped) = keep.surplus(&held).checked_sub(1) {
                let with_one_more = &held[dropped..];
                let too_long = with_one_more[1..].iter().map(|s| s.duration_ms).sum::<u64>() >= ms;
                prop_assert!(too_long || with_one_more.iter().map(|s| s.length).sum::<u64>() > bytes);
            }
        }
    }
}
