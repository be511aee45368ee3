//! The page: one document, its style and its script, and hls.js where `scripts/web` has fetched it before the build.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Uri,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{Html, IntoResponse, Response},
};
use minuet_proto::Phase;
use minuet_serve::Secure;
use serde::Deserialize;

use super::{
    about::origin,
    answer::none,
    house::{Channel, House},
    http::{Asked, File},
};

const INDEX: &str = include_str!("page/index.html");
const CHANNELS: &str = include_str!("page/channels.html");
/// What all pages of Minuet have in common.
const SITE: &str = include_str!("../../../../web/site.css");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// Empty where it was not fetched before the build.
const HLS: &str = include_str!(concat!(env!("OUT_DIR"), "/hls.js"));
const HLS_LICENCE: &str = include_str!(concat!(env!("OUT_DIR"), "/hls.js.LICENSE"));

/// Nothing comes from elsewhere, and nothing runs but the page's own scripts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// What stands behind the page's address.
#[derive(Debug, Deserialize)]
pub struct Ask {
    key: Option<String>,
}

/// The page of a channel.
pub async fn index(Asked(channel): Asked, State(house): State<House>, Query(ask): Query<Ask>) -> Response {
    let query = house.access().query(ask.key.as_deref());
    let page = INDEX
        .replace("{{query}}", &escaped(&query))
        .replace("{{hls}}", if HLS.is_empty() { "no" } else { "yes" })
        // The last: nothing in it is a place of the document.
        .replace("{{title}}", &escaped(&channel.station.title()));
    (protection(), Html(page)).into_response()
}

/// The list of all channels.
pub async fn list(
    State(house): State<House>,
    Query(ask): Query<Ask>,
    secure: Option<Extension<Secure>>,
    address: Uri,
    headers: HeaderMap,
) -> Response {
    let query = escaped(&house.access().query(ask.key.as_deref()));
    let channels = house.channels();
    let list = format!("{}/channels.m3u{query}", escaped(&origin(secure.is_some(), &address, &headers)));
    let page = CHANNELS
        .replace("{{query}}", &query)
        .replace("{{list}}", &list)
        .replace("{{channels}}", &cards(&channels, &query));
    (protection(), Html(page)).into_response()
}

fn cards(channels: &[Arc<Channel>], query: &str) -> String {
    if channels.is_empty() {
        return "<p>There is no channel yet: those that its trackers list appear here.</p>".into();
    }
    let mut out = String::from("<ul class=\"cards\">\n");
    for channel in channels {
        let (title, state) = (escaped(&channel.station.title()), state(channel.station.phase()));
        let class = if channel.station.phase() == Some(Phase::Live) { " class=\"live\"" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<li><a href=\"c/{}/{query}\"><b>{title}</b><span{class}>{state}</span></a></li>",
            channel.link.channel
        );
    }
    out.push_str("</ul>");
    out
}

/// In plain words.
fn state(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Live) => "on air",
        Some(Phase::Silent) => "silent at the moment",
        Some(Phase::Ended) => "ended",
        None => "not joined: it begins some seconds after it is opened",
    }
}

/// A file of the page.
pub async fn asset(Path(File { name, .. }): Path<File>) -> Response {
    let (kind, body) = match name.as_str() {
        "site.css" => ("text/css; charset=utf-8", SITE),
        "page.css" => ("text/css; charset=utf-8", STYLE),
        "page.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "hls.js" if !HLS.is_empty() => ("text/javascript; charset=utf-8", HLS),
        "hls.js.LICENSE" if !HLS.is_empty() => ("text/plain; charset=utf-8", HLS_LICENCE),
        _ => return none(),
    };
    let head = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=300")];
    (protection(), head, body).into_response()
}

fn protection() -> [(HeaderName, HeaderValue); 3] {
    [
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}

/// Text as it stands in a document or an attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_no_markup() {
        assert_eq!(escaped("<b onclick=\"x\">'&"), "&lt;b onclick=&quot;x&quot;&gt;&#39;&amp;");
        assert!(CHANNELS.contains("{{channels}}") && CHANNELS.contains("{{list}}"));
        assert!(INDEX.contains("{{title}}") && INDEX.contains("{{query}}") && INDEX.contains("{{hls}}"));
    }

    #[test]
    fn the_page_holds_no_script_or_style_of_its_own_and_loads_none_from_elsewhere() {
        for forbidden in ["<style", "onclick", "style=", "javascript:", "//cdn"] {
            assert!(!INDEX.contains(forbidden) && !CHANNELS.contains(forbidden), "{forbidden}");
        }
    }
}
