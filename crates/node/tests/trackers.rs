//! Following a channel through trackers that lie, babble, hang or forget: real sockets, scripted answers.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its tracker must fail")]

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use minuet_guard::tasks::Tasks;
use minuet_node::{
    Error, TrackerClient,
    follow::{Followed, Start, follow},
    tracker::Begin,
};
use minuet_proto::{
    ChannelKey, ChannelState, InfoHash, Phase, PieceHash, PieceIndex, PieceLength, Record, SegmentSeq,
    SignedRecord, SignedState,
    channel_api::{
        Join, MAX_JOIN_LENGTH,
        mesh::{
            CheckedHead, JoinRequest, MAX_JOIN_NODES, MAX_RELAY_URL_LENGTH, MeshJoin, MeshNode, decode_heads,
            head_to_base64,
        },
    },
    link::parse_tracker,
    mesh::{Head, HeadPiece, NodeId, Serial, SignedHead},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// A tracker that answers each request by `script`, which gets the request's path and writes the raw answer.
async fn tracker<F>(script: impl Fn(String, TcpStream) -> F + Send + Sync + 'static) -> TrackerClient
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
            tokio::spawn(script(path, stream));
        }
    });
    TrackerClient::new(parse_tracker(&format!("http://{addr}")).unwrap()).unwrap()
}

async fn answer(stream: &mut TcpStream, kind: &str, body: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

fn key() -> ChannelKey {
    ChannelKey::from_seed(&[4; 32])
}

/// The history of a channel: `length` records.
fn history(key: &ChannelKey, length: u64) -> Vec<SignedRecord> {
    let mut records: Vec<SignedRecord> = Vec::new();
    for seq in 0..length {
        let record = Record {
            channel: key.channel(),
            seq: SegmentSeq(seq),
            prev: records.last().map(|r| r.hash()),
            info_hash: InfoHash::new([1; 20]),
            length: 1,
            piece_length: PieceLength::MIN,
            duration_ms: 5000,
            ingest_ms: seq * 5000,
            sealed_ms: seq * 5000 + 5000,
            discontinuity: false,
            access: Default::default(),
        };
        records.push(SignedRecord::sign(key, record));
    }
    records
}

fn join(records: &[SignedRecord]) -> String {
    serde_json::to_string(&plain_join(records)).unwrap()
}

fn plain_join(records: &[SignedRecord]) -> Join {
    Join {
        channel: key().channel().to_string(),
        state: None,
        records: records.iter().map(SignedRecord::to_base64).collect(),
        oldest: records.first().map(|r| r.seq),
        newest: records.last().map(|r| r.seq),
        peers: Vec::new(),
        place: None,
        nonce: None,
    }
}

fn event(record: &SignedRecord) -> String {
    format!("event: record\nid: {}\ndata: {}\n\n", record.seq, record.to_base64())
}

/// A tracker as it should be: a snapshot of `records[..shown]`, then all from `from` on as events, then silence.
async fn honest(records: Vec<SignedRecord>, shown: usize) -> TrackerClient {
    tracker(move |path, mut stream| {
        let records = records.clone();
        async move {
            let from = path.split_once("from=").and_then(|(_, n)| n.parse().ok());
            if path.contains("/events") {
                let events: String = records
                    .iter()
                    .filter(|r| from.is_some_and(|from: u64| r.seq.0 >= from))
                    .map(event)
                    .collect();
                answer(&mut stream, "text/event-stream", &events).await;
                std::future::pending::<()>().await;
            }
            let from = from.unwrap_or(0);
            let records: Vec<_> = records[..shown].iter().filter(|r| r.seq.0 >= from).cloned().collect();
            answer(&mut stream, "application/json", &join(&records)).await;
        }
    })
    .await
}

struct Following {
    events: tokio::sync::mpsc::Receiver<Followed>,
    tasks: Tasks,
}

impl Following {
    fn start(trackers: Vec<TrackerClient>, start: Start) -> Self {
        let tasks = Tasks::new();
        // Long after every record was sealed.
        let now_ms = || 1_000_000_000;
        let events = follow(key().channel(), trackers, None, start, now_ms, tasks.spawner());
        Self { events, tasks }
    }

    async fn records(&mut self, count: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.len() < count {
            match self.events.recv().await.unwrap() {
                Followed::Record(record) => seen.push(record.seq.0),
                _ => continue,
            }
        }
        seen
    }

    async fn failure(&mut self) -> String {
        loop {
            if let Followed::Failed(failure) = self.events.recv().await.unwrap() {
                return failure.1.to_string();
            }
        }
    }

    /// All tasks end when told.
    async fn end(self) {
        self.tasks.stop().await;
    }
}

#[tokio::test]
async fn endless_answers_are_cut_off() {
    let client = tracker(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
        while stream.write_all(&[b' '; 4096]).await.is_ok() {}
    })
    .await;
    let channel = key().channel();
    let error = client.join(channel, Begin::Newest).await.unwrap_err();
    assert!(matches!(error, Error::Endless(limit) if limit == MAX_JOIN_LENGTH), "{error}");
    let error = client.torrent(channel, SegmentSeq(0)).await.unwrap_err();
    assert!(matches!(error, Error::Endless(_)), "{error}");
}

