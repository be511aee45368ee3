//! One link: a QUIC connection with two streams each way, control and media, and the tasks that read and write them.
//!
//! Two streams, because a HAVE that waits behind the blocks of a piece is late by the time those take. Each stream
//! begins with a byte that says which it is; the control stream goes on with the channel's key, so that a node that
//! is asked for another channel finds out at once. Frames follow ([`minuet_proto::mesh`]).
//!
//! Rule: media is read only once the control stream's first frame, which is Hello, was given on. Streams overtake each
//! other, and a block before Hello would look like a broken protocol.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use minuet_guard::tasks::Spawner;
use minuet_mesh::LinkId;
use minuet_proto::{
    ChannelId,
    mesh::{Frame, Message, NodeId},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::endpoint::{self, PathFigures};

/// Control frames that may wait to be written. A peer that takes no more is given up.
const CONTROL_QUEUE: usize = 1024;
/// Blocks that may wait to be written; the core keeps fewer under way.
const MEDIA_QUEUE: usize = 64;
/// Bytes that may wait for a link, in its queues and in the transport. A peer that takes no more is given up: it holds so
/// much memory and no more.
const MAX_UNSENT: u64 = 4 << 20;
/// How long the far end may take to open its streams.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a link that is hung up may take to get its last words across.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How much is read at once.
const READ_LEN: usize = 64 << 10;
/// What has not gone out by then waits for the path, not for its turn.
const LATE: Duration = Duration::from_millis(50);
/// Control goes before media (higher is sooner).
const CONTROL_PRIORITY: i32 = 1;

const CONTROL: u8 = 0;
const MEDIA: u8 = 1;

/// What a link's tasks tell the driver.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A message came in; for a block with its payload.
    Frame(LinkId, Message, Bytes),
    /// Bytes came in that are no frame. Nothing more follows.
    Malformed(LinkId),
    /// The link is down.
    Down(LinkId),
}

/// The driver's end of a link. Dropping it hangs up, after what was sent.
#[derive(Debug)]
pub(super) struct Link {
    connection: Connection,
    peer: NodeId,
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
    /// What was handed over: the transport's count by which it is out, its length, and when.
    waiting: std::collections::VecDeque<(u64, u64, Instant)>,
    /// The sum of what is waiting.
    unsent: u64,
    /// Something has waited for longer than [`LATE`].
    late: bool,
}

impl Wire {
    /// False if too much is waiting.
    fn hand_over(&mut self, bytes: u64, sent: u64, now: Instant) -> bool {
        let behind = self.waiting.back().map_or(sent, |(target, ..)| *target);
        self.waiting.push_back((behind.max(sent) + bytes, bytes, now));
        self.unsent += bytes;
        self.unsent <= MAX_UNSENT
    }

