//! Channels without a tracker: found in the DHT by their key alone. Its nodes here are libtorrent's. And channels that a tracker
//! lists.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use minuet_proto::ChannelLink;
use minuet_tests::{
    Process, Segmenter, Tracker, Viewer, assert_ends_with, bin, clip_of, free_port, path_str, run,
};

/// Nodes of the DHT.
struct Dht {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
    /// Where to enter.
    door: String,
}

impl Dht {
    /// None where libtorrent is not at hand, which is said.
    fn start() -> Option<Self> {
        let library = std::env::var_os("MINUET_CLIENTS").map(|folder| Path::new(&folder).join("libtorrent"));
        let Some(library) = library.filter(|library| library.exists()) else {
            eprintln!("skipped: libtorrent is missing; set MINUET_CLIENTS to what scripts/clients prints");
            return None;
        };
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/dht.py"))
            .env("PYTHONPATH", library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let door = answers.next().expect("where to enter").expect("text");
        Some(Self { child, answers, door })
    }

    /// The item of a key, as libtorrent reads it.
    fn item(&mut self, key: &str) -> serde_json::Value {
        writeln!(self.child.stdin.as_ref().expect("a pipe"), "{key}").expect("it reads");
        let line = self.answers.next().expect("an answer").expect("text");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Drop for Dht {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A source that no tracker knows, and its channel's key.
fn source(feed: &Path, dir: &Path, more: &[&str]) -> (Segmenter, String) {
    let data = dir.join("segmenter");
    let mut command = Command::new(bin("minuet-segmenter"));
    command.args([path_str(feed), "--segment", "5s", "--listen", "127.0.0.1:0", "--data", path_str(&data)]);
    command.args(more);
    let mut process = Process::spawn("minuet-segmenter", &mut command, Stdio::piped());
    let link = process.first_line();
    let key = link.parse::<ChannelLink>().expect("a channel link").channel.to_string();
    (Segmenter { process, link, data }, key)
}

fn viewer(name: &str, key: &str, net: &Dht, dir: &Path) -> Viewer {
    let data = dir.join(name);
    let more = ["--dht", "--dht-bootstrap", &net.door, "--data", path_str(&data)];
    Viewer::start_in("live", name, key, dir, &more)
}

#[test]
fn a_key_alone_finds_the_channel_and_its_end_is_heard_without_a_tracker() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let Some(mut net) = Dht::start() else { return };
    let (mut segmenter, key) = source(&clip_of(40, dir), dir, &["--dht", "--dht-bootstrap", &net.door]);
    segmenter.process.wait_for("can be found by its key alone");
    let (shown, _) = run(path_str(&bin("minuet")), &["inspect", &key, "--dht", "--dht-bootstrap", &net.door]);
    assert!(shown.contains("the channel has signed") && shown.contains("127.0.0.1:"), "{shown}");
    let item = net.item(&key);
    assert!(item["n"].as_str().is_some_and(|nodes| !nodes.is_empty()), "{item}");
    let mut viewer = viewer("viewer", &key, &net, dir);
    let status = viewer.process.wait(Duration::from_secs(120));
    assert!(status.success(), "{:?}", viewer.process.log());
    let joined: Vec<u8> =
        (0..).map(|seq| segmenter.segment(seq)).map_while(|path| fs::read(path).ok()).flatten().collect();
    let summary = viewer.summary();
    assert_ends_with(&joined, &fs::read(&viewer.media).unwrap(), || format!("{summary}"));
    assert!(summary["handover_gap_ms"].as_array().unwrap().len() >= 2, "{summary}");
}

#[test]
fn viewers_find_each_other_when_the_source_has_gone_and_again_without_the_dht() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let Some(net) = Dht::start() else { return };
    let (mut segmenter, key) = source(&clip_of(60, dir), dir, &["--dht", "--dht-bootstrap", &net.door]);
    segmenter.process.wait_for("can be found by its key alone");
    let mut one = viewer("one", &key, &net, dir);
    one.wait_for_segment(1);
    segmenter.process.signal("KILL");
    let mut two = viewer("two", &key, &net, dir);
    two.wait_until("is linked with the other viewer", |line| line["peers"].as_u64() >= Some(1));
    // Nodes that it was linked with are written down after some seconds.
    let known = || {
        fs::read_dir(dir.join("two"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("nodes-")))
    };
    two.wait_until("remembers it", |_| known());
    two.process.signal("INT");
    assert!(two.process.wait(Duration::from_secs(20)).success());
    drop(net);
    let data = dir.join("two");
    let mut again = Viewer::start_in("live", "again", &key, dir, &["--data", path_str(&data)]);
    again.wait_until("is linked again", |line| line["peers"].as_u64() >= Some(1));
}

#[test]
fn viewers_on_the_sources_network_need_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (_segmenter, key) = source(&clip_of(40, dir), dir, &["--local"]);
    let data = dir.join("viewer");
    let mut viewer = Viewer::start_in("live", "viewer", &key, dir, &["--local", "--data", path_str(&data)]);
    viewer.wait_for_segment(2);
}

#[test]
fn a_trackers_list_leads_to_the_channel() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let tracker = Tracker::start(free_port(), &dir.join("tracker"));
    let more = ["--listed", "--channel", "Radio Tower"];
    let mut segmenter = Segmenter::start(&clip_of(20, dir), &tracker.url, &dir.join("segmenter"), &more);
    segmenter.process.wait_for("segment 1 sealed");
    let minuet = bin("minuet");
    let (shown, _) = run(path_str(&minuet), &["channels", &tracker.url, "--search", "tower"]);
    let line: serde_json::Value = serde_json::from_str(shown.trim()).unwrap();
    assert_eq!(line["title"], "Radio Tower");
    assert_eq!(line["phase"], "live");
    let link = |text: &str| text.parse::<ChannelLink>().expect("a channel link").channel;
    assert_eq!(link(line["link"].as_str().unwrap()), link(&segmenter.link));
    let (shown, _) = run(path_str(&minuet), &["channels", &tracker.url, "--search", "jazz"]);
    assert_eq!(shown, "");
}
