//! The channel API over real sockets.

use std::io::{Read as _, Write as _};

use crate::support::{Events, Publisher, announce, base, config, contains, get, sample};
use minuet_proto::channel_api::directory::{Directory, MAX_DIRECTORY_CHANNELS};
use minuet_proto::{Phase, Record, RecordHash, SegmentSeq, SignedRecord};
use minuet_tracker::{Config, StartError, Tracker};

#[tokio::test]
async fn published_joined_pushed_and_still_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    assert_eq!(get(&format!("{at}c/{}", publisher.channel())).await.0, 404);

    let state = publisher.state(5, Phase::Live, "Radio <Tower>", true);
    assert_eq!(publisher.publish_state(&at, &state).await, (200, "accepted\n".into()));
    let first = publisher.seal();
    assert_eq!(publisher.publish(&at, &first).await, (200, "accepted\n".into()));

    // A subscriber is sent the state, the records it asks for, and then what comes.
    let mut events = Events::open(&at, &publisher.channel(), "?from=0", None).await;
    let mut only_new = Events::open(&at, &publisher.channel(), "", None).await;
    assert_eq!(events.next().await.unwrap(), ("state".into(), None, state.to_base64()));
    assert_eq!(only_new.next().await.unwrap(), ("state".into(), None, state.to_base64()));
    assert_eq!(events.next().await.unwrap(), ("record".into(), Some(0), first.record.to_base64()));
    let second = publisher.seal();
    publisher.publish(&at, &second).await;
    assert_eq!(events.next().await.unwrap(), ("record".into(), Some(1), second.record.to_base64()));
    assert_eq!(only_new.next().await.unwrap(), ("record".into(), Some(1), second.record.to_base64()));
    let ended = publisher.state(9, Phase::Ended, "Radio <Tower>", true);
    publisher.publish_state(&at, &ended).await;
    assert_eq!(events.next().await.unwrap(), ("state".into(), None, ended.to_base64()));

    // A record admits its torrent as a swarm, and the join tells of its peers.
    let hash = second.record.info_hash;
    assert!(contains(&announce(&at, hash.as_bytes(), 7001, "&left=0").await, b"5:peers0:"));
    let answer = announce(&at, hash.as_bytes(), 7002, "&left=5").await;
    assert!(contains(&answer, b"5:peers6:\x7f\0\0\x01\x1b\x59"));
    assert!(contains(&answer, b"11:external ip4:\x7f\0\0\x01"));
    let join = publisher.join(&at, "").await;
    assert_eq!(publisher.numbers(&join), [0, 1]);
    assert_eq!((join.oldest, join.newest), (Some(SegmentSeq(0)), Some(SegmentSeq(1))));
    assert_eq!(join.state, Some(ended.to_base64()));
    let mut peers: Vec<_> = join.peers.iter().map(|peer| (peer.addr.port(), peer.seed)).collect();
    peers.sort_unstable();
    assert_eq!(peers, [(7001, true), (7002, false)]);

    let torrent = reqwest::get(format!("{at}c/{}/1.torrent", publisher.channel())).await.unwrap();
    assert_eq!(torrent.headers()["content-type"], "application/x-bittorrent");
    assert_eq!(torrent.headers()["cache-control"], "public, max-age=31536000, immutable");
    assert_eq!(torrent.bytes().await.unwrap(), second.torrent.encode());
    assert_eq!(
        get(&format!("{at}c/{}/+1.torrent", publisher.channel())).await.0,
        404,
        "one address for each"
    );
    let page = get(&at).await.1;
    assert!(page.contains("Radio &lt;Tower&gt;") && !page.contains("<Tower>"), "{page}");

    // The stream ends with the tracker; another run knows all that was accepted.
    tracker.shutdown().await;
    assert_eq!(events.next().await, None);
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let join = publisher.join(&at, "?from=oldest").await;
    assert_eq!(publisher.numbers(&join), [0, 1]);
    assert_eq!(join.state, Some(ended.to_base64()));
    let mut events = Events::open(&at, &publisher.channel(), "", Some(0)).await;
    assert_eq!(events.next_record().await, Some(1));
    assert!(contains(&announce(&at, hash.as_bytes(), 7003, "").await, b"8:interval"));
    let third = publisher.seal();
    assert_eq!(publisher.publish(&at, &third).await.0, 200);
    assert_eq!(events.next_record().await, Some(2));
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_browser_gets_a_page_where_programs_get_json() {
    let data = tempfile::tempdir().unwrap();
    let gateway = Some("https://watch.example/".to_owned());
    let tracker = Tracker::start(Config { gateway, ..config(data.path()) }).await.unwrap();
    let (at, mut publisher) = (base(&tracker), Publisher::new(1));
    let key = publisher.channel();
    publisher.publish_state(&at, &publisher.state(5, Phase::Live, "Radio <Tower>", true)).await;
    let segment = publisher.seal();
    publisher.publish(&at, &segment).await;

    let home = get(&at).await.1;
    assert!(home.contains(&format!("href=\"https://watch.example/c/{key}/\"")), "{home}");
    assert!(get(&format!("{at}site.css")).await.1.contains("--accent"));
    let ask = reqwest::Client::new().get(format!("{at}c/{key}"));
    let answer = ask.header("accept", "text/html,application/xhtml+xml,*/*;q=0.8").send().await.unwrap();
    let head = answer.headers().clone();
    assert!(head["content-type"].to_str().unwrap().starts_with("text/html") && head["vary"] == "accept");
    assert!(head["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let page = answer.text().await.unwrap();
    assert!(page.contains("<h1>Radio &lt;Tower&gt;</h1>") && page.contains("href=\"../site.css\""), "{page}");
    assert!(page.contains(&format!("minuet watch {at}c/{key}")), "{page}");
    assert!(page.contains(&format!("https://watch.example/c/{key}/")), "{page}");
    // Programs say nothing of what they take, or take all.
    assert_eq!(publisher.numbers(&publisher.join(&at, "").await), [0]);
    tracker.shutdown().await;

    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let home = get(&base(&tracker)).await.1;
    assert!(home.contains(&format!("href=\"c/{key}\"")), "{home}");
    tracker.shutdown().await;
}

#[tokio::test]
async fn what_is_not_the_channels_own_is_refused_and_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let (mut publisher, mut other) = (Publisher::new(1), Publisher::new(2));
    let first = publisher.seal();
    assert_eq!(publisher.publish(&at, &first).await.0, 200);
    assert_eq!(publisher.publish(&at, &first).await, (200, "known already\n".into()));

    // Another channel's record.
    let (status, why) = publisher.publish(&at, &other.seal()).await;
    assert_eq!(status, 403, "{why}");
    assert!(why.contains("belongs to channel"), "{why}");

    // A signature that is not over these bytes.
    let second = publisher.seal();
    let mut forged = second.publication();
    let signature = forged.windows(5).position(|w| w == b"1:s64").unwrap() + 10;
    forged[signature] ^= 1;
    let (status, why) = publisher.post(&at, "records", forged).await;
    assert_eq!((status, why.as_str()), (403, "a record has a bad signature\n"));

    // The torrent of another segment.
    let third = publisher.seal();
    let mut mixed = second.clone();
    mixed.torrent = third.torrent.clone();
    let (status, why) = publisher.publish(&at, &mixed).await;
    assert_eq!(status, 400, "{why}");
    assert!(why.contains("info hash differs"), "{why}");

    // A gap, another record under a known number, a broken chain.
    let (status, why) = publisher.publish(&at, &third).await;
    assert_eq!(status, 409, "{why}");
    assert!(why.contains("publish the ones between first"), "{why}");
    let url = format!("{at}c/{}/records", publisher.channel());
    let refused = reqwest::Client::new().post(url).body(third.publication()).send().await.unwrap();
    assert_eq!(refused.headers()["minuet-newest"], "0");
    let resign = |segment: &crate::support::Segment, change: fn(&mut Record)| {
        let mut record = segment.record.get().clone();
        change(&mut record);
        crate::support::Segment {
            record: SignedRecord::sign(&publisher.key, record),
            torrent: segment.torrent.clone(),
        }
    };
    let (status, why) = publisher.publish(&at, &resign(&first, |r| r.ingest_ms += 1)).await;
    assert_eq!(status, 409, "{why}");
    let broken = resign(&second, |r| r.prev = Some(RecordHash::new([7; 32])));
    let (status, why) = publisher.publish(&at, &broken).await;
    assert_eq!(status, 409, "{why}");

    // Too long, not bencode, wrong method, a state of another channel.
    assert_eq!(publisher.post(&at, "records", vec![b'x'; 3 << 20]).await.0, 413);
    assert_eq!(publisher.post(&at, "records", b"de".to_vec()).await.0, 400);
    assert_eq!(get(&format!("{at}c/{}/records", publisher.channel())).await.0, 405);
    assert_eq!(publisher.publish_state(&at, &other.state(1, Phase::Live, "", true)).await.0, 403);

    let join = publisher.join(&at, "").await;
    assert_eq!(publisher.numbers(&join), [0]);
    assert!(contains(&announce(&at, second.record.info_hash.as_bytes(), 1, "").await, b"14:failure reason"));

    // In order all is well, and so it is after a gap that is too long to be filled.
    assert_eq!(publisher.publish(&at, &second).await.0, 200);
    assert_eq!(publisher.publish(&at, &third).await.0, 200);
    for _ in 3..20 {
        publisher.seal();
    }
    let late = publisher.seal();
    assert_eq!(publisher.publish(&at, &late).await.0, 200);
    assert_eq!(publisher.numbers(&publisher.join(&at, "").await), [0, 1, 2, 20]);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_swarm_ends_with_its_window() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.channels.window.records = 2;
    let tracker = Tracker::start(config).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    let segments: Vec<_> = (0..3).map(|_| publisher.seal()).collect();
    for segment in &segments[..2] {
        publisher.publish(&at, segment).await;
        let hash = segment.record.info_hash;
        assert!(contains(&announce(&at, hash.as_bytes(), 1, "").await, b"8:interval"));
    }
    publisher.publish(&at, &segments[2]).await;
    let gone = segments[0].record.info_hash;
    assert!(contains(&announce(&at, gone.as_bytes(), 1, "").await, b"8:retry in"));
    assert_eq!(get(&format!("{at}c/{}/0.torrent", publisher.channel())).await.0, 404);
    assert_eq!(publisher.numbers(&publisher.join(&at, "?from=oldest").await), [1, 2]);
    assert_eq!(publisher.publish(&at, &segments[0]).await.0, 410);
    // The third minute is lent the peer of the second.
    let answer = announce(&at, segments[2].record.info_hash.as_bytes(), 2, "").await;
    assert!(contains(&answer, b"5:peers6:\x7f\0\0\x01\0\x01"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn older_torrents_come_from_disk() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    let segments: Vec<_> = (0..12).map(|_| publisher.seal()).collect();
    for segment in &segments {
        assert_eq!(publisher.publish(&at, segment).await.0, 200);
    }
    for (seq, segment) in segments.iter().enumerate() {
        let url = format!("{at}c/{}/{seq}.torrent", publisher.channel());
        assert_eq!(reqwest::get(url).await.unwrap().bytes().await.unwrap(), segment.torrent.encode());
    }
    assert_eq!(publisher.numbers(&publisher.join(&at, "?from=3").await), (3..12).collect::<Vec<_>>());
    assert_eq!(publisher.numbers(&publisher.join(&at, "").await), (7..12).collect::<Vec<_>>());
    assert_eq!(get(&format!("{at}c/{}?from=x", publisher.channel())).await.0, 400);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_full_tracker_refuses_new_channels_and_subscribers() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.channels.channels = 1;
    config.http.subscribers = 1;
    let tracker = Tracker::start(config).await.unwrap();
    let at = base(&tracker);
    let (mut publisher, mut other) = (Publisher::new(1), Publisher::new(2));
    let (first, foreign) = (publisher.seal(), other.seal());
    assert_eq!(publisher.publish(&at, &first).await.0, 200);
    // A channel that lives keeps its place, however old the records of these tests are.
    let now_ms = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let alive = publisher.state(now_ms, Phase::Live, "alive", false).encode().to_vec();
    assert_eq!(publisher.post(&at, "state", alive).await.0, 200);
    assert_eq!(other.publish(&at, &foreign).await.0, 503);
    let events = Events::open(&at, &publisher.channel(), "", None).await;
    let url = format!("{at}c/{}/events", publisher.channel());
    assert_eq!(get(&url).await.0, 503);
    drop(events);
    tracker.shutdown().await;
}

#[tokio::test]
async fn one_address_cannot_fill_the_tracker_with_channels() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.channels.channels_per_address = Some(1);
    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let tracker = Tracker::start(config).await.unwrap();
    let at = base(&tracker);
    let (mut publisher, mut other) = (Publisher::new(1), Publisher::new(2));
    let (first, second, foreign) = (publisher.seal(), publisher.seal(), other.seal());
    assert_eq!(publisher.publish(&at, &first).await.0, 200);
    assert_eq!(other.publish(&at, &foreign).await.0, 429);
    assert_eq!(publisher.publish(&at, &second).await.0, 200);
    let url = format!("{at}c/{}/records", other.channel());
    let from_elsewhere = reqwest::Client::new().post(url).header("x-forwarded-for", "198.51.100.7");
    assert_eq!(from_elsewhere.body(foreign.publication()).send().await.unwrap().status(), 200);
    tracker.shutdown().await;
}

#[tokio::test]
async fn addresses_that_fill_the_tracker_with_channels_make_room_also_after_a_restart() {
    const CHANNELS: u8 = 12;
    let data = tempfile::tempdir().unwrap();
    let start = async || {
        let mut config = config(data.path());
        config.channels.channels = CHANNELS.into();
        config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        Tracker::start(config).await.unwrap()
    };
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let bring = async |at: &str, n: u8, from: &str| {
        let publisher = Publisher::new(n);
        let state = publisher.state(now_ms + u64::from(n), Phase::Live, "", false).encode();
        let post = reqwest::Client::new().post(format!("{at}c/{}/state", publisher.channel()));
        post.header("x-forwarded-for", from).body(state.to_vec()).send().await.unwrap().status().as_u16()
    };
    let tracker = start().await;
    let at = base(&tracker);
    for n in 1..=CHANNELS {
        assert_eq!(bring(&at, n, "198.51.100.66").await, 200, "there is room, so it may");
    }
    assert_eq!(bring(&at, 100, "198.51.100.66").await, 503, "it pushes nobody out but itself");
    tracker.shutdown().await;

    let tracker = start().await;
    let at = base(&tracker);
    for n in 101..105 {
        assert_eq!(
            bring(&at, n, &format!("203.0.{n}.1")).await,
            200,
            "whose channels they are is remembered"
        );
    }
    assert_eq!(sample(&at, "channels").await, u64::from(CHANNELS));
    // Bringing the old words of a channel again gives it no life, and theirs are the ones that went.
    assert_eq!(bring(&at, 101, "203.0.101.1").await, 200);
    assert_eq!(bring(&at, 100, "198.51.100.66").await, 503);
    tracker.shutdown().await;
}

#[tokio::test]
async fn what_stops_a_start_is_one_sentence() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let port_in_use = Config { listen: tracker.http_addrs().to_vec(), ..config(data.path()) };
    let error = Tracker::start(port_in_use).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }) && error.to_string().contains("--listen"), "{error}");
    let error = Tracker::start(config(data.path())).await.unwrap_err();
    assert!(error.to_string().contains("another minuet-tracker uses the data folder"), "{error}");
    tracker.shutdown().await;

    let file = data.path().join("channels.redb");
    std::fs::write(&file, b"this is no database").unwrap();
    let error = Tracker::start(config(data.path())).await.unwrap_err();
    assert!(error.to_string().contains("move it away"), "{error}");
    let error = Tracker::start(config(&file)).await.unwrap_err();
    assert!(error.to_string().contains("--data"), "{error}");

    let victim = data.path().join("victim");
    std::fs::rename(&file, &victim).unwrap();
    std::os::unix::fs::symlink(&victim, &file).unwrap();
    let error = Tracker::start(config(data.path())).await.unwrap_err();
    assert!(error.to_string().contains("is a link"), "{error}");
    assert_eq!(std::fs::read(&victim).unwrap(), b"this is no database");
}

