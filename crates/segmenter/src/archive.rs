//! Recordings: the sealed segments kept beyond `--keep`, and one torrent of the whole broadcast when it ends.
//!
//! Each run of the segmenter that records has a folder of its own, named after the channel and the first segment, with
//! the segments, their torrents and their records. The torrent beside it has many files (BEP 3); where all segments
//! have pieces of one length, padding files (BEP 47) put each segment at the start of a piece, so that its pieces are
//! the very ones that were swarmed live, but for its last. The padding lies in the folder too (as holes), so that a
//! client that knows nothing of it can seed.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use minuet_proto::{
    Metainfo, PieceHash, PieceLength, SegmentSeq, SignedRecord, bencode::DictWriter,
    record::segment_file_name,
};
use minuet_store::Store;

/// A recording of more pieces has no torrent of the whole: clients refuse `.torrent` files of such a size.
const MAX_PIECES: u64 = 400_000;
/// The folder of padding files in a recording (BEP 47).
const PADDING: &str = ".pad";

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Error {
    path: PathBuf,
    reason: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |reason| Error { path, reason }
}

/// Where recordings go.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    announce: Vec<String>,
    /// The folder of this run, once there is a segment.
    folder: Option<PathBuf>,
    /// The segments in it.
    kept: Vec<SignedRecord>,
}

impl Archive {
    /// An archive below `dir`, which is made when missing.
    pub fn open(dir: &Path, announce: Vec<String>) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        Ok(Self { dir: dir.to_owned(), announce, folder: None, kept: Vec::new() })
    }

    /// Keeps a segment that is durable in the store.
    pub fn keep(&mut self, store: &Store, record: &SignedRecord) -> Result<(), Error> {
        let media = store.media_path(record.seq);
        let name = segment_file_name(&record.channel, record.seq);
        let folder = match &self.folder {
            Some(folder) => folder,
            None => {
                let folder = self.dir.join(name.trim_end_matches(".ts"));
                fs::create_dir_all(&folder).map_err(at(&folder))?;
                self.folder.insert(folder)
            }
        };
        let target = folder.join(&name);
        for extension in ["torrent", "record", "ts"] {
            let (from, to) = (media.with_extension(extension), target.with_extension(extension));
            link_or_copy(&from, &to).map_err(at(&to))?;
        }
        self.kept.push(record.clone());
        Ok(())
    }

    /// Writes the torrent of the whole; `None` when there is nothing, or too much, to write.
    pub fn finish(&self) -> Result<Option<PathBuf>, Error> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(info) = self.info(folder, &name)? else { return Ok(None) };
        let mut torrent = DictWriter::new();
        if let Some(first) = self.announce.first() {
            torrent = torrent.bytes("announce", first);
            let tiers = self.announce.iter().flat_map(|url| format!("l{}:{url}e", url.len()).into_bytes());
            let tiers: Vec<u8> = [b'l'].into_iter().chain(tiers).chain([b'e']).collect();
            torrent = torrent.raw("announce-list", &tiers);
        }
        let path = self.dir.join(format!("{name}.torrent"));
        let torrent = torrent.raw("info", &info).finish();
        by_way_of(&path, |part| fs::write(part, &torrent)).map_err(at(&path))?;
        Ok(Some(path))
    }

    fn info(&self, folder: &Path, name: &str) -> Result<Option<Bytes>, Error> {
        let Some(piece_length) = self.kept.iter().map(|record| record.piece_length).max_by_key(|it| it.get())
        else {
            return Ok(None);
        };
        let size = u64::from(piece_length.get());
        let count: u64 = self.kept.iter().map(|record| record.length.div_ceil(size)).sum();
        if count > MAX_PIECES {
            return Ok(None);
        }
        let (mut files, mut pieces) = (vec![b'l'], Vec::new());
        for (index, record) in self.kept.iter().enumerate() {
            let name = segment_file_name(&record.channel, record.seq);
            let padding = match index + 1 == self.kept.len() {
                true => 0,
                false => record.length.next_multiple_of(size) - record.length,
            };
            hash(&folder.join(&name), record, piece_length, padding, &mut pieces)?;
            files.extend(DictWriter::new().number("length", record.length).list("path", [&name]).finish());
            if padding > 0 {
                let pad = folder.join(PADDING).join(padding.to_string());
                write_padding(&pad, padding).map_err(at(&pad))?;
                let entry = DictWriter::new().bytes("attr", "p").number("length", padding);
                files.extend(entry.list("path", [PADDING.to_owned(), padding.to_string()]).finish());
            }
        }
        files.push(b'e');
        let pieces: Vec<u8> = pieces.iter().flat_map(|piece| *piece.as_bytes()).collect();
        let info = DictWriter::new().raw("files", &files).bytes("name", name);
        Ok(Some(info.number("piece length", piece_length.get()).bytes("pieces", pieces).finish()))
    }
}

