//! A tracker's channel API over HTTP, from the asking side. See `docs/tracker-protocol.md`.
//!
//! Every answer is read up to a limit and within a time, and every statement in it is checked before it is given
//! on.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use minuet_proto::{
    ChannelId, Metainfo, SegmentSeq, SignedRecord, SignedState,
    channel_api::{
        self, Join, Publication,
        directory::{self, Directory, Listing},
        mesh::{self, CheckedHead, JoinProof, JoinRequest, MeshJoin, MeshNode, Nonce},
    },
    mesh::{SIGNATURE_LEN, SignedHead},
    metainfo::MAX_METAINFO_LENGTH,
    title::clean_title,
};
use reqwest::{
    Response, Url,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue},
};

use crate::{
    Error,
    contact::{Contacts, Http, Request, Scope, Teller, literal, nameable},
    sse::{Event, Parser},
};

/// How long a connection to a tracker may take to come about.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one question and its whole answer may take.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an event stream may be silent; trackers send a comment every 15 s.
pub const EVENTS_SILENCE: Duration = Duration::from_secs(45);
/// The shortest time after which a tracker may want to be joined again.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest such time: after that it is asked anyway.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// Where a relay server says that it is one.
const RELAY_PROBE: &str = "/ping";
/// More it does not say.
const MAX_PROBE_LENGTH: usize = 4096;
/// How much of a refusal's text is kept, in bytes.
const MAX_REFUSAL_LENGTH: usize = 300;
/// How much of a web page is looked at for its title, in bytes.
const MAX_PAGE_LENGTH: usize = 4096;
/// How many characters of what a stranger says are shown.
const MAX_SHOWN: usize = 200;

/// Where a tracker says what it lists.
const STATUS: &str = "status";
/// More it does not say: some 300 bytes a channel.
const MAX_STATUS_LENGTH: usize = 1 << 20;
/// Listed channels that are taken from one tracker.
pub const MAX_LISTED: usize = 512;

/// What a tracker says of itself, as far as it is of use here.
#[derive(Debug, serde::Deserialize)]
struct Status {
    listed: Vec<ListedChannel>,
}

#[derive(Debug, serde::Deserialize)]
struct ListedChannel {
    channel: String,
    #[serde(default)]
    title: String,
}

/// One tracker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TrackerClient {
    http: Http,
    base: Url,
    /// What the tracker last gave to be signed, see [`JoinProof`]. Clones share it.
    nonce: Arc<Mutex<Option<Nonce>>>,
}

/// A channel as one tracker knows it, with every signature checked.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The newest statement of the source about the channel.
    pub state: Option<SignedState>,
    /// Records in ascending order.
    pub records: Vec<SignedRecord>,
    /// The oldest segment that the tracker has.
    pub oldest: Option<SegmentSeq>,
    /// Peers of the running swarms.
    pub peers: Vec<channel_api::Peer>,
    /// Where in each minute this viewer should begin to fetch, see [`Join::place`].
    pub place: Option<u32>,
    /// How many statements were thrown away because they did not hold.
    pub rejected: usize,
    /// Who told: whatever the statements and peers name is judged by this. Peers that the tracker may not name are left out.
    pub teller: Teller,
}

/// A channel's live mesh as one tracker knows it, with every signature checked.
#[derive(Debug, Clone)]
pub struct MeshSnapshot {
    /// Nodes to link with. Nothing proves what is said of them but a link. Addresses that the tracker may not name are
    /// left out.
    pub nodes: Vec<MeshNode>,
    /// How many of them have no other address, or never had one that they could tell this tracker.
    pub barred: usize,
    /// The newest heads in ascending order.
    pub heads: Vec<CheckedHead>,
    /// The tracker's own relay server.
    pub relay: Option<String>,
    /// The UDP port on the relay server's host where a node can learn its public address.
    pub relay_quic_port: Option<u16>,
    /// SHA-256 of the certificate that is shown there.
    pub relay_quic_cert: Option<[u8; 32]>,
    /// The address that the request came from, as the tracker sees it.
    pub observed: IpAddr,
    /// When to ask again.
    pub interval: Duration,
    /// Whether others are told of the node that joined.
    pub proved: bool,
}

/// Which records a [`Snapshot`] should begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The newest few.
    Newest,
    /// From a number on.
    Seq(SegmentSeq),
}

