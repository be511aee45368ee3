//! Going back: what was on air before comes from those who watched it.
// Helpers of tests are tests: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use minuet_tests::{
    Process, Segmenter, Tracker, Viewer, bin, clip_of, free_port,
    hostile::{Harm, Hostile},
    house::Encoder,
    path_str, run,
};

/// What these segments are, one after the other.
fn joined(segmenter: &Segmenter, segments: std::ops::Range<u64>) -> Vec<u8> {
    segments.flat_map(|seq| fs::read(segmenter.segment(seq)).unwrap()).collect()
}

/// What a viewer has written begins with these bytes.
fn assert_begins_with(media: &Path, expected: &[u8], about: &str) {
    let media = fs::read(media).unwrap();
    let end = media.len().min(expected.len());
    assert!(
        end >= expected.len() / 2,
        "{about}: only {} of {} bytes were written",
        media.len(),
        expected.len()
    );
    assert!(media[..end] == expected[..end], "{about}: other bytes were written");
}

/// A piece of such a stream plays for seconds: one alone is more than a head start, and less than what is waited for.
#[test]
fn a_radio_whose_pieces_play_for_seconds_begins_when_two_of_them_are_here() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = dir.join("radio.ts");
    let tone = [
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "sine",
        "-t",
        "180",
        "-c:a",
        "aac",
        "-b:a",
        "48k",
        path_str(&feed),
    ];
    run("ffmpeg", &tone);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-realtime"];
    let mut segmenter =
        Segmenter::start_with(path_str(&feed), "60s", &tracker.url, &dir.join("segmenter"), &more);
    segmenter.process.wait_for("segment 2 sealed");
    let mut viewer = Viewer::start_in("live", "viewer", &segmenter.link, dir, &["--start", "oldest"]);
    viewer.wait_for_segment(0);
    viewer.process.signal("INT");
    assert!(viewer.process.wait(Duration::from_secs(20)).success(), "{:?}", viewer.process.log());
    let summary = viewer.summary();
    // Who is not served takes what there is after 25 s.
    assert!(summary["first_byte_ms"].as_u64().is_some_and(|waited| waited < 20_000), "{summary}");
    assert_eq!((&summary["stalls"], &summary["segments_skipped"]), (&0.into(), &0.into()), "{summary}");
}

#[test]
fn what_was_on_air_before_comes_from_those_who_watched_it_and_not_from_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(60, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-origin", "--realtime"];
    let segmenter = Segmenter::start_with(path_str(&feed), "4s", &tracker.url, &dir.join("segmenter"), &more);
    let mut live: Vec<Viewer> =
        (0..2).map(|n| Viewer::start_in("live", &format!("live{n}"), &segmenter.link, dir, &[])).collect();
    live.iter_mut().for_each(|viewer| viewer.wait_for_segment(5));
    // Numbered from 0; who came first has seen a part of the first one.
    let mut back = Viewer::start_in("live", "back", &segmenter.link, dir, &["--start", "2"]);
    let mut oldest = Viewer::start_in("live", "oldest", &segmenter.link, dir, &["--start", "oldest"]);
    back.wait_for_segment(5);
    oldest.wait_for_segment(2);
    for (viewer, first, name) in [(&mut back, 2, "--start 2"), (&mut oldest, 0, "--start oldest")] {
        viewer.process.signal("INT");
        assert!(viewer.process.wait(Duration::from_secs(20)).success(), "{:?}", viewer.process.log());
        let summary = viewer.summary();
        for zero in ["stalls", "segments_skipped", "corrupt_pieces"] {
            assert_eq!(summary[zero], 0, "{name}: {summary}");
        }
        assert_begins_with(&viewer.media, &joined(&segmenter, first..first + 3), name);
        if first == 2 {
            assert_eq!(summary["source_bytes"], 0, "others have all of it: {summary}");
        }
    }
    // Nobody who watches live was harmed.
    for viewer in &mut live {
        viewer.process.signal("INT");
        assert!(viewer.process.wait(Duration::from_secs(20)).success(), "{:?}", viewer.process.log());
        assert_eq!(viewer.summary()["leaps"], 0);
    }
}

