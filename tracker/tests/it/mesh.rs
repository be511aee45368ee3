//! The live mesh's meeting place over real sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use crate::support::{Publisher, base, config, get, node_id, node_key};
use minuet_proto::channel_api::mesh::{
    CheckedHead, JoinRequest, MAX_JOIN_HEAD_PIECES, MAX_JOIN_REQUEST_LENGTH, MeshNode, Nonce, SourceProof,
    encode_heads, head_from_base64, heads_path,
};
use minuet_proto::mesh::{Head, HeadPiece, Serial, SignedHead};
use minuet_proto::{ChannelKey, Phase, PieceHash, PieceIndex, SegmentSeq};
use minuet_tracker::Tracker;

fn head(key: &ChannelKey, first: u64) -> SignedHead {
    let piece = HeadPiece { hash: PieceHash::new([1; 20]), len: 1, ingest_ms: first, random_access: true };
    let head = Head {
        first: Serial::new(first),
        segment: SegmentSeq(0),
        first_index: PieceIndex(0),
        pieces: vec![piece],
    };
    CheckedHead::sign(key, head).into_signed()
}

fn node(n: u8, port: u16) -> JoinRequest {
    let mut request = JoinRequest::new(MeshNode::new(node_id(n)));
    request.about.addrs = vec![([127, 0, 0, 1], port).into()];
    request.about.dialable = true;
    request.want = 8;
    request
}

#[tokio::test]
async fn nodes_meet_and_a_newcomer_gets_records_heads_and_neighbours_in_one_answer() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let mut publisher = Publisher::new(1);
    assert_eq!(publisher.join_mesh(&at, &node(1, 4001)).await.0, 404);
    publisher.publish_state(&at, &publisher.state(5, Phase::Live, "", false)).await;
    let (_, joined) = publisher.join_mesh(&at, &node(1, 4001)).await;
    let joined = joined.unwrap();
    assert_eq!((joined.nodes.len(), joined.heads.len()), (0, 0));
    assert_eq!(joined.observed.to_string(), "127.0.0.1");
    assert!((52..=68).contains(&joined.interval_s), "{}", joined.interval_s);

    let segment = publisher.seal();
    publisher.publish(&at, &segment).await;
    let heads: Vec<SignedHead> = (1..=3).map(|n| head(&publisher.key, n)).collect();
    let posted = publisher.post(&at, "heads", encode_heads(&heads).to_vec()).await;
    assert_eq!(posted, (200, "accepted\n".into()));
    let mut newcomer = node(2, 4002);
    newcomer.heads = 2;
    let (_, joined) = publisher.join_mesh(&at, &newcomer).await;
    let joined = joined.unwrap();
    let told: Vec<SignedHead> = joined.heads.iter().map(|text| head_from_base64(text).unwrap()).collect();
    assert_eq!(told, heads[1..]);
    assert_eq!(joined.nodes.len(), 1);
    assert_eq!(joined.nodes[0].node, node_id(1));
    assert_eq!(joined.nodes[0].addrs, [([127, 0, 0, 1], 4001).into()]);
    assert!(joined.nodes[0].dialable && !joined.nodes[0].is_source);
    assert!(get(&format!("{at}metrics")).await.1.contains("minuet_tracker_mesh_nodes 2\n"));

    // Who leaves is told to nobody.
    let mut leaving = node(1, 4001);
    leaving.leaving = true;
    assert_eq!(publisher.join_mesh(&at, &leaving).await.1.unwrap().nodes, []);
    assert_eq!(publisher.join_mesh(&at, &node(2, 4002)).await.1.unwrap().nodes, []);
    tracker.shutdown().await;
}

