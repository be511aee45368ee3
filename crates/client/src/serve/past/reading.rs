//! Reading an entry: its bytes, as they come from the disk or the mesh.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, stream::try_unfold};
use minuet_media::{Cutter, CutterConfig, Event};
use minuet_proto::{PieceId, PieceIndex, SegmentSeq};
use minuet_serve::file::CHUNK;

use super::{
    Past,
    readers::{Place, Seat},
    reel::{Entry, Shape},
};

/// How long is waited for somebody who has a minute.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long for a piece that somebody seems to have.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// How often a waiting request looks.
const LOOK: Duration = Duration::from_millis(200);

/// Why an entry cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// There is none of this name.
    Unknown,
    /// Nobody who can be reached has kept it.
    Nobody,
    /// It did not come in time.
    Late,
    /// All seats are taken.
    Full,
}

impl Lost {
    /// As a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unknown => "There is no such part of what was on air: load the playlist again.\n",
            Self::Nobody => "Nobody who can be reached has kept this moment: choose another one.\n",
            Self::Late => "This moment did not come in time: try again, or choose another one.\n",
            Self::Full => "So many people go back that there is no place left: try again in a minute.\n",
        }
    }
}

/// An entry that is being read.
pub struct Reading {
    past: Arc<Past>,
    ip: IpAddr,
    entry: Entry,
    /// Taken once something is not here.
    seat: Option<Seat>,
    /// The next byte in the minute's file.
    at: u64,
    /// Where the entry ends, once that is known.
    end: Option<u64>,
    /// What comes before the file's bytes: tables.
    tables: Bytes,
    /// How long pieces were waited for.
    waited: Duration,
}

impl Reading {
    /// Begins: finds where decoding can start, so that what cannot be had is known before anything is answered.
    pub async fn begin(past: Arc<Past>, ip: IpAddr, entry: Entry) -> Result<Self, Lost> {
        let mut reading = Self {
            past,
            ip,
            entry,
            seat: None,
            at: entry.from,
            end: None,
            tables: Bytes::new(),
            waited: Duration::ZERO,
        };
        if entry.from > 0 {
            let (at, tables) = reading.find(entry.from).await?;
            (reading.at, reading.tables) = (at, tables);
        } else {
            // Whether it is here at all.
            reading.read(0).await?;
        }
        Ok(reading)
    }

    /// The bytes. Breaks off where something does not come.
    pub fn bytes(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        try_unfold(self, |mut reading| async move {
            match reading.next().await {
                Ok(bytes) if bytes.is_empty() => Ok(None),
                Ok(bytes) => Ok(Some((bytes, reading))),
                Err(lost) => Err(io::Error::other(lost.sentence().trim_end())),
            }
        })
    }

    /// The next bytes; nothing at the entry's end. Whoever does not take them holds a chunk in memory, not the piece.
    async fn next(&mut self) -> Result<Bytes, Lost> {
        if !self.tables.is_empty() {
            return Ok(std::mem::take(&mut self.tables));
        }
        if let (None, Some(to)) = (self.end, self.entry.to)
            && self.at >= to
        {
            self.end = Some(self.find(to).await?.0);
        }
        let limit = self.end.or(self.entry.to).unwrap_or(u64::MAX);
        if self.at >= limit {
            return Ok(Bytes::new());
        }
        let mut bytes = self.read(self.at).await?;
        bytes.truncate(usize::try_from(limit.saturating_sub(self.at)).unwrap_or(usize::MAX));
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(bytes)
    }

    /// Where decoding can start first from a byte of the minute on, and the tables that belong before that. The same
    /// wherever it is asked from: where one entry ends the next one begins.
    async fn find(&mut self, from: u64) -> Result<(u64, Bytes), Lost> {
        let mut cutter = Cutter::new(CutterConfig::new(Duration::from_secs(3600)));
        let mut at = from;
        loop {
            let bytes = self.read(at).await?;
            if bytes.is_empty() {
                return Ok((at, Bytes::new()));
            }
            at = at.saturating_add(bytes.len() as u64);
            let mut rest = &bytes[..];
            loop {
                let tables = match cutter.poll(&mut rest) {
                    Ok(None) => break,
                    Ok(Some(Event::Start(start))) => Bytes::copy_from_slice(start.tables),
                    Ok(Some(_)) => continue,
                    // The source signs what it likes: then it is cut where it stands.
                    Err(_) => return Ok((from, Bytes::new())),
                };
                let counters = cutter.counters();
                let passed = counters.skipped_bytes.saturating_add(counters.garbage_bytes);
                return Ok((from.saturating_add(passed), tables));
            }
        }
    }

