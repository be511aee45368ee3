//! The segmenter on its own: what it records, how it ends, and what it says when something is wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use crate::common::{CLIP, Segmenter, clip, contents, key, numbers};

fn file(dir: &Path, bytes: &[u8]) -> String {
    let path = dir.join("feed.ts");
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_becomes_segments_with_torrents_and_chained_records() {
    let dir = tempfile::tempdir().unwrap();
    let (data, feed) = (dir.path().join("data"), file(dir.path(), &CLIP));
    let tracker = "http://127.0.0.1:9/";
    let arguments =
        ["--no-realtime", "--segment", "2s", "--exit-at-end", "--channel", "Tower", "--tracker", tracker];
    let mut segmenter = Segmenter::start(&data, &[&[feed.as_str()], &arguments[..]].concat());
    let (_, web) = segmenter.addresses();
    let link = segmenter.link();
    let (status, stdout, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    assert_eq!(stdout, "", "the link is all there is on standard output");
    assert_eq!(link.channel, key(&data).channel());
    assert_eq!(link.title.as_deref(), Some("Tower"));
    assert_eq!(link.trackers[0].as_str(), tracker);

    let (records, torrents) = contents(&data);
    assert_eq!(numbers(&records), [0, 1, 2, 3]);
    assert!(!records[0].discontinuity && records[0].prev.is_none());
    for (record, torrent) in records.iter().zip(&torrents) {
        assert_eq!(torrent.info_hash(), record.info_hash);
        assert_eq!(torrent.announce, [format!("{tracker}announce")]);
        assert_eq!(torrent.web_seeds, [format!("{web}segments/{}", record.file_name())]);
        assert!((1900..=2100).contains(&record.duration_ms), "{}", record.duration_ms);
        assert!(record.sealed_ms >= record.ingest_ms);
    }
    let tables = records.len() as u64 * 2 * 188;
    let media: u64 = records.iter().map(|record| record.length).sum();
    assert!(
        media >= CLIP.len() as u64 && media <= CLIP.len() as u64 + tables,
        "the input and repeated tables"
    );
    // One complaint about the tracker, which is dead; the stream went on.
    assert_eq!(log.matches("WARN tracker").count(), 2, "once while it ran, once at the end:\n{log}");
}

#[test]
fn killed_and_restarted_it_goes_on_with_the_next_number_and_seeds_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let half = CLIP.len() / 2;
    let mut segmenter = Segmenter::start(dir.path(), &["-", "--segment", "1s"]);
    segmenter.feed(&CLIP[..half]);
    segmenter.wait_for("segment 1 sealed");
    segmenter.kill();

    let before = contents(dir.path()).0;
    assert!(before.len() >= 2);
    let begun = fs::read_to_string(dir.path().join("begun")).unwrap();
    let begun: u64 = begun.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let mut segmenter = Segmenter::start(dir.path(), &["-", "--segment", "1s"]);
    segmenter.wait_for(&format!("found {} finished segments", before.len()));
    let link = segmenter.link();
    assert_eq!(link.channel, key(dir.path()).channel());
    segmenter.feed(&clip(20));
    segmenter.end_feed();
    segmenter.wait_for("the feed has ended");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let after = contents(dir.path()).0;
    assert!(after.starts_with(&before), "what was signed stays signed");
    // If one was open when it was killed, viewers may have seen it: its number is given to no other.
    let numbers = numbers(&after);
    assert_eq!(numbers[before.len()], begun + 1);
    assert!(numbers[before.len()..].windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    assert!(after[before.len()].discontinuity, "the media do not go on from before");
    assert!(after[before.len() + 1..].iter().all(|record| !record.discontinuity));
}

#[test]
fn told_to_stop_it_seals_the_open_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut segmenter = Segmenter::start(dir.path(), &["-", "--segment", "60s"]);
    segmenter.feed(&CLIP[..CLIP.len() / 188 / 2 * 188]);
    segmenter.wait_for("decides where to cut");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let (records, _) = contents(dir.path());
    assert_eq!(numbers(&records), [0]);
    assert!(records[0].duration_ms > 1000, "{}", records[0].duration_ms);
}

#[test]
fn the_disk_is_bounded_and_the_number_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let feed = file(dir.path(), &CLIP);
    let data = dir.path().join("data");
    let arguments = [feed.as_str(), "--no-realtime", "--segment", "1s", "--keep", "2s"];
    let mut segmenter = Segmenter::start(&data, &arguments);
    segmenter.wait_for("the feed has ended");
    segmenter.terminate();
    assert!(segmenter.finish().0.success());
    assert_eq!(numbers(&contents(&data).0), [6, 7]);
    assert_eq!(fs::read_dir(data.join("segments")).unwrap().count(), 6);
}

