//! The HTTP origin: the segmenter's own server, or any cache in front of it, from which a piece comes that no peer
//! delivers in time. What it sends is verified like what any peer sends.
//!
//! Rule: an origin that is slow or fails is left alone for a while, longer each time. It mostly shares its line with the
//! live mesh, and pieces are late at all viewers at once: if all came for them by HTTP, the mesh would have no room left
//! in which to recover, and they would come again and again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use minuet_mesh::PieceRef;
use minuet_proto::{ChannelId, record::segment_file_name};
use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, HeaderValue, RANGE},
};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    Error,
    contact::{Contacts, Http, Request, Teller},
};

/// Pieces that are fetched at once: peers come first, and a source that is short of uplink must not be asked for all.
const MAX_FETCHES: usize = 2;
/// How long one piece may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(4);
/// A piece that takes longer than this comes over a line that is full.
const SLOW: Duration = Duration::from_millis(400);
/// How long a slow origin is left alone, the first time and at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));

/// An HTTP origin. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    http: Http,
    base: Url,
    fetching: Arc<Semaphore>,
    rest: Arc<Mutex<Rest>>,
}

/// How an origin that is slow is left alone. Pure.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    last: Duration,
}

impl Rest {
    /// Whether it is left alone now.
    fn lasts(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// A piece came in this time; none: it did not come.
    fn note(&mut self, took: Option<Duration>, now: Instant) {
        if took.is_some_and(|took| took <= SLOW) {
            *self = Self::default();
        } else if !self.lasts(now) {
            self.last = (self.last * 2).clamp(REST.0, REST.1);
            self.until = Some(now + self.last);
        }
    }
}

impl Origin {
    /// The origin whose segments lie below `base`, a URL that ends in a slash, as `teller` has said.
    pub fn new(base: Url, contacts: Contacts, teller: Teller) -> reqwest::Result<Self> {
        let http = Http::new(contacts, teller, FETCH_TIMEOUT)?;
        Ok(Self { http, base, fetching: Arc::new(Semaphore::new(MAX_FETCHES)), rest: Arc::default() })
    }

    /// Fetches a piece that begins at `offset` in its segment. None if that does not work out; not verified.
    pub async fn fetch(self, channel: ChannelId, piece: PieceRef, offset: u64) -> Option<Bytes> {
        // A fetch that finds all places taken gives up at once: the piece is late, and asking later does not help it.
        let _place = self.fetching.try_acquire().ok()?;
        let began = Instant::now();
        if self.lock().lasts(began) {
            return None;
        }
        let fetched = timeout(FETCH_TIMEOUT, self.get(channel, piece, offset)).await;
        let came = matches!(fetched, Ok(Ok(Some(_))));
        self.lock().note(came.then(|| began.elapsed()), Instant::now());
        match fetched {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                tracing::debug!("the HTTP origin fails: {error}");
                None
            }
            Err(_) => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self, channel: ChannelId, piece: PieceRef, offset: u64) -> Result<Option<Bytes>, Error> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), segment_file_name(&channel, piece.id.segment)));
        let range = format!("bytes={offset}-{}", offset + u64::from(piece.len) - 1);
        let mut headers = HeaderMap::new();
        headers
            .insert(RANGE, HeaderValue::from_str(&range).map_err(|error| Error::Garbage(error.to_string()))?);
        let mut response = self.http.send(url, Request { body: None, headers }).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(None);
        }
        let len = piece.len as usize;
        let mut bytes = BytesMut::with_capacity(len);
        while let Some(chunk) = response.chunk().await? {
            if bytes.len() + chunk.len() > len {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes.len() == len).then(|| bytes.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use minuet_proto::{ChannelKey, PieceHash, PieceId, PieceIndex, SegmentSeq, mesh::Serial};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A web server of somebody who has nothing to do with any channel, and how often it was asked.
    async fn victim() -> (Url, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let asked = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while let Ok(byte) = stream.read_u8().await {
                        head.push(byte);
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            asked.fetch_add(1, Ordering::SeqCst);
                            let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").await;
                        }
                    }
                });
            }
        });
        (url, asked)
    }

    fn piece() -> PieceRef {
        PieceRef {
            serial: Serial::new(0),
            id: PieceId { segment: SegmentSeq(0), piece: PieceIndex(0) },
            len: 4,
            hash: PieceHash::new([0; 20]),
            ingest_ms: 0,
        }
    }

    #[tokio::test]
    async fn a_publisher_sends_no_viewer_to_a_victim() {
        let channel = ChannelKey::from_seed(&[1; 32]).channel();
        let (url, asked) = victim().await;
        let far = Origin::new(url.clone(), Contacts::new(), Teller::At([198, 51, 100, 1].into())).unwrap();
        for _ in 0..20 {
            assert_eq!(far.clone().fetch(channel, piece(), 0).await, None);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        // One that is here may name it; a refusal, however quick, is none the less one.
        let contacts = Contacts::new();
        for _ in 0..20 {
            let near = Origin::new(url.clone(), contacts.clone(), Teller::At([127, 0, 0, 1].into())).unwrap();
            assert_eq!(near.clone().fetch(channel, piece(), 0).await, None);
            assert!(near.lock().lasts(Instant::now()), "a 404 counted as success");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_slow_origin_is_left_alone_longer_each_time_until_it_is_fast_again() {
        let (mut rest, begin) = (Rest::default(), Instant::now());
        let at = |s| begin + Duration::from_secs(s);
        rest.note(Some(SLOW), at(0));
        assert!(!rest.lasts(at(0)));
        rest.note(Some(2 * SLOW), at(0));
        assert!(rest.lasts(at(0)) && !rest.lasts(at(1)));
        // Of two that were under way together only one counts.
        rest.note(None, at(0));
        rest.note(None, at(2));
        assert!(rest.lasts(at(3)) && !rest.lasts(at(4)));
        for s in 10..100 {
            rest.note(None, at(s));
        }
        assert!(!rest.lasts(at(99) + REST.1));
        rest.note(Some(SLOW), at(200));
        rest.note(None, at(200));
        assert!(!rest.lasts(at(201)));
    }
}