    fn drained(&mut self, sent: u64, now: Instant) -> u64 {
        let mut drained = 0;
        while let Some((target, bytes, since)) = self.waiting.front() {
            self.late |= now.saturating_duration_since(*since) > LATE;
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

/// The far end of a link that is being opened.
pub(super) struct Opened {
    /// Its key.
    pub peer: NodeId,
    connection: Connection,
    control_out: SendStream,
    media_out: SendStream,
    /// Read already where the far end had to show which channel it means.
    control_in: Option<RecvStream>,
}

/// Opens this end's streams on a connection. For one that the far end opened, waits until it names the channel.
pub(super) async fn open(connection: Connection, channel: ChannelId, accepted: bool) -> Option<Opened> {
    let opening = async {
        let control_in = if accepted { Some(control_stream(&connection, channel).await?) } else { None };
        let mut control_out = connection.open_uni().await.ok()?;
        control_out.set_priority(CONTROL_PRIORITY).ok()?;
        let mut greeting = vec![CONTROL];
        greeting.extend_from_slice(channel.as_bytes());
        control_out.write_all(&greeting).await.ok()?;
        let mut media_out = connection.open_uni().await.ok()?;
        media_out.write_all(&[MEDIA]).await.ok()?;
        let peer = endpoint::peer_of(&connection);
        Some(Opened { peer, connection: connection.clone(), control_out, media_out, control_in })
    };
    let opened = timeout(OPEN_TIMEOUT, opening).await.ok().flatten();
    if opened.is_none() {
        connection.close(VarInt::from_u32(1), b"not this channel");
    }
    opened
}

/// Takes the far end's first stream, which must be its control stream for `channel`.
async fn control_stream(connection: &Connection, channel: ChannelId) -> Option<RecvStream> {
    let mut stream = connection.accept_uni().await.ok()?;
    let mut kind = [0];
    stream.read_exact(&mut kind).await.ok()?;
    if kind[0] != CONTROL {
        return None;
    }
    let mut named = [0; ChannelId::LENGTH];
    stream.read_exact(&mut named).await.ok()?;
    (named == *channel.as_bytes()).then_some(stream)
}

impl Opened {
    /// The round trip as measured while connecting.
    pub fn rtt(&self) -> Duration {
        endpoint::path_figures(&self.connection).rtt
    }

    /// Starts the link's tasks.
    pub fn start(
        self,
        id: LinkId,
        channel: ChannelId,
        events: mpsc::Sender<LinkEvent>,
        tasks: &Spawner,
        cancel: &CancellationToken,
    ) -> Link {
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (media, media_queue) = mpsc::channel(MEDIA_QUEUE);
        let (connection, peer) = (self.connection.clone(), self.peer);
        let writing =
            write(self.connection.clone(), self.control_out, self.media_out, control_queue, media_queue);
        let cancelled = cancel.clone();
        tasks.errand_to_end("writing to a link", async move {
            cancelled.run_until_cancelled_owned(writing).await;
        });
        let reading = async move {
            let good = read(&self.connection, self.control_in, id, channel, &events).await;
            if !good {
                let _ = events.send(LinkEvent::Malformed(id)).await;
            }
            self.connection.close(VarInt::from_u32(0), b"");
            let _ = events.send(LinkEvent::Down(id)).await;
        };
        let cancelled = cancel.clone();
        tasks.errand_to_end("reading from a link", async move {
            cancelled.run_until_cancelled_owned(reading).await;
        });
        Link { connection, peer, control, media, wire: Wire::default() }
    }
}

impl Link {
    /// The far end's key.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where the far end's packets come from; none if they come through a relay server.
    pub fn remote(&self) -> Option<SocketAddr> {
        endpoint::remote(&self.connection)
    }

    /// Hands a control frame over. False if the far end takes none any more.
    pub fn send_control(&mut self, frame: Bytes) -> bool {
        let sent = endpoint::sent_bytes(&self.connection);
        self.wire.hand_over(frame.len() as u64, sent, Instant::now()) && self.control.try_send(frame).is_ok()
    }

    /// Hands a block over: its frame's header and its payload. False if the far end takes none any more.
    pub fn send_block(&mut self, header: Bytes, payload: Bytes) -> bool {
        let sent = endpoint::sent_bytes(&self.connection);
        let fits = self.wire.hand_over((header.len() + payload.len()) as u64, sent, Instant::now());
        fits && self.media.try_send([header, payload]).is_ok()
    }

    /// Bytes handed over that have gone out since the last call.
    pub fn take_drained(&mut self) -> u64 {
        if self.wire.waiting.is_empty() {
            0
        } else {
            self.wire.drained(endpoint::sent_bytes(&self.connection), Instant::now())
        }
    }

    /// Whether anything has waited for the path since the last call.
    pub fn take_late(&mut self) -> bool {
        std::mem::take(&mut self.wire.late)
    }

    /// Whether anything that was handed over has not gone out.
    pub fn is_draining(&self) -> bool {
        !self.wire.waiting.is_empty()
    }

    /// Bytes handed over that have not gone out.
    pub fn undrained(&self) -> u64 {
        self.wire.unsent
    }

    /// What the transport knows of the path.
    pub fn path(&self) -> PathFigures {
        endpoint::path_figures(&self.connection)
    }

    /// UDP payload bytes sent and received, everything included.
    pub fn wire_bytes(&self) -> (u64, u64) {
        (endpoint::sent_bytes(&self.connection), endpoint::received_bytes(&self.connection))
    }
}

/// Writes what the driver hands over until it hangs up, then waits a moment for the last words to arrive.
async fn write(
    connection: Connection,
    mut control: SendStream,
    mut media: SendStream,
    mut control_queue: mpsc::Receiver<Bytes>,
    mut media_queue: mpsc::Receiver<[Bytes; 2]>,
) {
    let controls = async {
        while let Some(frame) = control_queue.recv().await {
            if control.write_chunk(frame).await.is_err() {
                return;
            }
        }
        let _ = control.finish();
        let _ = timeout(LAST_WORDS, control.stopped()).await;
    };
    let medias = async {
        while let Some(mut block) = media_queue.recv().await {
            if media.write_all_chunks(&mut block).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(controls, medias);
    connection.close(VarInt::from_u32(0), b"");
}

/// Reads both streams until they end. False if what came was malformed.
async fn read(
    connection: &Connection,
    control_in: Option<RecvStream>,
    id: LinkId,
    channel: ChannelId,
    events: &mpsc::Sender<LinkEvent>,
) -> bool {
    let control = match control_in {
        Some(stream) => stream,
        None => match timeout(OPEN_TIMEOUT, control_stream(connection, channel)).await {
            Ok(Some(stream)) => stream,
            _ => return connection.close_reason().is_some(),
        },
    };
    let (greeted, first) = oneshot::channel();
    let controls = read_frames(control, id, events, Some(greeted));
    let medias = async {
        if first.await.is_err() {
            return true;
        }
        let Ok(mut stream) = connection.accept_uni().await else { return true };
        let mut kind = [0];
        match stream.read_exact(&mut kind).await {
            Ok(()) if kind[0] == MEDIA => read_frames(stream, id, events, None).await,
            Ok(()) => false,
            Err(_) => true,
        }
    };
    tokio::pin!(controls, medias);
    // The link ends with its control stream.
    tokio::select! {
        good = &mut controls => good,
        good = &mut medias => good && controls.await,
    }
}

/// Reads one stream. `greeted` is told after the first frame.
async fn read_frames(
    mut stream: RecvStream,
    id: LinkId,
    events: &mpsc::Sender<LinkEvent>,
    mut greeted: Option<oneshot::Sender<()>>,
) -> bool {
    let mut buffer = BytesMut::new();
    loop {
        match stream.read_chunk(READ_LEN).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk),
            Ok(None) | Err(_) => return true,
        }
        loop {
            match Frame::decode(&mut buffer) {
                Ok(Some(Frame { message: Some(message), payload })) => {
                    if events.send(LinkEvent::Frame(id, message, payload)).await.is_err() {
                        return true;
                    }
                    if let Some(greeted) = greeted.take() {
                        let _ = greeted.send(());
                    }
                }
                Ok(Some(_)) => {}
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
        let begin = Instant::now();
        assert!(wire.hand_over(100, 1000, begin) && wire.hand_over(50, 1000, begin));
        assert_eq!(wire.drained(1099, begin), 0);
        assert_eq!(wire.drained(1100, begin + LATE), 100);
        assert_eq!(wire.drained(1149, begin + LATE), 0);
        assert!(!wire.late);
        assert_eq!(wire.drained(9000, begin + 2 * LATE), 50);
        assert!(wire.late);
        assert!(wire.hand_over(10, 9000, begin));
        assert_eq!(wire.drained(9009, begin), 0);
        assert_eq!(wire.drained(9010, begin), 10);
        assert!(wire.hand_over(MAX_UNSENT, 9010, begin) && !wire.hand_over(1, 9010, begin));
    }
}
