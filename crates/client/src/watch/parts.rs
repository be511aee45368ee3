//! The parts of a recording: which segments there should be, and which of them are not there or not whole.
//!
//! What should be there is told by what lies beside the media: the records and torrents of segments, and the torrent of the
//! whole. All of them are bounded, and none is needed: whatever media is there can be played.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use minuet_proto::{
    Metainfo, SegmentSeq, SignedRecord,
    bencode::{Dict, Value},
    signed::MAX_SIGNED_LENGTH,
    units,
};

/// Segments of a recording at most: a year of minutes.
const MAX_SEGMENTS: usize = 600_000;
/// Longer torrents are not looked into.
const MAX_TORRENT: u64 = 16 << 20;

/// A segment that is there, or should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub number: u64,
    /// So many numbers from there on of which nothing is here at all; 1 otherwise.
    pub count: u64,
    /// Its media.
    pub path: PathBuf,
    /// Its length by the torrent of the whole.
    length: Option<u64>,
}

/// What is wrong with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// It is not there.
    Missing,
    /// So many bytes of so many are there.
    Cut(u64, u64),
}

impl Part {
    /// What is wrong with it, and how much time that costs, where it can be told.
    pub fn lack(&self) -> std::io::Result<Option<(Lack, Option<Duration>)>> {
        let record = record(&self.path, self.number);
        let lasts = record.as_ref().map(|record| Duration::from_millis(record.duration_ms));
        let have = match std::fs::metadata(&self.path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some((Lack::Missing, lasts))),
            Err(error) => return Err(error),
        };
        let length = record.map(|record| record.length).or(self.length).or_else(|| own_length(&self.path));
        Ok(length.filter(|length| have < *length).map(|length| {
            let share = 1.0 - have as f64 / length as f64;
            (Lack::Cut(have, length), lasts.map(|lasts| lasts.mul_f64(share)))
        }))
    }

    /// How long it is by its record.
    pub fn recorded(&self) -> Option<Duration> {
        record(&self.path, self.number).map(|record| Duration::from_millis(record.duration_ms))
    }

    /// Says what is wrong with it.
    pub fn sentence(&self, lack: Lack, lasts: Option<Duration>) -> String {
        let time = lasts.map_or_else(String::new, |lasts| format!(", {:.1} s", lasts.as_secs_f64()));
        let (first, last) = (self.number, self.number.saturating_add(self.count - 1));
        match lack {
            Lack::Missing if self.count > 1 => {
                format!("segments {first} to {last} are missing{time}: left out")
            }
            Lack::Missing => format!("segment {first} is missing{time}: left out"),
            Lack::Cut(have, of) => format!(
                "segment {first} is cut off: {have} of its {of} bytes are there; the rest{time} is left out"
            ),
        }
    }
}

/// What was left out of a recording that was played.
#[derive(Debug, Default)]
pub struct LeftOut {
    segments: u64,
    time: Duration,
    /// Some of it is of unknown length.
    unknown: bool,
}

impl LeftOut {
    /// Counts a part.
    pub fn add(&mut self, part: &Part, lasts: Option<Duration>) {
        self.segments = self.segments.saturating_add(part.count);
        self.time += lasts.unwrap_or_default();
        self.unknown |= lasts.is_none();
    }

    /// An error if anything was.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.segments == 0 {
            return Ok(());
        }
        let be = if self.segments == 1 { "is" } else { "are" };
        let what = format!("{} {be} missing or cut off", units::count(self.segments, "segment", "segments"));
        let time = match (self.unknown, self.time.is_zero()) {
            (false, _) => format!(", {:.1} s in all", self.time.as_secs_f64()),
            (true, false) => format!(", more than {:.1} s in all", self.time.as_secs_f64()),
            (true, true) => String::new(),
        };
        bail!(
            "the recording was not played whole: {what}{time}; fetch it again, or let a BitTorrent client check it by its \
             .torrent"
        )
    }
}