#[tokio::test]
async fn a_request_head_is_bounded_and_garbage_is_answered_or_closed() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let addr = tracker.http_addrs()[0];
    let exchange = move |request: Vec<u8>| {
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            // The tracker may hang up before it has read all.
            let _ = stream.write_all(&request);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        })
    };
    let long = format!("GET /announce?{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
    let answer = exchange(long.into_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{answer}");
    let answer = exchange(b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{answer}");
    let answer = exchange(b"GET /announce HTTP/1.0\r\n\r\n".to_vec()).await.unwrap();
    assert!(answer.contains("info_hash is missing"), "{answer}");
    assert_eq!(get(&format!("http://{addr}/health")).await, (200, "ok\n".into()));
    assert_eq!(get(&format!("http://{addr}/nothing")).await.0, 404);
    assert!(get(&format!("http://{addr}/metrics")).await.1.contains("minuet_tracker_refusals_total 1"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn channels_that_want_to_be_seen_are_listed_in_parts_as_their_sources_signed_them() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let listed = async |query: &str| -> Directory {
        let (status, text) = get(&format!("{at}channels{query}")).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(listed("").await, Directory { channels: Vec::new(), next: None });
    let count = MAX_DIRECTORY_CHANNELS + 3;
    for n in 0..count {
        let publisher = Publisher::numbered(n as u32);
        let state = publisher.state(5, Phase::Live, &format!("Channel {n}"), n != 1);
        assert_eq!(publisher.publish_state(&at, &state).await.0, 200);
    }
    let first = listed("").await;
    let second = listed(&format!("?after={}", first.next.as_ref().unwrap())).await;
    assert_eq!((first.channels.len(), second.next.as_ref()), (MAX_DIRECTORY_CHANNELS, None));
    let all = first.channels.iter().chain(&second.channels);
    let titles: std::collections::BTreeSet<String> =
        all.map(|listing| listing.check().unwrap().title.clone()).collect();
    assert_eq!(titles.len(), count - 1);
    assert!(!titles.contains("Channel 1"), "its source does not want it to be seen");
    assert_eq!(get(&format!("{at}channels?after=x")).await.0, 400);
}
