//! The channel API: join, publish, torrents. Shapes and limits are those of `minuet_proto::channel_api`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::unfold;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use minuet_proto::channel_api::{
    Join, MAX_JOIN_PEERS, MAX_JOIN_RECORDS, MAX_PUBLICATION_LENGTH, Peer, Publication, UNKNOWN_CHANNEL,
    nth_place,
};
use minuet_proto::signed::MAX_SIGNED_LENGTH;
use minuet_proto::{ChannelId, SegmentSeq, SignedRecord};

use super::body::{Body, FRAME};
use super::client_addr::client_ip;
use super::front::Front;
use super::request_body::{self, Look};
use super::under_way::busy;
use super::{events, is_secure, mesh, pages, query, respond, text, try_later, wrong_method};
use crate::channel::store::{Part, StoreError};
use crate::channel::window::{HOT_TORRENTS, Place, PlaceError, Window};
use crate::channel::{Channel, Channels, PublishError, Published};
use crate::fleet::news::{Kind, News};
use crate::state::State;

/// Records in a join that does not ask for more: the running minute and what a late start may want.
const DEFAULT_JOIN_RECORDS: usize = 5;
/// Bytes of an answer besides each of its records, and besides all of them: no less than there are.
const BESIDES_RECORD: usize = 3;
const BESIDES_RECORDS: usize = 8 << 10;
/// Header of a refused publication that names the newest segment known, so that a publisher can go on from it.
const NEWEST: HeaderName = HeaderName::from_static("minuet-newest");

/// Answers a request for what follows `/c/`.
pub(super) async fn answer(
    front: Arc<Front>,
    peer: SocketAddr,
    path: String,
    request: Request<Incoming>,
) -> Response<Body> {
    let (hex, rest) = path.split_once('/').unwrap_or((&path, ""));
    let id: ChannelId = match hex.parse() {
        Ok(id) => id,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    match (rest, request.method()) {
        ("records" | "state", &Method::POST) => return publish(front, id, rest, peer, request).await,
        ("heads", &Method::POST) => return mesh::heads(front, id, peer, request).await,
        ("join", &Method::POST) => return mesh::join(front, id, peer, request).await,
        ("records" | "state" | "heads" | "join", _) => return wrong_method("POST"),
        (_, &Method::GET | &Method::HEAD) => {}
        _ => return wrong_method("GET, HEAD"),
    }
    let Some(channel) = front.state.channels.get(&id) else { return unknown_channel() };
    match rest {
        "" if pages::is_browser(request.headers()) => pages::channel(
            &front.state,
            &channel,
            request.headers(),
            is_secure(&front.state.config.http, peer, &request),
        ),
        "" => join(&front, &channel, peer, &request),
        "events" => match parse_from(query(&request)) {
            Ok(from) => {
                let ip = client_ip(peer.ip(), request.headers(), |ip| front.state.config.http.trusts(ip));
                events::subscribe(&front, channel, ip, from, &request)
            }
            Err(sentence) => text(StatusCode::BAD_REQUEST, sentence),
        },
        _ => match rest.strip_suffix(".torrent").and_then(number) {
            Some(seq) => torrent(&front, &channel, seq).await,
            None => text(
                StatusCode::NOT_FOUND,
                "a channel has /events, /<number>.torrent, /records, /state, /join and /heads\n",
            ),
        },
    }
}

pub(super) fn unknown_channel() -> Response<Body> {
    let sentence = format!("{UNKNOWN_CHANNEL}; check the link, or wait until it starts\n");
    text(StatusCode::NOT_FOUND, sentence)
}

/// The query's `from=`: a segment number, or `oldest`.
pub(super) fn parse_from(query: &str) -> Result<Option<SegmentSeq>, &'static str> {
    match query.split('&').find_map(|pair| pair.strip_prefix("from=")) {
        None => Ok(None),
        Some("oldest") => Ok(Some(SegmentSeq(0))),
        Some(seq) => number(seq).map(Some).ok_or("from= takes a segment number or the word oldest\n"),
    }
}

