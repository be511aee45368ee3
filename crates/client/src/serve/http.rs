//! The gateway's routes.
//!
//! Whoever asks for what is not here yet is kept waiting: for a playlist until it says more (`_HLS_msn`, `_HLS_part`), for a
//! part that was hinted at until it is complete, and at the beginning until there is enough to play. So players begin at the
//! first try. How many may wait is bounded by the server's places.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, FromRequestParts, Path, Query, RawPathParams},
    http::{HeaderMap, Method, StatusCode, Uri, request::Parts},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use minuet_node::mesh::MeshStats;
use minuet_remux::playlist::Style;
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    Station, about,
    access::{self, Access},
    answer::{self, Caching, MP4, Media, TS, VTT, absent, later, media, none},
    back,
    house::{Channel, House},
    page,
    past::Past,
    radio,
    shelf::{Found, Place, Row, Shelf},
};

/// How long a player waits for the stream at the beginning; players give up after some ten seconds.
const FIRST_WAIT: Duration = Duration::from_secs(9);
/// How long for what comes next: three of the longest target durations (rfc8216bis, 6.2.5.2).
const NEXT_WAIT: Duration = Duration::from_secs(30);
/// A player that asks for a segment so far ahead of what there is has lost its way.
const MAX_AHEAD: u64 = 2;

/// What the routes of a channel work with, while this machine is in its mesh.
#[derive(Clone)]
pub struct Gateway {
    pub(super) shelf: Arc<Shelf>,
    pub(super) station: Arc<Station>,
    pub(super) past: Arc<Past>,
    pub(super) stats: watch::Receiver<MeshStats>,
    access: Access,
    /// Connections on which a stream without an end is sent.
    pub(super) playing: Arc<AtomicU64>,
}

/// The channel that an address names. Asking for it joins it.
pub struct Asked(pub Arc<Channel>);

/// Where a request comes from.
fn ip(parts: &Parts) -> IpAddr {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    // The server says it of each request.
    peer.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(peer)| peer.ip().to_canonical())
}

impl FromRequestParts<House> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, house: &House) -> Result<Self, Response> {
        let params = RawPathParams::from_request_parts(parts, house).await.map_err(|_| none())?;
        let name = params.iter().find(|(name, _)| *name == "key").map(|(_, value)| value);
        let channel = house.find(name).ok_or_else(|| absent(&super::house::Absent::Unknown))?;
        house.ask(&channel, ip(parts)).map_err(|why| absent(&why))?;
        Ok(Self(channel))
    }
}

impl FromRequestParts<House> for Gateway {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, house: &House) -> Result<Self, Response> {
        let Asked(channel) = Asked::from_request_parts(parts, house).await?;
        house.gateway(&channel, ip(parts)).await.map_err(|why| absent(&why))
    }
}

/// What stands behind a playlist's address.
#[derive(Debug, Default, Deserialize)]
pub struct Ask {
    #[serde(rename = "_HLS_msn")]
    msn: Option<u64>,
    #[serde(rename = "_HLS_part")]
    part: Option<usize>,
    #[serde(rename = "_HLS_skip")]
    skip: Option<String>,
    /// The word of `--serve-password`.
    pub key: Option<String>,
    /// Only what came in at this time or later, in Unix milliseconds.
    from: Option<u64>,
}

impl Gateway {
    /// Answers from what is on this shelf, and from what was on air before.
    pub fn new(
        shelf: Arc<Shelf>,
        station: Arc<Station>,
        past: Arc<Past>,
        stats: watch::Receiver<MeshStats>,
        access: Access,
    ) -> Self {
        Self { shelf, station, past, stats, access, playing: Arc::default() }
    }

    /// What stands behind addresses for whoever came with this word in the address.
    pub(super) fn query(&self, key: Option<&str>) -> String {
        self.access.query(key)
    }

    /// Whether a stream without an end is being sent.
    pub fn is_playing(&self) -> bool {
        self.playing.load(Ordering::Relaxed) > 0
    }

