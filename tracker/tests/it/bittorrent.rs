//! What the BEPs promise a BitTorrent client, over real sockets and both address families.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};

use crate::support::udp::Client;
use crate::support::{Publisher, announce, base, config, contains, get};
use minuet_tracker::{Config, Tracker};

/// A tracker that takes both families on one socket, its port, and the torrent of a segment.
async fn both_families(data: &std::path::Path) -> (Tracker, u16, [u8; 20]) {
    let any = vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))];
    let tracker =
        Tracker::start(Config { listen: any.clone(), udp_listen: any, ..config(data) }).await.unwrap();
    let port = tracker.http_addrs()[0].port();
    let mut publisher = Publisher::new(1);
    let segment = publisher.seal();
    assert_eq!(publisher.publish(&format!("http://127.0.0.1:{port}/"), &segment).await.0, 200);
    (tracker, port, *segment.record.info_hash.as_bytes())
}

/// Sends bytes in parts, each when the one before has been sent, and reads until the tracker hangs up.
async fn exchange(addr: SocketAddr, parts: Vec<Vec<u8>>) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        parts.iter().for_each(|part| stream.write_all(part).unwrap());
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer.iter().map(|&b| char::from(b)).collect()
    })
    .await
    .unwrap()
}

fn query(hash: &[u8; 20], port: u16) -> String {
    let hash: String = hash.iter().map(|b| format!("%{b:02x}")).collect();
    format!("info_hash={hash}&peer_id=-XX0000-000000000000&port={port}")
}

/// An answer's status line and body.
fn parts(answer: &str) -> (&str, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap(), body)
}

#[tokio::test]
async fn one_socket_serves_both_families_and_a_mapped_address_is_an_ipv4_address() {
    let data = tempfile::tempdir().unwrap();
    let (tracker, port, hash) = both_families(data.path()).await;
    let (v4, v6) = (format!("http://127.0.0.1:{port}/"), format!("http://[::1]:{port}/"));
    // BEP 24: what the tracker sees, in the family that it was seen in.
    assert!(contains(&announce(&v4, &hash, 7001, "").await, b"11:external ip4:\x7f\0\0\x01"));
    let mut external = b"11:external ip16:".to_vec();
    external.extend(Ipv6Addr::LOCALHOST.octets());
    let answer = announce(&v6, &hash, 7002, "").await;
    assert!(contains(&answer, &external), "{answer:?}");
    // BEP 7: who asks over one family hears of the other too, the mapped peer among those of IPv4.
    assert!(contains(&answer, b"5:peers6:\x7f\0\0\x01\x1b\x59"), "{answer:?}");
    let answer = announce(&v4, &hash, 7003, "").await;
    let mut peer = b"6:peers618:".to_vec();
    peer.extend(Ipv6Addr::LOCALHOST.octets());
    peer.extend(7002u16.to_be_bytes());
    assert!(contains(&answer, &peer), "{answer:?}");

    // BEP 15 has room for one family: that of the packet.
    let udp = tracker.udp_addrs()[0].port();
    tokio::task::spawn_blocking(move || {
        let told = |addr: SocketAddr| Client::connect(addr).announce(&hash, 7009, 0, b"")[20..].to_vec();
        assert_eq!(told(([127, 0, 0, 1], udp).into()).len(), 2 * 6);
        assert_eq!(told((Ipv6Addr::LOCALHOST, udp).into()).len(), 18);
    })
    .await
    .unwrap();
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_refused_client_hears_when_to_come_back() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    // BEP 31: not of a channel yet, and never.
    let answer = announce(&at, &[9; 20], 7001, "").await;
    assert!(answer.starts_with(b"d14:failure reason") && answer.ends_with(b"8:retry ini5ee"), "{answer:?}");
    let answer = get(&format!("{at}announce?port=1")).await;
    assert_eq!(answer.0, 200);
    assert!(answer.1.ends_with("8:retry in5:nevere"), "{answer:?}");
    let answer = get(&format!("{at}scrape")).await.1;
    assert!(answer.ends_with("8:retry in5:nevere"), "{answer}");
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_partial_seed_is_counted_apart_and_not_sent_to_those_who_give_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (tracker, port, hash) = both_families(data.path()).await;
    let at = format!("http://127.0.0.1:{port}/");
    announce(&at, &hash, 7001, "&left=5&event=paused").await;
    announce(&at, &hash, 7002, "&left=0").await;
    announce(&at, &hash, 7003, "&left=5").await;
    let query: String = hash.iter().map(|b| format!("%{b:02x}")).collect();
    let scraped = get(&format!("{at}scrape?info_hash={query}")).await.1;
    // BEP 21: two have not all, one of them still downloads.
    assert!(scraped.contains("8:completei1e10:downloadedi0e11:downloadersi1e10:incompletei2e"), "{scraped}");
    // A partial seed has no use for seeds, nor for its like.
    let answer = announce(&at, &hash, 7004, "&left=5&event=paused").await;
    assert!(contains(&answer, b"5:peers6:\x7f\0\0\x01\x1b\x5be"), "{answer:?}");
    // The same over UDP, where clients use the number after those of BEP 15.
    let udp = SocketAddr::from(([127, 0, 0, 1], tracker.udp_addrs()[0].port()));
    tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(udp);
        assert_eq!(client.announce(&hash, 7005, 4, b"")[20..], [127, 0, 0, 1, 0x1b, 0x5b]);
        // Seeders, completed, leechers.
        assert_eq!(client.scrape(&hash)[8..], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4]);
    })
    .await
    .unwrap();
    tracker.shutdown().await;
}