/// A checked statement from an event stream.
#[derive(Debug, Clone)]
pub enum News {
    /// A segment was sealed.
    Record(SignedRecord),
    /// The source says something new about the channel.
    State(SignedState),
}

impl TrackerClient {
    /// A client for the tracker at `base`, a URL as [`minuet_proto::link::parse_tracker`] gives it, which the user named.
    pub fn new(base: Url) -> Result<Self, Error> {
        Self::named(base, Teller::User)
    }

    /// The same for one that `teller` named.
    pub fn named(base: Url, teller: Teller) -> Result<Self, Error> {
        let http = Http::new(Contacts::of_process(), teller, CONNECT_TIMEOUT)?;
        Ok(Self { http, base, nonce: Arc::default() })
    }

    /// The tracker as a teller: what it names is judged by where it is. That is the address in its URL, else the one that
    /// answered last; a tracker that is asked through a proxy counts as on the internet.
    pub fn teller(&self) -> Teller {
        let answered = || self.http.answered().filter(|_| !asks_a_proxy());
        literal(&self.base).or_else(answered).map_or(Teller::Unknown, Teller::At)
    }

    /// The same, asking the name server where the tracker has not answered yet.
    pub async fn find(&self) -> Teller {
        let found = match self.teller() {
            known @ Teller::At(_) => return known,
            _ if asks_a_proxy() => None,
            _ => {
                let host = self.base.host_str().unwrap_or_default();
                let lookup = tokio::net::lookup_host((host, 0));
                let found = tokio::time::timeout(CONNECT_TIMEOUT, lookup).await;
                found.ok().and_then(Result::ok).and_then(|mut found| found.next()).map(|addr| addr.ip())
            }
        };
        found.map_or(Teller::Unknown, Teller::At)
    }

    /// What it is called in logs: its base URL without secrets.
    pub fn name(&self) -> String {
        minuet_proto::mask::mask(self.base.as_str())
    }

    /// Its base URL.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Where BitTorrent clients announce to it (BEP 3), as it may be published: without name and password.
    pub fn announce_url(&self) -> String {
        let mut url = self.url("announce");
        // Fails only for addresses that cannot have any.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.into()
    }

    /// Everything needed to join a channel, in one answer.
    pub async fn join(&self, channel: ChannelId, begin: Begin) -> Result<Snapshot, Error> {
        let mut url = self.url(&channel_api::join_path(&channel));
        match begin {
            Begin::Newest => {}
            Begin::Seq(seq) => drop(url.query_pairs_mut().append_pair("from", &seq.to_string())),
        }
        let body = self.get(url, channel_api::MAX_JOIN_LENGTH).await?;
        let join: Join = serde_json::from_slice(&body).map_err(|e| Error::Garbage(e.to_string()))?;
        self.keep_nonce(join.nonce);
        Ok(Snapshot::check(&join, channel, self.teller()))
    }

    /// The channels that want to be seen, after `after`, and what to ask after next. What does not hold is left out.
    pub async fn channels(
        &self,
        after: Option<&str>,
    ) -> Result<(Vec<(SignedState, Listing)>, Option<String>), Error> {
        let mut url = self.url(directory::directory_path());
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        let body = self.get(url, directory::MAX_DIRECTORY_LENGTH).await?;
        let directory: Directory =
            serde_json::from_slice(&body).map_err(|e| Error::Garbage(e.to_string()))?;
        let listed = directory.channels.into_iter().take(directory::MAX_DIRECTORY_CHANNELS);
        let checked = listed.filter_map(|listing| match listing.check() {
            Ok(state) => Some((state, listing)),
            Err(error) => {
                tracing::warn!("thrown away: {error}");
                None
            }
        });
        Ok((checked.collect(), directory.next))
    }

    /// Asks for nodes and heads, in one answer, without telling the tracker of a node.
    pub async fn ask_mesh(&self, channel: ChannelId, request: &JoinRequest) -> Result<MeshSnapshot, Error> {
        self.post_join(channel, request, |_| None).await
    }

