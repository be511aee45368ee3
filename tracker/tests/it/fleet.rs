//! Several trackers behind one redis-server (Debian's), which is killed and comes back empty.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Events, Publisher, announce, base, config, get, node_id, sample};
use minuet_proto::Phase;
use minuet_proto::channel_api::mesh::{
    CheckedHead, JoinRequest, MeshJoin, MeshNode, encode_heads, head_to_base64,
};
use minuet_proto::mesh::{Head, HeadPiece, Serial};
use minuet_proto::{PieceHash, PieceIndex, SegmentSeq};
use minuet_tracker::{Config, StartError, Tracker};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A redis-server of its own, killed when dropped. It keeps nothing on disk.
struct Store {
    port: u16,
    process: Option<Child>,
}

impl Store {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut store = Self { port, process: None };
        store.resume().await;
        store
    }

    /// Starts it on its port; returns when it takes connections.
    async fn resume(&mut self) {
        let mut process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(self.port.to_string())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        while !lines.next_line().await.unwrap().unwrap().contains("Ready to accept connections") {}
        // Read on, so that it never waits for who reads.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.process = Some(process);
    }

    async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    fn config(&self, data: &Path) -> Config {
        let mut config = config(data);
        config.shared = Some(format!("redis://127.0.0.1:{}/0", self.port));
        config
    }
}

async fn started(store: &Store, data: &Path) -> (Tracker, String) {
    let tracker = Tracker::start(store.config(data)).await.unwrap();
    let at = base(&tracker);
    until(async || sample(&at, "fleet_connected").await == 1).await;
    (tracker, at)
}

/// Asks until it is so.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(60), async { while !is_so().await {} }).await.unwrap();
}

async fn join(at: &str, publisher: &Publisher, n: u8) -> Option<MeshJoin> {
    let mut request = JoinRequest::new(MeshNode::new(node_id(n)));
    request.about.addrs = vec![([127, 0, 0, 1], 4000 + u16::from(n)).into()];
    request.want = 8;
    request.heads = 8;
    publisher.join_mesh(at, &request).await.1
}

#[tokio::test]
async fn what_one_tracker_accepts_all_push_and_viewers_of_one_meet_those_of_another() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut store = Store::start().await;
    let (a, at_a) = started(&store, folders[0].path()).await;
    let (b, at_b) = started(&store, folders[1].path()).await;
    let mut publisher = Publisher::new(1);
    let state = publisher.state(5, Phase::Live, "", false);
    publisher.publish_state(&at_a, &state).await;
    let first = publisher.seal();
    publisher.publish(&at_a, &first).await;
    until(async || get(&format!("{at_b}c/{}", publisher.channel())).await.0 == 200).await;

    // Pushed by the other one, with nobody asking it again.
    let mut events = Events::open(&at_b, &publisher.channel(), "?from=0", None).await;
    assert_eq!(events.next_record().await, Some(0));
    let second = publisher.seal();
    let start = Instant::now();
    publisher.publish(&at_a, &second).await;
    assert_eq!(events.next_record().await, Some(1));
    println!("pushed by the other tracker {:?} after it was published", start.elapsed());
    let torrent = get_bytes(&format!("{at_b}c/{}/1.torrent", publisher.channel())).await;
    assert_eq!(torrent, second.torrent.encode());

    // Heads, nodes and peers of one are told by the other.
    let piece = HeadPiece { hash: PieceHash::new([1; 20]), len: 1, ingest_ms: 1, random_access: true };
    let head = Head {
        first: Serial::new(1),
        segment: SegmentSeq(2),
        first_index: PieceIndex(0),
        pieces: vec![piece],
    };
    let head = CheckedHead::sign(&publisher.key, head).into_signed();
    publisher.post(&at_a, "heads", encode_heads([&head]).to_vec()).await;
    join(&at_a, &publisher, 1).await;
    announce(&at_a, second.record.info_hash.as_bytes(), 7001, "&left=0").await;
    until(async || {
        let joined = join(&at_b, &publisher, 2).await.unwrap();
        joined.heads == [head_to_base64(&head)]
            && joined.nodes.iter().any(|node| node.node == node_id(1))
            && publisher.join(&at_b, "").await.peers.iter().any(|peer| peer.addr.port() == 7001 && peer.seed)
    })
    .await;

    // One that comes later has all that was before.
    let (c, at_c) = started(&store, folders[2].path()).await;
    assert_eq!(publisher.numbers(&publisher.join(&at_c, "?from=oldest").await), [0, 1]);

    // The store goes: each goes on alone. It comes back empty: what each has accepted meanwhile reaches the others.
    store.kill().await;
    until(async || sample(&at_a, "fleet_connected").await + sample(&at_b, "fleet_connected").await == 0)
        .await;
    let third = publisher.seal();
    assert_eq!(publisher.publish(&at_a, &third).await.0, 200);
    assert!(join(&at_b, &publisher, 3).await.is_some());
    store.resume().await;
    assert_eq!(events.next_record().await, Some(2));
    until(async || publisher.join(&at_c, "").await.newest == Some(SegmentSeq(2))).await;

    // A tracker goes: the others notice nothing, and one that begins anew has everything.
    a.shutdown().await;
    let fourth = publisher.seal();
    assert_eq!(publisher.publish(&at_c, &fourth).await.0, 200);
    assert_eq!(events.next_record().await, Some(3));
    let fresh = tempfile::tempdir().unwrap();
    let (again, at_again) = started(&store, fresh.path()).await;
    assert_eq!(publisher.numbers(&publisher.join(&at_again, "?from=oldest").await), [0, 1, 2, 3]);
    for tracker in [b, c, again] {
        tracker.shutdown().await;
    }
}

