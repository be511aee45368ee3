//! Links, players, folders and proxies as people have them, and the sentences that tell what is the matter.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use minuet_proto::ChannelLink;
use minuet_tests::{DEADLINE, Process, Segmenter, Tracker, bin, clip_of, free_port, path_str, run};

const SECONDS: u32 = 12;

fn on_air(dir: &Path, more: &[&str]) -> (Tracker, Segmenter) {
    let feed = clip_of(SECONDS, dir);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), more);
    (tracker, segmenter)
}

fn viewer(args: &[&str]) -> Process {
    Process::start("minuet", args, Stdio::null())
}

/// A script that stands in for a player: what it is given goes to the file `got`.
fn player(dir: &Path) -> (String, std::path::PathBuf) {
    let (got, script) = (dir.join("got.ts"), dir.join("player"));
    fs::write(&script, format!("#!/bin/sh\nexec cat >{}\n", got.display()))
        .expect("a file in the test's folder");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    (script.display().to_string(), got)
}

/// From a desktop's launcher, cron or nohup: standard output is no terminal.
#[test]
fn a_named_player_is_started_without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path(), &[]);
    let (player, got) = player(dir.path());
    let log = dir.path().join("xsession-errors");
    let out = File::create(&log).unwrap();
    let mut viewer = Process::start("minuet", &["watch", &segmenter.link, "--player", &player], out.into());
    assert!(viewer.wait(DEADLINE).success(), "{:?}", viewer.log());
    assert_eq!(fs::metadata(&log).unwrap().len(), 0, "media in the log");
    let media = fs::read(&got).unwrap();
    assert!(media.len() > 188 * 100 && media.iter().step_by(188).all(|byte| *byte == 0x47));
    let log = viewer.whole_log();
    assert!(log.iter().any(|line| line.contains("playing") && line.contains("passed on")), "{log:?}");
}

/// Standard output and standard error in one file: media would go among the log lines.
#[test]
fn media_does_not_go_into_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = File::create(&path).unwrap();
    let link = format!("magnet:?xs=urn:btpk:{}&tr=http://127.0.0.1:9", "0a".repeat(32));
    let status = Command::new(bin("minuet"))
        .args(["watch", &link])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status();
    assert_eq!(status.unwrap().code(), Some(1));
    assert!(fs::read_to_string(&path).unwrap().contains("--player"));
}

#[test]
fn links_of_other_programs_are_read_and_what_is_of_no_use_is_named() {
    let key = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
    let tracker = "http%3A%2F%2F127.0.0.1%3A7070";
    let inspect = |link: String| {
        let done = Command::new(bin("minuet")).args(["inspect", &link]).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{link}: {text}");
        assert!(text.contains(key) && text.contains("http://127.0.0.1:7070/"), "{link}: {text}");
        text
    };
    let udp =
        inspect(format!("magnet:?xs=urn:btpk:{key}&tr=udp%3A%2F%2Ftracker.example%3A6969&tr={tracker}"));
    assert!(udp.contains("passed over") && udp.contains("udp://tracker.example:6969"), "{udp}");
    let wss = inspect(format!("magnet:?xs=urn:btpk:{key}&tr={tracker}&tr=wss%3A%2F%2Ftracker.example"));
    assert!(wss.contains("wss://tracker.example"), "{wss}");
    inspect(format!("magnet:?xs=urn:btpk:{key}&tr=%3C%21DOCTYPE%20html%3E&tr={tracker}"));
    inspect(format!("magnet:?xs=urn:btpk:{key}&tr=&tr={tracker}"));
    inspect(format!("MAGNET:?xs=URN:BTPK:{}&tr={tracker}", key.to_uppercase()));
    inspect(format!("magnet:?xs=urn%3Abtpk%3A{key}&tr={tracker}"));
    inspect(format!("magnet:?xs.1=urn:btpk:{key}&tr.1={tracker}"));
    inspect(format!(" magnet:?xs=urn:btpk:{key}&amp;tr={tracker}\n"));
    inspect(format!("<http://127.0.0.1:7070/c/{key}/?utm=mail#x>,"));
}