    /// Tells the tracker of this node and asks for others and for heads, in one answer. `sign` signs bytes with the
    /// node's key.
    ///
    /// Where the tracker has given no nonce to sign yet, or has given one to another address of this machine, it answers
    /// but does not tell others of the node ([`MeshSnapshot::proved`]); the next join has a nonce.
    pub async fn join_mesh(
        &self,
        channel: ChannelId,
        request: &JoinRequest,
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_LEN],
    ) -> Result<MeshSnapshot, Error> {
        let nonce = *self.nonce.lock().unwrap_or_else(PoisonError::into_inner);
        self.post_join(channel, request, |body| {
            let nonce = nonce?;
            Some(JoinProof { nonce, signature: sign(&JoinProof::signed_bytes(&channel, nonce, body)) })
        })
        .await
    }

    async fn post_join(
        &self,
        channel: ChannelId,
        request: &JoinRequest,
        prove: impl FnOnce(&[u8]) -> Option<JoinProof>,
    ) -> Result<MeshSnapshot, Error> {
        // Strings and numbers always serialise.
        let body = Bytes::from(serde_json::to_vec(request).unwrap_or_default());
        let mut headers = HeaderMap::new();
        // Digits and a dot are always a header's value.
        if let Some(value) = prove(&body).and_then(|proof| HeaderValue::from_str(&proof.to_string()).ok()) {
            headers.insert(mesh::PROOF_HEADER, value);
        }
        let url = self.url(&mesh::mesh_join_path(&channel));
        let answer = within(async {
            let response = self.send(url, Request { body: Some(body), headers }).await?;
            read(refuse_errors(response).await?, channel_api::MAX_JOIN_LENGTH).await
        })
        .await?;
        let join: MeshJoin = serde_json::from_slice(&answer).map_err(|e| Error::Garbage(e.to_string()))?;
        self.keep_nonce(join.nonce);
        Ok(MeshSnapshot::check(join, channel, self.teller()))
    }

    fn keep_nonce(&self, nonce: Option<Nonce>) {
        if nonce.is_some() {
            *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = nonce;
        }
    }

    /// Leaves heads for those who join, at most [`mesh::MAX_POSTED_HEADS`]. Heads that the tracker has already are
    /// no error.
    pub async fn publish_heads(
        &self,
        channel: ChannelId,
        heads: impl IntoIterator<Item = &SignedHead>,
    ) -> Result<(), Error> {
        self.post(&mesh::heads_path(&channel), mesh::encode_heads(heads)).await
    }

    /// A segment's `.torrent`. Its info hash is for the caller to check against the record.
    pub async fn torrent(&self, channel: ChannelId, seq: SegmentSeq) -> Result<Metainfo, Error> {
        let url = self.url(&channel_api::torrent_path(&channel, seq));
        Ok(Metainfo::parse(&self.get(url, MAX_METAINFO_LENGTH).await?)?)
    }

    /// The channels that the tracker lists in public, with what they are called: at most [`MAX_LISTED`].
    pub async fn listed(&self) -> Result<Vec<(ChannelId, String)>, Error> {
        let body = self.get(self.url(STATUS), MAX_STATUS_LENGTH).await?;
        let status: Status = serde_json::from_slice(&body).map_err(|e| Error::Garbage(e.to_string()))?;
        let listed = status.listed.into_iter().take(MAX_LISTED);
        Ok(listed
            .filter_map(|channel| Some((channel.channel.parse().ok()?, clean_title(&channel.title))))
            .collect())
    }

    /// Publishes a record with its torrent. A record that the tracker has already is no error.
    pub async fn publish(&self, channel: ChannelId, publication: &Publication) -> Result<(), Error> {
        self.post(&channel_api::records_path(&channel), publication.encode()).await
    }

    /// Publishes a statement about the channel.
    pub async fn publish_state(&self, state: &SignedState) -> Result<(), Error> {
        self.post(&channel_api::state_path(&state.channel), state.encode()).await
    }

    /// Asks whether a relay server is at `relay`, a URL that the tracker names. An answer other than success is an error.
    pub async fn find_relay(&self, relay: &str) -> Result<(), Error> {
        let url = Url::parse(relay).and_then(|url| url.join(RELAY_PROBE));
        let url = url.map_err(|error| Error::Garbage(error.to_string()))?;
        self.get(url, MAX_PROBE_LENGTH).await.map(drop)
    }

    /// Opens the channel's event stream: the records from segment `from` on, then whatever comes; without it, only
    /// what comes.
    pub async fn events(&self, channel: ChannelId, from: Option<SegmentSeq>) -> Result<Events, Error> {
        let mut url = self.url(&channel_api::events_path(&channel));
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("from", &from.to_string());
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let asking = self.send(url, Request { body: None, headers });
        let response = tokio::time::timeout(ANSWER_TIMEOUT, asking)
            .await
            .map_err(|_| Error::Silent(ANSWER_TIMEOUT))??;
        let response = refuse_errors(response).await?;
        let is_events = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
        if !is_events {
            return Err(Error::Garbage("no event stream where one was asked for".into()));
        }
        Ok(Events { channel, response, parser: Parser::default(), pending: Vec::new() })
    }

    /// Sends a request. A tracker that has moved is named as its users name it, without the path that was asked for.
    async fn send(&self, url: Url, request: Request) -> Result<Response, Error> {
        let asked = url.path().strip_prefix(self.base.path()).unwrap_or_default().to_owned();
        self.http.send(url, request).await.map_err(|error| match error {
            Error::Moved { status, to } => {
                let base = to.strip_suffix(&asked).filter(|base| base.ends_with('/')).map(str::to_owned);
                Error::Moved { status, to: base.unwrap_or(to) }
            }
            Error::Unreachable(why) if asks_a_proxy() => Error::Unreachable(format!(
                "{why} (the environment names an HTTP proxy, such as http_proxy: it may be that which fails)"
            )),
            error => error,
        })
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        // The base ends in a slash (see `parse_tracker`), and the path is one of ours.
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }

    pub(crate) async fn get(&self, url: Url, limit: usize) -> Result<Vec<u8>, Error> {
        within(async {
            let response = refuse_errors(self.send(url, Request::default()).await?).await?;
            read(response, limit).await
        })
        .await
    }

    async fn post(&self, path: &str, body: Bytes) -> Result<(), Error> {
        within(async {
            refuse_errors(self.send(self.url(path), Request::post(body)).await?).await?;
            Ok(())
        })
        .await
    }
}