#[tokio::test]
async fn a_forged_message_in_the_store_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start().await;
    let (tracker, at) = started(&store, folder.path()).await;
    let (mut publisher, mut other) = (Publisher::new(1), Publisher::new(2));
    let first = publisher.seal();
    publisher.publish(&at, &first).await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/0", store.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let forged = minuet_tracker::fleet::news::News {
        channel: publisher.channel(),
        kind: minuet_tracker::fleet::news::Kind::Record(SegmentSeq(1)),
        body: other.seal().publication().into(),
    };
    for message in [forged.encode(1).to_vec(), b"nonsense".to_vec()] {
        let () =
            redis::cmd("PUBLISH").arg("minuet:news").arg(message).query_async(&mut connection).await.unwrap();
    }
    // What is good and comes after it is taken: so all before has been looked at.
    let good = minuet_tracker::fleet::news::News { body: publisher.seal().publication().into(), ..forged };
    let message = good.encode(1).to_vec();
    let () =
        redis::cmd("PUBLISH").arg("minuet:news").arg(message).query_async(&mut connection).await.unwrap();
    until(async || publisher.join(&at, "").await.newest == Some(SegmentSeq(1))).await;
    assert_eq!(publisher.numbers(&publisher.join(&at, "?from=oldest").await), [0, 1]);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_store_that_is_away_does_not_stop_a_tracker_and_a_url_that_is_none_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut away = config(folder.path());
    away.shared = Some("redis://127.0.0.1:1/0".into());
    let tracker = Tracker::start(away).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    let segment = publisher.seal();
    assert_eq!(publisher.publish(&at, &segment).await.0, 200);
    assert_eq!(sample(&at, "fleet_connected").await, 0);
    tracker.shutdown().await;
    let mut wrong = config(folder.path());
    wrong.shared = Some("http://127.0.0.1/".into());
    let error = Tracker::start(wrong).await.unwrap_err();
    assert!(
        matches!(error, StartError::Shared(_)) && error.to_string().contains("--shared redis://"),
        "{error}"
    );
}

async fn get_bytes(url: &str) -> Vec<u8> {
    reqwest::get(url).await.unwrap().bytes().await.unwrap().to_vec()
}