/// What a viewer says within its first seconds; it must not be of firewalls.
#[test]
fn a_sentence_tells_the_cause_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let key = "0a".repeat(32);
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let said = |args: &[&str], sentence: &str| {
        let mut viewer = viewer(&[&["watch", "--stdout"], args].concat());
        viewer.wait_for(sentence);
        assert!(!viewer.log().iter().any(|line| line.contains("firewall")), "{:?}", viewer.log());
    };
    // The link.
    let cut = format!("magnet:?xs=urn:btpk:{key}");
    let mut viewer = viewer(&["watch", &cut]);
    assert_eq!(viewer.wait(DEADLINE).code(), Some(1));
    assert!(viewer.log().concat().contains("the shell cut the link at &"), "{:?}", viewer.log());
    said(
        &[&format!("{cut}&tr=udp://t.example&tr={}", tracker.url)],
        "passed over in the link: udp://t.example",
    );
    // The tracker.
    said(&[&key, "--tracker", &tracker.url], "does not know the channel");
    said(&[&format!("http://127.0.0.1:{}/c/{key}", free_port())], "nothing listens there");
    said(&[&format!("http://name.invalid/c/{key}")], "its name is not known here");
    let page = serve(|_| "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>".into());
    said(&[&format!("http://{page}/c/{key}")], "no Minuet tracker");
    let absent = "<html><head><title>404 Not Found</title></head>";
    let page = serve(move |_| {
        let length = absent.len();
        format!(
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{absent}"
        )
    });
    said(&[&format!("http://{page}/c/{key}")], "answers 404 with a web page (\"404 Not Found\")");
    // A proxy whose port 80 sends everybody elsewhere.
    let to = tracker.url.clone();
    let moved = serve(move |path| {
        format!(
            "HTTP/1.1 301 Moved\r\nLocation: {to}{path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    });
    said(&[&format!("http://{moved}/c/{key}")], &tracker.url);
}

/// Answers every request on a port of its own, whose address it returns, with what `answer` makes of its path.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
            let (mut request, mut line, mut length) = (String::new(), String::new(), 0);
            let _ = reader.read_line(&mut request);
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                let is_length = line.to_ascii_lowercase().starts_with("content-length:");
                if let Some((_, value)) = line.split_once(':').filter(|_| is_length) {
                    length = value.trim().parse().unwrap_or(0);
                }
                line.clear();
            }
            let _ = reader.take(length).read_to_end(&mut Vec::new());
            let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
            let _ = stream.write_all(answer(&path).as_bytes());
        }
    });
    addr
}

#[test]
fn a_broadcast_that_has_ended_is_said_to_have() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, mut segmenter) = on_air(dir.path(), &["--exit-at-end"]);
    assert!(segmenter.process.wait(DEADLINE).success());
    let mut viewer = viewer(&["watch", "--stdout", &segmenter.link]);
    assert_eq!(viewer.wait(DEADLINE).code(), Some(1));
    let log = viewer.whole_log().concat();
    assert!(log.contains("the broadcast ended less than a minute ago") && !log.contains("firewall"), "{log}");
    assert!(!log.contains("behind the source"), "{log}");
    // Its segments are gone with their source.
    let mut viewer = self::viewer(&["watch", "--stdout", "--mode", "minute", &segmenter.link]);
    assert_eq!(viewer.wait(DEADLINE).code(), Some(1), "{:?}", viewer.log());
    let log = viewer.whole_log().concat();
    assert!(
        log.contains("nobody seeds its last segment any more") && log.contains("--start oldest"),
        "{log}"
    );
}

/// What is still seeded of a broadcast that has ended is played, and the viewer is told what it is.
#[test]
fn what_is_left_of_a_broadcast_is_played_and_told_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, mut segmenter) = on_air(dir.path(), &[]);
    segmenter.process.wait_for("the feed has ended");
    let mut viewer = viewer(&["watch", "--stdout", "--start", "oldest", &segmenter.link]);
    assert!(viewer.wait(DEADLINE).success(), "{:?}", viewer.log());
    let log = viewer.whole_log().concat();
    assert!(log.contains("the broadcast ended less than a minute ago"), "{log}");
}

