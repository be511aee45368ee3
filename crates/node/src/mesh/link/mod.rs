//! One link: two streams each way, control and media, whatever they run over ([`Line`], [`Opening`]), and the tasks that
//! read and write them. `quic` runs them over connections, `memory` within a test.
//!
//! Two streams, because a HAVE that waits behind the blocks of a piece is late by the time those take. Frames
//! ([`minuet_proto::mesh`]) are what both are made of.
//!
//! Rule: media is read only once the control stream's first frame, which is Hello, was given on. Streams overtake each
//! other, and a block before Hello would look like a broken protocol.

#[cfg(test)]
pub(super) mod memory;
mod quic;

use std::{fmt::Debug, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use minuet_guard::tasks::Spawner;
use minuet_line::LinkSample;
use minuet_mesh::LinkId;
use minuet_proto::{
    ChannelId,
    mesh::{Frame, Message, NodeId},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::endpoint::PathFigures;
pub(super) use quic::open;

/// Control frames that may wait to be written. A peer that takes no more is given up.
const CONTROL_QUEUE: usize = 1024;
/// Blocks that may wait to be written; the core keeps fewer under way.
const MEDIA_QUEUE: usize = 64;
/// Bytes that may wait for a link, in its queues and in the transport. A peer that takes no more is given up: it holds so
/// much memory and no more.
const MAX_UNSENT: u64 = 4 << 20;

/// What a link's tasks tell the driver.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A message came in; for a block with its payload.
    Frame(LinkId, Message, Bytes),
    /// A frame of a type that this version does not know, of so many bytes, was skipped.
    Unknown(LinkId, usize),
    /// Bytes came in that are no frame. Nothing more follows.
    Malformed(LinkId),
    /// The link is down.
    Down(LinkId),
}

/// What a link runs over, as far as the driver looks at it.
pub(super) trait Line: Debug + Send + Sync {
    /// Where the far end's packets come from; none if that is not known, as behind a relay server.
    fn remote(&self) -> Option<SocketAddr>;
    /// What the transport knows of the path.
    fn path(&self) -> PathFigures;
    /// What the transport has counted, for the estimate of this node's line; none if it counts nothing.
    fn sample(&self) -> Option<LinkSample>;
    /// Bytes that have gone out, everything included.
    fn sent_bytes(&self) -> u64;
    /// Bytes that have come in, counted in the same way.
    fn received_bytes(&self) -> u64;
}

/// A link that is open at the far end, and has no tasks here yet.
pub(super) trait Opening: Send {
    /// The far end's key.
    fn peer(&self) -> NodeId;
    /// The path as it was found while connecting.
    fn path(&self) -> PathFigures;
    /// Starts the link's tasks, which give `events`, and end when `cancel` is.
    fn start(
        self: Box<Self>,
        id: LinkId,
        channel: ChannelId,
        events: mpsc::Sender<LinkEvent>,
        tasks: &Spawner,
        cancel: &CancellationToken,
    ) -> Link;
}

/// A stream's bytes as they come in, in chunks that need no copying.
trait Chunks: Send {
    /// The next chunk; none at the end. Cancel-safe.
    fn chunk(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// The queues of a link: frames, and blocks with their payload, as its tasks take them out to write them.
struct Queues {
    control: mpsc::Receiver<Bytes>,
    media: mpsc::Receiver<[Bytes; 2]>,
}

/// The driver's end of a link. Dropping it hangs up, after what was sent.
#[derive(Debug)]
pub(super) struct Link {
    line: Box<dyn Line>,
    control: mpsc::Sender<Bytes>,
    media: mpsc::Sender<[Bytes; 2]>,
    wire: Wire,
}

/// Bytes between the driver and the wire. Pure.
///
/// The transport does not say which bytes it has sent, only how many. So what is handed over counts as sent once the
/// transport has sent as many more as were waiting then.
#[derive(Debug, Default)]
struct Wire {
    /// What was handed over: the transport's count by which it is out, and its length.
    waiting: std::collections::VecDeque<(u64, u64)>,
    /// The sum of what is waiting.
    unsent: u64,
}

impl Wire {
    /// False if too much is waiting.
    fn hand_over(&mut self, bytes: u64, sent: u64) -> bool {
        let behind = self.waiting.back().map_or(sent, |(target, _)| *target);
        self.waiting.push_back((behind.max(sent) + bytes, bytes));
        self.unsent += bytes;
        self.unsent <= MAX_UNSENT
    }

    fn drained(&mut self, sent: u64) -> u64 {
        let mut drained = 0;
        while let Some((target, bytes)) = self.waiting.front() {
            if *target > sent {
                break;
            }
            drained += bytes;
            self.waiting.pop_front();
        }
        self.unsent -= drained;
        drained
    }
}

impl Link {
    fn new(line: Box<dyn Line>) -> (Self, Queues) {
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (media, media_queue) = mpsc::channel(MEDIA_QUEUE);
        let queues = Queues { control: control_queue, media: media_queue };
        (Self { line, control, media, wire: Wire::default() }, queues)
    }

    /// Where the far end's packets come from; none if they come through a relay server.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.line.remote()
    }

    /// Hands a control frame over. False if the far end takes none any more.
    pub fn send_control(&mut self, frame: Bytes) -> bool {
        let sent = self.line.sent_bytes();
        self.wire.hand_over(frame.len() as u64, sent) && self.control.try_send(frame).is_ok()
    }

    /// Hands a block over: its frame's header and its payload. False if the far end takes none any more.
    pub fn send_block(&mut self, header: Bytes, payload: Bytes) -> bool {
        let sent = self.line.sent_bytes();
        let fits = self.wire.hand_over((header.len() + payload.len()) as u64, sent);
        fits && self.media.try_send([header, payload]).is_ok()
    }

    /// Bytes handed over that have gone out since the last call.
    pub fn take_drained(&mut self) -> u64 {
        if self.wire.waiting.is_empty() { 0 } else { self.wire.drained(self.line.sent_bytes()) }
    }

    /// Whether anything that was handed over has not gone out.
    pub fn is_draining(&self) -> bool {
        !self.wire.waiting.is_empty()
    }

    /// Bytes handed over that have not gone out.
    pub fn undrained(&self) -> u64 {
        self.wire.unsent
    }

    /// What the transport has counted since the link began, for the estimate of this node's line, with the shortest round
    /// trip since the last call.
    pub fn sample(&self) -> Option<LinkSample> {
        self.line.sample()
    }

    /// What the transport knows of the path.
    pub fn path(&self) -> PathFigures {
        self.line.path()
    }

    /// UDP payload bytes sent and received, everything included.
    pub fn wire_bytes(&self) -> (u64, u64) {
        (self.line.sent_bytes(), self.line.received_bytes())
    }
}

/// Reads both streams until they end, the media stream once the first control frame was given on. False if what came was
/// malformed. The link ends with its control stream.
async fn read_both<M: Chunks>(
    control: impl Chunks,
    media: impl Future<Output = Result<M, Unopened>>,
    id: LinkId,
    events: &mpsc::Sender<LinkEvent>,
) -> bool {
    let (greeted, first) = oneshot::channel();
    let controls = read_frames(control, id, events, Some(greeted));
    let medias = async {
        if first.await.is_err() {
            return true;
        }
        match media.await {
            Ok(stream) => read_frames(stream, id, events, None).await,
            Err(Unopened::Ended) => true,
            Err(Unopened::Malformed) => false,
        }
    };
    tokio::pin!(controls, medias);
    tokio::select! {
        good = &mut controls => good,
        good = &mut medias => good && controls.await,
    }
}

/// Why there is no media stream to read.
enum Unopened {
    /// The link has ended.
    Ended,
    /// What the far end has opened is none.
    Malformed,
}

/// Tells the driver how reading ended.
async fn tell_end(good: bool, id: LinkId, events: &mpsc::Sender<LinkEvent>) {
    if !good {
        let _ = events.send(LinkEvent::Malformed(id)).await;
    }
    let _ = events.send(LinkEvent::Down(id)).await;
}

/// Reads one stream. `greeted` is told after the first frame.
async fn read_frames(
    mut stream: impl Chunks,
    id: LinkId,
    events: &mpsc::Sender<LinkEvent>,
    mut greeted: Option<oneshot::Sender<()>>,
) -> bool {
    let mut buffer = BytesMut::new();
    loop {
        match stream.chunk().await {
            Some(chunk) => buffer.extend_from_slice(&chunk),
            None => return true,
        }
        loop {
            match Frame::decode(&mut buffer) {
                Ok(Some(Frame { message: Some(message), payload, .. })) => {
                    if events.send(LinkEvent::Frame(id, message, payload)).await.is_err() {
                        return true;
                    }
                    if let Some(greeted) = greeted.take() {
                        let _ = greeted.send(());
                    }
                }
                Ok(Some(Frame { len, .. })) => {
                    if events.send(LinkEvent::Unknown(id, len)).await.is_err() {
                        return true;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("link {id:?}: {error}");
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_is_out_when_as_much_was_sent() {
        let mut wire = Wire::default();
        assert!(wire.hand_over(100, 1000) && wire.hand_over(50, 1000));
        assert_eq!(wire.drained(1099), 0);
        assert_eq!(wire.drained(1100), 100);
        assert_eq!(wire.drained(1149), 0);
        assert_eq!(wire.drained(9000), 50);
        assert!(wire.hand_over(10, 9000));
        assert_eq!(wire.drained(9009), 0);
        assert_eq!(wire.drained(9010), 10);
        assert!(wire.hand_over(MAX_UNSENT, 9010) && !wire.hand_over(1, 9010));
    }
}
