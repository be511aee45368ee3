//! Push: server-sent events (WHATWG HTML, 9.2) of a channel's records and states.
//!
//! A subscriber has no queue. It has a place in the channel's window (the number of the last record and the time
//! of the last state that it was sent) and is sent what is newer whenever its connection takes bytes. So a
//! slow reader costs no more than a quick one, skips what has left the window, and a stream resumes after any
//! record by its number, also at another tracker or after a restart.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::unfold;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Request, Response, StatusCode};
use minuet_guard::pool::Taken;
use minuet_proto::SegmentSeq;
use minuet_proto::channel_api::EVENT_STATE;
use tokio::sync::watch;

use super::body::Body;
use super::front::Front;
use super::{respond, text, try_later};
use crate::channel::Channel;

/// Records in one chunk, so that a subscriber which resumes from far back does not get a megabyte at once.
const RECORDS_PER_CHUNK: usize = 16;
/// A lost client comes back after this time and up to as much again, so that all of them do not come at once.
const RETRY: Duration = Duration::from_secs(1);

/// Counts a subscriber as long as it lives.
struct Counted(Arc<Front>, Taken);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.state.metrics.subscribers.decrement();
    }
}

/// One who is sent what is new.
pub(super) struct Subscriber {
    counted: Counted,
    channel: Arc<Channel>,
    changes: watch::Receiver<u64>,
    greeted: bool,
    last_record: Option<SegmentSeq>,
    last_state_ms: Option<u64>,
}

/// Answers with the channel's state and events: from the record after `Last-Event-ID` on, else from `from` on, else
/// only what is new.
pub(super) fn subscribe(
    front: &Arc<Front>,
    channel: Arc<Channel>,
    ip: IpAddr,
    from: Option<SegmentSeq>,
    request: &Request<Incoming>,
) -> Response<Body> {
    let last_id = request.headers().get("last-event-id").map(HeaderValue::as_bytes);
    let last_record = match last_seen(&channel, from, last_id) {
        Ok(last_record) => last_record,
        Err(sentence) => return text(StatusCode::BAD_REQUEST, sentence),
    };
    let Some(subscriber) = Subscriber::new(front, channel, ip, last_record) else {
        return try_later("this tracker has as many subscribers as it may serve\n", 60);
    };
    let chunks = unfold(subscriber, |mut subscriber| async {
        let chunk = subscriber.next().await?;
        Some((chunk, subscriber))
    });
    let mut response = respond(StatusCode::OK, "text/event-stream", Body::Events(Box::pin(chunks)));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep events back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The record before the first that a subscriber is to be sent.
pub(super) fn last_seen(
    channel: &Channel,
    from: Option<SegmentSeq>,
    last_id: Option<&[u8]>,
) -> Result<Option<SegmentSeq>, &'static str> {
    match (last_id.filter(|id| !id.is_empty()), from) {
        (Some(id), _) => std::str::from_utf8(id)
            .ok()
            .and_then(|id| id.parse().ok())
            .map(|number| Some(SegmentSeq(number)))
            .ok_or("Last-Event-ID takes a segment number\n"),
        (None, Some(from)) => Ok(from.previous()),
        (None, None) => Ok(channel.window().newest()),
    }
}

impl Subscriber {
    /// One at `ip` who has had all up to `last_record`; `None` when there are as many as there may be, and none of them
    /// has to go for this one.
    pub fn new(
        front: &Arc<Front>,
        channel: Arc<Channel>,
        ip: IpAddr,
        last_record: Option<SegmentSeq>,
    ) -> Option<Self> {
        let place = front.subscribers.take(ip, 1).ok()?;
        front.state.metrics.subscribers.increment();
        let counted = Counted(Arc::clone(front), place);
        let changes = channel.subscribe();
        Some(Self { counted, channel, changes, greeted: false, last_record, last_state_ms: None })
    }

    /// The next bytes to send; `None` when the tracker shuts down, the channel is forgotten, or another subscriber needs
    /// the place.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.channel.is_gone() {
                return None;
            }
            let news = self.take_news();
            if !news.is_empty() {
                return Some(news);
            }
            let front = &self.counted.0;
            tokio::select! {
                biased;
                () = front.running.shutdown.cancelled() => return None,
                () = self.counted.1.evicted() => return None,
                changed = self.changes.changed() => changed.ok()?,
                () = tokio::time::sleep(front.state.config.http.keep_alive) => {
                    return Some(Bytes::from_static(b":\n\n"));
                }
            }
        }
    }

    /// What is newer than what was sent.
    fn take_news(&mut self) -> Bytes {
        let mut news = BytesMut::new();
        if !self.greeted {
            self.greeted = true;
            let spread_ms = rand::random_range(0..=RETRY.as_millis());
            news.extend_from_slice(format!("retry: {}\n\n", RETRY.as_millis() + spread_ms).as_bytes());
        }
        let window = self.channel.window();
        let mut events = 0;
        if let Some(state) = window.state().filter(|state| Some(state.at_ms) > self.last_state_ms) {
            let event = format!("event: {EVENT_STATE}\ndata: {}\n\n", state.to_base64());
            news.extend_from_slice(event.as_bytes());
            self.last_state_ms = Some(state.at_ms);
            events += 1;
        }
        let first = window.first_after(self.last_record);
        let mut records = window.entries().range(first..).take(RECORDS_PER_CHUNK);
        self.last_record = records.clone().last().map(|entry| entry.record.seq).or(self.last_record);
        events += records.len() as u64;
        self.counted.0.state.metrics.events.add(events);
        match (records.next(), records.len()) {
            // What all are sent at once is written once.
            (Some(record), 0) if news.is_empty() => record.event.clone(),
            (first, _) => {
                first.into_iter().chain(records).for_each(|record| news.extend_from_slice(&record.event));
                news.freeze()
            }
        }
    }
}
