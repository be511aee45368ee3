//! Samples of nodes and peers: what this tracker says of a channel to the others of its fleet, and what it takes in of theirs.

use std::net::SocketAddr;

use minuet_proto::channel_api::Peer;

use super::SAMPLE_TTL;
use super::news::{SHARED_NODES, SHARED_PEERS, Sample};
use crate::channel::Channel;
use crate::state::State;

/// Nodes of one sample that are looked at because they say that they are the source.
const MOST_SOURCES: usize = 2;

/// Some of the nodes and peers of a channel that spoke to this tracker.
pub(super) fn sample_of(state: &State, channel: &Channel) -> Sample {
    let nodes = channel.mesh().own_sample(SHARED_NODES, rand::random());
    let mut peers = Vec::new();
    let newest = channel.window().entries().back().map(|entry| entry.record.info_hash);
    if let Some(info_hash) = newest {
        // Asked for as from loopback, since the tracker that tells of a peer leaves out what is of no use.
        let asker = SocketAddr::from(([127, 0, 0, 1], 0));
        let (now, random) = (state.clock.uptime(), rand::random());
        state.swarms.peers_of(&info_hash, asker, SHARED_PEERS, now, random, |addr, seed| {
            peers.push(Peer { addr, seed });
        });
    }
    Sample { at_ms: state.clock.unix_ms(), nodes, peers }
}

/// Takes in the nodes and peers that other trackers tell of. A sample from the past or the future counts as none, and
/// the channel's word that a node is its source is looked at anew.
pub(super) fn take_samples(state: &State, channel: &Channel, samples: impl Iterator<Item = Sample>) {
    let now = state.clock.uptime();
    let expires = now.after(SAMPLE_TTL);
    let ttl_ms = u64::try_from(SAMPLE_TTL.as_millis()).unwrap_or(u64::MAX);
    let (mut peers, now_ms) = (Vec::new(), state.clock.unix_ms());
    for mut sample in samples.filter(|sample| sample.at_ms.abs_diff(now_ms) < ttl_ms) {
        let mut claims = 0;
        for (node, _) in sample.nodes.iter_mut().filter(|(node, _)| node.is_source) {
            claims += 1;
            node.is_source = claims <= MOST_SOURCES && node.is_source_of(channel.id());
        }
        let mut mesh = channel.mesh();
        if channel.is_gone() {
            return;
        }
        for (node, ip) in &sample.nodes {
            mesh.hear_of(node, *ip, &state.config.mesh, state.channels.nodes(), expires);
        }
        peers.extend(sample.peers);
    }
    channel.set_foreign_peers(peers, expires);
}
