//! The segmenter among others: trackers that come and go, web seed clients, BitTorrent clients.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::common::{CLIP, Segmenter, contents, key};
use minuet_node::{
    TrackerClient,
    tracker::{Begin, News},
};
use minuet_proto::{ChannelId, InfoHash, Metainfo, Phase, SegmentSeq};
use minuet_swarm::{Files, Place, Role, Swarm, SwarmOptions, Teller, Upload, Wanted};
use minuet_tracker::{Config, Tracker};

/// A tracker on loopback; port 0 is any.
async fn tracker(data: &Path, port: u16) -> Tracker {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], port))];
    Tracker::start(Config { listen, udp_listen: Vec::new(), data: data.to_owned(), ..Config::default() })
        .await
        .unwrap()
}

fn base(tracker: &Tracker) -> String {
    format!("http://{}/", tracker.http_addrs()[0])
}

fn client(base: &str) -> TrackerClient {
    TrackerClient::new(base.parse().unwrap()).unwrap()
}

/// The numbers of records as a tracker pushes them, up to `last`.
async fn pushed_until(client: &TrackerClient, channel: ChannelId, last: u64) -> Vec<u64> {
    let mut events = client.events(channel, Some(SegmentSeq(0))).await.unwrap();
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        match events.next().await.unwrap().unwrap() {
            News::Record(record) => numbers.push(record.seq.0),
            News::State(_) => {}
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_gets_every_record_whether_it_was_away_or_lost_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // A port that was free a moment ago.
    let first = tracker(&dir.path().join("t0"), 0).await;
    let (at, port) = (base(&first), first.http_addrs()[0].port());
    first.shutdown().await;

    let arguments = ["-", "--segment", "1s", "--channel", "Tower", "--tracker", at.as_str()];
    let mut segmenter = Segmenter::start(&data, &arguments);
    let channel = segmenter.link().channel;
    segmenter.feed(&CLIP[..CLIP.len() / 2]);
    segmenter.wait_for("segment 1 sealed");
    segmenter.wait_for("the stream goes on");
    let running = tracker(&dir.path().join("t1"), port).await;
    segmenter.wait_for("is back and has everything");
    assert!(pushed_until(&client(&at), channel, 1).await.starts_with(&[0, 1]));
    running.shutdown().await;

    // Another tracker at the same place, which knows nothing: the next record brings all others with it.
    let forgetful = tracker(&dir.path().join("t2"), port).await;
    segmenter.feed(&CLIP[CLIP.len() / 2..]);
    segmenter.wait_for("segment 5 sealed");
    segmenter.terminate();
    let (status, _, log) = segmenter.finish();
    assert!(status.success(), "{log}");
    let join = client(&at).join(channel, Begin::Seq(SegmentSeq(0))).await.unwrap();
    let all = contents(&data).0;
    assert_eq!(join.records, all);
    let state = join.state.unwrap();
    assert_eq!((state.phase, state.next), (Phase::Ended, SegmentSeq(all.len() as u64)));
    assert_eq!(state.title, "Tower");
    assert_eq!(join.rejected, 0);
    forgetful.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_folder_goes_on_where_the_tracker_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = tracker(&dir.path().join("t"), 0).await;
    let at = base(&tracker);
    let feed = dir.path().join("feed.ts");
    fs::write(&feed, &*CLIP).unwrap();
    let (feed, key_file) = (feed.to_str().unwrap(), dir.path().join("tower.key"));
    let key_file = key_file.to_str().unwrap();
    let arguments = [
        feed,
        "--no-realtime",
        "--segment",
        "2s",
        "--exit-at-end",
        "--tracker",
        at.as_str(),
        "--key",
        key_file,
    ];
    let mut channel = None;
    for data in ["one", "two"] {
        let mut segmenter = Segmenter::start(&dir.path().join(data), &arguments);
        let link = segmenter.link();
        assert_eq!(*channel.get_or_insert(link.channel), link.channel);
        let (status, _, log) = segmenter.finish();
        assert!(status.success(), "{log}");
    }
    let join = client(&at).join(channel.unwrap(), Begin::Seq(SegmentSeq(0))).await.unwrap();
    // The tracker cannot tell whether a segment 4 was begun and seen live: its number is left out.
    assert_eq!(crate::common::numbers(&join.records), [0, 1, 2, 3, 5, 6, 7, 8]);
    tracker.shutdown().await;
}

/// A finished recording that is being seeded and announced.
struct Broadcast {
    segmenter: Segmenter,
    peers: SocketAddr,
    tracker: Tracker,
    at: String,
    minute: InfoHash,
    torrent: Metainfo,
    media: PathBuf,
    dir: tempfile::TempDir,
}

impl Broadcast {
    /// Broadcasts the clip as one segment, from a file.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tracker = tracker(&dir.path().join("t"), 0).await;
        let at = base(&tracker);
        let (data, feed) = (dir.path().join("data"), dir.path().join("feed.ts"));
        fs::write(&feed, &*CLIP).unwrap();
        let arguments = [feed.to_str().unwrap(), "--no-realtime", "--tracker", at.as_str()];
        let mut segmenter = Segmenter::start(&data, &arguments);
        let (peers, web) = segmenter.addresses();
        let channel = segmenter.link().channel;
        segmenter.wait_for("the feed has ended");
        pushed_until(&client(&at), channel, 0).await;
        let torrent = client(&at).torrent(channel, SegmentSeq(0)).await.unwrap();
        assert!(torrent.web_seeds[0].starts_with(&web));
        let media = data.join("segments").join(&torrent.info().name);
        assert_eq!(key(&data).channel(), channel);
        Self { segmenter, peers, tracker, at, minute: torrent.info_hash(), torrent, media, dir }
    }

    /// Writes a .torrent with these trackers and web seeds in place of its own.
    fn torrent_file(&self, announce: Vec<String>, web_seeds: Vec<String>) -> PathBuf {
        let mut torrent = self.torrent.clone();
        (torrent.announce, torrent.web_seeds) = (announce, web_seeds);
        let path = self.dir.path().join("minute.torrent");
        fs::write(&path, torrent.encode()).unwrap();
        path
    }

    /// Fetches with aria2 and compares.
    fn fetch_with_aria2(&self, torrent: &Path) {
        let out = self.dir.path().join("aria2");
        let done = Command::new("aria2c")
            .args(["--seed-time=0", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"])
            .args(["--listen-port=20000-60000", "--summary-interval=0", "--console-log-level=warn"])
            .args(["--bt-stop-timeout=60", "--dir"])
            .args([&out, torrent])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        self.compare(&out.join(&self.torrent.info().name));
    }

    fn compare(&self, path: &Path) {
        assert!(
            fs::read(path).unwrap() == fs::read(&self.media).unwrap(),
            "{} is the minute",
            path.display()
        );
    }

    async fn end(self) {
        self.segmenter.terminate();
        let (status, _, log) = self.segmenter.finish();
        assert!(status.success(), "{log}");
        self.tracker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aria2_fetches_a_minute_from_peers_and_from_the_web_seed() {
    let broadcast = Broadcast::start().await;
    let announce = broadcast.torrent.announce.clone();
    assert_eq!(announce, [format!("{}announce", broadcast.at)]);
    broadcast.fetch_with_aria2(&broadcast.torrent_file(announce, Vec::new()));
    fs::remove_dir_all(broadcast.dir.path().join("aria2")).unwrap();
    let web_seeds = broadcast.torrent.web_seeds.clone();
    broadcast.fetch_with_aria2(&broadcast.torrent_file(Vec::new(), web_seeds));
    broadcast.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transmission_fetches_a_minute_and_is_then_all_the_seed_that_a_viewer_needs() {
    let broadcast = Broadcast::start().await;
    let torrent =
        broadcast.torrent_file(broadcast.torrent.announce.clone(), broadcast.torrent.web_seeds.clone());
    let out = broadcast.dir.path().join("transmission");
    fs::create_dir(&out).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut transmission = Command::new("transmission-cli")
        .args(["--no-portmap", "--no-downlimit", "--no-uplimit", "--port", &port.to_string(), "--config-dir"])
        .arg(broadcast.dir.path().join("transmission-config"))
        .arg("--download-dir")
        .args([&out, &torrent])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Its status line says when it has everything.
    let mut said = String::new();
    let mut stdout = transmission.stdout.take().unwrap();
    while !said.contains("Seeding") {
        let mut chunk = [0; 256];
        match std::io::Read::read(&mut stdout, &mut chunk).unwrap() {
            0 => panic!("transmission ended: {said}"),
            count => said.push_str(&String::from_utf8_lossy(&chunk[..count])),
        }
    }
    broadcast.compare(&out.join(&broadcast.torrent.info().name));

    let folder = tempfile::tempdir().unwrap();
    let options = SwarmOptions {
        data_dir: folder.path().to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        upload: Upload::Unlimited,
        role: Role::Viewer,
        teller: Teller::User,
    };
    let viewer = Swarm::start(options).await.unwrap();
    let wanted = Wanted {
        info_hash: broadcast.minute,
        torrent: None,
        peers: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        trackers: Vec::new(),
        spread: Some(Place(1 << 31)),
    };
    let download = viewer.fetch(wanted).await.unwrap();
    download.complete().await.unwrap();
    broadcast.compare(&download.path());
    assert_eq!(download.transfer().from_source, 0);
    transmission.kill().unwrap();
    transmission.wait().unwrap();
    viewer.stop().await;
    broadcast.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_is_told_from_other_peers_and_serves_what_an_earlier_run_recorded() {
    let broadcast = Broadcast::start().await;
    let (minute, data) = (broadcast.minute, broadcast.dir.path().join("data"));
    let folder = tempfile::tempdir().unwrap();
    let options = SwarmOptions {
        data_dir: folder.path().to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        upload: Upload::Never,
        role: Role::Viewer,
        teller: Teller::User,
    };
    let viewer = Swarm::start(options).await.unwrap();
    let wanted = |peer: SocketAddr| Wanted {
        info_hash: minute,
        torrent: None,
        peers: vec![peer],
        trackers: Vec::new(),
        spread: None,
    };
    let download = viewer.fetch(wanted(broadcast.peers)).await.unwrap();
    download.complete().await.unwrap();
    broadcast.compare(&download.path());
    let length = broadcast.torrent.info().length;
    let transfer = download.transfer();
    assert!(transfer.from_source + transfer.from_peers >= length, "{transfer:?}");
    viewer.forget(minute, Files::Delete).await.unwrap();

    let Broadcast { segmenter, tracker, media, dir, .. } = broadcast;
    segmenter.kill();
    let mut segmenter = Segmenter::start(&data, &["-"]);
    let (peers, web) = segmenter.addresses();
    segmenter.link();
    let download = viewer.fetch(wanted(peers)).await.unwrap();
    download.complete().await.unwrap();
    assert!(fs::read(download.path()).unwrap() == fs::read(&media).unwrap());
    viewer.stop().await;

    // The web seed: ranges, and no way to anything but finished segments.
    let media = fs::read(&media).unwrap();
    let name = download.metainfo().info().name.clone();
    let get = |path: &str, range: Option<&str>| {
        let request = reqwest::Client::new().get(format!("{web}{path}"));
        range.map(|range| request.try_clone().unwrap().header("Range", range)).unwrap_or(request).send()
    };
    let part = get(&format!("segments/{name}"), Some("bytes=1000-1999")).await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 1000-1999/{}", media.len()));
    assert_eq!(part.bytes().await.unwrap(), media[1000..2000]);
    let whole = get(&format!("segments/{name}"), None).await.unwrap();
    assert_eq!(whole.headers()["content-type"], "video/mp2t");
    assert!(whole.bytes().await.unwrap() == media);
    let beyond = get(&format!("segments/{name}"), Some("bytes=99999999-")).await.unwrap();
    assert_eq!(beyond.status(), 416);
    assert_eq!(beyond.headers()["content-range"], format!("bytes */{}", media.len()));
    let end = get(&format!("segments/{name}"), Some("bytes=-1000")).await.unwrap();
    assert_eq!(end.status(), 206);
    assert_eq!(end.bytes().await.unwrap(), media[media.len() - 1000..]);
    let several = get(&format!("segments/{name}"), Some("bytes=0-1,5-6")).await.unwrap();
    assert_eq!(several.status(), 200);
    assert!(several.bytes().await.unwrap() == media);
    // A download that was broken off goes on only with the same segment.
    let etag = get(&format!("segments/{name}"), None).await.unwrap().headers()["etag"].clone();
    for (tag, status) in [(etag.to_str().unwrap(), 206), ("\"another\"", 200)] {
        let request = reqwest::Client::new().get(format!("{web}segments/{name}"));
        let answer = request.header("Range", "bytes=5-").header("If-Range", tag).send().await.unwrap();
        assert_eq!(answer.status(), status, "{tag}");
    }
    let head = reqwest::Client::new().head(format!("{web}segments/{name}")).header("Range", "bytes=0-0");
    let head = head.send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &media.len().into()));
    let stem = name.strip_suffix(".ts").unwrap();
    let prefix = name.split('-').next().unwrap();
    for path in [
        format!("segments/{stem}.record"),
        format!("segments/{prefix}-00000007.ts"),
        format!("segments/{prefix}-0.ts"),
        "segments/00000000-00000000.ts".to_owned(),
        "segments/..%2Fchannel.key".to_owned(),
        "segments/%2e%2e/channel.key".to_owned(),
        "channel.key".to_owned(),
        String::new(),
    ] {
        assert_eq!(get(&path, None).await.unwrap().status(), 404, "{path}");
    }
    drop((segmenter, dir));
    tracker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_are_told_that_the_feed_is_silent_and_that_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = tracker(&dir.path().join("tracker"), 0).await;
    let at = base(&tracker);
    let data = dir.path().join("data");
    let arguments = ["-", "--segment", "1s", "--silence", "1s", "--tracker", at.as_str()];
    let mut segmenter = Segmenter::start(&data, &arguments);
    let channel = segmenter.link().channel;
    // Some seconds of feed, and then nothing.
    segmenter.feed(&CLIP[..CLIP.len() / 188 / 2 * 188]);
    segmenter.wait_for("the feed is silent");
    let mut events = client(&at).events(channel, None).await.unwrap();
    let mut told = async |phase: Phase| loop {
        match events.next().await.unwrap().unwrap() {
            News::State(state) if state.phase == phase => break,
            News::State(_) | News::Record(_) => {}
        }
    };
    told(Phase::Silent).await;
    segmenter.feed(&CLIP[CLIP.len() / 188 / 2 * 188..]);
    told(Phase::Live).await;
    segmenter.end_feed();
    told(Phase::Ended).await;
    drop(segmenter);
    tracker.shutdown().await;
}
