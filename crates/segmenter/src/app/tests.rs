//! Who notices when a part dies. The whole segmenter runs, but for its command line; a feed comes as a file in real time.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use clap::Parser as _;
use minuet_proto::InfoHash;
use minuet_tracker::{Config, Tracker};
use tokio::time::Instant;

use super::*;

/// A test that waits longer than this is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Eight seconds of MPEG-TS with a key frame each half second, to be played in a loop.
fn feed(dir: &Path) -> String {
    let path = dir.join("feed.ts");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=20", "-t", "8"])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-keyint_min", "10", "-f", "mpegts"])
        .arg(&path)
        .status()
        .expect("these tests need ffmpeg");
    assert!(made.success());
    path.to_str().unwrap().to_owned()
}

async fn tracker(data: &Path) -> Tracker {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let config = Config { listen, udp_listen: Vec::new(), data: data.to_owned(), ..Config::default() };
    Tracker::start(config).await.unwrap()
}

/// A running segmenter, and where its servers are.
struct Broadcast {
    running: Running,
    web: SocketAddr,
    status: SocketAddr,
    tracker: Tracker,
    dir: tempfile::TempDir,
}

/// An address that is free now; the program under test takes it at once.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Broadcast {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tracker = tracker(&dir.path().join("tracker")).await;
        let (feed, data) = (feed(dir.path()), dir.path().join("data"));
        let (web, status, at) = (free(), free(), format!("http://{}/", tracker.http_addrs()[0]));
        let arguments = ["minuet-segmenter", &feed, "--loop", "--segment", "1s", "--tracker", &at];
        let options = Options::try_parse_from(arguments.into_iter().map(str::to_owned).chain([
            "--listen".to_owned(),
            web.to_string(),
            "--bt-listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--status".to_owned(),
            status.to_string(),
            "--data".to_owned(),
            data.to_str().unwrap().to_owned(),
        ]))
        .unwrap();
        let screen = Screen::start(minuet_console::Setup {
            variable: "RUST_LOG",
            filter: "warn",
            target: false,
            time_on_terminal: true,
        });
        let opened = Opened::open(&options).await.unwrap();
        let running = Running::start(opened, &options, screen).await.unwrap();
        Self { running, web, status, tracker, dir }
    }

    /// The next segment that is sealed and seeded from now on.
    async fn next_segment(&self) -> SignedRecord {
        let mut offered = self.running.shelf.watch_offered();
        offered.mark_unchanged();
        timeout(PATIENCE, offered.changed()).await.expect("segments go on").unwrap();
        self.running.shelf.newest_record().unwrap()
    }

    /// Waits until the tracker has a segment.
    async fn published(&self, seq: SegmentSeq) -> InfoHash {
        let client =
            TrackerClient::new(format!("http://{}/", self.tracker.http_addrs()[0]).parse().unwrap()).unwrap();
        let mut events = client.events(self.running.channel, Some(seq)).await.unwrap();
        loop {
            let news = timeout(PATIENCE, events.next()).await.expect("it is published").unwrap().unwrap();
            if let minuet_node::tracker::News::Record(record) = news
                && record.seq >= seq
            {
                return record.info_hash;
            }
        }
    }

    /// Waits until a server answers.
    async fn answers(&self, url: String) -> String {
        let began = Instant::now();
        loop {
            match reqwest::get(&url).await {
                Ok(answer) if answer.status().is_success() => return answer.text().await.unwrap_or_default(),
                _ => assert!(began.elapsed() < PATIENCE, "{url} does not answer"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn end(self) -> SignedRecord {
        let newest = self.running.shelf.newest_record().unwrap();
        let Running { tasks, mut recording, .. } = self.running;
        recording.end();
        timeout(PATIENCE, recording.over()).await.unwrap().unwrap();
        timeout(PATIENCE, tasks.stop()).await.unwrap();
        self.tracker.shutdown().await;
        newest
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_dies_and_can_begin_anew_is_started_again_and_the_channel_goes_on() {
    let broadcast = Broadcast::start().await;
    broadcast.next_segment().await;
    for part in ["publishing", "the HTTP server", "the status page", "the status line"] {
        broadcast.running.tasks.kill_once(part).await;
        let segment = broadcast.next_segment().await;
        broadcast.published(segment.seq).await;
        let segment_url = format!("http://{}/segments/{}", broadcast.web, segment.file_name());
        assert!(!broadcast.answers(segment_url).await.is_empty(), "{part}");
        broadcast.answers(format!("http://{}/metrics", broadcast.status)).await;
    }
    // The figures go on as well.
    let open = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("minuet_open_segment ")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let newest = broadcast.next_segment().await.seq.0;
    let began = Instant::now();
    while open(&broadcast.answers(format!("http://{}/metrics", broadcast.status)).await) < newest {
        assert!(began.elapsed() < PATIENCE, "the figures stand still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broadcast.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_without_which_there_is_no_broadcast_ends_it_with_a_sentence() {
    for part in ["seeding", "the watch over the live mesh"] {
        let broadcast = Broadcast::start().await;
        let segment = broadcast.next_segment().await;
        let Broadcast { running, tracker, dir, .. } = broadcast;
        running.tasks.kill_once(part).await;
        let signals = Signals::new().unwrap();
        let error = timeout(PATIENCE, running.run(false, Told::new(signals)))
            .await
            .expect("it ends")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(&format!("{part} has stopped: ")), "{error}");
        assert!(error.contains("start the segmenter again"), "{error}");
        let sealed = std::fs::read_dir(dir.path().join("data/segments")).unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".record")?.rsplit_once('-')?.1.parse::<u64>().ok()
        });
        assert!(sealed.max().unwrap() > segment.seq.0, "what was open is sealed");
        tracker.shutdown().await;
    }
}
