//! What the last run left behind: finished segments to go on with, and strays to remove.

use std::{collections::BTreeSet, fs, path::Path};

use minuet_proto::{
    Metainfo, SegmentSeq, SignedRecord, metainfo::MAX_METAINFO_LENGTH, record::segment_file_name,
    signed::MAX_SIGNED_LENGTH,
};

use crate::{Error, Kind, PART, Store, remove_if_there};

/// A data folder's contents at the start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records of the segments that are whole, ascending. Their signatures are good, their files have the right
    /// length and metadata, and neighbours are linked.
    pub segments: Vec<SignedRecord>,
    /// The newest record, also when its media is gone: the next record follows it.
    pub newest: Option<SignedRecord>,
    /// The number of the segment that was begun last, sealed or not: the next segment takes a higher one.
    pub begun: Option<SegmentSeq>,
    /// Segments that were begun but not finished, or damaged, and so removed.
    pub removed: usize,
}

pub(crate) fn recover(store: &Store) -> Result<Recovered, Error> {
    let mut recovered = Recovered { begun: store.begun.found, ..Recovered::default() };
    // From the newest on, so that where two histories meet the newer one stays.
    let mut next: Option<SignedRecord> = None;
    for seq in scan(store)?.into_iter().rev() {
        let Some(record) = read_record(store, seq).filter(|record| links(record, next.as_ref())) else {
            remove_all(store, seq)?;
            recovered.removed = recovered.removed.saturating_add(1);
            continue;
        };
        if recovered.newest.is_none() {
            recovered.newest = Some(record.clone());
        }
        let newest = recovered.newest.as_ref().map_or(seq, |newest| newest.seq);
        if is_whole(store, &record) {
            recovered.segments.push(record.clone());
        } else {
            // The newest record alone is how a pruned folder looks, not damage.
            let pruned = seq == newest && !store.media_path(seq).exists();
            recovered.removed = recovered.removed.saturating_add(usize::from(!pruned));
            store.remove(seq, newest)?;
        }
        next = Some(record);
    }
    recovered.segments.reverse();
    Ok(recovered)
}

/// Numbers of this channel's segments of which any file is there. Removes what was being written.
fn scan(store: &Store) -> Result<BTreeSet<SegmentSeq>, Error> {
    let dir = &store.segments_dir;
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(Error::of(dir))? {
        let entry = entry.map_err(Error::of(dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let (stem, is_part) = name.strip_suffix(PART).map_or((name, false), |stem| (stem, true));
        let Some(seq) = own_file(store, stem) else { continue };
        if is_part {
            remove_if_there(&entry.path())?;
        } else {
            found.insert(seq);
        }
    }
    Ok(found)
}

/// The number of the segment that a file belongs to, if its name is one that this store gives.
fn own_file(store: &Store, name: &str) -> Option<SegmentSeq> {
    let stem = [".ts", ".torrent", ".record"].iter().find_map(|end| name.strip_suffix(end))?;
    let seq = SegmentSeq(stem.rsplit_once('-')?.1.parse().ok()?);
    (segment_file_name(&store.channel, seq).strip_suffix(".ts") == Some(stem)).then_some(seq)
}

/// The record in the file of segment `seq`, if it is this channel's word on that segment.
fn read_record(store: &Store, seq: SegmentSeq) -> Option<SignedRecord> {
    let bytes = read_bounded(&store.path(seq, Kind::Record), MAX_SIGNED_LENGTH)?;
    SignedRecord::decode(&bytes, store.channel).ok().filter(|record| record.seq == seq)
}

/// Whether `record` is the one that `next` names as its predecessor. Records that are no neighbours cannot tell.
fn links(record: &SignedRecord, next: Option<&SignedRecord>) -> bool {
    next.is_none_or(|next| record.seq.next() != next.seq || next.check_follows(record).is_ok())
}

fn is_whole(store: &Store, record: &SignedRecord) -> bool {
    let media = fs::symlink_metadata(store.media_path(record.seq));
    if !media.is_ok_and(|media| media.is_file() && media.len() == record.length) {
        return false;
    }
    let torrent = read_bounded(&store.path(record.seq, Kind::Torrent), MAX_METAINFO_LENGTH);
    torrent
        .and_then(|bytes| Metainfo::parse(&bytes).ok())
        .is_some_and(|metainfo| metainfo.info_hash() == record.info_hash)
}

fn read_bounded(path: &Path, limit: usize) -> Option<Vec<u8>> {
    minuet_files::read(path, limit as u64).ok()
}

fn remove_all(store: &Store, seq: SegmentSeq) -> Result<(), Error> {
    [Kind::Record, Kind::Torrent, Kind::Media]
        .iter()
        .try_for_each(|kind| remove_if_there(&store.path(seq, *kind)))
}