/// Appends the hashes of a segment's pieces, the last of them filled up with `padding` zeros: those of its own torrent
/// where they fit.
fn hash(
    media: &Path,
    record: &SignedRecord,
    piece_length: PieceLength,
    padding: u64,
    pieces: &mut Vec<PieceHash>,
) -> Result<(), Error> {
    let size = piece_length.get() as usize;
    let mut known = Vec::new();
    if record.piece_length == piece_length {
        let torrent = media.with_extension("torrent");
        let bytes = fs::read(&torrent).map_err(at(&torrent))?;
        if let Ok(metainfo) = Metainfo::parse(&bytes) {
            known.clone_from(&metainfo.info().pieces);
        }
    }
    // The last piece is another when it is filled up.
    if padding > 0 {
        known.pop();
    }
    let mut file = File::open(media).map_err(at(media))?;
    io::Seek::seek(&mut file, io::SeekFrom::Start((known.len() * size) as u64)).map_err(at(media))?;
    pieces.extend(known);
    let mut piece = Vec::with_capacity(size);
    loop {
        piece.clear();
        if (&mut file).take(size as u64).read_to_end(&mut piece).map_err(at(media))? == 0 {
            return Ok(());
        }
        if padding > 0 && piece.len() < size {
            piece.resize(size, 0);
        }
        pieces.push(PieceHash::of(&piece));
    }
}

/// A file of so many zeros, which take no room.
fn write_padding(path: &Path, length: u64) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create(path)?.set_len(length)
}

/// The same file under another name, or a copy where that cannot be.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    by_way_of(to, |part| fs::copy(from, part).map(drop))
}

/// Makes a file under another name first. One that cannot be made, on a full disk, takes no room there.
fn by_way_of(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let part = path.with_extension("part");
    let made = make(&part).and_then(|()| fs::rename(&part, path));
    if made.is_err() {
        let _ = fs::remove_file(&part);
    }
    made
}

/// The archive's part of a run: what it keeps, and what it says.
#[derive(Debug)]
pub struct Keeping(Option<Archive>);

impl Keeping {
    /// Keeps what `archive` is given, if there is one.
    pub fn new(archive: Option<Archive>) -> Self {
        Self(archive)
    }

    /// Keeps a segment, or says why not.
    pub fn keep(&mut self, store: &Store, record: &SignedRecord) {
        if let Some(archive) = &mut self.0
            && let Err(error) = archive.keep(store, record)
        {
            lost(record.seq, &error);
        }
    }

    /// Writes the torrent of the whole, or says why not.
    pub fn finish(self) {
        let Some(archive) = self.0 else { return };
        match archive.finish() {
            Ok(Some(path)) => tracing::info!("the broadcast's torrent is {}", path.display()),
            Ok(None) if archive.kept.is_empty() => {}
            Ok(None) => tracing::warn!("the broadcast is too long for one torrent; its segments have theirs"),
            Err(error) => tracing::error!("the broadcast has no torrent of the whole: {error}"),
        }
    }
}

fn lost(seq: SegmentSeq, error: &Error) {
    tracing::error!("segment {seq} is not in the recording: {error}; make room, or choose another --record");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("minute.ts");
        let full = |part: &Path| fs::write(part, b"half").and(Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(by_way_of(&path, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        by_way_of(&path, |part| fs::write(part, b"whole")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }
}
