//! MPEG-TS over HTTP and HTTPS, as IPTV gateways and receivers send it: one endless answer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use minuet_media::looks_like_mpeg_ts;
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
    time::timeout,
};

use super::{InputError, Read};

/// How long a connection and the answer's head may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Chunks that may wait to be read; then the server waits. The client library bounds each.
const MAX_CHUNKS: usize = 64;
/// So much of the answer is looked at to tell what it is.
const SNIFF_LEN: usize = 16 << 10;

/// An answer that is being read.
#[derive(Debug)]
pub struct Http {
    chunks: Receiver<Result<Bytes, InputError>>,
    rest: Bytes,
    runtime: Handle,
    task: JoinHandle<()>,
}

impl Http {
    /// Asks for `url`. Must be called where a runtime is entered.
    pub fn start(url: &str) -> Self {
        let (out, chunks) = channel(MAX_CHUNKS);
        let runtime = Handle::current();
        let url = url.to_owned();
        let task = runtime.spawn(async move {
            if let Err(error) = fetch(&url, &out).await {
                let _ = out.send(Err(error)).await;
            }
        });
        Self { chunks, rest: Bytes::new(), runtime, task }
    }

    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        if self.rest.is_empty() {
            let chunks = &mut self.chunks;
            match self.runtime.block_on(async { timeout(patience, chunks.recv()).await }) {
                Err(_) => return Ok(Read::Idle),
                Ok(None) => return Ok(Read::End),
                Ok(Some(chunk)) => self.rest = chunk?,
            }
        }
        let len = self.rest.len().min(buf.len());
        buf[..len].copy_from_slice(&self.rest.split_to(len));
        Ok(if len == 0 { Read::Idle } else { Read::Data(len) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes the answer on until it ends, which is an error unless the server had said how long it is.
async fn fetch(url: &str, out: &Sender<Result<Bytes, InputError>>) -> Result<(), InputError> {
    let failed = |reason: String| InputError::Http { input: url.to_owned(), reason };
    let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let client = client.map_err(|error| failed(error.to_string()))?;
    let answer = timeout(CONNECT_TIMEOUT, client.get(url).send()).await;
    let answer = answer
        .map_err(|_| failed("does not answer".to_owned()))?
        .map_err(|error| failed(format!("cannot be reached ({})", root_cause(&error))))?;
    if !answer.status().is_success() {
        return Err(failed(format!("answers {}", answer.status())));
    }
    let finite = answer.content_length().is_some();
    let mut body = answer.bytes_stream();
    let mut head = Some(BytesMut::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| failed(format!("broke off ({})", root_cause(&error))))?;
        let chunk = match head.take() {
            None => chunk,
            Some(mut begun) => {
                begun.extend_from_slice(&chunk);
                if !looks_like_mpeg_ts(&begun) {
                    if begun.len() >= SNIFF_LEN {
                        return Err(InputError::HttpOther(url.to_owned()));
                    }
                    head = Some(begun);
                    continue;
                }
                begun.freeze()
            }
        };
        if out.send(Ok(chunk)).await.is_err() {
            return Ok(());
        }
    }
    match head {
        // Too short to be media: a playlist.
        Some(_) => Err(InputError::HttpOther(url.to_owned())),
        None if finite => Ok(()),
        None => Err(failed("ended".to_owned())),
    }
}

/// What lies at the bottom: the outer errors only repeat the address.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
