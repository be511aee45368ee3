//! Tests of who notices the end of a part of a node.

use std::time::Duration;

use minuet_mesh::{Role, Start};
use minuet_proto::{ChannelKey, mesh::Serial};

use super::{Mesh, MeshOptions, Uplink};
use crate::TrackerClient;

/// A tracker that is not there.
fn nowhere() -> TrackerClient {
    TrackerClient::new("http://127.0.0.1:9/".parse().unwrap()).unwrap()
}

pub(super) fn options(role: Role, folder: &std::path::Path) -> MeshOptions {
    let key = ChannelKey::from_seed(&[3; 32]);
    MeshOptions {
        channel: key.channel(),
        key: (role == Role::Source).then_some(key),
        role,
        start: Start::Live,
        target_delay: Duration::from_secs(1),
        listen: "127.0.0.1:0".parse().unwrap(),
        upload_limit: None,
        upload: true,
        folder: folder.to_owned(),
        window: 64,
        first_serial: Serial::new(0),
        known: Some(folder.join("nodes-x.json")),
        lines: None,
        uplink: Uplink::default(),
        trackers: vec![nowhere()],
        dht: None,
        local: false,
        keep: super::Keeping::Nothing,
    }
}

#[tokio::test]
async fn the_end_of_each_part_is_heard_of_and_the_node_can_be_started_again() {
    for part in [
        "the live mesh",
        "taking links",
        "the list of nodes to find again",
        "the watch over this node's addresses",
        "meeting nodes at a tracker",
        "leaving heads at a tracker",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(Role::Source, folder.path());
        let mesh = Mesh::start(options.clone()).await.unwrap();
        mesh.kill(part);
        let fault = mesh.fault().await;
        assert_eq!(fault.task, part);
        assert!(fault.to_string().ends_with("killed by a test"), "{fault}");
        options.listen = mesh.listen_addrs()[0];
        mesh.stop().await;
        let again = Mesh::start(options).await.expect("its port is free again");
        again.stop().await;
    }
}