#[tokio::test]
async fn garbage_is_named() {
    let client =
        tracker(|_, mut stream| async move { answer(&mut stream, "text/plain", "<html>").await }).await;
    let channel = key().channel();
    assert!(matches!(client.join(channel, Begin::Newest).await, Err(Error::Garbage(_))));
    assert!(matches!(client.events(channel, None).await, Err(Error::Garbage(_))));
    assert!(matches!(client.torrent(channel, SegmentSeq(0)).await, Err(Error::Statement(_))));
}

#[tokio::test]
async fn a_web_page_is_named_by_its_title() {
    let page = "<!DOCTYPE html>\n<HTML><Title lang=en> Welcome\n to \x1b[2Jnginx!</title>";
    let client =
        tracker(move |_, mut stream| async move { answer(&mut stream, "text/html", page).await }).await;
    let error = client.join(key().channel(), Begin::Newest).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "answers 200 with a web page (\"Welcome to [2Jnginx!\"), as no Minuet tracker does"
    );
}

#[tokio::test]
async fn no_http_at_all_is_an_error() {
    let client = tracker(|_, mut stream| async move {
        let _ = stream.write_all(b"\0\0\0\0").await;
    })
    .await;
    assert!(matches!(client.join(key().channel(), Begin::Newest).await, Err(Error::Unreachable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_never_answers_is_left() {
    let client = tracker(|_, stream| async move {
        let _held = stream;
        std::future::pending::<()>().await
    })
    .await;
    assert!(matches!(client.join(key().channel(), Begin::Newest).await, Err(Error::Silent(_))));
}

#[tokio::test]
async fn forged_records_are_thrown_away_and_good_ones_kept() {
    let mut records = history(&key(), 2);
    // Signed by somebody else, for its own channel.
    records.push(history(&ChannelKey::from_seed(&[9; 32]), 3).remove(2));
    let client = honest(records, 3).await;
    let snapshot = client.join(key().channel(), Begin::Newest).await.unwrap();
    assert_eq!(snapshot.records.iter().map(|r| r.seq.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(snapshot.rejected, 1);
}

#[tokio::test]
async fn a_refusal_gives_its_reason_without_control_characters() {
    let client = tracker(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 403 F\r\nConnection: close\r\n\r\nnot \x1b[2Jyours\nmore").await;
    })
    .await;
    let error = client.join(key().channel(), Begin::Newest).await.unwrap_err();
    assert_eq!(error.to_string(), "refuses with 403: not [2Jyours");
    assert!(!error.is_passing());
}

#[tokio::test]
async fn a_proxys_page_is_told_from_a_refusal_and_the_sentence_names_the_fix() {
    let client = tracker(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 413 X\r\nConnection: close\r\n\r\n<html>proxy</html>").await;
    })
    .await;
    let error = client.join(key().channel(), Begin::Newest).await.unwrap_err().to_string();
    assert!(
        error.starts_with("answers 413 with a web page") && error.contains("client_max_body_size"),
        "{error}"
    );
}

#[tokio::test]
async fn records_come_in_order_from_snapshot_and_events() {
    let client = honest(history(&key(), 6), 4).await;
    let mut following = Following::start(vec![client.clone()], Start::Oldest);
    assert_eq!(following.records(6).await, [0, 1, 2, 3, 4, 5]);
    following.end().await;
    let mut following = Following::start(vec![client.clone()], Start::Live);
    assert_eq!(following.records(3).await, [3, 4, 5]);
    following.end().await;
    let mut following = Following::start(vec![client], Start::Ago(Duration::from_secs(10)));
    assert_eq!(following.records(5).await, [1, 2, 3, 4, 5]);
    following.end().await;
}

#[tokio::test]
async fn one_good_tracker_is_enough() {
    let liar = {
        // Its history has the true numbers and the source's signature, and is another one.
        let mut other = history(&key(), 3);
        let mut forked = other[1].get().clone();
        forked.prev = Some(forked_hash());
        other[1] = SignedRecord::sign(&key(), forked);
        honest(other, 3).await
    };
    let babbler =
        tracker(|_, mut stream| async move { answer(&mut stream, "text/html", "hello").await }).await;
    let good = honest(history(&key(), 6), 4).await;
    let mut following = Following::start(vec![babbler, good], Start::Oldest);
    assert_eq!(following.records(6).await, [0, 1, 2, 3, 4, 5]);
    following.end().await;
    // The liar alone: the record that does not follow is never given out.
    let mut following = Following::start(vec![liar], Start::Oldest);
    assert_eq!(following.records(2).await, [0, 2]);
    following.end().await;
}

/// A tracker that answers a join with this state, once it may, and has no events.
async fn stating(state: SignedState, may: Arc<Notify>) -> TrackerClient {
    tracker(move |path, mut stream| {
        let (may, state) = (Arc::clone(&may), state.to_base64());
        async move {
            if path.contains("/events") {
                return std::future::pending().await;
            }
            may.notified().await;
            may.notify_one();
            let join = Join { state: Some(state), ..plain_join(&history(&key(), 2)) };
            answer(&mut stream, "application/json", &serde_json::to_string(&join).unwrap()).await;
        }
    })
    .await
}

fn state(at_ms: u64, phase: Phase) -> SignedState {
    let state = ChannelState {
        channel: key().channel(),
        at_ms,
        phase,
        next: SegmentSeq(2),
        segment_ms: 5_000,
        title: String::new(),
        listed: false,
        origin: None,
    };
    SignedState::sign(&key(), state)
}

#[tokio::test]
async fn an_end_that_one_tracker_repeats_is_told_only_when_no_other_knows_better() {
    let phase = async |following: &mut Following| loop {
        match following.events.recv().await.unwrap() {
            Followed::State(state, _) => break state.phase,
            Followed::Failed(_) | Followed::Joined(..) | Followed::Record(_) => {}
        }
    };
    let (now, later) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    now.notify_one();
    let stale = stating(state(5, Phase::Ended), Arc::clone(&now)).await;
    let fresh = stating(state(6, Phase::Live), Arc::clone(&later)).await;
    let mut following = Following::start(vec![stale.clone(), fresh], Start::Live);
    // What the stale one says has been taken in; the other has not said anything yet.
    following.records(1).await;
    later.notify_one();
    assert_eq!(phase(&mut following).await, Phase::Live);
    following.end().await;
    // Nor does a dead tracker keep the end from being told.
    let babbler =
        tracker(|_, mut stream| async move { answer(&mut stream, "text/html", "hello").await }).await;
    let mut following = Following::start(vec![stale, babbler], Start::Live);
    assert_eq!(phase(&mut following).await, Phase::Ended);
    following.end().await;
}

fn forked_hash() -> minuet_proto::RecordHash {
    minuet_proto::RecordHash::new([9; 32])
}

#[tokio::test]
async fn a_gap_in_one_trackers_window_is_filled_by_another() {
    let all = history(&key(), 6);
    let holed: Vec<_> = all.iter().filter(|r| !(2..4).contains(&r.seq.0)).cloned().collect();
    let (holed, whole) = (honest(holed, 4).await, honest(all, 6).await);
    let mut following = Following::start(vec![holed, whole], Start::Oldest);
    assert_eq!(following.records(6).await, [0, 1, 2, 3, 4, 5]);
    following.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_event_stream_is_resumed_where_it_broke() {
    let records = history(&key(), 4);
    let visits = Arc::new(AtomicUsize::new(0));
    let client = tracker({
        let visits = Arc::clone(&visits);
        move |path, mut stream| {
            let (records, visits) = (records.clone(), Arc::clone(&visits));
            async move {
                if !path.contains("/events") {
                    return answer(&mut stream, "application/json", &join(&records[..1])).await;
                }
                let from: usize = path.split_once("from=").unwrap().1.parse().unwrap();
                let visit = visits.fetch_add(1, Ordering::Relaxed);
                // Each visit gives one record and then breaks off; the second gives nonsense first.
                let nonsense = if visit == 1 { "event: record\ndata: !\n\n" } else { "" };
                answer(&mut stream, "text/event-stream", &format!("{nonsense}{}", event(&records[from])))
                    .await;
            }
        }
    })
    .await;
    let mut following = Following::start(vec![client], Start::Oldest);
    assert_eq!(following.records(4).await, [0, 1, 2, 3]);
    assert!(visits.load(Ordering::Relaxed) >= 4);
    following.end().await;
}

#[tokio::test]
async fn a_dead_tracker_is_told_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = parse_tracker(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let mut following = Following::start(vec![TrackerClient::new(url).unwrap()], Start::Live);
    assert!(following.failure().await.contains("cannot be reached"));
    following.end().await;
}

fn head(key: &ChannelKey, first: u64) -> SignedHead {
    let piece = HeadPiece { hash: PieceHash::new([1; 20]), len: 1, ingest_ms: first, random_access: true };
    let head = Head {
        first: Serial::new(first),
        segment: SegmentSeq(0),
        first_index: PieceIndex(0),
        pieces: vec![piece],
    };
    CheckedHead::sign(key, head).into_signed()
}

/// Reads a request's body of a known length and answers with JSON.
async fn answer_post(stream: &mut TcpStream, body: &[u8], answered: &str) {
    let mut got = vec![0; body.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, body);
    answer(stream, "application/json", answered).await;
}

#[tokio::test]
async fn a_mesh_join_is_checked_and_cut_to_its_limits() {
    let mut request = JoinRequest::new(MeshNode::new(NodeId([7; 32])));
    request.about.addrs = vec!["192.0.2.1:4000".parse().unwrap()];
    request.want = 8;
    let node = MeshNode {
        node: NodeId([8; 32]),
        addrs: vec!["192.0.2.2:4000".parse().unwrap(); 16],
        relay: Some("x".repeat(MAX_RELAY_URL_LENGTH + 1)),
        dialable: true,
        no_upload: false,
        is_relay: false,
        // By its own word alone.
        is_source: true,
        source_proof: None,
        upload_kbps: 0,
        keeps_from: None,
    };
    let other = ChannelKey::from_seed(&[9; 32]);
    let answered = MeshJoin {
        nodes: vec![node; 100],
        heads: [head(&key(), 2), head(&key(), 1), head(&other, 3)].iter().map(head_to_base64).collect(),
        relay: Some("http://tracker.example:7070/".into()),
        relay_quic_port: Some(7070),
        relay_quic_cert: Some("0a".repeat(32)),
        observed: "192.0.2.1".parse().unwrap(),
        interval_s: u32::MAX,
        nonce: None,
        proved: true,
    };
    let body = serde_json::to_vec(&request).unwrap();
    let answered = serde_json::to_string(&answered).unwrap();
    let client = tracker(move |path, mut stream| {
        let (body, answered) = (body.clone(), answered.clone());
        async move {
            assert_eq!(path, format!("/c/{}/join", key().channel()));
            answer_post(&mut stream, &body, &answered).await;
        }
    })
    .await;
    let snapshot = client.ask_mesh(key().channel(), &request).await.unwrap();
    assert!(snapshot.nodes.iter().all(|node| !node.is_source));
    assert_eq!(snapshot.heads.iter().map(|head| head.get().first.get()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(snapshot.nodes.len(), MAX_JOIN_NODES);
    assert!(snapshot.nodes.iter().all(|node| node.addrs.len() == 16 && node.relay.is_none()));
    assert_eq!(snapshot.relay.as_deref(), Some("http://tracker.example:7070/"));
    assert_eq!(snapshot.relay_quic_cert, Some([10; 32]));
    assert_eq!(snapshot.interval, minuet_node::tracker::LONGEST_INTERVAL);
}

#[tokio::test]
async fn heads_are_left_at_the_tracker_as_they_are() {
    let heads = [head(&key(), 1), head(&key(), 2)];
    let length = minuet_proto::channel_api::mesh::encode_heads(&heads).len();
    let (sender, mut received) = tokio::sync::mpsc::channel(1);
    let client = tracker(move |path, mut stream| {
        let sender = sender.clone();
        async move {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            answer(&mut stream, "text/plain", "accepted").await;
            sender.send((path, body)).await.unwrap();
        }
    })
    .await;
    client.publish_heads(key().channel(), &heads).await.unwrap();
    let (path, body) = received.recv().await.unwrap();
    assert_eq!(path, format!("/c/{}/heads", key().channel()));
    assert_eq!(decode_heads(&body).unwrap(), heads);
}
