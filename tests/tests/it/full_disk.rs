//! A source whose disk is full, and has room again later.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use minuet_tests::{Segmenter, Tracker, Viewer, assert_ends_with, bin, clip_of, free_port, path_str};

/// Some 90 kB/s, so the disk below is full after a few seconds.
const FEED_SECONDS: u32 = 60;
/// A disk with room for three segments of 5 s and the pieces of the live edge, but for what fills it.
const DISK: &str =
    "mount -t tmpfs -o size=16m none \"$0\" && head -c 14500k /dev/zero >\"$0/ballast\" && exec \"$@\"";

/// The packets of a feed without PAT and PMT, which are repeated in each segment.
fn media(bytes: &[u8]) -> Vec<u8> {
    let pid = |packet: &[u8]| u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
    let packets = bytes.chunks(188).filter(|packet| ![0, 0x1000].contains(&pid(packet)));
    packets.flatten().copied().collect()
}

#[test]
fn a_full_disk_costs_old_segments_but_no_live_viewer_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(FEED_SECONDS, dir);
    let disk = dir.join("disk");
    fs::create_dir(&disk).unwrap();
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    // A mount namespace of its own; the command becomes the segmenter.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", DISK, path_str(&disk)]);
    command.arg(bin("minuet-segmenter"));
    let data = disk.join("data");
    let mut segmenter =
        Segmenter::start_by(&mut command, path_str(&feed), "5s", &tracker.url, &data, &["--no-origin"]);
    let mut viewer = Viewer::start_in("live", "viewer", &segmenter.link, dir, &[]);
    segmenter.process.wait_for("the disk is full: dropped segment 0;");
    let unkept = segmenter.process.wait_for("goes out live from memory, but is not kept: the disk is full");

    let root = PathBuf::from(format!("/proc/{}/root", segmenter.process.id()));
    fs::remove_file(root.join(disk.join("ballast").strip_prefix("/").unwrap())).unwrap();
    segmenter.process.wait_for(" sealed: ");
    let status = viewer.process.wait(Duration::from_secs(120));
    assert!(status.success(), "{:?}", viewer.process.log());
    let (summary, log) = (viewer.summary(), viewer.process.whole_log());
    let (got, sent) = (media(&fs::read(&viewer.media).unwrap()), media(&fs::read(&feed).unwrap()));
    assert_ends_with(&sent, &got, || format!("{log:#?} {summary}"));
    // It saw what was not kept: more than half of the feed came after that began, at the latest.
    assert!(got.len() * 2 > sent.len(), "{} of {}, {unkept}: {log:#?}", got.len(), sent.len());
    assert_eq!((&summary["leaps"], &summary["corrupt_pieces"]), (&0.into(), &0.into()), "{summary}");
    // The number of what is not kept goes to no other segment.
    let lost: u64 = unkept
        .split("segment ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no number in {unkept}"));
    let is_kept = |seq: u64| root.join(segmenter.segment(seq).strip_prefix("/").unwrap()).exists();
    assert!(!is_kept(lost), "{lost}");
    assert!((lost + 1..lost + 20).any(is_kept), "nothing is kept after {lost}");
    segmenter.process.signal("TERM");
    assert!(segmenter.process.wait(Duration::from_secs(60)).success(), "{:?}", segmenter.process.log());
}