/// A source that was killed has left heads of its last pieces at the tracker, and nobody has the pieces.
#[test]
fn nobody_is_told_that_it_plays_before_media_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, mut segmenter) = on_air(dir.path(), &["--loop"]);
    segmenter.process.wait_for("segment 0 sealed");
    segmenter.process.signal("KILL");
    assert!(!segmenter.process.wait(DEADLINE).success());
    let mut viewer = viewer(&["watch", "--stdout", &segmenter.link]);
    let said = viewer.wait_for("waiting: ");
    assert!(said.contains("none of them answers: they have just gone"), "{said}");
    assert!(!viewer.log().iter().any(|line| line.contains("playing")), "{:?}", viewer.log());
}

#[test]
fn a_media_file_in_a_links_place_is_told_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let clip = clip_of(SECONDS, dir.path());
    for verb in ["watch", "inspect"] {
        let mut viewer = viewer(&[verb, path_str(&clip)]);
        assert_eq!(viewer.wait(DEADLINE).code(), Some(1));
        let log = viewer.whole_log().concat();
        assert!(log.contains("is a media file") && log.contains("minuet-segmenter"), "{log}");
    }
}

#[test]
fn a_source_that_takes_no_live_viewers_is_told_from_a_firewall() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path(), &["--no-live", "--loop"]);
    let mut viewer = viewer(&["watch", "--stdout", &segmenter.link]);
    let said = viewer.wait_for("waiting: ");
    assert!(said.contains("--mode minute") && !said.contains("firewall"), "{said}");
}

/// Key frames far apart, and pictures that all need the one before them in between, as of an encoder that was never told to
/// send key frames. Who joins once the last is out of reach has nowhere to begin, until the next comes.
#[test]
fn a_viewer_who_finds_nowhere_to_begin_waits_and_says_for_what() {
    /// More than a viewer's window of pieces.
    const OUT_OF_REACH: u64 = 18 << 20;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = dir.join("feed.ts");
    let picture = "testsrc2=size=320x180:rate=25:duration=60";
    let encode = [
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-tune",
        "zerolatency",
        "-g",
        "9999",
        "-sc_threshold",
        "0",
        "-force_key_frames",
        "45",
    ];
    // Padded, so that the key frame is soon out of reach.
    let mux = ["-pix_fmt", "yuv420p", "-muxrate", "7600000", "-f", "mpegts", path_str(&feed)];
    run("ffmpeg", &[&["-v", "error", "-f", "lavfi", "-i", picture], &encode[..], &mux[..]].concat());
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let segmenter =
        Segmenter::start_with(path_str(&feed), "60s", &tracker.url, &dir.join("segmenter"), &["--realtime"]);
    let recorded = || -> u64 {
        let files = fs::read_dir(segmenter.data.join("segments")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    };
    let until = Instant::now() + DEADLINE;
    while recorded() < OUT_OF_REACH {
        assert!(Instant::now() < until, "{} bytes recorded", recorded());
        thread::sleep(Duration::from_millis(100));
    }
    let mut viewer = viewer(&["watch", "--stdout", &segmenter.link]);
    viewer.wait_for("waiting for a key frame");
    assert!(!viewer.log().iter().any(|line| line.contains("firewall")), "{:?}", viewer.log());
    viewer.wait_for("playing");
}

/// A program in a container: no home, no environment, a file system that is read-only but for a folder in memory, a user
/// that nobody knows. The command becomes the program.
fn contained(program: &str, args: &[&str], stdout: Stdio) -> Process {
    const READ_ONLY: &str = "mount -o remount,bind,ro / && mount -t tmpfs none /dev/shm && \
                             mount -t tmpfs -o ro none /tmp && exec setpriv --reuid 12345 --regid 12345 --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", READ_ONLY, "sh", program]).args(args);
    Process::spawn(program, command.env_clear().env("PATH", "/usr/bin:/bin"), stdout)
}

