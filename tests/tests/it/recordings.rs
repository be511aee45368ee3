//! A recorded broadcast: any BitTorrent client passes it on, and `minuet watch` plays it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use minuet_tests::{DEADLINE, Process, Segmenter, bin, clip_of, free_port, path_str, run};

/// aria2, alone with its tracker.
fn aria2(folder: &Path, torrent: &str, more: &[&str]) -> Command {
    let mut command = Command::new("aria2c");
    command.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
    command.args([
        "--summary-interval=0",
        "--console-log-level=warn",
        "--dir",
        path_str(folder),
        "-T",
        torrent,
    ]);
    command.args(more).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Ends with its test.
struct Seeder(Child);

impl Drop for Seeder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `minuet watch` gives of a recording.
fn watch(what: &Path, more: &[&str]) -> Vec<u8> {
    let done = Command::new(bin("minuet")).arg("watch").arg(what).args(more).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

#[test]
fn a_recording_is_passed_on_by_other_clients_and_played_from_any_segment() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let feed = clip_of(40, dir);
    let address = format!("127.0.0.1:{}", free_port());
    let state = dir.join("tracker");
    let args = ["--listen", &address, "--data", path_str(&state), "--open"];
    let mut tracker = Process::start("minuet-tracker", &args, Stdio::null());
    tracker.wait_for("listening");
    let recordings = dir.join("recordings");
    // What is kept to be shared is less than what is recorded.
    let more = ["--no-realtime", "--exit-at-end", "--keep", "10s", "--record", path_str(&recordings)];
    let tracker = format!("http://{address}/");
    let mut segmenter = Segmenter::start(&feed, &tracker, &dir.join("segmenter"), &more);
    let said = segmenter.process.wait_for("the broadcast's torrent is ");
    let torrent = said.split_once("torrent is ").unwrap().1.trim();
    assert!(segmenter.process.wait(DEADLINE).success(), "{:?}", segmenter.process.log());
    let folder = PathBuf::from(torrent).with_extension("");
    let name = |seq: u64| folder.join(segmenter.segment(seq).file_name().unwrap());
    let segments: Vec<Vec<u8>> = (0..).map_while(|seq| fs::read(name(seq)).ok()).collect();
    assert!(segments.len() >= 5 && !segmenter.segment(0).exists());

    let port = format!("--listen-port={}", free_port());
    let seeder =
        aria2(&recordings, torrent, &["--check-integrity", "--seed-ratio=0", &port]).spawn().unwrap();
    let _seeder = Seeder(seeder);
    let fetched = dir.join("fetched");
    let port = format!("--listen-port={}", free_port());
    // It asks again after the tracker's interval if the seeder is not there yet, so it is started again instead.
    let leecher =
        || aria2(&fetched, torrent, &["--seed-time=0", "--bt-stop-timeout=5", &port]).status().unwrap();
    let tries = (0..20).find(|_| leecher().success());
    assert!(tries.is_some(), "aria2 fetches what aria2 seeds");

    let fetched = fetched.join(folder.file_name().unwrap());
    let whole = segments.concat();
    for what in [&folder, &PathBuf::from(torrent), &fetched] {
        assert!(watch(what, &[]) == whole, "{}", what.display());
    }
    // Some 5 s each: the one with the moment after 12 s is the third at most.
    let later = watch(&fetched, &["--start", "12s"]);
    assert!((1..=2).any(|from| later == segments[from..].concat()), "{}", later.len());
    assert!(watch(&folder, &["--start", "-1s"]) == *segments.last().unwrap());
    let (_, said) = run("ffprobe", &["-v", "error", "-show_streams", path_str(&name(1))]);
    assert_eq!(said, "", "a segment plays alone");

    // One is missing and one is cut off: all else is played, and what was left out is said.
    fs::remove_file(name(1)).unwrap();
    fs::write(name(2), &segments[2][..1880]).unwrap();
    let done = Command::new(bin("minuet")).arg("watch").arg(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    for sentence in
        ["segment 1 is missing, ", "segment 2 is cut off: 1880 of its", "2 segments are missing or cut off, "]
    {
        assert!(said.contains(sentence), "{said}");
    }
    assert!(done.stdout == [&segments[0], &segments[2][..1880], &segments[3..].concat()].concat());

    let nothing = Command::new(bin("minuet")).args(["watch", path_str(dir)]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("has no segments"));
}
