//! The HTTP origin: the segmenter's own server, or any cache in front of it, from which a piece comes that no peer
//! delivers in time. What it sends is verified like what any peer sends.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use minuet_mesh::PieceRef;
use minuet_proto::{ChannelId, record::segment_file_name};
use reqwest::{Client, StatusCode, Url, header::RANGE};
use tokio::{sync::Semaphore, time::timeout};

/// Pieces that are fetched at once: peers come first, and a source that is short of uplink must not be asked for all.
const MAX_FETCHES: usize = 2;
/// How long one piece may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(4);

/// An HTTP origin. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    http: Client,
    base: Url,
    fetching: Arc<Semaphore>,
}

impl Origin {
    /// The origin whose segments lie below `base`, a URL that ends in a slash.
    pub fn new(base: Url) -> reqwest::Result<Self> {
        let http = Client::builder()
            .user_agent(concat!("minuet/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(3))
            .build()?;
        Ok(Self { http, base, fetching: Arc::new(Semaphore::new(MAX_FETCHES)) })
    }

    /// Fetches a piece that begins at `offset` in its segment. None if that does not work out; not verified.
    pub async fn fetch(self, channel: ChannelId, piece: PieceRef, offset: u64) -> Option<Bytes> {
        // Who finds all places taken gives up at once: the piece is late, and asking later does not help it.
        let _place = self.fetching.try_acquire().ok()?;
        let fetched = timeout(FETCH_TIMEOUT, self.get(channel, piece, offset)).await;
        match fetched {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                tracing::debug!("the HTTP origin fails: {error}");
                None
            }
            Err(_) => None,
        }
    }

    async fn get(&self, channel: ChannelId, piece: PieceRef, offset: u64) -> reqwest::Result<Option<Bytes>> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), segment_file_name(&channel, piece.id.segment)));
        let range = format!("bytes={offset}-{}", offset + u64::from(piece.len) - 1);
        let mut response = self.http.get(url).header(RANGE, range).send().await?;
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
