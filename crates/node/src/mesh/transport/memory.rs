//! Links within one process, for tests: of whole nodes with each other, and of one node with a test that says what it
//! likes. What comes in are bytes, as from any stranger.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use minuet_guard::tasks::Spawner;
use minuet_line::LinkSample;
use minuet_mesh::LinkId;
use minuet_proto::{
    ChannelId,
    mesh::{NodeId, SIGNATURE_LEN},
};
use minuet_session::Reach;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Line, Link, LinkEvent, Opening, PathFigures, RelayServer, Transport, Work,
    link::{Chunks, Queues, read_both, tell_end},
};
use crate::mesh::Error;

/// Chunks of a stream that may wait to be read.
const QUEUE: usize = 64;
/// Links that may wait to be taken.
const DOOR: usize = 16;

/// Where all nodes of a test are.
#[derive(Debug, Clone, Default)]
pub(in crate::mesh) struct Network(Arc<Mutex<HashMap<NodeId, Node>>>);

#[derive(Clone)]
struct Node {
    addr: SocketAddr,
    door: mpsc::Sender<Box<dyn Opening>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.addr.fmt(f)
    }
}

/// One node's end of the network. It can be dialled as long as it is there.
#[derive(Debug)]
pub(in crate::mesh) struct Memory {
    id: NodeId,
    addr: SocketAddr,
    network: Network,
    came: Mutex<Option<mpsc::Receiver<Box<dyn Opening>>>>,
    relays: watch::Sender<Vec<String>>,
}

impl Network {
    /// A node with this key at this address.
    pub fn node(&self, id: NodeId, addr: SocketAddr) -> Arc<Memory> {
        let (door, came) = mpsc::channel(DOOR);
        self.nodes().insert(id, Node { addr, door });
        Arc::new(Memory {
            id,
            addr,
            network: self.clone(),
            came: Mutex::new(Some(came)),
            relays: watch::Sender::default(),
        })
    }

    /// A link to a node from somebody with the key `peer`, who seems to be at `remote`; the far end is the test.
    pub async fn link_to(&self, node: NodeId, peer: NodeId, remote: Option<SocketAddr>) -> Far {
        let door = self.nodes().get(&node).map(|node| node.door.clone());
        let (near, far) = pair(peer, remote);
        let opened: Box<dyn Opening> = Box::new(near);
        assert!(door.expect("the node is there").send(opened).await.is_ok(), "the driver has gone");
        far
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Memory {
    fn id(&self) -> NodeId {
        self.id
    }

    fn sign(&self, _bytes: &[u8]) -> [u8; SIGNATURE_LEN] {
        [0; SIGNATURE_LEN]
    }

    fn queue(&self) -> Duration {
        Duration::ZERO
    }

    fn bound(&self) -> Vec<SocketAddr> {
        vec![self.addr]
    }

    fn reach(&self) -> Reach {
        Reach { addrs: vec![self.addr], relay: None }
    }

    fn watch_reach(self: Arc<Self>, _reach: watch::Sender<Reach>) -> Work<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn watch_relays(&self) -> watch::Receiver<Vec<String>> {
        self.relays.subscribe()
    }

    fn use_relay<'a>(&'a self, _tracker: &'a str, _relay: &'a RelayServer) -> Work<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn dial(&self, peer: NodeId, reach: Reach, _channel: ChannelId) -> Work<'_, Option<Box<dyn Opening>>> {
        Box::pin(async move {
            let node = self.network.nodes().get(&peer).cloned();
            let node = node.filter(|node| reach.addrs.contains(&node.addr))?;
            let (mine, theirs) = ends((self.id, self.addr), (peer, node.addr));
            node.door.send(Box::new(theirs)).await.ok()?;
            let mine: Box<dyn Opening> = Box::new(mine);
            Some(mine)
        })
    }

    fn accept(
        self: Arc<Self>,
        _channel: ChannelId,
        door: mpsc::Sender<Box<dyn Opening>>,
        _tasks: Spawner,
    ) -> Work<'static, Result<(), &'static str>> {
        Box::pin(async move {
            let came = self.came.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(mut came) = came else { return Err("it has been taken before") };
            while let Some(opened) = came.recv().await {
                if door.send(opened).await.is_err() {
                    break;
                }
            }
            Err("nobody takes links")
        })
    }

    fn close(&self) -> Work<'_, ()> {
        Box::pin(async { drop(self.network.nodes().remove(&self.id)) })
    }
}

/// An end that is given to a driver: what comes in, and where what it sends goes.
struct Near {
    peer: NodeId,
    remote: Option<SocketAddr>,
    control: mpsc::Receiver<Bytes>,
    media: mpsc::Receiver<Bytes>,
    out: [mpsc::Sender<Bytes>; 2],
}

/// The end that is the test.
pub(in crate::mesh) struct Far {
    /// Bytes for the control stream.
    pub control: mpsc::Sender<Bytes>,
    /// Bytes for the media stream.
    pub media: mpsc::Sender<Bytes>,
    /// Frames that the driver sends, of both streams.
    pub said: mpsc::Receiver<Bytes>,
}

fn pair(peer: NodeId, remote: Option<SocketAddr>) -> (Near, Far) {
    let (control, control_in) = mpsc::channel(QUEUE);
    let (media, media_in) = mpsc::channel(QUEUE);
    let (out, said) = mpsc::channel(1 << 16);
    let out = [out.clone(), out];
    (Near { peer, remote, control: control_in, media: media_in, out }, Far { control, media, said })
}

/// Both ends of a link between two nodes.
fn ends(a: (NodeId, SocketAddr), b: (NodeId, SocketAddr)) -> (Near, Near) {
    let ((control_a, from_control_a), (media_a, from_media_a)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let ((control_b, from_control_b), (media_b, from_media_b)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let at_a = Near {
        peer: b.0,
        remote: Some(b.1),
        control: from_control_b,
        media: from_media_b,
        out: [control_a, media_a],
    };
    let at_b = Near {
        peer: a.0,
        remote: Some(a.1),
        control: from_control_a,
        media: from_media_a,
        out: [control_b, media_b],
    };
    (at_a, at_b)
}

fn figures(remote: Option<SocketAddr>) -> PathFigures {
    PathFigures { rtt: Duration::from_millis(1), remote, ..PathFigures::default() }
}

#[derive(Debug)]
struct Count {
    remote: Option<SocketAddr>,
    sent: Arc<AtomicU64>,
}

impl Line for Count {
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
        let Self { remote, control, media, out: [control_out, media_out], .. } = *self;
        let sent = Arc::new(AtomicU64::new(0));
        let (link, queues) = Link::new(Box::new(Count { remote, sent: Arc::clone(&sent) }));
        let Queues { control: mut controls, media: mut blocks } = queues;
        let count = Arc::clone(&sent);
        tasks.errand("writing to a link", async move {
            while let Some(frame) = controls.recv().await {
                sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
                if control_out.send(frame).await.is_err() {
                    return;
                }
            }
        });
        tasks.errand("writing blocks to a link", async move {
            while let Some(block) = blocks.recv().await {
                for part in block {
                    count.fetch_add(part.len() as u64, Ordering::Relaxed);
                    if media_out.send(part).await.is_err() {
                        return;
                    }
                }
            }
        });
        tasks.errand("reading from a link", async move {
            let good = read_both(control, async { Ok(media) }, id, &events).await;
            tell_end(good, id, &events).await;
        });
        link
    }
}
