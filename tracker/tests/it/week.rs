//! A week of minutes in fast time: a channel's swarms, nodes and heads come and go, and the memory stays what it was
//! after the first day.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{Ipv4Addr, SocketAddr};

use crate::support::Publisher;
use minuet_announce::answer::PeerList;
use minuet_announce::swarm::table::{Families, SHARDS, Swarms};
use minuet_announce::time::Uptime;
use minuet_announce::{Announce, Event};
use minuet_proto::channel_api::mesh::{CheckedHead, JoinRequest, MeshNode};
use minuet_proto::mesh::{Head, HeadPiece, NodeId, Serial};
use minuet_proto::{InfoHash, PieceHash, PieceIndex};
use minuet_tracker::Config;
use minuet_tracker::channel::window::{Entry, Place, Window};
use minuet_tracker::mesh::nodes::Seen;
use minuet_tracker::mesh::places::NodePlaces;
use minuet_tracker::mesh::{Mesh, Visit};

const DAY: u32 = 24 * 60;
const DAYS: u32 = 7;
/// Viewers at any time, and minutes that each of them stays.
const VIEWERS: u32 = 60;
const STAY: u32 = 30;

/// What takes memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Level {
    records: usize,
    swarms: usize,
    peers: usize,
    nodes: usize,
    heads: usize,
    bytes: usize,
}

impl Level {
    fn max(self, other: Self) -> Self {
        Self {
            records: self.records.max(other.records),
            swarms: self.swarms.max(other.swarms),
            peers: self.peers.max(other.peers),
            nodes: self.nodes.max(other.nodes),
            heads: self.heads.max(other.heads),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

struct World {
    config: Config,
    publisher: Publisher,
    window: Window,
    swarms: Swarms,
    mesh: Mesh,
    nodes: NodePlaces,
    random: u64,
}

impl World {
    fn new() -> Self {
        let config = Config::default();
        let publisher = Publisher::new(1);
        Self {
            window: Window::default(),
            swarms: Swarms::new(config.swarms.clone(), 1),
            mesh: Mesh::new(publisher.channel()),
            nodes: NodePlaces::new(config.mesh.nodes),
            publisher,
            random: 1,
            config,
        }
    }

    /// One minute of a channel: its record, its heads, its viewers, some of whom leave without a word.
    fn minute(&mut self, minute: u32) -> Level {
        let now = Uptime(minute * 60);
        let segment = self.publisher.seal();
        let limits = &self.config.channels.window;
        let Place::New(at) = self.window.place(&segment.record, limits).unwrap() else { panic!() };
        let entry = Entry::new(segment.record.clone(), segment.torrent.encode().len());
        for gone in self.window.insert(at, entry, limits) {
            self.swarms.retire(&gone.record.info_hash);
        }
        let at = self.window.entries().len() - 1;
        self.swarms.admit(segment.record.info_hash, self.window.predecessor(at));
        for n in 0..2 {
            self.mesh.heads.insert(&head(&self.publisher, u64::from(minute) * 2 + n));
        }
        // In each minute some come and as many are gone.
        let newest = minute * VIEWERS / STAY;
        for viewer in newest.saturating_sub(VIEWERS)..=newest {
            self.view(viewer, segment.record.info_hash, now);
        }
        (0..SHARDS).for_each(|shard| self.swarms.sweep(shard, now));
        self.mesh.expire(now, &self.nodes);
        self.level()
    }

    fn view(&mut self, viewer: u32, info_hash: InfoHash, now: Uptime) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let addr = SocketAddr::from((Ipv4Addr::from_bits(0x0b00_0000 + viewer), 6881));
        let announce = Announce { info_hash, port: 6881, complete: false, event: Event::None, want: None };
        let mut peers = PeerList::default();
        self.swarms.announce(&announce, addr, Families::Both, now, self.random, &mut peers).unwrap();
        let mut key = [0; 32];
        key[..4].copy_from_slice(&viewer.to_be_bytes());
        let mut request = JoinRequest::new(MeshNode::new(NodeId(key)));
        request.about.addrs = vec![addr];
        request.want = 8;
        let seen = Seen { ip: addr.ip(), own_relay: false, foreign: false };
        let limits = &self.config.mesh;
        let mut told = Vec::new();
        let random = self.random;
        let visit =
            Visit { request: &request, seen: &seen, proved: true, room: true, interval: 60, now, random };
        self.mesh.join(&visit, limits, &self.nodes, &mut told);
    }

    fn level(&self) -> Level {
        let totals = self.swarms.totals();
        let records: usize = self.window.entries().iter().map(|entry| entry.event.len() + entry.size).sum();
        Level {
            records: self.window.entries().len(),
            swarms: totals.channel_swarms,
            peers: totals.peers,
            nodes: self.nodes.taken(),
            heads: self.mesh.heads.len(),
            bytes: records + totals.heap_bytes + self.mesh.heap_bytes(),
        }
    }
}

/// A head of 64 pieces.
fn head(publisher: &Publisher, n: u64) -> CheckedHead {
    let piece = HeadPiece { hash: PieceHash::new([1; 20]), len: 65_536, ingest_ms: n, random_access: false };
    let head = Head {
        first: Serial::new(1 + n * 64),
        segment: minuet_proto::SegmentSeq(n / 2),
        first_index: PieceIndex(n as u32 % 2 * 64),
        pieces: vec![piece; 64],
    };
    CheckedHead::sign(&publisher.key, head)
}

/// Memory of this process that is in use, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_week_of_minutes_takes_no_more_memory_than_a_day() {
    let mut world = World::new();
    let (mut first_day, mut resident_then) = (Level::default(), 0);
    for day in 0..DAYS {
        let mut most = Level::default();
        for minute in day * DAY..(day + 1) * DAY {
            most = most.max(world.minute(minute));
        }
        println!("day {day}: {most:?}, {} MB resident", resident() / 1_000_000);
        if day == 0 {
            (first_day, resident_then) = (most, resident());
        }
        // A hash table grows a little earlier or later, as its keys fall.
        let bytes = first_day.bytes + first_day.bytes / 4;
        assert_eq!(most, Level { bytes: most.bytes, ..first_day }, "day {day}");
        assert!(most.bytes <= bytes, "day {day}: {most:?} after {first_day:?}");
    }
    let window = world.config.channels.window.duration;
    assert!(first_day.records <= (window.as_secs() / 60) as usize + 1);
    assert_eq!(first_day.swarms, first_day.records);
    // The allocator may keep some of what comes and goes.
    let grown = resident().saturating_sub(resident_then);
    assert!(grown <= 2 << 20, "{grown} bytes more than after a day");
    // With the channel all of it goes.
    let gone: Vec<_> = world.window.entries().iter().map(|entry| entry.record.info_hash).collect();
    gone.iter().for_each(|hash| world.swarms.retire(hash));
    world.mesh.expire(Uptime((DAYS * DAY + 60) * 60), &world.nodes);
    let left = world.level();
    assert_eq!((left.swarms, left.peers, left.nodes), (0, 0, 0));
}
