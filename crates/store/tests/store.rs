//! A folder of segments through its life: sealed, found again, cut off at any point, shared, pruned.
// Helpers of tests are tests: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use minuet_proto::{
    ChannelKey, Metainfo, PieceHash, PieceLength, Record, SegmentSeq, SignedRecord, metainfo::Info,
};
use minuet_store::{Error, OpenSegment, Store};

fn key() -> ChannelKey {
    ChannelKey::from_seed(&[5; 32])
}

#[test]
fn names_that_are_links_or_pipes_are_refused_without_waiting() {
    for name in ["lock", "begun"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let error = Store::open(dir.path(), key().channel()).unwrap_err().to_string();
        assert!(error.contains("is a link") && error.contains(name), "{error}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = Store::open(dir.path(), key().channel()).unwrap_err().to_string();
        assert!(error.contains("no regular file") && error.contains(name), "{error}");
    }
}

/// Where a segment is written, sealed, found again and read, nothing is followed or waited for either.
#[test]
fn segments_that_are_links_or_pipes_are_neither_written_nor_read() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let media = |store: &Store, seq: u64| store.media_path(SegmentSeq(seq));
    let unfinished = |path: &Path| PathBuf::from(format!("{}.part", path.display()));
    let first = {
        let (store, _) = Store::open(dir.path(), key().channel()).unwrap();
        let first = record(&store, &key(), 1, None);
        for kind in ["ts", "torrent", "record"] {
            let path = unfinished(&media(&store, 2).with_extension(kind));
            std::os::unix::fs::symlink(&victim, &path).unwrap();
            let begun = store.create(SegmentSeq(2));
            assert_eq!(begun.is_err(), kind == "ts");
            if let Ok(mut open) = begun {
                open.write(b"media").unwrap();
                let error = open.seal(b"torrent", &first).unwrap_err().to_string();
                assert!(error.contains("is a link"), "{error}");
            }
            let _ = fs::remove_file(&path);
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            let failed =
                store.create(SegmentSeq(2)).and_then(|mut open| open.seal(b"torrent", &first).map(drop));
            assert!(failed.unwrap_err().to_string().contains("no regular file"));
            let _ = fs::remove_file(&path);
        }
        // A whole segment whose media turns out to be another file: it is not given to anybody.
        let length = fs::metadata(media(&store, 1)).unwrap().len();
        fs::write(&victim, &b"precious".repeat(9)[..length as usize]).unwrap();
        fs::remove_file(media(&store, 1)).unwrap();
        std::os::unix::fs::symlink(&victim, media(&store, 1)).unwrap();
        assert!(store.media(SegmentSeq(1)).unwrap_err().to_string().contains("is a link"));
        assert!(store.rewrite(SegmentSeq(1)).is_err());
        first
    };
    let (_, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert_eq!((recovered.segments.len(), recovered.newest), (0, Some(first)));
    assert!(fs::read(&victim).unwrap().starts_with(b"precious"));
}

/// Records one segment; its media are a few bytes that tell it from others.
fn record(store: &Store, key: &ChannelKey, seq: u64, prev: Option<&SignedRecord>) -> SignedRecord {
    let open = store.create(SegmentSeq(seq)).unwrap();
    record_in(open, key, seq, prev)
}

fn record_in(mut open: OpenSegment, key: &ChannelKey, seq: u64, prev: Option<&SignedRecord>) -> SignedRecord {
    let media = format!("media of {seq}");
    open.write(media.as_bytes()).unwrap();
    let info = Info {
        name: minuet_proto::record::segment_file_name(&key.channel(), SegmentSeq(seq)),
        length: open.length(),
        piece_length: PieceLength::MIN,
        pieces: vec![PieceHash::of(media.as_bytes())],
    };
    let torrent = Metainfo::new(info, Vec::new(), Vec::new()).unwrap();
    let record = SignedRecord::sign(
        key,
        Record {
            channel: key.channel(),
            seq: SegmentSeq(seq),
            prev: prev.map(|prev| prev.hash()),
            info_hash: torrent.info_hash(),
            length: open.length(),
            piece_length: PieceLength::MIN,
            duration_ms: 1000,
            ingest_ms: 1,
            sealed_ms: 2,
            discontinuity: false,
            access: Default::default(),
        },
    );
    open.seal(&torrent.encode(), &record).unwrap().sync().unwrap();
    record
}

fn three(dir: &Path) -> Vec<SignedRecord> {
    let (store, recovered) = Store::open(dir, key().channel()).unwrap();
    assert!(recovered.segments.is_empty() && recovered.newest.is_none());
    let mut records: Vec<SignedRecord> = Vec::new();
    for seq in 0..3 {
        records.push(record(&store, &key(), seq, records.last()));
    }
    records
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir.join("segments")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn file(dir: &Path, seq: u64, ending: &str) -> PathBuf {
    let name = minuet_proto::record::segment_file_name(&key().channel(), SegmentSeq(seq));
    dir.join("segments").join(name).with_extension(ending)
}

#[test]
fn segments_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let records = three(dir.path());
    assert_eq!(names(dir.path()).len(), 9);
    let (store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert_eq!(recovered.segments, records);
    assert_eq!(recovered.newest.as_ref(), records.last());
    assert_eq!(recovered.removed, 0);
    assert_eq!(fs::read(store.media_path(SegmentSeq(1))).unwrap(), b"media of 1");
    assert_eq!(
        Metainfo::parse(&store.torrent(SegmentSeq(1)).unwrap()).unwrap().info_hash(),
        records[1].info_hash
    );
}

#[test]
fn a_folder_has_one_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (held, _) = Store::open(dir.path(), key().channel()).unwrap();
    assert!(matches!(Store::open(dir.path(), key().channel()), Err(Error::InUse { .. })));
    drop(held);
    Store::open(dir.path(), key().channel()).unwrap();
}

#[test]
fn an_unfinished_segment_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let records = three(dir.path());
    let before = names(dir.path());
    let (store, _) = Store::open(dir.path(), key().channel()).unwrap();
    let mut open = store.create(SegmentSeq(3)).unwrap();
    open.write(b"half").unwrap();
    assert_ne!(names(dir.path()), before);
    drop(open);
    assert_eq!(names(dir.path()), before, "abandoned");

    // Killed: nobody tidies up until the next start.
    std::mem::forget(store.create(SegmentSeq(3)).unwrap());
    assert_ne!(names(dir.path()), before);
    drop(store);
    let (_store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert_eq!(names(dir.path()), before, "killed");
    assert_eq!(recovered.newest, records.last().cloned());
}

#[test]
fn the_file_is_what_was_written_in_whatever_portions() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), key().channel()).unwrap();
    let mut open = store.create(SegmentSeq(0)).unwrap();
    let mut media = Vec::new();
    for (n, length) in [376, 0, 262_144, 188, 65_536 - 376 - 188, 1, 65_535, 400_000].into_iter().enumerate()
    {
        let portion = vec![n as u8 + 1; length];
        open.write(&portion).unwrap();
        media.extend(portion);
        assert_eq!(open.length(), media.len() as u64);
    }
    let other = record(&store, &key(), 1, None);
    open.seal(b"a torrent", &other).unwrap().sync().unwrap();
    assert!(open.seal(b"a torrent", &other).is_err(), "once only");
    assert_eq!(fs::read(store.media_path(SegmentSeq(0))).unwrap(), media);
}

