//! The stream: how many bytes, cut into which pieces and segments, and when each piece closes.
//!
//! Rule: a piece closes when its last byte has come in; the last piece of a segment is as short as the segment's length
//! makes it; each segment starts with a random access point and has one every [`StreamSpec::random_access`], exactly
//! or on average ([`StreamSpec::irregular`]). The rate is constant, or goes up and down within a fixed period
//! ([`Burst`]): an encoder without a rate control spends its bytes on scenes that move.

use minuet_proto::{PieceId, PieceIndex, PieceLength, SegmentSeq};

use crate::engine::{Micros, SECOND};

/// How a stream's rate goes up and down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// The rate at its highest, as a multiple of the mean.
    pub peak: f64,
    /// How long it is at its highest, …
    pub lasts: Micros,
    /// … and from one time to the next. What is left of the period has what is left of the bytes.
    pub period: Micros,
}

/// What is broadcast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamSpec {
    /// Bytes a second, on average.
    pub rate: u64,
    /// How the rate goes up and down, if it does.
    pub burst: Option<Burst>,
    /// Bytes of a piece.
    pub piece_length: u32,
    /// Length of a segment.
    pub segment: Micros,
    /// From one random access point to the next.
    pub random_access: Micros,
    /// Whether that is so on average only: an encoder that puts key frames where scenes change.
    pub irregular: bool,
    /// Length of the stream.
    pub duration: Micros,
    /// The whole stream is there at the start (a file), not as time goes by.
    pub at_once: bool,
}

/// One piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPiece {
    /// Its name.
    pub id: PieceId,
    /// Its length in bytes.
    pub len: u32,
    /// When its last byte comes in, for a live stream.
    pub closes_at: Micros,
    /// Whether a random access point starts in it.
    pub random_access: bool,
    /// Whether it is the last of its segment.
    pub seals: bool,
}

impl StreamSpec {
    /// 8 Mbit/s, 64 KiB pieces, a minute a segment, a random access point every 2 s, five minutes.
    pub fn standard() -> Self {
        Self {
            rate: 1_000_000,
            burst: None,
            piece_length: 64 * 1024,
            segment: 60 * SECOND,
            random_access: 2 * SECOND,
            irregular: false,
            duration: 300 * SECOND,
            at_once: false,
        }
    }

    /// The same stream at `rate` bytes a second, cut into pieces as the segmenter does at that rate.
    pub fn at_rate(self, rate: u64) -> Self {
        Self { rate, piece_length: PieceLength::for_rate(rate).get(), ..self }
    }

    /// Time between two pieces, on average.
    pub fn piece_time(&self) -> Micros {
        u64::from(self.piece_length) * SECOND / self.rate.max(1)
    }

    /// Bytes that have come in `at` so long after a segment's start.
    fn bytes_at(&self, at: Micros) -> u64 {
        let Some(burst) = self.burst else { return at * self.rate / SECOND };
        let mean = self.rate as f64 / SECOND as f64;
        let (high, low) = burst.rates(mean);
        let (periods, rest) = (at / burst.period, at % burst.period);
        let calm = burst.period - burst.lasts;
        let in_period = rest.min(calm) as f64 * low + rest.saturating_sub(calm) as f64 * high;
        (periods as f64 * burst.period as f64 * mean + in_period) as u64
    }

    /// How long after a segment's start so many bytes have come in.
    fn time_of(&self, bytes: u64) -> Micros {
        let Some(burst) = self.burst else { return bytes * SECOND / self.rate };
        let mean = self.rate as f64 / SECOND as f64;
        let (high, low) = burst.rates(mean);
        let a_period = burst.period as f64 * mean;
        let periods = (bytes as f64 / a_period).floor();
        let rest = bytes as f64 - periods * a_period;
        let calm = (burst.period - burst.lasts) as f64;
        let in_period =
            if rest <= calm * low { rest / low.max(1e-9) } else { calm + (rest - calm * low) / high };
        (periods * burst.period as f64 + in_period) as Micros
    }

    /// Times of random access points after a segment's start, of segment `seq`.
    fn random_access_points(self, seq: u64) -> impl Iterator<Item = Micros> {
        (0..).scan(0, move |at, number: u64| {
            let this = *at;
            let share = if self.irregular { draw(seq << 20 | number) } else { 0.5 };
            // From a fifth to nine fifths of the distance.
            *at += (self.random_access as f64 * (0.2 + 1.6 * share)).round().max(1.0) as Micros;
            (this < self.segment).then_some(this)
        })
    }

