//! A real clip as a live feed, through the built binaries, to several viewers.

use std::{collections::HashMap, fs, path::Path, process::Command, time::Duration};

use minuet_tests::{
    Process, Segmenter, Tracker, Viewer, assert_ends_with, clip, clip_of, free_port, path_str, run,
};

const TS_PACKET: usize = 188;

/// 112 s of film are at least 21 segments of about 5 s.
const FEED_SECONDS: u32 = 112;

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// MD5 of a stream's elementary payload.
fn payload_md5(file: &Path, stream: &str) -> String {
    run("ffmpeg", &["-v", "error", "-i", path_str(file), "-map", stream, "-c", "copy", "-f", "md5", "-"]).0
}

#[test]
fn three_viewers_see_the_feed_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(FEED_SECONDS, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let mut segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &[]);
    let mut viewers = vec![Viewer::start("first", &segmenter.link, dir, &[])];
    segmenter.process.wait_for("segment 4 sealed");
    viewers.push(Viewer::start("second", &segmenter.link, dir, &[]));
    segmenter.process.wait_for("segment 8 sealed");
    // By the tracker's short link this time.
    let key = segmenter.link.split("btpk:").nth(1).unwrap().split('&').next().unwrap();
    viewers.push(Viewer::start("third", &format!("{}/c/{key}", tracker.url), dir, &[]));

    // The feed ends, so the channel does, and so do the viewers.
    for viewer in &mut viewers {
        let status = viewer.process.wait(Duration::from_secs(200));
        assert!(status.success(), "{:?}", viewer.process.log());
    }
    let mut segments = Vec::new();
    while segmenter.segment(segments.len() as u64).exists() {
        segments.push(segmenter.segment(segments.len() as u64));
    }
    assert!(segments.len() >= 21, "only {} segments", segments.len());

    let first = read(&viewers[0].media);
    let joined: Vec<u8> = segments.iter().flat_map(|path| read(path)).collect();
    assert!(first == joined, "the first viewer has not the joined segments");
    for viewer in &mut viewers {
        let summary = viewer.summary();
        let log = viewer.process.whole_log();
        assert_eq!(summary["segments_skipped"], 0, "{log:#?} {summary}");
        assert_eq!(summary["stalls"], 0, "{log:#?} {summary}");
        assert!(summary["first_byte_ms"].is_u64() && summary["live_delay_ms"].is_u64(), "{summary}");
        let boundaries = summary["handover_gap_ms"].as_array().unwrap().len() as u64;
        assert_eq!(boundaries + 1, summary["segments_played"].as_u64().unwrap(), "{summary}");
        let media = read(&viewer.media);
        assert_ends_with(&joined, &media, || summary.to_string());
        assert!(boundaries >= 8, "a viewer joined too late: {summary}");
    }

    // But for the two tables at the start of each segment, the segments are the feed, from its first picture on.
    let without_tables: Vec<u8> =
        segments.iter().flat_map(|path| read(path).split_off(2 * TS_PACKET)).collect();
    let feed_bytes = read(&feed);
    assert!(feed_bytes.ends_with(&without_tables), "bytes of the feed were changed or lost");
    assert!(feed_bytes.len() - without_tables.len() <= 4 * TS_PACKET, "too much was dropped at the start");
    for stream in ["0:v", "0:a"] {
        assert_eq!(payload_md5(&viewers[0].media, stream), payload_md5(&feed, stream), "{stream}");
    }

    // Each segment plays alone.
    for segment in &segments {
        let (_, complaints) = run("ffmpeg", &["-v", "warning", "-i", path_str(segment), "-f", "null", "-"]);
        assert_eq!(complaints, "", "{}", segment.display());
    }

    // And mpv plays across all boundaries on a pipe without a word of its demuxer and decoders. (Its core warns when the
    // machine is too busy to play in time.)
    let media = fs::File::open(&viewers[0].media).unwrap();
    let mpv = Command::new("mpv")
        .args(["--no-config", "--vo=null", "--ao=null", "--ao-null-untimed=yes", "--untimed", "--cache=yes"])
        .args(["--msg-level=all=warn,cplayer=error", "--term-status-msg=", "-"])
        .stdin(media)
        .output()
        .expect("mpv runs");
    let said = String::from_utf8_lossy(&mpv.stdout).into_owned() + &String::from_utf8_lossy(&mpv.stderr);
    assert!(mpv.status.success(), "{said}");
    let warnings: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn viewers_play_on_when_a_viewer_the_tracker_or_the_segmenter_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let port = free_port();
    let mut tracker = Tracker::start(port, &dir.join("tracker"));
    let data = dir.join("segmenter");
    let mut segmenter = Segmenter::start(&clip(), &tracker.url, &data, &["--loop"]);
    let mut steady = Viewer::start("steady", &segmenter.link, dir, &[]);
    let mut killed = Viewer::start("killed", &segmenter.link, dir, &[]);
    killed.wait_for_segment(0);

    killed.process.signal("KILL");
    killed.process.wait(Duration::from_secs(10));
    let mut again = Viewer::start("again", &segmenter.link, dir, &[]);
    again.wait_for_segment(1);
    steady.wait_for_segment(1);

    tracker.process.signal("KILL");
    tracker.process.wait(Duration::from_secs(10));
    drop(tracker);
    let tracker = Tracker::start(port, &dir.join("tracker"));
    steady.wait_for_segment(4);

    segmenter.process.signal("KILL");
    segmenter.process.wait(Duration::from_secs(10));
    let mut sealed = 0;
    while segmenter.segment(sealed).exists() {
        sealed += 1;
    }
    let link = segmenter.link.clone();
    segmenter = Segmenter::start(&clip(), &tracker.url, &data, &["--loop"]);
    assert_eq!(segmenter.link, link, "the channel keeps its key");
    steady.wait_for_segment(sealed + 1);
    again.wait_for_segment(sealed + 1);

    // Asked to end, the segmenter seals and says so, and the viewers end by themselves.
    segmenter.process.signal("TERM");
    assert!(segmenter.process.wait(Duration::from_secs(30)).success(), "{:?}", segmenter.process.log());
    for viewer in [&mut steady, &mut again] {
        let status = viewer.process.wait(Duration::from_secs(60));
        assert!(status.success(), "{:?}", viewer.process.log());
    }

    // Nobody was given two segments of one number: each that the viewer played lies there once, in order.
    let media = read(&steady.media);
    let mut at = 0;
    let mut seq = 0;
    let mut lengths = HashMap::new();
    // The one that was open when the segmenter was killed has a number and no file.
    while seq <= sealed || segmenter.segment(seq).exists() {
        if let Some(segment) =
            std::fs::read(segmenter.segment(seq)).ok().filter(|it| media[at..].starts_with(it))
        {
            at += segment.len();
            lengths.insert(seq, segment.len());
        }
        seq += 1;
    }
    let log = steady.process.whole_log();
    assert_eq!(at, media.len(), "what was played is whole segments in order: {lengths:?} of {seq}: {log:#?}");
    let first = [sealed, sealed + 1].into_iter().find(|seq| segmenter.segment(*seq).exists());
    assert!(
        first.is_some_and(|seq| lengths.contains_key(&seq)),
        "the first segment after the restart was played"
    );
    // It was sealed as the segmenter ended, which passed it on first.
    assert!(lengths.contains_key(&(seq - 1)), "the last segment was played: {lengths:?} of {seq}: {log:#?}");
}

