//! The segmenter's own HTTP server: finished segments for any client that takes web seeds (BEP 19), their torrents, and
//! byte ranges of the segment that is open, for viewers to whom no peer brings a piece in time.
//!
//! A request names a segment by the name that its number gives; no name from outside meets a path.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{StatusCode, header::RANGE},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use minuet_node::mesh::LiveWindow;
use minuet_proto::{ChannelId, SegmentSeq, mesh::MAX_PIECE_LEN, record::segment_file_name};
use minuet_store::Store;
use tower_http::services::ServeFile;
use url::Url;

use crate::{budget::Budget, meters::Meters, shelf::Shelf};

/// Path of the segments below the server's base URL.
pub const SEGMENTS: &str = "segments/";

/// What the server works with.
#[derive(Clone)]
pub struct Web {
    /// The channel.
    pub channel: ChannelId,
    /// The segments' files.
    pub store: Arc<Store>,
    /// The segments that are held: only these are served.
    pub shelf: Arc<Shelf>,
    /// What may be sent.
    pub budget: Arc<Budget>,
    /// Counts what is sent.
    pub meters: Arc<Meters>,
    /// The newest pieces, those of the open segment among them; none if the origin is switched off.
    pub live: Option<Arc<LiveWindow>>,
}

impl Web {
    /// The server's routes.
    pub fn router(self) -> Router {
        Router::new().route("/segments/{name}", get(segment)).with_state(self)
    }

    /// The segment that a file name means.
    fn meant(&self, name: &str) -> Option<SegmentSeq> {
        let stem = name.strip_suffix(".ts").or_else(|| name.strip_suffix(".torrent"))?;
        let seq = SegmentSeq(stem.rsplit_once('-')?.1.parse().ok()?);
        let own = segment_file_name(&self.channel, seq);
        (own.strip_suffix(".ts") == Some(stem)).then_some(seq)
    }
}

async fn segment(State(web): State<Web>, Path(name): Path<String>, request: Request) -> Response {
    let Some(seq) = web.meant(&name) else { return StatusCode::NOT_FOUND.into_response() };
    if web.shelf.get(seq).is_none() {
        let range = request.headers().get(RANGE).and_then(|range| parse_range(range.to_str().ok()?));
        return match (web.live.clone(), range) {
            (Some(live), Some(range)) if name.ends_with(".ts") => open_range(web, &live, seq, range),
            _ => StatusCode::NOT_FOUND.into_response(),
        };
    }
    if name.ends_with(".torrent") {
        let read = tokio::task::spawn_blocking(move || web.store.torrent(seq)).await;
        return match read {
            Ok(Ok(torrent)) => ([("content-type", "application/x-bittorrent")], torrent).into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        };
    }
    let mut file = ServeFile::new_with_mime(web.store.media_path(seq), &video());
    match file.try_call(request).await {
        Ok(response) => response.map(|body| Body::from_stream(paced(web, Body::new(body)))),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Reads a header of the form `bytes=FIRST-LAST` (RFC 9110, 14.1.2): one range with both ends, of at most the length of
/// the longest piece. Viewers ask for nothing else.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last - first < u64::from(MAX_PIECE_LEN)).then_some((first, last))
}

/// Bytes of a segment that is not finished, if they are all here. Not for caches: the whole is not known yet.
fn open_range(web: Web, live: &LiveWindow, seq: SegmentSeq, (first, last): (u64, u64)) -> Response {
    let mut parts = Vec::new();
    for known in live.of_segment(seq).into_iter().filter(|known| known.held) {
        let Some(offset) = live.offset(&known.piece) else { continue };
        let end = offset + u64::from(known.piece.len);
        if end <= first || offset > last {
            continue;
        }
        let Some(bytes) = live.read(known.piece.serial) else { continue };
        let (from, to) = (first.max(offset) - offset, (last + 1).min(end) - offset);
        // Within the piece, so they fit.
        parts.push(bytes.slice(from as usize..to as usize));
    }
    let length: usize = parts.iter().map(Bytes::len).sum();
    if length as u64 != last - first + 1 {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let body = Body::from_stream(futures_util::stream::iter(parts.into_iter().map(Ok::<_, axum::Error>)));
    let headers = [
        ("content-type", "video/mp2t".to_owned()),
        ("content-range", format!("bytes {first}-{last}/*")),
        ("content-length", length.to_string()),
        ("cache-control", "no-store".to_owned()),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, Body::from_stream(paced(web, body))).into_response()
}

/// The media type of MPEG-TS (RFC 3555).
fn video() -> mime::Mime {
    // A constant of this form always parses.
    "video/mp2t".parse().expect("a media type")
}

/// A body that waits for the budget before each chunk.
fn paced(web: Web, body: Body) -> impl futures_util::Stream<Item = Result<bytes::Bytes, axum::Error>> {
    body.into_data_stream()
        .and_then(move |chunk| {
            let web = web.clone();
            async move {
                web.budget.spend(chunk.len()).await;
                web.meters.sent_over_http(chunk.len());
                Ok(chunk)
            }
        })
        .boxed()
}

/// The server's base URL as others reach it: the one that the user gave, or a guess from where the server listens
/// and from which of this machine's addresses leads to the first tracker.
pub fn public_base(given: Option<&Url>, listen: SocketAddr, trackers: &[Url]) -> Url {
    let mut base = given.cloned().unwrap_or_else(|| guess(listen, trackers));
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    base
}

fn guess(listen: SocketAddr, trackers: &[Url]) -> Url {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => trackers.iter().find_map(towards).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let text = format!("http://{}/", SocketAddr::new(ip, listen.port()));
    // An address and a port always make a URL.
    Url::parse(&text).expect("a socket address is a URL's authority")
}

/// This machine's address on the way to a tracker. Nothing is sent: connecting a UDP socket only chooses a route.
fn towards(tracker: &Url) -> Option<IpAddr> {
    let target = *tracker.socket_addrs(|| None).ok()?.first()?;
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}