    /// Waits until `ready` has something, as the shelf changes.
    pub(super) async fn wait<T>(
        &self,
        limit: Duration,
        mut ready: impl FnMut(&Shelf) -> Option<T>,
    ) -> Option<T> {
        let mut news = self.shelf.subscribe();
        let waiting = async {
            loop {
                news.borrow_and_update();
                if let Some(found) = ready(&self.shelf) {
                    return Some(found);
                }
                news.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, waiting).await.ok().flatten()
    }

    /// A media playlist.
    async fn playlist(&self, row: Row, ask: &Ask, style: Style<'_>, headers: &HeaderMap) -> Response {
        if ask.part.is_some() && ask.msn.is_none() {
            return (StatusCode::BAD_REQUEST, "_HLS_part needs _HLS_msn.\n").into_response();
        }
        let ready = |shelf: &Shelf| shelf.is_ready(row, style.low_latency).then_some(());
        if self.wait(FIRST_WAIT, ready).await.is_none() {
            return later();
        }
        if let Some(msn) = ask.msn {
            let next = self.shelf.next(row).map_or(0, |(next, _)| next);
            if msn > next.saturating_add(MAX_AHEAD) {
                return (StatusCode::BAD_REQUEST, "There is no such segment soon.\n").into_response();
            }
            // What was waited for must be in the playlist; a part that the segment turned out not to have is in the next one.
            let part = ask.part;
            let here = self.wait(NEXT_WAIT, |shelf| shelf.has(row, msn, part).filter(|has| *has)).await;
            if here.is_none() {
                return later();
            }
        }
        match self.shelf.playlist(row, &style) {
            Some(playlist) => {
                let caching = if ask.msn.is_some() { Caching::Second } else { Caching::Never };
                answer::playlist(caching, playlist, headers)
            }
            None => later(),
        }
    }

    async fn segment(
        &self,
        row: Row,
        number: u64,
        kind: &'static str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Response {
        let found = self
            .wait(NEXT_WAIT, |shelf| match shelf.segment(row, number) {
                Found::Later => None,
                found => Some(found),
            })
            .await;
        let name = match row {
            Row::Track(track) => format!("{track}-{number}"),
            Row::Feed => format!("ts-{number}"),
            Row::Text(text) => format!("text-{text}-{number}"),
        };
        self.send(found, Place { row, number, part: None }, kind, &name, (method, headers))
    }

    fn send(
        &self,
        found: Option<Found>,
        place: Place,
        kind: &'static str,
        name: &str,
        (method, headers): (&Method, &HeaderMap),
    ) -> Response {
        match found {
            Some(Found::Here(length)) => {
                media(Media::Shelf(Arc::clone(&self.shelf), place, length), kind, name, method, headers)
            }
            Some(Found::Later | Found::None) | None => none(),
        }
    }
}

/// The routes of a gateway.
pub fn router(house: House) -> Router {
    let access = house.access().clone();
    let mut routes = Router::new();
    if house.has_several() {
        routes = routes.route("/", get(page::list)).route("/assets/{name}", get(page::asset));
    } else {
        routes = of_channel(routes, "");
    }
    of_channel(routes, "/c/{key}")
        .route("/c/{key}", get(to_folder))
        .route("/channels.m3u", get(about::channels))
        .route("/metrics", get(about::metrics))
        .layer(middleware::from_fn_with_state(access, access::ask))
        // Whoever looks after the gateway need not know the word.
        .route("/health", get(about::health))
        .with_state(house)
}

/// The routes of one channel, below a path.
fn of_channel(routes: Router<House>, below: &str) -> Router<House> {
    let at = |path: &str| format!("{below}{path}");
    routes
        .route(&at("/"), get(page::index))
        .route(&at("/assets/{name}"), get(page::asset))
        .route(&at("/index.m3u8"), get(variants))
        .route(&at("/live.m3u8"), get(live_variants))
        .route(&at("/ts.m3u8"), get(transport))
        .route(&at("/ts/{name}"), get(transport_segment))
        .route(&at("/track/{track}/{name}"), get(track))
        .route(&at("/text/{track}/{name}"), get(subtitles))
        .route(&at("/dvr.m3u8"), get(back::variants))
        .route(&at("/past.m3u8"), get(back::playlist))
        .route(&at("/past/{name}"), get(back::entry))
        .route(&at("/stream.ts"), get(radio::transport))
        .route(&at("/stream.aac"), get(radio::sound))
        .route(&at("/stream.mp3"), get(radio::sound))
        .route(&at("/status.json"), get(about::status))
}

/// Addresses in a page and in playlists are relative to the channel's folder.
async fn to_folder(Asked(channel): Asked, address: Uri) -> Redirect {
    let query = address.query().map_or(String::new(), |query| format!("?{query}"));
    Redirect::permanent(&format!("/c/{}/{query}", channel.link.channel))
}

async fn variants(gateway: Gateway, Query(ask): Query<Ask>, headers: HeaderMap) -> Response {
    all_variants(&gateway, &ask, "index.m3u8", &headers).await
}

async fn live_variants(gateway: Gateway, Query(ask): Query<Ask>, headers: HeaderMap) -> Response {
    all_variants(&gateway, &ask, "live.m3u8", &headers).await
}

async fn all_variants(gateway: &Gateway, ask: &Ask, file: &str, headers: &HeaderMap) -> Response {
    let mut query = gateway.access.query(ask.key.as_deref());
    if let Some(from) = ask.from {
        query.push_str(if query.is_empty() { "?" } else { "&" });
        query.push_str(&format!("from={from}"));
    }
    match gateway.wait(FIRST_WAIT, |shelf| shelf.variants(file, &query, true)).await {
        Some(playlist) => answer::playlist(Caching::Never, playlist, headers),
        None => later(),
    }
}

/// A file's name in an address, and the track that it is of.
#[derive(Debug, Deserialize)]
pub struct File {
    #[serde(default)]
    track: usize,
    /// The name.
    pub name: String,
}

/// Files of a track: `index.m3u8`, `live.m3u8`, `<segment>.m4s`, `<segment>.<part>.m4s`, `init-<session>-<number>.mp4`.
async fn track(
    gateway: Gateway,
    Path(File { track, name }): Path<File>,
    Query(ask): Query<Ask>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let row = Row::Track(track);
    let query = gateway.access.query(ask.key.as_deref());
    if matches!(&*name, "index.m3u8" | "live.m3u8") {
        let skip = matches!(ask.skip.as_deref(), Some("YES" | "v2"));
        // Players that only look at what is on air need no hours of playlist.
        let live_ms = (name == "live.m3u8").then(|| gateway.shelf.span_ms(row)).flatten();
        let live_ms = live_ms.map(|(_, newest)| newest.saturating_sub(LIVE_MS));
        let style = Style {
            low_latency: true,
            skip,
            from_ms: ask.from.max(live_ms),
            folder: "",
            ending: ".m4s",
            query: &query,
            session: gateway.shelf.session(),
        };
        return gateway.playlist(row, &ask, style, &headers).await;
    }
    if let Some(numbers) = name.strip_prefix("init-").and_then(|rest| rest.strip_suffix(".mp4")) {
        let numbers = numbers
            .split_once('-')
            .and_then(|(session, number)| Some((session.parse::<u64>().ok()?, number.parse::<u32>().ok()?)));
        let number =
            numbers.filter(|(session, _)| *session == gateway.shelf.session()).map(|(_, number)| number);
        let Some(bytes) = number.and_then(|number| gateway.shelf.init(track, number)) else { return none() };
        return media(Media::Bytes(bytes), MP4, &name, &method, &headers);
    }
    let Some(numbers) = name.strip_suffix(".m4s") else { return none() };
    match numbers.split_once('.') {
        None => match numbers.parse() {
            Ok(number) => gateway.segment(row, number, MP4, &method, &headers).await,
            Err(_) => none(),
        },
        Some((number, part)) => {
            let (Ok(number), Ok(part)) = (number.parse(), part.parse()) else { return none() };
            let found = gateway
                .wait(NEXT_WAIT, |shelf| match shelf.part(row, number, part) {
                    Found::Later => None,
                    found => Some(found),
                })
                .await;
            let place = Place { row, number, part: Some(part) };
            gateway.send(found, place, MP4, &format!("{track}-{name}"), (&method, &headers))
        }
    }
}

/// Files of a track of subtitles: `index.m3u8`, `<segment>.vtt`.
async fn subtitles(
    gateway: Gateway,
    Path(File { track, name }): Path<File>,
    Query(ask): Query<Ask>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let row = Row::Text(track);
    if name == "index.m3u8" {
        let query = gateway.access.query(ask.key.as_deref());
        let style = Style { from_ms: ask.from, ending: ".vtt", query: &query, ..Style::default() };
        return gateway.playlist(row, &ask, style, &headers).await;
    }
    match name.strip_suffix(".vtt").and_then(|number| number.parse().ok()) {
        Some(number) => gateway.segment(row, number, VTT, &method, &headers).await,
        None => none(),
    }
}

/// What `/live.m3u8` lists, in milliseconds.
const LIVE_MS: u64 = 60_000;

async fn transport(gateway: Gateway, Query(ask): Query<Ask>, headers: HeaderMap) -> Response {
    let query = gateway.access.query(ask.key.as_deref());
    let style = Style {
        low_latency: false,
        skip: false,
        from_ms: ask.from,
        folder: "ts/",
        ending: ".ts",
        query: &query,
        session: gateway.shelf.session(),
    };
    gateway.playlist(Row::Feed, &ask, style, &headers).await
}

async fn transport_segment(
    gateway: Gateway,
    Path(File { name, .. }): Path<File>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    match name.strip_suffix(".ts").and_then(|number| number.parse().ok()) {
        Some(number) => gateway.segment(Row::Feed, number, TS, &method, &headers).await,
        None => none(),
    }
}

#[cfg(test)]
mod tests;