/// The nearest of these trackers: what all of them together may name, this one may.
pub async fn nearest(trackers: &[TrackerClient]) -> Teller {
    let mut nearest = (Scope::Public, Teller::Unknown);
    for tracker in trackers {
        let found = tracker.find().await;
        if let Teller::At(ip) = found
            && let Some(scope) = Scope::of(ip)
            && scope < nearest.0
        {
            nearest = (scope, found);
        }
    }
    nearest.1
}

/// Whether HTTP goes through a proxy, as far as the environment says so. Then the proxy is what answers.
fn asks_a_proxy() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].into_iter().any(set)
}

async fn within<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or(Err(Error::Silent(ANSWER_TIMEOUT)))
}

/// Reads a body of at most `limit` bytes.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(Error::Endless(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn refuse_errors(mut response: Response) -> Result<Response, Error> {
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_page = kind == "text/html" || kind == "application/xhtml+xml";
    if status.is_success() && !is_page {
        return Ok(response);
    }
    let mut said = Vec::new();
    let most = if is_page { MAX_PAGE_LENGTH } else { MAX_REFUSAL_LENGTH };
    while said.len() < most
        && let Ok(Some(chunk)) = response.chunk().await
    {
        said.extend_from_slice(&chunk[..chunk.len().min(most - said.len())]);
    }
    let said = String::from_utf8_lossy(&said);
    let printable = |text: &str| -> String {
        let plain = |c: &char| !c.is_control() && !minuet_proto::title::is_format(*c);
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(plain).take(MAX_SHOWN).collect()
    };
    // A tracker refuses in plain text, and not in a page whose server does not say what it is.
    let is_page = is_page || said.trim_start().starts_with('<');
    if is_page || !matches!(&*kind, "" | "text/plain") {
        let found = match page_title(&said).map(printable).filter(|title| !title.is_empty()) {
            Some(title) => format!("a web page (\"{title}\")"),
            None if is_page => "a web page".to_owned(),
            None => printable(&kind),
        };
        return Err(Error::Foreign { status: status.as_u16(), found });
    }
    let said = printable(said.lines().next().unwrap_or_default());
    let reason = status.canonical_reason().unwrap_or("no reason");
    Err(Error::Refused { status: status.as_u16(), said: if said.is_empty() { reason.into() } else { said } })
}

