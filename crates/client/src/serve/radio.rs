//! Streams without an end: MPEG-TS, and sound alone as radio players take it, with titles between the bytes (ICY, as
//! SHOUTcast and Icecast have them).
//!
//! A listener begins with the newest segment that is complete and gets each further one as it comes. One that is slower than
//! the stream falls back as far as the shelf reaches, and then goes on at the newest: it costs a chunk or two of memory
//! ([`reading`]).

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header::HeaderValue as Value},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream::unfold};
use minuet_remux::Elementary;

use super::{
    answer::{Caching, TS, head, later, none},
    http::Gateway,
    reading,
    shelf::{Found, Place, Row},
};

/// How long the next segment is waited for. A source that was away for longer has listeners that come again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long there may be nothing at the beginning.
const FIRST_WAIT: Duration = Duration::from_secs(9);
/// Bytes between two titles.
const METAINT: usize = 16_000;
/// A title block is no longer: 255 times 16 bytes.
const MAX_TITLE: usize = 255 * 16;

/// Counts a listener, until dropped.
struct Playing(Arc<AtomicU64>);

impl Playing {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Segments of the feed, one after the other.
struct Listener {
    gateway: Gateway,
    next: u64,
    /// The segment that is being sent.
    reading: Option<Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>>,
    filter: Filter,
    _playing: Playing,
}

/// What is made of the feed.
enum Filter {
    None,
    Sound(Box<Elementary>, Option<Icy>),
}

/// Puts titles between the bytes.
struct Icy {
    /// Bytes until the next title.
    left: usize,
    /// The title that was told last.
    told: String,
}

impl Icy {
    fn mix(&mut self, mut sound: Bytes, title: &str) -> Bytes {
        let mut out = BytesMut::with_capacity(sound.len().saturating_add(64));
        while sound.len() >= self.left {
            out.extend_from_slice(&sound.split_to(self.left));
            self.left = METAINT;
            if self.told == title {
                out.extend_from_slice(&[0]);
                continue;
            }
            title.clone_into(&mut self.told);
            let mut block = format!("StreamTitle='{}';", title.replace('\'', "\u{2019}")).into_bytes();
            block.truncate(MAX_TITLE);
            let units = block.len().div_ceil(16);
            block.resize(units.saturating_mul(16), 0);
            out.extend_from_slice(&[units as u8]);
            out.extend_from_slice(&block);
        }
        self.left = self.left.saturating_sub(sound.len());
        out.extend_from_slice(&sound);
        out.freeze()
    }
}

impl Listener {
    async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            let Some(reading) = &mut self.reading else {
                let (place, length) = self.segment().await?;
                let shelf = Arc::clone(&self.gateway.shelf);
                self.reading = Some(Box::pin(reading::chunks(shelf, place, 0, length)));
                continue;
            };
            // One that breaks off has left the shelf: the listener is too slow.
            let Some(Ok(bytes)) = reading.next().await else {
                self.reading = None;
                continue;
            };
            let bytes = match &mut self.filter {
                Filter::None => bytes,
                Filter::Sound(elementary, icy) => {
                    let mut sound = Vec::new();
                    elementary.push(&bytes, &mut sound);
                    let sound = Bytes::from(sound);
                    match icy {
                        Some(icy) => icy.mix(sound, &self.gateway.station.title()),
                        None => sound,
                    }
                }
            };
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
    }

    /// The next segment, and its length.
    async fn segment(&mut self) -> Option<(Place, u64)> {
        loop {
            let number = self.next;
            let found = self
                .gateway
                .wait(PATIENCE, |shelf| match shelf.segment(Row::Feed, number) {
                    Found::Later => None,
                    found => Some(found),
                })
                .await?;
            match found {
                Found::Here(length) => {
                    self.next = self.next.saturating_add(1);
                    return Some((Place { row: Row::Feed, number, part: None }, length));
                }
                Found::Later | Found::None => {
                    // Too slow, or the broadcast is over.
                    let newest = self.gateway.shelf.next(Row::Feed)?.0.checked_sub(1)?;
                    if newest <= self.next {
                        return None;
                    }
                    self.next = newest;
                }
            }
        }
    }
}

async fn listen(
    gateway: Gateway,
    filter: Filter,
) -> Option<impl Stream<Item = Result<Bytes, Infallible>> + Send> {
    let begin =
        |shelf: &super::shelf::Shelf| shelf.next(Row::Feed).map(|(next, _)| next).filter(|next| *next > 0);
    let next = gateway.wait(FIRST_WAIT, begin).await?;
    let playing = Playing::new(&gateway.playing);
    let listener =
        Listener { gateway, next: next.saturating_sub(1), reading: None, filter, _playing: playing };
    Some(unfold(listener, |mut listener| async move {
        let chunk = listener.chunk().await?;
        Some((Ok(chunk), listener))
    }))
}

/// The feed as it is.
pub async fn transport(gateway: Gateway) -> Response {
    match listen(gateway, Filter::None).await {
        Some(stream) => (head(TS, Caching::Never), Body::from_stream(stream)).into_response(),
        None => later(),
    }
}

/// The first sound track, as it is coded: AAC in ADTS or LATM, MPEG audio, AC-3.
pub async fn sound(gateway: Gateway, headers: HeaderMap) -> Response {
    let first = |shelf: &super::shelf::Shelf| {
        let (codecs, _) = shelf.codings();
        (!codecs.is_empty()).then_some(codecs)
    };
    let Some(codecs) = gateway.wait(FIRST_WAIT, first).await else { return later() };
    let kind = codecs.iter().find_map(|codecs| match codecs.as_str() {
        "mp1" | "mp2" | "mp4a.6B" | "mp4a.69" => Some("audio/mpeg"),
        aac if aac.starts_with("mp4a.40") => Some("audio/aac"),
        "ac-3" => Some("audio/ac3"),
        "ec-3" => Some("audio/eac3"),
        _ => None,
    });
    let Some(kind) = kind else { return none() };
    let title = gateway.station.title();
    let wants_titles = headers.get("icy-metadata").is_some_and(|value| value == "1");
    let icy = wants_titles.then(|| Icy { left: METAINT, told: String::new() });
    let Some(stream) = listen(gateway, Filter::Sound(Box::default(), icy)).await else { return later() };
    let mut answer = (head(kind, Caching::Never), Body::from_stream(stream)).into_response();
    let told = answer.headers_mut();
    if let Ok(name) = HeaderValue::from_bytes(title.as_bytes()) {
        told.insert(HeaderName::from_static("icy-name"), name);
    }
    if wants_titles {
        told.insert(HeaderName::from_static("icy-metaint"), Value::from(METAINT));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_stand_where_they_are_said_to() {
        let mut icy = Icy { left: METAINT, told: String::new() };
        let mut all = Vec::new();
        for size in [10, 15_990, 1, 40_000, 7] {
            all.extend_from_slice(&icy.mix(Bytes::from(vec![7; size]), "It's on"));
        }
        let mut titles = Vec::new();
        let mut at = 0;
        while all.len() > at + METAINT {
            assert!(all[at..at + METAINT].iter().all(|byte| *byte == 7));
            at += METAINT;
            let length = usize::from(all[at]) * 16;
            titles.push(
                String::from_utf8_lossy(&all[at + 1..at + 1 + length]).trim_end_matches('\0').to_owned(),
            );
            at += 1 + length;
        }
        assert_eq!(titles, ["StreamTitle='It\u{2019}s on';", "", ""]);
    }
}
