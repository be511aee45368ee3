//! A segment that is still on air: its pieces are kept as they come, and its record is not known.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use minuet_proto::{Metainfo, PieceHash, SignedRecord, mesh::MAX_SEGMENT_PIECES, metainfo::Info};

use super::pieces::PieceMap;
use crate::part;

/// See the module. Dropped without [`OpenPieces::seal`], its file is removed.
#[derive(Debug)]
pub(super) struct OpenPieces {
    path: PathBuf,
    file: Option<File>,
    /// What heads have said of its pieces: hash and length.
    known: BTreeMap<u32, (PieceHash, u32)>,
    pub held: PieceMap,
    /// Bytes held.
    pub bytes: u64,
}

impl OpenPieces {
    /// For the segment that is to be at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, known: BTreeMap::new(), held: PieceMap::default(), bytes: 0 }
    }

    /// A head has named a piece. A publisher may number pieces as it likes, but no more of a segment can be asked for than
    /// [`MAX_SEGMENT_PIECES`]: what lies beyond is not kept.
    pub fn note(&mut self, piece: u32, hash: PieceHash, len: u32) {
        if piece < MAX_SEGMENT_PIECES {
            self.known.entry(piece).or_insert((hash, len));
        }
    }

    /// Where a piece begins. All pieces of a segment but the last have one length; a piece that is the only one known may be
    /// that last one, so its place is not known.
    fn offset(&self, piece: u32) -> Option<u64> {
        let before = || self.known.range(..piece).next().map(|(_, (_, len))| *len);
        let own = || self.known.range(piece..).nth(1).and(self.known.get(&piece)).map(|(_, len)| *len);
        let len = if piece == 0 { Some(0) } else { before().or_else(own) }?;
        u64::from(piece).checked_mul(len.into())
    }

    /// Writes a verified piece. One whose place is not known is passed over.
    pub fn write(&mut self, piece: u32, data: &[u8]) -> io::Result<()> {
        let is_new = self.known.contains_key(&piece) && !self.held.get(piece);
        let Some(offset) = self.offset(piece).filter(|_| is_new) else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&part(&self.path))?),
        };
        file.write_all_at(data, offset)?;
        self.held.set(piece);
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        Ok(())
    }

    /// A piece that was kept; none if it is not held.
    pub fn read(&self, piece: u32) -> Option<Vec<u8>> {
        let offset = self.offset(piece)?;
        let len = self.known.get(&piece).filter(|_| self.held.get(piece))?.1;
        let mut data = vec![0; len as usize];
        self.file.as_ref()?.read_exact_at(&mut data, offset).ok()?;
        Some(data)
    }

    /// The torrent of the segment that this record is of, if all its pieces are known.
    pub fn torrent(&self, record: &SignedRecord) -> Option<Metainfo> {
        let count = record.piece_length.pieces_in(record.length);
        if self.known.len() as u64 != count {
            return None;
        }
        let info = Info {
            name: record.file_name(),
            length: record.length,
            piece_length: record.piece_length,
            pieces: self.known.values().map(|(hash, _)| *hash).collect(),
        };
        let torrent = Metainfo::new(info, Vec::new(), Vec::new()).ok()?;
        // Under the channel's signature, so what is called by its name is this segment and nothing else.
        (torrent.info_hash() == record.info_hash).then_some(torrent)
    }

    /// Forgets what is held of pieces with other hashes than these.
    pub fn keep_only(&mut self, hashes: &[PieceHash]) {
        for (piece, (hash, _)) in &self.known {
            if hashes.get(*piece as usize) != Some(hash) {
                self.held.clear(*piece);
            }
        }
    }

    /// Gives the media its final name; the file and what is held.
    pub fn seal(mut self, length: u64) -> io::Result<(File, PieceMap)> {
        let file = match self.file.take() {
            Some(file) => file,
            None => create(&part(&self.path))?,
        };
        file.set_len(length)?;
        std::fs::rename(part(&self.path), &self.path)?;
        Ok((file, std::mem::take(&mut self.held)))
    }
}

impl Drop for OpenPieces {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(part(&self.path));
        }
    }
}

/// A new file, in place of what was left there.
fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    minuet_files::open(options.read(true).write(true).create(true).truncate(true), path)
}
