//! A client's WebSocket as the relay server reads and writes it: it holds the client's places as long as it lives, ends
//! when one of them is given to somebody else, and is read no faster than the client may send.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use iroh_relay::protos::streams::StreamError;
use iroh_relay::server::streams::MaybeTlsStream;
use iroh_relay::{ExportKeyingMaterial, MAX_PACKET_SIZE};
use minuet_guard::pool::Taken;
use minuet_guard::rate::Bucket;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_websockets::{Limits, Message, Payload, ServerBuilder, WebSocketStream};

use crate::connections::Place;
use crate::metrics::Counter;

/// The longest message that a client may send: a packet with what is before it.
const MAX_MESSAGE: usize = MAX_PACKET_SIZE + 1024;
/// What a client may send at once: a piece of a stream goes through without waiting.
const BURST: Duration = Duration::from_millis(250);
/// Bytes of a message besides its payload.
const MESSAGE_HEAD: usize = 8;

/// A client's WebSocket. The stream ends when the client has to go.
pub struct ClientSocket {
    socket: WebSocketStream<MaybeTlsStream>,
    allowance: Allowance,
    /// Resolve when the client has to go for others.
    evictions: Vec<Pin<Box<WaitForCancellationFutureOwned>>>,
    place: Arc<Place>,
    /// Among the relay server's clients, once it has shown its key.
    among_clients: Vec<Taken>,
}

impl ClientSocket {
    /// Over a connection that has been handed over, which keeps its `place`.
    pub fn new(stream: MaybeTlsStream, place: Arc<Place>, allowance: Allowance) -> Self {
        let limits = Limits::default().max_payload_len(Some(MAX_MESSAGE));
        let socket = ServerBuilder::new().limits(limits).serve(stream);
        let evictions = vec![Box::pin(place.eviction().cancelled_owned())];
        Self { socket, allowance, evictions, place, among_clients: Vec::new() }
    }

    /// Gives the client, which has shown its key, a place among the relay server's.
    pub fn admit(&mut self, place: Taken) {
        self.place.set_useful(true);
        self.evictions.push(Box::pin(place.eviction().cancelled_owned()));
        self.among_clients.push(place);
    }
}

impl Stream for ClientSocket {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.evictions.iter_mut().any(|evicted| evicted.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        loop {
            ready!(self.allowance.poll(cx));
            let message = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Poll::Ready(Some(Err(StreamError::from_std(error)))),
                None => return Poll::Ready(None),
            };
            self.allowance.spend(message.as_payload().len());
            if message.is_close() {
                return Poll::Ready(None);
            }
            // The library answers pings by itself; the relay protocol has nothing else that is not binary.
            if message.is_binary() {
                return Poll::Ready(Some(Ok(message.into_payload().into())));
            }
        }
    }
}

impl Sink<Bytes> for ClientSocket {
    type Error = StreamError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Pin::new(&mut self.socket).poll_ready(cx).map_err(StreamError::from_std)
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Bytes) -> Result<(), StreamError> {
        let message = Message::binary(Payload::from(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(StreamError::from_std)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(StreamError::from_std)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(StreamError::from_std)
    }
}

impl ExportKeyingMaterial for ClientSocket {
    fn export_keying_material<T: AsMut<[u8]>>(
        &self,
        output: T,
        label: &[u8],
        context: Option<&[u8]>,
    ) -> Option<T> {
        self.socket.get_ref().export_keying_material(output, label, context)
    }
}

/// What a client may send.
pub struct Allowance {
    /// Bytes a second, the same for all clients; it changes while they are connected.
    rate: Arc<AtomicU32>,
    /// Bytes of all clients that had to wait.
    limited: Arc<Counter>,
    started: Instant,
    bucket: Bucket,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Allowance {
    /// Of `rate` bytes a second; counts what has to wait.
    pub fn new(rate: Arc<AtomicU32>, limited: Arc<Counter>) -> Self {
        Self { rate, limited, started: Instant::now(), bucket: Bucket::default(), wait: None }
    }

    /// Whether the client may send more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(())
    }

    /// Counts a message with so many bytes.
    fn spend(&mut self, bytes: usize) {
        let wait = self.owe(bytes, self.started.elapsed());
        if !wait.is_zero() {
            self.wait = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    /// Counts a message with so many bytes that came at `now`; the next is read after what is returned.
    fn owe(&mut self, bytes: usize, now: Duration) -> Duration {
        let bytes = bytes.saturating_add(MESSAGE_HEAD);
        let rate = self.rate.load(Ordering::Relaxed).max(1);
        let cost = Duration::from_secs(1).saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX)) / rate;
        let wait = self.bucket.overdraw(now, cost, BURST);
        if !wait.is_zero() {
            self.limited.add(bytes as u64);
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_for_what_it_sent_too_much() {
        let (rate, limited) = (Arc::new(AtomicU32::new(100_000)), Arc::new(Counter::default()));
        let mut allowance = Allowance::new(Arc::clone(&rate), Arc::clone(&limited));
        let mut now = Duration::ZERO;
        for _ in 0..10 {
            now += allowance.owe(20_000 - MESSAGE_HEAD, now);
        }
        // 0.2 s each, and a quarter of a second is free.
        assert_eq!((now, limited.get()), (Duration::from_millis(1750), 180_000));
        rate.store(u32::MAX, Ordering::Relaxed);
        assert!(allowance.owe(20_000, now) < Duration::from_millis(1));
    }
}