#[test]
fn nobody_stands_still_among_those_who_lie_about_what_they_keep() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(60, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-origin", "--realtime"];
    let segmenter = Segmenter::start_with(path_str(&feed), "4s", &tracker.url, &dir.join("segmenter"), &more);
    // Keeps nothing, so that the source alone has what the liars say they have: it is asked last.
    let mut live = Viewer::start_in("live", "live", &segmenter.link, dir, &["--keep", "0"]);
    live.wait_for_segment(5);
    let liars = [Harm::KeepGarbage, Harm::KeepNothing, Harm::KeepSilent, Harm::KeepForged]
        .map(|harm| (harm, Hostile::start(harm, &segmenter.link)));
    // All have met the living when somebody comes who goes back.
    live.wait_until("meets the liars", |_| liars.iter().all(|(_, liar)| liar.links() > 0));
    let mut back: Vec<Viewer> = (0..2)
        .map(|n| Viewer::start_in("live", &format!("back{n}"), &segmenter.link, dir, &["--start", "oldest"]))
        .collect();
    back.iter_mut().for_each(|viewer| viewer.wait_for_segment(6));
    let mut bans = 0;
    for viewer in &mut back {
        viewer.process.signal("INT");
        assert!(viewer.process.wait(Duration::from_secs(20)).success(), "{:?}", viewer.process.log());
        let summary = viewer.summary();
        for zero in ["stalls", "segments_skipped"] {
            assert_eq!(summary[zero], 0, "{summary} {:#?}", viewer.process.whole_log());
        }
        assert_begins_with(&viewer.media, &joined(&segmenter, 0..5), "among liars");
        bans += summary["bans"].as_u64().unwrap();
    }
    for (harm, liar) in &liars {
        assert!(liar.asked() > 0, "{harm:?}: nobody asked it");
        // Who sends nothing that is false is let go as useless, and may come again.
        let lies = matches!(harm, Harm::KeepGarbage | Harm::KeepForged);
        assert!(!lies || liar.refused() > 0, "{harm:?}: is still welcome everywhere");
    }
    assert!(bans >= 2, "{bans}");
}

#[test]
fn a_relay_that_was_killed_comes_back_with_what_it_kept_and_serves_it_when_the_source_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(60, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-origin", "--realtime"];
    let mut segmenter =
        Segmenter::start_with(path_str(&feed), "4s", &tracker.url, &dir.join("segmenter"), &more);
    let data = dir.join("relay");
    let args =
        ["relay", &segmenter.link, "--listen", "127.0.0.1:0", "--data", path_str(&data), "--seed-minutes=0"];
    let mut relay = Process::start("minuet", &args, Stdio::null());
    relay.wait_for("relaying");
    let mut viewer = Viewer::start_in("live", "viewer", &segmenter.link, dir, &["--keep", "0"]);
    viewer.wait_for_segment(5);
    viewer.process.signal("INT");
    viewer.process.wait(Duration::from_secs(20));
    segmenter.process.signal("KILL");
    segmenter.process.wait(Duration::from_secs(10));
    relay.signal("KILL");
    relay.wait(Duration::from_secs(10));
    let mut relay = Process::start("minuet", &args, Stdio::null());
    relay.wait_for("relaying");
    let mut back = Viewer::start_in("live", "back", &segmenter.link, dir, &["--start", "2"]);
    back.wait_for_segment(4);
    back.process.signal("INT");
    assert!(back.process.wait(Duration::from_secs(20)).success(), "{:?}", back.process.log());
    assert_begins_with(&back.media, &joined(&segmenter, 2..4), "from the relay alone");
    relay.signal("INT");
    assert!(relay.wait(Duration::from_secs(20)).success(), "{:?}", relay.log());
}

/// A viewer whose disk has no room, as far as this folder is concerned.
const FULL: &str =
    "mount -t tmpfs -o size=1m none \"$0\" && head -c 2m /dev/zero >\"$0/ballast\" 2>/dev/null; exec \"$@\"";

