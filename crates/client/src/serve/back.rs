//! Answers for those who go back: `/dvr.m3u8?start=…`, and what it leads to.
//!
//! `start` is what `--start` takes (`-10m`, `21:30`, `oldest`, a segment's number), or a time as `2026-11-30T14:00:00Z` or in
//! Unix milliseconds. `to=now` has the playlist end with what there is: players that do not know `EXT-X-START`, and begin with a
//! playlist that grows near its end, get it so when they name a start. Playlists that are loaded again and again must begin at the same place, so `/dvr.m3u8` names another,
//! whose beginning is fixed.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Query},
    http::{HeaderMap, Method, StatusCode, header::USER_AGENT},
    response::{IntoResponse, Response},
};
use minuet_node::{follow::Start, units};
use minuet_proto::SegmentSeq;
use minuet_remux::playlist::rfc3339;
use serde::Deserialize;

use super::{
    answer::{self, Caching, TS, head, later, none, refused},
    http::{File, Gateway},
    past::{Lost, Missing, Past, Span},
};
use crate::{options, watch::now_ms};

/// How long is waited for what is known of the past, at the beginning.
const FIRST_WAIT: Duration = Duration::from_secs(9);
/// Numbers of more digits are times: segments are minutes.
const MAX_NUMBER: u64 = 9_999_999_999;
/// What is said of a stream's rate that is not known, in bits a second.
const SOME_RATE: u64 = 4_000_000;

/// What stands behind the addresses.
#[derive(Debug, Deserialize)]
pub struct Ask {
    key: Option<String>,
    /// Where the playlist begins.
    start: Option<String>,
    /// Where players begin, in Unix milliseconds.
    at: Option<u64>,
    /// Where the playlist ends: `now`, or Unix milliseconds.
    to: Option<String>,
}

/// What `start` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The oldest, within reason; players begin where they like.
    Usual,
    Oldest,
    /// In Unix milliseconds.
    At(u64),
    Segment(SegmentSeq),
}

fn read(text: &str) -> Result<Place, String> {
    if let Some(ms) = text.parse::<u64>().ok().filter(|number| *number > MAX_NUMBER) {
        return Ok(Place::At(ms));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Place::At(u64::try_from(time.as_millisecond()).unwrap_or(0)));
    }
    let begin = options::begin(text)?.in_channel().map_err(|error| error.to_string())?;
    Ok(match begin {
        Start::Live => Place::Usual,
        Start::Oldest => Place::Oldest,
        Start::Ago(ago) => {
            Place::At(now_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
        }
        Start::At(ms) => Place::At(ms),
        Start::Segment(segment) => Place::Segment(segment),
    })
}

/// The playlist that names the one with a fixed beginning.
pub async fn variants(gateway: Gateway, Query(ask): Query<Ask>, headers: HeaderMap) -> Response {
    let from = match ask.start.as_deref().map_or(Ok(Place::Usual), read) {
        Ok(from) => from,
        Err(why) => return refused(StatusCode::BAD_REQUEST, format!("start: {why}\n")),
    };
    let known = wait(&gateway, |gateway| gateway.past.oldest_ms()).await;
    let Some(oldest_ms) = known else { return later() };
    let (from_ms, at) = {
        let reel = gateway.past.reel();
        match from {
            Place::Usual => (reel.usual_start_ms().unwrap_or(oldest_ms), false),
            Place::Oldest => (oldest_ms, true),
            Place::At(ms) => (ms, true),
            Place::Segment(segment) => (reel.start_of(segment).unwrap_or_else(now_ms), true),
        }
    };
    if from_ms.saturating_add(1000) < oldest_ms {
        return gone(oldest_ms);
    }
    if from_ms > now_ms() {
        return to_come();
    }
    let rate = gateway.past.reel().rate().unwrap_or(SOME_RATE);
    let query = gateway.query(ask.key.as_deref());
    let ends = ask.to.is_some() || at && !knows_start(&headers);
    let to = if ends { format!("&to={}", now_ms()) } else { String::new() };
    let at = if at { format!("&at={from_ms}") } else { String::new() };
    let key = query.strip_prefix('?').map_or(String::new(), |key| format!("&{key}"));
    let playlist = format!(
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-STREAM-INF:BANDWIDTH={rate}\n\
         past.m3u8?start={from_ms}{at}{to}{key}\n"
    );
    answer::playlist(Caching::Never, playlist, &headers)
}

/// Whether a player begins where `EXT-X-START` says, by its own name. Tried: ffmpeg 5.1 and what plays with it, VLC 3.0 and
/// GStreamer 1.22 do not.
fn knows_start(headers: &HeaderMap) -> bool {
    let name = headers.get(USER_AGENT).and_then(|name| name.to_str().ok()).unwrap_or_default();
    !["Lavf", "mpv", "VLC", "GStreamer"].iter().any(|player| name.contains(player))
}