#[test]
fn all_programs_run_in_containers_without_home_and_with_read_only_file_systems() {
    // What is in the image, for all users to read: programs, a feed, and the key as a secret of root's.
    let image = tempfile::Builder::new().prefix("minuet-").tempdir_in("/var/tmp").unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(image.path(), 0o755);
    let [tracker, segmenter, minuet] = ["minuet-tracker", "minuet-segmenter", "minuet"].map(|name| {
        let path = image.path().join(name);
        fs::copy(bin(name), &path).unwrap();
        path_str(&path).to_owned()
    });
    let (feed, key) = (clip_of(SECONDS, image.path()), image.path().join("key"));
    mode(&feed, 0o644);
    fs::write(&key, "11".repeat(32)).unwrap();
    mode(&key, 0o444);
    let at = format!("127.0.0.1:{}", free_port());
    let mut tracker = contained(&tracker, &["--listen", &at, "--data", "/dev/shm/tracker"], Stdio::null());
    tracker.wait_for("listening");
    let url = format!("http://{at}");
    let on_air = ["--loop", "--segment", "5s", "--listen", "127.0.0.1:0", "--record", "/dev/shm/record"];
    let own = ["--tracker", &url, "--data", "/dev/shm/segmenter", "--key", path_str(&key)];
    let mut segmenter =
        contained(&segmenter, &[&[path_str(&feed)], &on_air[..], &own].concat(), Stdio::piped());
    let link = segmenter.first_line();
    let mut viewer = contained(&minuet, &["watch", "--stdout", &link], Stdio::null());
    viewer.wait_for("playing");
    let log = segmenter.log();
    assert!(log.iter().any(|line| line.contains("can be read by others (mode 444)")), "{log:?}");
    for mut process in [viewer, segmenter, tracker] {
        process.signal("TERM");
        assert!(process.wait(DEADLINE).success(), "{:?}", process.log());
    }
}

#[test]
fn what_was_in_the_data_folder_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path(), &["--loop"]);
    let data = dir.path().join("data");
    // The last is where minutes are kept, which stay.
    let folders = ["minutes", "sealed", "state", "kept"];
    for folder in folders {
        fs::create_dir_all(data.join(folder)).unwrap();
        fs::write(data.join(folder).join("mine"), "x").unwrap();
    }
    fs::write(data.join("lock"), "mine").unwrap();
    for more in [&["--seed-minutes"][..], &["--mode", "minute"]] {
        let args = [&["watch", "--stdout", &segmenter.link, "--data", path_str(&data)], more].concat();
        let mut viewer = viewer(&args);
        viewer.wait_for("playing");
        viewer.signal("TERM");
        assert!(viewer.wait(DEADLINE).success());
        let mut names: Vec<_> = fs::read_dir(&data)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| !name.starts_with("nodes-"));
        names.sort();
        assert_eq!(names, ["kept", "lock", "minutes", "sealed", "state"]);
        assert_eq!(fs::read(data.join("lock")).unwrap(), b"mine");
        assert!(folders.iter().all(|folder| data.join(folder).join("mine").exists()));
    }
}

/// Everybody may make names in the temporary folder: a pipe blocks whoever opens it.
#[test]
fn a_pipe_in_the_shared_temporary_folder_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path(), &["--loop"]);
    let shared = dir.path().join("tmp");
    fs::create_dir_all(shared.join("minuet-watch-x")).unwrap();
    run("mkfifo", &[path_str(&shared.join("minuet-watch-x/lock"))]);
    let mut command = Command::new(bin("minuet"));
    command.args(["watch", "--stdout", &segmenter.link]).env("TMPDIR", &shared);
    let mut viewer = Process::spawn("minuet", &mut command, Stdio::null());
    viewer.wait_for("playing");
}

/// The title is the broadcaster's, and lands on terminals.
#[test]
fn a_title_turns_no_text_around() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path(), &["--loop", "--channel", "Radio \u{202e}rewoT\u{200b}"]);
    let link: ChannelLink = segmenter.link.parse().unwrap();
    assert_eq!(link.title.as_deref(), Some("Radio rewoT"));
    let mut viewer = viewer(&["watch", "--stdout", &segmenter.link]);
    assert!(viewer.wait_for("playing").contains("Radio rewoT: playing"));
}

/// In a pipe or a file the log says what changes, and nothing again and again.
#[test]
fn a_log_does_not_repeat_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (_tracker, segmenter) = on_air(dir.path(), &[]);
    let mut viewer = viewer(&["watch", "--stdout", &segmenter.link]);
    assert!(viewer.wait(DEADLINE).success());
    let log = viewer.whole_log();
    let about: Vec<_> =
        log.iter().map(|line| line.split_once("INFO").map_or(&**line, |(_, text)| text)).collect();
    let mut once = about.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), about.len(), "{log:#?}");
    assert!(log.len() < 12, "{log:#?}");
    assert!(log.iter().any(|line| line.contains("received") && line.contains("passed on")), "{log:#?}");
}
