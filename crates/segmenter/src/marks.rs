//! Where in the open segment decoding can start, for its record.

use std::time::Duration;

use minuet_media::Ticks;
use minuet_proto::{
    PieceIndex, PieceLength,
    access::{AccessPoint, AccessPoints},
};

/// Places closer to the one before are not noted: a feed of key frames alone has one for each picture.
const DISTANCE: Duration = Duration::from_millis(250);

/// The places of one segment.
#[derive(Debug)]
pub struct Marks {
    /// Where the segment starts in the stream.
    start: Ticks,
    /// Bytes so far.
    bytes: u64,
    /// Byte, and time since the beginning.
    places: Vec<(u64, Duration)>,
}

impl Marks {
    /// Of a segment that starts at this place in the stream.
    pub fn new(start: Ticks) -> Self {
        Self { start, bytes: 0, places: Vec::new() }
    }

    /// Bytes were added.
    pub fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// The next byte begins a place where decoding can start, there in the stream.
    pub fn mark(&mut self, position: Ticks) {
        let at = Ticks(position.0.saturating_sub(self.start.0)).as_duration();
        if self.places.last().is_none_or(|(_, last)| at >= last.saturating_add(DISTANCE)) {
            self.places.push((self.bytes, at));
        }
    }

    /// As the record names them.
    pub fn points(&self, piece_length: PieceLength) -> AccessPoints {
        AccessPoints::of(self.places.iter().filter_map(|(byte, at)| {
            let piece = PieceIndex(u32::try_from(byte / u64::from(piece_length.get())).ok()?);
            Some(AccessPoint { piece, at_ms: u32::try_from(at.as_millis()).ok()? })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_its_piece_and_its_time_since_the_beginning() {
        let mut marks = Marks::new(Ticks(900_000));
        let piece = PieceLength::MIN.get();
        for second in 0..6u64 {
            marks.mark(Ticks(900_000 + second * 90_000));
            // Too close to the one before.
            marks.mark(Ticks(900_000 + second * 90_000 + 9_000));
            marks.add(piece as usize / 2 * 3);
        }
        let named: Vec<(u32, u32)> =
            marks.points(PieceLength::MIN).iter().map(|p| (p.piece.0, p.at_ms)).collect();
        // The beginning needs no name.
        assert_eq!(named, [(1, 1000), (3, 2000), (4, 3000), (6, 4000), (7, 5000)]);
    }
}