/// The parts of the recording in `folder`, in order.
pub fn parts(folder: &Path) -> anyhow::Result<Vec<Part>> {
    let unreadable = || format!("{} cannot be read", folder.display());
    let mut channel: Option<String> = None;
    let mut found: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let mut media = 0_usize;
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let Some((of, number, extension)) = place(&path) else { continue };
        if channel.get_or_insert_with(|| of.clone()) != &of {
            bail!("{} has segments of several channels: name the folder of one recording", folder.display());
        }
        found.insert(number, None);
        media += usize::from(extension == "ts");
        if found.len() > MAX_SEGMENTS {
            bail!("{} has more than {MAX_SEGMENTS} segments: play a part of them", folder.display());
        }
    }
    let Some(channel) = channel.filter(|_| media > 0) else {
        bail!("{} has no segments: name the folder of a recording, with its .ts files", folder.display());
    };
    let whole = whole(&folder.with_extension("torrent"), &channel);
    let is_told = whole.is_some();
    for (number, length) in whole.into_iter().flatten().take(MAX_SEGMENTS) {
        found.insert(number, Some(length));
    }
    let path = |number: u64| folder.join(format!("{channel}-{number:08}.ts"));
    let part = |number, count, length| Part { number, count, path: path(number), length };
    let mut parts: Vec<Part> = Vec::with_capacity(found.len());
    for (number, length) in found {
        if let Some(before) = parts.last().map(|before| before.number)
            && number - before > 1
            && !is_told
            && is_gap(&path(before), before, &path(number), number)
        {
            parts.push(part(before + 1, number - before - 1, None));
        }
        parts.push(part(number, 1, length));
    }
    Ok(parts)
}

/// Whether segments between two are missing. Numbers of segments that were never sealed are left out, and the record
/// after them names the one before.
fn is_gap(before: &Path, number: u64, after: &Path, next: u64) -> bool {
    let (Some(before), Some(after)) = (record(before, number), record(after, next)) else { return false };
    after.prev.is_some_and(|prev| prev != before.hash())
}

/// Channel, number and extension of a file that belongs to a segment, as in `1f0c44d2-00000042.ts`.
fn place(path: &Path) -> Option<(String, u64, String)> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.rsplit_once('.')?;
    let (channel, number) = stem.split_once('-')?;
    let is_channel = channel.len() == 8 && channel.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = is_channel
        && number.len() >= 8
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(extension, "ts" | "record" | "torrent");
    let number: u64 = number.parse().ok().filter(|_| fits)?;
    (number <= SegmentSeq::MAX.0).then(|| (channel.to_owned(), number, extension.to_owned()))
}

/// The record beside a segment's media.
fn record(media: &Path, number: u64) -> Option<SignedRecord> {
    let bytes = read(&media.with_extension("record"), MAX_SIGNED_LENGTH as u64)?;
    SignedRecord::decode_any(&bytes).ok().filter(|record| record.seq.0 == number)
}

/// A segment's length by its own torrent.
fn own_length(media: &Path) -> Option<u64> {
    let torrent = read(&media.with_extension("torrent"), MAX_TORRENT)?;
    Metainfo::parse(&torrent).ok().map(|torrent| torrent.info().length)
}

/// The segments and their lengths by the torrent of the whole.
fn whole(torrent: &Path, channel: &str) -> Option<Vec<(u64, u64)>> {
    let bytes = read(torrent, MAX_TORRENT)?;
    let torrent = Dict::parse("the recording's torrent", &bytes).ok()?;
    let Some(Value::List(files)) = torrent.dict("info").ok()?.get("files") else { return None };
    let segment = |file: &Value<'_>| {
        let Value::Dict(file) = file else { return None };
        let Some(Value::List(names)) = file.get("path") else { return None };
        let [Value::Bytes(name)] = names.as_slice() else { return None };
        let (of, number, extension) = place(Path::new(std::str::from_utf8(name).ok()?))?;
        let length = file.number("length").ok()?;
        (of == channel && extension == "ts").then_some((number, length))
    };
    Some(files.iter().filter_map(segment).collect())
}

