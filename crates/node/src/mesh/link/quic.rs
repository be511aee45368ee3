//! Links over QUIC connections.
//!
//! Each stream begins with a byte that says which it is; the control stream goes on with the channel's key, so that a node
//! that is asked for another channel finds out at once. Frames follow.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use minuet_guard::tasks::Spawner;
use minuet_line::LinkSample;
use minuet_mesh::LinkId;
use minuet_proto::{ChannelId, mesh::NodeId};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Chunks, Line, Link, LinkEvent, Opening, Queues, Unopened, read_both, tell_end};
use crate::mesh::endpoint::{self, PathFigures};

/// How long the far end may take to open its streams.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a link that is hung up may take to get its last words across.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Control goes before media (higher is sooner).
const CONTROL_PRIORITY: i32 = 1;

const CONTROL: u8 = 0;
const MEDIA: u8 = 1;
/// How much is read at once.
const READ_LEN: usize = 64 << 10;

/// The far end of a link that is being opened.
struct Opened {
    peer: NodeId,
    connection: Connection,
    control_out: SendStream,
    media_out: SendStream,
    /// Read already where the far end had to show which channel it means.
    control_in: Option<RecvStream>,
}

/// Opens this end's streams on a connection. For one that the far end opened, waits until it names the channel.
pub async fn open(connection: Connection, channel: ChannelId, accepted: bool) -> Option<Box<dyn Opening>> {
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
    opened.map(|opened| Box::new(opened) as Box<dyn Opening>)
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

impl Opening for Opened {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn path(&self) -> PathFigures {
        endpoint::path_figures(&self.connection)
    }

    fn start(
        self: Box<Self>,
        id: LinkId,
        channel: ChannelId,
        events: mpsc::Sender<LinkEvent>,
        tasks: &Spawner,
        cancel: &CancellationToken,
    ) -> Link {
        let Self { connection, control_out, media_out, control_in, .. } = *self;
        let (link, queues) = Link::new(Box::new(connection.clone()));
        let (writing, cancelled) =
            (write(connection.clone(), control_out, media_out, queues), cancel.clone());
        tasks.errand_to_end("writing to a link", async move {
            cancelled.run_until_cancelled_owned(writing).await;
        });
        let reading = async move {
            let good = read(&connection, control_in, id, channel, &events).await;
            connection.close(VarInt::from_u32(0), b"");
            tell_end(good, id, &events).await;
        };
        let cancelled = cancel.clone();
        tasks.errand_to_end("reading from a link", async move {
            cancelled.run_until_cancelled_owned(reading).await;
        });
        link
    }
}

impl Line for Connection {
    fn remote(&self) -> Option<SocketAddr> {
        endpoint::remote(self)
    }

    fn path(&self) -> PathFigures {
        endpoint::path_figures(self)
    }

    fn sample(&self) -> Option<LinkSample> {
        endpoint::sample(self)
    }

    fn sent_bytes(&self) -> u64 {
        endpoint::sent_bytes(self)
    }

    fn received_bytes(&self) -> u64 {
        endpoint::received_bytes(self)
    }
}

impl Chunks for RecvStream {
    async fn chunk(&mut self) -> Option<Bytes> {
        self.read_chunk(READ_LEN).await.ok().flatten()
    }
}

/// Writes what the driver hands over until it hangs up, then waits a moment for the last words to arrive.
async fn write(connection: Connection, mut control: SendStream, mut media: SendStream, queues: Queues) {
    let Queues { control: mut control_queue, media: mut media_queue } = queues;
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
    let media = async {
        let mut stream = connection.accept_uni().await.map_err(|_| Unopened::Ended)?;
        let mut kind = [0];
        match stream.read_exact(&mut kind).await {
            Ok(()) if kind[0] == MEDIA => Ok(stream),
            Ok(()) => Err(Unopened::Malformed),
            Err(_) => Err(Unopened::Ended),
        }
    };
    read_both(control, media, id, events).await
}