    /// Some bytes of the minute from `at` on, a chunk of one piece at most; nothing at the minute's end.
    async fn read(&mut self, at: u64) -> Result<Bytes, Lost> {
        let since = Instant::now();
        let (mut pieces, mut kept) = (self.past.window.subscribe(), self.past.archive.subscribe());
        loop {
            pieces.borrow_and_update();
            kept.borrow_and_update();
            let shape = self.past.reel().shape(self.entry.segment).ok_or(Lost::Unknown)?;
            if shape.length.is_some_and(|length| at >= length) {
                return Ok(Bytes::new());
            }
            let piece_len = u64::from(shape.piece_len.max(1));
            let index =
                at.checked_div(piece_len).and_then(|index| index.try_into().ok()).ok_or(Lost::Unknown)?;
            let offset =
                at.checked_rem(piece_len).and_then(|offset| offset.try_into().ok()).unwrap_or(u32::MAX);
            if let Some(bytes) = self.past.some(self.entry.segment, PieceIndex(index), offset).await {
                self.waited = self.waited.saturating_add(since.elapsed());
                return Ok(bytes);
            }
            self.sit(at, &shape)?;
            if let Err(lost) = self.judge(since.elapsed()) {
                self.seat.iter().for_each(Seat::skipped);
                return Err(lost);
            }
            let _ = tokio::time::timeout(LOOK, async {
                tokio::select! {
                    _ = pieces.changed() => {}
                    _ = kept.changed() => {}
                }
            })
            .await;
        }
    }

    /// Has the mesh fetch from here on.
    fn sit(&mut self, at: u64, shape: &Shape) -> Result<(), Lost> {
        // What is on air comes by itself.
        let Some(place) = shape.place(self.entry.segment, at) else { return Ok(()) };
        match &self.seat {
            None => self.seat = Some(self.past.readers.sit(self.ip, place).map_err(|_| Lost::Full)?),
            Some(seat) if seat.is_lost() => return Err(Lost::Full),
            Some(seat) => seat.move_to(place),
        }
        Ok(())
    }

    /// Whether waiting is of use.
    fn judge(&self, waited: Duration) -> Result<(), Lost> {
        let elsewhere = self.past.archive.elsewhere(self.entry.segment);
        if waited > PATIENCE
            && self.seat.is_some()
            && elsewhere.is_none_or(|elsewhere| elsewhere.holders == 0)
        {
            return Err(Lost::Nobody);
        }
        if waited > LONGEST_WAIT { Err(Lost::Late) } else { Ok(()) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // What comes next will be asked for next.
        let Some(seat) = self.seat.take() else { return };
        let reel = self.past.reel();
        if let Some(plays) =
            reel.shape(self.entry.segment).and_then(|shape| shape.plays(self.entry.from, self.at))
        {
            seat.answered(self.waited, plays);
        }
        let Some(next) = reel.after(&self.entry) else { return };
        let at = if next.segment == self.entry.segment { next.from.max(self.at) } else { 0 };
        let place = reel.shape(next.segment).and_then(|shape| shape.place(next.segment, at));
        drop(reel);
        if let Some(place) = place {
            seat.move_to(place);
        }
    }
}

impl Shape {
    /// How long these bytes of a finished minute play, as if all its bytes played alike.
    fn plays(&self, from: u64, to: u64) -> Option<Duration> {
        let part = to.saturating_sub(from).saturating_mul(self.span_ms).checked_div(self.length?)?;
        Some(Duration::from_millis(part))
    }

    /// The piece in which a byte of a finished minute lies, as the mesh is told of it. The mesh counts a minute in millionths
    /// of its pieces, of which the last is shorter.
    fn place(&self, segment: SegmentSeq, at: u64) -> Option<Place> {
        let piece_len = u64::from(self.piece_len.max(1));
        let pieces = self.length?.div_ceil(piece_len).max(1);
        let piece = at.checked_div(piece_len)?;
        let from = piece.saturating_mul(1_000_000).div_ceil(pieces);
        let from = u32::try_from(from).unwrap_or(1_000_000).min(1_000_000);
        Some(Place { segment, from, span: Duration::from_millis(self.span_ms) })
    }
}

impl Past {
    /// A chunk of a piece, if it is here.
    async fn some(&self, segment: SegmentSeq, piece: PieceIndex, offset: u32) -> Option<Bytes> {
        const MOST: u32 = CHUNK as u32;
        let id = PieceId { segment, piece };
        let is_sealed = self.archive.record(segment).is_some();
        if is_sealed {
            return match self.archive.has(id) {
                true => self.archive.read_some_in_background(id, offset, MOST).await,
                false => None,
            };
        }
        let live = self.window.of_segment(segment);
        let known = live.iter().find(|known| known.piece.id == id && known.held);
        match known {
            Some(known) => self.window.read_some_in_background(&known.piece, offset, MOST).await,
            None => self.archive.read_some_in_background(id, offset, MOST).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As the mesh reads it: nothing before the piece, and the piece itself.
        #[test]
        fn the_mesh_is_told_of_the_piece_that_is_waited_for(
            pieces in 1u64..65_536, power in 14u32..24, last in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(),
        ) {
            let piece_len = 1u32 << power;
            let length = (pieces - 1) * u64::from(piece_len) + last.index(piece_len as usize) as u64 + 1;
            let at = at.index(usize::try_from(length).unwrap()) as u64;
            let shape = Shape { length: Some(length), piece_len, span_ms: 60_000 };
            let place = shape.place(SegmentSeq(1), at).unwrap();
            prop_assert_eq!(pieces * u64::from(place.from) / 1_000_000, at / u64::from(piece_len));
        }
    }
}
