//! A tracker on a port of its own, and a publisher that signs records.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod udp;
pub mod world;

use std::net::SocketAddr;
use std::path::Path;

use minuet_proto::channel_api::mesh::{JoinProof, JoinRequest, MeshJoin, Nonce, PROOF_HEADER};
use minuet_proto::channel_api::{self, Join, Publication};
use minuet_proto::mesh::NodeId;
use minuet_proto::metainfo::Info;
use minuet_proto::{
    ChannelId, ChannelKey, ChannelState, Metainfo, Phase, PieceHash, PieceLength, Record, SegmentSeq,
    SignedRecord, SignedState,
};
use minuet_tracker::{Config, Tracker};

/// The seed of the key of a node.
pub fn node_seed(n: u8) -> [u8; 32] {
    [n ^ 0x5a; 32]
}

/// The key of a node: one of ed25519, as a channel's.
pub fn node_key(n: u8) -> ChannelKey {
    ChannelKey::from_seed(&node_seed(n))
}

/// The name of a node that can join.
pub fn node_id(n: u8) -> NodeId {
    NodeId(*node_key(n).channel().as_bytes())
}

/// A configuration for a tracker on loopback with a port that is free.
pub fn config(data: &Path) -> Config {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    Config { udp_listen: listen.clone(), listen, data: data.to_owned(), ..Config::default() }
}

/// Base URL, ending in `/`.
pub fn base(tracker: &Tracker) -> String {
    format!("http://{}/", tracker.http_addrs()[0])
}

/// A signed record and its torrent.
#[derive(Clone)]
pub struct Segment {
    pub record: SignedRecord,
    pub torrent: Metainfo,
}

impl Segment {
    pub fn publication(&self) -> Vec<u8> {
        let (record, torrent) = (self.record.encode(), self.torrent.encode());
        Publication { record, torrent }.encode().to_vec()
    }
}

/// Holds a channel's key.
pub struct Publisher {
    pub key: ChannelKey,
    pub last: Option<SignedRecord>,
    http: reqwest::Client,
}

impl Publisher {
    pub fn new(seed: u8) -> Self {
        Self { key: ChannelKey::from_seed(&[seed; 32]), last: None, http: reqwest::Client::new() }
    }