    /// The pieces of a broadcast that begins with segment `seq` at `start` and ends at `end`.
    pub fn pieces(self, seq: u64, start: Micros, end: Micros) -> impl Iterator<Item = StreamPiece> {
        (seq..)
            .map(SegmentSeq)
            .flat_map(move |segment| {
                let began = start + (segment.0 - seq) * self.segment;
                self.pieces_of(segment, began)
            })
            .take_while(move |piece| piece.closes_at <= end)
    }

    fn pieces_of(self, segment: SegmentSeq, began: Micros) -> impl Iterator<Item = StreamPiece> {
        let in_segment = self.bytes_at(self.segment);
        let count = in_segment.div_ceil(u64::from(self.piece_length));
        let mut points = self.random_access_points(segment.0).map(move |at| self.bytes_at(at)).peekable();
        (0..count).map(move |index| {
            let first = index * u64::from(self.piece_length);
            let last = (first + u64::from(self.piece_length)).min(in_segment);
            let mut random_access = false;
            while points.next_if(|point| *point < last).is_some() {
                random_access = true;
            }
            StreamPiece {
                id: PieceId { segment, piece: PieceIndex(index as u32) },
                len: (last - first) as u32,
                closes_at: began + self.time_of(last),
                random_access,
                seals: index + 1 == count,
            }
        })
    }
}

impl Burst {
    /// Rates at the highest and otherwise, in the unit of `mean`.
    fn rates(&self, mean: f64) -> (f64, f64) {
        let share = self.lasts as f64 / self.period as f64;
        let peak = self.peak.min(1.0 / share);
        (peak * mean, (1.0 - peak * share).max(0.0) / (1.0 - share) * mean)
    }
}

/// A number in 0..1 that follows from `seed` alone (SplitMix64).
fn draw(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_segments_and_close_in_time() {
        let spec = StreamSpec { segment: 10 * SECOND, ..StreamSpec::standard() };
        let pieces: Vec<_> = spec.pieces(7, 0, 30 * SECOND).collect();
        let bytes: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
        assert_eq!(bytes, 30_000_000);
        assert_eq!(pieces.last().map(|piece| piece.closes_at), Some(30 * SECOND));
        assert!(pieces.windows(2).all(|two| two[0].closes_at < two[1].closes_at));
        assert_eq!(pieces.iter().filter(|piece| piece.seals).count(), 3);
        // Five a segment, and each segment's first piece has one.
        assert_eq!(pieces.iter().filter(|piece| piece.random_access).count(), 15);
        assert!(pieces.iter().filter(|piece| piece.id.piece.0 == 0).all(|piece| piece.random_access));
        assert_eq!(pieces[0].id.segment, SegmentSeq(7));
    }

    #[test]
    fn pieces_are_cut_as_the_segmenter_cuts_them_at_any_rate() {
        for (rate, length) in [(6_250, 16), (125_000, 16), (1_000_000, 64), (3_125_000, 128)] {
            let spec = StreamSpec::standard().at_rate(rate);
            assert_eq!(spec.piece_length, PieceLength::for_rate(rate).get());
            assert!(spec.piece_length >= length * 1024 / 16, "{rate}");
        }
    }

    #[test]
    fn a_stream_that_bursts_has_its_bytes_in_its_bursts() {
        let burst = Burst { peak: 3.0, lasts: 2 * SECOND, period: 7 * SECOND };
        let spec = StreamSpec {
            burst: Some(burst),
            segment: 70 * SECOND,
            irregular: true,
            ..StreamSpec::standard()
        };
        let pieces: Vec<_> = spec.pieces(0, 0, 70 * SECOND).collect();
        let bytes = |from, to| -> u64 {
            let within = pieces.iter().filter(|piece| (from..to).contains(&piece.closes_at));
            within.map(|piece| u64::from(piece.len)).sum()
        };
        assert_eq!(bytes(0, 71 * SECOND), 70_000_000);
        let in_burst = bytes(5 * SECOND, 7 * SECOND);
        assert!((5_900_000..=6_100_000).contains(&in_burst), "{in_burst}");
        assert!(pieces.windows(2).all(|two| two[0].closes_at <= two[1].closes_at));
        let points = pieces.iter().filter(|piece| piece.random_access).count();
        assert!((25..=50).contains(&points), "{points}");
    }
}
