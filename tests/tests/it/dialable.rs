//! A node that nobody dials finds out, and says so.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use minuet_node::{
    TrackerClient,
    mesh::{ClosedPiece, Mesh, MeshOptions, MeshRole, MeshStart},
};
use minuet_proto::{
    ChannelKey, PieceHash, PieceId, PieceIndex, SegmentSeq,
    channel_api::mesh::{JoinRequest, MeshNode},
    mesh::{NodeId, Serial},
};
use minuet_tests::{Tracker, free_port};

/// How often the tracker is asked what nodes say.
const LOOK: Duration = Duration::from_secs(1);

fn options(key: &ChannelKey, role: MeshRole, folder: &Path, tracker: &TrackerClient) -> MeshOptions {
    MeshOptions {
        channel: key.channel(),
        key: (role == MeshRole::Source).then(|| key.clone()),
        role,
        start: MeshStart::Live,
        target_delay: Duration::from_secs(5),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        upload_limit: None,
        upload: true,
        folder: folder.to_owned(),
        window: 256,
        first_serial: Serial::new(1),
        known: None,
        lines: None,
        uplink: minuet_node::mesh::Uplink::default(),
        trackers: vec![tracker.clone()],
        dht: None,
        local: false,
        keep: minuet_node::mesh::Keeping::Nothing,
    }
}

/// What the nodes at these ports say of themselves to the tracker: whether they can be dialled.
async fn said(tracker: &TrackerClient, key: &ChannelKey, ports: &[u16]) -> Vec<Option<bool>> {
    let mut request = JoinRequest::new(MeshNode::new(NodeId([7; 32])));
    request.about.addrs = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9))];
    request.want = 32;
    // The tracker does not know the channel before its first piece.
    let Ok(answer) = tracker.ask_mesh(key.channel(), &request).await else { return vec![None; ports.len()] };
    let of = |port: &u16| {
        let node = answer.nodes.iter().find(|node| node.addrs.iter().any(|addr| addr.port() == *port));
        node.map(|node| node.dialable)
    };
    ports.iter().map(of).collect()
}

/// Waits until the nodes at these ports say so.
async fn wait_for(tracker: &TrackerClient, key: &ChannelKey, ports: &[u16], wanted: &[bool]) {
    let wanted: Vec<_> = wanted.iter().copied().map(Some).collect();
    let saying = async {
        while said(tracker, key, ports).await != wanted {
            tokio::time::sleep(LOOK).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(240), saying).await;
    assert!(in_time.is_ok(), "{:?} is not {wanted:?}", said(tracker, key, ports).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_never_dialled_says_so_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Tracker::start_with(free_port(), &dir.join("tracker"), &["--no-relay"]);
    let url = minuet_proto::link::parse_tracker(&server.url).unwrap();
    let tracker = TrackerClient::new(url).unwrap();
    let key = ChannelKey::from_seed(&[9; 32]);
    let port = |mesh: &Mesh| mesh.listen_addrs()[0].port();
    let mut meshes = Vec::new();
    // Each dials those before it, and nobody dials the last.
    for number in 0..5 {
        let role = if number == 0 { MeshRole::Source } else { MeshRole::Viewer };
        let folder = dir.join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        let mesh = Mesh::start(options(&key, role, &folder, &tracker)).await.unwrap();
        let mut stats = mesh.watch_stats();
        let linked = stats.wait_for(|stats| stats.peers == number);
        tokio::time::timeout(Duration::from_secs(30), linked).await.expect("all are linked").unwrap();
        if role == MeshRole::Source {
            let data = Bytes::from_static(b"all that is ever broadcast");
            let id = PieceId { segment: SegmentSeq(0), piece: PieceIndex(0) };
            let hash = PieceHash::of(&data);
            let piece = ClosedPiece { id, hash, ingest_ms: 1, random_access: true, data };
            assert!(mesh.publisher().publish(piece));
        }
        wait_for(&tracker, &key, &[port(&mesh)], &[true]).await;
        meshes.push(mesh);
    }
    let ports = [port(&meshes[1]), port(&meshes[4])];
    wait_for(&tracker, &key, &ports, &[true, false]).await;
    // A newcomer who finds too few others dials it all the same.
    let folder = dir.join("newcomer");
    std::fs::create_dir(&folder).unwrap();
    let _newcomer = Mesh::start(options(&key, MeshRole::Viewer, &folder, &tracker)).await.unwrap();
    wait_for(&tracker, &key, &ports, &[true, true]).await;
}