/// The playlist itself.
pub async fn playlist(
    gateway: Gateway,
    Query(ask): Query<Ask>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let Some(from_ms) = ask.start.as_deref().and_then(|text| text.parse().ok()) else {
        return refused(StatusCode::BAD_REQUEST, "start: write a time in Unix milliseconds\n".into());
    };
    let query = gateway.query(ask.key.as_deref());
    let to_ms = ask.to.as_deref().and_then(|text| text.parse().ok());
    let span = Span { from_ms, at_ms: ask.at, to_ms };
    // At the beginning, and where somebody asks for what is on air just now, until it is complete.
    let begins = wait(&gateway, |gateway| match gateway.past.reel().begins(span.from_ms) {
        Err(Missing::Unknown | Missing::ToCome) => None,
        begins => Some(begins),
    });
    match begins.await {
        Some(Err(missing)) => return lacks(missing),
        None => return later(),
        Some(Ok(())) => {}
    }
    let write = move |past: &Past| match past.reel().playlist(span, &query) {
        Ok(playlist) => answer::playlist(Caching::Never, playlist, &headers),
        Err(missing) => lacks(missing),
    };
    match gateway.past.write(peer.ip().to_canonical(), write).await {
        Some(answer) => answer,
        None => later(),
    }
}

fn lacks(missing: Missing) -> Response {
    match missing {
        Missing::Gone(oldest_ms) => gone(oldest_ms),
        Missing::ToCome => to_come(),
        Missing::Unknown => later(),
    }
}

/// An entry of it: `<segment>-<first byte>.ts`.
pub async fn entry(
    gateway: Gateway,
    Path(File { name, .. }): Path<File>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
) -> Response {
    let numbers = name.strip_suffix(".ts").and_then(|numbers| numbers.split_once('-'));
    let numbers = numbers.and_then(|(segment, from)| Some((segment.parse().ok()?, from.parse().ok()?)));
    let Some((segment, from)) = numbers else { return none() };
    if method == Method::HEAD {
        let known = gateway.past.reel().entry(SegmentSeq(segment), from).is_some();
        return if known { head(TS, Caching::Forever).into_response() } else { none() };
    }
    match gateway.past.read(peer.ip().to_canonical(), SegmentSeq(segment), from).await {
        Ok(reading) => (head(TS, Caching::Forever), Body::from_stream(reading.bytes())).into_response(),
        Err(lost) => {
            let status = match lost {
                Lost::Unknown | Lost::Nobody => StatusCode::NOT_FOUND,
                Lost::Late => StatusCode::GATEWAY_TIMEOUT,
                Lost::Full => StatusCode::SERVICE_UNAVAILABLE,
            };
            refused(status, lost.sentence().into())
        }
    }
}

/// Waits until `ready` has something, as the index changes.
async fn wait<T>(gateway: &Gateway, mut ready: impl FnMut(&Gateway) -> Option<T>) -> Option<T> {
    let mut news = gateway.past.subscribe();
    let waiting = async {
        loop {
            news.borrow_and_update();
            if let Some(found) = ready(gateway) {
                return Some(found);
            }
            news.changed().await.ok()?;
        }
    };
    tokio::time::timeout(FIRST_WAIT, waiting).await.ok().flatten()
}

fn gone(oldest_ms: u64) -> Response {
    let ago = units::show(Duration::from_secs(now_ms().saturating_sub(oldest_ms) / 1000));
    let oldest = rfc3339(oldest_ms);
    refused(
        StatusCode::NOT_FOUND,
        format!(
            "Nobody who can be reached has kept that: the oldest that there is came in at {oldest}, {ago} ago.\n"
        ),
    )
}

fn to_come() -> Response {
    refused(StatusCode::NOT_FOUND, "That is still to come: /index.m3u8 plays what is on air.\n".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        assert_eq!(read("1700000000000"), Ok(Place::At(1_700_000_000_000)));
        assert_eq!(read("2023-11-14T22:13:20Z"), Ok(Place::At(1_700_000_000_000)));
        assert_eq!(read("1234"), Ok(Place::Segment(SegmentSeq(1234))));
        assert_eq!(read("oldest"), Ok(Place::Oldest));
        assert_eq!(read("live"), Ok(Place::Usual));
        let Ok(Place::At(ms)) = read("-10m") else { panic!("that is a time") };
        assert!(now_ms().saturating_sub(ms + 600_000) < 60_000);
        for wrong in ["", "-", "10m", "yesterday", "-5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