#[tokio::test]
async fn what_somebody_else_has_put_into_the_store_cuts_nobody_off() {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let store = Store::start().await;
    let publisher = Publisher::new(1);
    let other = Publisher::new(2);
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/0", store.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    // Fields that are no tracker's, a sample from the year 2^64, a key of another kind, channels that are none.
    let future =
        serde_json::json!({ "at_ms": u64::MAX, "nodes": [], "peers": [{"addr": "198.51.100.66:6881"}] });
    let mut alien = redis::pipe();
    let (samples, windows) =
        (format!("minuet:n:{}", publisher.channel()), format!("minuet:c:{}", publisher.channel()));
    alien.cmd("HSET").arg(&samples).arg("not a number").arg("x").arg("7").arg(future.to_string()).ignore();
    alien
        .cmd("HSET")
        .arg(&windows)
        .arg(&b"\xff\xfe"[..])
        .arg("x")
        .arg("r9x")
        .arg("y")
        .arg("s")
        .arg("z")
        .ignore();
    alien.cmd("SET").arg(format!("minuet:n:{}", other.channel())).arg("a string").ignore();
    alien.cmd("SET").arg(format!("minuet:c:{}", other.channel())).arg("a string").ignore();
    alien.cmd("ZADD").arg("minuet:channels").arg(1e300).arg("x").arg(5).arg("no channel").ignore();
    alien.cmd("SET").arg("minuet:nonces").arg("too short").ignore();
    let () = alien.query_async(&mut connection).await.unwrap();

    let (a, at_a) = started(&store, folders[0].path()).await;
    let (b, at_b) = started(&store, folders[1].path()).await;
    for publisher in [&publisher, &other] {
        publisher.publish_state(&at_a, &publisher.state(5, Phase::Live, "", false)).await;
        until(async || get(&format!("{at_b}c/{}", publisher.channel())).await.0 == 200).await;
    }
    // Samples go on, those of the channel with the alien fields too.
    join(&at_a, &publisher, 1).await;
    until(async || {
        join(&at_b, &publisher, 9)
            .await
            .is_some_and(|told| told.nodes.iter().any(|node| node.node == node_id(1)))
    })
    .await;
    assert_eq!(publisher.join(&at_b, "").await.peers, [], "a sample from the future is none");
    assert_eq!(sample(&at_a, "fleet_connected").await, 1);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn trackers_of_a_fleet_take_each_others_nonces() {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let store = Store::start().await;
    let (a, at_a) = started(&store, folders[0].path()).await;
    let (b, at_b) = started(&store, folders[1].path()).await;
    let publisher = Publisher::new(1);
    publisher.publish_state(&at_a, &publisher.state(5, Phase::Live, "", false)).await;
    until(async || get(&format!("{at_b}c/{}", publisher.channel())).await.0 == 200).await;
    let nonce = publisher.join(&at_a, "").await.nonce.unwrap();
    let request = JoinRequest::new(MeshNode::new(node_id(1)));
    assert!(publisher.join_with(&at_b, &request, nonce).await.1.unwrap().proved);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn what_is_longer_in_the_store_than_trackers_write_costs_no_memory() {
    /// Bytes of each name, value and message, and how many there are of most.
    const LONG: (usize, usize) = (20_000_000, 4);
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let store = Store::start().await;
    let mut publisher = Publisher::new(1);
    let (a, at_a) = started(&store, folders[0].path()).await;
    publisher.publish_state(&at_a, &publisher.state(5, Phase::Live, "", false)).await;
    let first = publisher.seal();
    publisher.publish(&at_a, &first).await;
    join(&at_a, &publisher, 1).await;
    // The store makes them itself, so that they are in no memory of this process.
    let make = "local long = string.rep('x', tonumber(ARGV[1])) for n = 1, tonumber(ARGV[2]) do \
        redis.call('HSET', KEYS[1], '9' .. n, long) redis.call('HSET', KEYS[1], long .. n, 'x') \
        redis.call('HSET', KEYS[2], 'r' .. (100 + n), long) redis.call('HSET', KEYS[2], long .. n, 'x') \
        redis.call('ZADD', 'minuet:channels', ARGV[3], long .. n) end \
        redis.call('PUBLISH', 'minuet:news', long) redis.call('SET', 'minuet:nonces', long)";
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/0", store.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    connection.set_response_timeout(Duration::from_secs(60));
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let before = most_memory();
    let () = redis::cmd("EVAL")
        .arg(make)
        .arg(2)
        .arg(format!("minuet:n:{}", publisher.channel()))
        .arg(format!("minuet:c:{}", publisher.channel()))
        .arg(LONG.0)
        .arg(LONG.1)
        .arg(u64::try_from(now_ms).unwrap())
        .query_async(&mut connection)
        .await
        .unwrap();
    // One that comes now has the record that is good, and the node that the other knows.
    let (b, at_b) = started(&store, folders[1].path()).await;
    until(async || publisher.join(&at_b, "?from=oldest").await.newest == Some(SegmentSeq(0))).await;
    until(async || {
        let told = join(&at_b, &publisher, 9).await;
        told.is_some_and(|told| told.nodes.iter().any(|node| node.node == node_id(1)))
    })
    .await;
    // News go on.
    let second = publisher.seal();
    publisher.publish(&at_a, &second).await;
    until(async || publisher.join(&at_b, "").await.newest == Some(SegmentSeq(1))).await;
    let more = (most_memory() - before) >> 10;
    println!("{} texts of {} bytes: {more} MiB more", 5 * LONG.1, LONG.0);
    // Less than a few of the long ones; two trackers need some for themselves.
    assert!(more < 60, "{more} MiB more");
    a.shutdown().await;
    b.shutdown().await;
}

/// The most memory that this process has had, in KiB.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
