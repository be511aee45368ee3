//! The segmenter's own HTTP server: finished segments for any client that takes web seeds (BEP 19), their torrents, and
//! byte ranges of the segment that is open, for viewers to whom no peer brings a piece in time.
//!
//! A request names a segment by the name that its number gives; no name from outside meets a path. An answer is read
//! from the disk chunk by chunk as the budget and the reader allow, so a reader costs as much memory as a chunk, however
//! much it asks for.

mod base;
mod open;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use minuet_proto::{ChannelId, SegmentSeq, SignedRecord, record::segment_file_name};
use minuet_serve::{Part, file};
use minuet_store::Store;

pub use base::public_base;

use crate::{budget::Budget, live::Live, meters::Meters, shelf::Shelf};

/// Path of the segments below the server's base URL.
pub const SEGMENTS: &str = "segments/";
/// The media type of MPEG-TS (RFC 3555).
const VIDEO: &str = "video/mp2t";

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
    /// Where the newest pieces are, those of the open segment among them; none if the origin is switched off.
    pub live: Option<Live>,
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
    let torrent = name.ends_with(".torrent");
    let (request, _) = request.into_parts();
    match web.shelf.get(seq) {
        Some(_) if torrent => finished_torrent(web, seq).await,
        Some(record) => finished(web, &record, &request).await,
        None if torrent => StatusCode::NOT_FOUND.into_response(),
        None => open::answer(web, seq, &request),
    }
}

async fn finished_torrent(web: Web, seq: SegmentSeq) -> Response {
    let read = tokio::task::spawn_blocking(move || web.store.torrent(seq)).await;
    match read {
        Ok(Ok(torrent)) => ([(CONTENT_TYPE, "application/x-bittorrent")], torrent).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A finished segment, or a part of it. Its bytes never change, so its info hash is its entity tag.
async fn finished(web: Web, record: &SignedRecord, request: &Parts) -> Response {
    let etag = format!("\"{}\"", record.info_hash);
    let part = match Part::of(&request.method, &request.headers, etag, record.length) {
        Ok(part) => part,
        Err(answer) => return *answer,
    };
    let head = [(CONTENT_TYPE, VIDEO.to_owned())];
    if part.is_head() {
        return part.answer(head, Body::empty());
    }
    let (store, seq) = (Arc::clone(&web.store), record.seq);
    // Dropped meanwhile, if it is not there.
    let Ok(Ok(file)) = tokio::task::spawn_blocking(move || store.media(seq)).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let body = Body::from_stream(paced(web, file::chunks(file, part.first, part.count)));
    part.answer(head, body)
}

/// Chunks that wait for the budget, each by itself.
fn paced<E: Send>(
    web: Web,
    chunks: impl Stream<Item = Result<Bytes, E>> + Send,
) -> impl Stream<Item = Result<Bytes, E>> + Send {
    chunks.and_then(move |chunk| {
        let web = web.clone();
        async move {
            web.budget.spend(chunk.len()).await;
            web.meters.sent_over_http(chunk.len());
            Ok(chunk)
        }
    })
}