/// A whole file of at most so many bytes.
fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let file = minuet_files::open_named(path).ok()?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= most).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use minuet_proto::{ChannelKey, InfoHash, PieceLength, Record};

    use super::*;

    const LENGTH: u64 = 1000;

    /// A recording of these segments, which last as many seconds as their number says, with their records.
    fn recording(numbers: &[u64]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let key = ChannelKey::from_seed(&[1; 32]);
        let (mut prev, mut media) = (None, Vec::new());
        for &number in numbers {
            let record = Record {
                channel: key.channel(),
                seq: SegmentSeq(number),
                prev,
                info_hash: InfoHash::new([2; 20]),
                length: LENGTH,
                piece_length: PieceLength::MIN,
                duration_ms: number * 1000,
                ingest_ms: 1,
                sealed_ms: 2,
                discontinuity: false,
                access: Default::default(),
            };
            let record = SignedRecord::sign(&key, record);
            let path = dir.path().join(record.file_name());
            std::fs::write(&path, vec![0x47; LENGTH as usize]).unwrap();
            std::fs::write(path.with_extension("record"), record.encode()).unwrap();
            prev = Some(record.hash());
            media.push(path);
        }
        (dir, media)
    }

    /// What is wrong with which segments, and what is said at the end.
    fn found(folder: &Path) -> (Vec<(u64, Lack, Option<u64>)>, String) {
        let (mut lacks, mut left_out) = (Vec::new(), LeftOut::default());
        for part in parts(folder).unwrap() {
            if let Some((lack, lasts)) = part.lack().unwrap() {
                left_out.add(&part, lasts);
                lacks.push((part.number, lack, lasts.map(|lasts| lasts.as_secs())));
            }
        }
        (lacks, left_out.check().err().map_or_else(String::new, |error| error.to_string()))
    }

    #[test]
    fn what_is_missing_or_cut_is_found_with_its_time() {
        // Numbers 3 and 4 were never sealed.
        let (dir, media) = recording(&[1, 2, 5, 6, 7]);
        assert_eq!(found(dir.path()), (vec![], String::new()));
        std::fs::remove_file(&media[1]).unwrap();
        std::fs::write(&media[3], vec![0x47; 500]).unwrap();
        let (lacks, said) = found(dir.path());
        assert_eq!(lacks, [(2, Lack::Missing, Some(2)), (6, Lack::Cut(500, LENGTH), Some(3))]);
        assert!(said.contains("2 segments are missing or cut off, 5.0 s in all"), "{said}");
        // Nothing is left of it, but the record after it names another than the one before.
        std::fs::remove_file(media[1].with_extension("record")).unwrap();
        let (lacks, said) = found(dir.path());
        assert_eq!(lacks[0], (2, Lack::Missing, None));
        assert!(said.contains("more than 3.0 s"), "{said}");
    }

    #[test]
    fn the_torrent_of_the_whole_tells_where_there_are_no_records() {
        let (dir, media) = recording(&[1, 2, 3]);
        let folder = dir.path().join("whole");
        std::fs::create_dir(&folder).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let files: String = media
            .iter()
            .map(|path| format!("d6:lengthi{LENGTH}e4:pathl{}:{}ee", name(path).len(), name(path)))
            .collect();
        std::fs::write(dir.path().join("whole.torrent"), format!("d4:infod5:filesl{files}eee")).unwrap();
        std::fs::copy(&media[0], folder.join(name(&media[0]))).unwrap();
        std::fs::write(folder.join(name(&media[2])), b"cut").unwrap();
        let (lacks, said) = found(&folder);
        assert_eq!(lacks, [(2, Lack::Missing, None), (3, Lack::Cut(3, LENGTH), None)]);
        assert!(said.contains("2 segments are missing or cut off;"), "{said}");
    }

    #[test]
    fn media_alone_can_be_played() {
        let (dir, media) = recording(&[1, 2, 9]);
        for path in &media {
            std::fs::remove_file(path.with_extension("record")).unwrap();
        }
        assert_eq!(found(dir.path()), (vec![], String::new()));
        for path in &media {
            std::fs::remove_file(path).unwrap();
        }
        std::fs::write(media[0].with_extension("torrent"), b"x").unwrap();
        assert!(parts(dir.path()).is_err(), "no media at all");
    }
}
