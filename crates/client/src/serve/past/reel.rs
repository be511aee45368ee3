//! The index of what was on air: minutes by number, and in each where it is cut into entries of some seconds, so that one
//! playlist can list hours without a byte of them being here. Pure.
//!
//! Rules:
//! 1. A minute is cut at pieces in which decoding can start: as this gateway has seen them on air, or as the minute's record names
//!    them. Where the record names none, or they are far apart, it is cut evenly: an entry is then said to be as long as its share
//!    of the bytes, and may be a little off.
//! 2. Cuts are places in the minute's file. What an entry holds begins where decoding can start first behind its cut, and ends
//!    where the next entry begins; so entries are the minute's bytes, one after the other.
//! 3. An entry has the same number for as long as the gateway runs: players know entries by it. Minutes are added before the
//!    first and behind the last; one that turns up in between is left out.

mod list;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use minuet_proto::{PieceId, RecordHash, SegmentSeq, SignedRecord};
use minuet_remux::playlist::FEWEST;

pub use list::{Missing, Span};

/// How long an entry is, at least, in milliseconds.
const ENTRY_MS: u64 = 4000;
/// An entry of a minute on air is cut after so long where decoding can start nowhere.
const LONGEST_MS: u64 = 10_000;
/// Where the source got nothing for so long, its clock may not go on.
const SILENCE_MS: u64 = 5000;
/// Numbers of entries begin in the middle: minutes are added on both sides. Some players count in 32 bits.
const FIRST: u64 = 1 << 24;
/// Minutes in the index: two days of them.
const MAX_MINUTES: usize = 2880;
/// Entries of one minute: an hour of the shortest.
const MAX_CUTS: usize = 1024;
/// The longest that a playlist goes back from now if nobody says how far.
const LONGEST_BACK_MS: u64 = 12 * 3_600_000;
/// Places in a minute's file are those of whole packets.
const PACKET: u64 = 188;

/// Some seconds of a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// The minute.
    pub segment: SegmentSeq,
    /// It begins where decoding can start first, from this byte on.
    pub from: u64,
    /// It ends where that is so from this byte on; none: with the minute.
    pub to: Option<u64>,
    /// When it came in, in Unix milliseconds.
    pub start_ms: u64,
    /// How long it is, about.
    pub duration_ms: u64,
    /// It does not go on from the one before.
    pub discontinuity: bool,
}

impl Entry {
    fn end_ms(&self) -> u64 {
        self.start_ms.saturating_add(self.duration_ms)
    }
}

/// What reading a minute needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its length in bytes, once it is finished.
    pub length: Option<u64>,
    /// Of its pieces.
    pub piece_len: u32,
    /// How long it is, as far as is known, in milliseconds.
    pub span_ms: u64,
}

/// A finished minute that has no place in the index yet.
#[derive(Debug, Clone)]
struct Sealed {
    length: u64,
    piece_len: u32,
    ingest_ms: u64,
    sealed_ms: u64,
    duration_ms: u64,
    discontinuity: bool,
    hash: RecordHash,
    prev: Option<RecordHash>,
    /// Where decoding can start, besides the beginning: the byte, and when that came in.
    points: Vec<(u64, u64)>,
}

impl Sealed {
    fn of(record: &SignedRecord) -> Self {
        let piece_len = record.piece_length.get();
        let points = record.access.iter().map(|point| {
            let at = u64::from(point.piece.0).saturating_mul(piece_len.into()).next_multiple_of(PACKET);
            (at, record.ingest_ms.saturating_add(point.at_ms.into()))
        });
        Self {
            length: record.length,
            piece_len,
            ingest_ms: record.ingest_ms,
            sealed_ms: record.sealed_ms,
            duration_ms: record.duration_ms.max(1),
            discontinuity: record.discontinuity,
            hash: record.hash(),
            prev: record.prev,
            points: points.filter(|(at, _)| *at < record.length).collect(),
        }
    }