/// What stands in a page's title.
fn page_title(page: &str) -> Option<&str> {
    let lower = page.to_ascii_lowercase();
    let begin = lower.find("<title")?;
    let begin = begin + lower[begin..].find('>')? + 1;
    let end = begin + lower[begin..].find('<')?;
    page.get(begin..end)
}

impl Snapshot {
    fn check(join: &Join, channel: ChannelId, teller: Teller) -> Self {
        let mut rejected = 0;
        let mut checked = |held: Result<SignedRecord, minuet_proto::Error>| {
            held.inspect_err(|error| {
                tracing::warn!("thrown away: {error}");
                rejected += 1;
            })
            .ok()
        };
        let mut records: Vec<SignedRecord> = join
            .records
            .iter()
            .take(channel_api::MAX_JOIN_RECORDS)
            .filter_map(|text| checked(SignedRecord::from_base64(text, channel)))
            .collect();
        records.sort_by_key(|record| record.seq);
        let state = join.state.as_deref().and_then(|text| {
            SignedState::from_base64(text, channel)
                .inspect_err(|error| {
                    tracing::warn!("thrown away: {error}");
                    rejected += 1;
                })
                .ok()
        });
        let may = |peer: &&channel_api::Peer| nameable([&peer.addr], teller).next().is_some();
        let peers = join.peers.iter().take(channel_api::MAX_JOIN_PEERS).filter(may).copied().collect();
        Self { state, records, oldest: join.oldest, peers, place: join.place, rejected, teller }
    }
}

impl MeshSnapshot {
    fn check(join: MeshJoin, channel: ChannelId, teller: Teller) -> Self {
        let checked = |text: &String| {
            mesh::head_from_base64(text)
                .and_then(|head| CheckedHead::check(head, &channel))
                .inspect_err(|error| tracing::warn!("thrown away: {error}"))
                .ok()
        };
        // A head is of one piece at least.
        let heads = &join.heads[..join.heads.len().min(mesh::MAX_JOIN_HEAD_PIECES as usize)];
        let mut good: Vec<CheckedHead> = heads.iter().filter_map(checked).collect();
        good.sort_by_key(|head| head.get().first);
        let mut nodes = join.nodes;
        nodes.truncate(mesh::MAX_JOIN_NODES);
        let mut barred = 0;
        for node in &mut nodes {
            node.addrs = nameable(&node.addrs, teller).take(mesh::MAX_NODE_ADDRS).collect();
            barred += usize::from(node.addrs.is_empty() && node.relay.is_none());
        }
        let too_long = |url: &String| url.len() > mesh::MAX_RELAY_URL_LENGTH;
        nodes.iter_mut().for_each(|node| drop(node.relay.take_if(|url| too_long(url))));
        // Only the channel itself says which node is its source.
        nodes.iter_mut().for_each(|node| node.is_source = node.is_source_of(&channel));
        Self {
            nodes,
            barred,
            heads: good,
            relay: join.relay.filter(|url| !too_long(url)),
            relay_quic_port: join.relay_quic_port,
            relay_quic_cert: join.relay_quic_cert.and_then(|hex| mesh::parse_fingerprint(&hex).ok()),
            observed: join.observed,
            interval: Duration::from_secs(join.interval_s.into()).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
            proved: join.proved,
        }
    }
}

/// An open event stream.
#[derive(Debug)]
pub struct Events {
    channel: ChannelId,
    response: Response,
    parser: Parser,
    /// Parsed, in reverse order.
    pending: Vec<Event>,
}

impl Events {
    /// The next statement. `None` when the tracker ends the stream; an error when it is broken, silent for
    /// [`EVENTS_SILENCE`], or says what does not hold. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<News>, Error> {
        loop {
            while let Some(event) = self.pending.pop() {
                match event.name.as_str() {
                    channel_api::EVENT_RECORD => {
                        return Ok(Some(News::Record(SignedRecord::from_base64(&event.data, self.channel)?)));
                    }
                    channel_api::EVENT_STATE => {
                        return Ok(Some(News::State(SignedState::from_base64(&event.data, self.channel)?)));
                    }
                    _ => {}
                }
            }
            let chunk = tokio::time::timeout(EVENTS_SILENCE, self.response.chunk())
                .await
                .map_err(|_| Error::Silent(EVENTS_SILENCE))??;
            let Some(chunk) = chunk else { return Ok(None) };
            self.parser.push(&chunk, &mut self.pending)?;
            self.pending.reverse();
        }
    }
}