/// A segment's number in digits alone: each torrent has one address.
fn number(digits: &str) -> Option<SegmentSeq> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(SegmentSeq)).flatten()
}

fn join(front: &Front, channel: &Channel, peer: SocketAddr, request: &Request<Incoming>) -> Response<Body> {
    let from = match parse_from(query(request)) {
        Ok(from) => from,
        Err(sentence) => return text(StatusCode::BAD_REQUEST, sentence),
    };
    let ip = client_ip(peer.ip(), request.headers(), |ip| front.state.config.http.trusts(ip));
    // Looked at before it is written: a client that pipelines thousands of requests and reads none of the answers would have
    // the tracker write them all, and refuse to keep them.
    let length: usize = {
        let window = channel.window();
        let (start, most) = span(&window, from);
        let records = window.entries().iter().skip(start).take(most);
        records.map(|entry| entry.base64().len() + BESIDES_RECORD).sum::<usize>() + BESIDES_RECORDS
    };
    if length > FRAME && !front.answers.has_room(ip, (length - FRAME) as u64) {
        return busy();
    }
    front.state.metrics.joins.increment();
    json(&join_of(&front.state, channel, from, ip))
}

/// Which records of a window an answer has: the index of the first, and the most that there may be.
fn span(window: &Window, from: Option<SegmentSeq>) -> (usize, usize) {
    match from {
        None => (window.entries().len().saturating_sub(DEFAULT_JOIN_RECORDS), DEFAULT_JOIN_RECORDS),
        Some(seq) => (window.first_after(seq.previous()), MAX_JOIN_RECORDS),
    }
}