#[test]
fn a_viewer_whose_disk_is_full_goes_back_all_the_same_and_says_so_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(60, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-origin", "--realtime"];
    let segmenter = Segmenter::start_with(path_str(&feed), "4s", &tracker.url, &dir.join("segmenter"), &more);
    let mut live = Viewer::start_in("live", "live", &segmenter.link, dir, &[]);
    live.wait_for_segment(5);
    let disk = dir.join("disk");
    fs::create_dir(&disk).unwrap();
    // A mount namespace of its own; the command becomes the viewer.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", FULL, path_str(&disk)]);
    command.arg(bin("minuet"));
    let data = disk.join("data");
    let more = ["--start", "2", "--data", path_str(&data)];
    let mut back = Viewer::start_by(&mut command, "live", "back", &segmenter.link, dir, &more);
    back.wait_for_segment(5);
    back.process.signal("INT");
    assert!(back.process.wait(Duration::from_secs(20)).success(), "{:?}", back.process.log());
    let summary = back.summary();
    for zero in ["stalls", "segments_skipped", "corrupt_pieces"] {
        assert_eq!(summary[zero], 0, "{summary} {:?}", back.process.log());
    }
    assert_begins_with(&back.media, &joined(&segmenter, 2..5), "from memory");
    let said = back.process.whole_log().iter().filter(|line| line.contains("cannot be kept in")).count();
    assert_eq!(said, 1, "{:?}", back.process.log());
}

/// A feed of 8 Mbit/s with a key frame each second.
fn wide_feed(seconds: u32, dir: &Path) -> PathBuf {
    let (out, seconds) = (dir.join("wide.ts"), seconds.to_string());
    let picture = "testsrc2=size=640x360:rate=25,noise=alls=40:allf=t";
    let mut args = vec!["-v", "error", "-f", "lavfi", "-i", picture, "-t", &seconds, "-c:v", "mpeg2video"];
    args.extend(["-b:v", "8M", "-minrate", "8M", "-maxrate", "8M", "-bufsize", "4M", "-g", "25", "-bf", "0"]);
    args.extend(["-f", "mpegts", path_str(&out)]);
    run("ffmpeg", &args);
    out
}

#[test]
fn a_pause_that_is_longer_than_the_live_window_costs_not_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = wide_feed(30, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-origin", "--realtime", "--loop"];
    let mut segmenter =
        Segmenter::start_with(path_str(&feed), "10s", &tracker.url, &dir.join("segmenter"), &more);
    let stats = dir.join("paused.jsonl");
    let args = ["watch", &segmenter.link, "--stdout", "--listen", "127.0.0.1:0", "--stats", path_str(&stats)];
    let (mut player, out) = std::io::pipe().unwrap();
    let mut viewer = Process::start("minuet", &args, out.into());
    let mut media = vec![0; 6 << 20];
    player.read_exact(&mut media).unwrap();
    // The player takes nothing until nine more segments are over: the window has room for some 67 s.
    for _ in 0..10 {
        segmenter.process.wait_for(" sealed: ");
    }
    let mut more = vec![0; 12 << 20];
    player.read_exact(&mut more).unwrap();
    viewer.signal("INT");
    // What it wrote meanwhile must not keep it.
    std::thread::spawn(move || std::io::copy(&mut player, &mut std::io::sink()));
    assert!(viewer.wait(Duration::from_secs(20)).success(), "{:?}", viewer.log());
    assert!(viewer.log().iter().any(|line| line.contains("where the picture stood")), "{:?}", viewer.log());
    media.extend(more);
    let segments: Vec<u8> = (0..).map_while(|seq| fs::read(segmenter.segment(seq)).ok()).flatten().collect();
    // The first packets are the tables, whoever wrote them last.
    let first = &media[188 * 20..188 * 400];
    let begin = segments.windows(first.len()).step_by(188).position(|window| window == first).unwrap() * 188;
    let (written, sent) = (&media[188 * 20..], &segments[begin..]);
    let same = written.iter().zip(sent).take_while(|(a, b)| a == b).count();
    assert_eq!(same, written.len().min(sent.len()), "other bytes after the pause: {:?}", viewer.log());
    assert!(same >= written.len() - (2 << 20), "{same} of {}", written.len());
}

