//! Counters, and how they are shown to Prometheus (text format 0.0.4).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use minuet_announce::udp::respond::Tally;

use crate::relay::RelayTotals;

/// A number that only grows, or a level that goes up and down.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted while serving.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Announces answered with peers.
    pub announces: Counter,
    /// Scrapes answered.
    pub scrapes: Counter,
    /// Announces and scrapes refused.
    pub refusals: Counter,
    /// UDP connection ids issued.
    pub udp_connects: Counter,
    /// UDP packets that were not answered.
    pub udp_ignored: Counter,
    /// Joins answered.
    pub joins: Counter,
    /// Joins of the live mesh answered.
    pub mesh_joins: Counter,
    /// Heads of the live mesh taken in.
    pub heads: Counter,
    /// Torrents served.
    pub torrents: Counter,
    /// Records and states accepted.
    pub publications: Counter,
    /// Records and states refused.
    pub publications_refused: Counter,
    /// HTTP connections closed because there were too many.
    pub connections_refused: Counter,
    /// Subscribers of event streams now.
    pub subscribers: Counter,
    /// Records and states sent to subscribers.
    pub events: Counter,
}

/// Levels that are counted when they are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Levels {
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// HTTP connections, those of the relay server's clients too.
    pub connections: u64,
    /// Channels known.
    pub channels: usize,
    /// Nodes of live meshes.
    pub mesh_nodes: usize,
    /// Memory of nodes and heads.
    pub mesh_bytes: usize,
    /// Memory of torrents.
    pub torrent_bytes: usize,
    /// Memory of requests' bodies.
    pub body_bytes: u64,
    /// Memory of answers that wait.
    pub answer_bytes: u64,
    /// Whether the shared store answers.
    pub fleet_connected: bool,
    /// What was taken in from other trackers.
    pub fleet_received: u64,
    /// What was told to other trackers.
    pub fleet_told: u64,
    /// What the relay server has done.
    pub relay: RelayTotals,
    /// Nodes connected for address discovery.
    pub discovery_connections: u64,
    /// Nodes that there was no room for.
    pub discovery_refused: u64,
    /// The mean interval that clients are told.
    pub interval_seconds: u32,
    /// Swarms and peers.
    pub swarms: minuet_announce::swarm::table::Totals,
}

impl Metrics {
    /// Adds what a UDP worker has done.
    pub fn count_udp(&self, tally: Tally) {
        self.udp_connects.add(tally.connects);
        self.announces.add(tally.announces);
        self.scrapes.add(tally.scrapes);
        self.refusals.add(tally.refusals);
        self.udp_ignored.add(tally.ignored);
    }

    /// The Prometheus text.
    pub fn to_prometheus(&self, levels: &Levels) -> String {
        let mut out = String::with_capacity(4096);
        let mut put = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a String cannot fail.
            let _ = write!(
                out,
                "# HELP minuet_tracker_{name} {help}\n# TYPE minuet_tracker_{name} {kind}\n\
                 minuet_tracker_{name} {value}\n"
            );
        };
        for (name, help, counter) in [
            ("announces_total", "Announces answered with peers.", &self.announces),
            ("scrapes_total", "Scrapes answered.", &self.scrapes),
            ("refusals_total", "Announces and scrapes refused.", &self.refusals),
            ("udp_connects_total", "UDP connection ids issued.", &self.udp_connects),
            ("udp_ignored_total", "UDP packets that were not answered.", &self.udp_ignored),
            ("joins_total", "Channel joins answered.", &self.joins),
            ("mesh_joins_total", "Joins of the live mesh answered.", &self.mesh_joins),
            ("heads_total", "Heads of the live mesh taken in.", &self.heads),
            ("torrents_total", "Torrents served.", &self.torrents),
            ("publications_total", "Records and states accepted.", &self.publications),
            ("publications_refused_total", "Records and states refused.", &self.publications_refused),
            ("connections_refused_total", "Connections closed at a limit.", &self.connections_refused),
            ("events_total", "Records and states pushed to subscribers.", &self.events),
        ] {
            put(name, "counter", help, counter.get());
        }
        let relay = &levels.relay;
        for (name, help, total) in [
            ("fleet_received_total", "News taken in from other trackers.", levels.fleet_received),
            ("fleet_told_total", "News told to other trackers.", levels.fleet_told),
            ("relay_refused_total", "Clients that the relay server refused.", relay.refused),
            ("relay_received_bytes_total", "Bytes that the relay server took.", relay.received_bytes),
            ("relay_sent_bytes_total", "Bytes that the relay server gave on.", relay.sent_bytes),
            (
                "relay_limited_bytes_total",
                "Bytes that had to wait for a client's limit.",
                relay.limited_bytes,
            ),
            (
                "discovery_refused_total",
                "Nodes that there was no room for in address discovery.",
                levels.discovery_refused,
            ),
        ] {
            put(name, "counter", help, total);
        }
        let swarms = &levels.swarms;
        for (name, help, level) in [
            ("uptime_seconds", "Seconds since the start.", levels.uptime_seconds),
            (
                "connections",
                "HTTP connections, with those of the relay server's clients.",
                levels.connections,
            ),
            ("subscribers", "Subscribers of event streams.", self.subscribers.get()),
            ("channels", "Channels known.", levels.channels as u64),
            ("interval_seconds", "The mean interval that clients are told.", levels.interval_seconds.into()),
            ("fleet_connected", "Whether the shared store answers.", levels.fleet_connected.into()),
            ("relay_clients", "Clients of the relay server.", relay.clients),
            ("relay_client_rate_bytes", "What one client may relay, in bytes a second.", relay.client_rate),
            ("discovery_connections", "Nodes connected for address discovery.", levels.discovery_connections),
            ("mesh_nodes", "Nodes of live meshes.", levels.mesh_nodes as u64),
            ("mesh_bytes", "Memory of the meshes' nodes and heads.", levels.mesh_bytes as u64),
            ("torrent_bytes", "Memory of the newest torrents.", levels.torrent_bytes as u64),
            ("body_bytes", "Memory of bodies that are being taken in.", levels.body_bytes),
            ("answer_bytes", "Memory of answers that wait for their readers.", levels.answer_bytes),
            ("channel_swarms", "Swarms of channels.", swarms.channel_swarms as u64),
            ("open_swarms", "Swarms of no channel.", swarms.open_swarms as u64),
            ("peers", "Peers of all swarms.", swarms.peers as u64),
            ("seeders", "Peers that have all.", swarms.seeders as u64),
            ("swarm_bytes", "Memory of swarms and peers.", swarms.heap_bytes as u64),
        ] {
            put(name, "gauge", help, level);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_type_and_value() {
        let metrics = Metrics::default();
        metrics.announces.add(3);
        let text = metrics.to_prometheus(&Levels { channels: 2, ..Levels::default() });
        assert!(
            text.contains(
                "# TYPE minuet_tracker_announces_total counter\nminuet_tracker_announces_total 3\n"
            )
        );
        assert!(text.contains("# TYPE minuet_tracker_channels gauge\nminuet_tracker_channels 2\n"));
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(text.lines().count(), 3 * samples);
    }
}