/// An answer that nobody may keep.
pub(super) fn json(value: &impl serde::Serialize) -> Response<Body> {
    // Strings and numbers always serialise.
    let mut response =
        respond(StatusCode::OK, "application/json", serde_json::to_vec(value).unwrap_or_default());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What a channel's window and swarms say to somebody at `ip`.
fn join_of(state: &State, channel: &Channel, from: Option<SegmentSeq>, ip: IpAddr) -> Join {
    let (mut join, running) = {
        let window = channel.window();
        let all = window.entries();
        let (start, most) = span(&window, from);
        let join = Join {
            channel: channel.id().to_string(),
            state: window.state().map(|state| state.to_base64()),
            records: all.iter().skip(start).take(most).map(|entry| entry.base64().to_owned()).collect(),
            oldest: window.oldest(),
            newest: window.newest(),
            peers: Vec::new(),
            place: Some(nth_place(channel.count_join())),
            nonce: Some(state.nonces.issue(ip, state.clock.unix_ms())),
        };
        (join, all.back().map(|entry| entry.record.info_hash))
    };
    if let Some(info_hash) = running {
        // The port is not known; 0 is nobody's.
        let asker = SocketAddr::new(ip, 0);
        let (now, random) = (state.clock.uptime(), rand::random());
        state.swarms.peers_of(&info_hash, asker, MAX_JOIN_PEERS, now, random, |addr, seed| {
            join.peers.push(Peer { addr, seed });
        });
        let foreign = channel.foreign_peers(now);
        let room = MAX_JOIN_PEERS - join.peers.len().min(MAX_JOIN_PEERS);
        let of_use = foreign.into_iter().filter(|peer| ip.is_loopback() || !peer.addr.ip().is_loopback());
        join.peers.extend(of_use.take(room));
    }
    join
}

/// Sends a torrent in parts, from memory as long as it is one of the newest, else from disk. However many do not read what
/// they have asked for, each holds one part.
async fn torrent(front: &Arc<Front>, channel: &Arc<Channel>, seq: SegmentSeq) -> Response<Body> {
    let (known, newest) = {
        let window = channel.window();
        let known = window.get(seq).is_some();
        (known, window.entries().iter().rev().take(HOT_TORRENTS).any(|entry| entry.record.seq == seq))
    };
    let absent = || text(StatusCode::NOT_FOUND, "this segment is not in the channel's window\n");
    if !known {
        return absent();
    }
    let first = match part(front, channel, seq, 0, newest).await {
        Ok(Some(first)) => first,
        Ok(None) => return absent(),
        Err(error) => {
            tracing::warn!(%error, "cannot read a torrent");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the tracker cannot read its disk\n");
        }
    };
    front.state.metrics.torrents.increment();
    let length = first.length;
    let body = if first.bytes.len() as u64 == length {
        first.bytes.into()
    } else {
        let state = (Arc::clone(front), Arc::clone(channel), Some(first.bytes), 0);
        let parts = unfold(state, move |(front, channel, first, at)| async move {
            let bytes = match first {
                Some(bytes) => Ok(bytes),
                None => match part(&front, &channel, seq, at, false).await {
                    Ok(Some(part)) => Ok(part.bytes),
                    // It has left the window meanwhile.
                    Ok(None) => return None,
                    Err(error) => Err(io::Error::other(error)),
                },
            };
            let end = at + bytes.as_ref().map_or(0, Bytes::len);
            Some((bytes, (front, channel, None, end)))
        });
        Body::Parts(Box::pin(parts), length)
    };
    let mut response = respond(StatusCode::OK, "application/x-bittorrent", body);
    // A number is never signed twice, so what it names never changes.
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(CACHE_CONTROL, forever);
    response
}

/// A part of a torrent; with `keep`, the whole of it is kept in memory for the next.
async fn part(
    front: &Arc<Front>,
    channel: &Channel,
    seq: SegmentSeq,
    at: usize,
    keep: bool,
) -> Result<Option<Part>, StoreError> {
    if let Some(part) = front.state.channels.torrent_in_memory(channel.id(), seq, at, FRAME) {
        return Ok(Some(part));
    }
    // The semaphore is never closed.
    let Ok(_turn) = front.torrent_reads.acquire().await else { return Ok(None) };
    // Whoever was waited for may have kept it.
    if let Some(part) = front.state.channels.torrent_in_memory(channel.id(), seq, at, FRAME) {
        return Ok(Some(part));
    }
    let (reader, id) = (Arc::clone(front), *channel.id());
    let read = move || reader.state.channels.torrent_from_disk(&id, seq, at, FRAME, keep);
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        // Only a shutdown, or a panic that has been reported, ends it early.
        Err(_) => Ok(None),
    }
}

async fn publish(
    front: Arc<Front>,
    id: ChannelId,
    what: &str,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let is_record = what == "records";
    let from = client_ip(peer.ip(), request.headers(), |ip| front.state.config.http.trusts(ip));
    let body = request.into_body();
    let read = if is_record {
        let look = |first: &[u8]| look_at_record(&front.state, &id, first);
        request_body::read_checked(&front.bodies, from, body, MAX_PUBLICATION_LENGTH, look).await
    } else {
        request_body::read(&front.bodies, from, body, MAX_SIGNED_LENGTH).await
    };
    let body = match read {
        Ok(body) => body,
        Err(response) => {
            if response.status() != StatusCode::OK {
                front.state.metrics.publications_refused.increment();
            }
            return response;
        }
    };
    // In a task of its own, so that a publisher who hangs up cannot stop it between disk and memory.
    let (publisher, told) = (Arc::clone(&front.state), body.clone());
    let task = front.running.tasks.spawn(async move {
        let now_ms = publisher.clock.unix_ms();
        if is_record {
            publisher.channels.publish_record(id, &body, Some(from), now_ms).await
        } else {
            publisher.channels.publish_state(id, &body, Some(from), now_ms).await
        }
    });
    let result = task.await.unwrap_or(Err(PublishError::ShuttingDown));
    match result {
        Ok(published) => {
            front.state.metrics.publications.increment();
            if let Some(fleet) = front.state.fleet.as_ref().filter(|_| published == Published::New)
                && let Some(kind) = kind_of(is_record, &told)
            {
                fleet.tell(News { channel: id, kind, body: told });
            }
            text(
                StatusCode::OK,
                match published {
                    Published::New => "accepted\n",
                    Published::Known => KNOWN,
                },
            )
        }
        Err(error) => {
            front.state.metrics.publications_refused.increment();
            tracing::info!(channel = %id, %error, "refused a publication");
            refuse(&front.state.channels, &id, &error)
        }
    }
}