#[test]
fn a_moment_is_played_from_the_piece_with_the_key_frame_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = wide_feed(20, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-origin", "--realtime", "--loop"];
    let mut segmenter =
        Segmenter::start_with(path_str(&feed), "20s", &tracker.url, &dir.join("segmenter"), &more);
    let mut live = Viewer::start_in("live", "live", &segmenter.link, dir, &[]);
    segmenter.process.wait_for(" sealed: ");
    live.wait_for_segment(1);
    // Some 9 to 15 s into the segment before.
    let mut back = Viewer::start_in("live", "back", &segmenter.link, dir, &["--start", "-10s"]);
    back.wait_for_segment(1);
    back.process.signal("INT");
    assert!(back.process.wait(Duration::from_secs(20)).success(), "{:?}", back.process.log());
    let (written, segment) = (fs::read(&back.media).unwrap(), fs::read(segmenter.segment(0)).unwrap());
    let first = &written[..188 * 100];
    let at = segment.windows(first.len()).step_by(188).position(|window| window == first).unwrap() * 188;
    assert!(at > segment.len() / 4, "it begins at {at} of {}: {:?}", segment.len(), back.process.log());
    let begins = |packet: &[u8]| packet[1] & 0x40 != 0 && packet[3] & 0x20 != 0 && packet[5] & 0x40 != 0;
    // A piece of 8 Mbit/s has 64 kB.
    let piece = written[..64 << 10].as_chunks::<188>().0;
    assert!(piece.iter().any(|packet| begins(packet)), "a key frame begins in its first piece");
    assert!(written.starts_with(&segment[at..]), "and goes on to the segment's end");
}

#[test]
fn a_recorded_broadcast_is_watched_by_its_link_from_a_relay_when_its_source_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(30, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let recordings = dir.join("recordings");
    let more = ["--no-origin", "--no-realtime", "--exit-at-end", "--record", path_str(&recordings)];
    let mut segmenter =
        Segmenter::start_with(path_str(&feed), "5s", &tracker.url, &dir.join("segmenter"), &more);
    let said = segmenter.process.wait_for("the broadcast's torrent is ");
    let recording = PathBuf::from(said.split_once("torrent is ").unwrap().1.trim()).with_extension("");
    assert!(segmenter.process.wait(Duration::from_secs(60)).success(), "{:?}", segmenter.process.log());
    let args = ["relay", &segmenter.link, "--listen", "127.0.0.1:0", "--recording", path_str(&recording)];
    let mut relay = Process::start("minuet", &args, Stdio::null());
    relay.wait_for("relaying");
    let mut viewer = Viewer::start_in("live", "viewer", &segmenter.link, dir, &["--start", "oldest"]);
    let status = viewer.process.wait(Duration::from_secs(80));
    assert!(status.success(), "{:?}", viewer.process.log());
    let summary = viewer.summary();
    for zero in ["stalls", "segments_skipped", "corrupt_pieces"] {
        assert_eq!(summary[zero], 0, "{summary}");
    }
    let name = |seq| recording.join(segmenter.segment(seq).file_name().unwrap());
    let whole: Vec<u8> = (0..).map_while(|seq| fs::read(name(seq)).ok()).flatten().collect();
    assert!(fs::read(&viewer.media).unwrap() == whole, "all of it, and nothing else");
}

#[test]
fn what_no_node_has_comes_from_other_bittorrent_clients() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(25, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--no-origin", "--no-realtime", "--exit-at-end"];
    let mut segmenter =
        Segmenter::start_with(path_str(&feed), "5s", &tracker.url, &dir.join("segmenter"), &more);
    assert!(segmenter.process.wait(Duration::from_secs(60)).success(), "{:?}", segmenter.process.log());
    let segments = segmenter.segment(0).parent().unwrap().to_owned();
    let torrents = fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().path());
    let torrents: Vec<PathBuf> =
        torrents.filter(|path| path.extension() == Some("torrent".as_ref())).collect();
    let mut aria2 = Command::new("aria2c");
    aria2.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
    aria2.args(["--check-integrity", "--seed-ratio=0", "--dir", path_str(&segments)]);
    aria2.arg(format!("--listen-port={}", free_port())).args(&torrents);
    let seeder = Seeder(aria2.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    let mut viewer =
        Viewer::start_in("live", "viewer", &segmenter.link, dir, &["--start", "1", "--give-up", "60s"]);
    viewer.wait_for_segment(2);
    viewer.process.signal("INT");
    assert!(viewer.process.wait(Duration::from_secs(20)).success(), "{:?}", viewer.process.log());
    drop(seeder);
    let summary = viewer.summary();
    assert_eq!((&summary["segments_skipped"], &summary["peers"]), (&0.into(), &0.into()), "{summary}");
    assert_begins_with(&viewer.media, &joined(&segmenter, 1..2), "from aria2");
}