/// By the marks that ffmpeg sets in packets of key frames, not by what the program knows.
#[test]
fn a_record_names_the_pieces_in_which_key_frames_begin() {
    let dir = tempfile::tempdir().unwrap();
    let feed = file(dir.path(), &CLIP);
    let data = dir.path().join("data");
    let arguments = [feed.as_str(), "--no-realtime", "--segment", "4s", "--exit-at-end"];
    assert!(Segmenter::start(&data, &arguments).finish().0.success());
    let (records, _) = contents(&data);
    let (store, _) = minuet_store::Store::open(&data, key(&data).channel()).unwrap();
    for record in &records[..2] {
        let media = fs::read(store.media_path(record.seq)).unwrap();
        let begins = |packet: &[u8]| packet[1] & 0x40 != 0 && packet[3] & 0x20 != 0 && packet[5] & 0x40 != 0;
        // Of the picture, which alone has the clock.
        let is_picture = |packet: &[u8]| packet[5] & 0x10 != 0;
        let packets =
            media.chunks(188).enumerate().filter(|(_, packet)| begins(packet) && is_picture(packet));
        let pieces: Vec<u32> =
            packets.map(|(index, _)| index as u32 * 188 / record.piece_length.get()).skip(1).collect();
        let named: Vec<u32> = record.access.iter().map(|point| point.piece.0).collect();
        assert_eq!((named, pieces.len()), (pieces, 3), "segment {}", record.seq);
        let times: Vec<u32> = record.access.iter().map(|point| point.at_ms).collect();
        assert_eq!(times, [1000, 2000, 3000]);
    }
}

#[test]
fn a_recording_outlives_what_is_kept_and_any_client_can_check_its_torrent() {
    let dir = tempfile::tempdir().unwrap();
    let feed = file(dir.path(), &CLIP);
    let (data, recordings) = (dir.path().join("data"), dir.path().join("recordings"));
    let arguments = ["--no-realtime", "--segment", "1s", "--keep", "2s", "--exit-at-end", "--record"];
    let arguments = [&[feed.as_str()], &arguments[..], &[recordings.to_str().unwrap()]].concat();
    let mut segmenter = Segmenter::start(&data, &arguments);
    let line = segmenter.wait_for("the broadcast's torrent is ");
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let torrent = line.split_once("torrent is ").unwrap().1;
    let channel = key(&data).channel();
    let name = |seq| minuet_proto::record::segment_file_name(&channel, minuet_proto::SegmentSeq(seq));
    let folder = recordings.join(name(0).trim_end_matches(".ts"));
    assert_eq!(torrent, folder.with_extension("torrent").to_str().unwrap());
    let segment = |seq| fs::read(folder.join(name(seq))).unwrap().split_off(2 * 188);
    let media: Vec<u8> = (0..8).flat_map(segment).collect();
    assert!(CLIP.ends_with(&media) && CLIP.len() - media.len() <= 4 * 188);
    let aria2 = || {
        let mut check = std::process::Command::new("aria2c");
        check.args(["--check-integrity", "--hash-check-only", "--no-conf", "--console-log-level=error"]);
        let done = check.arg("-d").arg(&recordings).args(["-T", torrent]).output();
        done.expect("these tests need aria2").status.success()
    };
    assert!(aria2(), "all pieces are as the torrent says");
    // And all but the last of each segment are those that were swarmed.
    let whole = fs::read(torrent).unwrap();
    let swarmed = fs::read(folder.join(name(3).replace(".ts", ".torrent"))).unwrap();
    let swarmed = minuet_proto::Metainfo::parse(&swarmed).unwrap();
    let (_, pieces) = swarmed.info().pieces.split_last().unwrap();
    assert!(pieces.iter().all(|piece| whole.windows(20).any(|window| window == piece.as_bytes())));
    fs::write(folder.join(name(3)), b"something else").unwrap();
    assert!(!aria2(), "a client sees damage");
}

#[test]
fn what_cannot_work_is_said_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let feed = file(dir.path(), &CLIP);
    let not_ts = dir.path().join("noise");
    fs::write(&not_ts, "this is no media ".repeat(100_000)).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let open_key = dir.path().join("open.key");
    fs::write(&open_key, "0".repeat(64)).unwrap();
    fs::set_permissions(&open_key, fs::Permissions::from_mode(0o644)).unwrap();
    let blocked = dir.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let (feed, blocked) = (feed.as_str(), blocked.to_str().unwrap());

    let mut cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["/nonexistent.ts"], "/nonexistent.ts"),
        (vec![feed, "--listen", &taken], "--listen"),
        (vec![feed, "--bt-listen", &taken], "--bt-listen"),
        (vec![feed, "--data", blocked], blocked),
        (vec![feed, "--upload-limit", "64kbit"], "--upload-limit"),
    ];
    // A key that is root's is used as it is (see the tests of the key file).
    if fs::metadata(&open_key).unwrap().uid() != 0 {
        cases.push((vec![feed, "--key", open_key.to_str().unwrap()], "chmod 600"));
    }
    for (n, (arguments, remedy)) in cases.iter().enumerate() {
        let data = dir.path().join(format!("data{n}"));
        let (status, stdout, log) = Segmenter::start(&data, arguments).finish();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {log}");
        assert_eq!(stdout, "", "{arguments:?}");
        let last = log.lines().last().unwrap();
        assert!(last.contains("ERROR") && last.contains(remedy), "{arguments:?}: {log}");
    }

    let data = dir.path().join("noise-data");
    let mut segmenter = Segmenter::start(&data, &["-"]);
    // It hangs up before it has all.
    let _ = segmenter.stdin().write_all(&fs::read(&not_ts).unwrap());
    segmenter.end_feed();
    let (status, _, log) = segmenter.finish();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("not MPEG-TS"), "{log}");

    let running = {
        let mut segmenter = Segmenter::start(&data, &["-"]);
        segmenter.link();
        segmenter
    };
    let (status, _, log) = Segmenter::start(&data, &["-"]).finish();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("in use by another process"), "{log}");
    drop(running);
}
