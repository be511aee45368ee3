//! What the broadcaster sees from afar: metrics for Prometheus, and a page with a graph and a picture.
//!
//! The page is one file and the style sheet of all pages, and loads nothing from elsewhere. The picture is the first of the newest segment, made by
//! ffmpeg when there is one, once for each segment that somebody looks at.

use std::{fmt::Write as _, process::Stdio, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use minuet_proto::{SegmentSeq, SignedState};
use minuet_store::Store;
use tokio::{
    process::Command,
    sync::{Mutex, watch},
    time::timeout,
};

use crate::{
    shelf::Shelf,
    status::{Figures, History},
};

/// How long making a picture may take.
const PREVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest picture that is kept.
const MAX_PREVIEW: usize = 1 << 20;

const PAGE: &str = include_str!("dashboard.html");
/// What all pages of Minuet look like.
const STYLE: &str = include_str!("../../../web/site.css");

/// What the page and the metrics are made of.
#[derive(Clone)]
pub struct Dashboard {
    title: Arc<str>,
    store: Arc<Store>,
    shelf: Arc<Shelf>,
    history: Arc<History>,
    state: watch::Receiver<SignedState>,
    /// The newest picture and its segment; held while one is made, so that only one is.
    preview: Arc<Mutex<Option<(SegmentSeq, Bytes)>>>,
}

impl Dashboard {
    /// The page of a channel.
    pub fn new(
        title: String,
        store: Arc<Store>,
        shelf: Arc<Shelf>,
        history: Arc<History>,
        state: watch::Receiver<SignedState>,
    ) -> Self {
        Self { title: title.into(), store, shelf, history, state, preview: Arc::default() }
    }

    /// `/`, `/site.css`, `/figures.json`, `/preview.jpg` and `/metrics`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(async || Html(PAGE)))
            .route("/site.css", get(async || ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)))
            .route("/figures.json", get(figures))
            .route("/preview.jpg", get(preview))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    fn phase(&self) -> String {
        self.state.borrow().phase.to_string()
    }
}

async fn figures(State(page): State<Dashboard>) -> Response {
    let history = page.history.read();
    let newest = history.last().copied().unwrap_or_default();
    let list = |value: fn(&Figures) -> u64| {
        let values: Vec<String> = history.iter().map(|figures| value(figures).to_string()).collect();
        values.join(",")
    };
    let offload = newest.offload_percent().map_or("null".to_owned(), |percent| format!("{percent:.1}"));
    let json = format!(
        "{{\"title\":{},\"phase\":\"{}\",\"line\":\"{newest}\",\"segment\":{},\"viewers\":{},\"key_distance_ms\":{},\
         \"continuity_errors\":{},\"copies\":{:.3},\"offload_percent\":{offload},\"in\":[{}],\"out\":[{}]}}",
        quoted(&page.title),
        page.phase(),
        newest.now.open,
        newest.now.viewers + newest.now.live_peers,
        newest.now.key_distance_ms,
        newest.now.cutter.continuity_errors,
        newest.copies(),
        list(|figures| figures.in_per_s),
        list(|figures| figures.out_per_s),
    );
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            // Titles have none; a page is not to break if one had.
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out + "\""
}

async fn metrics(State(page): State<Dashboard>) -> Response {
    let newest = page.history.read().last().copied().unwrap_or_default();
    let (now, cutter, mut text) = (newest.now, newest.now.cutter, String::new());
    let mut metric = |name: &str, kind: &str, help: &str, value: f64| {
        let _ =
            write!(text, "# HELP minuet_{name} {help}\n# TYPE minuet_{name} {kind}\nminuet_{name} {value}\n");
    };
    metric("feed_bytes_total", "counter", "Bytes of feed received.", now.received as f64);
    metric(
        "feed_bytes_per_second",
        "gauge",
        "Bytes of feed a second, over ten seconds.",
        newest.in_per_s as f64,
    );
    metric("recorded_bytes_total", "counter", "Bytes of sealed segments.", now.recorded as f64);
    metric("open_segment", "gauge", "Number of the segment being recorded.", now.open.0 as f64);
    metric("sent_live_bytes_total", "counter", "Payload sent in the live mesh.", now.sent_live as f64);
    metric(
        "sent_to_peers_bytes_total",
        "counter",
        "Payload sent to BitTorrent peers.",
        now.sent_to_peers as f64,
    );
    metric(
        "sent_over_http_bytes_total",
        "counter",
        "Payload sent to web seed clients.",
        now.sent_over_http as f64,
    );
    metric("uplink_copies", "gauge", "Copies of the stream sent since the start.", newest.copies());
    metric("live_peers", "gauge", "Peers linked in the live mesh.", now.live_peers as f64);
    metric("peers", "gauge", "BitTorrent peers connected to the busiest segment.", now.viewers as f64);
    metric("seeded_segments", "gauge", "Segments being seeded.", now.seeding as f64);
    metric(
        "key_frame_distance_seconds",
        "gauge",
        "From one place where decoding can start to the next.",
        now.key_distance_ms as f64 / 1000.0,
    );
    metric("packets_total", "counter", "Transport packets received.", cutter.packets as f64);
    metric(
        "continuity_errors_total",
        "counter",
        "Losses or repetitions on a PID.",
        cutter.continuity_errors as f64,
    );
    metric(
        "transport_errors_total",
        "counter",
        "Packets that came marked as damaged.",
        cutter.transport_errors as f64,
    );
    metric("garbage_bytes_total", "counter", "Bytes that belong to no packet.", cutter.garbage_bytes as f64);
    if let Some(offload) = newest.offload_percent() {
        metric(
            "offload_ratio",
            "gauge",
            "Share of what viewers get that comes from viewers.",
            offload / 100.0,
        );
    }
    let phase = page.phase();
    metric("feed_live", "gauge", "1 while media comes in.", f64::from(u8::from(phase == "live")));
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn preview(State(page): State<Dashboard>) -> Response {
    let Some(seq) = page.shelf.newest() else { return StatusCode::NOT_FOUND.into_response() };
    let mut kept = page.preview.lock().await;
    if kept.as_ref().is_none_or(|(of, _)| *of != seq) {
        // An empty picture stands for one that cannot be made, so that it is not tried again and again.
        let picture = picture(&page.store, seq).await.unwrap_or_default();
        *kept = Some((seq, picture));
    }
    match kept.as_ref() {
        Some((_, picture)) if !picture.is_empty() => {
            ([(CONTENT_TYPE, "image/jpeg")], picture.clone()).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The first picture of a segment, as JPEG.
async fn picture(store: &Store, seq: SegmentSeq) -> Option<Bytes> {
    let making = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-threads", "1", "-i"])
        .arg(store.media_path(seq))
        .args(["-map", "0:v:0", "-frames:v", "1", "-vf", "scale='min(640,iw)':-2", "-f", "mjpeg", "pipe:1"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let made = timeout(PREVIEW_TIMEOUT, making).await.ok()?.ok()?;
    (made.status.success() && made.stdout.len() <= MAX_PREVIEW).then(|| made.stdout.into())
}