    /// Cuts what lies before byte `end`, which came in at `end_ms`.
    fn cuts(&self, end: u64, end_ms: u64) -> Vec<(u64, u64)> {
        let start_ms = self.ingest_ms.min(end_ms);
        let mut cuts = vec![(0, start_ms)];
        let mut last_ms = start_ms;
        for (at, ms) in self.points.iter().copied().filter(|(at, ms)| *at < end && *ms < end_ms) {
            // The last is no shorter, either.
            if ms.saturating_sub(last_ms) >= ENTRY_MS
                && end_ms.saturating_sub(ms) >= ENTRY_MS
                && cuts.len() < MAX_CUTS
            {
                cuts.push((at, ms));
                last_ms = ms;
            }
        }
        let begins = cuts.iter().map(|(_, ms)| *ms);
        let is_far = |(from, to): (u64, u64)| to.saturating_sub(from) > LONGEST_MS;
        match begins.clone().zip(begins.skip(1).chain([end_ms])).any(is_far) {
            true => even(0, end, start_ms, end_ms),
            false => cuts,
        }
    }
}

#[derive(Debug, Clone)]
struct Minute {
    segment: SegmentSeq,
    /// The number of its first entry.
    first: u64,
    /// Where entries begin: the byte, and when that came in.
    cuts: Vec<(u64, u64)>,
    /// When it was over; none while it is on air.
    end_ms: Option<u64>,
    length: Option<u64>,
    piece_len: u32,
    discontinuity: bool,
    /// Of its record, and of the one before it.
    hash: Option<RecordHash>,
    prev: Option<RecordHash>,
    /// Its beginning is not in the index: it was on air before anything was seen of it.
    headless: bool,
    /// Entries that were on air before anything was seen of it: nobody can be asked for them before it is finished.
    unseen: usize,
}

impl Minute {
    /// A finished one whose first entry has this number.
    fn finished(segment: SegmentSeq, sealed: &Sealed, first: u64) -> Self {
        let end_ms = sealed.ingest_ms.saturating_add(sealed.duration_ms);
        Self {
            segment,
            first,
            cuts: sealed.cuts(sealed.length, end_ms),
            end_ms: Some(end_ms),
            length: Some(sealed.length),
            piece_len: sealed.piece_len,
            discontinuity: sealed.discontinuity,
            hash: Some(sealed.hash),
            prev: sealed.prev,
            headless: false,
            unseen: 0,
        }
    }

    fn entries(&self) -> usize {
        // What is open is not listed.
        self.cuts.len().saturating_sub(self.end_ms.is_none().into())
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        let (from, start_ms) = *self.cuts.get(index)?;
        let next = self.cuts.get(index.saturating_add(1)).copied();
        let end_ms = next.map(|(_, ms)| ms).or(self.end_ms)?;
        let before_ms = index.checked_sub(1).map(|before| self.cuts[before].1);
        let silent =
            before_ms.is_some_and(|before| start_ms.saturating_sub(before) > LONGEST_MS + SILENCE_MS);
        Some(Entry {
            number: self.first.saturating_add(index as u64),
            segment: self.segment,
            from,
            to: next.map(|(from, _)| from),
            start_ms,
            duration_ms: end_ms.saturating_sub(start_ms).clamp(1, LONGEST_MS),
            discontinuity: silent || index == 0 && self.discontinuity,
        })
    }

    fn start_ms(&self) -> u64 {
        self.cuts.first().map_or(0, |(_, ms)| *ms)
    }
}

/// The index; see the module.
#[derive(Debug, Default)]
pub struct Reel {
    minutes: VecDeque<Minute>,
    /// Finished minutes that are not reached yet from what is in the index.
    loose: BTreeMap<SegmentSeq, Sealed>,
    /// The oldest that anybody keeps, as far as is known.
    held_from: Option<SegmentSeq>,
    /// It is known what anybody keeps.
    told: bool,
    ended: bool,
}

/// The first whole packet at a place or behind it.
fn packet_at(place: u64) -> u64 {
    place.checked_next_multiple_of(PACKET).unwrap_or(place)
}

/// Cuts `length` bytes from `from` on, which took from `start_ms` to `end_ms`, evenly.
fn even(from: u64, length: u64, start_ms: u64, end_ms: u64) -> Vec<(u64, u64)> {
    let span_ms = end_ms.saturating_sub(start_ms);
    // Never longer than said; so many fit that are not shorter.
    let count = (span_ms / ENTRY_MS).clamp(1, MAX_CUTS as u64).min((length / PACKET).max(1));
    let share = |of: u64, index: u64| {
        // Below the count, so it fits.
        u128::from(of).saturating_mul(index.into()).checked_div(count.into()).unwrap_or(0) as u64
    };
    (0..count)
        .map(|index| {
            let at = from.saturating_add(share(length, index));
            (packet_at(at), start_ms.saturating_add(share(span_ms, index)))
        })
        .collect()
}