/// Bytes that a torrent has besides its hashes, at most: names, announce URLs, web seeds.
const TORRENT_EXTRAS: u64 = 64 << 10;

/// Whether a publication that begins like this is worth taking in: its record is signed by the channel, is news, and has
/// a place. As long as it may then be as a torrent of that many pieces is.
fn look_at_record(state: &State, id: &ChannelId, first: &[u8]) -> Look {
    let refused = |error: PublishError| Box::new(refuse(&state.channels, id, &error));
    let record = match Publication::record_in(first) {
        Ok(None) => return Look::TooLittle,
        Ok(Some(record)) => SignedRecord::decode(record, *id),
        Err(error) => Err(error),
    };
    let record = match record {
        Ok(record) => record,
        Err(error) => return Look::Refuse(refused(error.into())),
    };
    if let Some(channel) = state.channels.get(id) {
        // Not in the match, since a refusal looks at the window again.
        let place = channel.window().place(&record, &state.config.channels.window);
        match place {
            Ok(Place::New(_)) => {}
            Ok(Place::Known) => return Look::Answer(Box::new(text(StatusCode::OK, KNOWN))),
            Err(error) => return Look::Answer(refused(error.into())),
        }
    }
    let pieces = record.length.div_ceil(u64::from(record.piece_length.get()).max(1));
    let torrent = pieces.saturating_mul(20).saturating_add(TORRENT_EXTRAS);
    let most = usize::try_from(torrent).unwrap_or(usize::MAX).saturating_add(MAX_SIGNED_LENGTH);
    Look::GoOn(most.min(MAX_PUBLICATION_LENGTH))
}

/// The answer to what was accepted before.
const KNOWN: &str = "known already\n";

/// What an accepted body is.
fn kind_of(is_record: bool, body: &[u8]) -> Option<Kind> {
    if !is_record {
        return Some(Kind::State);
    }
    let publication = Publication::decode(body).ok()?;
    SignedRecord::decode_any(&publication.record).ok().map(|record| Kind::Record(record.seq))
}

pub(super) fn refuse(channels: &Channels, id: &ChannelId, error: &PublishError) -> Response<Body> {
    let sentence = format!("{error}\n");
    let status = match error {
        PublishError::Invalid(minuet_proto::Error::BadSignature { .. }) => StatusCode::FORBIDDEN,
        PublishError::Invalid(minuet_proto::Error::WrongChannel { .. }) => StatusCode::FORBIDDEN,
        PublishError::Invalid(minuet_proto::Error::TooLong { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        PublishError::Invalid(_) | PublishError::WrongTorrent(_) => StatusCode::BAD_REQUEST,
        PublishError::Misplaced(PlaceError::TooOld { .. }) => StatusCode::GONE,
        PublishError::Misplaced(_) => StatusCode::CONFLICT,
        PublishError::TooManyOfAddress => StatusCode::TOO_MANY_REQUESTS,
        PublishError::Evicted => return try_later(sentence, 5),
        PublishError::Full => return try_later(sentence, 3600),
        PublishError::Store(_) | PublishError::ShuttingDown => return try_later(sentence, 5),
    };
    let mut response = text(status, sentence);
    let newest = channels.get(id).and_then(|channel| channel.window().newest());
    if let (PublishError::Misplaced(_), Some(newest)) = (error, newest) {
        response.headers_mut().insert(NEWEST, HeaderValue::from(newest.0));
    }
    response
}