#[tokio::test]
async fn others_are_told_of_a_node_only_when_it_has_proved_its_key_from_where_it_is() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let tracker = Tracker::start(config).await.unwrap();
    let (at, publisher) = (base(&tracker), Publisher::new(1));
    publisher.publish_state(&at, &publisher.state(5, Phase::Live, "", false)).await;
    let seen = async || publisher.join_mesh(&at, &node(9, 4009)).await.1.unwrap().nodes;

    // Without a proof it is told of others, and given a nonce for the next time.
    let unproved = publisher.post(&at, "join", serde_json::to_vec(&node(1, 4001)).unwrap()).await;
    let unproved: minuet_proto::channel_api::mesh::MeshJoin = serde_json::from_str(&unproved.1).unwrap();
    assert!(!unproved.proved);
    let nonce = unproved.nonce.unwrap();
    assert_eq!(seen().await, []);
    // A nonce that was never given proves nothing, and neither does a good one under another's key or from elsewhere.
    assert!(!publisher.join_with(&at, &node(1, 4001), Nonce([1; 16])).await.1.unwrap().proved);
    let mut stolen = node(1, 4001);
    stolen.about.node = minuet_proto::mesh::NodeId([3; 32]);
    let body = serde_json::to_vec(&stolen).unwrap();
    let sign = |body: &[u8]| {
        let signed =
            minuet_proto::channel_api::mesh::JoinProof::signed_bytes(&publisher.channel(), nonce, body);
        let signature = node_key(1).sign_bytes(&signed);
        minuet_proto::channel_api::mesh::JoinProof { nonce, signature }.to_string()
    };
    let post = async |body: Vec<u8>, from: &str| {
        let url = format!("{at}c/{}/join", publisher.channel());
        let post = reqwest::Client::new()
            .post(url)
            .header("minuet-proof", sign(&body))
            .header("x-forwarded-for", from);
        let answer = post.body(body).send().await.unwrap().bytes().await.unwrap();
        serde_json::from_slice::<minuet_proto::channel_api::mesh::MeshJoin>(&answer).unwrap().proved
    };
    assert!(!post(body, "127.0.0.1").await);
    assert!(!post(serde_json::to_vec(&node(1, 4001)).unwrap(), "198.51.100.7").await);
    assert_eq!(seen().await, []);
    assert!(post(serde_json::to_vec(&node(1, 4001)).unwrap(), "127.0.0.1").await);
    assert_eq!(seen().await.len(), 1);
    tracker.shutdown().await;
}

#[tokio::test]
async fn only_the_channel_says_which_node_is_its_source() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let (at, publisher) = (base(&tracker), Publisher::new(1));
    publisher.publish_state(&at, &publisher.state(5, Phase::Live, "", false)).await;
    let liar = |n: u8, proof| {
        let mut request = node(n, 4000 + u16::from(n));
        request.about.is_source = true;
        request.about.source_proof = proof;
        request
    };
    let true_proof = SourceProof::sign(&publisher.key, &node_id(1));
    publisher.join_mesh(&at, &liar(1, Some(true_proof))).await;
    publisher.join_mesh(&at, &liar(2, None)).await;
    publisher.join_mesh(&at, &liar(3, Some(true_proof))).await;
    publisher.join_mesh(&at, &liar(4, Some(SourceProof::sign(&node_key(4), &node_id(4))))).await;
    let told = publisher.join_mesh(&at, &node(9, 4009)).await.1.unwrap().nodes;
    let sources: Vec<_> = told.iter().filter(|node| node.is_source).collect();
    assert_eq!((told.len(), sources.len()), (4, 1));
    assert!(sources[0].node == node_id(1) && sources[0].is_source_of(&publisher.channel()));
    tracker.shutdown().await;
}

#[tokio::test]
async fn only_the_channels_own_heads_are_taken_and_they_prove_the_channel() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let (publisher, other) = (Publisher::new(1), Publisher::new(2));
    let forged = encode_heads([&head(&other.key, 1)]).to_vec();
    assert_eq!(publisher.post(&at, "heads", forged).await.0, 403);
    assert_eq!(publisher.post(&at, "heads", b"de".to_vec()).await.0, 400);
    assert_eq!(publisher.post(&at, "heads", vec![b'x'; 1 << 20]).await.0, 413);
    assert_eq!(publisher.join_mesh(&at, &node(1, 4001)).await.0, 404);
    assert_eq!(get(&format!("{at}{}", heads_path(&publisher.channel()))).await.0, 405);

    let old = encode_heads([&head(&publisher.key, 1)]).to_vec();
    let new = encode_heads([&head(&publisher.key, 2 + u64::from(MAX_JOIN_HEAD_PIECES))]).to_vec();
    assert_eq!(publisher.post(&at, "heads", new).await, (200, "accepted\n".into()));
    assert_eq!(publisher.post(&at, "heads", old).await, (200, "known already\n".into()));
    let mut request = node(1, 4001);
    request.heads = u32::MAX;
    assert_eq!(publisher.join_mesh(&at, &request).await.1.unwrap().heads.len(), 1);
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_join_that_is_none_is_refused_in_words() {
    let data = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(config(data.path())).await.unwrap();
    let at = base(&tracker);
    let publisher = Publisher::new(1);
    publisher.publish_state(&at, &publisher.state(5, Phase::Live, "", false)).await;
    let (status, why) = publisher.post(&at, "join", b"{}".to_vec()).await;
    assert_eq!(status, 400);
    assert!(why.contains("join request is malformed: missing field `node`"), "{why}");
    assert_eq!(publisher.post(&at, "join", vec![b' '; MAX_JOIN_REQUEST_LENGTH + 1]).await.0, 413);
    tracker.shutdown().await;
}