impl Reel {
    /// A piece was on air: which one of which minute, when it came in, how long it is (a minute's last is shorter), and
    /// whether decoding can start in it.
    pub fn live(&mut self, id: PieceId, ms: u64, len: u32, entry: bool) {
        let segment = id.segment;
        let known =
            self.minutes.back().filter(|last| last.segment == segment).map_or(0, |last| last.piece_len);
        let piece_len = known.max(len);
        let at = packet_at(u64::from(id.piece.0).saturating_mul(piece_len.into()));
        match self.minutes.back_mut() {
            Some(last) if last.segment == segment && last.end_ms.is_none() => {
                last.piece_len = piece_len;
                let Some(&(before, begun_ms)) = last.cuts.last() else { return };
                let long = ms.saturating_sub(begun_ms);
                let due = entry && long >= ENTRY_MS || long > LONGEST_MS;
                if due && at > before && last.cuts.len() < MAX_CUTS {
                    last.cuts.push((at, ms));
                }
            }
            Some(last) if last.segment >= segment => {}
            _ => self.open(segment, at, ms, piece_len),
        }
    }

    /// The next minute is on air.
    fn open(&mut self, segment: SegmentSeq, at: u64, ms: u64, piece_len: u32) {
        if let Some(last) = self.minutes.back_mut() {
            // A minute is over when the next one begins.
            let end_ms = ms.max(last.start_ms().saturating_add(1));
            last.end_ms.get_or_insert(end_ms);
        }
        // Of this one, too, if it is finished already: then nothing of it needs to be seen.
        self.append(segment.next());
        if self.minutes.back().is_some_and(|last| last.segment >= segment) {
            return;
        }
        let before = self.minutes.back();
        let first = before.map_or(FIRST, |before| before.first.saturating_add(before.cuts.len() as u64));
        let silent = before.is_some_and(|before| {
            let (_, begun_ms) = before.cuts.last().copied().unwrap_or_default();
            ms.saturating_sub(begun_ms) > LONGEST_MS + SILENCE_MS
        });
        let follows = before.is_none_or(|before| before.segment.next() == segment && at == 0);
        let minute = match self.loose.remove(&segment) {
            // Its record came before its last pieces.
            Some(sealed) => {
                let minute = Minute::finished(segment, &sealed, first);
                let discontinuity = minute.discontinuity || before.is_some() && (!follows || silent);
                Minute { discontinuity, ..minute }
            }
            None => Minute {
                segment,
                first,
                cuts: vec![(at, ms)],
                end_ms: None,
                length: None,
                piece_len,
                discontinuity: !follows || silent,
                hash: None,
                prev: None,
                headless: at > 0,
                unseen: 0,
            },
        };
        self.minutes.push_back(minute);
        self.grow();
        self.shed();
    }

    /// A minute's record is known.
    pub fn record(&mut self, record: &SignedRecord) {
        let sealed = Sealed::of(record);
        let known = self.minutes.iter_mut().rev().find(|minute| minute.segment == record.seq);
        if let Some(minute) = known {
            minute.length = Some(sealed.length);
            (minute.hash, minute.prev) = (Some(sealed.hash), sealed.prev);
            minute.piece_len = sealed.piece_len;
            minute.discontinuity |= sealed.discontinuity;
            // Nothing behind its end is in it.
            let kept = minute.cuts.partition_point(|(from, _)| *from < sealed.length).max(1);
            if minute.end_ms.is_none() {
                minute.cuts.truncate(kept);
                minute.end_ms = Some(sealed.sealed_ms.max(minute.start_ms().saturating_add(1)));
            }
            if minute.headless && self.minutes.front().is_some_and(|first| first.segment == record.seq) {
                self.behead(|seen, seen_ms| sealed.cuts(seen, seen_ms), false);
            }
        } else {
            self.loose.insert(record.seq, sealed);
            while self.loose.len() > MAX_MINUTES {
                self.loose.pop_first();
            }
        }
        if self.ended {
            self.append(SegmentSeq(u64::MAX));
        }
        self.grow();
        self.shed();
    }

