//! The UDP tracker protocol over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{SocketAddr, UdpSocket};

use crate::support::udp::{Client, announce};
use crate::support::{Publisher, base, config};
use minuet_tracker::{Config, Tracker};

#[tokio::test]
async fn clients_meet_over_both_families_and_over_http() {
    let data = tempfile::tempdir().unwrap();
    let v6 = SocketAddr::from(([0u16, 0, 0, 0, 0, 0, 0, 1], 0));
    let mut config = config(data.path());
    config.listen.push(v6);
    config.udp_listen.push(v6);
    config.udp_workers = 2;
    let tracker = Tracker::start(config).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    let segment = publisher.seal();
    publisher.publish(&at, &segment).await;
    let hash = *segment.record.info_hash.as_bytes();

    let (v4_addr, v6_addr) = (tracker.udp_addrs()[0], tracker.udp_addrs()[1]);
    tokio::task::spawn_blocking(move || {
        for (addr, length) in [(v4_addr, 6), (v6_addr, 18)] {
            let mut first = Client::connect(addr);
            assert_eq!(first.announce(&hash, 7001, 2, b"").len(), 20);
            let mut second = Client::connect(addr);
            let answer = second.announce(&hash, 7002, 2, b"\x02\x09/announce");
            assert_eq!(answer.len(), 20 + length);
            assert_eq!(answer[20 + length - 2..], 7001u16.to_be_bytes());
            // Leaves, and is told of no more.
            first.announce(&hash, 7001, 3, b"");
            assert_eq!(second.announce(&hash, 7002, 0, b"").len(), 20);
            // What is no request stays without an answer, and hurts nobody.
            second.socket.send(b"hello").unwrap();
            second.socket.send(&announce(second.id ^ 4096, &hash, 7003, 2)).unwrap();
            second.socket.send(&[]).unwrap();
            assert_eq!(second.announce(&hash, 7002, 0, b"").len(), 20);
        }
    })
    .await
    .unwrap();

    let answer = crate::support::announce(&at, &hash, 7009, "").await;
    assert!(crate::support::contains(&answer, b"5:peers6:\x7f\0\0\x01\x1b\x5a6:peers618:"), "{answer:?}");
    let metrics = crate::support::get(&format!("{at}metrics")).await.1;
    assert!(metrics.contains("minuet_tracker_udp_connects_total 4"), "{metrics}");
    assert!(metrics.contains("minuet_tracker_udp_ignored_total 6"), "{metrics}");
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_herd_is_answered_to_the_last() {
    const CLIENTS: u16 = 2_000;
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let mut publisher = Publisher::new(1);
    let segment = publisher.seal();
    publisher.publish(&base(&tracker), &segment).await;
    let hash = *segment.record.info_hash.as_bytes();
    let addr = tracker.udp_addrs()[0];
    tokio::task::spawn_blocking(move || {
        let Client { socket, id } = Client::connect(addr);
        for port in 1..=CLIENTS {
            socket.send(&announce(id, &hash, port, 2)).unwrap();
            // The test's own receive buffer is small; the tracker's is not.
            if port % 100 == 0 {
                let mut answer = [0; 2048];
                (0..100).for_each(|_| assert!(socket.recv(&mut answer).unwrap() >= 20));
            }
        }
    })
    .await
    .unwrap();
    let status = crate::support::get(&format!("{}status", base(&tracker))).await.1;
    assert!(status.contains(&format!("\"peers\":{CLIENTS},")), "{status}");
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_port_in_use_names_its_option() {
    let data = tempfile::tempdir().unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = Config { udp_listen: vec![other.local_addr().unwrap()], ..config(data.path()) };
    let error = Tracker::start(config).await.unwrap_err();
    assert!(error.to_string().contains("--udp-listen"), "{error}");
}

/// On a host with several addresses, which loopback is, a client hears from the address that it asked.
#[tokio::test]
async fn an_answer_leaves_from_the_address_that_was_asked() {
    let v4 = &["127.0.0.1", "127.0.0.2", "127.1.2.3"][..];
    let both = &["127.0.0.1", "127.0.0.2", "::1", "127.1.2.3"][..];
    for (everywhere, asked) in [("0.0.0.0:0", v4), ("[::]:0", both)] {
        let data = tempfile::tempdir().unwrap();
        let mut config = config(data.path());
        config.udp_listen = vec![everywhere.parse().unwrap()];
        let tracker = Tracker::start(config).await.unwrap();
        let port = tracker.udp_addrs()[0].port();
        tokio::task::spawn_blocking(move || {
            for ip in asked {
                // Connected, so that the kernel gives it nothing from anywhere else.
                let mut client = Client::connect(SocketAddr::new(ip.parse().unwrap(), port));
                assert_eq!(client.scrape(&[7; 20]).len(), 20, "{ip} at {everywhere}");
            }
        })
        .await
        .unwrap();
        tracker.shutdown().await;
    }
}
