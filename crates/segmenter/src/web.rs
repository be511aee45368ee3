//! The segmenter's own HTTP server: finished segments for any client that takes web seeds (BEP 19), their torrents,
//! and nothing else.
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
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, TryStreamExt};
use minuet_proto::{ChannelId, SegmentSeq, record::segment_file_name};
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
}

impl Web {
    /// The server's routes.
    pub fn router(self) -> Router {
        Router::new().route("/segments/{name}", get(segment)).with_state(self)
    }

    /// The held segment that a file name means.
    fn held(&self, name: &str) -> Option<SegmentSeq> {
        let stem = name.strip_suffix(".ts").or_else(|| name.strip_suffix(".torrent"))?;
        let seq = SegmentSeq(stem.rsplit_once('-')?.1.parse().ok()?);
        let own = segment_file_name(&self.channel, seq);
        (own.strip_suffix(".ts") == Some(stem)).then_some(seq)?;
        self.shelf.get(seq).map(|record| record.seq)
    }
}

async fn segment(State(web): State<Web>, Path(name): Path<String>, request: Request) -> Response {
    let Some(seq) = web.held(&name) else { return StatusCode::NOT_FOUND.into_response() };
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
