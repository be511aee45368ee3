//! Links within one process, for tests of a whole driver: what comes in are bytes, as from any stranger.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use minuet_guard::tasks::Spawner;
use minuet_line::LinkSample;
use minuet_mesh::LinkId;
use minuet_proto::{ChannelId, mesh::NodeId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Chunks, Line, Link, LinkEvent, Opening, Queues, read_both, tell_end};
use crate::mesh::endpoint::PathFigures;

/// Chunks that may wait for the driver to read them.
const QUEUE: usize = 64;

/// The near end, to be given to a driver.
pub(in crate::mesh) struct Near {
    peer: NodeId,
    remote: Option<SocketAddr>,
    control: mpsc::Receiver<Bytes>,
    media: mpsc::Receiver<Bytes>,
    out: mpsc::UnboundedSender<Bytes>,
}

/// The far end, which is the test.
pub(in crate::mesh) struct Far {
    /// Bytes for the control stream.
    pub control: mpsc::Sender<Bytes>,
    /// Bytes for the media stream.
    pub media: mpsc::Sender<Bytes>,
    /// Frames that the driver sends, of both streams.
    pub said: mpsc::UnboundedReceiver<Bytes>,
}

/// A link to a node with this key, which seems to be there.
pub(in crate::mesh) fn pair(peer: NodeId, remote: Option<SocketAddr>) -> (Near, Far) {
    let (control, control_in) = mpsc::channel(QUEUE);
    let (media, media_in) = mpsc::channel(QUEUE);
    let (out, said) = mpsc::unbounded_channel();
    (Near { peer, remote, control: control_in, media: media_in, out }, Far { control, media, said })
}

fn figures(remote: Option<SocketAddr>) -> PathFigures {
    let ip = remote.map(|addr| addr.ip());
    PathFigures { rtt: Duration::from_millis(1), ip, ..PathFigures::default() }
}

#[derive(Debug)]
struct Count {
    remote: Option<SocketAddr>,
    sent: Arc<AtomicU64>,
}

impl Line for Count {
    fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    fn path(&self) -> PathFigures {
        figures(self.remote)
    }

    fn sample(&self) -> Option<LinkSample> {
        None
    }

    fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn received_bytes(&self) -> u64 {
        0
    }
}

impl Chunks for mpsc::Receiver<Bytes> {
    async fn chunk(&mut self) -> Option<Bytes> {
        self.recv().await
    }
}

impl Opening for Near {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn path(&self) -> PathFigures {
        figures(self.remote)
    }

    fn start(
        self: Box<Self>,
        id: LinkId,
        _channel: ChannelId,
        events: mpsc::Sender<LinkEvent>,
        tasks: &Spawner,
        _cancel: &CancellationToken,
    ) -> Link {
        let Self { remote, control, media, out, .. } = *self;
        let sent = Arc::new(AtomicU64::new(0));
        let (link, queues) = Link::new(Box::new(Count { remote, sent: Arc::clone(&sent) }));
        tasks.errand("writing to a link", write(queues, out, sent));
        tasks.errand("reading from a link", async move {
            let good = read_both(control, async { Ok(media) }, id, &events).await;
            tell_end(good, id, &events).await;
        });
        link
    }
}

/// Writes what the driver hands over until it hangs up or the test has gone.
async fn write(mut queues: Queues, out: mpsc::UnboundedSender<Bytes>, sent: Arc<AtomicU64>) {
    loop {
        let parts = tokio::select! {
            Some(frame) = queues.control.recv() => vec![frame],
            Some(block) = queues.media.recv() => block.to_vec(),
            else => return,
        };
        for part in parts {
            sent.fetch_add(part.len() as u64, Ordering::Relaxed);
            if out.send(part).is_err() {
                return;
            }
        }
    }
}