#[test]
fn what_cannot_work_fails_with_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fails = |name: &str, args: &[&str], says: &str| {
        let mut process = Process::start(name, args, std::process::Stdio::null());
        let status = process.wait(Duration::from_secs(60));
        let log = process.whole_log();
        assert_eq!(status.code(), Some(1), "{name} {args:?}: {log:?}");
        let last = log.last().cloned().unwrap_or_default();
        assert!(last.contains(says), "{name} {args:?} ends with {last:?}");
    };
    let key = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
    let link = format!("magnet:?xs=urn:btpk:{key}");
    fails("minuet", &["watch", &link], "--tracker");
    let link = format!("{link}&tr=http://127.0.0.1:{}", free_port());
    let taken = dir.join("taken");
    fs::write(&taken, "").unwrap();
    fails("minuet", &["watch", &link, "--data", path_str(&taken)], "choose another --data");
    fails("minuet", &["watch", &link, "--stats", "/no/such/folder/stats"], "choose another --stats");
    fails("minuet", &["inspect", "/no/such/file"], "no file");

    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    let data = dir.join("data");
    fails("minuet-tracker", &["--listen", &busy, "--data", path_str(&data)], &busy);
    let noise = dir.join("noise.bin");
    let bytes: Vec<u8> = (0u32..2_000_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&noise, bytes).unwrap();
    let tracker = format!("http://127.0.0.1:{}", free_port());
    let segmenter = |input: &str, more: &[&str], says: &str| {
        let mut args = vec![input, "--tracker", &tracker, "--data", path_str(&data)];
        args.extend(more);
        fails("minuet-segmenter", &args, says);
    };
    segmenter("/no/such/film.ts", &["--listen", "127.0.0.1:0"], "/no/such/film.ts");
    segmenter(path_str(&noise), &["--listen", "127.0.0.1:0"], "noise.bin");
    segmenter(path_str(&clip()), &["--listen", &busy], &busy);
}

#[test]
fn inspect_shows_what_the_segmenter_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(12, dir);
    let data = dir.join("segmenter");
    let more = ["--no-realtime", "--exit-at-end"];
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let mut segmenter = Segmenter::start(&feed, &tracker.url, &data, &more);
    assert!(segmenter.process.wait(Duration::from_secs(60)).success(), "{:?}", segmenter.process.log());
    let inspect = |what: &Path| run(path_str(&minuet_tests::bin("minuet")), &["inspect", path_str(what)]).0;
    let torrent = inspect(&segmenter.segment(0).with_extension("torrent"));
    let record = inspect(&segmenter.segment(0).with_extension("record"));
    let info_hash = |text: &str| {
        text.lines().find_map(|line| line.strip_prefix("info hash")).map(|hash| hash.trim().to_owned())
    };
    assert!(info_hash(&record).is_some());
    assert_eq!(info_hash(&record), info_hash(&torrent), "{record}\n{torrent}");
    assert!(inspect(Path::new(&segmenter.link)).contains(&tracker.url));
}