    /// One of very many.
    pub fn numbered(number: u32) -> Self {
        let mut publisher = Self::new(0);
        let mut seed = [1; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        publisher.key = ChannelKey::from_seed(&seed);
        publisher
    }

    pub fn channel(&self) -> ChannelId {
        self.key.channel()
    }

    /// Seals the next segment, of made-up content.
    pub fn seal(&mut self) -> Segment {
        let torrent = torrent(&self.channel(), self.next());
        self.seal_torrent(torrent)
    }

    fn next(&self) -> SegmentSeq {
        self.last.as_ref().map_or(SegmentSeq(0), |last| last.seq.next())
    }

    /// Seals the next segment, whose torrent is this.
    pub fn seal_torrent(&mut self, torrent: Metainfo) -> Segment {
        let seq = self.next();
        let prev = self.last.as_ref().map(|last| last.hash());
        let record = Record {
            channel: self.channel(),
            seq,
            prev,
            info_hash: torrent.info_hash(),
            length: torrent.info().length,
            piece_length: torrent.info().piece_length,
            duration_ms: 60_000,
            ingest_ms: seq.0 * 60_000,
            sealed_ms: (seq.0 + 1) * 60_000,
            discontinuity: false,
            access: Default::default(),
        };
        let record = SignedRecord::sign(&self.key, record);
        self.last = Some(record.clone());
        Segment { record, torrent }
    }

    pub fn state(&self, at_ms: u64, phase: Phase, title: &str, listed: bool) -> SignedState {
        let state = ChannelState {
            channel: self.channel(),
            at_ms,
            phase,
            next: SegmentSeq(0),
            segment_ms: 60_000,
            title: title.into(),
            listed,
            origin: None,
        };
        SignedState::sign(&self.key, state)
    }

    /// Posts to `<base>/c/<channel>/<what>` and returns status and text.
    pub async fn post(&self, base: &str, what: &str, body: Vec<u8>) -> (u16, String) {
        let url = format!("{base}c/{}/{what}", self.channel());
        let response = self.http.post(url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub async fn publish(&self, base: &str, segment: &Segment) -> (u16, String) {
        self.post(base, "records", segment.publication()).await
    }

    pub async fn publish_state(&self, base: &str, state: &SignedState) -> (u16, String) {
        self.post(base, "state", state.encode().to_vec()).await
    }

    pub async fn join(&self, base: &str, query: &str) -> Join {
        let url = format!("{base}{}{query}", channel_api::join_path(&self.channel()));
        let bytes =
            self.http.get(url).send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Joins the live mesh as one of [`node_id`]: the answer's status, and the answer if it is one.
    pub async fn join_mesh(&self, base: &str, request: &JoinRequest) -> (u16, Option<MeshJoin>) {
        let (status, text) = get(&format!("{base}{}", channel_api::join_path(&self.channel()))).await;
        if status != 200 {
            return (status, None);
        }
        let nonce = serde_json::from_str::<Join>(&text).unwrap().nonce.unwrap();
        self.join_with(base, request, nonce).await
    }

    /// Joins with this nonce.
    pub async fn join_with(
        &self,
        base: &str,
        request: &JoinRequest,
        nonce: Nonce,
    ) -> (u16, Option<MeshJoin>) {
        let body = serde_json::to_vec(request).unwrap();
        let key = (0..=u8::MAX).map(node_key).find(|key| *key.channel().as_bytes() == request.about.node.0);
        let signed = JoinProof::signed_bytes(&self.channel(), nonce, &body);
        let proof = JoinProof { nonce, signature: key.unwrap().sign_bytes(&signed) };
        let url = format!("{base}c/{}/join", self.channel());
        let post = self.http.post(url).header(PROOF_HEADER, proof.to_string()).body(body);
        let response = post.send().await.unwrap();
        (response.status().as_u16(), serde_json::from_str(&response.text().await.unwrap()).ok())
    }

    /// The numbers of a join's records, each checked.
    pub fn numbers(&self, join: &Join) -> Vec<u64> {
        join.records.iter().map(|r| SignedRecord::from_base64(r, self.channel()).unwrap().seq.0).collect()
    }
}

pub fn torrent(channel: &ChannelId, seq: SegmentSeq) -> Metainfo {
    let info = Info {
        name: minuet_proto::record::segment_file_name(channel, seq),
        length: 20_000,
        piece_length: PieceLength::MIN,
        pieces: vec![PieceHash::of(&seq.0.to_be_bytes()), PieceHash::of(b"end")],
    };
    Metainfo::new(info, vec![], vec![]).unwrap()
}

/// Status and text of a GET.
pub async fn get(url: &str) -> (u16, String) {
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// A number among the metrics.
pub async fn sample(base: &str, name: &str) -> u64 {
    let metrics = get(&format!("{base}metrics")).await.1;
    let name = format!("minuet_tracker_{name} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// Announces over HTTP and returns the bencoded answer.
pub async fn announce(base: &str, info_hash: &[u8; 20], port: u16, extra: &str) -> Vec<u8> {
    let hash: String = info_hash.iter().map(|b| format!("%{b:02x}")).collect();
    let url = format!("{base}announce?info_hash={hash}&peer_id=-XX0000-000000000000&port={port}{extra}");
    reqwest::get(url).await.unwrap().bytes().await.unwrap().to_vec()
}

/// Scrapes one torrent over HTTP and returns the bencoded answer, without what is no ASCII.
pub async fn scrape(base: &str, info_hash: &minuet_proto::InfoHash) -> String {
    let hash: String = info_hash.as_bytes().iter().map(|b| format!("%{b:02x}")).collect();
    get(&format!("{base}scrape?info_hash={hash}")).await.1
}

/// Whether `bytes` has `part` somewhere.
pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Reads server-sent events one after the other.
pub struct Events {
    response: reqwest::Response,
    buffer: String,
}

/// One event: name, id, data.
pub type Event = (String, Option<u64>, String);

impl Events {
    pub async fn open(base: &str, channel: &ChannelId, query: &str, last: Option<u64>) -> Self {
        let url = format!("{base}{}{query}", channel_api::events_path(channel));
        let mut request = reqwest::Client::new().get(url);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let response = request.send().await.unwrap().error_for_status().unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    /// The next event that is not a comment; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
                };
                if let (Some(event), Some(data)) = (field("event"), field("data")) {
                    return Some((event, field("id").map(|id| id.parse().unwrap()), data));
                }
            }
            let chunk = self.response.chunk().await.ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The number of the next record.
    pub async fn next_record(&mut self) -> Option<u64> {
        loop {
            let (event, id, _) = self.next().await?;
            if event == "record" {
                return id;
            }
        }
    }
}
