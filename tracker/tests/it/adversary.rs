//! Whoever means ill: every table stays within its bound, and those who mean well are served all the while.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support::udp::Client;
use crate::support::{Events, Publisher, announce, base, config, contains, sample};
use minuet_proto::{Phase, SignedRecord};
use minuet_tracker::Tracker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Status and text of a GET from another address of this machine than most.
async fn get_from(ip: Ipv4Addr, url: &str) -> (u16, String) {
    let client = reqwest::Client::builder().local_address(IpAddr::from(ip)).build().unwrap();
    let response = client.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// A connection from this address that has said what it says, and no more.
async fn connection(from: Ipv4Addr, to: SocketAddr, says: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    // It may have been shown the door already.
    let _ = stream.write_all(says).await;
    stream
}

#[tokio::test]
async fn connections_that_never_ask_make_room_for_those_that_do() {
    const PLACES: usize = 64;
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.http.connections = PLACES;
    let tracker = Tracker::start(config).await.unwrap();
    let (at, addr) = (base(&tracker), tracker.http_addrs()[0]);
    let attacker = Ipv4Addr::new(127, 0, 0, 66);
    // Half of them silent, half in the middle of a head.
    let mut held = Vec::new();
    for n in 0..3 * PLACES {
        let says: &[u8] = if n % 2 == 0 { b"" } else { b"GET /announce?info_hash=%aa HTTP/1.1\r\nx: " };
        held.push(connection(attacker, addr, says).await);
    }
    // All places are taken by one address, and those beyond are hung up on.
    let mut closed = 0;
    for stream in &mut held[PLACES..] {
        closed += usize::from(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    assert_eq!(closed, 2 * PLACES);
    // Others get in all the same, each in place of one of them.
    for n in 1..20 {
        let got = get_from(Ipv4Addr::new(127, 0, 1, n), &format!("{at}health")).await;
        assert_eq!(got, (200, "ok\n".into()));
    }
    assert_eq!(sample(&at, "connections_refused_total").await, 2 * PLACES as u64);
    let udp = tracker.udp_addrs()[0];
    tokio::task::spawn_blocking(move || Client::connect(udp)).await.unwrap();
    drop(held);
    while sample(&at, "connections").await >= PLACES as u64 / 2 {}
    assert_eq!(get_from(attacker, &format!("{at}health")).await.0, 200);
    tracker.shutdown().await;
}

#[tokio::test]
async fn an_operator_may_set_a_ceiling_for_connections_of_one_address() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.http.connections_per_address = Some(2);
    let tracker = Tracker::start(config).await.unwrap();
    let (at, addr) = (base(&tracker), tracker.http_addrs()[0]);
    let attacker = Ipv4Addr::new(127, 0, 0, 66);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connection(attacker, addr, b"").await);
    }
    assert!(matches!(held[2].read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(get_from(Ipv4Addr::LOCALHOST, &format!("{at}health")).await.0, 200);
    tracker.shutdown().await;
}

#[tokio::test]
async fn endless_info_hashes_and_peers_fill_the_tables_and_no_more() {
    const SWARMS: usize = 500;
    const PEERS: usize = 800;
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.swarms.open = true;
    config.swarms.max_open_swarms = SWARMS;
    config.swarms.max_peers = PEERS;
    let tracker = Tracker::start(config).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    let segment = publisher.seal();
    publisher.publish(&at, &segment).await;
    let hash = *segment.record.info_hash.as_bytes();
    announce(&at, &hash, 7001, "").await;
    let udp = tracker.udp_addrs()[0];
    let made_up = |n: u16| std::array::from_fn(|at| n.to_be_bytes().get(at).copied().unwrap_or(0xee));
    tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(udp);
        for n in 0..4 * SWARMS as u16 {
            let packet = crate::support::udp::announce(client.id, &made_up(n), 1 + n, 2);
            // The tables are full from here on, and say so.
            let refused = client.exchange(&packet)[..4] == [0, 0, 0, 3];
            assert_eq!(refused, usize::from(n) >= SWARMS, "{n}");
        }
        // More peers than there is room for, in one of them.
        for port in 1..=2 * PEERS as u16 {
            client.announce(&made_up(0), port, 2, b"");
        }
    })
    .await
    .unwrap();
    assert_eq!(sample(&at, "open_swarms").await, SWARMS as u64);
    assert_eq!(sample(&at, "peers").await, PEERS as u64);
    // Whom the tracker knew it still tells of, and a channel's next segment has its place.
    assert!(contains(&announce(&at, &hash, 7002, "").await, b"5:peers6:\x7f\0\0\x01\x1b\x59"));
    let next = publisher.seal();
    assert_eq!(publisher.publish(&at, &next).await.0, 200);
    assert!(contains(&announce(&at, next.record.info_hash.as_bytes(), 7003, "").await, b"8:interval"));
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_publisher_that_floods_replays_and_reorders_fills_a_window_and_nobody_misses_a_record() {
    const WINDOW: usize = 8;
    const RECORDS: u64 = 120;
    let data = tempfile::tempdir().unwrap();
    let mut limits = config(data.path());
    limits.channels.window.records = WINDOW;
    let tracker = Tracker::start(limits.clone()).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    publisher.publish_state(&at, &publisher.state(1, Phase::Live, "", false)).await;
    let mut events = Events::open(&at, &publisher.channel(), "?from=0", None).await;
    let all: Vec<_> = (0..=RECORDS).map(|_| publisher.seal()).collect();
    for n in 0..RECORDS as usize {
        // What is yet to come, what has just been, and what has long gone, in any order.
        let mut others = vec![n + 1, n.saturating_sub(1), n.saturating_sub(3), 0];
        others.rotate_left(n % 4);
        for other in others.into_iter().filter(|&other| n > 0 && other != n) {
            let (status, why) = publisher.publish(&at, &all[other]).await;
            let expected = if other > n {
                409
            } else if other + WINDOW >= n {
                200
            } else {
                410
            };
            assert_eq!(status, expected, "{other} before {n}: {why}");
        }
        assert_eq!(publisher.publish(&at, &all[n]).await, (200, "accepted\n".into()));
        assert_eq!(events.next_record().await, Some(n as u64));
    }
    let join = publisher.join(&at, "?from=oldest").await;
    let kept: Vec<u64> = (RECORDS - WINDOW as u64..RECORDS).collect();
    assert_eq!(publisher.numbers(&join), kept);
    assert_eq!(sample(&at, "channel_swarms").await, WINDOW as u64);
    tracker.shutdown().await;
    // Nor does the store keep more than it has to.
    let tracker = Tracker::start(limits).await.unwrap();
    let join = publisher.join(&base(&tracker), "?from=oldest").await;
    let numbers = publisher.numbers(&join);
    assert_eq!(numbers[numbers.len() - WINDOW..], kept);
    assert!(numbers.len() <= WINDOW + 1, "{numbers:?}");
    let last = SignedRecord::from_base64(join.records.last().unwrap(), publisher.channel()).unwrap();
    assert_eq!(last, all[RECORDS as usize - 1].record);
    tracker.shutdown().await;
}
