//! What operators and passers-by see: metrics, status, and the channels that want to be seen.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue, VARY};
use hyper::{HeaderMap, Response, StatusCode};
use minuet_guard::pool::Pool;
use minuet_proto::channel_api::directory::{Directory, Listing, MAX_DIRECTORY_CHANNELS, parse_after};
use minuet_proto::{ChannelId, Record};
use serde::Serialize;

use super::body::{Body, FRAME};
use super::channel::json;
use super::front::Front;
use super::own_url::public_url;
use super::under_way::busy;
use super::{respond, text};
use crate::channel::Channel;
use crate::metrics::Levels;
use crate::state::State;

/// What all pages of Minuet look like.
const STYLE: &str = include_str!("../../../web/site.css");
/// Nothing comes from elsewhere, and nothing runs.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";
/// The most channels on one page.
const MAX_LISTED: usize = 200;
/// What stands around a state in a list, at most.
const BESIDES_STATE: usize = 80;

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

pub(super) fn metrics(front: &Front) -> Response<Body> {
    let text = front.state.metrics.to_prometheus(&front.levels());
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

pub(super) fn status(front: &Front) -> Response<Body> {
    let Levels { uptime_seconds, channels, swarms, .. } = front.levels();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: uptime_seconds,
        channels,
        channel_swarms: swarms.channel_swarms,
        open_swarms: swarms.open_swarms,
        peers: swarms.peers,
        seeders: swarms.seeders,
        subscribers: front.state.metrics.subscribers.get(),
        connections: front.connections.used(),
        announces: front.state.metrics.announces.get(),
        listed: listed(&front.state),
    };
    // Strings and numbers always serialise.
    respond(StatusCode::OK, "application/json", serde_json::to_vec(&status).unwrap_or_default())
}

/// The channels that want to be seen, for programs: what their sources have signed, a part at a time.
pub(super) fn directory(state: &State, answers: &Pool, ip: IpAddr, query: &str) -> Response<Body> {
    let after = match parse_after(query) {
        Ok(after) => after,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("after= takes a channel: {error}\n")),
    };
    let mut found: Vec<(ChannelId, Listing)> = state
        .channels
        .all()
        .iter()
        .filter(|channel| after.is_none_or(|after| *channel.id() > after))
        .filter_map(|channel| {
            let window = channel.window();
            let says = window.state().filter(|says| says.listed)?;
            let listing = Listing {
                state: says.to_base64(),
                bitrate_bps: window.entries().back().and_then(|newest| bitrate(&newest.record)),
                viewers: channel.subscribers() as u64,
            };
            Some((*channel.id(), listing))
        })
        .collect();
    found.sort_by_key(|(channel, _)| *channel);
    let more = found.len() > MAX_DIRECTORY_CHANNELS;
    found.truncate(MAX_DIRECTORY_CHANNELS);
    let next = found.last().filter(|_| more).map(|(channel, _)| channel.to_string());
    let length = found.iter().map(|(_, listing)| listing.state.len() + BESIDES_STATE).sum::<usize>();
    if length > FRAME && !answers.has_room(ip, (length - FRAME) as u64) {
        return busy();
    }
    let channels = found.into_iter().map(|(_, listing)| listing).collect();
    json(&Directory { channels, next })
}

/// What all pages of Minuet look like.
pub(super) fn style() -> Response<Body> {
    let mut response = respond(StatusCode::OK, "text/css; charset=utf-8", STYLE.as_bytes().to_vec());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

/// Whether a browser asks, which shows pages. Programs of Minuet do not say what they take.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

/// The channels that want to be seen.
pub(super) fn home(state: &State) -> Response<Body> {
    let channels = listed(state);
    let mut body = String::from("<h1>Channels</h1>\n");
    if channels.is_empty() {
        body.push_str("<p>No channel here is listed in public.</p>\n");
    } else {
        body.push_str(
            "<table>\n<tr><th>Channel<th>State<th class=\"number wide\">Mbit/s<th class=\"number\">Viewers</tr>\n",
        );
        for channel in channels {
            let title = if channel.title.is_empty() { &channel.channel[..8] } else { &channel.title };
            let rate = channel.bitrate_bps.map_or("–".into(), |bps| format!("{:.1}", bps as f64 / 1e6));
            // A gateway has the same path as the tracker, with a slash.
            let (gateway, slash) = match &state.config.gateway {
                Some(gateway) => (gateway.as_str(), "/"),
                None => ("", ""),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                body,
                "<tr><td><a href=\"{}c/{}{slash}\">{}</a><td>{}<td class=\"number wide\">{rate}<td class=\"number\">{}</tr>",
                escape(gateway),
                channel.channel,
                escape(title),
                channel.phase,
                channel.subscribers,
            );
        }
        body.push_str("</table>\n");
    }
    page("Minuet tracker", "", &body)
}

/// How to watch a channel, for a browser that was given its link.
pub(super) fn channel(state: &State, channel: &Channel, headers: &HeaderMap, secure: bool) -> Response<Body> {
    let key = channel.id().to_string();
    let says = channel.window().state().map(|says| (says.title.clone(), says.phase.to_string(), says.listed));
    let (title, phase, listed) = says.unwrap_or_default();
    let title = if title.is_empty() { format!("Channel {}", &key[..8]) } else { title };
    let mut body = format!("<h1>{}</h1>\n<p class=\"dim\">{}</p>\n", escape(&title), escape(&phase));
    if let Some(gateway) = state.config.gateway.as_ref().filter(|_| listed) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            body,
            "<ul class=\"cards\"><li><a href=\"{}c/{key}/\"><b>Watch in this browser</b><span>over a gateway</span></a></ul>",
            escape(gateway)
        );
    }
    if let Some(own) = public_url(&state.config, headers, secure) {
        let link = format!("{own}c/{key}");
        let _ = write!(
            body,
            "<h2>With Minuet on this machine</h2>\n\
             <p><a href=\"minuet:{0}\">Open in Minuet</a>, where it is installed; or in a terminal:</p>\n\
             <p><code>minuet watch {0}</code></p>\n\
             <h2>On telephones and TVs in the house</h2>\n\
             <p><code>minuet watch {0} --serve 0.0.0.0:8080</code></p>\n\
             <p>says which address they open.</p>\n",
            escape(&link)
        );
    }
    let mut response = page(&title, "../", &body);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// A page around `body`; `up` leads from its address to the tracker's root.
