//! Answers: types, caching, ranges.

use std::{io::Write as _, sync::Arc};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY,
        },
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use minuet_serve::Part;

use super::{
    house::Absent,
    reading,
    shelf::{Place, Shelf},
};

/// Of playlists (RFC 8216, 4).
pub const PLAYLIST: &str = "application/vnd.apple.mpegurl";
/// Of CMAF tracks and parts.
pub const MP4: &str = "video/mp4";
/// Of MPEG-TS (RFC 3555).
pub const TS: &str = "video/mp2t";

/// Of subtitles.
pub const VTT: &str = "text/vtt; charset=utf-8";

/// How long something may be kept by caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// It never changes: its number is never given again.
    Forever,
    /// It changes all the time.
    Never,
    /// A playlist that was waited for; another who asks the same shortly gets the same.
    Second,
}

impl Caching {
    fn header(self) -> &'static str {
        match self {
            Self::Forever => "public, max-age=86400, immutable",
            Self::Never => "no-cache",
            Self::Second => "public, max-age=1",
        }
    }
}

/// What all answers with media have: anybody's page may play it.
pub fn head(kind: &'static str, caching: Caching) -> [(HeaderName, HeaderValue); 3] {
    [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CACHE_CONTROL, HeaderValue::from_static(caching.header())),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ]
}

/// A text, which no other page may read: what is watched here is nobody else's business.
pub fn text(kind: &'static str, caching: Caching, text: String) -> Response {
    let [kind, caching, _] = head(kind, caching);
    ([kind, caching], text).into_response()
}

/// A playlist, compressed for whoever takes that: one of an hour has a hundred kilobytes.
pub fn playlist(caching: Caching, text: String, asked: &HeaderMap) -> Response {
    let vary = [(VARY, HeaderValue::from_static("accept-encoding"))];
    if !takes_gzip(asked) {
        return (head(PLAYLIST, caching), vary, text).into_response();
    }
    let mut packed = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    match packed.write_all(text.as_bytes()).and_then(|()| packed.finish()) {
        Ok(packed) => {
            let coding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (head(PLAYLIST, caching), vary, coding, packed).into_response()
        }
        // It is written to memory, which does not fail.
        Err(_) => (head(PLAYLIST, caching), vary, text).into_response(),
    }
}

/// Whether `gzip` is among the codings that are taken (RFC 9110, 12.5.3).
fn takes_gzip(asked: &HeaderMap) -> bool {
    let lists = asked.get_all(ACCEPT_ENCODING).into_iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let mut words = coding.split(';').map(str::trim);
        let refused = |word: &str| word.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
        words.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip")) && !words.any(refused)
    })
}

/// Nothing yet: come back in a moment.
pub fn later() -> Response {
    let headers = [
        (HeaderName::from_static("retry-after"), HeaderValue::from_static("2")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, headers, "The stream has not come in yet.\n").into_response()
}

/// The channel is not there.
pub fn absent(why: &Absent) -> Response {
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ];
    let full =
        "So many channels are watched here that there is no place for another: try again in some minutes.\n";
    match why {
        Absent::Unknown => {
            (StatusCode::NOT_FOUND, headers, "This gateway does not carry this channel.\n").into_response()
        }
        Absent::Full => (StatusCode::SERVICE_UNAVAILABLE, headers, full).into_response(),
        Absent::Later(None) => later(),
        Absent::Later(Some(why)) => {
            (StatusCode::BAD_GATEWAY, headers, format!("The channel cannot be joined: {why}\n"))
                .into_response()
        }
    }
}

/// Something that cannot be had, with a sentence for whoever asked.
pub fn refused(status: StatusCode, sentence: String) -> Response {
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ];
    (status, headers, sentence).into_response()
}

/// There is none.
pub fn none() -> Response {
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ];
    (StatusCode::NOT_FOUND, headers).into_response()
}

/// Media.
pub enum Media {
    /// A few bytes.
    Bytes(Bytes),
    /// On the shelf, so long.
    Shelf(Arc<Shelf>, Place, u64),
}

/// Media, or the range of it that is asked for. `name` is its entity tag: it never changes.
pub fn media(media: Media, kind: &'static str, name: &str, method: &Method, headers: &HeaderMap) -> Response {
    let length = match &media {
        Media::Bytes(bytes) => bytes.len() as u64,
        Media::Shelf(_, _, length) => *length,
    };
    let part = match Part::of(method, headers, format!("\"{name}\""), length) {
        Ok(part) => part,
        Err(answer) => return *answer,
    };
    let (first, count) = (part.first, part.count);
    let body = match media {
        _ if part.is_head() => Body::empty(),
        Media::Bytes(bytes) => {
            let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Body::from(bytes.slice(at(first)..at(first.saturating_add(count))))
        }
        Media::Shelf(shelf, place, _) => Body::from_stream(reading::chunks(shelf, place, first, count)),
    };
    let head = head(kind, Caching::Forever).map(|(name, value)| {
        // All of them are written above.
        (name, value.to_str().unwrap_or_default().to_owned())
    });
    part.answer(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn playlists_are_compressed_for_whoever_takes_it() {
        let takes = |text: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(text))]))
        };
        assert!(takes("gzip") && takes("br, GZIP;q=0.5") && takes("deflate,gzip"));
        assert!(
            !takes("")
                && !takes("br")
                && !takes("gzip;q=0, br")
                && !takes("gzip; q=0.000")
                && !takes("xgzip")
        );
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
