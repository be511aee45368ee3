//! What a gateway says of itself and its channels: the list for IPTV players, what the page shows, health and metrics.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Extension,
    extract::{Query, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use minuet_serve::Secure;
use serde_json::json;

use super::{
    answer::{Caching, later, text},
    house::{Channel, House},
    http::{Ask, Asked, Gateway},
    shelf::Row,
};
use crate::watch::Traffic;

/// What the gateway is called by whoever asks: scheme, host and port.
pub fn origin(is_secure: bool, address: &Uri, headers: &HeaderMap) -> String {
    let scheme = if is_secure { "https" } else { "http" };
    // With HTTP/2 it stands in the request's address.
    let said = headers.get("host").and_then(|host| host.to_str().ok());
    let host = address.authority().map(|authority| authority.as_str()).or(said).unwrap_or("localhost");
    format!("{scheme}://{host}")
}

/// The playlist of IPTV players.
pub async fn channels(
    State(house): State<House>,
    Query(ask): Query<Ask>,
    secure: Option<Extension<Secure>>,
    address: Uri,
    headers: HeaderMap,
) -> Response {
    let origin = origin(secure.is_some(), &address, &headers);
    let query = house.access().query(ask.key.as_deref());
    let mut list = String::from("#EXTM3U\n");
    for channel in house.channels() {
        // A title has no line breaks.
        let title = channel.station.title().replace(['\r', '\n', ','], " ");
        let (key, name) = (channel.link.channel, title.replace('"', "'"));
        let folder = if house.has_several() { format!("c/{key}/") } else { String::new() };
        // Writing to a String cannot fail.
        let _ = write!(
            list,
            "#EXTINF:-1 tvg-id=\"{key}\" tvg-name=\"{name}\",{title}\n{origin}/{folder}ts.m3u8{query}\n"
        );
    }
    text("audio/x-mpegurl", Caching::Never, list)
}

/// What the page shows. A channel that is being joined has no figures yet.
pub async fn status(Asked(channel): Asked, State(house): State<House>) -> Response {
    let station = &channel.station;
    let mut said = json!({
        "title": station.title(),
        "phase": station.phase().map(|phase| phase.to_string()),
        "now_ms": crate::watch::now_ms(),
        "several": house.has_several(),
    });
    let Some(gateway) = channel.gateway() else {
        return text("application/json", Caching::Never, said.to_string());
    };
    let stats = *gateway.stats.borrow();
    let traffic: Traffic = stats.into();
    let (codecs, has_pictures) = gateway.shelf.codings();
    let tracks = gateway.shelf.tracks();
    let span = tracks.first().and_then(|track| gateway.shelf.span_ms(Row::Track(*track)));
    let shelf_ms = span.map(|(oldest, _)| oldest);
    let held_ms = gateway.past.oldest_ms();
    let received = traffic.from_source.saturating_add(traffic.from_peers).saturating_add(traffic.from_http);
    let more = json!({
        // What the live playlists reach back to, and what can be gone back to in all.
        "kept_ms": shelf_ms,
        "oldest_ms": held_ms.into_iter().chain(shelf_ms).min(),
        "peers": stats.peers,
        "from_viewers_percent": traffic.from_peers.saturating_mul(100).checked_div(received),
        "codecs": codecs,
        "has_pictures": has_pictures,
    });
    if let (Some(said), Some(more)) = (said.as_object_mut(), more.as_object()) {
        said.extend(more.clone());
    }
    text("application/json", Caching::Never, said.to_string())
}

/// Whether there is something to play, on the channels that are carried all the time.
pub async fn health(State(house): State<House>) -> Response {
    let is_ready = |channel: &Arc<Channel>| {
        channel.gateway().is_some_and(|gateway| gateway.shelf.is_ready(Row::Feed, false))
    };
    // Channels that nobody asks for are not joined: that is no fault.
    let staying: Vec<_> = house.channels().into_iter().filter(|channel| channel.stays).collect();
    match staying.is_empty() || staying.iter().any(is_ready) {
        true => text("text/plain", Caching::Never, "ok\n".into()),
        false => later(),
    }
}

/// For Prometheus, of each channel that is carried.
pub async fn metrics(State(house): State<House>) -> Response {
    let joined: Vec<(String, Gateway)> = house
        .channels()
        .iter()
        .filter_map(|channel| Some((channel.link.channel.to_string(), channel.gateway()?)))
        .collect();
    type Figure = fn(&Gateway) -> u64;
    let figures: [(&str, &str, &str, Figure); 6] = [
        ("minuet_gateway_neighbours", "gauge", "Nodes that this one has links to.", |gateway| {
            gateway.stats.borrow().peers as u64
        }),
        ("minuet_gateway_segments_total", "counter", "Segments since the start.", |gateway| {
            let (next, _) = gateway.shelf.next(Row::Feed).unwrap_or_default();
            next.saturating_sub(gateway.shelf.session())
        }),
        ("minuet_gateway_newest_ms", "gauge", "When the newest segment came in at the source.", |gateway| {
            gateway.shelf.span_ms(Row::Feed).map_or(0, |(_, newest)| newest)
        }),
        ("minuet_gateway_playing", "gauge", "Connections that a stream is sent on.", |gateway| {
            gateway.playing.load(Ordering::Relaxed)
        }),
        (
            "minuet_gateway_past_slow_total",
            "counter",
            "Answers of the past slower than they play.",
            |gateway| gateway.past.fares().1.stalls,
        ),
        (
            "minuet_gateway_past_lost_total",
            "counter",
            "Answers of the past that were not to be had.",
            |gateway| gateway.past.fares().1.skipped,
        ),
    ];
    let mut lines = String::new();
    for (name, kind, help, figure) in figures {
        // Writing to a String cannot fail.
        let _ = write!(lines, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (key, gateway) in &joined {
            let _ = writeln!(lines, "{name}{{channel=\"{key}\"}} {}", figure(gateway));
        }
    }
    text("text/plain; version=0.0.4", Caching::Never, lines)
}