fn page(title: &str, up: &str, body: &str) -> Response<Body> {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1, viewport-fit=cover\">\n\
         <meta name=\"color-scheme\" content=\"dark\">\n<title>{}</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <link rel=\"stylesheet\" href=\"{up}site.css\">\n</head>\n<body>\n<main class=\"sheet\">\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    );
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", page.into_bytes());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("content-security-policy", HeaderValue::from_static(POLICY));
    response
}

/// The channels that want to be seen: the most watched first. Where there is not room for all, each household that brought
/// some has one before any has two, so that nobody fills the list with channels that nobody watches.
fn listed(state: &State) -> Vec<Listed> {
    let mut listed: Vec<(Option<IpAddr>, Listed)> = state
        .channels
        .all()
        .iter()
        .filter_map(|channel| {
            let window = channel.window();
            let says = window.state().filter(|says| says.listed)?;
            let newest = window.entries().back().map(|entry| &entry.record);
            let counts = newest.and_then(|record| state.swarms.scrape(&record.info_hash)).unwrap_or_default();
            let listed = Listed {
                channel: channel.id().to_string(),
                title: says.title.clone(),
                phase: says.phase.to_string(),
                newest: newest.map(|record| record.seq.0),
                bitrate_bps: newest.and_then(|record| bitrate(record)),
                peers: counts.seeders + counts.leechers,
                subscribers: channel.subscribers(),
            };
            Some((channel.brought_by(), listed))
        })
        .collect();
    in_turn(&mut listed, MAX_LISTED);
    listed.into_iter().map(|(_, listed)| listed).collect()
}

/// Keeps `most` of the channels, those who brought them in turn, and puts the most watched first.
fn in_turn(listed: &mut Vec<(Option<IpAddr>, Listed)>, most: usize) {
    let watched = |(_, a): &(Option<IpAddr>, Listed), (_, b): &(Option<IpAddr>, Listed)| {
        (b.subscribers, a.newest.is_none(), &a.channel).cmp(&(a.subscribers, b.newest.is_none(), &b.channel))
    };
    listed.sort_by(watched);
    if listed.len() <= most {
        return;
    }
    let mut brought: HashMap<Option<IpAddr>, usize> = HashMap::new();
    let mut turns: Vec<(usize, (Option<IpAddr>, Listed))> = std::mem::take(listed)
        .into_iter()
        .map(|it| {
            let turn = brought.entry(it.0).or_default();
            *turn += 1;
            (*turn, it)
        })
        .collect();
    // Stable: within a turn the most watched come first.
    turns.sort_by_key(|(turn, _)| *turn);
    turns.truncate(most);
    listed.extend(turns.into_iter().map(|(_, it)| it));
    listed.sort_by(watched);
}

/// The mean rate of a segment, in bits a second.
fn bitrate(record: &Record) -> Option<u64> {
    record.length.saturating_mul(8_000).checked_div(record.duration_ms)
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
    fn nobody_fills_the_list_with_channels_that_nobody_watches() {
        let one = |by: Option<u8>, name: String, subscribers| {
            let (title, phase) = (String::new(), String::new());
            let ip = by.map(|by| IpAddr::from([192, 0, 2, by]));
            (
                ip,
                Listed {
                    channel: name,
                    title,
                    phase,
                    newest: None,
                    bitrate_bps: None,
                    peers: 0,
                    subscribers,
                },
            )
        };
        let mut listed: Vec<_> = (0..600).map(|n| one(Some(9), format!("0{n:03}"), n % 2)).collect();
        listed.push(one(Some(1), "f1".to_owned(), 0));
        listed.push(one(Some(2), "f2".to_owned(), 3));
        listed.push(one(None, "f3".to_owned(), 0));
        in_turn(&mut listed, 200);
        let names: Vec<&str> = listed.iter().map(|(_, listed)| listed.channel.as_str()).collect();
        assert_eq!((names.len(), names[0]), (200, "f2"));
        assert!(["f1", "f3"].iter().all(|name| names.contains(name)));
        assert_eq!(
            listed.iter().filter(|(_, listed)| listed.subscribers == 1).count(),
            197,
            "the watched first"
        );
        // Where there is room, everybody's are there.
        let mut few: Vec<_> = (0..3).map(|n| one(Some(9), n.to_string(), n)).collect();
        in_turn(&mut few, 200);
        assert_eq!(few.iter().map(|(_, listed)| listed.subscribers).collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn a_title_cannot_break_out_of_the_page() {
        assert_eq!(escape("<script>'&\""), "&lt;script&gt;&#39;&amp;&quot;");
    }
}
