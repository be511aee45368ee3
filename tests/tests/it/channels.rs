//! A gateway of several channels, each joined when somebody watches it.
// Helpers of tests are tests: a panic is how they fail.
#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Stdio};

use minuet_tests::{
    Process, Segmenter, Tracker, free_port,
    house::{Encoder, get, played, text},
};

/// A channel on air.
struct Channel {
    segmenter: Segmenter,
    _encoder: Encoder,
}

impl Channel {
    fn start(name: &str, size: &str, tracker: &Tracker, dir: &Path) -> Self {
        let feed = free_port();
        let encoder = Encoder::start(feed, size);
        let input = format!("udp://127.0.0.1:{feed}");
        let more = ["--channel", name, "--listed"];
        let segmenter = Segmenter::start_with(&input, "10s", &tracker.url, &dir.join(name), &more);
        Self { segmenter, _encoder: encoder }
    }

    fn key(&self) -> String {
        self.segmenter.link.split("btpk:").nth(1).unwrap().split('&').next().unwrap().to_owned()
    }
}

#[test]
fn a_channel_is_joined_when_somebody_watches_it() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(free_port(), &dir.path().join("tracker"));
    let [one, two] = [("Tower", "320x240"), ("Harbour", "160x120")]
        .map(|(name, size)| Channel::start(name, size, &tracker, dir.path()));
    let port = free_port();
    let address = port.to_string();
    let words = ["watch", &one.segmenter.link, &two.segmenter.link, "--serve", &address];
    let mut gateway = Process::start("minuet", &words, Stdio::null());
    gateway.wait_for("serving 2 channels");

    let list = text(port, "channels.m3u");
    for channel in [&one, &two] {
        assert!(list.contains(&format!("http://a/c/{}/ts.m3u8", channel.key())), "{list}");
        assert!(text(port, "").contains(&format!("href=\"c/{}/\"", channel.key())));
    }
    assert!(!gateway.log().iter().any(|line| line.contains(": joined")), "nobody watches yet");

    // Waits for as long as it takes.
    let (frames, complaints) = played(&format!("http://127.0.0.1:{port}/c/{}/ts.m3u8", two.key()), 3);
    assert!(frames >= 70 && complaints.is_empty(), "{frames}: {complaints}");
    gateway.wait_for("Harbour: joined");
    assert!(!gateway.log().iter().any(|line| line.contains("Tower: joined")), "nobody watches it");
    assert!(text(port, &format!("c/{}/index.m3u8", two.key())).contains("RESOLUTION=160x120"));
    assert!(text(port, &format!("c/{}/index.m3u8", one.key())).contains("RESOLUTION=320x240"));
    gateway.wait_for("Tower: joined");
    let (head, _) = get(port, &format!("c/{}", one.key()), "");
    assert!(
        head.starts_with("HTTP/1.1 308") && head.contains(&format!("location: /c/{}/", one.key())),
        "{head}"
    );
    for nothing in ["index.m3u8", "c/abc/index.m3u8", &format!("c/{}/index.m3u8", "0a".repeat(32))] {
        assert!(get(port, nothing, "").0.starts_with("HTTP/1.1 404"), "{nothing}");
    }
    let metrics = text(port, "metrics");
    assert!(
        metrics.contains(&format!("minuet_gateway_segments_total{{channel=\"{}\"}}", one.key())),
        "{metrics}"
    );
}

#[test]
fn a_relay_serves_what_its_trackers_list_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(free_port(), &dir.path().join("tracker"));
    let [own, other] = [("Tower", "320x240"), ("Harbour", "160x120")]
        .map(|(name, size)| Channel::start(name, size, &tracker, dir.path()));
    let port = free_port();
    let address = port.to_string();
    let words = ["relay", &own.segmenter.link, "--allow", "listed", "--serve", &address];
    let mut gateway = Process::start("minuet", &words, Stdio::null());
    // Its own is carried whether anybody watches or not.
    gateway.wait_for("Tower: joined");
    let (frames, complaints) = played(&format!("http://127.0.0.1:{port}/c/{}/ts.m3u8", other.key()), 3);
    assert!(frames >= 70 && complaints.is_empty(), "{frames}: {complaints}");
    gateway.wait_for("Harbour: joined");
    let unknown = get(port, &format!("c/{}/", "0a".repeat(32)), "");
    let said = String::from_utf8_lossy(&unknown.1).into_owned();
    assert!(unknown.0.starts_with("HTTP/1.1 404") && said.contains("does not carry"), "{}", unknown.0);
}