    /// Gives the first minute the entries before the first that was seen: `cut` cuts what lies before a byte, which came in then.
    fn behead(&mut self, cut: impl FnOnce(u64, u64) -> Vec<(u64, u64)>, discontinuity: bool) {
        let Some(minute) = self.minutes.front_mut() else { return };
        let (seen, seen_ms) = minute.cuts[0];
        let mut cuts = cut(seen, seen_ms);
        let Some(first) = minute.first.checked_sub(cuts.len() as u64) else { return };
        minute.first = first;
        minute.unseen = cuts.len();
        cuts.append(&mut minute.cuts);
        minute.cuts = cuts;
        minute.discontinuity = discontinuity;
        minute.headless = false;
    }

    /// Adds finished minutes before the first, each once all behind it are there.
    fn grow(&mut self) {
        while let Some(first) = self.minutes.front() {
            let (number, prev) = (first.segment, first.prev);
            let Some((&segment, sealed)) = self.loose.range(..number).next_back() else { break };
            let adjoins = segment.next() == number || prev == Some(sealed.hash);
            if !adjoins {
                break;
            }
            if first.headless {
                let (end_ms, gap) = (sealed.sealed_ms, segment.next() != number);
                self.behead(|seen, seen_ms| even(0, seen, end_ms.min(seen_ms), seen_ms), gap);
            }
            let Some(sealed) = self.loose.remove(&segment) else { break };
            let mut minute = Minute::finished(segment, &sealed, 0);
            let before = self.minutes.front().map_or(FIRST, |first| first.first);
            let Some(number) = before.checked_sub(minute.cuts.len() as u64) else { break };
            minute.first = number;
            if self.minutes.len() >= MAX_MINUTES {
                break;
            }
            self.minutes.push_front(minute);
        }
    }

    /// Adds finished minutes before `end` that were not seen on air, behind the last.
    fn append(&mut self, end: SegmentSeq) {
        if self.minutes.is_empty() {
            // Where something is on air that is the first; else the newest finished one is.
            let newest = if self.ended { self.loose.pop_last() } else { None };
            let Some((segment, sealed)) = newest else { return };
            self.minutes.push_back(Minute::finished(segment, &sealed, FIRST));
        }
        while let Some(last) = self.minutes.back().filter(|last| last.end_ms.is_some()) {
            let (number, first) = (last.segment, last.first.saturating_add(last.cuts.len() as u64));
            let Some((&segment, sealed)) = self.loose.range(number.next()..end).next() else { break };
            let adjoins = number.next() == segment || last.hash.is_some() && sealed.prev == last.hash;
            if !adjoins {
                break;
            }
            let minute = Minute::finished(segment, sealed, first);
            self.loose.remove(&segment);
            self.minutes.push_back(minute);
        }
    }

    /// The oldest give way.
    fn shed(&mut self) {
        while self.minutes.len() > MAX_MINUTES {
            self.minutes.pop_front();
        }
        if let (Some(first), Some(last)) = (self.minutes.front(), self.minutes.back()) {
            // What lies between known minutes finds no place any more.
            let between = first.segment..=last.segment;
            self.loose.retain(|segment, _| !between.contains(segment));
        }
    }

    /// The broadcast is over, and nothing more comes in; or it goes on after all.
    pub fn set_ended(&mut self, ended: bool) {
        if std::mem::replace(&mut self.ended, ended) || !ended {
            return;
        }
        self.append(SegmentSeq(u64::MAX));
        self.grow();
        if let Some(last) = self.minutes.back_mut().filter(|last| last.end_ms.is_none()) {
            // Its record has not come, so it cannot be read to its end.
            last.end_ms = Some(last.cuts.last().map_or(1, |(_, ms)| ms.saturating_add(1)));
        }
    }

    /// The oldest minute that anybody keeps, as far as is known.
    pub fn hold_from(&mut self, segment: Option<SegmentSeq>) {
        (self.held_from, self.told) = (segment, true);
    }

    /// Whether players can begin.
    pub fn has_some(&self) -> bool {
        let known = self.entries().count();
        known >= FEWEST || self.ended && known > 0
    }

    /// The oldest minute in the index.
    pub fn oldest(&self) -> Option<SegmentSeq> {
        self.minutes.front().map(|minute| minute.segment)
    }

