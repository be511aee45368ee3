//! What an earlier run has left in the folder.

use std::{fs, io};

use minuet_proto::{
    SegmentSeq, SignedRecord, mesh::MAX_SEGMENT_PIECES, record::segment_file_name, signed::MAX_SIGNED_LENGTH,
};

use super::{Keep, Segment, pieces::PieceMap};
use crate::PART;

impl Keep {
    /// Finds what is in the folder. What was not finished is removed, if it is this run's to remove.
    pub(super) fn find(&mut self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            // Its owner has not made it yet, or there is no room for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let (stem, is_part) = name.strip_suffix(PART).map_or((name, false), |stem| (stem, true));
            let Some(segment) = self.number(stem) else { continue };
            if is_part && self.bound.is_some() {
                let _ = fs::remove_file(&path);
            } else if name.ends_with(".record") {
                self.find_segment(segment);
            }
        }
        if self.bound.is_some() {
            self.remove_strays();
        }
        Ok(())
    }

    fn find_segment(&mut self, segment: SegmentSeq) {
        let path = self.media_path(segment);
        let record = minuet_files::read(&path.with_extension("record"), MAX_SIGNED_LENGTH as u64).ok();
        let record = record.and_then(|bytes| SignedRecord::decode(&bytes, self.channel).ok());
        let Some(record) = record.filter(|record| record.seq == segment) else { return };
        let is_there =
            fs::symlink_metadata(&path).is_ok_and(|media| media.is_file() && media.len() == record.length);
        if !is_there || !path.with_extension("torrent").exists() {
            return;
        }
        // A map that cannot be read says nothing of what is there; the hashes do.
        let most = u64::from(MAX_SEGMENT_PIECES / 8);
        let map = minuet_files::read(&path.with_extension("map"), most).ok().map(PieceMap::of);
        let kept =
            Segment { record, memory_only: None, map, checked: Some(PieceMap::default()), unmapped: 0 };
        self.changes.push_back(kept.change());
        self.segments.insert(segment, kept);
    }

    /// The number in a file name that this folder gives.
    fn number(&self, name: &str) -> Option<SegmentSeq> {
        let ends = [".ts", ".torrent", ".record", ".map"];
        let stem = ends.iter().find_map(|end| name.strip_suffix(end))?;
        let segment = SegmentSeq(stem.rsplit_once('-')?.1.parse().ok()?);
        (segment_file_name(&self.channel, segment).strip_suffix(".ts") == Some(stem)).then_some(segment)
    }

    fn remove_strays(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let number = entry.file_name().to_str().and_then(|name| self.number(name));
            if number.is_some_and(|segment| !self.segments.contains_key(&segment)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