/// Ends with its test.
struct Seeder(Child);

impl Drop for Seeder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Segments, of a second each; `MINUET_DAY=1440` for a day of minutes.
const DAY: u64 = 120;
/// How many times as fast they are sent as they play: a node takes some more of them a second for a flood.
const FAST: u32 = 4;
/// What the second relay may keep.
const KEEP_BYTES: u64 = 4_000_000;
/// What a relay may take of memory with a day of segments, in MB.
const MEMORY_MB: u64 = 120;

/// Bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            entry.metadata().map_or(0, |about| if about.is_dir() { size(&entry.path()) } else { about.len() })
        })
        .sum()
}

#[test]
fn a_relay_keeps_what_its_bounds_allow_and_any_segment_of_it_can_be_watched() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (clip, port) = (dir.join("clip.ts"), free_port());
    let picture =
        ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-t", "20", "-g", "25"];
    run(
        "ffmpeg",
        &[&picture[..], &["-b:v", "400k", "-minrate", "400k", "-f", "mpegts", path_str(&clip)]].concat(),
    );
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let input = format!("udp://127.0.0.1:{port}");
    let mut segmenter =
        Segmenter::start_with(&input, "1s", &tracker.url, &dir.join("segmenter"), &["--no-origin"]);
    let bytes = format!("{}MB", KEEP_BYTES / 1_000_000);
    let bounds = [["--keep", "24h"], ["--keep-bytes", &bytes]];
    let data = ["day", "small"].map(|name| dir.join(name));
    let mut relays = [0, 1].map(|n| {
        let words = ["relay", &segmenter.link, "--listen", "127.0.0.1:0", "--data", path_str(&data[n])];
        let mut relay = Process::start("minuet", &[&words[..], &bounds[n]].concat(), Stdio::null());
        relay.wait_for("relaying");
        relay
    });
    let encoder = Encoder::repeated(&clip, port, FAST);
    let day = std::env::var("MINUET_DAY").map_or(DAY, |text| text.parse().unwrap());
    while !segmenter.segment(day).exists() {
        segmenter.process.wait_for("sealed");
    }
    drop(encoder);
    segmenter.process.signal("KILL");
    segmenter.process.wait(Duration::from_secs(10));
    let all: u64 = (0..day).map(|seq| fs::metadata(segmenter.segment(seq)).unwrap().len()).sum();
    let memory: Vec<u64> = relays.iter().map(Process::peak_memory_mb).collect();
    let disk = data.each_ref().map(|folder| size(folder));
    eprintln!("{day} segments of {} MB: memory {memory:?} MB, disk {disk:?} B", all / 1_000_000);
    assert!(memory.iter().all(|mb| *mb < MEMORY_MB), "{memory:?} MB");
    assert!(disk[0] > all / 10 * 9 && disk[0] < all / 10 * 12, "{} B of {all}", disk[0]);
    assert!(disk[1] < KEEP_BYTES / 10 * 12, "{} B", disk[1]);
    // The second has thrown the first half away.
    for (n, part) in [0, 1, 2, 3].into_iter().enumerate() {
        let first = part * (day / 4) + rand::random_range(0..day / 4 - 10);
        let mut back = Viewer::start_in(
            "live",
            &format!("back{n}"),
            &segmenter.link,
            dir,
            &["--start", &first.to_string()],
        );
        back.wait_for_segment(first + 4);
        back.process.signal("INT");
        assert!(back.process.wait(Duration::from_secs(20)).success(), "{:?}", back.process.log());
        let summary = back.summary();
        eprintln!("segment {first}: first byte after {} ms", summary["first_byte_ms"]);
        assert_eq!(summary["segments_skipped"], 0, "{summary}");
        assert_begins_with(&back.media, &joined(&segmenter, first..first + 3), &format!("segment {first}"));
    }
    for relay in &mut relays {
        relay.signal("INT");
        assert!(relay.wait(Duration::from_secs(20)).success(), "{:?}", relay.log());
    }
}