    /// When the oldest came in that can be had, in Unix milliseconds.
    pub fn oldest_ms(&self) -> Option<u64> {
        let first = self.held().next()?;
        first.cuts.get(Self::hidden(first)).map(|(_, ms)| *ms)
    }

    /// What is said of a minute.
    pub fn shape(&self, segment: SegmentSeq) -> Option<Shape> {
        let minute = self.minute(segment)?;
        let end_ms = minute.end_ms.or(minute.cuts.last().map(|(_, ms)| *ms)).unwrap_or(0);
        let span_ms = end_ms.saturating_sub(minute.start_ms()).max(1);
        Some(Shape { length: minute.length, piece_len: minute.piece_len, span_ms })
    }

    /// The entry of a minute that begins at this byte.
    pub fn entry(&self, segment: SegmentSeq, from: u64) -> Option<Entry> {
        let minute = self.minute(segment)?;
        let index = minute.cuts.binary_search_by_key(&from, |(from, _)| *from).ok()?;
        minute.entry(index)
    }

    /// The entry behind one.
    pub fn after(&self, entry: &Entry) -> Option<Entry> {
        match entry.to {
            Some(to) => self.entry(entry.segment, to),
            None => {
                let index = self.minutes.partition_point(|minute| minute.segment <= entry.segment);
                self.minutes.get(index)?.entry(0)
            }
        }
    }

    fn minute(&self, segment: SegmentSeq) -> Option<&Minute> {
        let index = self.minutes.binary_search_by_key(&segment, |minute| minute.segment).ok()?;
        self.minutes.get(index)
    }

    /// Entries that can be had, one after the other.
    fn entries(&self) -> impl Iterator<Item = Entry> {
        let hidden = self.held().next().map_or(0, Self::hidden);
        self.held()
            .flat_map(|minute| (0..minute.entries()).filter_map(|index| minute.entry(index)))
            .skip(hidden)
    }

    /// When the newest entry ends that is listed, in Unix milliseconds.
    fn listed_until_ms(&self) -> Option<u64> {
        // One that is on air may have none.
        let entries = |minute: &Minute| minute.entries().checked_sub(1).and_then(|last| minute.entry(last));
        self.held().rev().take(2).find_map(entries).map(|entry| entry.end_ms())
    }

    /// Entries at the beginning of the first minute that cannot be had.
    fn hidden(first: &Minute) -> usize {
        if first.length.is_none() { first.unseen } else { 0 }
    }

    fn held(&self) -> impl DoubleEndedIterator<Item = &Minute> {
        let from = self.held_from.unwrap_or(SegmentSeq(u64::MAX));
        // What was seen on air is here.
        let told = self.told;
        self.minutes.iter().filter(move |minute| told && (minute.segment >= from || minute.end_ms.is_none()))
    }

    /// The first moment that is listed where nobody says how far back, in Unix milliseconds.
    pub fn usual_start_ms(&self) -> Option<u64> {
        let newest = self.minutes.back()?.cuts.last()?.1;
        self.oldest_ms().map(|oldest| oldest.max(newest.saturating_sub(LONGEST_BACK_MS)))
    }

    /// For players that know times by what is listed alone: from when on they list it, in Unix milliseconds, and how long
    /// what is listed is.
    pub fn whole(&self) -> Option<(u64, Duration)> {
        let from_ms = self.usual_start_ms()?;
        let listed = self.entries().skip_while(|entry| entry.end_ms() <= from_ms);
        Some((
            from_ms,
            Duration::from_millis(listed.map(|entry| entry.duration_ms).fold(0, u64::saturating_add)),
        ))
    }

    /// When a minute came in, in Unix milliseconds; the next one's where there is none of this number.
    pub fn start_of(&self, segment: SegmentSeq) -> Option<u64> {
        let index = self.minutes.partition_point(|minute| minute.segment < segment);
        self.minutes.get(index).map(Minute::start_ms)
    }

    /// The rate of the newest finished minutes, in bits a second.
    pub fn rate(&self) -> Option<u64> {
        let finished = self.minutes.iter().rev().filter_map(|minute| {
            let span_ms = minute.end_ms?.saturating_sub(minute.start_ms()).max(1);
            minute.length?.saturating_mul(8000).checked_div(span_ms)
        });
        finished.take(10).max()
    }
}

#[cfg(test)]
mod tests;
