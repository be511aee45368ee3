//! What operators and passers-by see: metrics, status, and the channels that want to be seen.

use std::fmt::Write as _;

use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::respond;
use crate::metrics::Levels;
use crate::tracker::Shared;

/// The most channels on one page.
const MAX_LISTED: usize = 200;

/// A channel whose publisher lets trackers list it.
#[derive(Debug, Serialize)]
struct Listed {
    channel: String,
    title: String,
    phase: String,
    newest: Option<u64>,
    bitrate_bps: Option<u64>,
    peers: u32,
    subscribers: usize,
}

#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    uptime_s: u64,
    channels: usize,
    channel_swarms: usize,
    open_swarms: usize,
    peers: usize,
    seeders: usize,
    subscribers: u64,
    connections: u64,
    announces: u64,
    listed: Vec<Listed>,
}

pub(super) fn metrics(shared: &Shared) -> Response<Body> {
    let text = shared.metrics.to_prometheus(&shared.levels());
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

pub(super) fn status(shared: &Shared) -> Response<Body> {
    let Levels { uptime_seconds, channels, swarms, .. } = shared.levels();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: uptime_seconds,
        channels,
        channel_swarms: swarms.channel_swarms,
        open_swarms: swarms.open_swarms,
        peers: swarms.peers,
        seeders: swarms.seeders,
        subscribers: shared.metrics.subscribers.get(),
        connections: shared.connections.used(),
        announces: shared.metrics.announces.get(),
        listed: listed(shared),
    };
    // Strings and numbers always serialise.
    respond(StatusCode::OK, "application/json", serde_json::to_vec(&status).unwrap_or_default())
}

pub(super) fn home(shared: &Shared) -> Response<Body> {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Minuet tracker</title><style>body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;\
         padding:0 1em}td,th{text-align:left;padding:.2em 1em .2em 0}</style><h1>Minuet tracker</h1>",
    );
    let channels = listed(shared);
    if channels.is_empty() {
        page.push_str("<p>No channel here is listed in public.");
    } else {
        page.push_str("<table><tr><th>Channel<th>State<th>Mbit/s<th>Viewers");
        for channel in channels {
            let title = if channel.title.is_empty() { &channel.channel[..8] } else { &channel.title };
            // Writing to a String cannot fail.
            let _ = write!(
                page,
                "<tr><td><a href='/c/{}'>{}</a><td>{}<td>{}<td>{}",
                channel.channel,
                escape(title),
                channel.phase,
                channel.bitrate_bps.map_or("–".into(), |bps| format!("{:.1}", bps as f64 / 1e6)),
                channel.subscribers,
            );
        }
        page.push_str("</table>");
    }
    page.push_str("<p>Watch one with <code>minuet watch</code> and its address.");
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", page.into_bytes());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        "content-security-policy",
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
    );
    response
}

fn listed(shared: &Shared) -> Vec<Listed> {
    let mut listed: Vec<Listed> = shared
        .channels
        .all()
        .iter()
        .filter_map(|channel| {
            let window = channel.window();
            let state = window.state().filter(|state| state.listed)?;
            let newest = window.entries().back().map(|entry| &entry.record);
            let counts =
                newest.and_then(|record| shared.swarms.scrape(&record.info_hash)).unwrap_or_default();
            Some(Listed {
                channel: channel.id().to_string(),
                title: state.title.clone(),
                phase: state.phase.to_string(),
                newest: newest.map(|record| record.seq.0),
                bitrate_bps: newest.and_then(|r| r.length.saturating_mul(8_000).checked_div(r.duration_ms)),
                peers: counts.seeders + counts.leechers,
                subscribers: channel.subscribers(),
            })
        })
        .collect();
    listed.sort_by(|a, b| (b.subscribers, &a.channel).cmp(&(a.subscribers, &b.channel)));
    listed.truncate(MAX_LISTED);
    listed
}

/// Text for HTML, also inside quotes.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_cannot_break_out_of_the_page() {
        assert_eq!(escape("<script>'&\""), "&lt;script&gt;&#39;&amp;&quot;");
    }
}