#[test]
fn the_number_begun_last_is_known_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let records = three(dir.path());
    let (store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert_eq!(recovered.begun, None);
    store.note_begun(SegmentSeq(12)).unwrap();
    store.sync_begun().unwrap();
    std::mem::forget(store.create(SegmentSeq(12)).unwrap());
    drop(store);
    let (_store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert_eq!(recovered.begun, Some(SegmentSeq(12)));
    assert_eq!(recovered.newest.as_ref(), records.last());
}

#[test]
fn reserved_room_that_is_not_used_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), key().channel()).unwrap();
    let open = store.create(SegmentSeq(0)).unwrap();
    open.reserve(1 << 20);
    let mut part = file(dir.path(), 0, "ts").into_os_string();
    part.push(".part");
    let reserved = fs::metadata(part).unwrap().blocks() * 512;
    record_in(open, &key(), 0, None);
    let sealed = fs::metadata(store.media_path(SegmentSeq(0))).unwrap();
    assert_eq!(fs::read(store.media_path(SegmentSeq(0))).unwrap(), b"media of 0");
    // Some file systems reserve nothing.
    assert!(reserved == 0 || reserved >= 1 << 20);
    assert!(sealed.blocks() * 512 <= 64 << 10);
}

#[test]
fn a_process_killed_between_the_renames_leaves_no_half_segment() {
    for missing in [&["record"][..], &["record", "torrent"], &["ts"], &["torrent"]] {
        let dir = tempfile::tempdir().unwrap();
        let records = three(dir.path());
        for ending in missing {
            fs::remove_file(file(dir.path(), 2, ending)).unwrap();
        }
        let (_store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
        assert_eq!(recovered.segments, records[..2], "without {missing:?}");
        assert_eq!(recovered.removed, usize::from(*missing != ["ts"]));
        // A number that was signed is not given again.
        let signed = !missing.contains(&"record");
        assert_eq!(recovered.newest.as_ref(), if signed { records.last() } else { Some(&records[1]) });
        assert_eq!(names(dir.path()).len(), if signed { 7 } else { 6 });
    }
}

#[test]
fn damaged_and_foreign_records_are_not_believed() {
    type Damage = fn(&Path);
    let damages: [Damage; 5] = [
        |dir| fs::write(file(dir, 1, "record"), b"").unwrap(),
        |dir| fs::copy(file(dir, 0, "record"), file(dir, 1, "record")).map(drop).unwrap(),
        |dir| {
            let mut bytes = fs::read(file(dir, 1, "record")).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(file(dir, 1, "record"), bytes).unwrap();
        },
        |dir| fs::write(file(dir, 1, "ts"), b"other length").unwrap(),
        |dir| fs::copy(file(dir, 0, "torrent"), file(dir, 1, "torrent")).map(drop).unwrap(),
    ];
    for (n, damage) in damages.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let records = three(dir.path());
        damage(dir.path());
        let (_store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
        assert_eq!(recovered.segments, [records[0].clone(), records[2].clone()], "damage {n}");
        assert_eq!(recovered.newest.as_ref(), records.last());
        assert_eq!(names(dir.path()).len(), 6);
    }
}

#[test]
fn of_two_histories_the_newer_stays() {
    let dir = tempfile::tempdir().unwrap();
    let records = three(dir.path());
    let (store, _) = Store::open(dir.path(), key().channel()).unwrap();
    // Signed, but by its `prev` not what segment 2 follows.
    let other = record(&store, &key(), 1, None);
    drop(store);
    assert_ne!(other, records[1]);
    let (_store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert_eq!(recovered.segments, [records[0].clone(), records[2].clone()]);
}

#[test]
fn other_files_and_other_channels_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let records = three(dir.path());
    let stranger = ChannelKey::from_seed(&[6; 32]);
    {
        let (store, recovered) = Store::open(dir.path(), stranger.channel()).unwrap();
        assert!(recovered.newest.is_none());
        record(&store, &stranger, 0, None);
    }
    for name in ["notes.ts", "notes.ts.part", "-1.ts", "00000000-00000001.record"] {
        fs::write(dir.path().join("segments").join(name), b"mine").unwrap();
    }
    let before = names(dir.path());
    let (_store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert_eq!(recovered.segments, records);
    assert_eq!(names(dir.path()), before);
}

#[test]
fn the_newest_number_outlives_its_media() {
    let dir = tempfile::tempdir().unwrap();
    let records = three(dir.path());
    let (store, _) = Store::open(dir.path(), key().channel()).unwrap();
    for seq in 0..3 {
        store.remove(SegmentSeq(seq), SegmentSeq(2)).unwrap();
    }
    store.remove(SegmentSeq(0), SegmentSeq(2)).unwrap();
    drop(store);
    let (_store, recovered) = Store::open(dir.path(), key().channel()).unwrap();
    assert!(recovered.segments.is_empty());
    assert_eq!(recovered.newest.as_ref(), records.last());
    assert_eq!(recovered.removed, 0);
    assert_eq!(names(dir.path()).len(), 1);
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, b"").unwrap();
    let error = Store::open(&blocked, key().channel()).unwrap_err();
    assert!(error.to_string().contains(blocked.to_str().unwrap()), "{error}");
}

#[test]
fn a_segment_that_is_written_anew_is_the_same_in_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let records = three(dir.path());
    let (store, before) = Store::open(dir.path(), key().channel()).unwrap();
    let media = store.media_path(SegmentSeq(1));
    let (bytes, inode) = (fs::read(&media).unwrap(), fs::metadata(&media).unwrap().ino());
    store.rewrite(SegmentSeq(1)).unwrap();
    assert_eq!(fs::read(&media).unwrap(), bytes);
    assert_ne!(fs::metadata(&media).unwrap().ino(), inode);
    fs::remove_file(&media).unwrap();
    assert!(store.rewrite(SegmentSeq(1)).is_err());
    let left: Vec<PathBuf> =
        fs::read_dir(store.segments_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_none_or(|extension| extension != "part")), "{left:?}");
    assert_eq!((before.segments.len(), left.len()), (records.len(), 3 * records.len() - 1));
}
