//! Those who lie, over real links: the others play on, byte by byte, and turn them away.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its scene must fail")]

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Stdio,
    time::Duration,
};

use minuet_tests::{
    Process, Segmenter, Tracker, Viewer, assert_ends_with, clip_of, free_port,
    hostile::{Harm, Hostile, VICTIM, VICTIM_PORTS},
};

/// Feed to be played among liars.
const FEED_SECONDS: u32 = 60;
/// What a viewer may take at most, in MB.
const MEMORY_MB: u64 = 120;
/// Nodes that take a place and say nothing.
const HOLDERS: usize = 40;

/// A channel with a relay and three viewers who have begun to play.
struct Scene {
    dir: tempfile::TempDir,
    _tracker: Tracker,
    segmenter: Segmenter,
    _relay: Process,
    viewers: Vec<Viewer>,
}

impl Scene {
    fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir: &Path = temp.path();
        let feed = clip_of(FEED_SECONDS, dir);
        let tracker = Tracker::start(free_port(), &dir.join("tracker"));
        let mut segmenter = Segmenter::start(&feed, &tracker.url, &dir.join("segmenter"), &["--no-origin"]);
        // Somebody must hold what is behind the live edge, or the first viewers have no delay to live on.
        let mut relay =
            Process::start("minuet", &["relay", &segmenter.link, "--listen", "127.0.0.1:0"], Stdio::null());
        relay.wait_for("relaying");
        segmenter.process.wait_for("segment 1 sealed");
        let names = ["one", "two", "three"];
        let mut viewers: Vec<Viewer> =
            names.map(|name| Viewer::start_in("live", name, &segmenter.link, dir, &[])).into();
        for viewer in &mut viewers {
            viewer.wait_for_segment(1);
        }
        Self { dir: temp, _tracker: tracker, segmenter, _relay: relay, viewers }
    }

    /// One more viewer, who comes late.
    fn join(&mut self, name: &str) {
        self.viewers.push(Viewer::start_in("live", name, &self.segmenter.link, self.dir.path(), &[]));
    }

    /// Waits for the end; all viewers must have seen what was sent without a stall. What they counted.
    fn end(&mut self) -> Vec<serde_json::Value> {
        let memory: Vec<u64> = self.viewers.iter().map(|viewer| viewer.process.peak_memory_mb()).collect();
        assert!(memory.iter().all(|mb| *mb < MEMORY_MB), "{memory:?} MB");
        for viewer in &mut self.viewers {
            assert!(viewer.process.wait(Duration::from_secs(120)).success(), "{:?}", viewer.process.log());
        }
        let segments = (0..).map(|seq| self.segmenter.segment(seq));
        let joined: Vec<u8> = segments.map_while(|path| fs::read(path).ok()).flatten().collect();
        let mut summaries = Vec::new();
        for viewer in &mut self.viewers {
            let summary = viewer.summary();
            let log = viewer.process.whole_log();
            let media = fs::read(&viewer.media).unwrap();
            assert_ends_with(&joined, &media, || format!("{log:#?} {summary}"));
            for nothing in ["stalls", "leaps", "http_bytes"] {
                assert_eq!(summary[nothing], 0, "{nothing}: {log:#?} {summary}");
            }
            summaries.push(summary);
        }
        summaries
    }
}

#[test]
fn honest_viewers_play_on_among_liars_and_ban_each_of_them() {
    let mut scene = Scene::start();
    let liars = [Harm::Corrupt, Harm::Forge, Harm::Flood, Harm::Silence]
        .map(|harm| (harm, Hostile::start(harm, &scene.segmenter.link)));
    scene.viewers[0].wait_for_segment(9);
    for (harm, liar) in &liars {
        assert!(liar.links() > 0, "{harm:?}: nobody listened to it");
        assert!(liar.refused() > 0, "{harm:?}: is still welcome everywhere");
    }
    let summaries = scene.end();
    for summary in &summaries {
        assert!(summary["bans"].as_u64() >= Some(3), "{summary}");
    }
    let corrupt = summaries.iter().filter_map(|summary| summary["corrupt_pieces"].as_u64());
    assert!(corrupt.sum::<u64>() > 0, "nobody was sent anything corrupt");
}

/// Sockets of [`VICTIM`], at the ports that are named.
fn victim() -> (u16, Vec<UdpSocket>) {
    let ip = Ipv4Addr::from(VICTIM);
    loop {
        let first = UdpSocket::bind((ip, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let others = (1..VICTIM_PORTS).map(|n| UdpSocket::bind((ip, port.checked_add(n)?)).ok());
        if let Some(others) = others.collect::<Option<Vec<_>>>() {
            return (port, std::iter::once(first).chain(others).collect());
        }
    }
}

#[test]
fn honest_viewers_play_on_among_those_who_drip_hold_babble_and_name_victims() {
    let (port, sockets) = victim();
    let mut scene = Scene::start();
    let link = scene.segmenter.link.clone();
    // More than a node takes in.
    let holders: Vec<Hostile> = (0..HOLDERS).map(|_| Hostile::start(Harm::Hold, &link)).collect();
    let [dripping, babbling, extreme, poisoning] =
        [Harm::Drip, Harm::Unknown, Harm::Extreme, Harm::Poison(port)]
            .map(|harm| Hostile::start(harm, &link));
    scene.viewers[0].wait_for_segment(4);
    // Places are all taken, and the newcomer has one.
    scene.join("four");
    scene.viewers[0].wait_for_segment(9);
    assert!(holders.iter().all(|holder| holder.links() > 0), "one of those who hold places found none");
    assert!(dripping.links() > 0 && poisoning.links() > 0 && poisoning.sent() > 3);
    for (what, liar) in [("unknown frames", &babbling), ("numbers that cannot be", &extreme)] {
        assert!(liar.refused() > 0, "{what}: is still welcome everywhere");
    }
    scene.end();
    // Each node that was told so, told by its port, and the dials of each, told by QUIC's connection ids.
    let mut dials: HashMap<SocketAddr, HashSet<Vec<u8>>> = HashMap::new();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
        let mut packet = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let id = packet[..length].get(6..14).unwrap_or_default();
            dials.entry(from).or_default().insert(id.to_vec());
        }
    }
    assert!(
        dials.values().all(|ids| ids.len() <= 3),
        "the victim was dialled more than three times by one node: {dials:?}"
    );
}