#[tokio::test]
async fn options_after_a_udp_announce_change_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (tracker, _, hash) = both_families(data.path()).await;
    let udp = SocketAddr::from(([127, 0, 0, 1], tracker.udp_addrs()[0].port()));
    tokio::task::spawn_blocking(move || {
        Client::connect(udp).announce(&hash, 7001, 2, b"");
        // BEP 41: none, the end, padding, a URL in one and in two parts, one cut off, and what nobody has thought of.
        let options: [&[u8]; 7] = [
            b"",
            b"\0",
            b"\x01\x01\x01",
            b"\x02\x09/announce",
            b"\x02\x04/ann\x02\x05ounce\0",
            b"\x02\xff/",
            b"\x77\x03abc",
        ];
        for options in options {
            let answer = Client::connect(udp).announce(&hash, 7002, 0, options);
            assert_eq!(answer[20..], [127, 0, 0, 1, 0x1b, 0x59], "{options:?}");
        }
    })
    .await
    .unwrap();
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_kept_connection_may_ask_for_anything_in_any_order_and_in_any_parts() {
    let data = tempfile::tempdir().unwrap();
    let (tracker, port, hash) = both_families(data.path()).await;
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let ask =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: t.example\r\n{more}\r\n").into_bytes();
    let path = format!("/announce?{}", query(&hash, 7001));

    // All at once: two that are answered at once, one that is not, and one more after it.
    let requests = [ask(&path, ""), ask(&path, ""), ask("/health", ""), ask(&path, "connection: close\r\n")];
    let answer = exchange(addr, vec![requests.concat()]).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 4, "{answer}");
    assert_eq!(answer.matches("8:interval").count(), 3, "{answer}");
    assert!(answer.find("ok\n").unwrap() > answer.find("8:interval").unwrap());

    // Answered by either way, an announce gets the same.
    let whole = exchange(addr, vec![ask(&path, "connection: close\r\n")]).await;
    let asked = ask(&path, "connection: close\r\n");
    let cut = exchange(addr, vec![asked[..30].to_vec(), asked[30..].to_vec()]).await;
    let by_hyper = exchange(addr, vec![ask(&path, "connection: close\r\ncontent-length: 0\r\n")]).await;
    assert!(whole.contains("\r\ndate: ") && whole.contains("\r\nconnection: close"), "{whole}");
    assert_eq!(parts(&whole), parts(&by_hyper));
    assert_eq!(parts(&cut), parts(&by_hyper));

    // Who hangs up in the middle of a head is hung up on, not waited for.
    let hung_up = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(b"GET /announce?info_hash=").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new())
    });
    hung_up.await.unwrap().unwrap();
    tracker.shutdown().await;
}

#[tokio::test]
async fn behind_a_proxy_the_clients_address_counts() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.swarms.open = true;
    let tracker = Tracker::start(config).await.unwrap();
    let addr = tracker.http_addrs()[0];
    let ask = format!(
        "GET /announce?{} HTTP/1.1\r\nX-Forwarded-For: 198.51.100.7\r\nconnection: close\r\n\r\n",
        query(&[5; 20], 7001)
    );
    let answer = exchange(addr, vec![ask.into_bytes()]).await;
    assert!(answer.contains("11:external ip4:\u{c6}\u{33}\u{64}\u{07}"), "{answer}");
    tracker.shutdown().await;
}
